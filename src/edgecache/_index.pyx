"""The metadata map of one shard: layout of its area, growth, overflow table and scan.

The structure is described in `_index.pxd`, slots and placement in `_index_bucket.pxd`. Invariants;
`index_check` returns the number of the first broken one:

1. area_used_bytes is a number of whole pages within the area, depth <= INDEX_DEPTH_MAX, the runs
   of pages lie in the prefix, no change is noted as under way (growth_step, replace_word).
2. A group of depth d stands in 2^(depth - d) equal, aligned directory entries; it has 4 to 7
   segments.
3. Each page of the prefix is exactly one of: segment of one group, directory, overflow, free list.
4. An entry stands in the group and in the segment that its tag selects; a free slot's info is 0.
5. Each node of the overflow table is either in the chain that its key selects or in its free list.
6. The overflow byte of a bucket is the number of overflow entries with that lower bucket, or 255.
7. object_count = slots in use + overflow_count; overflow_count = nodes in use.

Growth is a transaction: the new segments of a group are built on the stack (32 KiB), and only
when every page and every overflow node that the change needs is at hand, they take the places of
the old ones. So a refusal leaves everything as it was.

A process may die anywhere in it (shared mode): what must survive are the slots of the segments that
the directory names, and the nodes of the overflow table. Free pages, chains, counters and counts
follow from these and are made anew (_index_mend.pyx). Stores whose order matters are kept in order
by ec_order; group_commit tells how a group changes step by step.

Source: R. Fagin et al., "Extendible Hashing" (1979) for directory and local depth.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._index_bucket cimport (
    GroupRebuild,
    INDEX_BUCKET_SLOTS,
    INDEX_BUCKET_WORDS,
    INDEX_GROUP_SEGMENTS_MAX,
    INDEX_GROUP_SEGMENTS_MIN,
    INDEX_SEGMENT_BYTES,
    INDEX_SEGMENT_SLOTS,
    INDEX_SEGMENT_WORDS,
    INDEX_TAG_BITS,
    IndexGroup,
    OverflowNode,
    bucket_clear,
    bucket_infos,
    bucket_overflow_add,
    bucket_overflow_remove,
    overflow_item,
    overflow_key,
    overflow_word,
    rebuild_fill,
    rebuild_pays,
    segment_has_overflow,
    segment_place,
    segment_used_count,
    slot_frequency,
    slot_location,
    slot_make,
    slot_tag,
)
from edgecache._index_pages cimport (
    INDEX_GROUP_BYTES,
    INDEX_NONE,
    INDEX_OVERFLOW_PAGE_NODES,
    directory_pages,
    overflow_bucket,
    overflow_capacity,
    overflow_head_number,
    overflow_heads,
    overflow_nodes,
    page_at,
)
from edgecache._status cimport STATUS_INVALID, STATUS_NO_MEMORY, STATUS_OK, Status
from edgecache._sync cimport ec_order, ec_store_u64

cdef extern from *:
    """
    #define EC_INDEX_STATIC_ASSERT(condition) _Static_assert(condition, #condition)
    """
    void EC_INDEX_STATIC_ASSERT(bint condition) noexcept nogil

cdef enum:
    RETRY_INTERVAL = 64


# ---- pages -----------------------------------------------------------------------------------

cdef inline uint64_t pages_behind(const IndexShard* shard) noexcept nogil:
    """Return how many pages the prefix may still grow by."""
    cdef uint64_t limit_bytes = shard.area_size_bytes
    if shard.used_bytes_limit != 0 and shard.used_bytes_limit < limit_bytes:
        limit_bytes = shard.used_bytes_limit
    if limit_bytes <= shard.area_used_bytes:
        return 0
    return (limit_bytes - shard.area_used_bytes) >> 12

cdef uint32_t pages_take(char* area, IndexShard* shard, uint32_t count) noexcept nogil:
    """Take a run of pages with undefined content; INDEX_NONE if there is no room."""
    cdef uint32_t page
    if count == 1 and shard.free_page_head != INDEX_NONE:
        page = shard.free_page_head
        shard.free_page_head = (<uint32_t*>page_at(area, page))[0]
        shard.free_page_count -= 1
        return page
    if pages_behind(shard) < count:
        return INDEX_NONE
    page = <uint32_t>(shard.area_used_bytes >> 12)
    shard.area_used_bytes += <uint64_t>count << 12
    return page

cdef void pages_give(char* area, IndexShard* shard, uint32_t page, uint32_t count) noexcept nogil:
    cdef uint32_t number
    for number in range(count):
        (<uint32_t*>page_at(area, page + number))[0] = shard.free_page_head
        shard.free_page_head = page + number
    shard.free_page_count += count


# ---- overflow table --------------------------------------------------------------------------
#
# Its geometry is in _index_pages.pxd. A node's key is stored before its item, and its item is
# cleared before its key: a node that is in use is whole.

cdef void overflow_clear(char* area, IndexShard* shard) noexcept nogil:
    memset(overflow_nodes(area, shard), 0, overflow_capacity(shard) * sizeof(OverflowNode))
    memset(overflow_heads(area, shard), 0xff, overflow_capacity(shard) * sizeof(uint32_t))
    shard.overflow_free_head = INDEX_NONE
    shard.overflow_node_count = 0

cdef inline void overflow_link(char* area, IndexShard* shard, uint32_t number,
                               uint64_t key) noexcept nogil:
    cdef uint32_t* head = overflow_heads(area, shard) + overflow_head_number(shard, key)
    overflow_nodes(area, shard)[number].key_next = (key << 36) | head[0]
    head[0] = number

cdef void overflow_relink(char* area, IndexShard* shard) noexcept nogil:
    """Build heads, chains and free list anew from the nodes [0, overflow_node_count)."""
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint32_t number
    memset(overflow_heads(area, shard), 0xff, overflow_capacity(shard) * sizeof(uint32_t))
    shard.overflow_free_head = INDEX_NONE
    for number in range(shard.overflow_node_count):
        if nodes[number].item != 0:
            overflow_link(area, shard, number, nodes[number].key_next >> 36)
        else:
            nodes[number].key_next = shard.overflow_free_head
            shard.overflow_free_head = number
    memset(nodes + shard.overflow_node_count, 0, sizeof(OverflowNode) * <uint64_t>(
        overflow_capacity(shard) - shard.overflow_node_count))

cdef bint overflow_reserve(char* area, IndexShard* shard, uint64_t count) noexcept nogil:
    """Make sure that `count` entries can be added; False, and nothing changed, if they cannot.

    A table at the end of the prefix grows in place, any other moves there. Nodes keep their
    numbers, so a scan position stays good.
    """
    cdef uint32_t page_old = shard.overflow_page
    cdef uint32_t page_count_old = shard.overflow_page_count
    cdef uint32_t page_count = page_count_old
    cdef uint32_t page
    while shard.overflow_count + count > <uint64_t>page_count * INDEX_OVERFLOW_PAGE_NODES:
        page_count += page_count // 2 + 1
    if page_count == page_count_old:
        return True
    if (<uint64_t>page_old + page_count_old) << 12 == shard.area_used_bytes:
        if pages_behind(shard) < page_count - page_count_old:
            return False
        shard.area_used_bytes += <uint64_t>(page_count - page_count_old) << 12
    else:
        page = pages_take(area, shard, page_count)
        if page == INDEX_NONE:
            return False
        memcpy(page_at(area, page), page_at(area, page_old),
               shard.overflow_node_count * sizeof(OverflowNode))
        ec_order()
        # The new place with the old size, for an instant: all nodes are there.
        shard.overflow_page = page
    ec_order()
    shard.overflow_page_count = page_count
    ec_order()
    overflow_relink(area, shard)
    if shard.overflow_page != page_old:
        ec_order()
        pages_give(area, shard, page_old, page_count_old)
    return True

cdef void overflow_add(char* area, IndexShard* shard, uint64_t key, uint64_t item) noexcept nogil:
    """Add an entry; the caller reserved room and counts it in its bucket."""
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint32_t number = shard.overflow_free_head
    if number != INDEX_NONE:
        shard.overflow_free_head = <uint32_t>nodes[number].key_next
    else:
        number = shard.overflow_node_count
        shard.overflow_node_count += 1
    overflow_link(area, shard, number, key)
    ec_store_u64(&nodes[number].item, item)
    shard.overflow_count += 1

cdef void overflow_remove(char* area, IndexShard* shard, uint32_t number) noexcept nogil:
    """Unlink a node; the caller corrects the count of its bucket.

    An empty table shrinks back to one page: the others become segments.
    """
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint64_t key_next = nodes[number].key_next
    cdef uint32_t* head = overflow_heads(area, shard) + (
        overflow_head_number(shard, key_next >> 36))
    cdef uint32_t current = head[0]
    cdef uint32_t page_count
    if current == number:
        head[0] = <uint32_t>key_next
    else:
        while <uint32_t>nodes[current].key_next != number:
            current = <uint32_t>nodes[current].key_next
        nodes[current].key_next = (nodes[current].key_next >> 32 << 32) | <uint32_t>key_next
    nodes[number].item = 0
    ec_store_u64(&nodes[number].key_next, shard.overflow_free_head)
    shard.overflow_free_head = number
    shard.overflow_count -= 1
    if shard.overflow_count == 0 and shard.overflow_page_count > 1:
        page_count = shard.overflow_page_count
        shard.overflow_node_count = 0
        ec_order()
        shard.overflow_page_count = 1
        ec_order()
        overflow_clear(area, shard)
        pages_give(area, shard, shard.overflow_page + 1, page_count - 1)

cdef void overflow_settle(char* area, IndexShard* shard, uint64_t prefix,
                          uint32_t depth) noexcept nogil:
    """Bring the entries of a rebuilt group (tags beginning with `prefix`) into its segments.

    Those that still find no place are counted in their buckets, whose counters start at 0.
    """
    cdef uint32_t number = 0
    cdef OverflowNode node
    cdef uint64_t key
    cdef uint64_t* bucket
    while number < shard.overflow_node_count:
        node = overflow_nodes(area, shard)[number]
        key = node.key_next >> 36
        if node.item != 0 and key >> (INDEX_TAG_BITS + 6 - depth) == prefix:
            bucket = overflow_bucket(area, shard, key)
            if segment_place(bucket - (key & 63) * INDEX_BUCKET_WORDS, <uint32_t>(key & 63),
                             overflow_word(key, node.item), <uint8_t>(node.item >> 40)):
                ec_order()
                overflow_remove(area, shard, number)
            else:
                bucket_overflow_add(bucket)
        number += 1


# ---- growth ----------------------------------------------------------------------------------

cdef bint directory_double(char* area, IndexShard* shard) noexcept nogil:
    """Give the directory one more bit; False if there is no room or it would not pay.

    It may use 1/16 of the prefix, or one page. Evenly spread hashes stay below 1/400, so only keys
    made to collide meet this bound; without it they could blow the directory up. It is built in
    other pages, and one store makes it the directory.
    """
    cdef uint64_t entry_count = <uint64_t>1 << shard.depth
    cdef uint32_t page_count = directory_pages(shard.depth + 1)
    cdef uint32_t page_old = shard.directory_page
    cdef uint32_t page_count_old = shard.directory_page_count
    cdef uint32_t page
    cdef uint64_t number
    cdef IndexGroup* source = <IndexGroup*>page_at(area, page_old)
    cdef IndexGroup* target
    if shard.depth == INDEX_DEPTH_MAX:
        return False
    if page_count > 1 and <uint64_t>page_count << 12 > shard.area_used_bytes >> 4:
        return False
    page = pages_take(area, shard, page_count)
    if page == INDEX_NONE:
        return False
    target = <IndexGroup*>page_at(area, page)
    for number in range(entry_count):
        target[2 * number] = source[number]
        target[2 * number + 1] = source[number]
    ec_order()
    # depth and directory_page share a word.
    if EDGECACHE_DEBUG:
        ec_assert(<char*>&shard.directory_page == <char*>&shard.depth + 4, "index: one word")
    ec_store_u64(<uint64_t*>&shard.depth, (<uint64_t>page << 32) | (shard.depth + 1))
    ec_order()
    shard.directory_page_count = page_count
    pages_give(area, shard, page_old, page_count_old)
    return True

cdef void group_write(char* area, IndexShard* shard, const IndexGroup* group,
                      uint64_t prefix) noexcept nogil:
    """Write the descriptor of the group with that prefix to all its directory entries."""
    cdef uint64_t copy_count = <uint64_t>1 << (shard.depth - group.depth)
    cdef IndexGroup* entries = <IndexGroup*>page_at(area, shard.directory_page)
    cdef uint64_t number
    for number in range(prefix * copy_count, (prefix + 1) * copy_count):
        entries[number] = group[0]

cdef void group_switch(char* area, IndexShard* shard) noexcept nogil:
    """Make the directory say what the pages of the growing group hold; all of them are written."""
    cdef const IndexGroup* group = &shard.growth_group
    cdef IndexGroup upper
    cdef IndexGroup lower = group[0]
    cdef uint32_t pages[INDEX_GROUP_SEGMENTS_MAX + 1]
    cdef uint32_t segment_count = <uint32_t>group.segment_count + 1
    cdef uint32_t number
    for number in range(segment_count - 2):
        pages[number] = group.segment_pages[number + 1]
    pages[segment_count - 2] = shard.growth_pages[0]
    pages[segment_count - 1] = shard.growth_pages[1]
    memset(lower.segment_pages, 0, sizeof(lower.segment_pages))
    if segment_count <= INDEX_GROUP_SEGMENTS_MAX:
        lower.segment_count = <uint8_t>segment_count
        for number in range(segment_count):
            lower.segment_pages[number] = pages[number]
        group_write(area, shard, &lower, shard.growth_prefix)
        return
    lower.segment_count = INDEX_GROUP_SEGMENTS_MIN
    lower.depth += 1
    upper = lower
    for number in range(INDEX_GROUP_SEGMENTS_MIN):
        lower.segment_pages[number] = pages[number]
        upper.segment_pages[number] = pages[INDEX_GROUP_SEGMENTS_MIN + number]
    group_write(area, shard, &lower, 2 * shard.growth_prefix)
    group_write(area, shard, &upper, 2 * shard.growth_prefix + 1)

cdef void group_finish(char* area, IndexShard* shard, const GroupRebuild* rebuild) noexcept nogil:
    """Go on with the growth that the shard notes, from the step where it is."""
    cdef uint32_t kept = shard.growth_step - 1
    cdef uint32_t page = shard.growth_group.segment_pages[0]
    while kept > 0:
        memcpy(page_at(area, shard.growth_group.segment_pages[kept]),
               rebuild.segments + (kept - 1) * INDEX_SEGMENT_WORDS, INDEX_SEGMENT_BYTES)
        ec_order()
        shard.growth_step = kept
        ec_order()
        kept -= 1
    group_switch(area, shard)
    ec_order()
    shard.growth_step = 0
    ec_order()
    memset(&shard.growth_group, 0, sizeof(IndexGroup))
    shard.growth_prefix = 0
    shard.growth_pages[0] = shard.growth_pages[1] = 0
    shard.grow_count += 1
    pages_give(area, shard, page, 1)

cdef void group_commit(char* area, IndexShard* shard, const IndexGroup* group, uint64_t prefix,
                       const GroupRebuild* rebuild, const uint32_t* pages_new) noexcept nogil:
    """Replace a group by its rebuilt form. All pages and overflow nodes are at hand.

    The two last of the new segments (s - 1 and s, where the old ones are 0 to s - 1) get the new
    pages; then new segment k - 1 is written over old segment k, for k from s - 1 down to 1; old
    segment 0 is free in the end. All entries of old segment k stand in the new segments k and
    k + 1 by then, which are complete. growth_step - 1 is the k of which holds: every entry stands
    in the old segments below k or in the new ones from k on.
    """
    cdef uint32_t segment_count = <uint32_t>group.segment_count + 1
    cdef uint32_t number
    for number in range(2):
        memcpy(page_at(area, pages_new[number]),
               rebuild.segments + (segment_count - 2 + number) * INDEX_SEGMENT_WORDS,
               INDEX_SEGMENT_BYTES)
    # Before the first of these leaves its old place.
    for number in range(rebuild.left_count):
        overflow_add(area, shard, rebuild.left_keys[number], rebuild.left_items[number])
    shard.growth_group = group[0]
    shard.growth_prefix = <uint32_t>prefix
    shard.growth_pages[0] = pages_new[0]
    shard.growth_pages[1] = pages_new[1]
    ec_order()
    shard.growth_step = group.segment_count
    ec_order()
    group_finish(area, shard, rebuild)
    if rebuild.has_overflow or rebuild.left_count > 0:
        overflow_settle(area, shard, prefix, group.depth)

cdef bint group_grow(char* area, IndexShard* shard, uint64_t tag) noexcept nogil:
    """Give the group of `tag` a segment more, or split it; False if it fails or does not pay."""
    cdef GroupRebuild rebuild
    cdef IndexGroup group = index_group(area, shard, tag << 42)[0]
    cdef uint64_t prefix = tag >> (INDEX_TAG_BITS - group.depth)
    cdef uint32_t pages_new[2]
    if shard.free_page_count + pages_behind(shard) < 2:
        return False
    if group.segment_count == INDEX_GROUP_SEGMENTS_MAX and group.depth == INDEX_DEPTH_MAX:
        return False
    rebuild_fill(&rebuild, area, &group, <uint32_t>group.segment_count + 1)
    if not rebuild_pays(&rebuild, &group):
        return False
    if group.segment_count == INDEX_GROUP_SEGMENTS_MAX and group.depth == shard.depth:
        if not directory_double(area, shard):
            return False
    if rebuild.left_count > 0 and not overflow_reserve(area, shard, rebuild.left_count):
        return False
    pages_new[0] = pages_take(area, shard, 1)
    pages_new[1] = pages_take(area, shard, 1)
    if pages_new[1] == INDEX_NONE:
        if pages_new[0] != INDEX_NONE:
            pages_give(area, shard, pages_new[0], 1)
        return False
    group_commit(area, shard, &group, prefix, &rebuild, pages_new)
    return True

cdef bint growth_is_sane(const IndexShard* shard) noexcept nogil:
    """Is what the shard notes a growth of a group of its directory, with pages of its prefix?"""
    cdef const IndexGroup* group = &shard.growth_group
    cdef uint64_t page_total = shard.area_used_bytes >> 12
    cdef uint32_t number
    if not INDEX_GROUP_SEGMENTS_MIN <= group.segment_count <= INDEX_GROUP_SEGMENTS_MAX or (
            shard.growth_step > group.segment_count or group.depth > shard.depth
            or shard.growth_prefix >> group.depth
            or shard.growth_pages[0] >= page_total or shard.growth_pages[1] >= page_total):
        return False
    if group.segment_count == INDEX_GROUP_SEGMENTS_MAX and group.depth == shard.depth:
        return False
    for number in range(group.segment_count):
        if group.segment_pages[number] >= page_total:
            return False
    return True

cdef bint index_resume(char* base, IndexShard* shard) noexcept nogil:
    cdef GroupRebuild rebuild
    cdef char* area = index_area(base, shard)
    cdef uint64_t place = shard.replace_place >> 8
    cdef uint64_t* bucket
    if shard.replace_word != 0:
        if place & 7 or (place >> 3) & 7 == 7 or place >= shard.area_used_bytes:
            return False
        bucket = <uint64_t*>(area + (place >> 6 << 6))
        bucket_infos(bucket)[(place >> 3) & 7] = <uint8_t>shard.replace_place
        bucket[(place >> 3) & 7] = shard.replace_word
        ec_order()
        shard.replace_word = 0
    ec_order()
    shard.replace_place = 0
    if shard.growth_step != 0:
        if not growth_is_sane(shard):
            return False
        # What this does not place is in the overflow table already.
        rebuild_fill(&rebuild, area, &shard.growth_group, shard.growth_step - 1)
        group_finish(area, shard, &rebuild)
    memset(&shard.growth_group, 0, sizeof(IndexGroup))
    shard.growth_prefix = 0
    shard.growth_pages[0] = shard.growth_pages[1] = 0
    return True


# ---- layout ----------------------------------------------------------------------------------

cdef uint64_t index_area_bytes(uint64_t object_count_max) noexcept nogil:
    # At worst 14 bytes per object (4 of 5 segments after a growth, docs/adr/0001); the rest is for
    # uneven groups, a directory that is being moved, and the smallest shard.
    return ((object_count_max * 18 + 4095) >> 12 << 12) + (<uint64_t>1 << 18)

cdef Status shard_lay_out(char* area, IndexShard* shard) noexcept nogil:
    """Build an empty shard from initial_depth and initial_segment_count."""
    cdef uint32_t group_count = <uint32_t>1 << shard.initial_depth
    cdef uint32_t segment_count = shard.initial_segment_count
    cdef uint32_t directory_page_count = directory_pages(shard.initial_depth)
    cdef uint64_t page_count = directory_page_count + 1 + (
        <uint64_t>group_count * segment_count)
    cdef IndexGroup* group
    cdef uint32_t page = directory_page_count + 1
    cdef uint32_t number, segment
    if page_count << 12 > shard.area_size_bytes:
        return STATUS_INVALID
    shard.growth_step = INDEX_GROWTH_CLEARING
    ec_order()
    shard.area_used_bytes = page_count << 12
    shard.object_count = shard.overflow_count = 0
    shard.depth = shard.initial_depth
    shard.directory_page = 0
    shard.directory_page_count = directory_page_count
    shard.free_page_head = INDEX_NONE
    shard.free_page_count = 0
    shard.overflow_page = directory_page_count
    shard.overflow_page_count = 1
    overflow_clear(area, shard)
    memset(area, 0, <uint64_t>directory_page_count << 12)
    memset(page_at(area, page), 0, <uint64_t>(page_count - page) << 12)
    for number in range(group_count):
        group = <IndexGroup*>area + number
        group.segment_count = <uint8_t>segment_count
        group.depth = <uint8_t>shard.initial_depth
        for segment in range(segment_count):
            group.segment_pages[segment] = page
            page += 1
    ec_order()
    shard.growth_step = 0
    return STATUS_OK

cdef Status index_init(char* base, IndexShard* shard, uint64_t area_offset,
                       uint64_t area_size_bytes, uint64_t object_count_expected) noexcept nogil:
    cdef uint64_t segment_total
    EC_INDEX_STATIC_ASSERT(sizeof(IndexShard) == 184)
    EC_INDEX_STATIC_ASSERT(sizeof(IndexGroup) == INDEX_GROUP_BYTES)
    EC_INDEX_STATIC_ASSERT(sizeof(OverflowNode) == 16)
    memset(shard, 0, sizeof(IndexShard))
    # A page number fits 32 bits, with INDEX_NONE to spare.
    if area_offset & 4095 or area_size_bytes >> 44:
        return STATUS_INVALID
    shard.area_offset = area_offset
    shard.area_size_bytes = area_size_bytes
    # 400 of 448 slots: what a segment holds on average before it meets its first failed insert.
    segment_total = (object_count_expected + 399) // 400
    shard.initial_segment_count = INDEX_GROUP_SEGMENTS_MIN
    while (<uint64_t>shard.initial_segment_count << shard.initial_depth) < segment_total:
        if shard.initial_segment_count < INDEX_GROUP_SEGMENTS_MAX:
            shard.initial_segment_count += 1
        elif shard.initial_depth < INDEX_DEPTH_MAX:
            shard.initial_depth += 1
            shard.initial_segment_count = INDEX_GROUP_SEGMENTS_MIN
        else:
            return STATUS_INVALID
    return shard_lay_out(index_area(base, shard), shard)

cdef void index_clear(char* base, IndexShard* shard) noexcept nogil:
    # It fitted at index_init and the area has not shrunk since.
    shard_lay_out(index_area(base, shard), shard)


# ---- operations ------------------------------------------------------------------------------

cdef bint index_next_overflow(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t key = overflow_key(cursor.hash >> 42, index_bucket_number(cursor.hash))
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint32_t number = cursor.node_next
    if cursor.state == INDEX_CURSOR_END:
        return False
    if cursor.state != INDEX_CURSOR_OVERFLOW:
        cursor.state = INDEX_CURSOR_OVERFLOW
        number = overflow_heads(area, shard)[overflow_head_number(shard, key)]
    while number != INDEX_NONE and shard.overflow_count != 0:
        if nodes[number].key_next >> 36 == key:
            cursor_read_node(&nodes[number], number, cursor)
            return True
        number = <uint32_t>nodes[number].key_next
    cursor.state = INDEX_CURSOR_END
    return False

cdef inline void cursor_read_node(const OverflowNode* node, uint32_t number,
                                  IndexCursor* cursor) noexcept nogil:
    cursor.node = number
    # Kept apart so that the walk goes on when the caller erases the current entry.
    cursor.node_next = <uint32_t>node.key_next
    cursor.location = slot_location(node.item)
    cursor.frequency = <uint8_t>(node.item >> 48)
    cursor.size_class = <uint8_t>(node.item >> 40) & INDEX_SIZE_CLASS_MAX
    cursor.is_ram = <uint8_t>(node.item >> 47) & 1

cdef bint index_find(char* base, IndexShard* shard, uint64_t hash, uint64_t location, bint is_ram,
                     IndexCursor* cursor) noexcept nogil:
    index_seek(base, shard, hash, cursor)
    while index_next(base, shard, cursor):
        if cursor.location == location and cursor.is_ram == is_ram:
            return True
    return False

cdef Status insert_crowded(char* area, IndexShard* shard, uint64_t word, uint32_t bucket_number,
                           uint8_t info) noexcept nogil:
    """Insert where the segment has no place: grow as long as that helps, else use the overflow."""
    cdef uint64_t tag = slot_tag(word)
    cdef uint64_t key = overflow_key(tag, bucket_number)
    cdef uint64_t* segment
    while True:
        segment = index_segment(area, index_group(area, shard, tag << 42), tag)
        if segment_place(segment, bucket_number, word, info):
            shard.object_count += 1
            return STATUS_OK
        # A few entries of one bucket pair do not make a segment full: growing would be in vain.
        if segment_used_count(segment) < INDEX_SEGMENT_SLOTS * 3 // 4:
            break
        # Overflow in a full segment: growth was refused here before. An attempt costs as much as
        # some fifty inserts, so only every RETRY_INTERVAL-th insert makes one.
        if segment_has_overflow(segment):
            shard.crowded_count += 1
            if shard.crowded_count % RETRY_INTERVAL != 0:
                break
        if not group_grow(area, shard, tag):
            break
    if not overflow_reserve(area, shard, 1):
        return STATUS_NO_MEMORY
    overflow_add(area, shard, key, overflow_item(word, info))
    bucket_overflow_add(overflow_bucket(area, shard, key))
    shard.object_count += 1
    return STATUS_OK

cdef Status index_insert(char* base, IndexShard* shard, uint64_t hash, uint64_t location,
                         uint8_t size_class, bint is_ram, uint8_t frequency) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t tag = hash >> 42
    cdef uint32_t bucket_number = index_bucket_number(hash)
    cdef uint64_t word = slot_make(tag, location, frequency)
    cdef uint8_t info = <uint8_t>((is_ram << 7) | size_class)
    if location == 0 or location >> INDEX_LOCATION_BITS or (
            size_class > INDEX_SIZE_CLASS_MAX or frequency > INDEX_FREQUENCY_MAX):
        return STATUS_INVALID
    if segment_place(index_segment(area, index_group(area, shard, hash), tag), bucket_number,
                     word, info):
        shard.object_count += 1
        return STATUS_OK
    return insert_crowded(area, shard, word, bucket_number, info)

cdef void index_replace(char* base, IndexShard* shard, IndexCursor* cursor, uint64_t location,
                        uint8_t size_class, bint is_ram) noexcept nogil:
    cdef uint8_t info = <uint8_t>((is_ram << 7) | size_class)
    cdef uint64_t* bucket
    cdef uint64_t word
    cdef OverflowNode* node
    if EDGECACHE_DEBUG:
        ec_assert(location != 0 and location >> INDEX_LOCATION_BITS == 0, "index: location")
        ec_assert(size_class <= INDEX_SIZE_CLASS_MAX, "index: size class")
    if cursor.state == INDEX_CURSOR_OVERFLOW:
        node = overflow_nodes(index_area(base, shard), shard) + cursor.node
        node.item = (<uint64_t>cursor.frequency << 48) | (<uint64_t>info << 40) | location
    else:
        bucket = cursor.buckets[cursor.state]
        word = (bucket[cursor.slot] >> INDEX_LOCATION_BITS << INDEX_LOCATION_BITS) | location
        if bucket_infos(bucket)[cursor.slot] == info:
            bucket[cursor.slot] = word
        else:
            # No store covers both: noted first, so that a death between the two is mended.
            shard.replace_place = <uint64_t>(<char*>&bucket[cursor.slot]
                                             - index_area(base, shard)) << 8 | info
            ec_store_u64(&shard.replace_word, word)
            ec_order()
            bucket_infos(bucket)[cursor.slot] = info
            bucket[cursor.slot] = word
            ec_order()
            shard.replace_word = 0
            ec_store_u64(&shard.replace_place, 0)
    cursor.location = location
    cursor.size_class = size_class
    cursor.is_ram = is_ram

cdef void index_erase(char* base, IndexShard* shard, IndexCursor* cursor) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t key
    if cursor.state == INDEX_CURSOR_OVERFLOW:
        key = overflow_nodes(area, shard)[cursor.node].key_next >> 36
        bucket_overflow_remove(overflow_bucket(area, shard, key))
        overflow_remove(area, shard, cursor.node)
    else:
        bucket_clear(cursor.buckets[cursor.state], cursor.slot)
    shard.object_count -= 1

cdef void index_set_frequency(char* base, IndexShard* shard, IndexCursor* cursor,
                              uint8_t frequency) noexcept nogil:
    cdef uint64_t* word
    if EDGECACHE_DEBUG:
        ec_assert(frequency <= INDEX_FREQUENCY_MAX, "index: frequency")
    if cursor.state == INDEX_CURSOR_OVERFLOW:
        word = &overflow_nodes(index_area(base, shard), shard)[cursor.node].item
        word[0] = (word[0] & 0xffffffffffffULL) | (<uint64_t>frequency << 48)
    else:
        word = cursor.buckets[cursor.state] + cursor.slot
        word[0] = (word[0] << 2 >> 2) | (<uint64_t>frequency << 62)
    cursor.frequency = frequency


# ---- scan ------------------------------------------------------------------------------------
#
# position in the segments: | directory entry at depth 16 | segment 3 | bucket 6 | slot 3 |
# position in the overflow: | 1 << 63 | node |

cdef enum:
    SCAN_GROUP_SHIFT = 12
    SCAN_OVERFLOW_SHIFT = 63

cdef bint index_scan(char* base, IndexShard* shard, uint64_t* position,
                     IndexCursor* cursor) noexcept nogil:
    cdef char* area = index_area(base, shard)
    cdef uint64_t place = position[0]
    cdef uint64_t tag, word
    cdef uint64_t* bucket
    cdef uint32_t segment, slot
    cdef IndexGroup* group
    while place >> (SCAN_GROUP_SHIFT + INDEX_DEPTH_MAX) == 0:
        # Positions name the first tag of a group, so they outlive splits and a doubled directory.
        tag = place >> SCAN_GROUP_SHIFT << (INDEX_TAG_BITS - INDEX_DEPTH_MAX)
        group = index_group(area, shard, tag << 42)
        segment = <uint32_t>(place >> 9) & 7
        slot = <uint32_t>place & 7
        if segment >= group.segment_count:
            place = ((place >> (SCAN_GROUP_SHIFT + INDEX_DEPTH_MAX - group.depth)) + 1) << (
                SCAN_GROUP_SHIFT + INDEX_DEPTH_MAX - group.depth)
            continue
        bucket = <uint64_t*>page_at(area, group.segment_pages[segment]) + (
            ((place >> 3) & 63) * INDEX_BUCKET_WORDS)
        while slot < INDEX_BUCKET_SLOTS and bucket[slot] == 0:
            slot += 1
        place = place >> 3 << 3
        if slot == INDEX_BUCKET_SLOTS:
            place += 8
            continue
        position[0] = place + slot + 1
        word = bucket[slot]
        cursor.state = INDEX_CURSOR_FIRST
        cursor.matches = 0
        cursor.buckets[0] = cursor.buckets[1] = bucket
        cursor.slot = slot
        cursor.hash = slot_tag(word) << 42
        cursor.location = slot_location(word)
        cursor.frequency = slot_frequency(word)
        cursor.size_class = bucket_infos(bucket)[slot] & INDEX_SIZE_CLASS_MAX
        cursor.is_ram = bucket_infos(bucket)[slot] >> 7
        return True
    if place >> SCAN_OVERFLOW_SHIFT == 0:
        place = <uint64_t>1 << SCAN_OVERFLOW_SHIFT
    return scan_overflow(area, shard, place, position, cursor)

cdef bint scan_overflow(char* area, IndexShard* shard, uint64_t place, uint64_t* position,
                        IndexCursor* cursor) noexcept nogil:
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint64_t number = place << 1 >> 1
    while number < shard.overflow_node_count and nodes[number].item == 0:
        number += 1
    if number >= shard.overflow_node_count:
        position[0] = place
        cursor.state = INDEX_CURSOR_END
        return False
    position[0] = (<uint64_t>1 << SCAN_OVERFLOW_SHIFT) + number + 1
    cursor.state = INDEX_CURSOR_OVERFLOW
    cursor.hash = nodes[number].key_next >> 42 << 42
    cursor_read_node(&nodes[number], <uint32_t>number, cursor)
    return True
