"""The short way of a miss: a GET that goes over a kept connection and is answered in one piece.

No task waits for it: the connection calls, and what it brought is judged, stored and sent in the
same turn of the loop. Whatever is not simple goes on as any other fetch does (`Service.go_on`),
from where it stands: an answer that comes in pieces, an interim one, a failure, a store that would
wait for its disk.

Invariants:

1. A crossing has one end: `_finish`, `_go_on` or `_drop`. After it the connection knows no listener
   of it, and it is not in `Swift.crossings` any more.
2. The request is in `Recordings` and, unless its answer is not to be shared, in `Flights` before
   the first byte is sent: purges and other requests for the key meet it there.

Source: RFC 9111, sections 3 and 4, as `service.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgecache.http.deferred import Deferred
from edgecache.http.response import text_response
from edgecache.leasing import LeaseWait
from edgecache.proxy.content import BytesContent
from edgecache.proxy.entries import now_us, partial_key, tags_of
from edgecache.proxy.exchange import Begun
from edgecache.proxy.fetching import Filled, Start, judge
from edgecache.proxy.flights import Outcome
from edgecache.proxy.rendering import Note
from edgecache.proxy.service import BYPASS, let_go
from edgecache.rfc9111.exchange import Exchange
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.reuse import decide_without
from edgecache.rfc9111.storing import with_date

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from edgecache.http.response import Response
    from edgecache.proxy.asking import Asked
    from edgecache.proxy.config import ProxyConfig
    from edgecache.proxy.entries import Library
    from edgecache.proxy.fetching import Fetcher
    from edgecache.proxy.flights import Flight, Flights
    from edgecache.proxy.known import Known
    from edgecache.proxy.origin import OriginGroup
    from edgecache.proxy.predictor import Predictor
    from edgecache.proxy.rendering import Renderer
    from edgecache.proxy.service import Service
    from edgecache.proxy.tasks import Tasks
    from edgecache.rfc9111.reuse import Reuse


class Swift:
    """Begins crossings, and knows those under way.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_config",
        "_flights",
        "_groups",
        "_library",
        "_predictor",
        "crossings",
        "fetcher",
        "renderer",
        "service",
        "tasks",
    )

    def __init__(
        self,
        config: ProxyConfig,
        library: Library,
        groups: Mapping[str, OriginGroup],
        fetcher: Fetcher,
        flights: Flights,
        predictor: Predictor,
        renderer: Renderer,
        service: Service,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._library = library
        self._groups = groups
        self._flights = flights
        self._predictor = predictor
        self.crossings: set[Crossing] = set()
        self.fetcher = fetcher
        self.renderer = renderer
        self.service = service
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.crossings)

    def miss(self, asked: Asked, known: Known, has_variants: bool) -> Deferred | None:
        """Fetch what is certainly not stored; None: that is not simple.

        Args:
            asked: A GET that is cacheable.
            known: Its fields.
            has_variants: Whether responses are stored for the URI that do not fit it.
        """
        facts = asked.facts
        if facts.has_range or facts.directives.only_if_cached or facts.directives.no_store:
            return None
        if facts.is_conditional or has_variants or asked.rules.no_vary_search:
            return None
        uri = asked.uri
        if asked.rules.stores_partial:
            store, key = self._library.store.storage, partial_key(uri)
            if store.needs_disk(key) or store.exists(key):
                return None
        flight = None
        if self._config.collapsing.is_on and not self._predictor.is_uncacheable(uri):
            if self._flights.find(uri) is not None:
                return None
            begun_flight = self._flights.begin(uri)
            if isinstance(begun_flight, LeaseWait):
                return None  # another process fetches it
            flight = begun_flight
            if flight.lease is not None and self._library.may_have(uri):
                self._flights.end(flight)
                flight.settle(Outcome.STORED)
                return None
        reuse = decide_without(facts, asked.method, has_variants)
        sent, lines = known.upstream(asked, self.service, keeps_conditions=False)
        begun = self._begin(asked, lines)
        if begun is None:
            if flight is not None:
                self._flights.cancel(flight)
            return None
        start = Start(begun, self.fetcher.record(asked))
        return self._wait(Crossing(self, asked, sent, reuse, begun, start, flight))

    def forward(self, asked: Asked, known: Known) -> Deferred | None:
        """Pass on a GET without content whose answer is not stored; None: that is not simple."""
        sent, lines = known.upstream(asked, self.service, keeps_conditions=True)
        begun = self._begin(asked, lines)
        if begun is None:
            return None
        return self._wait(Crossing(self, asked, sent, BYPASS, begun, None, None))

    def _begin(self, asked: Asked, lines: bytes) -> Begun | None:
        group = self._groups[asked.route.upstream]
        return group.begin(asked.method, asked.target, asked.authority, lines)

    def _wait(self, crossing: Crossing) -> Deferred:
        self.fetcher.fetch_count += 1
        self.crossings.add(crossing)
        crossing.wait()
        return crossing.answer

    def end(self, crossing: Crossing) -> None:
        """Forget a crossing."""
        self.crossings.discard(crossing)

    def release(self, flight: Flight) -> None:
        """Let those go who wait for a fetch that came to nothing."""
        self._flights.end(flight)
        flight.settle(Outcome.RELEASED)

    def stop(self) -> None:
        """Let everything under way go on as tasks, which can be ended."""
        for crossing in list(self.crossings):
            crossing.go_on()


class Crossing:
    """One request on its way to the origin and back.

    Args:
        swift: Who began it.
        asked: The request.
        sent: Its fields as they went out.
        reuse: What was decided about it.
        begun: What was sent.
        start: Of a fetch; None: the answer is passed on and not stored.
        flight: Of those who wait for the same; None: nobody may.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_asked",
        "_begun",
        "_flight",
        "_reuse",
        "_sent",
        "_start",
        "_swift",
        "_task",
        "answer",
    )

    def __init__(
        self,
        swift: Swift,
        asked: Asked,
        sent: Headers,
        reuse: Reuse,
        begun: Begun,
        start: Start | None,
        flight: Flight | None,
    ) -> None:
        self._swift = swift
        self._asked = asked
        self._sent = sent
        self._task: asyncio.Task[Response] | None = None
        self._reuse = reuse
        self._begun = begun
        self._start = start
        self._flight = flight
        self.answer = Deferred(self._on_gone)

    def wait(self) -> None:
        """Wait for the answer."""
        begun = self._begun
        timeouts = begun.config.timeouts
        begun.connection.listen(self._on_change, min(timeouts.first_byte_s, timeouts.total_s))
        if begun.connection.error is not None:
            self.go_on()

    def _on_change(self) -> None:
        """The connection has brought something, or nothing more will come."""
        connection = self._begun.connection
        came = connection.answer
        if came is None or connection.error is not None or came.interim:
            self.go_on()
        elif came.is_complete and came.head is not None:
            self._finish()
        elif came.head is not None or connection.is_closed:
            self.go_on()

    def _leave(self) -> None:
        self._begun.connection.listen(None)
        self._swift.end(self)

    # How it ends

    def _finish(self) -> None:
        """The whole answer is here."""
        begun, asked = self._begun, self._asked
        connection, config = begun.connection, begun.config
        came = connection.answer
        assert came is not None
        assert came.head is not None
        head = came.head
        limit = config.body_bytes_max
        pieces = came.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if (
            head.status == 304
            or head.status in config.retry_statuses
            or (limit is not None and len(data) > limit)
        ):
            self.go_on()
            return
        self._leave()
        length = connection.length
        begun.give_back()
        exchange = Exchange(
            method=asked.method,
            target_uri=asked.uri,
            request=self._sent,
            status=head.status,
            response=Headers.of_lower(head.fields),
            request_us=begun.request_us,
            response_us=now_us(),
            minor=head.minor,
        )
        if self._start is None:
            self.answer.resolve(self._passing(exchange, data))
            return
        filled = judge(asked, exchange, length, data)
        if filled.stored is None:
            self._swift.fetcher.recordings.discard(self._start.recording)
            self._settle(filled)
            return
        filled.length = len(data)
        recording = self._start.recording
        recording.begin(filled.stored, tags_of(exchange.response, asked.uri), None)
        is_saved = recording.save_now(data)
        if is_saved is None:
            self._swift.tasks.start(self._save(filled, data))
            return
        self._saved(filled, is_saved)

    def _passing(self, exchange: Exchange, data: bytes) -> Response:
        """Make the answer to a request that was passed on."""
        headers = end_to_end(with_date(exchange.response, exchange.response_s))
        return self._swift.renderer.passing(
            self._asked,
            exchange.status,
            headers.without((b"content-length",)),
            BytesContent(data),
            self._reuse,
            Note(exchange.status, False, None),
            minor=exchange.minor,
        )

    async def _save(self, filled: Filled, data: bytes) -> None:
        """Store an answer where the store has to wait."""
        assert self._start is not None
        self._saved(filled, await self._start.recording.save(data))

    def _saved(self, filled: Filled, is_saved: bool) -> None:
        assert self._start is not None
        self._swift.fetcher.recordings.discard(self._start.recording)
        if not is_saved:
            filled.reason = "shed"
        self._settle(filled)

    def _settle(self, filled: Filled) -> None:
        """Tell all who wait."""
        service, asked = self._swift.service, self._asked
        if self._flight is not None:
            service.settle(self._flight, asked, filled)
        else:
            service.learn(asked, filled)
        self.answer.resolve(service.deliver_new(asked, filled, self._reuse, None))

    def go_on(self) -> None:
        """It is not simple: a task takes it over."""
        self._leave()
        service, asked, start = self._swift.service, self._asked, self._start
        work: Coroutine[object, object, Response]
        if start is None:
            work = service.forward(asked, self._reuse, self._begun)
        else:
            work = service.go_on(asked, self._reuse, start, self._flight)
        self._task = self._swift.tasks.start(work)
        self._task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Response]) -> None:
        """A client waits whatever happened, and so do others; failures were logged."""
        if not task.cancelled() and task.exception() is None:
            self.answer.resolve(task.result())
            return
        if self._flight is not None:
            self._swift.release(self._flight)
        self.answer.resolve(text_response(500, "internal error"))

    def _on_gone(self) -> None:
        """The client has left; what others may have is fetched all the same."""
        if self not in self._swift.crossings:
            # The part that is for nobody else; a fetch for a flight is a task of its own.
            if self._task is not None:
                self._task.cancel()
            return
        if self._flight is not None:
            self._leave()
            flight = self._flight
            task = self._swift.service.fly(flight, self._asked, None, self._start)
            task.add_done_callback(lambda _: let_go(flight))
            return
        self._leave()
        if self._start is not None:
            self._swift.fetcher.recordings.discard(self._start.recording)
        self._begun.drop()
