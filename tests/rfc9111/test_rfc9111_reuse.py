"""May a stored response answer: RFC 9111 4, 4.2.4, 5.2; RFC 5861; RFC 8246; RFC 9211."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.cache_status import appended, member, outcome_word
from edgecache.rfc9111.request import PLAIN, request_facts
from edgecache.rfc9111.reuse import (
    Action,
    Reuse,
    decide,
    decide_without,
    may_serve_on_failure,
)
from edgecache.rfc9111.rules import SAFE, Rules
from edgecache.rfc9111.structured import Item, parse_list
from tests.rfc9111.exchanges import NOW_US, headers, store

HIT, STALE, VALIDATE = Action.HIT, Action.STALE, Action.VALIDATE
GATEWAY_TIMEOUT = Action.GATEWAY_TIMEOUT
TAG = '\nETag: "a"'


def decision(
    directives: str,
    request: str = "",
    after_s: float = 0,
    rules: Rules = SAFE,
    method: bytes = b"GET",
) -> Reuse:
    """Decide `after_s` seconds after a response with these directives was stored."""
    policy = store(f"Cache-Control: {directives}{TAG}", rules).policy
    facts = request_facts(method, headers(request), rules)
    return decide(policy, facts, NOW_US + int(after_s * 1_000_000))


@pytest.mark.parametrize(
    ("directives", "after_s", "action", "forward"),
    [
        ("max-age=60", 0, HIT, b""),
        ("max-age=60", 59.999, HIT, b""),
        ("max-age=60", 60, VALIDATE, b"stale"),
        ("max-age=60", 600, VALIDATE, b"stale"),
        ("max-age=0", 0, VALIDATE, b"stale"),
        ("max-age=60, no-cache", 0, VALIDATE, b"stale"),
        ('max-age=60, no-cache="x"', 0, HIT, b""),
        ("max-age=60, must-revalidate", 59, HIT, b""),
        ("max-age=60, must-revalidate", 61, VALIDATE, b"stale"),
        ("s-maxage=5, max-age=60", 4, HIT, b""),
        ("s-maxage=5, max-age=60", 6, VALIDATE, b"stale"),
        # RFC 5861, section 3
        ("max-age=60, stale-while-revalidate=10", 59, HIT, b""),
        ("max-age=60, stale-while-revalidate=10", 60, STALE, b""),
        ("max-age=60, stale-while-revalidate=10", 69.9, STALE, b""),
        ("max-age=60, stale-while-revalidate=10", 70, VALIDATE, b"stale"),
        ("max-age=60, stale-while-revalidate=x", 60, VALIDATE, b"stale"),
        ("max-age=60, stale-while-revalidate=10, must-revalidate", 65, VALIDATE, b"stale"),
        ("max-age=60, stale-while-revalidate=10, proxy-revalidate", 65, VALIDATE, b"stale"),
        ("max-age=60, stale-while-revalidate=10, no-cache", 65, VALIDATE, b"stale"),
        ("s-maxage=60, stale-while-revalidate=10", 65, VALIDATE, b"stale"),
        ("max-age=60, stale-if-error=10", 65, VALIDATE, b"stale"),
    ],
)
def test_9111_4_plain_requests(
    directives: str, after_s: float, action: Action, forward: bytes
) -> None:
    found = decision(directives, after_s=after_s)
    assert (found.action, found.forward) == (action, forward)
    assert decision(directives, after_s=after_s, method=b"HEAD") == found


@pytest.mark.parametrize(
    ("directives", "request_cc", "after_s", "action", "forward"),
    [
        ("max-age=60", "no-cache", 1, VALIDATE, b"request"),
        ("max-age=60", "no-cache", 61, VALIDATE, b"stale"),
        ("max-age=60, immutable", "no-cache", 1, VALIDATE, b"request"),
        ("max-age=60", "no-store", 1, HIT, b""),
        ("max-age=60", "no-transform", 1, HIT, b""),
        ("max-age=60", "foo=bar", 1, HIT, b""),
        ("max-age=60", "max-age=0", 0, HIT, b""),
        ("max-age=60", "max-age=0", 0.001, VALIDATE, b"request"),
        ("max-age=60", "max-age=10", 10, HIT, b""),
        ("max-age=60", "max-age=10", 11, VALIDATE, b"request"),
        ("max-age=60", "max-age=x", 1, VALIDATE, b"request"),
        ("max-age=60, immutable", "max-age=0", 1, HIT, b""),
        ("max-age=60, immutable", "max-age=0", 61, VALIDATE, b"stale"),
        ("max-age=60, stale-while-revalidate=10", "max-age=60", 65, VALIDATE, b"stale"),
        ("max-age=60", "min-fresh=10", 50, HIT, b""),
        ("max-age=60", "min-fresh=10", 51, VALIDATE, b"request"),
        ("max-age=60", "min-fresh=x", 1, VALIDATE, b"request"),
        ("max-age=60", "max-stale", 600, HIT, b""),
        ("max-age=60", "max-stale=10", 70, HIT, b""),
        ("max-age=60", "max-stale=10", 70.1, VALIDATE, b"stale"),
        ("max-age=60", "max-stale=x", 61, VALIDATE, b"stale"),
        ("max-age=60, must-revalidate", "max-stale", 61, VALIDATE, b"stale"),
        ("max-age=60, proxy-revalidate", "max-stale", 61, VALIDATE, b"stale"),
        ("s-maxage=60", "max-stale", 61, VALIDATE, b"stale"),
        ("max-age=60, no-cache", "max-stale", 1, VALIDATE, b"stale"),
        ("max-age=60", "max-stale, max-age=10", 70, VALIDATE, b"stale"),
        ("max-age=60", "max-stale, no-cache", 70, VALIDATE, b"stale"),
        ("max-age=60", "only-if-cached", 1, HIT, b""),
        ("max-age=60", "only-if-cached", 61, GATEWAY_TIMEOUT, b"stale"),
        ("max-age=60", "only-if-cached, max-stale", 61, HIT, b""),
        ("max-age=60", "only-if-cached, no-cache", 1, GATEWAY_TIMEOUT, b"request"),
        ("max-age=60, no-cache", "only-if-cached", 1, GATEWAY_TIMEOUT, b"stale"),
    ],
)
def test_9111_5_2_1_request_directives(
    directives: str, request_cc: str, after_s: float, action: Action, forward: bytes
) -> None:
    found = decision(directives, f"Cache-Control: {request_cc}", after_s)
    assert (found.action, found.forward) == (action, forward)


def test_requests_are_not_heeded_where_the_operator_says_so() -> None:
    deaf = Rules(honours_request=False)
    assert decision("max-age=60", "Cache-Control: no-cache", 1, deaf).action is HIT
    assert decision("max-age=60", "Pragma: no-cache", 1, deaf).action is HIT
    assert decision("max-age=60", "Pragma: no-cache", 1).action is VALIDATE


@pytest.mark.parametrize(
    ("method", "request_fields"),
    [
        (b"GET", 'If-Match: "a"'),
        (b"GET", "If-Unmodified-Since: {+0}"),
        (b"GET", "Content-Length: 3"),
        (b"GET", "Transfer-Encoding: chunked"),
        (b"POST", ""),
        (b"get", ""),
    ],
)
def test_requests_that_only_the_origin_may_answer(method: bytes, request_fields: str) -> None:
    found = decision("max-age=60", request_fields, 1, method=method)
    assert (found.action, found.forward) == (Action.BYPASS, b"request")


@pytest.mark.parametrize(
    ("method", "request_fields", "has_variants", "expected"),
    [
        (b"GET", "", False, Reuse(Action.MISS, b"uri-miss")),
        (b"HEAD", "", True, Reuse(Action.MISS, b"vary-miss")),
        (b"GET", "Cache-Control: only-if-cached", False, Reuse(GATEWAY_TIMEOUT, b"uri-miss")),
        (b"GET", 'If-Match: "a"', False, Reuse(Action.BYPASS, b"request")),
        (b"POST", "", False, Reuse(Action.BYPASS, b"method")),
        (b"M-SEARCH", "", False, Reuse(Action.BYPASS, b"method")),
    ],
)
def test_9211_2_2_nothing_stored(
    method: bytes, request_fields: str, has_variants: bool, expected: Reuse
) -> None:
    facts = request_facts(method, headers(request_fields))
    assert decide_without(facts, method, has_variants) == expected


def test_a_plain_request_is_recognised() -> None:
    fields = headers("Host: x\nAccept: */*\nUser-Agent: y\nAuthorization: z")
    assert request_facts(b"GET", fields) is PLAIN
    ranged = request_facts(b"GET", headers("Range: bytes=0-1\nIf-None-Match: *"))
    assert (ranged.has_range, ranged.is_conditional, ranged.may_reuse) == (True, True, True)
    assert not request_facts(b"HEAD", headers("Range: bytes=0-1")).has_range


def test_9111_3_3_a_part_answers_only_what_it_holds() -> None:
    policy = store(
        "Cache-Control: max-age=60\nContent-Range: bytes 0-4/10",
        status=206,
        request="Range: bytes=0-4",
    ).policy
    assert decide(policy, PLAIN, NOW_US, is_covered=False)[:2] == (Action.MISS, b"partial")
    assert decide(policy, PLAIN, NOW_US, is_covered=True).action is HIT
    cached_only = request_facts(b"GET", headers("Cache-Control: only-if-cached"))
    assert decide(policy, cached_only, NOW_US, is_covered=False).action is GATEWAY_TIMEOUT
    assert not may_serve_on_failure(policy, PLAIN, NOW_US, None, is_covered=False)
    assert may_serve_on_failure(policy, PLAIN, NOW_US, None, is_covered=True)


ERRORS = (500, 502, 503, 504)
DAY_S = 86400


@pytest.mark.parametrize(
    ("directives", "request_cc", "after_s", "on_error", "on_disconnect"),
    [
        ("max-age=60", "", 61, False, True),
        ("max-age=60", "", 59 + DAY_S, False, True),
        ("max-age=60", "", 61 + DAY_S, False, False),
        ("max-age=60, stale-if-error=10", "", 69, True, True),
        ("max-age=60, stale-if-error=10", "", 71, False, True),
        ("max-age=60, stale-if-error=200000", "", 61 + DAY_S, True, True),
        ("max-age=60, stale-if-error=x", "", 61, False, True),
        ("max-age=60, stale-if-error=10, must-revalidate", "", 61, False, False),
        ("max-age=60, stale-if-error=10, proxy-revalidate", "", 61, False, False),
        ("s-maxage=60, stale-if-error=10", "", 61, False, False),
        ("max-age=60, stale-if-error=10, no-cache", "", 1, False, False),
        ("max-age=60", "stale-if-error=10", 69, True, True),
        ("max-age=60, must-revalidate", "stale-if-error=10", 69, False, False),
        ("max-age=60, stale-if-error=10", "no-cache", 61, False, False),
        ("max-age=60", "max-age=0", 1, False, True),
    ],
)
def test_9111_4_2_4_and_5861_4_when_forwarding_fails(
    directives: str, request_cc: str, after_s: int, on_error: bool, on_disconnect: bool
) -> None:
    policy = store(f"Cache-Control: {directives}{TAG}").policy
    facts = request_facts(b"GET", headers(f"Cache-Control: {request_cc}" if request_cc else ""))
    now_us = NOW_US + after_s * 1_000_000
    for status in ERRORS:
        assert may_serve_on_failure(policy, facts, now_us, status) is on_error
    assert may_serve_on_failure(policy, facts, now_us, None) is on_disconnect
    for status in (404, 410, 501, 505, 200):
        assert not may_serve_on_failure(policy, facts, now_us, status)


def test_permissions_of_the_operator_fill_in_and_never_override() -> None:
    rules = Rules(stale_if_error_s=30, stale_while_revalidate_s=20, stale_on_disconnect_s=0)
    silent = store("Cache-Control: max-age=60", rules).policy
    assert (silent.stale_if_error_s, silent.stale_while_revalidate_s) == (30, 20)
    assert silent.stale_on_disconnect_s == 0
    text = "Cache-Control: max-age=60, stale-if-error=1, stale-while-revalidate=2"
    stated = store(text, rules).policy
    assert (stated.stale_if_error_s, stated.stale_while_revalidate_s) == (1, 2)
    strict = store("Cache-Control: max-age=60, must-revalidate", rules).policy
    assert (strict.stale_if_error_s, strict.stale_while_revalidate_s) == (0, 0)


STRICT = st.sampled_from(["no-cache", "must-revalidate", "proxy-revalidate", "s-maxage=60"])


@given(
    STRICT,
    st.sampled_from(["", "max-stale", "max-stale=99", "stale-if-error=99", "only-if-cached"]),
    st.integers(60, 1000),
    st.sampled_from([None, *ERRORS]),
)
def test_9111_4_2_4_what_must_be_validated_is_never_served_stale(
    directive: str, request_cc: str, after_s: int, status: int | None
) -> None:
    text = f"Cache-Control: max-age=60, {directive}, stale-while-revalidate=999, stale-if-error=999"
    policy = store(text + TAG).policy
    facts = request_facts(b"GET", headers(f"Cache-Control: {request_cc}"))
    now_us = NOW_US + after_s * 1_000_000
    assert decide(policy, facts, now_us).action in (VALIDATE, GATEWAY_TIMEOUT)
    assert not may_serve_on_failure(policy, facts, now_us, status)


# RFC 9211


@pytest.mark.parametrize(
    ("reuse", "facts", "expected"),
    [
        (Reuse(HIT, b"", 5, 55), {}, b"edgecache; hit; ttl=55"),
        (Reuse(STALE, b"", 65, -5), {}, b"edgecache; hit; ttl=-5"),
        (Reuse(HIT, b"", 5, 55), {"forward_status": 200}, b"edgecache; hit; ttl=55"),
        (Reuse(Action.MISS, b"uri-miss"), {}, b"edgecache; fwd=uri-miss"),
        (
            Reuse(Action.MISS, b"vary-miss"),
            {"forward_status": 200, "is_stored": True, "is_collapsed": False},
            b"edgecache; fwd=vary-miss; fwd-status=200; stored; collapsed=?0",
        ),
        (
            Reuse(VALIDATE, b"stale", 65, -5),
            {"forward_status": 304, "is_stored": False, "is_collapsed": True},
            b"edgecache; fwd=stale; fwd-status=304; stored=?0; collapsed",
        ),
        (
            Reuse(VALIDATE, b"stale", 65, -5),
            {"is_served_stored": True, "forward_status": 503, "detail": b"stale-if-error"},
            b"edgecache; hit; ttl=-5; detail=stale-if-error",
        ),
        (
            Reuse(HIT, b"", 0, 1),
            {"name": b"cache one", "key": b'http://x/"\\\xff', "detail": b"a b"},
            b'"cache one"; hit; ttl=1; key="http://x/\\"\\\\?"; detail="a b"',
        ),
    ],
)
def test_9211_2_members(reuse: Reuse, facts: dict[str, object], expected: bytes) -> None:
    assert member(reuse, **facts) == expected  # type: ignore[arg-type]


@given(st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=30))
def test_9211_2_a_member_is_a_valid_structured_field(
    name: bytes, key: bytes, detail: bytes
) -> None:
    value = appended(b"first; hit", member(Reuse(HIT), name=name, key=key, detail=detail))
    members = parse_list(value)
    assert members is not None
    assert len(members) == 2
    assert isinstance(members[1], Item)
    assert members[1].parameters[b"hit"] is True


def test_9211_2_the_member_of_the_cache_nearest_to_the_user_is_last() -> None:
    assert appended(None, b"b; hit") == b"b; hit"
    assert appended(b" ", b"b; hit") == b"b; hit"
    assert appended(b"a; hit", b"b; hit") == b"a; hit, b; hit"


@pytest.mark.parametrize(
    ("reuse", "facts", "word"),
    [
        (Reuse(HIT, b"", 1, 1), {}, "hit"),
        (Reuse(HIT, b"", 1, -1), {}, "stale"),
        (Reuse(STALE, b"", 1, -1), {}, "stale-updating"),
        (Reuse(VALIDATE, b"stale"), {"forward_status": 304}, "revalidated"),
        (Reuse(VALIDATE, b"stale"), {"forward_status": 200}, "expired"),
        (Reuse(VALIDATE, b"stale", 1, -1), {"is_served_stored": True}, "stale"),
        (Reuse(VALIDATE, b"request", 1, 1), {"is_served_stored": True}, "hit"),
        (Reuse(Action.MISS, b"uri-miss"), {}, "miss"),
        (Reuse(Action.BYPASS, b"method"), {}, "bypass"),
        (Reuse(GATEWAY_TIMEOUT, b"uri-miss"), {}, "gateway-timeout"),
    ],
)
def test_the_word_for_logs(reuse: Reuse, facts: dict[str, object], word: str) -> None:
    assert outcome_word(reuse, **facts) == word  # type: ignore[arg-type]
