"""Waiting for the lock of _sync.pxd, and taking it over from the dead.

The table of ranges is the one piece of state; it tells locks that only this process can hold (whose
owners cannot die alone) from those in shared memory.
"""

from libc.errno cimport ETIMEDOUT
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SPINS = 200
    PATIENCE_NS = 1000000           # then whoever waits asks whether the owner lives

cdef extern from *:
    """
    #define EC_LOCK_OWNER 0x3fffffffu
    """
    uint32_t EC_LOCK_WAITERS
    uint32_t EC_LOCK_OWNER

cdef RobustRange[ROBUST_RANGES_MAX] ranges


cdef RobustRange* robust_add(char* base, uint64_t size_bytes, robust_dead_function is_dead,
                             robust_repair_function repair, void* context) noexcept nogil:
    cdef uint32_t number
    for number in range(ROBUST_RANGES_MAX):
        if ranges[number].base == NULL:
            ranges[number].size_bytes = size_bytes
            ranges[number].is_dead = is_dead
            ranges[number].repair = repair
            ranges[number].context = context
            ec_store_u64(<uint64_t*>&ranges[number].base, <uint64_t>base)
            return &ranges[number]
    return NULL


cdef void robust_remove(RobustRange* place) noexcept nogil:
    if place != NULL:
        ec_store_u64(<uint64_t*>&place.base, 0)


cdef RobustRange* _range_of(const uint32_t* word) noexcept nogil:
    cdef uint32_t number
    cdef const char* base
    for number in range(ROBUST_RANGES_MAX):
        base = <const char*>ec_load_u64(<uint64_t*>&ranges[number].base)
        if base != NULL and base <= <const char*>word < base + ranges[number].size_bytes:
            return &ranges[number]
    return NULL


cdef bint _take_over(uint32_t* word, uint32_t seen) noexcept nogil:
    """Whether the owner that was seen is dead, and the lock is ours now, repaired."""
    cdef RobustRange* place = _range_of(word)
    if place == NULL or not place.is_dead(place.context, seen & EC_LOCK_OWNER) or \
            not ec_cas_u32(word, seen, ec_thread_id() | EC_LOCK_WAITERS):
        return False
    place.repair(place.context, word)
    return True


cdef void ec_lock_acquire_slow(uint32_t* word) noexcept nogil:
    cdef uint32_t self = ec_thread_id(), seen
    cdef int _spin
    for _spin in range(SPINS):
        if ec_load_u32(word) == 0 and ec_lock_try(word):
            return
        ec_pause()
    while True:
        seen = ec_load_u32(word)
        if seen == 0:
            # Others may sleep too, so the bit stays set until an unlock found none.
            if ec_cas_u32(word, 0, self | EC_LOCK_WAITERS):
                return
            continue
        if not seen & EC_LOCK_WAITERS:
            if not ec_cas_u32(word, seen, seen | EC_LOCK_WAITERS):
                continue
            seen |= EC_LOCK_WAITERS
        if ec_futex_wait(word, seen, PATIENCE_NS) == ETIMEDOUT and ec_load_u32(word) == seen and \
                _take_over(word, seen):
            return


cdef bint ec_lock_break(uint32_t* word) noexcept nogil:
    cdef uint32_t seen = ec_load_u32(word)
    if seen == 0 or not _take_over(word, seen):
        return False
    ec_lock_release(word)
    return True
