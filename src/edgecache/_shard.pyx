"""What ties index and RAM tier of one shard together (see _shard.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from edgecache._index cimport (
    INDEX_FREQUENCY_MAX,
    IndexCursor,
    index_check,
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
from edgecache._memory cimport (
    MemoryHooks,
    RamItem,
    item_disk_location,
    item_disk_size_class,
    item_key,
    item_key_len,
    item_set_disk,
    memory_check,
    memory_free,
    memory_item,
)
from edgecache._status cimport Status
from edgecache._sync cimport ec_add_u32, ec_lock_acquire, ec_lock_release, ec_prefetch
from edgecache._xxhash cimport XxhashApi


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


cdef void shard_bump_all(const ShardSet* shards) noexcept nogil:
    cdef uint32_t slot
    for slot in range(SHARD_EPOCHS):
        ec_add_u32(<uint32_t*>(shards.base + shards.epochs_offset) + slot, 1)


cdef void shard_erase_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                          uint32_t reference) noexcept nogil:
    cdef char* base = shards.base
    cdef IndexCursor cursor
    ec_add_u32(shard_epoch(shards, hash), 1)
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


cdef Status shard_insert_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                             uint32_t reference) noexcept nogil:
    return index_insert(shards.base, &shard.index, hash, reference, 0, True, 0)


cdef Status shard_insert_disk(ShardSet* shards, Shard* shard, uint64_t hash, uint64_t location,
                              uint8_t size_class, uint8_t frequency) noexcept nogil:
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
    ec_add_u32(shard_epoch(local.shards, hash), 1)
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
    ec_add_u32(shard_epoch(local.shards, hash), 1)
    if index_find(local.shards.base, &local.shard.index, hash, source, True, &cursor):
        index_replace(local.shards.base, &local.shard.index, &cursor, target, 0, True)


cdef uint64_t _hash_key(void* context, const char* key, uint64_t key_len) noexcept nogil:
    cdef ShardLocal* local = <ShardLocal*>context
    return local.api.bits128(key, key_len, local.seed).low


cdef void _foresee(void* context, uint64_t hash) noexcept nogil:
    cdef ShardLocal* local = <ShardLocal*>context
    index_prefetch_pair(local.shards.base, &local.shard.index, hash)
    ec_prefetch(shard_epoch(local.shards, hash))


cdef int shard_set_open(ShardSet* shards, const XxhashApi* api, uint64_t seed) noexcept nogil:
    cdef uint32_t number
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
    """0, or which part is broken: 1 index, 2 RAM tier, 3 a slot without its item."""
    cdef IndexCursor cursor
    cdef uint64_t position = 0, ram_slots = 0
    cdef int result = 0
    ec_lock_acquire(&shard.lock)
    if index_check(shards.base, &shard.index):
        result = 1
    elif memory_check(shards.base, &shard.memory):
        result = 2
    else:
        while index_scan(shards.base, &shard.index, &position, &cursor):
            if cursor.is_ram:
                ram_slots += 1
        if ram_slots + shard.memory.zombie_count != shard.memory.item_count:
            result = 3
    ec_lock_release(&shard.lock)
    return result
