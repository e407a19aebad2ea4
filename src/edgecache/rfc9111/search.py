"""No-Vary-Search: which parts of the query do not matter (draft-ietf-httpbis-no-vary-search).

Used as the draft's section on caching proposes: a response is stored under its exact URI, and the
newest variance seen for a path gives a second, simplified key, which leads to that response.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.structured import InnerList, Item, Member, parse_dictionary
from edgecache.rfc9111.syntax import memoised


@dataclass(frozen=True, slots=True)
class SearchVariance:
    """What of a query matters.

    If `is_wildcard`, only the parameters in `names` matter; otherwise all but these.
    """

    is_wildcard: bool = False
    names: frozenset[str] = frozenset()
    varies_on_order: bool = True

    @property
    def is_default(self) -> bool:
        return self.varies_on_order and not self.is_wildcard and not self.names


EVERYTHING = SearchVariance()
"""The default: every byte of the query matters."""


def _key(text: bytes) -> str:
    """Decode as application/x-www-form-urlencoded does ("parse a key" of the draft)."""
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def _names(member: Member) -> frozenset[str] | None:
    if not isinstance(member, InnerList):
        return None
    names = []
    for item in member.items:
        if not isinstance(item.value, bytes):
            return None
        names.append(_key(item.value))
    return frozenset(names)


@memoised
def parse_search_variance(value: bytes) -> SearchVariance:
    """Parse No-Vary-Search; whatever is wrong gives the default, which matches least."""
    members = parse_dictionary(value)
    if not members:
        return EVERYTHING
    order = members.get(b"key-order", Item(False, {}))
    if not isinstance(order, Item) or not isinstance(order.value, bool):
        return EVERYTHING
    varies_on_order = not order.value
    params = members.get(b"params", Item(False, {}))
    is_wildcard = isinstance(params, Item) and params.value is True
    names: frozenset[str] | None = frozenset()
    if isinstance(params, InnerList):
        names = _names(params)
    elif not isinstance(params.value, bool):
        return EVERYTHING
    if b"except" in members:
        if not is_wildcard:
            return EVERYTHING
        names = _names(members[b"except"])
    if names is None:
        return EVERYTHING
    return SearchVariance(is_wildcard, names, varies_on_order)


def search_variance(headers: Headers) -> SearchVariance:
    """Return the variance of a response."""
    value = headers.combined(b"no-vary-search")
    return EVERYTHING if value is None else parse_search_variance(value)


def significant(query: bytes, variance: SearchVariance) -> list[tuple[str, str]]:
    """Return the parameters of a query that matter, in the order that counts."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            decoded = _key(name)
            if (decoded in variance.names) == variance.is_wildcard:
                pairs.append((decoded, _key(value)))
    if not variance.varies_on_order:
        # By UTF-16 code units, as the draft says; the sort is stable.
        pairs.sort(key=lambda pair: pair[0].encode("utf-16-be", "surrogatepass"))
    return pairs


def simplified_target(target: bytes, variance: SearchVariance) -> bytes:
    """Return path and query with only what matters, equal for equivalent targets and no others."""
    if variance.is_default:
        return target
    path, _, query = target.partition(b"?")
    pairs = significant(query, variance)
    parts = [f"{_quoted(name)}={_quoted(value)}" for name, value in pairs]
    return path + b"?" + "&".join(parts).encode("ascii")


def _quoted(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8"), safe="")


def is_equivalent(left: bytes, right: bytes, variance: SearchVariance) -> bool:
    """Say whether two targets of one origin are equivalent modulo search variance."""
    if left == right:
        return True
    return not variance.is_default and (
        simplified_target(left, variance) == simplified_target(right, variance)
    )
