"""Kernel: the smallest unit that a direct read of a file may have.

Writes keep to pages (IO_ALIGNMENT): a device with sectors of 512 bytes still works in pages, and a
write below one costs it a read. A read of the sectors that are wanted costs it no more than they
are.

Source: statx(2), STATX_DIOALIGN (Linux 6.1). The structure and its constants are ABI; the headers
of older systems lack the last fields, so it is read by its offsets.
"""

from libc.stdint cimport uint32_t

from edgecache._io cimport (
    IO_ALIGNMENT, IoFile, IoFileSystem, io_file_acquire, io_file_release, io_forked,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* 0: the kernel does not say. */
    static inline uint32_t ec_direct_unit(int fd) {
        union { uint8_t bytes[256]; uint32_t words[64]; } found = {{0}};
        if (syscall(SYS_statx, fd, "", 0x1000 /* AT_EMPTY_PATH */, 0x2000, &found) != 0) return 0;
        if (!(found.words[0] & 0x2000) || found.words[38] == 0) return 0;
        return found.words[39];                     /* stx_dio_offset_align, at byte 156 */
    }
    """
    uint32_t ec_direct_unit(int fd) noexcept nogil

cdef enum:
    IO_SECTOR_BYTES = 512               # smallest logical block of any device

cdef inline uint32_t io_read_unit(int descriptor) noexcept nogil:
    """Of a file that is open for direct transfers."""
    cdef uint32_t unit = ec_direct_unit(descriptor)
    if IO_SECTOR_BYTES <= unit <= IO_ALIGNMENT and unit & (unit - 1) == 0:
        return unit
    return IO_ALIGNMENT

# `read_alignment` of engines on real files.
cdef inline uint32_t io_file_read_alignment(void* engine, uint32_t index) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file = NULL if io_forked(fs) else io_file_acquire(fs, index)
    cdef uint32_t unit = IO_ALIGNMENT
    if file != NULL:
        unit = file.read_alignment_bytes
        io_file_release(fs, index)
    return unit
