"""Validation, conditions of clients, failures of the origin (RFC 9111, 4.2.4 and 4.3; RFC 5861)."""

from __future__ import annotations

import pytest
from support.conformance import (
    Case,
    Turn,
    asked,
    between,
    hit,
    ok,
    play,
    says,
    unchanged,
    validated,
)
from support.origin import CLOSE, RESET

TAG = {"ETag": '"v1"'}
WEAK = {"ETag": 'W/"v1"'}
SINCE = "Tue, 02 Jan 2024 00:00:00 GMT"
MODIFIED = {"Last-Modified": SINCE}
FRESH = "max-age=100"
NOW_FRESH = {"Cache-Control": FRESH}


def revalidated(fields: dict[str, str], answer: dict[str, str], saw: dict[str, str | None]) -> Case:
    """Stale; validated with certain fields; fresh again."""
    return (
        asked(ok(FRESH, fields, body=b"body")),
        hit(body=b"body"),
        validated(unchanged(NOW_FRESH | answer), after_s=200, body=b"body", saw=saw,
                  has={"age": None}),
        hit(body=b"body", has={"age": between(0, 3)}),
    )  # fmt: skip


VALIDATORS: dict[str, Case] = {
    "strong tag": revalidated(TAG, TAG, {"if-none-match": '"v1"', "if-modified-since": None}),
    "weak tag": revalidated(WEAK, WEAK, {"if-none-match": 'W/"v1"', "if-modified-since": None}),
    "strong tag, answered weakly": revalidated(TAG, WEAK, {"if-none-match": '"v1"'}),
    "tag without quotes": revalidated({"ETag": "abc"}, {"ETag": "abc"}, {"if-none-match": "abc"}),
    "Last-Modified": revalidated(MODIFIED, MODIFIED, {"if-modified-since": SINCE,
                                                     "if-none-match": None}),
    "both": revalidated(TAG | MODIFIED, TAG | MODIFIED, {"if-none-match": '"v1"',
                                                        "if-modified-since": SINCE}),
    "both, 304 has the tag only": revalidated(TAG | MODIFIED, TAG, {"if-none-match": '"v1"'}),
    "304 without a validator, tag": revalidated(TAG, {}, {"if-none-match": '"v1"'}),
    "304 without a validator, date": revalidated(MODIFIED, {}, {"if-modified-since": SINCE}),
    "Last-Modified in RFC 850": revalidated(
        {"Last-Modified": "Tuesday, 02-Jan-24 00:00:00 GMT"}, {},
        {"if-modified-since": "Tuesday, 02-Jan-24 00:00:00 GMT"},
    ),
    "an empty tag": revalidated({"ETag": '""'}, {"ETag": '""'}, {"if-none-match": '""'}),
    "a tag with a comma": revalidated({"ETag": '"a,b"'}, {"ETag": '"a,b"'},
                                      {"if-none-match": '"a,b"'}),
    "200 replaces": (
        asked(ok(FRESH, TAG, body=b"one")),
        validated(ok(FRESH, {"ETag": '"v2"'}, body=b"two"), after_s=200, body=b"two"),
        hit(body=b"two", has={"etag": '"v2"'}),
    ),
    "200 that may not be stored": (
        asked(ok(FRESH, TAG)), validated(ok("no-store"), after_s=200), asked(),
    ),
    "404 replaces": (
        asked(ok(FRESH, TAG)),
        validated(says(404, {"Cache-Control": FRESH}), after_s=200, status=404),
        hit(status=404),
    ),
    "304 that makes it no-store": (
        asked(ok(FRESH, TAG, body=b"b")),
        validated(unchanged({"Cache-Control": "no-store", **TAG}), after_s=200, body=b"b"),
        asked(),
    ),
    "304 with Expires": (
        asked(ok(None, {"Expires": "0", **TAG}, body=b"b")),
        validated(unchanged({"Expires": "Fri, 31 Dec 2049 00:00:00 GMT", **TAG}), body=b"b"),
        hit(body=b"b", has={"expires": "Fri, 31 Dec 2049 00:00:00 GMT"}),
    ),
    "304 with Age": (
        asked(ok(FRESH, TAG, body=b"b")),
        validated(unchanged({"Age": "30", **NOW_FRESH, **TAG}), after_s=200, body=b"b",
                  has={"age": between(30, 32)}),
        hit(body=b"b", has={"age": between(30, 33)}),
    ),
    "304 keeps what it does not name": (
        asked(ok(FRESH, {"X-A": "1", "X-B": "1", **TAG}, body=b"b")),
        validated(unchanged({"X-B": "2", "X-C": "3", **TAG}), after_s=200, body=b"b",
                  has={"x-a": "1", "x-b": "2", "x-c": "3"}),
        hit(body=b"b", has={"x-a": "1", "x-b": "2", "x-c": "3"}),
    ),
    "304 replaces all lines of a field": (
        asked(ok(FRESH, [("X-A", "1"), ("X-A", "2"), *TAG.items()], body=b"b")),
        validated(unchanged([("X-A", "3"), ("X-A", "4"), *TAG.items()]), after_s=200, body=b"b"),
        hit(body=b"b", has={"x-a": "3, 4"}),
    ),
    "304 does not bring fields of one connection": (
        asked(ok(FRESH, TAG, body=b"b")),
        validated(unchanged({"Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "9", **TAG}),
                  after_s=200, body=b"b", has={"x-hop": None}),
        hit(body=b"b", has={"x-hop": None}),
    ),
    "every stale turn is validated": (
        asked(ok("max-age=0", TAG)), validated(unchanged(TAG)), validated(unchanged(TAG)),
        validated(unchanged(TAG)),
    ),
    "no validator, no condition": (asked(ok(FRESH)), asked(ok(FRESH), after_s=200), hit()),
    "an invalid Last-Modified is no validator": (
        asked(ok(FRESH, {"Last-Modified": "yesterday"})), asked(ok(FRESH), after_s=200),
    ),
    "conditions of the client are not sent for ours": (
        asked(ok(FRESH, TAG, body=b"b")),
        validated(unchanged(NOW_FRESH | TAG), {"If-None-Match": '"other"'}, after_s=200, body=b"b",
                  saw={"if-none-match": '"v1"'}),
    ),
    "a client that has it gets 304 after validation": (
        asked(ok(FRESH, TAG)),
        validated(unchanged(NOW_FRESH | TAG), {"If-None-Match": '"v1"'}, after_s=200, status=304),
        hit({"If-None-Match": '"v1"'}, status=304),
    ),
    "a client that has it gets 304 of a new response": (
        asked(ok(FRESH, TAG, body=b"one")),
        validated(ok(FRESH, {"ETag": '"v2"'}, body=b"two"), {"If-None-Match": '"v2"'},
                  after_s=200, status=304),
        hit(body=b"two"),
    ),
    "HEAD is answered, and freshens": (
        asked(ok(FRESH, TAG, body=b"1234")),
        Turn("any", ok(FRESH, {"X-New": "1", **TAG}, body=b"", length=4),
            method="HEAD", after_s=200),
        hit(body=b"1234", has={"x-new": "1"}),
    ),
    "HEAD with another tag outdates": (
        asked(ok(FRESH, TAG)),
        asked(ok(FRESH, {"ETag": '"v2"'}), {"Cache-Control": "no-cache"}, method="HEAD"),
        validated(ok(FRESH, {"ETag": '"v2"'})),
    ),
    "HEAD with another length outdates": (
        asked(ok(FRESH, TAG, body=b"12345678")),
        asked(ok(FRESH, TAG, body=b"123"), {"Cache-Control": "no-cache"}, method="HEAD"),
        validated(ok(FRESH, TAG)),
    ),
    "HEAD with another date outdates": (
        asked(ok(FRESH, MODIFIED)),
        asked(ok(FRESH, {"Last-Modified": "Wed, 03 Jan 2024 00:00:00 GMT"}),
              {"Cache-Control": "no-cache"}, method="HEAD"),
        validated(ok(FRESH, MODIFIED)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALIDATORS)
def test_validation(case: str) -> None:
    play(VALIDATORS[case])


UPDATED = {
    "Test-Field": ("1", "2"),
    "X-Test-Field": ("1", "2"),
    "Content-Foo": ("1", "2"),
    "X-Content-Foo": ("1", "2"),
    "Cache-Control": ("max-age=1", "max-age=3600"),
    "Content-Language": ("en", "de"),
    "Content-Location": ("/a", "/b"),
    "Content-MD5": ("rL0Y20zC+Fzt72VPzMSk2A==", "N7UdGUp1E+RbVvZSTy1R8g=="),
    "Content-Security-Policy": ("default-src 'self'", "default-src 'none'"),
    "Content-Type": ("text/plain", "text/plain;charset=utf-8"),
    "Clear-Site-Data": ('"cache"', '"cookies"'),
    "Expires": ("Fri, 31 Dec 2038 00:00:00 GMT", "Fri, 31 Dec 2049 00:00:00 GMT"),
    "Public-Key-Pins": ("a", "b"),
    "Set-Cookie2": ("a=1", "a=2"),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": ("1", "0"),
    "Vary": ("X-None", "X-None, X-Other"),
    "Server": ("a", "b"),
    "Link": ("</a>", "</b>"),
    "Allow": ("GET", "GET, PUT"),
    "Warning": ('199 - "a"', '199 - "b"'),
    "Surrogate-Key": ("a", "b c"),
}
KEPT = {
    "Content-Encoding": ("x-one", "x-two"),
    "Content-Range": ("bytes 0-1/2", "bytes 0-2/3"),
    "Content-Length": (None, "99"),
}


@pytest.mark.parametrize("name", UPDATED)
def test_a_304_updates_a_field(name: str) -> None:
    old, new = UPDATED[name]
    has = {name.lower(): new}
    fields = {"Cache-Control": "max-age=100", **TAG, name: old}
    update = {"Cache-Control": "max-age=100", **TAG, name: new}
    play((asked(ok(None, fields, body=b"b"), has={name.lower(): old}),
          validated(unchanged(update), after_s=200, body=b"b", has=has),
          hit(body=b"b", has=has)))  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_a_304_does_not_change_how_the_stored_bytes_are_read(name: str) -> None:
    old, new = KEPT[name]
    assert new is not None
    has = {name.lower(): old if old is not None else "1"}
    fields = [("Cache-Control", FRESH), *TAG.items()] + ([] if old is None else [(name, old)])
    update = {"Cache-Control": FRESH, **TAG, name: new}
    play((asked(ok(None, fields, body=b"b")),
          validated(unchanged(update), after_s=200, body=b"b", has=has),
          hit(body=b"b", has=has)))  # fmt: skip


def test_a_304_of_something_else_makes_the_proxy_fetch_the_whole() -> None:
    from support.origin import looped
    from support.origin_world import World

    @looped
    async def run() -> None:
        async with World() as world:
            one = ok(FRESH, TAG, body=b"one").script()[1]
            two = ok(FRESH, {"ETag": '"v2"'}, body=b"two").script()[1]
            world.origin.answer("/x", one, unchanged({"ETag": '"v2"'}).script()[1], two)
            await world.get("/x")
            await world.age("/x", 200)
            assert (await world.get("/x")).body == b"two"
            assert world.origin.requests[2].get("if-none-match") is None
            assert (await world.get("/x")).body == b"two"
            assert world.origin.count() == 3

    run()


# Conditions of clients

CONDITIONS: dict[str, tuple[dict[str, str], int]] = {
    "tag": ({"If-None-Match": '"v1"'}, 304),
    "weak tag": ({"If-None-Match": 'W/"v1"'}, 304),
    "tag in a list": ({"If-None-Match": '"a", "v1" , "b"'}, 304),
    "tag in a list without blanks": ({"If-None-Match": '"a","v1","b"'}, 304),
    "star": ({"If-None-Match": "*"}, 304),
    "other tag": ({"If-None-Match": '"v2"'}, 200),
    "tag in other case": ({"If-None-Match": '"V1"'}, 200),
    "tag without quotes": ({"If-None-Match": "v1"}, 200),
    "other tag, date that holds": ({"If-None-Match": '"v2"', "If-Modified-Since": SINCE}, 200),
    "tag, date that does not hold": (
        {"If-None-Match": '"v1"', "If-Modified-Since": "Sun, 02 Jan 2000 00:00:00 GMT"}, 304,
    ),
    "date, the same": ({"If-Modified-Since": SINCE}, 304),
    "date, later": ({"If-Modified-Since": "Wed, 03 Jan 2024 00:00:00 GMT"}, 304),
    "date, earlier": ({"If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 GMT"}, 200),
    "date in RFC 850": ({"If-Modified-Since": "Tuesday, 02-Jan-24 00:00:00 GMT"}, 304),
    "date in asctime": ({"If-Modified-Since": "Tue Jan  2 00:00:00 2024"}, 304),
    "date that is none": ({"If-Modified-Since": "foo"}, 200),
}  # fmt: skip


@pytest.mark.parametrize("case", CONDITIONS)
def test_conditions_of_clients_are_answered_from_the_cache(case: str) -> None:
    sent, status = CONDITIONS[case]
    has = {"etag": '"v1"', "x-other": "1", "cache-control": FRESH}
    has["content-length"] = "4" if status == 200 else None  # type: ignore[assignment]
    stored = ok(FRESH, {**TAG, **MODIFIED, "X-Other": "1"}, body=b"body")
    body = b"body" if status == 200 else b""
    play((asked(stored), hit(sent, status=status, body=body, has=has)))
    if status == 304:
        play((asked(stored), hit(sent, method="HEAD", status=status, body=b"")))


def test_a_condition_does_not_count_for_another_status_than_200() -> None:
    stored = says(404, {**NOW_FRESH, **TAG})
    play((asked(stored), hit({"If-None-Match": '"v1"'}, status=404)))


# Conditions of clients where nothing is stored

# Condition, and the status of the answer to it where the response has the tag "v1" and this date.
FORWARDED: dict[str, tuple[dict[str, str], int]] = {
    "If-None-Match": ({"If-None-Match": '"v1"'}, 304),
    "If-None-Match, another": ({"If-None-Match": '"v2"'}, 200),
    "If-None-Match without quotes": ({"If-None-Match": "v1"}, 200),
    "If-Modified-Since": ({"If-Modified-Since": SINCE}, 304),
    "both": ({"If-None-Match": '"v1"', "If-Modified-Since": SINCE}, 304),
}


def as_sent(fields: dict[str, str]) -> dict[str, str]:
    """The same fields of the request at the origin."""
    return {name.lower(): value for name, value in fields.items()}


@pytest.mark.parametrize("case", FORWARDED)
def test_the_letter_forwards_the_conditions_of_a_miss(case: str) -> None:
    sent, status = FORWARDED[case]
    answer = ok(FRESH, TAG | MODIFIED, body=b"body")
    play((
        validated(unchanged(NOW_FRESH | TAG), sent, status=304, saw=as_sent(sent)),
        validated(answer, sent, status=status, saw=as_sent(sent)),
        hit(body=b"body"),
    ), "rfc")  # fmt: skip


@pytest.mark.parametrize("case", FORWARDED)
def test_the_safe_profile_fetches_the_whole_and_evaluates_the_condition(case: str) -> None:
    sent, status = FORWARDED[case]
    answer = ok(FRESH, TAG | MODIFIED, body=b"body")
    play((asked(answer, sent, status=status), hit(body=b"body")), "safe")


@pytest.mark.parametrize("case", FORWARDED)
def test_what_may_not_be_stored_is_compared_with_what_the_client_has(case: str) -> None:
    sent, status = FORWARDED[case]
    private = ok("private, max-age=60", {**TAG, **MODIFIED, "Content-Language": "en"}, body=b"body")
    body = b"body" if status == 200 else b""
    has = {"content-language": "en" if status == 200 else None, "etag": '"v1"'}
    play((
        asked(private, sent, status=status, body=body, has=has),
        # Known as uncacheable by now: the origin is asked by the client's own condition.
        validated(unchanged(TAG), sent, status=304, saw=as_sent(sent)),
        asked(private, body=b"body"),
        asked(ok(FRESH, TAG, body=b"new")),
        hit(body=b"new"),
    ), "safe")  # fmt: skip


def test_the_conditions_of_head_go_upstream() -> None:
    sent = {"If-None-Match": '"v1"'}
    play((validated(unchanged(TAG), sent, method="HEAD", status=304),))


# Failures

GONE = [CLOSE]
CUT = [RESET]
STALE_OK = "max-age=100, stale-if-error=1000"


def failing(cache_control: str, failure: object, is_served: bool, status: int = 502) -> Case:
    """Stale, and the origin fails."""
    expected = {"body": b"body", "status": 200} if is_served else {"status": status}
    return (
        asked(ok(cache_control, TAG, body=b"body")),
        validated(failure, after_s=200, **expected),  # type: ignore[arg-type]
    )


FAILURES: dict[str, Case] = {
    "closed": failing(FRESH, GONE, True),
    "cut": failing(FRESH, CUT, True),
    "half a head": failing(FRESH, [b"HTTP/1.1 200 OK\r\nX-", CLOSE], True),
    "nonsense": failing(FRESH, [b"nonsense\r\n\r\n", CLOSE], True),
    "closed, must-revalidate": failing("max-age=100, must-revalidate", GONE, False, 504),
    "closed, proxy-revalidate": failing("max-age=100, proxy-revalidate", GONE, False, 504),
    "closed, s-maxage": failing("s-maxage=100", GONE, False, 504),
    "closed, no-cache": failing("max-age=100, no-cache", GONE, False, 504),
    "closed, must-revalidate and stale-if-error": failing(
        "max-age=100, must-revalidate, stale-if-error=1000", GONE, False, 504
    ),
    "503": failing(FRESH, says(503), False, 503),
    "503, stale-if-error": failing(STALE_OK, says(503), True),
    "500, stale-if-error": failing(STALE_OK, says(500), True),
    "502, stale-if-error": failing(STALE_OK, says(502), True),
    "504, stale-if-error": failing(STALE_OK, says(504), True),
    "501, stale-if-error": failing(STALE_OK, says(501), False, 501),
    "404, stale-if-error": failing(STALE_OK, says(404), False, 404),
    "503, stale-if-error is over": failing("max-age=100, stale-if-error=50", says(503), False, 503),
    "503, stale-if-error of zero": failing("max-age=100, stale-if-error=0", says(503), False, 503),
    "503, must-revalidate": failing(
        "max-age=100, must-revalidate, stale-if-error=1000", says(503), False, 503
    ),
    "503, stale-if-error of the request": (
        asked(ok(FRESH, TAG, body=b"body")),
        validated(
            says(503),
            {"Cache-Control": "stale-if-error=1000"},
            after_s=200,
            body=b"body",
            status=200,
        ),
    ),
    "an error does not replace what is stored": (
        asked(ok(FRESH, TAG, body=b"body")),
        validated(says(503), after_s=200),
        validated(unchanged(NOW_FRESH | TAG), body=b"body"),
        hit(body=b"body"),
    ),
    "nothing stored": (asked(GONE, status=502),),
    **{
        f"no validator, {directive}, {name}": (
            asked(ok(f"max-age=100, {directive}", body=b"body")),
            asked(failure, after_s=200, status=504),
        )
        for directive in ("must-revalidate", "proxy-revalidate", "s-maxage=90")
        for name, failure in {"closed": GONE, "cut": CUT, "nonsense": [b"x\r\n\r\n", CLOSE]}.items()
    },
    "no validator, must-revalidate, and a client that takes stale ones": (
        asked(ok("max-age=100, must-revalidate", body=b"body")),
        asked(GONE, {"Cache-Control": "max-stale, stale-if-error=9999"}, after_s=200, status=504),
    ),
    "no validator, must-revalidate, HEAD": (
        asked(ok("max-age=100, must-revalidate", body=b"body")),
        asked(GONE, after_s=200, status=504, method="HEAD"),
    ),
    "closed, a request without conditions that forbids the fresh one": (
        asked(ok(FRESH, TAG, body=b"body")),
        validated(GONE, {"Cache-Control": "no-cache"}, status=502),
    ),
    "closed, max-age of the request": (
        asked(ok(FRESH, TAG, body=b"body")),
        validated(GONE, {"Cache-Control": "max-age=0"}, body=b"body", status=200),
    ),
    "closed, stale for longer than is allowed when disconnected": (
        asked(ok(FRESH, TAG, body=b"body")),
        validated(GONE, after_s=90_000, status=502),
    ),
    "no validator, closed": (
        asked(ok(FRESH, body=b"body")),
        asked(GONE, after_s=200, body=b"body"),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_stale_responses_on_failures(case: str) -> None:
    play(FAILURES[case])


SWR = "max-age=100, stale-while-revalidate=1000"


def refreshed_by(answer: object, **details: object) -> Turn:
    """Stale is served, and the origin is asked behind it."""
    return Turn("validated", answer, status=200, **details)  # type: ignore[arg-type]


REFRESHING: dict[str, Case] = {
    "served stale once, then fresh": (
        asked(ok(SWR, TAG, body=b"one")),
        refreshed_by(ok(SWR, {"ETag": '"v2"'}, body=b"two"), after_s=200, body=b"one",
                     has={"age": between(199, 203)}),
        hit(body=b"two"),
    ),
    "refreshed by 304": (
        asked(ok(SWR, TAG, body=b"one")),
        refreshed_by(unchanged({"Cache-Control": SWR, **TAG}), after_s=200, body=b"one"),
        hit(body=b"one", has={"age": between(0, 3)}),
    ),
    "beyond the window": (
        asked(ok("max-age=100, stale-while-revalidate=50", TAG, body=b"one")),
        validated(ok(SWR, body=b"two"), after_s=200, body=b"two"),
    ),
    "not with must-revalidate": (
        asked(ok(SWR + ", must-revalidate", TAG, body=b"one")),
        validated(ok(SWR, body=b"two"), after_s=200, body=b"two"),
    ),
    "an invalid window": (
        asked(ok("max-age=100, stale-while-revalidate=x", TAG, body=b"one")),
        validated(ok(SWR, body=b"two"), after_s=200, body=b"two"),
    ),
    "a refresh that fails keeps what is stored": (
        asked(ok(SWR, TAG, body=b"one")),
        refreshed_by(says(500), after_s=200, body=b"one"),
        refreshed_by(unchanged({"Cache-Control": SWR, **TAG}), body=b"one"),
        hit(body=b"one"),
    ),
    "not for a request that forbids it": (
        asked(ok(SWR, TAG, body=b"one")),
        validated(ok(SWR, body=b"two"), {"Cache-Control": "max-age=0"}, after_s=200, body=b"two"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFRESHING)
def test_stale_while_revalidate(case: str) -> None:
    play(REFRESHING[case])
