"""Reclaim: regions come free for ever, and nothing that a reclaimed region hid comes back."""

from __future__ import annotations

import errno
import random

import pytest
from support.images import LONG, open_on, take_image
from support.layout import read_footer, read_superblock
from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._io_memory import MemoryDisk

STORE = options(region_bytes=64 * KIB, disk_bytes=MIB, buffer_bytes=16 * KIB)


def fill(core: Core, count: int, size: int = 3000, prefix: bytes = b"fill") -> int:
    """Returns how many puts were taken."""
    return sum(core.put(b"%b-%d" % (prefix, number), bytes(size)) for number in range(count))


def test_a_full_store_takes_puts_for_ever() -> None:
    core = open_on(MemoryDisk(), STORE)
    assert fill(core, 4000) == 4000
    assert core.counters()["reclaimed_regions"] > 100
    assert core.check() == []
    core.close()


@pytest.mark.parametrize("regions", [4, 5, 7, 16])
@pytest.mark.parametrize("kind", ["overwrite", "delete", "tiny"])
def test_tombstones_never_fill_the_log(regions: int, kind: str) -> None:
    """Checkpoints are an hour apart here; reclaim has to ask for its own."""
    disk = MemoryDisk()
    store = {**STORE, "disk_bytes": regions * 66 * KIB}
    core = open_on(disk, store)
    taken = 0
    for number in range(6000):
        key = b"key-%d" % (number % 500 if kind == "overwrite" else number)
        taken += core.put(key, bytes(1 if kind == "tiny" else 200))
        if kind != "overwrite" and number % 2:
            core.delete(key)
    assert taken > 5900
    assert core.check() == []
    core.close()


@pytest.mark.parametrize("seed", range(20 if LONG else 5))
def test_regions_come_free_again_however_often_the_process_dies(seed: int) -> None:
    """Each crash leaves every region full; there may be none to move anything to."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    store = {**STORE, "disk_bytes": 7 * 66 * KIB}
    for life in range(12):
        core = open_on(disk, store)
        for number in range(rng.randint(1, 300)):
            key = b"key-%d" % rng.randrange(200)
            core.put(key, bytes(rng.randint(1, 2000)))
            if number % 3 == 0:
                core.delete(b"key-%d" % rng.randrange(200))
        until(lambda core=core, life=life: core.put(b"life-%d" % life, b"value"))
        assert core.check() == []
        core.abandon()


@pytest.mark.parametrize("change", ["delete", "overwrite", "expire", "large"])
@pytest.mark.parametrize("reinsert", [True, False])
def test_an_older_version_stays_away_after_the_newer_one_was_reclaimed(
    change: str, reinsert: bool
) -> None:
    disk = MemoryDisk()
    store = {**STORE, "reinsert": reinsert}
    core = open_on(disk, store)
    key = b"key"
    core.put(key, b"old")
    for _ in range(40):
        # Kept alive, the old version moves to the main log, out of the way of what follows.
        core.get(key)
        fill(core, 20)
    if change == "delete":
        core.delete(key)
    elif change == "overwrite":
        core.put(key, b"new")
    elif change == "expire":
        core.put(key, b"new", ttl=0)
        assert core.get(key) is None
    else:
        core.put(key, b"n" * 30_000)
    for _ in range(6):
        fill(core, 150)
        core.sync()
        core.abandon()
        core = open_on(disk, store)
        assert core.get(key) != b"old"
        core.checkpoint()
    core.close()


def test_a_reclaimed_region_says_that_its_blocks_are_dead() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    fill(core, 400)
    until(lambda: core.counters()["regions_free"] > 1)
    core.sync()
    core.abandon()
    image = take_image(disk)
    superblock = read_superblock(image[b"superblock"])
    data, size = image[b"data/00000000.edge"], superblock.region_bytes
    footers = [read_footer(data[n : n + size], superblock.seed)
               for n in range(0, len(data) - size + 1, size)]  # fmt: skip
    assert sum(1 for footer in footers if footer is not None and footer[2] == []) >= 1


@pytest.mark.parametrize("point", ["read", "write", "sync"])
def test_a_failing_reclaim_loses_no_tombstone(point: str) -> None:
    for nth in range(1, 40, 3):
        disk = MemoryDisk()
        core = open_on(disk, STORE)
        for number in range(50):
            core.put(b"key-%d" % number, make_value(b"key-%d" % number, number, 500))
        core.sync()
        for number in range(50):
            core.delete(b"key-%d" % number)
        core.sync()
        io.fail(disk, point, errno.EIO, nth=nth, count=2)
        fill(core, 300)
        io.heal(disk)
        fill(core, 100, prefix=b"more")
        core.abandon()
        core = open_on(disk, STORE)
        assert [core.get(b"key-%d" % number) for number in range(50)] == [None] * 50, nth
        core.close()
