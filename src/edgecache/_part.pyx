"""Reading a range of a chunk from the disk tier (see _part.pxd)."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from edgecache._index cimport size_class_of
from edgecache._io cimport IO_READ, IoRequest
from edgecache._part_format cimport part_meta_bytes, part_sums
from edgecache._read_buffers cimport (
    READ_SLOT_BYTES,
    READ_SLOTS_MAX,
    read_buffer_give,
    read_buffer_take,
)
from edgecache._segment cimport (
    REGION_RETIRED,
    LogStore,
    location_region,
    log_file,
    log_is_large,
    log_read_buffered,
    log_read_span,
    log_region_generation,
)
from edgecache._segment_format cimport (
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_VOID,
    UNIT_SHIFT,
    RecordHeader,
    align_up,
    record_bytes,
    record_header_valid,
    record_key,
)
from edgecache._shard cimport Candidate, Probe
from edgecache._spare_blocks cimport block_give, block_take
from edgecache._strips cimport strip_bytes, strip_count, strips_copy_verified, strips_hash
from edgecache._sync cimport ec_count, ec_load_u32, ec_lock_acquire, ec_lock_release
from edgecache._xxhash cimport Hash128

cdef enum:
    PAGE_BYTES = 4096
    # Head and strips are read as one span where not more than this lies between them.
    JOIN_BYTES = 65536


cdef void part_init(PartFetch* self, LogStore* log, PartTable* table, Hash128 hash,
                    const char* key, uint32_t key_len, const Probe* probe) noexcept nogil:
    # Not a memset: the sums are large and guarded by their count.
    self.log = log
    self.table = table
    self.hash = hash
    self.key = key
    self.key_len = key_len
    self.next = 0
    self.probe = probe[0]
    self.has_content_hash = 0
    self.is_known = 0
    self.record = NULL
    self.scratch = NULL
    self.scratch_bytes = 0
    self.buffered_bytes = 0
    self.request_count = 0
    self.state = PART_ELSE
    memset(self.requests, 0, sizeof(self.requests))


cdef void part_free(PartFetch* self) noexcept nogil:
    if self.scratch == NULL:
        return
    if self.scratch_bytes <= READ_SLOTS_MAX * READ_SLOT_BYTES:
        read_buffer_give(&self.log.read_buffers, self.scratch, self.scratch_bytes)
    else:
        block_give(self.scratch, self.scratch_bytes)
    self.scratch = NULL
    self.scratch_bytes = 0


cdef bint _take_scratch(PartFetch* self, uint64_t size) noexcept nogil:
    if size <= self.scratch_bytes:
        return True
    part_free(self)
    if size <= READ_SLOTS_MAX * READ_SLOT_BYTES:
        self.scratch = read_buffer_take(&self.log.read_buffers, size, &self.scratch_bytes)
    else:
        self.scratch = block_take(size)
        self.scratch_bytes = size
    return self.scratch != NULL


cdef inline uint64_t _head_bytes(const PartFetch* self) noexcept nogil:
    """Of header, key and meta: a multiple of the unit."""
    return RECORD_HEADER_BYTES + <uint64_t>self.key_len + \
        part_meta_bytes(self.key_len, self.part_bytes)


cdef inline uint64_t _strips_first(const PartFetch* self) noexcept nogil:
    cdef uint64_t strip = strip_bytes(self.part_bytes)
    return self.first // strip * strip


cdef inline uint64_t _strips_last(const PartFetch* self) noexcept nogil:
    return min(self.part_bytes, align_up(self.last, strip_bytes(self.part_bytes)))


cdef bint _recall(PartFetch* self) noexcept nogil:
    """Take the strip sums from the table; False: it has them not."""
    cdef KnownPart* known
    cdef bint found = False
    ec_lock_acquire(&self.table.lock)
    if self.table.slots != NULL:
        known = &self.table.slots[self.hash.low & (PART_SLOTS - 1)]
        found = known.location == self.location and known.generation == self.generation and \
            known.hash_low == self.hash.low and known.hash_high == self.hash.high and \
            known.part_bytes == self.part_bytes
        if found:
            memcpy(self.sums, known.sums, <size_t>strip_count(self.part_bytes) * 8)
    ec_lock_release(&self.table.lock)
    return found


cdef void _remember(PartFetch* self) noexcept nogil:
    cdef KnownPart* known
    ec_lock_acquire(&self.table.lock)
    if self.table.slots == NULL:
        self.table.slots = <KnownPart*>calloc(PART_SLOTS, sizeof(KnownPart))
    if self.table.slots != NULL:
        known = &self.table.slots[self.hash.low & (PART_SLOTS - 1)]
        known.hash_low = self.hash.low
        known.hash_high = self.hash.high
        known.location = self.location
        known.generation = self.generation
        known.part_bytes = self.part_bytes
        memcpy(known.sums, self.sums, <size_t>strip_count(self.part_bytes) * 8)
    ec_lock_release(&self.table.lock)


cdef void part_table_free(PartTable* self) noexcept nogil:
    free(self.slots)
    self.slots = NULL


cdef void _ask(PartFetch* self, uint64_t location, uint64_t length, char* target,
               uint32_t* skip) noexcept nogil:
    cdef IoRequest* request = &self.requests[self.request_count]
    cdef uint32_t file
    log_read_span(self.log, location, length, &file, &request.offset_bytes, &request.length_bytes,
                  skip)
    request.operation = IO_READ
    request.buffer_index = -1
    request.file = <uint32_t>log_file(self.log, file)
    request.buffer = target
    self.request_count += 1


cdef bint _plan(PartFetch* self) noexcept nogil:
    """Fill the requests for the candidate at hand; False: no memory."""
    cdef LogStore* log = self.log
    cdef uint64_t head = _head_bytes(self)
    cdef uint64_t first = _strips_first(self), last = _strips_last(self)
    cdef uint64_t margin = 2 * ec_load_u32(&log.read_align_bytes)
    self.request_count = 0
    self.buffered_bytes = 0
    self.is_known = _recall(self)
    self.is_joined = not self.is_known and first <= JOIN_BYTES
    self.head_room = 0 if self.is_known else align_up(head + margin, PAGE_BYTES)
    if self.is_joined:
        if not _take_scratch(self, head + last + margin):
            return False
        if not log_is_large(log, record_bytes(self.key_len, head - RECORD_HEADER_BYTES
                                              - self.key_len, self.part_bytes)) and \
                log_read_buffered(log, self.location, head + last, self.scratch,
                                  &self.buffered_bytes):
            self.head_skip = 0
            return True
        _ask(self, self.location, head + last, self.scratch, &self.head_skip)
        return True
    if not _take_scratch(self, self.head_room + (last - first) + margin):
        return False
    if not self.is_known:
        _ask(self, self.location, head, self.scratch, &self.head_skip)
    _ask(self, self.location + ((head + first) >> UNIT_SHIFT), last - first,
         self.scratch + self.head_room, &self.body_skip)
    return True


cdef bint _read_head(PartFetch* self) noexcept nogil:
    """Verify header, key and sums; False: this record is not the part."""
    cdef LogStore* log = self.log
    cdef RecordHeader* record = <RecordHeader*>(self.scratch + self.head_skip)
    cdef int64_t moved
    moved = <int64_t>self.buffered_bytes if self.buffered_bytes else self.requests[0].result
    if moved < <int64_t>(self.head_skip + _head_bytes(self)):
        return False
    if not record_header_valid(log.api, log.seed, self.generation, record) or \
            record.flags & (RECORD_DELETE | RECORD_VOID) or record.expiry_us != 0 or \
            record.hash_low != self.hash.low or record.hash_high != self.hash.high or \
            record.key_len != self.key_len or \
            memcmp(record_key(record), self.key, self.key_len) != 0:
        return False
    if not part_sums(log.api, log.seed, record, self.part_bytes, self.sums):
        return False
    self.record = record
    _remember(self)
    return True


cdef PartState _judge(PartFetch* self) noexcept nogil:
    cdef uint64_t first = _strips_first(self), last = _strips_last(self), base = first
    cdef const char* body
    cdef int64_t moved
    cdef Hash128 found
    if not self.is_known and not _read_head(self):
        return PART_ELSE
    if self.has_content_hash:
        found = strips_hash(self.log.api, self.sums, strip_count(self.part_bytes))
        if found.low != self.content_hash.low or found.high != self.content_hash.high:
            return PART_BAD
    if self.is_joined:
        base = 0
        body = self.scratch + self.head_skip + _head_bytes(self)
        moved = <int64_t>self.buffered_bytes if self.buffered_bytes else self.requests[0].result
        moved -= <int64_t>(self.head_skip + _head_bytes(self))
    else:
        body = self.scratch + self.head_room + self.body_skip
        moved = self.requests[self.request_count - 1].result - <int64_t>self.body_skip
    if moved < <int64_t>(last - base) or \
            not strips_copy_verified(self.log.api, self.target, body, base, self.part_bytes,
                                     self.first, self.last, self.sums):
        return PART_ELSE
    return PART_FOUND


cdef PartState part_begin(PartFetch* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef const Candidate* candidate
    cdef uint8_t size_class = size_class_of(_head_bytes(self) + self.part_bytes)
    cdef uint32_t region
    cdef PartState state
    while self.next < self.probe.count:
        candidate = &self.probe.candidates[self.next]
        region = location_region(log, candidate.location)
        self.next += 1
        if candidate.size_class != size_class or region >= log.shared.region_count or \
                ec_load_u32(&log.regions[region].state) == REGION_RETIRED:
            continue
        self.location = candidate.location
        self.size_class = candidate.size_class
        self.generation = log_region_generation(log, candidate.location)
        if not _plan(self):
            return PART_ELSE
        if self.request_count:
            return PART_READ
        state = _judge(self)
        if state != PART_ELSE:
            return state
    return PART_ELSE


cdef PartState part_advance(PartFetch* self) noexcept nogil:
    cdef uint32_t number
    cdef PartState state
    cdef bint has_failed = False
    for number in range(self.request_count):
        if self.requests[number].result < 0:
            ec_count(&self.log.shared.counters.read_error_count, 1)
            has_failed = True
        else:
            ec_count(&self.log.shared.counters.read_count, 1)
            ec_count(&self.log.shared.counters.read_bytes,
                     <uint64_t>self.requests[number].result)
    state = PART_ELSE if has_failed else _judge(self)
    return state if state != PART_ELSE else part_begin(self)


cdef PartState part_run(PartFetch* self) noexcept nogil:
    cdef PartState state = part_begin(self)
    cdef IoRequest* request
    cdef uint32_t number
    while state == PART_READ:
        for number in range(self.request_count):
            request = &self.requests[number]
            request.result = self.log.ops.read(self.log.engine, request.file, request.offset_bytes,
                                               request.buffer, request.length_bytes)
        state = part_advance(self)
    return state
