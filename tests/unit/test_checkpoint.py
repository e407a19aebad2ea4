"""Checkpoints: two files in turn, believed only whole, and never against what came after them."""

from __future__ import annotations

import errno
import threading

import pytest
from support.images import flip, open_on, put_image, take_image
from support.layout import CHECKPOINT, CHECKPOINT_REGION, read_superblock, sum64
from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DiskIOError

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB,
                flush_interval_s=60)  # fmt: skip


def test_the_file_is_as_documented() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for number in range(100):
        core.put(b"key-%d" % number, bytes(900))
    core.checkpoint()
    counters = core.counters()
    core.abandon()
    image = take_image(disk)
    superblock = read_superblock(image[b"superblock"])
    (name,) = (name for name in image if name.startswith(b"checkpoint"))
    page = image[name][:4096]
    fields = CHECKPOINT.unpack_from(page)
    magic, version, number, sequence, generation, stable, region_bytes = fields[:7]
    regions, shards, _, shard_bytes, objects, table_sum, total, _, floor, _, found = fields[7:]
    size = CHECKPOINT.size
    assert (magic, version) == (0x50434345, 1)
    assert found == sum64(page[: size - 8] + bytes(8) + page[size:], superblock.seed)
    assert name == (b"checkpoint.b" if number & 1 else b"checkpoint.a")
    assert (region_bytes, regions) == (superblock.region_bytes, counters["region_count"])
    assert (objects, shards, total) == (100, 1, len(image[name]))
    assert stable <= generation
    assert floor <= sequence
    table_bytes = (regions * 32 + 4095) // 4096 * 4096
    table = image[name][4096 : 4096 + table_bytes]
    assert table_sum == sum64(table, superblock.seed)
    rows = [CHECKPOINT_REGION.unpack_from(table, 32 * n) for n in range(regions)]
    assert sum(row[5] for row in rows) == counters["disk_used_bytes"]
    shard = image[name][4096 + table_bytes :][:4096]
    assert shard_bytes <= 4096 - 16
    area = image[name][4096 + table_bytes + 4096 :]
    assert int.from_bytes(shard[-16:-8], "little") == sum64(area, superblock.seed)
    assert int.from_bytes(shard[-8:], "little") == sum64(shard[:-8], superblock.seed)


@pytest.mark.parametrize("damage", [0, 1, 2])
def test_a_damaged_checkpoint_costs_time_but_no_entry(damage: int) -> None:
    """The newest, the older or both: what they knew is found in the log."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = {}
    for number in range(300):
        key = b"key-%d" % (number % 150)
        values[key] = make_value(key, number, 800)
        core.put(key, values[key])
        if number in (100, 200):
            core.checkpoint()
    core.delete(b"key-7")
    values.pop(b"key-7")
    core.sync()
    core.abandon()
    image = take_image(disk)
    for name in ((b"checkpoint.a",), (b"checkpoint.b",), (b"checkpoint.a", b"checkpoint.b"))[
        damage
    ]:
        image[name] = flip(image[name], 8 * 9000)
    disk = put_image(image)
    for _ in range(3):
        core = open_on(disk, STORE)
        assert {k: core.get(k) for k in (b"key-%d" % n for n in range(150))} == {
            b"key-%d" % n: values.get(b"key-%d" % n) for n in range(150)
        }
        core.abandon()


def test_a_checkpoint_that_could_not_be_read_once_never_passes_for_the_newest_later() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"old")
    for _ in range(6):
        core.checkpoint()
    core.abandon()
    io.fail(disk, "open", errno.EIO, nth=4, count=2)
    core = open_on(disk, STORE)
    io.heal(disk)
    core.delete(b"key")
    core.checkpoint()
    core.checkpoint()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"key") is None
    core.close()


def test_large_puts_that_meet_a_checkpoint_survive_a_crash() -> None:
    """A large record is on the device before it is in the index; a checkpoint may fall between."""
    for seed in range(6):
        disk = MemoryDisk()
        core = open_on(disk, {**STORE, "disk_bytes": 32 * MIB, "region_bytes": MIB})
        stop = threading.Event()

        def keep_checkpointing(core: object = core, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                core.checkpoint()  # type: ignore[attr-defined]

        thread = threading.Thread(target=keep_checkpointing)
        thread.start()
        values = {}
        for number in range(60):
            key = b"key-%d" % (number % 20)
            values[key] = make_value(key, seed * 100 + number, 90_000)
            assert core.put(key, values[key])
            if number % 7 == 6:
                core.delete(key)
                values.pop(key)
        stop.set()
        thread.join()
        core.sync()
        core.abandon()
        core = open_on(disk, {**STORE, "disk_bytes": 32 * MIB, "region_bytes": MIB})
        assert {k: core.get(k) for k in (b"key-%d" % n for n in range(20))} == {
            b"key-%d" % n: values.get(b"key-%d" % n) for n in range(20)
        }
        core.close()


def test_a_failed_checkpoint_is_told_and_the_older_one_serves() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"value")
    core.checkpoint()
    core.put(b"more", b"value")
    core.flush()
    io.fail(disk, "write", errno.EIO, count=-1)
    with pytest.raises(DiskIOError):
        core.checkpoint()
    io.heal(disk)
    assert core.counters()["checkpoint_errors"] == 1
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"key") == b"value"
    assert core.get(b"more") == b"value"
    core.close()


@pytest.mark.parametrize("which", ["newest", "older", "both"])
@pytest.mark.parametrize("bit", [0, 70, 900, 4096 * 8 - 1])
def test_a_damaged_header_is_counted_and_the_next_checkpoint_replaces_it(
    which: str, bit: int
) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"key", b"value")
    core.checkpoint()
    core.close()
    image = take_image(disk)
    names = sorted(
        (name for name in image if name.startswith(b"checkpoint")),
        key=lambda name: image[name][8:16][::-1],
        reverse=True,
    )
    assert len(names) == 2
    hit = {"newest": names[:1], "older": names[1:], "both": names}[which]
    disk = put_image({**image, **{name: flip(image[name], bit) for name in hit}})
    core = open_on(disk, STORE)
    assert core.counters()["recovery_checkpoints_damaged"] == len(hit)
    assert core.get(b"key") == b"value"
    until(lambda: core.counters()["checkpoints"] > 0)
    core.checkpoint()
    core.close()
    core = open_on(disk, STORE)
    assert core.counters()["recovery_checkpoints_damaged"] == 0
    core.close()


def test_a_checkpoint_that_was_cut_off_is_no_damage() -> None:
    """Its header is zero until its parts are there; an empty file comes even before that."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"value")
    core.checkpoint()
    core.close()
    image = take_image(disk)
    for content in (b"", bytes(4096), bytes(4096) + image[b"checkpoint.a"][4096:]):
        core = open_on(put_image({**image, b"checkpoint.a": content}), STORE)
        assert core.counters()["recovery_checkpoints_damaged"] == 0
        assert core.get(b"key") == b"value"
        core.abandon()
