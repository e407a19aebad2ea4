"""Reading a region back (see _scan.pxd; docs/format.md, "Resync")."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from edgecache._segment cimport LogStore, location_region, log_file
from edgecache._segment_format cimport (
    BLOCK_HEADER_BYTES,
    FOOTER_BYTES,
    INDEX_ENTRY_BYTES,
    PAGE_BYTES,
    RECORD_HEADER_BYTES,
    RECORD_VOID,
    UNIT_BYTES,
    UNIT_SHIFT,
    BlockHeader,
    Footer,
    FooterBlock,
    IndexEntry,
    RecordHeader,
    align_up,
    block_header_valid,
    footer_valid,
    record_header_valid,
    record_payload_sum,
    record_total_bytes,
)
from edgecache._status cimport Status

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    RESYNC_BYTES = 1048576          # read at a time while looking for the next block
    READ_ATTEMPTS = 3
    WINDOW_BYTES = 1048576


cdef void scan_list_free(ScanList* entries) noexcept nogil:
    free(entries.entries)
    entries.entries = NULL
    entries.count = 0
    entries.capacity = 0


cdef Status scan_list_push(ScanList* entries, const ScanEntry* entry) noexcept nogil:
    cdef uint64_t capacity
    cdef void* grown
    if entries.count == entries.capacity:
        capacity = entries.capacity * 2 if entries.capacity else 4096
        grown = realloc(entries.entries, capacity * sizeof(ScanEntry))
        if grown == NULL:
            return Status.STATUS_NO_MEMORY
        entries.entries = <ScanEntry*>grown
        entries.capacity = capacity
    entries.entries[entries.count] = entry[0]
    entries.count += 1
    return Status.STATUS_OK


cdef int64_t scan_read(LogStore* log, uint32_t region, uint64_t offset, char* target,
                       uint64_t length) noexcept nogil:
    cdef int32_t file = log_file(log, region // log.regions_per_file)
    cdef uint64_t start = <uint64_t>(region % log.regions_per_file) * log.region_bytes + offset
    cdef int64_t moved = 0
    cdef uint32_t _attempt
    if file < 0:
        return 0
    # What a scan does not see is forgotten for good, so one failure is not believed.
    for _attempt in range(READ_ATTEMPTS):
        moved = log.ops.read(log.engine, <uint32_t>file, start, target, <uint32_t>length)
        if moved >= 0:
            break
    return moved


cdef bint _header_ok(LogStore* log, uint32_t region, const BlockHeader* header,
                     uint64_t offset) noexcept nogil:
    return block_header_valid(log.api, log.seed, header, region, log.region_bytes) and \
        offset + header.block_bytes <= log.region_bytes - FOOTER_BYTES


cdef bint _next_header(LogStore* log, uint32_t region, uint64_t generation, uint64_t* offset,
                       BlockHeader* out, char* memory, uint32_t* failed_count) noexcept nogil:
    """Look from *offset on for the next block of the generation (0: any), by head or by tail.

    A block carries its header at both ends, so one damaged page does not hide it.
    """
    cdef uint64_t position = offset[0], start, limit = log.region_bytes - FOOTER_BYTES
    cdef uint64_t piece = RESYNC_BYTES
    cdef int64_t moved, page
    cdef BlockHeader* header
    while position < limit:
        moved = scan_read(log, region, position, memory, min(piece, limit - position))
        if moved < 0:
            # Somewhere in there the device fails: go on page by page.
            if piece == PAGE_BYTES:
                failed_count[0] += 1
                position += PAGE_BYTES
            piece = PAGE_BYTES
            continue
        if moved < PAGE_BYTES:
            return False
        page = 0
        while page + PAGE_BYTES <= moved:
            header = <BlockHeader*>(memory + page)
            if _header_ok(log, region, header, position + page) and \
                    (generation == 0 or header.generation == generation):
                offset[0] = position + page
                out[0] = header[0]
                return True
            header = <BlockHeader*>(memory + page + PAGE_BYTES - BLOCK_HEADER_BYTES)
            if _header_ok(log, region, header, 0) and \
                    (generation == 0 or header.generation == generation) and \
                    position + page + PAGE_BYTES >= header.block_bytes:
                start = position + page + PAGE_BYTES - header.block_bytes
                if start >= offset[0]:
                    offset[0] = start
                    out[0] = header[0]
                    return True
            page += PAGE_BYTES
        position += <uint64_t>page
    return False


cdef bint _all_zero(const char* memory, uint64_t length) noexcept nogil:
    cdef const uint64_t* words = <const uint64_t*>memory
    cdef uint64_t index, seen = 0
    for index in range(length // 8):
        seen |= words[index]
    return seen == 0


cdef void _apply_footer(LogStore* log, uint32_t region, char* page,
                        uint64_t* generation) noexcept nogil:
    """The footer page knows better when the first block was lost after it was written."""
    cdef Footer* footer = <Footer*>page
    if scan_read(log, region, log.region_bytes - FOOTER_BYTES, page,
                 FOOTER_BYTES) != FOOTER_BYTES or \
            not footer_valid(log.api, log.seed, footer, region):
        return
    if footer.block_count == 0 and footer.generation >= generation[0]:
        generation[0] = 0
    elif footer.generation > generation[0]:
        generation[0] = footer.generation


cdef Status scan_generation(LogStore* log, uint32_t region, uint64_t* generation) noexcept nogil:
    cdef char* memory = NULL
    cdef BlockHeader header
    cdef uint64_t offset = 0
    cdef uint32_t failed_count = 0      # scan_region meets the same pages
    cdef int64_t moved
    generation[0] = 0
    if posix_memalign(<void**>&memory, PAGE_BYTES, RESYNC_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    moved = scan_read(log, region, 0, memory, PAGE_BYTES)
    if moved == PAGE_BYTES and _header_ok(log, region, <BlockHeader*>memory, 0):
        generation[0] = (<BlockHeader*>memory).generation
    elif moved == PAGE_BYTES and not _all_zero(memory, PAGE_BYTES):
        # The first block's header is damaged: the newest generation that left a header owns it.
        while _next_header(log, region, 0, &offset, &header, memory, &failed_count):
            if header.generation > generation[0]:
                generation[0] = header.generation
            offset += header.block_bytes
    if moved >= 0 and generation[0]:
        _apply_footer(log, region, memory, generation)
    free(memory)
    return Status.STATUS_OK if moved >= 0 else Status.STATUS_IO_ERROR


cdef Status _push_index(LogStore* log, uint32_t region, uint64_t offset, const BlockHeader* header,
                        const IndexEntry* index, ScanList* entries) noexcept nogil:
    cdef ScanEntry entry
    cdef uint32_t number
    cdef uint64_t begin, end
    cdef Status status
    for number in range(header.record_count):
        begin = <uint64_t>index[number].offset_units << UNIT_SHIFT
        end = begin + (<uint64_t>index[number].size_units << UNIT_SHIFT)
        if begin < offset + BLOCK_HEADER_BYTES or end > offset + header.index_offset:
            continue
        entry.hash_low = index[number].hash_low
        entry.hash_high = index[number].hash_high
        entry.flags_sequence = index[number].flags_sequence
        entry.location = (<uint64_t>region * log.region_bytes + begin) >> UNIT_SHIFT
        entry.size_units = index[number].size_units
        entry.ticket = header.ticket
        status = scan_list_push(entries, &entry)
        if status != Status.STATUS_OK:
            return status
    return Status.STATUS_OK


cdef Status _walk_records(LogStore* log, uint32_t region, uint64_t offset,
                          const BlockHeader* header, ScanList* entries,
                          ScanInfo* info) noexcept nogil:
    """The mini-index is damaged: take every record whose own header verifies."""
    cdef char* block = NULL
    cdef RecordHeader* record
    cdef ScanEntry entry
    cdef uint64_t position = BLOCK_HEADER_BYTES, total
    cdef Status status = Status.STATUS_OK
    if posix_memalign(<void**>&block, PAGE_BYTES, header.block_bytes) != 0:
        return Status.STATUS_NO_MEMORY
    if scan_read(log, region, offset, block, header.block_bytes) != header.block_bytes:
        info.failed_count += 1
        position = header.index_offset
    while position + RECORD_HEADER_BYTES <= header.index_offset and status == Status.STATUS_OK:
        record = <RecordHeader*>(block + position)
        total = UNIT_BYTES
        if record_header_valid(log.api, log.seed, header.generation, record) and \
                record_total_bytes(record) <= header.index_offset - position:
            total = record_total_bytes(record)
            if not record.flags & RECORD_VOID:
                entry.hash_low = record.hash_low
                entry.hash_high = record.hash_high
                entry.flags_sequence = record.sequence | <uint64_t>record.flags << 56
                entry.location = (<uint64_t>region * log.region_bytes + offset + position) \
                    >> UNIT_SHIFT
                entry.size_units = <uint32_t>(total >> UNIT_SHIFT)
                entry.ticket = header.ticket
                status = scan_list_push(entries, &entry)
        position += total
    free(block)
    return status


cdef Status _scan_block(LogStore* log, uint32_t region, uint64_t offset, const BlockHeader* header,
                        ScanList* entries, ScanInfo* info) noexcept nogil:
    """Entries of one block, from its mini-index if that verifies."""
    cdef uint64_t first = header.index_offset & ~<uint64_t>(PAGE_BYTES - 1)
    cdef uint64_t size = <uint64_t>header.record_count * INDEX_ENTRY_BYTES
    cdef uint64_t span = align_up(header.index_offset + size, PAGE_BYTES) - first
    cdef char* memory = NULL
    cdef char* index
    cdef Status status
    if posix_memalign(<void**>&memory, PAGE_BYTES, span) != 0:
        return Status.STATUS_NO_MEMORY
    index = memory + (header.index_offset - first)
    if scan_read(log, region, offset + first, memory, span) == <int64_t>span and \
            log.api.bits64(index, size, log.seed) == header.index_sum:
        status = _push_index(log, region, offset, header, <IndexEntry*>index, entries)
    else:
        info.damaged_count += 1
        status = _walk_records(log, region, offset, header, entries, info)
    free(memory)
    return status


cdef uint64_t _scan_limit(LogStore* log, uint32_t region, uint64_t generation,
                          char* page) noexcept nogil:
    """Where the blocks end: a footer says so, else only the search for a next block can."""
    cdef uint64_t limit = log.region_bytes - FOOTER_BYTES
    cdef Footer* footer = <Footer*>page
    cdef FooterBlock* last
    if scan_read(log, region, limit, page, FOOTER_BYTES) == FOOTER_BYTES and \
            footer_valid(log.api, log.seed, footer, region) and \
            footer.generation == generation and footer.block_count:
        last = &footer.blocks[footer.block_count - 1]
        return min(limit, <uint64_t>last.offset_bytes + last.block_bytes)
    return limit


cdef Status scan_region(LogStore* log, uint32_t region, uint64_t generation, uint32_t start_offset,
                        ScanList* entries, ScanInfo* info) noexcept nogil:
    cdef char* memory = NULL
    cdef BlockHeader header
    cdef uint64_t offset = start_offset, expected, limit
    cdef Status status = Status.STATUS_OK
    memset(info, 0, sizeof(ScanInfo))
    info.generation = generation
    info.end_offset = start_offset
    if posix_memalign(<void**>&memory, PAGE_BYTES, RESYNC_BYTES) != 0:
        return Status.STATUS_NO_MEMORY
    limit = _scan_limit(log, region, generation, memory)
    while status == Status.STATUS_OK and offset < limit:
        expected = offset
        if scan_read(log, region, offset, memory, PAGE_BYTES) != PAGE_BYTES:
            info.failed_count += 1
            memset(memory, 0, PAGE_BYTES)
        header = (<BlockHeader*>memory)[0]
        if not (_header_ok(log, region, &header, offset) and header.generation == generation):
            # The torn tail of the log, or a damaged header with good blocks behind it.
            if not _next_header(log, region, generation, &offset, &header, memory,
                                &info.failed_count):
                break
            info.damaged_count += 1
            info.lost_bytes += <uint32_t>(offset - expected)
        status = _scan_block(log, region, offset, &header, entries, info)
        info.log = header.log
        info.block_count += 1
        if info.block_count == 1 or ticket_is_after(header.ticket, info.ticket_max):
            info.ticket_max = header.ticket
        if info.block_count == 1 or ticket_is_after(header.synced_ticket, info.synced_max):
            info.synced_max = header.synced_ticket
        if header.sequence_max > info.sequence_max:
            info.sequence_max = header.sequence_max
        offset += header.block_bytes
        info.end_offset = <uint32_t>offset
    free(memory)
    return status


cdef RecordHeader* scan_load(LogStore* log, const ScanEntry* entry,
                             ScanWindow* window) noexcept nogil:
    cdef uint64_t begin = entry.location << UNIT_SHIFT
    cdef uint64_t size = <uint64_t>entry.size_units << UNIT_SHIFT
    cdef uint64_t first = begin & ~<uint64_t>(PAGE_BYTES - 1), wanted
    cdef uint32_t region = location_region(log, entry.location)
    cdef uint64_t generation
    cdef int64_t moved
    cdef RecordHeader* record
    if begin < window.start or begin + size > window.end:
        wanted = min(max(align_up(begin + size, PAGE_BYTES) - first, <uint64_t>WINDOW_BYTES),
                     log.region_bytes - first % log.region_bytes)
        if wanted > window.capacity:
            free(window.bytes)
            memset(window, 0, sizeof(ScanWindow))
            if posix_memalign(<void**>&window.bytes, PAGE_BYTES, wanted) != 0:
                return NULL
            window.capacity = wanted
        moved = scan_read(log, region, first % log.region_bytes, window.bytes, wanted)
        window.start = first
        window.end = first + <uint64_t>max(moved, <int64_t>0)
        if begin + size > window.end:
            return NULL
    record = <RecordHeader*>(window.bytes + (begin - window.start))
    generation = log.regions[region].retired_generation
    if generation == 0:
        generation = log.regions[region].generation
    if not record_header_valid(log.api, log.seed, generation, record) or \
            record.sequence != (entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF) or \
            record.hash_low != entry.hash_low or record.hash_high != entry.hash_high or \
            record_total_bytes(record) != size or \
            record.payload_sum != record_payload_sum(log.api, log.seed, record):
        return NULL
    return record
