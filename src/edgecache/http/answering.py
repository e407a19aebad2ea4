"""The output side of one connection: who answers, in what order, and how it ends.

Invariants:

1. `request` is the request that is being answered, or whose content must be discarded first; there
   is one at most. It is None again before the next header is parsed.
2. A connection is kept only when the content of the request was read to its end, or what is left
   of it is little enough to be discarded behind the answer.
3. An answer whose content fails half-way is cut off: the client sees that it is not complete.
4. One deadline is armed at a time (`arm`), for whom the connection waits: the client's header, its
   content, its reading, or its next request. While it waits for the handler there is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias, cast

from edgecache.http._head import Lane
from edgecache.http.deferred import Deferred
from edgecache.http.failures import ClientGoneError, RequestError
from edgecache.http.response import Response, text_response
from edgecache.http.sending import send_body

if TYPE_CHECKING:
    from edgecache.http.chunked import ChunkedDecoder
    from edgecache.http.framing import Block
    from edgecache.http.request import BodyReader, Request
    from edgecache.http.shared import Repeat, Shared

__all__ = ["Answering", "Handler"]

Handler: TypeAlias = "Callable[[Request], Response | Awaitable[Response]]"

logger = logging.getLogger("edgecache.http")

HEAD, BODY, CLOSING = range(3)
# Above this, buffers are handed over one by one instead of being joined by a copy.
JOIN_BYTES_MAX = 32768
# Content above this is sent piece by piece, so that a client that stalls holds no more.
PIECE_BYTES = 262144
# What one answer may send before other connections get their turn.
TURN_BYTES_MAX = 524288
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FOREVER = float("inf")


class Answering:
    """The state of a connection, and everything that writes to it."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.statistics = shared.statistics
        self.native = shared.statistics.native
        self.answers = shared.statistics.known_answers
        self.lane = Lane(shared.exchange)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.peer: object = ""
        self.scheme = "http"
        self.phase = HEAD
        self.request: Request | None = None
        self.task: asyncio.Task[None] | Deferred | None = None
        # Input
        self.tail = b""
        self.block: Block | None = None
        self.has_skipped_line = False
        self.is_eof = False
        self.is_read_paused = False
        # What the answer just given says about giving it again.
        self.repeat: Repeat | None = None
        self.repeats: dict[bytes, Repeat] = {}
        # Content of the request
        self.reader: BodyReader | None = None
        self.decoder: ChunkedDecoder | None = None
        self.left_bytes = 0
        self.discarded_bytes = 0
        self.wants_continue = False
        self.is_broken = False
        # Output
        self.out: list[bytes | memoryview] = []
        self.out_bytes = 0
        self.sent_bytes = 0
        self.turn_bytes = 0  # of them, when others last had their turn
        self.answered_count = 0
        self.is_write_paused = False
        self.write_waiter: asyncio.Future[None] | None = None
        # Deadlines
        self.deadline_s = FOREVER
        self.limit_reason = ""
        self.armed_s = 0.0
        self.taken_bytes = 0  # of answers, when the deadline was armed
        self.body_bytes = 0  # received since the deadline was armed

    # Requests

    def dispatch(self, request: Request) -> None:
        """Have a request answered, at once if its handler can."""
        shared = self.shared
        if shared.is_timed:
            request.started_s = shared.loop.time()
            request.began_s = perf_counter()
        answer: Response | Awaitable[Response] | None
        try:
            answer = shared.handler(request)
        except Exception as error:
            answer = self._answer_to(error)
        if answer is not None:
            self.deliver(request, answer)

    def deliver(self, request: Request, answer: Response | Awaitable[Response]) -> None:
        """Send an answer, or what it will be."""
        if type(answer) is Response:
            if type(answer.body) is bytes and len(answer.body) <= PIECE_BYTES:
                self._emit(request, answer)
                return
            answer = _resolved(answer)
        self.request = request
        if not self.shared.is_timed:
            request.started_s = self.shared.loop.time()
        if request.minor:
            request.relay = self.relay
        if type(answer) is Deferred:
            self.task = answer
            answer.then(partial(self._on_answer, request))
            return
        later = self._answer_later(request, cast("Awaitable[Response]", answer))
        self.task = self.shared.loop.create_task(later)

    def _on_answer(self, request: Request, response: Response) -> None:
        """Send what a `Deferred` gave."""
        body = response.body
        if type(body) is not bytes or len(body) > PIECE_BYTES:
            self.task = self.shared.loop.create_task(
                self._answer_later(request, _resolved(response))
            )
            return
        self.task = None
        spent_s = self.shared.loop.time() - request.started_s
        self.statistics.latencies.add_waited(request.target, spent_s)
        if not self.transport.is_closing():
            self._emit(request, response)
            self.repeat = None  # belongs to bytes that were received earlier
            if self.phase != CLOSING:
                self.flush()
                if self.phase == HEAD:
                    self.resume_input()
        if response.release is not None:
            response.release()

    async def _answer_later(self, request: Request, answer: Awaitable[Response]) -> None:
        response: Response | None
        try:
            response = await answer
        except Exception as error:
            response = self._answer_to(error)
        if response is None:
            return
        try:
            if self.transport.is_closing():
                return
            if type(response.body) is bytes and len(response.body) <= PIECE_BYTES:
                self._emit(request, response)
                self.repeat = None  # belongs to bytes that were received earlier
            else:
                await self._stream(request, response)
        finally:
            if response.release is not None:
                response.release()
        self.task = None
        spent_s = self.shared.loop.time() - request.started_s
        self.statistics.latencies.add_waited(request.target, spent_s)
        if self.phase == CLOSING:
            return
        self.flush()
        if self.phase == HEAD:
            self.resume_input()

    def resume_input(self) -> None:
        """Go on with what was kept while a request was answered."""
        raise AssertionError("the input side has it")

    def _answer_to(self, error: Exception) -> Response | None:
        """Make the answer to a failed handler; None: there is nobody to answer."""
        if isinstance(error, ClientGoneError):
            self.transport.abort()
            return None
        if isinstance(error, RequestError):
            self.shared.statistics.refused_by_reason[error.reason] += 1
            return refusal(error)
        logger.error("a handler failed", exc_info=error)
        self.shared.statistics.refused_by_reason["handler"] += 1
        return text_response(500, "internal error")

    def on_demand(self) -> None:
        """The handler wants content: tell the client to go on, and read the socket again."""
        if self.wants_continue:
            self.wants_continue = False
            self.write(CONTINUE)
            self.flush()
        if self.is_read_paused and self.phase == BODY:
            self.is_read_paused = False
            self.limit_reason = ""
            self.transport.resume_reading()
            self.arm()

    # Answers

    def _may_keep(self, request: Request, response: Response) -> bool:
        """Say whether another request may follow on the connection."""
        limits = self.shared.limits
        self.answered_count += 1
        if (
            not request.keep_alive
            or response.must_close
            or self.is_broken
            or self.shared.is_draining
            or self.answered_count >= limits.requests_per_connection_max
        ):
            return False
        if self.phase != BODY:
            return True
        is_little = self.left_bytes <= limits.discard_bytes_max
        return is_little and not self.wants_continue and not self.is_eof

    def _emit(self, request: Request, response: Response) -> None:
        """Queue an answer that is all there."""
        body = response.body
        shared = self.shared
        if (
            shared.is_plain
            and request.keep_alive
            and request.minor
            and self.phase == HEAD
            and not (response.must_close or self.is_broken)
            and self.answered_count + 1 < shared.limits.requests_per_connection_max
        ):
            # What follows is below in full; this is the way of nearly all answers.
            self.answered_count += 1
            head, out = response.head, self.out
            end = b"\r\n" if response.has_date else shared.end_keep
            if shared.shows_time:
                end = shared.end_after(getattr(request, "began_s", None), end)
            if body and request.method != b"HEAD":
                out += (head, end, body)  # type: ignore[arg-type]
                self.out_bytes += len(head) + len(end) + len(body)  # type: ignore[arg-type]
            else:
                out += (head, end)
                self.out_bytes += len(head) + len(end)
            counted = (request.method, response.status)
            if counted in self.answers:
                self.answers[counted] += 1
            else:
                self.statistics.count(*counted)
            self.request = None
            if response.again is not None:
                self.repeat = (response.again, request.method)
            return
        keep = self._may_keep(request, response)
        self._write_head(request, response, keep)
        size = 0
        if body and request.method != b"HEAD":
            size = len(body)  # type: ignore[arg-type]
            self.write(body)  # type: ignore[arg-type]
        self._end(request, response, keep, size)

    def _write_head(
        self, request: Request, response: Response, keep: bool, extra: bytes = b""
    ) -> None:
        shared = self.shared
        out = self.out
        out.append(response.head)
        if shared.shows_time:
            extra = shared.end_after(getattr(request, "began_s", None), extra)
        if extra:
            out.append(extra)
        if keep:
            end = shared.end_keep if request.minor else shared.end_keep_old
        else:
            end = shared.end_close
        if response.has_date:
            end = end[shared.date_bytes :]
        out.append(end)
        self.out_bytes += len(response.head) + len(extra) + len(end)

    def _end(self, request: Request, response: Response, keep: bool, size: int) -> None:
        """Account for an answer that was queued; what follows depends on the content left."""
        shared = self.shared
        shared.statistics.count(request.method, response.status)
        if shared.on_answer is not None:
            now_s = shared.loop.time()
            # Missing where nobody observed yet when the request began.
            spent_s = now_s - getattr(request, "started_s", now_s)
            shared.on_answer(request, response.status, size, spent_s)
        self.request = None
        if not keep:
            self.close_soon()
        elif self.phase == BODY and self.reader is not None:
            # What is left of the content is discarded behind the answer.
            self.discarded_bytes = self.reader.drop()
            request.body = None
            if self.is_read_paused:
                self.is_read_paused = False
                self.transport.resume_reading()
            self.arm()

    async def _stream(self, request: Request, response: Response) -> None:
        """Send an answer piece by piece, as fast as the client takes it."""
        keep = self._may_keep(request, response)
        extra = b""
        is_chunked = response.length is None
        if is_chunked:
            if request.minor:
                extra = b"Transfer-Encoding: chunked\r\n"
            else:
                keep = is_chunked = False  # the end of the connection is the end of the content
        self._write_head(request, response, keep, extra)
        size = 0
        try:
            if request.method != b"HEAD":
                size = await send_body(self, response, is_chunked)
            else:
                await _dispose(response.body)
        except Exception as error:
            if not isinstance(error, ConnectionError):
                logger.error("an answer was cut off", exc_info=error)
            self.shared.statistics.refused_by_reason["cut_off"] += 1
            self.transport.abort()
            return
        self._end(request, response, keep, size)

    def refuse(self, error: RequestError) -> None:
        """Answer a request that breaks the framing, and close: the last answer of a connection."""
        statistics = self.shared.statistics
        statistics.refused_by_reason[error.reason] += 1
        statistics.count(b"", error.status)
        self.request = None
        self.write(refusal(error).head + self.shared.end_close)
        self.write(f"{error.message}\n".encode())
        self.close_soon()

    def relay(self, request: Request, head: bytes) -> None:
        """Send an interim answer (1xx) to the request that is being answered."""
        if self.request is request and not self.out and not self.transport.is_closing():
            self.write(head)
            self.flush()

    # The transport

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes."""
        self.out.append(data)
        self.out_bytes += len(data)

    def flush(self) -> None:
        """Hand over what is queued."""
        out, size = self.out, self.out_bytes
        if not out or self.transport.is_closing():
            return
        self.out = []
        self.out_bytes = 0
        self.sent_bytes += size
        self.native.bytes_sent += size
        if size <= JOIN_BYTES_MAX:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)

    async def drain(self) -> None:
        """Wait until the client has taken enough; ClientGoneError when it is gone.

        A client that takes everything at once still leaves others their turn.
        """
        if self.sent_bytes - self.turn_bytes > TURN_BYTES_MAX:
            self.turn_bytes = self.sent_bytes
            await asyncio.sleep(0)
        if self.is_write_paused and not self.transport.is_closing():
            self.write_waiter = self.shared.loop.create_future()
            try:
                await self.write_waiter
            finally:
                self.write_waiter = None
        if self.transport.is_closing():
            raise ClientGoneError("the client went away before the end of its answer")

    def wake_writer(self) -> None:
        """Let `drain` look again."""
        if self.write_waiter is not None and not self.write_waiter.done():
            self.write_waiter.set_result(None)

    def close_soon(self) -> None:
        """Write what is owed, close that side, and discard input until the client closes too.

        A close at once would reset the connection if input is unread, and the reset could overtake
        the answer (RFC 9112, section 9.6).
        """
        self.flush()
        self.phase = CLOSING
        self.tail = b""
        self.request = None
        transport = self.transport
        if transport.is_closing():
            return
        if self.is_read_paused:
            self.is_read_paused = False
            transport.resume_reading()
        self.limit_reason = ""
        self.arm()
        if self.scheme == "http" and not self.is_eof:
            transport.write_eof()
        else:
            transport.close()

    # Deadlines

    def arm(self) -> None:
        """Set the deadline for what the connection waits for now."""
        limits = self.shared.limits
        if self.phase == CLOSING:
            reason, seconds = "linger", limits.linger_timeout_s
        elif self.is_write_paused:
            reason, seconds = "write_timeout", limits.write_timeout_s
        elif self.phase == BODY and not self.is_read_paused:
            reason, seconds = "body_timeout", limits.body_timeout_s
        elif self.request is not None:
            self.deadline_s = FOREVER
            self.limit_reason = ""
            return
        elif self.tail:
            reason, seconds = "header_timeout", limits.header_timeout_s
        else:
            self.limit_reason = "idle_timeout"
            self.deadline_s = self.shared.idle_deadline_s
            return
        if reason != self.limit_reason:
            self.limit_reason = reason
            self.armed_s = self.shared.now_s
            self.deadline_s = self.armed_s + seconds
            if reason in ("linger", "write_timeout"):
                self.taken_bytes = self._taken_bytes()
            elif reason == "body_timeout":
                self.body_bytes = 0

    def _taken_bytes(self) -> int:
        """Bytes that the client's socket took so far."""
        return self.sent_bytes - self.transport.get_write_buffer_size()

    def on_deadline(self, now_s: float) -> None:
        """End a connection whose client is too slow; grant more time to one that is just slow."""
        reason = self.limit_reason
        limits = self.shared.limits
        statistics = self.shared.statistics
        if reason == "body_timeout":
            granted_s = limits.body_timeout_s + self.body_bytes / limits.rate_bytes_min
            if self.armed_s + granted_s > now_s:
                self.deadline_s = self.armed_s + granted_s
                return
            self._on_slow_body()
        elif reason == "header_timeout":
            self.refuse(RequestError("the header came too slowly", status=408, reason=reason))
        elif reason in ("write_timeout", "linger") and self.transport.get_write_buffer_size():
            taken = self._taken_bytes()
            if taken - self.taken_bytes >= limits.rate_bytes_min * (now_s - self.armed_s):
                self.taken_bytes = taken
                self.armed_s = now_s
                self.deadline_s = now_s + limits.write_timeout_s
                return
            statistics.refused_by_reason["write_timeout"] += 1
            self.transport.abort()
        elif reason == "idle_timeout" and self.lane.is_open and self.lane.deadline_s > now_s:
            # It was answered without the protocol; that is the way of clients that go on asking.
            self.deadline_s = self.lane.deadline_s
        else:
            statistics.refused_by_reason[reason] += reason == "idle_timeout"
            self.close_now()

    def _on_slow_body(self) -> None:
        error = RequestError("the content came too slowly", status=408, reason="body_timeout")
        request = self.request
        self.is_broken = True
        self.deadline_s = FOREVER
        if request is None:  # answered already
            self.shared.statistics.refused_by_reason["body_timeout"] += 1
            self.close_now()
        elif request.body is None:
            self.refuse(error)
        elif self.reader is not None:
            self.phase = HEAD
            self.reader.fail(error)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which nothing has arrived."""
        return (
            self.phase == HEAD
            and self.request is None
            and not self.tail
            and not self.transport.get_write_buffer_size()
        )

    def close_now(self) -> None:
        """Close without waiting for the client; unsent bytes are dropped."""
        self.phase = CLOSING
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()


async def _resolved(response: Response) -> Response:
    return response


async def _dispose(body: object) -> None:
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()


def refusal(error: RequestError) -> Response:
    """Make the answer that an error names."""
    return text_response(error.status, error.message, error.fields)
