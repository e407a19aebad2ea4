"""Recovery of the index from the region log (see _recovery.pxd)."""

from libc.errno cimport ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memset

from edgecache._checkpoint cimport (
    CHECKPOINT_CLEAN,
    Checkpointer,
    CheckpointHeader,
    CheckpointRegion,
    checkpoint_load,
    checkpoint_write,
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
from edgecache._pages cimport pages_discard
from edgecache._scan cimport (
    ScanEntry,
    ScanInfo,
    ScanList,
    ScanWindow,
    scan_generation,
    scan_list_free,
    scan_load,
    scan_region,
    ticket_is_after,
)
from edgecache._segment cimport (
    REGION_FREE,
    REGION_READY,
    REGION_RETIRED,
    REGION_SEALED,
    LogShared,
    LogStore,
    location_offset,
    location_region,
    log_note_unlogged,
)
from edgecache._segment_format cimport (
    FOOTER_BYTES,
    PAGE_BYTES,
    RECORD_DELETE,
    RECORD_OVERWRITES,
    RECORD_VOID,
    UNIT_SHIFT,
    align_up,
)
from edgecache._shard cimport Shard, ShardSet, shard_at, shard_index_ready, shard_number
from edgecache._status cimport Status
from edgecache._sync cimport ec_monotonic_ns, ec_now_us, ec_prefetch

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
    uint64_t sequence_floor
    uint32_t ticket_max
    uint32_t synced_max
    uint32_t has_tickets


cdef enum:
    # Numbers given out before a power loss may have left no trace but in blocks that nobody sees
    # now: the new ones start well above them. 2^24 openings fit the 56 bits of a sequence.
    SEQUENCE_JUMP = 4294967296
    GENERATION_JUMP = 1048576
    TICKET_JUMP = 65536
    TRIM_FILES_MAX = 1000000
    MERGE_STRIDE = 1021             # a prime, far more than a group of the index has buckets


cdef inline uint64_t _sequence(const ScanEntry* entry) noexcept nogil:
    return entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF


cdef inline bint _same_key(const ScanEntry* a, const ScanEntry* b) noexcept nogil:
    return a.hash_low == b.hash_low and a.hash_high == b.hash_high


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
    if count < 2:
        return Status.STATUS_OK
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
        if info.failed_count:
            self.report.region_unreadable += 1
        if known.count:
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


cdef Status _insert(char* base, Shard* shard, const ScanEntry* entry) noexcept nogil:
    shard_index_ready(base, shard)
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
            # Of two copies the one that the checkpoint vouches for; the other may be torn.
            if held != NULL and _sequence(held) == _sequence(winner) and \
                    not (winner.flags_sequence >> 56) & RECORD_DELETE:
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
    log.regions[region].sequence_max = 0
    log.shared.free_count -= 1
    log.shared.used_bytes += info.end_offset
    self.report.region_count += 1
    if info.generation > self.generation_max:
        self.generation_max = info.generation
    if info.sequence_max > self.sequence_max:
        self.sequence_max = info.sequence_max


cdef void _forget_known(Recovery* self, ScanList* entries, uint64_t first,
                        const CheckpointRegion* saved) noexcept nogil:
    """Take out entries that the checkpoint's index has taken account of.

    One of them may have been deleted since, with its tombstone where nothing is replayed.
    """
    cdef uint64_t number, kept = first
    for number in range(first, entries.count):
        if location_offset(self.log, entries.entries[number].location) < saved.known_offset and \
                _sequence(&entries.entries[number]) <= self.sequence_floor:
            continue
        entries.entries[kept] = entries.entries[number]
        kept += 1
    entries.count = kept


cdef Status _scan_one(Recovery* self, uint32_t region, ScanList* entries) noexcept nogil:
    """Decide what a region is worth and gather what has to be replayed."""
    cdef LogStore* log = self.log
    cdef CheckpointRegion* saved = &self.table[region]
    cdef ScanInfo info
    cdef uint32_t start = 0
    cdef uint64_t first
    cdef Status status
    self.generations[region] = 0
    if log.files[region // log.regions_per_file] < 0:
        if log.files[region // log.regions_per_file] != -ENOENT:
            self.report.region_unreadable += 1
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
    first = entries.count
    status = scan_region(log, region, self.generations[region], start, entries, &info)
    if status != Status.STATUS_OK:
        return status
    if self.generations[region] == saved.generation:
        _forget_known(self, entries, first, saved)
    if info.block_count:
        if not self.has_tickets or ticket_is_after(info.ticket_max, self.ticket_max):
            self.ticket_max = info.ticket_max
        if not self.has_tickets or ticket_is_after(info.synced_max, self.synced_max):
            self.synced_max = info.synced_max
        self.has_tickets = 1
    if info.failed_count:
        self.report.region_unreadable += 1
        if info.end_offset:
            # What was not seen is forgotten: no checkpoint may leave it to a later recovery, which
            # might read it, and believe in it again.
            info.end_offset = <uint32_t>(log.region_bytes - FOOTER_BYTES)
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
        # Those of a file might not come again.
        if shard.is_file:
            memset(self.shards.base + shard.index_offset, 0, limit)
        else:
            pages_discard(self.shards.base + shard.index_offset, shard.index_bytes)
        index_init(self.shards.base, &shard.index, shard.index.area_offset,
                   shard.index.area_size_bytes, 0)
        shard.index.used_bytes_limit = limit


cdef inline void _prefetch(Recovery* self, ScanList* entries, uint64_t index) noexcept nogil:
    """Every step of a merge goes to other memory: ask for that of the next ones in time."""
    cdef const ScanEntry* entry
    if index + 8 * MERGE_STRIDE < entries.count:
        ec_prefetch(&entries.entries[index + 8 * MERGE_STRIDE])
    if index + 3 * MERGE_STRIDE < entries.count:
        entry = &entries.entries[index + 3 * MERGE_STRIDE]
        index_prefetch(self.shards.base, &shard_at(
            self.shards, shard_number(self.shards, entry.hash_high)).index, entry.hash_low)


cdef bint _is_contested(const Recovery* self, const ScanList* entries,
                        uint64_t index) noexcept nogil:
    """Would believing in a torn record here cost an intact version of its key?"""
    cdef const ScanEntry* entry = &entries.entries[index]
    # A block that a sync covered is not torn. If it rotted, its older versions stay hidden.
    if (entry.flags_sequence >> 56) & RECORD_DELETE or \
            not ticket_is_after(entry.ticket, self.synced_max):
        return False
    return (entry.flags_sequence >> 56) & RECORD_OVERWRITES or \
        (index > 0 and _same_key(entry, entry - 1)) or \
        (index + 1 < entries.count and _same_key(entry, entry + 1))


cdef int _by_pointed_location(const void* first, const void* second) noexcept nogil:
    return _by_location((<const ScanEntry**>first)[0], (<const ScanEntry**>second)[0])


cdef Status _verify_contested(Recovery* self, ScanList* entries) noexcept nogil:
    """Make entries VOID whose records did not survive, where another version of the key may have.

    A mini-index can outlive the records of its block: after a power loss each sector was kept or
    lost by itself. Other entries need no look now; a get finds out.
    """
    cdef ScanEntry** contested
    cdef ScanWindow window
    cdef uint64_t index, count = 0
    for index in range(entries.count):
        count += _is_contested(self, entries, index)
    if count == 0:
        return Status.STATUS_OK
    contested = <ScanEntry**>malloc(count * sizeof(void*))
    if contested == NULL:
        return Status.STATUS_NO_MEMORY
    memset(&window, 0, sizeof(ScanWindow))
    count = 0
    for index in range(entries.count):
        if _is_contested(self, entries, index):
            contested[count] = &entries.entries[index]
            count += 1
    qsort(contested, count, sizeof(void*), _by_pointed_location)
    for index in range(count):
        if scan_load(self.log, contested[index], &window) == NULL:
            contested[index].flags_sequence |= <uint64_t>RECORD_VOID << 56
            self.report.torn_entries += 1
    free(window.bytes)
    free(contested)
    return Status.STATUS_OK


cdef uint64_t _merge(Recovery* self, ScanList* entries) noexcept nogil:
    """Apply the winner of every key; returns how many keys there were."""
    cdef uint64_t index, first, newest, keys = 0
    cdef const ScanEntry* entry
    # Not in their order: sorted hashes would fill one group of the index after the other, and a
    # group whose entries share more bits than it can tell apart must not be what it grows for.
    for first in range(MERGE_STRIDE):
        index = first
        while index < entries.count:
            entry = &entries.entries[index]
            newest = index
            index += MERGE_STRIDE
            _prefetch(self, entries, index)
            if newest and _same_key(entry, entry - 1):
                continue
            while newest < entries.count and _same_key(&entries.entries[newest], entry) and \
                    (entries.entries[newest].flags_sequence >> 56) & RECORD_VOID:
                newest += 1
            if newest < entries.count and _same_key(&entries.entries[newest], entry):
                _apply(self, &entries.entries[newest])
                keys += 1
    return keys


cdef void _set_counts(Recovery* self, Checkpointer* checkpointer) noexcept nogil:
    """Sequences, generations and checkpoint numbers go on above everything there ever was."""
    cdef LogShared* shared = self.log.shared
    cdef uint64_t number = checkpointer.shared.number
    cdef uint32_t region
    # Not below the clock either, for the case that nothing could be read of what there was.
    shared.sequence = max(self.sequence_max + SEQUENCE_JUMP, <uint64_t>ec_now_us())
    shared.generation = max(self.generation_max + GENERATION_JUMP, <uint64_t>ec_now_us())
    shared.closed_ticket = <uint64_t>self.ticket_max + TICKET_JUMP
    shared.flushed_ticket = shared.closed_ticket
    self.log.shared.synced_mark = self.synced_max
    if not self.report.checkpoint_clean:
        # A killed process may have left blocks that no sync covered: the next one has to.
        for region in range(self.log.file_count):
            self.log.dirty[region] = self.log.files[region] >= 0
    for region in range(shared.region_count):
        self.log.regions[region].generation_last = shared.generation
        # A region without records keeps a generation above whatever its bytes may claim.
        if self.log.regions[region].state == REGION_FREE:
            self.log.regions[region].generation = shared.generation
    # A checkpoint that could not be read now must never pass for the newest later.
    checkpointer.shared.number = max(number, shared.generation)
    if (checkpointer.shared.number ^ number) & 1:
        checkpointer.shared.number += 1
    checkpointer.shared.is_due = not (self.report.checkpoint_clean and
                                      self.report.region_unreadable == 0 and
                                      self.report.checkpoint_skipped == 0)
    if self.sequence_max == 0 and self.report.region_count == 0:
        checkpointer.shared.is_due = 0
    if self.report.region_unreadable or self.report.checkpoint_skipped or \
            self.report.torn_entries:
        # What could not be read may be readable again, and nobody can delete by name what nobody
        # sees: until a checkpoint has dropped it, no sync may say that anything is durable.
        log_note_unlogged(self.log)
        checkpointer.shared.is_due = 1


cdef void _trim(LogStore* log) noexcept nogil:
    """After the disk budget shrank: what lies behind it goes, so that it never comes back."""
    cdef char name[32]
    cdef uint32_t index = log.file_count, last = log.file_count - 1
    cdef uint64_t size = log.region_bytes * (
        log.shared.region_count - <uint64_t>last * log.regions_per_file)
    cdef bint changed = False
    if log.files[last] >= 0 and \
            log.ops.file_size(log.engine, <uint32_t>log.files[last]) > <int64_t>size:
        changed = log.ops.truncate(log.engine, <uint32_t>log.files[last], size) == 0 and \
            log.ops.sync(log.engine, <uint32_t>log.files[last]) == 0
    while index < log.file_count + TRIM_FILES_MAX:
        snprintf(name, sizeof(name), b"data/%08u.edge", <unsigned int>index)
        if log.ops.unlink(log.engine, name) != 0:
            break
        changed = True
        index += 1
    if changed:
        log.ops.sync_directory(log.engine, b"data")


cdef Status _run(Recovery* self, Checkpointer* checkpointer, recovery_progress_function progress,
                 void* context) noexcept nogil:
    cdef CheckpointHeader header
    cdef ScanList entries
    cdef Status status
    cdef uint32_t number
    memset(&entries, 0, sizeof(ScanList))
    memset(&header, 0, sizeof(CheckpointHeader))
    _trim(self.log)
    status = checkpoint_load(checkpointer, &header, self.table, &self.report.checkpoint_skipped)
    if status == Status.STATUS_OK:
        self.report.checkpoint_loaded = 1
        self.report.checkpoint_clean = header.flags & CHECKPOINT_CLEAN
        self.sequence_max = header.sequence
        self.sequence_floor = header.sequence_floor
        self.generation_max = header.generation
        self.ticket_max = self.synced_max = <uint32_t>header.ticket
        self.has_tickets = 1
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
        status = _verify_contested(self, &entries)
    if status == Status.STATUS_OK:
        self.report.replayed_entries = entries.count
        _merge(self, &entries)
    scan_list_free(&entries)
    _set_counts(self, checkpointer)
    for number in range(self.shards.count):
        self.report.object_count += shard_at(self.shards, number).index.object_count
    return status


cdef Status recovery_run(LogStore* log, ShardSet* shards, Checkpointer* checkpointer,
                         recovery_progress_function progress, void* context,
                         RecoveryReport* report) noexcept nogil:
    cdef Recovery self
    cdef uint32_t region, count = log.shared.region_count
    cdef int64_t started = ec_monotonic_ns()
    cdef uint64_t stable = 0
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
    if status == Status.STATUS_OK and report.torn_entries:
        # Once this life has synced something, its blocks vouch for the torn ones too: they must be
        # out of the way of the next recovery before that.
        checkpoint_write(checkpointer, 0, &stable)
    report.duration_us = <uint64_t>((ec_monotonic_ns() - started) // 1000)
    return status
