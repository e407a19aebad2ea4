"""Single transfers with a deadline (see _io_lanes.pxd)."""

from libc.errno cimport EBUSY, ESHUTDOWN, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free

from edgecache._io cimport (
    IO_CHANNEL_ANY_THREAD,
    IO_READ,
    IO_WRITE,
    IoEngineOps,
    IoRequest,
)
from edgecache._sync cimport (
    ec_add_u32,
    ec_count,
    ec_futex_wait,
    ec_futex_wake,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_lock_try,
    ec_monotonic_ns,
    ec_store_u32,
)


cdef void lanes_open(Lanes* self, const IoEngineOps* ops, void* engine) noexcept nogil:
    self.ops = ops
    self.engine = engine


cdef int64_t _perform(Lanes* self, const IoRequest* request) noexcept nogil:
    """On this thread, as long as it takes."""
    if request.operation == IO_READ:
        return self.ops.read(self.engine, request.file, request.offset_bytes, request.buffer,
                             request.length_bytes)
    if request.operation == IO_WRITE:
        return self.ops.write(self.engine, request.file, request.offset_bytes, request.buffer,
                              request.length_bytes)
    return self.ops.sync(self.engine, request.file)


cdef void _give(Lanes* self, Lane* lane) noexcept nogil:
    ec_lock_acquire(&self.lock)
    lane.next = self.free
    self.free = lane
    ec_add_u32(&self.free_word, 1)
    ec_lock_release(&self.lock)
    if ec_load_u32(&self.count) >= LANES_MAX or ec_load_u32(&self.is_closed):
        ec_futex_wake(&self.free_word, 0x7FFFFFFF)


cdef void _drop(Lanes* self, Lane* lane) noexcept nogil:
    """Its channel is of no use any more."""
    if lane != NULL and lane.channel != NULL:
        self.ops.channel_close(lane.channel)
    free(lane)
    ec_lock_acquire(&self.lock)
    self.count -= 1
    ec_add_u32(&self.free_word, 1)
    ec_lock_release(&self.lock)
    ec_futex_wake(&self.free_word, 0x7FFFFFFF)


cdef Lane* _take(Lanes* self, int64_t deadline_ns, int* error) noexcept nogil:
    """A lane; NULL with *error 0: there can be none, else -EBUSY or -ESHUTDOWN."""
    cdef Lane* lane = NULL
    cdef uint32_t seen
    cdef int64_t left
    cdef bint may_make
    error[0] = 0
    while True:
        ec_lock_acquire(&self.lock)
        seen = ec_load_u32(&self.free_word)
        if self.is_closed:
            ec_lock_release(&self.lock)
            error[0] = -ESHUTDOWN
            return NULL
        lane = self.free
        if lane != NULL:
            self.free = lane.next
        may_make = lane == NULL and self.count < LANES_MAX
        if may_make:
            self.count += 1
        ec_lock_release(&self.lock)
        if lane != NULL:
            return lane
        if may_make:
            break
        left = deadline_ns - ec_monotonic_ns()
        if left <= 0 or ec_load_u32(&self.overdue_count) >= LANES_MAX:
            error[0] = -EBUSY
            return NULL
        ec_futex_wait(&self.free_word, seen, left)
    lane = <Lane*>calloc(1, sizeof(Lane))
    if lane != NULL and self.ops.channel_open(self.engine, 1, IO_CHANNEL_ANY_THREAD,
                                              &lane.channel) == 0:
        return lane
    if lane != NULL:
        lane.channel = NULL
    _drop(self, lane)
    return NULL


cdef int64_t lane_transfer(Lanes* self, IoRequest* request, int64_t timeout_ns,
                           Lane** left) noexcept nogil:
    cdef Lane* lane
    cdef IoRequest* queued
    cdef IoRequest* done = NULL
    cdef int64_t deadline, now, result
    cdef int error = 0, count = 0
    left[0] = NULL
    if ec_load_u32(&self.overdue_count):
        lanes_sweep(self)
        if ec_load_u32(&self.overdue_count):
            timeout_ns = min(timeout_ns, <int64_t>SUSPECT_NS)
    now = ec_monotonic_ns()
    deadline = now + timeout_ns
    lane = _take(self, deadline, &error)
    if lane == NULL:
        if error == 0:
            return _perform(self, request)
        if error == -EBUSY:
            ec_count(&self.timeout_count, 1)
        return error
    lane.request = request[0]
    queued = &lane.request
    if self.ops.submit(lane.channel, &queued, 1) != 1:
        _drop(self, lane)       # broken, as a ring is that cannot be entered any more
        return _perform(self, request)
    while True:
        count = self.ops.reap(lane.channel, &done, 1, 1, max(deadline - now, <int64_t>0))
        if count != 0:
            break
        now = ec_monotonic_ns()
        if now >= deadline:
            ec_count(&self.timeout_count, 1)
            left[0] = lane
            return -ETIMEDOUT
    result = lane.request.result if count == 1 else count
    _give(self, lane)
    return result


cdef void lane_leave(Lanes* self, Lane* lane) noexcept nogil:
    ec_lock_acquire(&self.lock)
    lane.next = self.overdue
    self.overdue = lane
    ec_add_u32(&self.overdue_count, 1)
    ec_lock_release(&self.lock)


cdef void lanes_sweep(Lanes* self) noexcept nogil:
    cdef Lane* landed = NULL
    cdef Lane* lane
    cdef Lane** link
    cdef IoRequest* done = NULL
    if ec_load_u32(&self.overdue_count) == 0 or not ec_lock_try(&self.lock):
        return
    link = &self.overdue
    while link[0] != NULL:
        lane = link[0]
        if self.ops.reap(lane.channel, &done, 1, 1, 0) == 0:
            link = &lane.next
            continue
        link[0] = lane.next
        lane.next = landed
        landed = lane
        ec_add_u32(&self.overdue_count, <uint32_t>-1)
    ec_lock_release(&self.lock)
    while landed != NULL:
        lane = landed
        landed = lane.next
        lane.landed(lane.context, &lane.request, lane.room_bytes)
        _give(self, lane)


cdef void lanes_close(Lanes* self) noexcept nogil:
    cdef Lane* lane
    cdef uint32_t seen
    if self.ops == NULL:
        return
    while True:
        ec_lock_acquire(&self.lock)
        ec_store_u32(&self.is_closed, 1)
        seen = ec_load_u32(&self.free_word)
        lane = self.overdue
        if lane != NULL:
            self.overdue = lane.next
            ec_add_u32(&self.overdue_count, <uint32_t>-1)
        elif self.free != NULL:
            lane = self.free
            self.free = lane.next
            lane.landed = NULL
        elif self.count == 0:
            ec_lock_release(&self.lock)
            return
        ec_lock_release(&self.lock)
        if lane == NULL:
            # Some thread is about to come back with its lane; its transfer has a deadline.
            ec_futex_wait(&self.free_word, seen, -1)
            continue
        if lane.landed != NULL:
            self.ops.channel_close(lane.channel)
            lane.channel = NULL
            lane.landed(lane.context, &lane.request, lane.room_bytes)
        _drop(self, lane)
