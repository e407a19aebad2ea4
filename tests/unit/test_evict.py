"""What every eviction policy promises, whichever it is: budgets, pins, walks, odd sizes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgecache import _testing_evict as testing

every_policy = pytest.mark.parametrize("kind", sorted(testing.KINDS))


def filled(kind: str, count: int = 100, size: int = 10) -> testing.PolicySimulator:
    simulator = testing.PolicySimulator(kind, count * size)
    for key in range(count):
        simulator.access(testing.mixed(key), size)
    return simulator


@every_policy
def test_bytes_never_exceed_the_capacity(kind: str) -> None:
    rng = random.Random(1)
    simulator = testing.PolicySimulator(kind, 5000)
    for _ in range(3000):
        simulator.access(testing.mixed(rng.randrange(500)), rng.randrange(1, 700))
        assert simulator.size_bytes <= 5000
    assert simulator.check() == 0
    assert simulator.victim_count > 0


@every_policy
def test_one_object_may_fill_the_whole_cache(kind: str) -> None:
    simulator = filled(kind)
    assert simulator.trace_access(testing.mixed(1000), 1000)[0] is False
    assert simulator.contents() == {testing.mixed(1000): 1000}
    assert simulator.access(testing.mixed(1000), 1000)
    assert simulator.check() == 0
    simulator.access(testing.mixed(1), 10)
    assert simulator.contents() == {testing.mixed(1): 10}


@every_policy
def test_an_object_larger_than_the_cache_evicts_nothing(kind: str) -> None:
    simulator = filled(kind)
    assert not simulator.access(testing.mixed(1000), 1001)
    assert len(simulator) == 100
    assert simulator.victim_count == 0


@every_policy
def test_pinned_objects_are_never_victims(kind: str) -> None:
    simulator = filled(kind)
    pinned = {testing.mixed(key) for key in range(0, 100, 7)}
    for hash_ in pinned:
        simulator.set_pins(hash_, 3)
    for key in range(200, 1200):
        simulator.access(testing.mixed(key), 10)
        assert simulator.check() == 0
    assert pinned <= set(simulator.contents())


@every_policy
def test_nothing_is_evicted_when_everything_is_pinned(kind: str) -> None:
    simulator = filled(kind)
    for hash_ in simulator.contents():
        simulator.access(hash_, 10)
        simulator.set_pins(hash_, 1)
    assert simulator.evict() is None
    assert not simulator.access(testing.mixed(5000), 10)
    assert len(simulator) == 100
    assert simulator.check() == 0
    simulator.set_pins(testing.mixed(42), 0)
    assert simulator.evict() == testing.mixed(42)
    assert simulator.evict() is None


@every_policy
def test_a_single_unpinned_object_is_found_wherever_it_is(kind: str) -> None:
    for free in (0, 1, 50, 98, 99):
        simulator = filled(kind)
        for key in range(100):
            simulator.access(testing.mixed(key), 10)
            simulator.set_pins(testing.mixed(key), int(key != free))
        assert simulator.evict() == testing.mixed(free)


@every_policy
def test_evicting_everything_visits_each_object_once(kind: str) -> None:
    simulator = filled(kind)
    victims = [simulator.evict() for _ in range(100)]
    assert set(victims) == {testing.mixed(key) for key in range(100)}
    assert simulator.evict() is None
    assert (simulator.size_bytes, len(simulator), simulator.check()) == (0, 0, 0)


@every_policy
def test_walk_visits_each_object_once_and_ends(kind: str) -> None:
    simulator = filled(kind)
    rng = random.Random(2)
    for _ in range(500):
        simulator.access(testing.mixed(rng.randrange(150)), 10)
    order = simulator.order()
    assert len(order) == len(set(order)) == len(simulator)


@pytest.mark.parametrize("kind", ["lru", "sieve"])
def test_walk_is_the_order_of_eviction_without_hits(kind: str) -> None:
    simulator = filled(kind)
    for key in range(100, 150):
        simulator.access(testing.mixed(key), 10)
    assert simulator.order() == [simulator.evict() for _ in range(100)]


@every_policy
def test_objects_of_no_size_are_kept_and_found(kind: str) -> None:
    simulator = testing.PolicySimulator(kind, 10)
    for key in range(100):
        assert not simulator.access(testing.mixed(key), 0)
    assert all(simulator.access(testing.mixed(key), 0) for key in range(100))
    assert simulator.check() == 0


@every_policy
def test_shrinking_evicts_and_growing_makes_room(kind: str) -> None:
    simulator = filled(kind)
    simulator.set_capacity(305)
    assert (len(simulator), simulator.check()) == (30, 0)
    simulator.set_capacity(2000)
    for key in range(500, 670):
        simulator.access(testing.mixed(key), 10)
    assert (len(simulator), simulator.check()) == (200, 0)
    simulator.set_capacity(0)
    assert (len(simulator), simulator.check()) == (0, 0)


@every_policy
def test_relocating_everything_changes_no_decision(kind: str) -> None:
    rng = random.Random(3)
    moved, still = filled(kind), filled(kind)
    for _ in range(400):
        hash_, size = testing.mixed(rng.randrange(300)), 10
        assert moved.trace_access(hash_, size) == still.trace_access(hash_, size)
        for target in rng.sample(list(moved.contents()), 5):
            assert moved.relocate(target)
    assert moved.order() == still.order()
    assert moved.check() == 0


@every_policy
def test_popular_objects_outlive_a_long_scan(kind: str) -> None:
    """LRU alone forgets: that is why it is not the default."""
    simulator = testing.PolicySimulator(kind, 1000)
    hot = [testing.mixed(key) for key in range(50)]
    for round_ in range(40):
        for hash_ in hot:
            simulator.access(hash_, 4)
        for key in range(20):
            simulator.access(testing.mixed(10_000 + round_ * 20 + key), 4)
    for key in range(400):
        simulator.access(testing.mixed(100_000 + key), 4)
    kept = sum(hash_ in simulator for hash_ in hot)
    assert kept == 0 if kind == "lru" else kept >= 45


@pytest.mark.parametrize(("kind", "limit"), [("s3fifo", 99), ("wtinylfu", 99), ("lru", 1000)])
def test_advice_on_large_objects_follows_the_policy(kind: str, limit: int) -> None:
    simulator = testing.PolicySimulator(kind, 1000, admission=True)
    assert simulator.admits(limit)
    assert not simulator.admits(limit + 1)
    simulator.access(1, limit + 1)
    simulator.access(2, limit)
    assert simulator.contents() == {2: limit}


@every_policy
def test_run_refuses_arrays_of_different_length(kind: str) -> None:
    simulator = testing.PolicySimulator(kind, 100)
    with pytest.raises(ValueError, match="same length"):
        simulator.run(np.zeros(3, np.uint64), np.ones(2, np.uint32))


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(KeyError):
        testing.PolicySimulator("fifo", 100)
