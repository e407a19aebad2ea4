"""Single flight between threads: of several callers of one key one computes, the others wait.

Invariants (`_lock` guards all of it):

1. A key has at most one flight; it is in `_flights` until its result or its error is known.
2. `_waiting` maps a thread to the flight it waits for, so "who waits for whom" is a chain.
3. Nobody waits in a cycle: a thread that would computes by itself. A recursive call of the same key
   is the shortest such cycle.
4. No user code runs under the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Flight:
    """One computation: led by the thread `owner`; `data` or `error` is there once `done` is set."""

    __slots__ = ("data", "done", "error", "owner")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.done = threading.Event()
        self.data: bytes | None = None
        self.error: Exception | None = None


class Flights:
    """The computations in progress of one store.

    *Thread-safety*: any thread.
    """

    __slots__ = ("_flights", "_lock", "_waiting", "finished_count")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes | str, Flight] = {}
        self._waiting: dict[int, Flight] = {}
        self.finished_count = 0

    def renew(self) -> None:
        """Forget everything, in a child of fork(): the threads that computed are the parent's."""
        self._lock = threading.Lock()
        self._flights = {}
        self._waiting = {}

    def is_flying(self, key: bytes | str) -> bool:
        """Whether somebody computes this key now."""
        return key in self._flights

    def run(
        self,
        key: bytes | str,
        compute: Callable[[], bytes],
        recheck: Callable[[], bytes | None],
        seen_count: int,
        compute_alone: Callable[[], bytes] | None = None,
    ) -> bytes:
        """Return the result of the flight of `key`; the first caller computes it.

        Args:
            key: What is computed.
            compute: Computes and stores the result; its error goes to all who wait for it, and the
                next caller tries again.
            recheck: Looks the key up once more; called when a flight ended after `seen_count` was
                read, because it may have been this one.
            seen_count: `finished_count` before the caller looked the key up.
            compute_alone: Called in the place of `compute` by who would wait for itself.
        """
        thread = threading.get_ident()
        while True:
            with self._lock:
                flight = self._flights.get(key)
                is_leader = flight is None
                is_changed = self.finished_count != seen_count
                if flight is None:
                    flight = self._flights[key] = Flight(thread)
                elif self._closes_cycle(flight, thread):
                    flight = None
                else:
                    self._waiting[thread] = flight
            if flight is None:
                return (compute_alone or compute)()
            if is_leader:
                return self._lead(key, flight, compute, recheck if is_changed else None)
            try:
                flight.done.wait()
            finally:
                with self._lock:
                    self._waiting.pop(thread, None)
            if flight.error is not None:
                raise flight.error
            if flight.data is not None:
                return flight.data
            # The leader was interrupted (KeyboardInterrupt, SystemExit): somebody else goes on.

    def _closes_cycle(self, flight: Flight, thread: int) -> bool:
        """Whether the end of the chain that `flight` waits in is this thread. Locked."""
        following: Flight | None = flight
        while following is not None:
            if following.owner == thread:
                return True
            following = self._waiting.get(following.owner)
        return False

    def _lead(
        self,
        key: bytes | str,
        flight: Flight,
        compute: Callable[[], bytes],
        recheck: Callable[[], bytes | None] | None,
    ) -> bytes:
        try:
            data = recheck() if recheck is not None else None
            if data is None:
                data = compute()
            flight.data = data
            return data
        except Exception as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
                self.finished_count += 1
            flight.done.set()
