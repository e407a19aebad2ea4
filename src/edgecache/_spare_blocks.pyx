"""Memory for large transfers, kept from one to the next (see _spare_blocks.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from edgecache._sync cimport ec_lock_release, ec_lock_try

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    BLOCK_ALIGNMENT = 4096
    SPARE_BLOCK_BYTES_MAX = 8388608
    SPARE_BLOCKS = 4

# Blocks of the last large records of the process, for the next ones: fresh memory of this size is
# mapped each time, and its page faults cost as much as copying the record. The lock is only tried:
# in the child of a fork nobody may be left to release it.
cdef uint32_t spare_lock = 0
cdef (char*)[SPARE_BLOCKS] spare_blocks
cdef uint64_t[SPARE_BLOCKS] spare_bytes


cdef char* block_take(uint64_t size) noexcept nogil:
    cdef char* taken = NULL
    cdef uint32_t number
    if size <= SPARE_BLOCK_BYTES_MAX and ec_lock_try(&spare_lock):
        for number in range(SPARE_BLOCKS):
            if spare_blocks[number] != NULL and \
                    spare_bytes[number] >= size and spare_bytes[number] <= 2 * size:
                taken = spare_blocks[number]
                spare_blocks[number] = NULL
                break
        ec_lock_release(&spare_lock)
    if taken == NULL and posix_memalign(<void**>&taken, BLOCK_ALIGNMENT, size) != 0:
        return NULL
    return taken


cdef void block_give(char* block, uint64_t size) noexcept nogil:
    cdef char* old = block
    cdef uint32_t number, least = 0
    if size <= SPARE_BLOCK_BYTES_MAX and ec_lock_try(&spare_lock):
        for number in range(SPARE_BLOCKS):
            if spare_blocks[number] == NULL:
                least = number
                break
            if spare_bytes[number] < spare_bytes[least]:
                least = number
        if spare_blocks[least] == NULL or spare_bytes[least] <= size:
            old = spare_blocks[least]
            spare_blocks[least] = block
            spare_bytes[least] = size
        ec_lock_release(&spare_lock)
    free(old)
