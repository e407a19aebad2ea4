"""What ordinary entries lack: a generation, and a meta where none was given."""

from __future__ import annotations

import time
from collections.abc import Iterable

import xxhash

from edgecache.meta import Meta


def version_of(value: bytes) -> int:
    """Return the generation of an ordinary entry: a hash of its bytes."""
    return int(xxhash.xxh3_64_intdigest(value))


def meta_with(meta: Meta | None, tags: Iterable[str]) -> Meta:
    """Return a meta with these tags added; a new one where there is none."""
    if isinstance(tags, str):
        raise TypeError("tags must be a collection of str, not a single one")
    if meta is None:
        now_us = time.time_ns() // 1000
        return Meta(created=now_us, updated=now_us, tags=tuple(tags))
    if not isinstance(meta, Meta):
        raise TypeError(f"meta is {type(meta).__name__}, not Meta")
    added = tuple(tags)
    return meta.with_tags((*meta.tags, *added)) if added else meta
