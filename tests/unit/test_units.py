"""Sizes and durations: the accepted grammar is exact, everything else is refused."""

from __future__ import annotations

import contextlib
import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config.problem import Problem
from edgecache.config.units import (
    DURATION_SECONDS_MAX,
    DURATION_UNITS_US,
    SIZE_BYTES_MAX,
    SIZE_UNITS,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (0, 0),
        (1073741824, 1 << 30),
        ("1073741824", 1 << 30),
        ("007", 7),
        ("0B", 0),
        ("1GiB", 1 << 30),
        ("1 GiB", 1 << 30),
        ("1.5 GiB", 3 << 29),
        ("512MB", 512_000_000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("2TiB", 2 << 40),
        ("8191PiB", 8191 << 50),
        ("0.1KiB", 102),
        ("0.3B", 0),
        (SIZE_BYTES_MAX, SIZE_BYTES_MAX),
    ],
)
def test_size_is_exact(text: object, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "GiB", "-1", "-1GiB", "+1", "1 ", " 1", "1  GiB", "1\tGiB", "1GiB ", "1.", ".5GiB",
        "1.5", "1e9", "1_000", "0x10", "1,5GiB", "100k", "1K", "1M", "10Mb", "1gib", "1GIB", "1EiB",
        "1GiB2", "nan", "inf", "١٢", "１", "auto", "8192PiB", "9223372036854775808",
        "1" * 41, "1." + "0" * 41 + "KiB",
        pytest.param(10**5000, id="5001 digits"),
        -1, 1 << 63, True, False, None, 1.0, float("nan"), float("inf"), b"1", [1], {},
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused_with_a_hint(value: object) -> None:
    with pytest.raises(Problem) as caught:
        parse_size(value)
    assert caught.value.hint
    assert len(caught.value.message) < 150


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("100k", "write 100KB (1000**1) or 100KiB (1024**1)"),
        ("1.5gib", "write 1.5GB (1000**3) or 1.5GiB (1024**3)"),
        ("10Mb", "write 10MB (1000**2) or 10MiB (1024**2)"),
        ("7b", "write 7B"),
    ],
)
def test_an_ambiguous_unit_is_answered_with_both_readings(text: str, hint: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_size(text)
    assert caught.value.hint == hint


@given(st.integers(0, SIZE_BYTES_MAX))
def test_formatted_size_parses_back_to_itself(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(
    st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(SIZE_UNITS)), st.booleans()
)
def test_size_is_the_floor_of_number_times_unit(
    whole: int, thousandths: int, unit: str, has_space: bool
) -> None:
    text = f"{whole}.{thousandths:03d}{' ' if has_space else ''}{unit}"
    exact = (Fraction(whole) + Fraction(thousandths, 1000)) * SIZE_UNITS[unit]
    if exact > SIZE_BYTES_MAX:
        with pytest.raises(Problem):
            parse_size(text)
    else:
        assert parse_size(text) == exact.numerator // exact.denominator


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (7200, 7200.0),
        (2.5, 2.5),
        (0, 0.0),
        ("7200", 7200.0),
        ("2.5", 2.5),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h30.5s", 3630.5),
        ("250ms", 0.25),
        ("10us", 0.00001),
        ("7d", 604800.0),
        ("1w1d1h1m1s1ms1us", 694861.001001),
        (DURATION_SECONDS_MAX, float(DURATION_SECONDS_MAX)),
    ],
)
def test_duration_is_exact(text: object, seconds: float) -> None:
    parsed = parse_duration(text)
    assert parsed == seconds
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    [
        "", "h", "-1", "-1s", "+1s", "1 h", "1h 30m", " 1h", "1h ", "30m1h", "1h1h", "1.5h30m",
        "1H", "1min", "1:30", "1e3", "1.s", ".5s", "nan", "inf", "infs", "auto", "1y",
        "5300w", "٣s",
        -1, -0.5, float("nan"), float("inf"), float("-inf"), True, False, None, b"1s", [1],
        pytest.param(10**5000, id="5001 digits"),
        DURATION_SECONDS_MAX + 1, 1e300,
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_a_hint(value: object) -> None:
    with pytest.raises(Problem) as caught:
        parse_duration(value)
    assert caught.value.hint
    assert len(caught.value.message) < 150


@given(st.lists(st.sampled_from(list(DURATION_UNITS_US)), min_size=1, max_size=7), st.data())
def test_duration_accepts_units_in_falling_order_only(
    units: list[str], data: st.DataObject
) -> None:
    counts = [data.draw(st.integers(0, 1000)) for _ in units]
    text = "".join(f"{count}{unit}" for count, unit in zip(counts, units, strict=True))
    order = [list(DURATION_UNITS_US).index(unit) for unit in units]
    if all(left < right for left, right in itertools.pairwise(order)):
        parts = zip(counts, units, strict=True)
        total_us = sum(count * DURATION_UNITS_US[unit] for count, unit in parts)
        assert parse_duration(text) == total_us / 1_000_000
    else:
        with pytest.raises(Problem, match="out of order"):
            parse_duration(text)


@given(st.integers(0, DURATION_SECONDS_MAX * 1_000_000 // 1000))
def test_formatted_duration_parses_back_to_itself(duration_us: int) -> None:
    assert (
        round(parse_duration(format_duration(duration_us / 1_000_000)) * 1_000_000) == duration_us
    )


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused_and_nothing_else(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(Problem):
            assert parse(text) >= 0
