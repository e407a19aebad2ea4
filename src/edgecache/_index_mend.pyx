"""Mending an index (see _index_mend.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._index cimport IndexCursor, IndexShard, index_area, index_check, index_scan
from edgecache._index_bucket cimport (
    INDEX_BUCKET_SLOTS,
    INDEX_BUCKET_WORDS,
    INDEX_SEGMENT_BUCKETS,
    IndexGroup,
    bucket_infos,
)

cdef enum:
    BROKEN_INFO = 4                 # numbers of invariants of _index.pyx
    BROKEN_COUNT = 7


cdef void _clear_infos(char* base, IndexShard* shard) noexcept nogil:
    """The info byte of a free slot is 0: a slot that was being set, or cleared, is free."""
    cdef char* area = index_area(base, shard)
    cdef IndexGroup* entries = <IndexGroup*>(area + (<uint64_t>shard.directory_page << 12))
    cdef uint64_t* bucket
    cdef uint64_t entry
    cdef uint32_t segment, number, slot
    for entry in range(<uint64_t>1 << shard.depth):
        for segment in range(entries[entry].segment_count):
            for number in range(INDEX_SEGMENT_BUCKETS):
                bucket = <uint64_t*>(area + (<uint64_t>entries[entry].segment_pages[segment]
                                             << 12)) + number * INDEX_BUCKET_WORDS
                for slot in range(INDEX_BUCKET_SLOTS):
                    if bucket[slot] == 0:
                        bucket_infos(bucket)[slot] = 0


cdef void _recount(char* base, IndexShard* shard) noexcept nogil:
    cdef IndexCursor cursor
    cdef uint64_t position = 0, count = 0
    while index_scan(base, shard, &position, &cursor):
        count += 1
    shard.object_count = count


cdef bint index_mend(char* base, IndexShard* shard) noexcept nogil:
    cdef int broken
    if shard.is_restructuring:
        return False
    broken = index_check(base, shard)
    if broken == BROKEN_INFO:
        _clear_infos(base, shard)
        broken = index_check(base, shard)
    if broken == BROKEN_COUNT:
        _recount(base, shard)
        broken = index_check(base, shard)
    return broken == 0
