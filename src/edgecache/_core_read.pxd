"""Root: keys, the table of ready bytes objects, and reading.

The front is a four-way table of bytes objects made for items of the RAM tier, private to the
process and bounded in bytes. Invariants (all of it under the GIL):

1. An entry is valid while the epoch of its hash (_shard.pxd) is what it was; if that moved on, then
   while the item's version, its key and the shard's page epoch are. So a hit needs no lock, copies
   nothing and mostly does not even touch the item.
2. Objects of entries with a meta (which may say "stale") are not kept here.
3. front_bytes is the sum over all entries and never exceeds the budget.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._core_base cimport STORE_OPEN, CoreBase
from edgecache._fetch cimport Fetch
from edgecache._hash cimport Hash128
from edgecache._shard cimport Probe, Shard

cdef enum:
    KEY_BYTES_MAX = 8192
    LARGE_COPY_BYTES = 65536        # copies above this are made without the GIL

cdef struct KeyView:
    const char* data
    Py_ssize_t size
    Hash128 hash

cdef struct FrontEntry:             # 48 bytes
    PyObject* key                   # owned; NULL: empty
    PyObject* value                 # owned
    uint32_t tag                    # of the hash: keeps most foreign keys from being compared
    uint32_t epoch                  # of the hash when the value was copied
    uint32_t reference
    uint32_t version
    uint32_t shard
    uint32_t page_epoch
    uint32_t hits
    uint32_t has_expiry             # the item must be looked at on each hit

cdef enum LookupResult:
    LOOKUP_MISS = 0
    LOOKUP_HIT = 1
    LOOKUP_DISK = 2                 # `probe` holds candidates
    LOOKUP_STALE = 3                # there, but past its freshness

cdef bint is_past(int64_t moment_us) noexcept
cdef bint meta_is_stale(const char* meta, uint32_t meta_len) noexcept
# A bytes object of memory that cannot move; big copies without the GIL.
cdef object copy_pinned(const char* data, uint64_t size)

# The head of an object where a value was asked for: the layer above knows how to get that.
cdef class ObjectHead:
    cdef readonly tuple entry       # as of read_entry

cdef class CoreRead(CoreBase):
    cdef FrontEntry* front
    cdef uint64_t front_mask
    cdef uint64_t front_bytes
    cdef uint64_t front_count
    cdef uint64_t front_hand
    cdef uint64_t front_value_max
    cdef uint64_t front_hit_count
    cdef uint8_t front_frequency_max

    cdef object take_key(self, object key, KeyView* view)
    cdef FrontEntry* front_find(self, object key, KeyView* view) noexcept
    cdef void front_prefetch(self, const KeyView* view) noexcept
    cdef bint front_revalidate(self, FrontEntry* entry, KeyView* view) noexcept
    cdef object front_get(self, object key, KeyView* view)
    cdef void front_drop(self, FrontEntry* entry) noexcept
    cdef void front_put(self, object key, KeyView* view, Shard* shard, uint32_t reference,
                        object value)
    cdef bint front_has_room(self, const KeyView* view, uint64_t value_bytes) noexcept
    cdef object lookup_memory(self, object key, KeyView* view, Probe* probe, bint whole,
                              LookupResult* result)
    cdef object take_fetched(self, Fetch* fetch, bint whole)
    cdef object get_disk(self, KeyView* view, Probe* probe, bint whole)
    cdef object find(self, object key, KeyView* view, bint whole)
    cdef object find_raw(self, object key, KeyView* view, bint whole)
    cdef object find_lower(self, KeyView* view, bint whole)
    cdef void count_miss(self, KeyView* view) noexcept


# take_key for a plain bytes key of an open store, without its calls; False: use take_key.
cdef inline bint take_plain_key(CoreRead self, object key, KeyView* view) noexcept:
    if not PyBytes_CheckExact(key) or self.state != STORE_OPEN or self.is_composite:
        return False
    view.data = PyBytes_AS_STRING(key)
    view.size = PyBytes_GET_SIZE(key)
    if not 0 < view.size <= KEY_BYTES_MAX:
        return False
    view.hash = self.engine.api.bits128(view.data, view.size, self.seed)
    return True
