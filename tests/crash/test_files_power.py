"""The file layout under power cuts and failing calls, against the same model as the region log."""

from __future__ import annotations

import contextlib
import errno
import random
from pathlib import Path
from typing import Any

import pytest
from support.images import LONG
from support.model import MIB, Tortured, options

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DiskIOError, NoSpaceError

MODES = ("random", "random", "drop", "keep")
POINTS = (
    "read", "write", "sync", "open", "size", "unlink", "rename", "make_directory", "list",
    "sync_directory",
)  # fmt: skip


def store_of(rng: random.Random) -> dict[str, Any]:
    return options(
        disk_bytes=rng.choice((1, 2, 8)) * MIB,
        checkpoint_interval_s=rng.choice((0.01, 3600)),
        flush_interval_s=rng.choice((0.001, 0.02)),
        namespace=rng.choice((b"", b"space")),
    )


def torture(seed: int, disk: MemoryDisk, keys: int) -> Tortured:
    return Tortured(seed, disk=disk, keys=keys, store=store_of(random.Random(seed)), layout="files")


def exercise(store: Tortured, steps: int) -> None:
    for _ in range(steps):
        with contextlib.suppress(DiskIOError, NoSpaceError):
            store.step()


@pytest.mark.parametrize("chunk", range(60 if LONG else 4))
def test_nothing_wrong_is_ever_returned(chunk: int) -> None:
    hits = evictions = 0
    for seed in range(chunk * 10, chunk * 10 + 10):
        store = torture(seed, MemoryDisk(), 10 if seed % 2 else 60)
        for _ in range(3):
            for _ in range(store.rng.randint(5, 150)):
                store.step()
            store.check_all()
            evictions += store.core.counters()["disk_evictions"]
            if store.rng.random() < 0.6:
                store.crash()
                store.open()
            else:
                store.reopen()
            store.check_all()
        store.core.close()
        hits += store.hits
    assert hits > 1000
    assert evictions > 5


@pytest.mark.parametrize("kind", ["uring", "threads"])
def test_nothing_wrong_is_ever_returned_from_a_directory(kind: str, tmp_path: Path) -> None:
    for seed in range(30 if LONG else 3):
        root = tmp_path / str(seed)
        root.mkdir()
        store = Tortured(
            seed, kind=kind, root=root, keys=30, store=store_of(random.Random(seed)),
            layout="files",
        )  # fmt: skip
        for _ in range(3):
            for _ in range(store.rng.randint(5, 120)):
                store.step()
            store.check_all()
            store.crash()
            store.open()
            store.check_all()
        store.core.close()


@pytest.mark.parametrize("chunk", range(100 if LONG else 6))
def test_synced_values_survive_a_power_cut_and_deleted_ones_stay_away(chunk: int) -> None:
    hits = 0
    for seed in range(chunk * 10, chunk * 10 + 10):
        disk = MemoryDisk()
        store = torture(seed, disk, (5, 20, 60)[seed % 3])
        for life in range(4):
            for _ in range(store.rng.randint(5, 100)):
                store.step()
            if store.rng.random() < 0.5:
                store.crash()
                io.power_cut(disk, seed=seed * 10 + life, mode=store.rng.choice(MODES))
            else:
                io.power_cut(disk, seed=seed * 10 + life, mode=store.rng.choice(MODES))
                store.crash()
            store.open()
            store.check_all()
        hits += store.hits
        store.core.close()
    assert hits > 500


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_one_failure_anywhere_is_survived(point: str, code: int) -> None:
    """The nth call of each kind fails, for n from 1 until few calls are reached any more."""
    for nth in [*range(1, 8), *range(12, 200, 60 if not LONG else 3)]:
        disk = MemoryDisk()
        store = torture(nth, disk, 20)
        io.fail(disk, point, code, nth=nth)
        exercise(store, 50)
        io.heal(disk)
        exercise(store, 20)
        store.check_all()
        if not store.sync():
            assert store.sync()
        store.crash()
        store.open()
        store.check_all()
        store.core.close()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("seed", range(20 if LONG else 2))
def test_a_failing_disk_never_raises_from_get_put_or_delete(point: str, seed: int) -> None:
    disk = MemoryDisk()
    store = torture(seed, disk, 20)
    exercise(store, 80)
    io.fail(disk, point, errno.EIO, count=-1)
    for number in range(150):
        key = store.rng.choice(store.keys)
        if number % 3 == 0:
            store.put(key, 3000)
        elif number % 7 == 0:
            store.delete(key)
        else:
            store.get(key)
    store.get_many(store.keys)
    io.heal(disk)
    store.crash()
    store.open()
    store.check_all()
    store.core.close()
