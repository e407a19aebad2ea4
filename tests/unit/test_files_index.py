"""The index of the file layout against a dict, its order of eviction, and the set of ranges."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache._files_index import FileIndex
from edgecache.files.ranges import Ranges

# Few enough that hashes collide in their home cells, and share low bits.
HASHES = [
    (high.to_bytes(8, "big") + low.to_bytes(8, "big"))
    for high in range(3)
    for low in (0, 1, 2, 126, 127, 128, 1 << 40, 1 << 63)
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "remove", "touch", "victim", "settle"]),
            st.sampled_from(HASHES),
            st.integers(0, 1 << 40),
        ),
        max_size=120,
    )
)
def test_it_answers_as_a_dict_does(steps: list[tuple[str, bytes, int]]) -> None:
    index = FileIndex()
    model: dict[bytes, tuple[int, int, int, int, int, int]] = {}
    for kind, hash16, number in steps:
        if kind == "put":
            entry = (number, -number, number * 3, number // 2, number % 7, number % 4)
            assert index.put(hash16, *entry) == model.get(hash16)
            model[hash16] = entry
        elif kind == "remove":
            assert index.remove(hash16) == model.pop(hash16, None)
        elif kind == "touch":
            index.touch(hash16)
        elif kind == "victim":
            assert (index.victim() in model) == bool(model)
        else:
            known = model.get(hash16)
            assert index.settle(hash16, number) == (known is not None and known[0] == number)
            if known is not None and known[0] == number:
                model[hash16] = (*known[:4], 0, known[5])
        assert index.check() == 0
    assert len(index) == len(model)
    assert sorted(index.hashes()) == sorted(model)
    assert index.used_bytes == sum(entry[2] for entry in model.values())
    for hash16 in HASHES:
        assert index.get(hash16) == model.get(hash16)
        assert (hash16 in index) == (hash16 in model)
        assert index.sequence_of(hash16) == (model[hash16][0] if hash16 in model else 0)


def filled(count: int) -> tuple[FileIndex, list[bytes]]:
    index = FileIndex()
    rng = random.Random(count)
    hashes = [rng.randbytes(16) for _ in range(count)]
    for number, hash16 in enumerate(hashes, 1):
        index.put(hash16, number, 0, 100, 100, 0, 0)
    return index, hashes


def evict(index: FileIndex, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        victim = index.victim()
        assert victim is not None
        index.remove(victim)
        found.append(victim)
    return found


def test_what_was_never_asked_for_goes_first_and_oldest_first() -> None:
    index, hashes = filled(10_000)
    asked = set(hashes[::10])
    for hash16 in asked:
        index.touch(hash16)
    assert evict(index, 8000) == [hash16 for hash16 in hashes if hash16 not in asked][:8000]
    assert index.check() == 0


def test_what_comes_back_soon_is_kept_longer_than_what_is_new() -> None:
    index, hashes = filled(100)
    gone = evict(index, 1)[0]
    index.put(gone, 1000, 0, 100, 100, 0, 0)
    assert gone == hashes[0]
    assert gone not in evict(index, 80)


def test_the_order_survives_a_dump() -> None:
    index, hashes = filled(300)
    for hash16 in hashes[::7]:
        index.touch(hash16)
    evict(index, 20)
    dumped = index.dump()
    copy = FileIndex()
    for hash16 in sorted(index.hashes()):
        copy.put(hash16, 1, 0, 100, 100, 0, 0)
    for start in range(0, len(dumped), 17):
        copy.restore(dumped[start : start + 16], dumped[start + 16])
    assert copy.check() == 0
    assert copy.dump() == dumped
    assert evict(copy, 200) == evict(index, 200)


def test_clearing_keeps_the_sequence_numbers() -> None:
    index, _ = filled(200)
    before = index.take_sequence()
    index.clear()
    assert (len(index), index.used_bytes, index.hashes(), index.victim()) == (0, 0, [], None)
    assert index.check() == 0
    assert index.take_sequence() > before
    index.see_sequence(10_000)
    assert index.take_sequence() == 10_001
    # A damaged number must not use all of them up.
    index.see_sequence((1 << 64) - 1)
    assert index.take_sequence() == 10_002


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 40)), max_size=30),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_ranges_are_a_set_of_bytes(
    steps: list[tuple[bool, int, int]], start: int, end: int
) -> None:
    ranges, model = Ranges(), set[int]()
    for is_added, first, last in steps:
        if is_added:
            ranges.add(first, last)
            model |= set(range(first, last))
        else:
            ranges.remove(first, last)
            model -= set(range(first, last))
    pieces = ranges.all()
    assert {byte for piece in pieces for byte in range(*piece)} == model
    assert all(left[1] < right[0] for left, right in pairwise(pieces))
    holes = ranges.missing(start, end)
    assert {byte for hole in holes for byte in range(*hole)} == set(range(start, end)) - model
    assert all(hole[0] < hole[1] for hole in holes)
