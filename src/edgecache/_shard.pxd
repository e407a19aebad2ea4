"""One shard: its lock, its part of the index and of the RAM tier, and what ties the two.

Invariants (the shard's lock guards all of it):

1. A key has at most one slot in the index. A RAM slot refers to an item whose header says where
   the copy on disk is (0: none); a disk slot refers to a record.
2. When an item leaves the RAM tier its slot becomes a disk slot, or goes if there is no copy.
3. A slot under a foreign key's tag is possible; whoever acts on a slot compared the full key first,
   in RAM under the lock, on disk by reading the record and then finding the same slot again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._index cimport IndexCursor, IndexShard
from edgecache._memory cimport MemoryHooks, MemoryShard
from edgecache._process cimport ProcessTable
from edgecache._status cimport Status
from edgecache._sync cimport ec_store_u32
from edgecache._xxhash cimport XxhashApi

cdef enum:
    PROBE_CANDIDATES_MAX = 16
    # Changes of RAM items, counted by shard and some bits of the hash: who keeps a copy of an item
    # and finds the count unchanged need not look at the item. A slot is shared by many keys, so
    # another count means "look", not "gone". Only who holds the shard's lock counts: an atomic
    # addition would wait for every store before it, most of which miss the cache.
    SHARD_EPOCHS = 16384
    INDEX_AHEAD_BYTES = 65536

cdef struct ShardCounters:
    uint64_t memory_hit_count
    uint64_t disk_hit_count
    uint64_t miss_count
    uint64_t put_count
    uint64_t put_bytes
    uint64_t delete_count
    uint64_t expired_count
    uint64_t demotion_count
    uint64_t promotion_count
    uint64_t memory_eviction_count      # left RAM and had no copy on disk
    uint64_t disk_eviction_count
    uint64_t clash_count                # reads that met another key under the same tag
    uint64_t zero[4]

cdef struct Shard:                      # in the arena
    uint32_t lock
    uint32_t number
    ShardCounters counters
    IndexShard index
    MemoryShard memory
    # What never changes, for laying the parts out anew after a death (_repair.pxd).
    uint64_t[2] area_offsets            # of the RAM tier; private: only the first
    uint64_t area_bytes
    uint64_t budget_bytes
    uint64_t private_offset
    uint64_t private_bytes
    uint64_t index_offset
    uint64_t index_bytes
    uint32_t policy
    # And what does: see the invariants there. 0 in a private arena.
    uint32_t incarnation                # of the RAM tier; its low bit is the area
    uint32_t stale_holds                # of earlier incarnations
    uint32_t is_closed
    uint64_t kept_bytes                 # pages of those, within the budget
    uint32_t is_file                    # the arena is a file: new pages are asked for (_pages.pxd)
    uint32_t zero
    int64_t refused_until_ns            # the index got no memory: it is asked for again then
    uint64_t refused_count

cdef struct ShardSet                    # below

cdef struct ShardLocal:                 # what the hooks of one shard get as context
    ShardSet* shards
    Shard* shard
    const XxhashApi* api
    uint64_t seed                       # of stored key bytes (plain or composite, one per store)

cdef struct ShardSet:                   # process-local
    char* base
    uint64_t offset                     # of shard 0 in the arena
    uint64_t stride_bytes
    uint32_t count                      # a power of two
    MemoryHooks* hooks                  # one per shard
    ShardLocal* locals
    uint64_t epochs_offset              # u32[SHARD_EPOCHS] in the arena, each shard's together
    uint64_t epoch_mask                 # slots per shard - 1
    ProcessTable* processes             # NULL: one process alone works on the arena

cdef struct Candidate:
    uint64_t location
    uint8_t size_class
    uint8_t frequency

cdef struct Probe:
    uint32_t ram                        # reference of the live RAM item of the key, 0: none
    uint32_t count                      # disk slots that carry the tag
    uint32_t truncated                  # more than PROBE_CANDIDATES_MAX of them
    Candidate candidates[16]

cdef inline Shard* shard_at(const ShardSet* shards, uint32_t number) noexcept nogil:
    return <Shard*>(shards.base + shards.offset + number * shards.stride_bytes)

cdef inline uint32_t shard_number(const ShardSet* shards, uint64_t hash_high) noexcept nogil:
    return <uint32_t>hash_high & (shards.count - 1)

cdef inline uint32_t* shard_epoch(const ShardSet* shards, const Shard* shard,
                                  uint64_t hash) noexcept nogil:
    return <uint32_t*>(shards.base + shards.epochs_offset) \
        + shard.number * (shards.epoch_mask + 1) + ((hash >> 20) & shards.epoch_mask)

# All below: the caller holds the shard's lock.

cdef inline void shard_epoch_bump(const ShardSet* shards, const Shard* shard,
                                  uint64_t hash) noexcept nogil:
    cdef uint32_t* epoch = shard_epoch(shards, shard, hash)
    ec_store_u32(epoch, epoch[0] + 1)

# Every RAM item may have changed (clear).
cdef void shard_bump_all(const ShardSet* shards, const Shard* shard) noexcept nogil

# The live RAM item of the key, or 0. Fast path of a hit: stops at the first match.
cdef uint32_t shard_find_ram(char* base, Shard* shard, uint64_t hash, const char* key,
                             uint32_t key_len, IndexCursor* cursor) noexcept nogil
# RAM item and all disk candidates.
cdef void shard_probe(char* base, Shard* shard, uint64_t hash, const char* key, uint32_t key_len,
                      Probe* out) noexcept nogil
# Remove slot and item of a RAM entry.
cdef void shard_erase_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                          uint32_t reference) noexcept nogil
# Remove exactly this disk slot; False if it is gone.
cdef bint shard_erase_disk(char* base, Shard* shard, uint64_t hash,
                           uint64_t location) noexcept nogil
# Insert a published RAM item / a disk location for a key that has no slot now.
cdef Status shard_insert_ram(ShardSet* shards, Shard* shard, uint64_t hash,
                             uint32_t reference) noexcept nogil
cdef Status shard_insert_disk(ShardSet* shards, Shard* shard, uint64_t hash, uint64_t location,
                              uint8_t size_class, uint8_t frequency) noexcept nogil
# In an arena that is a file: memory for `used_bytes` of the index and some more, as far as it is to
# be had. The limit of the index follows what there is.
cdef void shard_index_back(char* base, Shard* shard, uint64_t used_bytes) noexcept nogil

# Before every insertion, so that the index finds room to grow into.
cdef inline void shard_index_ready(char* base, Shard* shard) noexcept nogil:
    if shard.is_file and shard.index.used_bytes_limit < shard.index_bytes and \
            shard.index.used_bytes_limit - shard.index.area_used_bytes < \
            INDEX_AHEAD_BYTES + (shard.index.area_used_bytes >> 4):
        shard_index_back(base, shard, shard.index.area_used_bytes)

# What the index takes of the shard's budget.
cdef inline uint64_t shard_index_bytes(const Shard* shard) noexcept nogil:
    return shard.index.used_bytes_limit if shard.is_file else shard.index.area_used_bytes

# Does the index hold this location, as a disk slot or behind a RAM item? -1: no; else the
# frequency, plus 1 when the entry is in RAM.
cdef int shard_location_heat(char* base, Shard* shard, uint64_t hash,
                             uint64_t location) noexcept nogil
# The record moved: compare-and-swap of its location. False: it is not live any more.
cdef bint shard_relocate(char* base, Shard* shard, uint64_t hash, uint64_t source, uint64_t target,
                         uint8_t size_class) noexcept nogil
# The record goes: a disk slot is erased, a RAM item keeps living without a copy.
cdef bint shard_drop_location(char* base, Shard* shard, uint64_t hash,
                              uint64_t location) noexcept nogil
# Pin a live item: what to unpin it by, 0 when it cannot be pinned.
cdef uint32_t shard_pin(ShardSet* shards, Shard* shard, uint32_t reference) noexcept nogil
cdef void shard_unpin(ShardSet* shards, Shard* shard, uint32_t reference,
                      uint32_t hold) noexcept nogil
# memory_allocate for an item that is filled after the lock was given back; *hold goes with it.
cdef uint32_t shard_fill_begin(ShardSet* shards, Shard* shard, const char* key, uint32_t key_len,
                               uint32_t meta_len, uint64_t value_len, int64_t expiry_us,
                               uint32_t* hold) noexcept nogil
# Before memory_publish (True), or instead of it: False, the item went when a process died. The hold
# is given back in either case.
cdef bint shard_fill_end(ShardSet* shards, Shard* shard, uint32_t hold) noexcept nogil
# Give up an item that is being filled.
cdef void shard_fill_drop(ShardSet* shards, Shard* shard, uint32_t reference,
                          uint32_t hold) noexcept nogil

# For _repair: lay the RAM tier out anew where `incarnation` says.
cdef void shard_reopen(ShardSet* shards, Shard* shard, uint32_t version) noexcept nogil
cdef void shard_punch(ShardSet* shards, uint64_t offset, uint64_t size_bytes) noexcept nogil
# That many holds of earlier incarnations are left; with none their memory is given back.
cdef void shard_drain(ShardSet* shards, Shard* shard, uint32_t stale) noexcept nogil

# Wire hooks and locals of a set whose shards are laid out. 0, or -1 without memory.
cdef int shard_set_open(ShardSet* shards, const XxhashApi* api, uint64_t seed) noexcept nogil
cdef void shard_set_close(ShardSet* shards) noexcept nogil
cdef int shard_check(ShardSet* shards, Shard* shard) noexcept nogil
