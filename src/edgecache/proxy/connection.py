"""One connection to an origin: an asyncio protocol that carries one exchange at a time.

Invariants:

1. Between exchanges the peer has nothing to say: bytes, or an end, close the connection.
2. At most `BUFFER_HIGH_BYTES` and one read of an answer wait in memory: then reading pauses.
3. A connection is handed back for reuse only if the answer was framed beyond doubt, read to its
   end, and the request had been sent whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from edgecache.http._head import Lane
from edgecache.proxy.answers import AnswerReader
from edgecache.proxy.problems import (
    OriginConnectError,
    OriginError,
    OriginLimitError,
    OriginProtocolError,
    OriginTimeoutError,
    OriginTruncatedError,
)
from edgecache.proxy.wire import Fields, Head, WireError

BUFFER_HIGH_BYTES = 512 << 10
BUFFER_LOW_BYTES = 128 << 10
FOREVER = float("inf")


class Connection(asyncio.Protocol):
    """A connection to `upstream`; made by the pool.

    *Thread-safety*: belongs to the thread of its loop.
    """

    __slots__ = (
        "_answer",
        "_buffered",
        "_deadline_s",
        "_drained",
        "_error",
        "_is_paused",
        "_listener",
        "_loop",
        "_on_lost",
        "_phase",
        "_timeout_s",
        "_timer",
        "_timer_s",
        "_transport",
        "_waiter",
        "exchange_count",
        "idle_since_s",
        "is_closed",
        "is_sent",
        "lane",
        "received_bytes",
        "upstream",
    )

    lane: Lane  # of the transport of our own; never open

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream: str) -> None:
        self._loop = loop
        self.upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._answer: AnswerReader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], object] | None = None
        # One timer serves one exchange after the other: it is only ever put off when it is due.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = FOREVER
        self._deadline_s = FOREVER
        self._timeout_s = 0.0
        self._phase = ""
        self._drained: asyncio.Future[None] | None = None
        self._error: OriginError | None = None
        self._on_lost: Callable[[Connection], object] | None = None
        self._buffered = 0
        self._is_paused = False
        self.is_closed = False
        self.is_sent = False
        self.exchange_count = 0
        self.received_bytes = 0
        self.idle_since_s = 0.0

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        self.received_bytes += len(data)
        if answer is None or answer.is_complete:
            if answer is not None:
                answer.is_reusable = False
            self.close()
            return
        pieces_before = len(answer.pieces)
        try:
            answer.feed(data)
        except WireError as error:
            kind = OriginLimitError if error.is_limit else OriginProtocolError
            self._fail(kind(f"the origin's answer is refused: {error}", reason=str(error)))
            return
        for number in range(pieces_before, len(answer.pieces)):
            self._buffered += len(answer.pieces[number])
        if self._buffered > BUFFER_HIGH_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._on_lost is not None:
            on_lost, self._on_lost = self._on_lost, None
            on_lost(self)

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _end(self, error: Exception | None) -> None:
        answer = self._answer
        if answer is not None and self._error is None and not answer.is_complete:
            missing = "connection lost" if error is not None else answer.end()
            if missing:
                self._fail(
                    OriginTruncatedError(
                        f"the origin closed the connection: {missing}", reason=missing
                    )
                )
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: OriginError) -> None:
        answer = self._answer
        error.upstream = self.upstream
        error.phase = "head" if answer is None or answer.head is None else "body"
        error.has_answer = answer is not None and answer.has_bytes
        error.is_reused = self.exchange_count > 1
        if self._error is None:
            self._error = error
        self.close()
        self._wake()

    # What the pool calls

    def watch(self, on_lost: Callable[[Connection], object] | None) -> None:
        """Have `on_lost` called once when the connection goes while nobody uses it."""
        self._on_lost = on_lost

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may begin."""
        answer = self._answer
        return (
            not self.is_closed
            and self.is_sent
            and self._error is None
            and not self._is_paused
            and (answer is None or (answer.is_complete and answer.is_reusable))
        )

    def close(self) -> None:
        """Close at once. Idempotent."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    # An exchange

    @property
    def answer(self) -> AnswerReader | None:
        """The answer, as far as it is here."""
        return self._answer

    @property
    def error(self) -> OriginError | None:
        """Why there will be no answer, or no end of it."""
        return self._error

    def begin(self, head: bytes, is_head_request: bool, is_lenient: bool, limit: int) -> None:
        """Send the head of a request, or a whole request; its body may follow by `send`."""
        self._answer = AnswerReader(is_head_request, is_lenient, limit)
        self._error = None
        self._buffered = 0
        self.is_sent = False
        self.exchange_count += 1
        self.received_bytes = 0
        if self._transport is None or self.is_closed:
            self._fail(OriginConnectError("the connection is closed"))
            return
        self._transport.write(head)

    async def send(self, data: bytes, timeout_s: float) -> bool:
        """Send more of the request; False when the origin has answered or gone and wants no more.

        Raises:
            OriginTimeoutError: The origin takes nothing.
        """
        answer = self._answer
        if self._transport is None or self.is_closed or answer is None or answer.head is not None:
            return False
        self._transport.write(data)
        if self._drained is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._drained)
            except TimeoutError:
                raise self._timeout("request", timeout_s) from None
        return True

    async def read_head(self, timeout_s: float, on_interim: Callable[[Head], object]) -> Head:
        """Wait for the head of the final answer; interim ones are given on as they come.

        Args:
            timeout_s: For the first byte, and again after each interim answer.
            on_interim: Called with each interim answer.

        Raises:
            OriginError: Of any kind.
        """
        answer = self._answer
        assert answer is not None
        while True:
            while answer.interim:
                on_interim(answer.interim.popleft())
            if answer.head is not None:
                return answer.head
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s, "head")

    async def read(self, timeout_s: float) -> bytes:
        """Return the next piece of the body, b"" at its proven end.

        Raises:
            OriginTruncatedError, OriginProtocolError, OriginTimeoutError: There is no such end.
        """
        answer = self._answer
        assert answer is not None
        while not answer.pieces:
            if answer.is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait(timeout_s, "body")
        piece = answer.pieces.popleft()
        self._buffered -= len(piece)
        if self._is_paused and self._buffered < BUFFER_LOW_BYTES and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def take_ready(self) -> tuple[bytes, bool]:
        """Return all of the body that is here, and whether that was its end. Does not wait."""
        answer = self._answer
        assert answer is not None
        data = b"".join(answer.pieces) if len(answer.pieces) != 1 else answer.pieces[0]
        answer.pieces.clear()
        self._buffered = 0
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        return data, answer.is_complete

    @property
    def trailers(self) -> Fields:
        """The trailers, after the end of a chunked body."""
        return [] if self._answer is None else self._answer.trailers

    @property
    def length(self) -> int | None:
        """The size of the body that the head tells."""
        answer = self._answer
        return None if answer is None or answer.framing is None else answer.framing.length

    # Waiting

    def listen(self, listener: Callable[[], object] | None, timeout_s: float = 0.0) -> None:
        """Have something called whenever `answer` or `error` has changed; None: no longer.

        Args:
            listener: It takes the place of `read_head` and `read` for the time being.
            timeout_s: Until the first byte of a head.
        """
        self._listener = listener
        if listener is None:
            self._deadline_s = FOREVER
        else:
            self._arm(timeout_s, "head")

    async def _wait(self, timeout_s: float, phase: str) -> None:
        if self.is_closed and self._error is None:
            self._fail(OriginTruncatedError("the connection was closed", reason="closed"))
            return
        waiter = self._loop.create_future()
        self._waiter = waiter
        self._arm(timeout_s, phase)
        try:
            await waiter
        finally:
            self._deadline_s = FOREVER

    def _arm(self, timeout_s: float, phase: str) -> None:
        deadline_s = self._deadline_s = self._loop.time() + timeout_s
        self._timeout_s = timeout_s
        self._phase = phase
        if self._timer is not None:
            if self._timer_s <= deadline_s:
                return
            self._timer.cancel()
        self._timer_s = deadline_s
        self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def _on_timer(self) -> None:
        """The timer is due; what it was set for may have ended long ago."""
        self._timer = None
        deadline_s = self._deadline_s
        if deadline_s == FOREVER:
            return
        if self._loop.time() < deadline_s:
            self._timer_s = deadline_s
            self._timer = self._loop.call_at(deadline_s, self._on_timer)
            return
        self._fail(self._timeout(self._phase, self._timeout_s))

    def _timeout(self, phase: str, timeout_s: float) -> OriginTimeoutError:
        error = OriginTimeoutError(f"the origin took longer than {timeout_s} s", phase=phase)
        error.upstream = self.upstream
        return error
