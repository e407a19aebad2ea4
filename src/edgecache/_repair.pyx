"""Going on after the death of a process (see _repair.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort

from edgecache._change cimport PENDING_MAX
from edgecache._index cimport (
    IndexCursor,
    IndexShard,
    index_erase,
    index_init,
    index_replace,
    index_scan,
)
from edgecache._index_mend cimport index_mend
from edgecache._lease cimport lease_leave
from edgecache._lease_stream cimport stream_leave
from edgecache._memory cimport (
    MEMORY_BUDGET_BYTES_MIN,
    MEMORY_GRANULE_BYTES,
    RamItem,
    item_disk_location,
    item_disk_size_class,
    item_key,
    item_key_len,
    memory_free,
    memory_item,
    memory_unpin,
)
from edgecache._process cimport (
    HOLD_FILL,
    HOLD_LARGE,
    HOLD_NONE,
    HOLD_PIN,
    HOLD_RESERVATION,
    PROCESS_FREE,
    PROCESS_SLOTS,
    PROCESS_USED,
    Hold,
    ProcessCells,
    ProcessSlot,
    process_cells,
    process_is_live,
    process_slot,
    process_thread_is_live,
)
from edgecache._segment cimport (
    BUFFER_ACTIVE,
    BUFFER_CLOSED,
    BUFFER_DRAINING,
    BUFFER_FREE,
    BUFFER_WRITING,
    FOOTER_SLOTS,
    LOG_COUNT,
    NONE32,
    REGION_FREE,
    REGION_OPEN,
    REGION_READY,
    REGION_RECLAIMING,
    REGION_RETIRED,
    REGION_SEALED,
    REGION_SEALING,
    LogShared,
    LogStore,
    Region,
    WriteBuffer,
    log_note_unlogged,
    log_wake,
)
from edgecache._segment_format cimport (
    RECORD_MAGIC,
    RecordHeader,
    record_bytes,
    record_header_sum,
    record_payload_sum,
    record_void,
)
from edgecache._shard cimport (
    Shard,
    shard_at,
    shard_bump_all,
    shard_drain,
    shard_punch,
    shard_reopen,
)
from edgecache._sync cimport (
    ec_count,
    ec_grow_u32,
    ec_grow_u64,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_break,
    ec_lock_release,
    ec_lock_try,
    ec_store_u32,
    ec_store_u64,
)

cdef enum:
    KEPT_MAX = 256                  # holds of one shard that are told apart
    VERSION_JUMP = 1048576          # versions of the RAM tier that nobody may have seen


cdef bint repair_is_dead(void* context, uint32_t thread) noexcept nogil:
    return not process_thread_is_live((<Repairs*>context).processes, thread)


# ---------------------------------------------------------------- shards

cdef struct Kept:
    uint64_t start                  # arena offsets, whole pages
    uint64_t end


cdef int _by_start(const void* first, const void* second) noexcept nogil:
    cdef uint64_t a = (<const Kept*>first).start, b = (<const Kept*>second).start
    return -1 if a < b else (1 if a > b else 0)


cdef uint32_t _gather_holds(Repairs* self, Shard* shard, Kept* kept,
                            uint32_t* stale) noexcept nogil:
    """Holds of live processes in the shard: those in its current area, and how many older ones."""
    cdef uint32_t number, index, count = 0
    cdef ProcessSlot* slot
    cdef Hold* hold
    cdef uint64_t start
    stale[0] = 0
    for number in range(PROCESS_SLOTS):
        slot = process_slot(self.processes, number)
        if ec_load_u32(&slot.state) != PROCESS_USED or \
                not process_is_live(self.processes, number):
            continue
        for index in range(slot.hold_high):
            hold = &slot.holds[index]
            if ec_load_u32(&hold.kind) not in (HOLD_PIN, HOLD_FILL) or \
                    hold.place != shard.number:
                continue
            if hold.incarnation != shard.incarnation:
                stale[0] += 1
                continue
            if count < KEPT_MAX:
                start = shard.area_offsets[shard.incarnation & 1] - MEMORY_GRANULE_BYTES \
                    + <uint64_t>hold.reference * MEMORY_GRANULE_BYTES
                kept[count].start = start & ~<uint64_t>4095
                kept[count].end = (start + hold.size_bytes + 4095) & ~<uint64_t>4095
            count += 1
    return count


cdef uint64_t _punch_between(Repairs* self, Shard* shard, Kept* kept,
                             uint32_t count) noexcept nogil:
    """Give the area back but for the pages of these holds; how many bytes stay."""
    cdef uint64_t position = shard.area_offsets[shard.incarnation & 1], bytes = 0
    cdef uint64_t end = position + shard.area_bytes
    cdef uint32_t index
    qsort(kept, count, sizeof(Kept), _by_start)
    for index in range(count):
        if kept[index].start > position:
            shard_punch(self.shards, position, kept[index].start - position)
        if kept[index].end > position:
            bytes += kept[index].end - max(kept[index].start, position)
            position = kept[index].end
    if position < end:
        shard_punch(self.shards, position, end - position)
    return bytes


cdef bint _has_hash(Repairs* self, Shard* shard, uint32_t reference, uint64_t tag) noexcept nogil:
    """Is there an item, at the reference, whose key has this tag?"""
    cdef char* base = self.shards.base
    cdef RamItem* item = memory_item(base, &shard.memory, reference)
    cdef char* start = base + shard.memory.area_offset
    cdef char* end = start + shard.memory.area_size_bytes
    if <char*>item < start or <char*>item + sizeof(RamItem) + 16 > end or \
            item_key(item) + item_key_len(item) > end or item_key_len(item) == 0:
        return False
    return self.shards.hooks[shard.number].hash_key(
        self.shards.hooks[shard.number].context, item_key(item),
        item_key_len(item)) >> 42 == tag >> 42


cdef void _demote_all(Repairs* self, Shard* shard) noexcept nogil:
    """RAM slots become the disk slots behind them, or go."""
    cdef char* base = self.shards.base
    cdef IndexCursor cursor
    cdef uint64_t position = 0, location
    cdef RamItem* item
    while index_scan(base, &shard.index, &position, &cursor):
        if not cursor.is_ram:
            continue
        location = 0
        if _has_hash(self, shard, <uint32_t>cursor.location, cursor.hash):
            item = memory_item(base, &shard.memory, <uint32_t>cursor.location)
            location = item_disk_location(item)
        if location:
            index_replace(base, &shard.index, &cursor, location, item_disk_size_class(item), False)
        else:
            index_erase(base, &shard.index, &cursor)


cdef void _mend_index(Repairs* self, Shard* shard) noexcept nogil:
    cdef IndexShard* index = &shard.index
    cdef uint64_t limit = index.used_bytes_limit
    if index_mend(self.shards.base, index):
        return
    index_init(self.shards.base, index, shard.index_offset, shard.index_bytes, 0)
    index.used_bytes_limit = limit
    ec_count(&self.processes.shared.index_reset_count, 1)


cdef void _shard_repair(Repairs* self, Shard* shard) noexcept nogil:
    cdef Kept[KEPT_MAX] kept
    cdef uint32_t stale = 0, version = shard.memory.version_last
    cdef uint32_t count = _gather_holds(self, shard, kept, &stale)
    cdef uint64_t kept_bytes = 0
    cdef uint32_t step = 2
    _mend_index(self, shard)
    _demote_all(self, shard)
    shard_bump_all(self.shards, shard)
    shard.is_closed = stale != 0 or count > KEPT_MAX
    if count == 0 and stale == 0:
        # Nobody looks at the area: it is emptied and begins anew where it is.
        shard_punch(self.shards, shard.area_offsets[shard.incarnation & 1], shard.area_bytes)
    elif not shard.is_closed:
        kept_bytes = _punch_between(self, shard, kept, count)
        if shard.budget_bytes < kept_bytes + MEMORY_BUDGET_BYTES_MIN:
            shard.is_closed = 1
        else:
            # The other area: it is the low bit, so that one store says both.
            step = 1
    shard.stale_holds = count + stale
    shard.kept_bytes = 0 if shard.is_closed else kept_bytes
    ec_store_u32(&shard.incarnation, shard.incarnation + step)
    shard_reopen(self.shards, shard, (version + VERSION_JUMP) & ~<uint32_t>1)
    ec_count(&self.processes.shared.shard_reset_count, 1)
    log_note_unlogged(self.log)
    log_wake(&self.log.shared.reclaim_word)


# ---------------------------------------------------------------- log

cdef void _mend_regions(LogStore* log) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef Region* region
    cdef uint32_t index, head
    cdef bint is_head
    for index in range(shared.region_count):
        region = &log.regions[index]
        if region.retired_generation and region.state in (REGION_OPEN, REGION_SEALING,
                                                          REGION_SEALED):
            # The death came within log_retire_locked.
            if region.generation == region.retired_generation:
                ec_grow_u64(&shared.generation, 1)
                ec_store_u64(&region.generation, shared.generation)
                region.generation_last = shared.generation
            ec_store_u32(&region.state, REGION_RETIRED)
            ec_grow_u64(&shared.counters.retired_count, 1)
        if region.state == REGION_OPEN:
            is_head = False
            for head in range(LOG_COUNT):
                is_head = is_head or shared.heads[head].region == index
            if not is_head:
                ec_store_u32(&region.state,
                             REGION_READY if region.written_bytes == 0 else REGION_SEALING)
    for head in range(LOG_COUNT):
        if shared.heads[head].region != NONE32 and \
                log.regions[shared.heads[head].region].state != REGION_OPEN:
            shared.heads[head].region = NONE32
        if shared.heads[head].buffer != NONE32 and \
                log.buffers[shared.heads[head].buffer].state != BUFFER_ACTIVE:
            shared.heads[head].buffer = NONE32


cdef void _mend_active(LogStore* log, uint32_t index) noexcept nogil:
    """An active buffer that is no head's: its closing, or opening, was cut."""
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer = &log.buffers[index]
    cdef uint32_t head = buffer.log & 1
    if shared.heads[head].region == buffer.region and \
            log.regions[buffer.region].generation == buffer.generation and \
            shared.heads[head].buffer in (NONE32, index):
        log.regions[buffer.region].written_bytes = buffer.region_offset
        shared.heads[head].buffer = index
    elif shared.heads[head].buffer != index:
        # Its region is gone, and its records with it: whoever flushes it will say so.
        shared.closed_ticket += 1
        buffer.ticket = shared.closed_ticket
        buffer.block_bytes = buffer.capacity
        buffer.state = BUFFER_CLOSED


cdef void _count_holds(Repairs* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint32_t number, index
    cdef ProcessSlot* slot
    cdef Hold* hold
    for index in range(log.shared.buffer_count):
        log.buffers[index].writers = 0
        log.buffers[index].readers = 0
    log.shared.large_count = 0
    for number in range(PROCESS_SLOTS):
        slot = process_slot(self.processes, number)
        if slot.state != PROCESS_USED:
            continue
        for index in range(log.shared.buffer_count):
            log.buffers[index].readers += slot.readers[index]
        for index in range(slot.hold_high):
            hold = &slot.holds[index]
            if hold.kind == HOLD_LARGE:
                log.shared.large_count += 1
                ec_grow_u32(&log.regions[hold.place].in_flight, 1)
            elif hold.kind == HOLD_RESERVATION:
                if hold.reference + hold.size_bytes <= log.buffers[hold.place].fill and \
                        hold.generation == log.buffers[hold.place].generation:
                    log.buffers[hold.place].writers += 1
                else:
                    # The dead had not taken the room yet.
                    hold.kind = HOLD_NONE


cdef void _log_repair(Repairs* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef LogShared* shared = log.shared
    cdef Region* region
    cdef WriteBuffer* buffer
    cdef uint32_t index, ready = 0, free_count = 0
    cdef uint64_t used = 0
    _mend_regions(log)
    for index in range(shared.buffer_count):
        if log.buffers[index].state == BUFFER_ACTIVE:
            _mend_active(log, index)
    for index in range(shared.region_count):
        region = &log.regions[index]
        ec_store_u32(&region.in_flight, 0)
        ready += region.state == REGION_READY
        free_count += region.state in (REGION_FREE, REGION_READY)
        if region.state not in (REGION_FREE, REGION_READY):
            used += region.written_bytes
    ec_store_u32(&shared.ready_count, ready)
    shared.free_count = free_count
    shared.used_bytes = used
    for index in range(FOOTER_SLOTS):
        if log.footer_regions[index] != NONE32 and \
                log.regions[log.footer_regions[index]].state not in (REGION_OPEN, REGION_SEALING):
            log.footer_regions[index] = NONE32
    _count_holds(self)
    for index in range(shared.buffer_count):
        buffer = &log.buffers[index]
        if buffer.state in (BUFFER_CLOSED, BUFFER_WRITING):
            ec_grow_u32(&log.regions[buffer.region].in_flight, 1)
        elif buffer.state == BUFFER_DRAINING and buffer.readers == 0:
            buffer.state = BUFFER_FREE


cdef void _maintenance_repair(Repairs* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint32_t index
    ec_lock_acquire(&log.shared.lock)
    log.shared.prewrite_start = NONE32
    for index in range(log.shared.region_count):
        if log.regions[index].state == REGION_RECLAIMING:
            ec_store_u32(&log.regions[index].state, REGION_RETIRED
                         if log.regions[index].retired_generation else REGION_SEALED)
    ec_lock_release(&log.shared.lock)


cdef void _sync_repair(Repairs* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef uint32_t index
    for index in range(log.file_count):
        ec_store_u32(&log.dirty[index], 1)
    ec_lock_acquire(&log.shared.lock)
    for index in range(log.shared.region_count):
        if log.regions[index].unsynced == 2:
            log.regions[index].unsynced = 1
    ec_lock_release(&log.shared.lock)


cdef void _pending_repair(Repairs* self) noexcept nogil:
    cdef uint32_t slot, count = 0
    for slot in range(PENDING_MAX):
        count += self.engine.pending[slot].active != 0
    ec_store_u32(&self.engine.pending_count, count)


cdef void repair_word(void* context, uint32_t* word) noexcept nogil:
    cdef Repairs* self = <Repairs*>context
    cdef uint32_t number
    ec_count(&self.processes.shared.repair_count, 1)
    if word == &self.log.shared.lock:
        _log_repair(self)
    elif word == &self.log.shared.sync_lock:
        _sync_repair(self)
    elif word == &self.maintenance.lock:
        _maintenance_repair(self)
    elif word == &self.engine.pending_lock:
        _pending_repair(self)
    else:
        for number in range(self.shards.count):
            if word == &shard_at(self.shards, number).lock:
                _shard_repair(self, shard_at(self.shards, number))


# ---------------------------------------------------------------- the dead

cdef void _give_item(Repairs* self, Hold* hold) noexcept nogil:
    cdef Shard* shard = shard_at(self.shards, hold.place)
    cdef Kept[KEPT_MAX] kept
    cdef uint32_t stale = 0
    ec_lock_acquire(&shard.lock)
    if hold.incarnation == shard.incarnation and hold.kind == HOLD_PIN:
        memory_unpin(self.shards.base, &shard.memory, hold.reference)
    elif hold.incarnation == shard.incarnation and hold.kind == HOLD_FILL:
        memory_free(self.shards.base, &shard.memory, hold.reference)
    ec_store_u32(&hold.kind, HOLD_NONE)
    if hold.incarnation != shard.incarnation and shard.stale_holds:
        _gather_holds(self, shard, kept, &stale)
        shard_drain(self.shards, shard, stale)
    ec_lock_release(&shard.lock)


cdef bint _is_complete(LogStore* log, const RecordHeader* record, const Hold* hold) noexcept nogil:
    """Was the record sealed in its critical section? Then it may be in the index."""
    return record.magic == RECORD_MAGIC and record.sequence != 0 and \
        record_bytes(record.key_len, record.meta_len, record.body_len) == hold.size_bytes and \
        record.header_sum == record_header_sum(log.api, log.seed, hold.generation, record) and \
        record.payload_sum == record_payload_sum(log.api, log.seed, record)


cdef void _give_reservation(Repairs* self, Hold* hold) noexcept nogil:
    cdef LogStore* log = self.log
    cdef WriteBuffer* buffer = &log.buffers[hold.place]
    cdef RecordHeader* record
    ec_lock_acquire(&log.shared.lock)
    if hold.kind == HOLD_RESERVATION:
        record = <RecordHeader*>(log.base + buffer.data_offset + hold.reference)
        if not _is_complete(log, record, hold):
            record_void(log.api, log.seed, hold.generation, record, <uint32_t>hold.size_bytes)
        ec_store_u32(&hold.kind, HOLD_NONE)
        buffer.writers -= 1
    ec_lock_release(&log.shared.lock)


cdef void _give_large(Repairs* self, Hold* hold) noexcept nogil:
    cdef LogStore* log = self.log
    # It may be on the device, or not: a checkpoint makes it forgotten in either case.
    log_note_unlogged(log)
    ec_lock_acquire(&log.shared.lock)
    if hold.kind == HOLD_LARGE:
        ec_store_u32(&hold.kind, HOLD_NONE)
        ec_grow_u32(&log.regions[hold.place].in_flight, <uint32_t>-1)
        log.shared.large_count -= 1
    ec_lock_release(&log.shared.lock)
    log_wake(&log.shared.reclaim_word)


cdef void _give_buffers(Repairs* self, ProcessSlot* slot, uint32_t number) noexcept nogil:
    cdef LogStore* log = self.log
    cdef WriteBuffer* buffer
    cdef uint32_t index, count
    ec_lock_acquire(&log.shared.lock)
    for index in range(log.shared.buffer_count):
        buffer = &log.buffers[index]
        count = slot.readers[index]
        slot.readers[index] = 0
        buffer.readers -= count
        if buffer.state == BUFFER_WRITING and buffer.writer == number + 1:
            # Written again: the same bytes to the same place.
            ec_store_u32(&buffer.state, BUFFER_CLOSED)
        elif count and buffer.state == BUFFER_DRAINING and buffer.readers == 0:
            ec_store_u32(&buffer.state, BUFFER_FREE)
    ec_lock_release(&log.shared.lock)


cdef void _give_pending(Repairs* self, uint32_t number) noexcept nogil:
    cdef uint32_t slot
    ec_lock_acquire(&self.engine.pending_lock)
    for slot in range(PENDING_MAX):
        if self.engine.pending[slot].active == number + 1:
            self.engine.pending[slot].active = 0
            ec_grow_u32(&self.engine.pending_count, <uint32_t>-1)
    ec_lock_release(&self.engine.pending_lock)


cdef void _break_locks(Repairs* self) noexcept nogil:
    cdef uint32_t number
    ec_lock_break(&self.log.shared.lock)
    for number in range(self.shards.count):
        ec_lock_break(&shard_at(self.shards, number).lock)
    ec_lock_break(&self.engine.pending_lock)
    ec_lock_break(&self.maintenance.lock)
    ec_lock_break(&self.log.shared.sync_lock)
    ec_lock_break(&self.log.shared.seal_lock)
    ec_lock_break(&self.processes.shared.claim_lock)
    ec_lock_break(&self.processes.shared.admit_lock)


cdef void _reap_slot(Repairs* self, ProcessSlot* slot, uint32_t number) noexcept nogil:
    cdef uint32_t index
    cdef Hold* hold
    cdef ProcessCells* cells = process_cells(self.processes, number)
    # First: somebody may wait for these.
    lease_leave(self.leases, number)
    stream_leave(self.streams, number)
    _break_locks(self)
    for index in range(slot.hold_high):
        hold = &slot.holds[index]
        if hold.kind in (HOLD_PIN, HOLD_FILL):
            _give_item(self, hold)
        elif hold.kind == HOLD_RESERVATION:
            _give_reservation(self, hold)
        elif hold.kind == HOLD_LARGE:
            _give_large(self, hold)
    _give_buffers(self, slot, number)
    _give_pending(self, number)
    ec_store_u64(&cells.front_bytes, 0)
    ec_store_u64(&cells.front_items, 0)
    ec_lock_acquire(&self.processes.shared.claim_lock)
    slot.front_claim_bytes = 0
    ec_lock_release(&self.processes.shared.claim_lock)
    ec_count(&self.processes.shared.reaped_count, 1)
    ec_store_u32(&slot.state, PROCESS_FREE)
    log_wake(&self.log.shared.flush_word)
    log_wake(&self.log.shared.done_word)


cdef void repair_reap(void* context) noexcept nogil:
    cdef Repairs* self = <Repairs*>context
    cdef ProcessSlot* slot
    cdef uint32_t number
    if not ec_lock_try(&self.processes.shared.reap_lock):
        ec_lock_break(&self.processes.shared.reap_lock)
        return
    for number in range(PROCESS_SLOTS):
        slot = process_slot(self.processes, number)
        if ec_load_u32(&slot.state) == PROCESS_USED and \
                not process_is_live(self.processes, number):
            _reap_slot(self, slot, number)
    ec_lock_release(&self.processes.shared.reap_lock)
