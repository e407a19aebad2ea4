"""Structured Fields: RFC 9651 (8941), and what is built on them: RFC 9213, RFC 9875."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.structured import (
    Bare,
    ByteSequence,
    Date,
    Decimal,
    DisplayString,
    InnerList,
    Item,
    Token,
    parse_dictionary,
    parse_list,
    parse_strings,
    serialise_string,
)
from edgecache.rfc9111.tags import (
    TAG_BYTES_MAX,
    TAG_COUNT_MAX,
    cache_groups,
    group_tag,
    invalidated_groups,
    surrogate_tags,
)
from edgecache.rfc9111.targeted import applicable_directives, targeted_directives
from tests.rfc9111.exchanges import headers

ORIGIN = b"https://example.org:443"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1", 1),
        (b"-0", 0),
        (b"-15", -15),
        (b"007", 7),
        (b"999999999999999", 999999999999999),
        (b"1.5", Decimal(1500)),
        (b"-1.125", Decimal(-1125)),
        (b'"a b"', b"a b"),
        (b'"a\\"\\\\"', b'a"\\'),
        (b'""', b""),
        (b"tok", Token(b"tok")),
        (b"*t/x:y", Token(b"*t/x:y")),
        (b"?1", True),
        (b"?0", False),
        (b":aGVsbG8=:", ByteSequence(b"hello")),
        (b":aGVsbG8:", ByteSequence(b"hello")),
        (b"::", ByteSequence(b"")),
        (b"@1659578233", Date(1659578233)),
        (b"@-1", Date(-1)),
        (b'%"f%c3%bc"', DisplayString("f\u00fc")),
    ],
)
def test_9651_4_2_3_1_bare_items(value: bytes, expected: Bare) -> None:
    assert parse_list(value) == (Item(expected, {}),)


@pytest.mark.parametrize(
    "value",
    [
        *(b"1000000000000000", b"1.", b"1.1234", b"1234567890123.1", b"-", b"--1", b"- 1", b"+1"),
        *(b'"a', b'"a\\b"', b'"\xe9"', b'"a\tb"', b"'a'", b"?2", b"?", b"?true", b":a:", b":*:"),
        *(b"a b", b"a,", b",a", b"a,,b", b"a;", b"a;B", b"a;1", b"a; =1", b"a=1", b"\ta", b"a\x00"),
        *(b"(a", b"(a,b)", b"a)", b"((a))", b'("a""b")', b"@1.5", b"@", b"@a", b'%"%C3%BC"'),
        *(b'%"%ff"', b'%"a', b"1a", b"1.5.5", b"@1234567890123456"),
    ],
)
def test_9651_4_2_one_fault_makes_a_list_invalid(value: bytes) -> None:
    assert parse_list(value) is None


def test_9651_3_1_lists_and_inner_lists() -> None:
    assert parse_list(b"") == ()
    assert parse_list(b"   ") == ()
    assert parse_list(b'a , "b"\t,1') == (
        Item(Token(b"a"), {}),
        Item(b"b", {}),
        Item(1, {}),
    )
    assert parse_list(b'( "a" b;x );y=2, ()') == (
        InnerList((Item(b"a", {}), Item(Token(b"b"), {b"x": True})), {b"y": 2}),
        InnerList((), {}),
    )


def test_9651_3_2_dictionaries() -> None:
    assert parse_dictionary(b"a=1, b, c;x=2, d=(1 2)") == {
        b"a": Item(1, {}),
        b"b": Item(True, {}),
        b"c": Item(True, {b"x": 2}),
        b"d": InnerList((Item(1, {}), Item(2, {})), {}),
    }
    assert parse_dictionary(b"a=1, a=2;z") == {b"a": Item(2, {b"z": True})}
    assert parse_dictionary(b"") == {}


@pytest.mark.parametrize(
    "value",
    [b"A=1", b"a=", b"a = 1", b"a=1,", b"a=1 b=2", b"=1", b"1", b'"a"', b"a=1;;b", b"a=1, ,b"],
)
def test_9651_4_2_2_invalid_dictionaries(value: bytes) -> None:
    assert parse_dictionary(value) is None


@given(st.binary(max_size=80))
def test_parsing_never_raises(value: bytes) -> None:
    parse_list(value)
    parse_dictionary(value)
    targeted_directives(value)


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40))
def test_a_serialised_string_is_read_back(text: str) -> None:
    assert parse_strings(serialise_string(text.encode())) == (text.encode(),)


@given(st.binary(max_size=40))
def test_a_serialised_string_is_always_valid(text: bytes) -> None:
    assert parse_strings(serialise_string(text)) is not None


# RFC 9213


@pytest.mark.parametrize(
    ("value", "max_age"),
    [
        (b"max-age=60", 60),
        (b"max-age=60;x=1", 60),
        (b"max-age=99999999999", 2**31),
        (b"max-age=1, max-age=60", 60),  # the last one, as of every dictionary
        (b'max-age="60"', 0),
        (b"max-age=60.0", 0),
        (b"max-age=-1", 0),
        (b"max-age", 0),
        (b"max-age=?1", 0),
        (b"max-age=(60)", 0),
        (b"none", None),
    ],
)
def test_9213_2_1_seconds_are_integers_and_never_coerced(value: bytes, max_age: int | None) -> None:
    directives = targeted_directives(value)
    assert directives is not None
    assert directives.max_age == max_age


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"max-age=60,", b"MAX-AGE=60", b"max-age=60 public", b"max-age=60,,", b'x="', b"&"],
)
def test_9213_2_1_invalid_or_empty_fields_are_ignored(value: bytes) -> None:
    assert targeted_directives(value) is None


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (b"no-store", "no_store", True),
        (b"no-store=?0", "no_store", False),
        (b"no-store=1", "no_store", True),
        (b"no-store=yes", "no_store", True),
        (b"no-cache", "no_cache", True),
        (b'no-cache="a, B"', "no_cache_fields", (b"a", b"b")),
        (b'private="a"', "private", False),
        (b"private=(a)", "private", True),
        (b"must-revalidate;x", "must_revalidate", True),
        (b"stale-while-revalidate=5", "stale_while_revalidate", 5),
        (b"s-maxage=5", "s_maxage", 5),
    ],
)
def test_9213_2_1_members(value: bytes, name: str, expected: object) -> None:
    assert getattr(targeted_directives(value), name) == expected


@pytest.mark.parametrize(
    ("response", "is_targeted", "max_age"),
    [
        ("CDN-Cache-Control: max-age=1\nCache-Control: max-age=2", True, 1),
        ("CDN-Cache-Control: max-age=1\nCDN-Cache-Control: public", True, 1),
        ("CDN-Cache-Control: &\nCache-Control: max-age=2", False, 2),
        ("CDN-Cache-Control:\nCache-Control: max-age=2", False, 2),
        ("CDN-Cache-Control: none\nCache-Control: no-store", True, None),
        ("Other-Cache-Control: max-age=1\nCache-Control: max-age=2", False, 2),
        ("Cache-Control: max-age=2", False, 2),
        ("", False, None),
    ],
)
def test_9213_2_2_the_first_valid_field_of_the_list_counts(
    response: str, is_targeted: bool, max_age: int | None
) -> None:
    found = applicable_directives(headers(response), (b"cdn-cache-control",))
    assert (found.is_targeted, found.directives.max_age) == (is_targeted, max_age)


def test_9213_2_2_the_order_of_the_target_list_decides() -> None:
    fields = headers("A-Cache-Control: max-age=1\nB-Cache-Control: max-age=2")
    for names, expected in (((b"a", b"b"), 1), ((b"b", b"a"), 2), ((b"c", b"b"), 2)):
        target_list = tuple(name + b"-cache-control" for name in names)
        assert applicable_directives(fields, target_list).directives.max_age == expected


# RFC 9875, and the tags of other systems


def test_9875_2_groups_belong_to_an_origin() -> None:
    fields = headers('Cache-Groups: "a", "B";x=1\nCache-Groups: "a"')
    assert cache_groups(fields, ORIGIN) == (group_tag(ORIGIN, b"a"), group_tag(ORIGIN, b"B"))
    assert not set(cache_groups(fields, ORIGIN)) & set(cache_groups(fields, b"http://x:80"))


@pytest.mark.parametrize("value", ["a", '"a", b', '"a"; "b"', '("a")', "1", '"a",', ""])
def test_9875_2_a_field_that_is_no_list_of_strings_names_no_group(value: str) -> None:
    assert cache_groups(headers(f"Cache-Groups: {value}"), ORIGIN) == ()
    assert invalidated_groups(headers(f"Cache-Group-Invalidation: {value}"), ORIGIN) == ()


def test_9875_2_at_least_32_groups_of_32_characters() -> None:
    names = [f"{number:032}" for number in range(32)]
    fields = headers("Cache-Groups: " + ", ".join(f'"{name}"' for name in names))
    assert len(cache_groups(fields, ORIGIN)) == 32


def test_tags_are_split_counted_and_never_taken_for_groups() -> None:
    fields = headers("Surrogate-Key: a b  c\nSurrogate-Key: a\nCache-Tag: x y, z,")
    assert surrogate_tags(fields) == ("a", "b", "c", "x y", "z")
    many = headers("Surrogate-Key: " + " ".join(map(str, range(1000))) + " " + "x" * 1000)
    assert len(surrogate_tags(many)) == TAG_COUNT_MAX
    assert max(map(len, surrogate_tags(many))) <= TAG_BYTES_MAX
    forged = headers(
        f"Surrogate-Key:  {group_tag(ORIGIN, b'a')}\nCache-Tag: {group_tag(ORIGIN, b'a')}"
    )
    assert group_tag(ORIGIN, b"a") not in surrogate_tags(forged)
