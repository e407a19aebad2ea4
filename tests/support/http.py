"""A server in a thread of its own, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import uvloop

from edgecache.http import HttpLimits, HttpServer, Listener, Request, Response

TIMEOUT_S = 10.0


class Answer(NamedTuple):
    """One parsed answer."""

    status: int
    fields: dict[str, str]
    body: bytes


class Running:
    """An `HttpServer` on a free port, on a loop in its own thread; a context manager."""

    def __init__(
        self,
        handler: Callable[[Request], Response | Awaitable[Response]],
        *,
        limits: HttpLimits | None = None,
        listener: Listener | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
        **options: Any,
    ) -> None:
        self.server = HttpServer(handler, limits=limits, **options)
        self.loop = loop_factory()
        self._listener = listener or Listener(host="127.0.0.1")
        self._thread = threading.Thread(target=self.loop.run_forever, name="http-test")

    def call(self, answer: Any) -> Any:
        """Run a coroutine on the server's loop; its result."""
        return asyncio.run_coroutine_threadsafe(answer, self.loop).result(TIMEOUT_S)

    def __enter__(self) -> Running:
        self._thread.start()
        self.call(self.server.start([self._listener]))
        return self

    def __exit__(self, *details: object) -> None:
        try:
            self.call(self.server.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(TIMEOUT_S)
            self.loop.close()

    @property
    def port(self) -> int:
        return int(self.server.addresses[0][1])  # type: ignore[index]

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.server.statistics.refused_by_reason)

    def connect(self, context: ssl.SSLContext | None = None, **options: int) -> socket.socket:
        """Open a connection; options are socket options set before connecting."""
        handle = socket.socket()
        for name, value in options.items():
            handle.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        handle.settimeout(TIMEOUT_S)
        handle.connect(("127.0.0.1", self.port))
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return handle if context is None else context.wrap_socket(handle, server_hostname="a")

    def send(self, *segments: bytes, closes: bool = False) -> bytes:
        """Send bytes on a new connection, and return everything until the server closes.

        Args:
            closes: Close the sending side first; else the server must close by itself.
        """
        with self.connect() as handle:
            for segment in segments:
                with contextlib.suppress(ConnectionError):
                    handle.sendall(segment)
            if closes:
                handle.shutdown(socket.SHUT_WR)
            return read_all(handle)

    def exchange(self, request: bytes) -> Answer:
        """Send one request and return its answer."""
        with self.connect() as handle:
            handle.sendall(request)
            return next(answers(handle, request[:4] == b"HEAD"))


def read_all(handle: socket.socket) -> bytes:
    """Read until end of file, or until the peer resets."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := handle.recv(65536):
            received += piece
    return bytes(received)


def answers(handle: socket.socket, is_head: bool = False) -> Iterator[Answer]:
    """Parse answers from a connection, one by one."""
    file = handle.makefile("rb")
    while line := file.readline():
        status = int(line.split()[1])
        fields: dict[str, str] = {}
        while (line := file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.lower()] = value.strip()
        body = b""
        if is_head:
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(file.readline(), 16):
                body += file.read(size)
                assert file.readline() == b"\r\n"
            assert file.readline() == b"\r\n"
        elif "content-length" in fields:
            body = file.read(int(fields["content-length"]))
        elif status not in (204, 304) and status >= 200:
            body = file.read()
        yield Answer(status, fields, body)


def statuses(received: bytes) -> list[int]:
    """Statuses of all answers in a stream, for answers whose content holds no status line."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def request(
    method: str, target: str, fields: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """Render a request with a Host, and Content-Length when there is content."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{n}: {v}" for n, v in fields)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")
