"""The chunks of one object as its readers see them: windows of them, some read ahead.

What is wanted of a cold chunk is the range that was asked for. Where reads follow each other the
window doubles with each, up to the whole chunk, and the next chunks are read ahead by the engine's
threads while the consumer works. Chunks in RAM are copied as asked, never ahead.

A reader that stalls holds what it has read. So all readers of a process share `READERS_BYTES_MAX`:
where they are many, windows stay small and nothing is read ahead.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NoReturn

from edgecache.errors import ObjectChangedError, RangeMissingError
from edgecache.objects.backend import Backend
from edgecache.objects.counters import Counters
from edgecache.objects.grid import Grid
from edgecache.objects.parts import Reading, Want
from edgecache.objects.ranges import Range
from edgecache.objects.table import HashTable

READ_AHEAD_CHUNKS = 2
READERS_BYTES_MAX = 128 << 20
"""What the cold windows of all readers may hold together, as far as `WINDOW_BYTES_MIN` allows."""
WINDOW_BYTES_MIN = 131072
# Small chunks are read by the event loop itself, larger ones in threads.
LOOP_READ_BYTES_MAX = 262144
Piece = bytes | memoryview

# Everything that is being read in this process.
_readers: weakref.WeakSet[Chunks] = weakref.WeakSet()


class Chunks:
    """The chunks of one object; one in memory, and up to READ_AHEAD_CHUNKS on their way.

    Args:
        is_current: Whether the object is still what its key has.
        on_close: Called once, when nobody reads here any more.
    """

    __slots__ = (
        "__weakref__", "_ahead", "_backend", "_counters", "_held", "_is_current", "_next",
        "_object_id", "_on_close", "_place", "_table", "_window", "grid",
    )  # fmt: skip

    def __init__(
        self,
        backend: Backend,
        counters: Counters,
        object_id: bytes,
        grid: Grid,
        table: HashTable,
        is_current: Callable[[], bool],
        on_close: Callable[[], None] | None,
    ) -> None:
        self._backend = backend
        self._counters = counters
        self._object_id = object_id
        self._table = table
        self._is_current = is_current
        self._on_close = on_close
        # Bytes of the object from `_place` on.
        self._held = b""
        self._place = 0
        self._next = 0
        self._window = 0
        self._ahead: dict[int, tuple[Want, Reading]] = {}
        self.grid = grid
        _readers.add(self)

    def take(self, position: int, size: int, end: int) -> Piece | None:
        """Bytes of what is held; `end` is that of the last stored byte."""
        offset = position - self._place
        if not 0 <= offset < len(self._held):
            return None
        size = min(size, len(self._held) - offset)
        self._next = position + size
        if offset == 0 and size == len(self._held):
            return self._held
        return memoryview(self._held)[offset : offset + size]

    def _want(self, number: int, start: int, end: int, size: int) -> Want:
        """`size` is that of the object as far as it is stored; start and end are in the chunk."""
        begin, finish = self.grid.span(number, size)
        part_bytes = finish - begin
        end = min(end, part_bytes)
        return Want(
            self._table.name(number),
            part_bytes,
            min(start, end - 1),
            end,
            self._table.get(number),
            number,
        )

    def _is_cold(self, number: int) -> bool:
        return self._backend.is_cold(*self._table.name(number))

    def wanted(self, position: int, size: int, until: int, stored: int) -> list[Want]:
        """The next window, at most to `until`; starts to read ahead where it reaches further."""
        number, offset = self.grid.locate(position)
        chunk_bytes = self.grid.size(number)
        ahead = self._ahead.get(number)
        if ahead is not None and ahead[0].start <= offset < ahead[0].end:
            self._read_ahead(number, until, stored)
            return [ahead[0]]
        is_cold = self._is_cold(number)
        window = size
        if is_cold and position == self._next and self._window:
            window = max(size, 2 * self._window)
        share = READERS_BYTES_MAX // max(1, len(_readers))
        if is_cold and share < (1 + READ_AHEAD_CHUNKS) * chunk_bytes:
            window = min(window, max(share, WINDOW_BYTES_MIN), chunk_bytes - 1)
        elif 2 * window >= chunk_bytes:
            window = chunk_bytes
        self._window = window
        chunk_end = min(until - self.grid.start(number), chunk_bytes)
        end = min(offset + window, chunk_end)
        if window == chunk_bytes and end == chunk_bytes and position == self._next:
            self._read_ahead(number, until, stored)
        return [self._want(number, offset, end, stored)]

    def _read_ahead(self, number: int, until: int, stored: int) -> None:
        for following in range(number + 1, number + 1 + READ_AHEAD_CHUNKS):
            start = self.grid.start(following)
            if start >= min(until, stored):
                return
            if following in self._ahead or not self._is_cold(following):
                continue
            want = self._want(following, 0, until - start, stored)
            reading = self._backend.begin_read(want)
            if reading is None:
                return
            self._ahead[following] = (want, reading)

    def drop_ahead(self) -> None:
        """Reading goes on elsewhere. Never blocks."""
        for _, reading in self._ahead.values():
            if not reading.cancel():
                self._backend.park(reading)
        self._ahead.clear()
        self._window = 0

    def is_cold(self, wants: Sequence[Want]) -> bool:
        """Whether reading these may block."""
        for want in wants:
            ahead = self._ahead.get(want.number)
            if ahead is not None and ahead[0] == want:
                if not ahead[1].is_done:
                    return True
            elif self._backend.is_cold(*want.name):
                return True
        return False

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        """Read them; blocks on the disk, or for what is on its way."""
        found: list[bytes | bool | None] = []
        for want in wants:
            ahead = self._ahead.pop(want.number, None)
            if ahead is not None and ahead[0] == want:
                found.append(ahead[1].result())
            else:
                found += self._backend.read_parts([want])
        return found

    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None:
        """The keys to read them by on an event loop; None: `fetch`, in the executor."""
        for want in wants:
            if not want.is_whole or want.part_bytes > LOOP_READ_BYTES_MAX or self._ahead:
                return None
        keys: list[bytes] = []
        for want in wants:
            found = self._backend.entry_keys(want.name[0], [want.name[1]])
            if found is None:
                return None
            keys += found
        return keys

    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None:
        """Take in what was read; raises when it is missing or damaged."""
        want, part = wants[0], parts[0]
        self._held = b""
        if not isinstance(part, bytes):
            self._miss(want, part)
        self._held = part
        self._place = self.grid.start(want.number) + want.start

    def _miss(self, want: Want, part: bool | None) -> NoReturn:
        if part is False:
            self._counters.add("hash_mismatches")
            # Whoever reads it next, perhaps from RAM by then, finds a hole as well.
            self._backend.delete_parts(want.name[0], [want.name[1]])
        if not self._is_current():
            raise ObjectChangedError("the object was replaced while it was read")
        self._counters.add("holes")
        start = self.grid.start(want.number)
        raise RangeMissingError(
            "a chunk of the object is gone", missing=((start, start + want.part_bytes),)
        )

    def pinned(self, position: int, size: int, end: int) -> memoryview | None:
        """Bytes of a chunk in RAM in their place, pinned until the view is released; else None."""
        number, offset = self.grid.locate(position)
        view = self._backend.view_part(*self._table.name(number))
        if view is None:
            return None
        first, last = self.grid.span(number, end)
        part_bytes = last - first
        if len(view) != part_bytes:
            view.release()
            return None
        return memoryview(view)[offset : min(offset + size, part_bytes)]

    def ranges(self, spans: Sequence[Range], stored: int) -> list[bytes]:
        """Read several ranges, all requests together."""
        if len(spans) == 1:
            number, offset = self.grid.locate(spans[0][0])
            end = offset + spans[0][1] - spans[0][0]
            if offset < end <= self.grid.size(number):
                want = self._want(number, offset, end, stored)
                part = self._backend.read_parts([want])[0]
                return [part if isinstance(part, bytes) else self._miss(want, part)]
        wants: list[Want] = []
        counts: list[int] = []
        for start, end in spans:
            first = len(wants)
            while start < end:
                number, offset = self.grid.locate(start)
                wants.append(self._want(number, offset, offset + end - start, stored))
                start += wants[-1].end - offset
            counts.append(len(wants) - first)
        parts = self._backend.read_parts(wants)
        pieces: list[bytes] = []
        for want, part in zip(wants, parts, strict=True):
            if isinstance(part, bytes):
                pieces.append(part)
            else:
                self._miss(want, part)
        found = []
        for count in counts:
            found.append(pieces[0] if count == 1 else b"".join(pieces[:count]))
            del pieces[:count]
        return found

    def gather(self, numbers: Sequence[int], size: int) -> list[bytes] | None:
        """Read several chunks at once; None when one of them is missing or damaged."""
        wants = [self._want(number, 0, self.grid.chunk_bytes, size) for number in numbers]
        found: list[bytes] = []
        for part in self._backend.read_parts(wants):
            if not isinstance(part, bytes):
                self._counters.add("hash_mismatches", int(part is False))
                self._counters.add("holes")
                return None
            found.append(part)
        return found

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        """Ranges whose chunks are not there, as far as memory knows. *Cost*: one probe each."""
        holes: list[Range] = []
        position = start
        while position < end:
            number = self.grid.locate(position)[0]
            chunk_end = self.grid.span(number, end)[1]
            if not self._backend.has_part(*self._table.name(number)):
                if holes and holes[-1][1] == position:
                    holes[-1] = (holes[-1][0], chunk_end)
                else:
                    holes.append((position, chunk_end))
            position = chunk_end
        return tuple(holes)

    def close(self) -> None:
        """Let go of memory and of the object's parts; idempotent."""
        self._held = b""
        self.drop_ahead()
        action, self._on_close = self._on_close, None
        if action is not None:
            action()
