"""The background threads: flusher, and maintenance (reclaim and checkpoints). No Python in them.

Both sleep on futexes and are woken by work; without changes since the last checkpoint there is no
timer, so an idle store causes no wake-ups.

Lock order: maintenance lock, then shard lock, then log lock. The maintenance lock keeps reclaim and
checkpoints away from operations that walk the regions (prefix and tag purges, scrub, clear).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._checkpoint cimport Checkpointer
from edgecache._reclaim cimport Reclaimer
from edgecache._segment cimport LogStore
from edgecache._status cimport Status

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t

cdef struct Maintenance:
    LogStore* log
    Reclaimer* reclaimer
    Checkpointer* checkpointer
    int64_t checkpoint_interval_ns
    int64_t last_checkpoint_ns
    uint32_t lock                   # sleeping lock, see above
    uint32_t running
    uint32_t flusher_depth
    uint32_t zero
    pthread_t flusher
    pthread_t maintainer

# 0 or an errno.
cdef int maintenance_start(Maintenance* self) noexcept nogil
# Stop both threads; what is closed gets flushed first. Blocks.
cdef void maintenance_stop(Maintenance* self) noexcept nogil
# One checkpoint now, on this thread.
cdef Status maintenance_checkpoint(Maintenance* self, uint32_t flags) noexcept nogil
# Prewriting now, on this thread (see _prewrite.pxd); blocks.
cdef void maintenance_prewrite(Maintenance* self, uint64_t ahead_bytes) noexcept nogil
