"""Heads of answers cut natively: exactly what the grammar takes, and nothing is repaired."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.http._fields import render_fields, split_head
from edgecache.rfc9111.fields import canonical_name

# Source: RFC 9112, sections 4 and 5; the status line and the field line as patterns.
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x21-\x7e\x80-\xff]*"
    rb"(?:[\t\x20]+[\x21-\x7e\x80-\xff]+)*)[ \t]*"
)
LINE_BAD, FIELD_BAD, FIELDS_MANY = 1, 2, 3


def by_pattern(head: bytes) -> object:
    """What the patterns read in a head: status, reason, fields, minor; or None."""
    line, *lines = head.split(b"\r\n")
    found = STATUS_LINE.fullmatch(line)
    fields = [FIELD.fullmatch(each) for each in lines]
    if found is None or None in fields:
        return None
    pairs = [(each[1].lower(), each[2]) for each in fields if each is not None]
    return int(found[2]), found[3] or b"", pairs, int(found[1])


def cut(head: bytes) -> object:
    found = split_head(head, 0, len(head), 100)
    return None if isinstance(found, int) else found[:4]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK", (200, b"OK", [], 1, -1, False)),
        (b"HTTP/1.1 204", (204, b"", [], 1, -1, False)),
        (b"HTTP/1.0 599 \xff a\t", (599, b"\xff a\t", [], 0, -1, False)),
        (b"HTTP/1.1 200 OK\r\nA:\t b \t", (200, b"OK", [(b"a", b"b")], 1, -1, False)),
        (b"HTTP/1.1 200 OK\r\nA:", (200, b"OK", [(b"a", b"")], 1, -1, False)),
        (b"HTTP/1.1 200 OK\r\nA: b  c", (200, b"OK", [(b"a", b"b  c")], 1, -1, False)),
    ],
)
def test_a_head_is_cut(head: bytes, expected: object) -> None:
    assert split_head(head, 0, len(head), 100) == expected


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", LINE_BAD),
        (b"HTTP/1.1 20", LINE_BAD),
        (b"HTTP/1.2 200 OK", LINE_BAD),
        (b"HTTP/2.0 200 OK", LINE_BAD),
        (b"http/1.1 200 OK", LINE_BAD),
        (b"HTTP/1.1  200 OK", LINE_BAD),
        (b"HTTP/1.1 099 OK", LINE_BAD),
        (b"HTTP/1.1 2000 OK", LINE_BAD),
        (b"HTTP/1.1 200\tOK", LINE_BAD),
        (b"HTTP/1.1 200 O\0K", LINE_BAD),
        (b"HTTP/1.1 200 OK\rA: b", LINE_BAD),
        (b"HTTP/1.1 200 OK\nA: b", LINE_BAD),
        (b"HTTP/1.1 200 OK\r\n", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\n\r\n", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA : b", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\n: b", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\n A: b", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\nB: c", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\rc", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\0c", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\x7f", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", FIELD_BAD),
        (b"HTTP/1.1 200 OK\r\n" + b"\r\n".join([b"A: b"] * 101), FIELDS_MANY),
    ],
)
def test_what_is_no_head_is_refused(head: bytes, reason: int) -> None:
    assert split_head(head, 0, len(head), 100) == reason


@pytest.mark.parametrize(
    ("lines", "length", "is_odd"),
    [
        (b"Content-Length: 17", 17, False),
        (b"content-LENGTH: 0", 0, False),
        (b"Content-Length: 999999999999999999", 999_999_999_999_999_999, False),
        (b"Content-Length: 1000000000000000000", -1, True),
        (b"Content-Length: +1", -1, True),
        (b"Content-Length: 1 1", -1, True),
        (b"Content-Length:", -1, True),
        (b"Content-Length: 1\r\nContent-Length: 1", 1, True),
        (b"Content-Length: x\r\nContent-Length: 1", 1, True),
        (b"Transfer-Encoding: chunked", -1, True),
        (b"Connection: Keep-Alive", -1, False),
        (b"Connection: keep-alive, x", -1, True),
        (b"Connection: close", -1, True),
        (b"X-Content-Length: 5", -1, False),
    ],
)
def test_framing_that_is_not_plain_is_left_to_the_rules(
    lines: bytes, length: int, is_odd: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + lines
    found = split_head(head, 0, len(head), 100)
    assert not isinstance(found, int)
    assert found[4:] == (length, is_odd)


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b":",
        b": ",
        b" ",
        b"\t",
        b"\0",
        b"A",
        b"b",
        b"\x80",
        b"\x7f",
        b"\xff",
        b"@",
    ]
)


@given(st.lists(PIECES, max_size=24).map(b"".join), st.booleans())
def test_it_takes_what_the_patterns_take(tail: bytes, is_line: bool) -> None:
    head = b"HTTP/1.1 200" + tail if is_line else b"HTTP/1.1 200 OK\r\n" + tail
    assert cut(head) == by_pattern(head)


def rendered(*pairs: tuple[bytes, bytes]) -> bytes | None:
    return render_fields(pairs, frozenset((b"age",)), {}, canonical_name)


def test_fields_are_written_in_their_usual_spelling_without_the_unwanted() -> None:
    pairs = ((b"etag", b'"a"'), (b"age", b"1"), (b"content-type", b""), (b"etag", b'"b"'))
    assert rendered(*pairs) == b'ETag: "a"\r\nContent-Type: \r\nETag: "b"\r\n'
    assert rendered() == b""


@pytest.mark.parametrize(
    "pair",
    [
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\n"),
        (b"a", b"\0"),
        (b"a\r", b"b"),
        (b"a:", b"b"),
        (b"", b"b"),
    ],
)
def test_a_field_that_would_end_early_is_not_written(pair: tuple[bytes, bytes]) -> None:
    assert rendered(pair) is None


def test_names_of_one_letter_leave_the_letters_alone() -> None:
    """Bytes of length one are shared by all: written to, every b"A" of the process is b"a"."""
    letters = [bytes([number]) for number in range(256)]
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(
        b"%c: %c\r\n" % (number, number) for number in range(ord("A"), ord("Z") + 1)
    )
    found = split_head(head, 0, len(head) - 2, 100)
    assert found[2] == [(bytes([n + 32]), bytes([n])) for n in range(ord("A"), ord("Z") + 1)]
    assert [letter[0] for letter in letters] == list(range(256))
