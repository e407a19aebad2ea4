"""Kernel: a ghost queue, the fingerprints and sizes of objects evicted not long ago.

A ring holds the entries in order of eviction; an open-addressed table finds an entry by
fingerprint. Both lie in the area given at init, so the queue is bounded by the bytes its owner
lets it remember (`ghost_trim`) and by the ring's length; in both cases the oldest entry goes first.

    GhostEntry, 8 bytes
    | 0              4 | 4            8 |
    | fingerprint u32  | size_bytes u32 |
    fingerprint 0: the entry was taken out (a ghost hit); its place is passed over later.

The table has two u32 places per entry, each 0 or 1 + the index of an entry in the ring. An entry's
home is its fingerprint scaled to the table; collisions go to the next place, and a removal closes
the gap, so no tombstones pile up. 16 bytes per entry in all.

A false hit needs two keys with the same 32-bit fingerprint: with a million ghosts one lookup in
4,300 is a false hit, which costs a wrong guess and nothing else.

Invariants, asserted by `ghost_check`:
1. `count` entries between `oldest` and `oldest + span` (around the ring) are alive, and
   `size_bytes` is their sum; span <= capacity.
2. Every live entry is found through the table, and the table has exactly `count` places in use.

Source: the ghost queue of S3-FIFO (J. Yang et al., SOSP 2023, section 4.2) as a fingerprint table;
deletion from linear probing without tombstones: D. Knuth, TAOCP vol. 3, section 6.4, algorithm R.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from edgecache._sync cimport ec_prefetch

cdef enum:
    GHOST_ENTRY_AREA_BYTES = 16     # 8 in the ring, two u32 places in the table

cdef struct GhostEntry:
    uint32_t fingerprint
    uint32_t size_bytes

cdef struct GhostQueue:
    uint64_t ring_offset            # from the arena base; the table follows the ring
    uint32_t capacity_count         # entries in the ring
    uint32_t oldest
    uint32_t span_count             # ring places in use, dead ones included
    uint32_t count
    uint64_t size_bytes


cdef inline uint32_t ghost_fingerprint(uint64_t hash) noexcept nogil:
    # The index uses other bits of the same hash; a multiplication spreads all of them (Knuth 6.4).
    cdef uint32_t fingerprint = <uint32_t>((hash * <uint64_t>0x9E3779B97F4A7C15) >> 32)
    return fingerprint if fingerprint != 0 else 1


cdef inline GhostEntry* ghost_ring(char* base, const GhostQueue* ghost) noexcept nogil:
    return <GhostEntry*>(base + ghost.ring_offset)


cdef inline uint32_t* ghost_table(char* base, const GhostQueue* ghost) noexcept nogil:
    return <uint32_t*>(base + ghost.ring_offset + <uint64_t>ghost.capacity_count * 8)


cdef inline void ghost_init(char* base, GhostQueue* ghost, uint64_t area_offset,
                            uint64_t area_size_bytes) noexcept nogil:
    cdef uint64_t capacity_count = area_size_bytes // GHOST_ENTRY_AREA_BYTES
    # Indices, and the table of twice as many places, are u32.
    if capacity_count > 0x7FFFFFFF:
        capacity_count = 0x7FFFFFFF
    ghost.ring_offset = area_offset
    ghost.capacity_count = <uint32_t>capacity_count
    ghost.oldest = 0
    ghost.span_count = 0
    ghost.count = 0
    ghost.size_bytes = 0
    memset(ghost_table(base, ghost), 0, capacity_count * 8)


cdef inline uint32_t ghost_home(const GhostQueue* ghost, uint32_t fingerprint) noexcept nogil:
    # Multiply and shift maps to the table without a division (D. Lemire, 2019).
    return <uint32_t>((<uint64_t>fingerprint * (<uint64_t>ghost.capacity_count * 2)) >> 32)


cdef inline uint32_t ghost_next(const GhostQueue* ghost, uint32_t place) noexcept nogil:
    return place + 1 if place + 1 < ghost.capacity_count * 2 else 0


cdef inline uint32_t ghost_place(char* base, const GhostQueue* ghost,
                                 uint32_t fingerprint) noexcept nogil:
    """The place that leads to the fingerprint, or the free place that ends its search."""
    cdef const GhostEntry* ring = ghost_ring(base, ghost)
    cdef const uint32_t* table = ghost_table(base, ghost)
    cdef uint32_t place = ghost_home(ghost, fingerprint)
    while table[place] != 0 and ring[table[place] - 1].fingerprint != fingerprint:
        place = ghost_next(ghost, place)
    return place


cdef inline void ghost_clear_place(char* base, GhostQueue* ghost, uint32_t place) noexcept nogil:
    """Free a place and move later ones of its run back over the gap."""
    cdef const GhostEntry* ring = ghost_ring(base, ghost)
    cdef uint32_t* table = ghost_table(base, ghost)
    cdef uint32_t size = ghost.capacity_count * 2
    cdef uint32_t scan = place
    cdef uint32_t home, from_home, from_gap
    while True:
        scan = ghost_next(ghost, scan)
        if table[scan] == 0:
            break
        home = ghost_home(ghost, ring[table[scan] - 1].fingerprint)
        # It may move only if the gap is not before its home on the way round.
        from_home = scan - home if scan >= home else scan + size - home
        from_gap = scan - place if scan >= place else scan + size - place
        if from_home >= from_gap:
            table[place] = table[scan]
            place = scan
    table[place] = 0


cdef inline void ghost_skip_dead(char* base, GhostQueue* ghost) noexcept nogil:
    """Amortised: each place is passed over once per time it was pushed."""
    cdef const GhostEntry* ring = ghost_ring(base, ghost)
    while ghost.span_count > 0 and ring[ghost.oldest].fingerprint == 0:
        ghost.oldest = ghost.oldest + 1 if ghost.oldest + 1 < ghost.capacity_count else 0
        ghost.span_count -= 1


cdef inline void ghost_kill(char* base, GhostQueue* ghost, uint32_t place) noexcept nogil:
    """Take out the entry that a place in use leads to."""
    cdef GhostEntry* entry = &ghost_ring(base, ghost)[ghost_table(base, ghost)[place] - 1]
    ghost.size_bytes -= entry.size_bytes
    ghost.count -= 1
    ghost_clear_place(base, ghost, place)
    entry.fingerprint = 0
    entry.size_bytes = 0
    ghost_skip_dead(base, ghost)


cdef inline void ghost_drop_oldest(char* base, GhostQueue* ghost) noexcept nogil:
    """The caller guarantees count > 0."""
    cdef uint32_t fingerprint = ghost_ring(base, ghost)[ghost.oldest].fingerprint
    ghost_kill(base, ghost, ghost_place(base, ghost, fingerprint))


cdef inline void ghost_trim(char* base, GhostQueue* ghost, uint64_t limit_bytes) noexcept nogil:
    while ghost.count > 0 and ghost.size_bytes > limit_bytes:
        ghost_drop_oldest(base, ghost)


cdef inline bint ghost_take(char* base, GhostQueue* ghost, uint64_t hash) noexcept nogil:
    """Forget the object and say whether it was remembered."""
    cdef uint32_t place
    if ghost.count == 0:
        return False
    place = ghost_place(base, ghost, ghost_fingerprint(hash))
    if ghost_table(base, ghost)[place] == 0:
        return False
    ghost_kill(base, ghost, place)
    return True


cdef inline void ghost_push(char* base, GhostQueue* ghost, uint64_t hash, uint32_t size_bytes,
                            uint64_t limit_bytes) noexcept nogil:
    """Remember an object as the newest; `limit_bytes` holds afterwards."""
    cdef GhostEntry* ring = ghost_ring(base, ghost)
    cdef uint32_t fingerprint = ghost_fingerprint(hash)
    cdef uint32_t place
    cdef uint64_t index
    if ghost.capacity_count == 0 or size_bytes > limit_bytes:
        return
    ghost_take(base, ghost, hash)
    ghost_trim(base, ghost, limit_bytes - size_bytes)
    if ghost.span_count == ghost.capacity_count:
        ghost_drop_oldest(base, ghost)
    index = <uint64_t>ghost.oldest + ghost.span_count
    if index >= ghost.capacity_count:
        index -= ghost.capacity_count
    ring[index].fingerprint = fingerprint
    ring[index].size_bytes = size_bytes
    place = ghost_place(base, ghost, fingerprint)
    ghost_table(base, ghost)[place] = <uint32_t>(index + 1)
    ghost.span_count += 1
    ghost.count += 1
    ghost.size_bytes += size_bytes


cdef inline void ghost_prefetch(char* base, const GhostQueue* ghost, uint64_t hash) noexcept nogil:
    """Ask for the place where the search for the object begins."""
    ec_prefetch(ghost_table(base, ghost) + ghost_home(ghost, ghost_fingerprint(hash)))


cdef inline void ghost_prefetch_oldest(char* base, const GhostQueue* ghost) noexcept nogil:
    """The same for the ghost that goes next."""
    if ghost.span_count:
        ec_prefetch(ghost_table(base, ghost)
                    + ghost_home(ghost, ghost_ring(base, ghost)[ghost.oldest].fingerprint))


cdef inline int ghost_check(char* base, const GhostQueue* ghost) noexcept nogil:
    cdef const GhostEntry* ring = ghost_ring(base, ghost)
    cdef const uint32_t* table = ghost_table(base, ghost)
    cdef uint32_t count = 0
    cdef uint32_t in_use = 0
    cdef uint64_t size_bytes = 0
    cdef uint64_t i, index
    if ghost.span_count > ghost.capacity_count:
        return 1
    for i in range(ghost.span_count):
        index = ghost.oldest + i
        if index >= ghost.capacity_count:
            index -= ghost.capacity_count
        if ring[index].fingerprint != 0:
            count += 1
            size_bytes += ring[index].size_bytes
            if table[ghost_place(base, ghost, ring[index].fingerprint)] != index + 1:
                return 2
    if count != ghost.count or size_bytes != ghost.size_bytes:
        return 1
    for i in range(<uint64_t>ghost.capacity_count * 2):
        in_use += table[i] != 0
    return 0 if in_use == count else 2
