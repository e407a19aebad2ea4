"""The table of ready bytes objects: the same key object, equal ones, what makes them outdated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.model import MIB, options

import edgecache
from edgecache import errors
from edgecache._core import Core

POLICIES = ("s3fifo", "lru", "arc", "sieve", "wtinylfu")


def copy_of(key: str) -> str:
    """An equal str that is another object."""
    return "".join((key[:1], key[1:]))


def open_core(**changes: object) -> Core:
    return Core({**options(disk_bytes=0, memory_bytes=16 * MIB, front_bytes=MIB), **changes})


@pytest.fixture
def core() -> Iterator[Core]:
    found = open_core()
    yield found
    found.close()


def warm(core: Core, key: str | bytes, value: bytes, times: int = 80) -> None:
    """Past the hits that the policy is told of, and into the next ones."""
    assert core.put(key, value)
    for _ in range(times):
        assert core.get(key) == value


@pytest.mark.parametrize("key", ["ascii", "größe", "漢字", b"bytes", "k" * 40, "é" * 4000])
def test_hits_by_the_same_and_by_equal_key_objects_give_the_very_value(
    core: Core, key: str | bytes
) -> None:
    warm(core, key, b"value")
    before = core.counters()["front_hits"]
    encoded = key if isinstance(key, bytes) else key.encode()
    same = core.get(key)
    assert core.get(bytes(bytearray(encoded))) is same
    assert core.get(encoded.decode()) is same
    assert bytes(core.view(key)) == b"value"
    assert core.get_many([key, encoded]) == [b"value", b"value"]
    assert core.counters()["front_hits"] == before + 6


@pytest.mark.parametrize("policy", POLICIES)
def test_a_change_through_another_key_object_is_seen_at_once(policy: str) -> None:
    core = open_core(policy=policy)
    key = "some/key"
    for turn in range(300):
        value = b"%d" % turn
        assert core.put(copy_of(key), value)
        for _ in range(turn % 40):
            assert core.get(key) == value
        assert core.get_many([key, copy_of(key)]) == [value, value]
        if turn % 7 == 0:
            assert core.delete(copy_of(key))
            assert core.get(key) is None
            assert core.view(key) is None
    core.close()


def test_clear_empties_it_for_every_key_object() -> None:
    store = edgecache.open(None, memory=64 * MIB, disk=0)
    keys = [f"key/{number}" for number in range(2000)]
    for key in keys:
        warm(store, key, b"old", times=8)
    assert store.counters()["front_items"] > 1000
    store.clear()
    assert store.get_many(keys) == [None] * len(keys)
    assert [store.get(key) for key in keys] == [None] * len(keys)
    store.close()


def test_an_expired_entry_is_a_miss_for_the_same_key_object(core: Core) -> None:
    assert core.put("brief", b"value", ttl=0)
    assert core.get("brief") is None
    assert core.put("long", b"value", ttl=1000)
    for _ in range(100):
        assert core.get("long") == b"value"
    assert core.put("long", b"value", ttl=0)
    assert core.get("long") is None


def test_more_key_objects_than_places_never_give_a_foreign_value() -> None:
    core = open_core()
    keys = [f"object/{number:07d}" for number in range(20_000)]
    for number, key in enumerate(keys):
        assert core.put(key, b"%d" % number)
    for _ in range(3):
        for number, key in enumerate(keys):
            assert core.get(key) == b"%d" % number
    assert core.get_many(keys) == [b"%d" % number for number in range(len(keys))]
    found = core.counters()
    assert 0 < found["front_bytes"] <= found["front_budget_bytes"]
    core.close()


def test_key_objects_whose_memory_is_used_again_are_not_mistaken(core: Core) -> None:
    for number in range(20_000):
        assert core.put(f"k{number % 500}", b"%d" % (number % 500))
        # The object of the last turn is gone, this one often takes its place.
        assert core.get(f"k{number * 7 % 500}") in (None, b"%d" % (number * 7 % 500))


def test_keys_of_subclasses_are_served_but_not_kept(core: Core) -> None:
    class Text(str):
        pass

    key = Text("text")
    assert core.put(key, b"value")
    for _ in range(100):
        assert core.get(key) == b"value"
    assert core.counters()["front_items"] == 0


def test_a_closed_store_refuses_the_key_object_it_served_before() -> None:
    core = open_core()
    warm(core, "key", b"value")
    core.close()
    for call in (core.get, core.view, core.peek):
        with pytest.raises(errors.StoreClosedError):
            call("key")
    with pytest.raises(errors.StoreClosedError):
        core.get_many(["key"])


def test_what_the_front_serves_stays_in_ram_while_others_pass_through() -> None:
    core = open_core(memory_bytes=4 * MIB)
    warm(core, "hot", b"value")
    for number in range(20_000):
        assert core.put(b"passing/%d" % number, bytes(1000))
        if number % 8 == 0:
            assert core.get("hot") == b"value"
    assert core.counters()["memory_evictions"] > 10_000
    core.close()


def test_putting_over_one_key_of_a_full_store_evicts_one_item_at_most() -> None:
    core = open_core(memory_bytes=4 * MIB)
    for number in range(8000):
        assert core.put(b"filler/%07d" % number, bytes(1000))
    assert core.put(b"filler/over/us", b"first".ljust(1000))
    before = core.counters()["memory_evictions"]
    for number in range(500):
        assert core.put(b"filler/over/us", (b"%d" % number).ljust(1000))
    assert core.get(b"filler/over/us") == b"499".ljust(1000)
    assert core.counters()["memory_evictions"] - before <= 1
    core.close()
