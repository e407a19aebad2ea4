"""Root: disk reads for an event loop: submitted together, reaped together, no thread in between."""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._core_read cimport CoreRead
from edgecache._fetch cimport Fetch, FetchState
from edgecache._io cimport IoChannel

cdef class PendingGet:
    """One read on its way. Owns its buffer; the kernel may write to it until it is reaped."""

    cdef Fetch fetch
    cdef bint is_started
    cdef object future
    cdef object key
    cdef object owner

cdef class AsyncReader:
    """Disk reads of one event loop.

    *Thread-safety*: belongs to the thread of its loop; only `close` may come from another one.
    """

    cdef CoreRead core
    cdef IoChannel* channel
    cdef list queued                # PendingGet, to be submitted by flush
    cdef dict in_flight             # number -> PendingGet
    cdef list resolved              # (future, value) pairs to hand out
    cdef uint64_t number
    cdef int descriptor

    cdef resolve(self, PendingGet pending, FetchState state)
    cdef advance(self, PendingGet pending, FetchState state)
    cdef list take_resolved(self)
    cdef start_queued(self)
    cdef read_here(self)
