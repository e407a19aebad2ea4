"""The RAM tier against a dict.

Allowed differences: the shard may lack what the model has, but only when its eviction or refusal
counters rose since that value was put; it never has what the model lacks, and never other bytes.
A pinned item keeps its bytes whatever happens to its key. `memory_check` and the budget hold after
every step.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from edgecache._testing_memory import MemoryHarness

MIB = 1 << 20
KEY_COUNT = 300


NUMBERS = st.integers(0, KEY_COUNT - 1)
SIZES = st.one_of(
    st.integers(1, 200),
    st.integers(200, 6000),
    st.integers(4000, 80_000),
    st.integers(60_000, MIB),
)


class MemoryMachine(RuleBasedStateMachine):
    """Put, get, delete, pin, unpin, shrink, grow, clear; sizes from 1 byte to 1 MiB."""

    pins = Bundle("pins")

    @initialize(
        policy=st.sampled_from(["s3fifo", "lru", "arc", "sieve", "wtinylfu"]),
        budget_pages=st.integers(4, 40),
        spare_pages=st.integers(0, 40),
        shared=st.booleans(),
    )
    def start(self, policy: str, budget_pages: int, spare_pages: int, shared: bool) -> None:
        self.shard = MemoryHarness(
            policy,
            budget_pages * 65536,
            area_bytes=(budget_pages + spare_pages) * 65536,
            key_count=KEY_COUNT,
            shared=shared,
        )
        self.area_bytes = (budget_pages + spare_pages) * 65536
        self.model: dict[int, bytes] = {}
        self.pinned: dict[int, tuple[bytes, int]] = {}

    def losses(self) -> int:
        stats = self.shard.stats()
        return int(stats["eviction_count"]) + int(stats["refuse_count"])

    def forget_evicted(self, losses_before: int) -> None:
        gone = [number for number in self.model if self.shard.reference(number) == 0]
        assert len(gone) <= self.losses() - losses_before
        for number in gone:
            del self.model[number]

    def put_one(self, number: int, size: int, seed: int) -> None:
        value = random.Random(seed).randbytes(size)
        before = self.losses()
        self.model.pop(number, None)
        if self.shard.put(
            number, value, meta=b"m" * (seed % 3 * 40), expiry_us=seed % 2, key_len=16 + seed % 50
        ):
            assert self.shard.peek(number) == value
            self.model[number] = value
        self.forget_evicted(before)

    @rule(number=NUMBERS, size=SIZES, seed=st.integers(0, 1 << 16))
    def put(self, number: int, size: int, seed: int) -> None:
        self.put_one(number, size, seed)

    @rule(size=SIZES, seed=st.integers(0, 1 << 16), count=st.integers(1, 60))
    def put_many(self, size: int, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            number = rng.randrange(KEY_COUNT)
            self.put_one(number, max(1, int(size * rng.uniform(0.7, 1.0))), rng.randrange(1 << 16))

    @rule(number=NUMBERS)
    def get(self, number: int) -> None:
        assert self.shard.get(number) == self.model.get(number)

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        assert self.shard.delete(number) == (self.model.pop(number, None) is not None)

    @precondition(lambda self: len(self.pinned) < 12)
    @rule(target=pins, number=NUMBERS)
    def pin(self, number: int) -> object:
        live = sorted(self.model)
        if not live:
            return multiple()
        number = live[number % len(live)]
        reference = int(self.shard.reference(number))
        assert self.shard.pin(reference)
        value, count = self.pinned.get(reference, (self.model[number], 0))
        assert value == self.model[number]
        self.pinned[reference] = (value, count + 1)
        return reference

    @rule(reference=consumes(pins))
    def unpin(self, reference: int) -> None:
        value, count = self.pinned.pop(reference)
        assert self.shard.value_at(reference) == value
        self.shard.unpin(reference)
        if count > 1:
            self.pinned[reference] = (value, count - 1)

    @rule(pages=st.integers(4, 80))
    def set_budget(self, pages: int) -> None:
        before = self.losses()
        wanted = min(pages * 65536, self.area_bytes)
        over = self.shard.set_budget(wanted)
        stats = self.shard.stats()
        assert stats["used_bytes"] <= wanted + over
        assert stats["budget_bytes"] == max(wanted, stats["used_bytes"])
        if not self.pinned:
            assert over == 0
        self.forget_evicted(before)

    @rule()
    def evict_one(self) -> None:
        before = self.losses()
        if self.shard.evict_one() == 0:
            assert all(self.shard.reference(number) in self.pinned for number in self.model)
        self.forget_evicted(before)

    @rule()
    def clear(self) -> None:
        self.shard.clear()
        self.model.clear()

    @invariant()
    def structure_and_contents_agree(self) -> None:
        assert self.shard.check() == 0
        stats = self.shard.stats()
        assert stats["used_bytes"] <= stats["budget_bytes"] <= self.area_bytes
        assert stats["item_count"] == len(self.model)
        assert stats["pinned_bytes"] == sum(
            self.shard.describe(reference)["slot_bytes"] for reference in self.pinned
        )
        assert sorted(self.shard.scan()) == sorted(self.model)
        for number, value in self.model.items():
            assert self.shard.peek(number) == value
        for reference, (value, _) in self.pinned.items():
            assert self.shard.value_at(reference) == value


MemoryMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class TestMemoryMachine(MemoryMachine.TestCase):  # type: ignore[misc, name-defined]
    """Run by pytest; a failure prints the steps and the blob that reproduces them."""
