"""Little-endian loads and stores, and the cursors.

The hooks put an inaccessible page right after the bytes: a read too far would be a crash.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import _testing_formats as hooks

FORMATS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q", "i64": "<q"}
LIMITS = {
    "u8": (0, 2**8 - 1),
    "u16": (0, 2**16 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
}

NUMBER = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda name: st.tuples(st.just(name), st.integers(*LIMITS[name]))
)
WRITE = st.one_of(
    NUMBER,
    st.tuples(st.just("bytes"), st.binary(max_size=20)),
    st.tuples(st.just("zeros"), st.integers(0, 20)),
)


def reference(operation: tuple[str, int | bytes]) -> bytes:
    name, value = operation
    if isinstance(value, bytes):
        return value
    return bytes(value) if name == "zeros" else struct.pack(FORMATS[name], value)


@given(st.binary(max_size=64), st.lists(st.sampled_from([*FORMATS, 0, 1, 7, 30]), max_size=20))
def test_reader_gives_what_struct_gives_until_the_first_read_that_does_not_fit(
    data: bytes, operations: list[str | int]
) -> None:
    values, offset, failed = hooks.read_fields(data, operations)
    position, broken = 0, False
    for operation, value in zip(operations, values, strict=True):
        size = operation if isinstance(operation, int) else struct.calcsize(FORMATS[operation])
        broken = broken or position + size > len(data)
        if broken:
            assert value == (None if isinstance(operation, int) else 0)
            continue
        piece = data[position : position + size]
        position += size
        if isinstance(operation, int):
            assert value == piece
        else:
            assert value == struct.unpack(FORMATS[operation], piece)[0]
    assert (offset, failed) == (position, broken)


@given(st.integers(0, 64), st.lists(WRITE, max_size=20))
def test_writer_writes_whole_fields_until_the_first_that_does_not_fit(
    capacity: int, operations: list[tuple[str, int | bytes]]
) -> None:
    written, offset, failed = hooks.write_fields(capacity, operations)
    expected, broken = b"", False
    for operation in operations:
        piece = reference(operation)
        broken = broken or len(expected) + len(piece) > capacity
        if not broken:
            expected += piece
    assert (offset, failed) == (len(expected), broken)
    assert written == expected + b"\xaa" * (capacity - len(expected))


@given(st.lists(WRITE, max_size=12))
def test_reader_returns_what_the_writer_wrote(operations: list[tuple[str, int | bytes]]) -> None:
    size = sum(len(reference(operation)) for operation in operations)
    data, _, failed = hooks.write_fields(size, operations)
    assert not failed
    reads = [name if name in FORMATS else len(reference((name, value)))
             for name, value in operations]  # fmt: skip
    values, offset, failed = hooks.read_fields(data, reads)
    assert (offset, failed) == (size, False)
    assert values == [
        value if name in FORMATS else reference((name, value)) for name, value in operations
    ]


def test_failed_reader_stays_failed_even_for_an_empty_range() -> None:
    values, offset, failed = hooks.read_fields(b"\x01\x02\x03", ["u64", "u8", 0])
    assert (values, offset, failed) == ([0, 0, None], 0, True)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**64 - 2])
def test_huge_range_does_not_wrap_round(size: int) -> None:
    values, offset, failed = hooks.read_fields(b"abcd", ["u16", size])
    assert (values[1], offset, failed) == (None, 2, True)
