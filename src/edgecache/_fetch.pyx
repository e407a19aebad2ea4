"""Fetching one entry from the disk tier (see _fetch.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memset

from edgecache._index cimport size_class_bytes, size_class_of
from edgecache._io cimport IO_READ, IoChannel, IoRequest
from edgecache._segment cimport (
    REGION_RETIRED,
    LogStore,
    location_region,
    log_read_buffered,
    log_read_span,
    log_region_generation,
)
from edgecache._segment_format cimport (
    PAGE_BYTES,
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_VOID,
    RecordHeader,
    align_up,
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
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release
from edgecache._xxhash cimport Hash128

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef enum:
    FETCH_BATCH = 64


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
    free(self.scratch)
    self.scratch = NULL
    self.scratch_bytes = 0


cdef bint _grow_scratch(Fetch* self, uint64_t size) noexcept nogil:
    if size <= self.scratch_bytes:
        return True
    free(self.scratch)
    self.scratch = NULL
    self.scratch_bytes = 0
    if posix_memalign(<void**>&self.scratch, PAGE_BYTES, size) != 0:
        return False
    self.scratch_bytes = size
    return True


cdef uint64_t _wanted_bytes(Fetch* self, const Candidate* candidate) noexcept nogil:
    cdef uint64_t size = size_class_bytes(candidate.size_class)
    if self.head_only:
        return min(size, <uint64_t>RECORD_HEADER_BYTES + self.key_len)
    return size


cdef void _erase_candidate(Fetch* self, uint64_t location) noexcept nogil:
    cdef Shard* shard = shard_at(self.shards, shard_number(self.shards, self.hash.high))
    ec_lock_acquire(&shard.lock)
    shard_erase_disk(self.shards.base, shard, self.hash.low, location)
    ec_lock_release(&shard.lock)


cdef FetchState _judge(Fetch* self, const Candidate* candidate) noexcept nogil:
    """Is the record in scratch the wanted one? FETCH_MISS: no, try the next candidate."""
    cdef LogStore* log = self.log
    cdef RecordHeader* record = self.record
    cdef bint intact
    intact = self.available >= RECORD_HEADER_BYTES and \
        record_header_valid(log.api, log.seed, self.generation, record) and \
        not record.flags & (RECORD_DELETE | RECORD_VOID) and \
        size_class_of(record_total_bytes(record)) == candidate.size_class
    if intact and (record.hash_low != self.hash.low or record.hash_high != self.hash.high
                   or record.key_len != self.key_len):
        self.clash_count += 1
        return FETCH_MISS
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


cdef FetchState fetch_begin(Fetch* self) noexcept nogil:
    cdef LogStore* log = self.log
    cdef Candidate* candidate
    cdef uint64_t wanted
    cdef uint32_t file, region
    while self.next < self.probe.count:
        candidate = &self.probe.candidates[self.next]
        wanted = _wanted_bytes(self, candidate)
        region = location_region(log, candidate.location)
        if region >= log.shared.region_count or log.regions[region].state == REGION_RETIRED:
            # The slot stays: a delete or overwrite must know that there may be an older version.
            self.has_failed = 1
            self.next += 1
            continue
        if not _grow_scratch(self, align_up(wanted, PAGE_BYTES) + 2 * PAGE_BYTES):
            return FETCH_FAILED
        self.generation = log_region_generation(log, candidate.location)
        self.location = candidate.location
        self.size_class = candidate.size_class
        if log_read_buffered(log, candidate.location, wanted, self.scratch, &self.available):
            self.record = <RecordHeader*>self.scratch
            if _judge(self, candidate) == FETCH_FOUND:
                return FETCH_FOUND
            self.next += 1
            continue
        log_read_span(log, candidate.location, wanted, &file, &self.request.offset_bytes,
                      &self.request.length_bytes, &self.skip)
        self.request.operation = IO_READ
        self.request.buffer_index = -1
        self.request.file = <uint32_t>log.files[file]
        self.request.buffer = self.scratch
        return FETCH_READ
    return FETCH_FAILED if self.has_failed else FETCH_MISS


cdef FetchState fetch_advance(Fetch* self) noexcept nogil:
    cdef int64_t moved = self.request.result
    if moved < 0:
        ec_count(&self.log.shared.counters.read_error_count, 1)
        self.has_failed = 1
        self.next += 1
        return fetch_begin(self)
    ec_count(&self.log.shared.counters.read_count, 1)
    ec_count(&self.log.shared.counters.read_bytes, <uint64_t>moved)
    self.record = <RecordHeader*>(self.scratch + self.skip)
    self.available = <uint64_t>moved - self.skip if moved > <int64_t>self.skip else 0
    if _judge(self, &self.probe.candidates[self.next]) == FETCH_FOUND:
        return FETCH_FOUND
    self.next += 1
    return fetch_begin(self)


cdef FetchState fetch_run(Fetch* self) noexcept nogil:
    cdef FetchState state = fetch_begin(self)
    while state == FETCH_READ:
        self.request.result = self.log.ops.read(
            self.log.engine, self.request.file, self.request.offset_bytes, self.request.buffer,
            self.request.length_bytes)
        state = fetch_advance(self)
    return state


cdef void _submit_or_read(Fetch* self, FetchState* state, IoChannel* channel,
                          uint32_t* in_flight) noexcept nogil:
    """Hand the request to the channel; where it has no room or is broken, read here."""
    cdef IoRequest* request = &self.request
    while state[0] == FETCH_READ:
        if self.log.ops.submit(channel, &request, 1) == 1:
            in_flight[0] += 1
            return
        request.result = self.log.ops.read(self.log.engine, request.file, request.offset_bytes,
                                           request.buffer, request.length_bytes)
        state[0] = fetch_advance(self)


cdef void fetch_run_many(Fetch* fetches, FetchState* states, uint32_t count,
                         IoChannel* channel) noexcept nogil:
    cdef IoRequest* batch[FETCH_BATCH]
    cdef IoRequest* done[FETCH_BATCH]
    cdef uint32_t next_fetch = 0, in_flight = 0, gathered, index, wanted
    cdef int taken, finished
    while next_fetch < count or in_flight:
        gathered = 0
        while next_fetch < count and gathered < FETCH_BATCH and \
                in_flight + gathered < channel.depth:
            states[next_fetch] = fetch_begin(&fetches[next_fetch])
            if states[next_fetch] == FETCH_READ:
                fetches[next_fetch].request.user_data = next_fetch
                batch[gathered] = &fetches[next_fetch].request
                gathered += 1
            next_fetch += 1
        taken = fetches[0].log.ops.submit(channel, batch, gathered) if gathered else 0
        in_flight += <uint32_t>max(taken, 0)
        for index in range(<uint32_t>max(taken, 0), gathered):
            _submit_or_read(&fetches[batch[index].user_data], &states[batch[index].user_data],
                            channel, &in_flight)
        if in_flight == 0:
            continue
        # Waiting for a quarter of what is in flight keeps the queue full at few system calls.
        wanted = max(<uint32_t>1, in_flight // 4)
        finished = fetches[0].log.ops.reap(channel, done, FETCH_BATCH, wanted, -1)
        for index in range(<uint32_t>max(finished, 0)):
            in_flight -= 1
            states[done[index].user_data] = fetch_advance(&fetches[done[index].user_data])
            _submit_or_read(&fetches[done[index].user_data], &states[done[index].user_data],
                            channel, &in_flight)
