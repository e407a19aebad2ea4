"""Recovery of the index from the region log (see _recovery.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from edgecache._checkpoint cimport (
    CHECKPOINT_CLEAN,
    Checkpointer,
    CheckpointHeader,
    CheckpointRegion,
    checkpoint_load,
)
from edgecache._index cimport (
    IndexCursor,
    index_erase,
    index_init,
    index_insert,
    index_next,
    index_prefetch,
    index_scan,
    index_seek,
    size_class_of,
)
from edgecache._scan cimport (
    ScanEntry,
    ScanInfo,
    ScanList,
    scan_generation,
    scan_list_free,
    scan_region,
)
from edgecache._segment cimport (
    REGION_FREE,
    REGION_READY,
    REGION_RETIRED,
    REGION_SEALED,
    LogStore,
    location_region,
)
from edgecache._segment_format cimport FOOTER_BYTES, PAGE_BYTES, RECORD_DELETE, UNIT_SHIFT, align_up
from edgecache._shard cimport Shard, ShardSet, shard_at, shard_number
from edgecache._status cimport Status
from edgecache._sync cimport ec_monotonic_ns, ec_prefetch

cdef enum:
    MERGE_STRIDE = 1021             # a prime, far more than a group of the index has buckets

cdef struct Recovery:
    LogStore* log
    ShardSet* shards
    RecoveryReport* report
    CheckpointRegion* table
    uint64_t* generations           # what each region holds now; 0: nothing
    ScanList* known                 # per region: its entries by location, loaded when asked for
    unsigned char* known_loaded
    uint64_t sequence_max
    uint64_t generation_max


cdef inline uint64_t _sequence(const ScanEntry* entry) noexcept nogil:
    return entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF


cdef int _by_key(const void* first, const void* second) noexcept nogil:
    """Order by key hash, the newest first; of equal copies the later location."""
    cdef const ScanEntry* a = <const ScanEntry*>first
    cdef const ScanEntry* b = <const ScanEntry*>second
    if a.hash_low != b.hash_low:
        return -1 if a.hash_low < b.hash_low else 1
    if a.hash_high != b.hash_high:
        return -1 if a.hash_high < b.hash_high else 1
    if _sequence(a) != _sequence(b):
        return -1 if _sequence(a) > _sequence(b) else 1
    # A tombstone that reclaim wrote carries the sequence of what it dropped.
    if (a.flags_sequence ^ b.flags_sequence) >> 56 & RECORD_DELETE:
        return -1 if a.flags_sequence >> 56 & RECORD_DELETE else 1
    return -1 if a.location > b.location else 1


cdef Status _partition_sort(ScanList* entries) noexcept nogil:
    """Sort by key: one pass into buckets by the hash's top bits, then each bucket on its own."""
    cdef uint64_t bucket_count = 1, index, position, count = entries.count
    cdef uint32_t shift = 64
    cdef uint64_t* starts
    cdef ScanEntry* sorted_entries
    while bucket_count < 65536 and bucket_count * 64 < count:
        bucket_count <<= 1
        shift -= 1
    if bucket_count == 1:
        qsort(entries.entries, count, sizeof(ScanEntry), _by_key)
        return Status.STATUS_OK
    starts = <uint64_t*>calloc(bucket_count + 1, sizeof(uint64_t))
    sorted_entries = <ScanEntry*>malloc(count * sizeof(ScanEntry))
    if starts == NULL or sorted_entries == NULL:
        free(starts)
        free(sorted_entries)
        return Status.STATUS_NO_MEMORY
    for index in range(count):
        starts[(entries.entries[index].hash_low >> shift) + 1] += 1
    for index in range(bucket_count):
        starts[index + 1] += starts[index]
    for index in range(count):
        position = entries.entries[index].hash_low >> shift
        sorted_entries[starts[position]] = entries.entries[index]
        starts[position] += 1
    position = 0
    for index in range(bucket_count):
        if starts[index] - position > 1:
            qsort(sorted_entries + position, starts[index] - position, sizeof(ScanEntry), _by_key)
        position = starts[index]
    free(starts)
    free(entries.entries)
    entries.entries = sorted_entries
    entries.capacity = count
    return Status.STATUS_OK


cdef int _by_location(const void* first, const void* second) noexcept nogil:
    cdef uint64_t a = (<const ScanEntry*>first).location, b = (<const ScanEntry*>second).location
    return -1 if a < b else (1 if a > b else 0)


cdef const ScanEntry* _entry_at(Recovery* self, uint64_t location) noexcept nogil:
    """The mini-index entry of the record at `location`, or NULL."""
    cdef uint32_t region = location_region(self.log, location)
    cdef ScanList* known
    cdef ScanInfo info
    cdef uint64_t low = 0, high, middle
    if region >= self.log.shared.region_count or self.generations[region] == 0:
        return NULL
    known = &self.known[region]
    if not self.known_loaded[region]:
        self.known_loaded[region] = 1
        scan_region(self.log, region, self.generations[region], 0, known, &info)
        qsort(known.entries, known.count, sizeof(ScanEntry), _by_location)
    high = known.count
    while low < high:
        middle = (low + high) // 2
        if known.entries[middle].location < location:
            low = middle + 1
        else:
            high = middle
    if low < known.count and known.entries[low].location == location:
        return &known.entries[low]
    return NULL


cdef Status _insert(char* base, Shard* shard,
                                 const ScanEntry* entry) noexcept nogil:
    return index_insert(base, &shard.index, entry.hash_low, entry.location,
                        size_class_of(<uint64_t>entry.size_units << UNIT_SHIFT), False, 0)


cdef void _apply(Recovery* self, const ScanEntry* winner) noexcept nogil:
    """Merge the newest replayed version of one key into the index."""
    cdef Shard* shard = shard_at(self.shards, shard_number(self.shards, winner.hash_high))
    cdef char* base = self.shards.base
    cdef IndexCursor cursor
    cdef const ScanEntry* held
    cdef bint again = True
    while again:
        again = False
        index_seek(base, &shard.index, winner.hash_low, &cursor)
        while index_next(base, &shard.index, &cursor):
            held = _entry_at(self, cursor.location)
            if held != NULL and (held.hash_low != winner.hash_low or
                                 held.hash_high != winner.hash_high):
                continue
            if held != NULL and _sequence(held) > _sequence(winner):
                return
            if held != NULL and cursor.location == winner.location:
                return
            # Older, or nothing that a mini-index vouches for.
            index_erase(base, &shard.index, &cursor)
            again = True
            break
    if (winner.flags_sequence >> 56) & RECORD_DELETE:
        return
    if _insert(base, shard, winner) != Status.STATUS_OK:
        self.report.lost_entries += 1


cdef void _sweep(Recovery* self) noexcept nogil:
    """Erase entries of regions that do not hold the checkpoint's generation any more."""
    cdef uint32_t number, region
    cdef uint64_t position
    cdef Shard* shard
    cdef IndexCursor cursor
    for number in range(self.shards.count):
        shard = shard_at(self.shards, number)
        position = 0
        while index_scan(self.shards.base, &shard.index, &position, &cursor):
            region = location_region(self.log, cursor.location)
            if not cursor.is_ram and region < self.log.shared.region_count and \
                    self.generations[region] != 0 and \
                    self.generations[region] == self.table[region].generation:
                continue
            index_erase(self.shards.base, &shard.index, &cursor)
            self.report.swept_entries += 1


cdef void _adopt(Recovery* self, uint32_t region, const ScanInfo* info) noexcept nogil:
    """The region holds records: it is full from now on."""
    cdef LogStore* log = self.log
    log.regions[region].state = REGION_SEALED
    log.regions[region].log = info.log & 1
    log.regions[region].generation = info.generation
    log.regions[region].written_bytes = info.end_offset
    log.regions[region].block_count = info.block_count
    log.shared.free_count -= 1
    log.shared.used_bytes += info.end_offset
    self.report.region_count += 1
    if info.generation > self.generation_max:
        self.generation_max = info.generation
    if info.sequence_max > self.sequence_max:
        self.sequence_max = info.sequence_max


cdef Status _scan_one(Recovery* self, uint32_t region, ScanList* entries) noexcept nogil:
    """Decide what a region is worth and gather what has to be replayed."""
    cdef LogStore* log = self.log
    cdef CheckpointRegion* saved = &self.table[region]
    cdef ScanInfo info
    cdef uint32_t start = 0
    cdef Status status
    self.generations[region] = 0
    if log.files[region // log.regions_per_file] < 0:
        return Status.STATUS_OK
    status = scan_generation(log, region, &self.generations[region])
    if status == Status.STATUS_IO_ERROR:
        self.report.region_unreadable += 1
        self.generations[region] = 0
        return Status.STATUS_OK
    if status != Status.STATUS_OK:
        return status
    if self.generations[region] < saved.generation or self.generations[region] == 0:
        # Older than the checkpoint knows: its records were dropped before that.
        self.generations[region] = 0
        return Status.STATUS_OK
    if self.generations[region] == saved.generation:
        if saved.state in (REGION_FREE, REGION_READY, REGION_RETIRED):
            self.generations[region] = 0
            return Status.STATUS_OK
        start = saved.replay_offset
    if start > log.region_bytes - FOOTER_BYTES or start % PAGE_BYTES:
        start = 0
    status = scan_region(log, region, self.generations[region], start, entries, &info)
    if status != Status.STATUS_OK:
        return status
    if info.damaged_count:
        self.report.region_damaged += 1
    if info.block_count:
        self.report.region_replayed += 1
    else:
        info.log = saved.log
    if start:
        info.block_count += saved.block_count
    if info.end_offset == 0:
        self.generations[region] = 0
        return Status.STATUS_OK
    _adopt(self, region, &info)
    return Status.STATUS_OK


cdef Status _scan_all(Recovery* self, ScanList* entries, recovery_progress_function progress,
                      void* context) noexcept nogil:
    cdef uint32_t region, count = self.log.shared.region_count
    cdef Status status
    for region in range(count):
        status = _scan_one(self, region, entries)
        if status != Status.STATUS_OK:
            return status
        if progress != NULL:
            progress(context, region + 1, count)
    return Status.STATUS_OK


cdef void _reset_indexes(Recovery* self) noexcept nogil:
    cdef uint32_t number
    cdef Shard* shard
    cdef uint64_t limit
    for number in range(self.shards.count):
        shard = shard_at(self.shards, number)
        limit = shard.index.used_bytes_limit
        # Garbage of a half-loaded checkpoint may lie anywhere in the area: give its pages back.
        zero_pages(self.shards.base + shard.index.area_offset, shard.index.area_size_bytes)
        index_init(self.shards.base, &shard.index, shard.index.area_offset,
                   shard.index.area_size_bytes, 0)
        shard.index.used_bytes_limit = limit


cdef extern from *:
    """
    #include <sys/mman.h>
    static inline void ec_zero_pages(char *address, uint64_t size) {
        /* Private anonymous memory reads as zeros after this. Source: madvise(2). */
        madvise(address, size, MADV_DONTNEED);
    }
    """
    void zero_pages "ec_zero_pages"(char* address, uint64_t size) noexcept nogil


cdef inline void _prefetch(Recovery* self, ScanList* entries, uint64_t index) noexcept nogil:
    """Every step of a merge goes to other memory: ask for that of the next ones in time."""
    cdef const ScanEntry* entry
    if index + 8 * MERGE_STRIDE < entries.count:
        ec_prefetch(&entries.entries[index + 8 * MERGE_STRIDE])
    if index + 3 * MERGE_STRIDE < entries.count:
        entry = &entries.entries[index + 3 * MERGE_STRIDE]
        index_prefetch(self.shards.base, &shard_at(
            self.shards, shard_number(self.shards, entry.hash_high)).index, entry.hash_low)


cdef uint64_t _merge(Recovery* self, ScanList* entries) noexcept nogil:
    """Apply the winner of every key; returns how many keys there were."""
    cdef uint64_t index, first, keys = 0
    cdef ScanEntry* entry
    # Not in their order: sorted hashes would fill one group of the index after the other, and a
    # group whose entries share more bits than it can tell apart must not be what it grows for.
    for first in range(MERGE_STRIDE):
        index = first
        while index < entries.count:
            entry = &entries.entries[index]
            index += MERGE_STRIDE
            _prefetch(self, entries, index)
            if index > MERGE_STRIDE and entry.hash_low == (entry - 1).hash_low and \
                    entry.hash_high == (entry - 1).hash_high:
                continue
            _apply(self, entry)
            keys += 1
    return keys


cdef Status _run(Recovery* self, Checkpointer* checkpointer, recovery_progress_function progress,
                 void* context) noexcept nogil:
    cdef CheckpointHeader header
    cdef ScanList entries
    cdef Status status
    cdef uint32_t number, region
    memset(&entries, 0, sizeof(ScanList))
    memset(&header, 0, sizeof(CheckpointHeader))
    status = checkpoint_load(checkpointer, &header, self.table, &self.report.checkpoint_skipped)
    if status == Status.STATUS_OK:
        self.report.checkpoint_loaded = 1
        self.report.checkpoint_clean = header.flags & CHECKPOINT_CLEAN
        self.sequence_max = header.sequence
        self.generation_max = header.generation
    else:
        memset(self.table, 0, align_up(<uint64_t>self.log.shared.region_count
                                       * sizeof(CheckpointRegion), PAGE_BYTES))
        if self.report.checkpoint_skipped:
            _reset_indexes(self)
    status = _scan_all(self, &entries, progress, context)
    if status == Status.STATUS_OK and self.report.checkpoint_loaded:
        _sweep(self)
    if status == Status.STATUS_OK:
        status = _partition_sort(&entries)
    if status == Status.STATUS_OK:
        self.report.replayed_entries = entries.count
        _merge(self, &entries)
    scan_list_free(&entries)
    for region in range(self.log.shared.region_count):
        # A region without records keeps a generation above whatever its bytes may claim.
        if self.log.regions[region].state == REGION_FREE:
            self.log.regions[region].generation = self.generation_max
    self.log.shared.sequence = self.sequence_max
    self.log.shared.generation = self.generation_max
    for number in range(self.shards.count):
        self.report.object_count += shard_at(self.shards, number).index.object_count
    return status


cdef Status recovery_run(LogStore* log, ShardSet* shards, Checkpointer* checkpointer,
                         recovery_progress_function progress, void* context,
                         RecoveryReport* report) noexcept nogil:
    cdef Recovery self
    cdef uint32_t region, count = log.shared.region_count
    cdef int64_t started = ec_monotonic_ns()
    cdef Status status = Status.STATUS_NO_MEMORY
    memset(&self, 0, sizeof(Recovery))
    memset(report, 0, sizeof(RecoveryReport))
    self.log = log
    self.shards = shards
    self.report = report
    self.table = <CheckpointRegion*>calloc(
        1, align_up(<uint64_t>count * sizeof(CheckpointRegion), PAGE_BYTES))
    self.generations = <uint64_t*>calloc(count, sizeof(uint64_t))
    self.known = <ScanList*>calloc(count, sizeof(ScanList))
    self.known_loaded = <unsigned char*>calloc(count, 1)
    if self.table != NULL and self.generations != NULL and self.known != NULL and \
            self.known_loaded != NULL:
        status = _run(&self, checkpointer, progress, context)
    if self.known != NULL:
        for region in range(count):
            scan_list_free(&self.known[region])
    free(self.table)
    free(self.generations)
    free(self.known)
    free(self.known_loaded)
    report.duration_us = <uint64_t>((ec_monotonic_ns() - started) // 1000)
    return status
