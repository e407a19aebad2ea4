"""What requests ask of the cache, Vary and invalidation (RFC 9111, sections 4.1, 4.4 and 5.2.1)."""

from __future__ import annotations

import pytest
from support.conformance import (
    Case,
    asked,
    date,
    hit,
    ok,
    play,
    says,
    unchanged,
    validated,
)

FRESH = "max-age=100"
TAG = {"ETag": '"v1"'}


def cc(value: str) -> dict[str, str]:
    """A request with Cache-Control."""
    return {"Cache-Control": value}


REQUESTS: dict[str, Case] = {
    "max-age not exceeded": (asked(ok(FRESH)), hit(cc("max-age=50"), after_s=30)),
    "max-age exceeded": (asked(ok(FRESH)), asked(None, cc("max-age=20"), after_s=30)),
    "max-age exceeded by Age": (asked(ok(FRESH, {"Age": "30"})), asked(None, cc("max-age=20"))),
    "max-age=0": (asked(ok(FRESH)), asked(None, cc("max-age=0"))),
    "max-age=0 validates": (asked(ok(FRESH, TAG)), validated(unchanged(TAG), cc("max-age=0"))),
    "max-age invalid": (asked(ok(FRESH)), asked(None, cc("max-age=foo"))),
    "max-age in upper case": (asked(ok(FRESH)), asked(None, cc("MAX-AGE=0"))),
    "max-stale enough": (asked(ok(FRESH)), hit(cc("max-stale=60"), after_s=130)),
    "max-stale not enough": (asked(ok(FRESH)), asked(None, cc("max-stale=10"), after_s=130)),
    "max-stale without a value": (asked(ok(FRESH)), hit(cc("max-stale"), after_s=9000)),
    "max-stale and must-revalidate": (
        asked(ok("max-age=100, must-revalidate")), asked(None, cc("max-stale"), after_s=130),
    ),
    "max-stale and proxy-revalidate": (
        asked(ok("max-age=100, proxy-revalidate")), asked(None, cc("max-stale"), after_s=130),
    ),
    "max-stale and s-maxage": (
        asked(ok("s-maxage=100")), asked(None, cc("max-stale"), after_s=130),
    ),
    "max-stale and no-cache": (
        asked(ok("max-age=100, no-cache", TAG)), validated(unchanged(TAG), cc("max-stale")),
    ),
    "max-age with max-stale": (
        asked(ok(FRESH)), asked(None, cc("max-age=10, max-stale=100"), after_s=50),
    ),
    "min-fresh enough": (asked(ok(FRESH)), hit(cc("min-fresh=50"), after_s=30)),
    "min-fresh not enough": (asked(ok(FRESH)), asked(None, cc("min-fresh=90"), after_s=30)),
    "min-fresh not enough by Age": (
        asked(ok(FRESH, {"Age": "30"})), asked(None, cc("min-fresh=90")),
    ),
    "no-cache": (asked(ok(FRESH)), asked(None, cc("no-cache"))),
    "no-cache validates": (asked(ok(FRESH, TAG)), validated(unchanged(TAG), cc("no-cache")), hit()),
    "no-cache in upper case": (asked(ok(FRESH)), asked(None, cc("NO-CACHE"))),
    "no-cache among others": (asked(ok(FRESH)), asked(None, cc("foo, no-cache, bar=1"))),
    "Pragma": (asked(ok(FRESH)), asked(None, {"Pragma": "no-cache"})),
    "Pragma, unknown": (asked(ok(FRESH)), hit({"Pragma": "foo"})),
    "no-store does not forbid reuse": (asked(ok(FRESH)), hit(cc("no-store"))),
    "no-store is not stored": (asked(ok(FRESH), cc("no-store")), asked()),
    "only-if-cached, fresh": (asked(ok(FRESH)), hit(cc("only-if-cached"))),
    "only-if-cached, nothing": (hit(cc("only-if-cached"), status=504),),
    "only-if-cached, stale": (asked(ok(FRESH)), hit(cc("only-if-cached"), status=504, after_s=200)),
    "only-if-cached, other variant": (
        asked(ok(FRESH, {"Vary": "Foo"}), {"Foo": "1"}),
        hit({"Foo": "2", **cc("only-if-cached")}, status=504),
    ),
    "no-cache alone beside a condition": (
        asked(ok(FRESH, TAG)),
        validated(unchanged(TAG), {"If-None-Match": '"v1"', **cc("no-cache")}, status=304),
    ),
    "no-cache and Pragma of a reload": (
        asked(ok(FRESH)), asked(None, {"Pragma": "no-cache", **cc("no-cache")}),
    ),
    "unknown directives": (asked(ok(FRESH)), hit(cc("foo, bar=1"))),
    "immutable and max-age=0": (asked(ok("max-age=100, immutable")), hit(cc("max-age=0"))),
    "immutable and no-cache": (asked(ok("max-age=100, immutable")), asked(None, cc("no-cache"))),
    "immutable and stale": (asked(ok("max-age=100, immutable")), asked(after_s=101)),
    "fields of the client go upstream": (
        asked(None, cc("max-age=5, foo"), saw={"cache-control": "max-age=5, foo"}),
    ),
    "If-Match is for the origin": (asked(ok(FRESH, TAG)), asked(ok(FRESH), {"If-Match": '"v1"'})),
}  # fmt: skip


@pytest.mark.parametrize("profile", ["safe", "rfc"])
@pytest.mark.parametrize("case", REQUESTS)
def test_what_requests_ask(case: str, profile: str) -> None:
    play(REQUESTS[case], profile)


FETCH = {"Pragma": "no-cache", "Cache-Control": "no-cache"}
# Of a stored response with the tag "v1" and this Last-Modified: what the condition alone would get.
CONDITIONS: dict[str, tuple[dict[str, str], int]] = {
    "If-None-Match, matching": ({"If-None-Match": '"v1"'}, 304),
    "If-None-Match, other": ({"If-None-Match": '"v2"'}, 200),
    "If-Modified-Since": ({"If-Modified-Since": date(-1000)}, 304),
    "If-Range": ({"If-Range": '"v1"', "Range": "bytes=0-1"}, 206),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_no_cache_as_the_fetch_api_adds_it_to_a_condition(case: str) -> None:
    """The safe profile leaves the pair aside, the letter honours it."""
    condition, status = CONDITIONS[case]
    first = asked(ok(FRESH, {"Last-Modified": date(-1000), **TAG}, body=b"body"))
    body = {206: b"bo", 304: b""}.get(status, b"body")
    play((first, hit({**condition, **FETCH}, status=status, body=body)), "safe")
    again = validated(unchanged(TAG), {**condition, **FETCH}, status=status, body=body)
    play((first, again), "rfc")


@pytest.mark.parametrize("profile", ["safe", "rfc"])
@pytest.mark.parametrize(
    "sent",
    [
        cc("no-cache"),
        {"Pragma": "no-cache"},
        {"Pragma": "no-cache", **cc("no-cache, foo")},
        {"Pragma": "no-cache", **cc("max-age=0")},
    ],
    ids=str,
)
def test_no_cache_in_any_other_form_validates_beside_a_condition(
    sent: dict[str, str], profile: str
) -> None:
    condition = {"If-None-Match": '"v1"'}
    first = asked(ok(FRESH, TAG))
    play((first, validated(unchanged(TAG), {**condition, **sent}, status=304)), profile)


def varies(names: str) -> object:
    """An answer that varies."""
    return ok(FRESH, {"Vary": names})


VARY: dict[str, Case] = {
    "same": (asked(varies("Foo"), {"Foo": "1"}), hit({"Foo": "1"})),
    "different": (asked(varies("Foo"), {"Foo": "1"}), asked(None, {"Foo": "2"})),
    "absent later": (asked(varies("Foo"), {"Foo": "1"}), asked()),
    "absent first": (asked(varies("Foo")), asked(None, {"Foo": "1"})),
    "absent in both": (asked(varies("Foo")), hit()),
    "empty is not absent": (asked(varies("Foo"), {"Foo": ""}), asked()),
    "star": (asked(varies("*"), {"Foo": "1"}), asked(None, {"Foo": "1"})),
    "star among others": (asked(varies("Foo, *"), {"Foo": "1"}), asked(None, {"Foo": "1"})),
    "star on another line": (
        asked(ok(FRESH, [("Vary", "Foo"), ("Vary", "*")])), asked(),
    ),
    "names in any case": (asked(varies("fOO"), {"Foo": "1"}), hit({"FOO": "1"}),
        asked(None, {"foo": "2"})),
    "several fields, same": (
        asked(varies("Foo, Bar"), {"Foo": "1", "Bar": "a"}), hit({"Bar": "a", "Foo": "1"}),
    ),
    "several fields, one different": (
        asked(varies("Foo, Bar"), {"Foo": "1", "Bar": "a"}), asked(None, {"Foo": "1", "Bar": "b"}),
    ),
    "several fields, one missing": (
        asked(varies("Foo, Bar"), {"Foo": "1", "Bar": "a"}), asked(None, {"Foo": "1"}),
    ),
    "on two lines": (
        asked(ok(FRESH, [("Vary", "Foo"), ("Vary", "Bar")]), {"Foo": "1", "Bar": "a"}),
        hit({"Foo": "1", "Bar": "a"}),
        asked(None, {"Foo": "1", "Bar": "b"}),
    ),
    "empty members": (asked(varies(",Foo,, "), {"Foo": "1"}), hit({"Foo": "1"}), asked()),
    "empty": (asked(varies(""), {"Foo": "1"}), hit({"Foo": "2"})),
    "lines joined": (
        asked(varies("Foo"), [("Foo", "1"), ("Foo", "2")]), hit([("Foo", "1, 2")]),
    ),
    "lines joined, other order": (
        asked(varies("Foo"), [("Foo", "1"), ("Foo", "2")]),
            asked(None, [("Foo", "2"), ("Foo", "1")]),
    ),
    "case of a value": (asked(varies("Foo"), {"Foo": "a"}), asked(None, {"Foo": "A"})),
    "a field that is not sent": (asked(varies("Foo"), {"Bar": "1"}), hit({"Bar": "2"})),
    "three variants live at once": (
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"1"), {"Foo": "1"}),
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"2"), {"Foo": "2"}),
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"3"), {"Foo": "3"}),
        hit({"Foo": "1"}, body=b"1"), hit({"Foo": "2"}, body=b"2"), hit({"Foo": "3"}, body=b"3"),
    ),
    "two sets of names live at once": (
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"1"), {"Foo": "1"}),
        asked(ok(FRESH, {"Vary": "Foo, Bar"}, body=b"2"), {"Foo": "2", "Bar": "x"}),
        hit({"Foo": "1"}, body=b"1"), hit({"Foo": "2", "Bar": "x"}, body=b"2"),
        asked(None, {"Foo": "2", "Bar": "y"}),
    ),
    "the most recent of those that match": (
        asked(ok(FRESH, {"Vary": "Foo", "Date": date(-20)}, body=b"old"), {"Foo": "1"}),
        asked(ok(FRESH, {"Vary": "Bar", "Date": date(-10)}, body=b"new"), {"Bar": "1"}),
        hit({"Foo": "1", "Bar": "1"}, body=b"new"),
    ),
    "one variant is refreshed, the other lives": (
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"1"), {"Foo": "1"}),
        asked(ok("max-age=0", {"Vary": "Foo", **TAG}, body=b"2"), {"Foo": "2"}),
        validated(unchanged({"Cache-Control": FRESH, **TAG}), {"Foo": "2"}, body=b"2"),
        hit({"Foo": "2"}, body=b"2"), hit({"Foo": "1"}, body=b"1"),
    ),
    "a default response without Vary does not take the place of the others": (
        asked(ok(FRESH, {"Vary": "Foo"}, body=b"1"), {"Foo": "1"}),
        asked(ok(FRESH, body=b"default")),
        hit({"Foo": "1"}, body=b"1"), hit(body=b"default"),
        asked(ok(FRESH, body=b"default"), {"Foo": "2"}),
        hit({"Foo": "2"}, body=b"default"),
    ),
    "without a fresh one that varies it does": (
        asked(ok("max-age=0", {"Vary": "Foo", **TAG}, body=b"1"), {"Foo": "1"}),
        asked(ok(FRESH, body=b"default")),
        hit({"Foo": "1"}, body=b"default"), hit({"Foo": "2"}, body=b"default"),
    ),
    "Accept-Encoding": (
        asked(varies("Accept-Encoding"), {"Accept-Encoding": "gzip, br"}),
        hit({"Accept-Encoding": "gzip, br"}),
        asked(varies("Accept-Encoding"), {"Accept-Encoding": "identity"}),
        asked(),
    ),
    "Accept-Encoding, white space and case": (
        asked(varies("Accept-Encoding"), {"Accept-Encoding": "gzip, br"}),
        hit({"Accept-Encoding": "GZIP,  br"}), hit({"Accept-Encoding": "gzip,br"}),
    ),
    "Accept-Language, white space": (
        asked(varies("Accept-Language"), {"Accept-Language": "en, de"}),
        hit({"Accept-Language": "en,   de"}), hit({"Accept-Language": "EN,de"}),
        asked(None, {"Accept-Language": "fr"}),
    ),
    "Cookie": (
        asked(varies("Cookie"), {"Cookie": "a=1"}), hit({"Cookie": "a=1"}),
            asked(None, {"Cookie": "a=2"}),
    ),
    "User-Agent": (asked(varies("User-Agent"), {"User-Agent": "x"}),
        hit({"User-Agent": "x"}), asked()),
}  # fmt: skip


@pytest.mark.parametrize("case", VARY)
def test_variants(case: str) -> None:
    play(VARY[case])


def test_the_letter_does_not_tell_languages_apart_by_order() -> None:
    play(
        (asked(varies("Accept-Language"), {"Accept-Language": "en, de"}),
         hit({"Accept-Language": "de, en"})),
        "rfc",
    )  # fmt: skip


UNSAFE = ["POST", "PUT", "DELETE", "PATCH", "FOO", "M-SEARCH", "LINK", "post"]
DONE = says(200, {"Cache-Control": "no-store"})


@pytest.mark.parametrize("method", UNSAFE)
def test_a_successful_unsafe_request_invalidates_its_target(method: str) -> None:
    play((asked(ok(FRESH)), hit(), asked(DONE, method=method, content=b"q"), asked()))


@pytest.mark.parametrize("status", [200, 201, 204, 299, 301, 303, 399])
def test_any_2xx_or_3xx_invalidates(status: int) -> None:
    play((asked(ok(FRESH)), asked(says(status), method="POST", content=b"q"), asked()))


@pytest.mark.parametrize("status", [400, 404, 409, 500, 503, 599])
def test_an_error_does_not_invalidate(status: int) -> None:
    play((asked(ok(FRESH)), asked(says(status), method="POST", content=b"q"), hit()))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH"])
def test_a_safe_request_does_not_invalidate(method: str) -> None:
    sent = {"Cache-Control": "no-cache"}
    play((asked(ok(FRESH)), asked(ok(FRESH), sent, method=method), hit()))


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "FOO"])
def test_location_of_the_same_origin_is_invalidated(name: str, method: str) -> None:
    for value in ("/other", "http://example.org/other", "other"):
        play((
            asked(ok(FRESH), target="/other"), hit(target="/other"),
            asked(says(201, {name: value}), method=method, content=b"q"),
            asked(target="/other"),
        ))  # fmt: skip


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
def test_location_of_another_origin_is_not_invalidated(name: str) -> None:
    for value in ("http://elsewhere.example/other", "https://example.org/other",
                  "http://example.org:81/other"):  # fmt: skip
        play((
            asked(ok(FRESH), target="/other"),
            asked(ok(FRESH), target="/other", host="elsewhere.example"),
            asked(says(201, {name: value}), method="POST", content=b"q"),
            hit(target="/other"), hit(target="/other", host="elsewhere.example"),
        ))  # fmt: skip


def test_all_variants_are_invalidated() -> None:
    play((
        asked(varies("Foo"), {"Foo": "1"}), asked(varies("Foo"), {"Foo": "2"}), hit({"Foo": "2"}),
        asked(DONE, method="PUT", content=b"q"), asked(None, {"Foo": "1"}),
            asked(None, {"Foo": "2"}),
    ))  # fmt: skip


def test_content_of_requests_goes_upstream() -> None:
    for method in ("POST", "PUT", "GET", "DELETE", "FOO"):
        play((asked(ok("no-store"), method=method, content=b"q" * 5000,
                    saw={"content-length": "5000"}),))  # fmt: skip
