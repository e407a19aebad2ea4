"""Kernel: LRU. `lists[0]` in order of last use.

Source: R. Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal
9(2),
1970.
"""

from libc.stdint cimport uint32_t

from edgecache._evict_state cimport (
    EvictState,
    evict_move,
    evict_oldest_unpinned,
    evict_push,
    evict_unlink,
)


cdef inline void lru_insert(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    evict_push(base, state, 0, reference)


cdef inline void lru_hit(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    evict_move(base, state, 0, reference)


cdef inline uint32_t lru_victim(char* base, EvictState* state) noexcept nogil:
    cdef uint32_t reference = evict_oldest_unpinned(base, state, 0)
    if reference != 0:
        evict_unlink(base, state, reference)
    return reference
