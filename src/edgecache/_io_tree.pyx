"""Names of real files, and the space in use (see _io_tree.pxd).

Source: renameat2(2) for RENAME_EXCHANGE and where it is missing; stat(2) for st_blocks, which are
512 bytes each whatever the block size is; readdir(3).
"""

from libc.errno cimport EBADF, ECHILD, EINVAL, EISDIR, EMLINK, ENOSYS, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

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
    #include <dirent.h>
    #include <fcntl.h>
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
    ctypedef struct dirent_t "struct dirent":
        char* d_name
    ctypedef struct DIR:
        pass
    int O_RDONLY, O_NOFOLLOW, O_CLOEXEC, O_DIRECTORY, AT_REMOVEDIR
    int c_openat "openat"(int directory, const char* name, int flags) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int c_fsync "fsync"(int fd) noexcept nogil
    int c_unlinkat "unlinkat"(int directory, const char* name, int flags) noexcept nogil
    int c_renameat "renameat"(int source_directory, const char* source, int target_directory,
                              const char* target) noexcept nogil
    int c_linkat "linkat"(int source_directory, const char* source, int target_directory,
                          const char* target, int flags) noexcept nogil
    int c_mkdirat "mkdirat"(int directory, const char* name, int mode) noexcept nogil
    DIR* c_fdopendir "fdopendir"(int fd) noexcept nogil
    dirent_t* c_readdir "readdir"(DIR* directory) noexcept nogil
    int c_closedir "closedir"(DIR* directory) noexcept nogil


cdef int directory_open(IoFileSystem* fs, const char* name) noexcept nogil:
    """Readable descriptor of a directory below the root ("" is the root), or -errno."""
    cdef const char* leaf = NULL
    cdef int directory, parent
    if name[0] == 0:
        if fs.root < 0 or io_forked(fs):
            return -EBADF if fs.root < 0 else -ECHILD
        # A fresh description: a duplicate would share its read position with other listers.
        directory = c_openat(fs.root, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        return directory if directory >= 0 else -errno
    parent = io_parent_open(fs, name, &leaf)
    if parent < 0:
        return parent
    directory = c_openat(parent, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    if directory < 0:
        directory = -errno
    io_parent_close(fs, parent)
    return directory


cdef int name_unlink(void* engine, const char* name) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef const char* leaf = NULL
    cdef int parent, result
    parent = io_parent_open(fs, name, &leaf)
    if parent < 0:
        return parent
    result = 0 if c_unlinkat(parent, leaf, 0) == 0 else -errno
    if result == -EISDIR:
        result = 0 if c_unlinkat(parent, leaf, AT_REMOVEDIR) == 0 else -errno
    io_parent_close(fs, parent)
    return result


cdef struct Pair:                   # the directories of two names, and the names in them
    int source
    int target
    const char* source_leaf
    const char* target_leaf


cdef int pair_open(IoFileSystem* fs, const char* source, const char* target,
                   Pair* pair) noexcept nogil:
    """Open both directories; 0 or a negative errno, and then neither is open."""
    pair.source = io_parent_open(fs, source, &pair.source_leaf)
    if pair.source < 0:
        return pair.source
    pair.target = io_parent_open(fs, target, &pair.target_leaf)
    if pair.target < 0:
        io_parent_close(fs, pair.source)
        return pair.target
    return 0


cdef void pair_close(IoFileSystem* fs, const Pair* pair) noexcept nogil:
    io_parent_close(fs, pair.source)
    io_parent_close(fs, pair.target)


cdef int name_rename(void* engine, const char* source, const char* target) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef Pair pair
    cdef int result = pair_open(fs, source, target, &pair)
    if result < 0:
        return result
    if c_renameat(pair.source, pair.source_leaf, pair.target, pair.target_leaf) != 0:
        result = -errno
    pair_close(fs, &pair)
    return result


cdef int name_make_directory(void* engine, const char* name) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef const char* leaf = NULL
    cdef int parent, result
    parent = io_parent_open(fs, name, &leaf)
    if parent < 0:
        return parent
    result = 0 if c_mkdirat(parent, leaf, 0o700) == 0 else -errno
    io_parent_close(fs, parent)
    return result


cdef int name_sync_directory(void* engine, const char* name) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef int directory, result
    directory = directory_open(fs, name)
    if directory < 0:
        return directory
    result = 0 if c_fsync(directory) == 0 else -errno
    c_close(directory)
    return result


cdef int64_t name_list_directory(void* engine, const char* name, char* out,
                                 uint64_t out_bytes) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef int descriptor
    cdef DIR* directory
    cdef dirent_t* entry
    cdef uint64_t needed = 0, length
    cdef int64_t result
    descriptor = directory_open(fs, name)
    if descriptor < 0:
        return descriptor
    directory = c_fdopendir(descriptor)
    if directory == NULL:
        result = -errno
        c_close(descriptor)
        return result
    (&errno)[0] = 0
    while True:
        entry = c_readdir(directory)
        if entry == NULL:
            break
        if entry.d_name[0] == c"." and (entry.d_name[1] == 0 or (
                entry.d_name[1] == c"." and entry.d_name[2] == 0)):
            continue
        length = strlen(entry.d_name) + 1
        if needed + length <= out_bytes:
            memcpy(out + needed, entry.d_name, length)
        needed += length
    result = -errno if errno != 0 else <int64_t>needed
    c_closedir(directory)
    return result


cdef int name_exchange(void* engine, const char* source, const char* target) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef Pair pair
    cdef int result = pair_open(fs, source, target, &pair)
    if result < 0:
        return result
    if ec_exchange(pair.source, pair.source_leaf, pair.target, pair.target_leaf) != 0:
        # Names that renameat2 would refuse by EINVAL cannot come here: no "." and, of ours, no
        # directory below the other one. So it is the flag that is unknown.
        result = -EOPNOTSUPP if errno in (ENOSYS, EINVAL) else -errno
    pair_close(fs, &pair)
    return result


cdef int name_link(void* engine, const char* source, const char* target) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef Pair pair
    cdef int result = pair_open(fs, source, target, &pair)
    if result < 0:
        return result
    if c_linkat(pair.source, pair.source_leaf, pair.target, pair.target_leaf, 0) != 0:
        # Source: link(2): EPERM where the file system has no links, EMLINK where it has no more.
        result = -EOPNOTSUPP if errno in (EPERM, EMLINK, ENOSYS) else -errno
    pair_close(fs, &pair)
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
    ops.unlink = name_unlink
    ops.rename = name_rename
    ops.exchange = name_exchange
    ops.link = name_link
    ops.make_directory = name_make_directory
    ops.sync_directory = name_sync_directory
    ops.list_directory = name_list_directory
    ops.allocated_bytes = file_allocated
