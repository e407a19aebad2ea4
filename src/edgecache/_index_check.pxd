"""Are the invariants of an index true (listed in _index.pyx)? For tests, openings and repairs."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edgecache._index cimport IndexShard

cdef struct Census:
    uint64_t page_total
    uint64_t slot_count                 # slots in use
    uint64_t node_count                 # overflow nodes in use
    uint8_t* is_claimed                 # per page
    uint32_t* overflow_counts           # per bucket of the prefix

# 0 when every invariant holds, else the number of the broken one; -1 when there was no memory to
# check (1 byte per page, 4 per bucket). Reads nothing outside the prefix, whatever the bytes are.
# O(everything).
cdef int index_check(char* base, IndexShard* shard) noexcept nogil

# For index_mend. All runs of pages within the prefix and all sizes within their bounds?
cdef bint index_check_header(const IndexShard* shard) noexcept nogil
# Take a run of pages that nobody else has taken; False if it is not inside, or taken.
cdef bint census_claim(Census* census, uint64_t page, uint64_t count) noexcept nogil
# 0, or what is wrong with the directory; all its segments are claimed then.
cdef int census_directory(char* area, const IndexShard* shard, Census* census) noexcept nogil
