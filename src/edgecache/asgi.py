"""The server's doors as an ASGI application, for servers that speak HTTP/2 or HTTP/3.

    granian --interface asgi --http auto edgecache.asgi:app
    uvicorn edgecache.asgi:app

Settings: the file that EDGECACHE_CONFIG names, and EDGECACHE_* variables; listeners, admin plane,
TLS and limits of the data plane belong to the ASGI server. The cache is opened and closed by the
lifespan events; run one worker process.

An ASGI server decodes the path; `raw_path`, which it should give as well, is used for the exact
bytes of the target.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.utils import formatdate
from inspect import isawaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from edgecache.errors import ArgumentError, StoreClosedError
from edgecache.http.failures import ClientGoneError, RequestError
from edgecache.http.framing import Block, parse_line
from edgecache.http.request import BodyReader, Request
from edgecache.http.response import FileRange, Response, text_response

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.http.answering import Handler
    from edgecache.server.doors import Doors
    from edgecache.server.settings import ServerSettings

__all__ = ["Application", "app"]

CONFIG_VARIABLE = "EDGECACHE_CONFIG"
PIECE_BYTES = 256 << 10
# Fields that belong to one hop; the ASGI server frames for itself.
_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application:
    """An ASGI 3 application over the cache API and the proxy.

    Args:
        settings: None: from EDGECACHE_CONFIG and the environment, when it starts.
    """

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self._settings = settings
        self._store: AsyncStorage | None = None
        self._doors: Doors | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            raise ArgumentError(f"an ASGI scope of type {scope['type']!r} is not served")

    # Life

    async def start(self) -> None:
        """Open the cache and its doors."""
        from edgecache.aio import AsyncStorage
        from edgecache.server.doors import Doors
        from edgecache.server.loading import load_settings

        settings = self._settings
        if settings is None:
            settings = load_settings(os.environ.get(CONFIG_VARIABLE), {})
        self._store = await AsyncStorage.open(settings.cache)
        self._doors = await Doors.start(settings, self._store)

    async def stop(self) -> None:
        """Close them."""
        if self._doors is not None:
            await self._doors.stop(0.0)
            self._doors = None
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # Requests

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._doors is None:
            raise StoreClosedError(
                "the application was not started", hint="use an ASGI server with lifespan support"
            )
        handler = self._doors.handler
        try:
            response = await _respond(handler, _request(scope, receive))
        except RequestError as error:
            response = text_response(error.status, error.message, error.fields)
        except ClientGoneError:
            return
        try:
            await _send(response, scope["method"] == "HEAD", send)
        finally:
            if response.release is not None:
                response.release()


class _PulledBody(BodyReader):
    """A `BodyReader` that is fed by the caller of `read` itself."""

    __slots__ = ("_receive",)

    def __init__(self, length: int | None, receive: Receive) -> None:
        super().__init__(length, None)
        self._receive = receive

    async def read(self) -> bytes:
        while not self.pending_bytes and not self.is_complete and self.error is None:
            message = await self._receive()
            if message["type"] != "http.request":
                self.fail(ClientGoneError("the client went away"))
                break
            if message.get("body"):
                self.feed(message["body"])
            if not message.get("more_body"):
                self.finish()
        return await super().read()


def _request(scope: Scope, receive: Receive) -> Request:
    """Make a request of a scope; RequestError when it is not a valid one."""
    target = scope.get("raw_path") or quote_from_bytes(
        scope["path"].encode(), safe="/!$&'()*+,;=:@-._~"
    ).encode("ascii")
    if scope.get("query_string"):
        target += b"?" + scope["query_string"]
    method, target, minor, _ = parse_line(
        scope["method"].encode("ascii") + b" " + target + b" HTTP/1.1\r\n", 0
    )
    fields = tuple((name, value) for name, value in scope["headers"] if name.lower() not in _HOP)
    # The proxy knows sections again by their bytes, so two that differ must not have the same.
    block = Block(b"".join([b"%b: %b\r\n" % pair for pair in fields]), fields)
    peer = tuple(scope["client"]) if scope.get("client") else ""
    request = Request(method, target, minor, block, peer, scope.get("scheme", "http"))
    has_content = bool(block.content_length) or scope["method"] not in ("GET", "HEAD")
    if has_content and block.content_length != 0:
        request.body = _PulledBody(block.content_length, receive)
    return request


async def _respond(handler: Handler, request: Request) -> Response:
    answer = handler(request)
    return await answer if isawaitable(answer) else answer


def _date(response: Response) -> list[tuple[bytes, bytes]]:
    """Return a Date for answers without one: not every ASGI server adds it."""
    if response.has_date:
        return []
    return [(b"date", formatdate(usegmt=True).encode("ascii"))]


def _fields(head: bytes) -> Iterable[tuple[bytes, bytes]]:
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.lower() not in _HOP:
            yield name.lower(), value.strip()


async def _send(response: Response, is_head: bool, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [*_fields(response.head), *_date(response)],
        }
    )
    body = response.body
    if is_head:
        await _dispose(body)
    elif isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return
    elif isinstance(body, FileRange):
        await _send_file(body, send)
    elif hasattr(body, "__aiter__"):
        try:
            async for piece in body:
                await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        finally:
            await _dispose(body)
    else:
        for piece in body:
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _dispose(body: object) -> None:
    close = getattr(body, "aclose", None)
    if close is not None:
        await close()


async def _send_file(part: FileRange, send: Send) -> None:
    offset, end = part.offset, part.offset + part.size
    while offset < end:
        piece = os.pread(part.descriptor, min(PIECE_BYTES, end - offset), offset)
        if not piece:
            raise OSError("the file is shorter than the answer")
        offset += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})


app = Application()
"""What ASGI servers load."""
