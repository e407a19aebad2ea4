"""Whether a response may be stored, and which of its fields (RFC 9111, section 3)."""

from __future__ import annotations

from typing import NamedTuple

from edgecache.errors import ArgumentError
from edgecache.rfc9111.cache_control import ResponseDirectives, directives_of_request
from edgecache.rfc9111.dates import format_date, parse_date
from edgecache.rfc9111.etags import parse_entity_tag
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import (
    HEURISTIC,
    NO_LIFETIME,
    NONE,
    Lifetime,
    date_value,
    initial_age_us,
    last_modified_value,
    lifetime,
)
from edgecache.rfc9111.hop import PROXY_FIELDS, hop_by_hop_names
from edgecache.rfc9111.key import resolve
from edgecache.rfc9111.ranges import ContentRange, parse_content_range
from edgecache.rfc9111.rules import (
    COOKIE_RFC,
    COOKIE_SHARED,
    SAFE,
    SET_COOKIE_RFC,
    UNDERSTOOD_STATUSES,
    Rules,
)
from edgecache.rfc9111.stored import (
    FORBIDS_STALE,
    HEURISTIC_LIFETIME,
    IMMUTABLE,
    NO_CACHE,
    OLD_VERSION,
    PARTIAL,
    TARGETED,
    StoredPolicy,
    StoredResponse,
    make_stored,
)
from edgecache.rfc9111.targeted import Applicable, applicable_directives, consumed_names
from edgecache.rfc9111.vary import VARY_NAMES_MAX, selecting, vary_names

HEADER_BYTES_MAX = 48 * 1024
"""A larger header section is not stored."""
SELECTING_BYTES_MAX = 8 * 1024
"""Larger selecting values are not stored."""

_SECONDS_MAX = 2**31
_CONDITIONS = frozenset(
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
)


class Assessment(NamedTuple):
    """Whether a response may be stored: `reason` is "" if so, and else names the rule.

    `stored` is what to keep beside the body; None where `reason` is not "".
    """

    reason: str
    stored: StoredResponse | None = None

    @property
    def may_store(self) -> bool:
        return self.stored is not None


def unstorable_names(headers: Headers, directives: ResponseDirectives) -> frozenset[bytes]:
    """Return the fields of a response that a shared cache must not store (section 3.1).

    Those of one connection, those of a proxy, and those that `no-cache` and `private` list.
    """
    listed = directives.no_cache_fields + directives.private_fields
    return hop_by_hop_names(headers) | PROXY_FIELDS | {b"proxy-authorization"} | set(listed)


def storable_fields(headers: Headers, directives: ResponseDirectives) -> Headers:
    """Return the fields to store; Date must have been added where it was missing."""
    return headers.without(unstorable_names(headers, directives))


def _is_of_the_resource(exchange: Exchange) -> bool:
    """Say whether a status is final, and not the answer to a condition of one request only."""
    status = exchange.status
    if status == 412:
        return _CONDITIONS.isdisjoint(exchange.request.first)
    if status == 416:
        return b"range" not in exchange.request
    return 200 <= status <= 599 and status != 304


def _method_reason(exchange: Exchange, rules: Rules, life: Lifetime) -> str:
    """Section 3, first item, and RFC 9110, section 9.3."""
    method = exchange.method
    if method == b"GET":
        request = exchange.request
        length = request.get(b"content-length")
        has_content = length is not None and length.strip(b"0 \t") != b""
        # Content in a GET has no meaning for a cache key, and an origin may heed it all the same.
        return "request-content" if has_content or b"transfer-encoding" in request else ""
    if method != b"POST" or not rules.stores_post:
        return "method"
    location = exchange.response.get(b"content-location")
    if location is None or exchange.status != 200 or not life.seconds or life.source == HEURISTIC:
        return "method"
    return "" if resolve(exchange.target_uri, location) == exchange.target_uri else "method"


def _directive_reason(exchange: Exchange, applicable: Applicable) -> str:
    """Section 3, items 3 to 5: no-store, must-understand, private."""
    directives = applicable.directives
    is_understood = exchange.status in UNDERSTOOD_STATUSES
    if directives.must_understand and not is_understood:
        return "must-understand"
    if directives.no_store and not directives.must_understand:
        return "no-store"
    if directives.private:
        return "private"
    return ""


def _request_reason(
    exchange: Exchange, applicable: Applicable, rules: Rules, life: Lifetime
) -> str:
    """Section 3.5, section 5.2.1.5, and cookies of both directions."""
    directives = applicable.directives
    if rules.honours_request and directives_of_request(exchange.request).no_store:
        return "request-no-store"
    allows_sharing = directives.public or directives.s_maxage is not None
    is_authorized = b"authorization" in exchange.request
    if is_authorized and not allows_sharing and not directives.must_revalidate:
        return "authorization"
    if allows_sharing or applicable.is_targeted:
        return ""
    if rules.cookie != COOKIE_RFC and b"cookie" in exchange.request:
        is_guess = life.source == HEURISTIC and life.seconds > 0
        if is_guess or rules.cookie == COOKIE_SHARED:
            return "cookie"
    if rules.set_cookie == SET_COOKIE_RFC:
        return ""
    hidden = directives.no_cache_fields + directives.private_fields
    has_cookie = b"set-cookie" in exchange.response and b"set-cookie" not in hidden
    return "set-cookie" if has_cookie else ""


def _freshness_reason(
    exchange: Exchange, applicable: Applicable, rules: Rules, life: Lifetime
) -> str:
    """Section 3, last item, and that what can never be reused is not worth storing."""
    is_allowed = (
        life.source != NONE
        or applicable.directives.public
        or exchange.status in rules.heuristic_statuses
    )
    if not is_allowed:
        return "status"
    response = exchange.response
    has_validator = (
        parse_entity_tag(response.get(b"etag") or b"") is not None
        or last_modified_value(response, exchange.response_s) is not None
    )
    if life.seconds == 0 and not has_validator and _permissions(applicable, rules)[:2] == (0, 0):
        return "no-freshness"
    if applicable.directives.no_cache and not has_validator:
        return "no-validator"
    return ""


def _content_reason(exchange: Exchange, rules: Rules) -> tuple[str, ContentRange | None]:
    """Sections 3.3 and 3.4: partial and incomplete content. The range is None if whole."""
    status, response = exchange.status, exchange.response
    is_partial = status == 206
    if not is_partial and exchange.is_complete:
        return "", None  # a Content-Range has no meaning there (RFC 9110, section 14.4)
    if not rules.stores_partial or exchange.method != b"GET" or status not in (200, 206):
        return "partial" if is_partial else "incomplete", None
    if not is_partial:
        size = _content_length(response)
        received = exchange.received_bytes
        if not size or not 0 < received < size:
            return "incomplete", None
        return "", ContentRange(0, received - 1, size)
    values = response.get_all(b"content-range")
    found = parse_content_range(values[0]) if len(values) == 1 else None
    if found is None or b"range" not in exchange.request or not exchange.is_complete:
        return "partial", None
    return "", found


def _content_length(response: Headers) -> int | None:
    length = response.get(b"content-length")
    return int(length) if length and length.isdigit() and len(length) <= 18 else None


def _permissions(applicable: Applicable, rules: Rules) -> tuple[int, int, int]:
    """Return for how long it may be served stale: refreshing, on errors, disconnected (4.2.4)."""
    directives = applicable.directives
    if directives.forbids_stale:
        return 0, 0, 0
    refreshing_s = directives.stale_while_revalidate
    error_s = directives.stale_if_error
    if refreshing_s is None:
        refreshing_s = rules.stale_while_revalidate_s or 0
    if error_s is None:
        error_s = rules.stale_if_error_s or 0
    return refreshing_s, error_s, min(rules.stale_on_disconnect_s, _SECONDS_MAX)


def _policy(
    exchange: Exchange,
    applicable: Applicable,
    rules: Rules,
    life: Lifetime,
    content: ContentRange | None,
) -> StoredPolicy:
    directives = applicable.directives
    response = exchange.response
    response_s = exchange.response_s
    date_s = date_value(response, response_s)
    flags = (
        (NO_CACHE if directives.no_cache else 0)
        | (FORBIDS_STALE if directives.forbids_stale else 0)
        | (IMMUTABLE if directives.immutable else 0)
        | (TARGETED if applicable.is_targeted else 0)
        | (HEURISTIC_LIFETIME if life.source == HEURISTIC else 0)
        | (PARTIAL if content is not None else 0)
        | (OLD_VERSION if exchange.minor == 0 else 0)
    )
    etag = response.get(b"etag") or b""
    refreshing_s, error_s, disconnect_s = _permissions(applicable, rules)
    return StoredPolicy(
        status=exchange.status,
        flags=flags,
        request_us=exchange.request_us,
        response_us=exchange.response_us,
        initial_age_us=initial_age_us(response, date_s, exchange.request_us, exchange.response_us),
        date_s=date_s,
        last_modified_s=last_modified_value(response, response_s),
        lifetime_s=life.seconds,
        stale_while_revalidate_s=refreshing_s,
        stale_if_error_s=error_s,
        stale_on_disconnect_s=disconnect_s,
        range_first=content.first if content else 0,
        range_last=content.last if content else 0,
        complete_bytes=-1 if content is None or content.complete is None else content.complete,
        etag=etag if parse_entity_tag(etag) is not None else b"",
    )


def with_date(headers: Headers, date_s: int) -> Headers:
    """Return the section with a Date, added if it has no valid one (RFC 9110, section 6.6.1)."""
    value = headers.get(b"date")
    if value is not None and parse_date(value, date_s) is not None:
        return headers
    return headers.replacing(b"date", format_date(date_s))


def assess(
    exchange: Exchange, rules: Rules = SAFE, known_range: ContentRange | None = None
) -> Assessment:
    """Decide whether a response may be stored by a shared cache (section 3).

    Args:
        exchange: The request and its response.
        rules: The operator's choices.
        known_range: The part of the representation that is stored, where an update of the metadata
            of a partial response is assessed and not the part itself.

    Returns:
        The stored form, or the reason against it: "method", "request-content", "status",
        "no-store", "must-understand", "private", "request-no-store", "authorization", "cookie",
        "set-cookie", "vary", "partial", "incomplete", "no-freshness", "no-validator",
        "header-size" or "malformed".

    *Cost*: about 30 us; once per response from the origin.
    """
    if not _is_of_the_resource(exchange):
        return Assessment("status")
    response = exchange.response
    applicable = applicable_directives(response, rules.target_list)
    if exchange.method == b"GET":  # most answers that are not stored are known by this alone
        reason = _method_reason(exchange, rules, NO_LIFETIME)
        reason = reason or _directive_reason(exchange, applicable)
        if reason:
            return Assessment(reason)
    date_s = date_value(response, exchange.response_s)
    life = lifetime(
        exchange.status,
        response,
        applicable.directives,
        applicable.is_targeted,
        rules,
        date_s,
        exchange.response_s,
    )
    reason = (
        _method_reason(exchange, rules, life)
        or _directive_reason(exchange, applicable)
        or _request_reason(exchange, applicable, rules, life)
        or _freshness_reason(exchange, applicable, rules, life)
    )
    if reason:
        return Assessment(reason)
    names = vary_names(response)
    if names is None or len(names) > VARY_NAMES_MAX:
        return Assessment("vary")
    content = known_range
    if content is None:
        reason, content = _content_reason(exchange, rules)
        if reason:
            return Assessment(reason)
    values = selecting(names, exchange.request, rules)
    header_bytes = sum(len(name) + len(value) + 4 for name, value in response)
    value_bytes = sum(len(name) + len(value or b"") + 6 for name, value in values)
    if header_bytes > HEADER_BYTES_MAX or value_bytes > SELECTING_BYTES_MAX:
        return Assessment("header-size")
    policy = _policy(exchange, applicable, rules, life, content)
    kept = storable_fields(with_date(response, date_s), applicable.directives)
    kept = kept.without(consumed_names(rules))
    if content is not None:  # both are made anew for every range that is served
        kept = kept.without((b"content-range", b"content-length"))
    try:
        return Assessment("", make_stored(policy, values, kept))
    except ArgumentError:  # a line end or NUL in a field that no parser should have let through
        return Assessment("malformed")
