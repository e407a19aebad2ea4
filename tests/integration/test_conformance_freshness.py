"""Freshness through the proxy: lifetimes, Age, Date, heuristics (RFC 9111, sections 4.2 and 5)."""

from __future__ import annotations

import pytest
from support.conformance import Case, asked, between, date, hit, ok, play, says, validated


def lives(cache_control: str | None, lifetime_s: int, fields: object = ()) -> Case:
    """A response lives exactly so long."""
    return (
        asked(ok(cache_control, fields)),  # type: ignore[arg-type]
        hit(after_s=lifetime_s - 5, has={"age": between(lifetime_s - 8, lifetime_s - 1)}),
        asked(after_s=10),
    )


def dead(cache_control: str | None, fields: object = ()) -> Case:
    """A response is never reused without asking."""
    return (asked(ok(cache_control, fields)), asked())  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    # max-age and s-maxage
    "max-age": lives("max-age=60", 60),
    "s-maxage": lives("s-maxage=60", 60),
    "s-maxage over longer max-age": lives("max-age=3600, s-maxage=60", 60),
    "s-maxage over shorter max-age": lives("max-age=1, s-maxage=60", 60),
    "s-maxage zero over max-age": dead("max-age=3600, s-maxage=0"),
    "s-maxage over Expires": lives("s-maxage=60", 60, {"Expires": date(-10_000)}),
    "max-age over past Expires": lives("max-age=60", 60, {"Expires": date(-10_000)}),
    "max-age over future Expires": lives("max-age=60", 60, {"Expires": date(10_000)}),
    "max-age over Expires 0": lives("max-age=60", 60, {"Expires": "0"}),
    "max-age zero": dead("max-age=0"),
    "max-age zero over future Expires": dead("max-age=0", {"Expires": date(10_000)}),
    "max-age 2147483647": (asked(ok("max-age=2147483647")), hit(after_s=10_000_000)),
    "max-age 2147483648": (asked(ok("max-age=2147483648")), hit(after_s=10_000_000)),
    "max-age 4294967296": (asked(ok("max-age=4294967296")), hit(after_s=10_000_000)),
    "max-age of 40 digits": (asked(ok("max-age=" + "9" * 40)), hit(after_s=10_000_000)),
    "max-age with leading zeros": lives("max-age=000060", 60),
    "max-age quoted": lives('max-age="60"', 60),
    "max-age in single quotes": dead("max-age='3600'"),
    "max-age negative": dead("max-age=-1"),
    "max-age with a plus": dead("max-age=+3600"),
    "max-age decimal": dead("max-age=3600.0"),
    "max-age exponent": dead("max-age=3e3"),
    "max-age hexadecimal": dead("max-age=0xffff"),
    "max-age letters": dead("max-age=abc"),
    "max-age letters behind": dead("max-age=3600s"),
    "max-age empty": dead("max-age="),
    "max-age without argument": dead("max-age"),
    "max-age space before =": dead("max-age =3600"),
    "max-age space behind =": dead("max-age= 3600"),
    "max-age tab around =": dead("max-age\t=\t3600"),
    "max-age with a parameter": dead("max-age=3600;a=b"),
    "max-age in upper case": lives("MAX-AGE=60", 60),
    "max-age in mixed case": lives("mAx-aGe=60", 60),
    "max-age repeated, the same": lives("max-age=60, max-age=60", 60),
    "max-age repeated, later is smaller": dead("max-age=3600, max-age=0"),
    "max-age repeated, first is zero": dead("max-age=0, max-age=3600"),
    "max-age repeated, first is invalid": dead("max-age=a, max-age=3600"),
    "max-age on a second line": lives(None, 60, [("Cache-Control", "public"),
                                                 ("Cache-Control", "max-age=60")]),
    "max-age among unknown directives": lives("foo, max-age=60, bar=2, baz=\"q, max-age=1\"", 60),
    "max-age within a quoted string": dead('foo="max-age=3600"'),
    "max-age in an argument of another": dead("foo=max-age=3600"),
    "a name that ends in max-age": dead("x-max-age=3600"),
    "a name that begins with max-age": dead("max-age-x=3600"),
    "empty members": lives(",, max-age=60 ,,", 60),
    "no blanks in the list": lives("public,max-age=60,foo", 60),
    "tabs in the list": lives("public,\tmax-age=60\t,\tfoo", 60),
    "spaces at both ends": lives("   max-age=60   ", 60),
    # Expires
    "Expires": lives(None, 60, {"Expires": date(60), "Date": date()}),
    "Expires without Date": lives(None, 60, {"Expires": date(60)}),
    "Expires with an invalid Date": lives(None, 60, {"Expires": date(60), "Date": "foo"}),
    "Expires in the past": dead(None, {"Expires": date(-60), "Date": date()}),
    "Expires equal to Date": dead(None, {"Expires": date(), "Date": date()}),
    "Expires and Date both past": dead(None, {"Expires": date(-60), "Date": date(-3600)}),
    "Expires in the past, Date too, later": dead(None, {"Expires": date(-60), "Date": date(-30)}),
    "Expires 0": dead(None, {"Expires": "0"}),
    "Expires -1": dead(None, {"Expires": "-1"}),
    "Expires empty": dead(None, {"Expires": ""}),
    "Expires word": dead(None, {"Expires": "never"}),
    "Expires with a number of seconds": dead(None, {"Expires": "3600"}),
    "Expires in RFC 850": (
        asked(says(200, {"Expires": "Thursday, 18-Aug-50 02:01:18 GMT"})), hit(),
    ),
    "Expires in asctime": (asked(says(200, {"Expires": "Thu Aug 18 02:01:18 2050"})), hit()),
    "Expires far away": (asked(says(200, {"Expires": "Thu, 18 Aug 2099 02:01:18 GMT"})), hit()),
    "Expires year 9999": (asked(says(200, {"Expires": "Fri, 31 Dec 9999 23:59:59 GMT"})), hit()),
    "Expires in UTC": dead(None, {"Expires": "Thu, 18 Aug 2050 02:01:18 UTC"}),
    "Expires in another zone": dead(None, {"Expires": "Thu, 18 Aug 2050 02:01:18 AEST"}),
    "Expires with an offset": dead(None, {"Expires": "Thu, 18 Aug 2050 02:01:18 +0000"}),
    "Expires without a zone": dead(None, {"Expires": "Thu, 18 Aug 2050 02:01:18"}),
    "Expires with a two-digit year": dead(None, {"Expires": "Thu, 18 Aug 50 02:01:18 GMT"}),
    "Expires with a one-digit hour": dead(None, {"Expires": "Thu, 18 Aug 2050 2:01:18 GMT"}),
    "Expires with a one-digit day": dead(None, {"Expires": "Thu, 8 Aug 2050 02:01:18 GMT"}),
    "Expires with hyphens": dead(None, {"Expires": "Thu, 18-Aug-2050 02:01:18 GMT"}),
    "Expires with dots in the time": dead(None, {"Expires": "Thu, 18 Aug 2050 02.01.18 GMT"}),
    "Expires without a comma": dead(None, {"Expires": "Thu 18 Aug 2050 02:01:18 GMT"}),
    "Expires with two spaces": dead(None, {"Expires": "Thu, 18  Aug  2050 02:01:18 GMT"}),
    "Expires without a weekday": dead(None, {"Expires": "18 Aug 2050 02:01:18 GMT"}),
    "Expires quoted": dead(None, {"Expires": '"Thu, 18 Aug 2050 02:01:18 GMT"'}),
    "Expires with an unknown month": dead(None, {"Expires": "Thu, 18 Foo 2050 02:01:18 GMT"}),
    "Expires with day 32": dead(None, {"Expires": "Thu, 32 Aug 2050 02:01:18 GMT"}),
    "Expires in lower case": (asked(says(200, {"Expires": "thu, 18 aug 2050 02:01:18 gmt"})),
        hit()),
    "Expires in upper case": (asked(says(200, {"Expires": "THU, 18 AUG 2050 02:01:18 GMT"})),
        hit()),
    "Expires on an other weekday": (
        asked(says(200, {"Expires": "Mon, 18 Aug 2050 02:01:18 GMT"})), hit(),
    ),
    "Expires twice, the same": lives(None, 60, [("Expires", date(60)), ("Expires", date(60))]),
    "Expires twice, the first past": dead(None, [("Expires", date(-60)), ("Expires", date(60))]),
    "Expires twice, the second past": dead(None, [("Expires", date(60)), ("Expires", date(-60))]),
    "Expires twice, one invalid": dead(None, [("Expires", date(60)), ("Expires", "foo")]),
    "Expires with an unknown directive": lives("foo=1", 60, {"Expires": date(60)}),
    "Expires beside invalid max-age": dead("max-age=foo", {"Expires": date(3600)}),
    # Age of the origin
    "Age counts": (
        asked(ok("max-age=100", {"Age": "60"})),
        hit(after_s=35, has={"age": between(95, 97)}),
        asked(after_s=10),
    ),
    "Age as large as max-age": dead("max-age=60", {"Age": "60"}),
    "Age larger than max-age": dead("max-age=60", {"Age": "7200"}),
    "Age beside Expires": dead(None, {"Expires": date(60), "Age": "60"}),
    "Age zero": lives("max-age=60", 60, {"Age": "0"}),
    "Age saturates": dead("max-age=3600", {"Age": "9" * 30}),
    "Age 2147483648": dead("max-age=3600", {"Age": "2147483648"}),
    "Age negative is ignored": lives("max-age=60", 60, {"Age": "-7200"}),
    "Age with letters is ignored": lives("max-age=60", 60, {"Age": "7200a"}),
    "Age decimal is ignored": lives("max-age=60", 60, {"Age": "7200.0"}),
    "Age empty is ignored": lives("max-age=60", 60, {"Age": ""}),
    "Age word is ignored": lives("max-age=60", 60, {"Age": "foo"}),
    "Age quoted is ignored": lives("max-age=60", 60, {"Age": '"7200"'}),
    "Age with a parameter is ignored": lives("max-age=60", 60, {"Age": "7200;foo=bar"}),
    "Age list, first counts, large": dead("max-age=3600", {"Age": "7200, 0"}),
    "Age list, first counts, small": lives("max-age=60", 60, {"Age": "0, 7200"}),
    "Age lines, first counts, large": dead("max-age=3600", [("Age", "7200"), ("Age", "0")]),
    "Age lines, first counts, small": lives("max-age=60", 60, [("Age", "0"), ("Age", "7200")]),
    "Age list, first invalid": lives("max-age=60", 60, {"Age": "a, 7200"}),
    # Date
    "old Date counts as age": (
        asked(ok("max-age=100", {"Date": date(-50)})),
        hit(has={"age": between(49, 53)}),
        asked(after_s=60),
    ),
    "Date older than the lifetime": dead("max-age=60", {"Date": date(-100)}),
    "future Date is age zero": lives("max-age=60", 60, {"Date": date(1000)}),
    "the larger of Age and Date": (
        asked(ok("max-age=3600", {"Date": date(-50), "Age": "100"})),
        hit(has={"age": between(99, 103)}),
    ),
    "the larger of Date and Age": (
        asked(ok("max-age=3600", {"Date": date(-100), "Age": "50"})),
        hit(has={"age": between(99, 103)}),
    ),
    "Date is not changed": (
        asked(ok("max-age=3600", {"Date": "Thu, 18 Aug 2050 02:01:18 GMT"})),
        hit(has={"date": "Thu, 18 Aug 2050 02:01:18 GMT"}),
    ),
    # Nothing stated
    "nothing stated": dead(None),
    "only unknown directives": dead("foo, bar=2"),
    "Pragma means nothing": lives("max-age=60", 60, {"Pragma": "no-cache"}),
    "Warning means nothing": lives("max-age=60", 60, {"Warning": '110 - "stale"'}),
    "the first answer of the origin has no Age": (
        asked(ok("max-age=60"), has={"age": None}), hit(has={"age": between(0, 2)}),
    ),
    "Age of the origin passes": (asked(ok("max-age=60", {"Age": "7"}),
        has={"age": between(7, 9)}),),
    "Age of the origin passes, not stored": (
        asked(ok("no-store", {"Age": "7"}), has={"age": between(7, 9)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_lifetime_and_age(case: str) -> None:
    play(CASES[case])


HEURISTIC = (200, 203, 204, 300, 301, 308, 404, 410)
HEURISTIC_BY_LETTER = (*HEURISTIC, 405, 414, 501)
WITHOUT = (201, 202, 205, 302, 303, 307, 400, 403, 406, 409, 429, 451, 500, 502, 503, 504, 299, 599)


@pytest.mark.parametrize("status", HEURISTIC_BY_LETTER)
def test_a_heuristically_cacheable_status_lives_by_last_modified(status: int) -> None:
    fields = {"Last-Modified": date(-36_000), "Date": date()}
    play(
        (asked(says(status, fields)), hit(after_s=1000, status=status)),
        "rfc",
    )


@pytest.mark.parametrize("status", WITHOUT)
def test_no_other_status_lives_by_heuristic(status: int) -> None:
    fields = {"Last-Modified": date(-36_000), "Date": date()}
    play((asked(says(status, fields)), asked()))


@pytest.mark.parametrize("status", [201, 299, 403, 500, 599])
def test_public_lets_any_status_live_by_heuristic(status: int) -> None:
    fields = {"Last-Modified": date(-36_000), "Cache-Control": "public"}
    play((asked(says(status, fields)), hit(status=status)))


def test_a_heuristic_ends_at_a_tenth_of_the_time_since_last_modified() -> None:
    fields = {"Last-Modified": date(-1000)}
    play((asked(says(200, fields)), hit(after_s=90), validated(after_s=15)))
