"""File space for the regions of the log (see _log_space.pxd)."""

from libc.errno cimport EDQUOT, EFBIG, EIO, ENOMEM, ENOSPC
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memset

from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_DIRECT, IO_OPEN_WRITE
from edgecache._segment cimport (
    REGION_FREE,
    REGION_READY,
    LogShared,
    LogStore,
    log_errno_set,
    log_file,
    log_take_file,
)
from edgecache._segment_format cimport (
    FOOTER_BYTES,
    FOOTER_MAGIC,
    FORMAT_VERSION,
    PAGE_BYTES,
    Footer,
)
from edgecache._sync cimport (
    ec_grow_u32,
    ec_load_u32,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_store_u32,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept


cdef int _reserve(LogStore* log, int file, uint32_t needed, uint32_t* count) noexcept nogil:
    """Reserve space for up to `count` regions of a file, as many as there is room for, `needed`
    at least; 0 or a negative errno.

    A reservation that failed may have taken all that was left: what is not used is given back. Once
    there was too little, only what is needed is asked for.
    """
    cdef int64_t size = log.ops.file_size(log.engine, <uint32_t>file)
    cdef uint64_t kept
    cdef int status, failure
    if log.space_is_short:
        count[0] = needed
    while True:
        status = log.ops.allocate(log.engine, <uint32_t>file, count[0] * log.region_bytes)
        if status not in (-ENOSPC, -EDQUOT, -EFBIG) or count[0] <= needed:
            break
        log.space_is_short = 1
        count[0] = needed + (count[0] - needed) // 2
    kept = 0 if status < 0 else count[0] * log.region_bytes
    kept = max(kept, <uint64_t>size) if size > 0 else kept
    if log.ops.file_size(log.engine, <uint32_t>file) > <int64_t>kept:
        failure = log.ops.truncate(log.engine, <uint32_t>file, kept)
        if status == 0:
            status = failure
    return status


cdef int _open_file(LogStore* log, uint32_t index, uint32_t needed, uint32_t* count,
                    bint* is_new) noexcept nogil:
    """Open data file `index` and reserve space for `count` regions, `needed` at least; 0 or a
    negative errno.
    """
    cdef char name[32]
    cdef int file, status
    snprintf(name, sizeof(name), b"data/%08u.edge", <unsigned int>index)
    file = log_file(log, index)
    if file < 0:
        file = log.ops.open_file(log.engine, name,
                                 IO_OPEN_WRITE | IO_OPEN_CREATE
                                 | (IO_OPEN_DIRECT if log.direct else 0))
        if file < 0:
            return file
        log_take_file(log, index, <uint32_t>file)
    is_new[0] = log.ops.file_size(log.engine, <uint32_t>file) == 0
    status = _reserve(log, file, needed, count)
    # A synced file whose name was not synced is gone after a power loss: the file in `data`, and
    # `data` in the root.
    if status == 0:
        status = log.ops.sync_directory(log.engine, b"data")
    if status == 0:
        status = log.ops.sync_directory(log.engine, b"")
    return status


cdef int log_write_erasure(LogStore* log, uint32_t region) noexcept nogil:
    cdef uint32_t file = region // log.regions_per_file
    cdef uint64_t offset = <uint64_t>(region % log.regions_per_file + 1) * log.region_bytes
    cdef Footer* footer = NULL
    cdef int64_t moved
    if posix_memalign(<void**>&footer, PAGE_BYTES, FOOTER_BYTES) != 0:
        return -ENOMEM
    memset(footer, 0, FOOTER_BYTES)
    footer.magic = FOOTER_MAGIC
    footer.version = FORMAT_VERSION
    footer.log = <uint16_t>log.regions[region].log
    footer.region = region
    footer.generation = ec_load_u64(&log.regions[region].generation)
    footer.sum = log.api.bits64(footer, FOOTER_BYTES, log.seed)
    moved = log.ops.write(log.engine, <uint32_t>log_file(log, file), offset - FOOTER_BYTES,
                          <char*>footer, FOOTER_BYTES)
    free(footer)
    if moved == FOOTER_BYTES:
        ec_store_u32(&log.dirty[file], 1)
        return 0
    return <int>moved if moved < 0 else -EIO


cdef int _prepare_some(LogStore* log, uint32_t first, uint32_t wanted) noexcept nogil:
    """Make FREE regions from `first` on READY that lie in its file; 0 or a negative errno.

    What a region holds from an earlier life, where its first block may have been lost, must not
    come to light again when the first block of this life is: it is erased before it is used.
    """
    cdef LogShared* shared = log.shared
    cdef uint32_t file = first // log.regions_per_file, region, count = 0
    cdef uint32_t start = file * log.regions_per_file
    cdef uint32_t reserved = min(log.regions_per_file, shared.region_count - start), end
    cdef bint is_new = False
    cdef int status = _open_file(log, file, first - start + 1, &reserved, &is_new)
    end = start + reserved
    if is_new:
        wanted = shared.region_count
    for region in range(first, end):
        if status < 0 or count == wanted:
            end = region
            break
        if ec_load_u32(&log.regions[region].state) == REGION_FREE:
            count += 1
            if not is_new:
                status = log_write_erasure(log, region)
    if status == 0 and not is_new:
        status = log.ops.sync(log.engine, <uint32_t>log_file(log, file))
    ec_lock_acquire(&shared.lock)
    if status < 0:
        log_errno_set(log, -status)
        shared.counters.prepare_error_count += 1
    else:
        if shared.last_errno in (ENOSPC, EDQUOT, EFBIG):
            log_errno_set(log, 0)
        for region in range(first, end):
            if log.regions[region].state == REGION_FREE:
                ec_store_u32(&log.regions[region].state, REGION_READY)
                ec_grow_u32(&shared.ready_count, 1)
    ec_lock_release(&shared.lock)
    return status


cdef int log_prepare(LogStore* log, uint32_t wanted) noexcept nogil:
    """Called at open and by the reclaimer only."""
    cdef uint32_t index, ready
    cdef int status
    while True:
        ready = ec_load_u32(&log.shared.ready_count)
        if ready >= wanted:
            return 0
        for index in range(log.shared.region_count):
            if ec_load_u32(&log.regions[index].state) == REGION_FREE:
                break
        else:
            return 0
        status = _prepare_some(log, index, wanted - ready)
        if status < 0:
            return status
