"""Objects of the file layout: one directory with one body, however large and however written.

A write in progress is a directory of the tier's `tmp` (`ObjectWriter`): its parts are ranges of the
body. Publishing it makes it an entry like that of a plain put; large ones are read by range from
then on. The table of content hashes serves readers of the write only: the tier has its own sums.

Parts of sparse objects are entries, as in the region log (`LogBackend`).

Invariants (under `_lock`):

1. `_written` has the writes in progress, `_placed` what somebody reads; `release` takes both out.
2. What is read of a placed object is of its sequence, or nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from edgecache.errors import EdgeCacheError
from edgecache.meta import ENGINE_OBJECT, Meta, engine_flags_of
from edgecache.objects.backend import (
    Engine,
    Large,
    Lifetime,
    LogBackend,
    Relabelling,
    Stored,
    View,
    expiry_of,
)
from edgecache.objects.counters import Counters
from edgecache.objects.head import decode_fixed
from edgecache.objects.keys import PIECE_BASE, new_object_id, part_key
from edgecache.objects.parts import Settled, Want, WholeParts, Writing

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Source: FILE_CHUNK_BYTES in `_files_format.pxd`: what is read and verified at a time.
CHUNK_BYTES = 4 << 20
# Source: FileFlags there.
TAGGED = 1
# Of a key that others keep changing meanwhile.
RELABEL_TRIES = 100


class Ticket(Protocol):
    """A version that is written and not entered yet."""

    @property
    def sequence(self) -> int: ...
    @property
    def shed(self) -> str: ...


class Writer(Protocol):
    """`edgecache.files.ObjectWriter`."""

    def write_at(self, offset: int, data: Buffer) -> bool: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def seal(self, size: int, meta: bytes, expiry_us: int, flags: int = 0) -> Ticket: ...
    def abort(self) -> None: ...


class Tier(Protocol):
    """The part of `edgecache.files.FileTier` that objects use."""

    def find_large(
        self, hash16: bytes, key: bytes, size: int
    ) -> tuple[int, int, bytes, int] | None: ...
    def read_large(
        self, hash16: bytes, key: bytes, size: int, offset: int, length: int
    ) -> bytes | None: ...
    def read_range(self, hash16: bytes, key: bytes, offset: int, length: int) -> bytes | None: ...
    def read_part(
        self, hash16: bytes, key: bytes, body_sequence: int, offset: int, length: int
    ) -> bytes | None: ...
    def has_body(self, hash16: bytes, key: bytes, body_sequence: int) -> bool: ...
    def open_body(self, hash16: bytes, key: bytes, body_sequence: int) -> int | None: ...
    def relabel(
        self, hash16: bytes, key: bytes, relabelling: Relabelling
    ) -> Ticket | bool | None: ...
    def begin(self, key: bytes, flags: int = 0) -> Writer: ...


class FileEngine(Engine, Protocol):
    """The part of `Core` with a lower tier."""

    def lower_key(self, key: bytes | str) -> tuple[bytes, bytes, int]: ...
    def enter_written(self, key: bytes | str, ticket: Ticket) -> bool: ...


class Written:
    """A write in progress."""

    __slots__ = ("chunk_bytes", "end", "key", "writer")

    def __init__(self, key: bytes, chunk_bytes: int) -> None:
        self.key = key
        self.chunk_bytes = chunk_bytes
        self.writer: Writer | None = None
        self.end = 0


class Placed(NamedTuple):
    """A published object that is read by range; `sequence` is that of its body."""

    hash16: bytes
    key: bytes
    sequence: int
    size: int
    chunk_bytes: int


class FileBackend(WholeParts, LogBackend):
    """See the module. *Thread-safety*: every method, any thread."""

    __slots__ = ("_lock", "_placed", "_tier", "_written")

    def __init__(self, engine: FileEngine, counters: Counters, tier: Tier) -> None:
        super().__init__(engine, counters)
        self._tier = tier
        self._lock = threading.RLock()
        self._written: dict[bytes, Written] = {}
        self._placed: dict[bytes, Placed] = {}

    def _file_engine(self) -> FileEngine:
        return cast("FileEngine", self._open())

    # Objects that are one body

    def begin(self, object_id: bytes, key: bytes, chunk_bytes: int) -> None:
        with self._lock:
            self._written[object_id] = Written(key, chunk_bytes)

    def release(self, object_id: bytes) -> None:
        with self._lock:
            self._placed.pop(object_id, None)
            written = self._written.pop(object_id, None)
        if written is not None and written.writer is not None:
            written.writer.abort()

    def entry_version(self, stored: Stored) -> int:
        # Its sequence; of what only RAM has, as elsewhere.
        return stored.location or super().entry_version(stored)

    def find_large(self, key: bytes, size: int) -> Large | None:
        engine = self._file_engine()
        if not engine.needs_disk(key):
            return None
        hash16, stored, _ = engine.lower_key(key)
        found = self._tier.find_large(hash16, stored, size)
        if found is None:
            return None
        sequence, body_bytes, meta, expiry_us = found
        object_id = new_object_id()
        with self._lock:
            self._placed[object_id] = Placed(hash16, stored, sequence, body_bytes, CHUNK_BYTES)
        return Large(object_id, body_bytes, CHUNK_BYTES, meta, sequence, expiry_us)

    def read_large(self, key: bytes, size: int, offset: int, length: int) -> bytes | None:
        engine = self._file_engine()
        if not engine.needs_disk(key):
            return None
        hash16, stored, _ = engine.lower_key(key)
        return self._tier.read_large(hash16, stored, size, offset, length)

    def version_of(self, object_id: bytes) -> int | None:
        placed = self._placed.get(object_id)
        return None if placed is None else placed.sequence

    def is_current(self, object_id: bytes) -> bool | None:
        placed = self._placed.get(object_id)
        return None if placed is None else self._tier.has_body(*placed[:3])

    def relabel(self, key: bytes | str, relabelling: Relabelling) -> bool | None:
        engine = self._file_engine()
        hash16, stored, _ = engine.lower_key(key)
        for _ in range(RELABEL_TRIES):
            ticket = self._tier.relabel(hash16, stored, relabelling)
            if ticket is None or isinstance(ticket, bool):
                return ticket
            if engine.enter_written(key, ticket):
                return True
            if ticket.shed:
                return False
        return None

    def put_head(self, key: bytes | str, value: Buffer, meta: bytes, ttl: Lifetime) -> bool:
        head = decode_fixed(bytes(value)) if engine_flags_of(meta) & ENGINE_OBJECT else None
        written = None if head is None else self._written.get(head.object_id)
        if head is None or written is None or written.writer is None:
            return super().put_head(key, value, meta, ttl)
        engine = self._file_engine()
        plain = Meta.decode(meta)
        flags = TAGGED if plain.tags else 0
        expiry_us = expiry_of(engine, ttl)
        ticket = written.writer.seal(head.size, plain.encode(), expiry_us, flags)
        hash16, stored, _ = engine.lower_key(key)
        if not engine.enter_written(key, ticket):
            return False
        placed = Placed(hash16, stored, ticket.sequence, head.size, written.chunk_bytes)
        with self._lock:
            self._placed[head.object_id] = placed
            self._written.pop(head.object_id, None)
        return True

    # Parts

    def begin_part(self, object_id: bytes, number: int, data: Buffer) -> Writing:
        if object_id in self._written:
            # No content hash: the tier has its own sums.
            return Settled(self.put_part(object_id, number, data))
        return super().begin_part(object_id, number, data)

    def put_part(self, object_id: bytes, number: int, data: Buffer) -> bool:
        written = self._written.get(object_id)
        if written is None:
            return super().put_part(object_id, number, data)
        if number >= PIECE_BASE:
            return True  # a page of hashes: nobody needs it once the tier has its sums
        if written.writer is None:
            _, stored, flags = self._file_engine().lower_key(written.key)
            try:
                written.writer = self._tier.begin(stored, flags)
            except EdgeCacheError:
                return False  # a sick disk: the write is shed
        start = number * written.chunk_bytes
        if not written.writer.write_at(start, data):
            return False
        written.end = max(written.end, start + memoryview(data).nbytes)
        return True

    def read_parts(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        return [self._read_want(want) for want in wants]

    def _read_want(self, want: Want) -> bytes | bool | None:
        object_id, number = want.name
        written, placed = self._written.get(object_id), self._placed.get(object_id)
        if placed is not None:
            start = number * placed.chunk_bytes + want.start
            return self._read_body(placed, start, want.end - want.start)
        if written is not None:
            return self._read_written(object_id, written, number, want.start, want.end)
        engine = self._file_engine()
        key = part_key(object_id, number)
        if not want.is_whole and engine.needs_disk(key):
            hash16, stored, _ = engine.lower_key(key)
            found = self._tier.read_range(hash16, stored, want.start, want.end - want.start)
            if found is not None and len(found) == want.end - want.start:
                return found
        return super().read_parts([want])[0]

    def get_parts(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        # Published between the two looks: then it is found by the second.
        written = self._written.get(object_id)
        placed = self._placed.get(object_id)
        if placed is not None:
            return [self._read_placed(placed, number) for number in numbers]
        if written is None:
            return super().get_parts(object_id, numbers)
        size = written.chunk_bytes
        return [self._read_written(object_id, written, number, 0, size) for number in numbers]

    def _read_placed(self, placed: Placed, number: int) -> bytes | None:
        return self._read_body(placed, number * placed.chunk_bytes, placed.chunk_bytes)

    def _read_body(self, placed: Placed, start: int, length: int) -> bytes | None:
        length = min(length, placed.size - start)
        if length <= 0:
            return None
        return self._tier.read_part(placed.hash16, placed.key, placed.sequence, start, length)

    def _read_written(
        self, object_id: bytes, written: Written, number: int, start: int, end: int
    ) -> bytes | None:
        start += number * written.chunk_bytes
        length = min(end + number * written.chunk_bytes, written.end) - start
        if length <= 0 or number >= PIECE_BASE:
            return None
        writer = written.writer
        try:
            if writer is not None:
                return writer.read_at(start, length)
        except EdgeCacheError:
            pass
        placed = self._placed.get(object_id)  # published meanwhile
        return None if placed is None else self._read_body(placed, start, length)

    def entry_keys(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes] | None:
        if self._is_body(object_id):
            return None
        return super().entry_keys(object_id, numbers)

    def open_body(self, object_id: bytes) -> int | None:
        placed = self._placed.get(object_id)
        return None if placed is None else self._tier.open_body(*placed[:3])

    def view_part(self, object_id: bytes, number: int) -> View | None:
        return None if self._is_body(object_id) else super().view_part(object_id, number)

    def is_cold(self, object_id: bytes, number: int) -> bool:
        return self._is_body(object_id) or super().is_cold(object_id, number)

    def has_part(self, object_id: bytes, number: int) -> bool:
        written = self._written.get(object_id)
        if written is not None:
            return number * written.chunk_bytes < written.end
        current = self.is_current(object_id)
        return super().has_part(object_id, number) if current is None else current

    def delete_parts(self, object_id: bytes, numbers: Iterable[int]) -> None:
        if not self._is_body(object_id):
            super().delete_parts(object_id, numbers)

    def _is_body(self, object_id: bytes) -> bool:
        return object_id in self._written or object_id in self._placed
