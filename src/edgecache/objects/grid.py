"""How an object is cut: chunks of one size, the first perhaps smaller, the last as it comes.

0            first                first + chunk                            size
| chunk 0    | chunk 1            | chunk 2            | ...               |
"""

from __future__ import annotations

from typing import NamedTuple


class Grid(NamedTuple):
    """Offsets and numbers of chunks.

    Args:
        chunk_bytes: Bytes of every chunk but the first and the last.
        first_bytes: Of the first one, at most `chunk_bytes`.
    """

    chunk_bytes: int
    first_bytes: int

    def start(self, number: int) -> int:
        """Where a chunk begins."""
        return self.first_bytes + (number - 1) * self.chunk_bytes if number else 0

    def size(self, number: int) -> int:
        """Bytes of a chunk that the object does not end in."""
        return self.chunk_bytes if number else self.first_bytes

    def span(self, number: int, size: int) -> tuple[int, int]:
        """[start, end) of a chunk of an object of `size` bytes."""
        start = self.start(number)
        return start, min(start + self.size(number), size)

    def locate(self, position: int) -> tuple[int, int]:
        """(number, place in the chunk) of a byte."""
        if position < self.first_bytes:
            return 0, position
        number, place = divmod(position - self.first_bytes, self.chunk_bytes)
        return number + 1, place

    def count(self, size: int) -> int:
        """How many chunks an object of so many bytes has."""
        if size <= self.first_bytes:
            return int(size > 0)
        return 1 - (self.first_bytes - size) // self.chunk_bytes

    def halved(self) -> Grid:
        """Chunks of half the size; the first one is never larger than the others."""
        chunk_bytes = self.chunk_bytes // 2
        return Grid(chunk_bytes, min(self.first_bytes, chunk_bytes))


def even(chunk_bytes: int) -> Grid:
    """All chunks of one size."""
    return Grid(chunk_bytes, chunk_bytes)
