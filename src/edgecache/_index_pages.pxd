"""Kernel: where the pages of an index lie, and the geometry of its overflow table.

The table is chained hashing in one run of pages: all nodes, then all heads. A node keeps what a
slot knows (tag and pair of buckets), so entries can go both ways between table and segments. A node
is in use when its item is not 0: chains, free list and counts follow from the nodes.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._index cimport IndexShard, index_group, index_segment
from edgecache._index_bucket cimport INDEX_BUCKET_WORDS, OverflowNode, overflow_spread

cdef enum:
    INDEX_NONE = 0xffffffff             # no page, no node
    INDEX_GROUP_BYTES = 32
    # One page of the overflow table: 204 nodes of 16 bytes and as many chain heads of 4.
    INDEX_OVERFLOW_PAGE_NODES = 204


cdef inline char* page_at(char* area, uint32_t page) noexcept nogil:
    return area + (<uint64_t>page << 12)

cdef inline uint32_t directory_pages(uint32_t depth) noexcept nogil:
    return <uint32_t>(((<uint64_t>INDEX_GROUP_BYTES << depth) + 4095) >> 12)

cdef inline uint32_t overflow_capacity(const IndexShard* shard) noexcept nogil:
    return shard.overflow_page_count * INDEX_OVERFLOW_PAGE_NODES

cdef inline OverflowNode* overflow_nodes(char* area, const IndexShard* shard) noexcept nogil:
    return <OverflowNode*>page_at(area, shard.overflow_page)

cdef inline uint32_t* overflow_heads(char* area, const IndexShard* shard) noexcept nogil:
    return <uint32_t*>(overflow_nodes(area, shard) + overflow_capacity(shard))

cdef inline uint32_t overflow_head_number(const IndexShard* shard, uint64_t key) noexcept nogil:
    return overflow_spread(key, overflow_capacity(shard))

cdef inline uint64_t* overflow_bucket(char* area, const IndexShard* shard,
                                      uint64_t key) noexcept nogil:
    """Return the bucket that counts the entries with this key."""
    return index_segment(area, index_group(area, shard, key << 36), key >> 6) + (
        (key & 63) * INDEX_BUCKET_WORDS)
