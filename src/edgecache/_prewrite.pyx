"""Zeroes ahead of the log (see _prewrite.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from edgecache._segment cimport (
    LOG_COUNT,
    NONE32,
    REGION_OPEN,
    LogStore,
    Region,
    log_file,
    log_wake,
)
from edgecache._segment_format cimport FOOTER_BYTES, PAGE_BYTES, align_up
from edgecache._sync cimport ec_load_u32, ec_lock_acquire, ec_lock_release, ec_store_u64

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    STEP_BYTES = 1048576            # one write: short enough to wait for


cdef uint32_t _claim(LogStore* log, uint32_t head, uint64_t ahead_bytes,
                     uint64_t* offset) noexcept nogil:
    """Claim the next piece in front of `head`'s region: how many bytes, from `offset`; 0: none."""
    cdef uint32_t index, region
    cdef uint64_t used, start, size = 0, end = log.region_bytes - FOOTER_BYTES
    cdef Region* entry
    ec_lock_acquire(&log.shared.lock)
    index = log.shared.heads[head].buffer
    region = log.shared.heads[head].region
    if region != NONE32 and log.regions[region].state == REGION_OPEN:
        entry = &log.regions[region]
        used = entry.written_bytes
        if index != NONE32:
            used = log.buffers[index].region_offset + log.buffers[index].capacity
        # A buffer's length of room, so that nobody has to wait for this.
        start = max(<uint64_t>entry.touched_bytes, align_up(used + log.buffer_bytes, PAGE_BYTES))
        if start < min(end, used + log.buffer_bytes + ahead_bytes):
            size = min(<uint64_t>STEP_BYTES, end - start)
            offset[0] = start
            log.shared.prewrite_region = region
            log.shared.prewrite_start = <uint32_t>start
    ec_lock_release(&log.shared.lock)
    return <uint32_t>size


cdef bint _step(LogStore* log, uint32_t head, uint64_t ahead_bytes, const char* zeroes) \
        noexcept nogil:
    """Prewrite one piece; False when there is nothing to do, or the device fails."""
    cdef uint64_t offset = 0, first
    cdef uint32_t size = _claim(log, head, ahead_bytes, &offset), region
    cdef int64_t moved
    if size == 0:
        return False
    region = log.shared.prewrite_region
    first = <uint64_t>(region % log.regions_per_file) * log.region_bytes
    moved = log.ops.write(log.engine, <uint32_t>log_file(log, region // log.regions_per_file),
                          first + offset, zeroes, size)
    ec_lock_acquire(&log.shared.lock)
    log.shared.prewrite_start = NONE32
    if moved == size:
        log.regions[region].touched_bytes = <uint32_t>(offset + size)
        log.shared.prewritten_bytes += size
    else:
        # Nothing is lost with it. Writes that matter will tell what the device thinks of them.
        ec_store_u64(&log.prewrite_bytes, 0)
    ec_lock_release(&log.shared.lock)
    log_wake(&log.shared.done_word)
    return moved == size


cdef void log_prewrite(LogStore* log, uint64_t ahead_bytes) noexcept nogil:
    cdef uint32_t head
    cdef char* zeroes = NULL
    if posix_memalign(<void**>&zeroes, PAGE_BYTES, STEP_BYTES) != 0:
        return
    memset(zeroes, 0, STEP_BYTES)
    for head in range(LOG_COUNT):
        while not ec_load_u32(&log.stopping) and not ec_load_u32(&log.shared.read_only) and \
                _step(log, head, ahead_bytes, zeroes):
            pass
    free(zeroes)
