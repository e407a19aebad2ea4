"""Work that goes on when the client that caused it has left: fills, refreshes, purges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger("edgecache.proxy")


class Tasks:
    """Tasks that are held, and whose failures are logged.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_tasks", "failure_count")

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failure_count = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin with something."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.failure_count += 1
            logger.error("background work failed", exc_info=error)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything has ended; False when it took too long."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while self._tasks and loop.time() < deadline_s:
            await asyncio.wait(set(self._tasks), timeout=max(0.0, deadline_s - loop.time()))
        return not self._tasks

    async def stop(self) -> None:
        """Cancel everything, and wait for it."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
