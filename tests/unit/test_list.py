"""The intrusive list under every policy: links, sums, ends; seen through LRU, a bare list."""

from __future__ import annotations

import random

import pytest

from edgecache import _testing_evict as testing


def lru(*hashes: int, size: int = 1) -> testing.PolicySimulator:
    simulator = testing.PolicySimulator("lru", 1000)
    for hash_ in hashes:
        simulator.access(hash_, size)
    return simulator


def test_empty_list_is_sound_and_walks_nothing() -> None:
    simulator = lru()
    assert simulator.check() == 0
    assert simulator.order() == []
    assert simulator.evict() is None


def test_order_is_oldest_first() -> None:
    assert lru(3, 1, 2).order() == [3, 1, 2]


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_removing_head_middle_or_tail_keeps_the_rest_linked(removed: int) -> None:
    simulator = lru(1, 2, 3)
    assert simulator.delete(removed)
    assert simulator.order() == [hash_ for hash_ in (1, 2, 3) if hash_ != removed]
    assert simulator.check() == 0
    simulator.access(removed, 1)
    assert simulator.order()[-1] == removed
    assert simulator.check() == 0


def test_removing_the_only_node_leaves_a_usable_list() -> None:
    simulator = lru(7)
    simulator.delete(7)
    assert (simulator.order(), simulator.size_bytes, len(simulator)) == ([], 0, 0)
    simulator.access(8, 1)
    assert simulator.order() == [8]


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_relocated_node_keeps_its_place(moved: int) -> None:
    simulator = lru(1, 2, 3)
    assert simulator.relocate(moved)
    assert simulator.order() == [1, 2, 3]
    assert simulator.check() == 0


def test_moving_the_head_to_the_front_changes_nothing() -> None:
    simulator = lru(1, 2, 3)
    assert simulator.access(3, 1)
    assert simulator.order() == [1, 2, 3]
    assert simulator.check() == 0


def test_sums_follow_inserts_and_removes() -> None:
    rng = random.Random(4)
    simulator = testing.PolicySimulator("lru", 10**6)
    sizes: dict[int, int] = {}
    for _ in range(500):
        hash_ = rng.randrange(100)
        if rng.random() < 0.4:
            assert simulator.delete(hash_) == (sizes.pop(hash_, None) is not None)
        else:
            size = sizes.setdefault(hash_, rng.randrange(1000))
            simulator.access(hash_, size)
        assert (simulator.size_bytes, len(simulator)) == (sum(sizes.values()), len(sizes))
    assert simulator.check() == 0
    assert simulator.contents() == sizes
