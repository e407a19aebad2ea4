"""Writes in progress that other processes can follow (see _lease_stream.pxd)."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from edgecache._lease cimport (
    LEASE_MASKS,
    lease_mark,
    lease_owner_is_live,
    lease_wake,
)
from edgecache._sync cimport (
    ec_count,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_store_u32,
    ec_store_u64,
)


cdef uint64_t stream_shared_bytes() noexcept nogil:
    return sizeof(StreamShared) + <uint64_t>STREAMS_MAX * STREAM_TEXT_BYTES


cdef bint _is_live(const StreamTable* self, const StreamRecord* record) noexcept nogil:
    return lease_owner_is_live(self.leases, record.owner, record.pid, record.start_time)


cdef void _take_mask(StreamRecord* record, uint64_t* waiting) noexcept nogil:
    cdef uint32_t index
    for index in range(LEASE_MASKS):
        waiting[index] = record.waiting[index]
        record.waiting[index] = 0


cdef uint32_t _spare_locked(StreamTable* self) noexcept nogil:
    """The number + 1 of a record to use; 0: all are open (invariant 4)."""
    cdef StreamRecord* record
    cdef uint32_t number, spare = 0
    cdef uint64_t ticket = 0
    for number in range(STREAMS_MAX):
        record = &self.shared.records[number]
        if record.state == STREAM_FREE:
            return number + 1
        if record.state != STREAM_OPEN and (spare == 0 or record.ended_ticket < ticket):
            spare = number + 1
            ticket = record.ended_ticket
    return spare


cdef uint32_t stream_open(StreamTable* self, const StreamRecord* wanted, const char* key,
                          const char* meta) noexcept nogil:
    cdef StreamRecord* record
    cdef uint32_t number
    cdef uint64_t[LEASE_MASKS] waiting
    if <uint64_t>wanted.key_bytes + wanted.meta_bytes > STREAM_TEXT_BYTES:
        ec_count(&self.leases.shared.stream_full_count, 1)
        return 0
    ec_lock_acquire(&self.shared.lock)
    number = _spare_locked(self)
    if number == 0:
        ec_lock_release(&self.shared.lock)
        ec_count(&self.leases.shared.stream_full_count, 1)
        return 0
    record = &self.shared.records[number - 1]
    _take_mask(record, waiting)
    ec_store_u32(&record.state, STREAM_FREE)
    memcpy(record, wanted, sizeof(StreamRecord))
    record.state = STREAM_FREE
    record.owner = self.leases.processes.number
    record.pid = self.leases.processes.pid
    record.start_time = self.leases.processes.start_time
    memcpy(stream_text(self, number - 1), key, wanted.key_bytes)
    memcpy(stream_text(self, number - 1) + wanted.key_bytes, meta, wanted.meta_bytes)
    ec_store_u32(&record.state, STREAM_OPEN)
    ec_lock_release(&self.shared.lock)
    lease_wake(self.leases, waiting)
    return number


cdef StreamRecord* _own_locked(StreamTable* self, uint32_t number, uint64_t token) noexcept nogil:
    """The writer's record, the table locked; NULL, not locked: it is over."""
    cdef StreamRecord* record = &self.shared.records[number - 1]
    ec_lock_acquire(&self.shared.lock)
    if record.state == STREAM_OPEN and record.token == token and \
            record.owner == self.leases.processes.number:
        return record
    ec_lock_release(&self.shared.lock)
    return NULL


cdef void stream_advance(StreamTable* self, uint32_t number, uint64_t token,
                         uint64_t written_bytes, uint64_t handed_bytes,
                         uint64_t stored_bytes) noexcept nogil:
    cdef StreamRecord* record = _own_locked(self, number, token)
    cdef uint64_t[LEASE_MASKS] waiting
    cdef bint has_grown
    if record == NULL:
        return
    has_grown = stored_bytes > record.stored_bytes or handed_bytes > record.handed_bytes
    ec_store_u64(&record.written_bytes, written_bytes)
    ec_store_u64(&record.handed_bytes, handed_bytes)
    ec_store_u64(&record.stored_bytes, stored_bytes)
    if has_grown:
        _take_mask(record, waiting)
    ec_lock_release(&self.shared.lock)
    if has_grown:
        lease_wake(self.leases, waiting)


cdef void stream_end(StreamTable* self, uint32_t number, uint64_t token, StreamRecordState state,
                     uint64_t size_bytes, uint64_t version, bint is_value) noexcept nogil:
    cdef StreamRecord* record = _own_locked(self, number, token)
    cdef uint64_t[LEASE_MASKS] waiting
    if record == NULL:
        return
    if state == STREAM_FINISHED:
        record.version = version
        record.is_value = is_value
        ec_store_u64(&record.written_bytes, size_bytes)
        ec_store_u64(&record.handed_bytes, size_bytes)
        ec_store_u64(&record.stored_bytes, size_bytes)
    self.shared.ended_ticket += 1
    record.ended_ticket = self.shared.ended_ticket
    _take_mask(record, waiting)
    ec_store_u32(&record.state, state)
    ec_lock_release(&self.shared.lock)
    lease_wake(self.leases, waiting)


cdef bint stream_look(StreamTable* self, uint32_t number, uint64_t token, bint waits,
                      StreamRecord* found) noexcept nogil:
    cdef StreamRecord* record = &self.shared.records[number - 1]
    cdef bint is_there
    ec_lock_acquire(&self.shared.lock)
    is_there = ec_load_u32(&record.state) != STREAM_FREE and record.token == token
    if is_there:
        if waits:
            lease_mark(record.waiting, self.leases.processes.number)
        memcpy(found, record, sizeof(StreamRecord))
    ec_lock_release(&self.shared.lock)
    if is_there and found.state == STREAM_OPEN and not _is_live(self, found):
        found.state = STREAM_ABORTED
    return is_there


cdef bint _has_key(const StreamTable* self, uint32_t number, const char* key,
                   uint32_t key_bytes) noexcept nogil:
    return self.shared.records[number].key_bytes == key_bytes and \
        memcmp(stream_text(self, number), key, key_bytes) == 0


cdef uint32_t stream_find(StreamTable* self, uint64_t token, const char* key, uint32_t key_bytes,
                          StreamRecord* found) noexcept nogil:
    cdef StreamRecord* record
    cdef uint32_t number, place = 0
    cdef uint64_t newest = 0
    ec_lock_acquire(&self.shared.lock)
    for number in range(STREAMS_MAX):
        record = &self.shared.records[number]
        if record.state != STREAM_OPEN and not (token and record.state == STREAM_FINISHED):
            continue
        if (token and record.token != token) or record.token <= newest or \
                record.owner == self.leases.processes.number:
            continue
        if key == NULL or _has_key(self, number, key, key_bytes):
            newest = record.token
            place = number + 1
    if place:
        memcpy(found, &self.shared.records[place - 1], sizeof(StreamRecord))
    ec_lock_release(&self.shared.lock)
    return place if place and (found.state == STREAM_FINISHED or _is_live(self, found)) else 0


cdef bint stream_copy_text(StreamTable* self, uint32_t number, uint64_t token, char* target,
                           uint64_t size_bytes) noexcept nogil:
    cdef StreamRecord* record = &self.shared.records[number - 1]
    cdef bint is_there
    ec_lock_acquire(&self.shared.lock)
    is_there = record.state != STREAM_FREE and record.token == token and \
        <uint64_t>record.key_bytes + record.meta_bytes == size_bytes
    if is_there:
        memcpy(target, stream_text(self, number - 1), size_bytes)
    ec_lock_release(&self.shared.lock)
    return is_there


cdef void stream_leave(StreamTable* self, uint32_t owner) noexcept nogil:
    cdef StreamRecord* record
    cdef uint32_t number, index
    cdef uint64_t[LEASE_MASKS] waiting
    for index in range(LEASE_MASKS):
        waiting[index] = 0
    ec_lock_acquire(&self.shared.lock)
    for number in range(STREAMS_MAX):
        record = &self.shared.records[number]
        if record.state == STREAM_OPEN and record.owner == owner:
            for index in range(LEASE_MASKS):
                waiting[index] |= record.waiting[index]
                record.waiting[index] = 0
            self.shared.ended_ticket += 1
            record.ended_ticket = self.shared.ended_ticket
            ec_store_u32(&record.state, STREAM_ABORTED)
    ec_lock_release(&self.shared.lock)
    lease_wake(self.leases, waiting)
