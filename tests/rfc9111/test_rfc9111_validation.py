"""Validating and updating stored responses: RFC 9111 3.2, 4.3."""

from __future__ import annotations

import pytest

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.request import PLAIN
from edgecache.rfc9111.reuse import Action, decide
from edgecache.rfc9111.rules import LETTER
from edgecache.rfc9111.stored import PARTIAL
from edgecache.rfc9111.validation import (
    TAGS_SENT_MAX,
    conditional,
    for_request,
    freshen,
    head_matches,
    identified,
    merged,
    unconditional,
)
from tests.rfc9111.exchanges import NOW_S, NOW_US, exchange, headers, store

CC = "Cache-Control: max-age=60\n"
OLD = "Last-Modified: {-1000}"


@pytest.mark.parametrize(
    ("validators", "expected"),
    [
        ('ETag: "a"', {b"if-none-match": b'"a"'}),
        ('ETag: W/"a"', {b"if-none-match": b'W/"a"'}),
        ("ETag: bare", {b"if-none-match": b"bare"}),
        (OLD, {b"if-modified-since": b"Tue, 14 Nov 2023 21:56:40 GMT"}),
        (
            f'ETag: "a"\n{OLD}',
            {b"if-none-match": b'"a"', b"if-modified-since": b"Tue, 14 Nov 2023 21:56:40 GMT"},
        ),
        (f'ETag: "a b"\n{OLD}', {b"if-modified-since": b"Tue, 14 Nov 2023 21:56:40 GMT"}),
        ("Last-Modified: yesterday", {}),
        ("", {}),
    ],
)
def test_9111_4_3_1_the_validators_of_the_stored_response_are_sent(
    validators: str, expected: dict[bytes, bytes]
) -> None:
    request = headers(
        'Host: x\nIf-None-Match: "mine"\nIf-Modified-Since: {+0}\nRange: bytes=0-1\nIf-Range: "q"'
    )
    found = conditional(request, [store(CC + validators)])
    assert found.first == {b"host": b"x"} | expected


def test_9111_4_3_1_tags_of_other_variants_are_offered_but_none_of_parts() -> None:
    part = store(
        f'{CC}ETag: "p"\nContent-Range: bytes 0-4/10', status=206, request="Range: bytes=0-4"
    )
    whole = [store(f'{CC}ETag: "{name}"\n{OLD}') for name in ("a", "b", "a")]
    found = conditional(headers(""), [*whole, part])
    assert found.get(b"if-none-match") == b'"a", "b"'
    assert conditional(headers(""), [part]).get(b"if-none-match") == b'"p"'
    many = [store(f'{CC}ETag: "{number}"') for number in range(50)]
    assert (conditional(headers(""), many).get(b"if-none-match") or b"").count(b",") == (
        TAGS_SENT_MAX - 1
    )
    assert conditional(headers("A: b"), []) == headers("A: b")


def test_a_whole_response_is_asked_for_without_conditions() -> None:
    request = headers('A: b\nRange: bytes=0-1\nIf-Range: "a"\nIf-None-Match: *\nIf-Match: "q"')
    assert unconditional(request) == headers('A: b\nIf-Match: "q"')


STRONG, WEAK = 'ETag: "a"', 'ETag: W/"a"'


@pytest.mark.parametrize(
    ("stored", "response", "expected"),
    [
        ([STRONG], STRONG, (0,)),
        ([STRONG], 'ETag: "b"', ()),
        ([STRONG, 'ETag: "b"', STRONG], STRONG, (0, 2)),
        ([WEAK], STRONG, ()),
        ([OLD], STRONG, ()),  # a strong validator that nothing stored has
        ([WEAK], WEAK, (0,)),
        ([STRONG], WEAK, (0,)),
        ([WEAK, WEAK], WEAK, (1,)),  # the most recent
        ([WEAK], 'ETag: W/"b"', ()),
        ([OLD], OLD, (0,)),
        ([OLD, OLD], OLD, (1,)),
        ([OLD], "Last-Modified: {-999}", ()),
        ([WEAK + "\n" + OLD], f'ETag: W/"a"\n{OLD}', (0,)),
        ([WEAK + "\n" + OLD], WEAK + "\nLast-Modified: {-999}", ()),
        ([WEAK], WEAK + "\n" + OLD, (0,)),
        ([WEAK], 'ETag: W/"b"\n' + OLD, ()),
        ([STRONG], "", (0,)),
        ([STRONG, 'ETag: "b"'], "", ()),
        ([OLD], "", (0,)),
        ([], STRONG, ()),
    ],
)
def test_9111_4_3_4_which_responses_a_304_speaks_of(
    stored: list[str], response: str, expected: tuple[int, ...]
) -> None:
    policies = [
        store(CC + text, date=f"Date: {{-{50 - number}}}").policy
        for number, text in enumerate(stored)
    ]
    assert identified(policies, headers(response), NOW_S) == expected


def test_9111_3_2_fields_of_the_304_replace_all_of_their_name() -> None:
    stored = store(CC + 'ETag: "a"\nX: 1\nX: 2\nY: 3')
    found = freshen(stored, exchange('ETag: "a"\nX: 4\nZ: 5', status=304, at_s=100))
    assert found.stored is not None
    assert found.stored.headers.get_all(b"x") == (b"4",)
    assert found.stored.headers.get(b"y") == b"3"
    assert found.stored.headers.get(b"z") == b"5"
    assert found.headers == found.stored.headers


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Length", "Content-Encoding", "Content-Range", "Content-Digest"),
        *("Connection", "Keep-Alive", "Transfer-Encoding", "Proxy-Authenticate", "TE", "Upgrade"),
    ],
)
def test_9111_3_2_fields_that_are_not_updated(name: str) -> None:
    found = merged(headers(f"{name}: old"), headers(f"{name}: new"))
    assert found.get_all(name.lower().encode()) == (b"old",)
    absent = merged(headers("a: b"), headers(f"{name}: new"))
    assert name.lower().encode() not in absent


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Type", "Content-Language", "Content-Location", "Cache-Control", "Expires"),
        "Content-MD5",
        *("Date", "Vary", "Last-Modified", "Link", "X-Unknown", "Content-Security-Policy"),
        *("Access-Control-Allow-Origin", "Repr-Digest"),
    ],
)
def test_9111_3_2_fields_that_are_updated(name: str) -> None:
    found = merged(headers(f"a: b\n{name}: old"), headers(f"{name}: new"))
    assert found.get_all(name.lower().encode()) == (b"new",)


def test_9111_3_2_fields_that_connection_names_are_not_taken_over() -> None:
    found = merged(headers("a: old"), headers("Connection: a\na: new\nb: 1"))
    assert found == headers("a: old\nb: 1")


def test_9111_3_2_the_tag_stays_and_is_added_where_there_was_none() -> None:
    assert merged(headers('ETag: "a"'), headers('ETag: W/"a"')).get(b"etag") == b'"a"'
    assert merged(headers("a: b"), headers('ETag: W/"a"')).get(b"etag") == b'W/"a"'


def test_9111_4_2_3_age_and_freshness_begin_anew() -> None:
    stored = store(CC + 'ETag: "a"\nAge: 30', delay_us=5_000_000)
    renewal = exchange(
        'ETag: "a"\nCache-Control: max-age=10', status=304, at_s=100, date="Date: {+100}"
    )
    found = freshen(stored, renewal)
    assert found.stored is not None
    policy = found.stored.policy
    assert (policy.initial_age_us, policy.lifetime_s) == (0, 10)
    assert policy.response_us == NOW_US + 100_000_000
    assert decide(policy, PLAIN, NOW_US + 105_000_000)[:3] == (Action.HIT, b"", 5)
    assert b"age" not in found.headers


def test_a_304_without_date_was_made_when_it_came() -> None:
    found = freshen(store(CC + 'ETag: "a"'), exchange("", status=304, at_s=100, date=""))
    assert found.stored is not None
    assert found.stored.policy.date_s == NOW_S + 100
    assert found.stored.policy.initial_age_us == 0


@pytest.mark.parametrize(
    ("response", "request_fields", "reason", "drops"),
    [
        ("Cache-Control: no-store", "", "no-store", True),
        ("Cache-Control: private", "", "private", True),
        ("Vary: *", "", "vary", True),
        ("", "Authorization: x", "authorization", False),
        ("", "Cache-Control: no-store", "request-no-store", False),
        ("", "", "", False),
    ],
)
def test_a_304_may_forbid_what_the_200_allowed(
    response: str, request_fields: str, reason: str, drops: bool
) -> None:
    stored = store(CC + 'ETag: "a"\nX: 1')
    found = freshen(stored, exchange(response, status=304, request=request_fields))
    assert (found.reason, found.drops, found.stored is None) == (reason, drops, bool(reason))
    assert found.headers.get(b"x") == b"1"


def test_a_cookie_of_a_304_is_for_one_client() -> None:
    renewal = exchange("Set-Cookie: a=b", status=304)
    private = freshen(store(CC + 'ETag: "a"'), renewal)
    assert private.stored is not None
    assert b"set-cookie" not in private.stored.headers
    shared = freshen(store('Cache-Control: public, max-age=60\nETag: "a"'), renewal)
    assert shared.stored is not None
    assert b"set-cookie" in shared.stored.headers
    letter = freshen(store(CC + 'ETag: "a"'), renewal, LETTER)
    assert letter.stored is not None
    assert b"set-cookie" in letter.stored.headers


def test_a_304_may_change_the_selecting_fields() -> None:
    stored = store(CC + 'ETag: "a"\nVary: A', request="A: 1")
    found = freshen(stored, exchange("Vary: A, B", status=304, request="A: 1\nB: 2"))
    assert found.stored is not None
    assert found.stored.selecting == ((b"a", b"1"), (b"b", b"2"))


def test_9111_3_4_a_newer_part_updates_and_stays_a_part() -> None:
    first = store(
        CC + 'ETag: "a"\nX: 1\nContent-Range: bytes 0-4/10',
        status=206,
        request="Range: bytes=0-4",
    )
    newer = exchange(
        'ETag: "a"\nX: 2\nContent-Range: bytes 5-9/10\nContent-Length: 5',
        status=206,
        request="Range: bytes=5-9",
    )
    found = freshen(first, newer)
    assert found.stored is not None
    policy = found.stored.policy
    assert policy.flags & PARTIAL
    assert (policy.status, policy.range_first, policy.range_last) == (206, 0, 4)
    assert found.stored.headers.get(b"x") == b"2"
    assert b"content-range" not in found.stored.headers


@pytest.mark.parametrize(
    ("response", "size", "expected"),
    [
        ('ETag: "a"\nContent-Length: 5', 5, True),
        ('ETag: "a"', None, True),
        ("", 5, True),
        ('ETag: "b"', 5, False),
        ('ETag: W/"a"', 5, False),
        (OLD, 5, True),
        ("Last-Modified: {-999}", 5, False),
        ('ETag: "a"\nContent-Length: 6', 5, False),
        ('ETag: "a"\nContent-Length: 5', None, False),
    ],
)
def test_9111_4_3_5_head(response: str, size: int | None, expected: bool) -> None:
    stored = store(CC + f'ETag: "a"\n{OLD}')
    assert head_matches(stored, headers(response), size, NOW_S) is expected


def test_9111_4_3_5_a_head_response_updates() -> None:
    stored = store(CC + 'ETag: "a"\nX: 1\nContent-Length: 5')
    found = freshen(stored, exchange('ETag: "a"\nX: 2\nContent-Length: 5', method=b"HEAD", at_s=50))
    assert found.stored is not None
    assert found.stored.headers.get(b"x") == b"2"
    assert found.stored.headers.get(b"content-length") == b"5"
    assert found.stored.policy.response_us == NOW_US + 50_000_000


def test_merging_keeps_the_order_of_what_stays() -> None:
    found = merged(headers("a: 1\nb: 2\nc: 3"), headers("b: 4\nb: 5"))
    assert found == Headers([(b"a", b"1"), (b"c", b"3"), (b"b", b"4"), (b"b", b"5")])


def test_9111_4_3_4_an_updated_variant_stays_the_variant_that_it_was() -> None:
    stored = store(CC + 'ETag: "a"\nVary: A', request="A: 1")
    other = freshen(stored, exchange('ETag: "a"', status=304, request="A: 2"))
    assert other.stored is not None
    assert other.stored.selecting == ((b"a", b"1"),)
    copy = for_request(other.stored, headers("A: 2"))
    assert copy.selecting == ((b"a", b"2"),)
    fewer = freshen(stored, exchange('ETag: "a"\nVary:', status=304, request="A: 2"))
    assert fewer.stored is not None
    assert fewer.stored.selecting == ()
    unknown = freshen(stored, exchange('ETag: "a"\nVary: A, B', status=304, request="A: 2\nB: 3"))
    assert (unknown.stored, unknown.reason, unknown.drops) == (None, "vary", True)
