"""Making room in the region log (see _reclaim.pxd)."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memset

from edgecache._flush cimport log_erase, log_sync_quiet, log_wait
from edgecache._index cimport size_class_of
from edgecache._log_space cimport log_prepare
from edgecache._scan cimport (
    ScanEntry,
    ScanInfo,
    ScanList,
    ScanWindow,
    scan_list_free,
    scan_list_push,
    scan_load,
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
    Region,
    log_abandon,
    log_commit,
    log_is_large,
    log_release_region,
    log_reserve,
    log_retire_region,
)
from edgecache._segment_format cimport (
    INDEX_ENTRY_BYTES,
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_OVERWRITES,
    RECORD_VERSION,
    UNIT_SHIFT,
    RecordHeader,
    record_bytes,
    record_header_sum,
    record_key,
    record_payload_sum,
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
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_store_u32,
)

cdef enum:
    GHOST_WAYS = 4
    RESERVE_PATIENCE_NS = 200000000     # a survivor that waits longer for a buffer is dropped
    SYNC_PATIENCE_NS = 60000000000
    UNREADABLE_MAX = 3
    RETIRED_NS = 500000000              # how long a region stays retired at least
    READY_MIN = 2                       # one for each log
    READY_MAX = 8
    SPACE_RETRY_NS = 250000000          # before a disk that was full is asked again
    RETRY_NS = 50000000                 # before a region that could not be emptied is tried again

cdef enum Kept:
    KEPT_NOT = 0                # live, and to be dropped
    KEPT_LIVE = 1               # moved
    KEPT_DEAD = 2               # not live (any more)

# One region's reclaim: what is read at a time, and what may still be kept.
cdef struct Pass:
    Reclaimer* reclaimer
    uint32_t region
    uint32_t from_small
    uint32_t appended           # 1: something was moved to the main log
    uint32_t is_retired         # 1: nothing in it is trusted, nothing is kept
    uint32_t in_place           # 1: nowhere to move anything: tombstones go to `carried`
    uint64_t generation
    uint64_t generation_last    # nothing that its records hide lies in a younger region
    ScanList drops              # live entries that go
    ScanList carried            # of in_place; location: the birth generation
    ScanList hiders             # entries that may hide older ones; ticket: is a tombstone needed?
    ScanWindow window
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
    ec_store_u32(&bucket[ghosts.clock & (GHOST_WAYS - 1)], <uint32_t>(hash >> 32) | 1)


cdef bint ghost_recall(char* base, GhostTable* ghosts, uint64_t hash) noexcept nogil:
    cdef uint32_t* bucket = _ghost_bucket(base, ghosts, hash)
    cdef uint32_t way
    for way in range(GHOST_WAYS):
        # Without a lock: at worst one of two puts is told.
        if ec_load_u32(&bucket[way]) == (<uint32_t>(hash >> 32) | 1):
            ec_store_u32(&bucket[way], 0)
            return True
    return False


cdef inline uint64_t _sequence(const ScanEntry* entry) noexcept nogil:
    return entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF


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
    if key_len:
        memcpy(record_key(record), key, key_len)
    record.payload_sum = record_payload_sum(log.api, log.seed, record)
    record.header_sum = record_header_sum(log.api, log.seed, append.generation, record)
    log_commit(log, &append)
    ec_count(&log.shared.counters.tombstone_count, 1)
    return Status.STATUS_OK


cdef RecordHeader* _load(Pass* work, const ScanEntry* entry) noexcept nogil:
    cdef RecordHeader* record = scan_load(work.reclaimer.log, entry, &work.window)
    if record == NULL:
        ec_count(&work.reclaimer.log.shared.counters.corrupt_count, 1)
    return record


cdef Kept _keep(Pass* work, const ScanEntry* entry) noexcept nogil:
    """Copy a live record to the main log."""
    cdef LogStore* log = work.reclaimer.log
    cdef ShardSet* shards = work.reclaimer.shards
    cdef Shard* shard = shard_at(shards, shard_number(shards, entry.hash_high))
    cdef RecordHeader* record = _load(work, entry)
    cdef Append append
    cdef uint64_t size = <uint64_t>entry.size_units << UNIT_SHIFT
    cdef bint live
    if record == NULL or log_is_large(log, size):
        return KEPT_NOT
    if _reserve_patiently(log, LOG_MAIN, size, RECORD_HEADER_BYTES + record.key_len
                          + record.meta_len, &append) != Status.STATUS_OK:
        return KEPT_NOT
    memcpy(append.record, record, size)
    (<RecordHeader*>append.record).header_sum = record_header_sum(
        log.api, log.seed, append.generation, <RecordHeader*>append.record)
    ec_lock_acquire(&shard.lock)
    live = shard_relocate(shards.base, shard, entry.hash_low, entry.location, append.location,
                          size_class_of(size))
    ec_lock_release(&shard.lock)
    work.appended = 1
    if not live:
        # Deleted or overwritten meanwhile: the copy must not be found by a recovery.
        log_abandon(log, &append)
        return KEPT_DEAD
    log_commit(log, &append)
    ec_count(&log.shared.counters.reinsert_count, 1)
    ec_count(&log.shared.counters.reinsert_bytes, size)
    work.keep_bytes -= min(size, work.keep_bytes)
    return KEPT_LIVE


cdef bint _put_tombstone(Pass* work, uint64_t hash_low, uint64_t hash_high, const char* key,
                         uint32_t key_len, uint64_t sequence, uint64_t birth) noexcept nogil:
    cdef ScanEntry carried
    if work.in_place:
        carried.hash_low = hash_low
        carried.hash_high = hash_high
        carried.flags_sequence = sequence
        carried.location = birth
        return scan_list_push(&work.carried, &carried) == Status.STATUS_OK
    work.appended = 1
    work.reclaimer.shared.tombstone_bytes += record_bytes(key_len, 0, 0) + INDEX_ENTRY_BYTES
    return reclaim_tombstone(work.reclaimer.log, LOG_MAIN, hash_low, hash_high, key, key_len,
                             sequence, birth) == Status.STATUS_OK


cdef bint _carry(Pass* work, const ScanEntry* entry) noexcept nogil:
    """Carry a tombstone on while a checkpoint may know of a record that it hides."""
    cdef RecordHeader* record = _load(work, entry)
    cdef uint64_t birth
    if record == NULL:
        # Unreadable, but the mini-index verified: write it anew, as young as it can be.
        return _put_tombstone(work, entry.hash_low, entry.hash_high, NULL, 0, _sequence(entry),
                              work.generation_last)
    birth = <uint64_t>record.expiry_us
    if birth < work.reclaimer.shared.stable_generation:
        return True
    return _put_tombstone(work, entry.hash_low, entry.hash_high, record_key(record),
                          record.key_len, record.sequence, birth)


cdef inline Status _note(ScanList* entries, const ScanEntry* entry, uint32_t needed) noexcept nogil:
    cdef ScanEntry copy = entry[0]
    copy.ticket = needed
    return scan_list_push(entries, &copy)


cdef bint _judge(Pass* work, const ScanEntry* entry) noexcept nogil:
    """Decide on one entry; False when the region must stay as it is."""
    cdef Reclaimer* reclaimer = work.reclaimer
    cdef ShardSet* shards = reclaimer.shards
    cdef Shard* shard
    cdef Kept kept = KEPT_DEAD
    cdef uint32_t flags = <uint32_t>(entry.flags_sequence >> 56)
    cdef int heat
    if flags & RECORD_DELETE:
        return _carry(work, entry) and \
            _note(&work.hiders, entry, False) == Status.STATUS_OK
    shard = shard_at(shards, shard_number(shards, entry.hash_high))
    ec_lock_acquire(&shard.lock)
    heat = shard_location_heat(shards.base, shard, entry.hash_low, entry.location)
    ec_lock_release(&shard.lock)
    if heat >= 0:
        kept = KEPT_NOT
    if heat > 0 and reclaimer.reinsert and work.keep_bytes and not work.in_place and \
            not work.is_retired:
        kept = _keep(work, entry)
    if kept == KEPT_NOT and scan_list_push(&work.drops, entry) != Status.STATUS_OK:
        return False
    # An older version may still lie in another region and must stay hidden, also when this one is
    # dead already: it may have expired, or rotted, without a newer one that hides it.
    return not flags & RECORD_OVERWRITES or \
        _note(&work.hiders, entry, kept != KEPT_LIVE) == Status.STATUS_OK


cdef int _newest_first(const void* first, const void* second) noexcept nogil:
    cdef const ScanEntry* a = <const ScanEntry*>first
    cdef const ScanEntry* b = <const ScanEntry*>second
    if a.hash_low != b.hash_low:
        return -1 if a.hash_low < b.hash_low else 1
    if a.hash_high != b.hash_high:
        return -1 if a.hash_high < b.hash_high else 1
    if _sequence(a) != _sequence(b):
        return -1 if _sequence(a) > _sequence(b) else 1
    return <int>a.ticket - <int>b.ticket


cdef bint _hide_older(Pass* work) noexcept nogil:
    """A tombstone for every key whose newest entry here hid older ones and goes."""
    cdef ScanList* hiders = &work.hiders
    cdef ScanEntry* entry
    cdef uint64_t number
    if hiders.count:
        qsort(hiders.entries, hiders.count, sizeof(ScanEntry), _newest_first)
    for number in range(hiders.count):
        entry = &hiders.entries[number]
        if number and entry.hash_low == hiders.entries[number - 1].hash_low and \
                entry.hash_high == hiders.entries[number - 1].hash_high:
            continue
        if entry.ticket and not _put_tombstone(work, entry.hash_low, entry.hash_high, NULL, 0,
                                               _sequence(entry), work.generation_last):
            return False
    return True


cdef void _drop_all(Pass* work) noexcept nogil:
    cdef Reclaimer* reclaimer = work.reclaimer
    cdef ShardSet* shards = reclaimer.shards
    cdef ScanEntry* entry
    cdef Shard* shard
    cdef uint64_t number
    cdef bint dropped
    for number in range(work.drops.count):
        entry = &work.drops.entries[number]
        shard = shard_at(shards, shard_number(shards, entry.hash_high))
        ec_lock_acquire(&shard.lock)
        dropped = shard_drop_location(shards.base, shard, entry.hash_low, entry.location)
        ec_lock_release(&shard.lock)
        if dropped:
            ec_count(&reclaimer.log.shared.counters.drop_count, 1)
            if work.from_small:
                ghost_remember(shards.base, reclaimer.ghosts, entry.hash_low)


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


cdef uint32_t _retired_for_long(LogStore* log) noexcept nogil:
    """A retired region that may be erased: the device writes, and a checkpoint knows of it."""
    cdef uint32_t region
    if log.shared.read_only or \
            ec_load_u64(&log.shared.retired_settled) != log.shared.counters.retired_count:
        return NONE32
    for region in range(log.shared.region_count):
        if log.regions[region].state == REGION_RETIRED and log.regions[region].in_flight == 0 and \
                ec_monotonic_ns() - log.regions[region].retired_ns > <int64_t>RETIRED_NS:
            return region
    return NONE32


cdef uint32_t _choose(Reclaimer* reclaimer) noexcept nogil:
    """The region to reclaim, marked RECLAIMING; NONE32 when none is sealed."""
    cdef LogStore* log = reclaimer.log
    cdef uint32_t small_count, main_count, small, main, choice
    ec_lock_acquire(&log.shared.lock)
    choice = _retired_for_long(log)
    if choice != NONE32:
        ec_store_u32(&log.regions[choice].state, REGION_RECLAIMING)
        ec_lock_release(&log.shared.lock)
        return choice
    small = _oldest_sealed(log, LOG_SMALL, &small_count)
    main = _oldest_sealed(log, LOG_MAIN, &main_count)
    if small != NONE32 and (main == NONE32 or
                            small_count > reclaimer.small_share * reclaimer.usable_count):
        choice = small
    else:
        choice = main
    if choice != NONE32:
        ec_store_u32(&log.regions[choice].state, REGION_RECLAIMING)
    ec_lock_release(&log.shared.lock)
    return choice


cdef bint _empty(Pass* work, const ScanList* entries) noexcept nogil:
    """Move out of the region what must outlive it, and erase it; only then forget the rest.

    The order is what keeps deleted and overwritten values away across a crash at any point: what
    hides them is durable before the region goes, and an entry leaves the index, so that deleting
    its key would leave no trace, only when its record cannot come back.
    """
    cdef LogStore* log = work.reclaimer.log
    cdef int64_t deadline
    cdef uint64_t number
    for number in range(entries.count):
        if ec_load_u32(&log.stopping) or not _judge(work, &entries.entries[number]):
            return False
    if not _hide_older(work):
        return False
    deadline = ec_monotonic_ns() + <int64_t>SYNC_PATIENCE_NS
    if work.appended and log_sync_quiet(log, deadline) != Status.STATUS_OK:
        return False
    if log_erase(log, work.region) != Status.STATUS_OK or \
            log_sync_quiet(log, deadline) != Status.STATUS_OK:
        return False
    if ec_load_u64(&log.regions[work.region].generation) != work.generation:
        return False            # retired by the sync
    _drop_all(work)
    return True


cdef void _give_up(Pass* work, bint unreadable) noexcept nogil:
    """The region stays; one that cannot be read again and again is retired."""
    cdef Region* region = &work.reclaimer.log.regions[work.region]
    cdef uint32_t failures = 0
    ec_lock_acquire(&work.reclaimer.log.shared.lock)
    if region.state == REGION_RECLAIMING and work.is_retired:
        ec_store_u32(&region.state, REGION_RETIRED)
        region.retired_ns = ec_monotonic_ns()
    elif region.state == REGION_RECLAIMING:
        ec_store_u32(&region.state, REGION_SEALED)
        if unreadable:
            region.failure_count += 1
            failures = region.failure_count
    ec_lock_release(&work.reclaimer.log.shared.lock)
    if failures >= UNREADABLE_MAX:
        log_retire_region(work.reclaimer.log, work.region)


cdef Status _write_carried(Pass* work) noexcept nogil:
    """The tombstones of a region emptied in place are the first that it holds again."""
    cdef LogStore* log = work.reclaimer.log
    cdef ScanEntry* entry
    cdef uint64_t number
    cdef Status status
    for number in range(work.carried.count):
        entry = &work.carried.entries[number]
        status = reclaim_tombstone(log, LOG_MAIN, entry.hash_low, entry.hash_high, NULL, 0,
                                   entry.flags_sequence, entry.location)
        if status != Status.STATUS_OK:
            return status
    return log_sync_quiet(log, ec_monotonic_ns() + <int64_t>SYNC_PATIENCE_NS)


cdef Status reclaim_one(Reclaimer* reclaimer, bint in_place) noexcept nogil:
    cdef LogStore* log = reclaimer.log
    cdef Pass work
    cdef ScanList entries
    cdef ScanInfo info
    cdef Status status
    memset(&work, 0, sizeof(Pass))
    memset(&entries, 0, sizeof(ScanList))
    work.reclaimer = reclaimer
    work.region = _choose(reclaimer)
    if work.region == NONE32:
        return Status.STATUS_NOT_FOUND
    work.generation = ec_load_u64(&log.regions[work.region].generation)
    work.generation_last = log.regions[work.region].generation_last
    work.from_small = log.regions[work.region].log == LOG_SMALL
    work.is_retired = log.regions[work.region].retired_generation != 0
    work.in_place = in_place
    work.keep_bytes = <uint64_t>(reclaimer.reinsert_share * log.region_bytes)
    status = scan_region(log, work.region, log.regions[work.region].retired_generation
                         if work.is_retired else work.generation, 0, &entries, &info)
    if not work.is_retired:
        ec_count(&log.shared.counters.corrupt_count, info.damaged_count)
    # A retired one may never be readable: what it hid is hidden by the checkpoints.
    if status == Status.STATUS_OK and (info.failed_count == 0 or work.is_retired) and \
            _empty(&work, &entries):
        ec_count(&log.shared.counters.reclaim_count, 1)
        ec_count(&log.shared.counters.reclaim_bytes, log.regions[work.region].written_bytes)
        log_release_region(log, work.region)
        status = _write_carried(&work) if in_place else Status.STATUS_OK
    else:
        _give_up(&work, info.failed_count != 0)
        status = Status.STATUS_AGAIN
        reclaimer.shared.retry_after_ns = ec_monotonic_ns() + <int64_t>RETRY_NS
    free(work.window.bytes)
    scan_list_free(&work.drops)
    scan_list_free(&work.carried)
    scan_list_free(&work.hiders)
    scan_list_free(&entries)
    return status


cdef bint reclaim_needs_checkpoint(Reclaimer* reclaimer) noexcept nogil:
    # Tombstones are dropped when two checkpoints know that they can be: where they pile up faster
    # than checkpoints come, the log would fill with them. An eighth of it is the most.
    cdef LogStore* log = reclaimer.log
    return reclaimer.shared.tombstone_bytes > log.region_bytes // 4 and \
        reclaimer.shared.tombstone_bytes > min(reclaimer.shared.checkpoint_bytes,
                                               log.shared.region_count * log.region_bytes // 8)


cdef inline uint32_t ready_target_of(uint32_t region_count) noexcept nogil:
    return min(<uint32_t>READY_MAX, max(<uint32_t>READY_MIN, region_count // 16))


cdef void reclaim_prepare(Reclaimer* reclaimer) noexcept nogil:
    cdef LogStore* log = reclaimer.log
    cdef uint32_t region
    cdef int64_t now = ec_monotonic_ns()
    if now < reclaimer.prepare_after_ns:
        return
    reclaimer.usable_count = log.shared.region_count
    reclaimer.ready_target = ready_target_of(reclaimer.usable_count)
    if log_prepare(log, reclaimer.ready_target) == 0:
        return
    # Shares are of what there is: on a full disk the budget says how large the cache may be, not
    # how large it is.
    reclaimer.usable_count = 0
    for region in range(log.shared.region_count):
        reclaimer.usable_count += ec_load_u32(&log.regions[region].state) != REGION_FREE
    reclaimer.ready_target = ready_target_of(reclaimer.usable_count)
    reclaimer.prepare_after_ns = now + <int64_t>SPACE_RETRY_NS


cdef uint32_t reclaim_run(Reclaimer* reclaimer) noexcept nogil:
    cdef LogStore* log = reclaimer.log
    cdef uint32_t freed = 0
    reclaim_prepare(reclaimer)
    while ec_load_u32(&log.shared.ready_count) < reclaimer.ready_target and \
            not ec_load_u32(&log.stopping) and not reclaim_needs_checkpoint(reclaimer) and \
            ec_monotonic_ns() >= reclaimer.shared.retry_after_ns:
        if reclaim_one(reclaimer, False) != Status.STATUS_OK:
            break
        freed += 1
    return freed


cdef bint reclaim_is_stuck(Reclaimer* reclaimer) noexcept nogil:
    return ec_load_u32(&reclaimer.log.shared.ready_count) == 0 and \
        ec_monotonic_ns() < reclaimer.shared.retry_after_ns and \
        not ec_load_u32(&reclaimer.log.shared.read_only)
