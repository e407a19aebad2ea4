"""Bringing what was read from the disk into the RAM tier (see _promote.pxd)."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from edgecache._change cimport Engine, engine_rebalance_locked
from edgecache._evict cimport evict_admits
from edgecache._fetch cimport Fetch
from edgecache._index cimport (
    INDEX_FREQUENCY_MAX,
    IndexCursor,
    index_find,
    index_replace,
    index_set_frequency,
)
from edgecache._memory cimport (
    RamItem,
    item_meta,
    item_set_disk,
    item_value,
    memory_free,
    memory_item,
    memory_publish,
)
from edgecache._segment_format cimport record_body, record_meta
from edgecache._shard cimport Shard, shard_at, shard_fill_begin, shard_fill_end, shard_number
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release


cdef inline Shard* _shard(Engine* engine, const Fetch* fetch) noexcept nogil:
    return shard_at(engine.shards, shard_number(engine.shards, fetch.hash.high))


cdef uint32_t promote_allocate(Engine* engine, const Fetch* fetch,
                               uint32_t* hold) noexcept nogil:
    cdef Shard* shard = _shard(engine, fetch)
    cdef uint32_t reference
    if not evict_admits(&shard.memory.evict, fetch.record.body_len):
        return 0
    ec_lock_acquire(&shard.lock)
    reference = shard_fill_begin(engine.shards, shard, fetch.key, fetch.key_len,
                                 fetch.record.meta_len, fetch.record.body_len,
                                 fetch.record.expiry_us, hold)
    ec_lock_release(&shard.lock)
    if reference == 0:
        ec_count(&engine.shared.memory_skip_count, 1)
    return reference


cdef void promote_copy(Engine* engine, const Fetch* fetch, uint32_t reference) noexcept nogil:
    cdef RamItem* item = memory_item(engine.shards.base, &_shard(engine, fetch).memory, reference)
    memcpy(item_meta(item), record_meta(fetch.record), fetch.record.meta_len)
    memcpy(item_value(item), record_body(fetch.record), fetch.record.body_len)


cdef inline void _touch_locked(Engine* engine, Shard* shard, IndexCursor* cursor) noexcept nogil:
    if cursor.frequency < INDEX_FREQUENCY_MAX:
        index_set_frequency(engine.shards.base, &shard.index, cursor, cursor.frequency + 1)


cdef bint promote_publish(Engine* engine, const Fetch* fetch, uint32_t reference,
                          uint32_t hold) noexcept nogil:
    cdef Shard* shard = _shard(engine, fetch)
    cdef char* base = engine.shards.base
    cdef IndexCursor cursor
    cdef bint found
    ec_lock_acquire(&shard.lock)
    found = index_find(base, &shard.index, fetch.hash.low, fetch.location, False, &cursor)
    if not shard_fill_end(engine.shards, shard, hold):
        # A process died in this shard meanwhile, and the item's area was given up.
        found = False
    elif found:
        _touch_locked(engine, shard, &cursor)
        # Before its slot refers to it: from then on the item alone knows the record.
        item_set_disk(memory_item(base, &shard.memory, reference), fetch.location,
                      fetch.size_class)
        index_replace(base, &shard.index, &cursor, reference, 0, True)
        memory_publish(base, &shard.memory, &engine.shards.hooks[shard.number], reference,
                       fetch.hash.low)
        shard.counters.promotion_count += 1
        engine_rebalance_locked(engine, shard)
    else:
        memory_free(base, &shard.memory, reference)
    ec_lock_release(&shard.lock)
    return found


cdef void promote_touch(Engine* engine, const Fetch* fetch) noexcept nogil:
    cdef Shard* shard = _shard(engine, fetch)
    cdef IndexCursor cursor
    ec_lock_acquire(&shard.lock)
    if index_find(engine.shards.base, &shard.index, fetch.hash.low, fetch.location, False,
                  &cursor):
        _touch_locked(engine, shard, &cursor)
    ec_lock_release(&shard.lock)
