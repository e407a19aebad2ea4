"""Whether a response may be stored, and what of it: RFC 9111 section 3."""

from __future__ import annotations

import pytest

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import LETTER, SAFE, Rules
from edgecache.rfc9111.stored import (
    FORBIDS_STALE,
    HEURISTIC_LIFETIME,
    IMMUTABLE,
    NO_CACHE,
    PARTIAL,
    TARGETED,
)
from edgecache.rfc9111.storing import HEADER_BYTES_MAX, assess
from tests.rfc9111.exchanges import NOW_S, exchange, store

FRESH = "Cache-Control: max-age=60"


def reason(response: str, rules: Rules = SAFE, **options: object) -> str:
    return assess(exchange(response, **options), rules).reason  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [b"HEAD", b"PUT", b"DELETE", b"PATCH", b"FOO", b"get", b"QUERY"])
def test_9111_3_the_method_must_be_understood(method: bytes) -> None:
    assert reason(FRESH, method=method) == "method"
    assert reason(FRESH) == ""


FINAL = (200, 201, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 414, 418, 499)


@pytest.mark.parametrize("status", [*FINAL, 500, 502, 503, 504, 599])
def test_9111_3_any_final_status_with_explicit_freshness(status: int) -> None:
    for field in ("Expires: {+60}", "Cache-Control: s-maxage=5", "CDN-Cache-Control: max-age=5"):
        assert reason(field, status=status) == ""
    assert reason("", status=status, rules=Rules(status_ttl_s={status: 5})) == ""


@pytest.mark.parametrize("status", [100, 103, 199, 304, 600, 999])
def test_9111_3_other_statuses_never(status: int) -> None:
    assert reason(FRESH, status=status) == "status"


@pytest.mark.parametrize(
    ("status", "request_fields"),
    [
        *[(412, f"{name}: x") for name in ("If-Match", "If-None-Match", "If-Unmodified-Since")],
        (412, "If-Modified-Since: {-5}"),
        (416, "Range: bytes=5-"),
    ],
)
def test_9111_3_an_answer_to_a_condition_is_of_that_request_only(
    status: int, request_fields: str
) -> None:
    assert reason(FRESH, status=status, request=request_fields) == "status"
    assert reason(FRESH, status=status) == ""


MODIFIED = "Last-Modified: {-1000}"


@pytest.mark.parametrize(
    ("status", "is_safe", "is_letter"),
    [
        *[(status, True, True) for status in (200, 203, 204, 300, 301, 308, 404, 410)],
        *[(status, False, True) for status in (405, 414, 501)],
        *[(status, False, False) for status in (201, 202, 302, 303, 307, 400, 403, 500, 503, 599)],
    ],
)
def test_9111_4_2_2_statuses_that_may_be_given_a_lifetime(
    status: int, is_safe: bool, is_letter: bool
) -> None:
    assert reason(MODIFIED, status=status) == ("" if is_safe else "status")
    assert reason(MODIFIED, LETTER, status=status) == ("" if is_letter else "status")
    # public makes any of them cacheable, and so allows the heuristic
    assert store("Cache-Control: public\n" + MODIFIED, status=status).policy.lifetime_s == 100


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("no-store, max-age=60", "no-store"),
        ("No-Store, max-age=60", "no-store"),
        ("no-store=1, max-age=60", "no-store"),
        ("private, max-age=60", "private"),
        ('private="", max-age=60', "private"),
        ('private="x", max-age=60', ""),
        ("private=x, max-age=60", ""),
        ("no-cache, max-age=60", "no-validator"),
        ('no-cache="x", max-age=60', ""),
        ("no-store, must-understand, max-age=60", ""),
        ("must-understand, max-age=60", ""),
        ("private, must-understand, max-age=60", "private"),
        ("max-age=0", "no-freshness"),
        ("max-age=0, stale-while-revalidate=9", ""),
        ("max-age=0, stale-if-error=9", ""),
        ("max-age=0, must-revalidate, stale-if-error=9", "no-freshness"),
        ("max-age=x", "no-freshness"),
        ("s-maxage=0, max-age=60", "no-freshness"),
        ("public", "no-freshness"),
    ],
)
def test_9111_3_directives(directives: str, expected: str) -> None:
    assert reason("Cache-Control: " + directives) == expected


@pytest.mark.parametrize("status", [299, 418, 499, 599])
def test_9111_5_2_2_3_must_understand_a_status_that_is_not_known(status: int) -> None:
    response = "Cache-Control: must-understand, no-store, max-age=60"
    assert reason(response, status=status) == "must-understand"
    assert reason(response.replace("no-store, ", ""), status=status) == "must-understand"


@pytest.mark.parametrize("validator", ['ETag: "a"', MODIFIED])
def test_what_can_be_validated_is_stored_without_freshness(validator: str) -> None:
    for directives in (
        "max-age=0",
        "no-cache",
        "no-cache, max-age=60",
        "max-age=0, must-revalidate",
    ):
        assert reason(f"Cache-Control: {directives}\n{validator}") == ""


def test_a_response_that_could_never_be_reused_is_not_stored() -> None:
    assert reason("") == "no-freshness"
    assert reason("Expires: 0") == "no-freshness"
    assert reason("Last-Modified: {+10}\nETag: x y") == ""  # the date is still a validator
    assert reason("Last-Modified: x\nETag: x y") == "no-freshness"
    assert reason("Cache-Control: no-cache\nLast-Modified: x") == "no-freshness"
    assert not assess(exchange("")).may_store
    assert assess(exchange(FRESH)).may_store
    assert not store(FRESH).policy.has_validator


@pytest.mark.parametrize(
    ("directives", "is_allowed"),
    [
        ("max-age=60", False),
        ("max-age=60, public", True),
        ("s-maxage=60", True),
        ("max-age=60, must-revalidate", True),
        ("max-age=60, proxy-revalidate", False),
        ("max-age=60, immutable", False),
        ("private, public, max-age=60", False),
    ],
)
def test_9111_3_5_authenticated_requests(directives: str, is_allowed: bool) -> None:
    found = reason("Cache-Control: " + directives, request="Authorization: Basic eDp5")
    assert found == (
        "" if is_allowed else "private" if "private" in directives else "authorization"
    )


def test_9111_3_5_a_targeted_field_speaks_for_itself_only() -> None:
    request = "Authorization: Basic eDp5"
    assert reason("CDN-Cache-Control: max-age=60", request=request) == "authorization"
    both = "CDN-Cache-Control: max-age=60\nCache-Control: public"
    assert reason(both, request=request) == "authorization"
    assert reason("CDN-Cache-Control: max-age=60, public", request=request) == ""


@pytest.mark.parametrize(
    ("response", "is_safe"),
    [
        ("Cache-Control: max-age=60", False),
        ("Expires: {+60}", False),
        ("Cache-Control: max-age=60, must-revalidate", False),
        ("Cache-Control: max-age=60, public", True),
        ("Cache-Control: s-maxage=60", True),
        ("CDN-Cache-Control: max-age=60", True),
        ('Cache-Control: max-age=60, no-cache="Set-Cookie"', True),
        ('Cache-Control: max-age=60, private="set-cookie"', True),
    ],
)
def test_set_cookie_is_stored_only_if_it_is_for_everybody(response: str, is_safe: bool) -> None:
    response += "\nSet-Cookie: a=b"
    assert reason(response) == ("" if is_safe else "set-cookie")
    assert reason(response, LETTER) == ""


@pytest.mark.parametrize(
    ("response", "explicit", "shared"),
    [
        ("Last-Modified: {-1000}", "cookie", "cookie"),
        ("Cache-Control: max-age=60", "", "cookie"),
        ("Expires: {+60}", "", "cookie"),
        ("Cache-Control: max-age=0\nLast-Modified: {-1000}", "", "cookie"),
        ("Cache-Control: public, max-age=60", "", ""),
        ("Cache-Control: s-maxage=60", "", ""),
        ("CDN-Cache-Control: max-age=60", "", ""),
    ],
)
def test_the_answer_to_a_cookie_is_not_given_a_lifetime_by_guess(
    response: str, explicit: str, shared: str
) -> None:
    request = "Cookie: session=1"
    assert reason(response, request=request) == explicit
    assert reason(response, Rules(cookie="shared"), request=request) == shared
    assert reason(response, LETTER, request=request) == ""


def test_9111_5_2_1_5_no_store_of_a_request() -> None:
    assert reason(FRESH, request="Cache-Control: no-store") == "request-no-store"
    assert reason(FRESH, Rules(honours_request=False), request="Cache-Control: no-store") == ""


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ("Content-Length: 5", "request-content"),
        ("Transfer-Encoding: chunked", "request-content"),
        ("Content-Length: 0", ""),
    ],
)
def test_a_get_with_content_is_not_stored(request_fields: str, expected: str) -> None:
    assert reason(FRESH, request=request_fields) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Content-Location: /a?b=c\nCache-Control: max-age=60", ""),
        ("Content-Location: http://EXAMPLE.org/a?b=c\nExpires: {+60}", ""),
        ("Content-Location: /a?b=d\nCache-Control: max-age=60", "method"),
        ("Content-Location: http://other.org/a?b=c\nCache-Control: max-age=60", "method"),
        ("Cache-Control: max-age=60", "method"),
        ("Content-Location: /a?b=c\nLast-Modified: {-1000}", "method"),
        ("Content-Location: /a?b=c\nCache-Control: max-age=60, no-store", "no-store"),
    ],
)
def test_9110_9_3_3_post(response: str, expected: str) -> None:
    assert reason(response, method=b"POST") == expected
    if not expected:
        assert reason(response, Rules(stores_post=False), method=b"POST") == "method"


@pytest.mark.parametrize("value", ["*", "*, Accept", "Accept, *", " * ", "Accept\nVary: *"])
def test_9111_4_1_a_response_that_varies_by_everything(value: str) -> None:
    assert reason(f"{FRESH}\nVary: {value}") == "vary"


def test_header_sections_beyond_the_limit_are_not_stored() -> None:
    assert reason(f"{FRESH}\nX: " + "x" * HEADER_BYTES_MAX) == "header-size"
    assert reason(f"{FRESH}\nVary: " + ",".join(f"a{n}" for n in range(33))) == "vary"
    assert reason(f"{FRESH}\nVary: X", request="X: " + "x" * 9000) == "header-size"


# 3.3 and 3.4: partial and incomplete


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [
        ("bytes 0-4/10", ""),
        ("bytes 5-9/10", ""),
        ("bytes 0-4/*", ""),
        ("bytes 0-10/10", "partial"),
        ("bytes 5-4/10", "partial"),
        ("bytes */10", "partial"),
        ("lines 0-4/10", "partial"),
        ("bytes 0-4/10\nContent-Range: bytes 0-4/10", "partial"),
    ],
)
def test_9111_3_4_partial_content(content_range: str, expected: str) -> None:
    response = f"{FRESH}\nContent-Range: {content_range}"
    assert reason(response, status=206, request="Range: bytes=0-4") == expected
    assert reason(response, status=206) == "partial"  # nobody asked for a part
    assert reason(response, Rules(stores_partial=False), status=206) == "partial"


def test_9111_3_4_a_part_is_stored_as_one() -> None:
    stored = store(
        f'{FRESH}\nETag: "a"\nContent-Length: 3\nContent-Range: bytes 2-4/10',
        status=206,
        request="Range: bytes=2-4",
    )
    policy = stored.policy
    assert policy.flags & PARTIAL
    assert (policy.range_first, policy.range_last, policy.complete_bytes) == (2, 4, 10)
    assert b"content-range" not in stored.headers
    assert b"content-length" not in stored.headers


@pytest.mark.parametrize(
    ("received", "length", "expected"),
    [(4, "10", ""), (0, "10", "incomplete"), (10, "10", "incomplete"), (4, "x", "incomplete")],
)
def test_9111_3_3_incomplete_responses(received: int, length: str, expected: str) -> None:
    response = f"{FRESH}\nContent-Length: {length}"
    found = assess(exchange(response, is_complete=False, received_bytes=received))
    assert found.reason == expected
    if found.stored is not None:
        policy = found.stored.policy
        assert policy.flags & PARTIAL
        assert (policy.range_first, policy.range_last, policy.complete_bytes) == (0, 3, 10)


def test_9111_3_3_incomplete_errors_and_parts_are_not_stored() -> None:
    for status in (206, 404):
        assert reason(
            FRESH + "\nContent-Length: 10\nContent-Range: bytes 0-9/10",
            status=status,
            is_complete=False,
            received_bytes=5,
            request="Range: bytes=0-9",
        )


# 3.1: fields


@pytest.mark.parametrize(
    "field",
    [
        *("Connection: z", "Keep-Alive: 1", "Proxy-Connection: x", "TE: x", "Upgrade: x"),
        *("Transfer-Encoding: chunked", "Proxy-Authenticate: x", "Proxy-Authentication-Info: x"),
        "Proxy-Authorization: x",
    ],
)
def test_9111_3_1_fields_that_are_never_stored(field: str) -> None:
    stored = store(f"{FRESH}\n{field}\nX: y")
    assert field.partition(":")[0].lower().encode() not in stored.headers
    assert stored.headers.get(b"x") == b"y"


def test_9111_3_1_fields_that_connection_names_are_not_stored() -> None:
    stored = store(f"{FRESH}\nConnection: a, B\nConnection: c\na: 1\nB: 2\nc: 3\nd: 4")
    names = set(stored.headers.first)
    assert not names & {b"a", b"b", b"c", b"connection"}
    assert b"d" in names


@pytest.mark.parametrize(
    "name",
    [
        *("Cache-Control", "ETag", "Vary", "Date", "Content-Type", "Content-Encoding", "Age"),
        *("Expires", "Set-Cookie", "X-Forwarded-For", "Authorization", "Cookie", "Host"),
        *("Access-Control-Allow-Origin", "Strict-Transport-Security", "Location"),
    ],
)
def test_9110_7_6_1_connection_cannot_remove_fields_for_everybody(name: str) -> None:
    from edgecache.rfc9111.hop import end_to_end

    fields = Headers([(b"Connection", name.encode()), (name.encode(), b"x")])
    assert end_to_end(fields).pairs == ((name.lower().encode(), b"x"),)


def test_9111_5_2_2_4_listed_fields_are_not_stored() -> None:
    stored = store(
        'Cache-Control: max-age=60, no-cache="a", private="B, c"\na: 1\nb: 2\nc: 3\nd: 4'
    )
    assert {b"a", b"b", b"c"}.isdisjoint(stored.headers.first)
    assert b"d" in stored.headers


def test_9111_3_1_every_other_field_is_stored_with_its_order_and_repetition() -> None:
    text = f"{FRESH}\nX-Unknown: 1\nLink: <a>\nX-Unknown: 2\nContent-Language: de"
    stored = store(text)
    assert stored.headers.pairs == exchange(text).response.pairs


@pytest.mark.parametrize("date", ["", "Date: yesterday", "Date: 0"])
def test_9110_6_6_1_a_missing_date_is_when_it_was_received(date: str) -> None:
    stored = store(FRESH, date=date)
    assert stored.policy.date_s == NOW_S
    assert stored.headers.get_all(b"date") == (b"Tue, 14 Nov 2023 22:13:20 GMT",)


@pytest.mark.parametrize(
    ("response", "flags"),
    [
        ("Cache-Control: max-age=60", 0),
        ('Cache-Control: no-cache\nETag: "a"', NO_CACHE | FORBIDS_STALE),
        ("Cache-Control: max-age=60, must-revalidate", FORBIDS_STALE),
        ("Cache-Control: s-maxage=60", FORBIDS_STALE),
        ("Cache-Control: max-age=60, immutable", IMMUTABLE),
        ("CDN-Cache-Control: max-age=60", TARGETED),
        (MODIFIED, HEURISTIC_LIFETIME),
    ],
)
def test_what_the_policy_remembers(response: str, flags: int) -> None:
    assert store(response).policy.flags == flags
