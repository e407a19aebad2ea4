"""The methods of a store that purge by prefix or tag, clear it, and scrub it.

Keys are gathered first (`walks.py`) and purged afterwards, one native delete each.
"""

from __future__ import annotations

import time
from typing import Protocol

from edgecache.entry import ScrubReport
from edgecache.errors import ArgumentError, KeyTypeError
from edgecache.meta import Meta, engine_flags_of
from edgecache.objects import ObjectManager
from edgecache.objects.keys import SPARSE_PREFIX
from edgecache.walks import Progress, Walkable, find_keys, scrub_regions

Key = bytes | str
# Of an entry that others keep changing, or reclaim keeps moving, while it is read.
REPLACE_TRIES = 100


class Host(Walkable, Protocol):
    """What the methods need of the store."""

    _objects: ObjectManager
    _soft_purge_count: int

    def delete(self, key: Key) -> bool: ...
    def read_entry(self, key: Key) -> tuple[bytes, bytes, int, int, int] | None: ...
    def replace(
        self,
        key: Key,
        value: bytes,
        meta: bytes,
        expiry_us: int,
        version: int,
        location: int,
    ) -> bool | None: ...
    def clear_all(self) -> None: ...
    def _make_stale(self, key: Key, tag: str | None) -> bool: ...


class Purges:
    """Purges and walks. *Thread-safety*: every method, any thread."""

    __slots__ = ()

    def delete_prefix(self: Host, prefix: Key, *, progress: Progress | None = None) -> int:
        """Delete every entry whose key starts with `prefix`; how many there were.

        Exact for all entries put before the call; unfinished sparse objects count. Durable after
        `sync()`, as every delete.

        Args:
            prefix: bytes or str (UTF-8), not empty: `clear` deletes everything.
            progress: Called with (done, total) while the store is walked.

        *Cost*: reads the whole disk tier once, without the GIL (twice in a store that has had
        sparse objects); memory for the keys found.
        """
        wanted = _text(prefix, "prefix")
        found = find_keys(self, wanted, None, progress)
        count = sum(map(self.delete, [key for key in found if not key.startswith(SPARSE_PREFIX)]))
        sparse = self._objects.sparse
        if sparse.may_hold_some:
            count += sparse.discard_entries(find_keys(self, SPARSE_PREFIX + wanted, None, progress))
        return count

    def purge_tag(
        self: Host, tag: str, soft: bool = False, *, progress: Progress | None = None
    ) -> int:
        """Delete every entry that has `tag`, or make it stale; how many there were.

        Exact for all entries put before the call; unfinished sparse objects count, and a soft purge
        leaves them alone.

        Args:
            tag: One of the tags given to `put`.
            soft: Make fresh entries stale instead: `get` then misses, `get_entry` still finds them
                for revalidation. Their `ttl` stays.
            progress: Called with (done, total) while the store is walked.

        *Cost*: reads the tagged blocks of the disk tier, without the GIL; memory for the keys.
        """
        if not isinstance(tag, str):
            raise TypeError(f"the tag is {type(tag).__name__}, not str")
        found = find_keys(self, None, _text(tag, "tag"), progress)
        unfinished = {key for key in found if key.startswith(SPARSE_PREFIX)}
        if not soft:
            count = sum(map(self.delete, found - unfinished))
            return count + self._objects.sparse.discard_entries(unfinished)
        return sum([self._make_stale(key, tag) for key in found - unfinished])

    def expire(self: Host, key: Key) -> bool:
        """Make a fresh entry stale; False: there is none, or it is stale already.

        `get` then misses, `get_entry` still finds it for revalidation; its `ttl` stays. An entry
        without meta gets one.

        *Cost*: as `get_entry` and a put of the record.
        """
        return self._make_stale(key, None)

    def _make_stale(self: Host, key: Key, tag: str | None) -> bool:
        for _ in range(REPLACE_TRIES):
            found = self.read_entry(key)
            if found is None or (tag is not None and not found[1]):
                return False
            value, encoded, expiry_us, version, location = found
            now_us = time.time_ns() // 1000
            meta = Meta.decode(encoded) if encoded else Meta(created=now_us, updated=now_us)
            if (tag is not None and tag not in meta.tags) or not meta.is_fresh(now_us):
                return False  # replaced by one without the tag, or stale already
            stale = meta.with_fresh_until(now_us).encode_as(engine_flags_of(encoded))
            replaced = self.replace(key, value, stale, expiry_us, version, location)
            if replaced is not None:
                if not replaced:
                    self.delete(key)  # shed: it must not stay fresh
                self._soft_purge_count += 1
                return True
        return False

    def count_entries(self: Host, *, progress: Progress | None = None) -> int:
        """Return how many entries there are; unfinished sparse objects do not count.

        *Cost*: reads the whole disk tier once, without the GIL; memory for all keys.
        """
        found = find_keys(self, b"", None, progress)
        return sum(not key.startswith(SPARSE_PREFIX) for key in found)

    def clear(self: Host) -> None:
        """Delete everything, durably when it returns; writes in progress are aborted.

        *Cost*: a page per region, two checkpoints.
        """
        self._objects.forget_all()
        self.clear_all()
        self._objects.sharing.cleared()

    def scrub(self: Host, *, progress: Progress | None = None) -> ScrubReport:
        """Verify every checksum on disk and drop what fails.

        With `share_chunks` also look for shared chunks that no object has any more, and delete
        them: a crash may have left some.

        *Cost*: reads the whole disk tier once, without the GIL; three times with `share_chunks`.
        """
        report = scrub_regions(self, progress)
        self._objects.sweep(lambda prefix, flag: find_keys(self, prefix, None, None, flag))
        return report


def _text(value: Key, what: str) -> bytes:
    if not isinstance(value, (str, bytes)):
        raise KeyTypeError(f"the {what} is {type(value).__name__}", hint="use bytes or str")
    if not value:
        raise ArgumentError(f"the {what} is empty", hint="use clear() to delete everything")
    return value.encode() if isinstance(value, str) else value
