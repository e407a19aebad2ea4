"""Range and Content-Range of the unit `bytes`, and multipart/byteranges (RFC 9110, section 14).

Positions are inclusive on the wire and here. Work is bounded before it is done: a header of more
than eight ranges, or one whose answer would be larger than the object, is answered by the whole
object, which section 14.2 allows and which takes the gain out of amplification (CVE-2011-3192,
CVE-2025-62727).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from edgecache.rfc9111.syntax import OWS, memoised

RANGES_MAX = 8
RANGE_BYTES_MAX = 2**63 - 1

_DIGITS_MAX = 19
_UNIT = re.compile(rb"[Bb][Yy][Tt][Ee][Ss]=")
_SPEC = re.compile(rb"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(rb"[Bb][Yy][Tt][Ee][Ss] (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)")


class ByteRange(NamedTuple):
    """First and last position, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


Spec = tuple[int | None, int | None]
"""A parsed range: (first, last), (first, None) for an open end, (None, n) for the last n bytes."""


def _position(digits: bytes) -> int:
    """Read a position; what exceeds 63 bits is past the end of every object."""
    significant = digits.lstrip(b"0")
    if len(significant) > _DIGITS_MAX:
        return RANGE_BYTES_MAX
    return min(int(significant or b"0"), RANGE_BYTES_MAX)


@memoised
def parse_range(value: bytes) -> tuple[Spec, ...] | None:
    """Parse Range; None for another unit or a malformed set, which must be ignored (14.2)."""
    unit = _UNIT.match(value)
    if unit is None:
        return None
    specs: list[Spec] = []
    for member in value[unit.end() :].split(b","):
        text = member.strip(OWS)
        if not text:
            continue
        found = _SPEC.fullmatch(text)
        if found is None:
            return None
        first, last = found.groups()
        if first:
            start = _position(first)
            end = _position(last) if last else None
            if end is not None and end < start:
                return None
            specs.append((start, end))
        elif last:
            specs.append((None, _position(last)))
        else:
            return None
    return tuple(specs) or None


class RangeAnswer(NamedTuple):
    """What to answer: 200 with everything, 206 with these ranges, or 416."""

    status: int
    ranges: tuple[ByteRange, ...] = ()


WHOLE = RangeAnswer(200)
NOT_SATISFIABLE = RangeAnswer(416)


def _resolve(spec: Spec, size: int) -> ByteRange | None:
    first, last = spec
    if first is None:
        return ByteRange(max(0, size - last), size - 1) if last else None
    if first >= size:
        return None
    return ByteRange(first, size - 1 if last is None else min(last, size - 1))


def _joined(ranges: list[ByteRange]) -> list[ByteRange]:
    """Join ranges that overlap or touch; the order stays if none do."""
    ordered = sorted(ranges)
    joined = [ordered[0]]
    for part in ordered[1:]:
        before = joined[-1]
        if part.first <= before.last + 1:
            joined[-1] = ByteRange(before.first, max(before.last, part.last))
        else:
            joined.append(part)
    return ranges if len(joined) == len(ranges) else joined


def answer_range(
    specs: Sequence[Spec] | None, size: int, part_overhead_bytes: int = 128
) -> RangeAnswer:
    """Decide how to answer a Range for an object of `size` bytes (RFC 9110, section 14.2).

    Args:
        specs: What `parse_range` gave.
        size: Length of the complete representation.
        part_overhead_bytes: What a part of a multipart answer costs besides its bytes.

    *Cost*: O(n log n) of at most eight ranges.
    """
    if specs is None or not specs or len(specs) > RANGES_MAX or size == 0:
        return WHOLE
    ranges = [found for spec in specs if (found := _resolve(spec, size)) is not None]
    if not ranges:
        return NOT_SATISFIABLE
    ranges = _joined(ranges)
    if len(ranges) > 1:
        answer_bytes = sum(part.size for part in ranges) + len(ranges) * part_overhead_bytes
        if answer_bytes > size + size // 10:
            return WHOLE
    return RangeAnswer(206, tuple(ranges))


class ContentRange(NamedTuple):
    """A parsed Content-Range; `complete` is None where the sender does not know the length."""

    first: int
    last: int
    complete: int | None


@memoised
def parse_content_range(value: bytes) -> ContentRange | None:
    """Parse the Content-Range of a 206 (section 14.4); None if invalid or of a 416 (`*/n`)."""
    found = _CONTENT_RANGE.fullmatch(value)
    if found is None or found.group(1) is None:
        return None
    if any(len(digits) > _DIGITS_MAX for digits in found.groups() if digits):
        return None
    first, last = int(found.group(1)), int(found.group(2))
    complete = None if found.group(3) == b"*" else int(found.group(3))
    if last < first or last >= RANGE_BYTES_MAX or (complete is not None and complete <= last):
        return None
    return ContentRange(first, last, complete)


def format_content_range(part: ByteRange, size: int | None) -> bytes:
    """Return the Content-Range of a 206; `size` is None where the length is not known."""
    return b"bytes %d-%d/%s" % (part.first, part.last, b"*" if size is None else b"%d" % size)


def format_unsatisfied_range(size: int) -> bytes:
    """Return the Content-Range of a 416 (section 15.5.17)."""
    return b"bytes */%d" % size


class Multipart(NamedTuple):
    """The frame of a multipart/byteranges body (section 14.6).

    The body is, for each pair, the head and then the bytes of the range; after all the `tail`.
    """

    content_type: bytes
    parts: tuple[tuple[bytes, ByteRange], ...]
    tail: bytes
    total_bytes: int


def frame_multipart(
    ranges: Sequence[ByteRange], size: int, content_type: bytes | None, boundary: bytes
) -> Multipart:
    """Return the frame for several ranges; no byte of the object is touched.

    Args:
        ranges: Ranges within the object.
        size: Length of the complete representation.
        content_type: Content-Type of the object; None leaves it out of the parts.
        boundary: A token that does not occur in the object; random ones of 24 characters do.
    """
    kind = b"" if content_type is None else b"Content-Type: " + content_type + b"\r\n"
    parts: list[tuple[bytes, ByteRange]] = []
    total_bytes = 0
    for part in ranges:
        opening = b"--" if not parts else b"\r\n--"
        content_range = format_content_range(part, size)
        head = b"%s%s\r\n%sContent-Range: %s\r\n\r\n" % (opening, boundary, kind, content_range)
        parts.append((head, part))
        total_bytes += len(head) + part.size
    tail = b"\r\n--" + boundary + b"--\r\n"
    outer_type = b"multipart/byteranges; boundary=" + boundary
    return Multipart(outer_type, tuple(parts), tail, total_bytes + len(tail))
