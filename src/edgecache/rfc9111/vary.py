"""Which stored response fits a request's header section (RFC 9111, section 4.1).

Two requests match if the fields that Vary names are equal after a normalisation that cannot change
their meaning. For a field whose syntax is known, white space around commas, empty members and the
case of case-insensitive parts go, and members are sorted where the order has no meaning. Of a field
that is not known only the white space around the value goes; several lines are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import SAFE, Rules
from edgecache.rfc9111.syntax import OWS, memoised, parse_qvalue, split_list

if TYPE_CHECKING:
    from edgecache.rfc9111.stored import StoredPolicy

VARY_NAMES_MAX = 32
"""A response that varies by more fields is not stored."""

Selecting = tuple[tuple[bytes, bytes | None], ...]
"""Selecting fields and their normalised values, sorted by name; None where a request has none."""

_MEMO_VALUE_BYTES_MAX = 256
_SORTED = frozenset((b"accept", b"accept-charset", b"accept-encoding", b"te", b"prefer"))
_LOWERED = frozenset((b"accept-charset", b"accept-encoding", b"accept-language", b"te"))
_LISTS = _SORTED | _LOWERED | {b"cache-control", b"connection", b"via", b"forwarded"}


@memoised
def _parse_vary(value: bytes) -> tuple[bytes, ...] | None:
    names = split_list(value)[0]
    if b"*" in names:
        return None
    return tuple(sorted({name.lower() for name in names}))


def vary_names(headers: Headers) -> tuple[bytes, ...] | None:
    """Return the fields that a response varies by, sorted, in lower case; None for `*`.

    A member that is no token can never be a request field; it is kept and always absent.
    """
    value = headers.combined(b"vary")
    return () if value is None else _parse_vary(value)


def _tidy_member(member: bytes) -> bytes:
    """Drop white space around the semicolons of `type/subtype;q=0.5`, lower the part before."""
    if b'"' in member:
        return member
    head, *parameters = (part.strip(OWS) for part in member.split(b";"))
    return b";".join([head.lower(), *parameters])


def normalise(name: bytes, value: bytes, rules: Rules = SAFE) -> bytes:
    """Return the value in a form that all values of the same meaning share, as far as is known."""
    if name not in _LISTS:
        return value.strip(OWS)
    is_sorted = name in _SORTED or (name == b"accept-language" and rules.sorts_languages)
    make = _normal_list if len(value) <= _MEMO_VALUE_BYTES_MAX else _normal_list.__wrapped__
    return make(value, name in _LOWERED, name == b"accept", is_sorted)


@lru_cache(maxsize=4096)
def _normal_list(value: bytes, is_lowered: bool, is_media: bool, is_sorted: bool) -> bytes:
    members, is_closed = split_list(value)
    if not is_closed:
        return value.strip(OWS)
    if is_lowered:
        members = [_tidy_member(member.lower()) for member in members]
    elif is_media:
        members = [_tidy_member(member) for member in members]
    if is_sorted:
        members.sort()
    return b",".join(members)


def choose_encoding(value: bytes | None, supported: tuple[bytes, ...]) -> bytes | None:
    """Reduce Accept-Encoding to the first supported coding that it accepts.

    Args:
        value: Combined value of the request; None if there is none.
        supported: Codings in lower case, preferred first.

    Returns:
        The value to forward and to tell variants by: one coding, or None for no field at all, which
        asks for no coding in particular but is answered with identity in practice.
    """
    if value is None:
        return None
    qvalues: dict[bytes, int] = {}
    for member in split_list(value)[0]:
        coding, _, weight = _tidy_member(member.lower()).partition(b";")
        q = parse_qvalue(weight[2:]) if weight.startswith(b"q=") else 1000 if not weight else None
        qvalues[coding] = 0 if q is None else q
    for coding in supported:
        if qvalues.get(coding, qvalues.get(b"*", 0)) > 0:
            return coding
    return None


def reduced_request(request: Headers, rules: Rules) -> Headers:
    """Return the request with Accept-Encoding reduced as `Rules.accept_encodings` says.

    What tells variants apart is what must be forwarded, or a variant would hold a coding that
    another request of the same variant does not accept.
    """
    value = request.combined(b"accept-encoding")
    if value is None or not rules.accept_encodings:
        return request
    coding = choose_encoding(value, rules.accept_encodings)
    if coding is None:
        return request.without((b"accept-encoding",))
    return request.replacing(b"accept-encoding", coding)


def selecting(names: Sequence[bytes], request: Headers, rules: Rules = SAFE) -> Selecting:
    """Return what the request gives for the fields that a response varies by."""
    found = []
    for name in names:
        value = request.combined(name)
        if name == b"accept-encoding" and rules.accept_encodings:
            found.append((name, choose_encoding(value, rules.accept_encodings)))
        else:
            found.append((name, None if value is None else normalise(name, value, rules)))
    return tuple(found)


def inherited(
    own: Selecting, known: Iterable[tuple[StoredPolicy, Selecting]], request: Headers, rules: Rules
) -> Selecting:
    """Return the selecting values to store a response with.

    Origins exist that send Vary on some responses of a URI only. A response without it takes the
    names of the most recent that has any (section 4.1), so that it does not answer everybody.

    Args:
        own: What `assess` found.
        known: Policies and selecting values of what is stored for the URI.
        request: Header section of the request.
        rules: The operator's choices.
    """
    varying = [(policy, values) for policy, values in known if values]
    if own or not varying:
        return own
    newest = varying[most_recent(policy for policy, _ in varying)][1]
    return selecting([name for name, _ in newest], request, rules)


def variance_input(values: Selecting) -> bytes:
    """Return bytes that are equal for matching requests only, for hashing.

    Lengths stand before the parts, and an absent field differs from an empty one. No selecting
    fields give b"", the input of a response without Vary.
    """
    parts: list[bytes] = []
    for name, value in values:
        parts += (len(name).to_bytes(2, "little"), name)
        if value is None:
            parts.append(b"\0")
        else:
            parts += (b"\1", len(value).to_bytes(4, "little"), value)
    return b"".join(parts)


def is_selected(stored: Selecting, request: Headers, rules: Rules = SAFE) -> bool:
    """Say whether a stored response with these selecting values fits the request."""
    return not stored or stored == selecting([name for name, _ in stored], request, rules)


def most_recent(policies: Iterable[StoredPolicy]) -> int:
    """Return the index of the response with the latest Date, the later received of equals.

    Source: RFC 9111, sections 4 and 4.1.

    Returns:
        -1 if there is none.
    """
    best = -1
    best_time = (0, 0)
    for index, policy in enumerate(policies):
        time = (policy.date_s, policy.response_us)
        if best < 0 or time > best_time:
            best, best_time = index, time
    return best
