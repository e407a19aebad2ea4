"""The slow path of a request: what the cache and the origin do for it, step by step.

`rfc9111` decides, this carries out: serve, serve and refresh, validate, fetch, pass on, refuse. Of
requests for the same key that come together one fetches (see `flights.py`).

Source: RFC 9111, section 4; RFC 5861.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecache.http.response import Response
from edgecache.leasing import LeaseDesk, LeaseWait
from edgecache.proxy.asking import CONDITIONS, NOT_FORWARDED, Asked
from edgecache.proxy.config import ProxyConfig
from edgecache.proxy.content import (
    AnswerContent,
    BytesContent,
    Content,
    FollowContent,
    HitContent,
    SharedContent,
)
from edgecache.proxy.entries import Entry, Library, now_us
from edgecache.proxy.exchange import Begun, OriginAnswer, ignore_interim
from edgecache.proxy.fetching import Fetcher, Filled, OnInterim, Start
from edgecache.proxy.flights import Flight, Flights, Outcome
from edgecache.proxy.forwarding import Forwarder
from edgecache.proxy.problems import OriginError
from edgecache.proxy.rendering import NO_NOTE, Note, Renderer, status_line, trailer_lines
from edgecache.proxy.shared_body import SharedBody
from edgecache.proxy.wire import Head
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.hop import end_to_end
from edgecache.rfc9111.preconditions import evaluate, not_modified_fields, representation
from edgecache.rfc9111.reuse import (
    FWD_REQUEST,
    FWD_STALE,
    Action,
    Reuse,
    decide,
    decide_without,
    may_serve_on_failure,
)
from edgecache.rfc9111.stored import FORBIDS_STALE, NO_CACHE
from edgecache.rfc9111.storing import with_date
from edgecache.rfc9111.targeted import SURROGATE_CONTROL, SURROGATE_NAME
from edgecache.rfc9111.vary import choose_encoding, is_selected

if TYPE_CHECKING:
    from edgecache.proxy.changes import Changes
    from edgecache.proxy.part_service import PartService
    from edgecache.proxy.predictor import Predictor
    from edgecache.proxy.statistics import Tally
    from edgecache.proxy.tasks import Tasks

# How often a request competes for a flight before it goes to the origin by itself.
ATTEMPTS_MAX = 4
# After so many failed fetches of others a request gives up: an origin in trouble is not stormed.
FAILURES_MAX = 2
BYPASS = Reuse(Action.BYPASS, FWD_REQUEST)


class Service:
    """Answers requests that RAM alone cannot.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_changes",
        "_config",
        "_fetcher",
        "_flights",
        "_forwarder",
        "_library",
        "_parts",
        "_predictor",
        "_renderer",
        "_tally",
        "_tasks",
    )

    def __init__(
        self,
        config: ProxyConfig,
        library: Library,
        fetcher: Fetcher,
        flights: Flights,
        predictor: Predictor,
        forwarder: Forwarder,
        renderer: Renderer,
        parts: PartService,
        changes: Changes,
        tally: Tally,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._library = library
        self._fetcher = fetcher
        self._flights = flights
        self._predictor = predictor
        self._forwarder = forwarder
        self._renderer = renderer
        self._parts = parts
        self._changes = changes
        self._tally = tally
        self._tasks = tasks

    async def answer(self, asked: Asked) -> Response:
        """Answer a GET or HEAD that may be answered from, or fill, the cache."""
        entry, has_variants = await self._find(asked)
        if entry is None:
            reuse = decide_without(asked.facts, asked.method, has_variants)
            try:
                response = await self._parts.answer(self, asked, has_variants)
            except OriginError as error:
                self._tally.failures[error.reason] += 1
                return self.failed(asked, reuse, error)
            if response is not None:
                return response
        else:
            reuse = decide(entry.policy, asked.facts, now_us())
        return await self.carry_out(asked, entry, reuse)

    async def _find(self, asked: Asked) -> tuple[Entry | None, bool]:
        """Return the stored response for a request, and whether its URI has variants."""
        library = self._library
        entry, has_variants = await library.find(asked.uri, asked.headers, asked.rules)
        if entry is None and asked.rules.no_vary_search:
            entry = await library.find_equivalent(asked.uri, asked.headers, asked.rules)
        return entry, has_variants

    async def carry_out(self, asked: Asked, entry: Entry | None, reuse: Reuse) -> Response:
        """Do what was decided."""
        action = reuse.action
        if entry is not None and action in (Action.HIT, Action.STALE):
            content = await self.content_of(entry)
            if content is not None:
                if action is Action.STALE:
                    self.refresh(asked, entry)
                headers = entry.stored.headers
                return self._renderer.stored(asked, headers, entry.policy, content, reuse)
            entry = None
            reuse = decide_without(asked.facts, asked.method)
            action = reuse.action
        if action is Action.GATEWAY_TIMEOUT:
            text = "nothing usable is stored, and the request forbids to forward it"
            return self._renderer.own(asked, 504, text, reuse, NO_NOTE)
        if action is Action.BYPASS:
            return await self.forward(asked, reuse)
        if asked.method == b"HEAD":
            return await self._head(asked, entry, reuse)
        return await self._fetch_collapsed(asked, entry, reuse)

    async def content_of(self, entry: Entry) -> Content | None:
        """Return the body of a stored response; None when it has gone."""
        if entry.body is not None:
            return BytesContent(entry.body)
        hit = await self._library.open(entry)
        return None if hit is None else HitContent(hit, entry.size)

    # What goes upstream

    def upstream_headers(self, asked: Asked, keeps_conditions: bool = False) -> Headers:
        """Return the header section to send upstream."""
        headers = end_to_end(asked.headers).without(NOT_FORWARDED)
        if not keeps_conditions:
            headers = headers.without(CONDITIONS)
        if asked.method == b"OPTIONS" and b"max-forwards" in headers:
            headers = _one_hop_less(headers)
        codings = asked.rules.accept_encodings
        if codings and b"accept-encoding" in headers:
            chosen = choose_encoding(headers.combined(b"accept-encoding"), codings)
            headers = headers.without((b"accept-encoding",))
            if chosen is not None:
                headers = headers.replacing(b"accept-encoding", chosen)
        if SURROGATE_CONTROL in asked.rules.target_list:
            headers = _with_capability(headers)
        request = asked.request
        return Headers.of_lower(
            self._forwarder.request_fields(
                list(headers.pairs), request.peer, asked.scheme, asked.authority, request.minor
            )
        )

    def _interim(self, asked: Asked) -> OnInterim:
        """Relay interim answers, but for 100: that is between us and the origin."""
        request = asked.request

        def relay(head: Head) -> None:
            send = getattr(request, "relay", None)
            if head.status != 100 and send is not None:
                lines = end_to_end(Headers.of_lower(head.fields)).to_wire()
                send(request, status_line(head.status) + lines + b"\r\n")

        return relay

    # Fetching

    async def _fetch_collapsed(self, asked: Asked, entry: Entry | None, reuse: Reuse) -> Response:
        """Fetch, or wait for the fetch of another request."""
        collapsing = self._config.collapsing
        waited: bool | None = None
        failed_count = 0
        is_unfit = False
        keeps_conditions = asked.rules.forwards_conditions
        for _ in range(ATTEMPTS_MAX):
            key = asked.uri if entry is None else entry.key
            if not self._may_collapse(asked):
                keeps_conditions = True  # nothing will be stored: the client's own answer, then
                break
            flight = self._flights.find(key)
            if flight is None:
                if keeps_conditions and _is_conditional(asked, entry):
                    break
                begun = self._flights.begin(key)
                if isinstance(begun, LeaseWait):
                    outcome = await self._flights.wait_elsewhere(begun, collapsing.wait_s)
                    error = _error_of(begun)
                    if outcome is Outcome.SHARED:
                        response = await self._follow(asked, begun.note)
                        if response is not None:
                            self._flights.count_elsewhere()
                            return response
                        is_unfit = True
                elif not await self._was_stored(begun, asked, entry):
                    return await self._lead(begun, asked, entry, reuse, waited)
                else:
                    outcome, error = Outcome.STORED, None
            else:
                outcome = await flight.wait(collapsing.wait_s)
                error = flight.error
            waited = False
            if outcome is Outcome.WAITING:
                self._flights.timeout_count += 1
                break
            if outcome is Outcome.RELEASED:
                self._flights.released_count += 1
                break
            if outcome is Outcome.FAILED and error is not None:
                response = await self._on_failure(asked, entry, reuse, error, None)
                if response is not None:
                    return response
                failed_count += 1
                if failed_count == FAILURES_MAX:
                    return self.failed(asked, reuse, error, entry)
            elif flight is not None and flight.filled is not None:
                response = await self._share(asked, flight.filled)
                if response is not None:
                    self._flights.collapsed_count += 1
                    return response
            entry, has_variants = await self._find(asked)
            if entry is None:
                reuse = decide_without(asked.facts, asked.method, has_variants)
            else:
                reuse = decide(entry.policy, asked.facts, now_us())
                if reuse.action in (Action.HIT, Action.STALE):
                    if flight is None and outcome is Outcome.STORED:
                        self._flights.count_elsewhere()
                    return await self.carry_out(asked, entry, reuse)
            if is_unfit:
                break  # what is on its way is for others, or came to nothing
        keeps_conditions = keeps_conditions and _is_conditional(asked, entry)
        return await self._fetch_alone(asked, entry, reuse, waited, keeps_conditions)

    async def _was_stored(self, flight: Flight, asked: Asked, entry: Entry | None) -> bool:
        """Say whether another process stored the answer before this one had the lease.

        Then the flight is over: who waits for it looks the answer up.
        """
        if flight.lease is None:
            return False
        is_stored = False
        try:
            if entry is not None or self._library.may_have(asked.uri):
                found, _ = await self._find(asked)
                action = (
                    None if found is None else decide(found.policy, asked.facts, now_us()).action
                )
                is_stored = action in (Action.HIT, Action.STALE)
        except BaseException:
            self._flights.end(flight)
            flight.settle(Outcome.RELEASED)
            raise
        if is_stored:
            self._flights.end(flight)
            flight.settle(Outcome.STORED)
        return is_stored

    def _may_collapse(self, asked: Asked) -> bool:
        if not self._config.collapsing.is_on or asked.facts.directives.no_store:
            return False
        return not self._predictor.is_uncacheable(asked.uri)

    async def _lead(
        self,
        flight: Flight,
        asked: Asked,
        entry: Entry | None,
        reuse: Reuse,
        waited: bool | None,
        start: Start | None = None,
    ) -> Response:
        """Fetch for all who ask for the key meanwhile; it goes on when this client leaves."""
        task = self.fly(flight, asked, entry, start)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda _: let_go(flight))
            raise
        if flight.error is not None:
            response = await self._on_failure(asked, entry, reuse, flight.error, None)
            return response or self.failed(asked, reuse, flight.error, entry)
        assert flight.filled is not None
        return await self.deliver(asked, entry, flight.filled, reuse, waited)

    def fly(
        self, flight: Flight, asked: Asked, entry: Entry | None, start: Start | None = None
    ) -> asyncio.Task[None]:
        """Fetch in the background; who leaves does not end it."""
        headers = self.upstream_headers(asked)
        interim = self._interim(asked)
        return self._tasks.start(self._fly(flight, asked, headers, entry, interim, start))

    async def _fly(
        self,
        flight: Flight,
        asked: Asked,
        headers: Headers,
        entry: Entry | None,
        on_interim: OnInterim,
        start: Start | None = None,
    ) -> None:
        """Fetch, and give the flight its outcome as soon as the head is here."""
        try:
            filled = await self._fetcher.fetch(asked, headers, entry, on_interim, start)
        except OriginError as error:
            self._tally.failures[error.reason] += 1
            self._flights.end(flight)
            flight.settle(Outcome.FAILED, error=error)
            return
        except BaseException:
            self._flights.end(flight)
            flight.settle(Outcome.RELEASED)
            raise
        self.settle(flight, asked, filled)

    def settle(self, flight: Flight, asked: Asked, filled: Filled) -> None:
        """Give a flight its outcome."""
        self.learn(asked, filled)
        if filled.is_shared and not flight.is_purged:
            flight.settle(Outcome.SHARED, filled)
            body = filled.body
            if isinstance(body, bytes) or body is None:
                self._flights.end(flight)
                is_stored = filled.reason != "shed"
                flight.give(LeaseDesk.STORED if is_stored else LeaseDesk.RELEASED)
            else:
                if flight.lease is not None and filled.recording is not None:
                    filled.recording.on_stream(flight.on_stream)
                self._tasks.start(self._end_with(flight, filled))
        else:
            self._flights.end(flight)
            flight.settle(Outcome.RELEASED, filled)

    async def _end_with(self, flight: Flight, filled: Filled) -> None:
        """Keep a flight in the table until its body is published."""
        body, recording = filled.body, filled.recording
        try:
            if isinstance(body, SharedBody):
                await self._flights.hold(flight, body)
        finally:
            self._flights.end(flight)
            if recording is not None and recording.is_saved:
                flight.give(LeaseDesk.STORED)
            elif isinstance(body, SharedBody) and isinstance(body.error, OriginError):
                flight.give(LeaseDesk.FAILED, body.error.status_code)
            else:
                flight.give(LeaseDesk.RELEASED)

    def learn(self, asked: Asked, filled: Filled) -> None:
        """Remember whether answers for the key can be shared."""
        if filled.is_shared or (filled.status >= 400 and filled.status != 404):
            self._predictor.clear(asked.uri)
        elif filled.forward_status != 304:
            self._predictor.mark(asked.uri)

    async def _fetch_alone(
        self,
        asked: Asked,
        entry: Entry | None,
        reuse: Reuse,
        waited: bool | None,
        keeps_conditions: bool = False,
        start: Start | None = None,
    ) -> Response:
        """Fetch for this client only."""
        try:
            headers = self.upstream_headers(asked, keeps_conditions)
            filled = await self._fetcher.fetch(asked, headers, entry, self._interim(asked), start)
        except OriginError as error:
            self._tally.failures[error.reason] += 1
            response = await self._on_failure(asked, entry, reuse, error, None)
            return response or self.failed(asked, reuse, error, entry)
        self.learn(asked, filled)
        return await self.deliver(asked, entry, filled, reuse, waited)

    async def go_on(
        self, asked: Asked, reuse: Reuse, start: Start, flight: Flight | None
    ) -> Response:
        """Answer a request whose fetch has begun, and turned out not to be simple (`swift.py`)."""
        if flight is not None:
            return await self._lead(flight, asked, None, reuse, None, start)
        return await self._fetch_alone(asked, None, reuse, None, start=start)

    # Delivering

    async def _share(self, asked: Asked, filled: Filled) -> Response | None:
        """Answer with what another request fetched; None when it does not fit."""
        stored = filled.stored
        if stored is None or not is_selected(stored.selecting, asked.headers, asked.rules):
            return None
        decision = decide(stored.policy, asked.facts, now_us())
        if decision.action is not Action.HIT:
            return None
        body = filled.body
        content: Content | None
        if filled.entry is not None:
            content = await self.content_of(filled.entry)
        elif isinstance(body, bytes):
            content = BytesContent(body)
        elif isinstance(body, SharedBody) and body.can_attach() and body.error is None:
            content = SharedContent(body, filled.length)
        else:
            content = None
        if content is None:
            return None
        note = Note(forward_status=filled.forward_status, is_collapsed=True, word="hit")
        shared = Reuse(Action.MISS, FWD_STALE if filled.entry else b"uri-miss", 0, decision.ttl_s)
        return self._renderer.stored(asked, stored.headers, stored.policy, content, shared, note)

    async def _follow(self, asked: Asked, write_id: int) -> Response | None:
        """Answer with what another process fetches, as it arrives; None when it does not fit."""
        followed = await self._library.follow(write_id)
        if followed is None:
            return None
        hit, stored, expected = followed
        decision = decide(stored.policy, asked.facts, now_us())
        fits = is_selected(stored.selecting, asked.headers, asked.rules)
        if decision.action is not Action.HIT or not fits:
            hit.close()
            return None
        note = Note(forward_status=stored.policy.status, is_collapsed=True, word="hit")
        reuse = Reuse(Action.MISS, b"uri-miss", 0, decision.ttl_s)
        content = FollowContent(hit, expected)
        return self._renderer.stored(asked, stored.headers, stored.policy, content, reuse, note)

    async def deliver(
        self,
        asked: Asked,
        entry: Entry | None,
        filled: Filled,
        reuse: Reuse,
        waited: bool | None,
    ) -> Response:
        """Answer the client whose request was forwarded."""
        if entry is not None and filled.entry is None and filled.status >= 500:
            response = await self._on_failure(asked, entry, reuse, None, filled)
            if response is not None:
                return response
        if filled.entry is None:
            return self.deliver_new(asked, filled, reuse, waited)
        content = await self.content_of(filled.entry)
        if content is None:
            return await self.forward(asked, reuse)
        policy = filled.entry.policy
        note = _note_of(filled, waited)
        return self._renderer.stored(asked, filled.headers, policy, content, reuse, note)

    def deliver_new(
        self, asked: Asked, filled: Filled, reuse: Reuse, waited: bool | None
    ) -> Response:
        """Answer with a response that the origin just gave."""
        note = _note_of(filled, waited)
        body = filled.body
        content: Content
        if isinstance(body, OriginAnswer) or filled.policy is None:
            status, headers, trailers = filled.status, filled.headers, None
            if isinstance(body, OriginAnswer):
                status, headers, content = _as_asked(asked, filled, body)
                trailers = lambda: trailer_lines(body.trailers)  # noqa: E731
            else:
                assert not isinstance(body, SharedBody)
                content = BytesContent(body or b"")
            return self._renderer.passing(
                asked, status, headers, content, reuse, note, trailers, filled.exchange.minor
            )
        if isinstance(body, SharedBody):
            content = SharedContent(body, filled.length)
        else:
            content = BytesContent(body or b"")
        response = self._renderer.stored(asked, filled.headers, filled.policy, content, reuse, note)
        if isinstance(body, SharedBody):
            response.trailers = lambda: trailer_lines(body.trailers)
        return response

    async def _on_failure(
        self,
        asked: Asked,
        entry: Entry | None,
        reuse: Reuse,
        error: OriginError | None,
        filled: Filled | None,
    ) -> Response | None:
        """Serve what is stale instead of a failure, where that is allowed."""
        status = None if filled is None else filled.forward_status
        if entry is None or not may_serve_on_failure(entry.policy, asked.facts, now_us(), status):
            return None
        content = await self.content_of(entry)
        if content is None:
            return None
        if filled is not None:
            filled.close()
        detail = None if error is None else error.reason.replace(" ", "-").encode()
        note = Note(status, None, None, True, detail)
        headers = entry.stored.headers
        return self._renderer.stored(asked, headers, entry.policy, content, reuse, note)

    def failed(
        self, asked: Asked, reuse: Reuse, error: OriginError, entry: Entry | None = None
    ) -> Response:
        """Tell a client that there is no answer.

        Where something is stored that must not be served without the origin, that is a 504
        (RFC 9111, section 5.2.2.2).
        """
        status = error.status_code
        if entry is not None and entry.policy.flags & (FORBIDS_STALE | NO_CACHE):
            status = 504
        note = Note(detail=error.reason.replace(" ", "-").encode(), word="error")
        is_late = error.status_code == 504
        text = "the origin did not answer in time" if is_late else "no answer from the origin"
        return self._renderer.own(asked, status, text, reuse, note)

    # In the background

    def refresh(self, asked: Asked, entry: Entry) -> None:
        """Validate a stale response in the background, once per key."""
        if self._flights.find(entry.key) is not None:
            return
        flight = self._flights.begin(entry.key)
        if isinstance(flight, LeaseWait):
            return  # another process does
        self._tally.refreshes += 1
        asked = replace(asked, method=b"GET")  # also when a HEAD found it stale
        headers = self.upstream_headers(asked)
        self._tasks.start(self._refresh(flight, asked, headers, entry))

    async def _refresh(self, flight: Flight, asked: Asked, headers: Headers, entry: Entry) -> None:
        await self._fly(flight, asked, headers, entry, ignore_interim)
        if flight.filled is not None:
            flight.filled.close()

    # HEAD, and what passes

    async def _head(self, asked: Asked, entry: Entry | None, reuse: Reuse) -> Response:
        """Forward a HEAD; its answer freshens or outdates what is stored (RFC 9111, 4.3.5)."""
        try:
            headers = self.upstream_headers(asked, keeps_conditions=True)
            answer, exchange = await self._fetcher.ask(
                asked, headers, on_interim=self._interim(asked)
            )
        except OriginError as error:
            self._tally.failures[error.reason] += 1
            response = await self._on_failure(asked, entry, reuse, error, None)
            return response or self.failed(asked, reuse, error, entry)
        if entry is not None:
            await self._changes.learn_from_head(asked, entry, exchange)
        content = AnswerContent(answer)
        note = Note(answer.status, False, None)
        headers = end_to_end(with_date(exchange.response, exchange.response_s))
        return self._renderer.passing(
            asked, answer.status, headers, content, reuse, note, minor=exchange.minor
        )

    async def forward(
        self, asked: Asked, reuse: Reuse = BYPASS, begun: Begun | None = None
    ) -> Response:
        """Pass a request on as it is, and its answer back; unsafe ones invalidate.

        With `begun` it was sent already.
        """
        request = asked.request
        body = request.body
        headers = self.upstream_headers(asked, keeps_conditions=True)
        length = None if body is None else body.length
        try:
            answer, exchange = await self._fetcher.ask(
                asked,
                headers,
                body=body,
                body_bytes=length,
                on_interim=self._interim(asked),
                begun=begun,
            )
        except OriginError as error:
            self._tally.failures[error.reason] += 1
            return self.failed(asked, reuse, error)
        await self._changes.invalidate(exchange)
        content: Content = AnswerContent(answer)
        is_stored = False
        if asked.method == b"POST" and asked.route.cache:
            kept = await self._changes.keep_post(asked, answer, exchange)
            if kept is not None:
                content, is_stored = BytesContent(kept), True
        note = Note(answer.status, is_stored, None)
        headers = end_to_end(with_date(exchange.response, exchange.response_s))
        headers = headers.without((b"content-length",))
        return self._renderer.passing(
            asked,
            answer.status,
            headers,
            content,
            reuse,
            note,
            lambda: trailer_lines(answer.trailers),
            exchange.minor,
        )


def _with_capability(headers: Headers) -> Headers:
    """Return a section that asks for Surrogate-Control (Edge Architecture Specification, 2.2)."""
    own = SURROGATE_NAME + b'="Surrogate/1.0"'
    others = headers.combined(b"surrogate-capability")
    return headers.replacing(b"surrogate-capability", own if not others else others + b", " + own)


def _one_hop_less(headers: Headers) -> Headers:
    """Return a section with a Max-Forwards for the next hop (RFC 9110, section 7.6.2)."""
    value = headers.get(b"max-forwards") or b""
    if not value.isdigit() or not int(value[:9]):
        return headers.without((b"max-forwards",))
    return headers.replacing(b"max-forwards", b"%d" % (int(value[:9]) - 1))


def _error_of(wait: LeaseWait) -> OriginError | None:
    """Return the failure of a fetch of another process, as far as it is known here."""
    if not wait.detail:
        return None
    error = OriginError("the fetch of another process failed")
    error.status_code = wait.detail
    error.reason = "timeout" if wait.detail == 504 else "error"
    return error


def _is_conditional(asked: Asked, entry: Entry | None) -> bool:
    """Say whether a condition of the client could go upstream: we have none to take its place."""
    return entry is None and asked.facts.is_conditional and not asked.facts.has_range


def _as_asked(asked: Asked, filled: Filled, answer: OriginAnswer) -> tuple[int, Headers, Content]:
    """Return what a client gets of an answer that passes: a 304 if it has that already.

    Its conditions did not go upstream, because the answer might have been for all.
    """
    status, headers = filled.status, filled.headers
    if status == 200 and asked.facts.is_conditional and asked.is_safe:
        now_s = filled.exchange.response_s
        if evaluate(asked.method, asked.headers, representation(headers, now_s), now_s).status:
            answer.close()
            return 304, not_modified_fields(headers), BytesContent(b"")
    return status, headers, AnswerContent(answer)


def _note_of(filled: Filled, waited: bool | None) -> Note:
    """What is told about an answer that the origin gave to this very request."""
    is_stored = filled.stored is not None and filled.reason == ""
    detail = filled.reason.encode() if filled.reason else None
    is_first_hand = b"age" not in filled.exchange.response
    status = filled.forward_status
    return Note(status, is_stored, waited, detail=detail, is_first_hand=is_first_hand)


def let_go(flight: Flight) -> None:
    """Close an answer that was for a client who has left."""
    if flight.outcome is Outcome.RELEASED and flight.filled is not None:
        flight.filled.close()
