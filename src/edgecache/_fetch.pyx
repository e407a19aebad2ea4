"""Fetching one entry from the disk tier (see _fetch.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memset

from edgecache._index cimport size_class_bytes, size_class_of
from edgecache._io cimport IO_READ, IoRequest
from edgecache._io_lanes cimport Lane, lane_leave, lane_transfer
from edgecache._meta cimport META_FIXED_BYTES
from edgecache._read_buffers cimport read_buffer_give, read_buffer_take
from edgecache._segment cimport (
    REGION_RETIRED,
    LogStore,
    location_region,
    log_file,
    log_read_buffered,
    log_read_span,
    log_region_generation,
    log_wake,
)
from edgecache._segment_format cimport (
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_VOID,
    RecordHeader,
    record_header_valid,
    record_key,
    record_payload_sum,
    record_total_bytes,
)
from edgecache._shard cimport (
    Candidate,
    Probe,
    Shard,
    ShardSet,
    shard_at,
    shard_erase_disk,
    shard_number,
)
from edgecache._spans cimport span_learn, span_wanted
from edgecache._sync cimport ec_count, ec_load_u32, ec_lock_acquire, ec_lock_release
from edgecache._xxhash cimport Hash128


cdef void fetch_init(Fetch* self, LogStore* log, ShardSet* shards, Hash128 hash, const char* key,
                     uint32_t key_len, const Probe* probe, bint head_only) noexcept nogil:
    memset(self, 0, sizeof(Fetch))
    self.log = log
    self.shards = shards
    self.hash = hash
    self.key = key
    self.key_len = key_len
    self.head_only = head_only
    self.probe = probe[0]


cdef void fetch_free(Fetch* self) noexcept nogil:
    if self.scratch == NULL:
        return
    read_buffer_give(&self.log.read_buffers, self.scratch, self.scratch_bytes)
    self.scratch = NULL
    self.scratch_bytes = 0


cdef bint _grow_scratch(Fetch* self, uint64_t size) noexcept nogil:
    if size <= self.scratch_bytes:
        return True
    fetch_free(self)
    self.scratch = read_buffer_take(&self.log.read_buffers, size, &self.scratch_bytes)
    return self.scratch != NULL


cdef uint64_t _wanted_bytes(Fetch* self, const Candidate* candidate) noexcept nogil:
    cdef uint64_t size = size_class_bytes(candidate.size_class)
    if self.head_only:
        # With the flags of its meta: a change wants to know of objects.
        return min(size, <uint64_t>RECORD_HEADER_BYTES + self.key_len + META_FIXED_BYTES)
    if self.asked_bytes:
        return self.asked_bytes
    return max(span_wanted(&self.log.spans, candidate.size_class, size),
               min(size, <uint64_t>RECORD_HEADER_BYTES + self.key_len))


cdef void _erase_candidate(Fetch* self, uint64_t location) noexcept nogil:
    cdef Shard* shard = shard_at(self.shards, shard_number(self.shards, self.hash.high))
    ec_lock_acquire(&shard.lock)
    shard_erase_disk(self.shards.base, shard, self.hash.low, location)
    ec_lock_release(&shard.lock)


cdef FetchState _judge(Fetch* self, const Candidate* candidate) noexcept nogil:
    """Is the record in scratch the wanted one? FETCH_MISS: no, try the next candidate.

    FETCH_READ: it may be, and is longer than what was read: `asked_bytes` says how long.
    """
    cdef LogStore* log = self.log
    cdef RecordHeader* record = self.record
    cdef bint intact
    cdef uint64_t size
    intact = self.available >= RECORD_HEADER_BYTES and \
        record_header_valid(log.api, log.seed, self.generation, record) and \
        not record.flags & (RECORD_DELETE | RECORD_VOID) and \
        size_class_of(record_total_bytes(record)) == candidate.size_class
    if intact and (record.hash_low != self.hash.low or record.hash_high != self.hash.high
                   or record.key_len != self.key_len):
        self.clash_count += 1
        return FETCH_MISS
    if intact and not self.head_only:
        size = record_total_bytes(record)
        if self.asked_bytes == 0:
            span_learn(&self.log.spans, candidate.size_class, size)
            if self.available < size:
                self.asked_bytes = size
                return FETCH_READ
    if intact and self.available >= RECORD_HEADER_BYTES + <uint64_t>self.key_len and \
            memcmp(record_key(record), self.key, self.key_len) == 0:
        if self.head_only:
            return FETCH_FOUND
        if self.available >= RECORD_HEADER_BYTES + <uint64_t>record.key_len + record.meta_len \
                + record.body_len and \
                record.payload_sum == record_payload_sum(log.api, log.seed, record):
            return FETCH_FOUND
    # Not what the index promised. A region that was reclaimed meanwhile explains it; else the
    # bytes rotted: drop the slot (self-heal) and count.
    if self.generation != log_region_generation(log, candidate.location):
        self.was_stale = 1
    else:
        self.corrupt_count += 1
        ec_count(&log.shared.counters.corrupt_count, 1)
    _erase_candidate(self, candidate.location)
    return FETCH_MISS


cdef inline bint _judge_settles(Fetch* self) noexcept nogil:
    """Judge the candidate; False: go on with the next one, or with all of this one."""
    cdef FetchState state = _judge(self, &self.probe.candidates[self.next])
    if state == FETCH_MISS:
        self.next += 1
        self.asked_bytes = 0
    return state == FETCH_FOUND


cdef FetchState fetch_begin(Fetch* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef Candidate* candidate
    cdef uint64_t wanted
    cdef uint32_t file, region
    while self.next < self.probe.count:
        candidate = &self.probe.candidates[self.next]
        wanted = _wanted_bytes(self, candidate)
        region = location_region(log, candidate.location)
        if region >= log.shared.region_count or \
                ec_load_u32(&log.regions[region].state) == REGION_RETIRED:
            # The slot stays: a delete or overwrite must know that there may be an older version.
            self.has_failed = 1
            self.next += 1
            self.asked_bytes = 0
            continue
        if not _grow_scratch(self, wanted + 2 * ec_load_u32(&log.read_align_bytes)):
            return FETCH_FAILED
        self.generation = log_region_generation(log, candidate.location)
        self.location = candidate.location
        self.size_class = candidate.size_class
        if log_read_buffered(log, candidate.location, wanted, self.scratch, &self.available):
            self.record = <RecordHeader*>self.scratch
            if _judge_settles(self):
                return FETCH_FOUND
            continue
        log_read_span(log, candidate.location, wanted, &file, &self.request.offset_bytes,
                      &self.request.length_bytes, &self.skip)
        self.request.operation = IO_READ
        self.request.buffer_index = -1
        self.request.file = <uint32_t>log_file(log, file)
        self.request.buffer = self.scratch
        return FETCH_READ
    return FETCH_FAILED if self.has_failed else FETCH_MISS


cdef FetchState fetch_advance(Fetch* self) noexcept nogil:
    cdef int64_t moved = self.request.result
    if moved < 0:
        ec_count(&self.log.shared.counters.read_error_count, 1)
        self.has_failed = 1
        self.next += 1
        self.asked_bytes = 0
        return fetch_begin(self)
    ec_count(&self.log.shared.counters.read_count, 1)
    ec_count(&self.log.shared.counters.read_bytes, <uint64_t>moved)
    self.record = <RecordHeader*>(self.scratch + self.skip)
    self.available = <uint64_t>moved - self.skip if moved > <int64_t>self.skip else 0
    if _judge_settles(self):
        return FETCH_FOUND
    return fetch_begin(self)


cdef void _read_landed(void* context, IoRequest* request, uint64_t room_bytes) noexcept nogil:
    read_buffer_give(&(<LogStore*>context).read_buffers, request.buffer, room_bytes)


cdef void fetch_perform(Fetch* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef Lane* left = NULL
    if log.read_timeout_ns == 0:
        self.request.result = log.ops.read(
            log.engine, self.request.file, self.request.offset_bytes, self.request.buffer,
            self.request.length_bytes)
        return
    self.request.result = lane_transfer(&log.lanes, &self.request, log.read_timeout_ns, &left)
    if left != NULL:
        # Memory that the device may yet write to is not ours.
        left.context = log
        left.room_bytes = self.scratch_bytes
        left.landed = _read_landed
        self.scratch = NULL
        self.scratch_bytes = 0
        lane_leave(&log.lanes, left)
        log_wake(&log.shared.flush_word)


cdef FetchState fetch_run(Fetch* self) noexcept nogil:
    cdef FetchState state = fetch_begin(self)
    while state == FETCH_READ:
        fetch_perform(self)
        state = fetch_advance(self)
    return state


cdef inline void _finish(FetchBatch* self, Fetch* fetch) noexcept nogil:
    self.done[self.done_count] = fetch
    self.done_count += 1


cdef void _submit_or_read(FetchBatch* self, Fetch* fetch) noexcept nogil:
    """Hand the request to the channel; where it has no room or is broken, read here."""
    cdef IoRequest* request = &fetch.request
    while fetch.state == FETCH_READ:
        if fetch.log.ops.submit(self.channel, &request, 1) == 1:
            self.in_flight += 1
            return
        fetch_perform(fetch)
        fetch.state = fetch_advance(fetch)
    _finish(self, fetch)


cdef uint32_t _start_some(FetchBatch* self, uint32_t first) noexcept nogil:
    """Start prepared fetches from number `first` on while there is room; the next number."""
    cdef (IoRequest*)[64] gathered
    cdef uint32_t count = 0, index
    cdef Fetch* fetch
    cdef int taken
    while first < self.prepared_count and self.in_flight + count < FETCH_BATCH_DEPTH:
        fetch = self.prepared[first]
        first += 1
        fetch.state = fetch_begin(fetch)
        if fetch.state == FETCH_READ:
            fetch.request.user_data = <uint64_t><uintptr_t>fetch
            gathered[count] = &fetch.request
            count += 1
        else:
            _finish(self, fetch)
    if count == 0:
        return first
    taken = self.prepared[0].log.ops.submit(self.channel, gathered, count)
    self.in_flight += <uint32_t>max(taken, 0)
    for index in range(<uint32_t>max(taken, 0), count):
        _submit_or_read(self, <Fetch*><uintptr_t>gathered[index].user_data)
    return first


cdef void _collect(FetchBatch* self, uint32_t wanted, int64_t timeout_ns) noexcept nogil:
    """Wait for `wanted` completions, and take all that are there."""
    cdef (IoRequest*)[64] finished
    cdef uint32_t index
    cdef Fetch* fetch
    cdef int count = self.channel.ops.reap(self.channel, finished, FETCH_BATCH_DEPTH, wanted,
                                           timeout_ns)
    self.is_overdue = count == 0 and timeout_ns >= 0
    for index in range(<uint32_t>max(count, 0)):
        self.in_flight -= 1
        fetch = <Fetch*><uintptr_t>finished[index].user_data
        fetch.state = fetch_advance(fetch)
        _submit_or_read(self, fetch)


cdef uint32_t fetch_batch_landed(FetchBatch* self) noexcept nogil:
    cdef (IoRequest*)[64] finished
    cdef int count = self.channel.ops.reap(self.channel, finished, FETCH_BATCH_DEPTH, 0, 0)
    self.in_flight -= <uint32_t>max(count, 0)
    return self.in_flight


cdef void fetch_batch_run(FetchBatch* self, bint drain) noexcept nogil:
    cdef uint32_t first = 0
    cdef bint is_idle = self.prepared_count == 0
    self.is_overdue = 0
    while True:
        if first < self.prepared_count:
            first = _start_some(self, first)
        if self.in_flight == 0 and first == self.prepared_count:
            break
        if first == self.prepared_count and not drain and not (
                is_idle and self.done_count < FETCH_BATCH_PART):
            break
        # Waiting for an eighth of what is in flight keeps the queue full at few system calls.
        if self.in_flight:
            _collect(self, max(<uint32_t>1, self.in_flight // 8),
                     self.timeout_ns if self.timeout_ns and not drain else -1)
        if self.is_overdue and not drain:
            break
    self.prepared_count = 0
