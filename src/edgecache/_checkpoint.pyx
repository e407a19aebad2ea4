"""Checkpoints of the index (see _checkpoint.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from edgecache._flush cimport log_flush, log_sync_quiet
from edgecache._index cimport (
    IndexCursor,
    IndexShard,
    index_erase,
    index_replace,
    index_scan,
)
from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_READ, IO_OPEN_WRITE
from edgecache._memory cimport item_disk_location, item_disk_size_class, memory_item
from edgecache._segment cimport (
    REGION_READY,
    LogStore,
    log_wake,
)
from edgecache._segment_format cimport PAGE_BYTES, align_up
from edgecache._shard cimport Shard, ShardSet, shard_at, shard_index_back
from edgecache._status cimport Status
from edgecache._sync cimport (
    ec_add_u32,
    ec_grow_u64,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_now_us,
    ec_store_u64,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef extern from *:
    """
    #define EC_INDEX_SHARD_FITS(size) ((size) <= 4088)
    """
    bint EC_INDEX_SHARD_FITS(size_t size) noexcept nogil

cdef enum:
    PIECE_BYTES = 1048576
    WAIT_NS = 60000000000           # a checkpoint gives up when a flush takes longer than a minute


cdef const char* _name(uint64_t number) noexcept nogil:
    return b"checkpoint.b" if number & 1 else b"checkpoint.a"


cdef Status _write_all(LogStore* log, uint32_t file, uint64_t offset, const char* data,
                       uint64_t size) noexcept nogil:
    cdef uint64_t done = 0, piece
    while done < size:
        piece = min(size - done, <uint64_t>PIECE_BYTES)
        if log.ops.write(log.engine, file, offset + done, data + done,
                         <uint32_t>piece) != <int64_t>piece:
            return Status.STATUS_IO_ERROR
        done += piece
    return Status.STATUS_OK


cdef uint64_t _stable_generation(LogStore* log) noexcept nogil:
    """The lowest generation of a region that may hold records. Caller holds the log lock."""
    cdef uint64_t lowest = log.shared.generation + 1
    cdef uint32_t region
    for region in range(log.shared.region_count):
        if log.regions[region].state > REGION_READY and \
                log.regions[region].generation < lowest:
            lowest = log.regions[region].generation
    return lowest


cdef void _take_table(LogStore* log, CheckpointHeader* header,
                      CheckpointRegion* table) noexcept nogil:
    cdef uint32_t region
    ec_lock_acquire(&log.shared.lock)
    header.sequence_floor = ec_load_u64(&log.shared.sequence)
    if log.shared.large_count and log.shared.large_floor < header.sequence_floor:
        header.sequence_floor = log.shared.large_floor
    for region in range(log.shared.region_count):
        table[region].generation = log.regions[region].generation
        table[region].state = log.regions[region].state
        table[region].log = log.regions[region].log
        table[region].block_count = log.regions[region].block_count
        table[region].record_count = <uint32_t>log.regions[region].record_count
        table[region].known_offset = log.regions[region].written_bytes
        table[region].replay_offset = \
            0 if log.regions[region].in_flight or \
            log.regions[region].sequence_max > header.sequence_floor \
            else log.regions[region].written_bytes
    header.generation = log.shared.generation
    header.ticket = log.shared.large_ticket_floor if log.shared.large_count \
        else log.shared.closed_ticket
    header.stable_generation = _stable_generation(log)
    ec_lock_release(&log.shared.lock)


cdef Status _copy_shard(ShardSet* shards, Shard* shard, char** page, char** area,
                        uint64_t* area_bytes, uint64_t* object_count) noexcept nogil:
    """A copy of the shard's index that knows nothing of RAM."""
    cdef IndexShard* copy
    cdef IndexCursor cursor
    cdef uint64_t position = 0, location, size
    # The prefix can grow until the lock is taken: look at its size, allocate, look again.
    while True:
        size = align_up(ec_load_u64(&shard.index.area_used_bytes), PAGE_BYTES) + 64 * PAGE_BYTES
        if posix_memalign(<void**>area, PAGE_BYTES, size) != 0:
            return Status.STATUS_NO_MEMORY
        ec_lock_acquire(&shard.lock)
        if shard.index.area_used_bytes <= size:
            break
        ec_lock_release(&shard.lock)
        free(area[0])
        area[0] = NULL
    if posix_memalign(<void**>page, PAGE_BYTES, CHECKPOINT_SHARD_BYTES) != 0:
        ec_lock_release(&shard.lock)
        return Status.STATUS_NO_MEMORY
    memset(page[0], 0, CHECKPOINT_SHARD_BYTES)
    copy = <IndexShard*>page[0]
    copy[0] = shard.index
    memcpy(area[0], shards.base + shard.index.area_offset, shard.index.area_used_bytes)
    copy.area_offset = 0
    while index_scan(area[0], copy, &position, &cursor):
        if not cursor.is_ram:
            continue
        location = item_disk_location(
            memory_item(shards.base, &shard.memory, <uint32_t>cursor.location))
        if location:
            index_replace(area[0], copy, &cursor, location, item_disk_size_class(
                memory_item(shards.base, &shard.memory, <uint32_t>cursor.location)), False)
        else:
            index_erase(area[0], copy, &cursor)
    ec_lock_release(&shard.lock)
    size = align_up(copy.area_used_bytes, PAGE_BYTES)
    memset(area[0] + copy.area_used_bytes, 0, size - copy.area_used_bytes)
    area_bytes[0] = size
    object_count[0] += copy.object_count
    return Status.STATUS_OK


cdef Status _write_shards(Checkpointer* self, uint32_t file, CheckpointHeader* header,
                          uint64_t* offset) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint32_t number
    cdef char* page = NULL
    cdef char* area = NULL
    cdef uint64_t size = 0
    cdef Status status = Status.STATUS_OK
    for number in range(self.shards.count):
        page = NULL
        area = NULL
        status = _copy_shard(self.shards, shard_at(self.shards, number), &page, &area, &size,
                             &header.object_count)
        if status == Status.STATUS_OK:
            # The sum of area and struct stands behind the struct.
            (<uint64_t*>(page + CHECKPOINT_SHARD_BYTES - 16))[0] = \
                log.api.bits64(area, size, log.seed)
            (<uint64_t*>(page + CHECKPOINT_SHARD_BYTES - 8))[0] = \
                log.api.bits64(page, CHECKPOINT_SHARD_BYTES - 8, log.seed)
            status = _write_all(log, file, offset[0], page, CHECKPOINT_SHARD_BYTES)
        if status == Status.STATUS_OK:
            status = _write_all(log, file, offset[0] + CHECKPOINT_SHARD_BYTES, area, size)
        offset[0] += CHECKPOINT_SHARD_BYTES + size
        free(page)
        free(area)
        if status != Status.STATUS_OK:
            return status
    return status


cdef Status _write_header(LogStore* log, uint32_t file, char* page,
                          const CheckpointHeader* header) noexcept nogil:
    memset(page, 0, CHECKPOINT_HEADER_BYTES)
    memcpy(page, header, sizeof(CheckpointHeader))
    (<CheckpointHeader*>page).header_sum = 0
    (<CheckpointHeader*>page).header_sum = log.api.bits64(page, CHECKPOINT_HEADER_BYTES, log.seed)
    return _write_all(log, file, 0, page, CHECKPOINT_HEADER_BYTES)


cdef Status _write_file(Checkpointer* self, uint32_t file, CheckpointHeader* header, char* page,
                        CheckpointRegion* table, uint64_t table_bytes) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint64_t offset = CHECKPOINT_HEADER_BYTES + table_bytes
    cdef Status status
    # Whatever header is there vouches for parts that are about to be overwritten.
    memset(page, 0, CHECKPOINT_HEADER_BYTES)
    status = _write_all(log, file, 0, page, CHECKPOINT_HEADER_BYTES)
    if status == Status.STATUS_OK and log.ops.sync(log.engine, file) != 0:
        status = Status.STATUS_IO_ERROR
    if status == Status.STATUS_OK:
        status = _write_all(log, file, CHECKPOINT_HEADER_BYTES, <char*>table, table_bytes)
    if status == Status.STATUS_OK:
        status = _write_shards(self, file, header, &offset)
    if status == Status.STATUS_OK:
        # Every location that the copy holds must be durable before the copy is.
        status = log_sync_quiet(log, ec_monotonic_ns() + <int64_t>WAIT_NS)
    if status == Status.STATUS_OK and log.ops.sync(log.engine, file) != 0:
        status = Status.STATUS_IO_ERROR
    if status != Status.STATUS_OK:
        return status
    header.sequence = ec_load_u64(&log.shared.sequence)
    header.total_bytes = offset
    status = _write_header(log, file, page, header)
    if status == Status.STATUS_OK and log.ops.sync(log.engine, file) != 0:
        status = Status.STATUS_IO_ERROR
    return status


cdef Status _write(Checkpointer* self, uint32_t flags, uint64_t* stable) noexcept nogil:
    cdef LogStore* log = self.log
    cdef CheckpointHeader header
    cdef CheckpointRegion* table = NULL
    cdef char* page = NULL
    cdef uint64_t table_bytes, record_count
    cdef int64_t started = ec_monotonic_ns()
    cdef int file
    cdef Status status
    if not EC_INDEX_SHARD_FITS(sizeof(IndexShard) + 8):
        return Status.STATUS_UNSUPPORTED
    memset(&header, 0, sizeof(CheckpointHeader))
    table_bytes = align_up(<uint64_t>log.shared.region_count * sizeof(CheckpointRegion),
                           PAGE_BYTES)
    record_count = ec_load_u64(&log.shared.counters.record_count)
    self.shared.retired_count = ec_load_u64(&log.shared.counters.retired_count)
    self.shared.is_due = 0
    status = log_flush(log, started + <int64_t>WAIT_NS)
    if status != Status.STATUS_OK:
        ec_grow_u64(&self.shared.error_count, 1)
        return status
    if posix_memalign(<void**>&page, PAGE_BYTES, CHECKPOINT_HEADER_BYTES + table_bytes) != 0:
        return Status.STATUS_NO_MEMORY
    table = <CheckpointRegion*>(page + CHECKPOINT_HEADER_BYTES)
    memset(table, 0, table_bytes)
    header.magic = CHECKPOINT_MAGIC
    header.version = CHECKPOINT_VERSION
    header.number = self.shared.number + 1
    header.region_bytes = log.region_bytes
    header.region_count = log.shared.region_count
    header.shard_count = self.shards.count
    header.flags = flags
    header.index_shard_bytes = sizeof(IndexShard)
    header.created_us = <uint64_t>ec_now_us()
    _take_table(log, &header, table)
    header.table_sum = log.api.bits64(table, table_bytes, log.seed)
    file = log.ops.open_file(log.engine, _name(header.number), IO_OPEN_WRITE | IO_OPEN_CREATE)
    status = Status.STATUS_IO_ERROR
    if file >= 0:
        status = _write_file(self, <uint32_t>file, &header, page, table, table_bytes)
        log.ops.close_file(log.engine, <uint32_t>file)
    if status == Status.STATUS_OK and log.ops.sync_directory(log.engine, b"") != 0:
        status = Status.STATUS_IO_ERROR
    free(page)
    if status != Status.STATUS_OK:
        ec_grow_u64(&self.shared.error_count, 1)
        return status
    # Stable is what the checkpoint before this one knew too: a recovery may fall back to it.
    stable[0] = min(self.shared.previous_stable, header.stable_generation)
    self.shared.previous_stable = header.stable_generation
    self.shared.number = header.number
    self.shared.sequence_floor = header.sequence_floor
    self.shared.last_record_count = record_count
    ec_grow_u64(&self.shared.count, 1)
    ec_store_u64(&self.shared.last_bytes, header.total_bytes)
    self.shared.last_us = header.created_us
    ec_store_u64(&self.shared.last_duration_us,
                 <uint64_t>((ec_monotonic_ns() - started) // 1000))
    return status


cdef Status checkpoint_write(Checkpointer* self, uint32_t flags, uint64_t* stable) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint64_t retired = ec_load_u64(&log.shared.counters.retired_count)
    cdef uint64_t unlogged = ec_load_u64(&log.shared.unlogged_sequence)
    cdef Status status = _write(self, flags, stable)
    if status == Status.STATUS_OK:
        ec_store_u64(&log.shared.retired_settled, retired)
    # What was noted later may have its record behind the offsets that the checkpoint knows; and one
    # whose floor a large record on its way held down says nothing yet: the next may.
    if status == Status.STATUS_OK and self.shared.sequence_floor >= unlogged:
        ec_store_u64(&log.shared.settled_sequence, unlogged)
    if status != Status.STATUS_OK or self.shared.sequence_floor >= unlogged:
        ec_add_u32(&log.shared.settle_attempts, 1)
    log_wake(&log.shared.done_word)
    return status


cdef Status _read_all(LogStore* log, uint32_t file, uint64_t offset, char* data,
                      uint64_t size) noexcept nogil:
    cdef uint64_t done = 0, piece
    while done < size:
        piece = min(size - done, <uint64_t>PIECE_BYTES)
        if log.ops.read(log.engine, file, offset + done, data + done,
                        <uint32_t>piece) != <int64_t>piece:
            return Status.STATUS_CORRUPT
        done += piece
    return Status.STATUS_OK


cdef Status _read_header(Checkpointer* self, uint32_t file, char* page) noexcept nogil:
    cdef LogStore* log = self.log
    cdef CheckpointHeader* header = <CheckpointHeader*>page
    cdef uint64_t found
    if _read_all(log, file, 0, page, CHECKPOINT_HEADER_BYTES) != Status.STATUS_OK:
        return Status.STATUS_CORRUPT
    found = header.header_sum
    header.header_sum = 0
    if header.magic != CHECKPOINT_MAGIC or \
            found != log.api.bits64(page, CHECKPOINT_HEADER_BYTES, log.seed):
        return Status.STATUS_CORRUPT
    if header.version != CHECKPOINT_VERSION or header.index_shard_bytes != sizeof(IndexShard):
        return Status.STATUS_VERSION
    # Another geometry (a disk budget was changed, other shards): the log itself is the truth.
    if header.region_bytes != log.region_bytes or header.shard_count != self.shards.count or \
            header.region_count != log.shared.region_count:
        return Status.STATUS_VERSION
    return Status.STATUS_OK


cdef Status _load_shard(Checkpointer* self, uint32_t file, Shard* shard, char* page,
                        uint64_t* offset) noexcept nogil:
    cdef LogStore* log = self.log
    cdef IndexShard* saved = <IndexShard*>page
    cdef uint64_t area_offset = shard.index.area_offset, limit
    cdef uint64_t reserved = shard.index.area_size_bytes, size
    cdef char* area = self.shards.base + area_offset
    if _read_all(log, file, offset[0], page, CHECKPOINT_SHARD_BYTES) != Status.STATUS_OK or \
            (<uint64_t*>(page + CHECKPOINT_SHARD_BYTES - 8))[0] != \
            log.api.bits64(page, CHECKPOINT_SHARD_BYTES - 8, log.seed):
        return Status.STATUS_CORRUPT
    size = align_up(saved.area_used_bytes, PAGE_BYTES)
    if shard.is_file and size <= shard.index_bytes:
        shard_index_back(self.shards.base, shard, size)
    limit = shard.index.used_bytes_limit
    if size > reserved or (limit and saved.area_used_bytes > limit):
        return Status.STATUS_NO_MEMORY
    if _read_all(log, file, offset[0] + CHECKPOINT_SHARD_BYTES, area, size) != \
            Status.STATUS_OK or \
            (<uint64_t*>(page + CHECKPOINT_SHARD_BYTES - 16))[0] != \
            log.api.bits64(area, size, log.seed):
        return Status.STATUS_CORRUPT
    shard.index = saved[0]
    shard.index.area_offset = area_offset
    shard.index.area_size_bytes = reserved
    shard.index.used_bytes_limit = limit
    offset[0] += CHECKPOINT_SHARD_BYTES + size
    return Status.STATUS_OK


cdef Status _load_file(Checkpointer* self, uint64_t number, CheckpointHeader* header,
                       CheckpointRegion* table, char* page) noexcept nogil:
    """All parts of one file; on failure the shards hold garbage and must be laid out anew."""
    cdef LogStore* log = self.log
    cdef uint64_t table_bytes, offset
    cdef uint32_t shard
    cdef Status status
    cdef int file = log.ops.open_file(log.engine, _name(number), IO_OPEN_READ)
    if file < 0:
        return Status.STATUS_NOT_FOUND
    table_bytes = align_up(<uint64_t>log.shared.region_count * sizeof(CheckpointRegion),
                           PAGE_BYTES)
    status = _read_header(self, <uint32_t>file, page)
    if status == Status.STATUS_OK:
        memcpy(header, page, sizeof(CheckpointHeader))
        status = _read_all(log, <uint32_t>file, CHECKPOINT_HEADER_BYTES, <char*>table, table_bytes)
    if status == Status.STATUS_OK and \
            header.table_sum != log.api.bits64(table, table_bytes, log.seed):
        status = Status.STATUS_CORRUPT
    offset = CHECKPOINT_HEADER_BYTES + table_bytes
    for shard in range(self.shards.count):
        if status == Status.STATUS_OK:
            status = _load_shard(self, <uint32_t>file, shard_at(self.shards, shard), page, &offset)
    log.ops.close_file(log.engine, <uint32_t>file)
    return status


cdef bint _is_unwritten(LogStore* log, uint32_t file, const char* page) noexcept nogil:
    """Is there no header (yet)? It is zeroed before the parts are written, and written last."""
    cdef const uint64_t* words = <const uint64_t*>page
    cdef uint32_t index
    if log.ops.file_size(log.engine, file) == 0:
        return True
    for index in range(CHECKPOINT_HEADER_BYTES // 8):
        if words[index]:
            return False
    return True


cdef uint64_t _peek_number(Checkpointer* self, uint64_t number, char* page,
                           uint32_t* skipped) noexcept nogil:
    """The number in the header of file a (0) or b (1); 0 when it does not verify."""
    cdef int file = self.log.ops.open_file(self.log.engine, _name(number), IO_OPEN_READ)
    cdef uint64_t found = 0
    cdef Status status
    if file < 0:
        return 0
    memset(page, 0xFF, CHECKPOINT_HEADER_BYTES)
    status = _read_header(self, <uint32_t>file, page)
    if status == Status.STATUS_OK:
        found = (<CheckpointHeader*>page).number
    elif status == Status.STATUS_CORRUPT and not _is_unwritten(self.log, <uint32_t>file, page):
        skipped[0] += 1
    self.log.ops.close_file(self.log.engine, <uint32_t>file)
    return found


cdef void checkpoint_stamp(Checkpointer* self, CheckpointStamp* out) noexcept nogil:
    cdef char* page = NULL
    cdef uint64_t number, found
    cdef uint32_t skipped = 0
    memset(out, 0, sizeof(CheckpointStamp))
    if posix_memalign(<void**>&page, PAGE_BYTES, CHECKPOINT_HEADER_BYTES) != 0:
        return
    for number in range(2):
        found = _peek_number(self, number, page, &skipped)
        if found > out.number:
            out.number = found
            out.created_us = (<CheckpointHeader*>page).created_us
    free(page)


cdef Status checkpoint_load(Checkpointer* self, CheckpointHeader* header, CheckpointRegion* table,
                            uint32_t* skipped) noexcept nogil:
    cdef char* page = NULL
    cdef uint64_t numbers[2]
    cdef uint64_t swap
    cdef uint32_t index
    cdef Status status = Status.STATUS_NOT_FOUND
    skipped[0] = 0
    if posix_memalign(<void**>&page, PAGE_BYTES, CHECKPOINT_HEADER_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    numbers[0] = _peek_number(self, 0, page, skipped)
    numbers[1] = _peek_number(self, 1, page, skipped)
    if numbers[1] > numbers[0]:
        swap = numbers[0]
        numbers[0] = numbers[1]
        numbers[1] = swap
    self.shared.number = numbers[0]
    for index in range(2):
        if numbers[index] == 0:
            continue
        status = _load_file(self, numbers[index], header, table, page)
        if status == Status.STATUS_OK:
            # The next one goes to the other file, whatever that holds.
            self.shared.number = numbers[index]
            self.shared.previous_stable = 0
            break
        skipped[0] += 1
    free(page)
    return status
