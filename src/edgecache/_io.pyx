"""I/O: continuation of transfers, the table of real files, and the choice of an engine.

Source: pread(2), pwrite(2), open(2), openat2(2), fallocate(2), io_uring_prep_read(3) for what may
come back short; path_resolution(7) for the walk by components.
"""

from libc.errno cimport (
    EAGAIN, EBADF, ECHILD, EINTR, EINVAL, EIO, EISDIR, EMFILE, ENOMEM, ENOSYS,
    EOPNOTSUPP, EPERM, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._io_align cimport io_file_read_alignment, io_read_unit
from edgecache._sync cimport (
    ec_add_u32, ec_cas_u32, ec_count, ec_load_u32, ec_load_u64, ec_lock_acquire, ec_lock_release,
    ec_monotonic_ns, ec_store_u32,
)

import errno as errno_names
import logging
import os

cdef extern from *:
    """
    #include <fcntl.h>
    #include <sched.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* Not in older headers; the values are kernel ABI (include/uapi/linux/openat2.h). */
    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif
    #ifndef MADV_WIPEONFORK
    #define MADV_WIPEONFORK 18
    #endif
    #define EC_RESOLVE_NO_SYMLINKS 0x04u
    #define EC_RESOLVE_BENEATH 0x08u

    static inline int ec_openat2(int directory, const char *name, int flags, int mode) {
        struct { uint64_t flags, mode, resolve; } how = {
            (uint64_t)(unsigned)flags, (uint64_t)mode, EC_RESOLVE_NO_SYMLINKS | EC_RESOLVE_BENEATH};
        return (int)syscall(SYS_openat2, directory, name, &how, sizeof how);
    }
    static inline int ec_openat(int directory, const char *name, int flags, int mode) {
        return openat(directory, name, flags, mode);
    }
    static inline int ec_set_status(int fd, int flags) { return fcntl(fd, F_SETFL, flags); }
    static inline int ec_is_regular(const struct stat *s) { return S_ISREG(s->st_mode); }
    static inline int ec_is_directory(const struct stat *s) { return S_ISDIR(s->st_mode); }

    /* A private page that a child gets as zeros: one load tells the parent from a child. */
    static inline uint32_t *ec_fork_mark_new(void) {
        uint32_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                              -1, 0);
        if (page == MAP_FAILED) return NULL;
        if (madvise(page, 4096, MADV_WIPEONFORK) != 0) {
            munmap(page, 4096);
            return NULL;
        }
        *page = 1;
        return page;
    }
    static inline void ec_fork_mark_free(uint32_t *page) { if (page) munmap(page, 4096); }
    """
    ctypedef struct stat_t "struct stat":
        int64_t st_size
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_DIRECT, O_NOFOLLOW, O_CLOEXEC, O_DIRECTORY
    int O_PATH, O_NONBLOCK, SEEK_DATA, SEEK_HOLE
    int ec_openat2(int directory, const char* name, int flags, int mode) noexcept nogil
    int ec_openat(int directory, const char* name, int flags, int mode) noexcept nogil
    int ec_set_status(int fd, int flags) noexcept nogil
    int ec_is_regular(const stat_t* status) noexcept nogil
    int ec_is_directory(const stat_t* status) noexcept nogil
    uint32_t* ec_fork_mark_new() noexcept nogil
    void ec_fork_mark_free(uint32_t* page) noexcept nogil
    int c_open "open"(const char* name, int flags) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int c_dup "dup"(int fd) noexcept nogil
    int c_fstat "fstat"(int fd, stat_t* out) noexcept nogil
    int c_fsync "fsync"(int fd) noexcept nogil
    int c_fdatasync "fdatasync"(int fd) noexcept nogil
    int c_ftruncate "ftruncate"(int fd, int64_t size) noexcept nogil
    int c_fallocate "fallocate"(int fd, int mode, int64_t offset, int64_t size) noexcept nogil
    int64_t c_lseek "lseek"(int fd, int64_t offset, int whence) noexcept nogil
    int64_t c_pread "pread"(int fd, void* buffer, size_t length, int64_t offset) noexcept nogil
    int64_t c_pwrite "pwrite"(int fd, const void* buffer, size_t length,
                              int64_t offset) noexcept nogil
    int c_getpid "getpid"() noexcept nogil
    int c_sched_yield "sched_yield"() noexcept nogil

cdef enum:
    SECTOR_BYTES = 512              # smallest logical block; a direct read stops inside one only
    ZERO_CHUNK_BYTES = 65536        # at the end of the file


# ---- one place for short transfers, EINTR and EAGAIN -------------------------------------------

cdef bint io_advance(IoRequest* request, int64_t outcome, uint32_t alignment_bytes,
                     IoStats* stats) noexcept nogil:
    cdef uint64_t moved
    if outcome == -EINTR or outcome == -EAGAIN:
        ec_count(&stats.interruptions, 1)
        if request.state < IO_RETRY_MAX:
            request.state += 1
            return False
    if outcome == -EINVAL and request.moved_bytes % alignment_bytes != 0:
        # A direct transfer cannot begin here. A read: the file ends between two blocks of the
        # device. A write: the started block is written again.
        outcome = 0
        if request.operation == IO_WRITE:
            request.moved_bytes -= request.moved_bytes % alignment_bytes
    if outcome < 0 or request.operation == IO_SYNC:
        request.result = outcome if outcome < 0 else 0
        return True
    moved = request.moved_bytes + <uint64_t>outcome
    if moved >= request.length_bytes or (outcome == 0 and request.operation == IO_READ):
        request.moved_bytes = <uint32_t>moved
        request.result = <int64_t>moved
        return True
    if alignment_bytes > 1 and request.operation == IO_READ and moved % SECTOR_BYTES != 0:
        request.moved_bytes = <uint32_t>moved
        request.result = <int64_t>moved
        return True
    ec_count(&stats.short_transfers, 1)
    if request.operation == IO_WRITE:
        moved -= moved % min(alignment_bytes, <uint32_t>SECTOR_BYTES)
    if moved > request.moved_bytes:
        request.state = 0
    elif request.state >= IO_RETRY_MAX:
        request.result = -EIO
        return True
    else:
        request.state += 1
    request.moved_bytes = <uint32_t>moved
    return False


cdef void io_file_perform(IoFileSystem* fs, IoFile* file, IoRequest* request) noexcept nogil:
    cdef int64_t outcome
    cdef uint32_t moved
    while True:
        moved = request.moved_bytes
        if request.operation == IO_READ:
            outcome = c_pread(file.descriptor, request.buffer + moved,
                              request.length_bytes - moved, request.offset_bytes + moved)
        elif request.operation == IO_WRITE:
            outcome = c_pwrite(file.descriptor, request.buffer + moved,
                               request.length_bytes - moved, request.offset_bytes + moved)
        elif request.operation == IO_SYNC:
            outcome = c_fdatasync(file.descriptor)
        else:
            request.result = -EINVAL
            return
        if outcome < 0:
            outcome = -errno
        if io_advance(request, outcome, file.alignment_bytes, &fs.stats):
            return
        if request.state > 0:
            c_sched_yield()


# ---- names ---------------------------------------------------------------------------------------

cdef int io_parent_open(IoFileSystem* fs, const char* name, const char** leaf) noexcept nogil:
    cdef char[256] component
    cdef int directory = fs.root
    cdef int below
    cdef size_t length
    cdef int depth = io_name_check(name)
    if depth < 0 or io_forked(fs):
        return depth if depth < 0 else -ECHILD
    if directory < 0:
        return -EBADF
    while depth > 1:
        length = 0
        while name[length] != c"/":
            length += 1
        memcpy(component, name, length)
        component[length] = 0
        below = ec_openat(directory, component, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
        if below < 0:
            below = -errno
        io_parent_close(fs, directory)
        if below < 0:
            return below
        directory = below
        name += length + 1
        depth -= 1
    leaf[0] = name
    return directory


cdef void io_parent_close(IoFileSystem* fs, int directory) noexcept nogil:
    if directory != fs.root:
        c_close(directory)


# ---- the file table ------------------------------------------------------------------------------

cdef bint io_forked(IoFileSystem* fs) noexcept nogil:
    if fs.fork_mark != NULL:
        return fs.fork_mark[0] == 0
    return c_getpid() != fs.process


cdef IoFile* io_file_acquire(IoFileSystem* fs, uint32_t index) noexcept nogil:
    cdef IoFile* file = io_file_at(fs, index)
    if file == NULL:
        return NULL
    if ec_add_u32(&file.word, 1) & IO_FILE_OPEN:
        return file
    io_file_release(fs, index)
    return NULL


cdef void io_file_check(IoFile* file) noexcept nogil:
    cdef uint32_t word = ec_load_u32(&file.word)
    ec_assert(not (word & IO_FILE_OPEN and word & IO_FILE_CLOSING), b"file 1")
    ec_assert(not word & (IO_FILE_OPEN | IO_FILE_CLOSING) or file.descriptor >= 0, b"file 2")


cdef void io_file_release(IoFileSystem* fs, uint32_t index) noexcept nogil:
    cdef IoFile* file = io_file_at(fs, index)
    if EDGECACHE_DEBUG:
        io_file_check(file)
    if ec_add_u32(&file.word, 0xffffffff) == IO_FILE_CLOSING:
        file_retire(fs, file, index)


cdef inline int file_pin(IoFileSystem* fs, uint32_t index, IoFile** file) noexcept nogil:
    if io_forked(fs):
        return -ECHILD
    file[0] = io_file_acquire(fs, index)
    return -EBADF if file[0] == NULL else 0


cdef void file_retire(IoFileSystem* fs, IoFile* file, uint32_t index) noexcept nogil:
    cdef int descriptor = file.descriptor
    if not ec_cas_u32(&file.word, IO_FILE_CLOSING, 0):
        return
    # The slot is free for reuse only after this, so nobody has overwritten `descriptor` yet.
    c_close(descriptor)
    ec_lock_acquire(&fs.lock)
    file.descriptor = -1
    file.next_free = fs.free_head
    fs.free_head = index + 1
    fs.open_files -= 1
    ec_lock_release(&fs.lock)


cdef int file_install(IoFileSystem* fs, int descriptor, uint32_t alignment_bytes) noexcept nogil:
    """Give an open descriptor an index; -EMFILE or -ENOMEM when there is none."""
    cdef uint32_t index
    cdef IoFile* file
    cdef IoFile* chunk
    cdef IoFile* spare = NULL
    ec_lock_acquire(&fs.lock)
    while fs.free_head == 0:
        index = fs.file_count
        if index >= IO_FILES_PER_CHUNK * IO_FILE_CHUNKS:
            ec_lock_release(&fs.lock)
            free(spare)
            return -EMFILE
        if fs.chunks[index // IO_FILES_PER_CHUNK] != NULL:
            fs.chunks[index // IO_FILES_PER_CHUNK][index % IO_FILES_PER_CHUNK].next_free = 0
            fs.free_head = index + 1
            ec_store_u32(&fs.file_count, index + 1)
        elif spare != NULL:
            fs.chunks[index // IO_FILES_PER_CHUNK] = spare
            spare = NULL
        else:
            ec_lock_release(&fs.lock)
            chunk = <IoFile*>calloc(IO_FILES_PER_CHUNK, sizeof(IoFile))
            if chunk == NULL:
                return -ENOMEM
            spare = chunk
            ec_lock_acquire(&fs.lock)
    index = fs.free_head - 1
    file = &fs.chunks[index // IO_FILES_PER_CHUNK][index % IO_FILES_PER_CHUNK]
    fs.free_head = file.next_free
    fs.open_files += 1
    ec_lock_release(&fs.lock)
    free(spare)
    file.descriptor = descriptor
    file.alignment_bytes = alignment_bytes
    file.read_alignment_bytes = io_read_unit(descriptor) if alignment_bytes > 1 else 1
    ec_store_u32(&file.generation, file.generation + 1)
    # Added, not stored: a stray lookup may hold a user on the free slot for a moment.
    ec_add_u32(&file.word, IO_FILE_OPEN)
    return <int>index


cdef int file_open(void* engine, const char* name, int flags) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef int mode = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK     # a FIFO must not block the open
    cdef const char* leaf = NULL
    cdef int parent, descriptor, index
    cdef uint32_t alignment_bytes = 1
    cdef stat_t status
    if io_forked(fs):
        return -ECHILD
    index = io_name_check(name)
    if index < 0:
        return index
    mode |= O_RDWR if flags & IO_OPEN_WRITE else O_RDONLY
    if flags & IO_OPEN_CREATE:
        mode |= O_CREAT
        if flags & IO_OPEN_EXCLUSIVE:
            mode |= O_EXCL
    if flags & IO_OPEN_TRUNCATE:
        mode |= O_TRUNC
    descriptor = -1
    if fs.has_openat2:
        descriptor = ec_openat2(fs.root, name, mode, 0o600 if mode & O_CREAT else 0)
        if descriptor < 0 and (errno == ENOSYS or errno == EPERM):
            fs.has_openat2 = False      # a sandbox may forbid it; the walk below needs no openat2
        elif descriptor < 0 and errno != EAGAIN:     # EAGAIN: a rename ran meanwhile
            return -errno
    if descriptor < 0:
        parent = io_parent_open(fs, name, &leaf)
        if parent < 0:
            return parent
        descriptor = ec_openat(parent, leaf, mode, 0o600)
        if descriptor < 0:
            descriptor = -errno
        io_parent_close(fs, parent)
        if descriptor < 0:
            return descriptor
    if c_fstat(descriptor, &status) != 0 or not ec_is_regular(&status):
        c_close(descriptor)
        return -EISDIR if ec_is_directory(&status) else -EINVAL
    # Set afterwards: open(2) with O_DIRECT may create the file and still fail. O_NONBLOCK must go,
    # io_uring would answer EAGAIN instead of waiting for the device.
    mode = O_RDWR if flags & IO_OPEN_WRITE else O_RDONLY
    if flags & IO_OPEN_DIRECT and fs.direct:
        if ec_set_status(descriptor, mode | O_DIRECT) == 0:
            alignment_bytes = IO_ALIGNMENT
        else:
            ec_count(&fs.stats.direct_refused, 1)
    if alignment_bytes == 1 and ec_set_status(descriptor, mode) != 0:
        index = -errno
        c_close(descriptor)
        return index
    index = file_install(fs, descriptor, alignment_bytes)
    if index < 0:
        c_close(descriptor)
    return index


cdef int file_close(void* engine, uint32_t index) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file = io_file_at(fs, index)
    cdef uint32_t word
    if io_forked(fs):
        return -ECHILD
    if file == NULL:
        return -EBADF
    while True:
        word = ec_load_u32(&file.word)
        if not word & IO_FILE_OPEN:
            return -EBADF
        if ec_cas_u32(&file.word, word, (word & ~<uint32_t>IO_FILE_OPEN) | IO_FILE_CLOSING):
            break
    ec_add_u32(&fs.closes, 1)
    if word == IO_FILE_OPEN:
        file_retire(fs, file, index)
    return 0


cdef int64_t file_size(void* engine, uint32_t index) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file = NULL
    cdef stat_t status
    cdef int64_t result = file_pin(fs, index, &file)
    if result < 0:
        return result
    result = -errno if c_fstat(file.descriptor, &status) != 0 else status.st_size
    io_file_release(fs, index)
    return result


cdef int zeros_write(IoFileSystem* fs, IoFile* file, uint64_t begin, uint64_t end) noexcept nogil:
    """Write zeros over a hole of a buffered description; 0 or -errno."""
    cdef char* zeros = <char*>calloc(1, ZERO_CHUNK_BYTES)
    cdef IoRequest request
    if zeros == NULL:
        return -ENOMEM
    memset(&request, 0, sizeof(request))
    while begin < end and request.result >= 0:
        request.operation = IO_WRITE
        request.buffer = zeros
        request.offset_bytes = begin
        request.length_bytes = <uint32_t>min(end - begin, <uint64_t>ZERO_CHUNK_BYTES)
        io_begin(&request, NULL, 0)
        io_file_perform(fs, file, &request)
        begin += request.length_bytes
    free(zeros)
    return <int>request.result if request.result < 0 else 0


cdef int holes_fill(IoFileSystem* fs, IoFile* file, uint64_t size_bytes) noexcept nogil:
    """fallocate for a file system that has none: write zeros where nothing is stored yet."""
    cdef IoFile buffered = file[0]
    cdef int64_t position = 0
    cdef int64_t data
    cdef int result = 0
    # Holes begin and end at any byte, so O_DIRECT is off meanwhile.
    if file.alignment_bytes > 1 and ec_set_status(file.descriptor, O_RDWR) != 0:
        return -errno
    buffered.alignment_bytes = 1
    while result == 0 and <uint64_t>position < size_bytes:
        position = c_lseek(file.descriptor, position, SEEK_HOLE)
        if position < 0:
            position = c_lseek(file.descriptor, 0, 2)       # past the end: SEEK_END
        if position < 0:
            result = -errno
            break
        data = c_lseek(file.descriptor, position, SEEK_DATA)
        if data < 0 or <uint64_t>data > size_bytes:
            data = <int64_t>size_bytes
        if data > position:
            result = zeros_write(fs, &buffered, <uint64_t>position, <uint64_t>data)
        position = data
    if file.alignment_bytes > 1 and ec_set_status(file.descriptor, O_RDWR | O_DIRECT) != 0:
        return -errno
    return result


cdef int file_allocate(void* engine, uint32_t index, uint64_t size_bytes) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file = NULL
    cdef int result = file_pin(fs, index, &file)
    if result < 0:
        return result
    while True:
        result = -EOPNOTSUPP
        if size_bytes == 0 or size_bytes >> 63:
            result = -EINVAL
        elif not fs.refuse_fallocate:
            result = 0 if c_fallocate(file.descriptor, 0, 0, size_bytes) == 0 else -errno
        if result != -EINTR:
            break
    if result == -EOPNOTSUPP:
        result = holes_fill(fs, file, size_bytes)
    io_file_release(fs, index)
    return result


cdef int file_truncate(void* engine, uint32_t index, uint64_t size_bytes) noexcept nogil:
    cdef IoFileSystem* fs = <IoFileSystem*>engine
    cdef IoFile* file = NULL
    cdef int result = file_pin(fs, index, &file)
    if result < 0:
        return result
    while True:
        result = 0 if c_ftruncate(file.descriptor, size_bytes) == 0 else -errno
        if result != -EINTR:
            break
    io_file_release(fs, index)
    return result


cdef int64_t file_transfer(IoFileSystem* fs, uint8_t operation, uint32_t index, uint64_t offset,
                           char* buffer, uint32_t length) noexcept nogil:
    cdef IoRequest request
    cdef IoFile* file = NULL
    cdef int refused = file_pin(fs, index, &file)
    if refused < 0:
        return refused
    memset(&request, 0, sizeof(request))
    request.operation = operation
    request.offset_bytes = offset
    request.buffer = buffer
    request.length_bytes = length
    io_begin(&request, NULL, ec_monotonic_ns())
    io_file_perform(fs, file, &request)
    io_file_release(fs, index)
    io_stats_finish(&fs.stats, &request, ec_monotonic_ns())
    return request.result


cdef int64_t file_read(void* engine, uint32_t index, uint64_t offset, char* buffer,
                       uint32_t length) noexcept nogil:
    return file_transfer(<IoFileSystem*>engine, IO_READ, index, offset, buffer, length)


cdef int64_t file_write(void* engine, uint32_t index, uint64_t offset, const char* buffer,
                        uint32_t length) noexcept nogil:
    return file_transfer(<IoFileSystem*>engine, IO_WRITE, index, offset, <char*>buffer, length)


cdef int file_sync(void* engine, uint32_t index) noexcept nogil:
    return <int>file_transfer(<IoFileSystem*>engine, IO_SYNC, index, 0, NULL, 0)


cdef void io_file_system_ops(IoEngineOps* ops) noexcept nogil:
    ops.open_file = file_open
    ops.close_file = file_close
    ops.file_size = file_size
    ops.read_alignment = io_file_read_alignment
    ops.allocate = file_allocate
    ops.truncate = file_truncate
    ops.read = file_read
    ops.write = file_write
    ops.sync = file_sync


cdef int io_file_system_open(IoFileSystem* fs, const char* root, bint direct) noexcept nogil:
    """Open the root directory; `fs` is zeroed memory. Returns 0 or -errno."""
    fs.root = c_open(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    if fs.root < 0:
        return -errno
    fs.direct = direct
    fs.has_openat2 = True
    fs.process = c_getpid()
    fs.fork_mark = ec_fork_mark_new()
    return 0


cdef void io_file_system_close(IoFileSystem* fs) noexcept nogil:
    cdef uint32_t index
    for index in range(fs.file_count):
        file_close(fs, index)
    if fs.root >= 0:
        c_close(fs.root)
    fs.root = -1


cdef void io_file_system_free(IoFileSystem* fs) noexcept nogil:
    cdef int chunk
    for chunk in range(IO_FILE_CHUNKS):
        free(fs.chunks[chunk])
    ec_fork_mark_free(fs.fork_mark)


# ---- the engine object and the factory -----------------------------------------------------------

cdef dict operation_stats(IoStats* stats, int operation):
    cdef int bucket
    return {
        "finished": ec_load_u64(&stats.finished[operation]),
        "failed": ec_load_u64(&stats.failed[operation]),
        "bytes": ec_load_u64(&stats.moved_bytes[operation]),
        "latency_us_sum": ec_load_u64(&stats.latency_us[operation]),
        "latency_us_log2": [
            ec_load_u64(&stats.buckets[operation * IO_LATENCY_BUCKETS + bucket])
            for bucket in range(IO_LATENCY_BUCKETS)
        ],
    }


cdef class IoEngine:
    """Base of the three engines; made by `open_engine`.

    Thread-safety: `stats` and `close` may be called from any thread; `close` only once no other
    thread uses the engine. It is a no-op in a child of the opening process.
    """

    cdef object stats_dict(self):
        cdef IoStats* stats = self.counters
        if stats == NULL:
            return {"engine": self.name, "fallback_reason": self.fallback_reason}
        submitted = ec_load_u64(&stats.submitted)
        completed = ec_load_u64(&stats.completed)
        return {
            "engine": self.name,
            "fallback_reason": self.fallback_reason,
            "read": operation_stats(stats, IO_READ),
            "write": operation_stats(stats, IO_WRITE),
            "sync": operation_stats(stats, IO_SYNC),
            "errors": {
                errno_names.errorcode.get(code, "other"): ec_load_u64(&stats.failed_errno[code])
                for code in range(IO_ERRNO_COUNT)
                if ec_load_u64(&stats.failed_errno[code])
            },
            "short_transfers_continued": ec_load_u64(&stats.short_transfers),
            "interruptions_continued": ec_load_u64(&stats.interruptions),
            "submitted": submitted,
            "completed": completed,
            "in_flight": max(0, submitted - completed),
            "submit_calls": ec_load_u64(&stats.submit_calls),
            "fixed_transfers": ec_load_u64(&stats.fixed_transfers),
            "direct_refused": ec_load_u64(&stats.direct_refused),
            "iopoll_refused": ec_load_u64(&stats.iopoll_refused),
            "threads": 0,
        }

    cdef void shut(self) noexcept:
        pass

    def stats(self):
        """Return the engine's counters by name. Cost: copies about 100 integers."""
        return self.stats_dict()

    def close(self):
        """Close channels, threads, rings and files. Blocks for what is in flight; idempotent.

        Channels left open are closed and freed: their owners must not touch them again.
        """
        self.closed = True
        self.shut()


LOGGER = logging.getLogger("edgecache.io")
logged_reasons = set()


def log_fallback(str reason):
    """Log once per process and reason why the thread engine runs."""
    if reason not in logged_reasons:
        logged_reasons.add(reason)
        LOGGER.warning("io_uring is not used, the thread engine runs instead: %s", reason)


def open_engine(str kind="auto", root=None, *, int queue_depth=64, int threads=16,
                bint direct=True, bint sqpoll=False, bint iopoll=False, disk=None, int lock_fd=-1):
    """Open an I/O engine over a directory (or, for "memory", over a disk image).

    Args:
        kind: "uring", "threads", "memory", or "auto": uring where it works, else threads, with
            `fallback_reason` set and logged once.
        root: an existing directory; its last component must not be a symbolic link.
        queue_depth: requests in flight per channel when `channel_open` is given 0 (1 to 4096).
        threads: most threads of the thread engine (1 to 256), started as needed.
        direct: False opens every file buffered, whatever its flags.
        sqpoll, iopoll: opt in to kernel polling (uring only; they burn CPU).
        disk: `MemoryDisk` for "memory"; a new empty one by default.
        lock_fd: descriptor of a file that a flock(2) on the root was taken with; -1: none. Should
            the process be killed, the lock outlasts it until its last write has landed. (A
            thread in a system call holds every descriptor open by itself; for rings it is
            arranged, which takes Linux 5.19.)

    Raises:
        EngineUnavailableError: `kind` is "uring" and it cannot run; `reason` names why.
        OSError: the root cannot be opened. ValueError: an argument is out of range.

    The environment variable EDGECACHE_IO_FAIL (`no-liburing`, `setup:EPERM`, `enter:EBADF` ...)
    makes the probe of io_uring fail in that way, so that a fallback can be rehearsed.
    """
    if kind not in ("auto", "uring", "threads", "memory"):
        raise ValueError(f"io engine {kind!r}: expected auto, uring, threads or memory")
    if not 1 <= queue_depth <= 4096:
        raise ValueError(f"queue_depth {queue_depth}: expected 1 to 4096")
    if not 1 <= threads <= 256:
        raise ValueError(f"threads {threads}: expected 1 to 256")
    if kind == "memory":
        from edgecache._io_memory import open_memory
        return open_memory(disk, queue_depth)
    if root is None or disk is not None:
        raise ValueError(f"io engine {kind!r} needs a root directory and takes no disk")
    path = os.fsencode(root)
    reason = ""
    if kind != "threads":
        from edgecache._io_uring import open_uring
        engine, reason, hint = open_uring(path, queue_depth, direct, sqpoll, iopoll, lock_fd)
        if engine is not None:
            return engine
        if kind == "uring":
            from edgecache.errors import EngineUnavailableError
            raise EngineUnavailableError(
                f"io_uring cannot be used: {reason}", reason=reason, hint=hint)
        log_fallback(reason)
    from edgecache._io_threads import open_threads
    return open_threads(path, queue_depth, threads, direct, reason)
