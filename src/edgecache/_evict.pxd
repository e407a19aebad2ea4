"""The eviction contract: five policies over intrusive nodes, by bytes.

A node is 16 bytes at the start of whatever is cached; the policy finds it from a u32 reference as
`base + reference * granule_bytes` (reference 0 is the null reference). Nothing is allocated: nodes are
the caller's, ghost entries and sketches live in a fixed area given at init. Everything is offsets, so
an EvictState may lie in shared memory.

    EvictNode, 16 bytes
    | 0      4 | 4      8 | 8          12 | 12     13 | 13        14 | 14      16 |
    | prev u32 | next u32 | size_bytes u32 | queue u8 | frequency u8 | pins u16   |

The caller holds the lock that guards the state, for every function. `hash` is 64 bits of the key's
hash; where a policy needs the hash of a node it already holds (ghosts, sketch), it calls
`state->node_hash`.

Policies: EVICT_S3FIFO (default), EVICT_LRU, EVICT_ARC, EVICT_SIEVE, EVICT_WTINYLFU. All count bytes
(node.size_bytes); ghost queues are bounded by the bytes of the objects they remember, as the
papers do by count, and by their area.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._status cimport Status

cdef enum EvictKind:
    EVICT_S3FIFO = 0
    EVICT_LRU = 1
    EVICT_ARC = 2
    EVICT_SIEVE = 3
    EVICT_WTINYLFU = 4

cdef struct EvictNode:
    uint32_t prev
    uint32_t next
    uint32_t size_bytes             # what the node costs; set by the caller before evict_insert
    uint8_t queue                   # 0: in no list; else the policy's number of its list
    uint8_t frequency               # S3-FIFO 0..3, SIEVE visited bit; the policy's to use
    uint16_t pins                   # > 0: not a victim now; the caller's to change

ctypedef uint64_t (*evict_hash_function)(void* context, uint32_t reference) noexcept nogil

cdef struct EvictList:
    uint32_t head
    uint32_t tail
    uint64_t size_bytes
    uint64_t count

cdef struct EvictState:             # in the arena
    uint64_t nodes_offset           # reference 0 of the nodes, from the arena base
    uint32_t granule_bytes
    uint32_t kind
    uint64_t capacity_bytes         # target of the queues' proportions; the caller enforces the budget
    uint64_t size_bytes             # sum over all nodes in lists
    uint64_t count
    EvictList lists[4]
    uint64_t area_offset            # ghosts and sketches, from the arena base
    uint64_t area_size_bytes
    uint64_t private_state[32]

# Bytes of ghost and sketch area for a capacity and a mean object size.
cdef uint64_t evict_area_bytes(EvictKind kind, uint64_t capacity_bytes,
                               uint64_t mean_object_bytes) noexcept nogil
cdef Status evict_init(char* base, EvictState* state, EvictKind kind, uint64_t nodes_offset,
                       uint32_t granule_bytes, uint64_t capacity_bytes, uint64_t area_offset,
                       uint64_t area_size_bytes) noexcept nogil
cdef void evict_set_capacity(char* base, EvictState* state, uint64_t capacity_bytes) noexcept nogil

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
# The node moved (compaction): `target` holds a copy of `source`'s node; fix lists and hands.
cdef void evict_relocate(char* base, EvictState* state, uint32_t source,
                         uint32_t target) noexcept nogil
# Visit nodes in eviction order, coldest first: *position = 0 to start, 0 returned at the end.
cdef uint32_t evict_walk(char* base, EvictState* state, uint64_t* position) noexcept nogil
# 0 when every invariant holds, else the number of the broken one.
cdef int evict_check(char* base, EvictState* state) noexcept nogil
