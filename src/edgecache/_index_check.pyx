"""The checker of the metadata map (see _index_check.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from edgecache._index cimport INDEX_DEPTH_MAX, IndexShard, index_area
from edgecache._index_bucket cimport (
    INDEX_BUCKET_WORDS,
    INDEX_GROUP_SEGMENTS_MAX,
    INDEX_GROUP_SEGMENTS_MIN,
    INDEX_OVERFLOW_STICKY,
    INDEX_SEGMENT_BUCKETS,
    IndexGroup,
    OverflowNode,
    bucket_overflow,
    segment_check,
    slot_location,
)
from edgecache._index_pages cimport (
    INDEX_GROUP_BYTES,
    INDEX_NONE,
    INDEX_OVERFLOW_PAGE_NODES,
    overflow_bucket,
    overflow_capacity,
    overflow_head_number,
    overflow_heads,
    overflow_nodes,
    page_at,
)


cdef inline bint run_is_inside(uint64_t page, uint64_t count, uint64_t page_total) noexcept nogil:
    return page < page_total and 0 < count <= page_total - page

cdef bint census_claim(Census* census, uint64_t page, uint64_t count) noexcept nogil:
    cdef uint64_t number
    if not run_is_inside(page, count, census.page_total):
        return False
    for number in range(page, page + count):
        if census.is_claimed[number]:
            return False
        census.is_claimed[number] = 1
    return True

cdef bint index_check_header(const IndexShard* shard) noexcept nogil:
    cdef uint64_t page_total = shard.area_used_bytes >> 12
    return (
        shard.area_used_bytes & 4095 == 0 and shard.area_used_bytes <= shard.area_size_bytes
        and shard.area_offset & 4095 == 0
        and shard.depth <= INDEX_DEPTH_MAX
        and run_is_inside(shard.directory_page, shard.directory_page_count, page_total)
        and (<uint64_t>INDEX_GROUP_BYTES << shard.depth) <= (
            <uint64_t>shard.directory_page_count << 12)
        and run_is_inside(shard.overflow_page, shard.overflow_page_count, page_total)
        and <uint64_t>shard.overflow_page_count * INDEX_OVERFLOW_PAGE_NODES < INDEX_NONE
        and shard.overflow_node_count <= overflow_capacity(shard)
        and shard.initial_depth <= INDEX_DEPTH_MAX
        and INDEX_GROUP_SEGMENTS_MIN <= shard.initial_segment_count <= INDEX_GROUP_SEGMENTS_MAX)

cdef int census_directory(char* area, const IndexShard* shard, Census* census) noexcept nogil:
    cdef IndexGroup* entries = <IndexGroup*>page_at(area, shard.directory_page)
    cdef IndexGroup group
    cdef uint64_t entry = 0
    cdef uint64_t copy_count, copy
    cdef uint32_t number
    while entry < <uint64_t>1 << shard.depth:
        group = entries[entry]
        if group.depth > shard.depth or group.reserved != 0 or not (
                INDEX_GROUP_SEGMENTS_MIN <= group.segment_count <= INDEX_GROUP_SEGMENTS_MAX):
            return 2
        copy_count = <uint64_t>1 << (shard.depth - group.depth)
        if entry & (copy_count - 1):
            return 2
        for copy in range(copy_count):
            if memcmp(&entries[entry + copy], &group, INDEX_GROUP_BYTES) != 0:
                return 2
        for number in range(group.segment_count):
            if not census_claim(census, group.segment_pages[number], 1):
                return 3
        entry += copy_count
    return 0

cdef bint check_segments(char* area, const IndexShard* shard, Census* census) noexcept nogil:
    cdef IndexGroup* entries = <IndexGroup*>page_at(area, shard.directory_page)
    cdef const IndexGroup* group
    cdef uint64_t entry = 0
    cdef uint32_t number
    while entry < <uint64_t>1 << shard.depth:
        group = &entries[entry]
        for number in range(group.segment_count):
            if not segment_check(<uint64_t*>page_at(area, group.segment_pages[number]), group,
                                 entry >> (shard.depth - group.depth), number,
                                 &census.slot_count):
                return False
        entry += <uint64_t>1 << (shard.depth - group.depth)
    return True

cdef int check_overflow(char* area, const IndexShard* shard, Census* census) noexcept nogil:
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint32_t* heads = overflow_heads(area, shard)
    cdef uint64_t chained_count = 0, free_count = 0
    cdef uint32_t head, number
    cdef uint64_t key
    for number in range(shard.overflow_node_count):
        census.node_count += nodes[number].item != 0
    for head in range(overflow_capacity(shard)):
        number = heads[head]
        while number != INDEX_NONE:
            chained_count += 1
            if number >= shard.overflow_node_count or chained_count > census.node_count:
                return 5
            key = nodes[number].key_next >> 36
            if slot_location(nodes[number].item) == 0 or overflow_head_number(shard, key) != head:
                return 5
            census.overflow_counts[(<char*>overflow_bucket(area, shard, key) - area) >> 6] += 1
            number = <uint32_t>nodes[number].key_next
    number = shard.overflow_free_head
    while number != INDEX_NONE:
        free_count += 1
        if number >= shard.overflow_node_count or nodes[number].item != 0 or (
                free_count > shard.overflow_node_count):
            return 5
        number = <uint32_t>nodes[number].key_next
    if chained_count != census.node_count or (
            chained_count + free_count != shard.overflow_node_count):
        return 5
    return 0

cdef int check_overflow_counts(char* area, const IndexShard* shard,
                               const Census* census) noexcept nogil:
    cdef IndexGroup* entries = <IndexGroup*>page_at(area, shard.directory_page)
    cdef uint64_t entry
    cdef uint64_t* segment
    cdef uint32_t number, bucket_number
    cdef uint8_t counter
    for entry in range(<uint64_t>1 << shard.depth):
        for number in range(entries[entry].segment_count):
            segment = <uint64_t*>page_at(area, entries[entry].segment_pages[number])
            for bucket_number in range(INDEX_SEGMENT_BUCKETS):
                counter = bucket_overflow(segment + bucket_number * INDEX_BUCKET_WORDS)
                if counter != INDEX_OVERFLOW_STICKY and counter != census.overflow_counts[
                        (<uint64_t>entries[entry].segment_pages[number] << 6) + bucket_number]:
                    return 6
    return 0

cdef int check_census(char* area, const IndexShard* shard, Census* census) noexcept nogil:
    cdef uint32_t page = shard.free_page_head
    cdef uint64_t free_count = 0
    cdef uint64_t number
    cdef int broken
    if not census_claim(census, shard.directory_page, shard.directory_page_count) or (
            not census_claim(census, shard.overflow_page, shard.overflow_page_count)):
        return 3
    while page != INDEX_NONE:
        # A page in the list twice is claimed twice, so a loop ends here.
        if not census_claim(census, page, 1):
            return 3
        free_count += 1
        page = (<uint32_t*>page_at(area, page))[0]
    if free_count != shard.free_page_count:
        return 3
    broken = census_directory(area, shard, census)
    if broken:
        return broken
    if not check_segments(area, shard, census):
        return 4
    for number in range(census.page_total):
        if not census.is_claimed[number]:
            return 3
    broken = check_overflow(area, shard, census)
    if broken:
        return broken
    broken = check_overflow_counts(area, shard, census)
    if broken:
        return broken
    if shard.overflow_count != census.node_count or (
            shard.object_count != census.slot_count + census.node_count):
        return 7
    return 0

cdef int index_check(char* base, IndexShard* shard) noexcept nogil:
    cdef Census census
    cdef int broken = -1
    if shard.growth_step != 0 or shard.replace_word != 0 or not index_check_header(shard):
        return 1
    memset(&census, 0, sizeof(census))
    census.page_total = shard.area_used_bytes >> 12
    census.is_claimed = <uint8_t*>calloc(census.page_total, 1)
    census.overflow_counts = <uint32_t*>calloc(
        census.page_total * INDEX_SEGMENT_BUCKETS, sizeof(uint32_t))
    if census.is_claimed != NULL and census.overflow_counts != NULL:
        broken = check_census(index_area(base, shard), shard, &census)
    free(census.is_claimed)
    free(census.overflow_counts)
    return broken
