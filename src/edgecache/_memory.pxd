"""The RAM tier of one shard: slab pages in the arena, items with an intrusive node, hard budget.

    RamItem, little-endian, 32 bytes, then [expiry_us i64] [meta_len u32, 4 bytes zero] key meta value
    | 0                        16 | 16        20 | 20          24 | 24                32 |
    | EvictNode (node.size_bytes  | version u32  | value_len u32  | disk u64             |
    |  is the slot's size)        |              |                |                      |
    disk  | 63      50 | 49    49 | 48    48 | 47  47 | 46        40 | 39           0 |
          | key_len 14 | expiry   | has meta | zombie | size class 7 | disk location 40 |

`disk location` is 0 when the entry has no copy on disk. Key, meta and value follow each other without
gaps, except that a value of 4 KiB or more starts at a multiple of 64 bytes of the address.

Invariants:
1. `version` is even while the item is live and changes whenever the slot is freed or reused (odd
   while free or being filled), so a reader that copies without the lock can tell (seqlock; the memory
   is type-stable: a slot's header stays a header until its page is given back with no item on it, and
   the arena is never unmapped while readers live).
2. Bytes of pages in use never exceed `budget_bytes`, pinned or not.
3. A freed item that is still pinned becomes a zombie: in no list and not in the index, its slot is
   returned by the last unpin.
4. Every item in use is in exactly one policy list, or a zombie.

Pages of MEMORY_PAGE_BYTES are split into slots of one size (classes 8 bytes apart at first, then at
most 12.5 % apart); values above half a page take a run of whole pages. When no slot is free, the policy
chooses victims; when the victims' slots are of the wrong class, or a run is needed, the cheapest window of
pages (fewest live bytes, nothing pinned) is emptied: items are moved to free slots of their class or evicted.

All functions: the caller holds the shard's lock. `on_evict` and `on_move` are called under it and may
touch the index, nothing else.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._evict cimport EvictKind, EvictNode, EvictState
from edgecache._status cimport Status

cdef enum:
    MEMORY_GRANULE_BYTES = 8            # a reference counts these: u32 reaches 32 GiB per shard
    MEMORY_PAGE_BYTES = 65536

cdef struct RamItem:
    EvictNode node
    uint32_t version
    uint32_t value_len
    uint64_t disk

# The item is being evicted (still readable); `hash` is that of its key.
ctypedef void (*memory_evict_function)(void* context, uint32_t reference, uint64_t hash) noexcept nogil
# The item was copied from `source` to `target`; `hash` as above. The index must follow.
ctypedef void (*memory_move_function)(void* context, uint32_t source, uint32_t target,
                                      uint64_t hash) noexcept nogil
# Hash of a key, low 64 bits as used for the index.
ctypedef uint64_t (*memory_hash_function)(const char* key, uint64_t key_len) noexcept nogil

cdef struct MemoryHooks:                # process-local, never in the arena
    memory_evict_function on_evict
    memory_move_function on_move
    memory_hash_function hash_key
    void* context

cdef struct MemoryShard:                # in the arena
    EvictState evict
    uint64_t area_offset                # pages, from the arena base, MEMORY_PAGE_BYTES-aligned
    uint64_t area_size_bytes            # reserved address space
    uint64_t budget_bytes               # pages in use stay within this
    uint64_t used_bytes                 # pages in use
    uint64_t item_bytes                 # slots in use
    uint64_t item_count
    uint64_t pinned_bytes
    uint64_t zombie_count
    uint64_t eviction_count
    uint64_t move_count
    uint64_t private_offset             # slab tables (class free lists, page table), arena offset
    uint64_t private_size_bytes
    uint64_t private_state[16]

# Bytes of slab tables plus policy area for that budget.
cdef uint64_t memory_private_bytes(EvictKind kind, uint64_t area_size_bytes,
                                   uint64_t mean_object_bytes) noexcept nogil
cdef Status memory_init(char* base, MemoryShard* shard, EvictKind kind, uint64_t area_offset,
                        uint64_t area_size_bytes, uint64_t budget_bytes, uint64_t private_offset,
                        uint64_t private_size_bytes) noexcept nogil

# Allocate an item, fill header and key, leave meta and value for the caller to copy, then
# memory_publish. Evicts as needed. Returns 0 when it cannot fit (too large, or all pinned). The new item
# is in no list until memory_publish and cannot be chosen as a victim. expiry_us 0: none.
cdef uint32_t memory_allocate(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              const char* key, uint32_t key_len, uint32_t meta_len,
                              uint64_t value_len, int64_t expiry_us) noexcept nogil
# Version becomes even, the item enters the policy. May move or evict others, never this one.
cdef void memory_publish(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                         uint32_t reference, uint64_t hash) noexcept nogil
# Remove a live (or not yet published) item; a pinned one becomes a zombie.
cdef void memory_free(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
cdef void memory_hit(char* base, MemoryShard* shard, uint32_t reference,
                     uint64_t hash) noexcept nogil
# Pins keep bytes in place. memory_pin returns False when the count is at its limit (65535).
cdef bint memory_pin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
cdef void memory_unpin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
# Shrink or grow; returns the bytes still over the budget because of pins (0: done).
cdef uint64_t memory_set_budget(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                uint64_t budget_bytes) noexcept nogil
# Evict one item now (0: nothing to evict); used by tests and by shrinking.
cdef uint32_t memory_evict_one(char* base, MemoryShard* shard,
                               const MemoryHooks* hooks) noexcept nogil
cdef void memory_clear(char* base, MemoryShard* shard) noexcept nogil
cdef int memory_check(char* base, MemoryShard* shard) noexcept nogil

cdef inline RamItem* memory_item(char* base, const MemoryShard* shard,
                                 uint32_t reference) noexcept nogil:
    return <RamItem*>(base + shard.area_offset + <uint64_t>reference * MEMORY_GRANULE_BYTES)

cdef inline uint32_t item_key_len(const RamItem* item) noexcept nogil:
    return <uint32_t>(item.disk >> 50)

cdef inline bint item_has_expiry(const RamItem* item) noexcept nogil:
    return (item.disk >> 49) & 1

cdef inline bint item_has_meta(const RamItem* item) noexcept nogil:
    return (item.disk >> 48) & 1

cdef inline bint item_is_zombie(const RamItem* item) noexcept nogil:
    return (item.disk >> 47) & 1

cdef inline uint64_t item_disk_location(const RamItem* item) noexcept nogil:
    return item.disk & 0xFFFFFFFFFF

cdef inline uint8_t item_disk_size_class(const RamItem* item) noexcept nogil:
    return <uint8_t>((item.disk >> 40) & 0x7F)

cdef inline void item_set_disk(RamItem* item, uint64_t location, uint8_t size_class) noexcept nogil:
    item.disk = (item.disk & <uint64_t>0xFFFF800000000000) | \
        (<uint64_t>size_class << 40) | location

cdef inline int64_t item_expiry_us(const RamItem* item) noexcept nogil:
    return (<const int64_t*>(<const char*>item + sizeof(RamItem)))[0] \
        if item_has_expiry(item) else 0

cdef inline uint32_t item_meta_len(const RamItem* item) noexcept nogil:
    if not item_has_meta(item):
        return 0
    return (<const uint32_t*>(<const char*>item + sizeof(RamItem)
                              + (8 if item_has_expiry(item) else 0)))[0]

cdef inline char* item_key(RamItem* item) noexcept nogil:
    return <char*>item + sizeof(RamItem) + (8 if item_has_expiry(item) else 0) \
        + (8 if item_has_meta(item) else 0)

cdef inline char* item_meta(RamItem* item) noexcept nogil:
    return item_key(item) + item_key_len(item)

cdef inline char* item_value(RamItem* item) noexcept nogil:
    cdef char* end = item_meta(item) + item_meta_len(item)
    if item.value_len >= 4096:
        return <char*>((<uint64_t>end + 63) & ~<uint64_t>63)
    return end
