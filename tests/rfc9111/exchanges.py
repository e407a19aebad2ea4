"""Short ways to write exchanges, for the tables of these tests."""

from __future__ import annotations

from edgecache.rfc9111.dates import format_date
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import SAFE, Rules
from edgecache.rfc9111.stored import StoredResponse
from edgecache.rfc9111.storing import assess

NOW_S = 1_700_000_000
NOW_US = NOW_S * 1_000_000
TARGET = b"http://example.org:80/a?b=c"


def headers(text: str = "") -> Headers:
    """Make a section of lines `Name: value`; `{+60}` in a value is the date 60 s after NOW_S."""
    pairs = []
    for line in text.strip().splitlines():
        name, _, value = line.strip().partition(":")
        value = value.strip()
        if value.startswith("{") and value.endswith("}"):
            value = format_date(NOW_S + int(value[1:-1])).decode()
        pairs.append((name.encode(), value.encode("latin-1")))
    return Headers(pairs)


def exchange(
    response: str = "",
    *,
    request: str = "",
    method: bytes = b"GET",
    status: int = 200,
    delay_us: int = 0,
    date: str = "Date: {+0}",
    is_complete: bool = True,
    received_bytes: int = 0,
    at_s: int = 0,
) -> Exchange:
    """Make an exchange whose response began `at_s` seconds after NOW_S."""
    response_us = NOW_US + at_s * 1_000_000
    return Exchange(
        method=method,
        target_uri=TARGET,
        request=headers(request),
        status=status,
        response=headers(f"{date}\n{response}"),
        request_us=response_us - delay_us,
        response_us=response_us,
        is_complete=is_complete,
        received_bytes=received_bytes,
    )


def store(response: str, rules: Rules = SAFE, **options: object) -> StoredResponse:
    """Make a stored response; the exchange must be storable."""
    assessment = assess(exchange(response, **options), rules)  # type: ignore[arg-type]
    assert assessment.stored is not None, assessment.reason
    return assessment.stored
