"""Heads and pieces: what was written is read, what was damaged is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.objects.grid import Grid
from edgecache.objects.head import (
    HASH_BYTES,
    STATE_COMPLETE,
    STATE_SPARSE,
    Head,
    content_hash,
    decode_head,
    decode_piece,
    encode_piece,
)
from edgecache.objects.keys import new_object_id, part_key, sparse_key
from edgecache.objects.ranges import RangeSet

U64 = st.integers(0, 2**64 - 1)
HEADS = st.builds(
    Head,
    size=st.integers(0, 2**63 - 1),
    generation=U64,
    object_id=st.binary(min_size=16, max_size=16),
    chunk_bytes=st.integers(1, 2**32 - 1),
    state=st.sampled_from([STATE_COMPLETE, STATE_SPARSE]),
    is_paged=st.booleans(),
    table=st.binary(max_size=4).map(lambda few: few * HASH_BYTES),
    runs=st.lists(st.tuples(U64, U64), max_size=4),
    lifetime_us=U64,
    first_bytes=st.just(0),
)
CUT_HEADS = st.builds(
    Head,
    size=st.integers(1 << 20, 2**63 - 1),
    generation=U64,
    object_id=st.binary(min_size=16, max_size=16),
    chunk_bytes=st.integers(1 << 16, 1 << 20),
    first_bytes=st.integers(0, (1 << 16) - 1),
    shared_count=st.integers(0, 1),  # as many chunks as the smallest of them has
)


@given(st.one_of(HEADS, CUT_HEADS))
def test_a_head_is_read_as_it_was_written(head: Head) -> None:
    assert decode_head(head.encode()) == head


@given(CUT_HEADS)
def test_a_head_with_sizes_that_cannot_be_is_refused(head: Head) -> None:
    head.first_bytes = head.chunk_bytes
    assert decode_head(head.encode()) is None
    head.first_bytes = 0
    head.shared_count = head.chunk_count + 1
    assert decode_head(head.encode()) is None


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 1000))
def test_chunks_of_a_grid_cover_an_object_without_overlap(
    chunk_bytes: int, first_bytes: int, size: int
) -> None:
    grid = Grid(chunk_bytes, min(first_bytes, chunk_bytes))
    position = 0
    for number in range(grid.count(size)):
        start, end = grid.span(number, size)
        assert start == position < end <= start + grid.size(number)
        assert grid.locate(start) == (number, 0)
        assert grid.locate(end - 1) == (number, end - 1 - start)
        position = end
    assert position == size


@given(HEADS, st.data())
def test_a_damaged_head_is_refused(head: Head, data: st.DataObject) -> None:
    damaged = bytearray(head.encode())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    assert decode_head(bytes(damaged)) is None


@given(HEADS, st.data())
def test_a_head_of_another_length_is_refused(head: Head, data: st.DataObject) -> None:
    encoded = head.encode()
    assert decode_head(encoded[: data.draw(st.integers(0, len(encoded) - 1))]) is None
    assert decode_head(encoded + b"\0") is None


def test_the_bytes_of_a_head_do_not_change() -> None:
    head = Head(
        size=20_000_000_000_001, generation=0x0102030405060708, object_id=bytes(range(16)),
        chunk_bytes=4 << 20, state=STATE_SPARSE, table=content_hash(b"chunk"), runs=[(1, 3)],
        lifetime_us=60_000_000,
    )  # fmt: skip
    assert head.encode().hex() == (
        "45434f48020002000140e59c301200000807060504030201000102030405060708090a0b0c0d0e0f"
        "00004000010000000100000000000000008793030000000000000000000000000000000000000000"
        "3e489a98acfda09ad8d38f8faf29a8c782e89b3b17201096e04e2324037bef650100000000000000"
        "0300000000000000"
    )


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
)
def test_a_piece_is_read_as_it_was_written(content: bytes, spans: list[tuple[int, int]]) -> None:
    ranges = RangeSet((min(a, len(content)), min(b, len(content))) for a, b in spans)
    piece = encode_piece(list(ranges), bytearray(content))
    found = decode_piece(piece, len(content))
    assert found is not None
    assert [(place, bytes(data)) for place, data in found] == [
        (start, content[start:end]) for start, end in ranges
    ]
    assert decode_piece(piece, len(content) + 1) is None
    assert decode_piece(piece[:-1], len(content)) is None
    assert decode_piece(piece + b"\0", len(content)) is None


@pytest.mark.parametrize("damage", [b"", b"\0" * 16, b"\xff" * 40])
def test_what_is_no_piece_is_refused(damage: bytes) -> None:
    assert decode_piece(damage, 64) is None


def test_parts_of_two_objects_and_heads_never_share_a_key() -> None:
    first, second = new_object_id(), new_object_id()
    keys = {part_key(one, number) for one in (first, second) for number in (0, 1, 1 << 63)}
    assert len(keys) == 6
    assert sparse_key(b"k") not in keys
