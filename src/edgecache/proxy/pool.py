"""Connections to one server: kept while idle, newest first, bounded, handed to waiters in order."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable

from edgecache.http.outgoing import Outgoing
from edgecache.proxy.addresses import Address
from edgecache.proxy.connection import Connection
from edgecache.proxy.problems import (
    NoUpstreamError,
    OriginConnectError,
    OriginError,
    OriginTimeoutError,
)
from edgecache.proxy.settings import Server

Resolve = Callable[[], Awaitable[list[Address]]]


class Pool:
    """The connections of one server.

    Invariants:

    1. `open_count` counts connections in use, idle, and being made; it never exceeds the limit.
    2. An idle connection is usable: it left the pool in the moment it was lost.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_idle",
        "_idle_s",
        "_is_closed",
        "_limit",
        "_outgoing",
        "_resolve",
        "_sweep",
        "_tls",
        "_tls_name",
        "_used",
        "_waiters",
        "connect_count",
        "open_count",
        "reuse_count",
        "server",
    )

    def __init__(
        self,
        server: Server,
        resolve: Resolve,
        *,
        limit: int,
        idle_s: float,
        tls: ssl.SSLContext | None,
        tls_name: str | None,
        outgoing: Outgoing | None = None,
    ) -> None:
        self.server = server
        self._resolve = resolve
        self._limit = limit
        self._idle_s = idle_s
        self._tls = tls
        self._tls_name = tls_name
        self._outgoing = outgoing
        self._idle: deque[Connection] = deque()
        self._used: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.open_count = 0
        self.connect_count = 0
        self.reuse_count = 0

    @property
    def idle_count(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def busy_count(self) -> int:
        """Connections in use or being made, and requests that wait for one."""
        return self.open_count - len(self._idle) + len(self._waiters)

    def take_idle(self) -> Connection | None:
        """Return an idle connection, or None. Does not wait."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        connection.watch(None)
        self._used.add(connection)
        self.reuse_count += 1
        return connection

    async def take(self, timeout_s: float, is_fresh: bool = False) -> Connection:
        """Return a connection: an idle one, a new one, or the next that is given back.

        Args:
            timeout_s: For waiting and connecting together.
            is_fresh: Only a new one will do.

        Raises:
            OriginConnectError, OriginTimeoutError, NoUpstreamError: There is none to be had.
        """
        if not is_fresh and not self._is_closed:
            connection = self.take_idle()
            if connection is not None:
                return connection
        try:
            async with asyncio.timeout(timeout_s):
                return await self._take(is_fresh)
        except TimeoutError as error:
            if isinstance(error, OriginError):
                raise
            raise OriginTimeoutError(
                f"no connection within {timeout_s} s", phase="connect", upstream=str(self.server)
            ) from None

    async def _take(self, is_fresh: bool) -> Connection:
        while not self._is_closed:
            connection = None if is_fresh else self.take_idle()
            if connection is not None:
                return connection
            if self.open_count >= self._limit and self._idle:
                self._idle[0].close()  # the oldest makes room; its loss is told later
                self._remove_idle(self._idle[0])
            if self.open_count < self._limit:
                self.open_count += 1
                try:
                    connection = await self._connect()
                except BaseException:
                    self._free()
                    raise
                self._used.add(connection)
                self.connect_count += 1
                return connection
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # the turn was ours: pass it on
                else:
                    self._waiters.remove(waiter)
                raise
        raise NoUpstreamError("the proxy is stopping", upstream=str(self.server))

    async def _connect(self) -> Connection:
        addresses = await self._resolve()
        loop = asyncio.get_running_loop()
        name = None
        if self._tls is not None:
            name = self._tls_name or self.server.host
        failures: list[str] = []
        for address in addresses:
            connection = Connection(loop, str(self.server))
            try:
                if self._tls is None and self._outgoing is not None and "%" not in address.host:
                    await self._outgoing.connect(
                        address.family, address.host, address.port, connection
                    )
                    return connection
                await loop.create_connection(
                    lambda: connection,  # noqa: B023 (called before the next turn)
                    address.host,
                    address.port,
                    family=address.family,
                    ssl=self._tls,
                    server_hostname=name,
                )
            except ssl.SSLError as error:
                raise OriginConnectError(
                    f"TLS with {self.server} failed: {error}",
                    phase="connect",
                    upstream=str(self.server),
                    reason="tls",
                ) from error
            except OSError as error:
                failures.append(f"{address.host}: {error}")
                continue
            return connection
        raise OriginConnectError(
            f"cannot connect to {self.server}: {'; '.join(failures)}",
            phase="connect",
            upstream=str(self.server),
        )

    def give_back(self, connection: Connection) -> None:
        """End the use of a connection: keep it when it may be used again, else close it."""
        self._used.discard(connection)
        if not connection.is_reusable or self._is_closed or self._idle_s <= 0:
            connection.close()
            self._free()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        connection.watch(self._lost)
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._sweep_idle)
        self._wake()

    def _lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._remove_idle(connection)

    def _remove_idle(self, connection: Connection) -> None:
        self._idle.remove(connection)
        connection.watch(None)
        self._free()

    def _free(self) -> None:
        self.open_count -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _sweep_idle(self) -> None:
        """Close what was idle for too long; the timer runs only while something is idle."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._idle and self._idle[0].idle_since_s + self._idle_s <= now_s:
            connection = self._idle[0]
            self._remove_idle(connection)
            connection.close()
        if self._idle and not self._is_closed:
            due_s = self._idle[0].idle_since_s + self._idle_s
            self._sweep = loop.call_at(due_s, self._sweep_idle)

    def close(self) -> None:
        """Close everything; who waits gets NoUpstreamError. Idempotent."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._idle):
            self._remove_idle(connection)
            connection.close()
        for connection in list(self._used):
            connection.close()
        while self._waiters:
            self._wake()
