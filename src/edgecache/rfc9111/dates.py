"""HTTP-date (RFC 9110, section 5.6.7): the preferred form and the two obsolete ones.

Widths and order are strict. Letters match in any case, as RFC 9111, section 4.2 wants of a cache,
and every zone but GMT is invalid. The name of the day must be one, but is not held against the
date.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from edgecache.rfc9111.syntax import memoised

_MONTHS = tuple(b"jan feb mar apr may jun jul aug sep oct nov dec".split())
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}
_DAYS = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_SHORT_DAY = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH = b"(" + b"|".join(_MONTHS) + b")"
_TIME = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_FIXDATE = re.compile(_SHORT_DAY + rb", ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" gmt")
_RFC850 = re.compile(_LONG_DAY + rb", ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) " + _TIME + rb" gmt")
_ASCTIME = re.compile(_SHORT_DAY + b" " + _MONTH + rb" ([ 0-9][0-9]) " + _TIME + rb" ([0-9]{4})")

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATE_MAX_S = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())
DATE_MIN_S = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())


def _seconds(year: int, month: bytes, day: bytes, clock: tuple[bytes, ...]) -> int | None:
    hour, minute, second = map(int, clock)
    if hour > 23 or minute > 59 or second > 60:  # 60 is a leap second
        return None
    try:
        ordinal = date(year, _MONTH_NUMBERS[month], int(day)).toordinal()
    except ValueError:
        return None
    return (ordinal - _EPOCH_ORDINAL) * 86400 + hour * 3600 + minute * 60 + second


@memoised
def _parse_full_year(value: bytes) -> int | None:
    lowered = value.lower()
    found = _FIXDATE.fullmatch(lowered)
    if found is not None:
        day, month, year, *clock = found.groups()
        return _seconds(int(year), month, day, tuple(clock))
    found = _ASCTIME.fullmatch(lowered)
    if found is not None:
        month, day, *clock, year = found.groups()
        return _seconds(int(year), month, day.strip(), tuple(clock))
    return None


def parse_date(value: bytes, now_s: int) -> int | None:
    """Parse an HTTP-date.

    Args:
        value: A field value without white space around it.
        now_s: Seconds since the epoch; a year of two digits is the latest one that is not more than
            50 years after it (RFC 9110, section 5.6.7).

    Returns:
        Seconds since the epoch (negative before 1970), or None for anything else.
    """
    seconds = _parse_full_year(value)
    if seconds is not None or b"-" not in value:
        return seconds
    found = _RFC850.fullmatch(value.lower())
    if found is None:
        return None
    day, month, year, *clock = found.groups()
    # A year of 365.2425 days: off by less than two days in 50 years, and never by a year's name.
    year_latest = (_EPOCH + timedelta(seconds=_clamp(now_s + 50 * 31556952))).year
    candidate = year_latest - (year_latest - int(year)) % 100
    seconds = _seconds(candidate, month, day, tuple(clock))
    if seconds is not None and seconds > now_s + 50 * 31556952:
        return _seconds(candidate - 100, month, day, tuple(clock))
    return seconds


def _clamp(seconds: int) -> int:
    return min(max(seconds, DATE_MIN_S), DATE_MAX_S)


@lru_cache(maxsize=1024)
def format_date(seconds: int) -> bytes:
    """Return the IMF-fixdate of a time in seconds since the epoch, years 1 to 9999."""
    moment = _EPOCH + timedelta(seconds=_clamp(seconds))
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        _DAYS[moment.weekday()],
        moment.day,
        _MONTHS[moment.month - 1].capitalize(),
        moment.year,
        moment.hour,
        moment.minute,
        moment.second,
    )
