"""The superblock of a cache root (see _superblock.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_READ, IO_OPEN_WRITE, IoEngineOps
from edgecache._status cimport Status
from edgecache._xxhash cimport XxhashApi

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    REGION_SHIFT_MIN = 16
    REGION_SHIFT_MAX = 31

cdef uint64_t SUPERBLOCK_MAGIC = 0x3145484341434745     # "EGCACHE1"


cdef Status _load_one(const IoEngineOps* ops, void* engine, const XxhashApi* api, const char* name,
                      char* page) noexcept nogil:
    cdef Superblock* block = <Superblock*>page
    cdef uint64_t found
    cdef int file = ops.open_file(engine, name, IO_OPEN_READ)
    cdef Status status = Status.STATUS_CORRUPT
    if file < 0:
        return Status.STATUS_NOT_FOUND
    if ops.read(engine, <uint32_t>file, 0, page, SUPERBLOCK_BYTES) == SUPERBLOCK_BYTES:
        found = block.sum
        block.sum = 0
        if block.magic == SUPERBLOCK_MAGIC and found == api.bits64(page, SUPERBLOCK_BYTES, 0):
            status = Status.STATUS_OK
            if block.version != SUPERBLOCK_VERSION or block.region_shift < REGION_SHIFT_MIN or \
                    block.region_shift > REGION_SHIFT_MAX:
                status = Status.STATUS_VERSION
        block.sum = found
    ops.close_file(engine, <uint32_t>file)
    return status


cdef Status superblock_load(const IoEngineOps* ops, void* engine, const XxhashApi* api,
                            Superblock* out, bint* repair) noexcept nogil:
    cdef char* pages = NULL
    cdef Status first, second, result
    repair[0] = False
    if posix_memalign(<void**>&pages, SUPERBLOCK_BYTES, 2 * SUPERBLOCK_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    first = _load_one(ops, engine, api, b"superblock", pages)
    second = _load_one(ops, engine, api, b"superblock.copy", pages + SUPERBLOCK_BYTES)
    if first == Status.STATUS_VERSION or second == Status.STATUS_VERSION:
        result = Status.STATUS_VERSION
    elif first == Status.STATUS_OK:
        memcpy(out, pages, sizeof(Superblock))
        repair[0] = second != Status.STATUS_OK or \
            memcmp(pages, pages + SUPERBLOCK_BYTES, SUPERBLOCK_BYTES) != 0
        result = Status.STATUS_OK
    elif second == Status.STATUS_OK:
        memcpy(out, pages + SUPERBLOCK_BYTES, sizeof(Superblock))
        repair[0] = True
        result = Status.STATUS_OK
    elif first == Status.STATUS_NOT_FOUND and second == Status.STATUS_NOT_FOUND:
        result = Status.STATUS_NOT_FOUND
    else:
        result = Status.STATUS_CORRUPT
    free(pages)
    return result


cdef Status _store_one(const IoEngineOps* ops, void* engine, const char* name,
                       const char* page) noexcept nogil:
    cdef int file = ops.open_file(engine, name, IO_OPEN_WRITE | IO_OPEN_CREATE)
    cdef Status status = Status.STATUS_IO_ERROR
    if file < 0:
        return status
    if ops.write(engine, <uint32_t>file, 0, page, SUPERBLOCK_BYTES) == SUPERBLOCK_BYTES and \
            ops.sync(engine, <uint32_t>file) == 0:
        status = Status.STATUS_OK
    ops.close_file(engine, <uint32_t>file)
    return status


cdef Status superblock_store(const IoEngineOps* ops, void* engine, const XxhashApi* api,
                             Superblock* block) noexcept nogil:
    cdef char* page = NULL
    cdef Status status
    if posix_memalign(<void**>&page, SUPERBLOCK_BYTES, SUPERBLOCK_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    block.magic = SUPERBLOCK_MAGIC
    block.version = SUPERBLOCK_VERSION
    block.sum = 0
    memset(page, 0, SUPERBLOCK_BYTES)
    memcpy(page, block, sizeof(Superblock))
    block.sum = api.bits64(page, SUPERBLOCK_BYTES, 0)
    (<Superblock*>page).sum = block.sum
    # One after the other: at any moment at least one of them verifies.
    status = _store_one(ops, engine, b"superblock", page)
    if status == Status.STATUS_OK:
        status = _store_one(ops, engine, b"superblock.copy", page)
    if status == Status.STATUS_OK and ops.sync_directory(engine, b"") != 0:
        status = Status.STATUS_IO_ERROR
    free(page)
    return status
