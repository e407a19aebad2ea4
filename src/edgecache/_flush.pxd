"""Flushing the region log: the flusher thread, flushes by a caller, syncs with group commit.

A flush claims closed buffers (CLOSED -> WRITING, under the log lock), writes them without any lock
and frees them. The flusher thread keeps several in flight through an engine channel; a thread that
needs durability or room writes on its own, so that no wake-up of another thread stands in its way
(20-30 us on a small virtual machine, DESIGN section 4).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._segment cimport Append, LogStore
from edgecache._status cimport Status
# Wait until a buffer or region came free; helps by flushing, and with `write_timeout_ns` leaves
# what it flushes to a device that does not answer by then. False when `deadline_ns` passed.
cdef bint log_wait(LogStore* log, int64_t deadline_ns) noexcept nogil
# Close the active buffers and write everything closed so far from this thread.
cdef Status log_flush(LogStore* log, int64_t deadline_ns) noexcept nogil
# log_flush, then fdatasync of what was written since the last sync. Callers share syncs.
# STATUS_IO_ERROR also when a block was lost since the last log_sync that said so.
cdef Status log_sync(LogStore* log, int64_t deadline_ns) noexcept nogil
# The same for checkpoints and reclaim, which leave the news of a loss to log_sync: STATUS_IO_ERROR
# when the device fails now.
cdef Status log_sync_quiet(LogStore* log, int64_t deadline_ns) noexcept nogil

# Wait for a checkpoint (maintenance writes it) that makes gone for good what the log cannot say:
# retired regions, and what left the index without a record. Not with the maintenance lock held.
cdef Status log_settle(LogStore* log, int64_t deadline_ns) noexcept nogil

# Write the block of a large record from the calling thread. STATUS_TIMEOUT: it took longer than
# `write_timeout_ns` and may land yet; unless it never began, `append` has no block any more.
cdef Status log_large_write(LogStore* log, Append* append) noexcept nogil
# Write footers of full regions; called by the flusher and the closing thread.
cdef void log_seal_regions(LogStore* log) noexcept nogil
# Mark all blocks that the region holds as dead, in its footer page; durable after a sync.
cdef Status log_erase(LogStore* log, uint32_t region) noexcept nogil
# Body of the flusher thread; returns when `log.stopping` is set and nothing is left to flush.
cdef void log_flusher_run(LogStore* log, uint32_t depth) noexcept nogil
