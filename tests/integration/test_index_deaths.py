"""Deaths at every instruction of what changes the metadata map: nothing that it held is lost.

A child works on an index in shared memory and is stopped after every instruction. What is there
then is what a death at that point would leave: a copy of it is mended, as whoever takes over the
shard's lock mends it, and compared with what the index held.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from support.stepping import CannotTraceError, begin_steps_later, each_step, end_steps

from edgecache import _testing_index as testing
from edgecache._testing_index import IndexHarness

OK = 0
AREA_BYTES = 1 << 19
Operation = Callable[[IndexHarness], object]
Entries = Counter[tuple[int, int, int, bool, int]]


def entries(harness: IndexHarness) -> Entries:
    return Counter(harness.scan())


def stepped(operation: Operation, harness: IndexHarness) -> Callable[[], None]:
    def work() -> None:
        begin_steps_later()
        harness.stop_at_first_store()
        operation(harness)
        end_steps()

    return work


def mended(copy: IndexHarness, before: IndexHarness, after: IndexHarness, where: object) -> None:
    """Mend; it then holds what it held before the operation, or what it was to hold after it."""
    assert copy.mend(), where
    assert copy.check() == 0, where
    if copy.digest() in (before.digest(), after.digest()):
        return
    found, old, new = entries(copy), entries(before), entries(after)
    pytest.fail(f"{where}: lost {(old & new) - found}, twice or foreign {found - (old | new)}")


class Deaths:
    """An index before an operation, and every state that a death in the operation leaves."""

    def __init__(self, source: IndexHarness, operation: Operation) -> None:
        self.shared = IndexHarness(area_bytes=AREA_BYTES, shared=True)
        self.copy = IndexHarness(area_bytes=AREA_BYTES)
        self.shared.take(source)
        self.operation = operation
        self.before = source
        self.after = IndexHarness(area_bytes=AREA_BYTES)
        self.after.take(source)
        operation(self.after)
        self.last = IndexHarness(area_bytes=AREA_BYTES)
        self.last.take(source)

    def states(self) -> Iterator[int]:
        """Have every state in `copy`, once, with the number of the instruction."""
        try:
            for step in each_step(stepped(self.operation, self.shared)):
                self.steps=step
                if self.last.take(self.shared):
                    self.copy.take(self.shared)
                    yield step
        except CannotTraceError as error:
            pytest.skip(f"ptrace: {error}")

    def check_all(self, name: str, chance: float = 1.0, seed: int = 0) -> int:
        """Mend each state, or some of them; how many there were."""
        noise = random.Random(seed)
        count = 0
        for step in self.states():
            count += 1
            if noise.random() < chance:
                mended(self.copy, self.before, self.after, (name, step))
        assert self.last.digest() == self.after.digest()
        return count


# ---- operations by what they do to the structure ----


def kinds_of(before: dict[str, int], after: dict[str, int], words: int) -> set[str]:
    """Name what an operation did, from the headers and the number of words it changed."""
    kinds = set()
    if after["grow_count"] > before["grow_count"]:
        kinds.add("grow")
        if after["depth"] == before["depth"]:
            kinds.add("grow in place")
        else:
            kinds.add("double")
        if after["directory_page_count"] > 1:
            kinds.add("directory of pages")
        if after["directory_page_count"] > before["directory_page_count"]:
            kinds.add("directory gets pages")
        if after["overflow_count"] > before["overflow_count"]:
            kinds.add("grow and leave")
        if after["overflow_count"] < before["overflow_count"]:
            kinds.add("grow and settle")
    if after["overflow_page_count"] > before["overflow_page_count"]:
        is_moved = after["overflow_page"] != before["overflow_page"]
        kinds.add("overflow moves" if is_moved else "overflow grows")
    if after["overflow_page_count"] < before["overflow_page_count"]:
        kinds.add("overflow shrinks")
    if after["object_count"] > before["object_count"] and not kinds:
        kinds.add("overflow" if after["overflow_count"] > before["overflow_count"] else "insert")
        if words > 2 and after["overflow_count"] == before["overflow_count"]:
            kinds.add("displace")
    if after["object_count"] < before["object_count"] and not kinds:
        is_node = after["overflow_count"] < before["overflow_count"]
        kinds.add("unlink" if is_node else "erase")
    return kinds


def changed_words(first: bytes, second: bytes) -> int:
    size = min(len(first), len(second))
    one, two = memoryview(first)[:size].cast("Q"), memoryview(second)[:size].cast("Q")
    return sum(a != b for a, b in zip(one, two, strict=True))


def insertion(key: int, location: int) -> Operation:
    return lambda harness: harness.insert(key, location, 7, location % 3 == 0, location % 4)


def erasure(key: int, location: int) -> Operation:
    return lambda harness: harness.erase(key, location, location % 3 == 0)


def scenario(seed: int, mask: int, skew: int, count: int) -> Iterator[Operation]:
    """Insert, with some erased on the way, then erase everything in another order.

    Args:
        mask: bits of the hash that are not always 0.
        skew: so many of the highest bits are 1 four times out of five.
    """
    noise = random.Random(seed)
    alive: list[tuple[int, int]] = []
    for location in range(1, count + 1):
        key = noise.getrandbits(64) & mask
        for bit in range(64 - skew, 64):
            key = key & ~(1 << bit) | (noise.random() < 0.8) << bit
        alive.append((key, location))
        yield insertion(*alive[-1])
        if noise.random() < 0.05:
            yield erasure(*alive.pop(noise.randrange(len(alive))))
    noise.shuffle(alive)
    for entry in alive:
        yield erasure(*entry)


ALL_BITS = 2**64 - 1
SCENARIOS = {
    "spread": (
        ALL_BITS, 0, 9_000, {"grow in place", "double", "displace", "insert", "erase"},
    ),
    # Few groups and a deep directory.
    "skewed": (ALL_BITS, 16, 25_000, {"directory gets pages", "directory of pages"}),
    # Few tags and few buckets: the table of overflow.
    "places": (
        0xF << 36 | 0x3 << 42 | 0xFFF, 0, 3_000,
        {"overflow", "overflow grows", "overflow moves", "overflow shrinks", "unlink"},
    ),
    # Segments fill before their groups do.
    "tags": (
        2**42 - 1 | 0x7 << 42 | 0xFF << 56, 0, 9_000, {"grow and leave", "grow and settle"},
    ),
}  # fmt: skip


def first_of_each(
    name: str, seed: int, per_kind: int = 1
) -> Iterator[tuple[str, IndexHarness, Operation]]:
    """The index as it was before the first operations of each kind that the scenario names."""
    mask, skew, count, wanted = SCENARIOS[name]
    harness = IndexHarness(area_bytes=AREA_BYTES)
    seen: Counter[str] = Counter()
    for operation in scenario(seed, mask, skew, count):
        before, saved = harness.state(), harness.save()
        operation(harness)
        after = harness.state()
        interesting = {kind for kind in wanted if seen[kind] < per_kind}
        if not interesting:
            return
        quick = kinds_of(before, after, 0)
        words = changed_words(saved[1], harness.save()[1]) if "displace" in interesting and (
            quick == {"insert"}) else 0
        new = kinds_of(before, after, words) & interesting
        if new:
            seen.update(new)
            source = IndexHarness(area_bytes=AREA_BYTES)
            source.restore(*saved)
            yield "+".join(sorted(new)), source, operation
    assert set(seen) >= wanted, wanted - set(seen)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_death_at_any_instruction_of_a_change_loses_nothing(name: str) -> None:
    import time
    t=time.time()
    for kinds, source, operation in first_of_each(name, seed=1):
        t1=time.time()
        d=Deaths(source, operation)
        n=d.check_all(kinds)
        print(kinds, n, d.steps, "find", t1-t, "check", time.time()-t1)
        t=time.time()
