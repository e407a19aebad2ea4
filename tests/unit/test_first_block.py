"""What lies behind a block that was never written is not lost with it, also at a region's start."""

from __future__ import annotations

import pytest
from support.images import open_on
from support.model import KIB, MIB, make_value, options

from edgecache import _testing_log as log
from edgecache._core import Core
from edgecache._io_memory import MemoryDisk

STORE = options(region_bytes=256 * KIB, disk_bytes=8 * MIB, buffer_bytes=32 * KIB)


@pytest.mark.parametrize("ahead", [0, 1], ids=["at the start of a region", "behind another block"])
def test_a_synced_value_behind_a_large_block_that_never_came_is_found(ahead: int) -> None:
    disk = MemoryDisk()
    core: Core = open_on(disk, STORE)
    for number in range(ahead):
        assert core.put(b"ahead-%d" % number, make_value(b"ahead", number, 3000))
        core.sync()
    # A put of a large value gets this far when its process dies.
    assert log.reserve_large(core, 100 * KIB) == 0
    values = {b"key-%d" % number: make_value(b"key", number, 2000) for number in range(8)}
    for key, value in values.items():
        assert core.put(key, value)
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert {key: core.get(key) for key in values} == values
    core.close()
