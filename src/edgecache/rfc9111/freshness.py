"""How old a response is and how long it lives (RFC 9111, section 4.2).

Times are microseconds since the epoch (`_us`), what fields say is whole seconds (`_s`).
"""

from __future__ import annotations

from typing import NamedTuple

from edgecache.rfc9111.cache_control import ResponseDirectives
from edgecache.rfc9111.dates import parse_date
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import Rules
from edgecache.rfc9111.syntax import DELTA_SECONDS_MAX, OWS, parse_delta_seconds

SECOND_US = 1_000_000

EXPLICIT = "explicit"
DEFAULT = "default"
HEURISTIC = "heuristic"
NONE = "none"


class Lifetime(NamedTuple):
    """A freshness lifetime and where it comes from.

    `source` is EXPLICIT, DEFAULT (the operator's, by status), HEURISTIC or NONE.
    """

    seconds: int
    source: str


NO_LIFETIME = Lifetime(0, NONE)


def date_value(headers: Headers, response_s: int) -> int:
    """Return the Date of a response, or when it was received if it has no valid one.

    RFC 9110, section 6.6.1 has the recipient record the time in that case.
    """
    value = headers.get(b"date")
    date_s = None if value is None else parse_date(value, response_s)
    return response_s if date_s is None else date_s


def last_modified_value(headers: Headers, now_s: int) -> int | None:
    """Return the Last-Modified of a response in seconds, or None."""
    value = headers.get(b"last-modified")
    return None if value is None else parse_date(value, now_s)


def age_value(headers: Headers) -> int:
    """Return the Age of a response in seconds, 0 if absent or invalid (section 5.1).

    Of a list, or of several lines, the first member counts.
    """
    value = headers.get(b"age")
    if value is None:
        return 0
    seconds = parse_delta_seconds(value.split(b",", 1)[0].strip(OWS))
    return 0 if seconds is None else seconds


def initial_age_us(headers: Headers, date_s: int, request_us: int, response_us: int) -> int:
    """Return the corrected initial age (section 4.2.3).

    Date has whole seconds, so the part of a second in the apparent age says nothing and is dropped.
    """
    apparent_s = max(0, (response_us - date_s * SECOND_US) // SECOND_US)
    delay_us = max(0, response_us - request_us)
    return max(apparent_s * SECOND_US, age_value(headers) * SECOND_US + delay_us)


def expires_value(headers: Headers, now_s: int) -> int | None:
    """Return the Expires of a response in seconds; None if there is none.

    What is no date, `0` above all, is in the past (section 5.3). Of several lines the first counts,
    unless another is earlier or invalid: then the response is stale (section 4.2.1).
    """
    values = headers.get_all(b"expires")
    if not values:
        return None
    dates = [parse_date(value, now_s) for value in values]
    first_s = dates[0]
    if first_s is None or any(date_s is None or date_s < first_s for date_s in dates):
        return -DELTA_SECONDS_MAX
    return first_s


def explicit_lifetime(
    headers: Headers, directives: ResponseDirectives, is_targeted: bool, date_s: int, now_s: int
) -> int | None:
    """Return the lifetime that the response states (section 4.2.1), or None.

    s-maxage, then max-age, then Expires less Date; Expires not beside a targeted field (RFC 9213,
    section 2.2).
    """
    if directives.s_maxage is not None:
        return directives.s_maxage
    if directives.max_age is not None:
        return directives.max_age
    if is_targeted:
        return None
    expires_s = expires_value(headers, now_s)
    if expires_s is None:
        return None
    return min(max(0, expires_s - date_s), DELTA_SECONDS_MAX)


def lifetime(
    status: int,
    headers: Headers,
    directives: ResponseDirectives,
    is_targeted: bool,
    rules: Rules,
    date_s: int,
    now_s: int,
) -> Lifetime:
    """Return the freshness lifetime of a response: explicit, by status, or heuristic.

    A heuristic is for statuses that allow it and for responses marked `public` (section 4.2.2), and
    needs a Last-Modified before Date.
    """
    stated_s = explicit_lifetime(headers, directives, is_targeted, date_s, now_s)
    if stated_s is not None:
        return Lifetime(stated_s, EXPLICIT)
    if directives.is_malformed:
        return NO_LIFETIME
    default_s = rules.status_ttl_s.get(status)
    if default_s is not None:
        return Lifetime(min(max(0, default_s), DELTA_SECONDS_MAX), DEFAULT)
    if status not in rules.heuristic_statuses and not directives.public:
        return NO_LIFETIME
    modified_s = last_modified_value(headers, now_s)
    if modified_s is None or modified_s >= date_s:
        return NO_LIFETIME
    estimated_s = (date_s - modified_s) * rules.heuristic_percent // 100
    return Lifetime(min(estimated_s, rules.heuristic_max_s, DELTA_SECONDS_MAX), HEURISTIC)
