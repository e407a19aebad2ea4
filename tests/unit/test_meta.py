"""The meta codec: what it writes it reads, and what is damaged it refuses by name."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import _testing_formats as hooks
from edgecache.errors import (
    MetaChecksumError,
    MetaFieldError,
    MetaFormatError,
    MetaTruncatedError,
    MetaVersionError,
    ValueTooLargeError,
)
from edgecache.meta import (
    ENGINE_FLAGS,
    ENGINE_OBJECT,
    ENGINE_PART,
    FLAG_HEADERS_ZSTD,
    FRESH_FOREVER,
    Meta,
    ProjectionTrailer,
    engine_flags_of,
)

OK, CORRUPT, INVALID, VERSION, TRUNCATED = 0, 6, 8, 15, 16
FIXED_BYTES = 80
MAX_BYTES = 65535

EXAMPLES = {
    "minimal": Meta(created=0, updated=0, fresh_until=0),
    "tags": Meta(created=1, updated=2, fresh_until=3, tags=("a", "bb", "größe")),
    "headers": Meta(created=-5, updated=7, status=200, headers=b"etag: 1\r\n", flags=0xFF01),
    "both": Meta(
        created=1_700_000_000_000_000,
        updated=1_700_000_000_000_001,
        fresh_until=FRESH_FOREVER,
        stale_while_revalidate=60,
        stale_if_error=3600,
        watermark=2**64 - 1,
        status=206,
        variance=bytes(range(16)),
        tags=("x" * 255, "y"),
        headers=bytes(40),
    ),
}

TIME = st.integers(-(2**63), 2**63 - 1)
TAG = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60).filter(
    lambda text: len(text.encode()) <= 255
)
METAS = st.builds(
    Meta,
    created=TIME,
    updated=TIME,
    fresh_until=TIME,
    stale_while_revalidate=st.integers(0, 2**32 - 1),
    stale_if_error=st.integers(0, 2**32 - 1),
    watermark=st.integers(0, 2**64 - 1),
    flags=st.integers(0, 255).map(lambda high: high << 8) | st.just(FLAG_HEADERS_ZSTD),
    status=st.integers(0, 999),
    variance=st.binary(min_size=16, max_size=16),
    tags=st.lists(TAG, max_size=12).map(tuple),
    headers=st.binary(max_size=500),
)


def layout(tags: list[bytes], *, flags: int = 0, status: int = 0, count: int | None = None,
           tail: bytes = b"") -> bytes:  # fmt: skip
    """A meta with a fitting checksum and whatever tags."""
    block = b"".join(struct.pack("<H", len(tag)) + tag for tag in tags) + tail
    head = struct.pack("<BBHHH", 0xEC, 1, flags, status, len(tags) if count is None else count)
    return hooks.meta_sealed(head + bytes(60) + struct.pack("<IQ", len(block), 0) + block)


def test_a_meta_without_times_was_made_now() -> None:
    before = time.time_ns() // 1000
    meta = Meta(status=200)
    assert before <= meta.created <= meta.updated <= time.time_ns() // 1000
    assert meta.is_fresh(meta.created)


@given(METAS)
def test_decode_gives_back_what_was_encoded(meta: Meta) -> None:
    encoded = meta.encode()
    assert Meta.decode(encoded) == meta
    assert Meta.decode(memoryview(bytearray(encoded))) == meta
    assert Meta.decode(encoded).encode() == encoded
    assert hooks.meta_own_size(encoded) == len(encoded)


@given(METAS)
def test_accessors_agree_with_the_decoder(meta: Meta) -> None:
    fields = hooks.meta_fields(meta.encode())
    assert fields.pop("tag_count") == len(meta.tags)
    assert fields == {name: getattr(meta, name) for name in fields}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_truncation_is_refused_as_truncated(name: str) -> None:
    encoded = EXAMPLES[name].encode()
    for size in range(len(encoded)):
        with pytest.raises(MetaTruncatedError) as caught:
            Meta.decode(encoded[:size])
        assert caught.value.found == size
        assert hooks.meta_decode_status(encoded[:size]) == TRUNCATED


@pytest.mark.parametrize("name", EXAMPLES)
def test_bytes_after_the_meta_are_refused(name: str) -> None:
    encoded = EXAMPLES[name].encode()
    for extra in (b"\0", b"\0" * 80, encoded):
        with pytest.raises(MetaTruncatedError):
            Meta.decode(encoded + extra)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_single_bit_flip_is_refused_by_a_named_error(name: str) -> None:
    encoded = EXAMPLES[name].encode()
    for bit in range(len(encoded) * 8):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MetaFormatError) as caught:
            Meta.decode(damaged)
        if bit < 16:
            expected: type = MetaVersionError
        elif 64 <= bit // 8 < 72:  # the two lengths
            expected = MetaTruncatedError
        else:
            expected = MetaChecksumError
        assert type(caught.value) is expected
        assert hooks.meta_decode_status(bytes(damaged)) != OK


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_without_reading_outside(data: bytes) -> None:
    assert hooks.meta_decode_status(data) != OK
    assert not hooks.meta_contains(data, b"") or len(data) >= FIXED_BYTES


@given(METAS, st.data())
def test_arbitrary_bytes_with_a_fitting_checksum_are_valid_or_refused_by_name(
    meta: Meta, data: st.DataObject
) -> None:
    """A checksum does not make content true: the structure is checked on its own."""
    damaged = bytearray(meta.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    sealed = hooks.meta_sealed(bytes(damaged))
    try:
        decoded = Meta.decode(sealed)
    except MetaFormatError:
        return
    assert decoded.encode_as(engine_flags_of(sealed)) == sealed


@pytest.mark.parametrize("flag", [ENGINE_OBJECT, ENGINE_PART, ENGINE_FLAGS])
def test_flags_of_the_engine_are_neither_shown_nor_taken(flag: int) -> None:
    meta = Meta(created=1, updated=2, flags=0x0100)
    encoded = meta.encode_as(flag)
    assert engine_flags_of(encoded) == flag
    assert engine_flags_of(meta.encode()) == engine_flags_of(b"") == 0
    assert Meta.decode(encoded) == meta
    with pytest.raises(MetaFieldError) as caught:
        Meta(created=1, updated=2, flags=flag).encode()
    assert caught.value.field == "flags"


@pytest.mark.parametrize("bit", range(3, 8))
def test_reserved_flag_is_refused_by_both_sides(bit: int) -> None:
    with pytest.raises(MetaFieldError) as caught:
        Meta.decode(layout([], flags=1 << bit))
    assert caught.value.field == "flags"
    with pytest.raises(MetaFieldError) as caught:
        Meta(created=0, updated=0, flags=1 << bit).encode()
    assert caught.value.field == "flags"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (layout([], status=1000), "status"),
        (layout([], count=256), "tag_count"),
        (layout([bytes([1, 1 + n]) for n in range(255)] + [b"\xff"]), "tag_count"),
        (layout([b"a"], count=0), "tags"),
        (layout([b"a"], count=2), "tags"),
        (layout([b""]), "tags"),
        (layout([b"x" * 256]), "tags"),
        (layout([b"b", b"a"]), "tags"),
        (layout([b"a", b"a"]), "tags"),
        (layout([b"ab", b"a"]), "tags"),
        (layout([b"a"], tail=b"\x01"), "tags"),
        (layout([b"a"], tail=b"\x02\x00b", count=2), "tags"),
        (layout([b"\xff\xfe"]), "tags"),
    ],
)
def test_malformed_field_under_a_fitting_checksum_is_named(data: bytes, field: str) -> None:
    with pytest.raises(MetaFieldError) as caught:
        Meta.decode(data)
    assert caught.value.field == field


def test_limits_are_reached_and_not_passed() -> None:
    tags = tuple(f"{number:0255d}" for number in range(254))
    headers = bytes(MAX_BYTES - FIXED_BYTES - 254 * 257)
    full = Meta(created=0, updated=0, tags=tags, headers=headers)
    assert len(full.encode()) == MAX_BYTES
    assert Meta.decode(full.encode()) == full
    assert len(Meta(created=0, updated=0, headers=bytes(MAX_BYTES - 80)).encode()) == MAX_BYTES
    many = Meta(created=0, updated=0, tags=tuple(f"{number}" for number in range(255)))
    assert Meta.decode(many.encode()) == many
    with pytest.raises(ValueTooLargeError) as caught:
        full.with_headers(full.headers + b"x").encode()
    assert (caught.value.expected, caught.value.found) == (MAX_BYTES, MAX_BYTES + 1)
    sealed = bytearray(Meta(created=0, updated=0, headers=bytes(MAX_BYTES - 80)).encode() + b"x")
    sealed[64:68] = struct.pack("<I", MAX_BYTES - 79)
    with pytest.raises(MetaTruncatedError):
        Meta.decode(hooks.meta_sealed(bytes(sealed)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created", 2**63),
        ("updated", -(2**63) - 1),
        ("fresh_until", 2**63),
        ("stale_while_revalidate", -1),
        ("stale_while_revalidate", 2**32),
        ("stale_if_error", 2**32),
        ("watermark", -1),
        ("watermark", 2**64),
        ("flags", 2**16),
        ("status", 1000),
        ("status", -1),
        ("variance", b""),
        ("variance", bytes(15)),
        ("variance", bytes(17)),
        ("tags", ("",)),
        ("tags", ("x" * 256,)),
        ("tags", ("ö" * 128,)),
        ("tags", ("\ud800",)),
        ("tags", tuple(map(str, range(256)))),
    ],
)
def test_field_out_of_range_is_refused_by_its_name(field: str, value: object) -> None:
    meta = dataclasses.replace(EXAMPLES["both"], **{field: value})
    with pytest.raises(MetaFieldError) as caught:
        meta.encode()
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("created", 1.5), ("watermark", "1"), ("variance", "0" * 16), ("headers", "text"),
     ("headers", None), ("tags", (b"a",))],
)  # fmt: skip
def test_field_of_a_wrong_type_is_a_type_error(field: str, value: object) -> None:
    with pytest.raises(TypeError):
        dataclasses.replace(EXAMPLES["both"], **{field: value}).encode()


def test_one_string_is_not_a_collection_of_tags() -> None:
    with pytest.raises(TypeError):
        Meta(created=0, updated=0, tags="abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        EXAMPLES["both"].with_tags("abc")


@given(st.lists(TAG, max_size=12))
def test_tags_are_a_set_with_one_encoding(tags: list[str]) -> None:
    given_tags = Meta(created=0, updated=0, tags=tuple(tags))
    reverse = Meta(created=0, updated=0, tags=tuple(reversed(tags * 2)))
    assert given_tags == reverse
    assert given_tags.encode() == reverse.encode()
    assert given_tags.tags == tuple(sorted(set(tags), key=str.encode))


@given(METAS, TAG)
def test_has_tag_says_what_the_tuple_says(meta: Meta, other: str) -> None:
    encoded = meta.encode()
    for tag in (*meta.tags, other, other + "x", ""):
        assert hooks.meta_contains(encoded, tag.encode()) == (tag in meta.tags)


@given(METAS, st.binary(min_size=80, max_size=120), st.integers(0, 100))
def test_has_tag_stays_inside_malformed_bytes(meta: Meta, junk: bytes, cut: int) -> None:
    encoded = meta.encode()
    assert not hooks.meta_contains(encoded[: len(encoded) - 1 - cut % len(encoded)], b"a")
    claim = junk[:64] + struct.pack("<II", 0, len(junk) - 80) + junk[72:]
    hooks.meta_contains(claim, b"a")


@given(METAS, TIME)
def test_fresh_until_is_changed_in_place_and_stays_valid(meta: Meta, fresh_until: int) -> None:
    status, changed = hooks.meta_refreshed(meta.encode(), fresh_until)
    assert status == OK
    assert Meta.decode(changed) == meta.with_fresh_until(fresh_until)


@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_meta_is_not_made_valid_by_changing_fresh_until(name: str) -> None:
    encoded = EXAMPLES[name].encode()
    for position in range(len(encoded)):
        damaged = bytearray(encoded)
        damaged[position] ^= 0x10
        status, after = hooks.meta_refreshed(bytes(damaged), 1)
        assert status in (CORRUPT, VERSION, TRUNCATED)
        assert after == damaged
    assert hooks.meta_refreshed(layout([b"b", b"a"]), 1)[0] == INVALID


@pytest.mark.parametrize(
    ("now", "fresh", "revalidate", "on_error"),
    [
        (99, True, False, False),
        (100, False, True, True),
        (2_000_099, False, True, True),
        (2_000_100, False, False, True),
        (5_000_099, False, False, True),
        (5_000_100, False, False, False),
    ],
)
def test_freshness_ends_exactly_at_its_bounds(
    now: int, fresh: bool, revalidate: bool, on_error: bool
) -> None:
    meta = Meta(created=0, updated=0, fresh_until=100, stale_while_revalidate=2, stale_if_error=5)
    assert meta.is_fresh(now) is fresh
    assert meta.may_revalidate(now) is revalidate
    assert meta.may_serve_on_error(now) is on_error


def test_replacing_changes_only_what_is_named() -> None:
    meta = EXAMPLES["both"]
    assert meta.with_fresh_until(9) == dataclasses.replace(meta, fresh_until=9)
    assert meta.with_fresh_until(9, updated=8) == dataclasses.replace(
        meta, fresh_until=9, updated=8
    )
    assert meta.with_tags(["b", "a", "b"]).tags == ("a", "b")
    packed = meta.with_headers(b"zz", is_zstd=True)
    assert (packed.headers, packed.flags) == (b"zz", meta.flags | FLAG_HEADERS_ZSTD)
    assert packed.with_headers(meta.headers) == meta


def test_meta_is_frozen_hashable_and_picklable() -> None:
    meta = EXAMPLES["both"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        meta.status = 1  # type: ignore[misc]
    assert not hasattr(meta, "__dict__")
    assert pickle.loads(pickle.dumps(meta)) == meta
    assert {meta, dataclasses.replace(meta)} == {meta}


@given(st.integers(0, 2**64 - 1), TIME)
def test_projection_trailer_gives_back_what_was_encoded(watermark: int, cached_at: int) -> None:
    trailer = ProjectionTrailer(watermark, cached_at)
    assert len(trailer.encode()) == 16
    assert ProjectionTrailer.decode(trailer.encode()) == trailer


@pytest.mark.parametrize("size", [0, 1, 8, 15, 17, 32])
def test_projection_trailer_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(MetaTruncatedError) as caught:
        ProjectionTrailer.decode(bytes(size))
    assert (caught.value.expected, caught.value.found) == (16, size)


@pytest.mark.parametrize("trailer", [(-1, 0), (2**64, 0), (0, 2**63), (0, -(2**63) - 1)])
def test_projection_trailer_out_of_range_is_refused(trailer: tuple[int, int]) -> None:
    with pytest.raises(MetaFieldError):
        ProjectionTrailer(*trailer).encode()
