"""Dates, entity tags, preconditions and ranges: pure functions, `now` is an argument.

Source: RFC 9110, sections 5.6.7 (dates), 8.8.3 (entity tags), 13 (preconditions), 14 (ranges).
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from email.utils import formatdate
from enum import Enum

__all__ = [
    "RANGES_MAX",
    "Outcome",
    "RangeOutcome",
    "evaluate",
    "format_date",
    "if_range_holds",
    "parse_content_range",
    "parse_date",
    "parse_etags",
    "select_ranges",
]

RANGES_MAX = 8
POSITION_MAX = 2**63 - 1

_MONTHS = {
    name: number
    for number, name in enumerate(
        b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(),
        1,
    )
}
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_DAY_LONG = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = rb"(" + b"|".join(_MONTHS) + rb")"
_TIME = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_IMF = re.compile(_DAY + rb", ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" GMT")
_RFC850 = re.compile(_DAY_LONG + rb", ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) " + _TIME + rb" GMT")
_ASCTIME = re.compile(_DAY + rb" " + _MONTH + rb" ([0-9]{2}| [0-9]) " + _TIME + rb" ([0-9]{4})")
_ETAG = re.compile(rb'(W/)?"([!#-~\x80-\xff]*)"')
_SEPARATOR = re.compile(rb"[ \t]*(?:,[ \t]*)+")
_RANGE = re.compile(rb"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(rb"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.I)


def parse_date(value: bytes, now_s: float) -> int | None:
    """Return seconds since the epoch, or None for what is not a date in one of the three forms.

    Args:
        now_s: A two-digit year that would lie over 50 years ahead of it is in the past.
    """
    if match := _IMF.fullmatch(value):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(value):
        day, month, short, *clock = match.groups()
        this_year = int(formatdate(now_s, usegmt=True).split()[3])
        full = this_year - this_year % 100 + int(short)
        full += 100 if full < this_year - 49 else 0
        year = b"%d" % (full - 100 if full > this_year + 50 else full)
    elif match := _ASCTIME.fullmatch(value):
        month, day, *clock, year = match.groups()
    else:
        return None
    hour, minute, second = map(int, clock)
    days = calendar.monthrange(int(year), _MONTHS[month])[1] if int(year) else 0
    if not 1 <= int(day) <= days or hour > 23 or minute > 59 or second > 60:
        return None
    return calendar.timegm((int(year), _MONTHS[month], int(day), hour, minute, min(second, 59)))


def format_date(seconds: int) -> str:
    """Return a date in its preferred form (IMF-fixdate)."""
    return formatdate(seconds, usegmt=True)


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
        and (since := parse_date(value, now_s)) is not None
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
        and (since := parse_date(value, now_s)) is not None
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
    date_s = parse_date(value, now_s)
    return date_s is not None and date_s == modified_s and now_s - date_s >= 1


class RangeOutcome(Enum):
    """What a Range comes to when it selects nothing to send on its own."""

    WHOLE = 200
    UNSATISFIABLE = 416


def select_ranges(value: bytes, size: int) -> list[tuple[int, int]] | RangeOutcome:
    """Return the ranges to send, as (start, end) with end exclusive.

    A malformed or foreign Range is ignored. So is one of more than `RANGES_MAX` parts, or whose
    parts together are more than the whole: the whole costs less. Parts that overlap or touch are
    joined, in the order of their first byte when there is anything to join.
    """
    unit, mark, rest = value.partition(b"=")
    if not mark or unit.strip().lower() != b"bytes":
        return RangeOutcome.WHOLE
    parts = [part.strip(b" \t") for part in rest.split(b",")]
    parts = [part for part in parts if part]
    if not parts or len(parts) > RANGES_MAX:
        return RangeOutcome.WHOLE
    selected = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or not (match[1] or match[2]):
            return RangeOutcome.WHOLE
        first, last = (
            min(int(each[:20]), POSITION_MAX) if each else None for each in match.groups()
        )
        if first is None:
            assert last is not None
            first, end = max(0, size - last), size
        elif last is not None and last < first:
            return RangeOutcome.WHOLE
        else:
            end = size if last is None else min(size, last + 1)
        if first < end:
            selected.append((first, end))
    if not selected:
        return RangeOutcome.UNSATISFIABLE
    joined = _join(selected)
    if len(joined) > 1 and sum(end - start for start, end in joined) >= size:
        return RangeOutcome.WHOLE
    return joined


def _position(digits: bytes) -> int | None:
    """Return a position; one beyond any object stands for all of them."""
    if not digits:
        return None
    return POSITION_MAX if len(digits) > 19 else min(int(digits), POSITION_MAX)


def _join(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return ranges if len(joined) == len(ranges) else joined


def parse_content_range(value: bytes) -> tuple[int, int, int | None] | None:
    """Return (start, end exclusive, size or None) of a Content-Range, or None when malformed."""
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    size = None if match[3] == b"*" else int(match[3])
    if last < start or last >= POSITION_MAX or (size is not None and last >= size):
        return None
    return start, last + 1, size
