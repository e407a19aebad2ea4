"""Kernel: memory behind the pages of a mapping, taken and given back.

The arena may be private memory, a memfd, or a file in /dev/shm. In the last one memory may run out
while the mapping is there, and the process that touches such a page gets SIGBUS: so whoever is
about to use new pages of it asks for them first (`pages_back`).

Source: madvise(2), MADV_POPULATE_WRITE (Linux 5.14), MADV_REMOVE.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <stdint.h>
    #include <sys/mman.h>

    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif

    /* Memory for all pages that the bytes lie in; 0, or a negative errno: -EFAULT, -ENOMEM: there
     * is none; -EINVAL: the kernel does not know how. */
    static inline int pages_back(char *start, uint64_t size_bytes) {
        uint64_t before = (uint64_t)start & 4095;
        int result;
        if (size_bytes == 0) return 0;
        do {
            result = madvise(start - before, (size_bytes + before + 4095) & ~(uint64_t)4095,
                             MADV_POPULATE_WRITE);
        } while (result != 0 && (errno == EINTR || errno == EAGAIN));
        return result == 0 ? 0 : -errno;
    }

    /* The memory goes back; the pages read as zeros from then on. A shared mapping keeps it until a
     * hole is punched (MADV_REMOVE); a private one refuses that, and forgets on MADV_DONTNEED. */
    static inline int pages_discard(char *start, uint64_t size_bytes) {
        if (madvise(start, size_bytes, MADV_REMOVE) == 0) return 0;
        return madvise(start, size_bytes, MADV_DONTNEED);
    }
    """
    int pages_back(char* start, uint64_t size_bytes) noexcept nogil
    int pages_discard(char* start, uint64_t size_bytes) noexcept nogil
