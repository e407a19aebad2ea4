"""What an operator may decide where RFC 9111 leaves a choice, or where its letter is unsafe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from edgecache.errors import ArgumentError

HEURISTIC_STATUSES = frozenset((200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501))
"""Status codes that RFC 9110, section 15.1 calls heuristically cacheable."""

HEURISTIC_STATUSES_SAFE = HEURISTIC_STATUSES - {405, 414, 501}
"""Without those that a hostile request provokes from an honest origin (cache-poisoned denial)."""

UNDERSTOOD_STATUSES = frozenset(
    (
        *(200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 305, 307, 308),
        *(400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414),
        *(415, 416, 417, 421, 422, 426, 500, 501, 502, 503, 504, 505),
    )
)
"""Status codes of RFC 9110, whose caching requirements are implemented (section 5.2.2.3)."""

SET_COOKIE_SHARED = "shared"
SET_COOKIE_RFC = "rfc"
_SET_COOKIE_MODES = (SET_COOKIE_SHARED, SET_COOKIE_RFC)

COOKIE_EXPLICIT = "explicit"
COOKIE_SHARED = "shared"
COOKIE_RFC = "rfc"
_COOKIE_MODES = (COOKIE_EXPLICIT, COOKIE_SHARED, COOKIE_RFC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The choices of a shared cache; immutable, checked when made.

    Args:
        target_list: Targeted fields in lower case, the most applicable first (RFC 9213). With
            `surrogate-control` among them that field is obeyed, asked for and removed (Edge
            Architecture Specification).
        set_cookie: `shared` stores a response with Set-Cookie only if `public`, `s-maxage` or a
            targeted field says that it is for everybody; `rfc` does not look at Set-Cookie.
        cookie: What a Cookie in the request means, since the answer may be one person's page.
            `explicit` stores it only with a lifetime that the response states, never by heuristic;
            `shared` only if it says that it is for everybody; `rfc` does not look at Cookie.
        heuristic_statuses: Statuses that may be given a lifetime they do not state.
        heuristic_percent: Share of the time since Last-Modified taken as lifetime (section 4.2.2).
        heuristic_max_s: Longest lifetime by heuristic, seconds.
        status_ttl_s: Lifetime by status where a response states none (negative caching); comes
            before the heuristic, seconds.
        honours_request: Whether Cache-Control of requests counts (section 5.2.1).
        ignores_fetch_no_cache: Whether `Cache-Control: no-cache` with `Pragma: no-cache` means
            nothing beside If-None-Match, If-Modified-Since or If-Range. The Fetch API adds this
            pair of its own accord when a script sets such a field, to get past the cache of its
            browser; honoured here, no condition of such a client is ever answered by the cache.
            Either of the two alone, or with anything else, is honoured in any case.
        stale_on_disconnect_s: How long after its lifetime a response may be served when the origin
            cannot be reached and nothing forbids it (section 4.2.4), seconds.
        stale_if_error_s: The same for an error status, where the response does not say
            (RFC 5861, section 4); None leaves it to the response. Seconds.
        stale_while_revalidate_s: The same while it is refreshed (RFC 5861, section 3); None leaves
            it to the response. Seconds.
        forwards_conditions: Whether a miss is forwarded with the conditions of the client (section
            4.3.2). A 304 to it is passed on and leaves nothing stored, and such misses are not
            collapsed; without it the whole is fetched once, and the condition evaluated here.
        sorts_languages: Whether the order in Accept-Language does not tell requests apart. RFC
            9110, section 12.5.4 gives the order no meaning, but origins exist that do.
        accept_encodings: Content codings in lower case that variants are reduced to, preferred one
            first; () leaves Accept-Encoding alone.
        no_vary_search: Whether a stored response answers other queries of its path as far as its
            No-Vary-Search says that they mean the same (draft-ietf-httpbis-no-vary-search).
        stores_post: Whether a POST response with explicit freshness and a Content-Location equal
            to its target answers later GETs (RFC 9110, section 9.3.3).
        stores_partial: Whether 206 and incomplete responses are stored (sections 3.3, 3.4).

    Raises:
        ArgumentError: A value is out of its range.
    """

    target_list: tuple[bytes, ...] = (b"cdn-cache-control",)
    set_cookie: str = SET_COOKIE_SHARED
    cookie: str = COOKIE_EXPLICIT
    heuristic_statuses: frozenset[int] = HEURISTIC_STATUSES_SAFE
    heuristic_percent: int = 10
    heuristic_max_s: int = 86400
    status_ttl_s: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    honours_request: bool = True
    ignores_fetch_no_cache: bool = True
    stale_on_disconnect_s: int = 86400
    stale_if_error_s: int | None = None
    stale_while_revalidate_s: int | None = None
    forwards_conditions: bool = False
    sorts_languages: bool = False
    accept_encodings: tuple[bytes, ...] = ()
    no_vary_search: bool = False
    stores_post: bool = True
    stores_partial: bool = True

    def __post_init__(self) -> None:
        if self.set_cookie not in _SET_COOKIE_MODES:
            raise ArgumentError(
                "set_cookie is not a mode", expected=_SET_COOKIE_MODES, found=self.set_cookie
            )
        if self.cookie not in _COOKIE_MODES:
            raise ArgumentError("cookie is not a mode", expected=_COOKIE_MODES, found=self.cookie)
        if not 0 <= self.heuristic_percent <= 100:
            raise ArgumentError(
                "heuristic_percent is out of range",
                expected="0 to 100",
                found=self.heuristic_percent,
            )
        seconds = (self.heuristic_max_s, self.stale_on_disconnect_s)
        if min(seconds) < 0:
            raise ArgumentError("a time is negative", found=min(seconds))
        for name in (*self.target_list, *self.accept_encodings):
            if name != name.lower() or not name:
                raise ArgumentError("a name is empty or not in lower case", found=name)

    def changed(self, **changes: object) -> Rules:
        """Return these rules with some of them replaced, as a route would."""
        return replace(self, **changes)  # type: ignore[arg-type]


SAFE = Rules()
"""The default: the RFC, and the stricter side where its letter is unsafe in practice."""

LETTER = Rules(
    target_list=(b"cdn-cache-control", b"surrogate-control"),
    set_cookie=SET_COOKIE_RFC,
    cookie=COOKIE_RFC,
    heuristic_statuses=HEURISTIC_STATUSES,
    ignores_fetch_no_cache=False,
    forwards_conditions=True,
    sorts_languages=True,
)
"""`profile: rfc`: what the RFC permits, and what specifications for gateways have besides it."""
