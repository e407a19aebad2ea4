"""What the log had no room for, or was refused late, does not come back after a crash."""

from __future__ import annotations

import errno
import threading

import pytest
from support.images import open_on
from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DiskIOError

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB,
                block=False)  # fmt: skip
CUTS = ("kill", "drop", "random")


def crash(core: Core, disk: MemoryDisk, cut: str) -> Core:
    if cut != "kill":
        io.power_cut(disk, seed=1, mode=cut)
    core.abandon()
    return open_on(disk, STORE)


KEYS = [b"key-%d" % number for number in range(20)]


def delete_without_log_space(core: Core) -> bytes:
    """A key that was deleted without a tombstone; the caller holds the writes.

    A put that is shed says that the buffers are full. A checkpoint may free one just then, and the
    delete is an ordinary one: another key has to serve.
    """
    numbers = iter(range(100_000))
    for key in KEYS:
        while core.put(b"fill-%d" % next(numbers), bytes(3000)):
            pass
        assert core.delete(key)
        assert core.get(key) is None
        if core.counters()["unlogged_deletes"]:
            return key
    raise AssertionError("the buffers never filled")


def put_keys(core: Core) -> None:
    for key in KEYS:
        assert core.put(key, b"value")
    core.sync()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_delete_without_log_space_is_durable_after_the_next_sync(where: str, cut: str) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"other", b"stays")
    put_keys(core)
    if where == "disk":
        core.abandon()
        core = open_on(disk, STORE)
    io.hold(disk, "write")
    key = delete_without_log_space(core)
    io.heal(disk)
    core.sync()
    for _ in range(2):
        core = crash(core, disk, cut)
        gone = KEYS[: KEYS.index(key) + 1]
        assert [core.get(each) for each in gone] == [None] * len(gone)
        assert core.get(b"other") == b"stays"
    core.close()


@pytest.mark.parametrize("cut", CUTS)
def test_a_delete_without_log_space_gets_a_checkpoint_without_a_sync(cut: str) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    put_keys(core)
    io.hold(disk, "write")
    before = core.counters()["checkpoints"]
    key = delete_without_log_space(core)
    io.heal(disk)
    until(lambda: core.counters()["checkpoints"] > before)
    core = crash(core, disk, cut)
    assert core.get(key) is None
    core.close()


def test_a_sync_fails_while_an_unlogged_delete_cannot_be_made_durable() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"key", b"value")
    core.sync()
    io.fail(disk, "write", errno.EIO, count=-1)
    for number in range(100):
        core.put(b"fill-%d" % number, bytes(20_000))
    until(lambda: core.counters()["is_read_only"], lambda: core.put(b"more", bytes(20_000)))
    assert core.delete(b"key")
    for _ in range(3):
        with pytest.raises(DiskIOError):
            core.sync()
    io.heal(disk)
    until(lambda: not core.counters()["is_read_only"])
    core.sync()
    core = crash(core, disk, "drop")
    assert core.get(b"key") is None
    core.close()


def test_unlogged_deletes_and_large_puts_on_their_way_do_not_stop_a_sync() -> None:
    """A large record holds the floor of checkpoints down; the sync waits for one after it."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    put_keys(core)
    io.hold(disk, "write")
    writer = threading.Thread(target=core.put, args=(b"large", bytes(60_000)))
    writer.start()
    key = delete_without_log_space(core)
    assert core.delete(b"large") in (True, False)
    io.heal(disk)
    core.sync()
    writer.join()
    core = crash(core, disk, "kill")
    assert core.get(key) is None
    core.close()


def index_full(core: Core) -> int:
    """Fill the index with values that RAM does not keep; the number of the first refused one."""
    for number in range(400_000):
        if not core.put(b"%d" % number, b""):
            assert core.counters()["shed"]["index_full"] == 1
            return number
    raise AssertionError("the index never filled")


@pytest.mark.parametrize("size", [0, 500, 60_000])
@pytest.mark.parametrize("existed", [True, False])
def test_a_put_that_found_no_slot_is_not_there_after_a_crash(size: int, existed: bool) -> None:
    disk = MemoryDisk()
    store = {**STORE, "memory_bytes": 1 * MIB, "disk_bytes": 64 * MIB, "region_bytes": MIB,
             "front_bytes": 0, "block": True, "block_timeout_s": 5.0}  # fmt: skip
    core = open_on(disk, store)
    old = make_value(b"key", 1, 300)
    if existed:
        assert core.put(b"key", old)
        core.sync()
    index_full(core)
    refused = 0
    for number in range(200):
        key = b"key" if existed and number == 0 else b"key-%d" % number
        value = make_value(key, 2, size)
        if core.put(key, value):
            continue
        refused += 1
        assert core.get(key) is None
        core.flush()
        core.abandon()
        # With more memory there is room for whatever a recovery finds.
        core = open_on(disk, {**store, "memory_bytes": 8 * MIB})
        assert core.get(key) is None
        break
    assert refused
    core.close()
