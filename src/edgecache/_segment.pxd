"""The region log: write buffers, regions, flush and reads. Format: _segment_format.pxd.

Invariants (LogShared lies in the arena; its lock guards all of it, buffers and regions):

1. A region is FREE, READY (file space reserved, erased durably), OPEN (one per log), SEALING,
   SEALED, RECLAIMING or RETIRED. Only OPEN regions get blocks; `written_bytes` grows by whole
   blocks as buffers close.
2. A buffer is FREE, ACTIVE (at most one per log), CLOSED (waits for its flush) or WRITING. Its
   bytes belong to whoever reserved them until that writer commits; it is flushed without writers.
3. A location is in the index only after its bytes are complete in a buffer or on the device.
4. A buffer's memory is reused only when `readers` is 0: reads see unflushed bytes.
5. `generation` of a region grows each time it is opened. A location is only as good as the
   generation it was made under; every read verifies header, hash, key and sums anyway.
6. A region whose write or sync failed is RETIRED: nothing in it is trusted again, its generation
   moved on (`retired_generation` is that of its blocks), and it is opened anew only after it was
   erased, durably, by reclaim. Buffers made for its old generation are not written.
   What that loses is counted in `loss_count`, and the next log_sync reports it; none succeeds
   before a checkpoint made sure that older versions of it stay away (`retired_settled`).
7. Tickets count closed buffers; all up to `flushed_ticket` are on the device, or lost.
8. `large_count` large blocks are reserved and not given back yet. While there are any, no record
   that is not in the index has a sequence of `large_floor` or less.
9. What left the index without a record that says so (`unlogged_sequence` is the newest sequence of
   such a change) is gone for good once a checkpoint that was begun later has that sequence below
   its floor (`settled_sequence` says up to where); no log_sync succeeds before.

Lock order: shard lock, then log lock. The log lock is never held across I/O or a wait.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._io cimport IoChannel, IoEngineOps
from edgecache._io_lanes cimport Lanes
from edgecache._process cimport ProcessTable
from edgecache._read_buffers cimport ReadBuffers
from edgecache._segment_format cimport FOOTER_BYTES, Footer, RecordHeader
from edgecache._spans cimport SpanHints
from edgecache._status cimport Status
from edgecache._sync cimport ec_load_u32, ec_store_u32
from edgecache._xxhash cimport XxhashApi

cdef enum:
    LOG_SMALL = 0
    LOG_MAIN = 1
    LOG_COUNT = 2
    NONE32 = 0xFFFFFFFF
    BUFFER_COUNT_MAX = 64
    FOOTER_SLOTS = 8
    PROBE_INTERVAL_NS = 1000000000

cdef enum RegionState:
    REGION_FREE = 0
    REGION_READY = 1
    REGION_OPEN = 2
    REGION_SEALING = 3          # full; its footer is not written yet
    REGION_SEALED = 4
    REGION_RECLAIMING = 5
    REGION_RETIRED = 6

cdef enum BufferState:
    BUFFER_FREE = 0
    BUFFER_ACTIVE = 1
    BUFFER_CLOSED = 2
    BUFFER_WRITING = 3
    BUFFER_DRAINING = 4         # written; a reader still copies from it

cdef struct Region:
    uint64_t generation
    uint64_t retired_generation
    int64_t retired_ns
    uint64_t generation_last    # the last one given out when its newest record was appended
    uint64_t sequence_max       # of the records written to it; 0: unknown (recovered)
    uint32_t state
    uint32_t log
    uint32_t written_bytes
    uint32_t block_count
    uint32_t in_flight          # blocks handed out and not done (a large one: not in the index)
    uint32_t unsynced           # 1: written since the last sync; 2: that sync is running
    uint32_t failure_count      # reclaims that could not read it
    uint32_t touched_bytes      # file space up to here was written in this or an earlier life
    uint64_t record_count
    uint64_t hit_count

cdef struct WriteBuffer:
    uint32_t state
    uint32_t log
    uint32_t region
    uint32_t region_offset
    uint32_t fill
    uint32_t capacity
    uint32_t writers
    uint32_t readers
    uint32_t record_count
    uint32_t block_bytes
    uint32_t writer             # of a WRITING buffer: the process slot + 1; 0: this process alone
    uint32_t zero
    uint64_t ticket
    uint64_t generation         # of its region when it was opened
    uint64_t data_offset        # from the arena base
    int64_t opened_ns

cdef struct LogHead:
    uint32_t region
    uint32_t buffer

cdef struct LogCounters:
    uint64_t record_count
    uint64_t record_bytes
    uint64_t flush_count
    uint64_t flush_bytes
    uint64_t flush_wait_count
    uint64_t flush_wait_ns
    uint64_t flush_error_count
    uint64_t large_count
    uint64_t sync_count
    uint64_t sync_error_count
    uint64_t read_count
    uint64_t read_bytes
    uint64_t buffer_read_count
    uint64_t read_error_count
    uint64_t corrupt_count
    uint64_t retired_count
    uint64_t sealed_count
    uint64_t reclaim_count
    uint64_t reclaim_bytes
    uint64_t reinsert_count
    uint64_t reinsert_bytes
    uint64_t drop_count
    uint64_t tombstone_count
    uint64_t no_region_count
    uint64_t prepare_error_count

cdef struct LogShared:
    uint32_t lock
    uint32_t flush_word         # futex: changed when the flusher has work
    uint32_t done_word          # futex: changed when a buffer or a region came free
    uint32_t reclaim_word       # futex: changed when the reclaimer has work
    uint32_t region_count
    uint32_t buffer_count
    uint32_t free_count         # regions FREE or READY
    uint32_t ready_count
    uint64_t sequence           # last one given out
    uint64_t generation         # last one given out
    uint64_t closed_ticket
    uint64_t flushed_ticket
    uint64_t live_bytes         # records in the index, as written
    uint64_t used_bytes         # written bytes of regions that are not free
    LogHead heads[2]
    uint32_t read_only          # 1: the device failed too often; probing
    int32_t last_errno
    LogCounters counters
    uint32_t sync_lock          # held by the thread that leads a sync, across its I/O; only tried
    uint32_t sync_round         # syncs begun; under the log lock
    uint32_t sync_words[2]      # futexes: those who wait for an even round, for an odd one
    uint32_t sync_waiting       # how many of both
    uint32_t sync_failure_count
    uint32_t flusher_timed      # the flusher wakes up by itself before any buffer is too old
    uint32_t settle_attempts    # checkpoints tried
    uint64_t synced_ticket      # buffers up to this ticket are durable
    uint64_t extra_written_count    # large blocks and erasures, and how many of them a sync covered
    uint64_t extra_synced_count
    uint64_t large_count        # large blocks reserved and not given back (invariant 8)
    uint64_t large_floor
    uint64_t large_ticket_floor     # tickets of large blocks that were not given back are higher
    uint64_t synced_mark        # all blocks up to this ticket are durable, large ones too
    uint64_t loss_count         # blocks that were accepted and did not become durable ...
    uint64_t loss_reported      # ... and how many of them a sync has told about
    uint64_t retired_settled    # regions that were retired when the last checkpoint was begun
    uint32_t prewrite_wanted    # the maintenance thread has been asked
    uint32_t prewrite_region    # being prewritten ...
    uint32_t prewrite_start     # ... from here on; NONE32: nothing is
    uint32_t seal_lock          # held while footers are written: a sleeping lock
    uint32_t failure_count
    uint64_t prewritten_bytes
    int64_t probe_after_ns      # when read-only: next attempt
    uint64_t unlogged_sequence  # invariant 9; changed under the log lock
    uint64_t settled_sequence

ctypedef void (*log_reap_function)(void* context) noexcept nogil

cdef struct LogStore:           # process-local: pointers and handles
    char* base
    LogShared* shared
    Region* regions
    WriteBuffer* buffers
    const IoEngineOps* ops
    void* engine
    const XxhashApi* api
    uint64_t seed
    uint64_t region_bytes
    uint64_t buffer_bytes
    uint32_t regions_per_file
    uint32_t file_count
    int32_t* files              # index in the engine's file table, -1: not open
    uint32_t* dirty             # per file, in the arena: writes since the last sync
    ProcessTable* processes     # NULL: one process alone works on the arena
    log_reap_function reap      # with processes: clean up after the dead, now and then
    void* reap_context
    uint32_t direct
    uint64_t prewrite_bytes     # how far zeroes are written ahead while somebody syncs; 0: never
    uint32_t space_is_short     # a reservation of file space was refused
    uint32_t stopping
    uint32_t failure_limit      # write failures in a row that make the tier read-only
    uint32_t registered         # buffers are registered memory
    uint32_t read_align_bytes   # of offset and length of a read: 512 to 4096
    ReadBuffers read_buffers
    Lanes lanes                 # transfers that a caller waits for, but not for ever
    int64_t read_timeout_ns     # 0: for ever
    int64_t write_timeout_ns    # of a put's thread; 0: for ever
    SpanHints spans             # of records, by size class
    int64_t flush_interval_ns
    Footer* footers             # in the arena: block lists of regions not sealed yet, FOOTER_SLOTS
    uint32_t* footer_regions    # whose, NONE32: unused

cdef struct Append:             # a reservation of record bytes
    char* record
    uint64_t location           # units of 64 bytes from the start of the disk tier
    uint32_t buffer             # NONE32: a large block of its own
    uint32_t size_bytes
    uint32_t region
    uint32_t block_bytes        # large only
    uint32_t region_offset      # large only
    uint32_t ticket             # large only
    uint64_t generation         # of the region
    uint32_t hold               # shared mode: what the process table knows of it (_process.pxd)
    char* block_base            # large only: memory of the caller (log_large_free)

# LogShared, regions, buffers, footers and their owners, dirty marks, in this order.
cdef uint64_t log_shared_bytes(uint32_t region_count, uint32_t buffer_count,
                               uint32_t file_count) noexcept nogil

# Reserve room for a record of `record_bytes` whose body starts `head_bytes` into it.
# STATUS_AGAIN: no buffer or region is free now (log_wait, then retry); STATUS_NO_SPACE: the disk
# gave none; STATUS_IO_ERROR: the tier is read-only. Cost: one lock, no I/O, no wait.
cdef Status log_reserve(LogStore* log, uint32_t head, uint64_t record_bytes, uint64_t head_bytes,
                        Append* out) noexcept nogil
# The record is complete and, where it should be, in the index. A large one was written before.
cdef void log_commit(LogStore* log, Append* append) noexcept nogil
# Give the reservation up: its bytes become a filler.
cdef void log_abandon(LogStore* log, Append* append) noexcept nogil
# Records that do not fit a buffer: build the block in own memory, write it, then index it.
cdef bint log_is_large(LogStore* log, uint64_t record_bytes) noexcept nogil
cdef Status log_large_begin(LogStore* log, uint32_t head, uint64_t record_bytes,
                            uint64_t head_bytes, Append* out) noexcept nogil
# Give a large block back after it was indexed or given up; it counts as in flight until then.
cdef void log_large_free(LogStore* log, Append* append) noexcept nogil

cdef uint64_t log_next_sequence(LogStore* log) noexcept nogil
# An entry leaves the index, and nothing in the log will say so (invariant 9). Called while its
# shard is locked; wake `reclaim_word` when that lock is given back.
cdef void log_note_unlogged(LogStore* log) noexcept nogil
# Does a checkpoint cover everything that the log cannot say by itself (invariants 6 and 9)?
cdef bint log_is_settled(LogStore* log) noexcept nogil

# Bytes at `location`, at most `length`, into `scratch` (PAGE-aligned, length + 8192 bytes). On
# success *record points into scratch and *available is how many bytes follow.
cdef Status log_read(LogStore* log, uint64_t location, uint64_t length, char* scratch,
                     char** record, uint64_t* available) noexcept nogil
# Data file `index` is open as `file` of the engine.
cdef void log_take_file(LogStore* log, uint32_t index, uint32_t file) noexcept nogil
# Span, aligned to read_align_bytes, that a read of `length` bytes at `location` needs (for engines'
# requests).
cdef void log_read_span(LogStore* log, uint64_t location, uint64_t length, uint32_t* file,
                        uint64_t* offset, uint32_t* span, uint32_t* skip) noexcept nogil
# Copy from a write buffer if the location has not been flushed; False: it is on the device.
cdef bint log_read_buffered(LogStore* log, uint64_t location, uint64_t length, char* target,
                            uint64_t* available) noexcept nogil
cdef uint64_t log_region_generation(LogStore* log, uint64_t location) noexcept nogil

cdef void log_release_region(LogStore* log, uint32_t region) noexcept nogil
cdef void log_retire_region(LogStore* log, uint32_t region) noexcept nogil
cdef void log_wake(uint32_t* word) noexcept nogil
cdef int log_check(LogStore* log) noexcept nogil

# The block list of a region that is not sealed, or NULL (too many regions wait for their seal).
cdef Footer* log_footer(LogStore* log, uint32_t region) noexcept nogil

# For _flush: all under the log lock.
cdef void log_close_buffer_locked(LogStore* log, uint32_t head) noexcept nogil
# A write failed: counts towards read-only, and retires the region.
cdef void log_write_failed_locked(LogStore* log, uint32_t region, int errno_code) noexcept nogil
cdef void log_retire_locked(LogStore* log, uint32_t region) noexcept nogil
cdef void log_write_done_locked(LogStore* log, uint32_t region, const char* block) noexcept nogil
# Build header, mini-index and tail of a closed buffer (no lock: nobody else writes to it).
cdef void log_seal_block(LogStore* log, WriteBuffer* buffer) noexcept nogil
cdef void log_fill_block_header(LogStore* log, char* block, uint32_t fill, uint32_t block_bytes,
                                uint32_t region, uint32_t region_offset, uint32_t ticket,
                                uint64_t generation) noexcept nogil

# The engine's index of a data file; negative: not open. The reclaimer opens some while others read.
cdef inline int32_t log_file(const LogStore* log, uint32_t index) noexcept nogil:
    return <int32_t>ec_load_u32(<const uint32_t*>&log.files[index])

# Of the last failure; 0: it was overcome. Set under the log lock.
cdef inline int log_errno(const LogStore* log) noexcept nogil:
    return <int>ec_load_u32(<const uint32_t*>&log.shared.last_errno)

cdef inline void log_errno_set(LogStore* log, int errno_code) noexcept nogil:
    ec_store_u32(<uint32_t*>&log.shared.last_errno, <uint32_t>errno_code)

# No block may be placed in this region from this offset on, now. Under the log lock.
cdef inline uint64_t log_place_limit(const LogStore* log, uint32_t region) noexcept nogil:
    if log.shared.prewrite_start != NONE32 and log.shared.prewrite_region == region:
        return log.shared.prewrite_start
    return log.region_bytes - FOOTER_BYTES

cdef inline uint32_t location_region(const LogStore* log, uint64_t location) noexcept nogil:
    return <uint32_t>((location << 6) / log.region_bytes)

cdef inline uint32_t location_offset(const LogStore* log, uint64_t location) noexcept nogil:
    return <uint32_t>((location << 6) % log.region_bytes)
