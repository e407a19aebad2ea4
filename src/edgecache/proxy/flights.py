"""Collapsing: one fetch per key at a time, whose answer serves everybody who asked meanwhile.

Invariants:

1. Of one key at most one flight is in the table. It leaves the table when its answer is published,
   or known to be of no use to others, or too old: who asks then starts another.
2. A flight gets its outcome once: SHARED (the answer is for all whom it fits), RELEASED (it is for
   its own client alone: every waiter goes to the origin by itself, at once and side by side) or
   FAILED (waiters compete for a new flight, or serve what is stale).
3. Nobody waits longer than the wait timeout, whatever the leader does.
4. Where several processes share the store, who begins a flight holds the lease of its key. It is
   given back with the outcome, for a body that streams when that is stored or has failed: others
   then find the answer in the store, or go to the origin at once, or compete for the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import TYPE_CHECKING

from edgecache.leasing import Lease, LeaseDesk, LeaseWait
from edgecache.proxy.problems import OriginError

if TYPE_CHECKING:
    from edgecache.proxy.fetching import Filled
    from edgecache.proxy.shared_body import SharedBody


KIND = 2  # of leases: fetches
RENEW_S_MIN = 1.0


class Outcome(enum.Enum):
    """What became of a flight."""

    WAITING = "waiting"
    SHARED = "shared"
    RELEASED = "released"
    FAILED = "failed"
    STORED = "stored"  # another process had stored it meanwhile: look it up


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
        "lease",
        "outcome",
        "waiter_count",
    )

    def __init__(self, key: bytes, begun_s: float, lease: Lease | None = None) -> None:
        self.key = key
        self.lease = lease
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
        """Give the outcome, and wake everybody at once; later calls change nothing.

        The lease goes with it, but for SHARED: see `give`.
        """
        if self.outcome is not Outcome.WAITING:
            return
        if outcome is Outcome.FAILED:
            self.give(LeaseDesk.FAILED, 0 if error is None else error.status_code)
        elif outcome is not Outcome.SHARED:
            self.give(LeaseDesk.STORED if outcome is Outcome.STORED else LeaseDesk.RELEASED)
        self.outcome = outcome
        self.filled = filled
        self.error = error
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def give(self, outcome: int, status: int = 0) -> None:
        """Tell other processes what came of it: an outcome of leases, and of FAILED the status."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.give(outcome, status)

    def on_stream(self, tag: bytes | None) -> None:
        """Tell other processes which write in the store the body goes into; None: into none."""
        if tag is None:
            self.give(LeaseDesk.RELEASED)
        elif self.lease is not None:
            self.lease.note(int.from_bytes(tag, "big"))

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
        leases: Of the store, where several processes share it.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_age_s",
        "_flights",
        "_leases",
        "collapsed_count",
        "released_count",
        "timeout_count",
    )

    def __init__(self, age_s: float, leases: LeaseDesk | None = None) -> None:
        self._age_s = age_s
        self._leases = leases
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

    def begin(self, key: bytes) -> Flight | LeaseWait:
        """Start a flight; it takes the place of one that is too old.

        Where another process fetches the key, there is something to wait for instead. A flight with
        a lease begins with another look into the store: what was missing there may have come from
        another process since.
        """
        lease = None
        if self._leases is not None:
            lease, wait = self._leases.take(KIND, key, self._age_s)
            if wait is not None:
                return wait
        flight = Flight(key, asyncio.get_running_loop().time(), lease)
        self._flights[key] = flight
        return flight

    async def wait_elsewhere(self, wait: LeaseWait, timeout_s: float) -> Outcome:
        """Wait for a fetch of another process; WAITING when it took too long.

        It is SHARED when its body is on its way, as the write that `wait.note` names. FAILED may
        mean that nobody fetches any more; then `wait.detail` is 0.
        """
        desk = self._leases
        assert desk is not None
        result = await desk.wait_soon(wait, timeout_s, notes=True)
        if result == desk.TIMED_OUT:
            return Outcome.SHARED if wait.note else Outcome.WAITING
        if result == desk.RELEASED:
            return Outcome.RELEASED
        return Outcome.STORED if result == desk.STORED else Outcome.FAILED

    def count_elsewhere(self) -> None:
        """A request was answered by the fetch of another process."""
        self.collapsed_count += 1
        if self._leases is not None:
            self._leases.count_hit()

    async def hold(self, flight: Flight, body: SharedBody) -> None:
        """Keep a flight, and its lease, until its body is complete or has failed."""
        while not body.is_done:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(RENEW_S_MIN, self._age_s / 2)):
                    await body.wait_done()
            if flight.lease is not None:
                flight.lease.renew(max(RENEW_S_MIN, self._age_s))

    def cancel(self, flight: Flight) -> None:
        """Nothing was fetched, and nobody waits here: whoever wants it may begin."""
        self.end(flight)
        flight.give(LeaseDesk.FAILED)

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
            flight.give(LeaseDesk.RELEASED)
            del self._flights[name]
