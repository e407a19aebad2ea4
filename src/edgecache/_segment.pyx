"""The region log: reservations, regions and reads (see _segment.pxd for the invariants)."""

from libc.errno cimport EDQUOT, EFBIG, ENOSPC
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from edgecache._process cimport HOLD_LARGE, HOLD_RESERVATION, hold_give, hold_take
from edgecache._segment_format cimport (
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    BODY_ALIGN_MIN_BYTES,
    FOOTER_BLOCKS_MAX,
    FOOTER_BYTES,
    FORMAT_VERSION,
    INDEX_ENTRY_BYTES,
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    UNIT_BYTES,
    UNIT_SHIFT,
    BlockHeader,
    Footer,
    RecordHeader,
    align_up,
    block_fill_index,
    block_header_sum,
    record_void,
)
from edgecache._spare_blocks cimport block_give, block_take
from edgecache._status cimport Status
from edgecache._sync cimport (
    ec_add_u32,
    ec_add_u64,
    ec_count,
    ec_futex_wake,
    ec_grow_u32,
    ec_grow_u64,
    ec_load_u32,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_store_u32,
    ec_store_u64,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept


cdef uint64_t log_shared_bytes(uint32_t region_count, uint32_t buffer_count,
                               uint32_t file_count) noexcept nogil:
    return align_up(sizeof(LogShared), 64) + \
        align_up(<uint64_t>region_count * sizeof(Region), 64) + \
        align_up(<uint64_t>buffer_count * sizeof(WriteBuffer), 64) + \
        <uint64_t>FOOTER_SLOTS * FOOTER_BYTES + \
        align_up(<uint64_t>FOOTER_SLOTS * sizeof(uint32_t), 64) + \
        align_up(<uint64_t>file_count * sizeof(uint32_t), 64)


cdef void log_wake(uint32_t* word) noexcept nogil:
    ec_add_u32(word, 1)
    ec_futex_wake(word, 0x7FFFFFFF)


cdef uint64_t log_next_sequence(LogStore* log) noexcept nogil:
    return ec_add_u64(&log.shared.sequence, 1)


cdef void log_note_unlogged(LogStore* log) noexcept nogil:
    ec_lock_acquire(&log.shared.lock)
    ec_store_u64(&log.shared.unlogged_sequence, log_next_sequence(log))
    ec_lock_release(&log.shared.lock)


cdef bint log_is_settled(LogStore* log) noexcept nogil:
    return ec_load_u64(&log.shared.retired_settled) == \
        ec_load_u64(&log.shared.counters.retired_count) and \
        ec_load_u64(&log.shared.settled_sequence) >= ec_load_u64(&log.shared.unlogged_sequence)


cdef bint log_is_large(LogStore* log, uint64_t record_bytes) noexcept nogil:
    # Block header, worst alignment gap, one index entry, tail header.
    return record_bytes + 2 * BLOCK_HEADER_BYTES + PAGE_BYTES + 2 * INDEX_ENTRY_BYTES > \
        log.buffer_bytes


cdef inline uint32_t _gap_bytes(uint64_t offset, uint64_t record_bytes,
                                uint64_t head_bytes) noexcept nogil:
    """Filler that puts the body of a big record on a page boundary, a multiple of the unit."""
    cdef uint64_t gap
    if record_bytes - head_bytes < BODY_ALIGN_MIN_BYTES:
        return 0
    gap = (PAGE_BYTES - (offset + head_bytes) % PAGE_BYTES) % PAGE_BYTES
    # The head need not be a multiple of the unit; records are. The nearest unit below is as good:
    # the body then starts within one unit of the boundary, and reads align outwards anyway.
    return <uint32_t>(gap & ~<uint64_t>(UNIT_BYTES - 1))


cdef inline uint64_t _location(LogStore* log, uint32_t region, uint64_t offset) noexcept nogil:
    return (<uint64_t>region * log.region_bytes + offset) >> UNIT_SHIFT


cdef inline uint64_t _block_bytes(uint64_t fill, uint64_t record_count) noexcept nogil:
    return align_up(fill + record_count * INDEX_ENTRY_BYTES + BLOCK_HEADER_BYTES, PAGE_BYTES)


cdef uint32_t _region_room(LogStore* log, uint32_t region) noexcept nogil:
    return <uint32_t>(log.region_bytes - FOOTER_BYTES - log.regions[region].written_bytes)


cdef Footer* log_footer(LogStore* log, uint32_t region) noexcept nogil:
    cdef uint32_t slot
    for slot in range(FOOTER_SLOTS):
        if log.footer_regions[slot] == region:
            return &log.footers[slot]
    return NULL


cdef void _footer_open(LogStore* log, uint32_t region) noexcept nogil:
    cdef uint32_t slot
    for slot in range(FOOTER_SLOTS):
        if log.footer_regions[slot] in (NONE32, region):
            log.footer_regions[slot] = region
            memset(&log.footers[slot], 0, FOOTER_BYTES)
            return


cdef void _footer_close(LogStore* log, uint32_t region) noexcept nogil:
    cdef uint32_t slot
    for slot in range(FOOTER_SLOTS):
        if log.footer_regions[slot] == region:
            log.footer_regions[slot] = NONE32


cdef void _footer_add(LogStore* log, uint32_t region, uint32_t offset, uint32_t block_bytes,
                      uint32_t fill, uint32_t record_count) noexcept nogil:
    cdef Footer* footer = log_footer(log, region)
    if footer == NULL:
        return
    if 0 < footer.block_count <= FOOTER_BLOCKS_MAX and \
            footer.blocks[footer.block_count - 1].offset_bytes == offset:
        # A process died while it closed this very buffer: it is closed again (_repair.pyx).
        footer.block_count -= 1
        footer.record_count -= footer.blocks[footer.block_count].record_count
    if footer.block_count < FOOTER_BLOCKS_MAX:
        footer.blocks[footer.block_count].offset_bytes = offset
        footer.blocks[footer.block_count].block_bytes = block_bytes
        footer.blocks[footer.block_count].index_offset = fill
        footer.blocks[footer.block_count].record_count = record_count
    footer.block_count += 1
    footer.record_count += record_count


cdef void log_close_buffer_locked(LogStore* log, uint32_t head) noexcept nogil:
    """CLOSE the active buffer of `head`: its block's size is final, its region grows by it."""
    cdef LogShared* shared = log.shared
    cdef uint32_t index = shared.heads[head].buffer
    cdef WriteBuffer* buffer
    cdef Region* region
    if index == NONE32:
        return
    buffer = &log.buffers[index]
    shared.heads[head].buffer = NONE32
    if buffer.record_count == 0:
        buffer.state = BUFFER_FREE
        return
    region = &log.regions[buffer.region]
    buffer.block_bytes = <uint32_t>_block_bytes(buffer.fill, buffer.record_count)
    _footer_add(log, buffer.region, buffer.region_offset, buffer.block_bytes, buffer.fill,
                buffer.record_count)
    region.block_count += 1
    region.written_bytes += buffer.block_bytes
    ec_grow_u32(&region.in_flight, 1)
    region.generation_last = shared.generation
    shared.used_bytes += buffer.block_bytes
    shared.closed_ticket += 1
    buffer.ticket = shared.closed_ticket
    buffer.state = BUFFER_CLOSED


cdef Status _open_region_locked(LogStore* log, uint32_t head) noexcept nogil:
    """Take a READY region for `head`; the earlier one is sealed by the flusher."""
    cdef LogShared* shared = log.shared
    cdef uint32_t index, old = shared.heads[head].region
    cdef Region* region
    if shared.ready_count == 0:
        ec_count(&shared.counters.no_region_count, 1)
        # More regions than the open ones are in use: reclaim will free one.
        return Status.STATUS_NO_SPACE if shared.last_errno in (ENOSPC, EDQUOT, EFBIG) and \
            shared.region_count - shared.free_count <= LOG_COUNT else Status.STATUS_AGAIN
    # The reclaimer needs a region for tombstones and survivors: the last one is its own (LOG_MAIN).
    if head == LOG_SMALL and shared.ready_count < 2:
        return Status.STATUS_AGAIN
    index = 0
    while log.regions[index].state != REGION_READY:
        index += 1
    if old != NONE32 and log.regions[old].state == REGION_OPEN:
        ec_store_u32(&log.regions[old].state, REGION_SEALING)
    region = &log.regions[index]
    ec_grow_u64(&shared.generation, 1)
    ec_store_u64(&region.generation, shared.generation)
    region.generation_last = shared.generation
    region.sequence_max = 0
    region.failure_count = 0
    region.log = head
    region.written_bytes = 0
    region.block_count = 0
    region.record_count = 0
    region.hit_count = 0
    region.unsynced = 0
    _footer_open(log, index)
    # Last: a region that is OPEN without being a head's is as good as READY (_repair.pyx).
    ec_store_u32(&region.state, REGION_OPEN)
    shared.free_count -= 1
    ec_grow_u32(&shared.ready_count, <uint32_t>-1)
    shared.heads[head].region = index
    return Status.STATUS_OK


cdef Status _open_buffer_locked(LogStore* log, uint32_t head, uint64_t room_bytes) noexcept nogil:
    """Give `head` an empty buffer over a region with at least `room_bytes` left."""
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer
    cdef uint32_t index, region = shared.heads[head].region
    cdef uint64_t limit
    cdef Status status
    for index in range(shared.buffer_count):
        if log.buffers[index].state == BUFFER_FREE:
            break
    else:
        return Status.STATUS_AGAIN
    if region == NONE32 or log.regions[region].state != REGION_OPEN or \
            _region_room(log, region) < room_bytes:
        status = _open_region_locked(log, head)
        if status != Status.STATUS_OK:
            return status
        region = shared.heads[head].region
    limit = log_place_limit(log, region)
    if limit < log.regions[region].written_bytes + room_bytes and \
            limit < log.region_bytes - FOOTER_BYTES:
        return Status.STATUS_AGAIN
    buffer = &log.buffers[index]
    buffer.log = head
    buffer.region = region
    buffer.generation = log.regions[region].generation
    buffer.region_offset = log.regions[region].written_bytes
    buffer.capacity = <uint32_t>min(log.buffer_bytes, limit - log.regions[region].written_bytes)
    buffer.fill = BLOCK_HEADER_BYTES
    buffer.record_count = 0
    buffer.opened_ns = ec_monotonic_ns()
    ec_store_u32(&buffer.state, BUFFER_ACTIVE)
    shared.heads[head].buffer = index
    return Status.STATUS_OK


cdef Status _writable_locked(LogStore* log) noexcept nogil:
    if ec_load_u32(&log.stopping):
        return Status.STATUS_CLOSED
    return Status.STATUS_IO_ERROR if log.shared.read_only else Status.STATUS_OK


cdef void _check_role(LogStore* log) noexcept nogil:
    """There is work for the writer: whoever was woken to be it may have died before it was."""
    cdef uint32_t* word = &log.processes.shared.role_word
    if ec_load_u32(word) & 0x3FFFFFFF == 0 or ec_load_u32(word) & 0x40000000:
        ec_futex_wake(word, 0x7FFFFFFF)


cdef Status log_reserve(LogStore* log, uint32_t head, uint64_t record_bytes, uint64_t head_bytes,
                        Append* out) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer
    cdef uint32_t index, gap
    cdef uint64_t end
    cdef bint closed = False, opened = False
    cdef Status status
    ec_lock_acquire(&shared.lock)
    status = _writable_locked(log)
    while status == Status.STATUS_OK:
        index = shared.heads[head].buffer
        if index == NONE32:
            status = _open_buffer_locked(log, head, record_bytes + 2 * PAGE_BYTES
                                         + 2 * BLOCK_HEADER_BYTES)
            # An idle flusher has no timer: it must learn that a buffer ages now. One that has wakes
            # up for an older buffer, and looks at this one then.
            opened = status == Status.STATUS_OK and not log.shared.flusher_timed
            continue
        buffer = &log.buffers[index]
        gap = _gap_bytes(buffer.region_offset + buffer.fill, record_bytes, head_bytes)
        end = buffer.fill + gap + record_bytes
        if _block_bytes(end, buffer.record_count + 1) > buffer.capacity:
            log_close_buffer_locked(log, head)
            closed = True
            continue
        if gap:
            record_void(log.api, log.seed, buffer.generation,
                        <RecordHeader*>(log.base + buffer.data_offset + buffer.fill), gap)
        out.record = log.base + buffer.data_offset + buffer.fill + gap
        out.location = _location(log, buffer.region, buffer.region_offset + buffer.fill + gap)
        out.buffer = index
        out.region = buffer.region
        out.generation = buffer.generation
        out.size_bytes = <uint32_t>record_bytes
        if log.processes != NULL:
            out.hold = hold_take(log.processes, HOLD_RESERVATION, index, buffer.fill + gap, 0,
                                 record_bytes, buffer.generation)
            if out.hold == 0:
                status = Status.STATUS_AGAIN
                break
        # The count first: with one too many the block still has room for its mini-index.
        ec_store_u32(&buffer.record_count, buffer.record_count + 1)
        ec_store_u32(&buffer.fill, <uint32_t>end)
        buffer.writers += 1
        ec_grow_u64(&shared.counters.record_count, 1)
        shared.counters.record_bytes += record_bytes
        break
    ec_lock_release(&shared.lock)
    if closed or opened or status == Status.STATUS_AGAIN:
        log_wake(&shared.flush_word)
        if log.processes != NULL:
            _check_role(log)
    if status == Status.STATUS_AGAIN and ec_load_u32(&shared.ready_count) < 2:
        log_wake(&shared.reclaim_word)
    return status


cdef void log_commit(LogStore* log, Append* append) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer
    cdef bint wake
    if append.buffer == NONE32:
        return
    ec_lock_acquire(&shared.lock)
    buffer = &log.buffers[append.buffer]
    if log.processes != NULL:
        hold_give(log.processes, append.hold)
    buffer.writers -= 1
    wake = buffer.writers == 0 and buffer.state == BUFFER_CLOSED
    log.regions[append.region].record_count += 1
    ec_lock_release(&shared.lock)
    if wake:
        log_wake(&shared.flush_word)


cdef void log_abandon(LogStore* log, Append* append) noexcept nogil:
    if append.buffer == NONE32:
        return
    record_void(log.api, log.seed, append.generation, <RecordHeader*>append.record,
                append.size_bytes)
    log_commit(log, append)


cdef Status _begin_region_locked(LogStore* log, uint32_t head) noexcept nogil:
    """A block of a filler, written by way of a buffer, in front of a region's first large block.

    A recovery knows a region by its first page. The large block may never be written, if its
    process dies; blocks behind it may be durable by then, and a sync that covered them covered this
    one.
    """
    cdef WriteBuffer* buffer
    cdef Status status = _open_buffer_locked(log, head, PAGE_BYTES)
    if status != Status.STATUS_OK:
        return status
    buffer = &log.buffers[log.shared.heads[head].buffer]
    record_void(log.api, log.seed, buffer.generation,
                <RecordHeader*>(log.base + buffer.data_offset + buffer.fill), UNIT_BYTES)
    ec_store_u32(&buffer.record_count, 1)
    ec_store_u32(&buffer.fill, buffer.fill + UNIT_BYTES)
    log_close_buffer_locked(log, head)
    return status


cdef Status log_large_begin(LogStore* log, uint32_t head, uint64_t record_bytes,
                            uint64_t head_bytes, Append* out) noexcept nogil:
    """Reserve a block of its own in the region of `head` and memory to build it in."""
    cdef LogShared* shared = log.shared
    cdef Region* region
    cdef uint64_t gap, block_bytes
    cdef uint32_t index
    cdef Status status
    out.block_base = NULL
    out.block_bytes = 0
    # Block offsets are multiples of the page, so the gap is known before the place.
    gap = _gap_bytes(BLOCK_HEADER_BYTES, record_bytes, head_bytes)
    block_bytes = _block_bytes(BLOCK_HEADER_BYTES + gap + record_bytes, 1)
    if block_bytes > log.region_bytes - FOOTER_BYTES:
        return Status.STATUS_TOO_LARGE
    out.block_base = block_take(block_bytes)
    if out.block_base == NULL:
        return Status.STATUS_NO_MEMORY
    ec_lock_acquire(&shared.lock)
    status = _writable_locked(log)
    if status == Status.STATUS_OK:
        log_close_buffer_locked(log, head)
        index = shared.heads[head].region
        if index == NONE32 or log.regions[index].state != REGION_OPEN or \
                _region_room(log, index) < block_bytes:
            status = _open_region_locked(log, head)
            index = shared.heads[head].region
    if status == Status.STATUS_OK and log.regions[index].written_bytes == 0 and \
            PAGE_BYTES + block_bytes <= _region_room(log, index):
        status = _begin_region_locked(log, head)
    if status == Status.STATUS_OK and \
            log.regions[index].written_bytes + block_bytes > log_place_limit(log, index):
        status = Status.STATUS_AGAIN
    if status == Status.STATUS_OK and log.processes != NULL:
        out.hold = hold_take(log.processes, HOLD_LARGE, index, 0, 0, block_bytes,
                             log.regions[index].generation)
        if out.hold == 0:
            status = Status.STATUS_AGAIN
    if status == Status.STATUS_OK:
        region = &log.regions[index]
        out.region = index
        out.region_offset = region.written_bytes
        shared.closed_ticket += 1
        out.ticket = <uint32_t>shared.closed_ticket
        out.generation = region.generation
        _footer_add(log, index, out.region_offset, <uint32_t>block_bytes,
                    <uint32_t>(BLOCK_HEADER_BYTES + gap + record_bytes), 1)
        region.written_bytes += <uint32_t>block_bytes
        region.block_count += 1
        ec_grow_u32(&region.in_flight, 1)
        region.generation_last = shared.generation
        region.record_count += 1
        if log.shared.large_count == 0:
            log.shared.large_floor = ec_load_u64(&shared.sequence)
            log.shared.large_ticket_floor = shared.closed_ticket - 1
        log.shared.large_count += 1
        shared.used_bytes += block_bytes
        shared.counters.large_count += 1
        ec_grow_u64(&shared.counters.record_count, 1)
        shared.counters.record_bytes += record_bytes
    ec_lock_release(&shared.lock)
    log_wake(&shared.flush_word)
    if status != Status.STATUS_OK:
        if status == Status.STATUS_AGAIN:
            log_wake(&shared.reclaim_word)
        log_large_free(log, out)
        return status
    out.buffer = NONE32
    out.block_bytes = <uint32_t>block_bytes
    out.size_bytes = <uint32_t>record_bytes
    memset(out.block_base, 0, BLOCK_HEADER_BYTES)
    if gap:
        record_void(log.api, log.seed, out.generation,
                    <RecordHeader*>(out.block_base + BLOCK_HEADER_BYTES), gap)
    out.record = out.block_base + BLOCK_HEADER_BYTES + gap
    out.location = _location(log, index, out.region_offset + BLOCK_HEADER_BYTES + gap)
    return Status.STATUS_OK


cdef void log_large_free(LogStore* log, Append* append) noexcept nogil:
    cdef bint reserved = append.block_bytes != 0
    if append.block_base != NULL:
        if reserved:
            block_give(append.block_base, append.block_bytes)
        else:
            free(append.block_base)
    append.block_base = NULL
    append.block_bytes = 0
    if not reserved:
        return
    ec_lock_acquire(&log.shared.lock)
    if log.processes != NULL:
        hold_give(log.processes, append.hold)
    ec_grow_u32(&log.regions[append.region].in_flight, <uint32_t>-1)
    log.shared.large_count -= 1
    ec_lock_release(&log.shared.lock)
    log_wake(&log.shared.flush_word)


cdef void log_fill_block_header(LogStore* log, char* block, uint32_t fill, uint32_t block_bytes,
                                uint32_t region, uint32_t region_offset, uint32_t ticket,
                                uint64_t generation) noexcept nogil:
    """Mini-index, header and its copy at the end, zeros between: the block is ready to write."""
    cdef BlockHeader* header = <BlockHeader*>block
    cdef uint64_t end
    memset(header, 0, BLOCK_HEADER_BYTES)
    header.record_count = block_fill_index(log.api, block, BLOCK_HEADER_BYTES, fill, region_offset,
                                           &header.sequence_max)
    header.magic = BLOCK_MAGIC
    header.version = FORMAT_VERSION
    header.log = <uint16_t>log.regions[region].log
    header.region = region
    header.ticket = ticket
    header.synced_ticket = <uint32_t>ec_load_u64(&log.shared.synced_mark)
    header.generation = generation
    header.block_bytes = block_bytes
    header.index_offset = fill
    header.index_sum = log.api.bits64(block + fill,
                                      <uint64_t>header.record_count * INDEX_ENTRY_BYTES, log.seed)
    header.header_sum = block_header_sum(log.api, log.seed, header)
    end = fill + <uint64_t>header.record_count * INDEX_ENTRY_BYTES
    memset(block + end, 0, block_bytes - BLOCK_HEADER_BYTES - end)
    # The copy: one flipped bit in a header cannot hide a block (docs/format.md, "Resync").
    memcpy(block + block_bytes - BLOCK_HEADER_BYTES, block, BLOCK_HEADER_BYTES)


cdef void log_seal_block(LogStore* log, WriteBuffer* buffer) noexcept nogil:
    log_fill_block_header(log, log.base + buffer.data_offset, buffer.fill, buffer.block_bytes,
                          buffer.region, buffer.region_offset, <uint32_t>buffer.ticket,
                          buffer.generation)


cdef void log_write_done_locked(LogStore* log, uint32_t region, const char* block) noexcept nogil:
    """A whole block is on the device, for its next sync to make durable."""
    cdef const BlockHeader* header = <const BlockHeader*>block
    if log.regions[region].generation != header.generation:
        # The region was retired while this was on its way.
        log.shared.loss_count += 1
        return
    ec_store_u32(&log.dirty[region // log.regions_per_file], 1)
    log.regions[region].unsynced = 1
    log.regions[region].sequence_max = max(log.regions[region].sequence_max, header.sequence_max)
    log.shared.failure_count = 0
    log.shared.counters.flush_count += 1
    log.shared.counters.flush_bytes += header.block_bytes


cdef void log_write_failed_locked(LogStore* log, uint32_t region, int errno_code) noexcept nogil:
    cdef LogShared* shared = log.shared
    log_errno_set(log, errno_code)
    ec_grow_u64(&shared.counters.flush_error_count, 1)
    log.shared.loss_count += 1
    log.shared.failure_count += 1
    if log.shared.failure_count >= log.failure_limit and not shared.read_only:
        ec_store_u32(&shared.read_only, 1)
        log.shared.probe_after_ns = ec_monotonic_ns() + PROBE_INTERVAL_NS
        # The flusher probes; it may sleep without a limit now.
        log_wake(&shared.flush_word)
    log_retire_locked(log, region)


cdef void log_retire_locked(LogStore* log, uint32_t region) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef uint32_t head
    if log.regions[region].state == REGION_RETIRED:
        return
    for head in range(LOG_COUNT):
        if shared.heads[head].region == region:
            # Records in the active buffer go down with the region; closing it says so in time.
            log_close_buffer_locked(log, head)
            shared.heads[head].region = NONE32
    _footer_close(log, region)
    # Slots that point here stay: a delete or an overwrite must still see that there was something.
    ec_grow_u64(&shared.generation, 1)
    if log.regions[region].retired_generation == 0:
        log.regions[region].retired_generation = log.regions[region].generation
    log.regions[region].retired_ns = ec_monotonic_ns()
    ec_store_u64(&log.regions[region].generation, shared.generation)
    log.regions[region].generation_last = shared.generation
    # In this order, so that a death in between can be told (_repair.pyx).
    ec_store_u32(&log.regions[region].state, REGION_RETIRED)
    ec_grow_u64(&shared.counters.retired_count, 1)
    log_wake(&shared.reclaim_word)


cdef void log_retire_region(LogStore* log, uint32_t region) noexcept nogil:
    ec_lock_acquire(&log.shared.lock)
    log_retire_locked(log, region)
    ec_lock_release(&log.shared.lock)


cdef void log_release_region(LogStore* log, uint32_t region) noexcept nogil:
    """A reclaimed region is READY again: its file space is there already."""
    cdef LogShared* shared = log.shared
    ec_lock_acquire(&shared.lock)
    shared.used_bytes -= log.regions[region].written_bytes
    log.regions[region].touched_bytes = max(log.regions[region].touched_bytes,
                                            log.regions[region].written_bytes)
    log.regions[region].written_bytes = 0
    log.regions[region].block_count = 0
    log.regions[region].record_count = 0
    log.regions[region].retired_generation = 0
    ec_grow_u64(&shared.generation, 1)
    ec_store_u64(&log.regions[region].generation, shared.generation)
    ec_store_u32(&log.regions[region].state, REGION_READY)
    shared.free_count += 1
    ec_grow_u32(&shared.ready_count, 1)
    ec_lock_release(&shared.lock)
    log_wake(&shared.done_word)


cdef void log_take_file(LogStore* log, uint32_t index, uint32_t file) noexcept nogil:
    ec_store_u32(&log.read_align_bytes, max(log.read_align_bytes,
                                            log.ops.read_alignment(log.engine, file)))
    ec_store_u32(<uint32_t*>&log.files[index], file)


cdef uint64_t log_region_generation(LogStore* log, uint64_t location) noexcept nogil:
    cdef uint32_t region = location_region(log, location)
    if region >= log.shared.region_count:
        return 0
    return ec_load_u64(&log.regions[region].generation)


cdef void log_read_span(LogStore* log, uint64_t location, uint64_t length, uint32_t* file,
                        uint64_t* offset, uint32_t* span, uint32_t* skip) noexcept nogil:
    """`span` bytes from `offset` of `file` cover the wanted ones, which start `skip` bytes in."""
    cdef uint32_t region = location_region(log, location)
    cdef uint64_t start = location_offset(log, location)
    cdef uint64_t end = min(start + length, log.region_bytes)
    # Once: it grows when the first file of another device is opened.
    cdef uint64_t align = ec_load_u32(&log.read_align_bytes)
    cdef uint64_t first = start & ~(align - 1)
    file[0] = region // log.regions_per_file
    offset[0] = <uint64_t>(region % log.regions_per_file) * log.region_bytes + first
    span[0] = <uint32_t>(align_up(end, align) - first)
    skip[0] = <uint32_t>(start - first)


cdef bint log_read_buffered(LogStore* log, uint64_t location, uint64_t length, char* target,
                            uint64_t* available) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer = NULL
    cdef uint32_t region = location_region(log, location), index, offset
    cdef uint64_t size = 0
    offset = location_offset(log, location)
    ec_lock_acquire(&shared.lock)
    for index in range(shared.buffer_count):
        buffer = &log.buffers[index]
        if buffer.state != BUFFER_FREE and buffer.region == region and \
                offset >= buffer.region_offset + BLOCK_HEADER_BYTES and \
                offset < buffer.region_offset + buffer.fill:
            size = min(length, <uint64_t>(buffer.region_offset + buffer.fill - offset))
            buffer.readers += 1
            if log.processes != NULL:
                log.processes.own.readers[index] += 1
            break
    ec_lock_release(&shared.lock)
    if size == 0:
        return False
    memcpy(target, log.base + buffer.data_offset + (offset - buffer.region_offset), size)
    available[0] = size
    ec_lock_acquire(&shared.lock)
    buffer.readers -= 1
    if log.processes != NULL:
        log.processes.own.readers[index] -= 1
    if buffer.readers == 0 and buffer.state == BUFFER_DRAINING:
        buffer.state = BUFFER_FREE
        size = 0
    shared.counters.buffer_read_count += 1
    ec_lock_release(&shared.lock)
    if size == 0:
        log_wake(&shared.done_word)
    return True


cdef Status log_read(LogStore* log, uint64_t location, uint64_t length, char* scratch,
                     char** record, uint64_t* available) noexcept nogil:
    cdef uint32_t file, span, skip
    cdef uint64_t offset
    cdef int64_t moved
    if location_region(log, location) >= log.shared.region_count:
        return Status.STATUS_CORRUPT
    if log_read_buffered(log, location, length, scratch, available):
        record[0] = scratch
        return Status.STATUS_OK
    log_read_span(log, location, length, &file, &offset, &span, &skip)
    if log_file(log, file) < 0:
        return Status.STATUS_IO_ERROR
    moved = log.ops.read(log.engine, <uint32_t>log_file(log, file), offset, scratch, span)
    if moved < 0:
        ec_count(&log.shared.counters.read_error_count, 1)
        return Status.STATUS_IO_ERROR
    ec_count(&log.shared.counters.read_count, 1)
    ec_count(&log.shared.counters.read_bytes, span)
    if moved <= <int64_t>skip + RECORD_HEADER_BYTES:
        return Status.STATUS_CORRUPT
    record[0] = scratch + skip
    available[0] = <uint64_t>moved - skip
    return Status.STATUS_OK


cdef int log_check(LogStore* log) noexcept nogil:
    """0, or the number of the broken invariant of _segment.pxd. Caller: no concurrent change."""
    cdef LogShared* shared = log.shared
    cdef uint32_t index, ready = 0, free_regions = 0, active = 0
    cdef uint64_t used = 0
    for index in range(shared.region_count):
        if log.regions[index].state == REGION_READY:
            ready += 1
        if log.regions[index].state <= REGION_READY:
            free_regions += 1
        else:
            used += log.regions[index].written_bytes
        if log.regions[index].written_bytes > log.region_bytes - FOOTER_BYTES:
            return 1
    if ready != shared.ready_count or free_regions != shared.free_count:
        return 1
    for index in range(shared.buffer_count):
        if log.buffers[index].state == BUFFER_ACTIVE:
            active += 1
        if log.buffers[index].state != BUFFER_FREE and \
                log.buffers[index].fill > log.buffers[index].capacity:
            return 2
    if active > LOG_COUNT:
        return 2
    return 7 if shared.flushed_ticket > shared.closed_ticket or used != shared.used_bytes else 0
