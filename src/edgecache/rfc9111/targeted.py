"""Targeted cache control (RFC 9213): CDN-Cache-Control and others of a configured list.

A targeted field is a Structured Fields dictionary, parsed strictly: one fault, and it is as if it
were not there. The first valid, non-empty field of the list replaces Cache-Control and Expires.

Surrogate-Control came before that (Edge Architecture Specification 1.0, W3C Note, section 2.3) and
has a grammar of its own: directives as in Cache-Control, of which each may name the surrogates that
it is for, and `max-age=60+30`, where the second number is for how long it may be served stale.
"""

from __future__ import annotations

from typing import NamedTuple

from edgecache.rfc9111.cache_control import (
    NO_RESPONSE_DIRECTIVES,
    Directive,
    ResponseDirectives,
    collect_response,
    parse_directives,
    response_directives,
)
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import Rules
from edgecache.rfc9111.structured import Item, Member, Token, parse_dictionary
from edgecache.rfc9111.syntax import OWS, memoised, split_list

_TAKES_SECONDS = frozenset(
    (b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"),
)
_STALE = (b"stale-while-revalidate", b"stale-if-error")
SURROGATE_CONTROL = b"surrogate-control"
SURROGATE_NAME = b"edgecache"
"""What a directive of Surrogate-Control is to name if it names any surrogate."""
_TAKES_FIELDS = frozenset((b"no-cache", b"private"))


def _directive(name: bytes, member: Member) -> Directive | None:
    """Map a member to a directive; None if its type is not one that it may have (section 2.1).

    Seconds are Integers. A max-age that is a Decimal or a String must not be coerced; the directive
    is kept as invalid, so that the response counts as stale rather than as without a lifetime.
    """
    value = member.value if isinstance(member, Item) else None
    if name in _TAKES_SECONDS:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Directive(name, b"%d" % value, True)
        return Directive(name, None, False)
    if value is False:
        return None
    if name in _TAKES_FIELDS and isinstance(value, bytes):
        return Directive(name, value, True)
    if value is True:
        return Directive(name, None, True)
    if isinstance(value, Token):
        return Directive(name, value.text, True)
    return Directive(name, None, False)


@memoised
def targeted_directives(value: bytes) -> ResponseDirectives | None:
    """Parse a targeted field; None if it is invalid or empty and must be ignored."""
    members = parse_dictionary(value)
    if not members:
        return None
    found = [_directive(name, member) for name, member in members.items()]
    return collect_response([directive for directive in found if directive is not None])


def _surrogate_directives(member: bytes) -> list[Directive]:
    """Read one directive of Surrogate-Control; none if it is for other surrogates only."""
    directive, _, names = member.partition(b";")
    if names and SURROGATE_NAME not in names.split(b";"):
        return []
    found, _ = parse_directives(directive.strip(OWS))
    if len(found) != 1 or found[0].name != b"max-age" or not found[0].argument:
        return found
    fresh, plus, stale = found[0].argument.partition(b"+")
    parts = [Directive(b"max-age", fresh, True)]
    if plus:
        parts += (Directive(name, stale, True) for name in _STALE)
    return parts


@memoised
def surrogate_directives(value: bytes) -> ResponseDirectives | None:
    """Parse Surrogate-Control; None without any directive for this surrogate."""
    members, is_closed = split_list(value)
    found = [directive for member in members for directive in _surrogate_directives(member)]
    return collect_response(found, is_closed) if found else None


class Applicable(NamedTuple):
    """The directives that apply to a response, and whether a targeted field gave them."""

    directives: ResponseDirectives
    is_targeted: bool


def consumed_names(rules: Rules) -> tuple[bytes, ...]:
    """Return the fields that are for this cache alone: what obeys Surrogate-Control removes it."""
    return (SURROGATE_CONTROL,) if SURROGATE_CONTROL in rules.target_list else ()


def applicable_directives(headers: Headers, target_list: tuple[bytes, ...]) -> Applicable:
    """Choose between the targeted fields and Cache-Control (RFC 9213, section 2.2).

    Args:
        headers: Header section of the response.
        target_list: Names of targeted fields in lower case, the most applicable first.
    """
    for name in target_list:
        value = headers.combined(name)
        if value is not None:
            parse = surrogate_directives if name == SURROGATE_CONTROL else targeted_directives
            directives = parse(value)
            if directives is not None:
                return Applicable(directives, True)
    value = headers.combined(b"cache-control")
    if value is None:
        return Applicable(NO_RESPONSE_DIRECTIVES, False)
    return Applicable(response_directives(value), False)
