"""Walking all entries (see _walk.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from edgecache._change cimport Engine
from edgecache._flush cimport log_flush, log_seal_regions
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
    scan_list_free,
    scan_read,
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
    location_offset,
    log_close_buffer_locked,
    log_release_region,
)
from edgecache._segment_format cimport (
    PAGE_BYTES,
    RECORD_DELETE,
    RECORD_TAGGED,
    UNIT_SHIFT,
    RecordHeader,
    align_up,
    record_header_valid,
    record_key,
    record_meta,
    record_payload_sum,
    record_total_bytes,
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
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release, ec_monotonic_ns

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    WINDOW_BYTES = 1048576
    CLEAR_WAIT_NS = 60000000000

cdef struct Window:                 # what of the region is in memory now
    char* bytes
    uint64_t start
    uint64_t end
    uint64_t capacity


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
    if meta_has_flag(meta, meta_len, META_FLAG_PART):
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


cdef RecordHeader* _load(LogStore* log, uint32_t region, const ScanEntry* entry,
                         Window* window) noexcept nogil:
    """The record in memory, header verified; NULL when it cannot be had."""
    cdef uint64_t begin = location_offset(log, entry.location)
    cdef uint64_t size = <uint64_t>entry.size_units << UNIT_SHIFT
    cdef uint64_t first = begin & ~<uint64_t>(PAGE_BYTES - 1), wanted
    cdef int64_t moved
    cdef RecordHeader* record
    if begin < window.start or begin + size > window.end:
        wanted = min(max(align_up(begin + size, PAGE_BYTES) - first, <uint64_t>WINDOW_BYTES),
                     log.region_bytes - first)
        if wanted > window.capacity:
            free(window.bytes)
            window.bytes = NULL
            window.capacity = 0
            window.start = window.end = 0
            if posix_memalign(<void**>&window.bytes, PAGE_BYTES, wanted) != 0:
                return NULL
            window.capacity = wanted
        moved = scan_read(log, region, first, window.bytes, wanted)
        window.start = first
        window.end = first + <uint64_t>max(moved, <int64_t>0)
        if begin + size > window.end:
            return NULL
    record = <RecordHeader*>(window.bytes + (begin - window.start))
    if not record_header_valid(log.api, log.seed, log.regions[region].generation, record) or \
            record.hash_low != entry.hash_low or record.hash_high != entry.hash_high or \
            record_total_bytes(record) != size:
        return NULL
    return record


cdef Status _visit(Walk* self, uint32_t region, const ScanEntry* entry,
                   Window* window) noexcept nogil:
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
    record = _load(log, region, entry, window)
    if record != NULL and self.verify and \
            record.payload_sum != record_payload_sum(log.api, log.seed, record):
        record = NULL
    if record == NULL:
        self.corrupt_count += 1
        ec_count(&log.shared.counters.corrupt_count, 1)
        ec_lock_acquire(&shard.lock)
        shard_erase_disk(shards.base, shard, entry.hash_low, entry.location)
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
    cdef Window window
    cdef uint64_t number
    cdef Status status
    if log.regions[region].state not in (REGION_OPEN, REGION_SEALING, REGION_SEALED):
        return Status.STATUS_OK
    memset(&entries, 0, sizeof(ScanList))
    memset(&window, 0, sizeof(Window))
    status = scan_region(log, region, log.regions[region].generation, 0, &entries, &info)
    for number in range(entries.count):
        if status != Status.STATUS_OK:
            break
        status = _visit(self, region, &entries.entries[number], &window)
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
        ec_lock_release(&shard.lock)
    shard_bump_all(engine.shards)


cdef void _release_before(LogStore* log, uint64_t generation, char* page) noexcept nogil:
    """Free the regions opened up to `generation`; their first pages are zeroed."""
    cdef uint32_t region
    cdef bint ours
    for region in range(log.shared.region_count):
        ec_lock_acquire(&log.shared.lock)
        ours = log.regions[region].state == REGION_SEALED and \
            log.regions[region].generation <= generation
        if ours:
            log.regions[region].state = REGION_RECLAIMING
        ec_lock_release(&log.shared.lock)
        if not ours:
            continue
        log.ops.write(log.engine, <uint32_t>log.files[region // log.regions_per_file],
                      <uint64_t>(region % log.regions_per_file) * log.region_bytes, page,
                      PAGE_BYTES)
        log.dirty[region // log.regions_per_file] = 1
        log_release_region(log, region)


cdef Status walk_clear(Engine* engine) noexcept nogil:
    cdef LogStore* log = engine.log
    cdef uint32_t head
    cdef uint64_t generation
    cdef char* page = NULL
    cdef Status status
    if log == NULL:
        _clear_shards(engine)
        return Status.STATUS_OK
    if posix_memalign(<void**>&page, PAGE_BYTES, PAGE_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    memset(page, 0, PAGE_BYTES)
    ec_lock_acquire(&log.shared.lock)
    generation = log.shared.generation
    for head in range(LOG_COUNT):
        log_close_buffer_locked(log, head)
        if log.shared.heads[head].region != NONE32 and \
                log.regions[log.shared.heads[head].region].state == REGION_OPEN:
            log.regions[log.shared.heads[head].region].state = REGION_SEALING
        log.shared.heads[head].region = NONE32
    ec_lock_release(&log.shared.lock)
    status = log_flush(log, ec_monotonic_ns() + <int64_t>CLEAR_WAIT_NS)
    log_seal_regions(log)
    _clear_shards(engine)
    _release_before(log, generation, page)
    free(page)
    return status
