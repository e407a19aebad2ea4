"""Root: keys, and the front: ready bytes objects of items of the RAM tier.

The front is a four-way table, private to the process and bounded in bytes. Invariants (all of it
under the GIL):

1. An entry is valid while the epoch of its hash (_shard.pxd) is what it was; if that moved on, then
   while the item's version, its key and the shard's page epoch are. So a hit needs no lock, copies
   nothing and mostly does not even touch the item.
2. Objects of entries with a meta (which may say "stale") are not kept here.
3. front_bytes is the sum over all entries and never exceeds the budget. Several processes share
   the budget: each keeps at most what it has claimed of it, in grains.
4. An entry owns its key object, whose bytes cannot change: the same object is the same key, of the
   same hash. A hint tells where the entry of a key object was; it may be outdated, so the entry's
   own key decides.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from edgecache._core_base cimport STORE_OPEN, CoreBase
from edgecache._hash cimport Hash128
from edgecache._memory cimport RamItem
from edgecache._process cimport ProcessCells
from edgecache._shard cimport Shard
from edgecache._sync cimport (
    ec_glance_u8,
    ec_load_u32,
    ec_now_coarse_us,
    ec_now_us,
    ec_prefetch,
)

cdef extern from *:
    """
    #include <string.h>

    /* memcmp of 1 to 32 bytes without a call; words overlap instead of a loop over the rest. */
    static inline int ec_short_equal(const char *left, const char *right, size_t size) {
        uint64_t a, b, c, d;
        size_t at = 0;
        if (size < 8) {
            for (; at < size; at++)
                if (left[at] != right[at]) return 0;
            return 1;
        }
        for (; at + 8 < size; at += 8) {
            memcpy(&a, left + at, 8);
            memcpy(&b, right + at, 8);
            if (a != b) return 0;
        }
        memcpy(&c, left + size - 8, 8);
        memcpy(&d, right + size - 8, 8);
        return c == d;
    }
    """
    bint short_equal "ec_short_equal"(const char* left, const char* right, size_t size) noexcept

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const unsigned char* PyUnicode_1BYTE_DATA(object text)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    KEY_BYTES_MAX = 8192
    FRONT_WAYS = 4
    # Of 32 hits on an entry the first 4 tell the policy that the item is in use (its counts
    # saturate at 3), the others need not touch the item's memory.
    FRONT_TOLD_HITS = 4
    FRONT_REST_HITS = 28

cdef struct KeyView:
    const char* data
    Py_ssize_t size
    Hash128 hash

cdef struct FrontEntry:             # 32 bytes: what a hit touches
    PyObject* key                   # owned; NULL: empty
    PyObject* value                 # owned
    uint32_t tag                    # of the hash: keeps most foreign keys from being compared
    uint32_t epoch                  # of the hash when the value was copied
    uint32_t reference
    uint16_t epoch_slot             # of the hash
    uint8_t rest                    # hits until the policy is told of one; 0: of the next
    uint8_t told                    # hits in a row that it was told of

cdef struct FrontOrigin:            # 32 bytes, one per entry: what only those touch
    RamItem* item                   # as long as the epoch is what it was
    uint32_t version
    uint32_t shard
    uint32_t page_epoch
    uint32_t has_expiry             # the item must be looked at on each hit
    uint32_t incarnation            # of the shard's RAM tier
    uint32_t zero

cdef struct FrontHint:
    uint32_t key_bits               # of the key object's address
    uint32_t entry

cdef class CoreFront(CoreBase):
    cdef void* front_memory
    cdef FrontEntry* front
    cdef FrontOrigin* front_origins
    cdef FrontHint* front_hints
    cdef const uint32_t* front_epochs
    cdef uint64_t front_mask
    cdef uint64_t front_hint_mask
    cdef uint64_t front_memory_bytes
    cdef uint64_t front_bytes
    cdef uint64_t front_limit_bytes     # what this process may keep now; the budget when alone
    cdef uint64_t front_count
    cdef uint64_t front_hand
    cdef uint64_t front_value_max
    cdef uint8_t front_frequency_max

    cdef object take_key(self, object key, KeyView* view)
    cdef FrontEntry* front_settle(self, FrontEntry* entry, object key, KeyView* view) noexcept
    cdef bint front_revalidate(self, FrontEntry* entry, KeyView* view) noexcept
    cdef void front_drop(self, FrontEntry* entry) noexcept
    cdef void front_put(self, object key, KeyView* view, Shard* shard, uint32_t reference,
                        uint32_t epoch, object value)
    cdef bint front_claim(self, uint64_t wanted_bytes) noexcept
    cdef void front_raise(self, FrontEntry* entry, const FrontOrigin* origin) noexcept
    cdef bint front_look(self, FrontEntry* entry, const FrontOrigin* origin, Shard* shard,
                         KeyView* view) noexcept
    cdef _front_map(self, uint64_t entries, uint64_t hints)
    cdef front_clear(self)
    cdef bint front_has_room(self, const KeyView* view, uint64_t value_bytes) noexcept


# The coarse clock first: it lags 4 ms at most and costs a quarter.
cdef inline bint is_past(int64_t moment_us) noexcept:
    return moment_us <= ec_now_coarse_us() or moment_us <= ec_now_us()


cdef inline const char* text_bytes(object text, Py_ssize_t* size) except NULL:
    """UTF-8 of a str; kept in the object, so a second call cannot fail."""
    if PyUnicode_IS_COMPACT_ASCII(text):
        size[0] = PyUnicode_GET_LENGTH(text)
        return <const char*>PyUnicode_1BYTE_DATA(text)
    return PyUnicode_AsUTF8AndSize(text, size)


# take_key for a plain key (bytes, or a str of ASCII) of an open store, without its calls; False:
# use take_key.
cdef inline bint take_plain_key(CoreFront self, object key, KeyView* view) noexcept:
    if PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key):
        view.data = <const char*>PyUnicode_1BYTE_DATA(key)
        view.size = PyUnicode_GET_LENGTH(key)
    elif PyBytes_CheckExact(key):
        view.data = PyBytes_AS_STRING(key)
        view.size = PyBytes_GET_SIZE(key)
    else:
        return False
    if not 0 < view.size <= KEY_BYTES_MAX or self.state != STORE_OPEN or self.is_composite:
        return False
    view.hash = self.engine.api.bits128(view.data, view.size, self.seed)
    return True


# What this process counts lies in front of the table, where a hit needs no pointer to find it. In
# shared mode that page is the arena's, so that every process can sum them.
cdef inline ProcessCells* front_cells(CoreFront self) noexcept:
    return <ProcessCells*>self.front - 1


cdef inline void front_count_told(FrontEntry* entry) noexcept:
    entry.told += 1
    if entry.told == FRONT_TOLD_HITS:
        entry.told = 0
        entry.rest = FRONT_REST_HITS


# Objects lie 16 bytes apart or more, those of one size at equal distances.
cdef inline FrontHint* front_hint(CoreFront self, PyObject* key) noexcept:
    cdef uint64_t address = <uint64_t>key >> 4
    return &self.front_hints[(address ^ (address >> 8)) & self.front_hint_mask]


cdef inline bint front_tell(CoreFront self, FrontEntry* entry) noexcept:
    """Count a hit on an entry whose epoch did not move for the policy; False: it takes a look."""
    cdef const FrontOrigin* origin = &self.front_origins[entry - self.front]
    if origin.has_expiry or not self.policy_hits_unlocked:
        return False
    if ec_glance_u8(&origin.item.node.frequency) < self.front_frequency_max:
        self.front_raise(entry, origin)
    front_count_told(entry)
    return True


cdef inline PyObject* front_same(CoreFront self, object key) noexcept:
    """The value for this very key object, of an open store: no hash, no look at the key; or NULL.

    NULL says nothing: go on with front_find.
    """
    cdef const FrontHint* hint = front_hint(self, <PyObject*>key)
    cdef FrontEntry* entry
    if hint.key_bits != <uint32_t>(<uint64_t><PyObject*>key >> 4):
        return NULL
    entry = &self.front[hint.entry]
    if entry.key != <PyObject*>key or self.state != STORE_OPEN or \
            entry.epoch != ec_load_u32(&self.front_epochs[entry.epoch_slot]):
        return NULL
    if entry.rest:
        entry.rest -= 1
    elif not front_tell(self, entry):
        return NULL
    front_cells(self).front_hits += 1
    return entry.value


cdef inline bint front_same_key(const FrontEntry* entry, KeyView* view) noexcept:
    """Is the key of an entry equal to the wanted bytes?"""
    cdef PyObject* held = entry.key
    cdef const char* data
    cdef Py_ssize_t size
    if PyBytes_CheckExact(<object>held):
        size = PyBytes_GET_SIZE(<object>held)
        data = PyBytes_AS_STRING(<object>held)
    else:
        # The entry's hash came from its UTF-8 form, so nothing can fail.
        data = text_bytes(<object>held, &size)
    if size != view.size:
        return False
    return short_equal(data, view.data, size) if size <= 32 else memcmp(data, view.data, size) == 0


cdef inline FrontEntry* front_find(CoreFront self, object key, KeyView* view) noexcept:
    """The valid entry of a key, or NULL; an outdated one is dropped."""
    cdef FrontEntry* entry = &self.front[(view.hash.low & self.front_mask) * FRONT_WAYS]
    cdef FrontEntry* end = entry + FRONT_WAYS
    while entry.tag != <uint32_t>view.hash.high or entry.key == NULL or not (
            entry.key == <PyObject*>key or front_same_key(entry, view)):
        entry += 1
        if entry == end:
            return NULL
    if entry.key == <PyObject*>key or \
            entry.epoch != ec_load_u32(&self.front_epochs[entry.epoch_slot]):
        return self.front_settle(entry, key, view)
    if entry.rest:
        entry.rest -= 1
    elif not front_tell(self, entry):
        return self.front_settle(entry, key, view)
    front_cells(self).front_hits += 1
    return entry


cdef inline void front_prefetch(CoreFront self, const KeyView* view) noexcept:
    cdef FrontEntry* entry = &self.front[(view.hash.low & self.front_mask) * FRONT_WAYS]
    ec_prefetch(entry)
    ec_prefetch(&entry[2])
