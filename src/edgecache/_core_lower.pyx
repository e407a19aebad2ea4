"""Root: the RAM tier over a lower tier that is a Python object (see _core_lower.pxd)."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._change cimport (
    CHANGE_COMPOSITE,
    CHANGE_DELETE,
    CHANGE_DONE,
    CHANGE_NO_MEMORY,
    LARGE_COPY_BYTES,
    Change,
    change_abandon,
    change_commit,
    change_init,
    change_stage,
    change_stage_copy,
)
from edgecache._core_base cimport CoreBase
from edgecache._evict cimport evict_admits
from edgecache._memory cimport memory_item
from edgecache._shard cimport Probe, Shard, shard_at, shard_number, shard_probe
from edgecache._sync cimport ec_lock_acquire, ec_lock_release, ec_now_coarse_us
from edgecache._xxhash cimport Hash128


cdef bytes lower_hash(Hash128 hash):
    cdef unsigned char[16] text
    cdef int index
    for index in range(8):
        text[index] = <unsigned char>(hash.high >> (56 - 8 * index))
        text[8 + index] = <unsigned char>(hash.low >> (56 - 8 * index))
    return PyBytes_FromStringAndSize(<char*>text, 16)


cdef uint32_t lower_ram_version(CoreBase store, Hash128 hash, const char* key,
                                uint32_t key_len) noexcept:
    cdef Shard* shard = shard_at(&store.shards, shard_number(&store.shards, hash.high))
    cdef Probe probe
    cdef uint32_t version = 0
    ec_lock_acquire(&shard.lock)
    shard_probe(store.shards.base, shard, hash.low, key, key_len, &probe)
    if probe.ram:
        version = memory_item(store.shards.base, &shard.memory, probe.ram).version
    ec_lock_release(&shard.lock)
    return version


cdef bint lower_store_ram(CoreBase store, Hash128 hash, const char* key, uint32_t key_len,
                          const char* value, uint64_t value_len, const char* meta,
                          uint32_t meta_len, int64_t expiry_us) except -1:
    cdef Change change
    cdef Shard* shard = shard_at(&store.shards, shard_number(&store.shards, hash.high))
    cdef uint32_t flags = CHANGE_COMPOSITE if store.is_composite else 0
    cdef bint stored
    if not evict_admits(&shard.memory.evict, value_len):
        # What is big for the policy stays below; only the older version must go.
        flags |= CHANGE_DELETE
    change_init(&change, &store.engine, hash, key, key_len, flags)
    if not flags & CHANGE_DELETE:
        change.value = value
        change.value_len = value_len
        change.meta = meta
        change.meta_len = meta_len
        change.expiry_us = expiry_us
        if value_len > LARGE_COPY_BYTES:
            change_stage(&change)
            with nogil:
                change_stage_copy(&change)
    stored = change_commit(&change, ec_now_coarse_us()) == CHANGE_DONE
    if not stored:
        change_abandon(&change)
    return stored and not flags & (CHANGE_DELETE | CHANGE_NO_MEMORY)
