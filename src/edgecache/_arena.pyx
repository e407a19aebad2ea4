"""The arena's mapping (see _arena.pxd)."""

from libc.errno cimport errno
from libc.stdint cimport uint64_t

cdef extern from "sys/mman.h" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int file, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_FIXED
        MAP_PRIVATE
        MAP_SHARED
        MAP_ANONYMOUS
        MAP_NORESERVE
        MADV_DONTDUMP
        MADV_HUGEPAGE
    void* MAP_FAILED

cdef extern from *:
    """
    #define _GNU_SOURCE
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>

    static int ec_make_memfd(uint64_t size) {
        int file = memfd_create("edgecache", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        int error;
        if (file < 0) return -errno;
        if (fchmod(file, 0600) == 0 && ftruncate(file, (off_t)size) == 0 &&
            fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
            return file;
        error = errno;
        close(file);
        return -error;
    }
    """
    int ec_make_memfd(uint64_t size) noexcept nogil

cdef extern from "unistd.h" nogil:
    int close(int file)


cdef int arena_make_memfd(uint64_t size_bytes) noexcept nogil:
    return ec_make_memfd(size_bytes)


cdef class Arena:

    def __cinit__(self, uint64_t size_bytes, int descriptor=-1) -> None:
        """Map `size_bytes` of zeroed memory, or of the file `descriptor`, which it takes over.

        Raises:
            MemoryError: the address space is not to be had (see `ulimit -v`).
        """
        cdef void* base
        cdef uint64_t before
        self.base = NULL
        self.descriptor = descriptor
        # So that what is aligned in the arena is aligned in memory, up to the size of huge pages.
        base = mmap(NULL, size_bytes + ARENA_ALIGNMENT, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError(
                f"cannot reserve {size_bytes} bytes of address space for the cache; "
                "lower `memory`, or raise the limit (ulimit -v)")
        before = -<uint64_t>base & (ARENA_ALIGNMENT - 1)
        if before:
            munmap(base, before)
        self.base = <char*>base + before
        self.size_bytes = size_bytes
        munmap(self.base + size_bytes, ARENA_ALIGNMENT - before)
        if descriptor >= 0 and mmap(self.base, size_bytes, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, descriptor,
                                    0) == MAP_FAILED:
            raise MemoryError(f"cannot map {size_bytes} bytes of the shared arena")
        # A core dump would hold every cached value.
        madvise(self.base, size_bytes, MADV_DONTDUMP)

    cdef int part(self) noexcept nogil:
        # One call: no thread ever sees the range unmapped.
        if mmap(self.base, self.size_bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, self.descriptor, 0) == MAP_FAILED:
            return -errno
        madvise(self.base, self.size_bytes, MADV_DONTDUMP)
        return 0

    def __dealloc__(self) -> None:
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
        if self.descriptor >= 0:
            close(self.descriptor)

    cdef void use_huge_pages(self, uint64_t offset, uint64_t size_bytes) noexcept:
        cdef uint64_t start = (offset + ARENA_ALIGNMENT - 1) & ~<uint64_t>(ARENA_ALIGNMENT - 1)
        cdef uint64_t end = (offset + size_bytes) & ~<uint64_t>(ARENA_ALIGNMENT - 1)
        # A kernel without huge pages refuses, and small ones serve.
        if start < end:
            madvise(self.base + start, end - start, MADV_HUGEPAGE)
