"""What the connections of one server have in common: limits, counters, the clock.

One timer serves all connections: it runs while there are any, and asks each for its deadline. So a
request costs no timer, and a server without connections wakes nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from time import perf_counter
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, cast

from edgecache.http._head import Exchange
from edgecache.http._wire import Wire
from edgecache.http.limits import HttpLimits
from edgecache.http.response import Response
from edgecache.http.statistics import HttpStatistics

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgecache.http.answering import Handler
    from edgecache.http.protocol import HttpProtocol
    from edgecache.http.request import Request

__all__ = ["OnAnswer", "Shared", "bound"]

# Deadlines and the Date field are this exact.
TICK_S = 0.25
# Of a request line: the longest method, two spaces, the version, and CRLF.
LINE_BYTES_BESIDES = 48
# Requests remembered by their exact bytes, and the longest of them.
REPEATS_MAX = 8192
REPEAT_BYTES_MAX = 2048

Repeat = tuple[Callable[[], "Response | None"], bytes]
Instant = Callable[[bytes], "tuple[bytes, Buffer] | Response | None"]
# Prefix, `instant` or `recall` of a door, whether it is `recall`.
Route = tuple[bytes, Callable[..., object] | None, bool]
OnAnswer = Callable[["Request", int, int, float], None]


# Content of these has no meaning (RFC 9110, section 9.3): it is discarded before they are handled,
# unless the handler says otherwise: a proxy passes on what it is given.
WITHOUT_CONTENT = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"})


def bound(handler: Handler) -> Handler:
    """Return what calls a handler the fastest way: an object's own method instead of the object."""
    if isinstance(handler, (FunctionType, MethodType)):
        return handler
    return cast("Handler", getattr(handler, "__call__"))  # noqa: B004, B009


def _never(target: bytes) -> None:
    return None


def routes_of(handler: object) -> list[Route]:
    """Return who answers at once: a handler's own live list, or one of its methods."""
    routes: list[Route] | None = getattr(handler, "routes", None)
    if routes is not None:
        return routes
    recall = getattr(handler, "recall", None)
    if recall is not None:
        return [(b"/", recall, True)]
    instant = getattr(handler, "instant", None)
    return [] if instant is None else [(b"/", instant, False)]


class Shared:
    """State of a server that its connections use.

    Args:
        loop: Where they run.
        handler: Answers requests. It may have a method `instant`, which is asked first for a GET of
            a path without preconditions, ranges and content: with the target alone it returns head
            and content of a 200, any other Response, or None: call the handler. The content may
            be anything with the buffer protocol; it is held until the kernel has taken it. A method
            `recall` instead gets the field lines as well, exact bytes: what it answers depends
            on both alone. `routes`, a list of (prefix, method or None, whether it is a
            `recall`), the longest prefix first, stands for several doors. With an attribute
            `without_content` it names the methods whose content is discarded, not handed over.
        limits: For each connection.
        on_answer: Called with request, status, bytes of content and seconds for every answer.
        shows_time: Add `X-Total-Time-Ms` to every answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        limits: HttpLimits,
        *,
        on_answer: OnAnswer | None = None,
        shows_time: bool = False,
    ) -> None:
        self.loop = loop
        # By scheme: what the exact bytes of one request were answered with, and may be again.
        self.repeats: dict[str, dict[bytes, Repeat]] = {"http": {}, "https": {}}
        self.statistics = HttpStatistics()
        self.handle_with(handler)
        self.limits = limits
        self.shows_time = shows_time
        self.is_draining = False
        self.observe_with(on_answer)
        target_bytes_max = limits.request_line_bytes_max - LINE_BYTES_BESIDES
        self.exchange = Exchange(
            self.statistics.native,
            Response,
            self.statistics.count,
            self.statistics.latencies.add_sample,
            target_bytes_max,
        )
        self.exchange.is_plain = self.is_plain
        self.exchange.shows_time = shows_time
        self.exchange.routes = routes_of(handler)
        self.wire = Wire(loop, self.exchange)
        self.connections: set[HttpProtocol] = set()
        self.set_now(loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.set_date()

    def handle_with(self, handler: Handler) -> None:
        """Let a handler answer the requests that begin from now on."""
        self.handler = bound(handler)
        self.instant: Instant = getattr(handler, "instant", _never)
        self.without_content: frozenset[bytes] = getattr(
            handler, "without_content", WITHOUT_CONTENT
        )
        self.statistics.latencies.name_doors(getattr(handler, "door_names", ()))
        self.forget()

    def limit_with(self, limits: HttpLimits) -> None:
        """Apply other limits from now on."""
        self.limits = limits
        self.forget()

    def forget(self) -> None:
        """Forget what requests were answered with; connections hold these very dictionaries."""
        for each in self.repeats.values():
            each.clear()

    def observe_with(self, on_answer: OnAnswer | None) -> None:
        """Call something for every answer to a request that begins from now on, or nothing."""
        self.on_answer = on_answer
        self.is_timed = self.shows_time or on_answer is not None
        # Nothing out of the ordinary to do with an answer.
        self.is_plain = not (on_answer is not None or self.is_draining)

    def set_now(self, now_s: float) -> None:
        """Set the time that deadlines count from, and the one of who is idle from now on."""
        self.now_s = now_s
        self.idle_deadline_s = now_s + self.limits.idle_timeout_s
        self.exchange.idle_deadline_s = self.idle_deadline_s

    def set_date(self) -> None:
        """Render the ends of a head: Date, and what becomes of the connection."""
        date = f"Date: {formatdate(usegmt=True)}\r\n".encode("ascii")
        self.date_bytes = len(date)
        self.end_keep = self.exchange.end_keep = date + b"\r\n"
        self.end_keep_old = date + b"Connection: keep-alive\r\n\r\n"
        self.end_close = date + b"Connection: close\r\n\r\n"

    def show_time(self, shows_time: bool) -> None:
        """Say what answers took from now on, or do not."""
        self.shows_time = self.exchange.shows_time = shows_time
        self.is_timed = shows_time or self.on_answer is not None

    @staticmethod
    def end_after(began_s: float | None, end: bytes) -> bytes:
        """Return an end of a head, with what the answer took since then (`perf_counter`).

        None: it was refused before anybody was asked.
        """
        spent_s = 0.0 if began_s is None else perf_counter() - began_s
        return b"X-Total-Time-Ms: %.3f\r\n" % (1000 * spent_s) + end

    def begin_draining(self) -> None:
        """Close every connection behind its next answer."""
        self.is_draining = True
        self.is_plain = False
        self.exchange.is_plain = False

    def remember(self, repeats: dict[bytes, Repeat], data: bytes, repeat: Repeat) -> None:
        """Keep how a request was answered; the oldest goes when there are too many."""
        if len(data) <= REPEAT_BYTES_MAX:
            if len(repeats) >= REPEATS_MAX:
                del repeats[next(iter(repeats))]
            repeats[data] = repeat

    def add(self, connection: HttpProtocol) -> None:
        """Take a new connection."""
        self.connections.add(connection)
        self._emptied.clear()
        self.statistics.connections += 1
        self.statistics.accepted += 1
        if self._timer is None:
            self.set_now(self.loop.time())
            self.set_date()
            self._timer = self.loop.call_later(TICK_S, self._tick)

    def remove(self, connection: HttpProtocol) -> None:
        """Forget a connection that is closed."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.statistics.connections -= 1
        if not self.connections:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Return when there is no connection left; several may wait."""
        await self._emptied.wait()

    def _tick(self) -> None:
        now_s = self.loop.time()
        self.set_now(now_s)
        self.set_date()
        for connection in [c for c in self.connections if c.deadline_s < now_s]:
            connection.on_deadline(now_s)
        self._timer = self.loop.call_later(TICK_S, self._tick) if self.connections else None

    def count_full(self) -> None:
        """Count that the process had no descriptor left for a connection."""
        self.statistics.refused_by_reason["descriptors"] += 1

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
