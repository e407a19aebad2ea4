"""HTTP-date: RFC 9110 5.6.7, RFC 9111 4.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.dates import DATE_MAX_S, DATE_MIN_S, format_date, parse_date

EXAMPLE_S = 784111777  # the date of the examples in RFC 9110
NOW_S = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE_S),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE_S),
        (b"Sun Nov  6 08:49:37 1994", EXAMPLE_S),
        (b"sun, 06 nov 1994 08:49:37 gmt", EXAMPLE_S),
        (b"SUN, 06 NOV 1994 08:49:37 GMT", EXAMPLE_S),
        (b"Mon, 06 Nov 1994 08:49:37 GMT", EXAMPLE_S),  # the wrong day of the week
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Wed, 31 Dec 1969 23:59:59 GMT", -1),
        (b"Tue, 19 Jan 2038 03:14:08 GMT", 2**31),
        (b"Thu, 31 Dec 2099 23:59:59 GMT", 4102444799),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),  # a leap second
        (b"Thu, 29 Feb 2024 00:00:00 GMT", 1709164800),
        (b"Sun Nov 16 08:49:37 1994", 784975777),
    ],
)
def test_9110_5_6_7_valid_dates(value: bytes, expected: int) -> None:
    assert parse_date(value, NOW_S) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"-1",
        b"3600",
        b"Sun, 06 Nov 1994 08:49:37 EST",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun 06 Nov 1994 08:49:37 GMT",
        b"Sun,  06 Nov 1994 08:49:37 GMT",
        b"Sun, 06  Nov 1994 08:49:37 GMT",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun, 06-Nov-1994 08:49:37 GMT",
        b"Sun, 06 November 1994 08:49:37 GMT",
        b"Xyz, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Xyz 1994 08:49:37 GMT",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Fri, 29 Feb 2023 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sun, 06 Nov 1994 8:49:37 GMT",
        b"Sun, 06 Nov 1994 08.49.37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"06 Nov 1994 08:49:37 GMT",
        b"Sun Nov 06 08:49:37 1994 GMT",
        b"Sun Nov 6 08:49:37 1994",
        b"1994-11-06T08:49:37Z",
    ],
)
def test_9110_5_6_7_invalid_dates(value: bytes) -> None:
    assert parse_date(value, NOW_S) is None


@pytest.mark.parametrize(
    ("year", "now", "expected"),
    [
        (b"94", b"Fri, 01 Jan 2010 00:00:00 GMT", 1994),
        (b"50", b"Fri, 01 Jan 2010 00:00:00 GMT", 2050),
        (b"59", b"Fri, 01 Jan 2010 00:00:00 GMT", 2059),
        (b"61", b"Fri, 01 Jan 2010 00:00:00 GMT", 1961),
        (b"60", b"Fri, 01 Jan 2010 00:00:00 GMT", 1960),  # Nov 2060 is more than 50 years away
        (b"60", b"Fri, 31 Dec 2010 00:00:00 GMT", 2060),
        (b"05", b"Thu, 01 Jan 2099 00:00:00 GMT", 2105),
    ],
)
def test_9110_5_6_7_two_digit_years(year: bytes, now: bytes, expected: int) -> None:
    now_s = parse_date(now, 0)
    assert now_s is not None
    seconds = parse_date(b"Sunday, 06-Nov-" + year + b" 08:49:37 GMT", now_s)
    assert seconds == parse_date(b"Sun, 06 Nov %d 08:49:37 GMT" % expected, now_s)
    assert seconds is not None


@given(st.integers(min_value=DATE_MIN_S, max_value=DATE_MAX_S))
def test_a_formatted_date_is_read_back(seconds: int) -> None:
    assert parse_date(format_date(seconds), NOW_S) == seconds


@given(st.binary(max_size=40), st.integers(min_value=-(2**40), max_value=2**50))
def test_parsing_never_raises(value: bytes, now_s: int) -> None:
    parse_date(value, now_s)


@given(st.integers(0, 99), st.integers(min_value=0, max_value=2**34))
def test_a_two_digit_year_is_never_more_than_fifty_years_ahead(year: int, now_s: int) -> None:
    seconds = parse_date(b"Sunday, 06-Nov-%02d 08:49:37 GMT" % year, now_s)
    assert seconds is not None
    assert now_s - 51 * 366 * 86400 < seconds <= now_s + 50 * 366 * 86400
