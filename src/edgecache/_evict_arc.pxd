"""Kernel: ARC, weighted by bytes. `lists[0]` is T1 (seen once), `lists[1]` is T2 (seen again).

B1 and B2 are ghost queues of what left T1 and T2. `p` is the share of the bytes that T1 aims at. A
ghost hit in B1 of an object of s bytes raises p by s * max(1, B2/B1), one in B2 lowers it by
s * max(1, B1/B2): the paper's step of one page, scaled to the object, so that p adapts as fast with
objects of a megabyte as with pages. All four sizes are in bytes.

The paper adapts p before it makes room for the object. Here the caller makes room first, so an
adaptation counts from the next eviction on.

Invariants:
1. p <= capacity.
2. B1 is empty or T1 + B1 <= capacity.
3. B2 is empty or T1 + T2 + B1 + B2 <= 2 * capacity.

Source: N. Megiddo, D. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003,
figure 4; invariants 2 and 3 are its conditions A.1 and A.2.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._evict_ghost cimport GhostQueue, ghost_init, ghost_push, ghost_take, ghost_trim
from edgecache._evict_state cimport (
    EvictState,
    evict_hash_function,
    evict_move,
    evict_node,
    evict_oldest_unpinned,
    evict_push,
    evict_unlink,
)

cdef extern from *:
    """
    #include <stdint.h>
    /* value * numerator / denominator without overflow, at most `limit`. */
    static inline uint64_t ec_scale_u64(uint64_t value, uint64_t numerator,
                                        uint64_t denominator, uint64_t limit) {
        unsigned __int128 scaled = (unsigned __int128)value * numerator / denominator;
        return scaled < limit ? (uint64_t)scaled : limit;
    }
    """
    uint64_t ec_scale_u64(uint64_t value, uint64_t numerator, uint64_t denominator,
                          uint64_t limit) noexcept nogil

cdef enum:
    ARC_T1 = 0
    ARC_T2 = 1

cdef struct ArcState:
    GhostQueue b1
    GhostQueue b2
    uint64_t target_bytes           # p


cdef inline ArcState* arc_state(EvictState* state) noexcept nogil:
    return <ArcState*>state.private_state


cdef inline void arc_trim(char* base, EvictState* state) noexcept nogil:
    """Restore invariants 2 and 3 by forgetting the oldest ghosts."""
    cdef ArcState* arc = arc_state(state)
    cdef uint64_t capacity_bytes = state.capacity_bytes
    cdef uint64_t used_bytes = state.lists[ARC_T1].size_bytes
    ghost_trim(base, &arc.b1, capacity_bytes - used_bytes if used_bytes < capacity_bytes else 0)
    used_bytes += state.lists[ARC_T2].size_bytes + arc.b1.size_bytes
    ghost_trim(base, &arc.b2,
               2 * capacity_bytes - used_bytes if used_bytes < 2 * capacity_bytes else 0)


cdef inline void arc_set_capacity(char* base, EvictState* state) noexcept nogil:
    cdef ArcState* arc = arc_state(state)
    if arc.target_bytes > state.capacity_bytes:
        arc.target_bytes = state.capacity_bytes
    arc_trim(base, state)


cdef inline void arc_init(char* base, EvictState* state) noexcept nogil:
    cdef ArcState* arc = arc_state(state)
    cdef uint64_t half_bytes = state.area_size_bytes // 16 * 8
    ghost_init(base, &arc.b1, state.area_offset, half_bytes)
    ghost_init(base, &arc.b2, state.area_offset + half_bytes, half_bytes)
    arc.target_bytes = 0


cdef inline void arc_insert(char* base, EvictState* state, uint32_t reference,
                            uint64_t hash) noexcept nogil:
    cdef ArcState* arc = arc_state(state)
    cdef uint64_t b1_bytes = arc.b1.size_bytes
    cdef uint64_t b2_bytes = arc.b2.size_bytes
    cdef uint64_t capacity_bytes = state.capacity_bytes
    cdef uint64_t step_bytes = evict_node(base, state, reference).size_bytes
    if ghost_take(base, &arc.b1, hash):
        if b2_bytes > b1_bytes and b1_bytes != 0:
            step_bytes = ec_scale_u64(step_bytes, b2_bytes, b1_bytes, capacity_bytes)
        arc.target_bytes = min(arc.target_bytes + step_bytes, capacity_bytes)
        evict_push(base, state, ARC_T2, reference)
    elif ghost_take(base, &arc.b2, hash):
        if b1_bytes > b2_bytes and b2_bytes != 0:
            step_bytes = ec_scale_u64(step_bytes, b1_bytes, b2_bytes, capacity_bytes)
        arc.target_bytes -= min(step_bytes, arc.target_bytes)
        evict_push(base, state, ARC_T2, reference)
    else:
        evict_push(base, state, ARC_T1, reference)
    arc_trim(base, state)


cdef inline void arc_hit(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    evict_move(base, state, ARC_T2, reference)


cdef inline uint32_t arc_victim(char* base, EvictState* state, evict_hash_function node_hash,
                                void* context) noexcept nogil:
    """REPLACE of the paper; where the preferred list has only pinned nodes, the other gives."""
    cdef ArcState* arc = arc_state(state)
    cdef bint from_t1 = state.lists[ARC_T1].size_bytes > arc.target_bytes
    cdef uint32_t reference = evict_oldest_unpinned(base, state, ARC_T1 if from_t1 else ARC_T2)
    cdef uint32_t size_bytes
    if reference == 0:
        from_t1 = not from_t1
        reference = evict_oldest_unpinned(base, state, ARC_T1 if from_t1 else ARC_T2)
        if reference == 0:
            return 0
    size_bytes = evict_node(base, state, reference).size_bytes
    evict_unlink(base, state, reference)
    # Bounded by the capacity here, by invariants 2 and 3 in arc_trim.
    ghost_push(base, &arc.b1 if from_t1 else &arc.b2, node_hash(context, reference), size_bytes,
               state.capacity_bytes if from_t1 else 2 * state.capacity_bytes)
    arc_trim(base, state)
    return reference


cdef inline int arc_check(char* base, EvictState* state) noexcept nogil:
    cdef ArcState* arc = arc_state(state)
    cdef uint64_t l1_bytes = state.lists[ARC_T1].size_bytes + arc.b1.size_bytes
    cdef uint64_t l2_bytes = state.lists[ARC_T2].size_bytes + arc.b2.size_bytes
    if arc.target_bytes > state.capacity_bytes:
        return 1
    if arc.b1.count != 0 and l1_bytes > state.capacity_bytes:
        return 2
    if arc.b2.count != 0 and l1_bytes + l2_bytes > 2 * state.capacity_bytes:
        return 3
    return 0
