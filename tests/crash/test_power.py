"""Power cuts at any moment: what a sync acknowledged is there, or newer; nothing deleted returns.

The memory engine keeps, drops or takes an earlier version of each unsynced sector by itself.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from support.images import LONG, open_on
from support.model import KIB, MIB, Tortured, make_value, options

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk

MODES = ("random", "random", "drop", "keep")


def store_of(rng: random.Random) -> dict[str, Any]:
    return options(
        region_bytes=rng.choice((64, 128, 256)) * KIB,
        disk_bytes=rng.choice((1, 2, 4, 8)) * MIB,
        checkpoint_interval_s=rng.choice((0.01, 0.05, 3600)),
        flush_interval_s=rng.choice((0.002, 0.05)),
        small_share=rng.choice((0.1, 0.5)),
    )


def cut(store: Tortured, disk: MemoryDisk, seed: int) -> None:
    """Lose power while the store runs, or just after its process died."""
    if store.rng.random() < 0.5:
        io.power_cut(disk, seed=seed, mode=store.rng.choice(MODES))
        store.crash()
    else:
        store.crash()
        io.power_cut(disk, seed=seed, mode=store.rng.choice(MODES))


def cut_again(store: Tortured, disk: MemoryDisk, seed: int) -> None:
    """Power goes again while a recovery runs, or just after it."""
    io.fail(disk, store.rng.choice(("write", "sync")), 5,
            nth=store.rng.randint(1, 30), count=-1)  # fmt: skip
    with contextlib.suppress(OSError):
        store.open()
        store.core.abandon()
    io.heal(disk)
    io.power_cut(disk, seed=seed)


@pytest.mark.parametrize("chunk", range(200 if LONG else 8))
def test_synced_values_survive_and_deleted_ones_stay_away(chunk: int) -> None:
    hits = 0
    for seed in range(chunk * 25, chunk * 25 + 25):
        rng = random.Random(seed)
        disk = MemoryDisk()
        store = Tortured(seed, disk=disk, store=store_of(rng), keys=rng.choice((5, 20, 60)))
        for life in range(4):
            for _ in range(rng.randint(5, 150)):
                store.step()
            cut(store, disk, seed * 10 + life)
            store.open()
            store.check_all()
        hits += store.hits
        store.core.close()
    assert hits > 2000


@pytest.mark.parametrize("chunk", range(100 if LONG else 4))
def test_a_recovery_can_be_cut_off_as_often_as_power_fails(chunk: int) -> None:
    for seed in range(chunk * 25, chunk * 25 + 25):
        rng = random.Random(seed)
        disk = MemoryDisk()
        store = Tortured(seed, disk=disk, store=store_of(rng), keys=20)
        for life in range(3):
            for _ in range(rng.randint(5, 100)):
                store.step()
            cut(store, disk, seed * 10 + life)
            for again in range(rng.randint(1, 3)):
                cut_again(store, disk, seed * 100 + life * 10 + again)
            store.open()
            store.check_all()
        store.core.close()


@pytest.mark.parametrize("mode", ["drop", "random"])
@pytest.mark.parametrize("nth", range(1, 60 if LONG else 16))
def test_power_may_fail_at_every_write_and_sync_of_a_checkpoint(mode: str, nth: int) -> None:
    disk = MemoryDisk()
    store = options()
    core = open_on(disk, store)
    values = {b"key-%d" % n: make_value(b"key-%d" % n, n, 900) for n in range(200)}
    for key, value in values.items():
        core.put(key, value)
    core.checkpoint()
    for number in range(0, 200, 3):
        core.delete(b"key-%d" % number)
        values.pop(b"key-%d" % number)
    core.sync()
    for point in ("write", "sync"):
        io.fail(disk, point, 5, nth=nth, count=-1)
    with contextlib.suppress(OSError):
        core.checkpoint()
    io.power_cut(disk, seed=nth, mode=mode)
    core.abandon()
    io.heal(disk)
    core = open_on(disk, store)
    assert {k: core.get(k) for k in (b"key-%d" % n for n in range(200))} == {
        b"key-%d" % n: values.get(b"key-%d" % n) for n in range(200)
    }
    core.close()


@pytest.mark.parametrize("seed", range(300 if LONG else 40))
def test_a_synced_value_survives_a_torn_overwrite(seed: int) -> None:
    """The mini-index of the newer one may reach the medium without the record."""
    disk = MemoryDisk()
    store = options(flush_interval_s=60)
    core = open_on(disk, store)
    old = {b"key-%d" % n: make_value(b"key-%d" % n, n, 700) for n in range(30)}
    for key, value in old.items():
        assert core.put(key, value)
    core.sync()
    new = {key: make_value(key, 1000 + n, 700) for n, key in enumerate(old)}
    for key, value in new.items():
        assert core.put(key, value)
    core.flush()
    io.power_cut(disk, seed=seed)
    core.abandon()
    core = open_on(disk, store)
    for key in old:
        assert core.get(key) in (old[key], new[key]), key
    core.close()


def test_a_kill_and_a_power_cut_later_keep_what_a_sync_between_them_covered() -> None:
    """The sync of the second process also covers what the killed one had only written."""
    disk = MemoryDisk()
    store = options(flush_interval_s=60)
    core = open_on(disk, store)
    core.put(b"key", b"value")
    core.flush()
    core.abandon()
    core = open_on(disk, store)
    assert core.get(b"key") == b"value"
    core.sync()
    io.power_cut(disk, mode="drop")
    core.abandon()
    core = open_on(disk, store)
    assert core.get(b"key") == b"value"
    core.close()
