"""Reading and writing objects on an event loop: the same names as `Hit` and `Miss`, awaitable.

What is at hand completes without suspending. Chunks are read through the loop's own reader, a
writer is waited for by a future that one wake-up per loop resolves, and only storing a chunk runs
in the executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from edgecache.objects.chunks import Piece
from edgecache.objects.file_range import FileRange
from edgecache.objects.hit import HitState
from edgecache.objects.manager import Found
from edgecache.objects.miss import Miss
from edgecache.objects.parts import cut
from edgecache.objects.ranges import Range
from edgecache.objects.remote import RemoteSource
from edgecache.objects.source import StreamSource, Wait

if TYPE_CHECKING:
    from typing_extensions import Buffer

Run = Callable[..., Awaitable[Any]]
# A larger piece is copied in the executor.
INLINE_BYTES_MAX = 1 << 20


class AsyncEngine(Protocol):
    """The part of `AsyncStorage` that hits use."""

    async def get_many(self, keys: Sequence[bytes | str]) -> list[bytes | None]: ...


class AsyncHit(HitState):
    """An object that was found; see `Hit`.

        async with await store.lookup("key") as hit:
            async for piece in hit:
                ...

    *Thread-safety*: one task at a time; a cancelled read can be made again.
    """

    __slots__ = ("__weakref__", "_engine", "_run")

    def __init__(self, key: bytes, found: Found, engine: AsyncEngine, run: Run) -> None:
        super().__init__(key, *found)
        self._engine = engine
        self._run = run

    async def read(self, n: int = -1) -> bytes:
        """As `Hit.read`."""
        piece = await self._next(n)
        return piece if isinstance(piece, bytes) else bytes(piece)

    async def readinto(self, buffer: Buffer) -> int:
        """As `Hit.readinto`."""
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            if filled and self._position >= self._source.limit:
                break
            piece = await self._next(len(target) - filled)
            if not piece:
                break
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    async def _next(self, size: int) -> Piece:
        room = self._room(size)
        while room:
            piece = self._source.take(self._position, room)
            if piece is None:
                await self._fetch(room)
            elif isinstance(piece, Wait):
                assert isinstance(self._source, (StreamSource, RemoteSource))
                loop = asyncio.get_running_loop()
                future = self._source.stream.wait_soon(self._position, loop)
                if future is not None:
                    await future
            else:
                return self._took(piece)
        return b""

    async def _fetch(self, room: int) -> None:
        source = self._source
        wants = source.wanted(self._position, room, self._until())
        parts: Sequence[bytes | bool | None]
        if not source.is_cold(wants):
            parts = source.fetch(wants)
        elif (keys := source.entry_keys(wants)) is not None:
            found = await self._engine.get_many(keys)
            parts = [cut(want, part) for want, part in zip(wants, found, strict=True)]
        else:
            parts = await self._run(source.fetch, wants)
        source.supply(wants, parts)

    async def seek(self, start: int, end: int | None = None) -> None:  # type: ignore[override]
        """As `Hit.seek`."""
        super().seek(start, end)

    async def seek_multipart(  # type: ignore[override]
        self, start: int, end: int | None = None
    ) -> None:
        """As `Hit.seek_multipart`."""
        super().seek(start, end)

    async def read_ranges(self, ranges: Iterable[Range]) -> list[bytes]:
        """As `Hit.read_ranges`, in the executor."""
        checked = self._checked(ranges)
        found: list[bytes] | None = await self._run(self._source.ranges, checked)
        return [await self._read_one(*one) for one in checked] if found is None else found

    async def _read_one(self, start: int, end: int) -> bytes:
        before = self._position, self._end
        await self.seek(start, end)
        try:
            return b"".join([piece async for piece in self])
        finally:
            self._position, self._end = before

    async def file_range(self, *, verify: bool = True) -> FileRange | None:
        """As `Hit.file_range`, in the executor."""
        found: FileRange | None = await self._run(self._file_range, verify)
        return found

    async def finish(self) -> None:
        """Be done with it, as `close`."""
        self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_is_closed"):
            self.close()


class AsyncMiss:
    """A write in progress; see `Miss`.

        async with await store.get_miss_handler("key") as miss:
            await miss.write(piece)
            await miss.finish()

    *Thread-safety*: one task at a time. *Cost*: a write that fills no chunk does not suspend.
    """

    __slots__ = ("__weakref__", "_miss", "_run")

    def __init__(self, miss: Miss, run: Run) -> None:
        self._miss = miss
        self._run = run

    @property
    def streaming_write_tag(self) -> bytes:
        """As `Miss.streaming_write_tag`."""
        return self._miss.streaming_write_tag

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._miss.size

    async def write(self, data: Buffer) -> int:
        """As `Miss.write`. Leave `data` alone until this returns."""
        size = memoryview(data).nbytes
        if size > INLINE_BYTES_MAX or self._miss.will_store(size):
            written: int = await self._run(self._miss.write, data)
            return written
        return self._miss.write(data)

    async def finish(self) -> int:
        """As `Miss.finish`, in the executor."""
        size: int = await self._run(self._miss.finish)
        return size

    async def abort(self) -> None:
        """As `Miss.abort`."""
        self._miss.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._miss.abort()
