"""What changes stored responses besides fetching them: purges, unsafe requests, answers to HEAD.

Every way of removing reaches the answers that are on their way as well, first of all: what a purge
means must not be published after it.

Source: RFC 9111, sections 4.3.5 and 4.4; RFC 9875, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgecache.errors import EdgeCacheError
from edgecache.proxy.entries import Entry, Library, meta_of, now_us, tags_of, without_length
from edgecache.proxy.exchange import OriginAnswer
from edgecache.proxy.recording import Recordings
from edgecache.proxy.searching import path_of
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.invalidation import invalidated
from edgecache.rfc9111.key import KEY_BYTES_MAX
from edgecache.rfc9111.storing import assess
from edgecache.rfc9111.validation import freshen, head_matches

if TYPE_CHECKING:
    from edgecache.proxy.asking import Asked
    from edgecache.proxy.flights import Flights
    from edgecache.proxy.predictor import Predictor
    from edgecache.proxy.statistics import Tally

# Of an answer to POST that is kept for later GETs.
POST_BYTES_MAX = 1 << 20


class Changes:
    """Removes and changes stored responses.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_flights", "_library", "_predictor", "_recordings", "_tally")

    def __init__(
        self,
        library: Library,
        recordings: Recordings,
        flights: Flights,
        predictor: Predictor,
        tally: Tally,
    ) -> None:
        self._library = library
        self._recordings = recordings
        self._flights = flights
        self._predictor = predictor
        self._tally = tally

    # Purges

    async def purge(self, uri: bytes, soft: bool = False) -> int:
        """Remove all responses of a URI, or make them stale; how many there were.

        Args:
            uri: A target URI in normal form.
            soft: Make fresh ones stale instead; they may be served while they are refreshed, or on
                errors, as far as their origin allows.
        """
        self._stop(uri)
        count = 0
        for each in await self._library.same_as(uri):
            self._stop(each)
            self._predictor.clear(each)
            count += await (self._library.expire(each) if soft else self._library.purge(each))
        self._tally.purged += count
        return count

    def _stop(self, uri: bytes) -> None:
        """Keep answers for a URI that are on their way from being published.

        With No-Vary-Search it is not known yet for which other queries of the path they are.
        """
        if self._library.search is None:
            self._recordings.purge(uri=uri)
        else:
            self._recordings.purge(prefix=path_of(uri))
        self._flights.purge(uri)

    async def purge_prefix(self, prefix: bytes) -> int:
        """Remove all responses whose URI begins with a prefix; how many there were.

        *Cost*: the store is walked once.
        """
        self._recordings.purge(prefix=prefix)
        self._flights.purge(None, prefix)
        count = await self._library.purge_prefix(prefix)
        self._tally.purged += count
        return count

    async def purge_tag(self, tag: str, soft: bool = False) -> int:
        """Remove all responses that have a tag, or make them stale; how many there were.

        *Cost*: the tagged part of the store is walked once.
        """
        self._recordings.purge(tag=tag)
        self._flights.purge()
        count = await self._library.store.purge_tag(tag, soft)
        self._tally.purged += count
        return count

    async def purge_everything(self) -> int:
        """Remove every stored response, and nothing that other doors put; how many there were."""
        self._recordings.purge()
        self._flights.purge()
        self._predictor.reset()
        count = 0
        for scheme in (b"http://", b"https://"):
            count += await self._library.purge_prefix(scheme)
        self._tally.purged += count
        return count

    # What passes

    async def invalidate(self, exchange: Exchange) -> int:
        """Remove what an answer to an unsafe request makes invalid; how many responses."""
        found = invalidated(exchange)
        count = 0
        for uri in found.uris:
            if len(uri) <= KEY_BYTES_MAX - 64:
                self._stop(uri)
                for each in await self._library.same_as(uri):
                    self._stop(each)
                    count += await self._library.purge(each)
        for tag in found.tags:
            self._recordings.purge(tag=tag)
            count += await self._library.store.purge_tag(tag)
        self._tally.invalidated += count
        return count

    async def learn_from_head(self, asked: Asked, entry: Entry, exchange: Exchange) -> None:
        """Freshen, or outdate, a stored response by an answer to HEAD."""
        if exchange.status != 200:
            return
        now = now_us()
        if head_matches(entry.stored, exchange.response, entry.size, now // SECOND_US):
            fresh = freshen(entry.stored, exchange, asked.rules)
            if fresh.drops:
                await self._library.remove(entry.key)
            elif fresh.stored is not None:
                tags = tags_of(fresh.stored.headers, asked.uri)
                await self._library.freshen(replace(entry, tags=tags), fresh.stored)
            return
        outdated = entry.stored._replace(policy=entry.policy.expired(now))
        await self._library.store.update_meta(entry.key, meta_of(outdated, entry.tags))

    async def keep_post(
        self, asked: Asked, answer: OriginAnswer, exchange: Exchange
    ) -> bytes | None:
        """Store the answer to a POST that says which GET it answers; its body, None if it passes.

        Source: RFC 9110, section 9.3.3.
        """
        verdict = assess(exchange, asked.rules)
        stored = without_length(verdict.stored)
        if stored is None or answer.length is None or answer.length > POST_BYTES_MAX:
            return None
        pieces = []
        while piece := await answer.read():
            pieces.append(piece)
        body = b"".join(pieces)
        try:
            await self._library.save(asked.uri, stored, body, tags_of(exchange.response, asked.uri))
        except EdgeCacheError:
            return body
        return body
