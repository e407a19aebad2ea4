"""Reads from disk and views: overlapping batches, learnt spans, sectors, ready objects."""

from __future__ import annotations

import asyncio
import errno
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import open_on
from support.model import KIB, MIB, options

from edgecache import Config, Meta, Storage
from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._core_async import AsyncReader
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk

STORE = options(disk_bytes=32 * MIB, region_bytes=1 * MIB, buffer_bytes=256 * KIB)
ENGINES = ("uring", "threads", "memory")


def content(number: int, size_bytes: int) -> bytes:
    return random.Random(number).randbytes(size_bytes)


def fill(core: Core, sizes_bytes: list[int]) -> dict[bytes, bytes]:
    """Entries that are on disk; nearly all of them left RAM again."""
    entries = {b"key-%d" % n: content(n, size) for n, size in enumerate(sizes_bytes)}
    # The first to come stay in RAM, what follows passes through.
    for number in range(40):
        assert core.put(b"first-%d" % number, bytes(60 * KIB))
    for key, value in entries.items():
        assert core.put(key, value)
    for number in range(40):
        assert core.put(b"last-%d" % number, bytes(60 * KIB))
    core.sync()
    return entries


@pytest.fixture(params=ENGINES)
def core(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Core]:
    engine = open_engine(request.param, tmp_path)
    found = Core(STORE, engine)
    yield found
    found.close()


@pytest.fixture
def memory_core() -> Iterator[Core]:
    found = open_on(MemoryDisk(), STORE)
    yield found
    found.close()


def test_a_batch_of_any_sizes_gives_every_value_in_its_place(core: Core) -> None:
    """More keys than fit a round; values below a sector and above the pool's rows; misses."""
    generator = random.Random(1)
    sizes = [generator.choice((0, 1, 500, 4096, 5000, 9000, 70_000)) for _ in range(500)]
    sizes += [200_000, 300_000]
    entries = fill(core, sizes)
    keys = [*entries, *(b"absent-%d" % n for n in range(50)), *entries]
    generator.shuffle(keys)
    before = core.counters()
    assert core.get_many(keys) == [entries.get(key) for key in keys]
    after = core.counters()
    assert after["disk_reads"] - before["disk_reads"] > 300
    assert after["misses"] - before["misses"] == 50
    assert core.check() == []


def test_a_batch_survives_failing_and_short_reads_and_serves_the_next() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    entries = fill(core, [4096] * 400)
    keys = list(entries)
    io.disturb(disk, seed=3, short_one_in=3, shuffle=True, delay_reaps=1)
    io.fail(disk, "read", errno.EIO, nth=20, count=60)
    found = core.get_many(keys)
    lost = sum(value is None for value in found)
    assert all(value in (None, entries[key]) for key, value in zip(keys, found, strict=True))
    assert 0 < lost <= 60
    io.heal(disk)
    # A read that failed says nothing about the record: it is there when the device reads again.
    assert core.get_many(keys) == list(entries.values())
    core.close()


def test_batches_of_several_threads_do_not_mix(core: Core) -> None:
    entries = fill(core, [3000] * 300)
    wrong: list[bytes] = []

    def read(seed: int) -> None:
        keys = list(entries)
        for turn in range(5):
            random.Random(seed * 10 + turn).shuffle(keys)
            found = core.get_many(keys)
            wrong.extend(k for k, v in zip(keys, found, strict=True) if v != entries[k])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert core.check() == []


def test_a_finalizer_may_ask_for_a_batch_in_the_middle_of_one(memory_core: Core) -> None:
    entries = fill(memory_core, [4000] * 300)
    keys = list(entries)
    asked = []

    class Cycle:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            asked.append(memory_core.get_many(keys[:20]) == [entries[k] for k in keys[:20]])

    thresholds = gc.get_threshold()
    for _ in range(50):
        Cycle()
    gc.set_threshold(1)
    try:
        found = memory_core.get_many(keys)
    finally:
        gc.set_threshold(*thresholds)
    assert found == list(entries.values())
    gc.collect()
    assert len(asked) == 50
    assert all(asked)


def test_a_cold_4_kib_value_costs_no_more_than_its_sectors(memory_core: Core) -> None:
    entries = fill(memory_core, [4096] * 400)
    keys = list(entries)
    for key in keys[:10]:
        memory_core.get(key)
    before = memory_core.counters()
    for key in keys[10:200]:
        assert memory_core.get(key) == entries[key]
    after = memory_core.counters()
    reads = after["disk_reads"] - before["disk_reads"]
    assert reads > 150
    assert (after["disk_read_bytes"] - before["disk_read_bytes"]) / reads <= 4096 + 1024


def test_a_record_longer_than_its_kind_is_read_whole_and_remembered(memory_core: Core) -> None:
    """4,100 and 4,900 bytes are of one size class; only the short ones were met before."""
    entries = fill(memory_core, [4100] * 300 + [4900] * 20)
    keys = list(entries)
    for key in keys[:50]:
        assert memory_core.get(key) == entries[key]
    reads = []
    for key in keys[300:]:
        before = memory_core.counters()["disk_reads"]
        assert memory_core.get(key) == entries[key]
        reads.append(memory_core.counters()["disk_reads"] - before)
    # Those still in RAM need none; the first from disk needs two, the others one.
    assert [count for count in reads if count] == [2] + [1] * (len(reads) - reads.count(0) - 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_more_awaited_reads_than_a_turn_or_a_channel_takes(engine: str, tmp_path: Path) -> None:
    core = Core(STORE, open_engine(engine, tmp_path))
    entries = fill(core, [2500] * 700)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = AsyncReader(core)
        futures = {key: loop.create_future() for key in entries}

        def resolve(pairs: list[tuple[asyncio.Future[bytes | None], bytes | None]]) -> None:
            for future, value in pairs:
                future.set_result(value)

        loop.add_reader(reader.fileno(), lambda: resolve(reader.reap()))
        for key, future in futures.items():
            reader.submit(key, future)
        resolve(reader.flush())
        found = await asyncio.wait_for(asyncio.gather(*futures.values()), 30)
        assert found == list(entries.values())
        assert reader.pending == 0
        loop.remove_reader(reader.fileno())
        reader.close()

    asyncio.run(main())
    core.close()


def test_a_view_of_a_small_value_is_ready_the_second_time_and_pins_nothing() -> None:
    core = Core(options(disk_bytes=0, front_bytes=64 * KIB), None)
    for number in range(20):
        core.put(b"key-%d" % number, content(number, 100))
    views = [core.view(b"key-%d" % number) for number in range(20)]
    assert core.counters()["memory_pinned_bytes"] == 0
    hits = core.counters()["front_hits"]
    again = [core.view(b"key-%d" % number) for number in range(20)]
    assert core.counters()["front_hits"] - hits >= 15
    for number, (first, second) in enumerate(zip(views, again, strict=True)):
        assert first is not None
        assert second is not None
        assert bytes(first) == bytes(second) == content(number, 100)
    core.close()


def test_a_ready_view_follows_an_overwrite_and_a_delete() -> None:
    core = Core(options(disk_bytes=0, front_bytes=64 * KIB), None)
    core.put(b"key", b"first")
    old = core.view(b"key")
    assert old is not None
    assert bytes(old) == b"first"
    core.put(b"key", b"second")
    new = core.view(b"key")
    assert new is not None
    assert (bytes(old), bytes(new)) == (b"first", b"second")
    core.delete(b"key")
    assert core.view(b"key") is None
    assert bytes(new) == b"second"
    core.close()


def test_views_do_not_push_ready_objects_out() -> None:
    """What `get` made ready stays, however many other keys are viewed."""
    core = Core(options(disk_bytes=0, front_bytes=16 * KIB), None)
    for number in range(2000):
        core.put(b"key-%d" % number, content(number, 100))
    for number in range(200):
        core.get(b"key-%d" % number)
    items = core.counters()["front_items"]
    for number in range(200, 2000):
        blob = core.view(b"key-%d" % number)
        assert blob is not None
        assert bytes(blob) == content(number, 100)
    after = core.counters()
    assert after["front_bytes"] <= after["front_budget_bytes"]
    hits = after["front_hits"]
    for number in range(199, 199 - items // 2, -1):
        core.get(b"key-%d" % number)
    # All but a few: a get of a key that went puts another one out of its place.
    assert core.counters()["front_hits"] - hits >= items * 3 // 8
    core.close()


def test_a_large_view_pins_until_its_release() -> None:
    core = Core(options(disk_bytes=0), None)
    core.put(b"key", content(1, 20_000))
    blob = core.view(b"key")
    assert blob is not None
    assert core.counters()["memory_pinned_bytes"] >= 20_000
    blob.release()
    assert core.counters()["memory_pinned_bytes"] == 0
    blob = core.view(b"key")
    del blob
    assert core.counters()["memory_pinned_bytes"] == 0
    core.close()


class Trap:
    """Garbage that reads the store when the collector finds it."""

    def __init__(self, store: Storage, seen: list[object]) -> None:
        self.store = store
        self.seen = seen
        self.me = self

    def __del__(self) -> None:
        self.seen.append(self.store.get_entry("k"))


def test_a_collection_in_the_middle_of_a_read_may_read_the_same_shard() -> None:
    """It deadlocked: the tuple of an entry was made, and the collector run, under the lock."""
    with Storage(Config(memory="4MiB", shards=1)) as store:
        assert store.put("k", b"value", meta=Meta(created=1, updated=2, fresh_until=1 << 61))
        seen: list[object] = []
        before = gc.get_threshold()
        try:
            for _ in range(50):
                Trap(store, seen)
                gc.set_threshold(1)
                found = store.read_entry("k")
                gc.set_threshold(*before)
                assert found is not None
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert len(seen) == 50
