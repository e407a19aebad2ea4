"""Range sets, against plain sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.objects.ranges import RangeSet

LIMIT = 40
SPANS = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), SPANS), max_size=25)


def numbers(ranges: RangeSet) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


def assert_canonical(ranges: RangeSet) -> None:
    flat = [bound for span in ranges for bound in span]
    assert flat == sorted(set(flat)), "ascending, not empty, never adjacent"
    assert ranges.total_bytes == len(numbers(ranges))


@given(STEPS, SPANS)
def test_a_range_set_is_a_set_of_numbers(
    steps: list[tuple[str, tuple[int, int]]], span: tuple[int, int]
) -> None:
    ranges, model = RangeSet(), set[int]()
    for kind, (start, end) in steps:
        before = len(model)
        if kind == "add":
            changed = ranges.add(start, end)
            model |= set(range(start, end))
            assert changed == len(model) - before
        else:
            changed = ranges.remove(start, end)
            model -= set(range(start, end))
            assert changed == before - len(model)
        assert numbers(ranges) == model
        assert_canonical(ranges)
    wanted = set(range(*span))
    assert numbers(RangeSet(ranges.within(*span))) == model & wanted
    assert numbers(RangeSet(ranges.missing(*span))) == wanted - model
    assert ranges.missing(*span, 1) == ranges.missing(*span)[:1]
    assert ranges.covers(*span) == (wanted <= model)
    assert ranges == RangeSet(reversed(list(ranges)))


def test_a_copy_is_independent() -> None:
    ranges = RangeSet([(0, 5)])
    other = ranges.copy()
    other.add(7, 9)
    assert (list(ranges), list(other)) == ([(0, 5)], [(0, 5), (7, 9)])
    assert len(other) == 2
    assert other != ranges
    assert "(7, 9)" in repr(other)
