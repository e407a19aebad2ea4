"""Fetching one entry from the disk tier: a small state machine that every kind of get drives.

A fetch holds the disk candidates of a key (slots that carry its tag) and tries one after the other:

    fetch_begin -> FETCH_FOUND | FETCH_MISS | FETCH_READ (the request is filled: perform it ...)
    fetch_advance -> the same

so that a blocking get, a batch and an asyncio reader differ only in how they perform the request.
Records that are still in a write buffer are found without any request.
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
    char* scratch               # page-aligned, scratch_bytes
    uint64_t scratch_bytes
    uint64_t available
    RecordHeader* record        # FETCH_FOUND: in scratch
    uint64_t location           # FETCH_FOUND: of the record
    uint8_t size_class
    uint32_t corrupt_count
    uint32_t clash_count
    uint32_t was_stale
    uint32_t has_failed         # a candidate could not be read, or its region is retired
    IoRequest request

# Take the candidates that `probe` found; owns no memory yet.
cdef void fetch_init(Fetch* self, LogStore* log, ShardSet* shards, Hash128 hash, const char* key,
                     uint32_t key_len, const Probe* probe, bint head_only) noexcept nogil
cdef FetchState fetch_begin(Fetch* self) noexcept nogil
cdef FetchState fetch_advance(Fetch* self) noexcept nogil
# Drive it to the end on this thread; blocks on the device.
cdef FetchState fetch_run(Fetch* self) noexcept nogil
# Drive many to their ends, as many requests in flight as the channel takes; blocks on the device.
# states[i] is the outcome of fetches[i].
cdef void fetch_run_many(Fetch* fetches, FetchState* states, uint32_t count,
                         IoChannel* channel) noexcept nogil
cdef void fetch_free(Fetch* self) noexcept nogil
