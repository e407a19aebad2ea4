"""Putting and deleting one entry: the state machine behind put, delete and their batches.

    change_prepare    reserves log space and copies the record into it; no shard lock, may run
                      without the GIL. STATUS_AGAIN: wait (log_wait), then call again.
    change_commit     the shard's critical section. CHANGE_RESOLVE: slots with the key's tag must be
                      compared on disk first (change_resolve, blocks on I/O, no lock), then again.
                      CHANGE_RESERVE: log space for a tombstone is needed (change_prepare), then
                      again.
    change_abandon    gives everything up; nothing has changed.

Invariants:
1. Order: sequences are given out inside the critical section, so index and log agree on which of
   two changes of a key is the newer. A large record gets its own before it is written, and is
   registered in `pending` from then on: a newer change that enters the index first marks it
   superseded, then and not earlier, for until then the old value is still what readers get. A
   younger one is left alone: it comes later in both.
2. A change that fails before its critical section leaves the earlier value as it was. One that
   finds no room there (index full, value too large for a cache without disk) has removed the
   earlier value: a put that returned False never leaves a stale value behind.
3. Old slots of the key are gone from the index before the new one appears, under one lock hold.
4. A delete that found no room in the log takes the entry out of the index all the same. Until a
   checkpoint, which is asked for at once, knows that, a crash may bring the entry back: no sync
   returns before (invariant 9 of _segment.pxd).
5. The record of a put that is refused in its critical section becomes a tombstone or a filler; a
   large one, on the device by then, gets a tombstone of its own sequence, which wins.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._process cimport ProcessTable
from edgecache._reclaim cimport GhostTable
from edgecache._segment cimport Append, LogStore
from edgecache._shard cimport PROBE_CANDIDATES_MAX, Probe, Shard, ShardSet
from edgecache._status cimport Status
from edgecache._xxhash cimport Hash128, XxhashApi

cdef enum:
    PENDING_MAX = 32                # large records on their way at a time
    LARGE_COPY_BYTES = 65536        # copies above this are made without lock and GIL
    OBJECT_HEAD_BYTES = 96          # of the head of an object (docs/objects.md, "Head")

cdef enum ChangeResult:
    CHANGE_DONE = 0
    CHANGE_RESOLVE = 1
    CHANGE_RESERVE = 2
    CHANGE_NOTHING = 3              # delete: no such entry; CHANGE_IF_SAME: it is another one now
    CHANGE_FAILED = 4               # see `status`

cdef enum ChangeFlags:
    CHANGE_DELETE = 1
    CHANGE_NO_MEMORY = 2            # do not keep it in RAM
    CHANGE_NO_DISK = 4              # RAM only (an older copy on disk gets a tombstone)
    CHANGE_COMPOSITE = 8
    CHANGE_TAGGED = 16
    CHANGE_UNLOGGED = 32            # delete although no tombstone can be written (4)
    CHANGE_IF_SAME = 64             # put only over the very version that `expected_*` names
    CHANGE_STRIPS = 128             # a chunk of an object: the record makes its own meta
    CHANGE_KEEP_BLOCK = 256         # change_finish_put leaves the block to the caller

cdef struct Pending:
    uint64_t hash_low
    uint64_t hash_high
    uint64_t sequence
    uint32_t active                 # the process slot + 1
    uint32_t superseded             # changed under the shard's lock

cdef struct EngineShared:           # in the arena
    uint32_t pending_lock
    uint32_t pending_count
    Pending pending[32]
    uint64_t superseded_count
    uint64_t unlogged_delete_count
    uint64_t index_full_count
    uint64_t memory_skip_count      # values that found no place in RAM

cdef struct Engine:                 # process-local: what operations need, in one place
    LogStore* log                   # NULL: RAM only
    ShardSet* shards
    GhostTable* ghosts
    EngineShared* shared
    ProcessTable* processes         # NULL: one process alone
    const XxhashApi* api
    uint64_t shard_budget_bytes     # RAM tier plus index of one shard

cdef struct Change:
    Engine* engine
    Hash128 hash
    const char* key
    const char* meta
    const char* value
    uint64_t value_len
    int64_t expiry_us
    uint32_t key_len
    uint32_t meta_len
    uint32_t flags
    uint32_t head                   # LOG_SMALL or LOG_MAIN
    uint32_t has_append
    uint32_t is_large
    uint32_t pending                # slot + 1
    uint32_t staged                 # RAM item filled ahead of the critical section
    uint32_t staged_hold            # shared mode: what the process table knows of it
    uint32_t known_count
    uint32_t existed_expired
    uint32_t has_object             # what was removed was an object: its head is in object_head
    uint32_t expected_version       # of the RAM item, 0: it had none
    uint64_t expected_location      # of the record on disk, 0: it had none
    Status status
    Append append
    uint64_t large_sequence     # of a large record; its block may be the device's by now
    char* kept_block                # KEEP_BLOCK: for block_give, as large as it was made
    Probe probe
    uint64_t known[16]              # locations that were compared ...
    uint8_t known_same[16]          # ... and whether they hold this key
    # Set by who wants to know which object goes with this change: OBJECT_HEAD_BYTES of room.
    char* object_head
    uint64_t object_location        # where the head in it was read; 0: nowhere

cdef void change_init(Change* self, Engine* engine, Hash128 hash, const char* key,
                      uint32_t key_len, uint32_t flags) noexcept nogil
# With CHANGE_STRIPS `meta` and `value` are those of the record from here on; meta_len was
# part_meta_bytes.
cdef Status change_prepare(Change* self) noexcept nogil
# Write a large record to the device (after change_prepare, before change_commit); blocks.
cdef Status change_write_large(Change* self) noexcept nogil
# For big values: allocate in RAM under the lock (first), copy without it (second).
cdef void change_stage(Change* self) noexcept nogil
cdef void change_stage_copy(Change* self) noexcept nogil
cdef ChangeResult change_commit(Change* self, int64_t now_us) noexcept nogil
cdef void change_resolve(Change* self, int64_t now_us) noexcept nogil
cdef void change_abandon(Change* self) noexcept nogil
# The rest of a put whose record was prepared, up to its end: any thread, blocks on the device for
# a large one. True: stored; else `status` says why not.
cdef bint change_finish_put(Change* self) noexcept nogil
# The index grew: shrink the RAM tier of the shard so that the sum keeps its budget. Locked.
cdef void engine_rebalance_locked(Engine* engine, Shard* shard) noexcept nogil
