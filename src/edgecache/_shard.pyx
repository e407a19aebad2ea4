"""What ties index and RAM tier of one shard together (see _shard.pxd)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from edgecache._evict cimport EvictKind
from edgecache._index cimport (
    INDEX_FREQUENCY_MAX,
    IndexCursor,
    index_erase,
    index_find,
    index_insert,
    index_next,
    index_prefetch_pair,
    index_replace,
    index_scan,
    index_seek,
    index_set_frequency,
)
from edgecache._index_check cimport index_check
from edgecache._memory cimport (
    MEMORY_BUDGET_BYTES_MIN,
    MemoryHooks,
    RamItem,
    item_disk_location,
    item_disk_size_class,
    item_key,
    item_key_len,
    item_set_disk,
    memory_allocate,
    memory_check,
    memory_free,
    memory_init,
    memory_item,
    memory_pin,
    memory_set_budget,
    memory_unpin,
)
from edgecache._pages cimport pages_back, pages_discard
from edgecache._process cimport HOLD_FILL, HOLD_PIN, hold_at, hold_give, hold_take
from edgecache._status cimport Status
from edgecache._sync cimport ec_lock_acquire, ec_lock_release, ec_monotonic_ns, ec_prefetch
from edgecache._xxhash cimport XxhashApi


cdef enum:
    REFUSED_NS = 100000000          # no memory for the index: it is asked for again after that


cdef inline bint _key_equals(RamItem* item, const char* key, uint32_t key_len) noexcept nogil:
    return item_key_len(item) == key_len and memcmp(item_key(item), key, key_len) == 0


cdef uint32_t shard_find_ram(char* base, Shard* shard, uint64_t hash, const char* key,
                             uint32_t key_len, IndexCursor* cursor) noexcept nogil:
    index_seek(base, &shard.index, hash, cursor)
    while index_next(base, &shard.index, cursor):
        if cursor.is_ram and _key_equals(
                memory_item(base, &shard.memory, <uint32_t>cursor.location), key, key_len):
            return <uint32_t>cursor.location
    return 0


cdef void shard_probe(char* base, Shard* shard, uint64_t hash, const char* key, uint32_t key_len,
                      Probe* out) noexcept nogil:
    cdef IndexCursor cursor
    out.ram = 0
    out.count = 0
    out.truncated = 0
    index_seek(base, &shard.index, hash, &cursor)
    while index_next(base, &shard.index, &cursor):
        if cursor.is_ram:
            if _key_equals(memory_item(base, &shard.memory, <uint32_t>cursor.location), key,
                           key_len):
                # Invariant 1: the key has no other slot, so the rest are foreign.
                out.ram = <uint32_t>cursor.location
                out.count = 0
                return
        elif out.count < PROBE_CANDIDATES_MAX:
            out.candidates[out.count].location = cursor.location
            out.candidates[out.count].size_class = cursor.size_class
            out.candidates[out.count].frequency = cursor.frequency
            out.count += 1
        else:
            out.truncated = 1


cdef void shard_bump_all(const ShardSet* shards, const Shard* shard) noexcept nogil:
    cdef uint64_t slot
    for slot in range(shards.epoch_mask + 1):
        shard_epoch_bump(shards, shard, slot << 20)


cdef void shard_erase_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                          uint32_t reference) noexcept nogil:
    cdef char* base = shards.base
    cdef IndexCursor cursor
    shard_epoch_bump(shards, shard, hash)
    if index_find(base, &shard.index, hash, reference, True, &cursor):
        index_erase(base, &shard.index, &cursor)
    memory_free(base, &shard.memory, reference)


cdef bint shard_erase_disk(char* base, Shard* shard, uint64_t hash,
                           uint64_t location) noexcept nogil:
    cdef IndexCursor cursor
    if not index_find(base, &shard.index, hash, location, False, &cursor):
        return False
    index_erase(base, &shard.index, &cursor)
    return True


cdef void shard_index_back(char* base, Shard* shard, uint64_t used_bytes) noexcept nogil:
    cdef uint64_t limit = shard.index.used_bytes_limit
    cdef uint64_t wanted = (used_bytes + 2 * INDEX_AHEAD_BYTES + (used_bytes >> 3) + 4095) \
        & ~<uint64_t>4095
    wanted = min(wanted, shard.index_bytes)
    if wanted <= limit or ec_monotonic_ns() < shard.refused_until_ns:
        return
    if pages_back(base + shard.index_offset + limit, wanted - limit) == 0:
        shard.index.used_bytes_limit = wanted
        return
    # What was given of it goes back.
    pages_discard(base + shard.index_offset + limit, wanted - limit)
    shard.refused_count += 1
    shard.refused_until_ns = ec_monotonic_ns() + <int64_t>REFUSED_NS


cdef Status shard_insert_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                             uint32_t reference) noexcept nogil:
    shard_index_ready(shards.base, shard)
    return index_insert(shards.base, &shard.index, hash, reference, 0, True, 0)


cdef Status shard_insert_disk(ShardSet* shards, Shard* shard, uint64_t hash, uint64_t location,
                              uint8_t size_class, uint8_t frequency) noexcept nogil:
    shard_index_ready(shards.base, shard)
    return index_insert(shards.base, &shard.index, hash, location, size_class, False, frequency)


cdef uint32_t _ram_of_location(char* base, Shard* shard, uint64_t hash, uint64_t location,
                               IndexCursor* cursor) noexcept nogil:
    """The RAM item whose copy on disk is at `location`, with the cursor on its slot."""
    index_seek(base, &shard.index, hash, cursor)
    while index_next(base, &shard.index, cursor):
        if cursor.is_ram and location == item_disk_location(
                memory_item(base, &shard.memory, <uint32_t>cursor.location)):
            return <uint32_t>cursor.location
    return 0


cdef int shard_location_heat(char* base, Shard* shard, uint64_t hash,
                             uint64_t location) noexcept nogil:
    cdef IndexCursor cursor
    if index_find(base, &shard.index, hash, location, False, &cursor):
        return cursor.frequency
    if _ram_of_location(base, shard, hash, location, &cursor):
        return cursor.frequency + 1
    return -1


cdef bint shard_relocate(char* base, Shard* shard, uint64_t hash, uint64_t source, uint64_t target,
                         uint8_t size_class) noexcept nogil:
    cdef IndexCursor cursor
    cdef uint32_t reference
    if index_find(base, &shard.index, hash, source, False, &cursor):
        index_replace(base, &shard.index, &cursor, target, size_class, False)
        # S3-FIFO: a survivor has used up one of its accesses.
        if cursor.frequency:
            index_set_frequency(base, &shard.index, &cursor, cursor.frequency - 1)
        return True
    reference = _ram_of_location(base, shard, hash, source, &cursor)
    if reference:
        item_set_disk(memory_item(base, &shard.memory, reference), target, size_class)
        return True
    return False


cdef bint shard_drop_location(char* base, Shard* shard, uint64_t hash,
                              uint64_t location) noexcept nogil:
    cdef IndexCursor cursor
    cdef uint32_t reference
    if index_find(base, &shard.index, hash, location, False, &cursor):
        index_erase(base, &shard.index, &cursor)
        shard.counters.disk_eviction_count += 1
        return True
    reference = _ram_of_location(base, shard, hash, location, &cursor)
    if reference:
        item_set_disk(memory_item(base, &shard.memory, reference), 0, 0)
        return True
    return False


cdef void _on_evict(void* context, uint32_t reference, uint64_t hash) noexcept nogil:
    """The item leaves RAM: its slot points to the disk from now on, or goes."""
    cdef ShardLocal* local = <ShardLocal*>context
    cdef char* base = local.shards.base
    cdef Shard* shard = local.shard
    cdef RamItem* item = memory_item(base, &shard.memory, reference)
    cdef uint64_t location = item_disk_location(item)
    cdef IndexCursor cursor
    shard_epoch_bump(local.shards, local.shard, hash)
    if not index_find(base, &shard.index, hash, reference, True, &cursor):
        return
    if location == 0:
        index_erase(base, &shard.index, &cursor)
        shard.counters.memory_eviction_count += 1
        return
    index_replace(base, &shard.index, &cursor, location, item_disk_size_class(item), False)
    # Hits in RAM count for the region's survival too.
    if item.node.frequency and cursor.frequency < INDEX_FREQUENCY_MAX:
        index_set_frequency(base, &shard.index, &cursor, cursor.frequency + 1)
    shard.counters.demotion_count += 1


cdef void _on_move(void* context, uint32_t source, uint32_t target, uint64_t hash) noexcept nogil:
    cdef ShardLocal* local = <ShardLocal*>context
    cdef IndexCursor cursor
    shard_epoch_bump(local.shards, local.shard, hash)
    if index_find(local.shards.base, &local.shard.index, hash, source, True, &cursor):
        index_replace(local.shards.base, &local.shard.index, &cursor, target, 0, True)


cdef uint64_t _hash_key(void* context, const char* key, uint64_t key_len) noexcept nogil:
    cdef ShardLocal* local = <ShardLocal*>context
    return local.api.bits128(key, key_len, local.seed).low


cdef void _foresee(void* context, uint64_t hash) noexcept nogil:
    cdef ShardLocal* local = <ShardLocal*>context
    index_prefetch_pair(local.shards.base, &local.shard.index, hash)
    ec_prefetch(shard_epoch(local.shards, local.shard, hash))


cdef uint32_t shard_pin(ShardSet* shards, Shard* shard, uint32_t reference) noexcept nogil:
    cdef uint32_t hold = 1
    if shards.processes != NULL:
        hold = hold_take(shards.processes, HOLD_PIN, shard.number, reference, shard.incarnation,
                         memory_item(shards.base, &shard.memory, reference).node.size_bytes, 0)
        if hold == 0:
            return 0
    if memory_pin(shards.base, &shard.memory, reference):
        return hold
    if shards.processes != NULL:
        hold_give(shards.processes, hold)
    return 0


cdef bint _take_back(ShardSet* shards, Shard* shard, uint32_t hold) noexcept nogil:
    """Give a hold back; False: what it holds lies in an area that the shard has left."""
    cdef bint is_current = hold_at(shards.processes, hold).incarnation == shard.incarnation
    hold_give(shards.processes, hold)
    if not is_current and shard.stale_holds:
        shard_drain(shards, shard, shard.stale_holds - 1)
    return is_current


cdef void shard_unpin(ShardSet* shards, Shard* shard, uint32_t reference,
                      uint32_t hold) noexcept nogil:
    if shards.processes == NULL or _take_back(shards, shard, hold):
        memory_unpin(shards.base, &shard.memory, reference)


cdef uint32_t shard_fill_begin(ShardSet* shards, Shard* shard, const char* key, uint32_t key_len,
                               uint32_t meta_len, uint64_t value_len, int64_t expiry_us,
                               uint32_t* hold) noexcept nogil:
    cdef uint32_t reference = memory_allocate(shards.base, &shard.memory,
                                              &shards.hooks[shard.number], key, key_len, meta_len,
                                              value_len, expiry_us)
    hold[0] = 0
    if reference and shards.processes != NULL:
        hold[0] = hold_take(shards.processes, HOLD_FILL, shard.number, reference,
                            shard.incarnation,
                            memory_item(shards.base, &shard.memory, reference).node.size_bytes, 0)
        if hold[0] == 0:
            memory_free(shards.base, &shard.memory, reference)
            return 0
    return reference


cdef bint shard_fill_end(ShardSet* shards, Shard* shard, uint32_t hold) noexcept nogil:
    return shards.processes == NULL or _take_back(shards, shard, hold)


cdef void shard_fill_drop(ShardSet* shards, Shard* shard, uint32_t reference,
                          uint32_t hold) noexcept nogil:
    if shard_fill_end(shards, shard, hold):
        memory_free(shards.base, &shard.memory, reference)


cdef void shard_reopen(ShardSet* shards, Shard* shard, uint32_t version) noexcept nogil:
    cdef uint64_t budget = MEMORY_BUDGET_BYTES_MIN if shard.is_closed \
        else shard.budget_bytes - shard.kept_bytes
    memory_init(shards.base, &shard.memory, <EvictKind>shard.policy,
                shard.area_offsets[shard.incarnation & 1], shard.area_bytes, budget,
                shard.private_offset, shard.private_bytes)
    shard.memory.slab.is_file = shard.is_file
    shard.memory.version_last = version
    if shard.is_closed:
        memory_set_budget(shards.base, &shard.memory, &shards.hooks[shard.number], 0)


cdef void shard_punch(ShardSet* shards, uint64_t offset, uint64_t size_bytes) noexcept nogil:
    pages_discard(shards.base + offset, size_bytes)


cdef void shard_drain(ShardSet* shards, Shard* shard, uint32_t stale) noexcept nogil:
    cdef uint64_t budget, index_bytes = shard_index_bytes(shard)
    shard.stale_holds = stale
    if stale:
        return
    shard_punch(shards, shard.area_offsets[(shard.incarnation & 1) ^ 1], shard.area_bytes)
    shard.kept_bytes = 0
    if shard.is_closed:
        shard_punch(shards, shard.area_offsets[shard.incarnation & 1], shard.area_bytes)
        shard.is_closed = 0
        shard_reopen(shards, shard, shard.memory.version_last)
    budget = max(shard.budget_bytes - min(index_bytes, shard.budget_bytes),
                 <uint64_t>MEMORY_BUDGET_BYTES_MIN)
    memory_set_budget(shards.base, &shard.memory, &shards.hooks[shard.number], budget)


cdef int shard_set_open(ShardSet* shards, const XxhashApi* api, uint64_t seed) noexcept nogil:
    cdef uint32_t number
    shards.epoch_mask = SHARD_EPOCHS // shards.count - 1
    shards.hooks = <MemoryHooks*>calloc(shards.count, sizeof(MemoryHooks))
    shards.locals = <ShardLocal*>calloc(shards.count, sizeof(ShardLocal))
    if shards.hooks == NULL or shards.locals == NULL:
        return -1
    for number in range(shards.count):
        shards.locals[number].shards = shards
        shards.locals[number].shard = shard_at(shards, number)
        shards.hooks[number].on_evict = _on_evict
        shards.hooks[number].on_move = _on_move
        shards.locals[number].api = api
        shards.locals[number].seed = seed
        shards.hooks[number].hash_key = _hash_key
        shards.hooks[number].foresee = _foresee
        shards.hooks[number].context = &shards.locals[number]
    return 0


cdef void shard_set_close(ShardSet* shards) noexcept nogil:
    free(shards.hooks)
    free(shards.locals)
    shards.hooks = NULL
    shards.locals = NULL


cdef int shard_check(ShardSet* shards, Shard* shard) noexcept nogil:
    """0, or which part is broken (1 index, 2 RAM tier, 3 a slot without its item), plus ten times
    the number of the invariant.
    """
    cdef IndexCursor cursor
    cdef uint64_t position = 0, ram_slots = 0
    cdef int result = 0, broken
    ec_lock_acquire(&shard.lock)
    broken = index_check(shards.base, &shard.index)
    if broken:
        result = 1 + 10 * broken
    if not result:
        broken = memory_check(shards.base, &shard.memory)
        if broken:
            result = 2 + 10 * broken
    if not result:
        while index_scan(shards.base, &shard.index, &position, &cursor):
            if cursor.is_ram:
                ram_slots += 1
        if ram_slots + shard.memory.zombie_count != shard.memory.item_count:
            result = 3
    ec_lock_release(&shard.lock)
    return result
