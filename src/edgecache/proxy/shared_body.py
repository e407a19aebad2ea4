"""One body on its way from an origin to any number of readers.

Invariants:

1. `pieces` holds the bytes from `base` to `end` without a gap. With a `spill` (the write in the
   store) what is older than the window is dropped, and a reader that is behind goes on from there.
   Without one nothing that a reader still needs is dropped: `room` makes the writer wait.
2. A reader gets the end of the body only after `finish`. After `fail` it gets what has come, and
   then the error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from edgecache.proxy.wire import Fields

WINDOW_BYTES = 1 << 20


class SpillReader(Protocol):
    """What reads a write in progress from the store."""

    async def read(self, n: int = -1) -> bytes: ...
    def close(self) -> None: ...


Spill = Callable[[int], Awaitable[SpillReader]]


class SharedBody:
    """A body that one task writes and others read.

    Args:
        window_bytes: Kept in memory for readers that are behind.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_base",
        "_pieces",
        "_readers",
        "_room",
        "_spill",
        "_waiters",
        "_was_attached",
        "_window_bytes",
        "end",
        "error",
        "is_done",
        "trailers",
    )

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._pieces: deque[bytes] = deque()
        self._base = 0
        self._readers: dict[object, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self._spill: Spill | None = None
        self._was_attached = False
        self.end = 0
        self.is_done = False
        self.error: Exception | None = None
        self.trailers: Fields = []

    # The writer

    @property
    def reader_count(self) -> int:
        """Readers that have not finished."""
        return len(self._readers)

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody reads it any more; not while its first reader may be about to come."""
        return not self._readers and (self._was_attached or not self.is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether every byte so far is in memory."""
        return self._base == 0

    def whole(self) -> bytes:
        """Return all bytes so far; only while `is_whole`."""
        if len(self._pieces) > 1:
            self._pieces = deque((b"".join(self._pieces),))
        return self._pieces[0] if self._pieces else b""

    def spill_to(self, spill: Spill | None) -> None:
        """Let readers that are behind go on from a write in the store; None: no longer."""
        self._spill = spill
        self._trim()

    def write(self, piece: bytes) -> None:
        """Append bytes, and wake who waits for them."""
        self._pieces.append(piece)
        self.end += len(piece)
        self._trim()
        self._wake()

    async def room(self) -> None:
        """Wait until the slowest reader has come near enough, where the store does not help."""
        while (
            self._spill is None
            and self._readers
            and self.end - self._base > self._window_bytes
            and not self.is_done
        ):
            self._room = asyncio.get_running_loop().create_future()
            await self._room
            self._trim()

    def finish(self) -> None:
        """The body is complete."""
        self.is_done = True
        self._wake()

    async def wait_done(self) -> None:
        """Wait for the end, good or bad."""
        while not self.is_done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def fail(self, error: Exception) -> None:
        """There will be no end."""
        if not self.is_done:
            self.is_done = True
            self.error = error
            self._wake()

    def _trim(self) -> None:
        """Drop what is out of the window and that no reader needs from here."""
        if self.end - self._base <= self._window_bytes:
            return
        if self._spill is not None:
            keep = self.end - self._window_bytes
        elif self._readers:
            keep = min(self.end - self._window_bytes, *self._readers.values())
        else:
            keep = self.end - self._window_bytes
        while self._pieces and self._base + len(self._pieces[0]) <= keep:
            self._base += len(self._pieces.popleft())

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Readers

    def attach(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` to `end` (exclusive) as they come.

        The reader counts from now on, also before its first piece is asked for.
        """
        token = object()
        self._was_attached = True
        self._readers[token] = start
        return _Reader(self, token, start, end)

    def can_attach(self, start: int = 0) -> bool:
        """Say whether a new reader would find what it needs."""
        return start >= self._base or self._spill is not None

    def _detach(self, token: object) -> None:
        self._readers.pop(token, None)
        self._free()

    def _advance(self, token: object, position: int) -> None:
        if token in self._readers:
            self._readers[token] = position
            self._free()

    def _free(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _from(self, position: int) -> bytes | None:
        """The piece at a position, from there on; None when it is no longer in memory."""
        if position < self._base:
            return None
        start = self._base
        for piece in self._pieces:
            if position < start + len(piece):
                return piece[position - start :] if position != start else piece
            start += len(piece)
        return b""


class _Reader(AsyncIterator[bytes]):
    """A position in a shared body."""

    __slots__ = ("_behind", "_body", "_end", "_position", "_token")

    def __init__(self, body: SharedBody, token: object, start: int, end: int | None) -> None:
        self._body = body
        self._token = token
        self._position = start
        self._end = end
        self._behind: SpillReader | None = None

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        if self._end is not None:
            piece = piece[: self._end - self._position]
        if not piece:
            await self.aclose()
            raise StopAsyncIteration
        self._position += len(piece)
        self._body._advance(self._token, self._position)
        return piece

    async def _next(self) -> bytes:
        body = self._body
        while True:
            if self._end is not None and self._position >= self._end:
                return b""
            if self._behind is not None:
                return await self._behind.read()
            if self._position < body.end:
                piece = body._from(self._position)
                if piece is not None:
                    return piece
                if body._spill is None:
                    raise body.error or ConnectionAbortedError("the body is no longer kept")
                self._behind = await body._spill(self._position)
                continue
            if body.error is not None:
                raise body.error
            if body.is_done:
                return b""
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            body._waiters.append(waiter)
            await waiter

    async def aclose(self) -> None:
        """Read no more."""
        self._body._detach(self._token)
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.close()

    def __del__(self) -> None:
        self._body._detach(self._token)
