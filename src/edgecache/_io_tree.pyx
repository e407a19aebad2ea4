"""Swapping names and space in use, on real files (see _io_tree.pxd).

Source: renameat2(2) for RENAME_EXCHANGE and where it is missing; stat(2) for st_blocks, which are
512 bytes each whatever the block size is.
"""

from libc.errno cimport EBADF, ECHILD, EINVAL, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint32_t

from edgecache._io cimport (
    IoEngineOps,
    IoFile,
    IoFileSystem,
    io_file_acquire,
    io_file_release,
    io_forked,
    io_parent_close,
    io_parent_open,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* Not in older headers; the value is kernel ABI (include/uapi/linux/fs.h). */
    #define EC_RENAME_EXCHANGE (1u << 1)

    static inline int ec_exchange(int source_directory, const char *source, int target_directory,
                                  const char *target) {
        return (int)syscall(SYS_renameat2, source_directory, source, target_directory, target,
                            EC_RENAME_EXCHANGE);
    }
    static inline int64_t ec_allocated(int fd) {
        struct stat status;
        return fstat(fd, &status) == 0 ? (int64_t)status.st_blocks * 512 : -1;
    }
    """
    int ec_exchange(int source_directory, const char* source, int target_directory,
                    const char* target) noexcept nogil
    int64_t ec_allocated(int fd) noexcept nogil


cdef int name_exchange(void* engine, const char* source, const char* target) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef const char* source_leaf = NULL
    cdef const char* target_leaf = NULL
    cdef int source_parent, target_parent, result
    source_parent = io_parent_open(fs, source, &source_leaf)
    if source_parent < 0:
        return source_parent
    target_parent = io_parent_open(fs, target, &target_leaf)
    if target_parent < 0:
        io_parent_close(fs, source_parent)
        return target_parent
    result = 0
    if ec_exchange(source_parent, source_leaf, target_parent, target_leaf) != 0:
        # Names that renameat2 would refuse by EINVAL cannot come here: no "." and, of ours, no
        # directory below the other one. So it is the flag that is unknown.
        result = -EOPNOTSUPP if errno in (ENOSYS, EINVAL) else -errno
    io_parent_close(fs, source_parent)
    io_parent_close(fs, target_parent)
    return result


cdef int64_t file_allocated(void* engine, uint32_t index) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file
    cdef int64_t result
    if io_forked(fs):
        return -ECHILD
    file = io_file_acquire(fs, index)
    if file == NULL:
        return -EBADF
    result = ec_allocated(file.descriptor)
    if result < 0:
        result = -errno
    io_file_release(fs, index)
    return result


cdef void io_tree_ops(IoEngineOps* ops) noexcept nogil:
    ops.exchange = name_exchange
    ops.allocated_bytes = file_allocated
