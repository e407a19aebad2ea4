"""Selecting among variants: RFC 9111 4.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import LETTER, SAFE, Rules
from edgecache.rfc9111.vary import (
    choose_encoding,
    inherited,
    is_selected,
    most_recent,
    reduced_request,
    selecting,
    variance_input,
    vary_names,
)
from tests.rfc9111.exchanges import headers, store

FRESH = "Cache-Control: max-age=60\n"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ("", ()),
        ("Vary:", ()),
        ("Vary: Accept", (b"accept",)),
        ("Vary: b, A ,a", (b"a", b"b")),
        ("Vary: b\nVary: a", (b"a", b"b")),
        ("Vary: , ,a,", (b"a",)),
        ("Vary: *", None),
        ("Vary: a, *", None),
        ("Vary: a\nVary: *", None),
        ("Vary: a*", (b"a*",)),
    ],
)
def test_9110_12_5_5_vary(fields: str, names: tuple[bytes, ...] | None) -> None:
    assert vary_names(headers(fields)) == names


@pytest.mark.parametrize(
    ("name", "left", "right", "is_same"),
    [
        ("Foo", "1", "1", True),
        ("Foo", "1", " 1 ", True),
        ("Foo", "1", "2", False),
        ("Foo", "a", "A", False),
        ("Foo", "1, 2", "2, 1", False),
        ("Foo", "1,2", "1, 2", False),  # a list or not, only its specification says
        ("Accept-Encoding", "gzip, br", "br,gzip", True),
        ("Accept-Encoding", "GZIP;q=0.5", "gzip ; q=0.5", True),
        ("Accept-Encoding", "gzip;q=0.5", "gzip;q=0.6", False),
        ("Accept-Encoding", "gzip, , br,", "gzip,br", True),
        ("Accept-Language", "en, de", "en,de", True),
        ("Accept-Language", "EN, De", "en, de", True),
        ("Accept-Language", "en, de", "de, en", False),
        ("Accept", "text/html, */*;q=0.1", "*/*; q=0.1,TEXT/html", True),
        ("Accept", "text/html;level=A", "text/html;level=a", False),
        ("Accept", 'a/b;x="1,2"', 'a/b;x="2,1"', False),
        ("Accept", 'a/b;x="1', 'a/b;x="2', False),
        ("Cache-Control", "a,b", "a, b", True),
    ],
)
def test_9111_4_1_normalisation(name: str, left: str, right: str, is_same: bool) -> None:
    stored = store(f"{FRESH}Vary: {name}", request=f"{name}: {left}")
    assert is_selected(stored.selecting, headers(f"{name}: {right}")) is is_same


def test_9110_12_5_4_languages_may_be_sorted() -> None:
    stored = store(f"{FRESH}Vary: Accept-Language", LETTER, request="Accept-Language: en, de")
    assert is_selected(stored.selecting, headers("Accept-Language: de, en"), LETTER)


def test_9111_4_1_several_lines_are_one_value() -> None:
    stored = store(f"{FRESH}Vary: Foo", request="Foo: 1\nFoo: 2")
    assert is_selected(stored.selecting, headers("Foo: 1, 2"))
    assert not is_selected(stored.selecting, headers("Foo: 2\nFoo: 1"))


def test_9111_4_1_an_absent_field_matches_only_an_absent_field() -> None:
    stored = store(f"{FRESH}Vary: Foo, Bar", request="Foo: 1")
    assert is_selected(stored.selecting, headers("Foo: 1\nBaz: 2"))
    assert not is_selected(stored.selecting, headers("Foo: 1\nBar:"))
    assert not is_selected(stored.selecting, headers(""))
    assert is_selected(store(FRESH, request="Foo: 1").selecting, headers("Foo: 2"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (b"", None),
        (b"gzip", b"gzip"),
        (b"gzip, br", b"br"),
        (b"br;q=0, gzip", b"gzip"),
        (b"br;q=0.000, gzip;q=0.1", b"gzip"),
        (b"*", b"br"),
        (b"br;q=0, *", b"gzip"),
        (b"*;q=0", None),
        (b"identity", None),
        (b"GZIP ; Q=1", b"gzip"),
        (b"gzip;q=x", None),
        (b"deflate", None),
    ],
)
def test_9110_12_5_3_reduced_codings(value: bytes | None, expected: bytes | None) -> None:
    assert choose_encoding(value, (b"br", b"gzip")) == expected


def test_reduced_codings_make_fewer_variants() -> None:
    rules = Rules(accept_encodings=(b"br", b"gzip"))
    stored = store(f"{FRESH}Vary: Accept-Encoding", rules, request="Accept-Encoding: gzip, br")
    assert is_selected(stored.selecting, headers("Accept-Encoding: zstd, br;q=0.1"), rules)
    assert not is_selected(stored.selecting, headers("Accept-Encoding: gzip"), rules)


PAIRS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"b", b"ab", b"accept", b"accept-encoding", b""]),
        st.text(alphabet='ab, ;=q1"\\\x00', max_size=8).map(str.encode),
    ),
    max_size=4,
)
NAMES = st.lists(st.sampled_from([b"a", b"b", b"ab", b"accept", b"accept-encoding"]), unique=True)


@given(NAMES, PAIRS, PAIRS)
def test_the_input_of_the_variance_hash_is_equal_exactly_for_matching_requests(
    names: list[bytes], left: list[tuple[bytes, bytes]], right: list[tuple[bytes, bytes]]
) -> None:
    names.sort()
    values = selecting(names, Headers(left))
    other = selecting(names, Headers(right))
    assert (variance_input(values) == variance_input(other)) == (values == other)
    assert is_selected(values, Headers(right)) == (values == other)


def test_the_parts_of_the_hash_input_cannot_be_shifted() -> None:
    one = variance_input(((b"ab", b"c"),))
    assert len({one, variance_input(((b"a", b"bc"),)), variance_input(((b"ab", None),))}) == 3
    assert variance_input(()) == b""


def test_9111_4_the_most_recent_date_wins() -> None:
    old = store(FRESH, date="Date: {-20}").policy
    new = store(FRESH, date="Date: {-10}").policy
    newer = store(FRESH, date="Date: {-10}", at_s=1).policy
    assert most_recent([]) == -1
    assert most_recent([old]) == 0
    assert most_recent([old, new]) == 1
    assert most_recent([new, old]) == 0
    assert most_recent([new, newer, old]) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Accept-Encoding: gzip, br", (b"br",)), ("Accept-Encoding: zstd", ()), ("", ())],
)
def test_what_is_forwarded_is_what_tells_variants_apart(
    value: str, expected: tuple[bytes, ...]
) -> None:
    rules = Rules(accept_encodings=(b"br", b"gzip"))
    forwarded = reduced_request(headers(value), rules)
    assert forwarded.get_all(b"accept-encoding") == expected
    names = [b"accept-encoding"]
    assert selecting(names, forwarded, rules) == selecting(names, headers(value), rules)
    assert reduced_request(headers(value), SAFE) == headers(value)


def test_9111_4_1_a_response_without_vary_takes_the_names_of_the_newest_that_has_any() -> None:
    known = [
        store(f"{FRESH}Vary: A", request="A: 1", date="Date: {-9}"),
        store(f"{FRESH}Vary: B", request="B: 1", date="Date: {-5}"),
        store(FRESH, date="Date: {-1}"),
    ]
    pairs = [(stored.policy, stored.selecting) for stored in known]
    request = headers("A: 2\nB: 3")
    assert inherited((), pairs, request, SAFE) == ((b"b", b"3"),)
    own = ((b"c", None),)
    assert inherited(own, pairs, request, SAFE) == own
    assert inherited((), pairs[2:], request, SAFE) == ()
