"""Collapsing: one fetch per key at a time, whose answer serves everybody who asked meanwhile.

Invariants:

1. Of one key at most one flight is in the table. It leaves the table when its answer is published,
   or known to be of no use to others, or too old: who asks then starts another.
2. A flight gets its outcome once: SHARED (the answer is for all whom it fits), RELEASED (it is for
   its own client alone: every waiter goes to the origin by itself, at once and side by side) or
   FAILED (waiters compete for a new flight, or serve what is stale).
3. Nobody waits longer than the wait timeout, whatever the leader does.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

from edgecache.proxy.problems import OriginError

if TYPE_CHECKING:
    from edgecache.proxy.fetching import Filled


class Outcome(enum.Enum):
    """What became of a flight."""

    WAITING = "waiting"
    SHARED = "shared"
    RELEASED = "released"
    FAILED = "failed"


class Flight:
    """One fetch that others may wait for.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_waiters",
        "begun_s",
        "error",
        "filled",
        "is_purged",
        "key",
        "outcome",
        "waiter_count",
    )

    def __init__(self, key: bytes, begun_s: float) -> None:
        self.key = key
        self.begun_s = begun_s
        self.outcome = Outcome.WAITING
        self.filled: Filled | None = None
        self.error: OriginError | None = None
        # Whoever purges a key also means the answer that is on its way: it is not published.
        self.is_purged = False
        self.waiter_count = 0
        self._waiters: list[asyncio.Future[None]] = []

    def settle(
        self, outcome: Outcome, filled: Filled | None = None, error: OriginError | None = None
    ) -> None:
        """Give the outcome, and wake everybody at once; later calls change nothing."""
        if self.outcome is not Outcome.WAITING:
            return
        self.outcome = outcome
        self.filled = filled
        self.error = error
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float) -> Outcome:
        """Wait for the outcome; WAITING when it took too long."""
        if self.outcome is not Outcome.WAITING:
            return self.outcome
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        self.waiter_count += 1
        handle = loop.call_later(timeout_s, _expire, waiter)
        try:
            await waiter
        finally:
            handle.cancel()
        return self.outcome


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Flights:
    """The table of flights.

    Args:
        age_s: After so long a flight no longer collects waiters; the next request starts another.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_age_s", "_flights", "collapsed_count", "released_count", "timeout_count")

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self._flights: dict[bytes, Flight] = {}
        self.collapsed_count = 0
        self.released_count = 0
        self.timeout_count = 0

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, key: bytes) -> Flight | None:
        """Return the flight to wait for, or None when there is none or it is too old."""
        flight = self._flights.get(key)
        if flight is None:
            return None
        waited_s = asyncio.get_running_loop().time() - flight.begun_s
        if flight.outcome is Outcome.WAITING and waited_s > self._age_s:
            del self._flights[key]
            return None
        return flight

    def begin(self, key: bytes) -> Flight:
        """Start a flight; it takes the place of one that is too old."""
        flight = Flight(key, asyncio.get_running_loop().time())
        self._flights[key] = flight
        return flight

    def end(self, flight: Flight) -> None:
        """Take a flight out of the table; who waits for it still gets its outcome."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def purge(self, key: bytes | None = None, prefix: bytes | None = None) -> None:
        """Keep what is on its way from being published: of a key, of a prefix, or everything."""
        for name, flight in list(self._flights.items()):
            if key is not None and name != key:
                continue
            if prefix is not None and not name.startswith(prefix):
                continue
            flight.is_purged = True
            del self._flights[name]
