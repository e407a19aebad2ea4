"""Root, part two: the key/value face of a store, and the table of ready bytes objects before it."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._change cimport Change
from edgecache._core_base cimport CoreBase
from edgecache._fetch cimport Fetch, FetchState
from edgecache._hash cimport Hash128
from edgecache._io cimport IoChannel, IoEngine
from edgecache._memory cimport RamItem
from edgecache._shard cimport Probe, Shard
from edgecache._status cimport Status

cdef struct KeyView:
    const char* data
    Py_ssize_t size
    Hash128 hash

# One slot of the front: a bytes object made for an item of the RAM tier. Valid as long as the item's
# version, its key and the shard's page epoch are what they were; so no hit needs the shard's lock.
cdef struct FrontEntry:
    uint64_t low
    uint64_t high
    PyObject* value                 # owned; NULL: empty
    uint32_t reference
    uint32_t version
    uint32_t shard
    uint32_t epoch

cdef enum LookupResult:
    LOOKUP_MISS = 0
    LOOKUP_HIT = 1
    LOOKUP_DISK = 2                 # `probe` holds candidates
    LOOKUP_STALE = 3                # there, but past its freshness

cdef class Blob

cdef class Core(CoreBase):
    cdef FrontEntry* front
    cdef uint64_t front_mask
    cdef uint64_t front_bytes
    cdef uint64_t front_count
    cdef uint64_t front_hand
    cdef uint64_t front_value_max
    cdef uint64_t front_hit_count
    cdef uint64_t invalidation_count
    cdef object channels            # threading.local: a ring per thread for batches

    cdef object take_key(self, object key, KeyView* view)
    cdef object front_get(self, KeyView* view)
    cdef void front_drop(self, FrontEntry* entry) noexcept
    cdef void front_put(self, KeyView* view, Shard* shard, uint32_t reference, object value)
    cdef object lookup_memory(self, KeyView* view, Probe* probe, bint whole, LookupResult* result)
    cdef object take_fetched(self, Fetch* fetch, bint whole)
    cdef object get_disk(self, KeyView* view, Probe* probe, bint whole)
    cdef object find(self, KeyView* view, bint whole)
    cdef bint store(self, KeyView* view, const char* value, uint64_t value_len,
                    const char* meta, uint32_t meta_len, int64_t expiry_us,
                    uint32_t flags) except -1
    cdef bint remove(self, KeyView* view) except -1
    cdef int prepare(self, Change* change) except -1
    cdef void count_shed(self, Status status)
    cdef int check_size(self, uint64_t size) except -1
    cdef Blob pin(self, KeyView* view)
    cdef IoChannel* channel(self) except NULL
    cdef get_batch(self, list found, list waiting)

cdef class Blob:
    """A read-only view of one value, without a copy.

    Supports the buffer protocol and `with`. The bytes stay in place while the blob lives: they are
    counted as pinned and cannot be evicted, so release it soon.

    *Thread-safety*: releasing while another thread reads its buffer is the caller's mistake;
    exported memoryviews keep it alive.
    """

    cdef Core core
    cdef object owner               # a bytes object instead of a pinned item
    cdef const char* data
    cdef Py_ssize_t size
    cdef uint32_t reference
    cdef uint32_t shard
    cdef Py_ssize_t exports
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    cdef int release_now(self) except -1

cdef class BatchChannel:
    """An I/O channel of one thread; closed when the thread's locals go."""

    cdef IoEngine io
    cdef IoChannel* channel
