"""Single flight between the tasks of an event loop.

Each computation is a task of its own, so a cancelled caller takes nobody else down with it.

Invariants (one loop, so no lock):

1. A key has at most one flight per loop; it is in `_flights` until its task is done.
2. `ACTIVE` holds the flights that the current context computes for, innermost last. Tasks inherit
   it, so a computation that spreads over tasks (gather) is still seen as one.
3. `awaited` of a flight are the flights that its computation waits for now.
4. Nobody waits in a cycle: a computation that would computes by itself.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

_log = logging.getLogger("edgecache.memoize")


class AsyncFlight:
    """One computation, and the flights that it waits for."""

    __slots__ = ("awaited", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[bytes] | None = None
        self.awaited: list[AsyncFlight] = []

    def reaches(self, targets: tuple[AsyncFlight, ...]) -> bool:
        """Whether this flight is, or waits for, one of `targets`."""
        open_flights = [self]
        seen: set[int] = set()
        while open_flights:
            flight = open_flights.pop()
            if any(flight is target for target in targets):
                return True
            if id(flight) not in seen:
                seen.add(id(flight))
                open_flights.extend(flight.awaited)
        return False


ACTIVE: ContextVar[tuple[AsyncFlight, ...]] = ContextVar("edgecache_memoize_active", default=())

_Compute = Callable[[], Coroutine[Any, Any, bytes]]


class AsyncFlights:
    """The computations in progress of one asynchronous store, by loop.

    *Thread-safety*: several loops in several threads may use it; each has flights of its own.
    """

    __slots__ = ("_by_loop", "finished_count")

    def __init__(self) -> None:
        self.finished_count = 0
        self._by_loop: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[bytes | str, AsyncFlight]
        ] = weakref.WeakKeyDictionary()

    def _flights(self) -> dict[bytes | str, AsyncFlight]:
        loop = asyncio.get_running_loop()
        flights = self._by_loop.get(loop)
        if flights is None:
            flights = self._by_loop[loop] = {}
        return flights

    def refresh(self, key: bytes | str, compute: _Compute) -> None:
        """Start the flight of `key` unless there is one; a failure is logged."""
        if key not in self._flights():
            self._start(key, compute, is_refresh=True)

    def _start(
        self, key: bytes | str, compute: _Compute, *, is_refresh: bool = False
    ) -> AsyncFlight:
        flights = self._flights()
        flight = flights[key] = AsyncFlight()
        token = ACTIVE.set((*ACTIVE.get(), flight))
        try:
            flight.task = asyncio.create_task(compute())
        finally:
            ACTIVE.reset(token)

        def finish(task: asyncio.Task[bytes]) -> None:
            del flights[key]
            self.finished_count += 1
            if task.cancelled():
                return
            error = task.exception()  # seen: those who waited have got it
            if error is not None and is_refresh:
                _log.warning("a result could not be refreshed; the old one serves", exc_info=error)

        flight.task.add_done_callback(finish)
        return flight

    async def run(
        self, key: bytes | str, compute: _Compute, compute_alone: _Compute | None = None
    ) -> bytes:
        """Return the result of the flight of `key`; the first caller starts it.

        Who would wait for itself calls `compute_alone`, where it is given.

        Its error goes to all who wait for it, and the next caller tries again. A cancelled caller
        leaves the computation to the others; it goes on also when nobody waits any more.
        """
        while True:
            flight = self._flights().get(key)
            active = ACTIVE.get()
            if flight is None:
                flight = self._start(key, compute)
            elif flight.reaches(active):
                return await (compute_alone or compute)()
            task = flight.task
            assert task is not None
            if active:
                active[-1].awaited.append(flight)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not task.cancelled() or (current is not None and current.cancelling()):
                    raise
                # The computation was cancelled from within, not this caller: somebody goes on.
            finally:
                if active:
                    active[-1].awaited.remove(flight)
