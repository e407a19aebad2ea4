"""Kernel: S3-FIFO. `lists[0]` is the small queue (10 % of the bytes), `lists[1]` the main queue.

New nodes enter the small queue, or the main one when a ghost remembers them. A node that leaves the
small queue with two hits or more moves to main, otherwise it is the victim and becomes a ghost. A
node at main's tail that was hit goes round again with one hit less. Hits only count, up to 3, so
a hit writes at most three times in a node's life in a queue.

Until the first eviction the small queue is not overfilled: what does not fit goes to main.

Invariants:
1. `frequency` is at most 3.
2. The ghosts remember no more bytes than main's share.

Source: J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1
and section 4.2 (sizes of queues); the threshold of two hits and the filling of main before the
first eviction as in the authors' simulator, libCacheSim.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edgecache._evict_ghost cimport GhostQueue, ghost_init, ghost_push, ghost_take, ghost_trim
from edgecache._evict_state cimport (
    EvictState,
    evict_hash_function,
    evict_move,
    evict_node,
    evict_push,
    evict_unlink,
)
from edgecache._list cimport EvictList, EvictNode

cdef enum:
    S3FIFO_SMALL = 0
    S3FIFO_MAIN = 1
    S3FIFO_FREQUENCY_MAX = 3
    S3FIFO_PROMOTE_FREQUENCY = 2
    S3FIFO_SMALL_DIVISOR = 10

cdef struct S3FifoState:
    GhostQueue ghost
    uint64_t small_bytes            # the small queue's share of the capacity
    uint64_t main_bytes
    uint64_t has_evicted


cdef inline S3FifoState* s3fifo_state(EvictState* state) noexcept nogil:
    return <S3FifoState*>state.private_state


cdef inline void s3fifo_set_capacity(char* base, EvictState* state) noexcept nogil:
    cdef S3FifoState* s3fifo = s3fifo_state(state)
    s3fifo.small_bytes = state.capacity_bytes // S3FIFO_SMALL_DIVISOR
    s3fifo.main_bytes = state.capacity_bytes - s3fifo.small_bytes
    ghost_trim(base, &s3fifo.ghost, s3fifo.main_bytes)


cdef inline void s3fifo_init(char* base, EvictState* state) noexcept nogil:
    ghost_init(base, &s3fifo_state(state).ghost, state.area_offset, state.area_size_bytes)
    s3fifo_set_capacity(base, state)


cdef inline void s3fifo_insert(char* base, EvictState* state, uint32_t reference,
                               uint64_t hash) noexcept nogil:
    cdef S3FifoState* s3fifo = s3fifo_state(state)
    evict_node(base, state, reference).frequency = 0
    if ghost_take(base, &s3fifo.ghost, hash):
        evict_push(base, state, S3FIFO_MAIN, reference)
    elif not s3fifo.has_evicted \
            and state.lists[S3FIFO_SMALL].size_bytes >= s3fifo.small_bytes:
        evict_push(base, state, S3FIFO_MAIN, reference)
    else:
        evict_push(base, state, S3FIFO_SMALL, reference)


cdef inline void s3fifo_hit(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    cdef EvictNode* node = evict_node(base, state, reference)
    if node.frequency < S3FIFO_FREQUENCY_MAX:
        node.frequency += 1


cdef inline uint32_t s3fifo_victim_small(char* base, EvictState* state,
                                         evict_hash_function node_hash,
                                         void* context) noexcept nogil:
    """Promote or choose from the small queue's tail; 0 when it holds pinned nodes only, or none."""
    cdef S3FifoState* s3fifo = s3fifo_state(state)
    cdef EvictList* small = &state.lists[S3FIFO_SMALL]
    cdef uint64_t left = small.count
    cdef uint32_t reference
    cdef EvictNode* node
    while left > 0:
        left -= 1
        reference = small.tail
        node = evict_node(base, state, reference)
        if node.pins != 0:
            evict_move(base, state, S3FIFO_SMALL, reference)
        elif node.frequency >= S3FIFO_PROMOTE_FREQUENCY:
            node.frequency = 0
            evict_move(base, state, S3FIFO_MAIN, reference)
        else:
            evict_unlink(base, state, reference)
            ghost_push(base, &s3fifo.ghost, node_hash(context, reference), node.size_bytes,
                       s3fifo.main_bytes)
            return reference
    return 0


cdef inline uint32_t s3fifo_victim_main(char* base, EvictState* state) noexcept nogil:
    """Choose from the main queue's tail; 0 when every node in it is pinned, or none is there."""
    cdef EvictList* main = &state.lists[S3FIFO_MAIN]
    cdef uint64_t pinned_count = 0
    cdef uint32_t reference
    cdef EvictNode* node
    # Ends: each unpinned node passed loses a hit, of at most 3, and a full round of pinned
    # nodes in a row gives up.
    while pinned_count < main.count:
        reference = main.tail
        node = evict_node(base, state, reference)
        if node.pins != 0:
            pinned_count += 1
        elif node.frequency != 0:
            node.frequency -= 1
            pinned_count = 0
        else:
            evict_unlink(base, state, reference)
            return reference
        evict_move(base, state, S3FIFO_MAIN, reference)
    return 0


cdef inline uint32_t s3fifo_victim(char* base, EvictState* state, evict_hash_function node_hash,
                                   void* context) noexcept nogil:
    cdef S3FifoState* s3fifo = s3fifo_state(state)
    cdef uint32_t reference
    s3fifo.has_evicted = 1
    if state.lists[S3FIFO_MAIN].size_bytes > s3fifo.main_bytes:
        reference = s3fifo_victim_main(base, state)
        if reference == 0:
            reference = s3fifo_victim_small(base, state, node_hash, context)
        # Small may have promoted all it had, so main can have an unpinned node now.
        return reference if reference != 0 else s3fifo_victim_main(base, state)
    reference = s3fifo_victim_small(base, state, node_hash, context)
    return reference if reference != 0 else s3fifo_victim_main(base, state)


cdef inline uint32_t s3fifo_foresee(EvictState* state) noexcept nogil:
    """The queue that s3fifo_victim will look at first, and in it the oldest node."""
    if state.lists[S3FIFO_MAIN].size_bytes > s3fifo_state(state).main_bytes \
            or state.lists[S3FIFO_SMALL].count == 0:
        return state.lists[S3FIFO_MAIN].tail
    return state.lists[S3FIFO_SMALL].tail


cdef inline int s3fifo_check(char* base, EvictState* state) noexcept nogil:
    cdef uint32_t reference
    cdef int index
    for index in range(2):
        reference = state.lists[index].head
        while reference != 0:
            if evict_node(base, state, reference).frequency > S3FIFO_FREQUENCY_MAX:
                return 1
            reference = evict_node(base, state, reference).next
    return 2 if s3fifo_state(state).ghost.size_bytes > s3fifo_state(state).main_bytes else 0
