"""Ranges: RFC 9110 14, 15.3.7; combining parts: RFC 9111 3.4."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.partial import (
    combined,
    completing,
    covers,
    if_range,
    joined,
    may_combine,
    missing,
)
from edgecache.rfc9111.ranges import (
    NOT_SATISFIABLE,
    RANGE_BYTES_MAX,
    RANGES_MAX,
    WHOLE,
    ByteRange,
    ContentRange,
    RangeAnswer,
    Spec,
    answer_range,
    format_content_range,
    format_unsatisfied_range,
    frame_multipart,
    parse_content_range,
    parse_range,
)
from edgecache.rfc9111.stored import PARTIAL, StoredPolicy, decode_stored, encode_stored
from tests.rfc9111.exchanges import headers, store

BIG = b"9" * 30


@pytest.mark.parametrize(
    ("value", "specs"),
    [
        (b"bytes=0-4", ((0, 4),)),
        (b"BYTES=0-4", ((0, 4),)),
        (b"bytes=5-", ((5, None),)),
        (b"bytes=-5", ((None, 5),)),
        (b"bytes=-0", ((None, 0),)),
        (b"bytes=0-0,2-3 ,\t-1", ((0, 0), (2, 3), (None, 1))),
        (b"bytes=,0-4,,", ((0, 4),)),
        (b"bytes= 0-4", ((0, 4),)),
        (b"bytes=007-008", ((7, 8),)),
        (b"bytes=0-" + BIG, ((0, RANGE_BYTES_MAX),)),
        (b"bytes=" + BIG + b"-", ((RANGE_BYTES_MAX, None),)),
        (b"bytes=9223372036854775808-", ((RANGE_BYTES_MAX, None),)),
        (b"bytes=5-4", None),
        (b"bytes=0-4,5-4", None),
        (b"bytes=", None),
        (b"bytes=,", None),
        (b"bytes=-", None),
        (b"bytes=a-b", None),
        (b"bytes=0-4-5", None),
        (b"bytes=0 - 4", None),
        (b"bytes=+0-4", None),
        (b"bytes=--4", None),
        (b"bytes=0x0-4", None),
        (b"bytes 0-4", None),
        (b"bytes =0-4", None),
        (b"lines=0-4", None),
        (b"0-4", None),
        (b"", None),
    ],
)
def test_9110_14_2_range(value: bytes, specs: tuple[Spec, ...] | None) -> None:
    assert parse_range(value) == specs


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (b"bytes=0-4", 10, [(0, 4)]),
        (b"bytes=0-99", 10, [(0, 9)]),
        (b"bytes=9-", 10, [(9, 9)]),
        (b"bytes=-3", 10, [(7, 9)]),
        (b"bytes=-99", 10, [(0, 9)]),
        (b"bytes=10-", 10, 416),
        (b"bytes=10-20", 10, 416),
        (b"bytes=-0", 10, 416),
        (b"bytes=" + BIG + b"-", 10, 416),
        (b"bytes=-" + BIG, 10, [(0, 9)]),
        (b"bytes=0-0,99-", 10, [(0, 0)]),
        (b"bytes=99-,-0", 10, 416),
        (b"bytes=0-", 0, 200),
        (b"bytes=-5", 0, 200),
        (b"lines=1-2", 10, 200),
        (b"bytes=3-1", 10, 200),
        (b"bytes=0-9,90-99", 1000, [(0, 9), (90, 99)]),
        (b"bytes=90-99,0-9", 1000, [(90, 99), (0, 9)]),  # as asked for
        (b"bytes=0-9,5-19", 1000, [(0, 19)]),
        (b"bytes=0-9,10-19", 1000, [(0, 19)]),
        (b"bytes=5-19,50-59,0-9", 1000, [(0, 19), (50, 59)]),
        (b"bytes=0-0,2-2", 10, [(0, 0), (2, 2)]),
        (b"bytes=0-,0-,0-,0-", 1000, [(0, 999)]),
    ],
)
def test_9110_14_2_answers(value: bytes, size: int, expected: int | list[tuple[int, int]]) -> None:
    found = answer_range(parse_range(value), size)
    if isinstance(expected, int):
        assert found == (WHOLE if expected == 200 else NOT_SATISFIABLE)
    else:
        assert found == RangeAnswer(206, tuple(ByteRange(*part) for part in expected))


@pytest.mark.parametrize("count", [RANGES_MAX, RANGES_MAX + 1, 1000])
def test_more_than_eight_ranges_are_answered_by_the_whole(count: int) -> None:
    value = b"bytes=" + b",".join(b"%d-%d" % (n * 1000, n * 1000) for n in range(count))
    found = answer_range(parse_range(value), 10**9)
    assert found == WHOLE if count > RANGES_MAX else len(found.ranges) == count


SPECS = st.tuples(st.none() | st.integers(0, 3000), st.none() | st.integers(0, 3000)).filter(
    lambda spec: spec[0] is not None or spec[1] is not None
)


@given(st.lists(SPECS, min_size=1, max_size=12), st.integers(0, 2000))
def test_an_answer_stays_inside_and_is_larger_than_the_object_by_its_frames_only(
    specs: list[Spec], size: int
) -> None:
    usable = [s for s in specs if s[0] is None or s[1] is None or s[0] <= s[1]]
    found = answer_range(usable, size)
    assert all(0 <= part.first <= part.last < size for part in found.ranges)
    ordered = sorted(found.ranges)
    assert all(a.last + 1 < b.first for a, b in pairwise(ordered))
    if len(found.ranges) > 1:
        frame = frame_multipart(found.ranges, size, b"text/plain", b"b" * 24)
        assert len(found.ranges) <= RANGES_MAX
        assert frame.total_bytes <= size + 64 + 128 * len(found.ranges)


@given(st.binary(max_size=60))
def test_parsing_never_raises(value: bytes) -> None:
    answer_range(parse_range(b"bytes=" + value), 100)
    parse_content_range(b"bytes " + value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes 0-4/10", ContentRange(0, 4, 10)),
        (b"Bytes 0-4/*", ContentRange(0, 4, None)),
        (b"bytes 9-9/10", ContentRange(9, 9, 10)),
        (b"bytes 0-10/10", None),
        (b"bytes 5-4/10", None),
        (b"bytes */10", None),
        (b"bytes=0-4/10", None),
        (b"bytes 0-4", None),
        (b"bytes  0-4/10", None),
        (b"lines 0-4/10", None),
        (b"bytes 0-" + BIG + b"/*", None),
        (b"bytes 0-4/10, bytes 0-4/10", None),
    ],
)
def test_9110_14_4_content_range(value: bytes, expected: ContentRange | None) -> None:
    assert parse_content_range(value) == expected


@given(st.integers(0, 2**62), st.integers(0, 2**62 - 2), st.integers(1, 1000) | st.none())
def test_9110_14_4_a_formatted_content_range_is_read_back(
    first: int, length: int, more: int | None
) -> None:
    part = ByteRange(first, first + length)
    size = None if more is None else part.last + more
    assert parse_content_range(format_content_range(part, size)) == (*part, size)


def test_9110_15_5_17_content_range_of_a_416() -> None:
    assert format_unsatisfied_range(10) == b"bytes */10"


def test_9110_14_6_the_frame_of_several_ranges() -> None:
    content = bytes(range(100))
    frame = frame_multipart((ByteRange(0, 4), ByteRange(90, 99)), 100, b"a/b", b"xyz")
    body = b"".join(head + content[p.first : p.last + 1] for head, p in frame.parts) + frame.tail
    assert frame.content_type == b"multipart/byteranges; boundary=xyz"
    assert frame.total_bytes == len(body)
    assert body == (
        b"--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 0-4/100\r\n\r\n"
        + content[:5]
        + b"\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 90-99/100\r\n\r\n"
        + content[90:]
        + b"\r\n--xyz--\r\n"
    )
    bare = frame_multipart((ByteRange(0, 4),), 100, None, b"xyz")
    assert b"Content-Type" not in bare.parts[0][0]


# RFC 9111 3.4


def part(validators: str, content_range: str = "bytes 0-4/10") -> StoredPolicy:
    text = f"Cache-Control: max-age=60\nContent-Range: {content_range}\n{validators}"
    return store(text, status=206, request="Range: bytes=0-4").policy


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ('ETag: "a"', 'ETag: "a"', True),
        ('ETag: "a"', 'ETag: "b"', False),
        ('ETag: W/"a"', 'ETag: W/"a"', False),
        ('ETag: W/"a"', 'ETag: "a"', False),
        ("ETag: a", "ETag: a", False),
        ("Last-Modified: {-10}", "Last-Modified: {-10}", True),
        ("Last-Modified: {-10}", "Last-Modified: {-11}", False),
        ("Last-Modified: {+0}", "Last-Modified: {+0}", False),  # weak: as young as Date
        ('ETag: "a"\nLast-Modified: {-10}', "Last-Modified: {-10}", False),
        ("", "", False),
    ],
)
def test_9110_15_3_7_3_parts_are_combined_by_a_strong_validator(
    left: str, right: str, expected: bool
) -> None:
    assert may_combine(part(left), part(right, "bytes 5-9/10")) is expected
    assert may_combine(part(left), part(right, "bytes 5-9/*")) is expected
    assert not may_combine(part(left), part(right, "bytes 5-9/11"))


@pytest.mark.parametrize(
    ("validators", "expected"),
    [
        ('ETag: "a"\nLast-Modified: {-10}', b'"a"'),
        ('ETag: W/"a"\nLast-Modified: {-10}', None),
        ("Last-Modified: {-10}", b"Tue, 14 Nov 2023 22:13:10 GMT"),
        ("Last-Modified: {+0}", None),
        ("", None),
    ],
)
def test_9110_13_1_5_a_gap_is_fetched_pinned_to_one_representation(
    validators: str, expected: bytes | None
) -> None:
    policy = part(validators)
    assert if_range(policy) == expected
    asked = headers("Range: bytes=0-9\nIf-None-Match: x\nAccept: */*")
    found = completing(asked, policy, ByteRange(5, 9))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.pairs == (
            (b"accept", b"*/*"),
            (b"range", b"bytes=5-9"),
            (b"if-range", expected),
        )


def test_a_part_covers_what_lies_in_it() -> None:
    policy = part('ETag: "a"', "bytes 2-5/10")
    assert covers(policy, [ByteRange(2, 5), ByteRange(3, 3)])
    assert not covers(policy, [ByteRange(1, 5)])
    assert not covers(policy, [ByteRange(2, 2), ByteRange(5, 6)])
    assert covers(store("Cache-Control: max-age=60").policy, [ByteRange(0, 10**9)])


RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: ByteRange(p[0], p[0] + p[1])),
    max_size=8,
)


@given(RANGES, st.integers(0, 60), st.integers(0, 30))
def test_gaps_and_parts_together_are_what_was_wanted(
    present: list[ByteRange], first: int, length: int
) -> None:
    wanted = ByteRange(first, first + length)
    held = {n for p in present for n in range(p.first, p.last + 1)}
    gaps = missing(present, wanted)
    found = [n for gap in gaps for n in range(gap.first, gap.last + 1)]
    assert found == [n for n in range(wanted.first, wanted.last + 1) if n not in held]
    assert {n for p in joined(present) for n in range(p.first, p.last + 1)} == held


@pytest.mark.parametrize(
    ("part_", "expected"),
    [
        (ContentRange(5, 6, 10), (2, 6, 10)),
        (ContentRange(6, 7, None), (2, 7, 10)),
        (ContentRange(0, 1, 10), (0, 5, 10)),
        (ContentRange(3, 4, 10), (2, 5, 10)),
        (ContentRange(7, 9, 10), None),
        (ContentRange(0, 0, 10), None),
    ],
)
def test_9111_3_4_a_part_grows_by_what_touches_it(
    part_: ContentRange, expected: tuple[int, int, int] | None
) -> None:
    stored = store(
        'Cache-Control: max-age=60\nETag: "a"\nContent-Range: bytes 2-5/10',
        status=206,
        request="Range: bytes=2-5",
    )
    found = combined(stored, part_)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        policy = found.policy
        assert (policy.range_first, policy.range_last, policy.complete_bytes) == expected
        assert policy.flags & PARTIAL


def test_9110_15_3_7_3_with_the_last_byte_it_is_a_complete_200() -> None:
    stored = store(
        'Cache-Control: max-age=60\nETag: "a"\nContent-Range: bytes 5-9/10',
        status=206,
        request="Range: bytes=5-9",
    )
    found = combined(stored, ContentRange(0, 4, 10))
    assert found is not None
    assert (found.policy.status, found.policy.flags & PARTIAL) == (200, 0)
    assert found.headers.get_all(b"content-length") == (b"10",)
    assert found.headers.get(b"etag") == b'"a"'
    assert decode_stored(encode_stored(found)) == found
