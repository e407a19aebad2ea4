"""The synchronous store: `Storage`, and `open_store`, which is `edgecache.open`.

`get`, `put`, `view`, `readinto`, `exists`, `delete`, `get_many`, `sync` and `flush` are the native
methods of `Core`, inherited and not wrapped: a Python frame costs more than a RAM hit.

Invariants:

1. A store that is open holds its root directory, and gives it back after the engine has stopped: at
   no moment do two stores write to one root.
2. What objects hold in memory only is saved before `sync` and `close` (`objects/`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from edgecache._core import Core
from edgecache._io import IoEngine, open_engine
from edgecache.config import Config
from edgecache.entry import Entry
from edgecache.errors import ArgumentError, KeyTypeError, ObjectShedError, StoreClosedError
from edgecache.health import HealthReport, assess
from edgecache.leasing import LeaseDesk
from edgecache.memoize import Decorator, Flights, Plan, wrap
from edgecache.memoize.codec import CodecChoice
from edgecache.memoize.key import KeyFunction
from edgecache.memoize.plan import LOCK_TIMEOUT_S
from edgecache.meta import Meta, engine_flags_of
from edgecache.objects import (
    Counters,
    FileBackend,
    LogBackend,
    ObjectFace,
    ObjectManager,
    Sharing,
)
from edgecache.opening import Progress, core_options, open_lower
from edgecache.purges import Purges
from edgecache.registry import Registry
from edgecache.root import RootClaim
from edgecache.snapshot import Facts, build_snapshot
from edgecache.warm import WarmKeeper, forget_warm

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from typing_extensions import Buffer

    from edgecache._io_memory import MemoryDisk
    from edgecache.files import FileTier
    from edgecache.memoize.plan import P, R
    from edgecache.metrics import EdgeCacheCollector, StatsSnapshot

__all__ = ["Storage", "open_store"]

Key = bytes | str
PREFETCH_KEYS = 64
# Of an entry that others keep changing, or reclaim keeps moving, while it is read.
REPLACE_TRIES = 100


class Attachment(Protocol):
    """What works on a store and must stop before it closes (the readers of event loops)."""

    def detach(self) -> None: ...


class Storage(ObjectFace, Purges, Core):
    """A cache of bytes in RAM and on disk.

        with Storage(Config(root="cache", memory="1GiB", disk="100GiB")) as store:
            store.put("key", b"value", ttl=60)
            store.get("key")

    Args:
        config: The settings; by default a cache of 1 GiB in memory only.
        disk: A disk image in RAM that outlives the store; needs `io="memory"`. For tests.
        progress: Called with (done, total) while the disk tier is recovered.

    Raises:
        UnsafePathError, StoreLockedError: The root directory cannot be trusted, or is in use.
        FormatVersionError: It was written by another version.
        EngineUnavailableError: The I/O engine that was asked for by name cannot run.
        OSError: The directory or the disk cannot be used.

    *Thread-safety*: every method, any thread; `close` is for when nobody uses it any more. A child
    of fork() gets StoreForkedError and must open a store of its own.
    *Cost*: opening blocks while the disk tier is recovered.
    """

    __slots__ = (
        "_attachments",
        "_claim",
        "_close_lock",
        "_config",
        "_engine",
        "_flights",
        "_forked",
        "_is_closing",
        "_leases",
        "_lower",
        "_objects",
        "_opened_s",
        "_process",
        "_registry",
        "_soft_purge_count",
        "_warm",
    )

    def __init__(
        self,
        config: Config | None = None,
        *,
        disk: MemoryDisk | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._config = Config() if config is None else config
        self._close_lock = threading.RLock()
        self._is_closing = False
        self._process = os.getpid()
        self._opened_s = time.monotonic()
        self._flights = Flights()
        self._soft_purge_count = 0
        self._attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()
        self._engine: IoEngine | None = None
        self._claim: RootClaim | None = None
        self._registry: Registry | None = None
        self._lower: FileTier | None = None
        self._warm: WarmKeeper | None = None
        self._leases: LeaseDesk | None = None
        if disk is not None and self._config.io != "memory":
            raise ArgumentError("a disk image needs io='memory'", hint="set Config(io='memory')")
        try:
            self._engine = self._open_engine(disk)
            self._open_core(progress)
        except BaseException:
            self._give_back()
            raise
        if self._config.shared:
            self._leases = LeaseDesk.of(self)
        self._objects = self._open_objects()
        self.split_values()
        _live.add(self)

    def _open_objects(self) -> ObjectManager:
        config = self._config
        counters = Counters()
        tier = self._lower
        backend = LogBackend(self, counters) if tier is None else FileBackend(self, counters, tier)
        return ObjectManager(
            backend,
            counters,
            chunk_bytes=config.chunk_size,
            first_bytes=config.first_chunk_size,
            # Not all of it: there are other entries, and the log needs room to work.
            capacity_bytes=config.disk * 3 // 4 if config.has_disk else config.memory // 2,
            object_bytes_max=config.max_object_size,
            writes_max=config.max_partial_writes,
            memory_bytes_max=config.max_in_mem_partial_bytes,
            quota_bytes=config.partial_quota,
            partial_ttl_s=config.partial_ttl,
            is_atomic=config.atomic_publish,
            sharing=Sharing(
                backend,
                counters,
                self._sync_entries,
                is_enabled=config.share_chunks,
                is_complete=not self.counters()["objects"],
            ),
            leases=self._leases,
        )

    def _sync_entries(self) -> None:
        super().sync()

    def _open_engine(self, disk: MemoryDisk | None) -> IoEngine | None:
        config = self._config
        if not config.has_disk:
            return None
        if config.io == "memory":
            return open_engine("memory", disk=disk, queue_depth=config.queue_depth)
        assert config.root is not None
        self._claim = RootClaim(config.root, shared=config.shared)
        return open_engine(
            config.io,
            self._claim.path,
            queue_depth=config.queue_depth,
            threads=config.io_threads,
            direct=config.direct,
            sqpoll=config.sqpoll,
            iopoll=config.iopoll,
            lock_fd=self._claim.descriptor,
        )

    def _open_core(self, progress: Progress | None) -> None:
        """Open the native part, over a region log, over a tree of files, or in RAM only."""
        engine = self._engine
        root = None if self._claim is None else self._claim.path
        options = core_options(self._config, progress, root)
        if engine is not None:
            self._lower = open_lower(self._config, engine, root, progress)
        if self._lower is not None:
            options.update(lower=self._lower, seed=self._lower.seed)
            engine = None
        if self._config.keep_warm:
            assert root is not None
            self._warm = WarmKeeper(root)
            options.update(keep_warm=self._warm)
        if not self._config.shared:
            if root is not None and self._warm is None:
                forget_warm(root)
            super().__init__(options, engine)
            return
        assert root is not None
        registry = Registry.of(root)
        with registry.exclusive():
            try:
                arena = registry.find_arena()
                if arena < 0 and self._warm is None:
                    forget_warm(root)
                options.update(registry=registry, arena=arena)
            except BaseException:
                registry.release()
                raise
            # From here on it is the native part that releases it.
            self._registry = registry
            super().__init__(options, engine)

    @property
    def files(self) -> FileTier | None:
        """The disk tier of `layout: files`; None with the other layout."""
        return self._lower

    def resume_forked(self) -> None:
        """Join the processes that share the root, in a child of fork(); the first use does it.

        What the parent had unfinished (streams, ranges, flights) is the parent's.
        """
        with _resume_lock:
            if self._process == os.getpid():
                return
            self._forked = (self._engine, self._claim, self._objects, self._attachments)
            engine = self._open_engine(None)
            assert self._claim is not None
            assert engine is not None
            registry = Registry.of(self._claim.path)
            try:
                with registry.exclusive():
                    self.resume(engine, registry, registry.find_arena())
            except BaseException:
                registry.release()
                engine.close()
                self._claim.release()
                raise
            self._engine, self._registry = engine, registry
            self._close_lock = threading.RLock()
            self._flights.renew()
            self._leases = LeaseDesk.of(self)
            self._attachments = weakref.WeakSet()
            self._objects = self._open_objects()
            self.split_values()
            self._process = os.getpid()

    def _give_back(self) -> None:
        """Close what the engine works on, then let others have the root: see invariant 1."""
        if self._lower is not None:
            self._lower.abandon()
        if self._engine is not None:
            self._engine.close()
        if self._claim is not None:
            self._claim.release()
        self._registry = None

    # Life

    @property
    def config(self) -> Config:
        """The settings that it was opened with."""
        return self._config

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closing

    def close(self) -> None:
        """Flush, checkpoint, stop and give back every thread, descriptor and ring. Idempotent.

        What other threads and loops have under way ends with StoreClosedError, or as if it had come
        earlier: a put may be lost then. In a child of fork() it does nothing.

        *Cost*: blocks until the device took what is buffered, and a checkpoint is written.
        """
        if getattr(self, "_process", 0) != os.getpid():
            return
        with self._close_lock:
            if self._is_closing:
                return
            self._is_closing = True
            _live.discard(self)
            try:
                for attachment in list(self._attachments):
                    attachment.detach()
                self._close_objects()
                if self._leases is not None:
                    self._leases.close()
                with (
                    contextlib.nullcontext()
                    if self._registry is None
                    else self._registry.exclusive()
                ):
                    super().close()
            finally:
                self._give_back()

    def _close_objects(self) -> None:
        objects: ObjectManager | None = getattr(self, "_objects", None)
        if objects is None:
            return
        # Weak references to a store that is being collected are dead already.
        objects.backend.hold(self)
        try:
            objects.close()
        except StoreClosedError:
            return  # abandoned: what was not stored is lost, as in a crash
        finally:
            objects.backend.hold(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Before the slots go, and with them the claim on the root: see invariant 1.
        self.close()

    def attach(self, attachment: Attachment) -> None:
        """Have `attachment.detach()` called before the store closes."""
        self._attachments.add(attachment)

    @property
    def leases(self) -> LeaseDesk | None:
        """What the processes that share this cache do only once; None: it is not shared."""
        return self._leases

    # Entries

    def encode_meta(self, meta: object, tags: Iterable[str]) -> bytes:
        """Return the bytes of a meta with these tags added; `put` calls it.

        Raises:
            MetaFieldError, ValueTooLargeError: They cannot be encoded.
            TypeError: `meta` is no Meta, or `tags` is a single str.
        """
        if isinstance(tags, str):
            raise TypeError("tags must be a collection of str, not a single one")
        if meta is None:
            now_us = time.time_ns() // 1000
            meta = Meta(created=now_us, updated=now_us, tags=tuple(tags))
        elif not isinstance(meta, Meta):
            raise TypeError(f"meta is {type(meta).__name__}, not Meta")
        elif tags:
            meta = meta.with_tags((*meta.tags, *tags))
        return meta.encode()

    def get_entry(self, key: Key) -> Entry | None:
        """Return value and meta of `key`, also when it is stale; None when there is nothing.

        *Cost*: as `get`, and decoding the meta.
        """
        found = self.read_entry(key)
        if found is None:
            return None
        value, meta = found[:2]
        if engine_flags_of(meta):
            loaded = self.load_object(key, found)
            if loaded is None:
                return None
            value = loaded
        return Entry(value, Meta.decode(meta) if meta else None)

    def touch(self, key: Key, ttl: float | None) -> bool:
        """Give an entry another lifetime, from now; whether there was one.

        Its meta and tags stay. It is read and put again, over that very version: a put or delete of
        the same key that comes in between wins. With `layout: files` a body above 64 KiB is neither
        read nor written.

        Args:
            key: The entry.
            ttl: Seconds; None: the configured default.

        Returns:
            False also when the put was shed.
        """
        expiry_us = self.expiry_at(ttl)
        done = self._objects.backend.relabel(
            key, lambda meta, _: (meta, expiry_us, bool(meta and Meta.decode(meta).tags))
        )
        if done is not None:
            return done
        for _ in range(REPLACE_TRIES):
            found = self.read_entry(key)
            if found is None:
                return False
            value, meta, _, version, location = found
            replaced = self.replace(key, value, meta, expiry_us, version, location)
            if replaced is not None:
                return replaced
        return False

    def sync(self) -> None:
        """Make everything put or deleted so far durable; returns when it is.

        Ranges of unfinished objects, too: what of them is in memory only is stored first.

        Raises:
            ObjectShedError: That was shed.
            DiskIOError, DeadlineError: As `Core.sync`.
        """
        if not self._objects.sparse.save():
            raise ObjectShedError("the ranges of an unfinished object were not accepted")
        super().sync()

    # Batches

    def put_many(
        self, items: Mapping[Key, Buffer] | Iterable[tuple[Key, Buffer]], ttl: float | None = None
    ) -> int:
        """Put every pair; how many were stored, the rest was shed and counted.

        Args:
            items: A mapping, or pairs of key and value.
            ttl: The lifetime of all of them; None: the configured default.
        """
        pairs = items.items() if isinstance(items, Mapping) else items
        put = self.put
        return sum([put(key, value, ttl=ttl) for key, value in pairs])

    def delete_many(self, keys: Iterable[Key]) -> int:
        """Delete every key; how many were there."""
        return sum(map(self.delete, several_keys(keys)))

    def prefetch(self, keys: Iterable[Key]) -> int:
        """Bring entries from disk to RAM; how many of the keys were found.

        *Cost*: blocks; as `get_many` of 64 keys at a time. It counts hits and misses.
        """
        found = 0
        batch: list[Key] = []
        for key in several_keys(keys):
            batch.append(key)
            if len(batch) == PREFETCH_KEYS:
                found += PREFETCH_KEYS - self.get_many(batch).count(None)
                batch.clear()
        return found + len(batch) - self.get_many(batch).count(None)

    # Observing

    def stats(self) -> StatsSnapshot:
        """Return all statistics. *Cost*: copies a few hundred integers; a moment of each lock."""
        self._require_open()
        config, engine = self._config, self._engine
        facts = Facts(
            io="none" if engine is None else engine.name,
            io_fallback_reason="" if engine is None else engine.fallback_reason,
            layout=config.layout,
            policy=config.policy,
            is_direct=config.direct,
            is_atomic_publish=config.atomic_publish,
            queue_depth=config.queue_depth,
            uptime_seconds=time.monotonic() - self._opened_s,
            soft_purge_count=self._soft_purge_count,
            cold_reason="" if self._warm is None else self._warm.reason,
            warm_refusal="" if self._warm is None else self._warm.refusal,
            objects=self._objects.stats(),
        )
        return build_snapshot(self.counters(), {} if engine is None else engine.stats(), facts)

    def health(self) -> HealthReport:
        """Judge the statistics: ok, degraded or failing, and why."""
        return assess(self.stats(), self.counters().get("last_errno", 0))

    def register_metrics(
        self,
        registry: CollectorRegistry | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> EdgeCacheCollector:
        """Export the statistics to Prometheus; the collector, to be unregistered or extended.

        Args:
            registry: By default that of the process.
            labels: Added to every sample.
        """
        from prometheus_client import REGISTRY

        from edgecache.metrics import EdgeCacheCollector

        collector = EdgeCacheCollector(self.stats, labels)
        (REGISTRY if registry is None else registry).register(collector)
        return collector

    def _require_open(self) -> None:
        if self._is_closing:
            raise StoreClosedError("the store is closed", hint="open it again")
        self.needs_disk(b"?")  # the native check, for a child of fork()

    # Remembering results

    def memoize(
        self,
        *,
        ttl: float | None = None,
        stale: float = 0.0,
        key: str | KeyFunction | None = None,
        codec: CodecChoice | None = None,
        lock_timeout: float = LOCK_TIMEOUT_S,
    ) -> Decorator:
        """Return a decorator that remembers a function's results in this store.

        Of several threads that miss the same result one computes, the others wait for it. When it
        fails they get its error, and the next call tries again. A call that would wait for itself
        (recursion, or two threads that need each other's results) computes instead.

        In shared mode that holds for the threads of all processes, but for errors: when a process
        fails, those that wait in others try one after the other.

        Args:
            ttl: Seconds for which a result is fresh; None: the configured default.
            stale: Seconds after that in which the old result still serves, while the one caller
                that found it stale computes the new one (in its own time: it waits).
            key: What stands for the function in keys: by default its module and qualified name. Or
                a function of the same arguments that returns the whole key. Needed for lambdas,
                functions that use outer variables, methods, and arguments other than str, bytes,
                int, float, bool, None, tuples and frozensets.
            codec: None: results are bytes; "json"; or a pair (encode, decode). Every caller gets
                what `decode` makes of the stored bytes.
            lock_timeout: Seconds for which a call waits for another process that computes, and
                after which one that computes is not waited for any longer: then another computes
                as well. 0: processes do not wait for each other.

        Raises (when decorating):
            KeyTypeError: It needs a `key`. InvalidTTLError, ArgumentError, TypeError: see there.
        """
        plan = Plan(ttl, stale, key, codec, lock_timeout)

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            return wrap(self, self._flights, plan, function)

        return decorate


def open_store(
    root: str | os.PathLike[str] | None,
    *,
    memory: int | str = "1GiB",
    disk: int | str = "100GiB",
    progress: Progress | None = None,
    **options: Any,
) -> Storage:
    """Open the cache in the directory `root`; it is created if needed.

        with edgecache.open("cache", memory="256MiB", disk="10GiB") as store: ...

    Args:
        root: The directory; None: a cache in memory only.
        memory: Budget of the RAM tier, metadata included: bytes, or "1GiB".
        disk: Budget of the disk tier.
        progress: Called with (done, total) while the disk tier is recovered.
        options: Any other field of `Config` (docs/configuration.md). No environment is read.

    Raises:
        ConfigError: An option is not usable. And what `Storage` raises.
    """
    config = Config.from_options(root, environ=None, memory=memory, disk=disk, **options)
    return Storage(config, progress=progress)


def several_keys(keys: Iterable[Key]) -> Iterable[Key]:
    """Refuse a single key where several are expected: a str is iterable, too."""
    if isinstance(keys, (str, bytes)):
        raise KeyTypeError("one key was given where several are expected", hint="pass a list")
    return keys


# Stores that are open: closed in good order when the interpreter ends, while threads and modules
# still work.
_live: weakref.WeakSet[Storage] = weakref.WeakSet()
# Held while a child of fork joins; a child of the child begins with a new one.
_resume_lock = threading.RLock()


def _renew_lock() -> None:
    global _resume_lock
    _resume_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


@atexit.register
def _close_all() -> None:
    for store in list(_live):
        store.close()
