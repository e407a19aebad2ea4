"""The unfinished sparse objects of a store: by key, found after a restart, expired in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from edgecache.errors import (
    KeySizeError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectShedError,
    RangeError,
)
from edgecache.meta import ENGINE_OBJECT, ENGINE_PART, FRESH_FOREVER, Meta, engine_flags_of
from edgecache.objects.backend import Backend
from edgecache.objects.budget import Budget
from edgecache.objects.grid import Grid
from edgecache.objects.head import SIZE_MAX, STATE_SPARSE, Head, decode_head
from edgecache.objects.keys import (
    SPARSE_KEY_BYTES_MAX,
    SPARSE_MARK_KEY,
    SPARSE_PREFIX,
    new_object_id,
    sparse_key,
)
from edgecache.objects.registry import Registry
from edgecache.objects.sparse import SparseObject, new_head

CHUNK_BYTES_MIN = 16384
MARK_META = Meta(created=0, updated=0, fresh_until=FRESH_FOREVER).encode_as(ENGINE_PART)


class SparseSet:
    """See the module. *Thread-safety*: every method, any thread."""

    def __init__(
        self,
        backend: Backend,
        budget: Budget,
        next_generation: Callable[[], int],
        ttl_s: float,
    ) -> None:
        self._backend = backend
        self._budget = budget
        self._next_generation = next_generation
        self._ttl_s = ttl_s
        self._lock = threading.RLock()
        self._objects: dict[bytes, SparseObject] = {}
        self._registry = Registry(backend)
        # Bytes of objects that are on disk only, which the quota counts: by key, once read.
        self._unloaded: dict[bytes, int] | None = None

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def may_hold_some(self) -> bool:
        """Whether there ever were any in this store: purges by prefix then look for them, too."""
        return bool(self._objects) or self._backend.has_head(SPARSE_MARK_KEY)

    def create(
        self, key: bytes, size: int, grid: Grid, meta: Meta, ttl: float | None
    ) -> SparseObject:
        """Start an unfinished object, durable with the next `sync`."""
        if not 0 <= size <= SIZE_MAX:
            raise RangeError("the size is out of range", expected=(0, SIZE_MAX), found=size)
        if len(key) > SPARSE_KEY_BYTES_MAX:
            raise KeySizeError(
                f"the key has {len(key)} bytes",
                hint=f"keys of sparse objects have at most {SPARSE_KEY_BYTES_MAX}",
            )
        while grid.chunk_bytes > CHUNK_BYTES_MIN and (
            grid.chunk_bytes * 2 > self._budget.memory_limit
        ):
            grid = grid.halved()
        with self._lock:
            self._drop_expired()
            if self.find(key) is not None:
                raise ObjectExistsError("the key has an unfinished object")
            if not self._registry.add(key):
                raise ObjectShedError("the store did not accept the key of the object")
            head = new_head(size, grid, new_object_id(), self._next_generation())
            head.lifetime_us = 0 if ttl is None else max(1, int(ttl * 1e6))
            made = SparseObject(self._backend, self._budget, key, head, meta, self._ttl_s)
            if not self._backend.has_head(SPARSE_MARK_KEY):
                self._backend.put_entry(SPARSE_MARK_KEY, b"", MARK_META, None)
            if not made.save():
                made.discard()
                self._registry.remove(key)
                raise ObjectShedError("the store did not accept the head of the object")
            self._objects[key] = made
            return made

    def find(self, key: bytes) -> SparseObject | None:
        """Return the unfinished object of a key, also one of before a restart."""
        with self._lock:
            found = self._objects.get(key)
            if found is not None:
                if not found.is_expired:
                    return found
                del self._objects[key]
                found.discard()
                self._registry.remove(key)
                return None
            found = self._load(key)
            if found is not None:
                self._objects[key] = found
            return found

    def count_all(self) -> None:
        """Have the quota count what earlier lives of the store left unfinished.

        *Cost*: once, one read for each of them; nothing where there never were any.
        """
        with self._lock:
            if self._unloaded is not None:
                return
            self._unloaded = {}
            if not self.may_hold_some:
                return
            for key in self._registry:
                head = None if key in self._objects else self._stored_head(key)
                if head is not None:
                    count = sum(end - start for start, end in head[0].runs)
                    self._unloaded[key] = count
                    self._budget.take_present(count, is_forced=True)

    def _load(self, key: bytes) -> SparseObject | None:
        if self._budget.has_quota:
            self.count_all()
        found = self._stored_head(key)
        if self._unloaded:
            # From here on the object itself says what it has.
            self._budget.take_present(-self._unloaded.pop(key, 0))
        if found is None:
            return None
        head, meta = found
        return SparseObject(self._backend, self._budget, key, head, meta, self._ttl_s)

    def _stored_head(self, key: bytes) -> tuple[Head, Meta] | None:
        name = sparse_key(key)
        if len(key) > SPARSE_KEY_BYTES_MAX or not self._backend.has_head(name):
            return None
        stored = self._backend.get_head(name)
        if stored is None or not engine_flags_of(stored.meta) & ENGINE_OBJECT:
            return None
        head = decode_head(stored.value)
        if head is None or head.state != STATE_SPARSE:
            self._budget.counters.add("holes")
            return None
        return head, Meta.decode(stored.meta)

    def require(self, key: bytes) -> SparseObject:
        """As `find`, but it must exist."""
        found = self.find(key)
        if found is None:
            raise ObjectNotFoundError("the key has no unfinished object")
        return found

    def forget(self, key: bytes, which: SparseObject) -> None:
        """Take a finalized one out."""
        with self._lock:
            if self._objects.get(key) is which:
                del self._objects[key]
                self._registry.remove(key)

    def discard(self, key: bytes) -> bool:
        """Delete the unfinished object of a key; whether there was one."""
        with self._lock:
            found = self.find(key)
            if found is None:
                return False
            del self._objects[key]
            self._registry.remove(key)
        found.discard()
        return True

    def discard_entries(self, keys: Iterable[bytes]) -> int:
        """As `discard`, of keys of sparse heads."""
        return sum([self.discard(key[len(SPARSE_PREFIX) :]) for key in keys])

    def discard_all(self) -> None:
        """Delete all that are known in memory; the store is cleared."""
        with self._lock:
            gone = list(self._objects.values())
            self._objects.clear()
            self._registry.forget_all()
            for count in (self._unloaded or {}).values():
                self._budget.take_present(-count)
            self._unloaded = {}
        for one in gone:
            one.discard()

    def _drop_expired(self) -> None:
        for key in [key for key, one in self._objects.items() if one.is_expired]:
            self._objects.pop(key).discard()
            self._registry.remove(key)

    def save(self) -> bool:
        """Store what is in memory only; False when something was shed."""
        with self._lock:
            objects = list(self._objects.values())
        return not [one for one in objects if not one.save()]

    def close(self) -> None:
        """Save all and let go of their memory."""
        self.save()
        with self._lock:
            for one in self._objects.values():
                one.let_go()
            self._objects.clear()
