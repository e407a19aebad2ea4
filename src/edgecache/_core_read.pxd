"""Root: keys, the table of ready bytes objects, and reading.

The front is a direct-mapped table of bytes objects made for items of the RAM tier, private to the
process and bounded in bytes. Invariants (all of it under the GIL):

1. An entry is valid as long as the item's version, its key and the shard's page epoch are what they
   were; so no hit on it needs the shard's lock or copies anything.
2. Objects of entries with a meta (which may say "stale") are not kept here.
3. front_bytes is the sum over all entries and never exceeds the budget.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._core_base cimport CoreBase
from edgecache._fetch cimport Fetch
from edgecache._hash cimport Hash128
from edgecache._shard cimport Probe, Shard

cdef enum:
    LARGE_COPY_BYTES = 65536        # copies above this are made without the GIL

cdef struct KeyView:
    const char* data
    Py_ssize_t size
    Hash128 hash

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

cdef bint is_past(int64_t moment_us) noexcept
cdef bint meta_is_stale(const char* meta, uint32_t meta_len) noexcept
# A bytes object of memory that cannot move; big copies without the GIL.
cdef object copy_pinned(const char* data, uint64_t size)

cdef class CoreRead(CoreBase):
    cdef FrontEntry* front
    cdef uint64_t front_mask
    cdef uint64_t front_bytes
    cdef uint64_t front_count
    cdef uint64_t front_hand
    cdef uint64_t front_value_max
    cdef uint64_t front_hit_count

    cdef object take_key(self, object key, KeyView* view)
    cdef object front_get(self, KeyView* view)
    cdef void front_drop(self, FrontEntry* entry) noexcept
    cdef void front_put(self, KeyView* view, Shard* shard, uint32_t reference, object value)
    cdef object lookup_memory(self, KeyView* view, Probe* probe, bint whole, LookupResult* result)
    cdef object take_fetched(self, Fetch* fetch, bint whole)
    cdef object get_disk(self, KeyView* view, Probe* probe, bint whole)
    cdef object find(self, KeyView* view, bint whole)
    cdef void count_miss(self, KeyView* view) noexcept
