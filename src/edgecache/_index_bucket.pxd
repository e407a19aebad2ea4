"""Kernel: slots, buckets and the placement inside one segment of the metadata map.

The drawing of a bucket stands in `_index.pxd`. Invariants of a segment (64 buckets, 4096 bytes):

1. A slot is free when its word is 0; the info byte of a free slot is 0.
2. An entry with tag `t` stands in bucket `b` or in `b ^ bucket_step(t)`; the step is never 0, and
   it is its own inverse, so that the pair is known from either bucket and the tag alone.

Placement: the first bucket, then the second, then entries are pushed along a shortest path to a
free slot. The search visits each of the 64 buckets at most once, so its work is bounded, and it
finds a path whenever there is one.

A process may die between any two stores. So the word of a slot, which says whether there is an
entry, is stored after its info and cleared before it, and an entry that moves is copied before its
old slot goes: it may then stand in both of its buckets, never in none (_index_mend.pyx).

Source: R. Pagh, F. Rodler, "Cuckoo Hashing" (2004) for two choices; B. Fan et al., "Cuckoo Filter"
(2014), section 3.1, for the partial-key second bucket; X. Li et al., "Algorithmic Improvements for
Fast Concurrent Cuckoo Hashing" (2014), section 4.3, for breadth-first displacement.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from edgecache._sync cimport ec_prefetch, ec_store_u8, ec_store_u64

cdef enum:
    INDEX_BUCKET_SLOTS = 7
    INDEX_BUCKET_WORDS = 8
    INDEX_SEGMENT_BUCKETS = 64
    INDEX_SEGMENT_SLOTS = 448
    INDEX_SEGMENT_WORDS = 512
    INDEX_TAG_MASK = 0x3fffff
    INDEX_SEGMENT_BYTES = 4096
    INDEX_TAG_BITS = 22
    INDEX_GROUP_SEGMENTS_MIN = 4
    INDEX_GROUP_SEGMENTS_MAX = 7
    # More entries than that which find no place when a group is rebuilt: growth does not help.
    INDEX_REBUILD_LEFT_MAX = 64
    INDEX_OVERFLOW_STICKY = 255     # the counter no longer counts, it only says "look there"

cdef extern from *:
    int __builtin_ctz(unsigned int x) noexcept nogil


# ---- slot words ------------------------------------------------------------------------------

cdef inline uint64_t slot_make(uint64_t tag, uint64_t location, uint8_t frequency) noexcept nogil:
    return (<uint64_t>frequency << 62) | (tag << 40) | location

cdef inline uint64_t slot_tag(uint64_t word) noexcept nogil:
    return (word << 2) >> 42

cdef inline uint64_t slot_location(uint64_t word) noexcept nogil:
    return word & 0xffffffffffULL

cdef inline uint8_t slot_frequency(uint64_t word) noexcept nogil:
    return <uint8_t>(word >> 62)


# ---- buckets ---------------------------------------------------------------------------------

# Distance (XOR) between the two buckets of a tag, 1..63. The multiplier is 2^32 / golden ratio, the
# upper half of the product is spread over 63 values.
# Source: D. Knuth, TAOCP vol. 3, 6.4 (multiplicative hashing).
cdef inline uint32_t bucket_step(uint64_t tag) noexcept nogil:
    cdef uint32_t mixed = <uint32_t>tag * <uint32_t>0x9e3779b1
    return ((mixed >> 16) * 63 >> 16) + 1

cdef inline uint8_t* bucket_infos(uint64_t* bucket) noexcept nogil:
    return <uint8_t*>(bucket + INDEX_BUCKET_SLOTS)

cdef inline uint8_t bucket_overflow(const uint64_t* bucket) noexcept nogil:
    return (<const uint8_t*>(bucket + INDEX_BUCKET_SLOTS))[INDEX_BUCKET_SLOTS]

# Bit i says that slot i carries the tag. Free slots look like tag 0: the reader skips zero words.
# Written out without branches; the compiler turns it into straight-line code.
cdef inline uint32_t bucket_match(const uint64_t* bucket, uint64_t tag) noexcept nogil:
    cdef uint32_t matches = 0
    cdef uint32_t slot
    for slot in range(INDEX_BUCKET_SLOTS):
        matches |= <uint32_t>(slot_tag(bucket[slot]) == tag) << slot
    return matches

# Number of a free slot, or INDEX_BUCKET_SLOTS. Without branches too: which slot is free is as good
# as random, and one wrong guess costs more than looking at all seven.
cdef inline uint32_t bucket_free_slot(const uint64_t* bucket) noexcept nogil:
    cdef uint32_t free_slots = 1 << INDEX_BUCKET_SLOTS
    cdef uint32_t slot
    for slot in range(INDEX_BUCKET_SLOTS):
        free_slots |= <uint32_t>(bucket[slot] == 0) << slot
    return <uint32_t>__builtin_ctz(free_slots)

# The slot is free. The word goes last: a process that dies in between leaves a free slot, not half
# an entry.
cdef inline void bucket_set(uint64_t* bucket, uint32_t slot, uint64_t word,
                            uint8_t info) noexcept nogil:
    bucket_infos(bucket)[slot] = info
    ec_store_u64(&bucket[slot], word)

cdef inline void bucket_clear(uint64_t* bucket, uint32_t slot) noexcept nogil:
    bucket[slot] = 0
    ec_store_u8(&bucket_infos(bucket)[slot], 0)

cdef inline void bucket_overflow_add(uint64_t* bucket) noexcept nogil:
    cdef uint8_t* counter = bucket_infos(bucket) + INDEX_BUCKET_SLOTS
    if counter[0] != INDEX_OVERFLOW_STICKY:
        counter[0] += 1

cdef inline void bucket_overflow_remove(uint64_t* bucket) noexcept nogil:
    cdef uint8_t* counter = bucket_infos(bucket) + INDEX_BUCKET_SLOTS
    if counter[0] != INDEX_OVERFLOW_STICKY:
        counter[0] -= 1


# ---- placement in a segment ------------------------------------------------------------------

cdef inline uint32_t segment_used_count(const uint64_t* segment) noexcept nogil:
    cdef uint32_t bucket, slot
    cdef uint32_t used_count = 0
    for bucket in range(INDEX_SEGMENT_BUCKETS):
        for slot in range(INDEX_BUCKET_SLOTS):
            used_count += segment[bucket * INDEX_BUCKET_WORDS + slot] != 0
    return used_count

cdef inline bint segment_has_overflow(const uint64_t* segment) noexcept nogil:
    cdef uint32_t bucket
    cdef uint32_t seen = 0
    for bucket in range(INDEX_SEGMENT_BUCKETS):
        seen |= bucket_overflow(segment + bucket * INDEX_BUCKET_WORDS)
    return seen != 0

# Free a slot in `first` or `second` (both full) by pushing entries to their other buckets. Returns
# the freed position (bucket * 8 + slot), or -1 when no chain of moves ends at a free slot.
cdef inline int segment_displace(uint64_t* segment, uint32_t first,
                                 uint32_t second) noexcept nogil:
    cdef uint8_t queue[INDEX_SEGMENT_BUCKETS]
    cdef uint8_t parent[INDEX_SEGMENT_BUCKETS]
    cdef uint8_t parent_slot[INDEX_SEGMENT_BUCKETS]
    cdef uint64_t seen = (<uint64_t>1 << first) | (<uint64_t>1 << second)
    cdef uint32_t head = 0, tail = 2
    cdef uint32_t current, target, slot, free_slot
    cdef uint64_t* bucket
    queue[0] = <uint8_t>first
    queue[1] = <uint8_t>second
    while head < tail:
        current = queue[head]
        head += 1
        bucket = segment + current * INDEX_BUCKET_WORDS
        for slot in range(INDEX_BUCKET_SLOTS):
            target = current ^ bucket_step(slot_tag(bucket[slot]))
            if (seen >> target) & 1:
                continue
            seen |= <uint64_t>1 << target
            parent[target] = <uint8_t>current
            parent_slot[target] = <uint8_t>slot
            free_slot = bucket_free_slot(segment + target * INDEX_BUCKET_WORDS)
            if free_slot == INDEX_BUCKET_SLOTS:
                queue[tail] = <uint8_t>target
                tail += 1
                continue
            # Walk back: each entry is copied before its old slot is cleared, none is ever missing.
            while target != first and target != second:
                current = parent[target]
                slot = parent_slot[target]
                bucket = segment + current * INDEX_BUCKET_WORDS
                bucket_set(segment + target * INDEX_BUCKET_WORDS, free_slot, bucket[slot],
                           bucket_infos(bucket)[slot])
                ec_store_u64(&bucket[slot], 0)
                ec_store_u8(&bucket_infos(bucket)[slot], 0)
                target = current
                free_slot = slot
            return <int>(target * INDEX_BUCKET_WORDS + free_slot)
    return -1

# Put an entry into its first or second bucket, moving others if needed. False: no room for it.
cdef inline bint segment_place(uint64_t* segment, uint32_t bucket_number, uint64_t word,
                               uint8_t info) noexcept nogil:
    cdef uint64_t* bucket = segment + bucket_number * INDEX_BUCKET_WORDS
    cdef uint32_t slot = bucket_free_slot(bucket)
    cdef uint32_t other
    cdef int position
    if slot == INDEX_BUCKET_SLOTS:
        other = bucket_number ^ bucket_step(slot_tag(word))
        bucket = segment + other * INDEX_BUCKET_WORDS
        slot = bucket_free_slot(bucket)
        if slot == INDEX_BUCKET_SLOTS:
            position = segment_displace(segment, bucket_number, other)
            if position < 0:
                return False
            bucket = segment + (position >> 3) * INDEX_BUCKET_WORDS
            slot = position & 7
    bucket_set(bucket, slot, word, info)
    return True


# ---- entries of the overflow table -------------------------------------------------------------

cdef struct OverflowNode:
    # | 63      42 | 41              36 | 35  32 | 31      0 |     key = bits 63..36
    # | tag     22 | lower bucket     6 | 0      | next node |
    uint64_t key_next
    # | 49     48 | 47    40 | 39      0 |                         0: free
    # | frequency | info     | location  |
    uint64_t item

cdef inline uint64_t overflow_key(uint64_t tag, uint32_t bucket_number) noexcept nogil:
    cdef uint32_t other = bucket_number ^ bucket_step(tag)
    return (tag << 6) | (bucket_number if bucket_number < other else other)

cdef inline uint64_t overflow_item(uint64_t word, uint8_t info) noexcept nogil:
    return (<uint64_t>slot_frequency(word) << 48) | (<uint64_t>info << 40) | slot_location(word)

cdef inline uint64_t overflow_word(uint64_t key, uint64_t item) noexcept nogil:
    return slot_make(key >> 6, slot_location(item), <uint8_t>(item >> 48))

# As in bucket_step: a multiplicative hash, its upper bits spread over the chain heads.
cdef inline uint32_t overflow_spread(uint64_t key, uint32_t head_count) noexcept nogil:
    cdef uint32_t mixed = <uint32_t>key * <uint32_t>0x9e3779b1
    return <uint32_t>((<uint64_t>mixed * head_count) >> 32)


# ---- groups and their growth -------------------------------------------------------------------

cdef struct IndexGroup:                 # private; 32 bytes, two per cache line
    uint8_t segment_count               # 4..7
    uint8_t depth                       # tag bits that all its entries share
    uint16_t reserved                   # 0
    uint32_t segment_pages[7]

cdef struct GroupRebuild:               # a group as it will be, on the stack of group_grow
    uint64_t segments[(INDEX_GROUP_SEGMENTS_MAX + 1) * INDEX_SEGMENT_WORDS]
    uint64_t left_keys[INDEX_REBUILD_LEFT_MAX]
    uint64_t left_items[INDEX_REBUILD_LEFT_MAX]
    uint32_t left_count
    uint32_t entry_count
    uint32_t upper_count                # entries of the upper half: segments 4 to 7 of 8
    bint has_overflow

# The bits of the tag below those of the group, as a fraction, times the number of segments.
# Source: D. Lemire, "Fast Random Integer Generation in an Interval" (2019), multiply-shift.
cdef inline uint32_t group_segment_number(uint64_t tag, uint32_t depth,
                                          uint32_t segment_count) noexcept nogil:
    return <uint32_t>((((tag << depth) & INDEX_TAG_MASK) * segment_count) >> INDEX_TAG_BITS)

cdef inline void rebuild_fill(GroupRebuild* rebuild, char* area, const IndexGroup* group,
                              uint32_t number_end) noexcept nogil:
    """Distribute the entries of a group over one segment more than it has.

    Only the new segments [0, number_end) are whole; all entries of these stand in the old segments
    of the same numbers, and what a segment will be depends on no other one. So who finishes a
    growth that was cut makes what is missing exactly as it was going to be (group_commit).
    """
    cdef uint32_t segment_count = group.segment_count + 1
    cdef uint32_t number, bucket_number, slot, target
    cdef uint64_t* bucket
    cdef uint64_t word, tag
    cdef uint8_t info
    memset(rebuild.segments, 0, <uint64_t>segment_count * INDEX_SEGMENT_BYTES)
    rebuild.left_count = 0
    rebuild.entry_count = 0
    rebuild.upper_count = 0
    rebuild.has_overflow = False
    for number in range(min(number_end, <uint32_t>group.segment_count)):
        bucket = <uint64_t*>(area + (<uint64_t>group.segment_pages[number] << 12))
        for bucket_number in range(INDEX_SEGMENT_BUCKETS):
            rebuild.has_overflow |= bucket_overflow(bucket) != 0
            for slot in range(INDEX_BUCKET_SLOTS):
                word = bucket[slot]
                if word == 0:
                    continue
                info = bucket_infos(bucket)[slot]
                tag = slot_tag(word)
                target = group_segment_number(tag, group.depth, segment_count)
                rebuild.entry_count += 1
                rebuild.upper_count += target >= INDEX_GROUP_SEGMENTS_MIN
                if segment_place(rebuild.segments + target * INDEX_SEGMENT_WORDS, bucket_number,
                                 word, info):
                    continue
                if rebuild.left_count == INDEX_REBUILD_LEFT_MAX:
                    rebuild.left_count += 1
                    return
                rebuild.left_keys[rebuild.left_count] = overflow_key(tag, bucket_number)
                rebuild.left_items[rebuild.left_count] = overflow_item(word, info)
                rebuild.left_count += 1
            bucket += INDEX_BUCKET_WORDS

cdef inline bint rebuild_pays(const GroupRebuild* rebuild,
                              const IndexGroup* group) noexcept nogil:
    """Tell whether one more segment relieves the group.

    Evenly spread tags fill a group to about 0.9 before a segment of it is full. Equal tags fill one
    segment and leave the others empty: then growth would only cost memory.
    """
    cdef uint32_t least_count = rebuild.entry_count >> 3
    if rebuild.left_count > INDEX_REBUILD_LEFT_MAX:
        return False
    if rebuild.entry_count * 5 < <uint32_t>group.segment_count * INDEX_SEGMENT_SLOTS * 3:
        return False
    if group.segment_count < INDEX_GROUP_SEGMENTS_MAX:
        return True
    return least_count <= rebuild.upper_count <= rebuild.entry_count - least_count

# Add the slots in use to used_count[0]; False if the segment breaks invariant 1 or holds an entry
# that does not belong to segment `number` of the group with that prefix.
cdef inline bint segment_check(const uint64_t* segment, const IndexGroup* group, uint64_t prefix,
                               uint32_t number, uint64_t* used_count) noexcept nogil:
    cdef const uint64_t* bucket = segment
    cdef uint32_t _bucket_number, slot
    cdef uint64_t tag
    for _bucket_number in range(INDEX_SEGMENT_BUCKETS):
        for slot in range(INDEX_BUCKET_SLOTS):
            if bucket[slot] == 0:
                if bucket_infos(<uint64_t*>bucket)[slot] != 0:
                    return False
                continue
            tag = slot_tag(bucket[slot])
            if slot_location(bucket[slot]) == 0 or (
                    tag >> (INDEX_TAG_BITS - group.depth) != prefix) or (
                    group_segment_number(tag, group.depth, group.segment_count) != number):
                return False
            used_count[0] += 1
        bucket += INDEX_BUCKET_WORDS
    return True
