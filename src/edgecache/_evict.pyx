"""Eviction: dispatch from the contract (`_evict.pxd`) to the policies, which are kernels.

A switch on the kind in the state, not a table of functions: the state may be shared between
processes, which do not share addresses, and the policies are inlined here.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._evict_arc cimport (
    ArcState,
    arc_check,
    arc_hit,
    arc_init,
    arc_insert,
    arc_set_capacity,
    arc_state,
    arc_victim,
)
from edgecache._evict_ghost cimport (
    GHOST_ENTRY_AREA_BYTES,
    ghost_check,
    ghost_prefetch,
    ghost_prefetch_oldest,
)
from edgecache._evict_lru cimport lru_hit, lru_insert, lru_victim
from edgecache._evict_s3fifo cimport (
    S3FifoState,
    s3fifo_check,
    s3fifo_foresee,
    s3fifo_hit,
    s3fifo_init,
    s3fifo_insert,
    s3fifo_set_capacity,
    s3fifo_state,
    s3fifo_victim,
)
from edgecache._evict_sieve cimport (
    sieve_check,
    sieve_hit,
    sieve_insert,
    sieve_remove,
    sieve_state,
    sieve_victim,
)
from edgecache._evict_sketch cimport SKETCH_WORD_AREA_BYTES
from edgecache._evict_state cimport evict_node, evict_unlink
from edgecache._evict_wtinylfu cimport (
    TinyLfuState,
    tinylfu_check,
    tinylfu_count,
    tinylfu_hit,
    tinylfu_init,
    tinylfu_insert,
    tinylfu_set_capacity,
    tinylfu_victim,
)
from edgecache._list cimport list_check, list_relocate

cdef extern from *:
    """
    /* Expands to static assertions: the node's layout is the contract of all that embed it. */
    #define EC_ASSERT_SIZES(node_type, state_type, s3fifo_type, arc_type, tinylfu_type)          \\
        _Static_assert(node_type == 16, "EvictNode");                                            \\
        _Static_assert(s3fifo_type <= state_type && arc_type <= state_type                       \\
                       && tinylfu_type <= state_type, "private_state is too small")
    """
    void EC_ASSERT_SIZES(size_t, size_t, size_t, size_t, size_t) noexcept nogil


cdef enum:
    EVICT_LARGE_DIVISOR = 10        # the small queue's share of the capacity


cdef uint64_t evict_area_bytes(EvictKind kind, uint64_t capacity_bytes,
                               uint64_t mean_object_bytes) noexcept nogil:
    cdef uint64_t object_count = capacity_bytes // (mean_object_bytes if mean_object_bytes else 1)
    cdef uint64_t word_count = 64
    # A quarter more than the mean says: what is evicted is often smaller than what stays.
    object_count += object_count // 4 + 64
    if kind == EVICT_S3FIFO:
        return object_count * GHOST_ENTRY_AREA_BYTES
    if kind == EVICT_ARC:
        return 2 * object_count * GHOST_ENTRY_AREA_BYTES
    if kind == EVICT_WTINYLFU:
        # Four counters in each of four rows per object, rounded up to a power of two.
        while word_count < object_count:
            word_count *= 2
        return word_count * SKETCH_WORD_AREA_BYTES
    return 0


cdef Status evict_init(char* base, EvictState* state, EvictKind kind, uint64_t nodes_offset,
                       uint32_t granule_bytes, uint64_t capacity_bytes, uint64_t area_offset,
                       uint64_t area_size_bytes) noexcept nogil:
    EC_ASSERT_SIZES(sizeof(EvictNode), 32 * sizeof(uint64_t), sizeof(S3FifoState),
                    sizeof(ArcState), sizeof(TinyLfuState))
    if granule_bytes == 0 or area_offset % 8 != 0 or <uint32_t>kind > <uint32_t>EVICT_WTINYLFU:
        return Status.STATUS_INVALID
    memset(state, 0, sizeof(EvictState))
    state.nodes_offset = nodes_offset
    state.granule_bytes = granule_bytes
    state.kind = kind
    state.capacity_bytes = capacity_bytes
    state.area_offset = area_offset
    state.area_size_bytes = area_size_bytes
    if kind == EVICT_S3FIFO:
        s3fifo_init(base, state)
    elif kind == EVICT_ARC:
        arc_init(base, state)
    elif kind == EVICT_WTINYLFU:
        tinylfu_init(base, state)
    return Status.STATUS_OK


cdef void evict_set_capacity(char* base, EvictState* state, uint64_t capacity_bytes) noexcept nogil:
    state.capacity_bytes = capacity_bytes
    if state.kind == EVICT_S3FIFO:
        s3fifo_set_capacity(base, state)
    elif state.kind == EVICT_ARC:
        arc_set_capacity(base, state)
    elif state.kind == EVICT_WTINYLFU:
        tinylfu_set_capacity(base, state)


cdef bint evict_admits(const EvictState* state, uint64_t size_bytes) noexcept nogil:
    # An object of the small queue's whole share would empty that queue whenever it comes, and hits
    # in it are what tells popular objects from others. Source: libCacheSim, S3FIFO, as measured in
    # docs/performance-hitratio.md.
    if state.kind == EVICT_S3FIFO or state.kind == EVICT_WTINYLFU:
        return size_bytes < state.capacity_bytes // EVICT_LARGE_DIVISOR
    return size_bytes <= state.capacity_bytes


cdef void evict_insert(char* base, EvictState* state, uint32_t reference, uint64_t hash,
                       evict_hash_function node_hash, void* context) noexcept nogil:
    if EDGECACHE_DEBUG:
        ec_assert(evict_node(base, state, reference).queue == 0, "inserted node is in no list")
    state.size_bytes += evict_node(base, state, reference).size_bytes
    state.count += 1
    if state.kind == EVICT_S3FIFO:
        s3fifo_insert(base, state, reference, hash)
    elif state.kind == EVICT_LRU:
        lru_insert(base, state, reference)
    elif state.kind == EVICT_ARC:
        arc_insert(base, state, reference, hash)
    elif state.kind == EVICT_SIEVE:
        sieve_insert(base, state, reference)
    else:
        tinylfu_insert(base, state, reference)


cdef void evict_hit(char* base, EvictState* state, uint32_t reference,
                    uint64_t hash) noexcept nogil:
    if state.kind == EVICT_S3FIFO:
        s3fifo_hit(base, state, reference)
    elif state.kind == EVICT_LRU:
        lru_hit(base, state, reference)
    elif state.kind == EVICT_ARC:
        arc_hit(base, state, reference)
    elif state.kind == EVICT_SIEVE:
        sieve_hit(base, state, reference)
    else:
        tinylfu_hit(base, state, reference, hash)


cdef void evict_miss(char* base, EvictState* state, uint64_t hash) noexcept nogil:
    if state.kind == EVICT_WTINYLFU:
        tinylfu_count(base, state, hash)


cdef void evict_remove(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    if EDGECACHE_DEBUG:
        ec_assert(evict_node(base, state, reference).queue != 0, "removed node is in a list")
    state.size_bytes -= evict_node(base, state, reference).size_bytes
    state.count -= 1
    if state.kind == EVICT_SIEVE:
        sieve_remove(base, state, reference)
    else:
        evict_unlink(base, state, reference)


cdef uint32_t evict_victim(char* base, EvictState* state, evict_hash_function node_hash,
                           void* context) noexcept nogil:
    cdef uint32_t reference
    if state.count == 0:
        return 0
    if state.kind == EVICT_S3FIFO:
        reference = s3fifo_victim(base, state, node_hash, context)
    elif state.kind == EVICT_LRU:
        reference = lru_victim(base, state)
    elif state.kind == EVICT_ARC:
        reference = arc_victim(base, state, node_hash, context)
    elif state.kind == EVICT_SIEVE:
        reference = sieve_victim(base, state)
    else:
        reference = tinylfu_victim(base, state, node_hash, context)
    if reference != 0:
        state.size_bytes -= evict_node(base, state, reference).size_bytes
        state.count -= 1
    return reference


cdef uint32_t evict_foresee(char* base, EvictState* state, uint32_t* then) noexcept nogil:
    cdef uint32_t reference = state.lists[0].tail
    if state.kind == EVICT_S3FIFO:
        reference = s3fifo_foresee(state)
    elif state.kind == EVICT_SIEVE and sieve_state(state).hand != 0:
        reference = sieve_state(state).hand
    elif reference == 0:
        reference = state.lists[1].tail
    then[0] = evict_node(base, state, reference).prev if reference else 0
    return reference


cdef void evict_prefetch_victim(char* base, EvictState* state, uint64_t hash) noexcept nogil:
    if state.kind == EVICT_S3FIFO:
        ghost_prefetch(base, &s3fifo_state(state).ghost, hash)
        ghost_prefetch_oldest(base, &s3fifo_state(state).ghost)


cdef void evict_prefetch_insert(char* base, const EvictState* state, uint64_t hash) noexcept nogil:
    if state.kind == EVICT_S3FIFO:
        ghost_prefetch(base, &(<S3FifoState*>state.private_state).ghost, hash)


cdef void evict_relocate(char* base, EvictState* state, uint32_t source,
                         uint32_t target) noexcept nogil:
    cdef uint32_t queue = evict_node(base, state, target).queue
    if queue == 0:
        return
    list_relocate(base + state.nodes_offset, state.granule_bytes, &state.lists[queue - 1], source,
                  target)
    if state.kind == EVICT_SIEVE and sieve_state(state).hand == source:
        sieve_state(state).hand = target


cdef uint32_t walk_sieve(char* base, EvictState* state, uint64_t* position) noexcept nogil:
    """From the hand to the head, then from the tail to the hand."""
    cdef uint32_t start = sieve_state(state).hand
    cdef uint32_t reference
    if start == 0:
        start = state.lists[0].tail
    if position[0] == 0:
        position[0] = start
        return start
    reference = evict_node(base, state, <uint32_t>position[0]).prev
    if reference == 0:
        reference = state.lists[0].tail
    if reference == start:
        return 0
    position[0] = reference
    return reference


cdef uint32_t evict_walk(char* base, EvictState* state, uint64_t* position) noexcept nogil:
    # position: the list in the high half, the last node visited in the low half. In every policy
    # the lists are numbered from the coldest to the warmest.
    cdef uint64_t index = position[0] >> 32
    cdef uint32_t reference = <uint32_t>position[0]
    if state.kind == EVICT_SIEVE:
        return walk_sieve(base, state, position)
    if reference != 0:
        reference = evict_node(base, state, reference).prev
        if reference == 0:
            index += 1
    while reference == 0 and index < 4:
        reference = state.lists[index].tail
        if reference == 0:
            index += 1
    position[0] = (index << 32) | reference
    return reference


cdef int evict_check(char* base, EvictState* state) noexcept nogil:
    cdef uint64_t size_bytes = 0
    cdef uint64_t count = 0
    cdef int index, broken
    for index in range(4):
        broken = list_check(base + state.nodes_offset, state.granule_bytes, &state.lists[index],
                            <unsigned char>(index + 1))
        if broken != 0:
            return broken
        size_bytes += state.lists[index].size_bytes
        count += state.lists[index].count
    if size_bytes != state.size_bytes or count != state.count:
        return 5
    if state.lists[3].count != 0 or (state.kind != EVICT_WTINYLFU and state.lists[2].count != 0) \
            or ((state.kind == EVICT_LRU or state.kind == EVICT_SIEVE)
                and state.lists[1].count != 0):
        return 5
    if state.kind == EVICT_S3FIFO:
        if ghost_check(base, &s3fifo_state(state).ghost) != 0:
            return 6
        return 7 if s3fifo_check(base, state) != 0 else 0
    if state.kind == EVICT_ARC:
        if ghost_check(base, &arc_state(state).b1) != 0 \
                or ghost_check(base, &arc_state(state).b2) != 0:
            return 6
        return 7 if arc_check(base, state) != 0 else 0
    if state.kind == EVICT_SIEVE:
        return 7 if sieve_check(base, state) != 0 else 0
    if state.kind == EVICT_WTINYLFU:
        return 7 if tinylfu_check(state) != 0 else 0
    return 0
