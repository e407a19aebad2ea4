"""One exchange with an origin, and what it does to the cache.

Source: RFC 9111, sections 3, 4.3.3, 4.3.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgecache.errors import EdgeCacheError
from edgecache.proxy.asking import Asked
from edgecache.proxy.config import ProxyConfig
from edgecache.proxy.entries import Entry, Library, now_us, tags_of, without_length
from edgecache.proxy.exchange import Begun, OriginAnswer, OriginRequest, ignore_interim
from edgecache.proxy.origin import OriginGroup
from edgecache.proxy.problems import OriginError
from edgecache.proxy.recording import Recording, Recordings
from edgecache.proxy.shared_body import SharedBody
from edgecache.proxy.wire import Head
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.stored import NO_CACHE, StoredPolicy, StoredResponse
from edgecache.rfc9111.storing import Assessment, assess, with_date
from edgecache.rfc9111.targeted import consumed_names
from edgecache.rfc9111.validation import OF_THE_REQUEST, conditional, freshen, identified

if TYPE_CHECKING:
    from edgecache.proxy.partials import Partials
    from edgecache.proxy.tasks import Tasks

OnInterim = Callable[[Head], object]
LENGTH = (b"content-length",)


@dataclass(slots=True)
class Filled:
    """An answer of the origin, as everybody who gets it sees it.

    Args:
        status: Of what is served.
        headers: End-to-end header section.
        exchange: The exchange that it comes from.
        stored: What is stored beside the body; None where nothing may be.
        reason: Why not.
        length: Bytes of the body where the head tells.
        body: All of it; or on its way; or passed on to one client; or that of `entry`.
        entry: The stored response that was found to be still good.
        is_shared: Whether others may have it as well.
        forward_status: Status of the origin's answer.
        recording: Of a body that is on its way into the store.
    """

    status: int
    headers: Headers
    exchange: Exchange
    stored: StoredResponse | None
    reason: str
    length: int | None
    body: bytes | SharedBody | OriginAnswer | None
    entry: Entry | None = None
    is_shared: bool = False
    forward_status: int = 0
    recording: Recording | None = None

    @property
    def policy(self) -> StoredPolicy | None:
        """The policy of what is stored."""
        return None if self.stored is None else self.stored.policy

    def close(self) -> None:
        """Nobody wants the body of an answer that is for one client."""
        if isinstance(self.body, OriginAnswer):
            self.body.close()


@dataclass(slots=True)
class Start:
    """A fetch whose request was sent."""

    begun: Begun
    recording: Recording


def judge(
    asked: Asked, exchange: Exchange, length: int | None, body: bytes | OriginAnswer
) -> Filled:
    """Say what a new answer is to the cache and to clients.

    Args:
        asked: A GET.
        exchange: What it was answered with.
        length: Of the body, where the head tells.
        body: All of it, or where it comes from.
    """
    verdict = assess(exchange, asked.rules) if asked.is_cacheable else Assessment("route")
    limit = asked.route.stored_bytes_max
    if verdict.may_store and limit is not None and (length or 0) > limit:
        verdict = Assessment("too-large")
    stored = without_length(verdict.stored)
    headers = end_to_end(with_date(exchange.response, exchange.response_us // SECOND_US))
    return Filled(
        exchange.status,
        headers.without((*LENGTH, *consumed_names(asked.rules))),
        exchange,
        stored,
        verdict.reason,
        length,
        body,
        is_shared=is_worth_sharing(stored),
        forward_status=exchange.status,
    )


def is_worth_sharing(stored: StoredResponse | None) -> bool:
    """Say whether requests that wait may have it: they could reuse it from the cache."""
    if stored is None or stored.policy.flags & NO_CACHE:
        return False
    policy = stored.policy
    return policy.fresh_until_us > policy.response_us


def _is_outdated(entry: Entry, filled: Filled) -> bool:
    """Say whether a new answer that is not to be stored shows that a stored one has no use left.

    Not so if it is an error, or is for this request only; and a client that asks past a fresh
    response does not remove it.
    """
    is_of_the_request = filled.stored is not None or filled.reason in OF_THE_REQUEST
    is_stale = entry.policy.fresh_until_us <= filled.exchange.response_us
    return is_stale and filled.status < 500 and not is_of_the_request


class Fetcher:
    """Asks origins on behalf of clients and of the cache itself.

    Args:
        config: Of the proxy.
        library: The stored responses.
        groups: The origins by name.
        tasks: What runs on when a client goes away.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_config",
        "_groups",
        "_library",
        "_partials",
        "_tasks",
        "fetch_count",
        "recordings",
    )

    def __init__(
        self,
        config: ProxyConfig,
        library: Library,
        groups: Mapping[str, OriginGroup],
        tasks: Tasks,
        partials: Partials,
    ) -> None:
        self._partials = partials
        self._config = config
        self._library = library
        self._groups = groups
        self._tasks = tasks
        self.recordings = Recordings()
        self.fetch_count = 0

    async def ask(
        self,
        asked: Asked,
        headers: Headers,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        body_bytes: int | None = None,
        on_interim: OnInterim = ignore_interim,
        begun: Begun | None = None,
    ) -> tuple[OriginAnswer, Exchange]:
        """Send a request upstream; the answer with its body unread.

        With `begun` it is sent already, and counted.

        Raises:
            OriginError: There is no answer.
        """
        request = OriginRequest(
            asked.method,
            asked.target,
            [(b"host", asked.authority), *headers.pairs],
            body=body,
            body_bytes=body_bytes,
            balance_key=asked.uri,
            on_interim=on_interim,
        )
        request_us = now_us() if begun is None else begun.request_us
        self.fetch_count += begun is None
        answer = await self._groups[asked.route.upstream].fetch(request, begun)
        exchange = Exchange(
            method=asked.method,
            target_uri=asked.uri,
            request=headers,
            status=answer.status,
            response=Headers.of_lower(answer.fields),
            request_us=request_us,
            response_us=now_us(),
            minor=answer.minor,
        )
        return answer, exchange

    def record(self, asked: Asked) -> Recording:
        """A request goes out whose answer may be stored; purges reach it from now on."""
        recording = Recording(self._library, asked.uri, asked.route.stored_bytes_max)
        self.recordings.add(recording)
        return recording

    async def fetch(
        self,
        asked: Asked,
        headers: Headers,
        entry: Entry | None = None,
        on_interim: OnInterim = ignore_interim,
        start: Start | None = None,
    ) -> Filled:
        """Fetch a whole response, or find that a stored one is still good.

        Args:
            asked: A GET.
            headers: What goes upstream, without conditions and ranges.
            entry: The stored response to validate.
            on_interim: Called with interim answers.
            start: The request is on its way already.

        Raises:
            OriginError: There is no answer.
        """
        recording = self.record(asked) if start is None else start.recording
        begun = None if start is None else start.begun
        try:
            sent = headers if entry is None else conditional(headers, [entry.stored])
            answer, exchange = await self.ask(asked, sent, on_interim=on_interim, begun=begun)
            if answer.status == 304 and sent is not headers and entry is not None:
                answer.close()
                filled = await self._freshened(asked, entry, exchange, recording)
                if filled is not None:
                    return filled
                # It speaks of something else: the whole response, then.
                answer, exchange = await self.ask(asked, headers, on_interim=on_interim)
            filled = await self._whole(asked, answer, exchange, recording)
            if entry is not None and _is_outdated(entry, filled):
                await self._library.remove(entry.key)
            return filled
        except BaseException:
            self.recordings.discard(recording)
            raise

    # A stored response that is still good

    async def _freshened(
        self, asked: Asked, entry: Entry, exchange: Exchange, recording: Recording
    ) -> Filled | None:
        now_s = exchange.response_us // SECOND_US
        if not identified([entry.policy], exchange.response, now_s):
            return None
        fresh = freshen(entry.stored, exchange, asked.rules)
        self.recordings.discard(recording)
        new = entry
        if fresh.drops or recording.is_purged:
            await self._library.remove(entry.key)
        elif fresh.stored is not None:
            saved = await self._library.freshen(
                replace(entry, tags=tags_of(fresh.stored.headers, asked.uri)), fresh.stored
            )
            new = saved or replace(entry, stored=fresh.stored, policy=fresh.stored.policy)
        return Filled(
            entry.policy.status,
            fresh.headers,
            exchange,
            fresh.stored,
            fresh.reason,
            entry.size,
            entry.body,
            entry=new,
            is_shared=is_worth_sharing(fresh.stored) and not recording.is_purged,
            forward_status=304,
        )

    # A new response

    async def take_whole(self, asked: Asked, answer: OriginAnswer, exchange: Exchange) -> Filled:
        """Take an answer that is a whole response, and store it if it may be."""
        recording = self.record(asked)
        try:
            return await self._whole(asked, answer, exchange, recording)
        except BaseException:
            self.recordings.discard(recording)
            raise

    async def _whole(
        self, asked: Asked, answer: OriginAnswer, exchange: Exchange, recording: Recording
    ) -> Filled:
        filled = judge(asked, exchange, answer.length, answer)
        stored = filled.stored
        if stored is None:
            self.recordings.discard(recording)
            return filled
        stored = await self._library.inheriting(asked.uri, stored, exchange.request, asked.rules)
        filled.stored = stored
        filled.is_shared = is_worth_sharing(stored)
        tags = tags_of(exchange.response, asked.uri)
        data, is_complete = answer.take_ready()
        if is_complete:
            recording.begin(stored, tags, None)
            filled.body = data
            filled.length = len(data)
            if not await recording.save(data):
                filled.reason = "shed"
            self.recordings.discard(recording)
            return filled
        body = SharedBody(self._config.collapsing.window_bytes)
        recording.begin(stored, tags, body, answer.length)
        filled.body = body
        filled.recording = recording
        self._tasks.start(self._pump(asked, exchange, answer, body, recording, data))
        return filled

    async def _pump(
        self,
        asked: Asked,
        exchange: Exchange,
        answer: OriginAnswer,
        body: SharedBody,
        recording: Recording,
        first: bytes,
    ) -> None:
        """Move a body from the origin to its readers and into the store."""
        limit = self._config.collapsing.abandoned_bytes_max
        piece = first
        try:
            while True:
                if piece:
                    if answer.length is not None and body.end + len(piece) == answer.length:
                        # Who has read the last byte finds it in the cache.
                        if await answer.read():
                            raise AssertionError("a body is never longer than its length")
                        await recording.finish(piece)
                        body.write(piece)
                        body.finish()
                        return
                    await recording.take(piece)
                    body.write(piece)
                    await body.room()
                piece = await answer.read()
                if not piece:
                    await recording.finish()
                    body.trailers = answer.trailers
                    body.finish()
                    return
                if body.is_abandoned and self._is_not_worth_it(answer, body, recording, limit):
                    await recording.abort()
                    body.fail(ConnectionAbortedError("nobody is left to read it"))
                    return
        except OriginError as error:
            is_kept = body.is_whole and body.end and recording.may_publish()
            await recording.abort()
            body.fail(error)
            if is_kept and answer.length is not None:
                await self._partials.keep_cut(asked, exchange, body.whole())
        except (Exception, asyncio.CancelledError) as error:
            await recording.abort()
            body.fail(error if isinstance(error, EdgeCacheError) else ConnectionAbortedError())
            raise
        finally:
            answer.close()
            self.recordings.discard(recording)

    @staticmethod
    def _is_not_worth_it(
        answer: OriginAnswer, body: SharedBody, recording: Recording, limit: int | None
    ) -> bool:
        """Say whether to go on without a client is not worth it."""
        if not recording.may_publish():
            return True
        if limit is None:
            return False
        left = limit + 1 if answer.length is None else answer.length - body.end
        return left > limit
