"""The asynchronous store: the same names as `Storage`, awaitable.

Invariants:

1. What is answered from RAM, and a put for which the log has room, completes without suspending.
2. No hit is handed to another thread; disk reads go through the loop's own `LoopReader`. Only what
   may block for long (walks, sync, recovery, a put without room) runs in the executor.
3. A cancelled caller detaches: what it started goes on and is cleaned up.
4. `close` waits for the operations in the executor, then for the reads, then closes the store.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from edgecache._core_read import ObjectHead
from edgecache.config import Config
from edgecache.entry import Entry, ScrubReport
from edgecache.errors import ArgumentError, DiskIOError, StoreClosedError
from edgecache.health import HealthReport
from edgecache.loop_reader import LoopReader
from edgecache.memoize import AsyncDecorator, Plan
from edgecache.memoize.codec import CodecChoice
from edgecache.memoize.flight_async import AsyncFlights
from edgecache.memoize.key import KeyFunction
from edgecache.memoize.plan import LOCK_TIMEOUT_S
from edgecache.memoize.wrap_async import wrap_async
from edgecache.meta import Meta
from edgecache.objects.async_face import AsyncObjectFace
from edgecache.opening import Progress
from edgecache.storage import Key, Storage, several_keys

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from typing_extensions import Buffer

    from edgecache._core_blob import Blob
    from edgecache._io_memory import MemoryDisk
    from edgecache.files import FileTier
    from edgecache.leasing import LeaseDesk
    from edgecache.metrics import EdgeCacheCollector, StatsSnapshot

__all__ = ["AsyncStorage"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# A larger value is copied in the executor: 1 MiB takes about 0.1 ms, which a loop can spare.
INLINE_BYTES_MAX = 1 << 20
# Keys handled between two turns of the loop.
TURN_KEYS = 256


class AsyncStorage(AsyncObjectFace):
    """A cache of bytes in RAM and on disk, for asyncio and uvloop.

        async with AsyncStorage(Config(root="cache")) as store:
            await store.put("key", b"value", ttl=60)
            await store.get("key")

    Args:
        config: The settings; by default a cache of 1 GiB in memory only.
        storage: A store to share instead; it is not closed with this one.
        disk, progress: As for `Storage`.

    Raises:
        ArgumentError: `storage` and something else. And what `Storage` raises.

    *Thread-safety*: every method, on any loop in any thread; each loop has its own reader.
    *Cost*: the constructor blocks while the disk tier is recovered; `AsyncStorage.open` does not.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_flights",
        "_is_closing",
        "_is_owner",
        "_needs_disk",
        "_peek",
        "_readers",
        "_store",
        "_try_put",
    )

    def __init__(
        self,
        config: Config | None = None,
        *,
        storage: Storage | None = None,
        disk: MemoryDisk | None = None,
        progress: Progress | None = None,
    ) -> None:
        if storage is not None and not (config is None and disk is None and progress is None):
            raise ArgumentError("a shared storage is open already", hint="give storage= alone")
        self._is_owner = storage is None
        self._store = Storage(config, disk=disk, progress=progress) if storage is None else storage
        self._is_closing = False
        # Bound once; `close` puts `_refuse` in their place, so that no call has to ask.
        self._peek: Callable[..., Any] = self._store.peek
        self._try_put: Callable[..., bool | None] = self._store.try_put
        self._needs_disk: Callable[..., bool] = self._store.needs_disk
        self._flights = AsyncFlights()
        self._busy: set[asyncio.Future[Any]] = set()
        self._readers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopReader]
        self._readers = weakref.WeakKeyDictionary()

    @classmethod
    async def open(
        cls,
        config: Config | None = None,
        *,
        disk: MemoryDisk | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Open a store in the executor, so that a long recovery does not stop the loop."""
        loop = asyncio.get_running_loop()
        storage = await loop.run_in_executor(
            None, functools.partial(Storage, config, disk=disk, progress=_on_loop(progress))
        )
        store = cls(storage=storage)
        store._is_owner = True
        return store

    # Life

    @property
    def storage(self) -> Storage:
        """The synchronous store below; both may be used at the same time."""
        return self._store

    @property
    def _objects_store(self) -> Storage:
        if self._is_closing:
            _refuse()
        return self._store

    @property
    def config(self) -> Config:
        """The settings that it was opened with."""
        return self._store.config

    @property
    def leases(self) -> LeaseDesk | None:
        """As `Storage.leases`."""
        return self._store.leases

    @property
    def files(self) -> FileTier | None:
        """As `Storage.files`; its methods block."""
        return self._store.files

    @property
    def closed(self) -> bool:
        """Whether `close` was called, here or on the store below."""
        return self._is_closing or self._store.closed

    async def close(self) -> None:
        """Wait for what runs, then flush, checkpoint and close; idempotent.

        A shared `storage` stays open. Reads in flight fail with StoreClosedError.
        """
        if self._is_closing:
            return
        self._is_closing = True
        self._peek = self._try_put = self._needs_disk = _refuse
        loop = asyncio.get_running_loop()
        own = [future for future in self._busy if future.get_loop() is loop]
        if own:
            await asyncio.wait(own)
        for reader in list(self._readers.values()):
            if reader.is_of(loop):
                reader.detach()
            else:
                await loop.run_in_executor(None, reader.detach)
        self._readers.clear()
        if self._is_owner:
            await loop.run_in_executor(None, self._store.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.close()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking method in the executor; a cancelled caller does not interrupt it."""
        if self._is_closing:
            _refuse()
        future = asyncio.get_running_loop().run_in_executor(
            None, functools.partial(function, *args, **kwargs)
        )
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        return await asyncio.shield(future)

    def _reader(self, loop: asyncio.AbstractEventLoop) -> LoopReader | None:
        """The reader of the loop; None: no descriptors for one, the executor must do."""
        reader = self._readers.get(loop)
        if reader is None:
            for other in list(self._readers):
                if other.is_closed():
                    self._readers.pop(other).detach()
            try:
                reader = LoopReader(self._store, loop)
            except DiskIOError:
                return None
            self._readers[loop] = reader
            self._store.attach(reader)
        return reader

    # Reading

    @overload
    async def get(self, key: Key, default: None = None) -> bytes | None: ...
    @overload
    async def get(self, key: Key, default: T) -> bytes | T: ...
    async def get(self, key: Key, default: object = None) -> object:
        """As `Storage.get`. *Cost*: a RAM hit does not suspend; a disk hit is one read."""
        value: object = self._peek(key)
        if value is NotImplemented:
            value = await self._read(key)
        return default if value is None else value

    async def _read(self, key: Key) -> object:
        """Get what RAM could not answer."""
        store = self._store
        if not store.region_count:
            return await self._run(store.get, key)
        loop = asyncio.get_running_loop()
        reader = self._reader(loop)
        if reader is None:
            return await self._run(store.get, key)
        value: Any = await reader.read(loop, key)
        if type(value) is ObjectHead:
            # Many reads, and much to copy.
            value = await self._run(store.get, key)
        return value

    async def get_many(self, keys: Iterable[Key]) -> list[bytes | None]:
        """As `Storage.get_many`. *Cost*: all disk reads go out in one submission."""
        wanted = list(several_keys(keys))
        found: list[Any] = [self._peek(key) for key in wanted]
        waiting = [place for place, value in enumerate(found) if value is NotImplemented]
        if not waiting:
            return found
        loop = asyncio.get_running_loop()
        reader = self._reader(loop) if self._store.region_count else None
        if reader is None:
            rest = await self._run(self._store.get_many, [wanted[place] for place in waiting])
            for place, value in zip(waiting, rest, strict=True):
                found[place] = value
        else:
            futures = [reader.read(loop, wanted[place]) for place in waiting]
            values: list[Any] = await asyncio.gather(*futures)
            for place, value in zip(waiting, values, strict=True):
                if type(value) is ObjectHead:
                    found[place] = await self._run(self._store.get, wanted[place])
                else:
                    found[place] = value
        return found

    async def get_entry(self, key: Key) -> Entry | None:
        """As `Storage.get_entry`."""
        if self._needs_disk(key):
            return await self._run(self._store.get_entry, key)
        return self._store.get_entry(key)

    async def view(self, key: Key) -> Blob | None:
        """As `Storage.view`."""
        if self._needs_disk(key):
            return await self._run(self._store.view, key)
        return self._store.view(key)

    async def readinto(self, key: Key, buffer: Buffer) -> int | None:
        """As `Storage.readinto`. Leave the buffer alone until it returns, also when cancelled."""
        if self._needs_disk(key):
            return await self._run(self._store.readinto, key, buffer)
        return self._store.readinto(key, buffer)

    async def exists(self, key: Key) -> bool:
        """As `Storage.exists`."""
        if self._needs_disk(key):
            return await self._run(self._store.exists, key)
        return self._store.exists(key)

    async def prefetch(self, keys: Iterable[Key]) -> int:
        """As `Storage.prefetch`; reads of 256 keys at a time go out together."""
        found = 0
        for batch in _batches(keys):
            found += len(batch) - (await self.get_many(batch)).count(None)
            await asyncio.sleep(0)
        return found

    # Writing

    async def put(
        self,
        key: Key,
        value: Buffer,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        meta: Meta | None = None,
    ) -> bool:
        """As `Storage.put`. *Cost*: does not suspend while there is room in the write buffers.

        A value above 1 MiB is copied in the executor: leave it alone until this returns.
        """
        if tags:
            tags = tags if isinstance(tags, str) else tuple(tags)  # it may be needed twice
        if not _is_large(value):
            stored = self._try_put(key, value, ttl=ttl, tags=tags, meta=meta)
            if stored is not None:
                return stored
        return await self._run(self._store.put, key, value, ttl=ttl, tags=tags, meta=meta)

    async def put_many(
        self, items: Mapping[Key, Buffer] | Iterable[tuple[Key, Buffer]], ttl: float | None = None
    ) -> int:
        """As `Storage.put_many`."""
        pairs = items.items() if isinstance(items, Mapping) else items
        count = 0
        for number, (key, value) in enumerate(pairs, 1):
            count += await self.put(key, value, ttl=ttl)
            if number % TURN_KEYS == 0:
                await asyncio.sleep(0)
        return count

    async def touch(self, key: Key, ttl: float | None) -> bool:
        """As `Storage.touch`."""
        return await self._run(self._store.touch, key, ttl)

    async def delete(self, key: Key) -> bool:
        """As `Storage.delete`. *Cost*: suspends only when keys must be compared on disk."""
        if self._needs_disk(key) or self._store.has_lower:
            return await self._run(self._store.delete, key)
        return self._store.delete(key)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """As `Storage.delete_many`."""
        count = 0
        for batch in _batches(keys):
            count += await self._run(self._store.delete_many, batch)
        return count

    # What may take long

    async def delete_prefix(self, prefix: Key, *, progress: Progress | None = None) -> int:
        """As `Storage.delete_prefix`, in the executor; `progress` is called on the loop."""
        return await self._run(self._store.delete_prefix, prefix, progress=_on_loop(progress))

    async def purge_tag(
        self, tag: str, soft: bool = False, *, progress: Progress | None = None
    ) -> int:
        """As `Storage.purge_tag`, in the executor; `progress` is called on the loop."""
        return await self._run(self._store.purge_tag, tag, soft, progress=_on_loop(progress))

    async def expire(self, key: Key) -> bool:
        """As `Storage.expire`, in the executor."""
        return await self._run(self._store.expire, key)

    async def count_entries(self, *, progress: Progress | None = None) -> int:
        """As `Storage.count_entries`, in the executor; `progress` is called on the loop."""
        return await self._run(self._store.count_entries, progress=_on_loop(progress))

    async def clear(self) -> None:
        """As `Storage.clear`, in the executor."""
        await self._run(self._store.clear)

    async def scrub(self, *, progress: Progress | None = None) -> ScrubReport:
        """As `Storage.scrub`, in the executor; `progress` is called on the loop."""
        return await self._run(self._store.scrub, progress=_on_loop(progress))

    async def sync(self) -> None:
        """As `Storage.sync`, in the executor; callers that come together share one."""
        await self._run(self._store.sync)

    async def flush(self) -> None:
        """As `Storage.flush`, in the executor."""
        await self._run(self._store.flush)

    async def checkpoint(self) -> None:
        """As `Storage.checkpoint`, in the executor."""
        await self._run(self._store.checkpoint)

    # Observing

    async def stats(self) -> StatsSnapshot:
        """As `Storage.stats`; does not suspend."""
        if self._is_closing:
            _refuse()
        return self._store.stats()

    async def health(self) -> HealthReport:
        """As `Storage.health`; does not suspend."""
        if self._is_closing:
            _refuse()
        return self._store.health()

    async def register_metrics(
        self,
        registry: CollectorRegistry | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> EdgeCacheCollector:
        """As `Storage.register_metrics`; does not suspend."""
        return self._store.register_metrics(registry, labels)

    # Remembering results

    def memoize(
        self,
        *,
        ttl: float | None = None,
        stale: float = 0.0,
        key: str | KeyFunction | None = None,
        codec: CodecChoice | None = None,
        lock_timeout: float = LOCK_TIMEOUT_S,
    ) -> AsyncDecorator:
        """As `Storage.memoize`, for coroutine functions; not awaited itself.

        Of several tasks of a loop that miss the same result one computes. A stale result serves
        every caller at once, while a task computes the new one; a failure of that is logged.
        """
        plan = Plan(ttl, stale, key, codec, lock_timeout)

        def decorate(
            function: Callable[P, Coroutine[Any, Any, R]],
        ) -> Callable[P, Coroutine[Any, Any, R]]:
            return wrap_async(self, self._flights, plan, function)

        return decorate


def _refuse(*args: object, **kwargs: object) -> Any:
    raise StoreClosedError("the store is closed", hint="open it again")


def _is_large(value: Buffer) -> bool:
    size = len(value) if isinstance(value, (bytes, bytearray)) else getattr(value, "nbytes", 0)
    return bool(size > INLINE_BYTES_MAX)


def _batches(keys: Iterable[Key]) -> Iterable[list[Key]]:
    batch: list[Key] = []
    for key in several_keys(keys):
        batch.append(key)
        if len(batch) == TURN_KEYS:
            yield batch
            batch = []
    if batch:
        yield batch


def _on_loop(progress: Progress | None) -> Progress | None:
    """Have a callback called on the running loop instead of in the executor."""
    if progress is None:
        return None
    loop = asyncio.get_running_loop()

    def relay(done: int, total: int) -> None:
        loop.call_soon_threadsafe(progress, done, total)

    return relay
