"""The one place where this door touches a store.

`EntryStore` works on whole values. `ObjectStore` adds what a store with the object methods
(`lookup`, `get_miss_handler`, ...) can do: content of any size, read and written as a stream.
`adapt` chooses by what the store has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from edgecache.errors import ValueTooLargeError
from edgecache.http.cache_api.stored import Facts, facts_of
from edgecache.http.failures import RequestError
from edgecache.meta import Meta

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage

__all__ = ["EntryStore", "Found", "ObjectStore", "Upload", "adapt"]

PIECE_BYTES = 262144
UNBOUNDED = 2**63
SOURCES = {"memory": "memory", "disk": "disk", "stream": "memory"}


class Found:
    """An entry that was found: its facts, and its bytes or the way to them.

    Args:
        value: All bytes, or None when `hit` has them.
        version: Token of this very version, for a conditional change; None where there is none.
    """

    __slots__ = ("facts", "hit", "size", "source", "value", "version")

    def __init__(
        self,
        facts: Facts,
        size: int | None,
        source: str,
        value: bytes | None = None,
        hit: Any = None,
        version: object = None,
    ) -> None:
        self.facts = facts
        self.size = size
        self.source = source
        self.value = value
        self.hit = hit
        self.version = version

    async def parts(self, ranges: list[tuple[int, int]] | None) -> AsyncIterator[bytes]:
        """Give the bytes of the ranges one after the other; None: all of them."""
        if self.hit is None:
            value = self.value or b""
            for start, end in [(0, len(value))] if ranges is None else ranges:
                for at in range(start, end, PIECE_BYTES):
                    yield value[at : min(at + PIECE_BYTES, end)]
            return
        for part in [None] if ranges is None else ranges:
            if part is not None:
                await self.hit.seek(*part)
            while piece := await self.hit.read(PIECE_BYTES):
                yield piece

    def release(self) -> None:
        """Let go of the entry."""
        hit, self.hit = self.hit, None
        if hit is not None:
            hit.close()


class Upload(Protocol):
    """Content that is being written; it is published by `finish` or not at all."""

    async def write(self, piece: bytes) -> None: ...
    async def finish(self) -> bool: ...
    async def abort(self) -> None: ...


class EntryStore:
    """Whole values: what every store can do.

    *Thread-safety*: as `AsyncStorage`.
    """

    # Whether there can be objects that are not complete.
    has_partials = False

    def __init__(self, store: AsyncStorage) -> None:
        self.store = store
        # Whether a key that the engine does not know cannot be an object either.
        self.is_certain = True
        self.core = store.storage
        # Bound once, because it is called for every hit: value (a large one as a view), meta bytes,
        # and the rest of what names this version. NotImplemented: RAM alone cannot tell, or it is
        # the head of an object.
        self.peek_entry = self.core.peek_entry
        self.try_put = self.core.try_put
        limit: int | None = self.core.config.max_object_size
        self.upload_bytes_max = UNBOUNDED if limit is None else limit

    async def find(self, key: bytes) -> Found | None:
        """Return the entry, fresh or stale."""
        source = "disk" if self.core.needs_disk(key) else "memory"
        entry = await self.store.get_entry(key)
        if entry is None:
            return None
        return Found(facts_of(entry.meta), len(entry.value), source, entry.value)

    def find_now(self, key: bytes) -> tuple[bool, Found | None]:
        """Return whether RAM can tell about a key, and then the entry."""
        found = self.peek_entry(key)
        if found is None:
            return self.is_certain, None
        if found is NotImplemented:
            return False, None
        value, encoded = bytes(found[0]), found[1]
        facts = facts_of(Meta.decode(encoded) if encoded else None)
        return True, Found(facts, len(value), "memory", value, version=found[2:])

    async def partial(self, key: bytes) -> Any:
        """Return the availability of an object that is not complete; None: there is none."""
        return None

    async def partial_pieces(self, key: bytes, start: int, end: int) -> AsyncIterator[bytes]:
        """Give a range of an object that is not complete."""
        for _ in ():  # `partial` finds none
            yield b""

    async def begin(self, key: bytes, meta: Meta, ttl: float | None, size: int | None) -> Upload:
        """Begin to write content of a size that may not be known."""
        if size is not None and size > self.upload_bytes_max:
            raise too_large()
        return _Gathering(self, key, meta, ttl)

    async def put(self, key: bytes, value: bytes, ttl: float | None, meta: Meta) -> bool:
        """Store a value; False: shed."""
        try:
            return await self.store.put(key, value, ttl=ttl, meta=meta)
        except ValueTooLargeError as error:
            raise too_large() from error

    async def delete(self, key: bytes) -> bool:
        """Remove an entry; whether there was one."""
        return await self.store.delete(key)


class _Gathering:
    """An upload that is gathered in memory, bounded by the largest object of the store."""

    def __init__(self, entries: EntryStore, key: bytes, meta: Meta, ttl: float | None) -> None:
        self._entries = entries
        self._key = key
        self._meta = meta
        self._ttl = ttl
        self._pieces: list[bytes] = []
        self._size = 0

    async def write(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._entries.upload_bytes_max:
            self._pieces.clear()
            raise too_large()
        self._pieces.append(piece)

    async def finish(self) -> bool:
        value = b"".join(self._pieces)
        self._pieces.clear()
        return await self._entries.put(self._key, value, self._ttl, self._meta)

    async def abort(self) -> None:
        self._pieces.clear()


class ObjectStore(EntryStore):
    """Objects of any size, through the object methods of the store."""

    has_partials = True

    def __init__(self, store: AsyncStorage) -> None:
        super().__init__(store)
        # Else `lookup` also shows writes that the engine knows nothing of yet.
        self.is_certain = store.config.atomic_publish
        self.objects: Any = store

    async def find(self, key: bytes) -> Found | None:
        hit = await self.objects.lookup(key)
        if hit is None:
            return None
        source = SOURCES.get(hit.source, "memory")
        return Found(facts_of(hit.meta), hit.size, source, None, hit, hit.version)

    async def partial(self, key: bytes) -> Any:
        return await self.objects.availability(key)

    async def partial_pieces(self, key: bytes, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            piece = await self.objects.read_range(key, start, min(PIECE_BYTES, end - start))
            if not piece:
                return  # it is gone: the answer is cut off
            start += len(piece)
            yield piece

    async def begin(self, key: bytes, meta: Meta, ttl: float | None, size: int | None) -> Upload:
        miss = await self.objects.get_miss_handler(key, meta, ttl=ttl, size=size)
        return _Streaming(miss)


class _Streaming:
    """An upload into a miss handler of the store."""

    def __init__(self, miss: Any) -> None:
        self._miss = miss

    async def write(self, piece: bytes) -> None:
        await self._miss.write(piece)

    async def finish(self) -> bool:
        await self._miss.finish()
        return True

    async def abort(self) -> None:
        await self._miss.abort()


def adapt(store: AsyncStorage) -> EntryStore:
    """Return the adapter that fits what the store can do."""
    return ObjectStore(store) if hasattr(store, "get_miss_handler") else EntryStore(store)


def too_large() -> RequestError:
    """Make the error for content that the store would never take."""
    return RequestError(
        "the content is larger than the store takes", status=413, reason="too_large"
    )
