"""Entity tags and their comparison (RFC 9110, section 8.8.3).

Origins exist that send tags without quotes. Such a tag is kept with `is_valid` False: it equals
only the very same bytes, counts as weak, and so is good for a 304 but never for joining ranges.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from edgecache.rfc9111.syntax import OWS, memoised

_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_BARE = re.compile(rb"[\x21\x23-\x2b\x2d-\x7e\x80-\xff]+")


class EntityTag(NamedTuple):
    """An entity tag: `opaque` holds its quotes."""

    opaque: bytes
    is_weak: bool
    is_valid: bool

    @property
    def is_strong(self) -> bool:
        return self.is_valid and not self.is_weak

    def encode(self) -> bytes:
        """Return the bytes for a field value."""
        return b"W/" + self.opaque if self.is_weak and self.is_valid else self.opaque


ANY_TAG = (EntityTag(b"*", True, False),)
"""What `parse_entity_tags` gives for `*`."""


@memoised
def parse_entity_tag(value: bytes) -> EntityTag | None:
    """Parse the value of ETag; None if not even the lenient form fits."""
    found = _TAG.fullmatch(value)
    if found is not None:
        return EntityTag(found.group(2), found.group(1) is not None, True)
    return EntityTag(value, True, False) if _BARE.fullmatch(value) else None


@memoised
def parse_entity_tags(value: bytes) -> tuple[EntityTag, ...] | None:
    """Parse If-Match or If-None-Match: `ANY_TAG`, a tuple of tags, or None if malformed.

    A comma inside a tag is part of it, so the list cannot be split at commas first.
    """
    if value.strip(OWS) == b"*":
        return ANY_TAG
    tags = []
    position = 0
    end = len(value)
    while position < end:
        if value[position] in b" \t,":
            position += 1
            continue
        found = _TAG.match(value, position) or _BARE.match(value, position)
        if found is None:
            return None
        tag = parse_entity_tag(found.group())
        position = found.end()
        rest = value[position : position + 1]
        if tag is None or (rest and rest not in b" \t,"):
            return None
        tags.append(tag)
    return tuple(tags) if tags else None


def is_strong_match(left: EntityTag, right: EntityTag) -> bool:
    """Compare strongly (RFC 9110, section 8.8.3.2): both strong, and equal."""
    return left.is_strong and right.is_strong and left.opaque == right.opaque


def is_weak_match(left: EntityTag, right: EntityTag) -> bool:
    """Compare weakly (RFC 9110, section 8.8.3.2): equal but for the weakness."""
    return left.opaque == right.opaque and left.is_valid == right.is_valid
