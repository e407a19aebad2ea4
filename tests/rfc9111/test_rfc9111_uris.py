"""Keys and references: RFC 9110 4, 7.1; RFC 3986 5; invalidation: RFC 9111 4.4; No-Vary-Search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.invalidation import NOTHING, invalidated, is_safe
from edgecache.rfc9111.key import (
    KEY_BYTES_MAX,
    QueryRules,
    cache_key,
    normal_target,
    origin_of,
    origin_of_uri,
    resolve,
    target_uri,
)
from edgecache.rfc9111.search import (
    EVERYTHING,
    SearchVariance,
    is_equivalent,
    parse_search_variance,
    search_variance,
    simplified_target,
)
from edgecache.rfc9111.tags import group_tag
from tests.rfc9111.exchanges import TARGET, exchange, headers

ORIGIN = b"http://example.org:80"


@pytest.mark.parametrize(
    ("scheme", "authority", "target", "expected"),
    [
        (b"http", b"example.org", b"/a?b=c", b"http://example.org:80/a?b=c"),
        (b"http", b"EXAMPLE.org:80", b"/", b"http://example.org:80/"),
        (b"http", b"example.org:", b"/", b"http://example.org:80/"),
        (b"https", b"example.org", b"/", b"https://example.org:443/"),
        (b"HTTPS", b"example.org:0443", b"/", b"https://example.org:443/"),
        (b"http", b"example.org:8080", b"/", b"http://example.org:8080/"),
        (b"http", b"[::1]:81", b"/", b"http://[::1]:81/"),
        (b"http", b"a", b"//b/../%2f;x?", b"http://a:80//b/../%2f;x?"),
        (b"http", b"a", b"/\xff?\xe9", b"http://a:80/\xff?\xe9"),
    ],
)
def test_9110_7_1_the_exact_target_is_the_key(
    scheme: bytes, authority: bytes, target: bytes, expected: bytes
) -> None:
    assert target_uri(scheme, authority, target) == expected


@pytest.mark.parametrize(
    ("scheme", "authority", "target"),
    [
        (b"ftp", b"a", b"/"),
        (b"", b"a", b"/"),
        (b"http", b"", b"/"),
        (b"http", b"user@a", b"/"),
        (b"http", b"a b", b"/"),
        (b"http", b"a/b", b"/"),
        (b"http", b"a", b"a"),
        (b"http", b"a:x", b"/"),
        (b"http", b"a:65536", b"/"),
        (b"http", b"a:-1", b"/"),
        (b"http", b"a:1:2", b"/"),
        (b"http", b"[::1", b"/"),
        (b"http", b"a\0", b"/"),
        (b"http", b"a" * 300, b"/"),
        (b"http", b"a", b""),
        (b"http", b"a", b"*"),
        (b"http", b"a", b"http://b/"),
        (b"http", b"a", b"/a#b"),
        (b"http", b"a", b"/a b"),
        (b"http", b"a", b"/a\tb"),
        (b"http", b"a", b"/a\0"),
        (b"http", b"a", b"/a\r\n"),
        (b"http", b"a", b"/a\x7f"),
    ],
)
def test_what_has_no_key(scheme: bytes, authority: bytes, target: bytes) -> None:
    assert target_uri(scheme, authority, target) is None


PARTS = st.text(alphabet="ab/:.?%&=", max_size=6).map(str.encode)


@given(
    st.sampled_from([b"http", b"https"]),
    PARTS,
    PARTS,
    st.sampled_from([b"http", b"https"]),
    PARTS,
    PARTS,
)
def test_different_targets_have_different_keys(
    scheme: bytes, host: bytes, rest: bytes, scheme2: bytes, host2: bytes, rest2: bytes
) -> None:
    left = target_uri(scheme, host, b"/" + rest)
    right = target_uri(scheme2, host2, b"/" + rest2)
    if left is not None and left == right:
        assert rest == rest2
        assert origin_of(scheme, host) == origin_of(scheme2, host2) == origin_of_uri(left)


def test_9111_4_only_get_and_head_have_a_key() -> None:
    assert cache_key(b"GET", TARGET) == cache_key(b"HEAD", TARGET) == TARGET
    for method in (b"POST", b"OPTIONS", b"get", b"QUERY"):
        assert cache_key(method, TARGET) is None
    assert cache_key(b"GET", b"x" * (KEY_BYTES_MAX + 1)) is None


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (b"", TARGET),
        (b"/x", ORIGIN + b"/x"),
        (b"x", ORIGIN + b"/x"),
        (b"?q", ORIGIN + b"/a?q"),
        (b"?", ORIGIN + b"/a?"),
        (b"?#f", ORIGIN + b"/a?"),
        (b"/x?", ORIGIN + b"/x?"),
        (b"/x?y?", ORIGIN + b"/x?y?"),
        (b"/a\tb", None),
        (b"#f", TARGET),
        (b"/x#f", ORIGIN + b"/x"),
        (b"../../x", ORIGIN + b"/x"),
        (b"./x/../y", ORIGIN + b"/y"),
        (b"//other.org/x", b"http://other.org:80/x"),
        (b"http://EXAMPLE.ORG/x", ORIGIN + b"/x"),
        (b"http://example.org", ORIGIN + b"/"),
        (b"https://example.org/x", b"https://example.org:443/x"),
        (b"ftp://example.org/x", None),
        (b"mailto:a@b", None),
        (b"http://user@example.org/", None),
        (b"http://[::1", None),
        (b"/a b", None),
    ],
)
def test_3986_5_2_references(reference: bytes, expected: bytes | None) -> None:
    assert resolve(TARGET, reference) == expected


@given(st.binary(max_size=40))
def test_resolving_never_raises(reference: bytes) -> None:
    found = resolve(TARGET, reference)
    assert found is None or found.startswith((b"http://", b"https://"))


@pytest.mark.parametrize(
    ("rules", "target", "expected"),
    [
        (QueryRules(), b"/a?b=2&a=1&", b"/a?b=2&a=1&"),
        (QueryRules(sorts=True), b"/a?b=2&a=1&b=1", b"/a?a=1&b=2&b=1"),
        (QueryRules(drops=(b"utm_*", b"x")), b"/a?utm_a=1&b=2&x&xy=3", b"/a?b=2&xy=3"),
        (QueryRules(keeps=(b"a", b"b*")), b"/a?bc=1&c=2&a=3", b"/a?bc=1&a=3"),
        (QueryRules(keeps=()), b"/a?b=1", b"/a"),
        (QueryRules(drops_all=True), b"/a?b=1", b"/a"),
        (QueryRules(drops_all=True), b"/a", b"/a"),
        (QueryRules(drops=(b"b",)), b"/a?b", b"/a"),
        (QueryRules(sorts=True), b"/%61?%62=1&a", b"/%61?%62=1&a"),
    ],
)
def test_the_query_is_normalised_by_configuration_only(
    rules: QueryRules, target: bytes, expected: bytes
) -> None:
    assert normal_target(target, rules) == expected
    assert normal_target(expected, rules) == expected


# RFC 9111 4.4


@pytest.mark.parametrize(
    "method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"M-SEARCH", b"FOO", b"get"]
)
@pytest.mark.parametrize("status", [200, 204, 299, 301, 302, 399])
def test_9111_4_4_unsafe_and_unknown_methods_invalidate(method: bytes, status: int) -> None:
    found = invalidated(exchange("Location: /l\nContent-Location: c", method=method, status=status))
    assert found.uris == (TARGET, ORIGIN + b"/l", ORIGIN + b"/c")


@pytest.mark.parametrize("status", [400, 404, 500, 503, 599, 199])
def test_9111_4_4_errors_invalidate_nothing(status: int) -> None:
    assert invalidated(exchange("Location: /l", method=b"POST", status=status)) == NOTHING


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"QUERY"])
def test_9111_4_4_safe_methods_invalidate_nothing(method: bytes) -> None:
    assert is_safe(method)
    response = 'Location: /l\nCache-Group-Invalidation: "a"'
    assert invalidated(exchange(response, method=method)) == NOTHING


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://other.org/l",
            "https://example.org/l",
            "http://example.org:81/l",
            "//other.org/l",
        ),
        *("ftp://example.org/l", "http://[", "http://example.org@other.org/l"),
    ],
)
def test_9111_4_4_other_origins_are_left_alone(location: str) -> None:
    for field in ("Location", "Content-Location"):
        found = invalidated(exchange(f"{field}: {location}", method=b"POST"))
        assert found.uris == (TARGET,)


def test_9875_3_groups_of_the_same_origin_are_invalidated() -> None:
    found = invalidated(exchange('Cache-Group-Invalidation: "a", "b"', method=b"POST"))
    assert found.tags == (group_tag(ORIGIN, b"a"), group_tag(ORIGIN, b"b"))


# No-Vary-Search


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"params", SearchVariance(is_wildcard=True)),
        (b"params=?1", SearchVariance(is_wildcard=True)),
        (b'params=("a" "b")', SearchVariance(names=frozenset(("a", "b")))),
        (b'params, except=("x")', SearchVariance(True, frozenset(("x",)))),
        (b"key-order", SearchVariance(varies_on_order=False)),
        (b'key-order, params=("a")', SearchVariance(False, frozenset("a"), False)),
        (b'params=("%C3%A9+%E6%B0%97")', SearchVariance(names=frozenset(("\u00e9 \u6c17",)))),
        (b"params=?0", EVERYTHING),
        (b"params=()", EVERYTHING),
        (b"key-order=?0", EVERYTHING),
        (b"unknown", EVERYTHING),
        (b"key-order, unknown=1", SearchVariance(varies_on_order=False)),
        (b'key-order="x"', EVERYTHING),
        (b'params="x"', EVERYTHING),
        (b"params=(x)", EVERYTHING),
        (b'params=("a"), except=("x")', EVERYTHING),
        (b"params=(), except=()", EVERYTHING),
        (b'params=?0, except=("x")', EVERYTHING),
        (b"params, except=(x)", EVERYTHING),
        (b'params, except="x"', EVERYTHING),
        (b"params, except=?1", EVERYTHING),
        (b'except=("x")', EVERYTHING),
        (b"except=()", EVERYTHING),
        (b"&", EVERYTHING),
    ],
)
def test_no_vary_search_parsing(value: bytes, expected: SearchVariance) -> None:
    assert parse_search_variance(value) == expected


@pytest.mark.parametrize(
    ("value", "left", "right", "expected"),
    [
        ("key-order", b"/?a=1&b=2", b"/?b=2&a=1", True),
        ("key-order", b"/?a=1&a=2", b"/?a=2&a=1", False),
        ("key-order", b"/", b"/?", True),
        ("key-order", b"/?a=x", b"/?%61=%78", True),
        ("key-order", b"/?a=\xc3\xa9", b"/?a=%C3%A9", True),
        ("key-order", b"/?a=%f6", b"/?a=%ef%bf%bd", True),
        ("key-order", b"/?a=x&&&&", b"/?a=x", True),
        ("key-order", b"/?a=", b"/?a", True),
        ("key-order", b"/?a=%20", b"/?a=+", True),
        ("key-order", b"/x?a=1", b"/y?a=1", False),
        ("key-order", b"/?a=1%262", b"/?a=1&2", False),
        ('params=("u")', b"/?a=1&u=5", b"/?a=1", True),
        ('params=("u")', b"/?a=1&b=2", b"/?b=2&a=1", False),
        ("params", b"/?a=1", b"/", True),
        ("params", b"/?a=1", b"/x", False),
        ('params, except=("p")', b"/?p=1&q=2", b"/?q=3&p=1", True),
        ('params, except=("p")', b"/?p=1", b"/?p=2", False),
        ("", b"/?a=x", b"/?%61=x", False),
        ("", b"/a", b"/a?", False),
        ("", b"/a?x", b"/a?x", True),
    ],
)
def test_no_vary_search_equivalence(value: str, left: bytes, right: bytes, expected: bool) -> None:
    variance = search_variance(headers(f"No-Vary-Search: {value}" if value else ""))
    assert is_equivalent(left, right, variance) is expected
    assert is_equivalent(right, left, variance) is expected


QUERIES = st.text(alphabet="ab=&+%41c", max_size=12).map(lambda text: b"/p?" + text.encode())


@given(
    QUERIES, st.sampled_from([b"key-order", b"params", b'params=("a")', b'params, except=("a")'])
)
def test_a_simplified_target_is_stable_and_equivalent(target: bytes, value: bytes) -> None:
    variance = parse_search_variance(value)
    simple = simplified_target(target, variance)
    assert simplified_target(simple, variance) == simple
    assert is_equivalent(target, simple, variance)
