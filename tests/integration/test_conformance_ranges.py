"""Ranges, parts and incomplete responses through the proxy (RFC 9110, 14; RFC 9111, 3.3, 3.4)."""

from __future__ import annotations

import pytest
from support.conformance import Case, Says, asked, hit, ok, play, says, unchanged, validated

FRESH = "max-age=100"
TAG = {"ETag": '"v1"'}
SINCE = "Tue, 02 Jan 2024 00:00:00 GMT"
BODY = b"01234567890A"


def rng(value: str) -> dict[str, str]:
    """A request for a range."""
    return {"Range": f"bytes={value}"}


def whole(fields: dict[str, str] | None = None) -> Says:
    """All of it."""
    return ok(FRESH, TAG | {"Last-Modified": SINCE} | (fields or {}), body=BODY)


def part(first: int, last: int, fields: dict[str, str] | None = None) -> Says:
    """A part of it, with a strong tag."""
    given = {"Content-Range": f"bytes {first}-{last}/{len(BODY)}", "Cache-Control": FRESH}
    return says(206, given | (TAG if fields is None else fields), body=BODY[first : last + 1])


FROM_COMPLETE: dict[str, tuple[dict[str, str], int, bytes, str | None]] = {
    "first": (rng("0-3"), 206, BODY[:4], "bytes 0-3/12"),
    "middle": (rng("4-7"), 206, BODY[4:8], "bytes 4-7/12"),
    "open": (rng("4-"), 206, BODY[4:], "bytes 4-11/12"),
    "suffix": (rng("-4"), 206, BODY[-4:], "bytes 8-11/12"),
    "suffix longer than all": (rng("-400"), 206, BODY, "bytes 0-11/12"),
    "last beyond the end": (rng("4-400"), 206, BODY[4:], "bytes 4-11/12"),
    "one byte": (rng("0-0"), 206, BODY[:1], "bytes 0-0/12"),
    "beyond the end": (rng("12-"), 416, b"", "bytes */12"),
    "suffix of nothing": (rng("-0"), 416, b"", "bytes */12"),
    "last before first": (rng("5-4"), 200, BODY, None),
    "other unit": ({"Range": "lines=0-3"}, 200, BODY, None),
    "malformed": (rng("a-b"), 200, BODY, None),
    "unit in upper case": ({"Range": "BYTES=0-3"}, 206, BODY[:4], "bytes 0-3/12"),
    "If-Range, tag": (rng("0-3") | {"If-Range": '"v1"'}, 206, BODY[:4], "bytes 0-3/12"),
    "If-Range, other tag": (rng("0-3") | {"If-Range": '"v2"'}, 200, BODY, None),
    "If-Range, weak tag": (rng("0-3") | {"If-Range": 'W/"v1"'}, 200, BODY, None),
    "If-Range, date": (rng("0-3") | {"If-Range": SINCE}, 206, BODY[:4], "bytes 0-3/12"),
    "If-Range, earlier date": (
        rng("0-3") | {"If-Range": "Mon, 01 Jan 2024 00:00:00 GMT"}, 200, BODY, None,
    ),
    "If-Range, later date": (
        rng("0-3") | {"If-Range": "Wed, 03 Jan 2024 00:00:00 GMT"}, 200, BODY, None,
    ),
    "condition before range": (rng("0-3") | {"If-None-Match": '"v1"'}, 304, b"", None),
}  # fmt: skip


@pytest.mark.parametrize("case", FROM_COMPLETE)
def test_ranges_of_a_complete_response_are_answered_from_the_cache(case: str) -> None:
    sent, status, body, content_range = FROM_COMPLETE[case]
    has = {"content-range": content_range}
    play((asked(whole()), hit(sent, status=status, body=body, has=has), hit(body=BODY)))


def test_a_content_range_that_means_nothing_is_not_on_the_parts_of_its_response() -> None:
    play((asked(whole({"Content-Range": "bytes 7-8/9"})),
          hit(rng("0-3"), status=206, body=b"0123", has={"content-range": "bytes 0-3/12"}),
          hit(body=BODY, has={"content-range": "bytes 7-8/9"})))  # fmt: skip


CASES: dict[str, Case] = {
    "a range on a miss is forwarded": (
        asked(part(0, 3), rng("0-3"), status=206, body=b"0123", saw={"range": "bytes=0-3"}),
    ),
    "a part answers its range again": (
        asked(part(0, 3), rng("0-3")), hit(rng("0-3"), status=206, body=b"0123"),
    ),
    "a part answers a smaller range": (
        asked(part(0, 7), rng("0-7")),
        hit(rng("2-5"), status=206, body=b"2345", has={"content-range": "bytes 2-5/12"}),
    ),
    "a part does not answer the whole": (
        asked(part(0, 3), rng("0-3")),
        asked([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], body=b"hi", status=200),
    ),
    "a part does not answer beyond it": (
        asked(part(0, 3), rng("0-3")),
        asked(part(4, 7), rng("4-7"), status=206, body=b"4567"),
        hit(rng("2-5"), status=206, body=b"2345"),
    ),
    "the rest is fetched and combined": (
        asked(part(0, 5), rng("0-5")),
        asked(part(6, 11), status=200, body=BODY, saw={"range": "bytes=6-11", "if-range": '"v1"'}),
        hit(body=BODY),
    ),
    "parts without a validator are not combined": (
        asked(part(0, 5, {}), rng("0-5")),
        asked(ok(FRESH, body=BODY), status=200, body=BODY, saw={"range": None}),
    ),
    "another tag is not combined": (
        asked(part(0, 3), rng("0-3")),
        asked(part(4, 7, {"ETag": '"v2"'}), rng("4-7"), status=206, body=b"4567"),
        asked(whole(), status=200),
    ),
    "200 to a range is stored": (
        asked(whole(), rng("0-3"), status=206, body=b"0123"), hit(body=BODY),
    ),
    "a 206 that was not asked for is not stored": (asked(part(0, 3)), asked(whole(), status=200)),
    "a 206 without Content-Range is not stored": (
        asked(says(206, {"Cache-Control": FRESH, **TAG}, body=b"0123"), rng("0-3")),
        asked(whole(), rng("0-3"), status=206, body=b"0123"),
    ),
    "a 206 that may not be stored": (
        asked(says(206, {"Content-Range": "bytes 0-3/12", "Cache-Control": "no-store", **TAG},
                   body=b"0123"), rng("0-3")),
        asked(part(0, 3), rng("0-3")),
    ),
    "416 of the origin passes": (
        asked(says(416, {"Content-Range": "bytes */12"}), rng("90-"), status=416),
    ),
    "a cut response is completed": (
        asked(Says(200, (("Cache-Control", FRESH), *TAG.items()), BODY[:5], length=12), status=200),
        asked(part(5, 11), status=200, body=BODY, saw={"range": "bytes=5-11"}),
        hit(body=BODY),
    ),
    "a stale complete one is validated for a range": (
        asked(whole()),
        validated(unchanged({"Cache-Control": FRESH, **TAG}), rng("0-3"), after_s=200, status=206,
                  body=b"0123", saw={"range": None}),
        hit(body=BODY),
    ),
    "several ranges": (
        asked(whole()),
        hit(rng("0-1,4-5"), status=206, has={
            "content-range": None,
            "content-type": lambda value: value is not None and value.startswith("multipart/")}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_parts(case: str) -> None:
    play(CASES[case])
