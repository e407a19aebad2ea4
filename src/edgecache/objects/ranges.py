"""Sets of byte ranges: which parts of an object are there.

A range is (start, end), the end exclusive. Invariants of a `RangeSet`:

1. Starts ascend; no range is empty; two neighbours neither overlap nor touch.
2. Hence `starts` and `ends` ascend strictly, and a set has one representation only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class RangeSet:
    """A set of bytes as ranges. *Thread-safety*: none. *Cost*: O(log n), plus ranges touched."""

    __slots__ = ("_ends", "_starts", "total_bytes")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total_bytes = 0
        for start, end in ranges:
            self.add(start, end)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def copy(self) -> RangeSet:
        """Return an independent copy."""
        other = RangeSet()
        other._starts = self._starts.copy()
        other._ends = self._ends.copy()
        other.total_bytes = self.total_bytes
        return other

    def add(self, start: int, end: int) -> int:
        """Add a range; how many of its bytes are new."""
        if start >= end:
            return 0
        # Those that touch are joined, too.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        before = self.total_bytes
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
            self.total_bytes -= sum(self._ends[low:high]) - sum(self._starts[low:high])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        self.total_bytes += end - start
        return self.total_bytes - before

    def remove(self, start: int, end: int) -> int:
        """Take a range out; how many of its bytes were there."""
        if start >= end:
            return 0
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        if low >= high:
            return 0
        before = self.total_bytes
        first, last = self._starts[low], self._ends[high - 1]
        self.total_bytes -= sum(self._ends[low:high]) - sum(self._starts[low:high])
        kept = [part for part in ((first, start), (end, last)) if part[0] < part[1]]
        self._starts[low:high] = [part[0] for part in kept]
        self._ends[low:high] = [part[1] for part in kept]
        self.total_bytes += sum(part[1] - part[0] for part in kept)
        return before - self.total_bytes

    def within(self, start: int, end: int) -> list[Range]:
        """Return what is there of a range."""
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        return [
            (max(start, self._starts[place]), min(end, self._ends[place]))
            for place in range(low, high)
        ]

    def missing(self, start: int, end: int, count_max: int | None = None) -> list[Range]:
        """Return the holes of a range, the first `count_max` of them."""
        holes: list[Range] = []
        position = start
        for first, last in self.within(start, end):
            if position < first:
                holes.append((position, first))
                if count_max is not None and len(holes) >= count_max:
                    return holes
            position = last
        if position < end:
            holes.append((position, end))
        return holes

    def covers(self, start: int, end: int) -> bool:
        """Say whether all of a range is there."""
        if start >= end:
            return True
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and self._ends[place] >= end
