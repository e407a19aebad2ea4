"""The admin listener: FastAPI on uvicorn, in the loop of the server.

uvicorn would take the signals for itself; here the process handles them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import uvicorn

from edgecache.api import create_application
from edgecache.server.sockets import bind

if TYPE_CHECKING:
    from edgecache.api import Control
    from edgecache.server.settings import Address

BODY_BYTES_MAX = 64 << 10
CONCURRENCY_MAX = 64
KEEP_ALIVE_S = 5
BACKLOG = 128
STOP_S = 3

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BodyLimit:
    """Refuse request bodies above a size with 413, before anybody gathers them in memory.

    Answers get their Date here.

    Args:
        application: The ASGI application behind it.
        size_max: Bytes.
    """

    def __init__(self, application: Any, size_max: int) -> None:
        self._application = application
        self._size_max = size_max

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        send = _dated(send)
        pieces, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message.get("body", b""))
            if size > self._size_max:
                await _refuse(send)
                return
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body: Message | None = {
            "type": "http.request",
            "body": b"".join(pieces),
            "more_body": False,
        }

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = body, None
            return message

        await self._application(scope, replay, send)


def _dated(send: Send) -> Send:
    """Add Date to an answer (RFC 9110, section 6.6.1)."""

    async def send_dated(message: Message) -> None:
        if message["type"] == "http.response.start":
            date = (b"date", formatdate(usegmt=True).encode("ascii"))
            message = {**message, "headers": [*message["headers"], date]}
        await send(message)

    return send_dated


async def _refuse(send: Send) -> None:
    body = b'{"error":"too_large","message":"the request is too large"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """uvicorn without its clock, which wakes ten times a second to look at a flag and the date."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class AdminListener:
    """Serve the admin API.

    Args:
        control: What it asks.
        token: What clients must send; None: nothing.
    """

    def __init__(self, control: Control, token: str | None) -> None:
        application = BodyLimit(create_application(control, token), BODY_BYTES_MAX)
        self._server = _Server(
            uvicorn.Config(
                application,
                loop="none",
                http="httptools",
                ws="none",
                date_header=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONCURRENCY_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                backlog=BACKLOG,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self.address: object = None

    async def start(self, address: Address) -> None:
        """Listen.

        Raises:
            ListenError: The address cannot be used.
        """
        handle = bind(address, "admin.listen")[0]
        self.address = handle.getsockname()
        self._task = asyncio.create_task(self._server.serve([handle]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop listening, let answers under way end."""
        self._server.should_exit = True
        self._server.ended.set()
        if self._task is not None:
            await self._task
