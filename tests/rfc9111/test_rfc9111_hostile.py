"""Any bytes in any field: every decision is made, none raises, and nothing forbidden is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.rfc9111.cache_status import appended, member
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.invalidation import invalidated
from edgecache.rfc9111.partial import if_range, may_combine
from edgecache.rfc9111.preconditions import evaluate, not_modified_fields, representation_of
from edgecache.rfc9111.request import request_facts
from edgecache.rfc9111.reuse import decide, decide_without, may_serve_on_failure
from edgecache.rfc9111.rules import LETTER, SAFE, Rules
from edgecache.rfc9111.search import search_variance, simplified_target
from edgecache.rfc9111.stored import decode_stored, encode_stored
from edgecache.rfc9111.storing import assess
from edgecache.rfc9111.tags import cache_groups, surrogate_tags
from edgecache.rfc9111.validation import conditional, freshen, head_matches, identified
from tests.rfc9111.exchanges import NOW_S, NOW_US, exchange

NAMES = st.sampled_from(
    (
        *(b"cache-control", b"cdn-cache-control", b"expires", b"date", b"age", b"vary", b"etag"),
        *(b"last-modified", b"set-cookie", b"content-range", b"content-length", b"connection"),
        *(b"pragma", b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match"),
        *(b"authorization", b"cookie", b"accept-encoding", b"accept", b"x", b"cache-groups"),
        *(b"surrogate-key", b"location", b"content-location", b"no-vary-search", b"cache-tag"),
        *(b"transfer-encoding", b"cache-status", b"cache-group-invalidation"),
    )
)
WORDS = st.sampled_from(
    (
        *(b"max-age=60", b"no-store", b"private", b"public", b"s-maxage=9", b'private="x"', b"*"),
        *(b"Tue, 14 Nov 2023 22:13:20 GMT", b'"a"', b'W/"a"', b"bytes=0-4", b"bytes 0-4/10"),
        *(b"10", b"x", b"no-cache", b"must-understand", b"keep-alive", b"gzip;q=0.5", b'("a")'),
    )
)
RAW = st.text(
    alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=24
).map(lambda text: text.encode("latin-1"))
VALUES = st.lists(WORDS | RAW, max_size=4).map(b", ".join)
SECTIONS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(Headers)
METHODS = st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"FOO"])
RULES = st.sampled_from([SAFE, LETTER, Rules(accept_encodings=(b"br",), stale_if_error_s=9)])


@given(METHODS, SECTIONS, SECTIONS, st.integers(100, 999), RULES, st.integers(-100, 10**6))
def test_every_decision_is_made(
    method: bytes, request: Headers, response: Headers, status: int, rules: Rules, later_s: int
) -> None:
    happened = replace(exchange(), method=method, request=request, response=response, status=status)
    now_us = NOW_US + later_s * 1_000_000
    facts = request_facts(method, request, rules)
    stored = assess(happened, rules).stored
    if stored is None:
        member(decide_without(facts, method))
    else:
        assert decode_stored(encode_stored(stored)) == stored
        policy = stored.policy
        appended(response.combined(b"cache-status"), member(decide(policy, facts, now_us)))
        may_serve_on_failure(policy, facts, now_us, None)
        verdict = evaluate(method, request, representation_of(policy), NOW_S)
        assert verdict.status in (0, 304, 412)
        conditional(end_to_end(request), [stored])
        identified([policy], response, NOW_S)
        head_matches(stored, response, 5, NOW_S)
        freshen(stored, replace(happened, status=304), rules)
        if_range(policy)
        may_combine(policy, policy)
        not_modified_fields(stored.headers)
    invalidated(happened)
    surrogate_tags(response)
    cache_groups(response, b"http://a:80")
    simplified_target(b"/?a=b&c", search_variance(response))


@given(SECTIONS, SECTIONS, RULES)
def test_what_restricts_is_heeded_among_any_other_bytes(
    request: Headers, response: Headers, rules: Rules
) -> None:
    """no-store and private on a line of their own, whatever stands on the lines after it."""
    rest = response.without((b"cdn-cache-control",))
    rest = Headers([pair for pair in rest if b"must-understand" not in pair[1].lower()])
    for directive in (b"no-store", b"private"):
        section = Headers([(b"cache-control", directive), *rest])
        happened = replace(exchange(), request=request, response=section)
        assert assess(happened, rules).stored is None


@given(SECTIONS)
def test_authenticated_answers_are_stored_only_with_permission(response: Headers) -> None:
    request = Headers([(b"authorization", b"x")])
    stored = assess(replace(exchange(), request=request, response=response)).stored
    if stored is not None:
        values = b",".join(
            response.get_all(b"cache-control") + response.get_all(b"cdn-cache-control")
        ).lower()
        assert any(word in values for word in (b"public", b"s-maxage", b"must-revalidate"))


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"\0"])
def test_a_field_with_a_line_end_is_never_stored(value: bytes) -> None:
    section = Headers([(b"cache-control", b"max-age=60"), (b"x", value)])
    assert assess(replace(exchange(), response=section)).reason == "malformed"
