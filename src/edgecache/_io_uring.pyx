"""The io_uring engine: one ring per channel, owned by the first thread that submits to it.

The structures, their invariants and what is done per request are in `_io_uring.pxd`.

A ring's end is waited for, not assumed: its file table holds the write end of a pipe, which the
kernel drops after the last request of a dying ring. `tombstone` is the read end; when it hangs up,
no buffer is in use any more. This is how a ring that can no longer be entered (or, with
SINGLE_ISSUER, belongs to another thread) is closed without leaving the device a freed buffer.

Likewise the file table holds the lock of the root. A killed process does not wait for its requests:
they go on without it, and what they write would reach the device under the eyes of the next opener.
A flock(2) lasts until its open file description does, so the lock is free only when the last ring
is gone, and with it the last request.

Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), flock(2); kernel
io_uring/io_uring.c (io_ring_exit_work runs io_ring_ctx_free, hence the file table's release, after
all requests).
"""

cimport cython

from libc.errno cimport (
    EAGAIN, EBADF, EBUSY, ECHILD, EINTR, EINVAL, ENOMEM, EOPNOTSUPP, EPERM, ESHUTDOWN, ETIME, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._io cimport (
    IO_CHANNEL_ANY_THREAD, IO_CHANNEL_EVENT_FD, IO_SYNC, IoChannel, IoEngine, IoFile, IoRequest,
    io_advance, io_begin, io_file_acquire, io_file_at, io_file_perform, io_file_release,
    io_file_system_close, io_file_system_free, io_file_system_open, io_file_system_ops, io_forked,
)
from edgecache._io_tree cimport io_tree_ops
from edgecache._liburing cimport (
    URING_BYTES, URING_FEATURE_EXT_ARG, URING_SETUP_COOP_TASKRUN, URING_SETUP_DEFER_TASKRUN,
    URING_SETUP_IOPOLL, URING_SETUP_R_DISABLED, URING_SETUP_SINGLE_ISSUER, URING_SETUP_SQPOLL,
    Liburing, UringCqe, UringParams, UringSqe, UringTimespec, UringVector, liburing_detail,
    liburing_load,
)
from edgecache._sync cimport (
    ec_add_u32, ec_cas_u32, ec_count, ec_load_u32, ec_lock_acquire, ec_lock_release,
    ec_monotonic_ns, ec_store_u32, ec_thread_id,
)

import errno as errno_names
import os
import resource
import weakref

cdef extern from *:
    """
    #include <fcntl.h>
    #include <poll.h>
    #include <sched.h>
    #include <sys/eventfd.h>
    #include <unistd.h>
    static inline int ec_pipe(int *ends) { return pipe2(ends, O_CLOEXEC); }
    static inline int ec_poll_hangup(int fd, int timeout_ms) {
        struct pollfd one = {fd, 0, 0};      /* POLLHUP is always reported */
        return poll(&one, 1, timeout_ms);
    }
    """
    int ec_pipe(int* ends) noexcept nogil
    int ec_poll_hangup(int fd, int timeout_ms) noexcept nogil
    int sched_yield() noexcept nogil
    int ECANCELED, EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned initial, int flags) noexcept nogil
    int eventfd_write(int fd, uint64_t value) noexcept nogil
    int eventfd_read(int fd, uint64_t* value) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int c_usleep "usleep"(unsigned microseconds) noexcept nogil

# ---- rings ---------------------------------------------------------------------------------------

cdef int ring_setup(UringState* state, void* ring, uint32_t entries, uint32_t flags,
                    uint32_t* features) noexcept nogil:
    cdef UringParams params
    cdef int result
    memset(&params, 0, sizeof(params))
    memset(ring, 0, URING_BYTES)
    params.flags = flags
    if flags & URING_SETUP_SQPOLL:
        params.sq_thread_idle = SQ_THREAD_IDLE_MS
    result = state.api.queue_init_params(entries, ring, &params)
    features[0] = params.features
    return result


cdef void ring_register_files(UringState* state, UringChannel* channel) noexcept nogil:
    """A sparse file table, with the root's lock and the tombstone in its last slots."""
    cdef int[2] ends
    if state.api.register_files_sparse == NULL:
        return
    if state.api.register_files_sparse(channel.ring, FILE_SLOTS) < 0:
        return
    channel.has_files = True
    if state.lock_fd >= 0:
        state.api.register_files_update(channel.ring, SLOT_LOCK, &state.lock_fd, 1)
    if ec_pipe(ends) != 0:
        return
    if state.api.register_files_update(channel.ring, SLOT_TOMBSTONE, &ends[1], 1) == 1:
        channel.tombstone = ends[0]
    else:
        c_close(ends[0])
    c_close(ends[1])


cdef int ring_register_buffers(UringState* state, void* ring) noexcept nogil:
    cdef UringVector[1024] vectors
    cdef uint64_t offset = 0
    cdef unsigned count = 0
    while offset < state.buffer_bytes:
        if count == VECTORS_MAX:
            return -EINVAL
        vectors[count].base = state.buffer + offset
        vectors[count].length = min(state.buffer_bytes - offset, <uint64_t>VECTOR_BYTES)
        offset += vectors[count].length
        count += 1
    return state.api.register_buffers(ring, vectors, count)


cdef int ring_open(UringState* state, UringChannel* channel) noexcept nogil:
    cdef uint32_t features = 0
    cdef int result = ring_setup(state, channel.ring, channel.base.depth, channel.mode, &features)
    if result < 0:
        return result
    channel.has_ring = True
    ring_register_files(state, channel)
    if state.buffer != NULL:
        result = -EOPNOTSUPP
        if state.template_ring != NULL and state.api.clone_buffers != NULL:
            result = state.api.clone_buffers(channel.ring, state.template_ring)
        if result < 0:
            result = ring_register_buffers(state, channel.ring)
        channel.has_buffers = result >= 0
        if not channel.has_buffers:
            ec_add_u32(&state.channels_plain, 1)
    if channel.event_fd >= 0:
        return state.api.register_eventfd(channel.ring, channel.event_fd)
    return 0


cdef void ring_end(UringState* state, UringChannel* channel) noexcept nogil:
    """Destroy the ring and return once the kernel has dropped every request of it."""
    if not channel.has_ring:
        return
    channel.has_ring = False
    state.api.queue_exit(channel.ring)
    if channel.tombstone < 0:
        return
    if channel.free_count < channel.base.depth:
        while ec_poll_hangup(channel.tombstone, -1) < 0 and errno == EINTR:
            pass
    c_close(channel.tombstone)
    channel.tombstone = -1


# ---- submission ----------------------------------------------------------------------------------

cdef int ring_enter(UringState* state, UringChannel* channel, uint32_t wanted,
                    int64_t timeout_ns) noexcept nogil:
    """Submit what is queued and wait for `wanted` completions. 0, or a negative errno.

    EINTR, ETIME and a kernel short of memory are no errors: the caller looks at the queues again.
    """
    cdef UringTimespec timeout
    cdef UringCqe* cqe = NULL
    cdef int result
    ec_count(&state.fs.stats.submit_calls, 1)
    if state.refused_enter != 0:
        return -<int>state.refused_enter
    if wanted == 0:
        result = state.api.submit(channel.ring)
    elif timeout_ns < 0:
        result = state.api.submit_and_wait(channel.ring, wanted)
    else:
        timeout.seconds = timeout_ns // 1000000000
        timeout.nanoseconds = timeout_ns % 1000000000
        result = state.api.submit_and_wait_timeout(channel.ring, &cqe, wanted, &timeout, NULL)
    if result == -EAGAIN or result == -EBUSY:
        if wanted > 0:
            c_usleep(RETRY_PAUSE_US)
        return 0
    if result == -EINTR or result == -ETIME:
        return 0
    return result if result < 0 else 0


cdef void channel_break(UringState* state, UringChannel* channel, uint32_t error) noexcept nogil:
    """The ring cannot be entered any more: end it and fail what it still had."""
    cdef uint32_t slot
    cdef IoRequest* request
    cdef int64_t now_ns
    channel.broken = error
    ec_add_u32(&state.channels_broken, 1)
    completions_take(state, channel)            # true results first, as far as they are visible
    ring_end(state, channel)
    now_ns = ec_monotonic_ns()
    for slot in range(channel.base.depth):
        request = channel.slots[slot]
        if request != NULL:
            request.result = -<int64_t>error
            slot_free(state, channel, slot)
            ready_push(state, channel, request, now_ns)
    if channel.event_fd >= 0 and channel.ready_count > 0:
        eventfd_write(channel.event_fd, 1)


cdef int channel_enable(UringState* state, UringChannel* channel) noexcept nogil:
    """First submit: from now on the ring belongs to this thread."""
    cdef int result
    channel.owner = ec_thread_id()
    if channel.mode & URING_SETUP_R_DISABLED:
        result = state.api.enable_rings(channel.ring)
        if result < 0:
            channel_break(state, channel, <uint32_t>-result)
            return result
    return 0


cdef void request_finish_inline(UringState* state, IoRequest* request) noexcept nogil:
    """A request that a polling ring does not take (sync, or no poll queues): system calls."""
    ec_count(&state.fs.stats.iopoll_refused, 1)
    request.moved_bytes = 0
    request.state = 0
    io_file_perform(&state.fs, io_file_at(&state.fs, request.file), request)


cdef void completions_take(UringState* state, UringChannel* channel) noexcept nogil:
    """Move finished requests from the completion queue to `ready`; queue what is to go on."""
    cdef (UringCqe*)[64] cqes
    cdef unsigned count, index
    cdef uint32_t slot
    cdef IoRequest* request
    cdef IoFile* file
    cdef int64_t now_ns = 0
    cdef int64_t outcome
    while True:
        count = state.api.peek_batch_cqe(channel.ring, cqes, CQE_BATCH)
        if count > 0 and now_ns == 0:
            now_ns = ec_monotonic_ns()
        for index in range(count):
            slot = <uint32_t>cqes[index].user_data
            outcome = cqes[index].res
            request = channel.slots[slot]
            file = io_file_at(&state.fs, request.file)
            if outcome == -EOPNOTSUPP and channel.mode & URING_SETUP_IOPOLL:
                request_finish_inline(state, request)
            elif not io_advance(request, outcome, file.alignment_bytes, &state.fs.stats):
                request_queue(state, channel, slot)
                continue
            slot_free(state, channel, slot)
            ready_push(state, channel, request, now_ns)
        state.api.cq_advance(channel.ring, count)
        if count < CQE_BATCH:
            return


cdef void channel_check(UringChannel* channel) noexcept nogil:
    cdef uint32_t slot, occupied = 0, ready = 0
    cdef IoRequest* request = channel.ready
    for slot in range(channel.base.depth):
        if channel.slots[slot] != NULL:
            occupied += 1
    while request != NULL:
        ready += 1
        request = request.next
    ec_assert(occupied + channel.free_count == channel.base.depth, b"io_uring channel 1")
    ec_assert(channel.ready_count == ready, b"io_uring channel 2: ready")
    ec_assert(channel.base.in_flight == occupied + ready, b"io_uring channel 2: in flight")
    ec_assert(channel.base.in_flight <= channel.base.depth, b"io_uring channel 2: depth")
    ec_assert(channel.broken == 0 or (occupied == 0 and not channel.has_ring),
              b"io_uring channel 4")


cdef int uring_submit(IoChannel* base, IoRequest** requests, uint32_t count) noexcept nogil:
    cdef UringChannel* channel = <UringChannel*>base
    cdef UringState* state = <UringState*>base.engine
    cdef int result = 0
    if io_forked(&state.fs):
        return -ECHILD
    if not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_BUSY):
        return -ESHUTDOWN
    count = min(count, base.depth - base.in_flight)
    if channel.broken != 0:
        result = -<int>channel.broken
    elif count > 0:
        if channel.owner == 0:
            result = channel_enable(state, channel)
        if result == 0:
            files_forget(state, channel)
            result = requests_submit(state, channel, requests, count)
    if EDGECACHE_DEBUG:
        channel_check(channel)
    ec_store_u32(&channel.guard, CHANNEL_IDLE)
    return result


cdef int requests_submit(UringState* state, UringChannel* channel, IoRequest** requests,
                         uint32_t count) noexcept nogil:
    cdef IoRequest* request
    cdef IoRequest* aside = NULL        # not for the ring
    cdef uint32_t index, slot, first = channel.free_count
    cdef int64_t now_ns = ec_monotonic_ns()
    cdef int result = 0
    for index in range(count):
        request = requests[index]
        io_begin(request, channel, now_ns)
        if request.operation > IO_SYNC or io_file_acquire(&state.fs, request.file) == NULL:
            request.result = -EINVAL if request.operation > IO_SYNC else -EBADF
        elif request.operation != IO_SYNC or not channel.mode & URING_SETUP_IOPOLL:
            channel.free_count -= 1
            slot = channel.free_slots[channel.free_count]
            channel.slots[slot] = request
            request_queue(state, channel, slot)
            continue
        request.next = aside
        aside = request
    if channel.free_count < first and not channel.is_lazy:
        result = ring_enter(state, channel, 0, 0)
    if result < 0:
        # Nothing of this call reached the kernel; the caller keeps it (contract, 3).
        while channel.free_count < first:
            slot_free(state, channel, channel.free_slots[channel.free_count])
        while aside != NULL:
            if aside.result == 0:
                io_file_release(&state.fs, aside.file)
            aside = aside.next
        channel_break(state, channel, <uint32_t>-result)
        return result
    channel.base.in_flight += count
    ec_count(&state.fs.stats.submitted, count)
    while aside != NULL:
        request = aside
        aside = request.next
        if request.result == 0:
            request_finish_inline(state, request)
            io_file_release(&state.fs, request.file)
        request.operation = min(request.operation, <uint8_t>IO_SYNC)
        ready_push(state, channel, request, ec_monotonic_ns())
    if channel.event_fd >= 0 and (channel.ready_count > 0 or unsubmitted(state, channel) > 0):
        eventfd_write(channel.event_fd, 1)
    return <int>count


# ---- completion ----------------------------------------------------------------------------------

cdef void completions_wait(UringState* state, UringChannel* channel, uint32_t wanted,
                           int64_t timeout_ns) noexcept nogil:
    """Fill `ready` with at least `wanted`, unless the time is over or the ring breaks."""
    cdef int64_t deadline_ns = 0, left_ns = timeout_ns
    cdef uint32_t missing
    cdef int result
    if timeout_ns > 0:
        deadline_ns = ec_monotonic_ns() + timeout_ns
    while channel.broken == 0:
        completions_take(state, channel)
        missing = wanted - channel.ready_count if channel.ready_count < wanted else 0
        if timeout_ns > 0:
            left_ns = deadline_ns - ec_monotonic_ns()
        if timeout_ns >= 0 and left_ns <= 0:
            missing = 0
        if missing == 0 and unsubmitted(state, channel) == 0:
            return
        result = ring_enter(state, channel, missing, left_ns)
        if result < 0:
            channel_break(state, channel, <uint32_t>-result)
        elif missing == 0:
            completions_take(state, channel)
            return


cdef void event_clear(UringState* state, UringChannel* channel) noexcept nogil:
    """Make the event descriptor unreadable unless a completion arrived that was not taken.

    The kernel signals when task work is queued (DEFER_TASKRUN) and again when it posts the
    completion, which is while we take it; so it is read after, and the queue looked at once more.
    """
    cdef uint64_t signals = 0
    cdef uint32_t before
    if channel.event_fd < 0:
        return
    while True:
        before = channel.ready_count
        eventfd_read(channel.event_fd, &signals)
        if channel.broken != 0:
            return
        completions_take(state, channel)
        if channel.ready_count == before:
            return


cdef int uring_reap(IoChannel* base, IoRequest** out, uint32_t capacity, uint32_t wanted,
                    int64_t timeout_ns) noexcept nogil:
    cdef UringChannel* channel = <UringChannel*>base
    cdef UringState* state = <UringState*>base.engine
    cdef IoRequest* request
    cdef uint32_t count = 0
    if io_forked(&state.fs):
        return -ECHILD
    if not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_BUSY):
        return -ESHUTDOWN
    if base.in_flight > channel.ready_count and channel.broken == 0:
        completions_wait(state, channel, min(wanted, min(capacity, base.in_flight)), timeout_ns)
    event_clear(state, channel)
    while count < capacity and channel.ready != NULL:
        request = channel.ready
        channel.ready = request.next
        request.next = NULL
        out[count] = request
        count += 1
    channel.ready_count -= count
    base.in_flight -= count
    if count > 0:
        ec_count(&state.fs.stats.completed, count)
    if channel.event_fd >= 0 and (channel.ready_count > 0 or (
            channel.broken == 0 and unsubmitted(state, channel) > 0)):
        eventfd_write(channel.event_fd, 1)      # level triggered: some are left
    if EDGECACHE_DEBUG:
        channel_check(channel)
    ec_store_u32(&channel.guard, CHANNEL_IDLE)
    if count == 0 and channel.broken != 0:
        return -<int>channel.broken
    return <int>count


cdef int uring_event_fd(IoChannel* base) noexcept nogil:
    return (<UringChannel*>base).event_fd


# ---- opening and closing of channels -------------------------------------------------------------

cdef int uring_channel_open(void* engine, uint32_t depth, uint32_t flags,
                            IoChannel** out) noexcept nogil:
    cdef UringState* state = <UringState*>engine
    cdef UringChannel* channel
    cdef uint32_t index
    cdef int result = 0
    if io_forked(&state.fs):
        return -ECHILD
    if depth > CHANNEL_DEPTH_MAX or state.stopping:
        return -ESHUTDOWN if state.stopping else -EINVAL
    channel = <UringChannel*>calloc(1, sizeof(UringChannel))
    if channel == NULL:
        return -ENOMEM
    channel.base.ops = state.ops
    channel.base.engine = engine
    channel.base.depth = depth if depth > 0 else state.queue_depth
    channel.event_fd = -1
    channel.tombstone = -1
    channel.mode = state.mode
    if flags & IO_CHANNEL_EVENT_FD:
        # A polling ring finds completions only when asked, so a descriptor could not tell of them.
        channel.mode &= ~<uint32_t>URING_SETUP_IOPOLL
    if flags & IO_CHANNEL_ANY_THREAD:
        channel.mode = MODE_COOPERATIVE if channel.mode == MODE_DEFER else channel.mode
        # One system call for both; a kernel thread that polls the queue needs none.
        channel.is_lazy = not channel.mode & URING_SETUP_SQPOLL
    channel.slots = <IoRequest**>calloc(channel.base.depth, sizeof(IoRequest*))
    channel.free_slots = <uint32_t*>calloc(channel.base.depth, sizeof(uint32_t))
    if channel.slots == NULL or channel.free_slots == NULL:
        result = -ENOMEM
    else:
        channel.free_count = channel.base.depth
        for index in range(channel.base.depth):
            channel.free_slots[index] = index
        if flags & IO_CHANNEL_EVENT_FD:
            channel.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            result = -errno if channel.event_fd < 0 else 0
    if result == 0:
        result = ring_open(state, channel)
    if result < 0:
        ring_end(state, channel)
        channel_free(channel)
        return result
    ec_lock_acquire(&state.lock)
    channel.next = state.channels
    state.channels = channel
    ec_lock_release(&state.lock)
    out[0] = &channel.base
    return 0


cdef void channel_free(UringChannel* channel) noexcept nogil:
    if channel.event_fd >= 0:
        c_close(channel.event_fd)
    free(channel.slots)
    free(channel.free_slots)
    free(channel)


cdef void uring_channel_close(IoChannel* base) noexcept nogil:
    cdef UringChannel* channel = <UringChannel*>base
    cdef UringState* state = <UringState*>base.engine
    cdef UringChannel** link
    cdef uint32_t slot
    if io_forked(&state.fs):
        return
    # The owner may still be in submit or reap on its own thread; both end by themselves.
    while not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_CLOSED):
        sched_yield()
    ec_count(&state.fs.stats.completed, base.in_flight)
    if channel.owner == ec_thread_id() or not channel.mode & URING_SETUP_SINGLE_ISSUER:
        completions_wait(state, channel, base.in_flight, -1)
    # Only the owner may enter the ring. From another thread its end is what completes the rest.
    ring_end(state, channel)
    for slot in range(base.depth):
        if channel.slots[slot] != NULL:
            channel.slots[slot].result = -ECANCELED
            slot_free(state, channel, slot)
    ec_lock_acquire(&state.lock)
    link = &state.channels
    while link[0] != channel:
        link = &link[0].next
    link[0] = channel.next
    ec_lock_release(&state.lock)
    channel_free(channel)


cdef int uring_register_buffer(void* engine, char* base, uint64_t size_bytes) noexcept nogil:
    cdef UringState* state = <UringState*>engine
    cdef uint32_t features = 0
    cdef int result
    if io_forked(&state.fs):
        return -ECHILD
    if state.buffer != NULL:
        return -EBUSY
    if base == NULL or size_bytes == 0:
        return -EINVAL
    state.template_ring = calloc(1, URING_BYTES)
    if state.template_ring == NULL:
        return -ENOMEM
    # Not single-issuer: channels of any thread clone from it, so the pages are pinned once.
    result = ring_setup(state, state.template_ring, 1, MODE_PLAIN, &features)
    if result < 0:
        free(state.template_ring)
        state.template_ring = NULL
        return result
    state.buffer = base
    state.buffer_bytes = size_bytes
    result = ring_register_buffers(state, state.template_ring)
    if result < 0:
        state.buffer = NULL
        state.buffer_bytes = 0
        template_end(state)
        return result
    return 0


cdef void template_end(UringState* state) noexcept nogil:
    if state.template_ring != NULL:
        state.api.queue_exit(state.template_ring)
        free(state.template_ring)
        state.template_ring = NULL


# ---- the engine ----------------------------------------------------------------------------------

@cython.final
cdef class UringEngine(IoEngine):
    """See `open_engine`.

    Thread-safety: as IoEngine. Cost: one system call per submit and per reap that has to wait;
    nothing while idle (SQPOLL: a kernel thread for SQ_THREAD_IDLE_MS after the last request).
    """

    cdef object stats_dict(self):
        cdef UringState* state = <UringState*>self.state
        cdef UringChannel* channel
        cdef uint32_t channels = 0
        found = IoEngine.stats_dict(self)
        ec_lock_acquire(&state.lock)
        channel = state.channels
        while channel != NULL:
            channels += 1
            channel = channel.next
        ec_lock_release(&state.lock)
        found["rings"] = channels
        found["rings_broken"] = ec_load_u32(&state.channels_broken)
        found["rings_without_registered_buffers"] = ec_load_u32(&state.channels_plain)
        found["registered_buffer_bytes"] = state.buffer_bytes
        found["ring_features"] = mode_names(state.mode)
        found["liburing"] = liburing_detail()
        found["open_files"] = ec_load_u32(&state.fs.open_files)
        return found

    cdef void shut(self) noexcept:
        cdef UringState* state = <UringState*>self.state
        if state == NULL or state.stopping or io_forked(&state.fs):
            return
        with nogil:
            while state.channels != NULL:
                uring_channel_close(&state.channels.base)
            state.stopping = 1
            template_end(state)
            io_file_system_close(&state.fs)

    def __dealloc__(self):
        cdef UringState* state = <UringState*>self.state
        if state == NULL or io_forked(&state.fs):
            return      # in a child the rings are the parent's; leave the memory to the exit
        self.shut()
        io_file_system_free(&state.fs)
        free(state)


cdef void uring_refuse_enter(UringEngine engine, uint32_t errno_code) noexcept:
    ec_store_u32(&(<UringState*>engine.state).refused_enter, errno_code)


cdef object engines = weakref.WeakSet()


def release_in_child():
    """Give up a child's copies of ring descriptors: they would keep the parent's rings alive."""
    cdef UringChannel* channel
    cdef UringState* state
    cdef UringEngine engine
    for engine in list(engines):
        state = <UringState*>engine.state
        channel = state.channels
        while channel != NULL:
            if channel.has_ring:
                state.api.queue_exit(channel.ring)      # unmaps and closes, in this process only
                channel.has_ring = False
            channel = channel.next
        if state.template_ring != NULL:
            state.api.queue_exit(state.template_ring)
            state.template_ring = NULL


os.register_at_fork(after_in_child=release_in_child)


cdef list mode_names(uint32_t mode):
    names = {
        "iopoll": URING_SETUP_IOPOLL, "sqpoll": URING_SETUP_SQPOLL,
        "single_issuer": URING_SETUP_SINGLE_ISSUER, "defer_taskrun": URING_SETUP_DEFER_TASKRUN,
        "coop_taskrun": URING_SETUP_COOP_TASKRUN,
    }
    return [name for name, bit in names.items() if mode & <uint32_t>bit]


cdef int probe_mode(UringState* state, uint32_t mode, str forced, bint* entered) except? -1:
    """Set up a ring of this mode and take a no-op round trip. 0 or a negative errno."""
    cdef void* ring = calloc(1, URING_BYTES)
    cdef UringSqe* sqe
    cdef UringCqe* cqe = NULL
    cdef int result
    entered[0] = False
    if ring == NULL:
        raise MemoryError
    result = ring_setup(state, ring, state.queue_depth, mode, &state.features)
    if result < 0:
        free(ring)
        return result
    entered[0] = True
    if mode & URING_SETUP_R_DISABLED:
        result = state.api.enable_rings(ring)
    if result == 0 and forced.startswith("enter:"):
        result = -getattr(errno_names, forced[6:])
    if result == 0:
        # A no-op completes on a polling ring too (and is the only thing that surely does).
        sqe = state.api.get_sqe(ring)
        state.api.prep_nop(sqe)
        result = state.api.submit_and_wait(ring, 1)
        if result >= 0:
            result = 0 if state.api.peek_batch_cqe(ring, &cqe, 1) == 1 else -EINVAL
        if result == 0:
            result = cqe.res
            state.api.cq_advance(ring, 1)
    state.api.queue_exit(ring)
    free(ring)
    return result


cdef tuple probe(UringState* state, bint sqpoll, bint iopoll, str forced):
    """Find the mode to use. ("", "") or (reason, hint)."""
    cdef bint entered = False
    cdef int result = -EINVAL
    if sqpoll or iopoll:
        modes = [(URING_SETUP_SQPOLL if sqpoll else 0) | (URING_SETUP_IOPOLL if iopoll else 0)]
    else:
        modes = [MODE_DEFER, MODE_COOPERATIVE, MODE_PLAIN]
    if forced.startswith("setup:"):
        result = -getattr(errno_names, forced[6:])
        modes = []
    for mode in modes:
        result = probe_mode(state, mode, forced, &entered)
        if result != -EINVAL:
            state.mode = mode
            break
    if result == 0 and not state.features & URING_FEATURE_EXT_ARG:
        return ("old-kernel: io_uring has no timed wait here", "use Linux 5.11 or newer")
    if result == 0:
        return ("", "")
    return refusal(-result, entered)


cdef tuple refusal(int code, bint entered):
    """Name the reason why io_uring said no."""
    name = errno_names.errorcode.get(code, str(code))
    if entered:
        return (f"enter-refused: {name}", "a sandbox lets rings be made but not used")
    if code == EPERM:
        try:
            with open("/proc/sys/kernel/io_uring_disabled") as setting:
                value = setting.read().strip()
        except OSError:
            value = "0"
        if value in ("1", "2"):
            return (f"disabled-by-sysctl: kernel.io_uring_disabled = {value}",
                    "sysctl kernel.io_uring_disabled=0, or set kernel.io_uring_group")
    if code == ENOMEM:
        soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return (f"memlock: rings need locked memory, RLIMIT_MEMLOCK is {soft} bytes",
                "raise RLIMIT_MEMLOCK (ulimit -l), or lower queue_depth")
    if code == EINVAL:
        return (f"old-kernel: {os.uname().release} knows none of the ring modes",
                "use Linux 5.11 or newer")
    return (f"setup-refused: {name}",
            "a seccomp profile (the default one of container runtimes) may forbid io_uring_setup")


def open_uring(bytes root, int queue_depth, bint direct, bint sqpoll, bint iopoll,
               int lock_fd):
    """Open an io_uring engine, for `open_engine`: (engine or None, reason, hint).

    Raises: OSError when the root cannot be opened.
    """
    cdef UringEngine engine = UringEngine.__new__(UringEngine)
    cdef UringState* state
    cdef Liburing* api
    cdef int error
    forced = os.environ.get("EDGECACHE_IO_FAIL", "")
    api = NULL if forced == "no-liburing" else liburing_load()
    if api == NULL:
        detail = "EDGECACHE_IO_FAIL is set" if forced else liburing_detail()
        return (None, f"no-liburing: {detail}",
                "pip install liburing, or install liburing-ffi.so.2")
    state = <UringState*>calloc(1, sizeof(UringState))
    if state == NULL:
        raise MemoryError
    error = io_file_system_open(&state.fs, root, direct)
    if error < 0:
        free(state)
        raise OSError(-error, os.strerror(-error), os.fsdecode(root))
    engine.state = state
    engine.counters = &state.fs.stats
    engine.name = "uring"
    engine.fallback_reason = ""
    state.api = api
    state.ops = &engine.ops
    state.queue_depth = queue_depth
    state.lock_fd = lock_fd
    reason, hint = probe(state, sqpoll, iopoll, forced)
    if reason:
        return (None, reason, hint)
    io_file_system_ops(&engine.ops)
    io_tree_ops(&engine.ops)
    engine.ops.register_buffer = uring_register_buffer
    engine.ops.channel_open = uring_channel_open
    engine.ops.channel_close = uring_channel_close
    engine.ops.submit = uring_submit
    engine.ops.reap = uring_reap
    engine.ops.event_fd = uring_event_fd
    engines.add(engine)
    return (engine, "", "")
