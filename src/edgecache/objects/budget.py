"""What unfinished objects of a store may take: memory, bytes present, separate ranges."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from edgecache.errors import PartialQuotaError
from edgecache.objects.counters import Counters

if TYPE_CHECKING:
    from edgecache.objects.sparse import SparseObject

# Where the configuration sets no limit: chunks that are being filled, in all sparse objects.
SPARSE_MEMORY_BYTES = 64 << 20
RUNS_MAX = 65536


class Budget:
    """Shared by the unfinished objects of one store. *Thread-safety*: every method, any thread.

    Args:
        memory_bytes: Most memory of chunks being filled and of writes in progress; None: no limit
            for writes, SPARSE_MEMORY_BYTES for chunks.
        quota_bytes: Most bytes present over all unfinished sparse objects; None: no limit.
    """

    __slots__ = (
        "_lock", "_memory_bytes", "_quota_bytes", "counters", "holders", "memory_used",
        "present_bytes", "runs_max",
    )  # fmt: skip

    def __init__(
        self, counters: Counters, memory_bytes: int | None, quota_bytes: int | None
    ) -> None:
        self.counters = counters
        self._memory_bytes = memory_bytes
        self._quota_bytes = quota_bytes
        self._lock = threading.RLock()  # also taken when writers are collected
        self.memory_used = 0
        self.holders: weakref.WeakSet[SparseObject] = weakref.WeakSet()
        self.present_bytes = 0
        self.runs_max = RUNS_MAX

    @property
    def memory_limit(self) -> int:
        """The limit for chunks being filled."""
        return SPARSE_MEMORY_BYTES if self._memory_bytes is None else self._memory_bytes

    @property
    def has_quota(self) -> bool:
        """Whether the bytes present are limited."""
        return self._quota_bytes is not None

    def relieve(self, asking: SparseObject) -> bool:
        """Have another object store a chunk; False when none can.

        Only those that nobody uses now: waiting for them could be mutual.
        """
        for other in list(self.holders):
            if other is not asking and other.lock.acquire(blocking=False):
                try:
                    if other.spill_oldest():
                        return True
                finally:
                    other.lock.release()
        return False

    def take_memory(self, size: int) -> bool:
        """Take memory, or give it back (negative); False: there is not so much."""
        with self._lock:
            if size > 0 and self.memory_used + size > self.memory_limit:
                return False
            self.memory_used += size
            return True

    def reserve_stream(self, size: int) -> bool:
        """As `take_memory`, for a write in progress, which only a configured limit concerns."""
        with self._lock:
            limit = self._memory_bytes
            if limit is not None and self.memory_used + size > limit:
                return False
            self.memory_used += 0 if limit is None else size
            return True

    def release_stream(self, size: int) -> None:
        """Give back what `reserve_stream` took."""
        with self._lock:
            self.memory_used -= 0 if self._memory_bytes is None else size

    def take_present(self, count: int, *, is_forced: bool = False) -> None:
        """Take bytes of the quota, or give them back (negative).

        Raises:
            PartialQuotaError: There are not so many (never with `is_forced`).
        """
        with self._lock:
            limit = self._quota_bytes if count > 0 and not is_forced else None
            if limit is not None and self.present_bytes + count > limit:
                raise PartialQuotaError(
                    "unfinished objects would exceed `partial_quota`",
                    limit="partial_quota",
                    expected=limit,
                    found=self.present_bytes + count,
                )
            self.present_bytes += count
