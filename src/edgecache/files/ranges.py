"""A set of bytes as sorted ranges that neither overlap nor touch."""

from __future__ import annotations

import bisect

Range = tuple[int, int]


class Ranges:
    """Ranges (start, end), end exclusive. *Thread-safety*: the caller's."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def all(self) -> tuple[Range, ...]:
        """Return all ranges, ascending."""
        return tuple(zip(self._starts, self._ends, strict=True))

    def add(self, start: int, end: int) -> None:
        """Add a range; it joins those that it touches."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take a range out; what it cuts keeps its rest."""
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._starts, end)
        if start >= end or first >= last:
            return
        kept = []
        if self._starts[first] < start:
            kept.append((self._starts[first], start))
        if self._ends[last - 1] > end:
            kept.append((end, self._ends[last - 1]))
        self._starts[first:last] = [piece[0] for piece in kept]
        self._ends[first:last] = [piece[1] for piece in kept]

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        """Return what of [start, end) is not there, ascending."""
        holes = []
        place = bisect.bisect_right(self._ends, start)
        while start < end:
            if place == len(self._starts) or self._starts[place] >= end:
                holes.append((start, end))
                break
            if self._starts[place] > start:
                holes.append((start, self._starts[place]))
            start = self._ends[place]
            place += 1
        return tuple(holes)
