"""What the eviction policies share: the state, its lists and how a policy reaches its nodes.

`lists[i]` is the policy's queue number i + 1. Which lists a policy uses is said at the top of its
file; `private_state` is overlaid by the policy's own struct.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._list cimport (
    EvictList,
    EvictNode,
    list_move_front,
    list_node,
    list_push_front,
    list_remove,
)

cdef enum EvictKind:
    EVICT_S3FIFO = 0
    EVICT_LRU = 1
    EVICT_ARC = 2
    EVICT_SIEVE = 3
    EVICT_WTINYLFU = 4

ctypedef uint64_t (*evict_hash_function)(void* context, uint32_t reference) noexcept nogil

cdef struct EvictState:             # in the arena
    uint64_t nodes_offset           # reference 0 of the nodes, from the arena base
    uint32_t granule_bytes
    uint32_t kind
    uint64_t capacity_bytes         # of the queues' proportions; the caller keeps the budget
    uint64_t size_bytes             # sum over all nodes in lists
    uint64_t count
    EvictList lists[4]
    uint64_t area_offset            # ghosts and sketches, from the arena base
    uint64_t area_size_bytes
    uint64_t private_state[32]


cdef inline EvictNode* evict_node(char* base, const EvictState* state,
                                  uint32_t reference) noexcept nogil:
    return list_node(base + state.nodes_offset, state.granule_bytes, reference)


cdef inline void evict_push(char* base, EvictState* state, int index,
                            uint32_t reference) noexcept nogil:
    """Link at the head of `lists[index]`."""
    evict_node(base, state, reference).queue = <unsigned char>(index + 1)
    list_push_front(base + state.nodes_offset, state.granule_bytes, &state.lists[index], reference)


cdef inline void evict_unlink(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    cdef EvictNode* node = evict_node(base, state, reference)
    list_remove(base + state.nodes_offset, state.granule_bytes, &state.lists[node.queue - 1],
                reference)
    node.queue = 0


cdef inline void evict_move(char* base, EvictState* state, int index,
                            uint32_t reference) noexcept nogil:
    """To the head of `lists[index]`, from whichever list the node is in."""
    cdef EvictNode* node = evict_node(base, state, reference)
    if node.queue == index + 1:
        list_move_front(base + state.nodes_offset, state.granule_bytes, &state.lists[index],
                        reference)
    else:
        evict_unlink(base, state, reference)
        evict_push(base, state, index, reference)


cdef inline uint32_t evict_oldest_unpinned(char* base, EvictState* state,
                                           int index) noexcept nogil:
    """The oldest node that nobody pins; pinned ones before it become the newest. 0: none."""
    cdef EvictList* queue = &state.lists[index]
    cdef uint64_t left = queue.count
    cdef uint32_t reference
    while left > 0:
        reference = queue.tail
        if evict_node(base, state, reference).pins == 0:
            return reference
        evict_move(base, state, index, reference)
        left -= 1
    return 0
