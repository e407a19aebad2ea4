"""Parts of one representation: which are there, which are missing, which belong together.

RFC 9111, sections 3.3 and 3.4; RFC 9110, section 15.3.7.3.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgecache.rfc9111.dates import format_date
from edgecache.rfc9111.etags import is_strong_match
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.ranges import ByteRange, ContentRange
from edgecache.rfc9111.stored import PARTIAL, StoredPolicy, StoredResponse


def is_strong_date(policy: StoredPolicy) -> bool:
    """Say whether Last-Modified is a strong validator here (RFC 9110, section 8.8.2.2).

    The response must be at least a second younger than the modification.
    """
    modified_s = policy.last_modified_s
    return modified_s is not None and policy.date_s >= modified_s + 1


def may_combine(left: StoredPolicy, right: StoredPolicy) -> bool:
    """Say whether two responses are parts of the same bytes: same strong validator, same length.

    Entity tags decide if either has one; only without any the dates do.
    """
    lengths = (left.complete_bytes, right.complete_bytes)
    if lengths[0] != lengths[1] and min(lengths) >= 0:
        return False
    if left.etag or right.etag:
        tags = (left.entity_tag, right.entity_tag)
        return tags[0] is not None and tags[1] is not None and is_strong_match(tags[0], tags[1])
    is_same_date = left.last_modified_s == right.last_modified_s
    return is_same_date and is_strong_date(left) and is_strong_date(right)


def joined(parts: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
    """Return the parts sorted, those that overlap or touch joined."""
    result: list[ByteRange] = []
    for part in sorted(parts):
        if result and part.first <= result[-1].last + 1:
            result[-1] = ByteRange(result[-1].first, max(result[-1].last, part.last))
        else:
            result.append(part)
    return tuple(result)


def missing(present: Iterable[ByteRange], wanted: ByteRange) -> tuple[ByteRange, ...]:
    """Return the parts of `wanted` that are not present, in order."""
    gaps = []
    first = wanted.first
    for part in joined(present):
        if part.last < first:
            continue
        if part.first > wanted.last:
            break
        if part.first > first:
            gaps.append(ByteRange(first, part.first - 1))
        first = part.last + 1
    if first <= wanted.last:
        gaps.append(ByteRange(first, wanted.last))
    return tuple(gaps)


def covers(policy: StoredPolicy, wanted: Iterable[ByteRange]) -> bool:
    """Say whether a stored response holds all of these ranges."""
    if not policy.flags & PARTIAL:
        return True
    return all(policy.range_first <= part.first and part.last <= policy.range_last
               for part in wanted)  # fmt: skip


def combined(stored: StoredResponse, part: ContentRange) -> StoredResponse | None:
    """Return a stored part grown by another one, which `may_combine` allowed (section 3.4).

    With the last missing byte it is a complete 200 with its Content-Length (RFC 9110, section
    15.3.7.3).

    Returns:
        None if there is a gap between the two: a record holds one range. A store that keeps a map
        of presence uses `missing` instead, and calls this when all is there.
    """
    policy = stored.policy
    if part.first > policy.range_last + 1 or part.last + 1 < policy.range_first:
        return None
    first, last = min(policy.range_first, part.first), max(policy.range_last, part.last)
    complete = policy.complete_bytes if part.complete is None else part.complete
    if first or last + 1 != complete:
        grown = policy._replace(range_first=first, range_last=last, complete_bytes=complete)
        return stored._replace(policy=grown)
    whole = policy._replace(
        status=200, flags=policy.flags & ~PARTIAL, range_first=0, range_last=0, complete_bytes=-1
    )
    length = b"%d" % complete
    return stored._replace(
        policy=whole, wire=stored.headers.replacing(b"content-length", length).to_wire()
    )


def if_range(policy: StoredPolicy) -> bytes | None:
    """Return the value of If-Range that pins a request to this representation; None if none can."""
    tag = policy.entity_tag
    if tag is not None:
        return tag.encode() if tag.is_strong else None
    if policy.last_modified_s is None or not is_strong_date(policy):
        return None
    return format_date(policy.last_modified_s)


def completing(request: Headers, policy: StoredPolicy, gap: ByteRange) -> Headers | None:
    """Return the request that fetches a gap, or None if no validator could pin it.

    A 206 answers with the same bytes; a 200 says that they have changed and brings the new ones.
    """
    pin = if_range(policy)
    if pin is None:
        return None
    bare = request.without((b"range", b"if-range", b"if-none-match", b"if-modified-since"))
    return Headers.of_lower((*bare.pairs, (b"range", b"bytes=%d-%d" % gap), (b"if-range", pin)))
