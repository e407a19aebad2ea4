"""Recovery: from what lies on the disk to an index, whatever happened.

1. Load the newest checkpoint that verifies (none: start from an empty index).
2. Look at every region's first page and footer. Its generation against the checkpoint's table says:
   unchanged (keep the entries, replay the blocks written since), newer (drop the entries, replay
   all), older or nothing (drop the entries; the region is free).
3. Sweep: entries of regions that are gone are erased.
4. Replay: gather the mini-index entries of all blocks to replay, let the highest sequence of each
   key hash win, and merge the winners into the index; a winning tombstone erases.

Where an entry competes with other versions of its key, and its block is not known to have been
durable, its record is verified first: the mini-index of a torn block may have survived alone.

Sequences decide, not positions: a record that reclaim moved keeps its sequence, so it can never
outrank a newer version or a tombstone. An entry of the checkpoint is outranked by reading the
sequence of its record from the mini-index of its region.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._checkpoint cimport Checkpointer
from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._status cimport Status

# Called now and then without the GIL; takes it if it must.
ctypedef void (*recovery_progress_function)(void* context, uint64_t done,
                                            uint64_t total) noexcept nogil

cdef struct RecoveryReport:
    uint32_t checkpoint_loaded
    uint32_t checkpoint_clean
    uint32_t checkpoint_skipped         # files that did not verify
    uint32_t region_count               # holding something
    uint32_t region_replayed
    uint32_t region_unreadable
    uint32_t region_damaged             # had blocks that did not verify
    uint64_t replayed_entries
    uint64_t swept_entries
    uint64_t object_count
    uint64_t lost_entries               # found, but the index had no room
    uint64_t torn_entries               # contested ones whose records did not verify
    uint64_t duration_us
    uint32_t is_warm                    # the arena of an earlier life was adopted: nothing was read
    uint32_t zero

# The shards are laid out and empty, every region FREE, the data files that exist are open.
cdef Status recovery_run(LogStore* log, ShardSet* shards, Checkpointer* checkpointer,
                         recovery_progress_function progress, void* context,
                         RecoveryReport* report) noexcept nogil
