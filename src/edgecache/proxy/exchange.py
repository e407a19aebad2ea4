"""A request to an origin and its answer, as the layers above see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from edgecache.proxy.connection import Connection
from edgecache.proxy.pool import Pool
from edgecache.proxy.problems import OriginError, OriginLimitError, OriginTimeoutError
from edgecache.proxy.servers import ServerState
from edgecache.proxy.settings import Timeouts, UpstreamConfig
from edgecache.proxy.wire import Fields, Head

# RFC 9110, section 9.2.2.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


def ignore_interim(head: Head) -> None:
    """Drop an interim answer."""


@dataclass(slots=True)
class OriginRequest:
    """What is sent to an origin.

    Args:
        method: As it goes out.
        target: The exact bytes of the request target.
        fields: All fields but those that frame the body; names and values as they go out.
        body: None: no body. bytes: the whole of it. An iterator: its pieces, once.
        body_bytes: Size of an iterated body; None: it is sent chunked.
        balance_key: What "rendezvous" chooses the server by.
        on_interim: Called with interim answers.
    """

    method: bytes
    target: bytes
    fields: Fields
    body: bytes | AsyncIterator[bytes] | None = None
    body_bytes: int | None = None
    balance_key: bytes = b""
    on_interim: Callable[[Head], object] = field(default=ignore_interim)

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent twice."""
        return self.method in IDEMPOTENT and (self.body is None or isinstance(self.body, bytes))

    def head_bytes(self, host: bytes | None) -> bytes:
        """Return the head as it goes over the wire.

        Args:
            host: Replaces the Host field; None: it is among the fields.
        """
        parts = [self.method, b" ", self.target, b" HTTP/1.1\r\n"]
        if host is not None:
            parts += (b"Host: ", host, b"\r\n")
        for name, value in self.fields:
            if host is None or name.lower() != b"host":
                parts += (name, b": ", value, b"\r\n")
        if isinstance(self.body, bytes):
            parts.append(b"Content-Length: %d\r\n" % len(self.body))
        elif self.body is not None and self.body_bytes is not None:
            parts.append(b"Content-Length: %d\r\n" % self.body_bytes)
        elif self.body is not None:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


@dataclass(slots=True)
class Begun:
    """A request that was sent over a kept connection, its answer still to come.

    Args:
        state: Of the server.
        connection: It is in use until `give_back`, `drop`, or an `OriginAnswer` ends that.
        config: Of the group.
        begun_s: When it was sent, by the clock of the loop.
        request_us: The same, microseconds since the epoch.
    """

    state: ServerState
    connection: Connection
    config: UpstreamConfig
    begun_s: float
    request_us: int

    def give_back(self) -> None:
        """The answer was read: keep the connection if it may be used again."""
        self.state.succeed()
        self.state.pool.give_back(self.connection)

    def drop(self) -> None:
        """Nobody wants the answer."""
        self.connection.listen(None)
        self.connection.close()
        self.state.give_up()
        self.state.pool.give_back(self.connection)


class OriginAnswer:
    """The final answer of an origin, its body still to be read.

    Whoever has one reads it to the end or calls `close`; both give the connection back, and only
    the first lets it live.

    *Thread-safety*: belongs to one loop, and to one reader at a time.
    """

    __slots__ = (
        "_body_bytes_max",
        "_connection",
        "_deadline_s",
        "_loop",
        "_pool",
        "_server",
        "_timeouts",
        "body_bytes",
        "fields",
        "is_complete",
        "length",
        "minor",
        "reason",
        "status",
        "trailers",
        "upstream",
    )

    def __init__(
        self,
        head: Head,
        connection: Connection,
        server: ServerState,
        timeouts: Timeouts,
        deadline_s: float,
        body_bytes_max: int | None,
    ) -> None:
        self.status = head.status
        self.reason = head.reason
        self.fields = head.fields
        self.minor = head.minor
        self.length = connection.length
        self.upstream = connection.upstream
        self.trailers: Fields = []
        self.is_complete = False
        self.body_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = connection
        self._server = server
        self._pool: Pool = server.pool
        self._timeouts = timeouts
        self._deadline_s = deadline_s
        self._body_bytes_max = body_bytes_max

    async def read(self) -> bytes:
        """Return the next piece of the body; b"" at its proven end.

        Raises:
            OriginError: The body has no such end, or is too long; the connection is closed.
        """
        connection = self._connection
        if connection is None:
            return b""
        left_s = self._deadline_s - self._loop.time()
        try:
            if left_s <= 0:
                raise OriginTimeoutError(
                    "the exchange took too long in total",
                    phase="body",
                    upstream=self.upstream,
                    has_answer=True,
                )
            piece = await connection.read(min(self._timeouts.between_bytes_s, left_s))
        except OriginError as error:
            self.close()
            self._server.fail(self._loop.time(), error.reason)
            raise
        except BaseException:
            self.close()
            raise
        if piece:
            self._count(len(piece))
            return piece
        self._finish(connection)
        return b""

    def take_ready(self) -> tuple[bytes, bool]:
        """Return what has arrived, and whether that is all of the body. Does not wait.

        Raises:
            OriginLimitError: The body is too long.
        """
        connection = self._connection
        if connection is None:
            return b"", True
        data, is_complete = connection.take_ready()
        self._count(len(data))
        if is_complete:
            self._finish(connection)
        return data, is_complete

    def _count(self, size: int) -> None:
        self.body_bytes += size
        if self._body_bytes_max is not None and self.body_bytes > self._body_bytes_max:
            self.close()
            raise OriginLimitError(
                f"the body exceeds {self._body_bytes_max} bytes",
                phase="body",
                upstream=self.upstream,
                has_answer=True,
            )

    def _finish(self, connection: Connection) -> None:
        self.trailers = connection.trailers
        self.is_complete = True
        self._connection = None
        self._pool.give_back(connection)

    def close(self) -> None:
        """Read no more. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)  # which keeps it only if the answer is all here
