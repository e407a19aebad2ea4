"""Dates, tags, preconditions and ranges as pure functions."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.errors import ArgumentError
from edgecache.http.multipart import Multipart
from edgecache.http.response import FileRange, Response, render_field
from edgecache.http.semantics import (
    RANGES_MAX,
    RangeOutcome,
    format_date,
    if_range_holds,
    parse_content_range,
    parse_date,
    parse_etags,
    select_ranges,
)

NOW = 1_800_000_000  # 15 Jan 2027


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Mon, 29 Feb 2016 00:00:00 GMT", 1456704000),
        (b"Thu, 31 Dec 2026 23:59:60 GMT", 1798761599),
        (b"Friday, 15-Jan-77 08:00:00 GMT", 3377923200),
        (b"Saturday, 15-Jan-78 08:00:00 GMT", 253699200),
    ],
)
def test_dates_in_all_three_forms(text: bytes, seconds: int) -> None:
    assert parse_date(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        b"", b"0", b"Sun, 06 Nov 1994 08:49:37", b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 6 Nov 1994 08:49:37 GMT", b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 00:60:00 GMT", b"sun, 06 nov 1994 08:49:37 gmt",
        b" Sun, 06 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 29 Feb 2015 00:00:00 GMT", "Sun, ٠٦ Nov 1994 08:49:37 GMT".encode(),
    ],
)  # fmt: skip
def test_what_is_no_date_is_none(text: bytes) -> None:
    assert parse_date(text, NOW) is None


@given(st.integers(0, 253402300799))
def test_dates_come_back(seconds: int) -> None:
    assert parse_date(format_date(seconds).encode(), NOW) == seconds


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (b'"a"', [(False, b"a")]),
        (b'W/"a"', [(True, b"a")]),
        (b'""', [(False, b"")]),
        (b'"a","b" , ,W/"c,d"', [(False, b"a"), (False, b"b"), (True, b"c,d")]),
        (b'"a', None), (b"a", None), (b'w/"a"', None), (b'"a" "b"', None), (b"", None),
        (b'"a b"', None), (b'"a",', None), (b"*", None),
    ],
)  # fmt: skip
def test_entity_tags(text: bytes, tags: list[tuple[bool, bytes]] | None) -> None:
    assert parse_etags(text) == tags


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (None, True), (b'"a"', True), (b'W/"a"', False), (b'"b"', False), (b'"a","a"', False),
        (format_date(NOW - 60).encode(), True), (format_date(NOW - 61).encode(), False),
        (format_date(NOW - 59).encode(), False), (b"garbage", False),
    ],
)  # fmt: skip
def test_if_range_needs_the_very_validator(value: bytes | None, holds: bool) -> None:
    assert if_range_holds(value, b"a", NOW - 60, NOW) is holds


def test_a_date_of_this_second_is_no_strong_validator() -> None:
    assert not if_range_holds(format_date(NOW).encode(), b"a", NOW, NOW)


POSITIONS = st.one_of(st.none(), st.integers(0, 120), st.integers(10**18, 10**40))


@given(st.lists(st.tuples(POSITIONS, POSITIONS), min_size=1, max_size=12), st.integers(0, 100))
def test_selected_ranges_lie_inside_do_not_overlap_and_cost_less_than_the_whole(
    specs: list[tuple[int | None, int | None]], size: int
) -> None:
    def text(position: int | None) -> str:
        return "" if position is None else str(position)

    value = "bytes=" + ",".join(f"{text(first)}-{text(last)}" for first, last in specs)
    found = select_ranges(value.encode(), size)
    if isinstance(found, RangeOutcome):
        return
    assert 1 <= len(found) <= RANGES_MAX
    for start, end in found:
        assert 0 <= start < end <= size
    ordered = sorted(found)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ordered))
    assert sum(end - start for start, end in found) <= size
    wanted = set()
    for first, last in specs:
        if first is None:
            assert last is not None
            wanted |= set(range(max(0, size - last), size))
        else:
            wanted |= set(range(first, size if last is None else min(last + 1, size)))
    assert {n for start, end in found for n in range(start, end)} == wanted


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (b"bytes 0-0/1", (0, 1, 1)),
        (b"Bytes 5-9/*", (5, 10, None)),
        (b"bytes 0-9/9", None), (b"bytes 9-5/10", None), (b"bytes */10", None),
        (b"bytes 0-9", None), (b"bytes=0-9/10", None), (b"items 0-9/10", None),
        (b"bytes 0-9223372036854775807/*", None), (b"bytes -1-9/10", None),
    ],
)  # fmt: skip
def test_content_ranges(text: bytes, parsed: tuple[int, int, int | None] | None) -> None:
    assert parse_content_range(text) == parsed


def test_a_multipart_is_as_long_as_it_says() -> None:
    data = bytes(range(100))
    ranges = [(0, 10), (50, 51), (90, 100)]
    frame = Multipart("text/x", ranges, 100)

    async def read(parts: list[tuple[int, int]]) -> AsyncIterator[bytes]:
        for start, end in parts:
            yield data[start:end]

    async def gather() -> bytes:
        return b"".join([piece async for piece in frame.pieces(read)])

    body = asyncio.run(gather())
    assert len(body) == frame.length
    boundary = frame.content_type.partition("boundary=")[2].encode()
    assert body.count(b"--" + boundary) == 4
    assert body.endswith(b"--" + boundary + b"--\r\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A b", "c"), ("", "c"), ("A:", "c"), ("A", "b\r\nC: d"), ("A", "b\n"), ("A", "\0"),
        ("A\r\nB", "c"), ("A", "ü€"), ("Content-Length", "5"), ("transfer-encoding", "chunked"),
        ("Connection", "close"), ("Date", "now"),
    ],
)  # fmt: skip
def test_a_field_that_would_break_an_answer_is_refused(name: str, value: str) -> None:
    with pytest.raises(ArgumentError):
        render_field(name, value)


@pytest.mark.parametrize(
    ("response", "length"),
    [
        (Response(200, (), b"abc"), b"3"),
        (Response(200, (), [b"a", memoryview(b"bc")]), b"3"),
        (Response(200, (), FileRange(0, 5, 7)), b"7"),
        (Response(404), b"0"),
        (Response(204, (), b"abc"), None),
        (Response(304, (), b"abc"), None),
    ],
)
def test_the_length_of_content_is_said_where_it_may_be(
    response: Response, length: bytes | None
) -> None:
    found = [line for line in response.head.split(b"\r\n") if line.startswith(b"Content-Length")]
    assert found == ([] if length is None else [b"Content-Length: " + length])
    if response.status in (204, 304):
        assert response.body == b""
