"""An origin server that does exactly what a test says, byte by byte, and records what it received.

    async with ScriptedOrigin() as origin:
        origin.answer("/page", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        ...
        origin.requests[0].target

A script is a list of steps: bytes are sent as they are, an `asyncio.Event` is waited for, `CLOSE`
ends the connection in order, `RESET` cuts it, `SILENCE` says nothing until the peer leaves. After
the steps of a script the connection lives on, so scripts frame their answers.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

WAIT_S = 20.0


class Step(enum.Enum):
    """What a script does besides sending bytes."""

    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"
    READ_BODY = "read body"


CLOSE, RESET, SILENCE, READ_BODY = Step.CLOSE, Step.RESET, Step.SILENCE, Step.READ_BODY

Script = Iterable["bytes | Step | asyncio.Event"]
Answer = Callable[["Received"], "bytes | Script | Awaitable[bytes | Script]"]


@dataclass
class Received:
    """A request as it came: the exact bytes of its head, and its body."""

    raw: bytes
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    connection_number: int

    def get(self, name: str) -> bytes | None:
        """The value of a field, lines joined by ", "; None without one."""
        wanted = name.lower().encode()
        values = [value for key, value in self.fields if key.lower() == wanted]
        return b", ".join(values) if values else None

    def names(self) -> list[bytes]:
        """The names of the fields, as sent."""
        return [name for name, _ in self.fields]


def looped(test: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Run an asynchronous test in a loop of its own; nothing may be left running."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        async def bounded() -> R:
            async with asyncio.timeout(60):
                return await test(*args, **kwargs)

        return asyncio.run(bounded())

    return run


def response(
    status: int = 200,
    body: bytes = b"",
    *,
    reason: bytes = b"OK",
    length: int | None = None,
    chunked: bool = False,
    **fields: str,
) -> bytes:
    """Return an answer; names of fields are written with "_" for "-"."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines += [
        f"{name.replace('_', '-')}: {value}".encode("latin-1") for name, value in fields.items()
    ]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif status not in (204, 304) and status >= 200:
        lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class ScriptedOrigin:
    """The server; `async with` starts and stops it.

    Args:
        tls: A context for HTTPS.
    """

    def __init__(self, tls: Any = None) -> None:
        self.requests: list[Received] = []
        self.port = 0
        self.connection_count = 0
        self.open_count = 0
        self._tls = tls
        self._answers: dict[bytes, deque[Any]] = {}
        self._default: Answer | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    # What a test says

    def answer(self, target: str, *answers: bytes | Script | Answer) -> None:
        """Set the answers for a path (without its query): one per request, the last one repeats."""
        self._answers[target.encode("latin-1")] = deque(answers)

    def answer_all(self, answer: Answer) -> None:
        """Set what answers everything that has no answer of its own."""
        self._default = answer

    async def wait_for(self, count: int) -> None:
        """Wait until so many requests have come in all."""
        async with asyncio.timeout(WAIT_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    def count(self, target: str | None = None) -> int:
        """How many requests came, for a path (without its query) or in all."""
        wanted = None if target is None else target.encode("latin-1")
        return sum(wanted in (None, one.target.partition(b"?")[0]) for one in self.requests)

    # The server

    async def __aenter__(self) -> ScriptedOrigin:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=1 << 20, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the listener and every connection; `async with` again listens on the same port."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        self.open_count += 1
        number = self.connection_count
        try:
            while await self._one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_count -= 1
            self._tasks.discard(task)
            writer.close()

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        raw = await reader.readuntil(b"\r\n\r\n")
        line, *lines = raw[:-4].split(b"\r\n")
        method, target, _ = line.split(b" ")
        fields = [
            (name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)
        ]
        received = Received(raw, method, target, fields, b"", number)
        script = self._choose(received)
        steps: Any
        if callable(script):
            received.body = await self._body(reader, received)
            await self._record(received)
            made = script(received)
            steps = await made if isinstance(made, Awaitable) else made
        else:
            steps = [script] if isinstance(script, bytes) else list(script)
            if READ_BODY not in steps and not any(isinstance(step, Step) for step in steps[:1]):
                received.body = await self._body(reader, received)
            await self._record(received)
        for step in [steps] if isinstance(steps, bytes) else steps:
            if not await self._step(step, received, reader, writer):
                return False
        await writer.drain()
        return True

    async def _record(self, received: Received) -> None:
        async with self._arrived:
            self.requests.append(received)
            self._arrived.notify_all()

    def _choose(self, received: Received) -> Any:
        queue = self._answers.get(received.target.partition(b"?")[0])
        if queue:
            return queue.popleft() if len(queue) > 1 else queue[0]
        if self._default is not None:
            return self._default
        return response(404, b"nothing here", reason=b"Not Found")

    async def _step(
        self,
        step: bytes | Step | asyncio.Event,
        received: Received,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif step is READ_BODY:
            received.body = await self._body(reader, received)
        elif step is SILENCE:
            await reader.read()
            return False
        else:
            if step is RESET:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            writer.close()
            return False
        return True

    async def _body(self, reader: asyncio.StreamReader, received: Received) -> bytes:
        if received.get("transfer-encoding") is not None:
            pieces = []
            while size := int(await reader.readuntil(b"\r\n"), 16):
                pieces.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
            return b"".join(pieces)
        return await reader.readexactly(int(received.get("content-length") or 0))
