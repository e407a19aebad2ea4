"""What the cache API keeps in a meta: old bytes and foreign bytes are read or passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.http.cache_api.keys import decode_key, parse_query
from edgecache.http.cache_api.stored import Facts, content_etag, facts_of, make_meta
from edgecache.http.failures import RequestError
from edgecache.meta import FLAG_HEADERS_ZSTD, Meta

GOLDEN = bytes.fromhex("45410103060000002a000000") + b"tag" + b"text/x"


def test_the_block_of_version_1_is_read_for_ever() -> None:
    meta = make_meta(b"text/x", b"tag", 42)
    assert meta.headers == GOLDEN
    facts = facts_of(Meta(created=5_000_001, updated=5_000_001, headers=GOLDEN))
    assert facts == Facts("text/x", b"tag", 42, 5)


@given(
    st.binary(max_size=200).filter(lambda kind: all(b >= 32 and b != 127 for b in kind)),
    st.integers(0, 2**32 - 1),
)
def test_facts_come_back_through_a_meta(kind: bytes, flags: int) -> None:
    meta = Meta.decode(make_meta(kind or None, b"0123", flags).encode())
    facts = facts_of(meta)
    assert facts.content_type == (kind.decode("latin-1") or "application/octet-stream")
    assert (facts.etag, facts.flags) == (b"0123", flags)
    assert facts.is_fresh


@given(st.binary(max_size=80) | st.binary(max_size=20).map(lambda tail: GOLDEN[:12] + tail))
def test_any_other_block_gives_the_default_type_or_a_valid_one(block: bytes) -> None:
    facts = facts_of(Meta(created=0, updated=0, headers=block))
    assert "\r" not in facts.content_type
    assert "\n" not in facts.content_type
    assert facts.modified_s == 0


@pytest.mark.parametrize(
    "block",
    [
        GOLDEN[:-1], GOLDEN + b"x", b"XX" + GOLDEN[2:], GOLDEN[:2] + b"\2" + GOLDEN[3:],
        GOLDEN[:6] + b"\1" + GOLDEN[7:], GOLDEN[:-1] + b"\n", GOLDEN.replace(b"tag", b'"""'),
    ],
)  # fmt: skip
def test_a_damaged_block_is_not_used(block: bytes) -> None:
    assert facts_of(Meta(created=0, updated=0, headers=block)).etag is None


def test_a_compressed_block_and_no_meta_at_all() -> None:
    packed = Meta(created=0, updated=0, headers=GOLDEN, flags=FLAG_HEADERS_ZSTD)
    assert facts_of(packed).etag is None
    assert facts_of(None) == Facts()
    assert not facts_of(Meta(created=0, updated=0, fresh_until=1)).is_fresh


def test_a_tag_says_which_bytes() -> None:
    assert content_etag(b"a") == content_etag(b"a") != content_etag(b"b")


@pytest.mark.parametrize("raw", [b"", b"%", b"%1", b"%g0", b"a%2", b"a" * 8193, b"%00" * 8193])
def test_keys_that_are_none(raw: bytes) -> None:
    with pytest.raises(RequestError):
        decode_key(raw)


@given(st.binary(min_size=1, max_size=50))
def test_every_key_can_be_written(key: bytes) -> None:
    assert decode_key(b"".join(b"%%%02x" % byte for byte in key)) == key


def test_parameters_are_known_and_unique() -> None:
    known = frozenset({b"a"})
    assert parse_query(b"a=%31%26&", known) == {b"a": b"1&"}
    assert parse_query(None, known) == {}
    for query in (b"b=1", b"a=1&a=1", b"a=%"):
        with pytest.raises(RequestError):
            parse_query(query, known)
