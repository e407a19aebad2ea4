"""Following a write of another process: its parts from the cache, its progress from the arena.

What the writer has in memory only is not seen here: bytes come chunk by chunk, as the cache gets
them. Otherwise a reader sees what those in the writer's process see, the end included.

Invariants:

1. `limit` never shrinks; the bytes below it were in the cache when it was set.
2. The state leaves OPEN once. A writer that died, or whose record is gone, has ABORTED; so has one
   that wrote nothing for STALL_S while a reader waited.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecache.errors import ObjectChangedError, StreamAbortedError
from edgecache.meta import ENGINE_OBJECT, engine_flags_of
from edgecache.objects.backend import Backend
from edgecache.objects.chunks import Chunks, Piece
from edgecache.objects.grid import Grid
from edgecache.objects.parts import Want
from edgecache.objects.ranges import Range
from edgecache.objects.source import WAIT, Wait
from edgecache.objects.stream import StreamState
from edgecache.objects.values import version_of

if TYPE_CHECKING:
    import asyncio

    from edgecache.leasing import LeaseDesk, StreamView

# Longer than an origin may be silent by default.
STALL_S = 120.0
NO_PART = (b"", 0)


class RemoteWrite:
    """A write of another process, for one reader.

    Args:
        backend: Where its parts are.
        desk: What to sleep by.
        view: Its record.

    *Thread-safety*: one reader; the thread that waits for tasks looks, too.
    """

    __slots__ = (
        "_backend", "_desk", "_lock", "_progress", "_view", "_why", "grid", "limit", "object_id",
        "state", "value_version", "write_id",
    )  # fmt: skip

    def __init__(self, backend: Backend, desk: LeaseDesk, view: StreamView) -> None:
        self._backend = backend
        self._desk = desk
        self._view = view
        self._lock = threading.Lock()
        # (bytes written, since when) where the writer was seen last.
        self._progress = (-1, 0.0)
        self._why = "the writer gave up"
        self.grid = Grid(view.chunk_bytes, view.first_bytes)
        self.object_id = view.object_id
        self.write_id = view.token
        self.limit = 0
        self.state = StreamState.OPEN
        self.value_version: int | None = None
        self.look()

    @property
    def key(self) -> bytes:
        """What it is published under."""
        return self._view.key

    @property
    def is_open(self) -> bool:
        """Whether more may come, as of the last look."""
        return self.state is StreamState.OPEN

    @property
    def expected(self) -> int | None:
        """Bytes of the whole, where the writer knows."""
        return self._view.expected

    def look(self) -> None:
        """See how far it is. *Cost*: a lock, and a probe of the index for a chunk on its way."""
        with self._lock:
            if not self.is_open:
                return
            view = self._view
            if not view.look():
                self._give_up("the write is over, and how it ended is not known any more")
            elif view.is_aborted:
                self._give_up("the writer gave up, or its process ended")
            elif view.is_finished:
                self.value_version = view.value_version
                self.limit = view.stored
                self.state = StreamState.FINISHED
            else:
                self.limit = max(self.limit, view.stored)
                while self.limit < view.handed:
                    number = self.grid.locate(self.limit)[0]
                    if not self._backend.has_part(self.object_id, number):
                        break
                    self.limit = self.grid.span(number, view.handed)[1]

    def _give_up(self, why: str) -> None:
        self._why = why
        self.state = StreamState.ABORTED

    def require_alive(self) -> None:
        """Raise StreamAbortedError if it was aborted."""
        if self.state is StreamState.ABORTED:
            raise StreamAbortedError(self._why, offset_bytes=self.limit, path=None)

    def read_value(self) -> bytes | None:
        """Return what it was published as, where that is one entry; None: it is another one now."""
        stored = self._backend.get_head(self.key)
        if stored is None or engine_flags_of(stored.meta) & ENGINE_OBJECT:
            return None
        return stored.value if version_of(stored.value) == self.value_version else None

    def _has_news(self, position: int) -> bool:
        self.look()
        return not self.is_open or self.limit > position

    def _left_s(self) -> float:
        """How long the writer may still be silent; it is given up at 0."""
        now_s = time.monotonic()
        if self._view.written != self._progress[0]:
            self._progress = (self._view.written, now_s)
        left_s = self._progress[1] + STALL_S - now_s
        if left_s <= 0:
            with self._lock:
                if self.is_open:
                    self._give_up("the writer makes no progress")
        return left_s

    def wait(self, position: int) -> None:
        """Block until there is something to know beyond `position`: bytes, or the end."""
        while not self._has_news(position):
            left_s = self._left_s()
            if left_s > 0:
                self._desk.sleep(lambda: self._has_news(position), left_s)

    def wait_soon(
        self, position: int, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[bool] | None:
        """As `wait`, as a future of the running loop; it may have to be called again."""
        if self._has_news(position):
            return None
        left_s = self._left_s()
        if left_s <= 0:
            return None
        return self._desk.sleep_soon(lambda: self._has_news(position), left_s)


class RemoteSource:
    """A write in progress in another process: what it has stored."""

    __slots__ = ("_chunks", "_value", "_write")

    name = "stream"
    is_counted = False

    def __init__(self, chunks: Chunks, write: RemoteWrite) -> None:
        self._chunks = chunks
        self._write = write
        self._value: bytes | None = None

    @property
    def stream(self) -> RemoteWrite:
        """The write that is followed."""
        return self._write

    @property
    def size(self) -> int | None:
        return self._write.limit if self._write.state is StreamState.FINISHED else None

    @property
    def limit(self) -> int:
        return self._write.limit

    @property
    def piece_bytes(self) -> int:
        return self._chunks.grid.chunk_bytes

    def take(self, position: int, size: int) -> Piece | Wait | None:
        write = self._write
        write.look()
        write.require_alive()
        if position >= write.limit:
            return WAIT if write.is_open else b""
        if write.value_version is None:
            return self._chunks.take(position, size, write.limit)
        if self._value is None:
            return None
        return memoryview(self._value)[position : position + size]

    def wanted(self, position: int, size: int, until: int) -> list[Want]:
        limit = self._write.limit
        if self._write.value_version is not None:
            return [Want(NO_PART, limit, 0, limit)]
        return self._chunks.wanted(position, size, min(until, limit), limit)

    def is_cold(self, wants: Sequence[Want]) -> bool:
        return wants[0].name == NO_PART or self._chunks.is_cold(wants)

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        if wants[0].name != NO_PART:
            return self._chunks.fetch(wants)
        return [self._write.read_value()]

    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None:
        return None if wants[0].name == NO_PART else self._chunks.entry_keys(wants)

    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None:
        if wants[0].name != NO_PART:
            self._write.look()
            if self._write.state is not StreamState.ABORTED:  # else `take` says so
                self._chunks.supply(wants, parts)
            return
        if not isinstance(parts[0], bytes):
            raise ObjectChangedError("the object was replaced while it was read")
        self._value = parts[0]

    def moved(self) -> None:
        self._chunks.drop_ahead()

    def pinned(self, position: int, size: int) -> memoryview | None:
        return None

    def open_body(self) -> int | None:
        return None

    def ranges(self, spans: Sequence[Range]) -> list[bytes] | None:
        return None

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        limit = self._write.limit
        holes: list[Range] = []
        if self._write.value_version is None:
            holes += self._chunks.missing(start, min(end, limit))
        if end > limit:
            holes.append((max(start, limit), end))
        return tuple(holes)

    def close(self) -> None:
        self._value = None
        self._chunks.close()
