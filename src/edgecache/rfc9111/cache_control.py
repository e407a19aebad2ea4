"""Cache-Control and Pragma: the directives of a request and of a response (RFC 9111, section 5.2).

What is done where the RFC leaves a choice, always towards the stricter side:

- A directive that takes seconds and occurs more than once: the first value, as section 4.2.1 says,
  unless a later one is smaller, then the response counts as stale (the same section's other
  choice).
- An argument that is no delta-seconds: stale (0), or no permission for the stale-* directives.
- Both argument forms are taken for every directive (section 5.2), also for the field lists.
- `no-cache` and `private` with a list that is empty or holds something else than field names: as
  without a list. With and without a list in one response: as without.
- An argument where none belongs (`no-store=1`) does not weaken the directive.
- A quoted string without its end: directives that restrict are still looked for after it; those
  that grant freshness are not believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.syntax import (
    DELTA_SECONDS_MAX,
    is_token,
    memoised,
    parse_delta_seconds,
    split_list,
    token_prefix,
    unquote,
)


class Directive(NamedTuple):
    """One directive: name in lower case, argument without its quotes or None.

    `is_valid` is False where the argument is neither a token nor a quoted-string.
    """

    name: bytes
    argument: bytes | None
    is_valid: bool


def parse_directives(value: bytes) -> tuple[list[Directive], bool]:
    """Split a combined Cache-Control value into directives, and say whether all quotes end.

    A member that does not begin with a token is left out.
    """
    members, is_closed = split_list(value)
    directives = []
    for member in members:
        name, separator, argument = member.partition(b"=")
        if not separator:
            token = token_prefix(member)
            if token:
                directives.append(Directive(token.lower(), None, token == member))
            continue
        if not is_token(name):
            token = token_prefix(name)
            if token:
                directives.append(Directive(token.lower(), None, False))
        elif is_token(argument):
            directives.append(Directive(name.lower(), argument, True))
        else:
            text = unquote(argument)
            directives.append(Directive(name.lower(), text, text is not None))
    return directives, is_closed


@dataclass(frozen=True, slots=True)
class ResponseDirectives:
    """The directives of a response, from Cache-Control or a targeted field.

    Seconds are None where the directive is absent and 0 where its argument is invalid.
    `no_cache_fields` and `private_fields` hold names in lower case; they are empty where the
    directive stands without a list, and then the flag is set.
    """

    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: tuple[bytes, ...] = ()
    private: bool = False
    private_fields: tuple[bytes, ...] = ()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    no_transform: bool = False
    immutable: bool = False
    is_malformed: bool = False
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    unknown: tuple[Directive, ...] = ()

    @property
    def forbids_stale(self) -> bool:
        """Whether a shared cache may never serve it stale (sections 4.2.4, 5.2.2.2, .8, .10)."""
        is_strict = self.must_revalidate or self.proxy_revalidate or self.no_cache
        return is_strict or self.s_maxage is not None


NO_RESPONSE_DIRECTIVES = ResponseDirectives()

_FLAGS = {
    name: name.decode().replace("-", "_")
    for name in (
        *(b"no-store", b"public", b"must-revalidate", b"proxy-revalidate", b"must-understand"),
        *(b"no-transform", b"immutable"),
    )
}
_SECONDS = {b"max-age": "max_age", b"s-maxage": "s_maxage"}
_STALE = {
    b"stale-while-revalidate": "stale_while_revalidate",
    b"stale-if-error": "stale_if_error",
}
_LISTS = {b"no-cache": "no_cache", b"private": "private"}


def _seconds(directive: Directive) -> int | None:
    if not directive.is_valid or directive.argument is None:
        return None
    return parse_delta_seconds(directive.argument)


def _field_names(directive: Directive) -> tuple[bytes, ...]:
    """Return the names in the argument, or () if the directive counts as one without."""
    if not directive.is_valid or directive.argument is None:
        return ()
    names = split_list(directive.argument)[0]
    return tuple(name.lower() for name in names) if all(map(is_token, names)) else ()


def collect_response(directives: Iterable[Directive], is_closed: bool = True) -> ResponseDirectives:
    """Fold directives into one record, by the rules in the head of this module."""
    seen: dict[str, bool | int] = {}
    fields: dict[str, tuple[bytes, ...]] = {}
    unknown = []
    for directive in directives:
        name = directive.name
        if name in _SECONDS:
            seconds = _seconds(directive)
            key = _SECONDS[name]
            if key not in seen:
                seen[key] = 0 if seconds is None else seconds
            elif seconds is None or seconds < seen[key]:
                seen[key] = 0
        elif name in _FLAGS:
            seen[_FLAGS[name]] = True
        elif name in _LISTS:
            names = _field_names(directive)
            if names:
                key = _LISTS[name] + "_fields"
                fields[key] = fields.get(key, ()) + names
            else:
                seen[_LISTS[name]] = True
        elif name in _STALE:
            key = _STALE[name]
            seen[key] = min(_seconds(directive) or 0, seen.get(key, DELTA_SECONDS_MAX))
        else:
            unknown.append(directive)
    if not is_closed:
        seen.update(is_malformed=True, public=False)
        for key in ("max_age", "s_maxage", "stale_while_revalidate", "stale_if_error"):
            if key in seen:
                seen[key] = 0
    kept = {key: names for key, names in fields.items() if not seen.get(key[: -len("_fields")])}
    return ResponseDirectives(**seen, **kept, unknown=tuple(unknown))  # type: ignore[arg-type]


@memoised
def response_directives(value: bytes) -> ResponseDirectives:
    """Parse the combined Cache-Control value of a response."""
    return collect_response(*parse_directives(value))


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """The directives of a request (section 5.2.1, and stale-if-error of RFC 5861).

    Seconds are None where the directive is absent. An invalid argument means the strictest: 0 for
    max-age, 2**31 for min-fresh, and no permission for max-stale and stale-if-error. `max_stale`
    without an argument is 2**31.
    """

    no_cache: bool = False
    no_store: bool = False
    no_transform: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    stale_if_error: int | None = None


NO_REQUEST_DIRECTIVES = RequestDirectives()

_REQUEST_FLAGS = {
    b"no-cache": "no_cache",
    b"no-store": "no_store",
    b"no-transform": "no_transform",
    b"only-if-cached": "only_if_cached",
}


@memoised
def request_directives(value: bytes) -> RequestDirectives:
    """Parse the Cache-Control value of a request; of repeated directives the strictest counts."""
    directives, is_closed = parse_directives(value)
    flags: dict[str, bool] = {}
    seconds: dict[str, int] = {}
    for directive in directives:
        name = directive.name
        given = _seconds(directive)
        if name in _REQUEST_FLAGS:
            flags[_REQUEST_FLAGS[name]] = True
        elif name == b"max-age":
            seconds["max_age"] = min(given or 0, seconds.get("max_age", DELTA_SECONDS_MAX))
        elif name == b"min-fresh":
            fresh = DELTA_SECONDS_MAX if given is None else given
            seconds["min_fresh"] = max(fresh, seconds.get("min_fresh", 0))
        elif name == b"max-stale" and is_closed:
            is_any = directive.argument is None and directive.is_valid
            stale = DELTA_SECONDS_MAX if is_any else given or 0
            seconds["max_stale"] = min(stale, seconds.get("max_stale", DELTA_SECONDS_MAX))
        elif name == b"stale-if-error" and is_closed:
            tolerated = seconds.get("stale_if_error", DELTA_SECONDS_MAX)
            seconds["stale_if_error"] = min(given or 0, tolerated)
    return RequestDirectives(**flags, **seconds)  # type: ignore[arg-type]


# Source: Fetch Standard, section 4.5, "HTTP-network-or-cache fetch".
_FETCH_CONDITIONS = frozenset((b"if-none-match", b"if-modified-since", b"if-range"))


@memoised
def _has_no_cache_pragma(value: bytes) -> bool:
    return any(directive.name == b"no-cache" for directive in parse_directives(value)[0])


def directives_of_request(headers: Headers, ignores_fetch: bool = False) -> RequestDirectives:
    """Return the directives of a request, Pragma included.

    `Pragma: no-cache` counts only where there is no Cache-Control. RFC 9111, section 5.4 deprecates
    it and leaves it to HTTP/1.0 clients, for whom this is what it meant (RFC 7234, section 5.4). In
    a response it means nothing.

    Args:
        headers: Header section of the request.
        ignores_fetch: Whether exactly `Cache-Control: no-cache` with `Pragma: no-cache`, beside a
            condition, means nothing (`Rules.ignores_fetch_no_cache`).
    """
    value = headers.combined(b"cache-control")
    pragma = headers.combined(b"pragma")
    if value is not None:
        is_pair = ignores_fetch and value == pragma == b"no-cache"
        if is_pair and not _FETCH_CONDITIONS.isdisjoint(headers.first):
            return NO_REQUEST_DIRECTIVES
        return request_directives(value)
    if pragma is not None and _has_no_cache_pragma(pragma):
        return RequestDirectives(no_cache=True)
    return NO_REQUEST_DIRECTIVES
