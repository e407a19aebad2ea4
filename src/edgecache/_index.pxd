"""The metadata map: one IndexShard per lock shard, bucketised, all in the arena.

    bucket, 64 bytes (one cache line)
    | 0                                   56 | 56            63 | 63      64 |
    | slot 0 .. slot 6, u64 each             | info 0 .. 6, u8 | overflow u8 |

    slot, u64                                          info, u8
    | 63        62 | 61        40 | 39          0 |    | 7   | 6           0 |
    | frequency  2 | tag       22 | location   40 |    | ram | size class  7 |

    hash, u64
    | 63             42 | 41             36 | 35                                0 |
    | tag (stored)   22 | bucket          6 | not used here: take the shard number from it |

    location  ram = 0: offset in the disk tier in units of 64 bytes; ram = 1: reference of the item
              in this shard's RAM tier. 0 is never valid: a slot is free when its word is 0.
    overflow  number of entries in the overflow table whose lower bucket this is; 255 sticks until
              the group is rebuilt.

Structure of a shard. The top bits of the tag select a directory entry, which *is* the descriptor
of a *group* (32 bytes; repeated where the group is shallower than the directory). A group holds 4
to 7 *segments* of 64 buckets (4 KiB each); the tag bits below those of the group select the
segment, and the bucket bits select the bucket; the second bucket is the first XOR a non-zero mix
of the tag. A full group grows by one segment (4 -> 5 -> 6 -> 7) and splits into two groups of
four when it would need an eighth; the stored tag bits are enough for both, so growth reads
nothing but the index. Both stop at 16 directory bits, and wherever growth would not separate the
entries (equal tags). What fits nowhere goes to the overflow table: nothing is dropped. Several
slots may carry one tag: the caller compares full keys.

    area      pages of 4096 bytes; the pages in use are a dense prefix
    page      a segment | part of the directory | part of the overflow table | free, in a list

Single pages come from the free list first, then from the end of the prefix. The directory and the
overflow table are runs of pages: to grow they move to the end and leave their old pages to the
list, from where segments take them. So no address space is kept aside for them.

All functions: the caller holds the shard's lock and passes the arena base; `shard` and everything
it refers to lie in the arena and hold offsets only. A cursor is valid until the next insert or
erase (erasing through the cursor itself is fine: the walk may go on).

Restoring a copy: copy the prefix and the struct, set area_offset, area_size_bytes and
used_bytes_limit to those of the new place, then call index_check (_index_check.pxd): it accepts no
page number out of bounds.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edgecache._index_bucket cimport (
    INDEX_BUCKET_WORDS,
    INDEX_TAG_BITS,
    IndexGroup,
    __builtin_ctz,
    bucket_infos,
    bucket_match,
    bucket_overflow,
    bucket_step,
    ec_prefetch,
    group_segment_number,
    slot_frequency,
    slot_location,
)
from edgecache._status cimport Status

cdef enum:
    INDEX_LOCATION_BITS = 40
    INDEX_FREQUENCY_MAX = 3
    INDEX_SIZE_CLASS_MAX = 127
    # 6 tag bits stay for the choice among up to 7 segments: one value more or less is 10 % of the
    # load. 65536 groups of 7 hold 180 million objects per shard.
    INDEX_DEPTH_MAX = 16
    INDEX_GROWTH_CLEARING = 0xff        # growth_step: the shard is being laid out anew

cdef enum IndexCursorState:             # private
    INDEX_CURSOR_FIRST = 0
    INDEX_CURSOR_SECOND = 1
    INDEX_CURSOR_OVERFLOW = 2
    INDEX_CURSOR_END = 3

cdef struct IndexShard:                 # 184 bytes, little-endian, part of a checkpoint
    uint64_t area_offset                # from the arena base, 4096-aligned
    uint64_t area_size_bytes            # reserved address space; memory is touched as it is used
    uint64_t area_used_bytes            # a prefix of the area: what a checkpoint copies
    uint64_t used_bytes_limit           # growth beyond this is refused (budget); 0: none
    uint64_t object_count               # overflow included
    uint64_t overflow_count
    uint64_t grow_count
    # Private to the index; page numbers are relative to area_offset.
    uint32_t depth                      # the directory has 2^depth entries
    uint32_t directory_page
    uint32_t directory_page_count
    uint32_t free_page_head
    uint32_t free_page_count
    uint32_t overflow_page
    uint32_t overflow_page_count
    uint32_t overflow_free_head
    uint32_t overflow_node_count        # nodes ever used since the table was laid out
    uint32_t growth_step                # see below
    uint32_t initial_depth
    uint32_t initial_segment_count
    uint32_t crowded_count              # inserts that met a full segment with overflow already
    uint32_t padding                    # 0
    # Changes under way, for whoever takes over from a process that died in one (index_resume). All
    # 0 at any other time, and so in a checkpoint.
    IndexGroup growth_group             # as it was; growth_step (0: none) says how far it is
    uint32_t growth_pages[2]            # of the last two of its new segments
    uint32_t growth_prefix              # the tag bits of the group
    uint32_t padding_growth             # 0
    uint64_t replace_place              # | offset in the area 56 | new info 8 |
    uint64_t replace_word               # the slot's new word; 0: none
    uint64_t reserved[1]                # 0

cdef struct IndexCursor:
    uint64_t hash
    uint64_t location                   # of the current slot
    uint8_t size_class
    uint8_t frequency
    uint8_t is_ram
    uint8_t state                       # private from here on; process-local pointers
    uint32_t matches                    # slots of buckets[state] still to be visited
    uint32_t slot
    uint32_t node                       # of the overflow table
    uint32_t node_next
    uint32_t reserved
    uint64_t* buckets[2]

# Address space one shard must reserve for that many objects at any load (hashes spread evenly).
cdef uint64_t index_area_bytes(uint64_t object_count_max) noexcept nogil

# Lay out an empty shard, with room for object_count_expected at full load (0: the smallest).
# STATUS_INVALID if the area is too small or not aligned. used_bytes_limit becomes 0.
cdef Status index_init(char* base, IndexShard* shard, uint64_t area_offset,
                       uint64_t area_size_bytes, uint64_t object_count_expected) noexcept nogil

# Walk the slots whose tag equals that of `hash`:  index_seek(...); while index_next(...): ...
# Both are inlined into the caller: with them a hit reads the shard, one descriptor, one bucket.

cdef inline char* index_area(char* base, const IndexShard* shard) noexcept nogil:
    return base + shard.area_offset

cdef inline IndexGroup* index_group(char* area, const IndexShard* shard,
                                    uint64_t hash) noexcept nogil:
    # Two shifts: one by 64 would be undefined at depth 0.
    return <IndexGroup*>(area + (<uint64_t>shard.directory_page << 12)) + (
        (hash >> 1) >> (63 - shard.depth))

cdef inline uint64_t* index_segment(char* area, const IndexGroup* group,
                                    uint64_t tag) noexcept nogil:
    cdef uint32_t number = group_segment_number(tag, group.depth, group.segment_count)
    return <uint64_t*>(area + (<uint64_t>group.segment_pages[number] << 12))

cdef inline uint32_t index_bucket_number(uint64_t hash) noexcept nogil:
    return <uint32_t>(hash >> 36) & 63

cdef inline void index_seek(char* base, IndexShard* shard, uint64_t hash,
                            IndexCursor* cursor) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t tag = hash >> 42
    cdef uint64_t* segment = index_segment(area, index_group(area, shard, hash), tag)
    cdef uint32_t bucket_number = index_bucket_number(hash)
    cursor.hash = hash
    cursor.state = INDEX_CURSOR_FIRST
    cursor.buckets[0] = segment + bucket_number * INDEX_BUCKET_WORDS
    cursor.buckets[1] = segment + (bucket_number ^ bucket_step(tag)) * INDEX_BUCKET_WORDS
    ec_prefetch(cursor.buckets[1])
    cursor.matches = bucket_match(cursor.buckets[0], tag)

cdef inline bint index_next(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil:
    cdef uint64_t* bucket
    cdef uint64_t word
    cdef uint8_t info
    if cursor.state <= INDEX_CURSOR_SECOND:
        while True:
            bucket = cursor.buckets[cursor.state]
            while cursor.matches:
                cursor.slot = <uint32_t>__builtin_ctz(cursor.matches)
                cursor.matches &= cursor.matches - 1
                word = bucket[cursor.slot]
                if word == 0:
                    continue
                info = bucket_infos(bucket)[cursor.slot]
                cursor.location = slot_location(word)
                cursor.frequency = slot_frequency(word)
                cursor.size_class = info & INDEX_SIZE_CLASS_MAX
                cursor.is_ram = info >> 7
                return True
            if cursor.state == INDEX_CURSOR_SECOND:
                break
            cursor.state = INDEX_CURSOR_SECOND
            cursor.matches = bucket_match(cursor.buckets[1], cursor.hash >> 42)
        bucket = cursor.buckets[0]
        if cursor.buckets[1] < bucket:
            bucket = cursor.buckets[1]
        if bucket_overflow(bucket) == 0:
            return False
    return index_next_overflow(base, shard, cursor)

# Private: the part of index_next beyond the buckets.
cdef bint index_next_overflow(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil

# Ask the memory for the first bucket of `hash`, some lookups ahead of it (batches).
cdef inline void index_prefetch(char* base, const IndexShard* shard,
                                uint64_t hash) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t* segment = index_segment(area, index_group(area, shard, hash), hash >> 42)
    ec_prefetch(segment + index_bucket_number(hash) * INDEX_BUCKET_WORDS)

# Both buckets, ahead of a change of `hash`.
cdef inline void index_prefetch_pair(char* base, const IndexShard* shard,
                                     uint64_t hash) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t tag = hash >> 42
    cdef uint64_t* segment = index_segment(area, index_group(area, shard, hash), tag)
    cdef uint32_t bucket_number = index_bucket_number(hash)
    ec_prefetch(segment + bucket_number * INDEX_BUCKET_WORDS)
    ec_prefetch(segment + (bucket_number ^ bucket_step(tag)) * INDEX_BUCKET_WORDS)

# Position the cursor on the slot with exactly this location; False if there is none.
cdef bint index_find(char* base, IndexShard* shard, uint64_t hash, uint64_t location, bint is_ram,
                     IndexCursor* cursor) noexcept nogil

# Add a slot (the caller made sure that the key is not there). STATUS_OK; STATUS_NO_MEMORY when
# the area or the limit is used up and the overflow table is full: then nothing has changed;
# STATUS_INVALID when location, class or frequency do not fit their fields.
cdef Status index_insert(char* base, IndexShard* shard, uint64_t hash, uint64_t location,
                         uint8_t size_class, bint is_ram, uint8_t frequency) noexcept nogil
# Change the slot under the cursor in place; its frequency and tag stay. The location is 1..2^40-1.
cdef void index_replace(char* base, IndexShard* shard, IndexCursor* cursor, uint64_t location,
                        uint8_t size_class, bint is_ram) noexcept nogil
cdef void index_erase(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil
cdef void index_set_frequency(char* base, IndexShard* shard, IndexCursor* cursor,
                              uint8_t frequency) noexcept nogil

# Visit every slot: start with *position = 0; returns False at the end. Fills cursor->location,
# size_class, frequency, is_ram; of cursor->hash only the tag (bits 63..42) is known, the rest is 0.
# index_replace and index_erase on that cursor are allowed; any other change of the shard between
# two calls may make the scan miss or repeat entries, never crash.
cdef bint index_scan(char* base, IndexShard* shard, uint64_t* position,
                     IndexCursor* cursor) noexcept nogil

# Back to the layout of index_init; the limit stays. Memory behind the prefix keeps its old bytes.
cdef void index_clear(char* base, IndexShard* shard) noexcept nogil
# Finish what a process died in: a slot being replaced, a group growing. False: the notes of it make
# no sense. The caller (index_mend) checked the header, and that no clearing was under way.
cdef bint index_resume(char* base, IndexShard* shard) noexcept nogil
# Private, for index_mend: heads, chains and free list of the overflow table from its nodes.
cdef void overflow_relink(char* area, IndexShard* shard) noexcept nogil

# Size classes: four steps per octave in units of 64 bytes, class c covers sizes up to
# size_class_bytes(c); a read of that many bytes covers the whole record (over-read <= 25 %).
# The last class covers 448 GiB; what is larger gets it too (records of that size do not exist:
# objects are split into chunks long before).
cdef inline uint8_t size_class_of(uint64_t size_bytes) noexcept nogil:
    cdef uint64_t units = (size_bytes + 63) >> 6
    cdef uint64_t octave, step
    if size_bytes > (<uint64_t>7 << 36):
        return INDEX_SIZE_CLASS_MAX
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
