"""Preconditions of a request against a representation (RFC 9110, section 13; RFC 9111, 4.3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgecache.rfc9111.dates import parse_date
from edgecache.rfc9111.etags import (
    ANY_TAG,
    EntityTag,
    is_strong_match,
    is_weak_match,
    parse_entity_tag,
    parse_entity_tags,
)
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US, date_value, last_modified_value
from edgecache.rfc9111.stored import StoredPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """The validators of what a request is about; `exists` is False where there is nothing.

    `date_s` is when it was generated or received, for If-Modified-Since without Last-Modified.
    """

    exists: bool = True
    entity_tag: EntityTag | None = None
    last_modified_s: int | None = None
    date_s: int | None = None


NOTHING = Representation(exists=False)


def representation_of(policy: StoredPolicy) -> Representation:
    """Return the validators of a stored response.

    Conditions and ranges are about a stored 200 or 206 only (RFC 9111, section 4.3.2; RFC 9110,
    sections 13.2.1, 14.2): of any other status there is nothing that they could be about.
    """
    if policy.status not in (200, 206):
        return NOTHING
    return Representation(
        entity_tag=policy.entity_tag,
        last_modified_s=policy.last_modified_s,
        date_s=min(policy.date_s, policy.response_us // SECOND_US),
    )


def representation(headers: Headers, now_s: int) -> Representation:
    """Return the validators of a 200 that passes and is not stored."""
    return Representation(
        entity_tag=parse_entity_tag(headers.get(b"etag") or b""),
        last_modified_s=last_modified_value(headers, now_s),
        date_s=date_value(headers, now_s),
    )


class Verdict(NamedTuple):
    """`status` is 0 to go on, 304 or 412; `uses_range` says whether Range counts."""

    status: int
    uses_range: bool


_NOT_MODIFIED = Verdict(304, False)
_FAILED = Verdict(412, False)


def evaluate(
    method: bytes, request: Headers, target: Representation, now_s: int, is_origin: bool = False
) -> Verdict:
    """Evaluate the preconditions in the order of RFC 9110, section 13.2.2.

    Args:
        method: Exact bytes of the method.
        request: Header section of the request.
        target: The selected representation. A cache calls this only where the answer without
            conditions would be its stored 200 or 206.
        now_s: Seconds since the epoch.
        is_origin: True for a door that is the origin of what it serves. A cache leaves If-Match and
            If-Unmodified-Since to the origin (RFC 9111, section 4.3.2).
    """
    first = request.first
    is_read = method == b"GET" or method == b"HEAD"
    if is_origin and not _origin_conditions_hold(request, target, now_s):
        return _FAILED
    if b"if-none-match" in first:
        if not _none_matches(request, target):
            return _NOT_MODIFIED if is_read else _FAILED
    elif is_read and b"if-modified-since" in first and not _is_modified(request, target, now_s):
        return _NOT_MODIFIED
    uses_range = method == b"GET" and b"range" in first and target.exists
    if uses_range and b"if-range" in first:
        uses_range = _is_range_valid(first[b"if-range"], target, now_s)
    return Verdict(0, uses_range)


def _origin_conditions_hold(request: Headers, target: Representation, now_s: int) -> bool:
    value = request.combined(b"if-match")
    if value is not None:
        tags = parse_entity_tags(value)
        if tags == ANY_TAG:
            return target.exists
        own = target.entity_tag
        # A malformed list matches nothing: the client asked for care.
        return own is not None and any(is_strong_match(tag, own) for tag in tags or ())
    value = request.get(b"if-unmodified-since")
    if value is None or target.last_modified_s is None:
        return True
    since_s = parse_date(value, now_s)
    return since_s is None or target.last_modified_s <= since_s


def _none_matches(request: Headers, target: Representation) -> bool:
    """Section 13.1.2; a malformed list matches nothing."""
    tags = parse_entity_tags(request.combined(b"if-none-match") or b"")
    if tags == ANY_TAG:
        return not target.exists
    own = target.entity_tag
    return own is None or not any(is_weak_match(tag, own) for tag in tags or ())


def _is_modified(request: Headers, target: Representation, now_s: int) -> bool:
    """Section 13.1.3, and for a cache without Last-Modified RFC 9111, section 4.3.2."""
    values = request.get_all(b"if-modified-since")
    since_s = parse_date(values[0], now_s) if len(values) == 1 else None
    if since_s is None or not target.exists:
        return True
    changed_s = target.last_modified_s if target.last_modified_s is not None else target.date_s
    return changed_s is None or changed_s > since_s


def _is_range_valid(value: bytes, target: Representation, now_s: int) -> bool:
    """Section 13.1.5: strong comparison; a date must be equal and strong."""
    if value.startswith((b'"', b"W/")):
        tag, own = parse_entity_tag(value), target.entity_tag
        return tag is not None and own is not None and is_strong_match(tag, own)
    wanted_s = parse_date(value, now_s)
    modified_s = target.last_modified_s
    if wanted_s is None or modified_s is None or wanted_s != modified_s:
        return False
    return target.date_s is not None and target.date_s >= modified_s + 1


# Representation metadata that a 304 leaves out (RFC 9110, section 15.4.5).
_METADATA = frozenset(
    (
        *(b"content-encoding", b"content-language", b"content-length", b"content-range"),
        *(b"content-type", b"content-md5", b"content-digest", b"repr-digest", b"digest"),
        *(b"accept-ranges", b"trailer", b"transfer-encoding"),
    )
)


def not_modified_fields(headers: Headers) -> Headers:
    """Return the fields of a 304 made of a stored response (RFC 9110, section 15.4.5).

    Without the metadata that the client has; Last-Modified stays where there is no ETag.
    """
    fields = headers.without(_METADATA)
    return fields.without((b"last-modified",)) if b"etag" in fields else fields
