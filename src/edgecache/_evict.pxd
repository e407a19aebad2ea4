"""The eviction contract: five policies over intrusive nodes, by bytes.

A node is 16 bytes at the start of whatever is cached (`EvictNode`, drawn in `_list.pxd`); the
policy finds it from a u32 reference as `base + nodes_offset + reference * granule_bytes`
(reference 0 is the null reference). Nothing is allocated: nodes are the caller's, ghost entries
and sketches live in a fixed area given at init. Everything is offsets, so an EvictState may lie in
shared memory.

The caller holds the lock that guards the state, for every function. `hash` is 64 bits of the key's
hash; where a policy needs the hash of a node it already holds (ghosts, sketch), it calls
`node_hash`.

Policies: EVICT_S3FIFO (default), EVICT_LRU, EVICT_ARC, EVICT_SIEVE, EVICT_WTINYLFU. All count bytes
(node.size_bytes); ghost queues are bounded by the bytes of the objects they remember, as the
papers do by count, and by their area.

The caller makes room first and inserts then:

    evict_miss(hash)
    if not evict_admits(need_bytes): do not cache it
    while used_bytes + need_bytes > budget_bytes: evict_victim()
    evict_insert(reference, hash)

The size of a linked node must not change: remove it, change it, insert it again.

Invariants, asserted by `evict_check`, which returns the number of the broken one:
1-4. Each list is sound (`_list.pxd`).
5. `size_bytes` and `count` are the sums over the lists; lists the policy does not use are empty.
6. The ghost queues are sound (`_evict_ghost.pxd`).
7. The policy's own bounds hold (numbered at the top of its file): frequencies, ghost bytes, ARC's
p,    SIEVE's hand, the sketch's sample.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._evict_state cimport (
    EVICT_ARC,
    EVICT_LRU,
    EVICT_S3FIFO,
    EVICT_SIEVE,
    EVICT_WTINYLFU,
    EvictKind,
    EvictState,
    evict_hash_function,
)
from edgecache._list cimport EvictList, EvictNode
from edgecache._status cimport Status

# Bytes of ghost and sketch area for a capacity and a mean object size.
cdef uint64_t evict_area_bytes(EvictKind kind, uint64_t capacity_bytes,
                               uint64_t mean_object_bytes) noexcept nogil
# The area must be aligned to 8 bytes. STATUS_INVALID: unknown kind, granule 0 or misaligned area. A
# small or empty area is accepted: the policy then remembers less.
cdef Status evict_init(char* base, EvictState* state, EvictKind kind, uint64_t nodes_offset,
                       uint32_t granule_bytes, uint64_t capacity_bytes, uint64_t area_offset,
                       uint64_t area_size_bytes) noexcept nogil
cdef void evict_set_capacity(char* base, EvictState* state, uint64_t capacity_bytes) noexcept nogil

# Advice, before room is made: whether caching an object of that size is worth the many small ones
# it would push out. S3-FIFO: smaller than the small queue's share; W-TinyLFU likewise a tenth of
# the capacity; the others take what fits at all. A caller may insert what was advised against:
# every policy works with nodes of any size.
cdef bint evict_admits(const EvictState* state, uint64_t size_bytes) noexcept nogil
# A new node (in no list). Consults the ghosts of the policy.
cdef void evict_insert(char* base, EvictState* state, uint32_t reference, uint64_t hash,
                       evict_hash_function node_hash, void* context) noexcept nogil
# A hit on a node in a list. Cheap: S3-FIFO and SIEVE write only when the value changes.
cdef void evict_hit(char* base, EvictState* state, uint32_t reference, uint64_t hash) noexcept nogil
# Tell a frequency sketch of a miss (W-TinyLFU); no-op for the others.
cdef void evict_miss(char* base, EvictState* state, uint64_t hash) noexcept nogil
# Unlink without remembering it (delete, overwrite, expiry).
cdef void evict_remove(char* base, EvictState* state, uint32_t reference) noexcept nogil
# Choose, unlink and return the next victim, remember it in a ghost queue where the policy has one.
# Pinned nodes are passed over (moved on as if they had been hit). 0: nothing can be evicted.
cdef uint32_t evict_victim(char* base, EvictState* state, evict_hash_function node_hash,
                           void* context) noexcept nogil
# What evict_victim will most likely choose next, and, in `then`, what after that; 0: unknown. A
# guess that spares cache misses: nothing is changed and nothing may depend on it.
cdef uint32_t evict_foresee(char* base, EvictState* state, uint32_t* then) noexcept nogil
# Ask the memory for what evict_victim will touch besides the node with that hash; for what
# evict_insert of a node with that hash will touch. The second needs no lock.
cdef void evict_prefetch_victim(char* base, EvictState* state, uint64_t hash) noexcept nogil
cdef void evict_prefetch_insert(char* base, const EvictState* state, uint64_t hash) noexcept nogil
# The node moved (compaction): `target` holds a copy of `source`'s node; fix lists and hands.
cdef void evict_relocate(char* base, EvictState* state, uint32_t source,
                         uint32_t target) noexcept nogil
# Visit nodes in eviction order, coldest first: *position = 0 to start, 0 returned at the end. The
# lists must not change between the first call and the last.
cdef uint32_t evict_walk(char* base, EvictState* state, uint64_t* position) noexcept nogil
# 0 when every invariant holds, else the number of the broken one.
cdef int evict_check(char* base, EvictState* state) noexcept nogil
