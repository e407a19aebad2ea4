"""Mending an index (see _index_mend.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from edgecache._index cimport (
    INDEX_GROWTH_CLEARING,
    IndexShard,
    index_area,
    index_clear,
    index_resume,
    overflow_relink,
)
from edgecache._index_bucket cimport (
    INDEX_BUCKET_SLOTS,
    INDEX_BUCKET_WORDS,
    INDEX_SEGMENT_BUCKETS,
    IndexGroup,
    OverflowNode,
    bucket_clear,
    bucket_infos,
    bucket_match,
    bucket_overflow_add,
    bucket_step,
    overflow_word,
    slot_tag,
)
from edgecache._index_check cimport (
    Census,
    census_claim,
    census_directory,
    index_check,
    index_check_header,
)
from edgecache._index_pages cimport (
    INDEX_NONE,
    directory_pages,
    overflow_bucket,
    overflow_nodes,
    page_at,
)

cdef extern from *:
    int __builtin_ctz(unsigned int x) noexcept nogil


cdef bint _bucket_has(uint64_t* bucket, uint64_t word, uint8_t info) noexcept nogil:
    cdef uint32_t matches = bucket_match(bucket, slot_tag(word))
    cdef uint32_t slot
    while matches:
        slot = <uint32_t>__builtin_ctz(matches)
        matches &= matches - 1
        if bucket[slot] == word and bucket_infos(bucket)[slot] == info:
            return True
    return False


cdef uint64_t _mend_segment(uint64_t* segment) noexcept nogil:
    """Free slots have no info, no entry is in both its buckets, nothing is in the overflow table.

    Returns: the number of entries.
    """
    cdef uint32_t number, other, slot
    cdef uint64_t* bucket
    cdef uint64_t word, count = 0
    for number in range(INDEX_SEGMENT_BUCKETS):
        bucket = segment + number * INDEX_BUCKET_WORDS
        bucket_infos(bucket)[INDEX_BUCKET_SLOTS] = 0
        for slot in range(INDEX_BUCKET_SLOTS):
            word = bucket[slot]
            if word == 0:
                bucket_infos(bucket)[slot] = 0
                continue
            other = number ^ bucket_step(slot_tag(word))
            # Later buckets have not been looked at: the copy that goes is counted by nobody.
            if other > number and _bucket_has(segment + other * INDEX_BUCKET_WORDS, word,
                                              bucket_infos(bucket)[slot]):
                bucket_clear(bucket, slot)
                continue
            count += 1
    return count


cdef uint64_t _mend_segments(char* area, IndexShard* shard) noexcept nogil:
    cdef IndexGroup* entries = <IndexGroup*>page_at(area, shard.directory_page)
    cdef uint64_t entry = 0, count = 0
    cdef uint32_t number
    while entry < <uint64_t>1 << shard.depth:
        for number in range(entries[entry].segment_count):
            count += _mend_segment(<uint64_t*>page_at(area, entries[entry].segment_pages[number]))
        entry += <uint64_t>1 << (shard.depth - entries[entry].depth)
    return count


cdef uint64_t _mend_overflow(char* area, IndexShard* shard) noexcept nogil:
    """Nodes are entries that no segment has; chains and counters follow from them."""
    cdef OverflowNode* nodes = overflow_nodes(area, shard)
    cdef uint32_t number
    cdef uint64_t key, word, count = 0
    cdef uint64_t* bucket
    cdef uint64_t* segment
    for number in range(shard.overflow_node_count):
        if nodes[number].item == 0:
            continue
        key = nodes[number].key_next >> 36
        word = overflow_word(key, nodes[number].item)
        bucket = overflow_bucket(area, shard, key)
        segment = bucket - (key & 63) * INDEX_BUCKET_WORDS
        if _bucket_has(bucket, word, <uint8_t>(nodes[number].item >> 40)) or _bucket_has(
                segment + ((key & 63) ^ bucket_step(slot_tag(word))) * INDEX_BUCKET_WORDS, word,
                <uint8_t>(nodes[number].item >> 40)):
            nodes[number].item = 0
            continue
        bucket_overflow_add(bucket)
        count += 1
    overflow_relink(area, shard)
    return count


cdef bint _mend_pages(char* area, IndexShard* shard) noexcept nogil:
    """What nothing refers to is free."""
    cdef Census census
    cdef uint64_t page
    cdef bint is_whole
    memset(&census, 0, sizeof(census))
    census.page_total = shard.area_used_bytes >> 12
    census.is_claimed = <uint8_t*>calloc(census.page_total, 1)
    if census.is_claimed == NULL:
        return False
    is_whole = census_claim(&census, shard.directory_page, shard.directory_page_count) and \
        census_claim(&census, shard.overflow_page, shard.overflow_page_count) and \
        census_directory(area, shard, &census) == 0
    if is_whole:
        shard.free_page_head = INDEX_NONE
        shard.free_page_count = 0
        for page in range(census.page_total, 0, -1):
            if not census.is_claimed[page - 1]:
                (<uint32_t*>page_at(area, <uint32_t>(page - 1)))[0] = shard.free_page_head
                shard.free_page_head = <uint32_t>(page - 1)
                shard.free_page_count += 1
    free(census.is_claimed)
    return is_whole


cdef bint index_mend(char* base, IndexShard* shard) noexcept nogil:
    cdef char* area = index_area(base, shard)
    if shard.growth_step == INDEX_GROWTH_CLEARING:
        index_clear(base, shard)
        return index_check(base, shard) == 0
    # A directory and its depth change in one store, its size after it.
    if shard.depth < 32:
        shard.directory_page_count = directory_pages(shard.depth)
    if not index_check_header(shard) or not index_resume(base, shard):
        return False
    if not _mend_pages(area, shard):
        return False
    shard.object_count = _mend_segments(area, shard)
    shard.overflow_count = _mend_overflow(area, shard)
    shard.object_count += shard.overflow_count
    return index_check(base, shard) == 0
