"""Keys and their hashes, and the checksum kernel."""

from __future__ import annotations

import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from edgecache import _testing_formats as hooks

PART = st.binary(max_size=300)
SEED = st.integers(0, 2**64 - 1)


def reference_encoding(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


@given(PART, SEED)
def test_key_of_one_part_hashes_the_primary_itself(primary: bytes, seed: int) -> None:
    assert hooks.key_hash(b"", primary, b"", seed) == xxhash.xxh3_128_intdigest(primary, seed)


@given(PART, PART, PART, SEED)
def test_composite_key_hashes_its_encoding_with_another_seed(
    namespace: bytes, primary: bytes, variance: bytes, seed: int
) -> None:
    if not namespace and not variance:
        namespace = b"n"
    encoded = reference_encoding(namespace, primary, variance)
    expected = xxhash.xxh3_128_intdigest(encoded, seed ^ hooks.KEY_COMPOSITE_SEED_VALUE)
    assert hooks.key_hash(namespace, primary, variance, seed) == expected
    assert hooks.key_encode(namespace, primary, variance, len(encoded)) == encoded
    assert hooks.key_bytes(len(namespace), len(primary), len(variance)) == len(encoded)


@given(PART, PART, PART, st.data())
def test_encoding_that_does_not_fit_is_refused(
    namespace: bytes, primary: bytes, variance: bytes, data: st.DataObject
) -> None:
    size = len(reference_encoding(namespace, primary, variance))
    capacity = data.draw(st.integers(0, size - 1))
    assert hooks.key_encode(namespace, primary, variance, capacity) is None


@given(st.binary(min_size=1, max_size=40), st.data(), SEED)
def test_bytes_moved_between_parts_change_the_hash(
    joined: bytes, data: st.DataObject, seed: int
) -> None:
    """("ab", "c", "") is not ("a", "bc", "") and so on, over every way to split the same bytes."""
    cuts = sorted(data.draw(st.tuples(*[st.integers(0, len(joined))] * 2)))
    other = sorted(data.draw(st.tuples(*[st.integers(0, len(joined))] * 2)))
    left = hooks.key_hash(joined[: cuts[0]], joined[cuts[0] : cuts[1]], joined[cuts[1] :], seed)
    right = hooks.key_hash(
        joined[: other[0]], joined[other[0] : other[1]], joined[other[1] :], seed
    )
    assert (left == right) == (cuts == other)


def test_plain_key_that_looks_like_an_encoding_has_another_hash() -> None:
    encoded = reference_encoding(b"ns", b"key", b"")
    assert hooks.key_hash(b"", encoded, b"", 3) != hooks.key_hash(b"ns", b"key", b"", 3)


def test_seed_constants_are_frozen() -> None:
    assert hooks.KEY_COMPOSITE_SEED_VALUE == 0x6A09E667F3BCC909
    assert hooks.KEY_COMPOSITE_SEED_VALUE % 2 == 1
    assert hooks.CHECKSUM_SEED_VALUE.to_bytes(8, "little") == b"edgecach"


@pytest.mark.parametrize("bit", [0, 63, 64, 127])
def test_hash_equality_looks_at_both_halves(bit: int) -> None:
    left = 0x0123456789ABCDEF_FEDCBA9876543210
    assert hooks.hashes_equal(left, left)
    assert not hooks.hashes_equal(left, left ^ (1 << bit))


@given(PART, PART)
def test_checksums_are_seeded_and_chained(first: bytes, second: bytes) -> None:
    whole = xxhash.xxh3_64_intdigest(first, hooks.CHECKSUM_SEED_VALUE)
    assert hooks.sum_range(first) == whole
    assert hooks.sum_pair(first, second) == xxhash.xxh3_64_intdigest(second, whole)


@given(st.lists(PART, max_size=6))
def test_stream_with_the_checksum_seed_is_the_checksum_of_the_whole(parts: list[bytes]) -> None:
    digests = hooks.stream64(parts, hooks.CHECKSUM_SEED_VALUE)
    assert digests[-1:] == [hooks.sum_range(b"".join(parts))][: len(parts)]


@pytest.mark.parametrize("size", [1, 8, 17, 64, 129, 300, 5000])
def test_checksum_finds_every_single_bit_flip_and_the_border(size: int) -> None:
    data = bytes(index * 7 & 0xFF for index in range(size))
    good = hooks.sum_range(data)
    step = max(1, size * 8 // 2000)
    for bit in range(0, size * 8, step):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        assert hooks.sum_range(bytes(bad)) != good
    sums = {hooks.sum_pair(data[:cut], data[cut:]) for cut in range(size + 1)}
    assert len(sums) == size + 1


def test_zeros_do_not_carry_a_zero_checksum() -> None:
    assert all(hooks.sum_range(bytes(size)) != 0 for size in range(1025))
