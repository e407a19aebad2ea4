"""A disk that does not answer costs a deadline: a miss, a shed put, a counter, and no thread.

The memory engine holds requests until they are released, so nothing here depends on how long
anything takes: each call returns while its request is still held.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest
from support.images import open_on
from support.model import KIB, MIB, make_value, options, until

from edgecache import AsyncStorage, Config, Storage
from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk

STORE = options(
    disk_bytes=8 * MIB, buffer_bytes=64 * KIB, buffer_count=2, block_timeout_s=0.05,
    read_timeout_s=0.02, write_timeout_s=0.02,
)  # fmt: skip
KEYS = [b"key-%d" % number for number in range(20)]
VALUES = {key: make_value(key, number, 9000) for number, key in enumerate(KEYS)}


@pytest.fixture
def disk() -> MemoryDisk:
    """A disk that has the values; nothing of them is in RAM when it is opened."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert all(core.put(key, value) for key, value in VALUES.items())
    core.close()
    return disk


def let_go(disk: MemoryDisk) -> None:
    io.hold(disk)
    io.release(disk)


def counters(core: Any) -> dict[str, Any]:
    found: dict[str, Any] = core.counters()
    return found


def test_a_read_that_takes_too_long_is_a_miss_and_the_next_ones_do_not_wait_for_it(
    disk: MemoryDisk,
) -> None:
    core = open_on(disk, STORE)
    assert core.get(KEYS[0]) == VALUES[KEYS[0]]
    io.hold(disk, "read")
    assert core.get(KEYS[1]) is None
    assert core.get(KEYS[2]) is None
    assert core.get(KEYS[0]) == VALUES[KEYS[0]]  # in RAM
    assert (counters(core)["io_timeouts"], counters(core)["io_overdue"]) == (2, 2)
    assert core.check() == []
    let_go(disk)
    assert {key: core.get(key) for key in KEYS} == VALUES
    assert counters(core)["io_overdue"] == 0
    core.close()


def test_more_reads_than_there_are_lanes_are_misses_too(disk: MemoryDisk) -> None:
    core = open_on(disk, {**STORE, "read_timeout_s": 0.001})
    io.hold(disk, "read")
    assert [core.get(KEYS[number % 20]) for number in range(100)] == [None] * 100
    assert counters(core)["io_overdue"] == 64
    let_go(disk)
    assert {key: core.get(key) for key in KEYS} == VALUES
    core.close()


def test_a_batch_that_takes_too_long_is_misses_and_its_channel_serves_again_later(
    disk: MemoryDisk,
) -> None:
    core = open_on(disk, STORE)
    io.hold(disk, "read")
    misses = counters(core)["misses"]
    assert core.get_many(KEYS) == [None] * len(KEYS)
    assert core.get_many(KEYS[:3]) == [None] * 3
    assert counters(core)["misses"] == misses + len(KEYS) + 3
    assert core.check() == []
    let_go(disk)
    assert core.get_many(KEYS) == list(VALUES.values())
    assert core.get_many(KEYS) == list(VALUES.values())
    core.close()


def test_a_store_with_overdue_reads_can_be_closed(disk: MemoryDisk) -> None:
    core = open_on(disk, STORE)
    io.hold(disk, "read")
    assert core.get(KEYS[1]) is None
    assert core.get_many(KEYS[2:9]) == [None] * 7
    core.close()
    let_go(disk)
    core = open_on(disk, STORE)
    assert {key: core.get(key) for key in KEYS} == VALUES
    core.close()


def test_puts_are_shed_while_the_disk_takes_nothing_and_what_was_acknowledged_is_kept(
    disk: MemoryDisk,
) -> None:
    core = open_on(disk, STORE)
    io.hold(disk, "write")
    stored = {}
    shed = 0
    for number in range(40):
        key, value = b"new-%d" % number, make_value(b"new", number, 9000)
        if core.put(key, value):
            stored[key] = value
        else:
            shed += 1
        if shed == 3:
            break
    assert shed == 3
    assert counters(core)["shed"]["backpressure"] == 3
    assert {key: core.get(key) for key in stored} == stored
    let_go(disk)
    core.sync()
    assert counters(core)["io_overdue"] == 0
    core.abandon()
    core = open_on(disk, STORE)
    assert {key: core.get(key) for key in stored} == stored
    assert core.check() == []
    core.close()


@pytest.mark.parametrize("crashes", [False, True])
def test_a_large_value_whose_write_takes_too_long_is_shed(disk: MemoryDisk, crashes: bool) -> None:
    core = open_on(disk, STORE)
    large = make_value(b"large", 1, 150 * KIB)
    io.hold(disk, "write")
    assert core.put(b"large", large) is False
    assert core.put(KEYS[0], large) is False
    assert core.get(b"large") is None
    assert core.check() == []
    let_go(disk)
    until(lambda: core.sync() is None and counters(core)["io_overdue"] == 0)
    assert core.put(b"later", large)
    core.sync()
    if crashes:
        core.abandon()
        core = open_on(disk, STORE)
    assert core.get(b"large") is None
    assert core.get(KEYS[0]) in (None, VALUES[KEYS[0]])
    assert core.get(b"later") == large
    assert core.check() == []
    core.close()


def test_overwriting_and_deleting_what_cannot_be_read_does_not_wait(disk: MemoryDisk) -> None:
    core = open_on(disk, STORE)
    io.hold(disk, "read")
    assert core.put(KEYS[0], b"new")
    core.delete(KEYS[1])
    assert core.get(KEYS[0]) == b"new"
    assert core.get(KEYS[1]) is None
    let_go(disk)
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(KEYS[0]) == b"new"
    assert core.get(KEYS[1]) is None
    core.close()


def test_an_awaited_read_that_takes_too_long_is_a_miss(disk: MemoryDisk) -> None:
    async def ask() -> None:
        config = Config(io="memory", root="unused", memory=2 * MIB, disk=16 * MIB, region_size=MIB,
                        read_timeout=0.02, shards=1)  # fmt: skip
        async with AsyncStorage(config, disk=disk) as store:
            io.hold(disk, "read")
            assert await store.get(KEYS[0]) is None
            assert await store.get_many(KEYS[1:5]) == [None] * 4
            assert counters(store.storage)["io_timeouts"] == 5
            let_go(disk)
            assert await store.get_many(KEYS) == list(VALUES.values())

    asyncio.run(ask())


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_a_process_without_descriptors_reads_as_before(tmp_path: Path, engine: str) -> None:
    """No channel can be opened for a batch, no lane, no loop's reader."""
    config = Config(root=str(tmp_path / "root"), io=engine, memory=4 * MIB, disk=32 * MIB,
                    region_size=MIB, read_timeout=5)  # fmt: skip
    with Storage(config) as store:
        store.put_many(VALUES)

    async def awaited(store: Storage) -> list[bytes | None]:
        face = AsyncStorage(storage=store)
        return [await face.get(KEYS[15]), *await face.get_many(KEYS[16:])]

    with Storage(config) as store:
        loop = asyncio.new_event_loop()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            alone = store.get(KEYS[0])
            together = store.get_many(KEYS[1:15])
            rest = loop.run_until_complete(awaited(store))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            loop.close()
        assert [alone, *together, *rest] == list(VALUES.values())
