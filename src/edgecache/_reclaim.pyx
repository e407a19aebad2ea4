"""Making room in the region log (see _reclaim.pxd)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from edgecache._flush cimport log_wait
from edgecache._index cimport size_class_of
from edgecache._scan cimport (
    ScanEntry,
    ScanInfo,
    ScanList,
    scan_list_free,
    scan_read,
    scan_region,
)
from edgecache._segment cimport (
    LOG_MAIN,
    LOG_SMALL,
    NONE32,
    REGION_FREE,
    REGION_READY,
    REGION_RECLAIMING,
    REGION_RETIRED,
    REGION_SEALED,
    Append,
    LogStore,
    location_offset,
    log_abandon,
    log_commit,
    log_is_large,
    log_large_free,
    log_prepare,
    log_release_region,
    log_reserve,
)
from edgecache._segment_format cimport (
    PAGE_BYTES,
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_OVERWRITES,
    RECORD_VERSION,
    UNIT_SHIFT,
    RecordHeader,
    align_up,
    entry_flags,
    record_bytes,
    record_header_sum,
    record_header_valid,
    record_key,
    record_payload_sum,
    record_total_bytes,
)
from edgecache._shard cimport (
    Shard,
    ShardSet,
    shard_at,
    shard_drop_location,
    shard_location_heat,
    shard_number,
    shard_relocate,
)
from edgecache._status cimport Status
from edgecache._sync cimport (
    ec_count,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    GHOST_WAYS = 4
    RESERVE_PATIENCE_NS = 200000000     # how long a survivor waits for a buffer before it is dropped
    READ_AHEAD_BYTES = 1048576

# One region's reclaim: what is read at a time, and what may still be kept.
cdef struct Pass:
    Reclaimer* reclaimer
    uint32_t region
    uint32_t from_small
    uint64_t generation
    char* window                # of the region: [window_start, window_end)
    uint64_t window_start
    uint64_t window_end
    uint64_t window_capacity
    uint64_t keep_bytes


cdef uint64_t ghost_bytes(uint64_t disk_bytes) noexcept nogil:
    """A fingerprint per 16 KiB of disk, between 64 Ki and 16 Mi of them."""
    cdef uint64_t cells = 65536
    while cells < disk_bytes >> 14 and cells < (<uint64_t>1 << 24):
        cells <<= 1
    return cells * 4


cdef void ghost_init(char* base, GhostTable* ghosts, uint64_t offset, uint64_t size) noexcept nogil:
    ghosts.offset = offset
    ghosts.bucket_count = size // (GHOST_WAYS * 4)
    ghosts.clock = 0


cdef inline uint32_t* _ghost_bucket(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil:
    return <uint32_t*>(base + ghosts.offset) + (hash & (ghosts.bucket_count - 1)) * GHOST_WAYS


cdef void ghost_remember(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil:
    cdef uint32_t* bucket = _ghost_bucket(base, ghosts, hash)
    ghosts.clock += 1
    # Cells hold no age: the clock spreads replacement evenly, which is FIFO in the mean.
    bucket[ghosts.clock & (GHOST_WAYS - 1)] = <uint32_t>(hash >> 32) | 1


cdef bint ghost_recall(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil:
    cdef uint32_t* bucket = _ghost_bucket(base, ghosts, hash)
    cdef uint32_t way
    for way in range(GHOST_WAYS):
        if bucket[way] == (<uint32_t>(hash >> 32) | 1):
            bucket[way] = 0
            return True
    return False


cdef Status _reserve_patiently(LogStore* log, uint32_t head, uint64_t size, uint64_t head_bytes,
                               Append* append) noexcept nogil:
    cdef int64_t deadline = ec_monotonic_ns() + RESERVE_PATIENCE_NS
    cdef Status status
    while True:
        status = log_reserve(log, head, size, head_bytes, append)
        if status != Status.STATUS_AGAIN or ec_load_u32(&log.shared.ready_count) == 0:
            return status
        if not log_wait(log, deadline):
            return status


cdef Status reclaim_tombstone(LogStore* log, uint32_t head, uint64_t hash_low, uint64_t hash_high,
                              const char* key, uint32_t key_len, uint64_t sequence,
                              uint64_t birth_generation) noexcept nogil:
    cdef Append append
    cdef RecordHeader* record
    cdef uint64_t size = record_bytes(key_len, 0, 0)
    cdef Status status = _reserve_patiently(log, head, size, RECORD_HEADER_BYTES + key_len, &append)
    if status != Status.STATUS_OK:
        return status
    record = <RecordHeader*>append.record
    memset(record, 0, size)
    record.magic = RECORD_MAGIC
    record.version = RECORD_VERSION
    record.flags = RECORD_DELETE
    record.key_len = <uint16_t>key_len
    record.hash_low = hash_low
    record.hash_high = hash_high
    record.sequence = sequence
    record.expiry_us = <int64_t>birth_generation
    memcpy(record_key(record), key, key_len)
    record.payload_sum = record_payload_sum(log.api, log.seed, record)
    record.header_sum = record_header_sum(log.api, log.seed, record)
    log_commit(log, &append)
    ec_count(&log.shared.counters.tombstone_count, 1)
    return Status.STATUS_OK


cdef RecordHeader* _load(Pass* work, const ScanEntry* entry) noexcept nogil:
    """The whole record in memory, verified; NULL when it does not verify."""
    cdef LogStore* log = work.reclaimer.log
    cdef uint64_t begin = location_offset(log, entry.location)
    cdef uint64_t size = <uint64_t>entry.size_units << UNIT_SHIFT
    cdef uint64_t first = begin & ~<uint64_t>(PAGE_BYTES - 1)
    cdef uint64_t wanted = align_up(begin + size, PAGE_BYTES) - first
    cdef int64_t moved
    cdef RecordHeader* record
    if begin < work.window_start or begin + size > work.window_end:
        wanted = min(max(wanted, <uint64_t>READ_AHEAD_BYTES), log.region_bytes - first)
        if wanted > work.window_capacity:
            free(work.window)
            work.window = NULL
            work.window_capacity = 0
            if posix_memalign(<void**>&work.window, PAGE_BYTES, wanted) != 0:
                work.window_start = work.window_end = 0
                return NULL
            work.window_capacity = wanted
        moved = scan_read(log, work.region, first, work.window, wanted)
        work.window_start = first
        work.window_end = first + <uint64_t>max(moved, <int64_t>0)
        if begin + size > work.window_end:
            return NULL
    record = <RecordHeader*>(work.window + (begin - work.window_start))
    if not record_header_valid(log.api, log.seed, record) or \
            record.hash_low != entry.hash_low or record.hash_high != entry.hash_high or \
            record_total_bytes(record) != size or \
            record.payload_sum != record_payload_sum(log.api, log.seed, record):
        ec_count(&log.shared.counters.corrupt_count, 1)
        return NULL
    return record


cdef bint _keep(Pass* work, const ScanEntry* entry) noexcept nogil:
    """Copy a live record to the main log; False if it could not be kept."""
    cdef LogStore* log = work.reclaimer.log
    cdef ShardSet* shards = work.reclaimer.shards
    cdef Shard* shard = shard_at(shards, shard_number(shards, entry.hash_high))
    cdef RecordHeader* record = _load(work, entry)
    cdef Append append
    cdef uint64_t size = <uint64_t>entry.size_units << UNIT_SHIFT
    cdef bint live
    if record == NULL or log_is_large(log, size):
        return False
    if _reserve_patiently(log, LOG_MAIN, size, RECORD_HEADER_BYTES + record.key_len
                          + record.meta_len, &append) != Status.STATUS_OK:
        return False
    memcpy(append.record, record, size)
    ec_lock_acquire(&shard.lock)
    live = shard_relocate(shards.base, shard, entry.hash_low, entry.location, append.location,
                          size_class_of(size))
    ec_lock_release(&shard.lock)
    if not live:
        # Deleted or overwritten meanwhile: the copy must not be found by a recovery.
        log_abandon(log, &append)
        return True
    log_commit(log, &append)
    ec_count(&log.shared.counters.reinsert_count, 1)
    ec_count(&log.shared.counters.reinsert_bytes, size)
    work.keep_bytes -= min(size, work.keep_bytes)
    return True


cdef void _drop(Pass* work, const ScanEntry* entry) noexcept nogil:
    cdef Reclaimer* reclaimer = work.reclaimer
    cdef ShardSet* shards = reclaimer.shards
    cdef Shard* shard = shard_at(shards, shard_number(shards, entry.hash_high))
    cdef bint dropped
    ec_lock_acquire(&shard.lock)
    dropped = shard_drop_location(shards.base, shard, entry.hash_low, entry.location)
    ec_lock_release(&shard.lock)
    if not dropped:
        return
    ec_count(&reclaimer.log.shared.counters.drop_count, 1)
    if work.from_small:
        ghost_remember(shards.base, reclaimer.ghosts, entry.hash_low)
    # The newest version goes; an older one may still lie in another region and must stay hidden.
    if (entry.flags_sequence >> 56) & RECORD_OVERWRITES:
        reclaim_tombstone(reclaimer.log, LOG_MAIN, entry.hash_low, entry.hash_high, NULL, 0,
                          entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF, work.generation)


cdef bint _tombstone(Pass* work, const ScanEntry* entry) noexcept nogil:
    """Carry a tombstone on while a checkpoint may know of a record that it hides."""
    cdef RecordHeader* record = _load(work, entry)
    cdef uint64_t birth
    if record == NULL:
        # Unreadable, but the mini-index verified: write it anew, as young as it can be.
        birth = work.generation
        return reclaim_tombstone(work.reclaimer.log, LOG_MAIN, entry.hash_low, entry.hash_high,
                                 NULL, 0, entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF,
                                 birth) == Status.STATUS_OK
    birth = <uint64_t>record.expiry_us
    if birth < work.reclaimer.stable_generation:
        return True
    return reclaim_tombstone(work.reclaimer.log, LOG_MAIN, entry.hash_low, entry.hash_high,
                             record_key(record), record.key_len, record.sequence,
                             birth) == Status.STATUS_OK


cdef bint _pass_entries(Pass* work, const ScanList* entries) noexcept nogil:
    """Decide on every entry; False when a tombstone could not be carried on."""
    cdef Reclaimer* reclaimer = work.reclaimer
    cdef ShardSet* shards = reclaimer.shards
    cdef Shard* shard
    cdef ScanEntry* entry
    cdef uint64_t number
    cdef int heat
    for number in range(entries.count):
        if ec_load_u32(&reclaimer.log.stopping):
            return False
        entry = &entries.entries[number]
        if (entry.flags_sequence >> 56) & RECORD_DELETE:
            if not _tombstone(work, entry):
                return False
            continue
        shard = shard_at(shards, shard_number(shards, entry.hash_high))
        ec_lock_acquire(&shard.lock)
        heat = shard_location_heat(shards.base, shard, entry.hash_low, entry.location)
        ec_lock_release(&shard.lock)
        if heat < 0:
            continue
        if heat > 0 and reclaimer.reinsert and work.keep_bytes and _keep(work, entry):
            continue
        _drop(work, entry)
    return True


cdef uint32_t _oldest_sealed(LogStore* log, uint32_t head, uint32_t* count) noexcept nogil:
    cdef uint32_t region, best = NONE32
    count[0] = 0
    for region in range(log.shared.region_count):
        if log.regions[region].state in (REGION_FREE, REGION_READY, REGION_RETIRED) or \
                log.regions[region].log != head:
            continue
        count[0] += 1
        if log.regions[region].state == REGION_SEALED and \
                (best == NONE32 or log.regions[region].generation < log.regions[best].generation):
            best = region
    return best


cdef uint32_t _choose(Reclaimer* reclaimer) noexcept nogil:
    """The region to reclaim, marked RECLAIMING; NONE32 when none is sealed."""
    cdef LogStore* log = reclaimer.log
    cdef uint32_t small_count, main_count, small, main, choice
    ec_lock_acquire(&log.shared.lock)
    small = _oldest_sealed(log, LOG_SMALL, &small_count)
    main = _oldest_sealed(log, LOG_MAIN, &main_count)
    if small != NONE32 and (main == NONE32 or
                            small_count > reclaimer.small_share * log.shared.region_count):
        choice = small
    else:
        choice = main
    if choice != NONE32:
        log.regions[choice].state = REGION_RECLAIMING
    ec_lock_release(&log.shared.lock)
    return choice


cdef void _wipe(LogStore* log, uint32_t region, char* page) noexcept nogil:
    """Zero the first page: a recovery without any checkpoint must not find the old blocks.

    Best effort: what is guaranteed rests on tombstones and checkpoints alone.
    """
    cdef uint64_t offset = <uint64_t>(region % log.regions_per_file) * log.region_bytes
    memset(page, 0, PAGE_BYTES)
    log.ops.write(log.engine, <uint32_t>log.files[region // log.regions_per_file], offset, page,
                  PAGE_BYTES)
    log.dirty[region // log.regions_per_file] = 1


cdef Status reclaim_one(Reclaimer* reclaimer) noexcept nogil:
    cdef LogStore* log = reclaimer.log
    cdef Pass work
    cdef ScanList entries
    cdef ScanInfo info
    cdef bint done
    cdef Status status
    memset(&work, 0, sizeof(Pass))
    memset(&entries, 0, sizeof(ScanList))
    work.reclaimer = reclaimer
    work.region = _choose(reclaimer)
    if work.region == NONE32:
        return Status.STATUS_NOT_FOUND
    work.generation = log.regions[work.region].generation
    work.from_small = log.regions[work.region].log == LOG_SMALL
    work.keep_bytes = <uint64_t>(reclaimer.reinsert_share * log.region_bytes)
    status = scan_region(log, work.region, work.generation, 0, &entries, &info)
    done = status == Status.STATUS_OK and _pass_entries(&work, &entries)
    ec_count(&log.shared.counters.corrupt_count, info.damaged_count)
    if done and (work.window != NULL or
                 posix_memalign(<void**>&work.window, PAGE_BYTES, PAGE_BYTES) == 0):
        _wipe(log, work.region, work.window)
        ec_count(&log.shared.counters.reclaim_count, 1)
        ec_count(&log.shared.counters.reclaim_bytes, log.regions[work.region].written_bytes)
        log_release_region(log, work.region)
    else:
        ec_lock_acquire(&log.shared.lock)
        if log.regions[work.region].state == REGION_RECLAIMING:
            log.regions[work.region].state = REGION_SEALED
        ec_lock_release(&log.shared.lock)
        status = Status.STATUS_AGAIN
    free(work.window)
    scan_list_free(&entries)
    return status


cdef uint32_t reclaim_run(Reclaimer* reclaimer) noexcept nogil:
    cdef LogStore* log = reclaimer.log
    cdef uint32_t freed = 0
    log_prepare(log, reclaimer.ready_target)
    while ec_load_u32(&log.shared.ready_count) < reclaimer.ready_target and \
            not ec_load_u32(&log.stopping):
        if reclaim_one(reclaimer) != Status.STATUS_OK:
            break
        freed += 1
    return freed
