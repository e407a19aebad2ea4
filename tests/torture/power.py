"""power: the memory engine loses power; unsynced sectors are dropped, torn or older.

Half of the stores are large enough for all that is put: they must have all that a sync covered.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

from support.model import KIB, MIB, Tortured, options

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from torture.campaign import Row, Run
from torture.oracle import StrictTortured, spacious

MODES = ("random", "random", "drop", "keep")
LIVES = 3


def store_of(rng: random.Random, is_strict: bool) -> dict[str, Any]:
    timing: dict[str, Any] = {
        "checkpoint_interval_s": rng.choice((0.01, 0.05, 3600)),
        "flush_interval_s": rng.choice((0.002, 0.05)),
    }
    if is_strict:
        return spacious(**timing)
    return options(
        region_bytes=rng.choice((64, 128, 256)) * KIB, disk_bytes=rng.choice((1, 2, 4, 8)) * MIB,
        small_share=rng.choice((0.1, 0.5)), **timing,
    )  # fmt: skip


def cut(store: Tortured, disk: MemoryDisk, seed: int) -> None:
    """Lose power while the store runs, or just after its process died; perhaps in recovery."""
    rng = store.rng
    if rng.random() < 0.5:
        io.power_cut(disk, seed=seed, mode=rng.choice(MODES))
        store.crash()
    else:
        store.crash()
        io.power_cut(disk, seed=seed, mode=rng.choice(MODES))
    for again in range(rng.choice((0, 0, 1, 2))):
        point = rng.choice(("write", "sync"))
        io.fail(disk, point, 5, nth=rng.randint(1, 30), count=-1)
        with contextlib.suppress(OSError):
            store.open()
            store.core.abandon()
        io.heal(disk)
        io.power_cut(disk, seed=seed + 1 + again)


def cuts(run: Run) -> str:
    hits = 0
    for number in run.numbers():
        rng = run.random(number)
        is_strict = number % 2 == 0
        with run.judged(number):
            disk = MemoryDisk()
            kind = StrictTortured if is_strict else Tortured
            store = kind(
                rng.randrange(2**31), disk=disk, store=store_of(rng, is_strict),
                keys=rng.choice((5, 20, 60)),
            )  # fmt: skip
            for life in range(LIVES):
                for _ in range(rng.randint(5, 120)):
                    store.step()
                cut(store, disk, rng.randrange(2**31) + life)
                store.open()
                store.check_all()
            hits += store.hits
            store.core.close()
    cut_count = run.outcome.injections * LIVES
    run.outcome.facts.update(hits=hits, cuts=cut_count)
    return f"{cut_count} cuts and cuts of recoveries, {hits} hits verified"


ROW = Row(
    "power",
    "simulated power loss: unsynced sectors dropped, torn, reordered",
    "what a sync returned for is there or newer, the rest older or a miss",
    short=25,
    long=500,
    run=cuts,
)
