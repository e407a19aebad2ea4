"""Cache-Control and Pragma: RFC 9111 5.2, 5.4 and 4.2.1, RFC 5861, RFC 8246."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.cache_control import (
    RequestDirectives,
    ResponseDirectives,
    directives_of_request,
    parse_directives,
    request_directives,
    response_directives,
)
from edgecache.rfc9111.syntax import DELTA_SECONDS_MAX
from tests.rfc9111.exchanges import headers

FLAGS = (
    *("no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate"),
    *("must-understand", "no-transform", "immutable"),
)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("form", ["{}", " {} ", "x=1,{}", "{},x", ",,{},,", "{}=1,{}", "{}=, {}"])
def test_9111_5_2_a_flag_is_found_wherever_it_stands(name: str, form: str) -> None:
    value = form.format(name, name).encode()
    for spelled in (value, value.upper()):
        assert getattr(response_directives(spelled), name.replace("-", "_")) is True


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("form", ["x{}", "{}x", 'x="{}"', 'x="a, {}, b"', "x={}", "x {}", '"{}"'])
def test_9111_5_2_a_flag_is_not_found_inside_of_something_else(name: str, form: str) -> None:
    directives = response_directives(form.format(name).encode())
    assert getattr(directives, name.replace("-", "_")) is False


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", 60),
        (b"MAX-AGE=60", 60),
        (b'max-age="60"', 60),
        (b"max-age=060", 60),
        (b"max-age=0", 0),
        (b"max-age=99999999999999999999", DELTA_SECONDS_MAX),
        (b'x="max-age=60"', None),
        (b'x="a, max-age=60"', None),
        (b"xmax-age=60", None),
        (b"max-agex=60", None),
        (b"max-age", 0),
        (b"max-age=", 0),
        (b"max-age=-60", 0),
        (b"max-age=60.5", 0),
        (b"max-age=60s", 0),
        (b"max-age='60'", 0),
        (b"max-age=60;", 0),
        (b"max-age =60", 0),
        (b"max-age= 60", 0),
        (b"max-age:60", 0),
        (b"max-age=1 2", 0),
        (b"max-age=60, max-age=60", 60),
        (b"max-age=60, max-age=100", 60),
        (b"max-age=100, max-age=60", 0),
        (b"max-age=100, max-age=x", 0),
        (b"max-age=x, max-age=100", 0),
    ],
)
def test_9111_4_2_1_max_age(value: bytes, expected: int | None) -> None:
    assert response_directives(value).max_age == expected
    assert response_directives(value.lower().replace(b"max-age", b"s-maxage")).s_maxage == expected


@pytest.mark.parametrize("name", ["stale-while-revalidate", "stale-if-error"])
@pytest.mark.parametrize(
    ("argument", "expected"),
    [("=60", 60), ('="60"', 60), ("", 0), ("=x", 0), ("=-1", 0), ("=9,{}=4", 4), ("=4,{}=9", 4)],
)
def test_5861_permissions_are_the_smallest_that_is_stated(
    name: str, argument: str, expected: int
) -> None:
    directives = response_directives((name + argument.format(name)).encode())
    assert getattr(directives, name.replace("-", "_")) == expected


@pytest.mark.parametrize("name", ["no-cache", "private"])
@pytest.mark.parametrize(
    ("argument", "is_whole", "fields"),
    [
        ("", True, ()),
        ('="Set-Cookie"', False, (b"set-cookie",)),
        ('="a, B ,c"', False, (b"a", b"b", b"c")),
        ('=",a,,"', False, (b"a",)),
        ("=Set-Cookie", False, (b"set-cookie",)),
        ('=""', True, ()),
        ('=","', True, ()),
        ('="a b"', True, ()),
        ('="a", {}', True, ()),
        ('="a", {}="b"', False, (b"a", b"b")),
        ('="a', True, ()),
        ("=", True, ()),
    ],
)
def test_9111_5_2_2_4_field_lists(
    name: str, argument: str, is_whole: bool, fields: tuple[bytes, ...]
) -> None:
    directives = response_directives((name + argument.format(name)).encode())
    field = name.replace("-", "_")
    assert getattr(directives, field) is is_whole
    assert getattr(directives, field + "_fields") == fields


def test_an_open_quote_restricts_but_grants_nothing() -> None:
    directives = response_directives(b'x="a, max-age=60, public, no-store, s-maxage=60')
    assert directives.is_malformed
    assert directives.no_store
    assert not directives.public
    assert (directives.max_age, directives.s_maxage) == (0, 0)


def test_9111_5_2_3_unknown_directives_are_kept_and_change_nothing() -> None:
    directives = response_directives(b'max-age=60, Foo=bar, baz="a,b"')
    assert directives.max_age == 60
    assert [(d.name, d.argument) for d in directives.unknown] == [
        (b"foo", b"bar"),
        (b"baz", b"a,b"),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"must-revalidate", True),
        (b"proxy-revalidate", True),
        (b"no-cache", True),
        (b"s-maxage=60", True),  # section 5.2.2.10
        (b's-maxage="x"', True),
        (b'no-cache="a"', False),
        (b"max-age=60, stale-if-error=60", False),
        (b"", False),
    ],
)
def test_9111_4_2_4_what_forbids_stale(value: bytes, expected: bool) -> None:
    assert response_directives(value).forbids_stale is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", RequestDirectives()),
        (b"no-cache", RequestDirectives(no_cache=True)),
        (b"NO-STORE", RequestDirectives(no_store=True)),
        (
            b"only-if-cached, no-transform",
            RequestDirectives(only_if_cached=True, no_transform=True),
        ),
        (b"max-age=0", RequestDirectives(max_age=0)),
        (b"max-age=5, max-age=3", RequestDirectives(max_age=3)),
        (b"max-age=3, max-age=5", RequestDirectives(max_age=3)),
        (b"max-age=x", RequestDirectives(max_age=0)),
        (b"max-age", RequestDirectives(max_age=0)),
        (b"min-fresh=5", RequestDirectives(min_fresh=5)),
        (b"min-fresh=5, min-fresh=9", RequestDirectives(min_fresh=9)),
        (b"min-fresh=x", RequestDirectives(min_fresh=2**31)),
        (b"max-stale", RequestDirectives(max_stale=2**31)),
        (b"max-stale=5", RequestDirectives(max_stale=5)),
        (b"max-stale, max-stale=5", RequestDirectives(max_stale=5)),
        (b"max-stale=x", RequestDirectives(max_stale=0)),
        (b"stale-if-error=5", RequestDirectives(stale_if_error=5)),
        (b'max-age="5"', RequestDirectives(max_age=5)),
        (b'x="no-cache', RequestDirectives()),
        (b'x="a, max-stale, no-cache', RequestDirectives(no_cache=True)),
    ],
)
def test_9111_5_2_1_request_directives(value: bytes, expected: RequestDirectives) -> None:
    assert request_directives(value) == expected


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ("Pragma: no-cache", True),
        ("Pragma: No-Cache", True),
        ("Pragma: foo, no-cache", True),
        ("Pragma: foo", False),
        ("Pragma: foo=no-cache", False),
        ("Pragma: no-cache\nCache-Control: max-age=60", False),
        ("Cache-Control: max-age=60\nCache-Control: no-cache", True),
        ("", False),
    ],
)
def test_9111_5_4_pragma(request_fields: str, expected: bool) -> None:
    assert directives_of_request(headers(request_fields)).no_cache is expected


@given(st.binary(max_size=200))
def test_parsing_never_raises(value: bytes) -> None:
    assert isinstance(response_directives(value), ResponseDirectives)
    assert isinstance(request_directives(value), RequestDirectives)
    for directive in parse_directives(value)[0]:
        assert directive.name


DIRECTIVES = st.sampled_from(
    (
        *(b"max-age=60", b"max-age=9", b"max-age=x", b"s-maxage=5", b"no-store", b"private"),
        *(b"public", b'private="a"', b"no-cache", b'no-cache="b"', b"must-revalidate"),
        *(b"stale-if-error=5", b'x="a, b"'),
    )
)


@given(st.lists(DIRECTIVES, max_size=5), DIRECTIVES)
def test_another_directive_never_lifts_a_restriction(given_: list[bytes], other: bytes) -> None:
    before = response_directives(b", ".join(given_))
    after = response_directives(b", ".join([*given_, other]))
    for name in ("no_store", "no_cache", "private", "must_revalidate", "is_malformed"):
        assert getattr(after, name) >= getattr(before, name)
    if before.max_age is not None:
        assert after.max_age is not None
        assert after.max_age <= before.max_age


@pytest.mark.parametrize("name", ["If-None-Match", "If-Modified-Since", "If-Range"])
def test_9111_5_2_1_what_the_fetch_api_adds_to_a_condition_is_no_wish(name: str) -> None:
    added = "Pragma: no-cache\nCache-Control: no-cache"
    assert not directives_of_request(headers(f"{name}: x\n{added}"), True).no_cache
    assert directives_of_request(headers(f"{name}: x\n{added}"), False).no_cache
    assert directives_of_request(headers(added), True).no_cache
    assert directives_of_request(headers(f"{name}: x\nCache-Control: no-cache"), True).no_cache
    assert directives_of_request(headers(f"{name}: x\nPragma: no-cache"), True).no_cache
    other = "Pragma: no-cache\nCache-Control: no-cache, x"
    assert directives_of_request(headers(f"{name}: x\n{other}"), True).no_cache
