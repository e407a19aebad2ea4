"""Kernel: SIEVE. `lists[0]` in order of insertion; `node.frequency` is the visited bit.

The hand walks from the oldest node to the newest, clears visited bits and evicts the first node
without one. Survivors stay where they are, new nodes enter at the head: that is what tells SIEVE
from CLOCK. A pinned node is passed over in place.

Invariants:
1. The hand is 0 (start at the tail) or a node of the list.
2. `frequency` is 0 or 1.

Source: Y. Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for
Web Caches", NSDI 2024, algorithm 1.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._evict_state cimport EvictState, evict_node, evict_push, evict_unlink
from edgecache._list cimport EvictNode

cdef struct SieveState:
    uint32_t hand


cdef inline SieveState* sieve_state(EvictState* state) noexcept nogil:
    return <SieveState*>state.private_state


cdef inline void sieve_insert(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    evict_node(base, state, reference).frequency = 0
    evict_push(base, state, 0, reference)


cdef inline void sieve_hit(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    cdef EvictNode* node = evict_node(base, state, reference)
    if node.frequency == 0:
        node.frequency = 1


cdef inline void sieve_remove(char* base, EvictState* state, uint32_t reference) noexcept nogil:
    cdef SieveState* sieve = sieve_state(state)
    if sieve.hand == reference:
        sieve.hand = evict_node(base, state, reference).prev
    evict_unlink(base, state, reference)


cdef inline uint32_t sieve_victim(char* base, EvictState* state) noexcept nogil:
    cdef SieveState* sieve = sieve_state(state)
    cdef uint32_t reference = sieve.hand
    cdef uint64_t pinned_count = 0
    cdef EvictNode* node
    # Ends: every unpinned node passed loses its bit, so the second round finds one, and a full
    # round of pinned nodes in a row gives up.
    while pinned_count < state.lists[0].count:
        if reference == 0:
            reference = state.lists[0].tail
        node = evict_node(base, state, reference)
        if node.pins != 0:
            pinned_count += 1
        elif node.frequency != 0:
            node.frequency = 0
            pinned_count = 0
        else:
            sieve.hand = reference
            sieve_remove(base, state, reference)
            return reference
        reference = node.prev
    return 0


cdef inline int sieve_check(char* base, EvictState* state) noexcept nogil:
    cdef uint32_t hand = sieve_state(state).hand
    cdef uint32_t reference = state.lists[0].head
    cdef bint found = hand == 0
    cdef EvictNode* node
    while reference != 0:
        node = evict_node(base, state, reference)
        if node.frequency > 1:
            return 2
        found |= reference == hand
        reference = node.next
    return 0 if found else 1
