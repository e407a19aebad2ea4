"""What a request asks of the cache, read once per request."""

from __future__ import annotations

from typing import NamedTuple

from edgecache.rfc9111.cache_control import (
    NO_REQUEST_DIRECTIVES,
    RequestDirectives,
    directives_of_request,
)
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import SAFE, Rules


class RequestFacts(NamedTuple):
    """What of a request bears on reuse.

    Args:
        directives: Of Cache-Control or Pragma; none if the rules do not honour them.
        may_reuse: Whether a stored response may answer it at all. False for methods other than GET
            and HEAD, for requests with content, and for If-Match and If-Unmodified-Since, which are
            meant for the origin (RFC 9111, section 4.3.2).
        has_range: Whether Range is there.
        is_conditional: Whether If-None-Match or If-Modified-Since is there.
    """

    directives: RequestDirectives
    may_reuse: bool
    has_range: bool
    is_conditional: bool


PLAIN = RequestFacts(NO_REQUEST_DIRECTIVES, True, False, False)
"""A GET or HEAD that asks nothing in particular; compared by identity."""

_WATCHED = frozenset(
    (
        *(b"cache-control", b"pragma", b"range", b"if-range", b"content-length"),
        *(b"transfer-encoding", b"if-match", b"if-unmodified-since", b"if-none-match"),
        b"if-modified-since",
    )
)


def request_facts(method: bytes, headers: Headers, rules: Rules = SAFE) -> RequestFacts:
    """Read a request. *Cost*: under 1 us for one that asks nothing in particular."""
    first = headers.first
    is_safe = method == b"GET" or method == b"HEAD"
    if is_safe and _WATCHED.isdisjoint(first):
        return PLAIN
    length = first.get(b"content-length")
    has_content = b"transfer-encoding" in first or (length is not None and length != b"0")
    is_for_origin = b"if-match" in first or b"if-unmodified-since" in first
    asked = NO_REQUEST_DIRECTIVES
    if rules.honours_request:
        asked = directives_of_request(headers, rules.ignores_fetch_no_cache)
    return RequestFacts(
        asked,
        is_safe and not has_content and not is_for_origin,
        b"range" in first and method == b"GET",
        b"if-none-match" in first or b"if-modified-since" in first,
    )
