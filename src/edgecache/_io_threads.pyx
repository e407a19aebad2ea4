"""The thread engine: pread, pwrite and fdatasync on a pool of native threads.

No thread of the pool ever holds the GIL or runs Python code. Invariants, under `state.lock`:

1. `head`..`tail` is the queue of requests nobody works on yet, linked by `next`.
2. `idle` counts the threads that announced that they found the queue empty and that no wake-up
   was issued for yet; `wakeups` counts those issued and not taken. A submitter that pushes n
   requests issues min(n, idle), so no more threads wake than there are requests.
3. `outstanding` counts requests pushed and not finished. A thread is started only when they are
   more than the threads there are, up to `limit`.

Channel invariants, under `channel.lock`:

4. `done` holds the finished requests, `done_count` their number.
5. `signalled` is set between the write to the event descriptor and the reap that drains `done`, so
   a burst of completions costs one write.
6. `notifying` counts workers that still touch the channel after they let go of its lock; it is
   freed only when that is 0 and nothing is in flight.

Source: U. Drepper, "Futexes Are Tricky" (2011) for the counted wake-up; eventfd(2).
"""

cimport cython

from libc.errno cimport EBADF, ECHILD, EINVAL, ENOMEM, EOPNOTSUPP, ESHUTDOWN, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._io cimport (
    IO_CHANNEL_EVENT_FD, IO_SYNC, IoChannel, IoEngine, IoEngineOps, IoFileSystem, IoRequest,
    io_begin, io_file_acquire, io_file_at, io_file_perform, io_file_release, io_file_system_close,
    io_file_system_free, io_file_system_open, io_file_system_ops, io_forked, io_stats_finish,
)
from edgecache._io_tree cimport io_tree_ops
from edgecache._sync cimport (
    ec_add_u32, ec_cas_u32, ec_count, ec_futex_wait, ec_futex_wake, ec_load_u32, ec_lock_acquire,
    ec_lock_release, ec_monotonic_ns, ec_store_u32,
)

import os

cdef extern from *:
    """
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <sys/eventfd.h>
    #include <unistd.h>

    /* Small stacks (the loop needs a few hundred bytes) and no signals: those are the program's. */
    static inline int ec_thread_start(pthread_t *thread, void *(*body)(void *), void *argument) {
        pthread_attr_t attributes;
        sigset_t all, before;
        int result = pthread_attr_init(&attributes);
        if (result) return -result;
        pthread_attr_setstacksize(&attributes, 128 * 1024);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(thread, &attributes, body, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return -result;
    }
    """
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes) noexcept nogil
    int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept nogil
    int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept nogil
    ctypedef void* (*ThreadBody)(void*) noexcept nogil
    int ec_thread_start(pthread_t* thread, ThreadBody body, void* argument) noexcept nogil
    int pthread_join(pthread_t thread, void** result) noexcept nogil
    int sched_yield() noexcept nogil
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned initial, int flags) noexcept nogil
    int eventfd_write(int fd, uint64_t value) noexcept nogil
    int eventfd_read(int fd, uint64_t* value) noexcept nogil
    int c_close "close"(int fd) noexcept nogil

cdef enum:
    CHANNEL_DEPTH_MAX = 65536
    CHANNEL_IDLE = 0            # ThreadsChannel.guard: who may use the channel
    CHANNEL_BUSY = 1
    CHANNEL_CLOSED = 2

cdef struct ThreadsState:
    IoFileSystem fs             # first: the file functions take the state for it
    IoEngineOps* ops
    uint32_t lock
    uint32_t idle
    uint32_t wakeups            # futex
    uint32_t outstanding        # atomic
    uint32_t limit
    uint32_t started
    uint32_t stopping
    uint32_t queue_depth
    IoRequest* head
    IoRequest* tail
    pthread_t* threads
    pthread_mutex_t start_lock  # held while a thread is created; never taken by workers
    ThreadsChannel* channels

cdef struct ThreadsChannel:
    IoChannel base              # first
    uint32_t guard
    uint32_t lock
    IoRequest* done
    uint32_t done_count
    uint32_t wait_for           # > 0: the owner sleeps until done_count reaches it
    uint32_t wake_word          # futex
    uint32_t signalled
    uint32_t notifying
    int event_fd
    ThreadsChannel* next


# ---- workers -------------------------------------------------------------------------------------

cdef void request_done(IoRequest* request) noexcept nogil:
    """Hand a finished request to its channel and wake the owner when it waits for this one."""
    cdef ThreadsChannel* channel = <ThreadsChannel*>request.channel
    cdef bint wake, signal
    ec_lock_acquire(&channel.lock)
    request.next = channel.done
    channel.done = request
    channel.done_count += 1
    wake = channel.wait_for > 0 and channel.done_count >= channel.wait_for
    if wake:
        channel.wait_for = 0
        ec_add_u32(&channel.wake_word, 1)
    signal = channel.event_fd >= 0 and not channel.signalled
    if signal:
        channel.signalled = 1
    if not (wake or signal):
        ec_lock_release(&channel.lock)
        return
    ec_add_u32(&channel.notifying, 1)
    ec_lock_release(&channel.lock)
    # Outside the lock: the woken owner would only run into it.
    if wake:
        ec_futex_wake(&channel.wake_word, 1)
    if signal:
        eventfd_write(channel.event_fd, 1)
    ec_add_u32(&channel.notifying, 0xffffffff)


cdef void request_perform(ThreadsState* state, IoRequest* request) noexcept nogil:
    # `submit` pinned the file, so the index still names it even after close_file.
    io_file_perform(&state.fs, io_file_at(&state.fs, request.file), request)
    io_file_release(&state.fs, request.file)
    io_stats_finish(&state.fs.stats, request, ec_monotonic_ns())
    # First: the owner may submit again at once and must not take this thread for a busy one.
    ec_add_u32(&state.outstanding, 0xffffffff)
    request_done(request)


cdef void idle_wait(ThreadsState* state) noexcept nogil:
    """Sleep until a wake-up was issued to this thread (or to another sleeper: they are equal)."""
    cdef uint32_t seen
    while True:
        seen = ec_load_u32(&state.wakeups)
        if seen == 0:
            ec_futex_wait(&state.wakeups, 0, -1)
        elif ec_cas_u32(&state.wakeups, seen, seen - 1):
            return


cdef void* worker(void* argument) noexcept nogil:
    cdef ThreadsState* state = <ThreadsState*>argument
    cdef IoRequest* request
    while True:
        ec_lock_acquire(&state.lock)
        request = state.head
        if request != NULL:
            state.head = request.next
            ec_lock_release(&state.lock)
            request_perform(state, request)
            continue
        if state.stopping:
            ec_lock_release(&state.lock)
            return NULL
        state.idle += 1
        ec_lock_release(&state.lock)
        idle_wait(state)


cdef uint32_t wakeups_issue(ThreadsState* state, uint32_t wanted) noexcept nogil:
    """Claim up to `wanted` idle threads, under the lock; the caller wakes that many after it."""
    cdef uint32_t count = min(wanted, state.idle)
    state.idle -= count
    if count > 0:
        ec_add_u32(&state.wakeups, count)
    return count


cdef int threads_start(ThreadsState* state, uint32_t wanted) noexcept nogil:
    """Start up to `wanted` more threads; -EAGAIN or -ENOMEM when not one is running after that."""
    cdef uint32_t index
    cdef int error = 0
    while wanted > 0 and error == 0:
        pthread_mutex_lock(&state.start_lock)
        index = state.started
        if index >= state.limit:
            pthread_mutex_unlock(&state.start_lock)
            break
        error = ec_thread_start(&state.threads[index], worker, state)
        if error == 0:
            ec_store_u32(&state.started, index + 1)
        pthread_mutex_unlock(&state.start_lock)
        wanted -= 1
    return error if ec_load_u32(&state.started) == 0 else 0


# ---- channels ------------------------------------------------------------------------------------

cdef int threads_channel_open(void* engine, uint32_t depth, uint32_t flags,
                              IoChannel** out) noexcept nogil:
    cdef ThreadsState* state = <ThreadsState*>engine
    cdef ThreadsChannel* channel
    if io_forked(&state.fs):
        return -ECHILD
    if depth > CHANNEL_DEPTH_MAX:
        return -EINVAL
    if state.stopping:
        return -ESHUTDOWN
    channel = <ThreadsChannel*>calloc(1, sizeof(ThreadsChannel))
    if channel == NULL:
        return -ENOMEM
    channel.base.ops = state.ops
    channel.base.engine = engine
    channel.base.depth = depth if depth > 0 else state.queue_depth
    channel.event_fd = -1
    if flags & IO_CHANNEL_EVENT_FD:
        channel.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if channel.event_fd < 0:
            free(channel)
            return -errno
    ec_lock_acquire(&state.lock)
    channel.next = state.channels
    state.channels = channel
    ec_lock_release(&state.lock)
    out[0] = &channel.base
    return 0


cdef void threads_channel_close(IoChannel* base) noexcept nogil:
    cdef ThreadsChannel* channel = <ThreadsChannel*>base
    cdef ThreadsState* state = <ThreadsState*>base.engine
    cdef ThreadsChannel** link
    if io_forked(&state.fs):
        return
    # The owner may still be in submit or reap on its own thread; both end by themselves.
    while not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_CLOSED):
        sched_yield()
    done_wait(channel, base.in_flight, -1)
    while ec_load_u32(&channel.notifying) != 0:
        sched_yield()
    ec_count(&state.fs.stats.completed, base.in_flight)
    ec_lock_acquire(&state.lock)
    link = &state.channels
    while link[0] != channel:
        link = &link[0].next
    link[0] = channel.next
    ec_lock_release(&state.lock)
    if channel.event_fd >= 0:
        c_close(channel.event_fd)
    free(channel)


cdef int threads_submit(IoChannel* base, IoRequest** requests, uint32_t count) noexcept nogil:
    cdef ThreadsChannel* channel = <ThreadsChannel*>base
    cdef ThreadsState* state = <ThreadsState*>base.engine
    cdef IoRequest* first = NULL
    cdef IoRequest* last = NULL
    cdef IoRequest* request
    cdef uint32_t index, queued = 0
    cdef int64_t now_ns
    cdef int error
    if io_forked(&state.fs):
        return -ECHILD
    count = min(count, base.depth - base.in_flight)
    if count == 0:
        return 0
    if not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_BUSY):
        return -ESHUTDOWN
    if ec_load_u32(&state.started) == 0:
        error = threads_start(state, 1)
        if error < 0:
            ec_store_u32(&channel.guard, CHANNEL_IDLE)
            return error
    now_ns = ec_monotonic_ns()
    base.in_flight += count
    ec_count(&state.fs.stats.submitted, count)
    for index in range(count):
        request = requests[index]
        io_begin(request, channel, now_ns)
        request.next = NULL
        if request.operation > IO_SYNC or io_file_acquire(&state.fs, request.file) == NULL:
            request.result = -EINVAL if request.operation > IO_SYNC else -EBADF
            request.operation = min(request.operation, <uint8_t>IO_SYNC)
            io_stats_finish(&state.fs.stats, request, now_ns)
            request_done(request)
            continue
        if last == NULL:
            first = request
        else:
            last.next = request
        last = request
        queued += 1
    if queued > 0:
        queue_push(state, first, last, queued)
    ec_store_u32(&channel.guard, CHANNEL_IDLE)
    return <int>count


cdef void queue_push(ThreadsState* state, IoRequest* first, IoRequest* last,
                     uint32_t count) noexcept nogil:
    cdef uint32_t woken, started
    cdef uint32_t outstanding = ec_add_u32(&state.outstanding, count)
    ec_lock_acquire(&state.lock)
    if state.head == NULL:
        state.head = first
    else:
        state.tail.next = first
    state.tail = last
    woken = wakeups_issue(state, count)
    if EDGECACHE_DEBUG:
        pool_check_locked(state)
    ec_lock_release(&state.lock)
    if woken > 0:
        ec_futex_wake(&state.wakeups, <int>woken)
        ec_count(&state.fs.stats.submit_calls, 1)
    started = ec_load_u32(&state.started)
    if woken < count and started < state.limit and started < outstanding:
        threads_start(state, min(count - woken, outstanding - started))


cdef int done_wait(ThreadsChannel* channel, uint32_t wanted, int64_t timeout_ns) noexcept nogil:
    """Sleep until `wanted` requests are in `done` or the time is over."""
    cdef int64_t deadline_ns = 0, left_ns = -1
    cdef uint32_t seen
    if timeout_ns > 0:
        deadline_ns = ec_monotonic_ns() + timeout_ns
    while True:
        ec_lock_acquire(&channel.lock)
        if channel.done_count >= wanted:
            channel.wait_for = 0
            ec_lock_release(&channel.lock)
            return 0
        if timeout_ns > 0:
            left_ns = deadline_ns - ec_monotonic_ns()
        if timeout_ns == 0 or (timeout_ns > 0 and left_ns <= 0):
            channel.wait_for = 0
            ec_lock_release(&channel.lock)
            return 0
        channel.wait_for = wanted
        seen = ec_load_u32(&channel.wake_word)
        ec_lock_release(&channel.lock)
        ec_futex_wait(&channel.wake_word, seen, left_ns)


cdef void channel_check_locked(ThreadsChannel* channel, uint32_t in_flight) noexcept nogil:
    cdef IoRequest* request = channel.done
    cdef uint32_t count = 0
    while request != NULL:
        count += 1
        request = request.next
    ec_assert(count == channel.done_count, b"threads channel 4")
    ec_assert(count <= in_flight, b"threads channel 4: in flight")
    ec_assert(channel.signalled == 0 or channel.event_fd >= 0, b"threads channel 5")


cdef void pool_check_locked(ThreadsState* state) noexcept nogil:
    cdef IoRequest* request = state.head
    cdef IoRequest* last = NULL
    while request != NULL:
        last = request
        request = request.next
    ec_assert(last == NULL or last == state.tail, b"thread pool 1")
    ec_assert(state.idle <= ec_load_u32(&state.started) + 1, b"thread pool 2")
    ec_assert(ec_load_u32(&state.started) <= state.limit, b"thread pool 3")


cdef int threads_reap(IoChannel* base, IoRequest** out, uint32_t capacity, uint32_t wanted,
                      int64_t timeout_ns) noexcept nogil:
    cdef ThreadsChannel* channel = <ThreadsChannel*>base
    cdef ThreadsState* state = <ThreadsState*>base.engine
    cdef IoRequest* request
    cdef IoRequest* following
    cdef uint32_t count = 0
    cdef uint64_t signals = 0
    cdef bint signal
    if io_forked(&state.fs):
        return -ECHILD
    if not ec_cas_u32(&channel.guard, CHANNEL_IDLE, CHANNEL_BUSY):
        return -ESHUTDOWN
    wanted = min(wanted, min(capacity, base.in_flight))
    if wanted > 0 and timeout_ns != 0:
        done_wait(channel, wanted, timeout_ns)
    if channel.event_fd >= 0:
        # Before the list is taken: what finishes after this read writes anew or is taken below.
        eventfd_read(channel.event_fd, &signals)
    ec_lock_acquire(&channel.lock)
    request = channel.done
    while request != NULL and count < capacity:
        following = request.next
        request.next = NULL
        out[count] = request
        count += 1
        request = following
    channel.done = request
    channel.done_count -= count
    if EDGECACHE_DEBUG:
        channel_check_locked(channel, base.in_flight - count)
    signal = request != NULL and channel.event_fd >= 0
    channel.signalled = 1 if signal else 0
    ec_lock_release(&channel.lock)
    if signal:
        eventfd_write(channel.event_fd, 1)      # level triggered: some are left
    base.in_flight -= count
    if count > 0:
        ec_count(&state.fs.stats.completed, count)
    ec_store_u32(&channel.guard, CHANNEL_IDLE)
    return <int>count


cdef int threads_event_fd(IoChannel* base) noexcept nogil:
    return (<ThreadsChannel*>base).event_fd


cdef int threads_register_buffer(void* engine, char* base, uint64_t size_bytes) noexcept nogil:
    return -EOPNOTSUPP      # system calls pin their pages per transfer


# ---- the engine ----------------------------------------------------------------------------------

@cython.final
cdef class ThreadsEngine(IoEngine):
    """See `open_engine`.

    Thread-safety: as IoEngine. Cost: one system call per transfer and, when a thread of the pool
    sleeps, one wake-up; nothing while idle.
    """

    cdef object stats_dict(self):
        cdef ThreadsState* state = <ThreadsState*>self.state
        found = IoEngine.stats_dict(self)
        found["threads"] = ec_load_u32(&state.started)
        found["threads_limit"] = state.limit
        found["open_files"] = ec_load_u32(&state.fs.open_files)
        return found

    cdef void shut(self) noexcept:
        cdef ThreadsState* state = <ThreadsState*>self.state
        if state == NULL or state.stopping or io_forked(&state.fs):
            return
        with nogil:
            threads_stop(state)

    def __dealloc__(self):
        cdef ThreadsState* state = <ThreadsState*>self.state
        if state == NULL:
            return
        if io_forked(&state.fs):
            return      # the parent's threads do not exist here; leave its memory to the exit
        self.shut()
        io_file_system_free(&state.fs)
        free(state.threads)
        free(state)


cdef void threads_stop(ThreadsState* state) noexcept nogil:
    cdef uint32_t index, woken
    while state.channels != NULL:
        threads_channel_close(&state.channels.base)
    ec_lock_acquire(&state.lock)
    state.stopping = 1
    woken = wakeups_issue(state, state.limit)
    ec_lock_release(&state.lock)
    ec_futex_wake(&state.wakeups, <int>woken)
    for index in range(state.started):
        pthread_join(state.threads[index], NULL)
    io_file_system_close(&state.fs)


def open_threads(bytes root, int queue_depth, int threads, bint direct, str fallback_reason):
    """Open a thread engine over a directory; for `open_engine`.

    Raises: OSError when the root cannot be opened.
    """
    cdef ThreadsEngine engine = ThreadsEngine.__new__(ThreadsEngine)
    cdef ThreadsState* state = <ThreadsState*>calloc(1, sizeof(ThreadsState))
    cdef int error
    if state == NULL:
        raise MemoryError
    error = io_file_system_open(&state.fs, root, direct)
    if error < 0:
        free(state)
        raise OSError(-error, os.strerror(-error), os.fsdecode(root))
    engine.state = state
    engine.counters = &state.fs.stats
    engine.name = "threads"
    engine.fallback_reason = fallback_reason
    pthread_mutex_init(&state.start_lock, NULL)
    state.limit = threads
    state.queue_depth = queue_depth
    state.ops = &engine.ops
    state.threads = <pthread_t*>calloc(threads, sizeof(pthread_t))
    if state.threads == NULL:
        raise MemoryError
    io_file_system_ops(&engine.ops)
    io_tree_ops(&engine.ops)
    engine.ops.register_buffer = threads_register_buffer
    engine.ops.channel_open = threads_channel_open
    engine.ops.channel_close = threads_channel_close
    engine.ops.submit = threads_submit
    engine.ops.reap = threads_reap
    engine.ops.event_fd = threads_event_fd
    return engine
