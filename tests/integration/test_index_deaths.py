"""Deaths at every instruction of what changes the metadata map: nothing that it held is lost.

A child works on an index in shared memory and is stopped after every instruction, from the first
one that changes the index. What is there then is what a death at that point would leave: a copy of
it is mended, as by whoever takes over the shard's lock, and compared with what it should hold.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.stepping import CannotTraceError, begin_steps_later, each_step, end_steps

from edgecache._testing_index import IndexHarness

ALL_BITS = 2**64 - 1
SEEDS = int(os.environ.get("EDGECACHE_INDEX_DEATHS", "8"))
MENDING_STEPS = 100_000
Operation = Callable[[IndexHarness], object]


def stepped(operation: Operation, harness: IndexHarness) -> Callable[[], None]:
    def work() -> None:
        begin_steps_later()
        harness.stop_at_first_store()
        operation(harness)
        end_steps()

    return work


@dataclass(frozen=True)
class Shape:
    """What hashes a scenario has, and the size of its index."""

    count: int
    mask: int = ALL_BITS
    value: int = 0
    area_bytes: int = 1 << 19
    expected_count: int = 0

    def harness(self, *, shared: bool = False) -> IndexHarness:
        return IndexHarness(
            area_bytes=self.area_bytes, expected_count=self.expected_count, shared=shared
        )

    def copy_of(self, source: IndexHarness, *, shared: bool = False) -> IndexHarness:
        harness = self.harness(shared=shared)
        harness.take(source)
        return harness

    def operations(self, seed: int, erase_share: float = 0.05) -> Iterator[Operation]:
        """Insert, with some erased and replaced on the way, then erase all in another order."""
        noise = random.Random(seed)
        alive: list[tuple[int, int]] = []
        for location in range(1, self.count + 1):
            alive.append((noise.getrandbits(64) & self.mask | self.value, location))
            yield insertion(*alive[-1])
            if noise.random() < erase_share:
                yield erasure(*alive.pop(noise.randrange(len(alive))))
            if noise.random() < erase_share:
                place = noise.randrange(len(alive))
                key, old = alive[place]
                alive[place] = (key, old + 3 * 2**20 + noise.randrange(3))
                yield replacement(key, old, alive[place][1])
        noise.shuffle(alive)
        for entry in alive:
            yield erasure(*entry)


def insertion(key: int, location: int) -> Operation:
    return lambda harness: harness.insert(key, location, 7, location % 3 == 0, location % 4)


def erasure(key: int, location: int) -> Operation:
    return lambda harness: harness.erase(key, location, location % 3 == 0)


def replacement(key: int, location: int, new: int) -> Operation:
    return lambda harness: harness.replace(
        key, location, location % 3 == 0, new, new % 100, new % 3 == 0
    )


SHAPES = {
    "spread": Shape(9_000),
    # One group of 128 fills: the directory outgrows its page.
    "one group": Shape(
        4_500, ALL_BITS >> 7, 0x55 << 57, area_bytes=1 << 22, expected_count=200_000
    ),
    # Few tags and few buckets: the table of overflow.
    "few places": Shape(3_000, 0xF << 36 | 0x3 << 42 | 0xFFF),
    # Segments fill before their groups do: rebuilding leaves entries over, and takes some back.
    "few tags": Shape(9_000, (1 << 42) - 1 | 0xF << 60),
}
# Operations by what they do to the structure, and a shape that has them.
KINDS = {
    "insert": "spread",
    "displace": "spread",
    "replace": "spread",
    "erase": "spread",
    "grow": "spread",
    "double": "spread",
    "directory gets pages": "one group",
    "insert in overflow": "few places",
    "erase in overflow": "few places",
    "overflow grows": "few places",
    "overflow moves": "few tags",
    "overflow shrinks": "few places",
    "grow and leave": "few tags",
    "grow and settle": "few tags",
}


def kind_of(before: dict[str, int], after: dict[str, int]) -> str:
    """Name what an operation did, from the headers before and after it."""
    change = {name: after[name] - value for name, value in before.items() if isinstance(value, int)}
    where = " in overflow" if change["overflow_count"] else ""
    if change["directory_page_count"]:
        return "directory gets pages"
    if change["depth"]:
        return "double"
    if change["overflow_page_count"] < 0:
        return "overflow shrinks"
    if change["overflow_page_count"] > 0 and not change["grow_count"]:
        return "overflow moves" if change["overflow_page"] else "overflow grows"
    if change["grow_count"]:
        is_left = change["overflow_count"]
        return "grow and leave" if is_left > 0 else "grow and settle" if is_left else "grow"
    return {1: "insert", 0: "replace", -1: "erase"}[change["object_count"]] + where


def find(kind: str, seed: int, skip: int = 0) -> tuple[Shape, IndexHarness, Operation]:
    """An index, and an operation of that kind on it."""
    shape = SHAPES[KINDS[kind]]
    harness = shape.harness()
    before = harness.state()
    for number, operation in enumerate(shape.operations(seed)):
        operation(harness)
        after = harness.state()
        found = kind_of(before, after)
        before = after
        if kind == "displace":
            # Shows in the slots alone; nearly full segments have it.
            if number < 1_600 or found != "insert":
                continue
            found = kind if moved(shape, seed, number) else found
        if found == kind:
            if skip == 0:
                return shape, replay(shape, seed, number), operation
            skip -= 1
    raise AssertionError(f"no {kind}")


def replay(shape: Shape, seed: int, count: int) -> IndexHarness:
    harness = shape.harness()
    for _, operation in zip(range(count), shape.operations(seed), strict=False):
        operation(harness)
    return harness


def moved(shape: Shape, seed: int, number: int) -> bool:
    """Does that insertion move other entries?"""
    first, second = (replay(shape, seed, number + more).save()[1] for more in (0, 1))
    words = zip(memoryview(first).cast("Q"), memoryview(second).cast("Q"), strict=True)
    return sum(old != new for old, new in words) > 2


def check_mended(
    copy: IndexHarness, before: IndexHarness, after: IndexHarness, where: object
) -> None:
    """Mend; it then holds what it held before the operation, or what it was to hold after it."""
    assert copy.mend(), where
    assert copy.check() == 0, where
    if copy.digest() in (before.digest(), after.digest()):
        return
    found, old, new = (Counter(each.scan()) for each in (copy, before, after))
    pytest.fail(f"{where}: lost {(old & new) - found}, twice or foreign {found - (old | new)}")


def check_deaths(
    shape: Shape,
    source: IndexHarness,
    operation: Operation,
    name: object,
    *,
    chance: float = 1.0,
    keep: Callable[[dict[str, int]], bool] | None = None,
) -> list[IndexHarness]:
    """Mend every state that the operation passes through, or a share of them.

    Returns: one in forty, of those to keep, as they were.
    """
    noise = random.Random(1)
    shared = shape.copy_of(source, shared=True)
    after = shape.copy_of(source)
    operation(after)
    last, copy = shape.copy_of(source), shape.harness()
    count = 0
    some: list[IndexHarness] = []
    try:
        for step in each_step(stepped(operation, shared)):
            if not last.take(shared):
                continue
            count += 1
            if noise.random() < chance:
                copy.take(last)
                check_mended(copy, source, after, (name, step))
                if keep and keep(last.state()) and (not some or noise.random() < 0.025):
                    some.append(shape.copy_of(last))
    except CannotTraceError as error:
        pytest.skip(f"ptrace: {error}")
    assert count >= 1, name
    assert last.digest() == after.digest()
    return some


@pytest.mark.parametrize("kind", KINDS)
def test_a_death_at_any_instruction_of_a_change_loses_nothing(kind: str) -> None:
    shape, source, operation = find(kind, seed=1)
    # The states of the large index differ in copies of its directory.
    chance = 0.05 if shape.expected_count else 1.0
    check_deaths(shape, source, operation, kind, chance=chance)


@pytest.mark.parametrize("seed", range(2, 8))
def test_a_death_while_entries_move_between_their_buckets_loses_nothing(seed: int) -> None:
    check_deaths(*find("displace", seed), seed)


def test_a_death_while_an_entry_of_the_overflow_table_is_replaced_loses_nothing() -> None:
    shape, count = SHAPES["few places"], 0
    for number, operation in enumerate(shape.operations(3)):
        if number > 2_500 and "replacement" in operation.__qualname__:
            check_deaths(shape, replay(shape, 3, number), operation, number)
            count += 1
        if count == 5:
            break


def test_a_death_at_any_instruction_of_a_clearing_leaves_all_or_nothing() -> None:
    shape = SHAPES["spread"]
    check_deaths(shape, replay(shape, 1, 3_000), IndexHarness.clear, "clear")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_death_in_a_random_operation_loses_nothing(seed: int) -> None:
    noise = random.Random(seed)
    kind = noise.choice(["grow", "grow and leave", "grow and settle", "double", ""])
    if kind:
        shape, source, operation = find(kind, seed + 10, noise.randrange(2))
    else:
        shape = SHAPES[noise.choice(["spread", "few places", "few tags"])]
        number = noise.randrange(shape.count * 2)
        source = replay(shape, seed, number)
        operation = next(itertools.islice(shape.operations(seed), number, None))
    check_deaths(shape, source, operation, (seed, kind), chance=0.3)


@pytest.mark.parametrize("kind", ["grow", "double", "replace"])
def test_a_death_in_the_mending_is_mended(kind: str) -> None:
    """The beginning of it, where what was cut is finished; the rest follows from the entries."""
    shape, source, operation = find(kind, seed=2)
    after = shape.copy_of(source)
    operation(after)

    def is_cut(state: dict[str, int]) -> bool:
        # Far on in a growth: then little is left to be built before it is stored.
        return state["replace_word"] != 0 if kind == "replace" else state["growth_step"] == 2

    torn = check_deaths(shape, source, operation, kind, keep=is_cut)[0]
    last, copy, count = shape.copy_of(torn), shape.harness(), 0
    shared = shape.copy_of(torn, shared=True)
    steps = each_step(stepped(IndexHarness.mend, shared))
    for step in itertools.islice(steps, MENDING_STEPS):
        if last.take(shared):
            count += 1
            copy.take(last)
            check_mended(copy, source, after, (kind, step))
    steps.close()
    assert count > 2
