"""The metadata map against a model: native random runs, threads, and a hypothesis state machine.

The index and the model may differ in one way only: slots of other keys with the same tag (and
bucket pair) show up in a walk; the caller tells them apart by the full key, here by the location.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgecache import _testing_index as testing
from edgecache._testing_index import IndexHarness

ALL_BITS = (1 << 64) - 1
FILL_AND_DRAIN = (240, 160, 60, 230, 20)


def run(harness: IndexHarness, seed: int, operation_count: int, key_count: int, **options: object):
    counters = harness.drive(seed, operation_count, key_count, **options)
    assert counters["failure"] == 0, (seed, counters)
    return counters


@pytest.mark.parametrize("seed", [11, 12])
def test_random_operations_on_spread_hashes_match_the_model(seed: int) -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(400_000))
    counters = run(harness, seed, 1_000_000, 300_000, phases=FILL_AND_DRAIN, check_every=100_000)
    assert harness.check() == 0
    assert counters["insert_count"] > 250_000
    assert counters["refused_count"] == 0
    assert harness.state()["grow_count"] > 300
    assert len(harness.scan()) == counters["present_count"]


@pytest.mark.parametrize(
    ("hash_and", "hash_or"),
    [
        pytest.param((1 << 50) - 1, 0x0123 << 50, id="one-prefix"),
        pytest.param(0xFC0000FFFFFFFFFF | 0x3F << 36, 0, id="sixty-four-tags"),
        pytest.param(0xF << 36 | 0x3 << 42, 0, id="few-places"),
        pytest.param(ALL_BITS ^ (0x3F << 36), 0, id="one-bucket-number"),
        pytest.param(0x5555555555555555, 0, id="every-second-bit"),
    ],
)
def test_random_operations_on_colliding_hashes_match_the_model(hash_and: int, hash_or: int) -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(200_000))
    counters = run(
        harness, 21, 60_000, 4_000, hash_and=hash_and, hash_or=hash_or,
        phases=FILL_AND_DRAIN, check_every=2_000,
    )  # fmt: skip
    assert harness.check() == 0
    assert counters["refused_count"] == 0
    assert len(harness.scan()) == counters["present_count"]


def test_biased_tags_split_unevenly_overflow_and_match_the_model() -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(400_000))
    counters = run(harness, 51, 200_000, 200_000, bias_count=1, phases=(250, 250, 90))
    state = harness.state()
    # Deeper than evenly spread tags would need, and the directory stayed in bounds.
    assert state["depth"] > 7
    assert state["directory_page_count"] * 4096 * 16 <= state["area_used_bytes"]
    assert state["overflow_count"] > 0
    assert state["area_used_bytes"] < state["object_count"] * 40
    assert counters["refused_count"] == 0
    assert harness.check() == 0


@pytest.mark.parametrize("page_count", [6, 7, 20, 100])
def test_random_operations_under_a_limit_match_the_model(page_count: int) -> None:
    harness = IndexHarness(area_bytes=testing.area_bytes(100_000))
    harness.set_limit(page_count * 4096)
    counters = run(harness, 31, 200_000, page_count * 600, phases=FILL_AND_DRAIN, check_every=5_000)
    assert counters["refused_count"] > 0
    assert harness.state()["area_used_bytes"] <= page_count * 4096
    assert harness.check() == 0


def test_eight_threads_over_shards_keep_every_invariant() -> None:
    harness = IndexHarness(shard_count=4, area_bytes=testing.area_bytes(80_000))
    results: dict[int, dict[str, int]] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        results[number] = harness.drive(
            41, 120_000, 30_000, key_first=number * 30_000, phases=FILL_AND_DRAIN,
            check_every=10_000, alone=False,
        )  # fmt: skip

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number]["failure"] for number in range(8)] == [0] * 8
    assert [harness.check(shard) for shard in range(4)] == [0] * 4
    present_count = sum(result["present_count"] for result in results.values())
    assert sum(harness.state(shard)["object_count"] for shard in range(4)) == present_count


# Few tags and few buckets, so that pairs overflow; bits below 36 are free.
PLACES = [tag << 42 | bucket << 36 for tag in (0, 1, 0x155555, 0x3FFFFF) for bucket in (0, 1, 63)]


class IndexMachine(RuleBasedStateMachine):
    """Bursts of colliding and of spread entries against a Counter of (place, fields)."""

    @initialize(page_limit=st.sampled_from([0, 6, 8, 12]))
    def create(self, page_limit: int) -> None:
        self.harness = IndexHarness(area_bytes=1 << 20)
        self.harness.set_limit(page_limit * 4096)
        self.model: dict[int, tuple[int, int, bool, int]] = {}  # location: hash, class, ram, freq
        self.next_location = 1

    def add(self, key: int, size_class: int, ram: bool, frequency: int) -> None:
        location = self.next_location
        self.next_location += 1
        status = self.harness.insert(key, location, size_class, ram, frequency)
        assert status in (0, 5)
        if status == 0:
            self.model[location] = (key, size_class, ram, frequency)

    @rule(
        place=st.sampled_from(PLACES), count=st.integers(1, 40), size_class=st.integers(0, 127),
        ram=st.booleans(), frequency=st.integers(0, 3),
    )  # fmt: skip
    def insert_colliding(
        self, place: int, count: int, size_class: int, ram: bool, frequency: int
    ) -> None:
        for _ in range(count):
            self.add(place, size_class, ram, frequency)

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(1, 1_500))
    def insert_spread(self, seed: int, count: int) -> None:
        for number in range(count):
            self.add((seed * 1_500 + number + 1) * 0x9E3779B97F4A7C15 & ALL_BITS, 7, False, 0)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        location = data.draw(st.sampled_from(sorted(self.model)))
        key, _, ram, _ = self.model.pop(location)
        assert self.harness.erase(key, location, ram)
        assert not self.harness.find(key, location, ram)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), size_class=st.integers(0, 127), ram=st.booleans())
    def replace(self, data: st.DataObject, size_class: int, ram: bool) -> None:
        location = data.draw(st.sampled_from(sorted(self.model)))
        key, _, old_ram, frequency = self.model.pop(location)
        fields = (self.next_location, size_class, ram, frequency)
        assert self.harness.replace(key, location, old_ram, *fields[:3]) == fields
        self.model[self.next_location] = (key, size_class, ram, frequency)
        self.next_location += 1

    @precondition(lambda self: self.model)
    @rule(data=st.data(), frequency=st.integers(0, 3))
    def set_frequency(self, data: st.DataObject, frequency: int) -> None:
        location = data.draw(st.sampled_from(sorted(self.model)))
        key, size_class, ram, _ = self.model[location]
        assert self.harness.set_frequency(key, location, ram, frequency)
        self.model[location] = (key, size_class, ram, frequency)

    @rule(modulus=st.integers(1, 4))
    def scan_and_erase(self, modulus: int) -> None:
        visited = self.harness.scan(erase_modulus=modulus)
        assert Counter(entry[1] for entry in visited) == Counter(list(self.model))
        for location in [number for number in self.model if number % modulus == 0]:
            del self.model[location]

    @rule()
    def clear(self) -> None:
        self.harness.clear()
        self.model.clear()

    @rule(shift=st.integers(1, 9))
    def copy_elsewhere(self, shift: int) -> None:
        header, prefix = self.harness.save()
        limit_bytes = self.harness.state()["used_bytes_limit"]
        self.harness = IndexHarness(area_bytes=1 << 20, offset_bytes=shift * 4096)
        self.harness.restore(header, prefix)
        assert self.harness.state()["used_bytes_limit"] == limit_bytes

    @invariant()
    def walks_agree(self) -> None:
        for place in PLACES:
            met = {entry[0]: entry[1:] for entry in self.harness.entries(place)}
            expected = {
                location: fields[1:]
                for location, fields in self.model.items()
                if fields[0] == place
            }
            assert expected.items() <= met.items()

    @invariant()
    def check_holds(self) -> None:
        assert self.harness.check() == 0
        assert self.harness.state()["object_count"] == len(self.model)

    @invariant()
    def scan_agrees(self) -> None:
        expected = sorted(
            (key >> 42, location, *fields) for location, (key, *fields) in self.model.items()
        )
        assert sorted(self.harness.scan()) == expected


IndexMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, print_blob=True
)
TestIndexMachine = IndexMachine.TestCase
