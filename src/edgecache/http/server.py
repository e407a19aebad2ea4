"""Listeners: where connections come from, and how they end in good order.

server = HttpServer(handler)
await server.start([Listener("127.0.0.1", 8080)])
...
await server.drain(10.0)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecache.errors import ArgumentError, ConfigError, UnsafePathError
from edgecache.http._port import listen
from edgecache.http.limits import HttpLimits
from edgecache.http.protocol import HttpProtocol
from edgecache.http.shared import OnAnswer, Shared
from edgecache.http.statistics import HttpStatistics

if TYPE_CHECKING:
    from edgecache.http._port import Port
    from edgecache.http.answering import Handler
    from edgecache.http.tls import TlsFiles

__all__ = ["HttpServer", "Listener", "activated_sockets"]

# Source: sd_listen_fds(3).
FIRST_ACTIVATED = 3
# Only after a change of the handler does anybody look.
SETTLE_POLL_S = 0.05
TLS_SHUTDOWN_S_MIN = 0.1
UNIX_MODE_DEFAULT = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address.

    Args:
        host: Name or address; None together with `path` or `handle`.
        port: 0: any free one, see `HttpServer.addresses`.
        path: Of a Unix socket; a stale one is replaced, anything else there is refused.
        unix_mode: Permissions of the Unix socket, set before it listens.
        handle: A socket that is bound already, for instance from socket activation.
        tls: Certificates; None: plain HTTP.
        backlog: Connections that wait to be accepted.
        reuse_port: Let several processes listen on the same port (SO_REUSEPORT).
    """

    host: str | None = None
    port: int = 0
    path: str | None = None
    unix_mode: int = UNIX_MODE_DEFAULT
    handle: socket.socket | None = None
    tls: TlsFiles | None = None
    backlog: int = 1024
    reuse_port: bool = False

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.host, self.path, self.handle)) != 1:
            raise ArgumentError("a listener needs exactly one of host, path and handle")
        if not 0 <= self.port <= 65535 or self.backlog < 1:
            raise ArgumentError("port is 0 to 65535, backlog 1 or more", found=self.port)


class HttpServer:
    """Serves one handler on any number of addresses.

    Args:
        handler: Called with each request; returns a Response, or an awaitable of one.
        limits: What clients may do.
        on_answer: Called for every answer with request, status, bytes of content, seconds.
        shows_time: Add `X-Total-Time-Ms` to every answer.

    *Thread-safety*: belongs to the loop it is started on.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: HttpLimits | None = None,
        on_answer: OnAnswer | None = None,
        shows_time: bool = False,
    ) -> None:
        self._handler = handler
        self._limits = HttpLimits() if limits is None else limits
        self._on_answer = on_answer
        self._shows_time = shows_time
        self._shared: Shared | None = None
        self._servers: list[asyncio.AbstractServer | Port] = []
        self._unix_paths: list[tuple[str, int]] = []
        self.addresses: list[object] = []

    @property
    def statistics(self) -> HttpStatistics:
        """Counters; they start with `start`."""
        return self._running().statistics

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._running().connections)

    def change(self, *, handler: Handler | None = None, limits: HttpLimits | None = None) -> None:
        """Replace the handler or the limits, for requests that begin from now on."""
        shared = self._running()
        if handler is not None:
            shared.handle_with(handler)
        if limits is not None:
            shared.limit_with(limits)

    def show_time(self, shows_time: bool) -> None:
        """Add `X-Total-Time-Ms` to answers from now on, or do not."""
        self._running().show_time(shows_time)

    def observe(self, on_answer: OnAnswer | None) -> None:
        """Replace what is called for every answer; None: nothing."""
        self._running().observe_with(on_answer)

    async def settle(self, timeout_s: float) -> bool:
        """Wait until the requests that are being answered now have ended; False: not all in time.

        What begins after the call is not waited for. *Cost*: looks every SETTLE_POLL_S.
        """
        shared = self._running()
        deadline_s = shared.loop.time() + timeout_s
        busy = [(each, each.request) for each in shared.connections if each.request is not None]
        while busy := [
            (connection, request)
            for connection, request in busy
            if connection.request is request and connection in shared.connections
        ]:
            if shared.loop.time() >= deadline_s:
                return False
            await asyncio.sleep(SETTLE_POLL_S)
        return True

    def _running(self) -> Shared:
        if self._shared is None:
            raise ArgumentError("the server was not started", hint="await start() first")
        return self._shared

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Listen. When one address fails, none is left listening.

        Raises:
            OSError: An address cannot be used.
            UnsafePathError: There is something else than a socket at the path of a Unix socket.
        """
        loop = asyncio.get_running_loop()
        self._shared = Shared(
            loop,
            self._handler,
            self._limits,
            on_answer=self._on_answer,
            shows_time=self._shows_time,
        )
        try:
            for listener in listeners:
                await self._listen(loop, self._shared, listener)
        except BaseException:
            await self._stop_listening()
            raise

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, shared: Shared, listener: Listener
    ) -> None:
        def connect() -> HttpProtocol:
            return HttpProtocol(shared)

        for handle in await self._bind(loop, listener):
            self.addresses.append(handle.getsockname())
            if listener.tls is None:
                handle.setblocking(False)
                handle.listen(listener.backlog)
                self._servers.append(listen(shared.wire, handle, connect, shared.count_full))
                continue
            # TLS is the loop's: its transport encrypts. Peers that do not answer close_notify hold
            # up the end of their connection, and a drain.
            handle.setblocking(False)
            is_unix = handle.family == socket.AF_UNIX
            create = loop.create_unix_server if is_unix else loop.create_server
            self._servers.append(
                await create(
                    connect,
                    sock=handle,
                    ssl=listener.tls.context,
                    ssl_shutdown_timeout=max(TLS_SHUTDOWN_S_MIN, shared.limits.linger_timeout_s),
                    backlog=listener.backlog,
                )
            )

    async def _bind(
        self, loop: asyncio.AbstractEventLoop, listener: Listener
    ) -> list[socket.socket]:
        """Return the sockets of a listener, bound."""
        if listener.handle is not None:
            return [listener.handle]
        if listener.path is not None:
            handle = bind_unix(listener.path, listener.unix_mode)
            self._unix_paths.append((listener.path, os.stat(listener.path).st_ino))
            return [handle]
        found = await loop.getaddrinfo(
            listener.host or None,
            listener.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        handles: list[socket.socket] = []
        try:
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                handles.append(bind_address(family, address, listener.reuse_port))
        except BaseException:
            for handle in handles:
                handle.close()
            raise
        return handles

    async def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in self._unix_paths:
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(path).st_ino == inode:  # not one that another server made since
                    os.unlink(path)
        self._unix_paths.clear()
        await asyncio.sleep(0)

    async def drain(self, timeout_s: float) -> int:
        """Stop listening, let requests under way end, close; how many were cut off.

        Idle connections are closed at once; others get `Connection: close` with their answer.

        Args:
            timeout_s: After which connections that are left are aborted.
        """
        shared = self._running()
        shared.begin_draining()
        await self._stop_listening()
        for connection in list(shared.connections):
            if connection.is_idle:
                connection.close_now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(shared.wait_empty(), timeout_s)
        left = list(shared.connections)
        for connection in left:
            connection.transport.abort()
        if left:
            shared.statistics.refused_by_reason["drain"] += len(left)
            await shared.wait_empty()
        shared.stop()
        return len(left)

    async def stop(self) -> int:
        """Close everything now; how many connections were cut off."""
        return await self.drain(0.0)


def bind_address(family: int, address: tuple[object, ...], reuse_port: bool) -> socket.socket:
    """Bind one address of a host; a socket for IPv6 takes nothing of IPv4."""
    handle = socket.socket(family, socket.SOCK_STREAM)
    try:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        handle.bind(address)
    except OSError as error:
        handle.close()
        raise OSError(error.errno, f"cannot bind the address {address}: {error.strerror}") from None
    except BaseException:
        handle.close()
        raise
    return handle


def bind_unix(path: str, mode: int) -> socket.socket:
    """Bind a Unix socket that nobody can reach before its permissions are set.

    It is bound under the strictest umask and changed before it listens; a connection to a socket
    that does not listen is refused (the race of CVE-2023-45145).
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISSOCK(found.st_mode):
            raise UnsafePathError("there is something else than a socket", path=path)
        if _is_in_use(path):
            raise OSError(98, "another server listens here", path)
        os.unlink(path)
    handle = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        handle.bind(path)
    except BaseException:
        handle.close()
        raise
    finally:
        os.umask(before)
    os.chmod(path, mode)
    return handle


def _is_in_use(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def activated_sockets(environment: dict[str, str] | None = None) -> list[socket.socket]:
    """Return the sockets that the service manager passed (LISTEN_FDS), once; [] without any.

    Raises:
        ConfigError: One of them is no socket.

    Source: sd_listen_fds(3).
    """
    variables = os.environ if environment is None else environment
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, _ = (variables.pop(name, "") for name in names)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    handles = []
    for descriptor in range(FIRST_ACTIVATED, FIRST_ACTIVATED + int(count)):
        os.set_inheritable(descriptor, False)
        try:
            handles.append(socket.socket(fileno=descriptor))
        except OSError as error:
            raise ConfigError(
                "a descriptor that was passed is no socket",
                found=descriptor,
                hint="pass listening stream sockets only",
            ) from error
    return handles
