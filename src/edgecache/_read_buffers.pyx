"""Memory that reads from the disk land in (see _read_buffers.pxd).

Source: madvise(2), MADV_HUGEPAGE; io_uring_register(2) on the cost of looking pages up.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free

from edgecache._sync cimport ec_lock_acquire, ec_lock_release

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef extern from *:
    """
    #include <sys/mman.h>
    /* Aligned to its own size, so that one huge page can hold it. */
    static inline char *ec_pool_map(size_t size) {
        char *area = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        size_t before;
        if (area == MAP_FAILED) return NULL;
        before = (size - (size_t)area % size) % size;
        if (before) munmap(area, before);
        munmap(area + before + size, size - before);
        area += before;
        madvise(area, size, MADV_HUGEPAGE);     /* a wish: small pages serve as well */
        madvise(area, size, MADV_DONTDUMP);
        return area;
    }
    static inline void ec_pool_unmap(char *area, size_t size) { munmap(area, size); }
    static inline uint32_t ec_low_bit(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }
    """
    char* ec_pool_map(size_t size) noexcept nogil
    void ec_pool_unmap(char* area, size_t size) noexcept nogil
    uint32_t ec_low_bit(uint64_t word) noexcept nogil

cdef enum:
    PAGE_BYTES = 4096
    WORD_SLOTS = 64
    WORDS = 4


cdef inline uint64_t slots_mask(uint32_t slots) noexcept nogil:
    return (<uint64_t>1 << slots) - 1


cdef int slots_find(ReadBuffers* self, uint32_t slots) noexcept nogil:
    """First slot of a free row of `slots`, all in one word; -1: none."""
    cdef uint32_t word, _step
    cdef uint64_t fits
    for word in range(WORDS):
        fits = ~self.taken[word]
        # Bit i stays while the bits i to i + slots - 1 are free.
        for _step in range(1, slots):
            fits &= fits >> 1
        if fits:
            return <int>(word * WORD_SLOTS + ec_low_bit(fits))
    return -1


cdef char* read_buffer_take(ReadBuffers* self, uint64_t size_bytes,
                            uint64_t* room_bytes) noexcept nogil:
    cdef uint32_t slots = <uint32_t>((size_bytes + READ_SLOT_BYTES - 1) // READ_SLOT_BYTES) \
        if size_bytes <= READ_SLOTS_MAX * READ_SLOT_BYTES else 0
    cdef char* buffer = NULL
    cdef int first = -1
    if slots > 0:
        ec_lock_acquire(&self.lock)
        if self.base == NULL and not self.is_refused:
            self.base = ec_pool_map(READ_POOL_BYTES)
            self.is_refused = self.base == NULL
        if self.base != NULL:
            first = slots_find(self, slots)
        if first >= 0:
            self.taken[first // WORD_SLOTS] |= slots_mask(slots) << (first % WORD_SLOTS)
        ec_lock_release(&self.lock)
    if first >= 0:
        room_bytes[0] = <uint64_t>slots * READ_SLOT_BYTES
        return self.base + <uint64_t>first * READ_SLOT_BYTES
    if posix_memalign(<void**>&buffer, PAGE_BYTES, max(size_bytes, <uint64_t>PAGE_BYTES)) != 0:
        return NULL
    room_bytes[0] = max(size_bytes, <uint64_t>PAGE_BYTES)
    return buffer


cdef void read_buffer_give(ReadBuffers* self, char* buffer, uint64_t room_bytes) noexcept nogil:
    cdef uint64_t place = <uint64_t>(<uintptr_t>buffer - <uintptr_t>self.base)
    cdef uint64_t first = place // READ_SLOT_BYTES
    if buffer == NULL:
        return
    if self.base == NULL or place >= READ_POOL_BYTES:
        free(buffer)
        return
    ec_lock_acquire(&self.lock)
    self.taken[first // WORD_SLOTS] &= \
        ~(slots_mask(<uint32_t>(room_bytes // READ_SLOT_BYTES)) << (first % WORD_SLOTS))
    ec_lock_release(&self.lock)


cdef void read_buffers_close(ReadBuffers* self) noexcept nogil:
    if self.base != NULL:
        ec_pool_unmap(self.base, READ_POOL_BYTES)
        self.base = NULL
