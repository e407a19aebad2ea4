"""Walking all entries (see _walk.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from edgecache._change cimport Engine
from edgecache._checkpoint cimport Checkpointer, checkpoint_write
from edgecache._flush cimport log_erase, log_flush, log_seal_regions, log_sync_quiet, log_wait
from edgecache._index cimport index_clear
from edgecache._memory cimport (
    RamItem,
    item_key,
    item_key_len,
    item_meta,
    item_meta_len,
    memory_clear,
    memory_item,
    memory_scan,
)
from edgecache._meta cimport META_FLAG_PART, meta_has_flag, meta_has_tag
from edgecache._scan cimport (
    ScanEntry,
    ScanInfo,
    ScanList,
    ScanWindow,
    scan_list_free,
    scan_load,
    scan_region,
)
from edgecache._segment cimport (
    LOG_COUNT,
    NONE32,
    REGION_OPEN,
    REGION_RECLAIMING,
    REGION_SEALED,
    REGION_SEALING,
    LogStore,
    log_close_buffer_locked,
    log_note_unlogged,
    log_release_region,
    log_retire_region,
)
from edgecache._segment_format cimport (
    RECORD_DELETE,
    RECORD_TAGGED,
    UNIT_SHIFT,
    RecordHeader,
    record_key,
    record_meta,
)
from edgecache._shard cimport (
    Shard,
    ShardSet,
    shard_at,
    shard_bump_all,
    shard_erase_disk,
    shard_location_heat,
    shard_number,
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
    CLEAR_WAIT_NS = 60000000000


cdef void walk_free(Walk* self) noexcept nogil:
    free(self.keys)
    self.keys = NULL
    self.keys_bytes = 0
    self.keys_capacity = 0


cdef Status _add_key(Walk* self, const char* key, uint32_t key_len) noexcept nogil:
    cdef uint64_t wanted = self.keys_bytes + 4 + key_len, capacity
    cdef void* grown
    if wanted > self.keys_capacity:
        capacity = max(wanted * 2, <uint64_t>65536)
        grown = realloc(self.keys, capacity)
        if grown == NULL:
            return Status.STATUS_NO_MEMORY
        self.keys = <char*>grown
        self.keys_capacity = capacity
    memcpy(self.keys + self.keys_bytes, &key_len, 4)
    memcpy(self.keys + self.keys_bytes + 4, key, key_len)
    self.keys_bytes = wanted
    self.match_count += 1
    return Status.STATUS_OK


cdef bint _matches(Walk* self, const char* key, uint32_t key_len, const char* meta,
                   uint32_t meta_len) noexcept nogil:
    if self.prefix == NULL and self.tag == NULL:
        return False
    if self.flag:
        if not meta_has_flag(meta, meta_len, self.flag):
            return False
    elif meta_has_flag(meta, meta_len, META_FLAG_PART):
        return False
    if self.prefix != NULL and (key_len < self.prefix_len or
                                memcmp(key, self.prefix, self.prefix_len) != 0):
        return False
    return self.tag == NULL or (meta_len > 0 and meta_has_tag(meta, meta_len, self.tag,
                                                              self.tag_len))


cdef Status walk_memory(Walk* self, uint32_t shard_index) noexcept nogil:
    cdef ShardSet* shards = self.engine.shards
    cdef Shard* shard = shard_at(shards, shard_index)
    cdef RamItem* item
    cdef uint64_t position = 0
    cdef uint32_t reference
    cdef Status status = Status.STATUS_OK
    ec_lock_acquire(&shard.lock)
    while status == Status.STATUS_OK:
        reference = memory_scan(shards.base, &shard.memory, &position)
        if reference == 0:
            break
        item = memory_item(shards.base, &shard.memory, reference)
        self.entry_count += 1
        if _matches(self, item_key(item), item_key_len(item), item_meta(item),
                    item_meta_len(item)):
            status = _add_key(self, item_key(item), item_key_len(item))
    ec_lock_release(&shard.lock)
    return status


cdef Status _visit(Walk* self, const ScanEntry* entry, ScanWindow* window) noexcept nogil:
    cdef Engine* engine = self.engine
    cdef LogStore* log = engine.log
    cdef ShardSet* shards = engine.shards
    cdef Shard* shard = shard_at(shards, shard_number(shards, entry.hash_high))
    cdef RecordHeader* record
    cdef int heat
    cdef uint32_t flags = <uint32_t>(entry.flags_sequence >> 56)
    if flags & RECORD_DELETE or (self.tag != NULL and not flags & RECORD_TAGGED):
        return Status.STATUS_OK
    ec_lock_acquire(&shard.lock)
    heat = shard_location_heat(shards.base, shard, entry.hash_low, entry.location)
    ec_lock_release(&shard.lock)
    if heat < 0:
        return Status.STATUS_OK
    self.entry_count += 1
    record = scan_load(log, entry, window)
    if record == NULL:
        # It may be one that a purge has to take, and the device may read it again some day.
        self.corrupt_count += 1
        ec_count(&log.shared.counters.corrupt_count, 1)
        ec_lock_acquire(&shard.lock)
        if shard_erase_disk(shards.base, shard, entry.hash_low, entry.location):
            log_note_unlogged(log)
        ec_lock_release(&shard.lock)
        return Status.STATUS_OK
    self.byte_count += <uint64_t>entry.size_units << UNIT_SHIFT
    if _matches(self, record_key(record), record.key_len, record_meta(record), record.meta_len):
        return _add_key(self, record_key(record), record.key_len)
    return Status.STATUS_OK


cdef Status walk_region(Walk* self, uint32_t region) noexcept nogil:
    cdef LogStore* log = self.engine.log
    cdef ScanList entries
    cdef ScanInfo info
    cdef ScanWindow window
    cdef uint64_t number
    cdef Status status
    if ec_load_u32(&log.regions[region].state) not in (REGION_OPEN, REGION_SEALING,
                                                       REGION_SEALED):
        return Status.STATUS_OK
    memset(&entries, 0, sizeof(ScanList))
    memset(&window, 0, sizeof(ScanWindow))
    status = scan_region(log, region, ec_load_u64(&log.regions[region].generation), 0, &entries,
                         &info)
    for number in range(entries.count):
        if status != Status.STATUS_OK:
            break
        status = _visit(self, &entries.entries[number], &window)
    free(window.bytes)
    scan_list_free(&entries)
    return status


cdef void _clear_shards(Engine* engine) noexcept nogil:
    cdef uint32_t number
    cdef Shard* shard
    for number in range(engine.shards.count):
        shard = shard_at(engine.shards, number)
        ec_lock_acquire(&shard.lock)
        memory_clear(engine.shards.base, &shard.memory)
        index_clear(engine.shards.base, &shard.index)
        if engine.log != NULL:
            # Records of regions that are not erased: put meanwhile, or on their way.
            log_note_unlogged(engine.log)
        shard_bump_all(engine.shards, shard)
        ec_lock_release(&shard.lock)


cdef bint _is_sealing(LogStore* log, uint64_t generation) noexcept nogil:
    """Does a region opened up to `generation` still wait for a block or its footer?"""
    cdef uint32_t region
    for region in range(log.shared.region_count):
        if ec_load_u32(&log.regions[region].state) == REGION_SEALING and \
                ec_load_u64(&log.regions[region].generation) <= generation:
            return True
    return False


cdef Status _erase_before(LogStore* log, uint64_t generation, int64_t deadline_ns) noexcept nogil:
    """Erase the regions opened up to `generation`, durably; they are RECLAIMING then, or RETIRED.

    Nobody else reclaims: the caller has the maintenance lock.
    """
    cdef uint32_t region
    cdef bint ours
    for region in range(log.shared.region_count):
        ec_lock_acquire(&log.shared.lock)
        ours = log.regions[region].state == REGION_SEALED and \
            log.regions[region].generation <= generation
        if ours:
            ec_store_u32(&log.regions[region].state, REGION_RECLAIMING)
        ec_lock_release(&log.shared.lock)
        if ours:
            log_erase(log, region)
    return log_sync_quiet(log, deadline_ns)


cdef void _release_erased(LogStore* log, bint durably) noexcept nogil:
    cdef uint32_t region
    for region in range(log.shared.region_count):
        if ec_load_u32(&log.regions[region].state) != REGION_RECLAIMING:
            continue
        if durably:
            log_release_region(log, region)
        else:
            log_retire_region(log, region)


cdef uint64_t _close_regions(LogStore* log, int64_t deadline_ns) noexcept nogil:
    """Seal what is open, and wait for blocks on their way; the last generation of before."""
    cdef uint32_t head
    cdef uint64_t generation
    ec_lock_acquire(&log.shared.lock)
    generation = log.shared.generation
    for head in range(LOG_COUNT):
        log_close_buffer_locked(log, head)
        if log.shared.heads[head].region != NONE32 and \
                log.regions[log.shared.heads[head].region].state == REGION_OPEN:
            ec_store_u32(&log.regions[log.shared.heads[head].region].state, REGION_SEALING)
        log.shared.heads[head].region = NONE32
    ec_lock_release(&log.shared.lock)
    # A region that fails here is retired, which the checkpoint tells as well.
    log_flush(log, deadline_ns)
    log_seal_regions(log)
    while _is_sealing(log, generation) and log_wait(log, deadline_ns):
        log_seal_regions(log)
    return generation


cdef bint _write_checkpoint(LogStore* log, Checkpointer* checkpointer) noexcept nogil:
    """One that reflects everything logged so far; False where it could not be had."""
    cdef uint64_t stable = 0, sequence
    log_note_unlogged(log)
    sequence = ec_load_u64(&log.shared.unlogged_sequence)
    return checkpoint_write(checkpointer, 0, &stable) == Status.STATUS_OK and \
        ec_load_u64(&log.shared.settled_sequence) >= sequence


cdef void walk_clear(Engine* engine, Checkpointer* checkpointer) noexcept nogil:
    cdef LogStore* log = engine.log
    cdef int64_t deadline = ec_monotonic_ns() + <int64_t>CLEAR_WAIT_NS
    cdef uint64_t generation
    cdef Status status = Status.STATUS_OK
    if log == NULL:
        _clear_shards(engine)
        return
    generation = _close_regions(log, deadline)
    # A crash may leave some of the regions erased and others not: a tombstone gone, and what it hid
    # still there. With a checkpoint that knows of all deletes that does not matter; without one
    # nothing is erased, and the regions are reclaimed in their time.
    if _write_checkpoint(log, checkpointer):
        # As reclaim does it: an entry leaves the index, so that a delete of its key would write
        # nothing, only when its record cannot come back.
        status = _erase_before(log, generation, deadline)
    _clear_shards(engine)
    _release_erased(log, status == Status.STATUS_OK)
