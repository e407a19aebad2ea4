"""The background threads: flusher, and maintenance (reclaim and checkpoints). No Python in them.

Both sleep on futexes and are woken by work; without changes since the last checkpoint there is no
timer, so an idle store causes no wake-ups.

In shared mode every process has the flusher's thread, and one of them the writer role: it flushes
by time, seals, reclaims and writes checkpoints, with a maintainer beside it. The others' threads
sleep on `role_word` of the process table, a robust futex: the kernel marks it and wakes one of them
when the thread that holds it is gone, however it went. So takeovers need no polling either.
Source: set_robust_list(2); Documentation/locking/robust-futexes.rst of the Linux kernel.

Lock order: maintenance lock, then shard lock, then log lock. The maintenance lock keeps reclaim and
checkpoints away from operations that walk the regions (prefix and tag purges, scrub, clear).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._checkpoint cimport Checkpointer, CheckpointShared
from edgecache._process cimport ProcessTable
from edgecache._reclaim cimport Reclaimer, ReclaimShared
from edgecache._segment cimport LogStore
from edgecache._status cimport Status

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t

cdef struct MaintenanceShared:      # in the arena
    uint32_t lock                   # sleeping lock, see above
    uint32_t zero
    int64_t last_checkpoint_ns
    ReclaimShared reclaim
    CheckpointShared checkpoint

cdef struct Maintenance:
    MaintenanceShared* shared
    LogStore* log
    Reclaimer* reclaimer
    Checkpointer* checkpointer
    int64_t checkpoint_interval_ns
    ProcessTable* processes         # NULL: this process alone works on the arena
    uint32_t running
    uint32_t flusher_depth
    uint32_t zero
    pthread_t flusher
    pthread_t maintainer

# 0 or an errno.
# Number of the process that has the writer role; 0: nobody just now.
cdef uint32_t maintenance_writer(const ProcessTable* processes) noexcept nogil
cdef int maintenance_start(Maintenance* self) noexcept nogil
# Stop both threads; what is closed gets flushed first. Blocks.
cdef void maintenance_stop(Maintenance* self) noexcept nogil
# One checkpoint now, on this thread.
cdef Status maintenance_checkpoint(Maintenance* self, uint32_t flags) noexcept nogil
# Prewriting now, on this thread (see _prewrite.pxd); blocks.
cdef void maintenance_prewrite(Maintenance* self, uint64_t ahead_bytes) noexcept nogil
