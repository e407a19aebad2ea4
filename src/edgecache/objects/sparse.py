"""An unfinished object whose ranges arrive in any order.

A chunk that is being filled is in memory (`OpenChunk`), whole, with what was there before. When
memory is short, at `save`, and when it is complete it goes to the store: a complete chunk as a
plain part, a piece (ranges and their bytes) as another part that the plain one replaces. The head
says which bytes the store has, so after a restart the object goes on from there; what was in memory
only is missing then, and nothing is ever wrong.

Invariants (under `lock`):

1. `present` = what the store has + what open chunks hold. Parts may be evicted: then their bytes
   leave `present` when that is noticed, and the range is a hole.
2. An open chunk holds every present byte of its range; `dirty` are those that the store lacks.
3. A complete chunk that is not open is the part of its number; another one with bytes is a piece.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from edgecache.entry import Availability
from edgecache.errors import (
    IncompleteObjectError,
    ObjectNotFoundError,
    ObjectShedError,
    PartialQuotaError,
    RangeError,
    RangeMissingError,
)
from edgecache.meta import ENGINE_OBJECT, Meta
from edgecache.objects.backend import Backend
from edgecache.objects.grid import Grid
from edgecache.objects.head import (
    NO_HASH,
    STATE_COMPLETE,
    STATE_SPARSE,
    Head,
    content_hash,
    decode_piece,
    encode_piece,
)
from edgecache.objects.keys import PIECE_BASE, sparse_key
from edgecache.objects.parts import Want
from edgecache.objects.ranges import Range, RangeSet
from edgecache.objects.table import HashTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecache.objects.budget import Budget

# Chunks that are stored between two saves of the head: what a crash may forget of them.
CHUNKS_PER_SAVE = 16
MISSING_SHOWN = 64


class OpenChunk:
    """A chunk in memory."""

    __slots__ = ("content", "dirty", "present")

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.present = RangeSet()
        self.dirty = RangeSet()

    def fill(self, start: int, data: memoryview) -> None:
        """Write bytes that the store lacks."""
        self.content[start : start + len(data)] = data
        self.present.add(start, start + len(data))
        self.dirty.add(start, start + len(data))

    def restore(self, start: int, data: memoryview) -> None:
        """Take in bytes that the store has."""
        self.content[start : start + len(data)] = data
        self.present.add(start, start + len(data))


class SparseObject:
    """One unfinished object. *Thread-safety*: every method, any thread."""

    __slots__ = (
        "__weakref__", "_backend", "_budget", "_is_gone", "_open", "_unsaved_count", "expires_s",
        "head", "key", "lock", "meta", "present", "table", "ttl_s",
    )  # fmt: skip

    def __init__(
        self, backend: Backend, budget: Budget, key: bytes, head: Head, meta: Meta, ttl_s: float
    ) -> None:
        self._backend = backend
        self._budget = budget
        self.key = key
        self.head = head
        self.meta = meta
        self.ttl_s = ttl_s
        self.expires_s = time.monotonic() + ttl_s
        self.lock = threading.RLock()
        self.present = RangeSet(head.runs)
        self.table = HashTable(backend, head.object_id, head)
        self._open: OrderedDict[int, OpenChunk] = OrderedDict()
        self._unsaved_count = 0
        self._is_gone = False
        budget.holders.add(self)
        budget.take_present(self.present.total_bytes, is_forced=True)

    # Ranges

    def _span(self, number: int) -> Range:
        return self.head.grid.span(number, self.head.size)

    def _require(self) -> None:
        if self._is_gone:
            raise ObjectNotFoundError("the unfinished object is gone")

    def write(self, offset: int, data: memoryview) -> bool:
        """Write a range; False: the store shed it, and what precedes it in the range is there."""
        with self.lock:
            self._require()
            if offset < 0 or offset + len(data) > self.head.size:
                raise RangeError(
                    "the range does not lie in the object",
                    expected=(0, self.head.size),
                    found=(offset, offset + len(data)),
                )
            position = 0
            while position < len(data):
                number = self.head.grid.locate(offset + position)[0]
                start, end = self._span(number)
                taken = min(len(data) - position, end - offset - position)
                piece = data[position : position + taken]
                if not self._write_in(number, offset + position, piece, (start, end)):
                    return False
                position += taken
            return True

    def _write_in(self, number: int, offset: int, data: memoryview, span: Range) -> bool:
        start, end = span
        added = len(data) - sum(b - a for a, b in self.present.within(offset, offset + len(data)))
        if len(self.present) >= self._budget.runs_max and added:
            raise PartialQuotaError(
                "the object has too many separate ranges",
                limit="ranges",
                expected=self._budget.runs_max,
            )
        self._budget.take_present(added)
        if len(data) == end - start:
            is_stored = self._store_whole(number, data)
        else:
            chunk = self._opened(number)
            is_stored = chunk is not None
            if chunk is not None:
                chunk.fill(offset - start, data)
        if not is_stored:
            self._budget.take_present(-added)
            return False
        self.present.add(offset, offset + len(data))
        chunk = self._open.get(number)
        if added and chunk is not None and chunk.present.covers(0, end - start):
            # Shed: it stays in memory, and is tried again. One that was complete before stays, too:
            # who changes it will do so again.
            self._spill(number)
        return True

    def _store_whole(self, number: int, data: memoryview | bytearray) -> bool:
        span = self._span(number)
        had_piece = bool(self.present.within(*span)) and (
            number in self._open or not self.present.covers(*span)
        )
        writing = self._backend.begin_part(self.head.object_id, number, data)
        if not writing.wait() or not self.table.set(number, writing.content_hash):
            return False
        if self._open.pop(number, None) is not None:
            self._budget.take_memory(-len(data))
        if had_piece:
            self._backend.delete_parts(self.head.object_id, [PIECE_BASE + number])
        self._unsaved_count += 1
        if self._unsaved_count >= CHUNKS_PER_SAVE:
            self._save_head()
        return True

    def _opened(self, number: int) -> OpenChunk | None:
        """The chunk in memory, with what the store has of it; None when memory is short."""
        chunk = self._open.get(number)
        if chunk is not None:
            self._open.move_to_end(number)
            return chunk
        start, end = self._span(number)
        while not self._budget.take_memory(end - start):
            if not self.spill_oldest() and not self._budget.relieve(self):
                return None
        chunk = OpenChunk(end - start)
        for place, data in self._stored(number):
            chunk.restore(place, data)
        self._open[number] = chunk
        return chunk

    def _stored(self, number: int) -> list[tuple[int, memoryview]]:
        """What the store has of a chunk: (place in the chunk, bytes); holes are noted."""
        start, end = self._span(number)
        claimed = self.present.within(start, end)
        if not claimed:
            return []
        object_id = self.head.object_id
        found: list[tuple[int, memoryview]] = []
        # What the head calls incomplete may have been completed since it was saved, or the reverse.
        is_whole = claimed == [(start, end)]
        for name in (number, PIECE_BASE + number) if is_whole else (PIECE_BASE + number, number):
            was_cold = self._backend.is_cold(object_id, name)
            part = self._backend.get_parts(object_id, [name])[0]
            if part is None:
                continue
            if name != number:
                found = decode_piece(part, end - start) or []
            elif len(part) == end - start:
                expected = self.table.get(number) if was_cold else NO_HASH
                if expected in (NO_HASH, content_hash(part)):
                    found = [(0, memoryview(part))]
                else:
                    self._budget.counters.add("hash_mismatches")
            if found:
                break
        kept = RangeSet((start + place, start + place + len(data)) for place, data in found)
        lost = RangeSet(claimed)
        for one in kept:
            lost.remove(*one)
        for one in lost:
            self._budget.counters.add("holes")
            self._budget.take_present(-self.present.remove(*one))
        for one in kept:
            # The head was saved before this piece was: it knows less.
            self._budget.take_present(self.present.add(*one), is_forced=True)
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Return a range, clipped at the end of the object; a hole raises."""
        with self.lock:
            self._require()
            start = min(offset, self.head.size)
            end = min(offset + length, self.head.size)
            self._refuse_holes(start, end)
            pieces: list[memoryview] = []
            position = start
            while position < end:
                number = self.head.grid.locate(position)[0]
                first, last = self._span(number)
                until = min(end, last)
                pieces += self._pieces(number, position - first, until - first)
                position = until
            if sum(map(len, pieces)) != end - start:
                self._refuse_holes(start, end)
            return b"".join(pieces)

    def _refuse_holes(self, start: int, end: int) -> None:
        holes = self.present.missing(start, end)
        if holes:
            self._budget.counters.add("holes", len(holes))
            raise RangeMissingError("bytes of the range are not there", missing=tuple(holes))

    def _pieces(self, number: int, start: int, end: int) -> list[memoryview]:
        chunk = self._open.get(number)
        if chunk is not None:
            # A copy: the buffer changes while the caller joins it with other chunks.
            return [memoryview(bytes(memoryview(chunk.content)[start:end]))]
        span = self._span(number)
        if self.present.covers(*span):
            name = self.head.object_id, number
            want = Want(name, span[1] - span[0], start, end, self.table.get(number))
            part = self._backend.read_parts([want])[0]
            if isinstance(part, bytes):
                return [memoryview(part)]
        found = []
        for place, data in sorted(self._stored(number), key=lambda one: one[0]):
            low, high = max(start, place), min(end, place + len(data))
            if low < high:
                found.append(data[low - place : high - place])
        return found

    def availability(self) -> Availability:
        """Say what is there."""
        with self.lock:
            size = self.head.size
            missing = tuple(self.present.missing(0, size))
            return Availability(size, tuple(self.present), missing, False)

    # Storing

    def _spill(self, number: int) -> bool:
        """Store an open chunk and let its memory go; False: shed, it stays."""
        chunk = self._open[number]
        size = len(chunk.content)
        if chunk.present.covers(0, size):
            return self._store_whole(number, chunk.content)
        if chunk.dirty.total_bytes:
            piece = encode_piece(list(chunk.present), chunk.content)
            if not self._backend.put_part(self.head.object_id, PIECE_BASE + number, piece):
                return False
        del self._open[number]
        self._budget.take_memory(-size)
        return self._save_head()

    def spill_oldest(self) -> bool:
        """Store the chunk that was untouched for longest; False: there is none, or it was shed."""
        with self.lock:
            return bool(self._open) and self._spill(next(iter(self._open)))

    def save(self) -> bool:
        """Store everything; False when something was shed (it stays in memory)."""
        with self.lock:
            if self._is_gone:
                return True
            # All are tried, also after one that fails.
            shed = [number for number in list(self._open) if not self._spill(number)]
            return not shed and self._save_head()

    def _save_head(self) -> bool:
        stored = self.present.copy()
        for number, chunk in self._open.items():
            start = self.head.grid.start(number)
            for one in chunk.dirty:
                stored.remove(start + one[0], start + one[1])
        table = self.table.save(self.head.chunk_count)
        if table is None:
            return False
        self.head.table, self.head.is_paged = table
        self.head.runs = list(stored)
        meta = self.meta.encode_as(ENGINE_OBJECT)
        key = sparse_key(self.key)
        if not self._backend.put_entry(key, self.head.encode(), meta, self.ttl_s):
            return False
        self.expires_s = time.monotonic() + self.ttl_s
        self._unsaved_count = 0
        return True

    # The end

    def finish(self, generation: int, publish: Callable[[Head], bool]) -> int:
        """Publish it when nothing is missing; the size."""
        with self.lock:
            self._require()
            for number in list(self._open):
                if self.present.covers(*self._span(number)) and not self._spill(number):
                    raise ObjectShedError("the store did not accept a part of the object")
            self._refuse_incomplete()
            for number in range(self.head.chunk_count):
                if not self._backend.has_part(self.head.object_id, number):
                    self._budget.take_present(-self.present.remove(*self._span(number)))
            self._refuse_incomplete()
            table = self.table.save(self.head.chunk_count)
            if table is None:
                raise ObjectShedError("the store did not accept a part of the object")
            head = Head(
                size=self.head.size,
                generation=generation,
                object_id=self.head.object_id,
                chunk_bytes=self.head.chunk_bytes,
                first_bytes=self.head.first_bytes,
                state=STATE_COMPLETE,
                table=table[0],
                is_paged=table[1],
            )
            if not publish(head):
                raise ObjectShedError("the store did not accept the head of the object")
            self._leave()
            return self.head.size

    def _refuse_incomplete(self) -> None:
        holes = self.present.missing(0, self.head.size, MISSING_SHOWN)
        if holes:
            raise IncompleteObjectError("the object has holes", missing=tuple(holes))

    def _leave(self) -> None:
        """Give memory, quota and head back; the parts stay."""
        self._is_gone = True
        for chunk in self._open.values():
            self._budget.take_memory(-len(chunk.content))
        self._open.clear()
        self._budget.take_present(-self.present.total_bytes)
        self._backend.delete_entry(sparse_key(self.key))

    def discard(self) -> None:
        """Delete it, parts and all; idempotent."""
        with self.lock:
            if self._is_gone:
                return
            numbers: list[int] = []
            for start, end in self.present:
                first, _ = self.head.grid.locate(start)
                last, _ = self.head.grid.locate(end - 1)
                for number in range(first, last + 1):
                    numbers += (number, PIECE_BASE + number)
            numbers += self.table.page_numbers()
            self._leave()
        self._backend.delete_parts(self.head.object_id, numbers)

    def let_go(self) -> None:
        """The store closes: memory goes, what was saved stays."""
        with self.lock:
            self._is_gone = True
            self._open.clear()

    @property
    def is_expired(self) -> bool:
        """Whether its lifetime is over."""
        return time.monotonic() >= self.expires_s


def new_head(size: int, grid: Grid, object_id: bytes, generation: int) -> Head:
    """Return the head of an empty unfinished object."""
    return Head(
        size=size,
        generation=generation,
        object_id=object_id,
        chunk_bytes=grid.chunk_bytes,
        first_bytes=grid.first_bytes % grid.chunk_bytes,
        state=STATE_SPARSE,
    )
