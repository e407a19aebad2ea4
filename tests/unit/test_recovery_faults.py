"""What a recovery could not read stays out of sight, also when it can be read again later."""

from __future__ import annotations

import contextlib
import errno

import pytest
from support.images import open_on
from support.model import KIB, MIB, make_value, options

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.errors import EdgeCacheError

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB)
KEYS = [b"key-%d" % number for number in range(60)]


@pytest.mark.parametrize("point", ["open", "read"])
@pytest.mark.parametrize("nth", range(1, 30))
def test_a_delete_covers_what_a_recovery_could_not_read(point: str, nth: int) -> None:
    """The key is not in the index, so nothing is logged: a sync must not return before a checkpoint
    that dropped what was not seen."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for number, key in enumerate(KEYS):
        assert core.put(key, make_value(key, number, 9000))
    core.sync()
    core.abandon()
    io.fail(disk, point, errno.EIO, nth=nth)
    try:
        core = open_on(disk, STORE)
    except EdgeCacheError:
        return  # refused by name: nothing was hidden
    io.heal(disk)
    for key in KEYS:
        core.delete(key)
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert [key for key in KEYS if core.get(key) is not None] == []
    core.close()


@pytest.mark.parametrize("nth", range(1, 30))
def test_what_a_recovery_could_not_read_never_outranks_what_is_put_after_it(nth: int) -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for number, key in enumerate(KEYS):
        assert core.put(key, make_value(key, number, 9000))
    core.sync()
    core.abandon()
    io.fail(disk, "read", errno.EIO, nth=nth)
    with contextlib.suppress(EdgeCacheError):
        core = open_on(disk, STORE)
        io.heal(disk)
        for key in KEYS:
            assert core.put(key, b"new")
        core.sync()
        core.abandon()
        core = open_on(disk, STORE)
        assert {core.get(key) for key in KEYS} <= {None, b"new"}
        core.close()


@pytest.mark.parametrize("count", [2, -1])
@pytest.mark.parametrize("nth", range(1, 40))
def test_what_was_read_after_a_recovery_on_a_sick_disk_is_the_newest_from_then_on(
    nth: int, count: int
) -> None:
    """Part of a region, a checkpoint or the record of a contested version was not readable: what
    lies behind it must not come back once a sync returned."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for version in range(3):
        for number, key in enumerate(KEYS[:20]):
            assert core.put(key, make_value(key, 100 * version + number, 9000))
        core.sync()
        if version == 1:
            core.checkpoint()
    core.abandon()
    io.fail(disk, "read", errno.EIO, nth=nth, count=count)
    with contextlib.suppress(EdgeCacheError):
        core = open_on(disk, STORE)
        io.heal(disk)
        seen = {key: core.get(key) for key in KEYS[:20]}
        core.sync()
        core.abandon()
        core = open_on(disk, STORE)
        for key, value in seen.items():
            assert core.get(key) in (value, None)
        core.close()
