"""Copying and comparing one entry of a migration: plain ones, large objects, unfinished ones.

A large object is never in memory as a whole. Parts and heads are made anew by the target, which may
cut objects otherwise; what counts is meta, expiry and the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from edgecache.errors import EdgeCacheError, ObjectChangedError, RangeMissingError
from edgecache.meta import ENGINE_OBJECT, Meta, engine_flags_of
from edgecache.objects.backend import At

if TYPE_CHECKING:
    from edgecache.objects import Hit
    from edgecache.objects.sparse import SparseObject
    from edgecache.storage import Storage

EXIT_OK = 0
EXIT_INCOMPLETE = 1
EXIT_INTERRUPTED = 130
FAILURES_KEPT = 20
PIECE_BYTES = 4 << 20

ABSENT = "not in the target: too large, shed, or evicted again"
OTHER = "the target has other bytes"


class Entry(NamedTuple):
    """What a store has under a key.

    Args:
        value: None where it is too large for memory: then it is streamed.
    """

    value: bytes | None
    meta: bytes
    expiry_us: int


def find_entry(store: Storage, key: bytes) -> Entry | None:
    """Return a live entry, fresh or stale."""
    backend = store._objects.backend
    large = backend.find_large(key, PIECE_BYTES)
    if large is not None:
        backend.release(large.object_id)
        return Entry(None, large.meta, large.expiry_us)
    found = store.read_entry(key)
    if found is None:
        return None
    is_object = engine_flags_of(found[1]) & ENGINE_OBJECT
    return Entry(None if is_object else found[0], found[1], found[2])


@dataclass(slots=True)
class MigrateReport:
    """What a migration did.

    Args:
        entries: Live entries of the source.
        copied: Written to the target.
        present: In the target already, and equal.
        gone: Expired, or found damaged, while the source was read.
        verified: Read back from the target and equal byte for byte.
        failed: Not in the target, or not equal: shed, too large, or evicted there again.
        copied_bytes: Of values.
        failures: The first keys of those, and why.
        is_interrupted: It was stopped before its end.
    """

    entries: int = 0
    copied: int = 0
    present: int = 0
    gone: int = 0
    verified: int = 0
    failed: int = 0
    copied_bytes: int = 0
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    is_interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0: all there and verified; 1: not all of it; 130: interrupted."""
        if self.is_interrupted:
            return EXIT_INTERRUPTED
        return EXIT_INCOMPLETE if self.failed else EXIT_OK

    def note_failure(self, key: bytes, why: str) -> None:
        """Count an entry that is not in the target as it is in the source."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((key, why))


def copy_entry(left: Storage, right: Storage, key: bytes, report: MigrateReport) -> None:
    """Put an entry into the target, unless that has an equal one."""
    entry = find_entry(left, key)
    if entry is None:
        report.gone += 1
        return
    if _difference(left, right, key, entry) == "":
        report.present += 1
        return
    # What fails here is found and counted when the target is verified.
    try:
        size = _put(left, right, key, entry)
    except (RangeMissingError, ObjectChangedError):
        report.gone += 1
        return
    except EdgeCacheError:
        return
    if size is not None:
        report.copied += 1
        report.copied_bytes += size


def differs(left: Storage, right: Storage, key: bytes) -> str | None:
    """Say how the target's entry differs: "" not at all; None: the source has none any more."""
    entry = find_entry(left, key)
    return None if entry is None else _difference(left, right, key, entry)


def _difference(left: Storage, right: Storage, key: bytes, entry: Entry) -> str | None:
    there = find_entry(right, key)
    if there is None:
        return ABSENT if entry.value is not None or _is_whole(left, key) else None
    if entry.value is not None and there.value is not None:
        return "" if there == entry else OTHER
    # A meta that only the target has came with being cut into parts.
    if there.expiry_us != entry.expiry_us or (
        entry.meta and (not there.meta or Meta.decode(entry.meta) != Meta.decode(there.meta))
    ):
        return OTHER
    return _compare(left.lookup(key), right.lookup(key))


def _is_whole(store: Storage, key: bytes) -> bool:
    """Whether every part of an object is there, as far as memory knows."""
    hit = store.lookup(key)
    if hit is None:
        return False
    with hit:
        return not hit.missing(0, hit.size or 0)


def _compare(source: Hit | None, target: Hit | None) -> str | None:
    if source is None:
        return None
    with source:
        if target is None:
            return ABSENT
        with target:
            if source.size != target.size:
                return OTHER
            mine, other = bytearray(PIECE_BYTES), bytearray(PIECE_BYTES)
            while True:
                try:
                    count = source.readinto(mine)
                except EdgeCacheError:
                    return None  # a hole in the source: there is no whole object to be copied
                try:
                    found = target.readinto(other)
                except EdgeCacheError:
                    return ABSENT
                if found != count or mine[:count] != other[:count]:
                    return OTHER
                if count == 0:
                    return ""


def _put(left: Storage, right: Storage, key: bytes, entry: Entry) -> int | None:
    """Put an entry; how many bytes, None: it was shed."""
    value, meta, expiry_us = entry
    limit = right.config.max_object_size
    if value is not None and len(value) <= right.value_bytes_max:
        if limit is not None and len(value) > limit:
            return None
        return len(value) if right.put_encoded(key, value, meta, expiry_us) else None
    decoded = Meta.decode(meta) if meta else None
    with right._objects.open_write(key, decoded, At(expiry_us), (), None, is_admitted=True) as miss:
        if value is not None:
            miss.write(value)
            return miss.finish()
        hit = left.lookup(key)
        if hit is None:
            return None
        with hit:
            for piece in hit:
                miss.write(piece)
        return miss.finish()


# Unfinished objects


def _unfinished(store: Storage, key: bytes) -> SparseObject | None:
    return store._objects.sparse.find(key)


def copy_sparse(left: Storage, right: Storage, key: bytes, report: MigrateReport) -> None:
    """Have the target go on with an unfinished object where the source stands."""
    source = _unfinished(left, key)
    if source is None:
        report.gone += 1
        return
    if differs_sparse(left, right, key) == "":
        report.present += 1
        return
    try:
        target = _unfinished(right, key)
        if target is not None and (target.meta, target.head.size) != (
            source.meta,
            source.head.size,
        ):
            right._objects.sparse.discard(key)
            target = None
        if target is None:
            lifetime_us = source.head.lifetime_us
            ttl = lifetime_us / 1e6 if lifetime_us else None
            right.create_sparse(key, source.head.size, meta=source.meta, ttl=ttl)
        copied = 0
        for start, end in source.availability().ranges:
            for offset in range(start, end, PIECE_BYTES):
                piece = source.read(offset, min(PIECE_BYTES, end - offset))
                if not right.write_range(key, offset, piece):
                    return
                copied += len(piece)
    except EdgeCacheError:
        return
    report.copied += 1
    report.copied_bytes += copied


def differs_sparse(left: Storage, right: Storage, key: bytes) -> str | None:
    """As `differs`, of what is there of an unfinished object."""
    source, target = _unfinished(left, key), _unfinished(right, key)
    if source is None:
        return None
    if target is None:
        return ABSENT
    ranges = source.availability().ranges
    if (target.meta, target.head.size) != (source.meta, source.head.size):
        return OTHER
    for start, end in ranges:
        for offset in range(start, end, PIECE_BYTES):
            length = min(PIECE_BYTES, end - offset)
            try:
                mine = source.read(offset, length)
            except EdgeCacheError:
                return None
            try:
                if target.read(offset, length) != mine:
                    return OTHER
            except EdgeCacheError:
                return ABSENT
    return ""
