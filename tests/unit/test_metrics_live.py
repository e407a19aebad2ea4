"""Every exported metric that can move moves when that happens which it is named for.

Each scenario drives a store and states what must have moved; together they cover the whole table
of `metrics/names.py` but for what `CANNOT_MOVE` gives a reason for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.smallshm import with_small_shm

from edgecache import AsyncStorage, Config, Storage, errors
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import disturb, fail, heal, hold, release
from edgecache._testing_shared import hold_shard
from edgecache.metrics.names import METRICS
from edgecache.objects import sharing
from edgecache.objects.head import content_hash, decode_head
from edgecache.warm import forget_warm

KIB = 1024

CANNOT_MOVE = {
    "io.direct_refused": "depends on the file system; test_snapshot covers the mapping",
    "sharing.index_resets": "no death leads there; test_index has what would not be mended",
    "requests.shed.no_memory": "the allocator must fail for it",
}
SHED_REASONS = (
    "backpressure", "no_space", "io_error", "write_budget", "too_large", "read_only",
    "index_full", "no_memory",
)  # fmt: skip
# Exported as mappings: their words count one by one.
WORDS = {
    "requests.shed": SHED_REASONS,
    "errors.corruption": ("record", "region", "checkpoint", "superblock"),
    "io.operations": ("read", "write", "sync"),
    "io.bytes": ("read", "write"),
    "io.failures": ("read", "write", "sync"),
    "io.errors": ("EIO",),
}


def memory_config(**changes: Any) -> Config:
    options: dict[str, Any] = {
        "io": "memory", "memory": "1MiB", "disk": "16MiB", "shards": 1, "region_size": "1MiB",
        "flush_size": "64KiB", "flush_interval": 3600, "checkpoint_interval": 3600,
    }  # fmt: skip
    return Config(**{**options, **changes})


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(node, dict):
        if "bucket_counts" in node:
            yield path, sum(node["bucket_counts"])
            return
        for key, inner in node.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(node, (int, float)):
        yield path, node


def moved(*stores: Storage) -> set[str]:
    """The places of the snapshots that are not at their zero."""
    return {path for store in stores for path, value in leaves(store.stats()) if value}


# Scenarios: what is done, and what must have moved


def traffic(root: Path) -> set[str]:
    """Everyday use on real files, with more data than either tier holds."""
    config = Config(
        root=str(root), memory="1MiB", disk="16MiB", shards=1, region_size="1MiB",
        flush_size="64KiB", write_budget="1TiB", front_size="64KiB",
    )  # fmt: skip
    with Storage(config) as store:
        for number in range(9000):
            store.put(f"k{number}", bytes(4000))
            if number % 8 == 0:
                store.get(f"k{max(0, number - 1000)}")  # on disk: read, so worth keeping
        store.get("k8999")
        store.get("k8999")
        store.get("absent")
        store.put("now", b"", ttl=0)
        store.get("now")
        store.delete("k8998")
        store.put("tagged", b"v", tags=["t"])
        store.purge_tag("t", soft=True)
        store.sync()
        store.checkpoint()
        seen = moved(store)
        store.put("buffered", b"v")
        return seen | moved(store)


TRAFFIC = {
    "engine.uptime_seconds", "engine.is_atomic_publish", "engine.is_direct",
    "requests.hits.front", "requests.hits.memory", "requests.hits.disk", "requests.misses",
    "requests.puts", "requests.put_bytes", "requests.deletes", "requests.expired",
    "requests.evictions", "requests.invalidations", "requests.demotions",
    "memory.budget_bytes", "memory.used_bytes", "memory.item_bytes", "memory.items",
    "memory.evictions", "memory.front_budget_bytes", "memory.front_bytes", "memory.front_items",
    "index.objects", "index.used_bytes", "disk.budget_bytes", "disk.used_bytes",
    "disk.regions.free", "disk.regions.open", "disk.regions.sealed", "disk.write_budget_bytes",
    "log.flushes", "log.flushed_bytes", "log.buffered_bytes", "log.checkpoints",
    "reclaim.regions", "reclaim.bytes", "reclaim.reinserted", "reclaim.reinserted_bytes",
    "reclaim.dropped", "io.queue_depth", "io.submissions", "io.operations.read",
    "io.operations.write", "io.operations.sync", "io.bytes.read", "io.bytes.write",
    "io.read_latency", "io.write_latency", "io.sync_latency",
}  # fmt: skip


def pinned(root: Path) -> set[str]:
    with Storage(memory_config()) as store:
        store.put("key", bytes(10_000))
        with store.view("key") as blob:  # type: ignore[union-attr]
            store.put("key", b"other")  # the pinned one is gone, but stays in place
            seen = moved(store)
            assert len(bytes(blob)) == 10_000
        assert not moved(store) & {"memory.pinned_bytes", "memory.zombies"}
        return seen


def moving_items(root: Path) -> set[str]:
    """Sizes change for good: pages of the old size must make room."""
    with Storage(Config(memory="1MiB", shards=1)) as store:
        for size_bytes in (100, 3000, 100, 20_000, 50, 9000):
            for number in range(2000):
                store.put(f"{size_bytes}/{number}", bytes(size_bytes))
        return moved(store)


def growing_index(root: Path) -> set[str]:
    """More keys than half of the memory can index: it overflows, then it is full."""
    with Storage(memory_config(disk="64MiB")) as store:
        for number in range(70_000):
            store.put(b"%d" % number, b"")
        return moved(store)


def shed_by_a_busy_disk(root: Path) -> set[str]:
    disk = MemoryDisk()
    config = memory_config(write_buffers=2, backpressure="shed")
    with Storage(config, disk=disk) as store:
        hold(disk, "write")
        for number in range(100):
            store.put(f"k{number}", bytes(10_000))
        seen = moved(store)
        release(disk)
        heal(disk)
        return seen


def waiting_for_a_busy_disk(root: Path) -> set[str]:
    """Both buffers are with the flusher, whose writes are held: only waiting is left.

    It may come too late for the second, and the put writes that one itself: then once more.
    """
    disk = MemoryDisk()
    config = memory_config(write_buffers=2, block_timeout=0.05)
    with Storage(config, disk=disk) as store:
        for attempt in range(200):
            hold(disk, "write")
            for number in range(3):
                store.try_put(f"{attempt}/{number}", bytes(60_000))
            for late in range(4):
                store.put(f"late/{late}", bytes(60_000))
            seen = moved(store)
            heal(disk)
            if "requests.shed.backpressure" in seen:
                return seen
            store.flush()
    return seen


def a_write_budget_that_runs_out(root: Path) -> set[str]:
    with Storage(memory_config(write_budget="1MiB")) as store:
        for number in range(100):
            store.put(f"k{number}", bytes(4000))
        return moved(store)


def values_that_fit_nowhere(root: Path) -> set[str]:
    with Storage(memory_config()) as store:
        assert not store.put("larger than the disk may hold", bytes(13 << 20))
        return moved(store)


def objects_of_any_size(root: Path) -> set[str]:
    disk = MemoryDisk()
    config = memory_config(disk="64MiB", max_partial_writes=1, max_in_mem_partial_bytes="1MiB")
    with Storage(config, disk=disk) as store:
        miss = store.get_miss_handler("stream")
        store.lookup_streaming_write("stream", miss.streaming_write_tag)
        store.lookup_streaming_write("stream", bytes(8))
        with pytest.raises(errors.PartialWritesError):
            store.get_miss_handler("another")
        store.create_sparse("sparse", 1 << 20)
        store.write_range("sparse", 5, b"bytes")
        with pytest.raises(errors.RangeMissingError):
            store.read_range("sparse", 0, 10)
        seen = moved(store)
        miss.abort()
        store.put("rotten", bytes(4 << 20))
        store.flush()
        head = decode_head(store.read_entry("rotten")[0])  # type: ignore[index]
        assert head is not None
        # Another chunk in the place of this one: intact for the engine, wrong for the object.
        objects = store._objects.backend
        assert objects.put_part(head.object_id, 1, bytes([1]) * head.chunk_bytes)
        store.put_many((f"k{number}", bytes(4000)) for number in range(1000))
        store.flush()
        assert store.get("rotten") is None
        fail(disk, "write", errno.EIO, count=-1)
        with store.get_miss_handler("shed") as miss, pytest.raises(errors.ObjectShedError):
            miss.write(bytes(30 << 20))
        heal(disk)
        return seen | moved(store)


def equal_chunks(root: Path) -> set[str]:
    """Two objects of equal chunks, and one with a chunk of the same hash."""
    config = memory_config(disk="64MiB", chunk_size="64KiB", share_chunks=True)
    with Storage(config) as store:
        for name in "ab":
            with store.get_miss_handler(name) as miss:
                miss.write(bytes(65537))
                miss.finish()
        digest = content_hash(bytes(65536))
        with (
            unittest.mock.patch.object(sharing, "content_hash", return_value=digest),
            store.get_miss_handler("c") as miss,
        ):
            miss.write(b"c" * 65537)
            miss.finish()
        assert store.get("c") == b"c" * 65537
        return moved(store)


def a_full_disk(root: Path) -> set[str]:
    disk = MemoryDisk()
    fail(disk, "allocate", errno.ENOSPC, count=-1)
    with Storage(memory_config(), disk=disk) as store:
        assert not store.put("key", b"value")
        return moved(store)


def a_dying_disk(root: Path) -> set[str]:
    disk = MemoryDisk()
    with Storage(memory_config(), disk=disk) as store:
        store.put("key", b"value")
        store.sync()
        fail(disk, "write", errno.EIO, count=-1)
        fail(disk, "sync", errno.EIO, count=-1)
        store.put("large", bytes(500 * KIB))  # written at once, by this thread
        for number in range(1000):
            store.put(f"k{number}", bytes(10_000))
        with contextlib.suppress(errors.EdgeCacheError):
            store.checkpoint()
        with contextlib.suppress(errors.EdgeCacheError):
            store.sync()
        return moved(store)


def a_disk_that_fails_to_sync_once(root: Path) -> set[str]:
    disk = MemoryDisk()
    with Storage(memory_config(), disk=disk) as store:
        store.put("key", b"value")
        fail(disk, "sync", errno.EIO)
        with pytest.raises(errors.DiskIOError):
            store.sync()
        return moved(store)


def a_disk_that_fails_to_read(root: Path) -> set[str]:
    disk = MemoryDisk()
    with Storage(memory_config(), disk=disk) as store:
        for number in range(1000):
            store.put(f"k{number}", bytes(4000))
        store.flush()
        fail(disk, "read", errno.EIO)
        for number in range(1000):
            assert store.get(f"k{number}") in (bytes(4000), None)
        return moved(store)


def a_disk_that_stutters(root: Path) -> set[str]:
    disk = MemoryDisk()
    with Storage(memory_config(), disk=disk) as store:
        disturb(disk, seed=1, short_one_in=2)
        fail(disk, "write", errno.EINTR, count=3)
        for number in range(500):
            store.put(f"k{number}", bytes(4000))
        store.sync()
        return moved(store)


def reads_in_flight(root: Path) -> set[str]:
    disk = MemoryDisk()

    async def main() -> set[str]:
        async with AsyncStorage(memory_config(), disk=disk) as store:
            await store.put_many((f"k{number}", bytes(4000)) for number in range(1000))
            await store.flush()
            hold(disk, "read")
            key = next(k for n in range(1000) if store.storage.needs_disk(k := f"k{n}"))
            task = asyncio.create_task(store.get(key))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen = moved(store.storage)
            release(disk)
            assert await task == bytes(4000)
            return seen

    return asyncio.run(main())


def the_thread_engine(root: Path) -> set[str]:
    config = Config(root=str(root), io="threads", memory="1MiB", disk="16MiB")
    with Storage(config) as store:
        store.put_many((f"k{number}", bytes(4000)) for number in range(1000))
        store.sync()
        store.get_many([f"k{number}" for number in range(1000)])
        return moved(store)


def reopened(root: Path, damage: Callable[[Path], None]) -> set[str]:
    config = Config(root=str(root), memory="1MiB", disk="16MiB", region_size="1MiB", io="threads")
    with Storage(config) as store:
        store.put_many((f"k{number}", bytes([number % 256]) * 4000) for number in range(1000))
    damage(root)
    with Storage(config) as store:
        for number in range(1000):
            assert store.get(f"k{number}") in (bytes([number % 256]) * 4000, None)
        return moved(store)


def flip(path: Path, positions: range) -> None:
    content = bytearray(path.read_bytes())
    for position in positions:
        if position < len(content):
            content[position] ^= 0xFF
    path.write_bytes(content)


def damaged_records(root: Path) -> set[str]:
    # Bodies, not the blocks' own pages: an odd distance never keeps in step with them.
    def damage(path: Path) -> None:
        flip(path / "data" / "00000000.edge", range(30_000, 3 << 20, 100_003))

    return reopened(root, damage)


def damaged_blocks(root: Path) -> set[str]:
    def damage(path: Path) -> None:
        for name in ("checkpoint.a", "checkpoint.b"):
            with contextlib.suppress(FileNotFoundError):
                flip(path / name, range(5000, 5001))
        flip(path / "data" / "00000000.edge", range(8, 3 << 20, 4096))

    return reopened(root, damage)


def damaged_superblocks(root: Path) -> set[str]:
    def damage(path: Path) -> None:
        for name in ("superblock", "superblock.copy"):
            flip(path / name, range(0, 4096, 3))

    return reopened(root, damage)


def a_disk_that_does_not_answer(root: Path) -> set[str]:
    disk = MemoryDisk()
    with Storage(memory_config(), disk=disk) as store:
        store.put("key", b"value")
    with Storage(memory_config(read_timeout=0.001), disk=disk) as store:
        hold(disk, "read")
        assert store.get("key") is None
        hold(disk)
        release(disk)
        return moved(store)


def kept_in_memory(root: Path) -> set[str]:
    config = Config(root=str(root), memory="4MiB", disk="16MiB", keep_warm=True)
    with Storage(config) as store:
        store.put("key", b"value")
    with Storage(config) as store:
        found = moved(store)
    forget_warm(str(root))
    return found


def a_full_shm(root: Path) -> set[str]:
    config = Config(root=str(root), memory="8MiB", disk="16MiB", keep_warm=True)

    def work() -> None:
        with Storage(config) as store:
            with open("/dev/shm/ballast", "wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))
            for number in range(100):
                store.put(b"%d" % number, bytes(5000))
            assert "memory.refusals" in moved(store)

    with_small_shm(48 << 20, work)
    return {"memory.refusals"}


def processes_that_die(root: Path) -> set[str]:
    """One with the writer role, then one with the lock of a shard."""
    config = Config(root=str(root), memory="4MiB", disk="16MiB", shards=1, shared=True)
    ready, say = os.pipe()

    def write() -> None:
        store = Storage(config)
        while not store.stats()["sharing"]["is_writer"]:
            threading.Event().wait(0.001)
        os.write(say, b".")
        signal.pause()

    def lock() -> None:
        hold_shard(Storage(config), 0)
        os.kill(os.getpid(), signal.SIGKILL)

    def forked(work: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(1)
        return child

    writer = forked(write)
    assert os.read(ready, 1) == b"."
    with Storage(config) as store:
        assert store.stats()["sharing"]["writer_pid"] == writer
        assert not store.stats()["sharing"]["is_writer"]
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        while store.stats()["sharing"]["deaths"] == 0:  # the next writer cleans up
            threading.Event().wait(0.001)
        os.waitpid(forked(lock), 0)
        store.put("key", b"value")
        assert store.stats()["sharing"]["processes"] == 1
        return moved(store)


def several_processes(root: Path) -> set[str]:
    """Two stores of this process count as two processes: each has a slot of its own."""
    config = Config(
        root=str(root), shared=True, memory="8MiB", disk="64MiB", shards=1, region_size="1MiB",
        flush_size="64KiB", chunk_size="64KiB",
    )  # fmt: skip
    with Storage(config) as store, Storage(config) as other:
        asked = threading.Event()

        def compute() -> bytes:
            asked.set()
            while not store.stats()["leases"]["waits"]:
                threading.Event().wait(0.002)
            return b"result"

        thread = threading.Thread(target=store.memoize(key="f", ttl=60)(compute))
        thread.start()
        assert asked.wait(30)
        assert other.memoize(key="f", ttl=60)(lambda: b"never")() == b"result"
        thread.join(30)
        desk, theirs = store.leases, other.leases
        assert desk is not None
        assert theirs is not None
        late = desk.take(1, b"late", 0)
        held = [theirs.take(1, b"late", 60)]
        wait = desk.take(1, b"late", 60).wait
        assert wait is not None
        assert desk.wait(wait, 0) == desk.TIMED_OUT
        while (taken := desk.take(1, b"%d" % len(held), 60)).lease is not None:
            held.append(taken)
        misses = [store.get_miss_handler(f"{number}") for number in range(257)]
        hit = other.lookup_streaming_write("0", misses[0].streaming_write_tag)
        assert hit is not None
        hit.close()
        for miss in misses:
            miss.abort()
        assert late.lease is not None
        return moved(store)


SCENARIOS: dict[Callable[[Path], set[str]], set[str]] = {
    traffic: TRAFFIC,
    pinned: {"memory.pinned_bytes", "memory.zombies"},
    moving_items: {"memory.moves"},
    growing_index: {"index.grows", "index.overflow", "requests.shed.index_full"},
    shed_by_a_busy_disk: {"requests.shed.backpressure"},
    waiting_for_a_busy_disk: {
        "log.flush_waits", "log.flush_wait_us", "requests.shed.backpressure",
    },
    a_write_budget_that_runs_out: {"requests.shed.write_budget", "disk.write_budget_level"},
    values_that_fit_nowhere: {"requests.shed.too_large"},
    objects_of_any_size: {
        "requests.stream_attaches", "requests.stream_attach_misses", "requests.partial_writes",
        "objects.aborted_writes", "objects.refused_writes", "objects.shed_writes",
        "objects.sparse", "objects.sparse_bytes", "objects.memory_bytes", "objects.holes",
        "objects.hash_mismatches",
    },
    equal_chunks: {
        "objects.shared_chunks", "objects.shared_bytes", "objects.share_collisions",
        "objects.share_table",
    },
    a_full_disk: {"requests.shed.no_space", "errors.open"},
    a_dying_disk: {
        "disk.is_read_only", "requests.shed.read_only", "requests.shed.io_error",
        "errors.regions_retired", "disk.regions.retired", "log.checkpoint_failures",
        "io.failures.write", "io.errors.EIO",
    },
    a_disk_that_fails_to_sync_once: {"io.failures.sync", "errors.regions_retired"},
    a_disk_that_fails_to_read: {"io.failures.read", "io.errors.EIO"},
    a_disk_that_stutters: {"io.short_transfers", "io.interruptions"},
    reads_in_flight: {"io.in_flight"},
    a_disk_that_does_not_answer: {"log.io_timeouts"},
    the_thread_engine: {"io.threads"},
    kept_in_memory: {"recovery.is_warm"},
    a_full_shm: {"memory.refusals"},
    processes_that_die: {
        "sharing.processes", "sharing.attaches", "sharing.deaths", "sharing.writer_pid",
        "sharing.is_writer", "sharing.role_takeovers", "sharing.lock_repairs",
        "sharing.shard_resets",
    },
    several_processes: {
        "leases.takes", "leases.waits", "leases.hits", "leases.takeovers", "leases.timeouts",
        "leases.full", "leases.stream_attaches", "leases.streams_full",
    },
    damaged_records: {
        "errors.corruption.record", "recovery.seconds", "recovery.records", "recovery.regions_read",
    },
    damaged_blocks: {
        "errors.corruption.region", "errors.corruption.checkpoint", "recovery.regions_skipped",
    },
    damaged_superblocks: {"errors.corruption.superblock"},
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_what_happens_is_counted(scenario: Callable[[Path], set[str]], tmp_path: Path) -> None:
    assert SCENARIOS[scenario] - scenario(tmp_path / "root") == set()


def test_io_uring_shows_where_it_runs(tmp_path: Path) -> None:
    with Storage(Config(root=str(tmp_path / "r"), memory="1MiB", disk="16MiB")) as store:
        engine = store.stats()["engine"]
        assert engine["is_io_uring"] == (engine["io"] == "uring")
        assert bool(engine["io_fallback_reason"]) == (engine["io"] == "threads")


def test_the_scenarios_cover_the_table_of_metrics() -> None:
    covered = set().union(*SCENARIOS.values()) | {"engine.is_io_uring", "engine"}
    wanted = {
        place
        for metric in METRICS
        for place in (
            [f"{metric.path}.{word}" for word in WORDS[metric.path]]
            if metric.path in WORDS
            else [metric.path]
        )
    }
    assert wanted - covered == CANNOT_MOVE.keys()
    assert covered - wanted == set()


def test_a_registered_store_is_exported_with_what_moved(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with Storage(Config(memory="1MiB")) as store:
        collector = store.register_metrics(registry, {"store": "images"})
        store.put("key", b"value")
        store.get("key")
        value = registry.get_sample_value
        assert value("edge_cache_puts_total", {"store": "images"}) == 1
        assert value("edge_cache_hits_total", {"store": "images", "tier": "memory"}) == 1
        assert value("edge_cache_up", {"store": "images"}) == 1
    assert value("edge_cache_up", {"store": "images"}) == 0
    registry.unregister(collector)
