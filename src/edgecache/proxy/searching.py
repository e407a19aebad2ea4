"""Which stored URIs may answer another one whose query differs in what does not matter.

    0x00 "n" <path>             the No-Vary-Search values seen for a path, the newest first
    0x00 "q" <path> 0x00 <hash> the URIs stored with one of them, whose query says the same by it

A path is a URI without its query; the hash is of the value and of what it leaves of the query. The
index only finds: what it names may have gone, or say something else by now, so whoever uses it
compares the two URIs by the No-Vary-Search of the stored response itself.

Invariants:

1. No list is longer than its limit: the oldest members go.
2. An index that is lost, or incomplete, costs a request to the origin and nothing else.

Source: draft-ietf-httpbis-no-vary-search-10, section 7.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.search import (
    is_equivalent,
    parse_search_variance,
    search_variance,
    simplified_target,
)

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage

VALUES_MAX = 4
"""Values of No-Vary-Search remembered per path; a server should send one only."""
URIS_MAX = 8
"""URIs remembered of one meaning."""
VALUE_BYTES_MAX = 2048
"""A longer value is as if there were none."""
KEPT_S = 10.0 * 365 * 86_400

_FIELD = b"no-vary-search"
_SEPARATOR = b"\n"  # in no field value and in no URI


def path_of(uri: bytes) -> bytes:
    """Return a URI without its query."""
    return uri.partition(b"?")[0]


def values_key(path: bytes) -> bytes:
    """Return the key of the values seen for a path."""
    return b"\0n" + path


def uris_key(uri: bytes, value: bytes) -> bytes | None:
    """Return the key of the URIs that say the same as this one; None where all of it matters."""
    variance = parse_search_variance(value)
    if variance.is_default:
        return None
    meaning = xxh3_128_digest(value + b"\0" + simplified_target(uri, variance))
    return b"\0q" + path_of(uri) + b"\0" + meaning


def answers(uri: bytes, stored_uri: bytes, headers: Headers) -> bool:
    """Say whether a response that was stored for one URI may answer another."""
    return is_equivalent(uri, stored_uri, search_variance(headers))


class SearchIndex:
    """Finds stored URIs by what matters of their query.

    Args:
        store: Where it is kept, beside the responses.

    *Thread-safety*: belongs to one loop. *Cost*: two puts per response that has the field; a lookup
    is one get per path, and one more per value seen for it.
    """

    __slots__ = ("_lock", "_store")

    def __init__(self, store: AsyncStorage) -> None:
        self._store = store
        self._lock = asyncio.Lock()

    async def add(self, uri: bytes, headers: Headers) -> None:
        """Remember that a response is stored; nothing happens without a usable No-Vary-Search."""
        value = headers.combined(_FIELD)
        if value is None or len(value) > VALUE_BYTES_MAX or _SEPARATOR in value:
            return
        key = uris_key(uri, value)
        if key is None:
            return
        async with self._lock:
            await self._prepend(key, uri, URIS_MAX)
            await self._prepend(values_key(path_of(uri)), value, VALUES_MAX)

    async def _prepend(self, key: bytes, member: bytes, count_max: int) -> None:
        known = await self._members(key)
        if known[:1] == [member]:
            return
        members = [member, *(one for one in known if one != member)][:count_max]
        await self._store.put(key, _SEPARATOR.join(members), ttl=KEPT_S)

    async def _members(self, key: bytes) -> list[bytes]:
        data = await self._store.get(key)
        return data.split(_SEPARATOR) if data else []

    async def others(self, uri: bytes) -> list[bytes]:
        """Return the URIs, but for this one, that may be stored and say the same, newest first."""
        found: dict[bytes, None] = {}
        for value in await self._members(values_key(path_of(uri))):
            key = uris_key(uri, value)
            if key is not None:
                found.update(dict.fromkeys(await self._members(key)))
        found.pop(uri, None)
        return list(found)

    async def purge_prefix(self, prefix: bytes) -> None:
        """Forget what begins with a prefix of URIs; counts as no response."""
        await self._store.delete_prefix(values_key(prefix))
        await self._store.delete_prefix(b"\0q" + prefix)
