"""Zeroes ahead of the log, so that durable puts overwrite blocks that the file system knows.

A first write to reserved file space changes the file's extents, and the fdatasync after it has to
commit that to the file system's journal: 67 us for 8 KiB here, 43 us where the space had been
written before. So while somebody syncs, the maintenance thread keeps some MiB in front of the open
regions written. Without syncs nothing is prewritten: the device has better things to do.

Invariant: what is being prewritten (`LogStore.prewrite_region`, from `prewrite_start` on) belongs
to nobody; no buffer or large block is placed there until it is done (log_place_limit).
"""

from libc.stdint cimport uint64_t

from edgecache._segment cimport LogStore

# Write zeroes until each open region has `ahead_bytes` in front of what is in use. Blocks on the
# device. A device that refuses is asked no more. The caller makes sure that regions are neither
# reclaimed nor reused meanwhile (maintenance lock), and that nobody else does this.
cdef void log_prewrite(LogStore* log, uint64_t ahead_bytes) noexcept nogil
