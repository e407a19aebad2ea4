"""The native reading of a request line takes what the grammar takes, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.smuggling import CASES

from edgecache.http._head import Exchange, Lane, Tally, plain_rest, split_line
from edgecache.http.framing import LINE

ALPHABET = st.sampled_from([bytes((byte,)) for byte in range(256)])
PARTS = st.sampled_from(
    [
        *(b"GET", b"PUT", b"get", b"X" * 31, b"X" * 32, b"X" * 33, b"G(T", b"A!#$%&'*+-.^_`|~0"),
        *(
            b" ",
            b"  ",
            b"\t",
            b"",
            b"/",
            b"/a?b=c",
            b"/a#b",
            b"*",
            b"http://a/",
            b"/\x7f",
            b"/\x80",
        ),
        *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 "),
        *(b"\r\n", b"\n", b"\r", b"\r\r\n", b"\x00", b"Host: a\r\n\r\n"),
    ]
)


def by_grammar(data: bytes, position: int) -> tuple[bytes, bytes, int, int] | None:
    match = LINE.match(data, position)
    return None if match is None else (match[1], match[2], int(match[3]), match.end())


@given(st.lists(PARTS, max_size=9).map(b"".join), st.integers(0, 12))
@example(b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n", 0)
def test_parts_of_lines_in_any_order_are_read_as_by_the_grammar(data: bytes, position: int) -> None:
    position = min(position, len(data))
    assert split_line(data, position) == by_grammar(data, position)


@given(st.data())
def test_a_line_with_one_byte_changed_is_read_as_by_the_grammar(data: st.DataObject) -> None:
    line = bytearray(b"GET /a/b?c HTTP/1.1\r\nHost: a\r\n\r\n")
    line[data.draw(st.integers(0, 20))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(line)))
    assert split_line(bytes(line[:cut]), 0) == by_grammar(bytes(line[:cut]), 0)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_is_in_a_method_and_in_a_target_as_the_grammar_has_it(byte: int) -> None:
    one = bytes((byte,))
    for line in (b"G%bT / HTTP/1.1\r\n", b"GET /%b HTTP/1.1\r\n", b"%b / HTTP/1.0\r\n"):
        assert split_line(line % one, 0) == by_grammar(line % one, 0)


@pytest.mark.parametrize("name", CASES)
def test_the_smuggling_table_is_read_as_by_the_grammar(name: str) -> None:
    data, _ = CASES[name]
    for position in range(min(len(data), 64)):
        assert split_line(data, position) == by_grammar(data, position)


@pytest.mark.parametrize("position", [-1, -(2**40), 17, 2**40])
def test_a_place_outside_of_the_bytes_has_no_line(position: int) -> None:
    assert split_line(b"GET / HTTP/1.1\r\n", position) is None


def test_a_lane_is_closed_until_it_is_opened_and_when_it_has_nothing_left() -> None:
    exchange = Exchange(
        Tally(), tuple, lambda method, status: None, lambda first, seconds: None, 100
    )
    lane = Lane(exchange)
    assert not lane.is_open
    lane.open(b"A: b\r\n", b"A: b\r\n\r\n", 5)
    assert not lane.is_open, "something else is to be done with answers"
    exchange.is_plain = True
    lane.open(b"A: b\r\n", b"A: b\r\n\r\n", 0)
    assert not lane.is_open
    lane.open(b"A: b\r\n", b"A: b\r\n\r\n", 1)
    assert lane.is_open
    assert lane.close() == 0
    assert not lane.is_open


@given(st.binary(max_size=12), st.sampled_from([b"/cache/", b"/", b"/c"]), st.integers(0, 9))
@example(b"a%20", b"/", 9)
@example(b"a?b", b"/", 9)
def test_the_rest_of_a_target_is_given_when_it_stands_for_itself(
    rest: bytes, prefix: bytes, size_max: int
) -> None:
    is_plain = 0 < len(rest) <= size_max and not {b"%"[0], b"?"[0]} & set(rest)
    assert plain_rest(prefix + rest, prefix, size_max) == (rest if is_plain else None)
    assert plain_rest(b"/other/" + rest, b"/cache/", size_max) is None
    assert plain_rest(prefix[:-1], prefix, size_max) is None
