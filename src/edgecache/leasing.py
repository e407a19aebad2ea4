"""Waiting for other processes: for the leases that they hold, and the streams that they write.

A thread that waits sleeps by itself. For tasks one thread of the store sleeps, whatever their
number; without tasks that wait it sleeps without a timeout, and nothing wakes it.

Invariants:

1. The event is read before what is waited for is looked at: a change in between ends the sleep.
2. Nobody sleeps longer than SLICE_S without looking whether the process that is waited for lives.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from edgecache._core_lease import Lease, Leases, LeaseWait, StreamBeacon, StreamView

if TYPE_CHECKING:
    from edgecache._core_arena import CoreArena

__all__ = ["Lease", "LeaseDesk", "LeaseWait", "StreamBeacon", "StreamView", "Taken"]

SLICE_S = 0.025
FOREVER_S = 1e9
JOIN_S = 10.0

Look = Callable[[], object]


class Taken(NamedTuple):
    """What came of taking a lease; neither: the table is full, and the work is done without.

    Args:
        lease: It is the caller's.
        wait: Somebody else has it.
    """

    lease: Lease | None
    wait: LeaseWait | None


class _Wait(NamedTuple):
    look: Look
    end_s: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bool]


class LeaseDesk:
    """The leases of one store.

    Args:
        leases: The native part.

    *Thread-safety*: every method, any thread.
    """

    STORED = Leases.STORED
    RELEASED = Leases.RELEASED
    FAILED = Leases.FAILED
    LOST = Leases.LOST
    TIMED_OUT = 0

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []
        self._thread: threading.Thread | None = None
        self._is_closing = False

    @classmethod
    def of(cls, core: CoreArena) -> LeaseDesk:
        """Return the desk of an open store in shared mode."""
        return cls(Leases(core))

    def close(self) -> None:
        """Give up everything that is held, and end every wait. Idempotent."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        self._leases.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)

    # Leases

    def take(self, kind: int, key: bytes | str, lifetime_s: float) -> Taken:
        """Take the lease of a piece of work; see `Leases.take`. *Cost*: one lock."""
        name = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        found = self._leases.take(kind, name, lifetime_s)
        if isinstance(found, Lease):
            return Taken(found, None)
        return Taken(None, found)

    def wait(self, wait: LeaseWait, timeout_s: float) -> int:
        """Wait for the outcome of another's lease; TIMED_OUT: it took too long. Blocks."""
        self._leases.count_wait()
        if not self.sleep(wait.look, timeout_s):
            self._leases.count_timeout()
            return self.TIMED_OUT
        return wait.look()

    async def wait_soon(self, wait: LeaseWait, timeout_s: float, *, notes: bool = False) -> int:
        """As `wait`. With `notes` also TIMED_OUT, uncounted, when the holder has left a note."""
        self._leases.count_wait()
        look: Look = (lambda: wait.look() or wait.note) if notes else wait.look
        future = self.sleep_soon(look, timeout_s)
        if future is not None and not await future:
            self._leases.count_timeout()
            return self.TIMED_OUT
        return wait.look()

    def count_hit(self) -> None:
        """A wait ended with what it was for."""
        self._leases.count_hit()

    def count_attach(self) -> None:
        """A reader follows a stream of another process."""
        self._leases.count_attach()

    # Streams

    def open_stream(
        self,
        key: bytes,
        token: int,
        object_id: bytes,
        chunk_bytes: int,
        first_bytes: int,
        expected: int | None,
        meta: bytes,
    ) -> StreamBeacon | None:
        """Show a write to other processes; see `Leases.open_stream`."""
        return self._leases.open_stream(
            key, token, object_id, chunk_bytes, first_bytes, expected, meta
        )

    def find_stream(self, key: bytes | None, token: int) -> StreamView | None:
        """Find a write of another process; see `Leases.find_stream`."""
        return self._leases.find_stream(key, token)

    # Sleeping

    def sleep(self, look: Look, timeout_s: float) -> bool:
        """Block until `look` says something; False: it took too long."""
        leases = self._leases
        end_s = time.monotonic() + timeout_s
        while True:
            seen = leases.event()
            if look() or leases.closed:
                return True
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            leases.sleep(seen, min(left_s, SLICE_S))

    def sleep_soon(self, look: Look, timeout_s: float) -> asyncio.Future[bool] | None:
        """As `sleep`, as a future of the running loop; None: there is no need to wait."""
        if look():
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        end_s = time.monotonic() + min(timeout_s, FOREVER_S)
        with self._changed:
            if self._is_closing:
                return None
            self._waits.append(_Wait(look, end_s, loop, future))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="edgecache-leases", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        self._leases.poke()
        return future

    def _serve(self) -> None:
        leases = self._leases
        while True:
            seen = leases.event()
            with self._changed:
                if not self._waits and not self._is_closing:
                    self._changed.wait_for(lambda: self._waits or self._is_closing)
                    continue  # the event was read before
                waits = list(self._waits)
                is_closing = self._is_closing
            now_s = time.monotonic()
            over: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[bool], bool]]] = {}
            kept: set[int] = set()
            left_s = SLICE_S
            for one in waits:
                is_over = is_closing or _is_over(one.look)
                if is_over or one.end_s <= now_s or one.future.done():
                    over.setdefault(one.loop, []).append((one.future, is_over))
                else:
                    kept.add(id(one))
                    left_s = min(left_s, one.end_s - now_s)
            if over:
                looked = {id(one) for one in waits}
                with self._changed:
                    self._waits = [
                        one for one in self._waits if id(one) not in looked or id(one) in kept
                    ]
                for loop, futures in over.items():
                    try:
                        loop.call_soon_threadsafe(_resolve, futures)
                    except RuntimeError:
                        continue  # the loop is closed: nobody waits there any more
            if is_closing:
                return
            leases.sleep(seen, max(0.0, left_s))


def _is_over(look: Look) -> bool:
    """Whether there is something to know; an error is: who waits looks itself, and gets it."""
    try:
        return bool(look())
    except Exception:
        return True


def _resolve(futures: list[tuple[asyncio.Future[bool], bool]]) -> None:
    for future, is_over in futures:
        if not future.done():
            future.set_result(is_over)
