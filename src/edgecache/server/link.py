"""Two processes of one server that ask each other: JSON lines over a socket pair.

    {"id": 7, "op": "purge", "facts": {...}}      a question
    {"re": 7, "value": ...}                       its answer
    {"re": 7, "error": "why not"}                 or why there is none

Both sides may ask at any time, and answer in any order. Bytes travel as latin-1 text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from edgecache.errors import EdgeCacheError

LINE_BYTES_MAX = 16 << 20
ASK_S = 30.0

Serve = Callable[[str, dict[str, Any]], Awaitable[Any]]

_log = logging.getLogger("edgecache.server")


class LinkError(EdgeCacheError):
    """The other process did not answer, or said that it could not do it."""

    default_hint = "its own log says more"


class Link:
    """One end.

    Args:
        handle: A connected stream socket; the link owns it.
        serve: Answers the questions of the other side.

    *Thread-safety*: belongs to one loop.
    """

    def __init__(self, handle: socket.socket, serve: Serve) -> None:
        self._handle = handle
        self._serve = serve
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()

    async def open(self) -> None:
        """Begin to listen to the other side."""
        reader, self._writer = await asyncio.open_unix_connection(
            sock=self._handle, limit=LINE_BYTES_MAX
        )
        self._spawn(self._read(reader))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "re" in message:
                    self._settle(message)
                else:
                    self._spawn(self._answer(message))
        except (OSError, ValueError) as error:
            _log.warning("the link to another process broke: %s", error)
        finally:
            self.closed.set()
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(LinkError("the other process has ended"))
            self._asked.clear()
            self.close()

    def _settle(self, message: dict[str, Any]) -> None:
        future = self._asked.pop(message["re"], None)
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(LinkError(message["error"]))
        else:
            future.set_result(message["value"])

    async def _answer(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"re": message["id"]}
        try:
            reply["value"] = await self._serve(message["op"], message["facts"])
        except (EdgeCacheError, OSError) as error:
            reply["error"] = str(error)
        except Exception as error:
            _log.error("a question of another process failed", exc_info=error)
            reply["error"] = f"{type(error).__name__}: {error}"
        self._send(reply)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode("ascii") + b"\n")

    async def ask(self, op: str, timeout_s: float = ASK_S, **facts: Any) -> Any:
        """Ask the other side.

        Raises:
            LinkError: It has ended, takes too long, or cannot do it.
        """
        if self._writer is None or self.closed.is_set():
            raise LinkError("the other process has ended")
        self._next += 1
        number = self._next
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "op": op, "facts": facts})
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise LinkError(f"the other process took longer than {timeout_s:g} s") from None
        finally:
            self._asked.pop(number, None)

    def close(self) -> None:
        """Close the link. Idempotent."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._handle.close()
