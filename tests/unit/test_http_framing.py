"""Framing: what is accepted has one reading, and llhttp has the same."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.smuggling import CASES

from edgecache.http.chunked import ChunkedDecoder
from edgecache.http.failures import RequestError
from edgecache.http.framing import check_shape, parse_block, parse_line, split_target
from edgecache.http.judge import fields_by_llhttp
from edgecache.http.limits import HttpLimits

LIMITS = HttpLimits()


class Sink:
    """What llhttp makes of a request."""

    def __init__(self) -> None:
        self.body = b""
        self.is_done = False

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.is_done = True


def by_llhttp(body: bytes) -> bytes | None:
    """Content of a chunked body as llhttp reads it; None: refused or not complete."""
    sink = Sink()
    try:
        httptools.HttpRequestParser(sink).feed_data(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        )
    except httptools.HttpParserError:
        return None
    return sink.body if sink.is_done else None


def decode(body: bytes, cuts: tuple[int, ...] = ()) -> tuple[bytes, bool, int]:
    """Return content, whether it is complete, and the place behind it."""
    decoder = ChunkedDecoder(LIMITS)
    pieces: list[bytes] = []
    used = 0
    for low, high in zip((0, *cuts), (*cuts, len(body)), strict=True):
        part = body[low:high]
        position = decoder.feed(part, 0, pieces)
        used += position
        if decoder.is_done:
            break
        assert position == len(part)
    return b"".join(pieces), decoder.is_done, used


CHUNK = st.binary(min_size=1, max_size=40).map(lambda data: b"%x\r\n%s\r\n" % (len(data), data))


@given(st.lists(CHUNK, max_size=6), st.binary(max_size=20), st.data())
def test_chunks_are_read_as_llhttp_reads_them_however_they_are_cut(
    chunks: list[bytes], behind: bytes, data: st.DataObject
) -> None:
    body = b"".join(chunks) + b"0\r\n\r\n"
    stream = body + behind
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5))))
    content, is_done, used = decode(stream, cuts)
    assert is_done
    assert used == len(body)
    assert content == by_llhttp(body)


@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(
            CHUNK,
            st.sampled_from([b"\r\n", b"0\r\n", b"5", b";a=b", b"\r", b"\n", b" ", b"A: b\r\n"]),
            st.binary(max_size=4),
        ),
        max_size=8,
    )
)
def test_a_chunked_body_that_is_accepted_is_accepted_by_llhttp(parts: list[bytes]) -> None:
    body = b"".join(parts)
    try:
        content, is_done, used = decode(body)
    except RequestError:
        return
    if is_done:
        assert by_llhttp(body[:used]) == content


@settings(max_examples=500)
@given(st.text(alphabet="abcAB:;, \t\r\n\0\x7f\xe9-_()", max_size=60))
def test_a_block_that_is_accepted_is_read_alike_by_both_parsers(text: str) -> None:
    raw = text.encode("latin-1") + b"\r\n"
    try:
        block = parse_block(raw)
    except RequestError:
        return
    assert list(block.fields) == fields_by_llhttp(raw)
    for name, value in block.fields:
        assert value == value.strip(b" \t")
        assert value in block.values[name.lower()]


@given(st.binary(max_size=40))
def test_a_line_that_is_accepted_consists_of_its_parts(noise: bytes) -> None:
    data = b"GET " + noise + b" HTTP/1.1\r\n"
    try:
        method, target, minor, end = parse_line(data, 0)
    except RequestError:
        return
    assert b"%s %s HTTP/1.%d\r\n" % (method, target, minor) == data[:end]


@given(st.sampled_from(sorted(CASES)), st.integers(0, 70000))
def test_what_a_part_is_refused_for_the_whole_is_refused_for(name: str, cut: int) -> None:
    data = CASES[name][0]
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[: end + 2]
    try:
        check_shape(head[:cut], False, LIMITS)
    except RequestError as found:
        first = (found.status, found.reason)
    else:
        return
    with pytest.raises(RequestError) as caught:
        check_shape(head, end >= 0, LIMITS)
    assert (caught.value.status, caught.value.reason) == first


def test_fields_keep_order_case_and_duplicates() -> None:
    block = parse_block(b"Host: a\r\nX-B: 1\r\nx-b:2\r\nEmpty:\r\nConnection: a , Close\r\n")
    assert block.fields == (
        (b"Host", b"a"), (b"X-B", b"1"), (b"x-b", b"2"), (b"Empty", b""),
        (b"Connection", b"a , Close"),
    )  # fmt: skip
    assert block.get(b"x-b") == b"1, 2"
    assert block.get(b"nothing") is None
    assert block.connection == {b"a", b"close"}


@pytest.mark.parametrize(
    ("target", "split"),
    [
        (b"/a?b", (b"/a?b", None)),
        (b"*", (b"*", None)),
        (b"http://h:1/a?b", (b"/a?b", b"h:1")),
        (b"HTTPS://h", (b"/", b"h")),
        (b"http://h?q", (b"/?q", b"h")),
    ],
)
def test_a_target_is_split_into_origin_form_and_authority(
    target: bytes, split: tuple[bytes, bytes | None]
) -> None:
    assert split_target(target) == split


def test_a_decoder_keeps_no_more_than_a_line() -> None:
    decoder = ChunkedDecoder(LIMITS)
    decoder.feed(b"5;", 0, [])
    for _ in range(LIMITS.chunk_extension_bytes_max // 4):
        decoder.feed(b"aaa", 0, [])
    with pytest.raises(RequestError):
        decoder.feed(b"a" * LIMITS.chunk_extension_bytes_max, 0, [])
    assert len(decoder._line) <= LIMITS.chunk_extension_bytes_max
