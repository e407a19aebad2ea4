"""Grammars: RFC 9110 5.6 and 12.4.2, RFC 9111 1.2.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.syntax import (
    DELTA_SECONDS_MAX,
    is_token,
    list_of_tokens,
    parse_delta_seconds,
    parse_qvalue,
    split_list,
    unquote,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0),
        (b"3600", 3600),
        (b"0003600", 3600),
        (b"000000000000000000000000001", 1),
        (b"2147483647", 2**31 - 1),
        (b"2147483648", 2**31),
        (b"2147483649", 2**31),
        (b"99999999999", 2**31),
        (b"9" * 10000, 2**31),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"1e3", None),
        (b" 1", None),
        (b"1 ", None),
        (b"0x10", None),
        (b"\xb2", None),
        (b"1_000", None),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_9111_1_2_2_delta_seconds(value: bytes, expected: int | None) -> None:
    assert parse_delta_seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1", 1000),
        (b"1.000", 1000),
        (b"0", 0),
        (b"0.5", 500),
        (b"0.", 0),
        (b"0.123", 123),
        (b"0.1234", None),
        (b"1.001", None),
        (b"2", None),
        (b"-0.5", None),
        (b".5", None),
        (b"", None),
    ],
)
def test_9110_12_4_2_qvalue(value: bytes, expected: int | None) -> None:
    assert parse_qvalue(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'""', b""),
        (b'"a b"', b"a b"),
        (b'"a\\"b"', b'a"b'),
        (b'"a\\\\"', b"a\\"),
        (b'"a\xe9"', b"a\xe9"),
        (b'"', None),
        (b'"a', None),
        (b'a"', None),
        (b'"a"b"', None),
        (b'"a\\"', None),
        (b'"a\nb"', None),
        (b"'a'", None),
    ],
)
def test_9110_5_6_4_quoted_string(value: bytes, expected: bytes | None) -> None:
    assert unquote(value) == expected


@pytest.mark.parametrize(
    ("value", "members", "is_closed"),
    [
        (b"a", [b"a"], True),
        (b"a, b ,c", [b"a", b"b", b"c"], True),
        (b"", [], True),
        (b", ,a,,\t,b,", [b"a", b"b"], True),
        (b'a="1,2", b', [b'a="1,2"', b"b"], True),
        (b'a="1\\",2", b', [b'a="1\\",2"', b"b"], True),
        (b'a="1\\\\", b', [b'a="1\\\\"', b"b"], True),
        (b'a="1, b, c', [b'a="1', b"b", b"c"], False),
        (b"a\\, b", [b"a\\", b"b"], True),
    ],
)
def test_9110_5_6_1_list(value: bytes, members: list[bytes], is_closed: bool) -> None:
    assert split_list(value) == (members, is_closed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"a", True), (b"max-age", True), (b"", False), (b"a b", False), (b"a,", False)],
)
def test_9110_5_6_2_token(value: bytes, expected: bool) -> None:
    assert is_token(value) is expected


def test_members_that_are_no_tokens_are_left_out_of_a_list_of_tokens() -> None:
    assert list_of_tokens(b'Close, "x", a b, X-Y') == (b"close", b"x-y")


@given(st.binary(max_size=300))
def test_a_split_list_holds_every_byte_but_blanks_and_commas(value: bytes) -> None:
    members, _ = split_list(value)
    assert b"".join(members).translate(None, b", \t") == value.translate(None, b", \t")


@given(st.integers(min_value=0, max_value=10**30))
def test_delta_seconds_saturate_and_never_wrap(number: int) -> None:
    assert parse_delta_seconds(b"%d" % number) == min(number, DELTA_SECONDS_MAX)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b'"\\', b'a="', b'","'])
def test_a_quote_that_never_ends_hides_no_member(unit: bytes) -> None:
    """Long enough that a scan which goes back at every quote would run into the time limit."""
    value = b'x="' + unit * (1 << 17) + b'"' * (unit.count(b'"') % 2 == 0) + b"\\"
    members, _ = split_list(value + b", no-store")
    assert members[-1] == b"no-store"
    assert unquote(value[2:]) is None
