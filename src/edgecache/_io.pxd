"""The I/O contract: one vtable of C functions, three engines (uring, threads, memory).

An engine owns a root directory and a table of open files in it. A *channel* is a submission and
completion context: one per thread or event loop that submits, never shared between threads.

Guarantees of every engine:

1. A transfer is whole or fails: short transfers, EINTR and EAGAIN are continued inside the engine
   (in one place, `_io.pyx`). Reading past the end of a file completes with fewer bytes than asked.
2. `request.result` is the number of bytes moved (0 for sync) or a negative errno. It is valid once
   the request came out of `reap`; until then request and buffer belong to the engine, whatever the
   submitter does. A caller that gives up must still reap before it frees.
3. `submit` never blocks on the device. It takes as many requests as there is room for and returns
   that number (possibly 0: reap first), or a negative errno when the channel is unusable.
4. Nothing here takes the GIL, raises or allocates Python objects (but constructors).
5. No completion is lost or reported twice. An idle engine uses no CPU.

Names are relative to the root, contain no slash but for one directory level, and are opened with
O_NOFOLLOW | O_CLOEXEC. Alignment: when `direct` was asked for at open, offset, length and buffer
address are multiples of 4096; the engines do not check this, the device does (EINVAL).
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

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

cdef struct IoEngineOps             # below; a channel points at it

cdef struct IoRequest:
    uint8_t operation           # IoOperation
    uint8_t state               # private to the engine
    int16_t buffer_index   # registered buffer that holds `buffer`, or -1
    uint32_t file               # index from open_file
    uint64_t offset_bytes
    char* buffer
    uint32_t length_bytes
    uint32_t moved_bytes        # private to the engine: progress of a continued transfer
    int64_t result
    uint64_t user_data
    IoRequest* next             # private to the engine while in flight; the caller's otherwise
    void* channel               # private to the engine while in flight

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
    # Reserve [0, size) so that later writes cannot meet ENOSPC (posix_fallocate semantics).
    int (*allocate)(void* engine, uint32_t file, uint64_t size_bytes) noexcept nogil
    int (*truncate)(void* engine, uint32_t file, uint64_t size_bytes) noexcept nogil
    int (*unlink)(void* engine, const char* name) noexcept nogil
    int (*rename)(void* engine, const char* source, const char* target) noexcept nogil
    int (*make_directory)(void* engine, const char* name) noexcept nogil      # 0700
    int (*sync_directory)(void* engine, const char* name) noexcept nogil      # "" is the root
    # Fill `out` with NUL-terminated names, one after the other; returns bytes needed.
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

    # Channels. `want_event_fd`: the channel gets an eventfd that becomes readable on completions.
    int (*channel_open)(void* engine, uint32_t depth, bint want_event_fd,
                        IoChannel** out) noexcept nogil
    void (*channel_close)(IoChannel* channel) noexcept nogil     # waits for what is in flight
    int (*submit)(IoChannel* channel, IoRequest** requests, uint32_t count) noexcept nogil
    # Collect up to `capacity` finished requests. Waits until at least `wanted` are there or
    # timeout_ns passed (0: never wait; < 0: no limit). Returns the number, or a negative errno.
    int (*reap)(IoChannel* channel, IoRequest** out, uint32_t capacity, uint32_t wanted,
                int64_t timeout_ns) noexcept nogil
    int (*event_fd)(IoChannel* channel) noexcept nogil           # -1: none

cdef class IoEngine:
    """Base of the three engines. Owns the C state; freed when the last reference goes."""

    cdef IoEngineOps ops
    cdef void* state                 # first argument of every call in `ops`
    cdef readonly str name           # "uring", "threads" or "memory"
    cdef readonly str fallback_reason   # why a wished-for engine is not in use, or ""
    cdef object stats_dict(self)     # counters by name, for Storage.stats()["io"]
