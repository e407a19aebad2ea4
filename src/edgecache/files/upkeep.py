"""Going over all objects: for purges by prefix or tag, and to verify them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecache.errors import MetaFormatError
from edgecache.files.startup import NOT_AN_OBJECT
from edgecache.files.state import FLAG_TAGGED
from edgecache.meta import Meta

if TYPE_CHECKING:
    from edgecache.files.tier import FileTier

Progress = Callable[[int, int], object]
TRIES = 4
PROGRESS_OBJECTS = 256


def walk_keys(
    tier: FileTier, prefix: bytes | None, tag: bytes | None, progress: Progress | None
) -> list[bytes]:
    """Return the caller's keys of live objects that have this prefix and this tag."""
    found = []
    hashes = tier.state.index.hashes()
    wanted = tag.decode() if tag is not None else None
    for number, hash16 in enumerate(hashes, 1):
        key = _key_if(tier, hash16, prefix, wanted)
        if key is not None:
            found.append(key)
        if progress is not None and (number % PROGRESS_OBJECTS == 0 or number == len(hashes)):
            progress(number, len(hashes))
    return found


def _key_if(tier: FileTier, hash16: bytes, prefix: bytes | None, tag: str | None) -> bytes | None:
    """Return the key of an object, if it is live and has this prefix and this tag."""
    state = tier.state
    for _ in range(TRIES):
        entry = state.index.get(hash16)
        if entry is None or (entry[1] and entry[1] <= time.time_ns() // 1000):
            return None
        if tag is not None and not entry[5] & FLAG_TAGGED:
            return None
        found = state.files.read_meta(state.name_of(hash16, entry[4]))
        if not isinstance(found, int) and found[0] == entry[0]:
            break
    else:
        with tier.lock(hash16):
            entry = state.index.get(hash16)
            if entry is None:
                return None
            found = state.files.read_meta(state.name_of(hash16, entry[4]))
        if isinstance(found, int):
            if found in NOT_AN_OBJECT:
                tier.heal(hash16, entry[0])
            return None
    key = tier.plain_key(found[1], entry[5])
    if key is None or (prefix is not None and not key.startswith(prefix)):
        return None
    return key if tag is None or _has_tag(found[2], tag) else None


def _has_tag(meta: bytes, tag: str) -> bool:
    try:
        return tag in Meta.decode(meta).tags
    except MetaFormatError:
        return False


def scrub_objects(tier: FileTier, progress: Progress | None) -> tuple[int, int, int]:
    """Read and verify every object; (objects, bytes on the device, damaged and removed)."""
    state = tier.state
    objects = total_bytes = damaged = 0
    hashes = state.index.hashes()
    for number, hash16 in enumerate(hashes, 1):
        with tier.lock(hash16):
            entry = state.index.get(hash16)
            if entry is not None:
                found = state.files.read_object(state.name_of(hash16, entry[4]))
                if isinstance(found, int) and found in NOT_AN_OBJECT:
                    tier.heal(hash16, entry[0])
                    damaged += 1
                elif not isinstance(found, int):
                    objects += 1
                    total_bytes += entry[2]
        if progress is not None:
            progress(number, len(hashes))
    return objects, total_bytes, damaged
