"""The native policies against plain models: every hit and victim, through deletes and pins.

No difference is allowed. Traces are seeded; a failure names the policy, the seed and the step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import POLICIES, Policy, mixed

from edgecache import _testing_evict as testing

Trace = Iterator[tuple[int, int]]


def uniform(rng: random.Random, steps: int) -> Trace:
    for _ in range(steps):
        key = rng.randrange(400)
        yield key, 1 + key % 37


def zipf(rng: random.Random, steps: int) -> Trace:
    weights = [1 / (rank + 1) ** 0.9 for rank in range(800)]
    for key in rng.choices(range(800), weights, k=steps):
        yield key, 1 + (key * 7) % 53


def scans(rng: random.Random, steps: int) -> Trace:
    """Popular objects, interrupted by runs of objects that are seen once."""
    fresh = 10_000
    for key, size in zipf(rng, steps):
        if rng.random() < 0.01:
            for _ in range(rng.randrange(1, 80)):
                yield fresh, 11
                fresh += 1
        yield key, size


def loop(rng: random.Random, steps: int) -> Trace:
    """A cycle a little larger than the cache, with a random jump now and then."""
    at = 0
    for _ in range(steps):
        at = rng.randrange(90) if rng.random() < 0.01 else (at + 1) % 90
        yield at, 20


def shifting(rng: random.Random, steps: int) -> Trace:
    for step, (key, _) in enumerate(zipf(rng, steps)):
        moved = (key + step // 500 * 37) % 900
        # Some objects exceed the small queue and the window, one in 60 the whole cache.
        yield moved, 1600 if moved % 60 == 0 else 1 + moved % 300


TRACES: dict[str, Callable[[random.Random, int], Trace]] = {
    "uniform": uniform,
    "zipf": zipf,
    "scans": scans,
    "loop": loop,
    "shifting": shifting,
}


class Pair:
    """A native policy and its model, driven together."""

    def __init__(self, kind: str, capacity: int, area_bytes: int) -> None:
        self.native = testing.PolicySimulator(kind, capacity, area_bytes=area_bytes)
        self.model: Policy = POLICIES[kind](capacity, area_bytes)

    def access(self, key: int, size: int) -> None:
        hash_ = mixed(key)
        expected = self.model.access(hash_, size)
        assert self.native.trace_access(hash_, size) == expected

    def disturb(self, rng: random.Random) -> None:
        """Now and then a delete, a pin, a move or a change of capacity."""
        roll = rng.random()
        if roll > 0.05 or not self.model.sizes:
            return
        hash_ = rng.choice(list(self.model.sizes))
        if roll < 0.02:
            assert self.native.delete(hash_) == self.model.delete(hash_)
        elif roll < 0.03:
            self.native.set_pins(hash_, 2)
            self.model.pinned.add(hash_)
        elif roll < 0.035:
            for pinned in self.model.pinned:
                self.native.set_pins(pinned, 0)
            self.model.pinned.clear()
        elif roll < 0.047:
            assert self.native.relocate(hash_)
        else:
            capacity = rng.randrange(500, 2500)
            assert self.native.set_capacity(capacity) == self.model.set_capacity(capacity)

    def compare(self) -> None:
        assert self.native.check() == 0
        assert self.native.contents() == self.model.sizes
        assert self.native.size_bytes == sum(self.model.sizes.values())


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("trace", TRACES)
def test_native_and_model_agree_on_every_hit_and_victim(kind: str, trace: str) -> None:
    seed = 20 + list(TRACES).index(trace)
    rng = random.Random(seed)
    pair = Pair(kind, 1500, 2048)
    for step, (key, size) in enumerate(TRACES[trace](rng, 2500)):
        try:
            pair.access(key, size)
        except AssertionError as error:
            raise AssertionError(f"{kind}/{trace} seed {seed} differs at step {step}") from error
    pair.compare()


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("trace", TRACES)
def test_agreement_survives_deletes_pins_moves_and_resizing(kind: str, trace: str) -> None:
    seed = 70 + list(TRACES).index(trace)
    rng = random.Random(seed)
    pair = Pair(kind, 1500, 1024)
    for step, (key, size) in enumerate(TRACES[trace](rng, 2500)):
        try:
            pair.access(key, size)
            pair.disturb(rng)
            if step % 50 == 0:
                pair.compare()
        except AssertionError as error:
            raise AssertionError(f"{kind}/{trace} seed {seed} differs at step {step}") from error
    pair.compare()


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("area_bytes", [0, 8, 16, 64, 200])
def test_a_small_area_only_shortens_memory(kind: str, area_bytes: int) -> None:
    """Ghost rings of 0 to 12 entries and the smallest sketches wrap and overflow all the time."""
    pair = Pair(kind, 600, area_bytes)
    for key, size in zipf(random.Random(5), 1500):
        pair.access(key, size)
    pair.compare()


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    kind=st.sampled_from(sorted(POLICIES)),
    capacity=st.integers(1, 120),
    area_bytes=st.integers(0, 40).map(lambda words: words * 8),
    steps=st.lists(
        st.tuples(st.sampled_from("aaaaaadpurc"), st.integers(0, 24), st.integers(0, 60)),
        max_size=120,
    ),
)
def test_any_short_history_agrees(
    kind: str, capacity: int, area_bytes: int, steps: list[tuple[str, int, int]]
) -> None:
    pair = Pair(kind, capacity, area_bytes)
    for action, key, number in steps:
        hash_ = mixed(key)
        cached = hash_ in pair.model.sizes
        if action == "a":
            pair.access(key, number)
        elif action == "d":
            assert pair.native.delete(hash_) == pair.model.delete(hash_)
        elif action == "r":
            assert pair.native.relocate(hash_) == cached
        elif action == "c":
            assert pair.native.set_capacity(number) == pair.model.set_capacity(number)
        elif cached and action == "p":
            pair.native.set_pins(hash_, 1)
            pair.model.pinned.add(hash_)
        elif cached:
            pair.native.set_pins(hash_, 0)
            pair.model.pinned.discard(hash_)
        pair.compare()


@pytest.mark.parametrize("kind", POLICIES)
def test_batch_run_equals_single_accesses(kind: str) -> None:
    trace = list(zipf(random.Random(9), 3000))
    ids = np.array([key for key, _ in trace], dtype=np.uint64)
    sizes = np.array([size for _, size in trace], dtype=np.uint32)
    batch = testing.PolicySimulator(kind, 2000, area_bytes=4096)
    model = POLICIES[kind](2000, 4096)
    hits = [model.access(testing.mixed(key), size)[0] for key, size in trace]
    hit_bytes = sum(size for hit, (_, size) in zip(hits, trace, strict=True) if hit)
    assert batch.run(ids, sizes) == (sum(hits), hit_bytes)
