"""Kernel: W-TinyLFU. `lists[0]` window (1 %), `lists[1]` probation, `lists[2]` protected.

New nodes enter the window, an LRU list. What the window has too much of is a candidate for the
main part, a segmented LRU whose protected segment holds up to 80 % of it. When main is full, the
candidate (the window's oldest node) must have been asked for more often than main's victim, by the
estimate of a frequency sketch; the loser is evicted. A candidate that is larger than the victim
has to beat one victim after the other until there is room for it.

Invariants:
1. The protected segment is within its share, or holds at most one node.
2. The sketch is sound (`_evict_sketch.pxd`).

Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy",
ACM TOS 13(4), 2017, section 4 (window 1 %, SLRU 80/20); a candidate against several victims: the
early pruning of G. Einziger et al., "Lightweight Robust Size Aware Cache Management", ACM TOS
18(3), 2022, section 4.2.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._evict_sketch cimport (
    SKETCH_SAMPLE_FACTOR,
    FrequencySketch,
    sketch_add,
    sketch_check,
    sketch_estimate,
    sketch_init,
)
from edgecache._evict_state cimport (
    EvictState,
    evict_hash_function,
    evict_move,
    evict_node,
    evict_oldest_unpinned,
    evict_push,
    evict_unlink,
)

cdef enum:
    TINYLFU_WINDOW = 0
    TINYLFU_PROBATION = 1
    TINYLFU_PROTECTED = 2

cdef struct TinyLfuState:
    FrequencySketch sketch
    uint64_t window_bytes
    uint64_t main_bytes
    uint64_t protected_bytes


cdef inline TinyLfuState* tinylfu_state(EvictState* state) noexcept nogil:
    return <TinyLfuState*>state.private_state


cdef inline void tinylfu_demote(char* base, EvictState* state) noexcept nogil:
    cdef TinyLfuState* tinylfu = tinylfu_state(state)
    while state.lists[TINYLFU_PROTECTED].size_bytes > tinylfu.protected_bytes \
            and state.lists[TINYLFU_PROTECTED].count > 1:
        evict_move(base, state, TINYLFU_PROBATION, state.lists[TINYLFU_PROTECTED].tail)


cdef inline void tinylfu_set_capacity(char* base, EvictState* state) noexcept nogil:
    cdef TinyLfuState* tinylfu = tinylfu_state(state)
    tinylfu.window_bytes = state.capacity_bytes // 100
    tinylfu.main_bytes = state.capacity_bytes - tinylfu.window_bytes
    tinylfu.protected_bytes = tinylfu.main_bytes // 5 * 4
    tinylfu_demote(base, state)


cdef inline void tinylfu_init(char* base, EvictState* state) noexcept nogil:
    sketch_init(base, &tinylfu_state(state).sketch, state.area_offset, state.area_size_bytes)
    tinylfu_set_capacity(base, state)


cdef inline void tinylfu_count(char* base, EvictState* state, uint64_t hash) noexcept nogil:
    # The sample follows the number of objects cached now; the floor keeps a cold start from ageing.
    sketch_add(base, &tinylfu_state(state).sketch, hash,
               SKETCH_SAMPLE_FACTOR * (state.count if state.count > 64 else 64))


cdef inline uint64_t tinylfu_main_size(const EvictState* state) noexcept nogil:
    return state.lists[TINYLFU_PROBATION].size_bytes + state.lists[TINYLFU_PROTECTED].size_bytes


cdef inline void tinylfu_insert(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    cdef TinyLfuState* tinylfu = tinylfu_state(state)
    cdef uint32_t oldest
    evict_push(base, state, TINYLFU_WINDOW, reference)
    # While main has room the window's surplus needs no contest.
    while state.lists[TINYLFU_WINDOW].size_bytes > tinylfu.window_bytes:
        oldest = state.lists[TINYLFU_WINDOW].tail
        if tinylfu_main_size(state) + evict_node(base, state, oldest).size_bytes \
                > tinylfu.main_bytes:
            break
        evict_move(base, state, TINYLFU_PROBATION, oldest)


cdef inline void tinylfu_hit(char* base, EvictState* state, uint32_t reference,
                             uint64_t hash) noexcept nogil:
    tinylfu_count(base, state, hash)
    if evict_node(base, state, reference).queue == TINYLFU_WINDOW + 1:
        evict_move(base, state, TINYLFU_WINDOW, reference)
    else:
        evict_move(base, state, TINYLFU_PROTECTED, reference)
        tinylfu_demote(base, state)


cdef inline uint32_t tinylfu_choose(char* base, EvictState* state,
                                    evict_hash_function node_hash,
                                    void* context) noexcept nogil:
    cdef TinyLfuState* tinylfu = tinylfu_state(state)
    cdef uint32_t candidate, victim
    victim = evict_oldest_unpinned(base, state, TINYLFU_PROBATION)
    if victim == 0:
        victim = evict_oldest_unpinned(base, state, TINYLFU_PROTECTED)
    if victim != 0 and tinylfu_main_size(state) > tinylfu.main_bytes:
        return victim
    while True:
        candidate = evict_oldest_unpinned(base, state, TINYLFU_WINDOW)
        if candidate == 0:
            return victim
        if tinylfu_main_size(state) + evict_node(base, state, candidate).size_bytes \
                > tinylfu.main_bytes:
            break
        evict_move(base, state, TINYLFU_PROBATION, candidate)
        if victim == 0:
            victim = candidate
    if victim == 0:
        return candidate
    if sketch_estimate(base, &tinylfu.sketch, node_hash(context, candidate)) \
            > sketch_estimate(base, &tinylfu.sketch, node_hash(context, victim)):
        return victim
    return candidate


cdef inline uint32_t tinylfu_victim(char* base, EvictState* state,
                                    evict_hash_function node_hash,
                                    void* context) noexcept nogil:
    cdef uint32_t reference = tinylfu_choose(base, state, node_hash, context)
    if reference != 0:
        evict_unlink(base, state, reference)
    return reference


cdef inline int tinylfu_check(EvictState* state) noexcept nogil:
    cdef TinyLfuState* tinylfu = tinylfu_state(state)
    if state.lists[TINYLFU_PROTECTED].size_bytes > tinylfu.protected_bytes \
            and state.lists[TINYLFU_PROTECTED].count > 1:
        return 1
    return 2 if sketch_check(&tinylfu.sketch) != 0 else 0
