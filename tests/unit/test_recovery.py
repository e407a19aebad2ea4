"""Recovery: what was there is there again, under numbers that were never used before."""

from __future__ import annotations

import errno

import pytest
from support.images import open_on, put_image, take_image
from support.layout import read_region, read_superblock
from support.model import KIB, MIB, make_value, options

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB,
                flush_interval_s=60)  # fmt: skip


def values_of(count: int) -> dict[bytes, bytes]:
    return {
        b"key-%d" % n: make_value(b"key-%d" % n, n, (30, 900, 4000)[n % 3]) for n in range(count)
    }


def highest(disk: MemoryDisk) -> tuple[int, int]:
    """Highest generation and sequence on the medium."""
    image = take_image(disk)
    superblock = read_superblock(image[b"superblock"])
    data, size = image[b"data/00000000.edge"], superblock.region_bytes
    blocks = [block for n in range(0, len(data) - size + 1, size)
              for block in read_region(data[n : n + size], superblock.seed)]  # fmt: skip
    return max(b.generation for b in blocks), max(b.sequence_max for b in blocks)


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_everything_is_found_again(with_checkpoint: bool) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = values_of(300)
    for number, (key, value) in enumerate(values.items()):
        assert core.put(key, value)
        if with_checkpoint and number == 150:
            core.checkpoint()
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    counters = core.counters()
    assert counters["recovery_objects"] == 300
    assert counters["recovery_checkpoint_loaded"] is with_checkpoint
    assert counters["recovery_replayed"] < 300 if with_checkpoint else True
    assert {key: core.get(key) for key in values} == values
    core.close()


def test_a_clean_close_leaves_nothing_to_replay() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = values_of(300)
    for key, value in values.items():
        core.put(key, value)
    core.close()
    core = open_on(disk, STORE)
    counters = core.counters()
    assert (counters["recovery_replayed"], counters["recovery_checkpoint_clean"]) == (0, True)
    assert {key: core.get(key) for key in values} == values
    core.close()


def test_a_torn_tail_is_dropped_and_what_was_before_it_survives() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = values_of(60)
    for key, value in values.items():
        core.put(key, value)
    core.sync()
    before = take_image(disk)
    for number in range(60):
        core.put(b"late-%d" % number, bytes(500))
    core.flush()
    core.abandon()
    after = take_image(disk)
    name = b"data/00000000.edge"
    changed = [n for n in range(0, len(after[name]), 512)
               if after[name][n : n + 512] != before[name][n : n + 512]]  # fmt: skip
    for keep in range(0, len(changed), max(1, len(changed) // 25)):
        torn = bytearray(before[name])
        for sector in changed[:keep]:
            torn[sector : sector + 512] = after[name][sector : sector + 512]
        core = open_on(put_image({**after, name: bytes(torn)}), STORE)
        assert {key: core.get(key) for key in values} == values
        assert all(core.get(b"late-%d" % n) in (None, bytes(500)) for n in range(60))
        core.close()


def test_numbers_start_above_everything_that_a_lost_write_may_have_used() -> None:
    disk = MemoryDisk()
    seen = [(0, 0)]
    for life in range(4):
        core = open_on(disk, STORE)
        core.put(b"key-%d" % life, b"value")
        core.sync()
        durable = highest(disk)
        assert durable[0] > seen[-1][0]
        assert durable[1] > seen[-1][1]
        # Written, visible, and lost with the power: their numbers must not be given out again.
        for number in range(200):
            core.put(b"lost-%d-%d" % (life, number), bytes(1000))
        core.flush()
        seen.append(highest(disk))
        io.power_cut(disk, mode="drop")
        core.abandon()


def test_a_region_that_could_not_be_read_never_returns_with_old_values() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"old")
    core.sync()
    core.abandon()
    io.fail(disk, "read", errno.EIO, nth=3, count=3)
    core = open_on(disk, STORE)
    io.heal(disk)
    core.delete(b"key")
    core.sync()
    core.checkpoint()
    for _ in range(2):
        core.abandon()
        core = open_on(disk, STORE)
        assert core.get(b"key") is None
    core.close()


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes": 64 * MIB, "shards": 4},
        {"disk_bytes": 8 * MIB},
        {"buffer_bytes": 16 * KIB},
        {"direct": False},
    ],
)
def test_a_changed_configuration_keeps_the_entries(change: dict[str, object]) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = values_of(200)
    for key, value in values.items():
        core.put(key, value)
    core.delete(b"key-3")
    values.pop(b"key-3")
    core.close()
    core = open_on(disk, {**STORE, **change})
    assert {key: core.get(key) for key in values} == values
    assert core.get(b"key-3") is None
    core.close()


def test_a_smaller_disk_budget_keeps_what_fits_and_brings_nothing_back_when_it_grows() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for number in range(900):
        core.put(b"key-%d" % number, bytes(3000))
    core.close()
    small = {**STORE, "disk_bytes": MIB}
    core = open_on(disk, small)
    for number in range(900):
        core.delete(b"key-%d" % number)
    core.sync()
    core.close()
    core = open_on(disk, STORE)
    assert [core.get(b"key-%d" % number) for number in range(900)] == [None] * 900
    core.close()
