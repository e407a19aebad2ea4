"""Disk reads of one event loop: submitted once per turn, reaped all together.

No thread stands between a task and its read: the I/O channel's descriptor becomes readable, the
loop wakes once, and every read that has finished resolves its future. Cancelling a task only
detaches it: the read goes on, because the kernel writes to its buffer, and its value is dropped.
With `read_timeout` set a read that takes longer is given up likewise, and is a miss.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import weakref
from collections import deque
from collections.abc import Iterable

from edgecache._core_async import AsyncReader
from edgecache.errors import StoreClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgecache._core_read import CoreRead

_Pair = tuple[asyncio.Future[bytes | None], bytes | None]

# A loop that runs in another thread must let go of the descriptor itself; a loop that does not get
# round to it within this time hangs, and is not waited for.
DETACH_S = 10.0
DETACH_SLICE_S = 0.02


class LoopReader:
    """The reader of one loop and one store.

    *Thread-safety*: belongs to the thread of its loop; `detach` may come from any other.
    """

    __slots__ = (
        "__weakref__",
        "_is_detached",
        "_is_flush_due",
        "_left",
        "_loop",
        "_reader",
        "_timeout_s",
        "_timer",
        "_waiting",
    )

    def __init__(self, core: CoreRead, loop: asyncio.AbstractEventLoop) -> None:
        self._reader = AsyncReader(core)
        # Weak: the loop holds this object by its callback, and the table of readers by the loop.
        self._loop = weakref.ref(loop)
        self._is_flush_due = False
        self._is_detached = False
        self._left: list[asyncio.Future[bytes | None]] = []
        # With a timeout: (when it is over, future), oldest first; the timer is set for the first.
        self._waiting: deque[tuple[float, asyncio.Future[bytes | None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_s = self._reader.timeout_s
        loop.add_reader(self._reader.fileno(), self._reap)

    @property
    def pending(self) -> int:
        """Reads on their way."""
        return self._reader.pending

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it is the reader of this loop."""
        return self._loop() is loop

    def read(
        self, loop: asyncio.AbstractEventLoop, key: bytes | str
    ) -> asyncio.Future[bytes | None]:
        """Return the future of a value; None for a miss."""
        future: asyncio.Future[bytes | None] = loop.create_future()
        self._reader.submit(key, future)
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        if self._timeout_s:
            self._watch(loop, future)
        return future

    def _watch(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[bytes | None]) -> None:
        """Give the read up when its time is over. One timer for all."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        self._waiting.append((loop.time() + self._timeout_s, future))
        if self._timer is None:
            self._timer = loop.call_at(self._waiting[0][0], self._expire, weakref.ref(loop))

    def _expire(self, reference: weakref.ref[asyncio.AbstractEventLoop]) -> None:
        self._timer = None
        loop = reference()
        while loop is not None and self._waiting:
            end_s, future = self._waiting[0]
            if not future.done() and loop.time() < end_s:
                self._timer = loop.call_at(end_s, self._expire, reference)
                return
            self._waiting.popleft()
            if not future.done():
                self._reader.count_timeout()
                future.set_result(None)

    def _flush(self) -> None:
        self._is_flush_due = False
        _resolve(self._reader.flush())

    def _reap(self) -> None:
        _resolve(self._reader.reap())

    def detach(self) -> None:
        """Leave the loop, wait for the reads in flight and fail their futures. Idempotent."""
        loop = self._loop()
        if self._is_detached:
            return
        if loop is None or loop.is_closed():
            self._is_detached = True
            self._reader.close()
        elif not loop.is_running() or _is_current(loop):
            self._leave(loop)
        else:
            self._leave_from_afar(loop)

    def _leave_from_afar(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop, which runs in another thread, do it, unless it ends or hangs."""
        leaving = asyncio.run_coroutine_threadsafe(self._leave_soon(), loop)
        deadline_s = time.monotonic() + DETACH_S
        while loop.is_running() and not leaving.done() and time.monotonic() < deadline_s:
            concurrent.futures.wait([leaving], DETACH_SLICE_S)
        if not self._is_detached:
            # The engine closes without the loop; its futures fail if it gets round to them.
            self._left = self._reader.close()

    async def _leave_soon(self) -> None:
        self._leave(asyncio.get_running_loop())

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_detached:
            return
        self._is_detached = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop.remove_reader(self._reader.fileno())
        for future in [*self._left, *self._reader.close()]:
            if not future.done():
                future.set_exception(
                    StoreClosedError("the store was closed during a read", hint="open it again")
                )


def _is_current(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _resolve(pairs: Iterable[_Pair]) -> None:
    for future, value in pairs:
        if not future.done():  # cancelled meanwhile
            future.set_result(value)
