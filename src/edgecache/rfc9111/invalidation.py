"""What a response to an unsafe request makes invalid (RFC 9111, section 4.4; RFC 9875, section
3)."""

from __future__ import annotations

from typing import NamedTuple

from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.key import origin_of_uri, resolve
from edgecache.rfc9111.tags import invalidated_groups

SAFE_METHODS = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"REPORT", b"SEARCH", b"QUERY", b"PRI")
)
"""Methods that are registered as safe; any other, known or not, may change something."""


class Invalidation(NamedTuple):
    """URIs, all variants of which are to go, and tags of groups."""

    uris: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()


NOTHING = Invalidation()


def is_safe(method: bytes) -> bool:
    """Say whether the method is safe (RFC 9110, section 9.2.1); methods are case-sensitive."""
    return method in SAFE_METHODS


def invalidated(exchange: Exchange) -> Invalidation:
    """Return what a response invalidates: nothing if the method is safe or the response an error.

    The target, and Location and Content-Location if they are of the same origin (section 4.4). The
    groups of Cache-Group-Invalidation, which does not cascade.
    """
    if is_safe(exchange.method) or not 200 <= exchange.status < 400:
        return NOTHING
    target = exchange.target_uri
    origin = origin_of_uri(target)
    uris = {target: None}
    for name in (b"location", b"content-location"):
        for value in exchange.response.get_all(name):
            found = resolve(target, value)
            if found is not None and origin_of_uri(found) == origin:
                uris[found] = None
    return Invalidation(tuple(uris), invalidated_groups(exchange.response, origin))
