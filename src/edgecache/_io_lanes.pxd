"""Single transfers with a deadline, for threads that have no channel of their own.

A lane is a channel of depth 1 that any thread may take, one at a time. A thread that gives up
leaves its lane behind, request and buffer with it: both are the engine's until the completion
arrives (contract of `_io.pxd`, 2). Whoever comes by afterwards sweeps: what has landed is handed to
its `landed`, and the lane is free again.

Invariants (under `lock`):

1. A lane is in `free`, in `overdue`, or with the one thread that took it; `count` is all of them,
   `overdue_count` those in `overdue`.
2. The buffer of an overdue lane's request belongs to the lane until its `landed` was called.
3. After `is_closed` no lane is taken.

While a transfer is overdue the device is taken for one that hangs: others wait SUSPECT_NS at most,
so that nobody piles up behind it; one that answers serves them in that time.

*Thread-safety*: every function but lanes_open and lanes_close.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._io cimport IoChannel, IoEngineOps, IoRequest

cdef enum:
    LANES_MAX = 64                  # transfers under way at a time; more wait their turn
    SUSPECT_NS = 50000000

cdef struct Lane:
    IoChannel* channel
    IoRequest request
    uint64_t room_bytes             # the owner's: of the buffer
    void* context                   # the owner's
    # Called once, without a lock, when a request that was left behind has its result.
    void (*landed)(void* context, IoRequest* request, uint64_t room_bytes) noexcept nogil
    Lane* next

cdef struct Lanes:                  # zeroed: not open
    const IoEngineOps* ops
    void* engine
    uint32_t lock
    uint32_t count
    uint32_t overdue_count          # atomic
    uint32_t is_closed
    uint32_t free_word              # futex: a lane came free
    uint32_t zero
    Lane* free
    Lane* overdue
    uint64_t timeout_count          # atomic

cdef void lanes_open(Lanes* self, const IoEngineOps* ops, void* engine) noexcept nogil
# Carry out `request` (operation, file, offset, buffer, length, buffer_index): bytes moved or a
# negative errno. -ETIMEDOUT with *left set: the buffer is the lane's; fill in context, landed and
# room_bytes, and call lane_leave. -EBUSY (no lane came free in time), -ESHUTDOWN: it never began.
# Where no lane can be made (descriptors, memory) this thread carries it out, without a deadline.
cdef int64_t lane_transfer(Lanes* self, IoRequest* request, int64_t timeout_ns,
                           Lane** left) noexcept nogil
cdef void lane_leave(Lanes* self, Lane* lane) noexcept nogil
# Take care of what has landed since. Cost: a load when nothing is overdue.
cdef void lanes_sweep(Lanes* self) noexcept nogil
# Wait for all transfers, overdue ones too, and give the channels back. Blocks.
cdef void lanes_close(Lanes* self) noexcept nogil
