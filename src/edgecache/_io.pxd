"""The I/O contract: one vtable of C functions, three engines (uring, threads, memory).

An engine owns a root directory and a table of open files in it. A *channel* is a submission and
completion context: one per thread or event loop that submits, never shared between threads.

Guarantees of every engine:

1. A transfer is whole or fails: short transfers, EINTR and EAGAIN are continued inside the engine
   (in one place, `io_advance` in `_io.pyx`). Reading past the end of a file completes with fewer
   bytes than asked. Only a device that answers EINTR, EAGAIN or "nothing moved" IO_RETRY_MAX times
   in a row without moving a byte is reported (with that errno, or EIO).
2. `request.result` is the number of bytes moved (0 for sync) or a negative errno. It is valid once
   the request came out of `reap`; until then request and buffer belong to the engine, whatever the
   submitter does. A caller that gives up must still reap before it frees.
3. `submit` never blocks on the device. It takes as many requests as there is room for and returns
   that number (possibly 0: reap first), or a negative errno when the channel is unusable. With a
   negative errno none of this call's requests was taken; those taken earlier complete with it.
4. Nothing here takes the GIL, raises or allocates Python objects (but constructors).
5. No completion is lost or reported twice. An idle engine uses no CPU.
6. `close_file` makes the index invalid at once (-EBADF); what was submitted before still completes
   on the file, which is closed after the last of them.
7. In a child of the process that opened the engine every call is refused with -ECHILD and nothing
   that the parent uses is touched.

Names are relative to the root, have at most IO_NAME_DEPTH_MAX components of 1 to 255 bytes, none
of them "." or ".."; no component may be a symbolic link. Files are regular, created 0600; anything
else at that name is refused (-ELOOP, -EISDIR, -EINVAL). Alignment: when `direct` was asked for at
open, offset, length and buffer address are multiples of 4096, those of a read at least of what
`read_alignment` says; the engines do not check this, the device does (EINVAL).

The caller keeps the IoEngine alive while it uses its channels, and closes the channels first.
"""

from libc.errno cimport EINVAL, ENAMETOOLONG
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._sync cimport ec_count, ec_load_u32

cdef enum IoOperation:
    IO_READ = 0
    IO_WRITE = 1
    IO_SYNC = 2                 # fdatasync of the file

cdef enum IoOpenFlags:
    IO_OPEN_READ = 0
    IO_OPEN_WRITE = 1           # read and write
    IO_OPEN_CREATE = 2
    IO_OPEN_EXCLUSIVE = 4       # with CREATE: -EEXIST when it exists
    IO_OPEN_TRUNCATE = 8
    IO_OPEN_DIRECT = 16         # O_DIRECT; falls back to buffered where the file system has none

cdef enum IoChannelFlags:
    IO_CHANNEL_EVENT_FD = 1     # the channel gets an eventfd (below)
    # Any thread may use it, one at a time; `submit` may leave what it took to the next `reap`.
    IO_CHANNEL_ANY_THREAD = 2

cdef enum:
    IO_NAME_DEPTH_MAX = 5
    IO_NAME_COMPONENT_MAX = 255     # NAME_MAX of every Linux file system
    IO_ALIGNMENT = 4096
    IO_RETRY_MAX = 250              # fits IoRequest.state
    IO_LATENCY_BUCKETS = 24         # bucket i: at most 2**i us; the last takes the rest (8 s)
    IO_ERRNO_COUNT = 134            # errno values 1 to 133 (include/uapi/asm-generic/errno.h)
    IO_FILES_PER_CHUNK = 256
    IO_FILE_CHUNKS = 256
    IO_FILE_OPEN = 0x80000000       # IoFile.word
    IO_FILE_CLOSING = 0x40000000

cdef struct IoEngineOps             # below; a channel points at it

cdef struct IoRequest:
    uint8_t operation           # IoOperation
    uint8_t state               # private to the engine: attempts since the last progress
    int16_t buffer_index   # >= 0: `buffer` lies in the registered region; else -1
    uint32_t file               # index from open_file
    uint64_t offset_bytes
    char* buffer
    uint32_t length_bytes
    uint32_t moved_bytes        # private to the engine: progress of a continued transfer
    int64_t result
    uint64_t user_data
    IoRequest* next             # private to the engine while in flight; the caller's otherwise
    void* channel               # private to the engine while in flight
    int64_t started_ns          # private to the engine

cdef struct IoChannel:          # engines embed this as the first member of their own channel
    IoEngineOps* ops
    void* engine                # the engine's state, as in IoEngineOps calls
    uint32_t depth              # most requests in flight
    uint32_t in_flight

cdef struct IoEngineOps:
    # Files. Return an index >= 0 or a negative errno.
    int (*open_file)(void* engine, const char* name, int flags) noexcept nogil
    int (*close_file)(void* engine, uint32_t file) noexcept nogil
    int64_t (*file_size)(void* engine, uint32_t file) noexcept nogil
    # Of offset and length of reads of this file: a power of two from 1 to IO_ALIGNMENT. Buffers
    # that start at a multiple of IO_ALIGNMENT always do.
    uint32_t (*read_alignment)(void* engine, uint32_t file) noexcept nogil
    # Bytes that the file occupies on the device: fewer than its size where it has holes.
    int64_t (*allocated_bytes)(void* engine, uint32_t file) noexcept nogil
    # Reserve [0, size) so that later writes cannot meet ENOSPC (posix_fallocate semantics).
    int (*allocate)(void* engine, uint32_t file, uint64_t size_bytes) noexcept nogil
    int (*truncate)(void* engine, uint32_t file, uint64_t size_bytes) noexcept nogil
    int (*unlink)(void* engine, const char* name) noexcept nogil    # a file or an empty directory
    int (*rename)(void* engine, const char* source, const char* target) noexcept nogil
    # Swap two names atomically, files or directories; both must exist. -EOPNOTSUPP: the file
    # system or the kernel has no such call.
    int (*exchange)(void* engine, const char* source, const char* target) noexcept nogil
    int (*make_directory)(void* engine, const char* name) noexcept nogil      # 0700
    int (*sync_directory)(void* engine, const char* name) noexcept nogil      # "" is the root
    # Fill `out` with NUL-terminated names, one after the other and in no particular order; returns
    # bytes needed. When that is more than out_bytes, ask again with more room.
    int64_t (*list_directory)(void* engine, const char* name, char* out,
                              uint64_t out_bytes) noexcept nogil

    # Synchronous whole transfers on the calling thread: bytes moved or a negative errno.
    int64_t (*read)(void* engine, uint32_t file, uint64_t offset, char* buffer,
                    uint32_t length) noexcept nogil
    int64_t (*write)(void* engine, uint32_t file, uint64_t offset, const char* buffer,
                     uint32_t length) noexcept nogil
    int (*sync)(void* engine, uint32_t file) noexcept nogil

    # Registered memory for DMA: at most once per engine; channels opened later use it.
    # Returns 0, or a negative errno after which buffer_index must stay -1.
    int (*register_buffer)(void* engine, char* base, uint64_t size_bytes) noexcept nogil

    # Channels. IO_CHANNEL_EVENT_FD: the channel gets an eventfd that is readable while completions
    # can be reaped (level triggered; reap clears it). depth 0: the engine's queue depth. The first
    # thread that submits owns the channel, without IO_CHANNEL_ANY_THREAD.
    int (*channel_open)(void* engine, uint32_t depth, uint32_t flags,
                        IoChannel** out) noexcept nogil
    # Waits for what is in flight; the requests have their results then. Any thread may call it,
    # once.
    void (*channel_close)(IoChannel* channel) noexcept nogil
    int (*submit)(IoChannel* channel, IoRequest** requests, uint32_t count) noexcept nogil
    # Collect up to `capacity` finished requests. Waits until at least `wanted` (never more than are
    # in flight) are there or timeout_ns passed (0: never wait; < 0: no limit). Returns the number,
    # or a negative errno.
    int (*reap)(IoChannel* channel, IoRequest** out, uint32_t capacity, uint32_t wanted,
                int64_t timeout_ns) noexcept nogil
    int (*event_fd)(IoChannel* channel) noexcept nogil           # -1: none

cdef struct IoStats:            # relaxed atomics: any thread adds, `stats_dict` reads
    uint64_t[3] finished        # by IoOperation, failures included
    uint64_t[3] failed
    uint64_t[3] moved_bytes
    uint64_t[3] latency_us
    uint64_t[72] buckets        # [operation * IO_LATENCY_BUCKETS + bucket]
    uint64_t[134] failed_errno  # transfers and syncs, by errno
    uint64_t short_transfers    # continued after fewer bytes than asked
    uint64_t interruptions      # continued after EINTR or EAGAIN
    uint64_t submitted          # requests taken by `submit`
    uint64_t completed          # requests handed out by `reap`
    uint64_t submit_calls       # system calls (uring) or wake-ups (threads) made for them
    uint64_t fixed_transfers    # through registered memory
    uint64_t direct_refused     # files opened buffered because O_DIRECT was refused
    uint64_t iopoll_refused     # transfers done by a system call because polling was refused

cdef inline uint32_t io_latency_bucket(uint64_t latency_us) noexcept nogil:
    cdef uint32_t bucket = 0
    while bucket < IO_LATENCY_BUCKETS - 1 and (<uint64_t>1 << bucket) < latency_us:
        bucket += 1
    return bucket

cdef inline void io_stats_finish(IoStats* stats, const IoRequest* request,
                                 int64_t now_ns) noexcept nogil:
    """Count one finished request; `request.result` is final."""
    cdef uint32_t operation = request.operation
    cdef uint64_t latency_us = 0
    cdef int64_t error
    if now_ns > request.started_ns:
        latency_us = <uint64_t>(now_ns - request.started_ns) // 1000
    ec_count(&stats.finished[operation], 1)
    ec_count(&stats.latency_us[operation], latency_us)
    ec_count(&stats.buckets[operation * IO_LATENCY_BUCKETS + io_latency_bucket(latency_us)], 1)
    if request.result >= 0:
        ec_count(&stats.moved_bytes[operation], <uint64_t>request.result)
        return
    ec_count(&stats.failed[operation], 1)
    error = -request.result
    ec_count(&stats.failed_errno[error if error < IO_ERRNO_COUNT else 0], 1)

# Start `request` afresh; every engine calls it when it takes one.
cdef inline void io_begin(IoRequest* request, void* channel, int64_t now_ns) noexcept nogil:
    request.state = 0
    request.moved_bytes = 0
    request.result = 0
    request.channel = channel
    request.started_ns = now_ns

# Take the outcome of one system call or completion: bytes moved or a negative errno. True when the
# request is finished (`result` is set); else the rest, from `moved_bytes` on, is to be issued
# again. `alignment_bytes` is IO_ALIGNMENT for files opened direct, else 1.
cdef bint io_advance(IoRequest* request, int64_t outcome, uint32_t alignment_bytes,
                     IoStats* stats) noexcept nogil

# Number of components of a name, or -EINVAL / -ENAMETOOLONG.
cdef inline int io_name_check(const char* name) noexcept nogil:
    cdef int depth = 0
    cdef size_t length
    if name == NULL:
        return -EINVAL
    while True:
        length = 0
        while name[length] != 0 and name[length] != c"/":
            length += 1
        if length == 0 or (name[0] == c"." and (length == 1 or (length == 2 and name[1] == c"."))):
            return -EINVAL
        if length > IO_NAME_COMPONENT_MAX:
            return -ENAMETOOLONG
        depth += 1
        if depth > IO_NAME_DEPTH_MAX:
            return -EINVAL
        if name[length] == 0:
            return depth
        name += length + 1

# An open file. Invariants of `word`:
# 1. bit 31 (open): the index is valid. bit 30 (closing): close_file was called, users remain.
#    Never both. The low bits count the users; a lookup of an invalid index adds one and takes it
#    back, so they may be non-zero for a moment in any state.
# 2. The descriptor is closed and the slot freed by the one who moves `word` from (closing, no
#    users) to 0; so a descriptor is never closed, nor its number reused, under a running transfer.
cdef struct IoFile:
    uint32_t word
    int32_t descriptor
    uint32_t generation         # counts the opens of this slot
    uint32_t alignment_bytes
    uint32_t next_free          # index + 1
    uint32_t read_alignment_bytes

# Real files: the first member of the state of `uring` and `threads`; the io_file_system_* functions
# fill the file half of their ops.
cdef struct IoFileSystem:
    IoStats stats
    int root                    # directory descriptor, -1 once closed
    int process                 # pid of the opener
    uint32_t* fork_mark         # a page that reads 0 in a child; NULL: compare pids
    bint direct
    bint has_openat2
    bint refuse_fallocate       # test hook: act as a file system without fallocate
    uint32_t lock               # guards the free list and file_count
    uint32_t file_count
    uint32_t free_head          # index + 1
    uint32_t open_files
    uint32_t closes             # counts close_file calls: rings then forget registered files
    (IoFile*)[256] chunks       # grows by whole chunks, so an IoFile never moves

# Descriptor of the directory above the last component (perhaps fs.root), or -errno; `leaf` points
# into `name`. Each success needs one close.
cdef int io_parent_open(IoFileSystem* fs, const char* name, const char** leaf) noexcept nogil
cdef void io_parent_close(IoFileSystem* fs, int directory) noexcept nogil
cdef int io_file_system_open(IoFileSystem* fs, const char* root, bint direct) noexcept nogil
cdef void io_file_system_close(IoFileSystem* fs) noexcept nogil     # files and root
cdef void io_file_system_free(IoFileSystem* fs) noexcept nogil      # memory
cdef void io_file_system_ops(IoEngineOps* ops) noexcept nogil
cdef bint io_forked(IoFileSystem* fs) noexcept nogil
# The slot of an index, whatever its state; for a pinned file, the file. NULL: never in use.
cdef inline IoFile* io_file_at(IoFileSystem* fs, uint32_t index) noexcept nogil:
    cdef uint32_t chunk = index // IO_FILES_PER_CHUNK
    if index >= ec_load_u32(&fs.file_count) or fs.chunks[chunk] == NULL:
        return NULL
    return &fs.chunks[chunk][index % IO_FILES_PER_CHUNK]

# Pin an open file; NULL when the index is not valid. Each success needs one release.
cdef IoFile* io_file_acquire(IoFileSystem* fs, uint32_t index) noexcept nogil
cdef void io_file_release(IoFileSystem* fs, uint32_t index) noexcept nogil
# Carry out a whole request by system calls on this thread. `result` is set on return.
cdef void io_file_perform(IoFileSystem* fs, IoFile* file, IoRequest* request) noexcept nogil

cdef class IoEngine:
    """Base of the three engines. Owns the C state; freed when the last reference goes."""

    cdef IoEngineOps ops
    cdef void* state                 # first argument of every call in `ops`
    cdef IoStats* counters
    cdef readonly str name           # "uring", "threads" or "memory"
    cdef readonly str fallback_reason   # why a wished-for engine is not in use, or ""
    cdef bint closed                 # `close` was called
    cdef object stats_dict(self)     # counters by name, for Storage.stats()["io"]
    cdef void shut(self) noexcept    # stop and free all but the memory of `state`; idempotent
