"""One write in progress: what its writer and the readers that tail it share.

Invariants (under `changed`):

1. `written` = bytes of stored chunks + bytes of the tail, until it is finished.
2. The bytes below `stored_bytes` are parts of the store, or in `flying`, on their way there; those
   above are in `tail`. What `flying` holds is in the store before it leaves it.
3. The state leaves OPEN once, to FINISHED or ABORTED. Every reader hears of it; one of an aborted
   write gets StreamAbortedError however much it could still read.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecache.meta import Meta
from edgecache.objects.backend import Backend
from edgecache.objects.grid import Grid
from edgecache.objects.keys import new_object_id
from edgecache.objects.parts import Writing
from edgecache.objects.table import HashTable

if TYPE_CHECKING:  # the synchronous store does without it
    import asyncio

    from edgecache.leasing import StreamBeacon


class StreamState(enum.Enum):
    """Where a write stands."""

    OPEN = 0
    FINISHED = 1
    ABORTED = 2


class StreamWrite:
    """A write in progress.

    Args:
        key: What it is published under.
        write_id: Names the write, and the object that it publishes (its generation).
        meta: What readers see at once.
        grid: How it is cut.

    *Thread-safety*: one writer; readers from any thread and any event loop.
    """

    __slots__ = (
        "__weakref__", "_loops", "beacon", "changed", "flying", "grid", "is_reserved", "is_sharing",
        "key", "meta", "object_id", "state", "stored_bytes", "table", "tail", "value_version",
        "write_id",
    )  # fmt: skip

    def __init__(self, backend: Backend, key: bytes, write_id: int, meta: Meta, grid: Grid) -> None:
        self.key = key
        self.write_id = write_id
        self.meta = meta
        self.grid = grid
        self.object_id = new_object_id()
        self.table = HashTable(backend, self.object_id)
        self.changed = threading.Condition()
        self.state = StreamState.OPEN
        self.stored_bytes = 0
        self.is_reserved = False
        self.is_sharing = False
        self.tail = bytearray()
        self.flying: dict[int, Writing] = {}
        # Shows it to other processes; None: there are none, or it cannot be shown.
        self.beacon: StreamBeacon | None = None
        self.value_version: int | None = None
        # Futures of the tasks that wait, by loop.
        self._loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}

    @property
    def tag(self) -> bytes:
        """The streaming write tag: the write id, 8 bytes, big-endian."""
        return self.write_id.to_bytes(8, "big")

    @property
    def written(self) -> int:
        """Bytes written so far."""
        return self.stored_bytes + len(self.tail)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return self.state is StreamState.OPEN

    def change(self, action: Callable[[], None]) -> None:
        """Change something under the lock and wake everybody who waits."""
        with self.changed:
            action()
            self.changed.notify_all()
            if not self._loops:
                return
            waiting, self._loops = self._loops, {}
        for loop, futures in waiting.items():
            # One call per loop that waits, however many of its tasks do.
            try:
                loop.call_soon_threadsafe(_wake, futures)
            except RuntimeError:
                continue  # the loop is closed: nobody waits there any more

    def extend(self, data: memoryview) -> None:
        """Append to the tail."""
        self.change(lambda: self.tail.extend(data))

    def hand_over(self, number: int, writing: Writing, size: int) -> None:
        """A chunk is on its way to the store; it leaves the tail, if it was there."""

        def advance() -> None:
            if not writing.is_done:
                self.flying[number] = writing
            self.stored_bytes += size
            self.tail = self.tail[size:]

        self.change(advance)

    def settle(self, *, is_last: bool) -> bool:
        """Let go of chunks that arrived, of all of them if `is_last`; False: one was shed."""
        for number, writing in list(self.flying.items()):
            if is_last or writing.is_done:
                if not writing.wait():
                    return False
                del self.flying[number]
        return True

    def show(self) -> None:
        """Tell other processes how far it is; the writer calls it."""
        if self.beacon is None:
            return
        arrived = self.stored_bytes
        for number in sorted(self.flying):
            writing = self.flying[number]
            if not writing.is_done or writing.has_failed:
                arrived = self.grid.start(number)
                break
        self.beacon.advance(self.written, self.stored_bytes, arrived)

    def show_end(self, state: StreamState) -> None:
        """Tell other processes how it ended."""
        if self.beacon is None:
            return
        if state is StreamState.FINISHED:
            self.beacon.finish(self.written, self.value_version)
        else:
            self.beacon.abort()

    def park_all(self, backend: Backend) -> None:
        """Nobody waits for the chunks on their way any more."""
        for writing in self.flying.values():
            backend.park(writing)
        self.flying.clear()

    def wait(self, position: int) -> None:
        """Block until there is something to know beyond `position`: bytes, or the end."""
        with self.changed:
            self.changed.wait_for(lambda: not self.is_open or self.written > position)

    def wait_soon(
        self, position: int, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[None] | None:
        """As `wait`, as a future of the loop; None when there is nothing to wait for."""
        with self.changed:
            if not self.is_open or self.written > position:
                return None
            future: asyncio.Future[None] = loop.create_future()
            self._loops.setdefault(loop, []).append(future)
            return future


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
