"""Responses of which only parts are stored: served where they suffice, completed where not.

The parts are a sparse object of the store, under a key with a generation of its own; what is known
about the response (status, fields, validators, freshness) is an entry beside it.

Invariants:

1. All parts of a generation belong to one representation: same strong validator, same length.
   An answer that does not fit starts another generation, or replaces everything.
2. Nothing is read across a hole: a range that is not there is fetched, pinned by If-Range.
3. Parts that a request has found are pinned before it looks at what they hold, so `complete` of
   another request removes them only after it. Where they go all the same (another process that
   shares the store, an eviction), reading goes on from the complete response that took their place,
   if that is the same representation.

Source: RFC 9111, sections 3.3 and 3.4; RFC 9110, sections 13.1.5, 14 and 15.3.7.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from edgecache.errors import EdgeCacheError
from edgecache.proxy.asking import Asked
from edgecache.proxy.entries import (
    Library,
    meta_of,
    now_us,
    partial_key,
    parts_key,
    policy_in_force,
    tags_of,
)
from edgecache.proxy.exchange import OriginAnswer
from edgecache.proxy.problems import OriginError, OriginProtocolError
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.partial import completing, may_combine
from edgecache.rfc9111.preconditions import evaluate, representation_of
from edgecache.rfc9111.ranges import ByteRange, answer_range, parse_range
from edgecache.rfc9111.reuse import Action, Reuse, decide
from edgecache.rfc9111.stored import PARTIAL, StoredPolicy, StoredResponse, decode_stored
from edgecache.rfc9111.storing import assess

READ_BYTES = 256 << 10
GENERATION_BYTES = 16

Ask = Callable[[Headers], Awaitable[tuple[OriginAnswer, Exchange]]]


@dataclass(slots=True, weakref_slot=True)
class Partial:
    """A response of which parts are stored. While the object lives, its parts are not removed.

    Args:
        uri: Its URI.
        generation: Of its parts.
        stored: Policy and header section; the policy has the flag PARTIAL.
        policy: The policy in force.
        missing: Holes of the object, end exclusive.
    """

    uri: bytes
    generation: bytes
    stored: StoredResponse
    policy: StoredPolicy
    missing: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of the whole representation."""
        return self.policy.complete_bytes

    @property
    def key(self) -> bytes:
        """The key of the parts."""
        return parts_key(self.generation, self.uri)

    def gaps(self, part: ByteRange) -> list[ByteRange]:
        """Return what of a range is missing."""
        found = []
        for start, end in self.missing:
            first, last = max(start, part.first), min(end - 1, part.last)
            if first <= last:
                found.append(ByteRange(first, last))
        return found


@dataclass(slots=True)
class Plan:
    """How a request is answered from a partial response.

    Args:
        partial: The response.
        status: 200, 206, 304 or 416.
        part: What of it is asked for.
        gaps: What of that must be fetched.
        reuse: The decision.
    """

    partial: Partial
    status: int
    part: ByteRange
    gaps: list[ByteRange]
    reuse: Reuse


class Partials:
    """Finds, fills and completes partial responses.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_library",)

    def __init__(self, library: Library) -> None:
        self._library = library

    # Finding

    async def find(self, uri: bytes) -> Partial | None:
        """Return what is stored of a URI in part."""
        found = await self._library.store.get_entry(partial_key(uri))
        if found is None or found.meta is None:
            return None
        stored = decode_stored(found.meta.headers)
        if stored is None or len(found.value) != GENERATION_BYTES:
            return None
        partial = self._pinned(
            Partial(uri, found.value, stored, policy_in_force(stored, found.meta), ())
        )
        there = await self._library.store.availability(partial.key)
        if there is None or there.size != partial.size:
            await self._library.remove_partial(uri, found.value)
            return None
        partial.missing = there.missing
        return partial

    def _pinned(self, partial: Partial) -> Partial:
        self._library.pin(partial.key)
        weakref.finalize(partial, self._library.unpin, partial.key).atexit = False
        return partial

    def plan(self, partial: Partial, asked: Asked) -> Plan | None:
        """Decide how to answer from a partial response; None where that is of no use."""
        now = now_us()
        policy = partial.policy
        target = representation_of(policy)
        verdict = evaluate(asked.method, asked.headers, target, now // SECOND_US)
        whole = ByteRange(0, partial.size - 1)
        status, part = 200, whole
        if verdict.status == 304:
            status = 304
        elif verdict.uses_range:
            specs = parse_range(asked.headers.get(b"range") or b"")
            answer = answer_range(specs, partial.size)
            if answer.status == 416:
                status = 416
            elif len(answer.ranges) == 1:
                status, part = 206, answer.ranges[0]
            elif answer.ranges:
                return None
        gaps = partial.gaps(part) if status in (200, 206) and asked.is_get else []
        reuse = decide(policy, asked.facts, now, not gaps)
        if reuse.action in (Action.VALIDATE, Action.BYPASS):
            return None
        return Plan(partial, status, part, gaps, reuse)

    # Filling

    async def begin(self, asked: Asked, exchange: Exchange) -> Partial | None:
        """Start to store parts of a response; None where its head does not allow that."""
        verdict = assess(exchange, asked.rules)
        stored = verdict.stored
        if stored is None or stored.selecting or not stored.policy.flags & PARTIAL:
            return None
        size = stored.policy.complete_bytes
        limit = asked.route.stored_bytes_max
        if size <= 0 or (limit is not None and size > limit):
            return None
        generation = os.urandom(GENERATION_BYTES)
        library = self._library
        tags = tags_of(exchange.response, asked.uri)
        ttl_s = library.ttl_of(stored.policy)
        partial = self._pinned(Partial(asked.uri, generation, stored, stored.policy, ((0, size),)))
        try:
            await library.remove_partial(asked.uri)
            await library.store.create_sparse(partial.key, size, ttl=ttl_s)
            await library.store.put(
                partial_key(asked.uri), generation, ttl=ttl_s, meta=meta_of(stored, tags)
            )
        except EdgeCacheError:
            return None
        return partial

    async def drop(self, uri: bytes) -> None:
        """Remove what is stored of a response in part."""
        await self._library.remove_partial(uri)

    def fits(self, partial: Partial, asked: Asked, exchange: Exchange, gap: ByteRange) -> bool:
        """Say whether a 206 brings the bytes of a gap of this very representation."""
        verdict = assess(exchange, asked.rules)
        if verdict.stored is None or not may_combine(partial.policy, verdict.stored.policy):
            return False
        policy = verdict.stored.policy
        is_there = bool(policy.flags & PARTIAL) and policy.range_first == gap.first
        return is_there and policy.range_last <= gap.last

    async def record(
        self, partial: Partial, first: int, pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Give pieces on, and write them to the parts from position `first` on."""
        position = first
        is_kept = True
        try:
            async for piece in pieces:
                if is_kept:
                    is_kept = await self.write(partial, position, piece)
                position += len(piece)
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    async def write(self, partial: Partial, position: int, piece: bytes) -> bool:
        """Write bytes to the parts; False when the store takes no more."""
        try:
            return await self._library.store.write_range(partial.key, position, piece)
        except EdgeCacheError:
            return False

    # Serving

    async def assemble(
        self, plan: Plan, asked: Asked, ask: Ask, first: AsyncIterator[bytes] | None
    ) -> AsyncIterator[bytes]:
        """Give a range, from what is there and, gap by gap, from the origin.

        Args:
            plan: What is given.
            asked: The request.
            ask: Sends a request upstream.
            first: The bytes of the first gap, asked for already.
        """
        partial, part = plan.partial, plan.part
        position = part.first
        headers = asked.headers
        try:
            for number, gap in enumerate(plan.gaps):
                async for piece in self._present(partial, position, gap.first):
                    yield piece
                if number == 0 and first is not None:
                    pieces = first
                else:
                    pieces = await self._more(partial, asked, ask, headers, gap)
                position = gap.first
                async for piece in self.record(partial, gap.first, pieces):
                    position += len(piece)
                    yield piece
                if position <= gap.last:
                    raise OriginProtocolError("the origin sent less of a range than it said")
            async for piece in self._present(partial, position, part.last + 1):
                yield piece
        finally:
            close = getattr(first, "aclose", None)
            if close is not None:
                await close()
        await self.complete(partial)

    async def _more(
        self, partial: Partial, asked: Asked, ask: Ask, headers: Headers, gap: ByteRange
    ) -> AsyncIterator[bytes]:
        """Ask for another gap; the head of our answer is out, so nothing may have changed."""
        request = completing(headers, partial.policy, gap)
        assert request is not None, "the first gap was asked for by the same validator"
        answer, exchange = await ask(request)
        if answer.status != 206 or not self.fits(partial, asked, exchange, gap):
            answer.close()
            await self._library.remove_partial(partial.uri)
            raise OriginProtocolError("the representation changed between two of its ranges")
        return answer_pieces(answer)

    async def _present(self, partial: Partial, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            size = min(READ_BYTES, end - start)
            piece = await self._library.store.read_range(partial.key, start, size)
            if not piece:
                break
            start += len(piece)
            yield piece
        if start < end:
            async for piece in self._completed(partial, start, end):
                yield piece

    async def _completed(self, partial: Partial, start: int, end: int) -> AsyncIterator[bytes]:
        """Read of the complete response that took the place of the parts.

        Raises:
            OriginProtocolError: There is none, or it is of another representation.
        """
        hit = await self._library.store.lookup(partial.uri)
        if hit is None:
            raise OriginProtocolError("a stored range is gone")
        async with hit:
            stored = None if hit.meta is None else decode_stored(hit.meta.headers)
            is_same = stored is not None and may_combine(partial.policy, stored.policy)
            if not is_same or hit.size != partial.size:
                raise OriginProtocolError("a stored range is gone, and the representation changed")
            await hit.seek(start, end)
            while piece := await hit.read():
                start += len(piece)
                yield piece
        if start < end:
            raise OriginProtocolError("a stored response is gone while it was read")

    async def complete(self, partial: Partial) -> bool:
        """Make a complete response of parts that are all there; whether they were."""
        library = self._library
        there = await library.store.availability(partial.key)
        if there is None or there.missing:
            return False
        policy = partial.policy._replace(
            status=200,
            flags=partial.policy.flags & ~PARTIAL,
            range_first=0,
            range_last=0,
            complete_bytes=-1,
        )
        stored = partial.stored._replace(policy=policy)
        found = await library.store.get_entry(partial_key(partial.uri))
        if found is None or found.value != partial.generation or found.meta is None:
            return False  # purged, or begun anew
        try:
            async with await library.store.get_miss_handler(
                partial.uri,
                meta_of(stored, found.meta.tags),
                ttl=library.ttl_of(policy),
                size=partial.size,
            ) as miss:
                async for piece in self._present(partial, 0, partial.size):
                    await miss.write(piece)
                if not await library.store.exists(partial_key(partial.uri)):
                    return False
                await miss.finish()
        except (EdgeCacheError, OriginError):
            return False
        await library.settle(partial.uri, partial.uri, stored)
        return True

    async def keep_cut(self, asked: Asked, exchange: Exchange, data: bytes) -> None:
        """Keep the beginning of a response that was cut (RFC 9111, section 3.3)."""
        cut = replace(exchange, is_complete=False, received_bytes=len(data))
        partial = await self.begin(asked, cut)
        if partial is not None:
            await self.write(partial, 0, data)


async def answer_pieces(answer: OriginAnswer) -> AsyncIterator[bytes]:
    """Give the body of an answer, and let go of it."""
    try:
        while piece := await answer.read():
            yield piece
    finally:
        answer.close()


def first_range(asked: Asked) -> bytes | None:
    """Return the Range to forward where nothing is stored: one range, unless it is for a cache."""
    value = asked.headers.get(b"range")
    if value is None or len(asked.headers.get_all(b"range")) != 1:
        return None
    specs = parse_range(value)
    return value if specs is not None and len(specs) == 1 else None
