"""The io_uring engine: its structures, and what is done per request.

Invariants of a channel:

1. `slots[i]` is a request that the kernel has or will get, for exactly those i that are not on the
   free stack; an SQE carries i. So every request is known when the ring breaks, and no completion
   can name memory that is gone.
2. in_flight = occupied slots + `ready_count`; it never exceeds `depth`, nor the ring's entries, so
   neither queue can overflow.
3. The file of an occupied slot is pinned.
4. With `broken` (an errno) set there is no ring any more, the kernel has none of the requests, and
   all that were in flight are in `ready`.
5. With `lock_fd` set, the ring's file table holds that open file: what the kernel has of the ring,
   it has before the lock of the root is free.

Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from edgecache._io cimport (
    IO_FILE_OPEN, IO_READ, IO_SYNC, IoChannel, IoEngine, IoEngineOps, IoFile, IoFileSystem,
    IoRequest, io_file_at, io_file_release, io_stats_finish,
)
from edgecache._liburing cimport (
    URING_FSYNC_DATASYNC, URING_SETUP_COOP_TASKRUN, URING_SETUP_DEFER_TASKRUN,
    URING_SETUP_R_DISABLED, URING_SETUP_SINGLE_ISSUER, URING_SETUP_SQPOLL,
    URING_SETUP_TASKRUN_FLAG, URING_SQE_FIXED_FILE, Liburing, UringSqe,
)
from edgecache._sync cimport ec_count, ec_load_u32

cdef enum:
    CHANNEL_DEPTH_MAX = 4096
    CHANNEL_IDLE = 0            # UringChannel.guard: who may use the channel
    CHANNEL_BUSY = 1
    CHANNEL_CLOSED = 2
    FILE_SLOTS = 256            # size of a ring's file table
    SLOT_TOMBSTONE = 255
    SLOT_LOCK = 254             # invariant 5
    SLOTS_OF_FILES = 254        # the rest: a file's index is its slot
    FILE_REGISTER_USES = 16     # a file is registered after so many requests: one costs a call
    CQE_BATCH = 64
    SQ_THREAD_IDLE_MS = 20      # an SQPOLL thread sleeps after that long without work
    VECTOR_BYTES = 1 << 30      # most bytes of one registered buffer (io_uring_register(2))
    VECTORS_MAX = 1024
    RETRY_PAUSE_US = 200        # the kernel had no memory for the request (EAGAIN)

cdef enum:                      # step down from the first that the kernel accepts
    MODE_DEFER = URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN \
        | URING_SETUP_TASKRUN_FLAG | URING_SETUP_R_DISABLED
    MODE_COOPERATIVE = URING_SETUP_COOP_TASKRUN | URING_SETUP_TASKRUN_FLAG
    MODE_PLAIN = 0

cdef struct UringState:
    IoFileSystem fs             # first: the file functions take the state for it
    IoEngineOps* ops
    Liburing* api
    uint32_t lock               # guards `channels`
    uint32_t queue_depth
    uint32_t mode               # setup flags found by the probe
    uint32_t features
    uint32_t stopping
    uint32_t refused_enter      # test hook, errno
    int lock_fd                 # of the lock on the root, -1: none
    bint sqpoll
    bint iopoll
    char* buffer
    uint64_t buffer_bytes
    void* template_ring         # holds the registered buffers; channels clone them
    uint32_t channels_plain     # channels that had to go without the registered buffers
    uint32_t channels_broken
    UringChannel* channels

cdef struct FileSlot:           # what a ring knows about a file index
    uint32_t generation         # of the registered file; 0: none
    uint32_t seen_generation
    uint32_t uses

cdef struct UringChannel:
    IoChannel base              # first
    char[1024] ring             # URING_BYTES
    uint32_t guard
    uint32_t owner              # thread id of the first submitter, 0 before
    uint32_t mode
    uint32_t broken             # errno
    bint has_ring
    bint has_files
    bint has_buffers
    bint is_lazy                # reap submits, too: one system call for both
    int event_fd
    int tombstone
    uint32_t free_count
    uint32_t closes_seen
    uint32_t ready_count
    IoRequest* ready            # finished, oldest first
    IoRequest* ready_last
    IoRequest** slots
    uint32_t* free_slots        # stack
    FileSlot[256] files
    UringChannel* next

cdef inline void ready_push(UringState* state, UringChannel* channel, IoRequest* request,
                            int64_t now_ns) noexcept nogil:
    io_stats_finish(&state.fs.stats, request, now_ns)
    request.next = NULL
    if channel.ready == NULL:
        channel.ready = request
    else:
        channel.ready_last.next = request
    channel.ready_last = request
    channel.ready_count += 1

cdef inline bint file_registered(UringState* state, UringChannel* channel, uint32_t index,
                                 IoFile* file) noexcept nogil:
    """Whether the ring's table has this very open of the file; registers it when it is in use."""
    cdef FileSlot* slot
    cdef uint32_t generation = ec_load_u32(&file.generation)
    if not channel.has_files or index >= SLOTS_OF_FILES:
        return False
    slot = &channel.files[index]
    if slot.generation == generation:
        return True
    if slot.seen_generation != generation:
        slot.seen_generation = generation
        slot.uses = 0
    slot.uses += 1
    if slot.uses != FILE_REGISTER_USES:
        return False        # not yet, or refused before
    if state.api.register_files_update(channel.ring, index, <int*>&file.descriptor, 1) != 1:
        return False
    slot.generation = generation
    return True

cdef inline void files_forget(UringState* state, UringChannel* channel) noexcept nogil:
    """Drop registered files that were closed meanwhile, so that their space can be freed."""
    cdef uint32_t index
    cdef int nothing = -1
    cdef IoFile* file
    cdef uint32_t closes = ec_load_u32(&state.fs.closes)
    if not channel.has_files or closes == channel.closes_seen:
        return
    channel.closes_seen = closes
    for index in range(SLOTS_OF_FILES):
        if channel.files[index].generation == 0:
            continue
        file = io_file_at(&state.fs, index)
        if (ec_load_u32(&file.word) & IO_FILE_OPEN
                and ec_load_u32(&file.generation) == channel.files[index].generation):
            continue
        state.api.register_files_update(channel.ring, index, &nothing, 1)
        channel.files[index].generation = 0

cdef inline int buffer_vector(UringState* state, char* buffer, uint32_t length) noexcept nogil:
    """Registered vector that holds all of [buffer, buffer + length), or -1."""
    cdef uint64_t begin = <uint64_t>(<uintptr_t>buffer - <uintptr_t>state.buffer)
    if begin >= state.buffer_bytes or length == 0 or length > state.buffer_bytes - begin:
        return -1
    if begin // VECTOR_BYTES != (begin + length - 1) // VECTOR_BYTES:
        return -1
    return <int>(begin // VECTOR_BYTES)

cdef inline void request_queue(UringState* state, UringChannel* channel,
                               uint32_t slot) noexcept nogil:
    """Put the rest of a request into the submission queue. There is room (invariant 2)."""
    cdef IoRequest* request = channel.slots[slot]
    cdef IoFile* file = io_file_at(&state.fs, request.file)
    cdef UringSqe* sqe = state.api.get_sqe(channel.ring)
    cdef bint fixed_file = file_registered(state, channel, request.file, file)
    cdef int fd = <int>request.file if fixed_file else file.descriptor
    cdef char* buffer = request.buffer + request.moved_bytes
    cdef uint32_t length = request.length_bytes - request.moved_bytes
    cdef uint64_t offset = request.offset_bytes + request.moved_bytes
    cdef int vector = -1
    if request.operation == IO_SYNC:
        state.api.prep_fsync(sqe, fd, URING_FSYNC_DATASYNC)
    else:
        if request.buffer_index >= 0 and channel.has_buffers:
            vector = buffer_vector(state, buffer, length)
        if request.operation == IO_READ:
            if vector >= 0:
                state.api.prep_read_fixed(sqe, fd, buffer, length, offset, vector)
            else:
                state.api.prep_read(sqe, fd, buffer, length, offset)
        elif vector >= 0:
            state.api.prep_write_fixed(sqe, fd, buffer, length, offset, vector)
        else:
            state.api.prep_write(sqe, fd, buffer, length, offset)
        if vector >= 0:
            ec_count(&state.fs.stats.fixed_transfers, 1)
    if fixed_file:
        sqe.flags |= URING_SQE_FIXED_FILE
    sqe.user_data = slot

cdef inline void slot_free(UringState* state, UringChannel* channel, uint32_t slot) noexcept nogil:
    io_file_release(&state.fs, channel.slots[slot].file)
    channel.slots[slot] = NULL
    channel.free_slots[channel.free_count] = slot
    channel.free_count += 1

cdef inline unsigned unsubmitted(UringState* state, UringChannel* channel) noexcept nogil:
    if channel.mode & URING_SETUP_SQPOLL:
        return 0        # the kernel's thread takes them; the count only says how far it is
    return state.api.sq_ready(channel.ring)

cdef class UringEngine(IoEngine):
    cdef object __weakref__

# Test hook: every later io_uring_enter of this engine fails with this errno (0: works again).
cdef void uring_refuse_enter(UringEngine engine, uint32_t errno_code) noexcept
