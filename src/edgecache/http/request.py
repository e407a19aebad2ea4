"""A request as handlers see it, and its content as it arrives.

Invariant: content in memory is bounded. The protocol stops reading the socket when a `BodyReader`
holds more than the limit, and goes on when the handler has taken half of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgecache.http.failures import RequestError
from edgecache.http.framing import Block, split_target

__all__ = ["BodyReader", "Request"]


class BodyReader:
    """The content of a request, in pieces.

    Args:
        length: What Content-Length says; None for the chunked coding.
        on_demand: Called whenever the handler asks for content: the first time the client is told
            to go on (100 Continue), later the socket is read again.

    *Thread-safety*: belongs to the loop of its connection; one reader at a time.
    """

    __slots__ = (
        "_error",
        "_on_demand",
        "_pieces",
        "_waiter",
        "is_complete",
        "length",
        "pending_bytes",
        "received_bytes",
        "trailers",
    )

    def __init__(self, length: int | None, on_demand: Callable[[], None] | None) -> None:
        self.length = length
        self.is_complete = length == 0
        self.pending_bytes = 0
        self.received_bytes = 0
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_demand = on_demand

    def whole(self) -> bytes | None:
        """Return all of the content if it has arrived and nothing of it was read, else None.

        Raises:
            RequestError: It is broken.
        """
        if self._error is not None:
            raise self._error
        if not self.is_complete or self.pending_bytes != self.received_bytes:
            return None
        return self._take_all()

    async def read(self) -> bytes:
        """Return the next piece; b"" at the end.

        Raises:
            RequestError: The content is broken, too large or too slow.
            ClientGoneError: The client went away before its end.
        """
        while True:
            if self._pieces:
                return self._take_all()
            if self._error is not None:
                raise self._error
            if self.is_complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            if self._on_demand is not None:
                self._on_demand()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def read_all(self, size_max: int) -> bytes:
        """Return all of the content; RequestError 413 above `size_max` bytes."""
        pieces = []
        size = 0
        if (self.length or 0) > size_max:
            raise RequestError("the content is too large", status=413, reason="body_bytes")
        while piece := await self.read():
            size += len(piece)
            if size > size_max:
                raise RequestError("the content is too large", status=413, reason="body_bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> BodyReader:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.read()
        if not piece:
            raise StopAsyncIteration
        return piece

    def _take_all(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self.pending_bytes = 0
        if self._on_demand is not None and not self.is_complete:
            self._on_demand()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # The side of the protocol

    def feed(self, piece: bytes) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self.pending_bytes += len(piece)
        self.received_bytes += len(piece)
        self._wake()

    def finish(self, trailers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Say that the content is complete."""
        self.is_complete = True
        self.trailers = trailers
        self._wake()

    def fail(self, error: Exception) -> None:
        """Have the reader get an error once it has taken what arrived."""
        if not self.is_complete and self._error is None:
            self._error = error
            self._wake()

    @property
    def error(self) -> Exception | None:
        """Why there will be no more content."""
        return self._error

    def drop(self) -> int:
        """Throw away what arrived and was not taken; how many bytes."""
        size = self.pending_bytes
        self._pieces.clear()
        self.pending_bytes = 0
        return size

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Request:
    """One request.

    Args:
        method: As sent; case matters.
        target: The exact bytes of the request target.
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0.
        block: The header fields.
        body: None when there is no content, or when it was discarded (GET and HEAD).
        peer: Address of the client as the transport gives it: (host, port, ...), or "" for a Unix
            socket.
        started_s: When it was handed over; only where answers are timed, or it had to wait.
        began_s: The same by `time.perf_counter`; only where answers are timed.
        scheme: "http" or "https".
    """

    __slots__ = (
        "began_s", "block", "body", "keep_alive", "method", "minor", "peer", "relay", "scheme",
        "started_s", "target",
    )  # fmt: skip

    started_s: float
    began_s: float | None
    # Sends an interim answer (1xx). Set for HTTP/1.1 while the answer is waited for, else missing.
    relay: Callable[[Request, bytes], None]

    def __init__(
        self, method: bytes, target: bytes, minor: int, block: Block, peer: object, scheme: str
    ) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.block = block
        self.peer = peer
        self.scheme = scheme
        self.body: BodyReader | None = None
        self.keep_alive: bool = block.keeps if minor else block.keeps_old

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """Header fields in order, names as sent, duplicates included."""
        return self.block.fields

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field (lower-case name), several lines as one list, or None."""
        return self.block.get(name)

    @property
    def path_and_query(self) -> tuple[bytes, bytes | None]:
        """The target's path and what follows its first "?", exact bytes; None without a "?"."""
        path, mark, query = split_target(self.target)[0].partition(b"?")
        return path, query if mark else None

    @property
    def host(self) -> bytes:
        """Authority of an absolute-form target, else Host, lower case, else b""."""
        authority = split_target(self.target)[1]
        if authority is None:
            authority = self.block.get(b"host") or b""
        return authority.lower()
