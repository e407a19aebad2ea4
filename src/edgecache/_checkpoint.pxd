"""Checkpoints: a copy of the index that a recovery starts from. Two files, written in turn.

    checkpoint.a / checkpoint.b                                     (docs/format.md, "Checkpoint")
    | 0           4096 | 4096                        | ...                     |
    | header           | region table, 32 bytes each | per shard: IndexShard, area prefix |
    Every part starts at a multiple of 4096 and has its own sum, kept in the header or the table.

Order of writing, which is what makes it safe to be killed anywhere:
1. flush; take the region table: generation, `known_offset` (blocks given out so far) and the log's
   sequence as `sequence_floor`: every record before these offsets with a sequence up to the floor
   is reflected in the index by the time of 2. Where one with a higher sequence may lie before
   known_offset (a block in flight, a large record on its way), replay_offset is 0, else
   known_offset;
2. copy the shards, one lock at a time, with RAM slots turned into the disk slots behind them;
3. sync: every location in the copy is durable;
4. write the parts, sync; write the header, sync. A header that verifies vouches for the parts.
No region is reclaimed meanwhile (the same thread does both).
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._status cimport Status

cdef enum:
    CHECKPOINT_MAGIC = 0x50434345       # "ECCP"
    CHECKPOINT_VERSION = 1
    CHECKPOINT_HEADER_BYTES = 4096
    CHECKPOINT_SHARD_BYTES = 4096       # the IndexShard and the sum of its area, padded
    CHECKPOINT_CLEAN = 1                # written by a close: nothing to replay

cdef struct CheckpointHeader:           # 128 bytes used, zero to 4096
    uint32_t magic
    uint32_t version
    uint64_t number                     # the higher one is the newer
    uint64_t sequence                   # not below any sequence in the copy
    uint64_t generation                 # last one given out
    uint64_t stable_generation          # all older regions were gone by then
    uint64_t region_bytes
    uint32_t region_count
    uint32_t shard_count
    uint32_t flags
    uint32_t index_shard_bytes          # sizeof(IndexShard): another layout is refused
    uint64_t object_count
    uint64_t table_sum
    uint64_t total_bytes
    uint64_t created_us
    uint64_t sequence_floor             # see above
    uint64_t ticket                     # all blocks up to this one are durable with this checkpoint
    uint64_t header_sum                 # of the page, this field 0

cdef struct CheckpointRegion:           # 32 bytes
    uint64_t generation
    uint32_t state
    uint32_t log
    uint32_t replay_offset
    uint32_t block_count
    uint32_t known_offset
    uint32_t record_count

cdef struct CheckpointShared:           # in the arena
    uint64_t number                     # of the last one written or loaded
    uint64_t previous_stable            # stable_generation of the last one
    uint64_t count
    uint64_t error_count
    uint64_t last_bytes
    uint64_t last_us
    uint64_t last_duration_us
    uint64_t last_record_count          # of the log when it was taken
    uint64_t retired_count              # of the log when one was last tried
    uint64_t sequence_floor             # of the last one written
    uint32_t is_due                     # recovery met something that the next one must not meet
    uint32_t zero

cdef struct Checkpointer:               # process-local
    CheckpointShared* shared
    LogStore* log
    ShardSet* shards

cdef struct CheckpointStamp:            # of the newest one on disk; 0: there is none
    uint64_t number
    uint64_t created_us

cdef void checkpoint_stamp(Checkpointer* self, CheckpointStamp* out) noexcept nogil
# Write one; on success `stable_generation` for the reclaimer is returned through *stable.
cdef Status checkpoint_write(Checkpointer* self, uint32_t flags, uint64_t* stable) noexcept nogil
# Load the newest one that verifies into the (empty) shards and *table (region_count entries, the
# caller's). STATUS_NOT_FOUND: none. *skipped counts files that did not verify; one that was being
# written, or is of another geometry, is none of them.
cdef Status checkpoint_load(Checkpointer* self, CheckpointHeader* header, CheckpointRegion* table,
                            uint32_t* skipped) noexcept nogil
