"""The sums of a body that is written in pieces: of its strips, and of its chunks from them.

What is written strip by strip is summed as it comes; a chunk whose strips are all known goes to the
file of the sums. What is not known at the end is read back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecache._files import CHUNK_BYTES, STRIP_BYTES, STRIPS_BODY_MIN
from edgecache.files import names

if TYPE_CHECKING:
    from edgecache._files import ObjectFiles

SUM_BYTES = 16
STRIP_SUM_BYTES = 8
CHUNK_STRIPS = CHUNK_BYTES // STRIP_BYTES
ALL_STRIPS = (1 << CHUNK_STRIPS) - 1
UNKNOWN = bytes(SUM_BYTES)


class StripSums:
    """See the module. *Thread-safety*: its owner's lock.

    Args:
        name: Of the object's directory.
    """

    __slots__ = ("_files", "_name", "_open", "_table", "_tail")

    def __init__(self, files: ObjectFiles, name: bytes) -> None:
        self._files = files
        self._name = b"%b/%b" % (name, names.SUMS)
        # Of chunks that are not in the file: sums of their strips, a bit for each that is known.
        self._open: dict[int, tuple[bytearray, int]] = {}
        self._table = bytearray()
        # The one strip whose sum is of less than all its bytes: where they end.
        self._tail = 0

    def forget(self, start: int, end: int) -> None:
        """Bytes change: what covers them is not known any more."""
        for number in range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
            self._table[number * SUM_BYTES : (number + 1) * SUM_BYTES] = UNKNOWN[
                : len(self._table[number * SUM_BYTES : (number + 1) * SUM_BYTES])
            ]
            held = self._open.get(number)
            if held is not None:
                first = number * CHUNK_STRIPS
                low = max(start // STRIP_BYTES - first, 0)
                high = min(-(-end // STRIP_BYTES) - first, CHUNK_STRIPS)
                self._open[number] = held[0], held[1] & ~bits(low, high)

    def add(self, offset: int, view: memoryview) -> int:
        """Bytes were written; 0 or a negative errno."""
        start = -(-offset // STRIP_BYTES) * STRIP_BYTES
        end = offset + len(view)
        if start >= end:
            return 0
        if end % STRIP_BYTES:
            self._tail = end
        sums = self._files.strips_of(view[start - offset :])
        first = start // STRIP_BYTES
        place = 0
        while place < len(sums):
            number, low = divmod(first + place // STRIP_SUM_BYTES, CHUNK_STRIPS)
            some = sums[place : place + (CHUNK_STRIPS - low) * STRIP_SUM_BYTES]
            count = len(some) // STRIP_SUM_BYTES
            held, known = self._open.get(number) or (bytearray(CHUNK_STRIPS * STRIP_SUM_BYTES), 0)
            held[low * STRIP_SUM_BYTES : (low + count) * STRIP_SUM_BYTES] = some
            self._open[number] = held, known | bits(low, low + count)
            if end >= (number + 1) * CHUNK_BYTES and self._open[number][1] == ALL_STRIPS:
                code = self._settle(number, bytes(held), is_written=True)
                if code < 0:
                    return code
            place += len(some)
        return 0

    def _settle(self, number: int, sums: bytes, *, is_written: bool) -> int:
        self._open.pop(number, None)
        place = number * SUM_BYTES
        if len(self._table) < place:
            self._table += bytes(place - len(self._table))
        self._table[place : place + SUM_BYTES] = self._files.sum_of(sums)
        if not is_written:
            return 0
        start = number * CHUNK_STRIPS * STRIP_SUM_BYTES
        return int(self._files.write_at(self._name, start, sums))

    def seal(self, size: int, load: Callable[[int, int], bytes]) -> bytes | int:
        """Return the sums of all chunks of a body of this size, or a negative errno.

        Args:
            load: Reads (offset, length) of the body.
        """
        for number in range(-(-size // CHUNK_BYTES)):
            start = number * CHUNK_BYTES
            end = min(start + CHUNK_BYTES, size)
            if end - start == CHUNK_BYTES and self._is_settled(number):
                continue
            sums = self._known(number, end)
            if sums is None:
                sums = self._files.strips_of(load(start, end - start))
            code = self._settle(number, sums, is_written=size > STRIPS_BODY_MIN)
            if code < 0:
                return code
        return bytes(self._table[: -(-size // CHUNK_BYTES) * SUM_BYTES])

    def _is_settled(self, number: int) -> bool:
        found = self._table[number * SUM_BYTES : (number + 1) * SUM_BYTES]
        return len(found) == SUM_BYTES and found != UNKNOWN

    def _known(self, number: int, end: int) -> bytes | None:
        """The sums of all strips of a chunk that ends there; None: some are not known."""
        count = -(-(end - number * CHUNK_BYTES) // STRIP_BYTES)
        held, known = self._open.get(number, (b"", 0))
        last = end // STRIP_BYTES if end % STRIP_BYTES else -1
        tail = self._tail // STRIP_BYTES if self._tail % STRIP_BYTES else -1
        if known & bits(0, count) != bits(0, count):
            return None
        # A strip that was summed short must be the last one, and end where the body does.
        if (last != -1 and self._tail != end) or (last == -1 and tail == end // STRIP_BYTES - 1):
            return None
        if tail not in (-1, last) and 0 <= tail - number * CHUNK_STRIPS < count:
            return None
        return bytes(held[: count * STRIP_SUM_BYTES])


def bits(low: int, high: int) -> int:
    """Bits [low, high)."""
    return (1 << high) - (1 << low) if low < high else 0
