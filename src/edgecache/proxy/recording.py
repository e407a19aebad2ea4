"""Putting an answer into the store while it passes: short ones by one put, long ones as a stream.

Invariants:

1. Nothing is published before the answer's end was proven.
2. What was purged while it was on its way is not published.
3. A store that takes nothing costs the cache a response, never the client its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgecache.errors import EdgeCacheError
from edgecache.proxy.entries import INLINE_BYTES_MAX, PENDING, Library, meta_of
from edgecache.proxy.shared_body import SharedBody, SpillReader
from edgecache.rfc9111.stored import StoredResponse

if TYPE_CHECKING:
    from edgecache.objects.async_hit import AsyncMiss

Listener = Callable[[bytes | None], None]

logger = logging.getLogger("edgecache.proxy")


class Recording:
    """One answer on its way into the store.

    Args:
        library: Where it goes.
        uri: Its target URI.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_body",
        "_key",
        "_length",
        "_library",
        "_listener",
        "_miss",
        "_stored",
        "is_failed",
        "is_purged",
        "is_saved",
        "size_max",
        "tags",
        "uri",
    )

    def __init__(self, library: Library, uri: bytes, size_max: int | None) -> None:
        self._library = library
        self._stored: StoredResponse | None = None
        self._body: SharedBody | None = None
        self._miss: AsyncMiss | None = None
        self._key = b""
        self._length: int | None = None
        self._listener: Listener | None = None
        self.uri = uri
        self.size_max = size_max
        self.tags: tuple[str, ...] | None = None
        self.is_purged = False
        self.is_failed = False
        self.is_saved = False

    def may_publish(self) -> bool:
        """Say whether it may still be published."""
        return self._stored is not None and not (self.is_purged or self.is_failed or self.is_saved)

    def begin(
        self,
        stored: StoredResponse,
        tags: Iterable[str],
        body: SharedBody | None,
        length: int | None = None,
    ) -> None:
        """The head allows storing.

        Args:
            stored: What to store beside the body.
            tags: For purges.
            body: Where its bytes pass; None: they are given to `save`.
            length: Of them, where the head tells.
        """
        self._stored = stored
        self._length = length
        self.tags = tuple(tags)
        self._body = body

    def on_stream(self, listener: Listener) -> None:
        """Have `listener` called once: with the tag of the write that the bytes go into, or with
        None where they turn out not to be stored. Not called for an answer that is stored whole.
        """
        self._listener = listener
        if self._miss is not None:
            self._tell(self._miss.streaming_write_tag)
        elif self.is_failed:
            self._tell(None)

    def _tell(self, tag: bytes | None) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(tag)

    def save_now(self, data: bytes) -> bool | None:
        """As `save`; None where that would have to wait, and nothing was done."""
        stored = self._stored
        if stored is None or not self.may_publish() or self._is_too_large(len(data)):
            return False
        try:
            key = self._library.save_now(self.uri, stored, data, self.tags or ())
        except EdgeCacheError as error:
            self._give_up(error)
            return False
        if key is PENDING:
            return None
        self.is_saved = key is not None
        return self.is_saved

    async def save(self, data: bytes) -> bool:
        """Publish an answer that is all here; whether it was stored."""
        stored = self._stored
        if stored is None or not self.may_publish() or self._is_too_large(len(data)):
            return False
        try:
            key = await self._library.save(self.uri, stored, data, self.tags or ())
        except EdgeCacheError as error:
            self._give_up(error)
            return False
        self.is_saved = key is not None
        return key is not None and await self._stays(key)

    async def take(self, piece: bytes) -> None:
        """Take bytes that come next; they are also in the shared body, or will be in a moment."""
        body = self._body
        if body is None or not self.may_publish():
            await self._close()
            return
        total = body.end + len(piece)
        if self._is_too_large(total):
            self.is_failed = True
            self._tell(None)
            await self._close()
            return
        try:
            if self._miss is not None:
                await self._miss.write(piece)
            elif total > INLINE_BYTES_MAX or self._is_awaited():
                miss = await self._open(body)
                await miss.write(piece)
        except EdgeCacheError as error:
            self._give_up(error)
            await self._close()

    def _is_awaited(self) -> bool:
        """Say whether to stream from the first byte on, for those who wait in other processes."""
        return self._listener is not None and (self._length or 0) > INLINE_BYTES_MAX

    async def _open(self, body: SharedBody) -> AsyncMiss:
        """Go on as a stream."""
        assert self._stored is not None
        self._key = await self._library.key_for(self.uri, self._stored)
        miss = await self._library.store.get_miss_handler(
            self._key,
            meta_of(self._stored, self.tags or ()),
            ttl=self._library.ttl_of(self._stored.policy),
            size=self._length,
        )
        self._miss = miss
        tag, key, store = miss.streaming_write_tag, self._key, self._library.store

        async def spill(position: int) -> SpillReader:
            hit = await store.lookup_streaming_write(key, tag)
            if hit is None:
                raise EOFError("the stored stream is gone")
            await hit.seek(position)
            return hit

        await miss.write(body.whole())
        body.spill_to(spill)
        self._tell(miss.streaming_write_tag)
        return miss

    async def finish(self, last: bytes = b"") -> bool:
        """Publish what was taken, and `last`; whether it was stored."""
        body = self._body
        if body is None or not self.may_publish():
            await self._close()
            return False
        if self._miss is None:
            return await self.save(body.whole() + last if last else body.whole())
        try:
            if last:
                await self._miss.write(last)
            if self.is_purged:
                await self._close()
                return False
            await self._miss.finish()
            self.is_saved = True
            assert self._stored is not None
            await self._library.settle(self.uri, self._key, self._stored)
        except EdgeCacheError as error:
            self._give_up(error)
            await self._close()
            return False
        return await self._stays(self._key)

    async def _stays(self, key: bytes) -> bool:
        """Say whether what was published was not purged meanwhile; else remove it."""
        if self.is_purged:
            await self._library.remove(key)
            self.is_saved = False
        return self.is_saved

    async def abort(self) -> None:
        """Store nothing."""
        self.is_failed = True
        await self._close()

    async def _close(self) -> None:
        miss, self._miss = self._miss, None
        if miss is not None:
            if self._body is not None:
                self._body.spill_to(None)
            await miss.abort()

    def _is_too_large(self, size: int) -> bool:
        return self.size_max is not None and size > self.size_max

    def _give_up(self, error: EdgeCacheError) -> None:
        self.is_failed = True
        self._tell(None)
        logger.warning("an answer could not be stored: %s", error)


class Recordings:
    """The answers on their way, so that a purge reaches them."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: set[Recording] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, recording: Recording) -> None:
        """A request goes out whose answer may be stored."""
        self._open.add(recording)

    def discard(self, recording: Recording) -> None:
        """It is stored, or will never be."""
        self._open.discard(recording)

    def purge(
        self,
        *,
        uri: bytes | None = None,
        prefix: bytes | None = None,
        tag: str | None = None,
    ) -> None:
        """Keep answers from being published: of a URI, a prefix or a tag; of all without any.

        An answer whose tags are not known yet may have any.
        """
        for one in self._open:
            if uri is not None and one.uri != uri:
                continue
            if prefix is not None and not one.uri.startswith(prefix):
                continue
            if tag is not None and one.tags is not None and tag not in one.tags:
                continue
            one.is_purged = True
