"""Making room: S3-FIFO at region grain over two logs.

New records go to the small log (`small_share` of the regions); those whose fingerprint is among the
ghosts go to the main log at once. When regions run short the oldest region of the small log (if it
is over its share) or of the main log is taken: records that were read since they were written, or
that live in RAM, are copied to the main log; the others are dropped, and remembered as ghosts when
they came from the small log.

A record that had overwritten an older one leaves a tombstone when its region goes, and a tombstone
outlives every record it could have to hide: it is dropped only when the last two checkpoints both
know that all regions as old as it are gone (`stable_generation`). So nothing deleted or overwritten
comes back, whichever checkpoint a recovery starts from. A region is emptied in an order that a
crash may cut anywhere: survivors and tombstones durable, region erased durably, then entries
dropped from the index.

Source: J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023; here at the
grain of regions.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._status cimport Status

cdef struct GhostTable:                 # in the arena: 4-way buckets of 32-bit fingerprints
    uint64_t bucket_count               # a power of two
    uint64_t clock
    uint64_t offset                     # of the u32 cells, from the arena base

cdef struct ReclaimShared:              # in the arena
    uint64_t stable_generation          # see above; written by the checkpointer
    uint64_t tombstone_bytes            # written since the last checkpoint
    uint64_t checkpoint_bytes           # size of the last one
    int64_t retry_after_ns              # a region could not be emptied: not before that

cdef struct Reclaimer:                  # process-local
    ReclaimShared* shared
    LogStore* log
    ShardSet* shards
    GhostTable* ghosts
    double small_share
    double reinsert_share               # most of a region's bytes that may survive it
    uint32_t reinsert                   # 0: plain FIFO
    uint32_t usable_count               # regions that there is file space for, as far as is known
    uint32_t ready_target               # of which so many are kept ready
    int64_t prepare_after_ns            # the disk gave no space: not before that

cdef uint64_t ghost_bytes(uint64_t disk_bytes) noexcept nogil
cdef void ghost_init(char* base, GhostTable* ghosts, uint64_t offset, uint64_t size) noexcept nogil
cdef void ghost_remember(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil
# True, and forgotten, if the hash was remembered.
cdef bint ghost_recall(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil

# Append a tombstone for a key hash; the key may be empty (reclaim has only the hash).
cdef Status reclaim_tombstone(LogStore* log, uint32_t head, uint64_t hash_low, uint64_t hash_high,
                              const char* key, uint32_t key_len, uint64_t sequence,
                              uint64_t birth_generation) noexcept nogil
# Free one region; STATUS_NOT_FOUND when there is none to take. `in_place`: its tombstones are kept
# in memory until it is free and are then written to it; the caller wrote two checkpoints just
# before, so that a crash in between loses nothing that they do not know.
cdef Status reclaim_one(Reclaimer* reclaimer, bint in_place) noexcept nogil
# Was there no region to move tombstones to? A crash may leave every region full.
cdef bint reclaim_is_stuck(Reclaimer* reclaimer) noexcept nogil
# Are so many tombstones waiting for checkpoints that one is due now?
cdef bint reclaim_needs_checkpoint(Reclaimer* reclaimer) noexcept nogil
# Make regions ready while the disk has space for them; without it, be content with those there are.
cdef void reclaim_prepare(Reclaimer* reclaimer) noexcept nogil
# Keep `ready_target` regions ready. Returns the number of regions freed.
cdef uint32_t reclaim_run(Reclaimer* reclaimer) noexcept nogil
