"""A store against a dict: random operations, crashes and reopenings, disks too small for all of it.

What may differ is listed in `support.model`: misses. Every seed is a life of its own and can be run
alone; a failure names it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.images import LONG, open_on
from support.model import KIB, MIB, Tortured, options

from edgecache._io_memory import MemoryDisk


def store_of(rng: random.Random) -> dict[str, Any]:
    return options(
        region_bytes=rng.choice((64, 256)) * KIB,
        disk_bytes=rng.choice((2, 4, 8)) * MIB,
        checkpoint_interval_s=rng.choice((0.02, 3600)),
        flush_interval_s=rng.choice((0.002, 0.05)),
        policy=rng.choice(("s3fifo", "lru", "sieve")),
        shards=rng.choice((1, 2)),
        namespace=rng.choice((b"", b"space")),
    )


def live(store: Tortured, lives: int, steps: int) -> int:
    """Returns how many regions were reclaimed."""
    reclaimed = 0
    for _ in range(lives):
        for _ in range(store.rng.randint(5, steps)):
            store.step()
        store.check_all()
        reclaimed += store.core.counters()["reclaimed_regions"]
        if store.rng.random() < 0.6:
            store.crash()
            store.open()
        else:
            store.reopen()
        store.check_all()
    store.core.close()
    return reclaimed


@pytest.mark.parametrize("chunk", range(40 if LONG else 4))
def test_nothing_wrong_is_ever_returned(chunk: int) -> None:
    reclaimed = hits = 0
    for seed in range(chunk * 25, chunk * 25 + 25):
        rng = random.Random(seed)
        store = Tortured(seed, disk=MemoryDisk(), store=store_of(rng), keys=rng.choice((10, 60)))
        reclaimed += live(store, 4, 150)
        hits += store.hits
    # Lives that never reclaim, or miss all the time, would prove nothing.
    assert reclaimed > 5
    assert hits > 2000


@pytest.mark.parametrize("kind", ["uring", "threads"])
def test_nothing_wrong_is_ever_returned_from_files(kind: str, tmp_path: Path) -> None:
    for seed in range(60 if LONG else 5):
        root = tmp_path / str(seed)
        root.mkdir()
        rng = random.Random(seed)
        store = Tortured(seed, kind=kind, root=root, store=store_of(rng), keys=30)
        live(store, 3, 120)


@pytest.mark.parametrize("kind", ["memory", "threads"])
def test_data_files_stay_within_the_disk_budget(kind: str, tmp_path: Path) -> None:
    store_options = options(disk_bytes=4 * MIB, region_bytes=64 * KIB)
    disk = MemoryDisk()
    store = Tortured(3, kind=kind, root=tmp_path, disk=disk, store=store_options)
    for _ in range(6):
        for _ in range(60):
            store.step()
        store.churn(60)
        store.core.checkpoint()
        if kind == "memory":
            used = disk.used_bytes
        else:
            used = sum(f.stat().st_blocks * 512 for f in tmp_path.rglob("*") if f.is_file())
        assert used <= 4 * MIB
        assert store.core.check() == []
        assert store.core.counters()["disk_used_bytes"] <= 4 * MIB
    store.core.close()


class StoreMachine(RuleBasedStateMachine):
    """The same promises, with failures that shrink to a few operations."""

    @initialize(large=st.booleans())
    def begin(self, large: bool) -> None:
        self.store = Tortured(
            0,
            disk=MemoryDisk(),
            keys=6,
            store=options(disk_bytes=MIB, region_bytes=64 * KIB if not large else 128 * KIB),
        )

    @rule(
        key=st.integers(0, 5), size=st.sampled_from((1, 63, 64, 700, 4096, 9000, 40_000, 100_000))
    )
    def put(self, key: int, size: int) -> None:
        self.store.put(self.store.keys[key], size)

    @rule(key=st.integers(0, 5))
    def put_expired(self, key: int) -> None:
        self.store.put(self.store.keys[key], 300, ttl=0)

    @rule(key=st.integers(0, 5))
    def delete(self, key: int) -> None:
        self.store.delete(self.store.keys[key])

    @rule(key=st.integers(0, 5))
    def get(self, key: int) -> None:
        self.store.get(self.store.keys[key])

    @rule()
    def get_many(self) -> None:
        self.store.get_many(self.store.keys)

    @rule(count=st.integers(1, 60))
    def churn(self, count: int) -> None:
        self.store.churn(count)

    @rule()
    def sync(self) -> None:
        self.store.sync()

    @rule()
    def checkpoint(self) -> None:
        self.store.core.checkpoint()

    @rule()
    def crash(self) -> None:
        self.store.crash()
        self.store.open()

    @rule()
    def reopen(self) -> None:
        self.store.reopen()

    @invariant()
    def structures_hold(self) -> None:
        if hasattr(self, "store"):
            assert self.store.core.check() == []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.check_all()
            self.store.core.close()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=2000 if LONG else 60, stateful_step_count=40, deadline=None, print_blob=True
)


@settings(max_examples=400 if LONG else 30, deadline=None, print_blob=True)
@given(st.lists(st.tuples(st.integers(1, 200_000), st.booleans()), min_size=1, max_size=25))
def test_what_fits_the_disk_survives_a_sync_and_a_crash(puts: list[tuple[int, bool]]) -> None:
    """Nothing is evicted here, so a miss would be a loss."""
    disk = MemoryDisk()
    store = options(disk_bytes=16 * MIB, region_bytes=512 * KIB)
    core = open_on(disk, store)
    values = {}
    for number, (size, again) in enumerate(puts):
        key = b"key-%d" % (number // 2 if again else number)
        values[key] = random.Random(number).randbytes(size)
        assert core.put(key, values[key])
    core.sync()
    core.abandon()
    core = open_on(disk, store)
    assert {key: core.get(key) for key in values} == values
    core.close()
