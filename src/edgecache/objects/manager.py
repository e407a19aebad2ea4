"""The objects of one store: writes in progress, pins, publishing, and finding things again.

Invariants (under `_lock`):

1. `_writes[key][write_id]` holds exactly the writes that are open.
2. The parts of an object id are deleted when it is doomed (replaced, purged, aborted) and its last
   reader has gone, whichever comes later.
3. The engine tells of every complete object whose head is deleted or replaced (`doom_head`), so
   that of two writers the parts of the one that lost are given back.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from edgecache.entry import Availability, PurgeType
from edgecache.errors import (
    PartialWritesError,
    StoreClosedError,
    StoreForkedError,
    ValueTooLargeError,
)
from edgecache.leasing import LeaseDesk
from edgecache.meta import ENGINE_OBJECT, ENGINE_PART, Meta, engine_flags_of
from edgecache.objects.backend import Backend, Large, Lifetime, Stored
from edgecache.objects.budget import Budget
from edgecache.objects.chunks import Chunks
from edgecache.objects.counters import COUNTED, Counters
from edgecache.objects.grid import Grid, even
from edgecache.objects.head import (
    HASH_BYTES,
    NO_HASH,
    STATE_COMPLETE,
    Head,
    decode_fixed,
    decode_head,
)
from edgecache.objects.hit import Hit
from edgecache.objects.keys import SHARED_PREFIX, TABLE_BASE
from edgecache.objects.miss import Miss
from edgecache.objects.parts import Writing
from edgecache.objects.ranges import RangeSet
from edgecache.objects.remote import RemoteSource, RemoteWrite
from edgecache.objects.sharing import Sharing
from edgecache.objects.source import ObjectSource, Source, StreamSource, ValueSource
from edgecache.objects.sparse_set import SparseSet
from edgecache.objects.stream import StreamState, StreamWrite
from edgecache.objects.table import PAGE_CHUNKS, HashTable
from edgecache.objects.values import meta_with, version_of

CHUNK_BYTES_MIN = 16384
# A region or a shard holds at least so many chunks.
CHUNKS_PER_UNIT = 8
PUBLISHED_HELD = 1024
REPLACE_TRIES = 100
# What `get` of a whole object gathers at a time.
GATHER_CHUNKS = 8
# Heads kept decoded, for ranges of objects in use: at most 4 MiB of them.
HEADS_HELD = 32
HEAD_BYTES_HELD = 131072

Found = tuple[Meta | None, "int | Callable[[], int]", Source]


class Doomed(NamedTuple):
    """Parts that go with their object.

    Args:
        numbers: Of its own.
        hashes: Those it shares; to be asked while its own are there.
    """

    numbers: list[int]
    hashes: Callable[[], Iterable[bytes]]


class ObjectManager:
    """See the module.

    Args:
        backend: Where parts and heads are.
        chunk_bytes: The configured size of chunks; smaller ones are used where these do not fit.
        first_bytes: Of the first chunk; 0: as the others.
        capacity_bytes: What the store can hold; a write beyond is shed before it evicts itself.
        object_bytes_max, writes_max, memory_bytes_max, quota_bytes: Limits of the configuration,
            None: none.
        partial_ttl_s: Lifetime of an unfinished sparse object.
        is_atomic: Whether a write in progress is hidden from `lookup`.
        sharing: Chunks that several objects have.
        leases: What shows writes to other processes, where the store is shared.

    *Thread-safety*: every method, any thread.
    """

    def __init__(
        self,
        backend: Backend,
        counters: Counters,
        *,
        chunk_bytes: int,
        first_bytes: int,
        capacity_bytes: int,
        object_bytes_max: int | None,
        writes_max: int | None,
        memory_bytes_max: int | None,
        quota_bytes: int | None,
        partial_ttl_s: float,
        is_atomic: bool,
        sharing: Sharing,
        leases: LeaseDesk | None = None,
    ) -> None:
        self.backend = backend
        self.sharing = sharing
        self.counters = counters
        self.object_bytes_max = object_bytes_max
        self.capacity_bytes = capacity_bytes
        grid = Grid(chunk_bytes, min(first_bytes or chunk_bytes, chunk_bytes))
        while grid.chunk_bytes > CHUNK_BYTES_MIN and (
            grid.chunk_bytes * CHUNKS_PER_UNIT > backend.part_bytes_max
        ):
            grid = grid.halved()
        self.grid = grid
        self.chunk_bytes = grid.chunk_bytes
        self._writes_max = writes_max
        self.budget = Budget(self.counters, memory_bytes_max, quota_bytes)
        self.sparse = SparseSet(backend, self.budget, self.next_generation, partial_ttl_s)
        self._is_atomic = is_atomic
        self._leases = leases
        self._lock = threading.RLock()
        self._writes: dict[bytes, dict[int, StreamWrite]] = {}
        self._write_count = 0
        self._last_id = 0
        self._published: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._heads: OrderedDict[bytes, tuple[bytes, tuple[Head, HashTable]]] = OrderedDict()
        self._pins: dict[bytes, int] = {}
        self._doomed: dict[bytes, Doomed] = {}

    # Writing

    def next_generation(self) -> int:
        """Return a number that no write of this store had, also before a restart."""
        with self._lock:
            self._last_id = max(self._last_id + 1, time.time_ns())
            return self._last_id

    def open_write(
        self,
        key: bytes,
        meta: Meta | None,
        ttl: Lifetime,
        tags: Iterable[str],
        size: int | None,
        *,
        is_admitted: bool = False,
    ) -> Miss:
        """Start a write. `is_admitted`: it is a put, which no limit on streams concerns."""
        meta = meta_with(meta, tags)
        meta.encode()  # its errors are the caller's, and now is the time
        if size is not None and self.object_bytes_max is not None and size > self.object_bytes_max:
            raise ValueTooLargeError(
                "the object is larger than `max_object_size`",
                expected=self.object_bytes_max,
                found=size,
            )
        write_id = self.next_generation()
        with self._lock:
            limit = None if is_admitted else self._writes_max
            if limit is not None and self._write_count >= limit:
                self.counters.add("refused_writes")
                raise PartialWritesError("too many streaming writes are open", expected=limit)
            grid = self._reserve(is_admitted)
            stream = StreamWrite(self.backend, key, write_id, meta, grid)
            stream.is_reserved = not is_admitted
            stream.is_sharing = self.sharing.is_enabled
            self._writes.setdefault(key, {})[write_id] = stream
            self._write_count += not is_admitted
            self._pins[stream.object_id] = 1
            self.backend.begin(stream.object_id, key, grid.chunk_bytes)
        if self._leases is not None and not is_admitted:
            stream.beacon = self._leases.open_stream(
                key, write_id, stream.object_id, *grid, size, meta.encode()
            )
        return Miss(self, stream, ttl, size)

    def _reserve(self, is_admitted: bool) -> Grid:
        """The chunks of a new write: one is its memory, so smaller ones when little is left."""
        grid = self.grid
        if is_admitted:
            return grid
        while not self.budget.reserve_stream(grid.chunk_bytes):
            if grid.chunk_bytes <= CHUNK_BYTES_MIN:
                self.counters.add("refused_writes")
                raise PartialWritesError(
                    "unfinished objects take all of `max_in_mem_partial_bytes`",
                    expected=self.budget.memory_limit,
                )
            grid = grid.halved()
        return grid

    def begin_chunk(self, stream: StreamWrite, number: int, chunk: memoryview) -> Writing | None:
        """Have the store take a chunk of a write; None: it was shed."""
        writing: Writing | None = None
        if stream.is_sharing:
            writing = self.sharing.begin(stream.object_id, chunk)
            if writing is None:
                # Another chunk has its hash: from here on they are the object's own.
                stream.is_sharing = False
            else:
                stream.table.shared_count = number + 1
        if writing is None:
            writing = self.backend.begin_part(stream.object_id, number, chunk)
        return None if writing.has_failed else writing

    def end_write(self, stream: StreamWrite, state: StreamState) -> bool:
        """Take a write out of the table; False when it was out already."""
        with self._lock:
            ours = self._writes.get(stream.key, {})
            if ours.pop(stream.write_id, None) is None:
                return False
            if not ours:
                self._writes.pop(stream.key, None)
            self._write_count -= stream.is_reserved
        if stream.is_reserved:
            self.budget.release_stream(stream.grid.chunk_bytes)

        def settle() -> None:
            stream.state = state

        stream.change(settle)
        stream.show_end(state)
        self._unpin(stream.object_id)
        return True

    def abort_write(self, stream: StreamWrite) -> None:
        """End a write without publishing it; its parts go. Idempotent."""
        if self.end_write(stream, StreamState.ABORTED):
            self.counters.add("aborted_writes")
            # A delete overtakes a write that is still on its way.
            stream.park_all(self.backend)
            table = stream.table
            own = range(table.shared_count, stream.grid.count(stream.written))
            doomed = Doomed([*own, *table.page_numbers()], table.shared_hashes)
            self._doom(stream.object_id, doomed)

    def abort_all(self) -> None:
        """Abort every open write: the store closes, or what it had of them is gone."""
        with self._lock:
            streams = [one for ours in self._writes.values() for one in ours.values()]
        for stream in streams:
            self.abort_write(stream)

    @property
    def write_count(self) -> int:
        """Writes in progress."""
        return self._write_count

    # Publishing

    def publish_value(self, stream: StreamWrite, content: bytes, ttl: Lifetime) -> bool:
        """Publish a short object as an ordinary entry."""
        meta = stream.meta.encode()
        if not self._publish(stream.key, content, meta, ttl):
            return False
        stream.value_version = version_of(content)
        self._remember(stream.key, stream.write_id, stream.value_version)
        return True

    def publish_head(self, key: bytes, head: Head, meta: Meta, ttl: Lifetime) -> bool:
        """Publish an object whose parts are stored."""
        if not self._publish(key, head.encode(), meta.encode_as(ENGINE_OBJECT), ttl):
            return False
        version = self.backend.version_of(head.object_id)
        if version is not None:
            self._remember(key, head.generation, version)
        return True

    def _remember(self, key: bytes, write_id: int, version: int) -> None:
        """Keep what a write published, where that does not say so itself."""
        with self._lock:
            self._published[key, write_id] = version
            while len(self._published) > PUBLISHED_HELD:
                self._published.popitem(last=False)

    def _publish(self, key: bytes, value: bytes, meta: bytes, ttl: Lifetime) -> bool:
        return self.backend.put_head(key, value, meta, ttl)

    # Parts that nobody needs any more

    def doom_head(self, fixed: bytes) -> None:
        """Delete the parts of an object that is no longer published, when nobody reads it.

        Args:
            fixed: The fixed part of its head. Heads of unfinished objects come, too: those are
                stored again and again, and have their own ways to go.
        """
        head = decode_fixed(fixed)
        if head is None or head.state != STATE_COMPLETE:
            return
        pages = -(-head.chunk_count // PAGE_CHUNKS) if head.is_paged else 0
        own = range(head.shared_count, head.chunk_count)
        hashes = functools.partial(self._hashes_of, head)
        if head.shared_count and self._pins.get(head.object_id):
            # Also when a sweep finds no head of it any more.
            self.sharing.hold(head.object_id, hashes())
        doomed = Doomed([*own, *range(TABLE_BASE, TABLE_BASE + pages)], hashes)
        self._doom(head.object_id, doomed)

    def _hashes_of(self, head: Head) -> set[bytes]:
        """The shared chunks of an object, of whose head no more than the fixed part is known."""
        found: set[bytes] = set()
        for page in range(-(-head.shared_count // PAGE_CHUNKS)):
            stored = self.backend.get_parts(head.object_id, [TABLE_BASE + page])[0] or b""
            end = min(len(stored), (head.shared_count - page * PAGE_CHUNKS) * HASH_BYTES)
            found.update(stored[at : at + HASH_BYTES] for at in range(0, end, HASH_BYTES))
        return found - {NO_HASH}

    def _doom(self, object_id: bytes, doomed: Doomed) -> None:
        with self._lock:
            if self._pins.get(object_id):
                self._doomed[object_id] = doomed
                return
        self._delete_parts(object_id, doomed)

    def _delete_parts(self, object_id: bytes, doomed: Doomed) -> None:
        try:
            hashes = doomed.hashes()  # while its pages are there
            if hashes:
                self.sharing.release(object_id, hashes)
            self.backend.delete_parts(object_id, doomed.numbers)
        except (StoreClosedError, StoreForkedError):
            return  # nobody can reach them; eviction removes them in time

    def _pin(self, object_id: bytes) -> None:
        with self._lock:
            self._pins[object_id] = self._pins.get(object_id, 0) + 1

    def _unpin(self, object_id: bytes) -> None:
        with self._lock:
            self._pins[object_id] -= 1
            if self._pins[object_id]:
                return
            del self._pins[object_id]
            doomed = self._doomed.pop(object_id, None)
        if doomed is not None:
            self._delete_parts(object_id, doomed)
        self.backend.release(object_id)

    # Reading

    def lookup(self, key: bytes) -> Found | None:
        """Find what `key` has."""
        large = self.backend.find_large(key, self.chunk_bytes)
        if large is not None:
            return self._found_large(large)
        return self._lookup_stored(key, self.backend.get_head(key))

    def _lookup_stored(self, key: bytes, stored: Stored | None) -> Found | None:
        if stored is None:
            return None if self._is_atomic else self._any_write(key)
        return self._found(key, stored)

    def lookup_write(self, key: bytes, tag: bytes) -> Found | None:
        """Find exactly the write of a tag, or what it published."""
        write_id = int.from_bytes(tag, "big") if len(tag) == 8 else 0
        with self._lock:
            stream = self._writes.get(key, {}).get(write_id)
            if stream is not None:
                return self._attach_locked(key, stream)
            version = self._published.get((key, write_id))
        large = self.backend.find_large(key, self.chunk_bytes)
        if large is not None and large.version == version:
            return self._found_large(large)
        if large is not None:
            self.backend.release(large.object_id)
        stored = None if large is not None else self.backend.get_head(key)
        if stored is not None:
            if engine_flags_of(stored.meta) & ENGINE_OBJECT:
                head = decode_head(stored.value)
                matches = head is not None and head.generation == write_id
            else:
                known = (version_of(stored.value), self.backend.entry_version(stored))
                matches = version is not None and version in known
            if matches:
                return self._found(key, stored)
        remote = self._remote_write(key, write_id)
        if remote is not None:
            return remote
        self.counters.add("stream_attach_misses")
        return None

    def _any_write(self, key: bytes) -> Found | None:
        with self._lock:
            ours = self._writes.get(key)
            if ours:
                return self._attach_locked(key, next(reversed(ours.values())))
        return self._remote_write(key, 0)

    def _remote_write(self, key: bytes, write_id: int) -> Found | None:
        """Attach to a write of another process; 0: the newest of the key."""
        view = None if self._leases is None else self._leases.find_stream(key, write_id)
        if self._leases is None or view is None:
            return None
        self.counters.add("stream_attaches")
        self._leases.count_attach()
        write = RemoteWrite(self.backend, self._leases, view)
        chunks = self._chunks(
            write.object_id,
            write.grid,
            HashTable(self.backend, write.object_id),
            lambda: write.is_open or self._is_current(key, write.object_id),
        )
        meta = Meta.decode(view.meta) if view.meta else None
        return meta, write.write_id, RemoteSource(chunks, write)

    def _attach_locked(self, key: bytes, stream: StreamWrite) -> Found:
        self.counters.add("stream_attaches")
        chunks = self._chunks(
            stream.object_id,
            stream.grid,
            stream.table,
            lambda: stream.is_open or self._is_current(key, stream.object_id),
        )
        return stream.meta, stream.write_id, StreamSource(chunks, stream)

    def _found(self, key: bytes, stored: Stored) -> Found | None:
        name = "memory" if stored.version else "disk"
        meta = Meta.decode(stored.meta) if stored.meta else None
        if not engine_flags_of(stored.meta) & ENGINE_OBJECT:
            version = functools.partial(self.backend.entry_version, stored)
            return meta, version, ValueSource(stored.value, name)
        decoded = self._decoded(key, stored)
        if decoded is None:
            self.counters.add("holes")
            return None
        return meta, decoded[0].generation, self._object_source(key, decoded, name)

    def _found_large(self, large: Large) -> Found:
        self.counters.add("large_hits")
        chunks = self._chunks(
            large.object_id,
            even(large.chunk_bytes),
            HashTable(self.backend, large.object_id),
            lambda: bool(self.backend.is_current(large.object_id)),
        )
        meta = Meta.decode(large.meta) if large.meta else None
        return meta, large.version, ObjectSource(chunks, large.size, "disk")

    def _object_source(
        self, key: bytes, decoded: tuple[Head, HashTable], name: str
    ) -> ObjectSource:
        head, table = decoded
        if head.chunk_count and self.backend.is_cold(head.object_id, 0):
            name = "disk"
        chunks = self._chunks(
            head.object_id,
            head.grid,
            table,
            lambda: self._is_current(key, head.object_id),
        )
        return ObjectSource(chunks, head.size, name)

    def _chunks(
        self, object_id: bytes, grid: Grid, table: HashTable, is_current: Callable[[], bool]
    ) -> Chunks:
        self._pin(object_id)
        return Chunks(
            self.backend,
            self.counters,
            object_id,
            grid,
            table,
            is_current,
            lambda: self._unpin(object_id),
        )

    def _is_current(self, key: bytes, object_id: bytes) -> bool:
        known = self.backend.is_current(object_id)
        if known is not None:
            return known
        stored = self.backend.get_head(key)
        if stored is None or not engine_flags_of(stored.meta) & ENGINE_OBJECT:
            return False
        head = decode_head(stored.value)
        return head is not None and head.object_id == object_id

    def load(self, key: bytes, stored: Stored) -> bytes | None:
        """Return all bytes of the object of a head; None when any of them is gone."""
        decoded = self._decoded(key, stored)
        if decoded is None:
            self.counters.add("holes")
            return None
        head = decoded[0]
        source = self._object_source(key, decoded, "memory")
        try:
            pieces: list[bytes] = []
            numbers = range(head.chunk_count)
            for start in range(0, head.chunk_count, GATHER_CHUNKS):
                batch = list(numbers[start : start + GATHER_CHUNKS])
                parts = source.gather(batch)
                if parts is None:
                    return None
                pieces += parts
            value = b"".join(pieces)
            return value if len(value) == head.size else None
        finally:
            source.close()

    # Changing what is published

    def purge(self, key: bytes, kind: PurgeType) -> bool:
        """Delete a published object and an unfinished one; whether there was any."""
        existed = self.backend.delete_head(key)
        was_unfinished = self.sparse.discard(key)
        if kind is PurgeType.EVICTION and (existed or was_unfinished):
            self.counters.add("purged_evictions")
            self.counters.add("engine_evictions", int(existed))
        return existed or was_unfinished

    def drop_stale(self, key: bytes) -> None:
        """Delete what the key has, for a put that was shed: the old value must not stay."""
        self.backend.delete_entry(key)

    def update_meta(self, key: bytes, meta: Meta) -> bool:
        """Replace the meta; False when there is nothing, or it was shed."""
        plain, is_tagged = meta.encode(), bool(meta.tags)
        done = self.backend.relabel(key, lambda _, expiry_us: (plain, expiry_us, is_tagged))
        if done is not None:
            return done
        for _ in range(REPLACE_TRIES):
            stored = self.backend.get_head(key)
            if stored is None:
                return False
            encoded = meta.encode_as(engine_flags_of(stored.meta))
            replaced = self.backend.replace_head(key, stored, encoded)
            if replaced is not None:
                return replaced
        return False

    def create_sparse(self, key: bytes, size: int, meta: Meta, ttl: float | None) -> None:
        """Start an unfinished object."""
        meta.encode()
        if self.object_bytes_max is not None and size > self.object_bytes_max:
            raise ValueTooLargeError(
                "the object is larger than `max_object_size`",
                expected=self.object_bytes_max,
                found=size,
            )
        self.sparse.create(key, size, self.grid, meta, ttl)

    def finalize(self, key: bytes, ttl: float | None) -> int:
        """Publish the unfinished object of a key; its size."""
        found = self.sparse.require(key)
        if ttl is None and found.head.lifetime_us:
            ttl = found.head.lifetime_us / 1e6
        size = found.finish(
            self.next_generation(), lambda head: self.publish_head(key, head, found.meta, ttl)
        )
        self.sparse.forget(key, found)
        return size

    # Ranges

    def read_range(self, key: bytes, offset: int, length: int) -> bytes | None:
        """Return a range of the published object, else of the unfinished one."""
        if not self.backend.has_head(key):
            unfinished = self.sparse.find(key)
            if unfinished is not None:
                return unfinished.read(offset, length)
        if length <= GATHER_CHUNKS * self.chunk_bytes:
            part = self.backend.read_large(key, self.chunk_bytes, offset, length)
            if part is not None:
                self.counters.add("large_hits")
                return part
        large = self.backend.find_large(key, self.chunk_bytes)
        stored = self.backend.get_head(key) if large is None else None
        if stored is not None and engine_flags_of(stored.meta) & ENGINE_OBJECT:
            decoded = self._decoded(key, stored)
            if decoded is not None and length <= GATHER_CHUNKS * decoded[0].chunk_bytes:
                return self._read_span(key, decoded, offset, length)
        entry = self._lookup_stored(key, stored) if large is None else self._found_large(large)
        found = self.hit(key, entry)
        if found is None:
            return None
        with found:
            limit = found.weight
            start, end = min(offset, limit), min(offset + length, limit)
            found.seek(start, end)
            pieces = []
            while start < end:
                pieces.append(found.read(end - start))
                if not pieces[-1]:
                    break
                start += len(pieces[-1])
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _decoded(self, key: bytes, stored: Stored) -> tuple[Head, HashTable] | None:
        """The head of a complete object and its table, decoded once for many ranges."""
        known = self._heads.get(key)
        if known is not None and known[0] == stored.value:
            return known[1]
        head = decode_head(stored.value)
        if head is None or head.state != STATE_COMPLETE:
            return None
        decoded = head, HashTable(self.backend, head.object_id, head)
        if len(stored.value) <= HEAD_BYTES_HELD:
            with self._lock:
                self._heads[key] = stored.value, decoded
                while len(self._heads) > HEADS_HELD:
                    self._heads.popitem(last=False)
        return decoded

    def _read_span(
        self, key: bytes, decoded: tuple[Head, HashTable], offset: int, length: int
    ) -> bytes:
        """A short range of an object, without a reader of its own."""
        head, table = decoded
        start, end = min(offset, head.size), min(offset + length, head.size)
        chunks = self._chunks(
            head.object_id,
            head.grid,
            table,
            lambda: self._is_current(key, head.object_id),
        )
        try:
            return chunks.ranges([(start, end)], head.size)[0]
        finally:
            chunks.close()

    def availability(self, key: bytes) -> Availability | None:
        """Say what is there of the unfinished object, else of the published one."""
        unfinished = self.sparse.find(key)
        if unfinished is not None:
            return unfinished.availability()
        if not self.backend.has_head(key):
            return None
        found = self.hit(key, self.lookup(key))
        if found is None or found.size is None:
            return None
        with found:
            size = found.weight
            holes = found.missing(0, size)
            there = RangeSet([(0, size)])
            for hole in holes:
                there.remove(*hole)
            return Availability(size, tuple(there), holes, True)

    def sweep(self, find_keys: Callable[[bytes, int], Iterable[bytes]]) -> int:
        """Delete shared chunks that no object refers to; how many.

        Args:
            find_keys: The keys of all entries with a prefix and an engine flag.
        """
        if not self.sharing.needs_sweep:
            return 0

        def find_chunks() -> list[bytes]:
            start = len(SHARED_PREFIX)
            found = find_keys(SHARED_PREFIX, ENGINE_PART)
            return [key[start : start + HASH_BYTES] for key in found]

        def find_heads() -> Iterator[Head]:
            for key in find_keys(b"", ENGINE_OBJECT):
                stored = self.backend.get_head(key)
                if stored is not None and engine_flags_of(stored.meta) & ENGINE_OBJECT:
                    head = decode_head(stored.value)
                    if head is not None and head.shared_count:
                        yield head

        return self.sharing.sweep(find_chunks, find_heads, self._hashes_of)

    def forget_all(self) -> None:
        """Everything is about to be deleted."""
        self.abort_all()
        self.sparse.discard_all()

    def stats(self) -> dict[str, int]:
        """Return the counters and gauges by name."""
        found = {name: getattr(self.counters, name) for name in COUNTED}
        found["partial_writes"] = self._write_count
        found["sparse"] = len(self.sparse)
        found["sparse_bytes"] = self.budget.present_bytes
        found["memory_bytes"] = self.budget.memory_used
        return found | self.sharing.stats()

    def close(self) -> None:
        """Save what is unfinished and sparse, abort the streams. For the end of the store."""
        self.abort_all()
        self.sparse.close()
        self.sharing.save()

    def hit(self, key: bytes, found: Found | None) -> Hit | None:
        """Return the synchronous hit of what was found."""
        return None if found is None else Hit(key, *found)
