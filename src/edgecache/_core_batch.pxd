"""Root: many disk reads of one thread, with results taken while others are on their way."""

from libc.stdint cimport int64_t, uint32_t

from edgecache._core_read cimport CoreRead
from edgecache._fetch cimport Fetch, FetchBatch
from edgecache._io cimport IoChannel, IoEngine

cdef class BatchReader:
    """An I/O channel of one thread, and the fetches that use it; closed with the store, or when
    the thread's locals go.

    Invariants:
    1. fetches[i] is free, or in `batch`; keys[i] and owners[i] keep what its key points to alive,
       positions[i] is where its value goes.
    2. Outside of `read` all are free, and nothing is in flight, unless it is overdue: then it is
       the store's until `recover` says that everything has landed.

    *Thread-safety*: belongs to its thread, but for `close`; the channel is used under `lock`, a
    sleeping lock.
    """

    cdef IoEngine io                # keeps the engine alive until the channel is closed
    cdef IoChannel* channel         # NULL: not open
    cdef uint32_t lock
    cdef object __weakref__
    cdef readonly bint is_busy
    cdef bint is_overdue            # left behind with requests in flight
    cdef FetchBatch batch
    cdef Fetch* fetches             # FETCH_BATCH_SIZE
    cdef list keys
    cdef list owners
    cdef uint32_t[128] free_numbers
    cdef uint32_t free_count
    cdef int64_t[128] positions

    cdef bint open(self) noexcept
    cdef void close(self) noexcept
    cdef read(self, CoreRead core, list found, list waiting)
    cdef read_here(self, CoreRead core, list found, list waiting)
    cdef void count_overdue(self, CoreRead core, list waiting, Py_ssize_t next_pair)
    cdef bint recover(self) noexcept
    cdef prepare(self, CoreRead core, object pair)
    cdef take(self, CoreRead core, list found, uint32_t number)
    cdef void reset(self) noexcept
