"""The embedded demonstration: a small origin, for a proxy without upstream.

    /             what there is
    /page         a page that is fresh for a minute
    /slow         an answer that takes a second; ask for it ten times at once
    /range        ten megabytes; ask for ranges of it
    /stale        fresh for a second, then served stale while it is refreshed
    /vary         one answer per Accept-Language
    /nocache      never stored
    /tagged       has the Surrogate-Key "demo"
    /error        fails every other time, and may be served stale then
    /toggle       switches /page and /error to failing, and back

It listens on loopback, on a port of its own, so that everything on the way is the real thing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate

from edgecache.http.request import Request
from edgecache.http.response import Response
from edgecache.http.server import HttpServer, Listener
from edgecache.proxy.addresses import Resolver
from edgecache.proxy.origin import OriginGroup
from edgecache.proxy.settings import UpstreamConfig

RANGE_BYTES = 10 << 20
SLOW_S = 1.0
Fields = tuple[tuple[str, str], ...]

_INDEX = "".join(line[4:] + "\n" for line in (__doc__ or "").splitlines() if line[:5] == "    /")
_TEXT: Fields = (("Content-Type", "text/plain; charset=utf-8"),)
_GREETINGS = {b"de": "Guten Tag", b"fr": "Bonjour", b"es": "Buenos dias", b"en": "Good day"}


class DemoOrigin:
    """The handler of the demonstration.

    *Thread-safety*: belongs to one loop.
    """

    def __init__(self) -> None:
        self.asked_count = 0
        self._is_failing = False
        self._error_count = 0
        self._started_s = time.time()
        self._block = bytes(range(256)) * 4096
        self._server = HttpServer(self)

    @classmethod
    async def group(cls, resolver: Resolver) -> OriginGroup:
        """Start it; the group of servers that it is."""
        demo = cls()
        await demo._server.start([Listener(host="127.0.0.1", port=0)])
        address = demo._server.addresses[0]
        assert isinstance(address, tuple)
        config = UpstreamConfig(servers=(f"127.0.0.1:{address[1]}",))
        return DemoGroup("demo", config, resolver, demo)

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.drain(0.1)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        self.asked_count += 1
        path = request.path_and_query[0]
        answer = _PAGES.get(path)
        if answer is None:
            return self._text(404, "there is no such page\n", ("Cache-Control", "max-age=10"))
        return answer(self, request)

    def _text(self, status: int, text: str, *fields: tuple[str, str]) -> Response:
        return Response(status, (*_TEXT, *fields), text.encode())

    def _line(self, what: str) -> str:
        return f"{what}: made by request {self.asked_count} at {formatdate(usegmt=True)}\n"

    def index(self, request: Request) -> Response:
        return self._text(200, _INDEX, ("Cache-Control", "max-age=3600"))

    def page(self, request: Request) -> Response:
        if self._is_failing:
            return self._text(503, "switched off by /toggle\n")
        fields = (("Cache-Control", "max-age=60"), ("ETag", f'"{int(self._started_s)}"'))
        return self._text(200, self._line("a page"), *fields)

    def slow(self, request: Request) -> Response:
        text = self._line("a slow answer").encode()

        async def pieces() -> AsyncIterator[bytes]:
            await asyncio.sleep(SLOW_S)
            yield text

        fields = (*_TEXT, ("Cache-Control", "max-age=10"))
        return Response(200, fields, pieces(), length=len(text))

    def range(self, request: Request) -> Response:
        fields = (
            ("Content-Type", "application/octet-stream"),
            ("Cache-Control", "max-age=3600"),
            ("ETag", '"ten-megabytes"'),
            ("Accept-Ranges", "bytes"),
        )
        wanted = (request.get(b"range") or b"").decode("latin-1")
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if wanted.startswith("bytes=") and first.isdigit() and (last.isdigit() or not last):
            start, end = int(first), min(int(last or RANGE_BYTES - 1), RANGE_BYTES - 1)
            if start <= end:
                span = ("Content-Range", f"bytes {start}-{end}/{RANGE_BYTES}")
                return Response(206, (*fields, span), self._bytes(start, end + 1))
        return Response(200, fields, self._bytes(0, RANGE_BYTES))

    def _bytes(self, start: int, end: int) -> bytes:
        block = self._block
        first = start // len(block)
        count = (end - 1) // len(block) - first + 1
        return (block * count)[start - first * len(block) : end - first * len(block)]

    def stale(self, request: Request) -> Response:
        control = ("Cache-Control", "max-age=1, stale-while-revalidate=60, stale-if-error=600")
        return self._text(200, self._line("served stale while it is refreshed"), control)

    def vary(self, request: Request) -> Response:
        language = (request.get(b"accept-language") or b"en")[:2].lower()
        text = _GREETINGS.get(language, _GREETINGS[b"en"])
        fields = (("Cache-Control", "max-age=60"), ("Vary", "Accept-Language"))
        return self._text(200, self._line(text), *fields)

    def nocache(self, request: Request) -> Response:
        return self._text(200, self._line("never stored"), ("Cache-Control", "no-store"))

    def tagged(self, request: Request) -> Response:
        fields = (("Cache-Control", "max-age=600"), ("Surrogate-Key", "demo"))
        return self._text(200, self._line("tagged demo"), *fields)

    def error(self, request: Request) -> Response:
        self._error_count += 1
        if self._is_failing or self._error_count % 2 == 0:
            return self._text(500, "it failed, as every other time\n")
        control = ("Cache-Control", "max-age=1, stale-if-error=600")
        return self._text(200, self._line("sometimes it works"), control)

    def toggle(self, request: Request) -> Response:
        self._is_failing = not self._is_failing
        text = "/page and /error fail now\n" if self._is_failing else "all is well again\n"
        return self._text(200, text, ("Cache-Control", "no-store"))


_PAGES = {
    b"/": DemoOrigin.index,
    b"/page": DemoOrigin.page,
    b"/slow": DemoOrigin.slow,
    b"/range": DemoOrigin.range,
    b"/stale": DemoOrigin.stale,
    b"/vary": DemoOrigin.vary,
    b"/nocache": DemoOrigin.nocache,
    b"/tagged": DemoOrigin.tagged,
    b"/error": DemoOrigin.error,
    b"/toggle": DemoOrigin.toggle,
}


class DemoGroup(OriginGroup):
    """The group of servers that the demonstration is; it stops with it."""

    __slots__ = ("_demo",)

    def __init__(
        self, name: str, config: UpstreamConfig, resolver: Resolver, demo: DemoOrigin
    ) -> None:
        super().__init__(name, config, resolver)
        self._demo = demo

    async def stop(self) -> None:
        await super().stop()
        await self._demo.stop()
