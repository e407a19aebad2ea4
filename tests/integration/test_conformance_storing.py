"""What is stored through the proxy, and with which fields (RFC 9111, section 3; RFC 9213)."""

from __future__ import annotations

import pytest
from support.conformance import (
    Case,
    Turn,
    asked,
    between,
    date,
    either,
    hit,
    holding,
    ok,
    play,
    says,
    unchanged,
    validated,
)

FRESH = "max-age=3600"
EXPLICIT = {"Cache-Control": FRESH}
AUTH = {"Authorization": "Basic dTpw"}
TAG = {"ETag": '"v1"'}
SEVERAL = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 102 Processing\r\nX-I: 1\r\n\r\n"
    b"HTTP/1.1 199 Odd\r\n\r\n"
)


def kept(cache_control: str, fields: object = (), request: object = ()) -> Case:
    """A response is stored, and answers a request without fields."""
    return (asked(ok(cache_control, fields), request), hit())  # type: ignore[arg-type]


def not_kept(cache_control: str, fields: object = (), request: object = ()) -> Case:
    """A response is not stored at all: it is not even validated."""
    return (asked(ok(cache_control, fields), request), asked())  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "no-store": not_kept("no-store", TAG),
    "no-store beside max-age": not_kept("max-age=3600, no-store", TAG),
    "no-store in upper case": not_kept("max-age=3600, NO-STORE", TAG),
    "no-store on a later line": not_kept("max-age=3600", [("Cache-Control", "No-Store")]),
    "no-store with an argument": not_kept("max-age=3600, no-store=1"),
    "no-store beside Expires": not_kept("no-store", {"Expires": date(3600)}),
    "no-store in an argument is none": kept('max-age=3600, foo="no-store"'),
    "no-store as a part of a name is none": kept("max-age=3600, no-store-x"),
    "private": not_kept("private, max-age=3600", TAG),
    "private in mixed case": not_kept("pRiVate, max-age=3600", TAG),
    "private beside public": not_kept("public, private, max-age=3600"),
    "private beside s-maxage": not_kept("private, s-maxage=3600"),
    "private qualified": (
        asked(ok('private="X-Own", max-age=3600', {"X-Own": "1", "X-All": "2"}),
              has={"x-own": "1"}),
        hit(has={"x-own": None, "x-all": "2"}),
    ),
    "private with an empty list": not_kept('private="", max-age=3600'),
    "no-cache is validated": (
        asked(ok("no-cache, max-age=3600", TAG)), validated(unchanged(TAG)),
            validated(unchanged(TAG)),
    ),
    "no-cache in upper case": (asked(ok("NO-CACHE, max-age=3600", TAG)), validated(unchanged(TAG))),
    "no-cache without a validator": not_kept("no-cache, max-age=3600"),
    "no-cache qualified": (
        asked(ok('no-cache="X-Own", max-age=3600', {"X-Own": "1", "X-All": "2"})),
        hit(has={"x-own": None, "x-all": "2"}),
    ),
    "no-cache qualified, two fields": (
        asked(ok('no-cache="x-a, X-B", max-age=3600', {"X-A": "1", "X-B": "2", "X-C": "3"})),
        hit(has={"x-a": None, "x-b": None, "x-c": "3"}),
    ),
    "no-cache qualified by a token": (
        asked(ok("no-cache=x-own, max-age=3600", {"X-Own": "1"})), hit(has={"x-own": None}),
    ),
    "max-age zero with a validator": (asked(ok("max-age=0", TAG)), validated(unchanged(TAG))),
    "public": kept("public, max-age=3600"),
    "immutable": kept("immutable, max-age=3600"),
    "no-transform": kept("no-transform, max-age=3600"),
    "must-understand with a known status": kept("must-understand, no-store, max-age=3600"),
    "must-understand with an unknown status": (
        asked(says(299, {"Cache-Control": "must-understand, max-age=3600"})), asked(),
    ),
    "must-understand, no-store, unknown status": (
        asked(says(299, {"Cache-Control": "must-understand, no-store, max-age=3600"})), asked(),
    ),
    "unknown directives": kept("foo, bar=1, baz=\"2\", max-age=3600"),
    "a response without anything": not_kept("x"),
    "Pragma in a response": kept(FRESH, {"Pragma": "no-cache"}),
    "Vary star": not_kept(FRESH, {"Vary": "*"} | TAG),
    # 3.5
    "Authorization": not_kept(FRESH, (), AUTH),
    "Authorization and Expires": not_kept("foo", {"Expires": date(3600)}, AUTH),
    "Authorization, public": kept("public, max-age=3600", (), AUTH),
    "Authorization, s-maxage": kept("s-maxage=3600", (), AUTH),
    "Authorization, must-revalidate": kept("must-revalidate, max-age=3600", (), AUTH),
    "Authorization, proxy-revalidate is not enough": not_kept(
        "proxy-revalidate, max-age=3600", (), AUTH
    ),
    "Authorization, no-cache is not enough": not_kept("no-cache, max-age=3600", TAG, AUTH),
    "stored without Authorization answers with it": (asked(ok(FRESH)), hit(AUTH)),
    # Set-Cookie
    "Set-Cookie, public": (
        asked(ok("public, max-age=3600", {"Set-Cookie": "a=1"})), hit(has={"set-cookie": "a=1"}),
    ),
    "Set-Cookie, s-maxage": kept("s-maxage=3600", {"Set-Cookie": "a=1"}),
    "Set-Cookie, listed in no-cache": (
        asked(ok('max-age=3600, no-cache="set-cookie"', {"Set-Cookie": "a=1"})),
        hit(has={"set-cookie": None}),
    ),
    "request no-store": not_kept(FRESH, (), {"Cache-Control": "no-store"}),
    "request no-cache is stored": kept(FRESH, (), {"Cache-Control": "no-cache"}),
    "request max-age=0 is stored": kept(FRESH, (), {"Cache-Control": "max-age=0"}),
    # Methods
    "HEAD is not stored for GET": (asked(ok(FRESH), method="HEAD"), asked(ok(FRESH)), hit()),
    "GET answers HEAD": (asked(ok(FRESH, {"X-A": "1"})),
        hit(method="HEAD", body=b"", has={"x-a": "1"})),
    "POST is not stored": (asked(ok(FRESH), method="POST", content=b"q"), asked(ok(FRESH))),
    "POST with freshness is not stored": (
        asked(ok(FRESH), method="POST", content=b"q"), asked(method="POST", content=b"q"),
    ),
    "POST with Content-Location of its own": (
        asked(ok(FRESH, {"Content-Location": "/x"}, body=b"made"), method="POST", content=b"q"),
        hit(body=b"made"),
        asked(method="POST", content=b"q"),
    ),
    "POST with another Content-Location": (
        asked(ok(FRESH, {"Content-Location": "/y"}), method="POST", content=b"q"),
        asked(), asked(target="/y"),
    ),
    "POST with Content-Location, no freshness": (
        asked(says(200, {"Content-Location": "/x", "Last-Modified": date(-9000)}),
              method="POST", content=b"q"),
        asked(),
    ),
    "OPTIONS is not stored": (asked(ok(FRESH), method="OPTIONS"), asked(method="OPTIONS")),
    "GET is not answered by PUT": (asked(ok(FRESH), method="PUT", content=b"q"), asked()),
    "GET with content passes by": (asked(ok(FRESH), content=b"q"), asked(ok(FRESH)), hit()),
    # Framing
    "chunked": (asked(ok(FRESH, framing="chunked")), hit(has={"content-length": holding("")})),
    "empty": (asked(ok(FRESH, body=b"")), hit(has={"content-length": "0"})),
    "empty and chunked": (asked(ok(FRESH, body=b"", framing="chunked")), hit()),
    "ended by closing": (asked(ok(FRESH, framing="close")), either(ok(FRESH))),
    "cut short": (asked(ok(FRESH, body=b"half", length=8)), asked(ok(FRESH))),
    "cut short, with a validator": (
        asked(ok(FRESH, {"Last-Modified": date(-9)}, body=b"half", length=8)), asked(ok(FRESH)),
    ),
    # Keys
    "other query": (asked(ok(FRESH), target="/x?a=1"), asked(ok(FRESH), target="/x?a=2"),
                    hit(target="/x?a=1"), hit(target="/x?a=2"), asked(target="/x")),
    "empty query": (asked(ok(FRESH), target="/x?"), asked(target="/x"), hit(target="/x?")),
    "order of the query": (asked(ok(FRESH), target="/x?a&b"), asked(target="/x?b&a")),
    "case of the path": (asked(ok(FRESH), target="/x"), asked(target="/X")),
    "percent-encoding is kept": (asked(ok(FRESH), target="/%7ex"), asked(target="/%7Ex"),
                                 asked(target="/~x"), hit(target="/%7ex")),
    "dots are kept": (asked(ok(FRESH), target="/a/../x"), asked(target="/x"),
        hit(target="/a/../x")),
    "double slash": (asked(ok(FRESH), target="//x"), asked(target="/x"), hit(target="//x")),
    "other host": (asked(ok(FRESH)), asked(ok(FRESH), host="other.example"), hit(),
                   hit(host="other.example")),
    "case of the host": (asked(ok(FRESH, body=b"b")), hit(host="EXAMPLE.org", body=b"b")),
    "other port": (asked(ok(FRESH)), asked(host="example.org:81")),
    # Interim answers
    "103 before": (
        asked(ok(FRESH, interim=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")),
        hit(has={"link": None}),
    ),
    "100, 102 and 199 before": (asked(ok(FRESH, interim=SEVERAL)), hit(has={"x-i": None})),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_stored(case: str) -> None:
    play(CASES[case])


def test_the_safe_profile_does_not_share_set_cookie() -> None:
    play(not_kept(FRESH, {"Set-Cookie": "a=1"}), "safe")


def test_the_letter_stores_set_cookie() -> None:
    play((asked(ok(FRESH, {"Set-Cookie": "a=1"})), hit(has={"set-cookie": "a=1"})), "rfc")


# Status codes

ALL = [200, 201, 202, 203, 204, 205, 299, 300, 301, 302, 303, 305, 306, 307, 308, 399, 400, 401,
       402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421,
       422, 423, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 511,
       599]  # fmt: skip


@pytest.mark.parametrize("status", ALL)
def test_every_final_status_with_explicit_freshness_is_stored(status: int) -> None:
    fields = {"Location": "/elsewhere", **EXPLICIT} if 300 <= status < 400 else EXPLICIT
    has = {"location": fields.get("Location")}
    play((asked(says(status, fields)), hit(status=status, has=has)))


@pytest.mark.parametrize("status", [200, 204, 299, 301, 400, 404, 500, 599])
def test_no_status_is_reused_when_stale(status: int) -> None:
    fields = {"Cache-Control": "max-age=60"}
    play((asked(says(status, fields)), asked(says(status, fields), after_s=61)))


@pytest.mark.parametrize(
    ("status", "sent"),
    [(412, {"If-Match": '"a"'}), (416, {"Range": "bytes=9-"}), (412, {"If-Unmodified-Since": "x"})],
)
def test_an_answer_to_a_condition_is_not_stored(status: int, sent: dict[str, str]) -> None:
    play((asked(says(status, EXPLICIT), sent), asked()))


def test_a_304_to_an_unconditional_request_is_not_stored() -> None:
    play((asked(unchanged(EXPLICIT), status=304), asked(ok(FRESH)), hit()))


# Fields

STORED = {
    "a plain field": [("Test-Field", "value")],
    "a field with X": [("X-Test-Field", "value")],
    "an unknown Content- field": [("Content-Foo", "value")],
    "Content-Type": [("Content-Type", "foo/bar; q=1")],
    "Content-Encoding": [("Content-Encoding", "x-foo")],
    "Content-Language": [("Content-Language", "mi, en")],
    "Content-Location": [("Content-Location", "/other")],
    "Content-MD5": [("Content-MD5", "rL0Y20zC+Fzt72VPzMSk2A==")],
    "Content-Range": [("Content-Range", "bytes 0-1/2")],
    "Content-Security-Policy": [("Content-Security-Policy", "default-src 'self'")],
    "Content-Disposition": [("Content-Disposition", 'attachment; filename="a b"')],
    "Clear-Site-Data": [("Clear-Site-Data", '"cookies"')],
    "ETag": [("ETag", '"abc"')],
    "Expires": [("Expires", "Fri, 31 Dec 2049 23:59:59 GMT")],
    "Last-Modified": [("Last-Modified", "Tue, 01 Jan 2019 00:00:00 GMT")],
    "Public-Key-Pins": [("Public-Key-Pins", 'pin-sha256="abc"; max-age=60')],
    "Set-Cookie2": [("Set-Cookie2", "a=b")],
    "Trailer": [("Trailer", "X-Foo")],
    "X-Frame-Options": [("X-Frame-Options", "DENY")],
    "X-XSS-Protection": [("X-XSS-Protection", "1")],
    "Warning": [("Warning", '199 - "x"')],
    "Server": [("Server", "me")],
    "Link": [("Link", "</a>; rel=next, </b>; rel=prev")],
    "WWW-Authenticate": [("WWW-Authenticate", 'Basic realm="a", Digest x="y"')],
    "Allow": [("Allow", "GET, HEAD")],
    "Retry-After": [("Retry-After", "120")],
    "Pragma": [("Pragma", "foo")],
    "an empty value": [("X-Empty", "")],
    "bytes over 127": [("X-High", "caf\xe9 \xff\x80")],
    "tabs and blanks inside": [("X-Blank", "a \t  b")],
    "a long value": [("X-Long", "l" * 8000)],
    "repeated": [("X-Two", "1"), ("X-Between", "b"), ("X-Two", "2"), ("X-Two", "1")],
    "strange names": [("!#$%&'*+-.^_`|~", "1"), ("x_under_score", "2"), ("0", "3")],
    "many fields": [(f"X-Field-{number}", str(number)) for number in range(100)],
}  # fmt: skip


@pytest.mark.parametrize("case", STORED)
def test_fields_are_stored_and_replayed_as_they_were(case: str) -> None:
    fields = STORED[case]
    names = {name.lower() for name, _ in fields}

    def joined(name: str) -> str:
        return ", ".join(value for key, value in fields if key.lower() == name)

    wanted = {name: joined(name) for name in names}
    play((asked(ok(FRESH, fields), has=wanted), hit(has=wanted)))


ONE_HOP = {
    "Connection": "close",
    "Keep-Alive": "timeout=5",
    "Proxy-Connection": "keep-alive",
    "TE": "gzip",
    "Upgrade": "foo/1",
}
UNSTORED = {
    "Proxy-Authenticate": "Basic",
    "Proxy-Authentication-Info": 'nextnonce="x"',
    "Proxy-Authorization": "Basic eA==",
}


@pytest.mark.parametrize("name", [*ONE_HOP, *UNSTORED])
def test_fields_of_one_connection_are_not_stored(name: str) -> None:
    value = (ONE_HOP | UNSTORED)[name]
    fields = {name: value, "X-Kept": "1"}
    has = {name.lower(): None if name in ONE_HOP and name != "Connection" else lambda value: True}
    play((asked(ok(FRESH, fields), has=has),
          hit(has={name.lower(): lambda found: found != value, "x-kept": "1"})))  # fmt: skip


def test_fields_that_connection_names_are_neither_stored_nor_passed() -> None:
    fields = [("Connection", "X-One, x-two"), ("X-One", "1"), ("Connection", "X-Three"),
              ("X-Two", "2"), ("X-Three", "3"), ("X-Four", "4")]  # fmt: skip
    has = {"x-one": None, "x-two": None, "x-three": None, "x-four": "4"}
    play((asked(ok(FRESH, fields), has=has), hit(has=has)))


def test_fields_of_one_connection_do_not_go_upstream() -> None:
    request = {
        "Connection": "X-Hop", "X-Hop": "1", "Keep-Alive": "5", "TE": "gzip", "Upgrade": "foo/1",
        "Proxy-Connection": "x", "X-End": "2", "Proxy-Authorization": "Basic eA==",
    }  # fmt: skip
    saw = {
        "x-hop": None, "keep-alive": None, "te": None, "upgrade": None, "proxy-connection": None,
        "x-end": "2",
    }  # fmt: skip
    play((asked(ok(FRESH), request, saw=saw),))


# Targeted fields


def targeted(value: str, cache_control: str | None = None, fields: object = ()) -> object:
    """An answer with CDN-Cache-Control."""
    own = {"CDN-Cache-Control": value, **dict(fields)}  # type: ignore[call-overload]
    return ok(cache_control, own)


TARGETED: dict[str, Case] = {
    "max-age": (asked(targeted("max-age=60")), hit(after_s=50), asked(after_s=20)),
    "over Cache-Control, longer": (asked(targeted("max-age=60", "max-age=1")), hit(after_s=30)),
    "over Cache-Control, shorter": (asked(targeted("max-age=0", "max-age=3600")), asked()),
    "over no-store": (asked(targeted("max-age=60", "no-store")), hit()),
    "over private": (asked(targeted("max-age=60", "private")), hit()),
    "over Expires": (asked(targeted("max-age=60", None, {"Expires": date(-60)})), hit()),
    "no Expires beside": (asked(targeted("public", None, {"Expires": date(3600)})), asked()),
    "no-store": (asked(targeted("no-store", FRESH)), asked()),
    "private": (asked(targeted("private, max-age=60", FRESH)), asked()),
    "no-cache": (asked(targeted("no-cache", FRESH, TAG)), validated(unchanged(TAG))),
    "s-maxage": (asked(targeted("s-maxage=60, max-age=1")), hit(after_s=30)),
    "empty falls back": (asked(targeted("", FRESH)), hit()),
    "invalid falls back": (asked(targeted("max-age=0, =", FRESH)), hit()),
    "upper case is invalid": (asked(targeted("MAX-AGE=0", FRESH)), hit()),
    "trailing comma is invalid": (asked(targeted("max-age=0,", FRESH)), hit()),
    "semicolons are parameters": (asked(targeted("max-age=60;foo=bar", "no-store")), hit()),
    "unknown members": (asked(targeted("max-age=60, foo, bar=?0, baz=(1 2)", "no-store")), hit()),
    "last of two counts": (asked(targeted("max-age=0, max-age=60", "no-store")), hit()),
    "space before the number is invalid": (asked(targeted("max-age= 0", FRESH)), hit()),
    "negative": (asked(targeted("max-age=-1", FRESH)), asked()),
    "large": (asked(targeted("max-age=999999999999999", "no-store")), hit(after_s=9_999_999)),
    "too large is invalid": (asked(targeted("max-age=9999999999999999", FRESH)), hit()),
    "false flag": (asked(targeted("no-store=?0, max-age=60", "no-store")), hit()),
    "true flag": (asked(targeted("no-store=?1, max-age=60", FRESH)), asked()),
    "on two lines": (
        asked(ok("no-store", [("CDN-Cache-Control", "foo"), ("CDN-Cache-Control", "max-age=60")])),
        hit(),
    ),
    "with Age": (asked(targeted("max-age=60", FRESH, {"Age": "61"})), asked()),
    "with Age, still fresh": (
        asked(targeted("max-age=60", "no-store", {"Age": "30"})), hit(has={"age": between(30, 33)}),
    ),
    "passed on": (
        asked(targeted("max-age=60", "max-age=5"), has={"cdn-cache-control": "max-age=60"}),
        hit(has={"cdn-cache-control": "max-age=60", "cache-control": "max-age=5"}),
    ),
    "of others is not ours": (
        asked(ok("no-store", {"Other-CDN-Cache-Control": "max-age=60"})), asked(),
    ),
    "max-age as a string": (asked(targeted('max-age="3600"')), asked()),
    "max-age as a decimal": (asked(targeted("max-age=3600.0")), asked()),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETED)
def test_targeted_cache_control(case: str) -> None:
    play(TARGETED[case])


def surrogate(value: str, cache_control: str | None = None, fields: object = ()) -> object:
    """An answer with Surrogate-Control."""
    own = {"Surrogate-Control": value, **dict(fields)}  # type: ignore[call-overload]
    return ok(cache_control, own)


SURROGATE: dict[str, Case] = {
    "max-age": (asked(surrogate("max-age=60")), hit(after_s=50), asked(after_s=20)),
    "over Cache-Control": (asked(surrogate("max-age=60", "no-store")), hit()),
    "over Expires": (asked(surrogate("max-age=60", None, {"Expires": date(-60)})), hit()),
    "max-age zero": (asked(surrogate("max-age=0", FRESH)), asked()),
    "no-store": (asked(surrogate("no-store", FRESH)), asked()),
    "private": (asked(surrogate("private, max-age=60", FRESH)), asked()),
    "in upper case": (asked(surrogate("MAX-AGE=60", "no-store")), hit()),
    "with content": (asked(surrogate('content="ESI/1.0", max-age=60', "no-store")), hit()),
    "a quoted comma": (asked(surrogate('content="a, max-age=0", max-age=60', "no-store")), hit()),
    "Age counts": (asked(surrogate("max-age=60", FRESH, {"Age": "61"})), asked()),
    "CDN-Cache-Control comes first": (
        asked(surrogate("max-age=60", FRESH, {"CDN-Cache-Control": "max-age=0"})), asked(),
    ),
    "for others only": (asked(surrogate("max-age=0;other", FRESH)), hit()),
    "for us by name": (asked(surrogate("max-age=60;edgecache", "no-store")), hit()),
    "empty": (asked(surrogate("", FRESH)), hit()),
    "without digits": (asked(surrogate("max-age=x", FRESH)), asked()),
    "stale for some time": (
        asked(surrogate("max-age=60+30", "no-store", TAG)),
        Turn("validated", unchanged(TAG), after_s=80, status=200),
    ),
    "removed, and asked for": (
        asked(surrogate("max-age=60", FRESH), has={"surrogate-control": None},
              saw={"surrogate-capability": 'edgecache="Surrogate/1.0"'}),
        hit(has={"surrogate-control": None, "cache-control": FRESH}),
    ),
    "removed where nothing is stored": (
        asked(surrogate("no-store"), {"Surrogate-Capability": 'a="b"'},
              has={"surrogate-control": None},
              saw={"surrogate-capability": 'a="b", edgecache="Surrogate/1.0"'}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SURROGATE)
def test_surrogate_control_by_the_letter(case: str) -> None:
    play(SURROGATE[case], "rfc")


def test_surrogate_control_is_not_ours_unless_configured() -> None:
    field = {"surrogate-control": "no-store"}
    play((asked(ok(FRESH, {"Surrogate-Control": "no-store"}), has=field,
                saw={"surrogate-capability": None}), hit(has=field)), "safe")  # fmt: skip
