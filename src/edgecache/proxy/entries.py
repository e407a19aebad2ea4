"""Stored responses in the store: how they are found, saved and removed.

    <uri>                               the response of a URI that does not vary
    <uri> 0x00 <generation> <hash>      a variant
    0x00 "v" <uri>                      the list of variants
    0x00 "p" <uri>                      what is known about a response of which parts are stored
    0x00 "s" <generation> <uri>         the parts: a sparse object
    0x00 "n" ..., 0x00 "q" ...          the index of No-Vary-Search (searching.py)

No URI holds a zero byte or begins with one. So all responses below a prefix of URIs, and nothing
else, are the entries whose keys begin with that prefix.

Invariants:

1. A response is used only if its own selecting values fit the request: the hash only finds it.
2. A response that does not vary takes the place of all variants, and a variant that of a response
   that did not vary: the newest answer of the origin decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecache.meta import ENGINE_OBJECT, Meta, engine_flags_of
from edgecache.proxy.searching import SearchIndex, answers
from edgecache.proxy.variants import VariantList, variance_of
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.key import origin_of_uri
from edgecache.rfc9111.rules import Rules
from edgecache.rfc9111.stored import (
    FORBIDS_STALE,
    StoredPolicy,
    StoredResponse,
    decode_stored,
    encode_stored,
)
from edgecache.rfc9111.tags import cache_groups, surrogate_tags
from edgecache.rfc9111.vary import inherited, is_selected, most_recent

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.objects.async_hit import AsyncHit

KIND_RESPONSE = 0x0100
"""The door's flag in a meta: a stored response of HTTP."""
URI_BYTES_MAX = 8192 - 64
LIST_TTL_S = 10.0 * 365 * 86_400
INLINE_BYTES_MAX = 256 << 10
FORBIDDEN_KEPT_S = 600
"""How long a stale response is kept that neither can be validated nor may be served: the cache
knows by it that a failure is a 504 (RFC 9111, section 5.2.2.2), not that it never had anything."""

PENDING: Any = NotImplemented
"""What a synchronous lookup returns when the disk must be asked."""


@dataclass(slots=True)
class Entry:
    """A stored response.

    Args:
        key: In the store.
        stored: Policy, selecting values and header section.
        policy: The policy in force; that of `stored` unless it was purged softly.
        size: Bytes of the body.
        body: The body where it is short, else None.
        version: Names this very version of the entry; None where it does not come from RAM.
    """

    key: bytes
    stored: StoredResponse
    policy: StoredPolicy
    size: int
    body: bytes | None
    version: tuple[int, int] | None = None
    tags: tuple[str, ...] = ()


def list_key(uri: bytes) -> bytes:
    """Return the key of the list of variants."""
    return b"\0v" + uri


def partial_key(uri: bytes) -> bytes:
    """Return the key of what is known about a partial response."""
    return b"\0p" + uri


def parts_key(generation: bytes, uri: bytes) -> bytes:
    """Return the key of the parts of a partial response."""
    return b"\0s" + generation + uri


def now_us() -> int:
    """Return the time, microseconds since the epoch."""
    return time.time_ns() // 1000


def meta_of(stored: StoredResponse, tags: Iterable[str]) -> Meta:
    """Return the meta of a stored response."""
    policy = stored.policy
    return Meta(
        created=policy.response_us,
        updated=policy.response_us,
        fresh_until=max(1, policy.fresh_until_us),
        stale_while_revalidate=policy.stale_while_revalidate_s,
        stale_if_error=policy.stale_if_error_s,
        flags=KIND_RESPONSE,
        status=policy.status,
        variance=variance_of(stored.selecting) if stored.selecting else bytes(16),
        tags=tuple(tags),
        headers=encode_stored(stored),
    )


def age_us_of(policy: StoredPolicy, moment_us: int) -> int:
    """Return the age of a stored response, microseconds (RFC 9111, section 4.2.3)."""
    return max(0, moment_us - policy.response_us) + policy.initial_age_us


def tags_of(headers: Headers, uri: bytes) -> tuple[str, ...]:
    """Return the tags of a response."""
    groups = cache_groups(headers, origin_of_uri(uri))
    return tuple(dict.fromkeys((*surrogate_tags(headers), *groups)))


_LENGTH = b"Content-Length: "
_LENGTH_INSIDE = b"\r\n" + _LENGTH


def without_length(stored: StoredResponse | None) -> StoredResponse | None:
    """Return a stored response without Content-Length: the size of the body is known better.

    Its lines are cut as bytes: names stand in their usual spelling, and no value holds CR or LF.
    """
    if stored is None:
        return None
    wire = stored.wire
    while True:
        at = 0 if wire.startswith(_LENGTH) else wire.find(_LENGTH_INSIDE) + 2
        if at == 1:  # not found
            return stored if wire is stored.wire else stored._replace(wire=wire)
        wire = wire[:at] + wire[wire.index(b"\r\n", at) + 2 :]


def policy_in_force(stored: StoredResponse, meta: Meta) -> StoredPolicy:
    """Return the policy; one that is stale from the moment on at which it was purged softly."""
    policy = stored.policy
    if meta.fresh_until < policy.fresh_until_us and meta.fresh_until > policy.response_us:
        return policy.expired(meta.fresh_until)
    if meta.fresh_until < policy.fresh_until_us:
        return policy.expired(policy.response_us)
    return policy


class Library:
    """The stored responses of a proxy.

    Args:
        store: Where they are.
        keep_stale_s: How long a stale one with a validator is kept.
        variants_max: Per URI.
        search: The index of No-Vary-Search; None: the field is not looked at.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_doomed",
        "_keep_stale_s",
        "_locks",
        "_pins",
        "_storage",
        "_variants_max",
        "search",
        "store",
    )

    def __init__(
        self,
        store: AsyncStorage,
        keep_stale_s: int,
        variants_max: int,
        search: SearchIndex | None = None,
    ) -> None:
        self.store = store
        self.search = search
        self._storage = store.storage
        self._keep_stale_s = keep_stale_s
        self._variants_max = variants_max
        self._locks: dict[bytes, asyncio.Lock] = {}
        self._pins: dict[bytes, int] = {}
        self._doomed: set[bytes] = set()

    # Finding

    def load_now(self, key: bytes) -> Entry | None:
        """Return what RAM has; None for a certain miss, `PENDING` when the disk must be asked."""
        storage = self._storage
        if storage.needs_disk(key):
            return PENDING  # type: ignore[no-any-return]
        found = storage.read_entry(key)
        if found is None:
            return None
        value, encoded, _, version, location = found
        if engine_flags_of(encoded) & ENGINE_OBJECT:
            return PENDING  # type: ignore[no-any-return]
        return _entry(key, Meta.decode(encoded), len(value), value, (version, location))

    async def load(self, key: bytes) -> Entry | None:
        """Return the response of a key, from any tier."""
        entry = self.load_now(key)
        if entry is not PENDING:
            return entry
        hit = await self.store.lookup(key)
        if hit is None or hit.size is None or hit.meta is None:
            return None
        async with hit:
            size = hit.size
            body = await hit.read() if size <= INLINE_BYTES_MAX else None
            if body is not None and len(body) < size:
                body = b"".join([body, *[piece async for piece in hit]])
        if body is not None and len(body) != size:
            return None
        return _entry(key, hit.meta, size, body, None)

    async def open(self, entry: Entry) -> AsyncHit | None:
        """Return the body of a large entry, None when it has gone or was replaced."""
        hit = await self.store.lookup(entry.key)
        if hit is None:
            return None
        meta = hit.meta
        if hit.size != entry.size or meta is None or meta.headers != encode_stored(entry.stored):
            hit.close()
            return None
        return hit

    async def follow(self, write_id: int) -> tuple[AsyncHit, StoredResponse, int | None] | None:
        """Return a response that another process is writing, and its size where that is known."""
        leases = self._storage.leases
        view = None if leases is None else leases.find_stream(None, write_id)
        if view is None:
            return None
        hit = await self.store.lookup_streaming_write(view.key, write_id.to_bytes(8, "big"))
        if hit is None:
            return None
        meta = hit.meta
        is_response = meta is not None and meta.flags & KIND_RESPONSE
        stored = decode_stored(meta.headers) if meta is not None and is_response else None
        if stored is None:
            hit.close()
            return None
        return hit, stored, view.expected

    def find_now(self, uri: bytes, request: Headers, rules: Rules) -> tuple[Entry | None, bool]:
        """Return the response that fits a request, and whether the URI has variants at all.

        The entry is `PENDING` when the disk must be asked.
        """
        entry = self.load_now(uri)
        if entry is not None:
            return entry, False
        if self._storage.needs_disk(list_key(uri)):
            return PENDING, False
        known = self._list_now(uri)
        if known is None:
            return None, False
        found: list[Entry] = []
        for variance in known.candidates(request, rules):
            entry = self.load_now(uri + b"\0" + known.generation + variance)
            if entry is PENDING:
                return PENDING, True
            if entry is not None and is_selected(entry.stored.selecting, request, rules):
                found.append(entry)
        return _newest(found), True

    def may_have(self, uri: bytes) -> bool:
        """Say whether anything is stored for a URI, as far as memory knows. Counts nothing."""
        storage = self._storage
        keys = (uri, list_key(uri))
        return any(storage.needs_disk(key) or storage.exists(key) for key in keys)

    async def find(self, uri: bytes, request: Headers, rules: Rules) -> tuple[Entry | None, bool]:
        """As `find_now`, from any tier."""
        entry = await self.load(uri)
        if entry is not None:
            return entry, False
        known = await self._list(uri)
        if known is None:
            return None, False
        found: list[Entry] = []
        for variance in known.candidates(request, rules):
            entry = await self.load(uri + b"\0" + known.generation + variance)
            if entry is not None and is_selected(entry.stored.selecting, request, rules):
                found.append(entry)
        return _newest(found), True

    async def find_equivalent(self, uri: bytes, request: Headers, rules: Rules) -> Entry | None:
        """Return a response of another URI whose No-Vary-Search lets it answer this one."""
        if self.search is None:
            return None
        for other in await self.search.others(uri):
            entry, _ = await self.find(other, request, rules)
            if entry is not None and answers(uri, other, entry.stored.headers):
                return entry
        return None

    def _list_now(self, uri: bytes) -> VariantList | None:
        data = self._storage.get(list_key(uri))
        return None if data is None else VariantList.decode(data)

    async def _list(self, uri: bytes) -> VariantList | None:
        data = await self.store.get(list_key(uri))
        return None if data is None else VariantList.decode(data)

    # Saving

    def ttl_of(self, policy: StoredPolicy) -> float:
        """How long to keep a response, seconds: while it is of use, fresh or stale."""
        left_s = (policy.fresh_until_us - now_us()) / SECOND_US
        stale_s = max(
            policy.stale_while_revalidate_s, policy.stale_if_error_s, policy.stale_on_disconnect_s
        )
        if policy.has_validator:
            stale_s = max(stale_s, self._keep_stale_s)
        elif policy.flags & FORBIDS_STALE:
            stale_s = max(stale_s, min(self._keep_stale_s, FORBIDDEN_KEPT_S))
        return max(1.0, left_s + stale_s)

    async def key_for(self, uri: bytes, stored: StoredResponse) -> bytes:
        """Return the key for a response, and prepare its place among the variants of the URI."""
        if not stored.selecting:
            return uri
        async with self._lock(uri):
            known = await self._list(uri) or VariantList()
            dropped = known.add(stored.selecting, self._variants_max)
            await self.store.put(list_key(uri), known.encode(), ttl=LIST_TTL_S)
            for variance in dropped:
                await self.remove(uri + b"\0" + known.generation + variance)
        return uri + b"\0" + known.generation + variance_of(stored.selecting)

    async def inheriting(
        self, uri: bytes, stored: StoredResponse, request: Headers, rules: Rules
    ) -> StoredResponse:
        """Return what to store; without Vary, beside fresh ones that have it, it varies, too.

        Origins exist that leave out Vary where a request has nothing that they vary by. What they
        answer then must not answer everybody (RFC 9111, section 4.1).
        """
        if stored.selecting:
            return stored
        known = await self._list(uri)
        if known is None:
            return stored
        now = now_us()
        pairs = []
        for variance in known.hashes():
            entry = await self.load(uri + b"\0" + known.generation + variance)
            if entry is None or entry.policy.fresh_until_us <= now:
                continue
            if b"vary" in entry.stored.headers:  # its own: else nothing would ever end it
                pairs.append((entry.policy, entry.stored.selecting))
        return stored._replace(selecting=inherited((), pairs, request, rules))

    async def settle(self, uri: bytes, key: bytes, stored: StoredResponse) -> None:
        """Remove what a response that was just saved takes the place of."""
        if self.search is not None:
            await self.search.add(uri, stored.headers)
        if key != uri:
            if await self.store.exists(uri):
                await self.remove(uri)
            return
        await self.remove_partial(uri)
        if await self.store.exists(list_key(uri)):
            await self._remove_variants(uri)

    async def save(
        self, uri: bytes, stored: StoredResponse, body: bytes, tags: Iterable[str]
    ) -> bytes | None:
        """Save a response whose body is at hand; its key, None when the store shed it."""
        key = await self.key_for(uri, stored)
        ttl_s = self.ttl_of(stored.policy)
        if not await self.store.put(key, body, ttl=ttl_s, meta=meta_of(stored, tags)):
            return None
        await self.settle(uri, key, stored)
        return key

    def save_now(
        self, uri: bytes, stored: StoredResponse, body: bytes, tags: Iterable[str]
    ) -> bytes | None:
        """As `save`; `PENDING` where that would have to wait, and nothing was done."""
        storage = self._storage
        others = (partial_key(uri), list_key(uri))
        if stored.selecting or len(body) > INLINE_BYTES_MAX:
            return PENDING  # type: ignore[no-any-return]
        if any(storage.needs_disk(key) or storage.exists(key) for key in others):
            return PENDING  # type: ignore[no-any-return]
        ttl_s = self.ttl_of(stored.policy)
        is_stored = storage.try_put(uri, body, ttl=ttl_s, meta=meta_of(stored, tags))
        if is_stored is None:
            return PENDING  # type: ignore[no-any-return]
        return uri if is_stored else None

    async def freshen(self, entry: Entry, stored: StoredResponse) -> Entry | None:
        """Give an entry another policy and header section; None when it has gone meanwhile."""
        meta = meta_of(stored, entry.tags)
        if not await self.store.update_meta(entry.key, meta):
            return None
        await self.store.touch(entry.key, self.ttl_of(stored.policy))
        return replace(entry, stored=stored, policy=stored.policy, version=None)

    # Removing

    async def remove(self, key: bytes) -> bool:
        """Remove one complete response; whether there was one."""
        return await self.store.purge(key)

    async def remove_partial(self, uri: bytes, generation: bytes | None = None) -> bool:
        """Remove what is stored of a partial response; whether there was anything.

        Args:
            uri: Its URI.
            generation: Remove it only if its parts are of this generation.
        """
        found = await self.store.get_entry(partial_key(uri))
        if found is None or generation not in (None, found.value):
            return False
        existed = await self.store.delete(partial_key(uri))
        key = parts_key(found.value, uri)
        if self._pins.get(key):
            self._doomed.add(key)
        else:
            await self.store.purge(key)
        return existed

    def pin(self, key: bytes) -> None:
        """Keep the parts under a key while somebody reads them."""
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: bytes) -> None:
        """Let go of parts; they are removed if they were to be removed meanwhile."""
        self._pins[key] -= 1
        if not self._pins[key]:
            del self._pins[key]
            if key in self._doomed and not self.store.closed:
                self._doomed.discard(key)
                self._storage.purge(key)

    async def purge(self, uri: bytes) -> int:
        """Remove all responses of a URI; how many there were."""
        count = int(await self.remove(uri)) + int(await self.remove_partial(uri))
        return count + await self._remove_variants(uri)

    async def same_as(self, uri: bytes) -> list[bytes]:
        """Return a URI, and those whose stored responses may answer it by their No-Vary-Search."""
        if self.search is None:
            return [uri]
        return [uri, *await self.search.others(uri)]

    async def expire(self, uri: bytes) -> int:
        """Make all responses of a URI stale; how many were fresh."""
        keys = [uri]
        known = await self._list(uri)
        if known is not None:
            keys += [uri + b"\0" + known.generation + variance for variance in known.hashes()]
        count = int(await self.remove_partial(uri))
        for key in keys:
            entry = await self.load(key)
            if entry is not None and entry.policy.fresh_until_us > now_us():
                expired = entry.stored._replace(policy=entry.policy.expired(now_us()))
                count += await self.store.update_meta(key, meta_of(expired, entry.tags))
        return count

    async def _remove_variants(self, uri: bytes) -> int:
        async with self._lock(uri):
            known = await self._list(uri)
            await self.store.delete(list_key(uri))
        count = 0
        if known is not None:
            for variance in known.hashes():
                count += await self.remove(uri + b"\0" + known.generation + variance)
        return count

    async def purge_prefix(self, prefix: bytes) -> int:
        """Remove all responses whose URI begins with a prefix; how many there were."""
        count = await self.store.delete_prefix(prefix)
        await self.store.delete_prefix(list_key(prefix))
        if self.search is not None:
            await self.search.purge_prefix(prefix)
        return count + await self.store.delete_prefix(partial_key(prefix))

    def _lock(self, uri: bytes) -> asyncio.Lock:
        """The lock of a URI's list; it lives while somebody holds or awaits it."""
        lock = self._locks.get(uri)
        if lock is None:
            if len(self._locks) > 1_000:
                self._locks = {key: one for key, one in self._locks.items() if one.locked()}
            lock = self._locks[uri] = asyncio.Lock()
        return lock


def _newest(found: list[Entry]) -> Entry | None:
    place = most_recent([entry.policy for entry in found])
    return None if place < 0 else found[place]


def _entry(
    key: bytes, meta: Meta, size: int, body: bytes | None, version: tuple[int, int] | None
) -> Entry | None:
    if not meta.flags & KIND_RESPONSE:
        return None
    stored = decode_stored(meta.headers)
    if stored is None:
        return None
    return Entry(key, stored, policy_in_force(stored, meta), size, body, version, meta.tags)
