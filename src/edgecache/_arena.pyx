"""The arena's mapping (see _arena.pxd)."""

from libc.stdint cimport uint64_t

cdef extern from "sys/mman.h" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int file, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
        MADV_DONTDUMP
        MADV_DONTFORK
    void* MAP_FAILED


cdef class Arena:

    def __cinit__(self, uint64_t size_bytes) -> None:
        """Map `size_bytes` of zeroed memory.

        Raises:
            MemoryError: the address space is not to be had (see `ulimit -v`).
        """
        cdef void* base
        self.base = NULL
        base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError(
                f"cannot reserve {size_bytes} bytes of address space for the cache; "
                "lower `memory`, or raise the limit (ulimit -v)")
        self.base = <char*>base
        self.size_bytes = size_bytes
        # A core dump would hold every cached value.
        madvise(base, size_bytes, MADV_DONTDUMP)

    def __dealloc__(self) -> None:
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
