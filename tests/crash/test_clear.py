"""After clear() nothing comes back, whatever happens then; while it runs, all or some of it may."""

from __future__ import annotations

import threading

import pytest
from support.images import LONG, open_on, put_image, take_image
from support.model import KIB, MIB, make_value, options

from edgecache import _testing_io as io
from edgecache._core import Core
from edgecache._io_memory import MemoryDisk
from edgecache.errors import EdgeCacheError

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB)
KEYS = [b"key-%d" % number for number in range(400)]


def filled(disk: MemoryDisk) -> tuple[Core, dict[bytes, bytes]]:
    """Overwritten and deleted keys over many regions, two checkpoints among them."""
    core = open_on(disk, STORE)
    newest = {}
    for turn in range(2):
        for number, key in enumerate(KEYS):
            newest[key] = make_value(key, turn * 1000 + number, 60_000 if number == 7 else 1500)
            assert core.put(key, newest[key])
        core.checkpoint()
    for key in KEYS[::5]:
        core.delete(key)
        newest.pop(key)
    core.sync()
    return core, newest


@pytest.mark.parametrize("mode", ["kill", "drop", "random", "keep"])
@pytest.mark.parametrize("checkpoints", [2, 1, 0], ids=["both", "older", "none"])
def test_nothing_comes_back_after_a_clear(mode: str, checkpoints: int) -> None:
    """Also with the newest checkpoint lost, or both: the regions themselves are erased."""
    disk = MemoryDisk()
    core, _ = filled(disk)
    core.clear_all()
    assert core.counters()["objects"] == 0
    assert core.put(b"later", b"value")
    core.sync()
    if mode != "kill":
        io.power_cut(disk, seed=checkpoints, mode=mode)
    core.abandon()
    image = take_image(disk)
    names = [b"checkpoint.a", b"checkpoint.b"]
    newest = max(names, key=lambda name: image[name][8:16][::-1])
    for name in names:
        if checkpoints == 0 or (checkpoints == 1 and name == newest):
            del image[name]
    core = open_on(put_image(image), STORE)
    assert [core.get(key) for key in KEYS] == [None] * len(KEYS)
    assert core.get(b"later") == b"value"
    assert core.check() == []
    core.close()


@pytest.mark.parametrize("point", ["write", "sync"])
@pytest.mark.parametrize("count", [1, -1], ids=["once", "for-ever"])
@pytest.mark.parametrize("nth", [*range(1, 12), *range(12, 60, 3 if LONG else 16)])
def test_a_clear_that_fails_or_is_cut_off_leaves_newest_values_or_nothing(
    point: str, count: int, nth: int
) -> None:
    disk = MemoryDisk()
    core, newest = filled(disk)
    io.fail(disk, point, 5, nth=nth, count=count)
    try:
        core.clear_all()
        cleared = True
    except EdgeCacheError:
        cleared = False
    assert [core.get(key) for key in KEYS] == [None] * len(KEYS)
    io.power_cut(disk, seed=nth)
    core.abandon()
    io.heal(disk)
    for _ in range(2):
        core = open_on(disk, STORE)
        for key in KEYS:
            assert core.get(key) in ((None,) if cleared else (None, newest.get(key))), key
        assert core.check() == []
        core.abandon()


@pytest.mark.parametrize("cut", ["kill", "random"])
def test_a_clear_among_large_puts_covers_what_was_there_before_it(cut: str) -> None:
    """They hold the floor of checkpoints down, and their regions open."""
    disk = MemoryDisk()
    core, _ = filled(disk)
    stop = threading.Event()

    def put() -> None:
        number = 0
        while not stop.is_set():
            core.put(b"large-%d" % (number % 4), bytes(60_000))
            number += 1

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            for key in KEYS[:40]:
                core.put(key, bytes(700))
            core.clear_all()
            assert [core.get(key) for key in KEYS] == [None] * len(KEYS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if cut == "random":
        io.power_cut(disk, seed=3)
    core.abandon()
    core = open_on(disk, STORE)
    assert [core.get(key) for key in KEYS] == [None] * len(KEYS)
    assert core.check() == []
    core.close()
