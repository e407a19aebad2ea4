"""Preconditions and ranges of the cache API's entries: pure functions, `now` is an argument.

It is the origin of what it serves, so its tags are always strong and lists are read strictly; dates
and ranges are those of `rfc9111`.

Source: RFC 9110, sections 5.6.7 (dates), 8.8.3 (entity tags), 13 (preconditions), 14 (ranges).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from edgecache.rfc9111 import dates, ranges

__all__ = [
    "RANGES_MAX",
    "Outcome",
    "RangeOutcome",
    "evaluate",
    "format_date",
    "if_range_holds",
    "parse_content_range",
    "parse_etags",
    "select_ranges",
]

RANGES_MAX = ranges.RANGES_MAX

_ETAG = re.compile(rb'(W/)?"([!#-~\x80-\xff]*)"')
_SEPARATOR = re.compile(rb"[ \t]*(?:,[ \t]*)+")


def format_date(seconds: int) -> str:
    """Return a date in its preferred form (IMF-fixdate)."""
    return dates.format_date(seconds).decode("ascii")


def parse_etags(value: bytes) -> list[tuple[bool, bytes]] | None:
    """Return (is weak, tag without quotes) of each member, or None when the list is malformed."""
    position = 0
    found: list[tuple[bool, bytes]] = []
    while match := _ETAG.match(value, position):
        found.append((match[1] is not None, match[2]))
        position = match.end()
        if position == len(value):
            return found
        separator = _SEPARATOR.match(value, position)
        if separator is None:
            return None
        position = separator.end()
    return None


class Outcome(Enum):
    """What the preconditions of a request come to."""

    PROCEED = 200
    NOT_MODIFIED = 304
    FAILED = 412


def evaluate(
    get: Callable[[bytes], bytes | None],
    is_reading: bool,
    etag: bytes | None,
    modified_s: int | None,
    exists: bool,
    now_s: float,
) -> Outcome:
    """Evaluate the preconditions in the order of RFC 9110, section 13.2.2, without If-Range.

    Args:
        get: Returns the value of a field, by its lower-case name.
        is_reading: The method is GET or HEAD.
        etag: Strong tag of the current representation, without quotes.
        modified_s: Its Last-Modified.
        exists: Whether there is one.
    """
    if (wanted := get(b"if-match")) is not None:
        if not _is_listed(wanted, etag, exists, is_strong=True):
            return Outcome.FAILED
    elif (
        (value := get(b"if-unmodified-since")) is not None
        and (since := dates.parse_date(value, int(now_s))) is not None
        and (not exists or (modified_s is not None and modified_s > since))
    ):
        return Outcome.FAILED
    if (wanted := get(b"if-none-match")) is not None:
        if _is_listed(wanted, etag, exists, is_strong=False):
            return Outcome.NOT_MODIFIED if is_reading else Outcome.FAILED
    elif (
        is_reading
        and exists
        and modified_s is not None
        and (value := get(b"if-modified-since")) is not None
        and (since := dates.parse_date(value, int(now_s))) is not None
        and modified_s <= since
    ):
        return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


def _is_listed(wanted: bytes, etag: bytes | None, exists: bool, *, is_strong: bool) -> bool:
    if wanted.strip() == b"*":
        return exists
    if not exists or etag is None:
        return False
    tags = parse_etags(wanted) or []
    return any(tag == etag and not (is_strong and is_weak) for is_weak, tag in tags)


def if_range_holds(
    value: bytes | None, etag: bytes | None, modified_s: int | None, now_s: float
) -> bool:
    """Say whether a Range may be honoured (RFC 9110, section 13.1.5): the validator is strong.

    A date is strong when the representation is older than it by a second at least, and now too.
    """
    if value is None:
        return True
    tags = parse_etags(value)
    if tags is not None:
        return etag is not None and tags == [(False, etag)]
    date_s = dates.parse_date(value, int(now_s))
    return date_s is not None and date_s == modified_s and now_s - date_s >= 1


class RangeOutcome(Enum):
    """What a Range comes to when it selects nothing to send on its own."""

    WHOLE = 200
    UNSATISFIABLE = 416


def select_ranges(value: bytes, size: int) -> list[tuple[int, int]] | RangeOutcome:
    """Return the ranges to send, as (start, end) with end exclusive.

    A malformed or foreign Range is ignored. So is one of more than `RANGES_MAX` parts. Parts that
    overlap or touch are joined, in the order of their first byte when there is anything to join.
    """
    specs = ranges.parse_range(value)
    if specs and not size:
        return RangeOutcome.UNSATISFIABLE
    answer = ranges.answer_range(specs, size)
    if answer.status != 206:
        return RangeOutcome(answer.status)
    return [(part.first, part.last + 1) for part in answer.ranges]


def parse_content_range(value: bytes) -> tuple[int, int, int | None] | None:
    """Return (start, end exclusive, size or None) of a Content-Range, or None when malformed."""
    found = ranges.parse_content_range(value)
    return None if found is None else (found.first, found.last + 1, found.complete)
