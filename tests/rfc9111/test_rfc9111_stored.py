"""The stored form: round trips, bounds, damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.errors import ArgumentError, ValueTooLargeError
from edgecache.rfc9111.fields import NO_HEADERS, Headers, canonical_name
from edgecache.rfc9111.rules import Rules
from edgecache.rfc9111.stored import (
    STORED_BYTES_MAX,
    StoredPolicy,
    StoredResponse,
    decode_stored,
    encode_stored,
    make_stored,
)
from tests.rfc9111.exchanges import NOW_S, NOW_US, headers, store

NAME = st.text(alphabet="abz-_1", min_size=1, max_size=12).map(str.encode)
VALUE = st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)
FIELDS = st.lists(st.tuples(NAME, VALUE.map(lambda text: text.encode("latin-1"))), max_size=6)
INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
TIME_US = st.integers(0, 2**62)
SECONDS = st.integers(0, 2**31)
POLICIES = st.builds(
    StoredPolicy,
    status=st.integers(200, 599),
    flags=st.integers(0, 2**32 - 1),
    request_us=TIME_US,
    response_us=TIME_US,
    initial_age_us=TIME_US,
    date_s=INT64,
    last_modified_s=st.none() | INT64,
    lifetime_s=SECONDS,
    stale_while_revalidate_s=SECONDS,
    stale_if_error_s=SECONDS,
    stale_on_disconnect_s=SECONDS,
    range_first=st.integers(0, 2**63 - 1),
    range_last=st.integers(0, 2**63 - 1),
    complete_bytes=st.integers(-1, 2**63 - 1),
    etag=st.binary(max_size=20),
)
SELECTING = st.lists(st.tuples(NAME, st.none() | st.binary(max_size=10)), max_size=4).map(tuple)


@given(POLICIES, SELECTING, FIELDS)
def test_what_was_encoded_is_decoded(
    policy: StoredPolicy,
    values: tuple[tuple[bytes, bytes | None], ...],
    fields: list[tuple[bytes, bytes]],
) -> None:
    stored = make_stored(policy, values, Headers(fields))
    decoded = decode_stored(encode_stored(stored))
    assert decoded == stored
    assert decoded is not None
    assert decoded.headers == Headers(fields).without((b"age",))
    assert decoded.policy.fresh_until_us == policy.fresh_until_us


@given(st.binary(max_size=300))
def test_other_bytes_decode_to_nothing(data: bytes) -> None:
    assert decode_stored(data) is None or data[:2] == b"\x01\x00"


ENCODED = encode_stored(
    store('Cache-Control: max-age=60\nVary: A, B\nETag: "a"\nX: y', request="A: 1")
)


@pytest.mark.parametrize("size", range(len(ENCODED)))
def test_a_truncated_form_is_refused(size: int) -> None:
    assert decode_stored(ENCODED[:size]) is None


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_a_damaged_form_never_raises(position: int, change: int) -> None:
    damaged = bytearray(ENCODED)
    damaged[position] ^= change
    found = decode_stored(bytes(damaged))
    if found is not None:
        assert found.headers is not None
        assert encode_stored(found) == bytes(damaged)


GOLDEN = (
    "0100c8000000000000401e18240a060000401e18240a06000000000000000000"
    "00f1536500000000000000000000008000000000000000000000000000000000"
    "ffffffffffffffff3c00000000000000000000008051010003000f005d000000"
    "2261220100610100000031010062ffffffff446174653a205475652c20313420"
    "4e6f7620323032332032323a31333a323020474d540d0a43616368652d436f6e"
    "74726f6c3a206d61782d6167653d36300d0a566172793a20412c20420d0a4554"
    "61673a202261220d0a583a20790d0a"
)


def test_the_form_of_version_1_is_fixed() -> None:
    """Bytes that a release has written stay readable: a new form needs a new version."""
    assert ENCODED.hex() == GOLDEN
    decoded = decode_stored(bytes.fromhex(GOLDEN))
    assert decoded is not None
    assert decoded.selecting == ((b"a", b"1"), (b"b", None))
    assert (decoded.policy.lifetime_s, decoded.policy.etag) == (60, b'"a"')


def test_the_size_is_bounded() -> None:
    large = StoredResponse(
        store("Cache-Control: max-age=1").policy, (), b"X: " + b"y" * 70000 + b"\r\n"
    )
    with pytest.raises(ValueTooLargeError) as caught:
        encode_stored(large)
    assert caught.value.expected == STORED_BYTES_MAX


def test_age_is_not_stored_since_it_is_made_anew() -> None:
    stored = store("Cache-Control: max-age=60\nAge: 5")
    assert b"age" not in stored.headers
    assert stored.policy.initial_age_us == 5_000_000


def test_stale_permissions_beyond_the_field_are_clamped() -> None:
    policy = store("Cache-Control: max-age=1", Rules(stale_on_disconnect_s=2**40)).policy
    assert policy.stale_on_disconnect_s == 2**31
    assert decode_stored(encode_stored(make_stored(policy, (), NO_HEADERS))) is not None


# The header section itself


def test_9110_5_2_headers_keep_order_and_repetition() -> None:
    fields = headers("B: 1\nA: 2\nb: 3")
    assert fields.pairs == ((b"b", b"1"), (b"a", b"2"), (b"b", b"3"))
    assert fields.get(b"b") == b"1"
    assert fields.get_all(b"b") == (b"1", b"3")
    assert fields.combined(b"b") == b"1, 3"
    assert fields.combined(b"a") == b"2"
    assert (fields.get(b"x"), fields.get_all(b"x"), fields.combined(b"x")) == (None, (), None)
    assert fields.without((b"b",)).pairs == ((b"a", b"2"),)
    assert fields.replacing(b"b", b"9").pairs == ((b"a", b"2"), (b"b", b"9"))
    assert b"a" in fields
    assert len(fields) == 3
    assert hash(fields) == hash(headers("b: 1\nA: 2\nb: 3"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"content-type", b"Content-Type"),
        (b"ETAG", b"ETag"),
        (b"www-authenticate", b"WWW-Authenticate"),
        (b"cdn-cache-control", b"CDN-Cache-Control"),
        (b"x-foo-2bar", b"X-Foo-2bar"),
    ],
)
def test_names_are_spelled_as_usual(name: bytes, expected: bytes) -> None:
    assert canonical_name(name) == expected


@pytest.mark.parametrize(
    "pair", [(b"a", b"1\r\nb: 2"), (b"a", b"1\n2"), (b"a", b"\0"), (b"a\r\n", b""), (b"a:b", b"")]
)
def test_a_field_that_would_split_the_section_is_never_written(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ArgumentError):
        Headers([pair]).to_wire()


@given(FIELDS)
def test_a_written_section_is_read_back(fields: list[tuple[bytes, bytes]]) -> None:
    section = Headers(fields)
    assert Headers.from_wire(section.to_wire()) == section


@pytest.mark.parametrize("block", [b"a", b"a: 1", b"a:1\r\n", b": 1\r\n", b"\r\n", b"a: 1\r\n\r\n"])
def test_lines_that_are_none_are_not_read(block: bytes) -> None:
    assert Headers.from_wire(block) is None


@pytest.mark.parametrize(
    "options",
    [
        {"set_cookie": "never"},
        {"cookie": "never"},
        {"heuristic_percent": 101},
        {"heuristic_max_s": -1},
        {"stale_on_disconnect_s": -1},
        {"target_list": (b"CDN-Cache-Control",)},
        {"accept_encodings": (b"",)},
    ],
)
def test_rules_are_checked_when_made(options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        Rules(**options)  # type: ignore[arg-type]


def test_rules_of_a_route_are_changed_copies() -> None:
    assert Rules().changed(set_cookie="rfc").set_cookie == "rfc"
    assert NOW_US == NOW_S * 1_000_000
