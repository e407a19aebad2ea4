"""Putting and deleting one entry (see _change.pxd)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._evict cimport evict_admits, evict_prefetch_insert
from edgecache._fetch cimport (
    FETCH_FAILED,
    FETCH_FOUND,
    Fetch,
    FetchState,
    fetch_free,
    fetch_init,
    fetch_run,
)
from edgecache._flush cimport log_large_write, log_wait
from edgecache._index cimport index_prefetch_pair, size_class_of
from edgecache._memory cimport (
    MEMORY_BUDGET_BYTES_MIN,
    MEMORY_PAGE_BYTES,
    RamItem,
    item_disk_location,
    item_expiry_us,
    item_has_meta,
    item_meta,
    item_meta_len,
    item_set_disk,
    item_value,
    memory_allocate,
    memory_allocate_held,
    memory_free,
    memory_item,
    memory_publish,
    memory_publish_held,
    memory_set_budget,
)
from edgecache._meta cimport META_FIXED_BYTES, META_FLAG_OBJECT, meta_has_flag
from edgecache._part_format cimport PartSums, part_fill
from edgecache._reclaim cimport reclaim_tombstone
from edgecache._segment cimport (
    LOG_MAIN,
    LogStore,
    log_abandon,
    log_commit,
    log_is_large,
    log_large_begin,
    log_large_free,
    log_next_sequence,
    log_note_unlogged,
    log_reserve,
    log_wake,
)
from edgecache._segment_format cimport (
    RECORD_COMPOSITE,
    RECORD_DELETE,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    RECORD_OVERWRITES,
    RECORD_STRIPS,
    RECORD_TAGGED,
    RECORD_VERSION,
    RecordHeader,
    record_body,
    record_bytes,
    record_header_sum,
    record_key,
    record_meta,
    record_payload_sum,
    record_void,
)
from edgecache._shard cimport (
    Probe,
    Shard,
    ShardSet,
    shard_at,
    shard_erase_disk,
    shard_erase_ram,
    shard_fill_begin,
    shard_fill_drop,
    shard_fill_end,
    shard_index_bytes,
    shard_insert_disk,
    shard_insert_ram,
    shard_number,
    shard_probe,
)
from edgecache._status cimport Status
from edgecache._sync cimport (
    EC_THREAD_SANITIZER,
    ec_count,
    ec_grow_u32,
    ec_load_u32,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
)
from edgecache._xxhash cimport Hash128


cdef extern from *:
    """
    /* Above all sequences, which have 56 bits. */
    #define CHANGE_NEWEST ((uint64_t)1 << 56)
    """
    uint64_t CHANGE_NEWEST

cdef enum:
    PENDING_LOCATION = 1            # no record lies there: a block header does
    AHEAD_VALUE_BYTES_MAX = 4096
    PENDING_WAIT_NS = 20000000


cdef inline Shard* _shard(Change* self) noexcept nogil:
    return shard_at(self.engine.shards, shard_number(self.engine.shards, self.hash.high))


cdef void change_init(Change* self, Engine* engine, Hash128 hash, const char* key,
                      uint32_t key_len, uint32_t flags) noexcept nogil:
    cdef Shard* shard = shard_at(engine.shards, shard_number(engine.shards, hash.high))
    # Not a memset: the arrays are large and guarded by their counts.
    self.engine = engine
    self.hash = hash
    self.key = key
    self.key_len = key_len
    self.meta = NULL
    self.meta_len = 0
    self.value = NULL
    self.value_len = 0
    self.expiry_us = 0
    self.flags = flags
    self.head = 0
    self.has_append = 0
    self.is_large = 0
    self.pending = 0
    self.staged = 0
    self.staged_hold = 0
    self.known_count = 0
    self.existed_expired = 0
    self.has_object = 0
    self.object_head = NULL
    self.object_location = 0
    self.status = Status.STATUS_OK
    self.append.block_base = NULL
    self.kept_block = NULL
    # The buckets are needed only after the record was copied: have them fetched meanwhile. What is
    # read for that without the lock may be outdated, then the wrong lines are asked for.
    # Without the lock: whatever it takes for the index' pages is only asked for, never used.
    if not EC_THREAD_SANITIZER:
        index_prefetch_pair(engine.shards.base, &shard.index, hash.low)
    evict_prefetch_insert(engine.shards.base, &shard.memory.evict, hash.low)


cdef void _fill_strips(Change* self, RecordHeader* record) noexcept nogil:
    """Meta, body and payload sum of a chunk, in one pass over its bytes."""
    cdef PartSums sums
    cdef char* end
    record.flags |= RECORD_STRIPS
    part_fill(self.engine.log.api, self.engine.log.seed, record, self.value, &sums)
    end = record_body(record) + record.body_len
    memset(end, 0, self.append.record + self.append.size_bytes - end)
    # What the caller gave may change from here on.
    self.meta = record_meta(record)
    self.value = record_body(record)


cdef void _fill_record(Change* self) noexcept nogil:
    """Everything but sequence, OVERWRITES and header sum, which the critical section adds."""
    cdef LogStore* log = self.engine.log
    cdef RecordHeader* record = <RecordHeader*>self.append.record
    cdef char* target
    memset(record, 0, RECORD_HEADER_BYTES)
    record.magic = RECORD_MAGIC
    record.version = RECORD_VERSION
    record.key_len = <uint16_t>self.key_len
    record.hash_low = self.hash.low
    record.hash_high = self.hash.high
    if self.flags & CHANGE_COMPOSITE:
        record.flags |= RECORD_COMPOSITE
    target = record_key(record)
    memcpy(target, self.key, self.key_len)
    target += self.key_len
    if self.flags & CHANGE_DELETE:
        record.flags |= RECORD_DELETE
    else:
        record.meta_len = <uint16_t>self.meta_len
        record.body_len = self.value_len
        record.expiry_us = self.expiry_us
        if self.flags & CHANGE_TAGGED:
            record.flags |= RECORD_TAGGED
        if self.flags & CHANGE_STRIPS:
            _fill_strips(self, record)
            return
        memcpy(target, self.meta, self.meta_len)
        target += self.meta_len
        memcpy(target, self.value, self.value_len)
        target += self.value_len
    # Padding to the unit is part of the file: never somebody's old bytes.
    memset(target, 0, self.append.record + self.append.size_bytes - target)
    record.payload_sum = record_payload_sum(log.api, log.seed, record)


cdef Status _register_pending(Change* self) noexcept nogil:
    cdef Engine* engine = self.engine
    cdef uint32_t slot
    ec_lock_acquire(&engine.shared.pending_lock)
    for slot in range(PENDING_MAX):
        if not engine.shared.pending[slot].active:
            break
    else:
        ec_lock_release(&engine.shared.pending_lock)
        return Status.STATUS_AGAIN
    engine.shared.pending[slot].hash_low = self.hash.low
    engine.shared.pending[slot].hash_high = self.hash.high
    engine.shared.pending[slot].superseded = 0
    engine.shared.pending[slot].active = 1 if engine.processes == NULL \
        else engine.processes.number + 1
    ec_grow_u32(&engine.shared.pending_count, 1)
    self.pending = slot + 1
    self.large_sequence = log_next_sequence(engine.log)
    engine.shared.pending[slot].sequence = self.large_sequence
    (<RecordHeader*>self.append.record).sequence = self.large_sequence
    ec_lock_release(&engine.shared.pending_lock)
    return Status.STATUS_OK


cdef bint _is_pending(Change* self, uint64_t sequence, bint supersede) noexcept nogil:
    """Is there a large record of the key on its way that is older than `sequence`?

    `supersede`: this change, of that sequence, enters the index now; the caller holds the shard's
    lock.
    """
    cdef Engine* engine = self.engine
    cdef Pending* pending
    cdef uint32_t slot
    cdef bint found = False
    if ec_load_u32(&engine.shared.pending_count) == 0:
        return False
    ec_lock_acquire(&engine.shared.pending_lock)
    for slot in range(PENDING_MAX):
        pending = &engine.shared.pending[slot]
        if pending.active and pending.hash_low == self.hash.low and \
                pending.hash_high == self.hash.high and pending.sequence < sequence:
            pending.superseded |= supersede
            found = True
    ec_lock_release(&engine.shared.pending_lock)
    return found


cdef void _unregister_pending(Change* self) noexcept nogil:
    cdef Engine* engine = self.engine
    ec_lock_acquire(&engine.shared.pending_lock)
    engine.shared.pending[self.pending - 1].active = 0
    ec_grow_u32(&engine.shared.pending_count, <uint32_t>-1)
    self.pending = 0
    ec_lock_release(&engine.shared.pending_lock)


cdef Status change_prepare(Change* self) noexcept nogil:
    cdef LogStore* log = self.engine.log
    cdef uint64_t head_bytes, size
    cdef Status status
    if self.has_append:
        return Status.STATUS_OK
    if self.flags & CHANGE_DELETE or self.flags & CHANGE_NO_DISK:
        # A tombstone: of a delete, or of an older copy under a value that stays in RAM only.
        head_bytes = RECORD_HEADER_BYTES + self.key_len
        size = record_bytes(self.key_len, 0, 0)
    else:
        head_bytes = <uint64_t>RECORD_HEADER_BYTES + self.key_len + self.meta_len
        size = record_bytes(self.key_len, self.meta_len, self.value_len)
    if log_is_large(log, size):
        status = log_large_begin(log, self.head, size, head_bytes, &self.append)
        self.is_large = status == Status.STATUS_OK
    else:
        status = log_reserve(log, self.head, size, head_bytes, &self.append)
    if status != Status.STATUS_OK:
        return status
    self.has_append = 1
    if self.flags & CHANGE_NO_DISK:
        self.flags |= CHANGE_DELETE
        _fill_record(self)
        self.flags &= ~<uint32_t>CHANGE_DELETE
    else:
        _fill_record(self)
    return Status.STATUS_OK


cdef Status change_write_large(Change* self) noexcept nogil:
    cdef LogStore* log = self.engine.log
    cdef RecordHeader* record = <RecordHeader*>self.append.record
    cdef Status status
    if not self.pending:
        status = _register_pending(self)
        if status != Status.STATUS_OK:
            return status
    # Whether an older version lies on disk is not known yet; to say so only costs a tombstone.
    record.flags |= RECORD_OVERWRITES
    record.header_sum = record_header_sum(log.api, log.seed, self.append.generation, record)
    return log_large_write(log, &self.append)


cdef inline bint _memory_admits(Change* self, Shard* shard) noexcept nogil:
    """Values that are big for the policy stay out of RAM when there is a disk to hold them."""
    return self.engine.log == NULL or self.flags & CHANGE_NO_DISK or \
        evict_admits(&shard.memory.evict, self.value_len)


cdef void change_stage(Change* self) noexcept nogil:
    cdef ShardSet* shards = self.engine.shards
    cdef Shard* shard = _shard(self)
    if self.staged or self.flags & CHANGE_NO_MEMORY:
        return
    if not _memory_admits(self, shard):
        self.flags |= CHANGE_NO_MEMORY
        return
    ec_lock_acquire(&shard.lock)
    self.staged = shard_fill_begin(shards, shard, self.key, self.key_len, self.meta_len,
                                   self.value_len, self.expiry_us, &self.staged_hold)
    ec_lock_release(&shard.lock)
    if self.staged == 0:
        self.flags |= CHANGE_NO_MEMORY
        ec_count(&self.engine.shared.memory_skip_count, 1)


cdef void change_stage_copy(Change* self) noexcept nogil:
    cdef RamItem* item
    if not self.staged:
        return
    item = memory_item(self.engine.shards.base, &_shard(self).memory, self.staged)
    memcpy(item_meta(item), self.meta, self.meta_len)
    memcpy(item_value(item), self.value, self.value_len)


cdef void engine_rebalance_locked(Engine* engine, Shard* shard) noexcept nogil:
    cdef uint64_t index_bytes = shard_index_bytes(shard), budget
    cdef uint64_t least = MEMORY_BUDGET_BYTES_MIN
    # What the dead left, of the living, is within the budget.
    index_bytes += shard.kept_bytes
    budget = engine.shard_budget_bytes - index_bytes \
        if engine.shard_budget_bytes > index_bytes + least else least
    budget -= budget % MEMORY_PAGE_BYTES
    if budget < shard.memory.budget_bytes:
        memory_set_budget(engine.shards.base, &shard.memory, &engine.shards.hooks[shard.number],
                          budget)


cdef int _unresolved(Change* self) noexcept nogil:
    """How many candidates of the last probe were not compared yet."""
    cdef uint32_t index, known, missing = 0
    for index in range(self.probe.count):
        for known in range(self.known_count):
            if self.known[known] == self.probe.candidates[index].location:
                break
        else:
            missing += 1
    return missing


cdef uint64_t _same_location(Change* self) noexcept nogil:
    """The candidate that holds this key, 0: none."""
    cdef uint32_t index, known
    for index in range(self.probe.count):
        for known in range(self.known_count):
            if self.known_same[known] and \
                    self.known[known] == self.probe.candidates[index].location:
                return self.known[known]
    return 0


cdef void _note_disk_object(Change* self, const Fetch* found, const Probe* one) noexcept nogil:
    """Read the head of an object that is only on disk. Costs a plain record nothing."""
    cdef Fetch whole
    if self.object_head == NULL or found.available < <uint64_t>RECORD_HEADER_BYTES \
            + self.key_len + META_FIXED_BYTES or not meta_has_flag(
                record_meta(found.record), found.record.meta_len, META_FLAG_OBJECT):
        return
    fetch_init(&whole, self.engine.log, self.engine.shards, self.hash, self.key, self.key_len, one,
               False)
    if fetch_run(&whole) == FETCH_FOUND and whole.record.body_len >= OBJECT_HEAD_BYTES:
        memcpy(self.object_head, record_body(whole.record), OBJECT_HEAD_BYTES)
        self.object_location = whole.location
    fetch_free(&whole)


cdef void change_resolve(Change* self, int64_t now_us) noexcept nogil:
    """Read the headers of candidates that are not known yet."""
    cdef Fetch fetch
    cdef Probe one
    cdef FetchState state
    cdef uint32_t index, known
    for index in range(self.probe.count):
        for known in range(self.known_count):
            if self.known[known] == self.probe.candidates[index].location:
                break
        else:
            one.ram = 0
            one.count = 1
            one.truncated = 0
            one.candidates[0] = self.probe.candidates[index]
            fetch_init(&fetch, self.engine.log, self.engine.shards, self.hash, self.key,
                       self.key_len, &one, True)
            if self.known_count == 16:
                # More clashes than a key can have: forget the oldest verdicts.
                self.known_count = 0
            self.known[self.known_count] = one.candidates[0].location
            state = fetch_run(&fetch)
            # What cannot be read counts as this key's: its slot goes, and the log says so. Were it
            # left, an older version could come back once the device reads again.
            self.known_same[self.known_count] = state in (FETCH_FOUND, FETCH_FAILED)
            if state == FETCH_FOUND:
                self.existed_expired = fetch.record.expiry_us != 0 and \
                    fetch.record.expiry_us <= now_us
                _note_disk_object(self, &fetch, &one)
            self.known_count += 1
            fetch_free(&fetch)


cdef inline uint64_t _sequence(Change* self) noexcept nogil:
    """Of this change, now; without a record of its own it is newer than all that there are."""
    return log_next_sequence(self.engine.log) if self.has_append else CHANGE_NEWEST


cdef void _seal_record(Change* self, uint64_t sequence, bint overwrites) noexcept nogil:
    cdef LogStore* log = self.engine.log
    cdef RecordHeader* record = <RecordHeader*>self.append.record
    if overwrites:
        record.flags |= RECORD_OVERWRITES
    if record.flags & RECORD_DELETE:
        record.expiry_us = <int64_t>ec_load_u64(&log.shared.generation)
    record.sequence = sequence
    record.header_sum = record_header_sum(log.api, log.seed, self.append.generation, record)


cdef inline void _place_ahead(Change* self, Shard* shard) noexcept nogil:
    """Without a log, nothing was copied since the index' buckets were asked for: evict and copy
    now, while they are on their way. An old value of the key is freed only after that, so this
    may evict one item too many; its place serves the next put. So not for large values.
    """
    cdef ShardSet* shards = self.engine.shards
    if self.engine.log != NULL or self.staged or self.flags & (CHANGE_DELETE | CHANGE_NO_MEMORY) \
            or self.value_len > AHEAD_VALUE_BYTES_MAX:
        return
    self.staged = memory_allocate(shards.base, &shard.memory, &shards.hooks[shard.number],
                                  self.key, self.key_len, self.meta_len, self.value_len,
                                  self.expiry_us)
    change_stage_copy(self)


cdef uint32_t _place_in_memory(Change* self, Shard* shard) noexcept nogil:
    """A filled item for the value, or 0."""
    cdef ShardSet* shards = self.engine.shards
    cdef RamItem* item
    cdef uint32_t reference
    if self.staged:
        reference = self.staged
        self.staged = 0
        return reference if shard_fill_end(shards, shard, self.staged_hold) else 0
    if self.flags & CHANGE_NO_MEMORY or not _memory_admits(self, shard):
        return 0
    reference = memory_allocate_held(shards.base, &shard.memory, &shards.hooks[shard.number],
                                     self.key, self.key_len, self.meta_len, self.value_len,
                                     self.expiry_us)
    if reference == 0:
        ec_count(&self.engine.shared.memory_skip_count, 1)
        return 0
    item = memory_item(shards.base, &shard.memory, reference)
    memcpy(item_meta(item), self.meta, self.meta_len)
    memcpy(item_value(item), self.value, self.value_len)
    return reference


cdef Status _insert(Change* self, Shard* shard, uint64_t location) noexcept nogil:
    """The new slot; the key has none now."""
    cdef ShardSet* shards = self.engine.shards
    cdef bint was_staged = self.staged != 0
    cdef uint32_t reference = _place_in_memory(self, shard)
    cdef uint8_t size_class = size_class_of(self.append.size_bytes) if location else 0
    cdef Status status
    if reference:
        item_set_disk(memory_item(shards.base, &shard.memory, reference), location, size_class)
        # The lock is held until the slot is there too, or the item is gone again.
        if was_staged:
            memory_publish(shards.base, &shard.memory, &shards.hooks[shard.number], reference,
                           self.hash.low)
        else:
            memory_publish_held(shards.base, &shard.memory, &shards.hooks[shard.number], reference,
                                self.hash.low)
        status = shard_insert_ram(shards, shard, self.hash.low, reference)
        if status != Status.STATUS_OK:
            memory_free(shards.base, &shard.memory, reference)
        return status
    if location:
        return shard_insert_disk(shards, shard, self.hash.low, location, size_class, 0)
    return Status.STATUS_NO_SPACE


cdef void _withdraw(Change* self, bint hides) noexcept nogil:
    """The put is refused: no recovery may find its record, and what it hid stays hidden."""
    cdef LogStore* log = self.engine.log
    cdef RecordHeader* record = <RecordHeader*>self.append.record
    cdef uint64_t size = record_bytes(self.key_len, 0, 0)
    cdef char* end = record_key(record) + self.key_len
    if not hides:
        record_void(log.api, log.seed, self.append.generation, record, self.append.size_bytes)
        return
    record.flags = <uint8_t>(RECORD_DELETE | (record.flags & RECORD_COMPOSITE))
    record.meta_len = 0
    record.body_len = 0
    record.expiry_us = <int64_t>ec_load_u64(&log.shared.generation)
    memset(end, 0, self.append.record + size - end)
    record.payload_sum = record_payload_sum(log.api, log.seed, record)
    record.header_sum = record_header_sum(log.api, log.seed, self.append.generation, record)
    if size < self.append.size_bytes:
        record_void(log.api, log.seed, self.append.generation,
                    <RecordHeader*>(self.append.record + size), self.append.size_bytes - size)


cdef void _withdraw_large(Change* self) noexcept nogil:
    """The same for a block that is on the device already: a tombstone of its own sequence."""
    cdef Shard* shard = _shard(self)
    cdef LogStore* log = self.engine.log
    if reclaim_tombstone(log, LOG_MAIN, self.hash.low, self.hash.high, self.key, self.key_len,
                         self.large_sequence,
                         ec_load_u64(&log.shared.generation)) == Status.STATUS_OK:
        return
    ec_lock_acquire(&shard.lock)
    log_note_unlogged(log)
    ec_lock_release(&shard.lock)
    log_wake(&log.shared.reclaim_word)


cdef ChangeResult _finish_put(Change* self, Shard* shard, uint64_t old_disk) noexcept nogil:
    """Old slots are gone, the lock is held: insert the new one."""
    cdef uint64_t location = 0, sequence = self.large_sequence
    cdef bint hides
    if not self.is_large:
        sequence = _sequence(self)
    hides = _is_pending(self, sequence, True) or old_disk != 0
    if self.is_large:
        _unregister_pending(self)
        location = self.append.location
    elif self.has_append:
        _seal_record(self, sequence, hides)
        location = 0 if self.flags & CHANGE_NO_DISK else self.append.location
    self.status = _insert(self, shard, location)
    if self.status == Status.STATUS_NO_MEMORY:
        ec_count(&self.engine.shared.index_full_count, 1)
    engine_rebalance_locked(self.engine, shard)
    if self.status == Status.STATUS_OK:
        shard.counters.put_count += 1
        shard.counters.put_bytes += self.value_len
    elif location and not self.is_large:
        _withdraw(self, hides)
    return CHANGE_DONE if self.status == Status.STATUS_OK else CHANGE_FAILED


cdef void _drop_staged(Change* self) noexcept nogil:
    cdef Shard* shard = _shard(self)
    ec_lock_acquire(&shard.lock)
    shard_fill_drop(self.engine.shards, shard, self.staged, self.staged_hold)
    ec_lock_release(&shard.lock)
    self.staged = 0


cdef void _release(Change* self) noexcept nogil:
    """The reservation is used: hand it to the log."""
    if self.staged:
        _drop_staged(self)
    if self.is_large:
        log_large_free(self.engine.log, &self.append)
    elif self.has_append:
        log_commit(self.engine.log, &self.append)
    self.has_append = 0
    self.is_large = 0


cdef bint _is_expected(Change* self, Shard* shard, uint64_t same) noexcept nogil:
    """Is the entry still the version that the caller read?"""
    cdef RamItem* item
    if self.probe.ram == 0:
        return same != 0 and same == self.expected_location
    item = memory_item(self.engine.shards.base, &shard.memory, self.probe.ram)
    return item.version == self.expected_version or (
        self.expected_location != 0 and item_disk_location(item) == self.expected_location)


cdef inline void _note_object(Change* self, const RamItem* item) noexcept nogil:
    if self.object_head != NULL and item.value_len >= OBJECT_HEAD_BYTES and \
            meta_has_flag(item_meta(<RamItem*>item), item_meta_len(item), META_FLAG_OBJECT):
        memcpy(self.object_head, item_value(<RamItem*>item), OBJECT_HEAD_BYTES)
        self.has_object = 1


cdef inline bint _hide_deleted(Change* self, uint64_t old_disk) noexcept nogil:
    """Seal the tombstone; True: there is none, and one was needed."""
    cdef uint64_t sequence = _sequence(self)
    _is_pending(self, sequence, True)
    if self.has_append:
        _seal_record(self, sequence, False)
    elif old_disk:
        log_note_unlogged(self.engine.log)
        return True
    return False


cdef inline void _unlock(Change* self, Shard* shard, bint unlogged) noexcept nogil:
    """`unlogged`: a checkpoint is due (log_note_unlogged), which the maintainer shall learn."""
    ec_lock_release(&shard.lock)
    if unlogged:
        log_wake(&self.engine.log.shared.reclaim_word)


cdef ChangeResult change_commit(Change* self, int64_t now_us) noexcept nogil:
    cdef ShardSet* shards = self.engine.shards
    cdef Shard* shard = _shard(self)
    cdef RamItem* item = NULL
    cdef uint64_t old_disk = 0, same
    cdef bint expired = False, is_delete = self.flags & CHANGE_DELETE != 0
    cdef ChangeResult result
    cdef bint unlogged = False
    ec_lock_acquire(&shard.lock)
    if self.is_large and self.pending and self.engine.shared.pending[self.pending - 1].superseded:
        # The slots there now belong to the newer change: as if this one had come just before it.
        _unregister_pending(self)
        ec_count(&self.engine.shared.superseded_count, 1)
        ec_lock_release(&shard.lock)
        _release(self)
        return CHANGE_DONE
    _place_ahead(self, shard)
    shard_probe(shards.base, shard, self.hash.low, self.key, self.key_len, &self.probe)
    if self.probe.truncated or _unresolved(self):
        ec_lock_release(&shard.lock)
        if not self.probe.truncated:
            return CHANGE_RESOLVE
        self.status = Status.STATUS_SHED
        return CHANGE_FAILED
    same = _same_location(self)
    if self.flags & CHANGE_IF_SAME and not _is_expected(self, shard, same):
        ec_lock_release(&shard.lock)
        change_abandon(self)
        return CHANGE_NOTHING
    if self.probe.ram:
        item = memory_item(shards.base, &shard.memory, self.probe.ram)
        old_disk = item_disk_location(item)
        expired = item_expiry_us(item) != 0 and item_expiry_us(item) <= now_us
    elif same:
        old_disk = same
        expired = self.existed_expired != 0
    # A large record on its way counts as older than this change, and needs to be hidden as well.
    if not self.has_append and self.flags & (CHANGE_DELETE | CHANGE_NO_DISK) and \
            self.engine.log != NULL and _is_pending(self, CHANGE_NEWEST, False):
        old_disk = old_disk if old_disk else PENDING_LOCATION
    if is_delete and self.probe.ram == 0 and same == 0 and not self.has_append and \
            (old_disk == 0 or self.flags & CHANGE_UNLOGGED):
        if old_disk:
            _is_pending(self, CHANGE_NEWEST, True)
            log_note_unlogged(self.engine.log)
        _unlock(self, shard, old_disk != 0)
        change_abandon(self)
        return CHANGE_NOTHING
    if old_disk and not self.has_append and self.flags & (CHANGE_DELETE | CHANGE_NO_DISK) and \
            not self.flags & CHANGE_UNLOGGED:
        ec_lock_release(&shard.lock)
        return CHANGE_RESERVE
    if self.probe.ram:
        if item_has_meta(item):
            _note_object(self, item)
        shard_erase_ram(shards, shard, self.hash.low, self.probe.ram)
    elif same:
        self.has_object = self.object_location == same
        shard_erase_disk(shards.base, shard, self.hash.low, same)
    if is_delete:
        unlogged = _hide_deleted(self, old_disk)
        expired = expired or (self.probe.ram == 0 and same == 0)
        shard.counters.delete_count += not expired
        result = CHANGE_NOTHING if expired else CHANGE_DONE
    else:
        result = _finish_put(self, shard, old_disk)
    _unlock(self, shard, unlogged)
    if result == CHANGE_FAILED and self.is_large:
        _withdraw_large(self)
    _release(self)
    return result


cdef void change_abandon(Change* self) noexcept nogil:
    if self.staged:
        _drop_staged(self)
    if self.pending:
        # Its block may be on the device already.
        _unregister_pending(self)
        _withdraw_large(self)
    if self.is_large:
        log_large_free(self.engine.log, &self.append)
    elif self.has_append:
        log_abandon(self.engine.log, &self.append)
    self.has_append = 0
    self.is_large = 0


cdef bint change_finish_put(Change* self) noexcept nogil:
    cdef ChangeResult result = CHANGE_RESOLVE
    cdef LogStore* log = self.engine.log
    self.status = change_write_large(self) if self.is_large else Status.STATUS_OK
    while self.status == Status.STATUS_AGAIN:
        # Too many large records on their way: one of them will be done soon.
        log_wait(log, ec_monotonic_ns() + <int64_t>PENDING_WAIT_NS)
        self.status = change_write_large(self)
    if self.flags & CHANGE_KEEP_BLOCK:
        self.kept_block = self.append.block_base
        self.append.block_base = NULL
    if self.status == Status.STATUS_OK:
        change_stage(self)
        change_stage_copy(self)
        while result == CHANGE_RESOLVE:
            result = change_commit(self, 0)
            if result == CHANGE_RESOLVE:
                change_resolve(self, 0)
    if result != CHANGE_DONE:
        change_abandon(self)
    return result == CHANGE_DONE
