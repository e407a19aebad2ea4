"""The metadata map: one IndexShard per lock shard, bucketised, all in the arena.

    bucket, 64 bytes (one cache line)
    | 0                                   56 | 56            63 | 63      64 |
    | slot 0 .. slot 6, u64 each             | info 0 .. 6, u8 | overflow u8 |

    slot, u64                                          info, u8
    | 63        62 | 61        40 | 39          0 |    | 7   | 6           0 |
    | frequency  2 | tag       22 | location   40 |    | ram | size class  7 |

    location  ram = 0: offset in the disk tier in units of 64 bytes; 0 is never a valid location
              ram = 1: reference of the item in this shard's RAM tier
    tag       bits 63..42 of the hash. The slot is free when it is 0 as a whole (location 0).
    overflow  saturating number of entries that belong here but live in the overflow table.

Structure of a shard. The top bits of the tag select a directory entry and by it a *group*; a group
holds 4 to 7 *segments* of 64 buckets (4 KiB each), more tag bits select the segment, and bits of the
hash below the tag (not stored) select the bucket; the second bucket is the first XOR a non-zero mix of
the tag. A full group grows by one segment (4 -> 5 -> 6 -> 7) and splits into two groups of four when it
would need an eighth; the stored tag bits are enough for both, so growth reads nothing but the index.
Mean load stays near 0.84, 10.9 bytes per object. What fits nowhere (same tag, same buckets) goes to the
overflow table: nothing is dropped. Several slots may carry one tag: the caller compares full keys.

All functions: the caller holds the shard's lock and passes the arena base; `shard` and everything it
refers to lie in the arena and hold offsets only. A cursor is valid until the next insert or erase.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._status cimport Status

cdef enum:
    INDEX_SEGMENT_BYTES = 4096
    INDEX_TAG_BITS = 22
    INDEX_LOCATION_BITS = 40
    INDEX_FREQUENCY_MAX = 3

cdef struct IndexShard:
    uint64_t area_offset            # from the arena base, 4096-aligned; directory, groups, segments
    uint64_t area_size_bytes        # reserved address space; memory is touched as it is used
    uint64_t area_used_bytes        # a prefix of the area: what a checkpoint copies
    uint64_t used_bytes_limit       # growth beyond this is refused (budget); 0: none
    uint64_t object_count
    uint64_t overflow_count
    uint64_t grow_count
    # Private to _index.pyx; POD, offsets relative to area_offset.
    uint64_t private_state[16]

cdef struct IndexCursor:
    uint64_t hash
    uint64_t location               # of the current slot
    uint8_t size_class
    uint8_t frequency
    uint8_t is_ram
    uint8_t state                   # private
    uint64_t private_state[6]

# Address space one shard must reserve for that many objects at any load.
cdef uint64_t index_area_bytes(uint64_t object_count_max) noexcept nogil

# Lay out an empty shard. The area is zero-filled memory. STATUS_INVALID if it is too small.
cdef Status index_init(char* base, IndexShard* shard, uint64_t area_offset,
                       uint64_t area_size_bytes, uint64_t object_count_expected) noexcept nogil

# Walk the slots whose tag equals that of `hash`:  index_seek(...); while index_next(...): ...
cdef void index_seek(char* base, IndexShard* shard, uint64_t hash,
                     IndexCursor* cursor) noexcept nogil
cdef bint index_next(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil
# Position the cursor on the slot with exactly this location; False if there is none.
cdef bint index_find(char* base, IndexShard* shard, uint64_t hash, uint64_t location, bint is_ram,
                     IndexCursor* cursor) noexcept nogil

# Add a slot (the caller made sure that the key is not there). STATUS_OK, or STATUS_NO_MEMORY when
# the area or the limit is used up and the overflow table is full.
cdef Status index_insert(char* base, IndexShard* shard, uint64_t hash, uint64_t location,
                         uint8_t size_class, bint is_ram, uint8_t frequency) noexcept nogil
# Change the slot under the cursor in place; its frequency and tag stay.
cdef void index_replace(char* base, IndexShard* shard, IndexCursor* cursor, uint64_t location,
                        uint8_t size_class, bint is_ram) noexcept nogil
cdef void index_erase(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil
cdef void index_set_frequency(char* base, IndexShard* shard, IndexCursor* cursor,
                              uint8_t frequency) noexcept nogil

# Visit every slot: start with *position = 0; returns False at the end. Fills cursor->location,
# size_class, frequency, is_ram. index_replace and index_erase on that cursor are allowed; any other
# change of the shard between two calls may make the scan miss or repeat entries, never crash.
cdef bint index_scan(char* base, IndexShard* shard, uint64_t* position,
                     IndexCursor* cursor) noexcept nogil

cdef void index_clear(char* base, IndexShard* shard) noexcept nogil
# 0 when every invariant holds, else the number of the broken one (listed in _index.pyx).
cdef int index_check(char* base, IndexShard* shard) noexcept nogil

# Size classes: four steps per octave in units of 64 bytes, class c covers sizes up to
# size_class_bytes(c); a read of that many bytes covers the whole record (over-read <= 25 %).
cdef inline uint8_t size_class_of(uint64_t size_bytes) noexcept nogil:
    cdef uint64_t units = (size_bytes + 63) >> 6
    cdef uint64_t octave, step
    if units <= 4:
        return <uint8_t>(units if units > 0 else 1)
    octave = 63 - <uint64_t>__builtin_clzll(units - 1)
    step = (units - 1) >> (octave - 2)              # 4..7: the two bits below the leading one
    return <uint8_t>(((octave - 2) << 2) + (step - 3) + 4)

cdef inline uint64_t size_class_bytes(uint8_t size_class) noexcept nogil:
    cdef uint64_t octave, step
    if size_class <= 4:
        return <uint64_t>size_class << 6
    octave = ((size_class - 5) >> 2) + 2
    step = ((size_class - 5) & 3) + 4
    return ((step + 1) << (octave - 2)) << 6

cdef extern from *:
    int __builtin_clzll(unsigned long long x) noexcept nogil
