"""Fetching one entry from the disk tier: a small state machine that every kind of get drives.

A fetch holds the disk candidates of a key (slots that carry its tag) and tries one after the other:

    fetch_begin -> FETCH_FOUND | FETCH_MISS | FETCH_READ (the request is filled: perform it ...)
    fetch_advance -> the same

so that a blocking get, a batch and an asyncio reader differ only in how they perform the request.
Records that are still in a write buffer are found without any request. A record that is longer than
what was asked for (_spans.pxd) is read again, whole.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._io cimport IoChannel, IoRequest
from edgecache._segment cimport LogStore
from edgecache._segment_format cimport RecordHeader
from edgecache._shard cimport Probe, Shard, ShardSet
from edgecache._xxhash cimport Hash128

cdef enum FetchState:
    FETCH_READ = 0
    FETCH_FOUND = 1
    FETCH_MISS = 2
    FETCH_FAILED = 3            # the device failed (counted): a miss whose slot stays

cdef struct Fetch:
    LogStore* log
    ShardSet* shards
    Hash128 hash
    const char* key
    uint32_t key_len
    uint32_t head_only          # 1: key and header are enough (exists, delete, overwrite)
    uint32_t next               # candidate to try
    uint32_t skip
    Probe probe
    uint64_t generation         # of the candidate's region when it was read
    char* scratch               # page-aligned, scratch_bytes; of the log's read buffers
    uint64_t scratch_bytes
    uint64_t asked_bytes        # of the record; 0: as much as the hints say
    uint64_t available
    RecordHeader* record        # FETCH_FOUND: in scratch
    uint64_t location           # FETCH_FOUND: of the record
    uint8_t size_class
    uint32_t corrupt_count
    uint32_t clash_count
    uint32_t was_stale
    uint32_t has_failed         # a candidate could not be read, or its region is retired
    FetchState state            # for FetchBatch
    IoRequest request

cdef enum:
    FETCH_BATCH_DEPTH = 64      # requests in flight
    FETCH_BATCH_SIZE = 128      # fetches of a batch: in flight, prepared or done
    FETCH_BATCH_PART = 32       # with nothing left to start, that many results are worth a return

# Many fetches of one thread. Invariants:
# 1. A fetch is in `prepared`, in flight, or in `done`; together there are FETCH_BATCH_SIZE at most.
# 2. Whoever ends a batch early runs it until in_flight is 0: the device writes to the scratches.
cdef struct FetchBatch:
    IoChannel* channel
    uint32_t in_flight
    uint32_t prepared_count
    uint32_t done_count
    uint32_t is_overdue         # 1: nothing finished within timeout_ns; what is in flight stays
    int64_t timeout_ns          # 0: waits as long as it takes
    (Fetch*)[128] prepared      # initialised; oldest first
    (Fetch*)[128] done          # with their `state`

# Take the candidates that `probe` found; owns no memory yet.
cdef void fetch_init(Fetch* self, LogStore* log, ShardSet* shards, Hash128 hash, const char* key,
                     uint32_t key_len, const Probe* probe, bint head_only) noexcept nogil
cdef FetchState fetch_begin(Fetch* self) noexcept nogil
cdef FetchState fetch_advance(Fetch* self) noexcept nogil
# Perform the request on this thread. Blocks on the device, at most the log's `read_timeout_ns`:
# then the result is -ETIMEDOUT, and the scratch is the engine's.
cdef void fetch_perform(Fetch* self) noexcept nogil
# Drive it to the end on this thread; blocks likewise.
cdef FetchState fetch_run(Fetch* self) noexcept nogil
# Start all that is prepared, keeping FETCH_BATCH_DEPTH requests in flight, and return when all are
# started; blocks on the device as long as there are more of them than room. Requests stay in flight
# on return, so that the device works while the caller takes what is done and prepares the next.
# With nothing prepared: wait for a part of what is in flight (when `drain` for all, however long).
# With `is_overdue` set what was prepared and not started is dropped; nothing waits any more.
cdef void fetch_batch_run(FetchBatch* self, bint drain) noexcept nogil
# Of an overdue batch: drop what has landed; how many are still in flight.
cdef uint32_t fetch_batch_landed(FetchBatch* self) noexcept nogil
cdef void fetch_free(Fetch* self) noexcept nogil
