"""Requirements of RFC 9110, 9111, 5861, 9875 that no other table has, read as an auditor would.

docs/http-requirements.md says which requirement is held by which case.
"""

from __future__ import annotations

import pytest
from support.conformance import (
    Case,
    Turn,
    asked,
    between,
    date,
    hit,
    holding,
    ok,
    play,
    says,
    unchanged,
    validated,
)

FRESH = "max-age=100"
TAG = {"ETag": '"v1"'}
SINCE = "Tue, 02 Jan 2024 00:00:00 GMT"
MODIFIED = {"Last-Modified": SINCE}
# What a 206 and a 304 must have if a 200 would have it (RFC 9110, sections 15.3.7 and 15.4.5).
FULL = {**TAG, "Content-Location": "/z", "Vary": "Foo", "Expires": date(50), "X-Other": "1"}
MUST = {
    "content-location": "/z", "vary": "Foo", "etag": '"v1"', "cache-control": FRESH,
    "date": holding("GMT"), "expires": holding("GMT"), "age": between(0, 3),
}  # fmt: skip

CASES: dict[str, Case] = {
    # RFC 9110
    "a 304 has what a 200 would have": (
        asked(ok(FRESH, FULL)), hit({"If-None-Match": '"v1"'}, status=304, has=MUST),
    ),
    "a 206 has what a 200 would have": (
        asked(ok(FRESH, FULL, body=b"0123")),
        hit({"Range": "bytes=0-1"}, status=206, body=b"01",
            has=MUST | {"content-length": "2", "x-other": "1"}),
    ),
    "If-Range with a date alone": (
        asked(ok(FRESH, MODIFIED, body=b"0123")),
        hit({"Range": "bytes=0-1", "If-Range": SINCE}, status=206, body=b"01"),
    ),
    "If-None-Match on two lines": (
        asked(ok(FRESH, TAG)),
        hit([("If-None-Match", '"x"'), ("If-None-Match", '"v1"')], status=304),
    ),
    "a tag with bytes above 127": (
        asked(ok(FRESH, {"ETag": '"abc\xe9"'})), hit({"If-None-Match": '"abc\xe9"'}, status=304),
    ),
    "W/ is in upper case": (
        asked(ok(FRESH, {"ETag": 'w/"a"'}, body=b"b")),
        hit({"If-None-Match": '"a"'}, status=200, body=b"b"),
    ),
    "two tags, the first counts": (
        asked(ok(FRESH, [("ETag", '"v1"'), ("ETag", '"v2"')])),
        hit({"If-None-Match": '"v1"'}, status=304),
    ),
    "without Last-Modified the Date of what is stored counts": (
        asked(ok(FRESH, {"Date": date(-10)})), hit({"If-Modified-Since": date()}, status=304),
    ),
    "204 has no length": (
        asked(says(204, {"Cache-Control": FRESH, "Content-Length": "5"})),
        hit(status=204, has={"content-length": None}),
    ),
    "an absolute target": (
        asked(ok(FRESH, body=b"b"), target="/q"), hit(target="http://example.org/q", body=b"b"),
    ),
    "several ranges of what is not stored": (
        asked(ok(FRESH, TAG, body=b"0123456789"), {"Range": "bytes=0-1,4-5"}, status=206),
        hit(body=b"0123456789"),
    ),
    "If-Range of a range that is not stored goes upstream": (
        asked(ok(FRESH, TAG, body=b"0123456789"), {"Range": "bytes=0-3", "If-Range": '"v1"'},
              status=206, body=b"0123", saw={"range": "bytes=0-3", "if-range": '"v1"'}),
    ),
    "HEAD has no ranges": (
        asked(ok(FRESH, body=b"0123")), hit({"Range": "bytes=0-1"}, method="HEAD", status=200),
    ),
    # RFC 9111, section 3
    "directives in any case": (asked(ok("Max-Age=100, MUST-REVALIDATE", TAG)), hit()),
    "public without any lifetime": (asked(ok("public")), asked()),
    "public allows a heuristic for an error": (
        asked(says(500, {"Cache-Control": "public", "Last-Modified": date(-1000)})),
        hit(status=500),
    ),
    "must-understand replaces no-store where the status is known": (
        asked(ok("must-understand, no-store, max-age=100")), hit(),
    ),
    "a quote that does not end hides no no-store": (
        asked(ok('max-age=100, foo="bar, no-store')), asked(),
    ),
    "a targeted field allows no sharing of what was authorized": (
        asked(ok("no-store", {"CDN-Cache-Control": "max-age=100"}), {"Authorization": "x"}),
        asked(),
    ),
    "but its public does": (
        asked(ok("no-store", {"CDN-Cache-Control": "max-age=100, public"}),
              {"Authorization": "x"}),
        hit(),
    ),
    "a part without a validator answers its own range": (
        asked(says(206, {"Content-Range": "bytes 0-3/12", "Cache-Control": FRESH}, body=b"0123"),
              {"Range": "bytes=0-3"}),
        hit({"Range": "bytes=0-3"}, status=206, body=b"0123"),
    ),
    # 4 and 4.2
    "a request with no-store may be answered": (
        asked(ok(FRESH)), hit({"Cache-Control": "no-store"}),
    ),
    "a stale answer tells its age": (
        asked(ok(FRESH)),
        hit({"Cache-Control": "max-stale"}, after_s=200, has={"age": between(200, 204)}),
    ),
    "Age is not added to the age that Date tells": (
        asked(ok("max-age=3600", {"Date": date(-7200), "Age": "10"})), asked(),
    ),
    "a Date in the future moves Expires with it": (
        asked(ok(None, {"Date": date(3600), "Expires": date(3660)})),
        hit(after_s=30), asked(after_s=60),
    ),
    "a lifetime of 2^31 and an Age": (
        asked(ok("max-age=99999999999", {"Age": "100"})), hit(has={"age": between(100, 103)}),
    ),
    "Last-Modified in the future gives no lifetime": (
        asked(ok(None, {"Last-Modified": date(100)})), validated(unchanged()),
    ),
    "an invalid s-maxage is none for max-age": (
        asked(ok("max-age=100, s-maxage=foo")), asked(),
    ),
    "an invalid list of no-cache is no-cache": (
        asked(ok('max-age=100, no-cache="a b"', TAG)), validated(unchanged(TAG)),
    ),
    "an empty Cache-Control leaves Expires": (asked(ok("", {"Expires": date(100)})), hit()),
    "commas alone leave Expires": (asked(ok(",", {"Expires": date(100)})), hit()),
    "no-cache and a date to validate by": (
        asked(ok("no-cache", {"Last-Modified": date(-100)})), validated(unchanged()),
    ),
    # 4.2.4 and RFC 5861
    "stale-while-revalidate without a number": (
        asked(ok("max-age=100, stale-while-revalidate", TAG, body=b"b")),
        validated(unchanged(TAG), after_s=101, body=b"b"),
    ),
    "s-maxage forbids stale-while-revalidate": (
        asked(ok("s-maxage=0, stale-while-revalidate=100", TAG)), validated(unchanged(TAG)),
    ),
    "only-if-cached takes what is stale and being refreshed": (
        asked(ok("max-age=100, stale-while-revalidate=1000", TAG, body=b"b")),
        Turn("any", unchanged(TAG), {"Cache-Control": "only-if-cached"}, after_s=200, status=200,
             body=b"b"),
    ),
    "stale-if-error is for 500, 502, 503, 504": (
        asked(ok("max-age=100, stale-if-error=1000", TAG)),
        validated(says(599), after_s=200, status=599),
    ),
    # 4.3
    "a part of what was replaced": (
        asked(ok(FRESH, TAG, body=b"0123")),
        validated(ok(FRESH, {"ETag": '"v2"'}, body=b"abcd"), {"Range": "bytes=0-1"}, after_s=200,
                  status=206, body=b"ab"),
        hit(body=b"abcd"),
    ),
    "a 304 for one variant leaves the others alone": (
        asked(ok(FRESH, {"Vary": "Foo", **TAG}, body=b"1"), {"Foo": "1"}),
        validated(unchanged({"Cache-Control": FRESH, **TAG}), {"Foo": "1"}, after_s=200,
                  body=b"1"),
        asked(None, {"Foo": "2"}), hit({"Foo": "1"}, body=b"1"),
    ),
    "tags of other variants are not offered": (
        asked(ok(FRESH, {"Vary": "Foo", **TAG}), {"Foo": "1"}),
        asked(ok(FRESH, {"Vary": "Foo", "ETag": '"v2"'}), {"Foo": "2"},
              saw={"if-none-match": None}),
    ),
    "a 304 with the date alone, of a response with both": (
        asked(ok(FRESH, TAG | MODIFIED, body=b"b")),
        validated(unchanged({"Cache-Control": FRESH, **MODIFIED}), after_s=200, body=b"b"),
        hit(body=b"b"),
    ),
    # 4.4 and RFC 9875
    "Content-Location with a query": (
        asked(ok(FRESH), target="/y?a=1"),
        asked(says(200, {"Content-Location": "/y?a=1"}), method="POST", content=b"a"),
        asked(target="/y?a=1"),
    ),
    "a group is invalidated": (
        asked(ok(FRESH, {"Cache-Groups": '"g"'}), target="/a"),
        asked(ok(FRESH, {"Cache-Groups": '"g", "h"'}), target="/b"),
        asked(ok(FRESH, {"Cache-Groups": '"h"'}), target="/c"),
        asked(says(200, {"Cache-Group-Invalidation": '"g"'}), method="POST", content=b"x"),
        asked(target="/a"), asked(target="/b"), hit(target="/c"),
    ),
    "not by a safe request": (
        asked(ok(FRESH, {"Cache-Groups": '"g"'}), target="/a"),
        asked(ok("no-store", {"Cache-Group-Invalidation": '"g"'})), hit(target="/a"),
    ),
    "not by an error": (
        asked(ok(FRESH, {"Cache-Groups": '"g"'}), target="/a"),
        asked(says(500, {"Cache-Group-Invalidation": '"g"'}), method="POST", content=b"x"),
        hit(target="/a"),
    ),
    # 5
    "Pragma of a response leaves Expires": (
        asked(ok(None, {"Expires": date(100), "Pragma": "no-cache"})), hit(),
    ),
    "two Dates, the first counts": (
        asked(ok(FRESH, [("Date", date(-10)), ("Date", date(-2000))])),
        hit(has={"age": between(10, 13)}),
    ),
    "Connection cannot take a validator away": (
        asked(ok(FRESH, {"Connection": "ETag, Cache-Control", **TAG})), hit(has={"etag": '"v1"'}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_requirements(case: str) -> None:
    play(CASES[case])
