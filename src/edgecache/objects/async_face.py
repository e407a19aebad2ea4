"""The methods of `AsyncStorage` that concern objects of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgecache.entry import Availability, PurgeType
from edgecache.meta import Meta
from edgecache.objects.async_hit import AsyncHit, AsyncMiss
from edgecache.objects.face import Key, ObjectFace, key_bytes
from edgecache.objects.manager import Found

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Host(Protocol):
    """What the methods need of `AsyncStorage`."""

    @property
    def _objects_store(self) -> ObjectFace: ...
    def _needs_disk(self, key: Key) -> bool: ...
    async def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...
    async def get_many(self, keys: Sequence[Key]) -> list[bytes | None]: ...
    async def _found(self, key: Key, find: Callable[[], Found | None]) -> AsyncHit | None: ...


class AsyncObjectFace:
    """See `ObjectFace`: the same names and parameters, awaitable."""

    __slots__ = ()

    @property
    def support_streaming_partial_write(self) -> bool:
        """As `Storage.support_streaming_partial_write`."""
        return True

    async def _found(self: Host, key: Key, find: Callable[[], Found | None]) -> AsyncHit | None:
        if self._needs_disk(key):
            found = await self._run(find)
        else:
            found = find()
        if found is None:
            return None
        return AsyncHit(key_bytes(key), found, self, self._run)

    async def lookup(self: Host, key: Key) -> AsyncHit | None:
        """As `Storage.lookup`. *Cost*: suspends only when the disk must be read."""
        name = key_bytes(key)
        objects = self._objects_store._objects
        return await self._found(key, lambda: objects.lookup(name))

    async def lookup_streaming_write(self: Host, key: Key, tag: bytes) -> AsyncHit | None:
        """As `Storage.lookup_streaming_write`."""
        name = key_bytes(key)
        if not isinstance(tag, bytes):
            raise TypeError(f"the tag is {type(tag).__name__}, not bytes")
        objects = self._objects_store._objects
        return await self._found(key, lambda: objects.lookup_write(name, tag))

    async def get_miss_handler(
        self: Host,
        key: Key,
        meta: Meta | None = None,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        size: int | None = None,
    ) -> AsyncMiss:
        """As `Storage.get_miss_handler`; does not suspend."""
        store = self._objects_store
        miss = store.get_miss_handler(key, meta, ttl=ttl, tags=tags, size=size)
        return AsyncMiss(miss, self._run)

    async def purge(self: Host, key: Key, kind: PurgeType = PurgeType.INVALIDATION) -> bool:
        """As `Storage.purge`, in the executor."""
        purged: bool = await self._run(self._objects_store.purge, key, kind)
        return purged

    async def update_meta(self: Host, key: Key, meta: Meta) -> bool:
        """As `Storage.update_meta`, in the executor."""
        updated: bool = await self._run(self._objects_store.update_meta, key, meta)
        return updated

    async def create_sparse(
        self: Host,
        key: Key,
        size: int,
        *,
        meta: Meta | None = None,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """As `Storage.create_sparse`, in the executor."""
        create = self._objects_store.create_sparse
        made: bool = await self._run(create, key, size, meta=meta, ttl=ttl, tags=tags)
        return made

    async def write_range(self: Host, key: Key, offset: int, data: Buffer) -> bool:
        """As `Storage.write_range`, in the executor. Leave `data` alone until this returns."""
        stored: bool = await self._run(self._objects_store.write_range, key, offset, data)
        return stored

    async def read_range(self: Host, key: Key, offset: int, length: int) -> bytes | None:
        """As `Storage.read_range`, in the executor."""
        found: bytes | None = await self._run(self._objects_store.read_range, key, offset, length)
        return found

    async def availability(self: Host, key: Key) -> Availability | None:
        """As `Storage.availability`, in the executor."""
        found: Availability | None = await self._run(self._objects_store.availability, key)
        return found

    async def finalize(self: Host, key: Key, *, ttl: float | None = None) -> int:
        """As `Storage.finalize`, in the executor."""
        size: int = await self._run(self._objects_store.finalize, key, ttl=ttl)
        return size
