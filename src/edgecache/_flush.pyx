"""Flushing the region log (see _flush.pxd)."""

from libc.errno cimport EBUSY, EIO, ESHUTDOWN, ETIMEDOUT
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from edgecache._io cimport (
    IO_OPEN_CREATE,
    IO_OPEN_DIRECT,
    IO_OPEN_TRUNCATE,
    IO_OPEN_WRITE,
    IO_WRITE,
    IoChannel,
    IoRequest,
)
from edgecache._io_lanes cimport Lane, lane_leave, lane_transfer, lanes_sweep
from edgecache._log_space cimport log_write_erasure
from edgecache._segment cimport (
    BUFFER_CLOSED,
    BUFFER_COUNT_MAX,
    BUFFER_DRAINING,
    BUFFER_FREE,
    BUFFER_WRITING,
    LOG_COUNT,
    NONE32,
    PROBE_INTERVAL_NS,
    REGION_SEALED,
    REGION_SEALING,
    Append,
    LogShared,
    LogStore,
    WriteBuffer,
    log_close_buffer_locked,
    log_errno_set,
    log_file,
    log_fill_block_header,
    log_footer,
    log_is_settled,
    log_large_free,
    log_retire_locked,
    log_seal_block,
    log_wake,
    log_write_done_locked,
    log_write_failed_locked,
)
from edgecache._segment_format cimport (
    FOOTER_BLOCKS_MAX,
    FOOTER_BYTES,
    FOOTER_MAGIC,
    FORMAT_VERSION,
    PAGE_BYTES,
    Footer,
)
from edgecache._status cimport Status
from edgecache._sync cimport (
    ec_add_u32,
    ec_count,
    ec_futex_wait,
    ec_futex_wake,
    ec_grow_u32,
    ec_load_u32,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_break,
    ec_lock_release,
    ec_lock_try,
    ec_monotonic_ns,
    ec_store_u32,
    ec_store_u64,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    WAIT_SLICE_NS = 20000000        # longest sleep before the state is looked at again
    WATCH_NS = 20000000             # how often a new writer looks for them, idle or not, ...
    WATCHES = 10                    # ... and how many times
    REAP_NS = 100000000             # how often a busy writer looks for the dead
    SWEEP_NS = 50000000             # while a transfer is overdue: look whether it has landed
    SKIPPED = -4096                 # beyond every errno: the block was not written


cdef uint64_t _flushed_ticket_locked(LogStore* log) noexcept nogil:
    """The highest ticket below which every buffer is written."""
    cdef uint64_t lowest = log.shared.closed_ticket + 1
    cdef uint32_t index
    for index in range(log.shared.buffer_count):
        if log.buffers[index].state in (BUFFER_CLOSED, BUFFER_WRITING) and \
                log.buffers[index].ticket < lowest:
            lowest = log.buffers[index].ticket
    return lowest - 1


cdef WriteBuffer* _claim_locked(LogStore* log) noexcept nogil:
    """The oldest closed buffer without writers becomes WRITING; NULL if there is none."""
    cdef WriteBuffer* best = NULL
    cdef WriteBuffer* buffer
    cdef uint32_t index
    for index in range(log.shared.buffer_count):
        buffer = &log.buffers[index]
        if buffer.state == BUFFER_CLOSED and buffer.writers == 0 and \
                (best == NULL or buffer.ticket < best.ticket):
            best = buffer
    if best != NULL:
        if log.processes != NULL:
            best.writer = log.processes.number + 1
        ec_store_u32(&best.state, BUFFER_WRITING)
    return best


cdef uint64_t _file_offset(LogStore* log, uint32_t region, uint32_t offset) noexcept nogil:
    return <uint64_t>(region % log.regions_per_file) * log.region_bytes + offset


cdef void _finish(LogStore* log, WriteBuffer* buffer, int64_t result) noexcept nogil:
    """Account for a written (or failed) buffer and free it."""
    cdef LogShared* shared = log.shared
    ec_lock_acquire(&shared.lock)
    ec_grow_u32(&log.regions[buffer.region].in_flight, <uint32_t>-1)
    if result == <int64_t>buffer.block_bytes:
        log_write_done_locked(log, buffer.region, log.base + buffer.data_offset)
    elif result != SKIPPED:
        log_write_failed_locked(log, buffer.region, <int>-result if result < 0 else EIO)
    else:
        # Its region was retired: these records are lost.
        log.shared.loss_count += 1
    buffer.state = BUFFER_DRAINING if buffer.readers else BUFFER_FREE
    ec_store_u64(&shared.flushed_ticket, _flushed_ticket_locked(log))
    ec_lock_release(&shared.lock)
    log_wake(&shared.done_word)


cdef bint _is_current(LogStore* log, const WriteBuffer* buffer) noexcept nogil:
    """Is the region still what it was when the buffer was opened?"""
    return ec_load_u64(&log.regions[buffer.region].generation) == buffer.generation


cdef int64_t _write_block(LogStore* log, uint32_t region, uint32_t offset, const char* block,
                          uint32_t size) noexcept nogil:
    cdef int32_t file = log_file(log, region // log.regions_per_file)
    if file < 0:
        return -EIO
    return log.ops.write(log.engine, <uint32_t>file, _file_offset(log, region, offset), block, size)


cdef void _fill_request(LogStore* log, uint32_t region, uint32_t offset, char* block,
                        uint32_t size, IoRequest* request) noexcept nogil:
    memset(request, 0, sizeof(IoRequest))
    request.operation = IO_WRITE
    request.buffer_index = -1
    request.file = <uint32_t>log_file(log, region // log.regions_per_file)
    request.offset_bytes = _file_offset(log, region, offset)
    request.buffer = block
    request.length_bytes = size


cdef void _buffer_landed(void* context, IoRequest* request, uint64_t index) noexcept nogil:
    cdef LogStore* log = <LogStore*>context
    _finish(log, &log.buffers[index], request.result)


cdef bint _write_within(LogStore* log, WriteBuffer* buffer, int64_t timeout_ns) noexcept nogil:
    """Write a claimed buffer, or leave it to the device when that takes longer; False: not begun,
    and the flusher's.
    """
    cdef IoRequest request
    cdef Lane* left = NULL
    cdef int64_t result
    _fill_request(log, buffer.region, buffer.region_offset, log.base + buffer.data_offset,
                  buffer.block_bytes, &request)
    request.buffer_index = 0 if log.registered else -1
    result = lane_transfer(&log.lanes, &request, timeout_ns, &left)
    if left != NULL:
        left.context = log
        left.room_bytes = <uint64_t>(buffer - log.buffers)
        left.landed = _buffer_landed
        lane_leave(&log.lanes, left)
        log_wake(&log.shared.flush_word)        # it looks after what is overdue
        return True
    if result == -EBUSY or result == -ESHUTDOWN:
        ec_lock_acquire(&log.shared.lock)
        buffer.state = BUFFER_CLOSED
        ec_lock_release(&log.shared.lock)
        log_wake(&log.shared.flush_word)
        return False
    _finish(log, buffer, result)
    return True


cdef bint _flush_one(LogStore* log, int64_t timeout_ns) noexcept nogil:
    """Write one closed buffer from this thread; False if there was none to claim.

    timeout_ns: the longest wait for the device; < 0: as long as it takes.
    """
    cdef WriteBuffer* buffer
    ec_lock_acquire(&log.shared.lock)
    buffer = _claim_locked(log)
    ec_lock_release(&log.shared.lock)
    if buffer == NULL:
        return False
    if not _is_current(log, buffer):
        _finish(log, buffer, SKIPPED)
        return True
    log_seal_block(log, buffer)
    if timeout_ns >= 0 and log_file(log, buffer.region // log.regions_per_file) >= 0:
        return _write_within(log, buffer, timeout_ns)
    _finish(log, buffer, _write_block(log, buffer.region, buffer.region_offset,
                                      log.base + buffer.data_offset, buffer.block_bytes))
    return True


cdef inline void _reap(LogStore* log) noexcept nogil:
    """Nothing came for a while: what one waits for may be in the hands of the dead."""
    if log.processes != NULL:
        log.reap(log.reap_context)


cdef bint log_wait(LogStore* log, int64_t deadline_ns) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef uint32_t seen = ec_load_u32(&shared.done_word)
    cdef int64_t now = ec_monotonic_ns(), left
    if ec_load_u32(&log.stopping) or now >= deadline_ns:
        return False
    lanes_sweep(&log.lanes)
    if _flush_one(log, deadline_ns - now if log.write_timeout_ns else -1):
        return True
    left = min(deadline_ns - now, <int64_t>WAIT_SLICE_NS)
    if ec_futex_wait(&shared.done_word, seen, left) == ETIMEDOUT:
        _reap(log)
    ec_count(&shared.counters.flush_wait_count, 1)
    ec_count(&shared.counters.flush_wait_ns, <uint64_t>(ec_monotonic_ns() - now))
    return True


cdef Status _flush_closed(LogStore* log, uint64_t target, uint64_t errors,
                          int64_t deadline_ns) noexcept nogil:
    """Write what is closed, and wait for others that write, until `target` is on the device.

    STATUS_IO_ERROR when a write failed since there were `errors`.
    """
    cdef LogShared* shared = log.shared
    cdef uint32_t seen
    cdef int64_t now
    while _flush_one(log, -1):
        pass
    while True:
        lanes_sweep(&log.lanes)
        seen = ec_load_u32(&shared.done_word)
        ec_lock_acquire(&shared.lock)
        ec_store_u64(&shared.flushed_ticket, _flushed_ticket_locked(log))
        ec_lock_release(&shared.lock)
        if ec_load_u64(&shared.flushed_ticket) >= target:
            break
        if _flush_one(log, -1):
            continue
        now = ec_monotonic_ns()
        if now >= deadline_ns:
            return Status.STATUS_TIMEOUT
        if ec_futex_wait(&shared.done_word, seen,
                         min(deadline_ns - now, <int64_t>WAIT_SLICE_NS)) == ETIMEDOUT:
            _reap(log)
    return Status.STATUS_OK if ec_load_u64(&shared.counters.flush_error_count) == errors \
        else Status.STATUS_IO_ERROR


cdef Status log_flush(LogStore* log, int64_t deadline_ns) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef uint64_t target, errors
    cdef uint32_t head
    ec_lock_acquire(&shared.lock)
    errors = shared.counters.flush_error_count
    for head in range(LOG_COUNT):
        log_close_buffer_locked(log, head)
    target = shared.closed_ticket
    ec_lock_release(&shared.lock)
    return _flush_closed(log, target, errors, deadline_ns)


cdef Status _sync_files(LogStore* log) noexcept nogil:
    """fdatasync every file written since its last sync. Caller holds sync_lock."""
    cdef uint32_t index, region, first, last
    cdef int result
    cdef bint has_failed = False
    cdef Status status = Status.STATUS_OK
    for index in range(log.file_count):
        if not ec_load_u32(&log.dirty[index]):
            continue
        # Cleared first: a write that lands during the sync marks the file again.
        ec_store_u32(&log.dirty[index], 0)
        first = index * log.regions_per_file
        last = min(first + log.regions_per_file, log.shared.region_count)
        ec_lock_acquire(&log.shared.lock)
        for region in range(first, last):
            if log.regions[region].unsynced:
                log.regions[region].unsynced = 2
        ec_lock_release(&log.shared.lock)
        result = log.ops.sync(log.engine, <uint32_t>log_file(log, index))
        ec_count(&log.shared.counters.sync_count, 1)
        if result == 0:
            ec_lock_acquire(&log.shared.lock)
            for region in range(first, last):
                # A write that landed meanwhile set it to 1 again and stays marked.
                if log.regions[region].unsynced == 2:
                    log.regions[region].unsynced = 0
            ec_lock_release(&log.shared.lock)
            continue
        # A failed sync does not say which pages were lost: no region with writes that it should
        # have covered is trusted. Source: A. Rebello et al., ATC 2020.
        status = Status.STATUS_IO_ERROR
        ec_lock_acquire(&log.shared.lock)
        log.shared.counters.sync_error_count += 1
        for region in range(first, last):
            if not log.regions[region].unsynced:
                continue
            if has_failed:
                log.shared.loss_count += 1
                log_retire_locked(log, region)
            else:
                # However many regions it takes down, the device failed once.
                log_write_failed_locked(log, region, -result)
            has_failed = True
        ec_lock_release(&log.shared.lock)
    return status


cdef Status log_settle(LogStore* log, int64_t deadline_ns) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef uint32_t attempts = ec_load_u32(&log.shared.settle_attempts), seen
    cdef int64_t now
    while not log_is_settled(log):
        seen = ec_load_u32(&shared.done_word)
        now = ec_monotonic_ns()
        # One attempt may have begun too early; the second tells.
        if ec_load_u32(&shared.read_only) or ec_load_u32(&log.stopping) or \
                ec_load_u32(&log.shared.settle_attempts) - attempts >= 2:
            return Status.STATUS_IO_ERROR
        if now >= deadline_ns:
            return Status.STATUS_TIMEOUT
        log_wake(&shared.reclaim_word)
        ec_futex_wait(&shared.done_word, seen, min(deadline_ns - now, <int64_t>WAIT_SLICE_NS))
    return Status.STATUS_OK


cdef void _ask_for_prewriting(LogStore* log) noexcept nogil:
    """Somebody syncs: let the space ahead be written before it is needed (see _prewrite.pxd)."""
    cdef uint32_t head, region
    cdef uint64_t used, ahead, end = log.region_bytes - FOOTER_BYTES
    cdef bint wanted = False
    ec_lock_acquire(&log.shared.lock)
    for head in range(LOG_COUNT):
        region = log.shared.heads[head].region
        if region == NONE32 or log.regions[region].written_bytes == 0:
            continue
        used = log.regions[region].written_bytes + log.buffer_bytes
        ahead = used + ec_load_u64(&log.prewrite_bytes) // 2
        wanted |= log.regions[region].touched_bytes < min(end, ahead) and used < end
    ec_store_u32(&log.shared.prewrite_wanted, wanted)
    ec_lock_release(&log.shared.lock)
    if wanted:
        log_wake(&log.shared.reclaim_word)


cdef Status log_sync(LogStore* log, int64_t deadline_ns) noexcept nogil:
    cdef Status status = log_sync_quiet(log, deadline_ns)
    if status == Status.STATUS_TIMEOUT:
        return status
    # A block may have been lost before this call, in the background: whoever put into it must hear
    # of it, so the news is kept until a sync has told it. Source: errseq_t of the Linux kernel.
    ec_lock_acquire(&log.shared.lock)
    if log.shared.loss_count != log.shared.loss_reported:
        log.shared.loss_reported = log.shared.loss_count
        status = Status.STATUS_IO_ERROR
    ec_lock_release(&log.shared.lock)
    if status == Status.STATUS_OK:
        status = log_settle(log, deadline_ns)
    if ec_load_u64(&log.prewrite_bytes) and not ec_load_u32(&log.shared.prewrite_wanted):
        _ask_for_prewriting(log)
    return status


cdef Status _sync_round(LogStore* log, int64_t deadline_ns) noexcept nogil:
    """Close, write and sync what everybody has put so far. Caller holds sync_lock."""
    cdef LogShared* shared = log.shared
    cdef uint64_t target, errors, covered, mark, extra
    cdef uint32_t head
    cdef Status status, synced
    ec_lock_acquire(&shared.lock)
    errors = shared.counters.flush_error_count
    for head in range(LOG_COUNT):
        log_close_buffer_locked(log, head)
    target = shared.closed_ticket
    # Whoever asks from here on is gathered for the next round.
    log.shared.sync_round += 1
    ec_lock_release(&shared.lock)
    status = _flush_closed(log, target, errors, deadline_ns)
    if status == Status.STATUS_TIMEOUT:
        return status
    ec_lock_acquire(&shared.lock)
    covered = shared.flushed_ticket
    mark = min(covered, log.shared.large_ticket_floor) if log.shared.large_count else covered
    extra = log.shared.extra_written_count
    ec_lock_release(&shared.lock)
    synced = _sync_files(log)
    if synced == Status.STATUS_OK:
        ec_store_u64(&log.shared.extra_synced_count, extra)
        ec_store_u64(&log.shared.synced_mark, max(mark, ec_load_u64(&log.shared.synced_mark)))
        ec_store_u64(&log.shared.synced_ticket, covered)
    status = synced if status == Status.STATUS_OK else status
    if status != Status.STATUS_OK:
        ec_add_u32(&log.shared.sync_failure_count, 1)
    return status


cdef void _sync_wake(LogStore* log, uint32_t round_number) noexcept nogil:
    """Wake all whom the round covered, and one of those gathered since, to lead the next."""
    cdef uint32_t* done = &log.shared.sync_words[round_number & 1]
    cdef uint32_t* gathered = &log.shared.sync_words[(round_number + 1) & 1]
    # The words change even if nobody sleeps yet: who is about to must not.
    ec_add_u32(done, 1)
    ec_add_u32(gathered, 1)
    if ec_load_u32(&log.shared.sync_waiting):
        ec_futex_wake(done, 0x7FFFFFFF)
        ec_futex_wake(gathered, 1)


cdef Status log_sync_quiet(LogStore* log, int64_t deadline_ns) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef uint64_t target, extra
    cdef uint32_t head, index, round_number, failures, seen
    cdef int64_t now
    cdef Status status
    ec_lock_acquire(&shared.lock)
    target = shared.closed_ticket
    for head in range(LOG_COUNT):
        index = shared.heads[head].buffer
        target += index != NONE32 and log.buffers[index].record_count != 0
    extra = log.shared.extra_written_count
    round_number = log.shared.sync_round
    failures = ec_load_u32(&log.shared.sync_failure_count)
    ec_lock_release(&shared.lock)
    # Group commit: one thread writes and syncs for all; who comes meanwhile waits for the next
    # round, which one of them leads. Its words differ from this round's, so that only those wake
    # who are done, and the new leader.
    while True:
        # Before the looks that follow: a wake-up after them changes the word, and the wait returns.
        seen = ec_load_u32(&log.shared.sync_words[round_number & 1])
        # First: a later round that succeeds does not bring back what a failed one lost.
        if ec_load_u32(&log.shared.sync_failure_count) != failures:
            return Status.STATUS_IO_ERROR
        if ec_load_u64(&log.shared.synced_ticket) >= target and \
                ec_load_u64(&log.shared.extra_synced_count) >= extra:
            return Status.STATUS_OK
        if ec_lock_try(&log.shared.sync_lock):
            round_number = log.shared.sync_round
            status = _sync_round(log, deadline_ns)
            ec_lock_release(&log.shared.sync_lock)
            _sync_wake(log, round_number)
            if status != Status.STATUS_OK:
                return status
            continue
        now = ec_monotonic_ns()
        if now >= deadline_ns:
            return Status.STATUS_TIMEOUT
        ec_add_u32(&log.shared.sync_waiting, 1)
        if ec_futex_wait(&log.shared.sync_words[round_number & 1], seen,
                         min(deadline_ns - now, <int64_t>WAIT_SLICE_NS)) == ETIMEDOUT:
            # The leader may be dead.
            ec_lock_break(&log.shared.sync_lock)
        ec_add_u32(&log.shared.sync_waiting, <uint32_t>-1)


cdef struct LargeLeft:              # a large block that nobody waits for any more
    LogStore* log
    Append append


cdef void _large_written(LogStore* log, const Append* append, int64_t moved) noexcept nogil:
    ec_lock_acquire(&log.shared.lock)
    if moved == <int64_t>append.block_bytes:
        log_write_done_locked(log, append.region, append.block_base)
        log.shared.extra_written_count += 1
    else:
        log_write_failed_locked(log, append.region, <int>-moved if moved < 0 else EIO)
    ec_lock_release(&log.shared.lock)


cdef void _large_landed(void* context, IoRequest* request, uint64_t _room) noexcept nogil:
    cdef LargeLeft* kept = <LargeLeft*>context
    _large_written(kept.log, &kept.append, request.result)
    log_large_free(kept.log, &kept.append)
    free(kept)


cdef Status _large_write_within(LogStore* log, Append* append) noexcept nogil:
    """STATUS_TIMEOUT: the block is the device's now, and `append` has none."""
    cdef LargeLeft* kept = <LargeLeft*>malloc(sizeof(LargeLeft))
    cdef IoRequest request
    cdef Lane* left = NULL
    cdef int64_t result
    if kept == NULL:
        return Status.STATUS_NO_MEMORY
    kept.log = log
    kept.append = append[0]
    _fill_request(log, append.region, append.region_offset, append.block_base,
                  append.block_bytes, &request)
    result = lane_transfer(&log.lanes, &request, log.write_timeout_ns, &left)
    if left != NULL:
        append.block_base = NULL
        append.block_bytes = 0
        left.context = kept
        left.landed = _large_landed
        lane_leave(&log.lanes, left)
        log_wake(&log.shared.flush_word)
        return Status.STATUS_TIMEOUT
    free(kept)
    if result == -EBUSY or result == -ESHUTDOWN:
        return Status.STATUS_TIMEOUT
    _large_written(log, append, result)
    return Status.STATUS_OK if result == <int64_t>append.block_bytes else Status.STATUS_IO_ERROR


cdef Status log_large_write(LogStore* log, Append* append) noexcept nogil:
    cdef uint32_t fill = <uint32_t>(append.record - append.block_base) + append.size_bytes
    cdef int64_t moved
    if ec_load_u64(&log.regions[append.region].generation) != append.generation:
        return Status.STATUS_IO_ERROR
    log_fill_block_header(log, append.block_base, fill, append.block_bytes, append.region,
                          append.region_offset, append.ticket, append.generation)
    if log.write_timeout_ns and log_file(log, append.region // log.regions_per_file) >= 0:
        return _large_write_within(log, append)
    moved = _write_block(log, append.region, append.region_offset, append.block_base,
                         append.block_bytes)
    _large_written(log, append, moved)
    return Status.STATUS_OK if moved == <int64_t>append.block_bytes else Status.STATUS_IO_ERROR


cdef void _seal_region(LogStore* log, uint32_t region, Footer* footer) noexcept nogil:
    """Write the region's footer, with `footer` as aligned memory for it."""
    cdef Footer* kept
    cdef int64_t moved = FOOTER_BYTES
    cdef bint is_listed
    # Once it is retired its list may be another region's.
    ec_lock_acquire(&log.shared.lock)
    kept = log_footer(log, region)
    if log.regions[region].state != REGION_SEALING or log.regions[region].in_flight:
        ec_lock_release(&log.shared.lock)
        return
    # A region of more blocks than a footer lists keeps none: recovery follows the blocks.
    is_listed = kept != NULL and 0 < kept.block_count <= FOOTER_BLOCKS_MAX
    if is_listed:
        memcpy(footer, kept, FOOTER_BYTES)
        footer.log = <unsigned short>log.regions[region].log
        footer.generation = log.regions[region].generation
    ec_lock_release(&log.shared.lock)
    if is_listed:
        footer.magic = FOOTER_MAGIC
        footer.version = FORMAT_VERSION
        footer.region = region
        footer.sum = 0
        footer.sum = log.api.bits64(footer, FOOTER_BYTES, log.seed)
        moved = _write_block(log, region, <uint32_t>(log.region_bytes - FOOTER_BYTES),
                             <char*>footer, FOOTER_BYTES)
    ec_lock_acquire(&log.shared.lock)
    if moved != FOOTER_BYTES:
        log_write_failed_locked(log, region, <int>-moved if moved < 0 else EIO)
    elif log.regions[region].state == REGION_SEALING:
        ec_store_u32(&log.regions[region].state, REGION_SEALED)
        log.shared.counters.sealed_count += 1
        ec_store_u32(&log.dirty[region // log.regions_per_file], 1)
    if kept != NULL and log.footer_regions[kept - log.footers] == region:
        log.footer_regions[kept - log.footers] = NONE32
    ec_lock_release(&log.shared.lock)
    log_wake(&log.shared.reclaim_word)


cdef Status log_erase(LogStore* log, uint32_t region) noexcept nogil:
    cdef int status = log_write_erasure(log, region)
    if status == 0:
        # A sync that follows must not take itself for covered by an earlier one.
        ec_lock_acquire(&log.shared.lock)
        log.shared.extra_written_count += 1
        ec_lock_release(&log.shared.lock)
        return Status.STATUS_OK
    ec_lock_acquire(&log.shared.lock)
    log_write_failed_locked(log, region, -status)
    ec_lock_release(&log.shared.lock)
    return Status.STATUS_IO_ERROR


cdef void log_seal_regions(LogStore* log) noexcept nogil:
    cdef uint32_t region
    cdef char* memory = NULL
    # One thread at a time: a region is sealed once, with the block list that is its own.
    if not ec_lock_try(&log.shared.seal_lock):
        return
    for region in range(log.shared.region_count):
        if ec_load_u32(&log.regions[region].state) != REGION_SEALING or \
                ec_load_u32(&log.regions[region].in_flight):
            continue
        if memory == NULL and \
                posix_memalign(<void**>&memory, PAGE_BYTES, FOOTER_BYTES) != 0:
            break
        _seal_region(log, region, <Footer*>memory)
    ec_lock_release(&log.shared.seal_lock)
    free(memory)


cdef void _close_aged(LogStore* log) noexcept nogil:
    """Close active buffers whose first record waited for a flush interval."""
    cdef uint32_t head, index
    cdef int64_t now = ec_monotonic_ns()
    ec_lock_acquire(&log.shared.lock)
    for head in range(LOG_COUNT):
        index = log.shared.heads[head].buffer
        if index != NONE32 and now - log.buffers[index].opened_ns >= log.flush_interval_ns:
            log_close_buffer_locked(log, head)
    ec_lock_release(&log.shared.lock)


cdef int64_t _next_due_ns(LogStore* log) noexcept nogil:
    """How long the flusher may sleep: -1 (no limit) when no buffer holds anything."""
    cdef uint32_t head, index
    cdef int64_t due = -1, left, now = ec_monotonic_ns()
    ec_lock_acquire(&log.shared.lock)
    for head in range(LOG_COUNT):
        index = log.shared.heads[head].buffer
        if index == NONE32:
            continue
        left = log.buffers[index].opened_ns + log.flush_interval_ns - now
        left = max(left, <int64_t>0)
        due = left if due < 0 else min(due, left)
    if log.processes != NULL:
        for index in range(log.shared.buffer_count):
            # Somebody puts into it, or died doing so.
            if log.buffers[index].state in (BUFFER_CLOSED, BUFFER_WRITING):
                due = REAP_NS if due < 0 else min(due, <int64_t>REAP_NS)
    if log.shared.read_only:
        due = PROBE_INTERVAL_NS if due < 0 else min(due, <int64_t>PROBE_INTERVAL_NS)
    if ec_load_u32(&log.lanes.overdue_count):
        due = SWEEP_NS if due < 0 else min(due, <int64_t>SWEEP_NS)
    log.shared.flusher_timed = due >= 0
    ec_lock_release(&log.shared.lock)
    return due


cdef uint32_t _submit_closed(LogStore* log, IoChannel* channel,
                             IoRequest* requests) noexcept nogil:
    """Submit every closed buffer (slot i of `requests` belongs to buffer i); how many."""
    cdef WriteBuffer* buffer
    cdef IoRequest* request
    cdef uint32_t index, count = 0
    while True:
        ec_lock_acquire(&log.shared.lock)
        buffer = _claim_locked(log)
        ec_lock_release(&log.shared.lock)
        if buffer == NULL:
            return count
        if not _is_current(log, buffer):
            _finish(log, buffer, SKIPPED)
            continue
        log_seal_block(log, buffer)
        index = <uint32_t>(buffer - log.buffers)
        request = &requests[index]
        _fill_request(log, buffer.region, buffer.region_offset, log.base + buffer.data_offset,
                      buffer.block_bytes, request)
        request.buffer_index = 0 if log.registered else -1
        request.user_data = index
        if log.ops.submit(channel, &request, 1) == 1:
            count += 1
        else:
            # The channel is full or broken: this thread writes the block itself.
            _finish(log, buffer, _write_block(log, buffer.region, buffer.region_offset,
                                              log.base + buffer.data_offset, buffer.block_bytes))


cdef void _probe(LogStore* log) noexcept nogil:
    """While the tier is read-only: a page written to a file of its own tells whether it heals."""
    cdef char* page = NULL
    cdef int file
    cdef bint is_due
    ec_lock_acquire(&log.shared.lock)
    is_due = log.shared.read_only and ec_monotonic_ns() >= log.shared.probe_after_ns
    if is_due:
        log.shared.probe_after_ns = ec_monotonic_ns() + PROBE_INTERVAL_NS
    ec_lock_release(&log.shared.lock)
    if not is_due:
        return
    if posix_memalign(<void**>&page, PAGE_BYTES, PAGE_BYTES) != 0:
        return
    memset(page, 0, PAGE_BYTES)
    file = log.ops.open_file(log.engine, b"probe", IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE
                             | (IO_OPEN_DIRECT if log.direct else 0))
    if file >= 0:
        if log.ops.write(log.engine, <uint32_t>file, 0, page, PAGE_BYTES) == PAGE_BYTES and \
                log.ops.sync(log.engine, <uint32_t>file) == 0:
            ec_lock_acquire(&log.shared.lock)
            log.shared.failure_count = 0
            ec_store_u32(&log.shared.read_only, 0)
            log_errno_set(log, 0)
            ec_lock_release(&log.shared.lock)
            log_wake(&log.shared.reclaim_word)
        log.ops.close_file(log.engine, <uint32_t>file)
        log.ops.unlink(log.engine, b"probe")
    free(page)


cdef void log_flusher_run(LogStore* log, uint32_t depth) noexcept nogil:
    cdef LogShared* shared = log.shared
    cdef IoChannel* channel = NULL
    cdef IoRequest* requests
    cdef IoRequest* done[BUFFER_COUNT_MAX]
    cdef uint32_t seen, in_flight = 0
    cdef int count, index
    cdef int64_t due, reaped_ns = 0
    cdef uint32_t watch = WATCHES if log.processes != NULL else 0
    requests = <IoRequest*>calloc(BUFFER_COUNT_MAX, sizeof(IoRequest))
    if requests == NULL:
        return
    # In shared mode by system calls that a killed process still ends: a write that is on its way in
    # a ring could hit the buffer's next use (docs/adr/0015-shared-mode.md).
    if log.processes != NULL or log.ops.channel_open(log.engine, depth, False, &channel) != 0:
        channel = NULL
    while True:
        seen = ec_load_u32(&shared.flush_word)
        lanes_sweep(&log.lanes)
        _close_aged(log)
        if channel == NULL:
            while _flush_one(log, -1):
                pass
        else:
            in_flight += _submit_closed(log, channel, requests)
        log_seal_regions(log)
        _probe(log)
        if in_flight:
            count = log.ops.reap(channel, done, BUFFER_COUNT_MAX, 1, -1)
            for index in range(count):
                _finish(log, &log.buffers[done[index].user_data], done[index].result)
                in_flight -= 1
            continue
        if ec_load_u32(&log.stopping):
            break
        due = _next_due_ns(log)
        if watch:
            # The last writer may be dying: its threads are gone before its files are.
            watch -= 1
            due = WATCH_NS if due < 0 else min(due, <int64_t>WATCH_NS)
        if due != 0 and ec_futex_wait(&shared.flush_word, seen, due) == ETIMEDOUT or \
                log.processes != NULL and ec_monotonic_ns() - reaped_ns > <int64_t>REAP_NS:
            _reap(log)
            reaped_ns = ec_monotonic_ns()
    if channel != NULL:
        log.ops.channel_close(channel)
    free(requests)
