"""What this door remembers of an entry besides its bytes: the header block of its meta.

    Header block, little-endian:
    | 0     2 | 2       3 | 3         4 | 4       6 | 6        8 | 8         | then     |
    | magic   | version   | etag length | type len. | reserved 0 | flags u32 | etag     | type
    The magic is "EA". Last-Modified is `Meta.created`. The tag is without its quotes; an empty one
    means none.

A block of another door, or none, is no error: the entry then has the default type, and its tag is
the hash of its bytes.
"""

from __future__ import annotations

import re
import struct
import time
from dataclasses import dataclass

import xxhash

from edgecache.meta import FLAG_HEADERS_ZSTD, FRESH_FOREVER, Meta

__all__ = ["Facts", "content_etag", "facts_of", "make_meta"]

TYPE_DEFAULT = "application/octet-stream"
TYPE_BYTES_MAX = 512
_HEAD = struct.Struct("<2sBBHHI")
_MAGIC = b"EA"
_VERSION = 1
_TYPE = re.compile(rb"[\t -~\x80-\xff]+")
_ETAG = re.compile(rb"[!#-~\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is sent about an entry.

    Args:
        content_type: As it was put.
        etag: Strong tag without quotes; None: made from the bytes.
        flags: The user's number.
        modified_s: Seconds since the epoch; None for an entry without a meta.
        fresh_until: As in `Meta`.
    """

    content_type: str = TYPE_DEFAULT
    etag: bytes | None = None
    flags: int = 0
    modified_s: int | None = None
    fresh_until: int = FRESH_FOREVER

    @property
    def is_fresh(self) -> bool:
        """Whether it may be served."""
        return self.fresh_until == FRESH_FOREVER or time.time_ns() // 1000 < self.fresh_until


NOTHING_KNOWN = Facts()


def content_etag(value: bytes) -> bytes:
    """Return the tag of these bytes: equal content has equal tags, in every process."""
    return xxhash.xxh3_128_hexdigest(value).encode("ascii")


def make_meta(content_type: bytes | None, etag: bytes, flags: int) -> Meta:
    """Make the meta of an entry that is stored now."""
    kind = content_type or b""
    block = _HEAD.pack(_MAGIC, _VERSION, len(etag), len(kind), 0, flags) + etag + kind
    now_us = time.time_ns() // 1000
    return Meta(created=now_us, updated=now_us, headers=block)


def facts_of(meta: Meta | None) -> Facts:
    """Read what a meta says; never an error."""
    if meta is None:
        return NOTHING_KNOWN
    modified_s = meta.created // 1_000_000
    block = b"" if meta.flags & FLAG_HEADERS_ZSTD else meta.headers
    if len(block) >= _HEAD.size:
        magic, version, etag_size, type_size, reserved, flags = _HEAD.unpack_from(block)
        etag = block[_HEAD.size : _HEAD.size + etag_size]
        kind = block[_HEAD.size + etag_size :]
        if (
            (magic, version, reserved) == (_MAGIC, _VERSION, 0)
            and len(kind) == type_size
            and _ETAG.fullmatch(etag)
            and (not kind or _TYPE.fullmatch(kind))
        ):
            content_type = kind.decode("latin-1") if kind else TYPE_DEFAULT
            return Facts(content_type, etag or None, flags, modified_s, meta.fresh_until)
    return Facts(modified_s=modified_s, fresh_until=meta.fresh_until)
