"""Preconditions of a client: RFC 9110 13, RFC 9111 4.3.2; entity tags: RFC 9110 8.8.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.etags import (
    ANY_TAG,
    EntityTag,
    is_strong_match,
    is_weak_match,
    parse_entity_tag,
    parse_entity_tags,
)
from edgecache.rfc9111.preconditions import (
    NOTHING,
    Representation,
    Verdict,
    evaluate,
    not_modified_fields,
    representation_of,
)
from tests.rfc9111.exchanges import NOW_S, headers, store

MODIFIED_S = NOW_S - 100
TARGET = Representation(
    entity_tag=EntityTag(b'"a"', False, True), last_modified_s=MODIFIED_S, date_s=NOW_S - 50
)
WEAK = Representation(entity_tag=EntityTag(b'"a"', True, True), date_s=NOW_S - 50)
BARE = Representation(date_s=NOW_S - 50)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'"a"', EntityTag(b'"a"', False, True)),
        (b'""', EntityTag(b'""', False, True)),
        (b'W/"a"', EntityTag(b'"a"', True, True)),
        (b'"a,b\\"', EntityTag(b'"a,b\\"', False, True)),
        (b'"\xff"', EntityTag(b'"\xff"', False, True)),
        (b"a", EntityTag(b"a", True, False)),
        (b"W/a", EntityTag(b"W/a", True, False)),
        (b'w/"a"', None),
        (b'"a', None),
        (b'a"', None),
        (b'"a b"', None),
        (b"a,b", None),
        (b"", None),
    ],
)
def test_9110_8_8_3_entity_tag(value: bytes, expected: EntityTag | None) -> None:
    assert parse_entity_tag(value) == expected


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b'"a"', [b'"a"']),
        (b'"a", W/"b" ,"c"', [b'"a"', b'W/"b"', b'"c"']),
        (b'"a,b","c"', [b'"a,b"', b'"c"']),
        (b', "a",,', [b'"a"']),
        (b'a, "b"', [b"a", b'"b"']),
        (b'"a""b"', None),
        (b'"a" "b', None),
        (b'"a', None),
        (b"", None),
        (b",", None),
    ],
)
def test_9110_13_1_2_lists_of_tags(value: bytes, tags: list[bytes] | None) -> None:
    found = parse_entity_tags(value)
    assert (None if found is None else [tag.encode() for tag in found]) == tags


def test_9110_13_1_1_the_star() -> None:
    assert parse_entity_tags(b" * ") == ANY_TAG
    assert parse_entity_tags(b'"*"') != ANY_TAG


@pytest.mark.parametrize(
    ("left", "right", "strong", "weak"),
    [
        (b'W/"1"', b'W/"1"', False, True),
        (b'W/"1"', b'W/"2"', False, False),
        (b'W/"1"', b'"1"', False, True),
        (b'"1"', b'"1"', True, True),
        (b"1", b"1", False, True),
        (b"1", b'"1"', False, False),
    ],
)
def test_9110_8_8_3_2_comparison(left: bytes, right: bytes, strong: bool, weak: bool) -> None:
    a, b = parse_entity_tag(left), parse_entity_tag(right)
    assert a is not None
    assert b is not None
    assert is_strong_match(a, b) is is_strong_match(b, a) is strong
    assert is_weak_match(a, b) is is_weak_match(b, a) is weak


@pytest.mark.parametrize(
    ("request_fields", "target", "status"),
    [
        ('If-None-Match: "a"', TARGET, 304),
        ('If-None-Match: W/"a"', TARGET, 304),
        ('If-None-Match: "a"', WEAK, 304),
        ('If-None-Match: "x", "a"', TARGET, 304),
        ('If-None-Match: "x"\nIf-None-Match: "a"', TARGET, 304),
        ("If-None-Match: *", TARGET, 304),
        ("If-None-Match: *", NOTHING, 0),
        ('If-None-Match: "x"', TARGET, 0),
        ("If-None-Match: a", TARGET, 0),
        ('If-None-Match: "a', TARGET, 0),
        ("If-None-Match:", TARGET, 0),
        ('If-None-Match: "a"', BARE, 0),
        # If-None-Match comes before If-Modified-Since
        ('If-None-Match: "x"\nIf-Modified-Since: {+0}', TARGET, 0),
        ('If-None-Match: "a"\nIf-Modified-Since: {-9999}', TARGET, 304),
        ("If-Modified-Since: {-100}", TARGET, 304),
        ("If-Modified-Since: {-99}", TARGET, 304),
        ("If-Modified-Since: {-101}", TARGET, 0),
        ("If-Modified-Since: {+1000}", TARGET, 304),
        ("If-Modified-Since: yesterday", TARGET, 0),
        ("If-Modified-Since: {+0}\nIf-Modified-Since: {+0}", TARGET, 0),
        ("If-Modified-Since: {-50}", WEAK, 304),  # RFC 9111, 4.3.2: Date instead
        ("If-Modified-Since: {-51}", WEAK, 0),
        ("If-Modified-Since: {+0}", NOTHING, 0),
        # not for a cache
        ('If-Match: "x"', TARGET, 0),
        ("If-Unmodified-Since: {-9999}", TARGET, 0),
    ],
)
def test_9111_4_3_2_conditions_that_a_cache_evaluates(
    request_fields: str, target: Representation, status: int
) -> None:
    for method in (b"GET", b"HEAD"):
        assert evaluate(method, headers(request_fields), target, NOW_S).status == status


@pytest.mark.parametrize(
    ("method", "request_fields", "target", "status"),
    [
        (b"PUT", 'If-Match: "a"', TARGET, 0),
        (b"PUT", 'If-Match: "x", "a"', TARGET, 0),
        (b"PUT", 'If-Match: "x"', TARGET, 412),
        (b"PUT", 'If-Match: W/"a"', TARGET, 412),
        (b"PUT", 'If-Match: "a"', WEAK, 412),
        (b"PUT", "If-Match: *", TARGET, 0),
        (b"PUT", "If-Match: *", NOTHING, 412),
        (b"PUT", 'If-Match: "a"', NOTHING, 412),
        (b"PUT", 'If-Match: "a', TARGET, 412),
        (b"PUT", "If-Unmodified-Since: {-100}", TARGET, 0),
        (b"PUT", "If-Unmodified-Since: {-101}", TARGET, 412),
        (b"PUT", "If-Unmodified-Since: x", TARGET, 0),
        (b"PUT", "If-Unmodified-Since: {-101}", BARE, 0),
        (b"PUT", 'If-Match: "a"\nIf-Unmodified-Since: {-101}', TARGET, 0),
        (b"PUT", "If-None-Match: *", TARGET, 412),
        (b"PUT", "If-None-Match: *", NOTHING, 0),
        (b"DELETE", 'If-None-Match: "a"', TARGET, 412),
        (b"PUT", "If-Modified-Since: {+0}", TARGET, 0),
        (b"GET", 'If-Match: "x"\nIf-None-Match: "a"', TARGET, 412),
        (b"GET", 'If-Match: "a"\nIf-None-Match: "a"', TARGET, 304),
        (b"GET", "If-Unmodified-Since: {-101}\nIf-Modified-Since: {+0}", TARGET, 412),
    ],
)
def test_9110_13_2_2_conditions_that_an_origin_evaluates(
    method: bytes, request_fields: str, target: Representation, status: int
) -> None:
    found = evaluate(method, headers(request_fields), target, NOW_S, is_origin=True)
    assert found.status == status


RANGE = "Range: bytes=0-4\n"


@pytest.mark.parametrize(
    ("method", "request_fields", "target", "uses_range"),
    [
        (b"GET", RANGE, TARGET, True),
        (b"HEAD", RANGE, TARGET, False),
        (b"GET", "", TARGET, False),
        (b"GET", RANGE, NOTHING, False),
        (b"GET", RANGE + 'If-Range: "a"', TARGET, True),
        (b"GET", RANGE + 'If-Range: W/"a"', TARGET, False),
        (b"GET", RANGE + 'If-Range: "a"', WEAK, False),
        (b"GET", RANGE + 'If-Range: "x"', TARGET, False),
        (b"GET", RANGE + "If-Range: a", TARGET, False),
        (b"GET", RANGE + "If-Range: {-100}", TARGET, True),
        (b"GET", RANGE + "If-Range: {-99}", TARGET, False),
        (b"GET", RANGE + "If-Range: {-101}", TARGET, False),
        (b"GET", RANGE + "If-Range: {-50}", WEAK, False),
        (b"GET", RANGE + "If-Range:", TARGET, False),
        (b"GET", 'If-Range: "a"', TARGET, False),
        (b"GET", RANGE + 'If-None-Match: "x"', TARGET, True),
    ],
)
def test_9110_13_1_5_if_range(
    method: bytes, request_fields: str, target: Representation, uses_range: bool
) -> None:
    found = evaluate(method, headers(request_fields), target, NOW_S)
    assert found == Verdict(0, uses_range)


def test_9110_13_1_5_a_date_as_young_as_the_response_is_weak() -> None:
    young = Representation(last_modified_s=NOW_S, date_s=NOW_S)
    assert not evaluate(b"GET", headers(RANGE + "If-Range: {+0}"), young, NOW_S).uses_range


def test_a_matching_condition_comes_before_a_range() -> None:
    found = evaluate(b"GET", headers(RANGE + 'If-None-Match: "a"'), TARGET, NOW_S)
    assert found == Verdict(304, False)


def test_a_stored_response_is_compared_by_its_own_validators() -> None:
    policy = store('Cache-Control: max-age=60\nETag: W/"a"\nLast-Modified: {-9}').policy
    found = representation_of(policy)
    assert (found.entity_tag, found.last_modified_s) == (EntityTag(b'"a"', True, True), NOW_S - 9)


@pytest.mark.parametrize("status", [203, 301, 404, 410, 503])
def test_9111_4_3_2_conditions_and_ranges_are_about_a_200_or_206(status: int) -> None:
    policy = store('Cache-Control: max-age=60\nETag: "a"', status=status).policy
    for condition in ('If-None-Match: "a"', "If-None-Match: *", "If-Modified-Since: {+0}"):
        found = evaluate(b"GET", headers(RANGE + condition), representation_of(policy), NOW_S)
        assert found == Verdict(0, False)


def test_9110_15_4_5_fields_of_a_304() -> None:
    fields = headers(
        "Date: x\nETag: y\nLast-Modified: z\nExpires: e\nCache-Control: c\nVary: v\n"
        "Content-Location: l\nContent-Type: t\nContent-Length: 5\nContent-Encoding: gzip\n"
        "Content-Language: de\nContent-Security-Policy: p\nX: 1"
    )
    names = set(not_modified_fields(fields).first)
    assert names == {
        *(b"date", b"etag", b"expires", b"cache-control", b"vary", b"content-location"),
        *(b"content-security-policy", b"x"),
    }
    without_tag = fields.without((b"etag",))
    assert b"last-modified" in not_modified_fields(without_tag)


CONDITION = st.sampled_from(["If-None-Match", "If-Match", "If-Modified-Since", "If-Range"])


@given(st.lists(st.tuples(CONDITION, st.binary(max_size=20)), max_size=4), st.booleans())
def test_evaluating_never_raises(fields: list[tuple[str, bytes]], is_origin: bool) -> None:
    from edgecache.rfc9111.fields import Headers

    section = Headers([(name.encode(), value) for name, value in fields] + [(b"range", b"x")])
    for target in (TARGET, WEAK, BARE, NOTHING):
        assert evaluate(b"GET", section, target, NOW_S, is_origin).status in (0, 304, 412)
