"""Zeroes ahead of the log never meet a record; threads that sync together share the work."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from support.images import open_on
from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache import _testing_log as log
from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DiskIOError

STORE = options(disk_bytes=32 * MIB, region_bytes=512 * KIB, flush_interval_s=60)
# Records of a few bytes, of most of a buffer, and large ones with a block of their own.
SIZES = (10, 900, 5000, 40_000, 100_000)


@pytest.mark.parametrize("seed", range(4))
def test_prewriting_between_puts_changes_no_record(seed: int) -> None:
    generator = random.Random(seed)
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = {}
    for number in range(250):
        key = b"key-%d" % number
        values[key] = make_value(key, number, generator.choice(SIZES))
        assert core.put(key, values[key])
        if generator.random() < 0.4:
            core.sync()
        if generator.random() < 0.5:
            log.prewrite(core, generator.choice((4096, 64 * KIB, MIB)))
    core.sync()
    log.prewrite(core, MIB)
    assert log.prewritten_bytes(core) > 0
    assert core.check() == []
    # Nothing from RAM, nothing from a write buffer.
    core.abandon()
    io.power_cut(disk, seed=seed)
    core = open_on(disk, STORE)
    assert {key: core.get(key) for key in values} == values
    core.close()


def test_space_is_prewritten_for_those_who_sync_and_for_nobody_else(tmp_path: Path) -> None:
    core = Core(STORE, open_engine("threads", str(tmp_path)))
    for number in range(20):
        assert core.put(b"key-%d" % number, bytes(5000))
    core.flush()
    core.checkpoint()
    assert log.prewritten_bytes(core) == 0
    core.sync()
    until(lambda: log.prewritten_bytes(core) > 0)
    for number in range(20):
        assert core.put(b"other-%d" % number, bytes(5000))
        core.sync()
    core.abandon()
    core = Core(STORE, open_engine("threads", str(tmp_path)))
    assert all(core.get(b"other-%d" % number) == bytes(5000) for number in range(20))
    core.close()


def test_prewriting_beside_putting_threads_changes_no_record() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values: dict[bytes, bytes] = {}
    ended = threading.Event()
    failures: list[BaseException] = []

    def put(worker: int) -> None:
        try:
            for number in range(120):
                key = b"key-%d-%d" % (worker, number)
                value = make_value(key, number, SIZES[(worker + number) % len(SIZES)])
                assert core.put(key, value)
                values[key] = value
                if number % 3 == 0:
                    core.sync()
        except BaseException as error:
            failures.append(error)

    def prewrite() -> None:
        try:
            while not ended.is_set():
                log.prewrite(core, 128 * KIB)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=put, args=(number,)) for number in range(3)]
    prewriter = threading.Thread(target=prewrite)
    for thread in (*writers, prewriter):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    prewriter.join()
    assert failures == []
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert {key: core.get(key) for key in values} == values
    assert core.check() == []
    core.close()


def test_no_record_is_placed_where_zeroes_are_being_written() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"first", b"x")
    core.sync()
    log.prewrite_begin(core, 128 * KIB)
    number = 0
    while core.try_put(b"key-%d" % number, bytes(8000)) is not None:
        number += 1
        core.flush()
        assert number < 128 * KIB // 8000
    # Puts that may wait get their places when they are written; one of these has its own block.
    sizes = {b"small": 8000, b"large": 100_000}
    putters = [
        threading.Thread(target=core.put, args=(key, bytes(size))) for key, size in sizes.items()
    ]
    for putter in putters:
        putter.start()
    log.prewrite_end(core)
    for putter in putters:
        putter.join()
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert all(core.get(key) == bytes(size) for key, size in sizes.items())
    assert core.get(b"first") == b"x"
    core.close()


def test_a_device_that_refuses_zeroes_loses_nothing() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"key", b"value")
    core.sync()
    io.fail(disk, "write", errno.EIO)
    log.prewrite(core, MIB)
    assert core.put(b"other", b"value")
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"key") == core.get(b"other") == b"value"
    core.close()


def waiting_threads(core: Any, count: int) -> tuple[list[threading.Thread], list[bool]]:
    """Threads that put one value each, and wait in `sync` behind another thread that leads one."""
    told: list[bool] = []

    def work(number: int) -> None:
        assert core.put(b"key-%d" % number, make_value(b"key", number, 3000))
        try:
            core.sync()
            told.append(True)
        except DiskIOError:
            told.append(False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    until(lambda: log.sync_waiting(core) == count)
    return threads, told


def test_threads_that_wait_for_a_sync_share_the_next_one() -> None:
    disk = MemoryDisk()
    core = open_on(disk, options(flush_interval_s=60))
    assert core.put(b"first", b"x")
    core.sync()
    before = core.counters()
    log.sync_begin(core)
    threads, told = waiting_threads(core, 12)
    log.sync_end(core)
    for thread in threads:
        thread.join()
    after = core.counters()
    assert told == [True] * 12
    assert after["flushes"] - before["flushes"] == 1
    assert after["syncs"] - before["syncs"] == 1
    core.abandon()
    io.power_cut(disk, mode="drop")
    core = open_on(disk, options())
    for number in range(12):
        assert core.get(b"key-%d" % number) == make_value(b"key", number, 3000)
    core.close()


def test_all_who_wait_hear_that_the_sync_they_shared_failed() -> None:
    disk = MemoryDisk()
    core = open_on(disk, options(flush_interval_s=60))
    assert core.put(b"first", b"x")
    core.sync()
    log.sync_begin(core)
    threads, told = waiting_threads(core, 6)
    io.fail(disk, "sync", errno.EIO)
    log.sync_end(core)
    for thread in threads:
        thread.join()
    assert told == [False] * 6
    core.close()
