"""Names that responses are grouped by: Cache-Groups (RFC 9875), Surrogate-Key, Cache-Tag.

Results are tags for an entry's meta. A group is qualified by its origin, because two origins may
use one name (RFC 9875, section 2.1); a group and a tag never share a name.
"""

from __future__ import annotations

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.structured import parse_strings
from edgecache.rfc9111.syntax import split_list

TAG_COUNT_MAX = 128
"""Tags kept of one response, of each kind; RFC 9875 asks for 32 at least."""
TAG_BYTES_MAX = 256
"""Longer names are left out; RFC 9875 asks for 32 characters at least."""


def _kept(names: list[bytes]) -> tuple[bytes, ...]:
    unique = dict.fromkeys(name for name in names if 0 < len(name) <= TAG_BYTES_MAX)
    return tuple(unique)[:TAG_COUNT_MAX]


def surrogate_tags(headers: Headers) -> tuple[str, ...]:
    """Return the tags that Surrogate-Key (split at blanks) and Cache-Tag (at commas) give."""
    names = []
    for value in headers.get_all(b"surrogate-key"):
        names += value.split()
    for value in headers.get_all(b"cache-tag"):
        names += split_list(value)[0]
    return tuple(name.decode("latin-1") for name in _kept(names))


def group_tag(origin: bytes, group: bytes) -> str:
    """Return the tag of a cache group of an origin (`https://host:443`).

    An origin holds no blank, so a blank tells where it ends; the first character cannot begin a
    Surrogate-Key.
    """
    return " " + origin.decode("latin-1") + " " + group.decode("latin-1")


def cache_groups(headers: Headers, origin: bytes) -> tuple[str, ...]:
    """Return the tags of the groups that a response belongs to; an invalid field gives none."""
    return _group_tags(headers, b"cache-groups", origin)


def invalidated_groups(headers: Headers, origin: bytes) -> tuple[str, ...]:
    """Return the tags that Cache-Group-Invalidation names.

    The caller asks only for responses to unsafe requests (RFC 9875, section 3).
    """
    return _group_tags(headers, b"cache-group-invalidation", origin)


def _group_tags(headers: Headers, name: bytes, origin: bytes) -> tuple[str, ...]:
    value = headers.combined(name)
    if value is None:
        return ()
    strings = parse_strings(value)
    if strings is None:
        return ()
    return tuple(group_tag(origin, group) for group in _kept(list(strings)))
