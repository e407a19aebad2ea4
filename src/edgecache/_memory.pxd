"""The RAM tier of one shard: slab pages in the arena, items with an intrusive node, hard budget.

    RamItem, little-endian, 32 bytes; then [expiry_us i64] [meta_len u32, zero u32] key meta value
    | 0                        16 | 16        20 | 20          24 | 24                32 |
    | EvictNode (node.size_bytes  | version u32  | value_len u32  | disk u64             |
    |  is the slot's size)        |              |                |                      |
    disk  | 63      50 | 49    49 | 48    48 | 47  47 | 46        40 | 39           0 |
          | key_len 14 | expiry   | has meta | zombie | size class 7 | disk location 40 |

`disk location` is 0 when the entry has no copy on disk. Key, meta and value follow each other
without gaps, except that a value of 4 KiB or more starts at a multiple of 64 bytes of the address
(the arena is mapped at a multiple of 64 everywhere). A reference counts granules of 8 bytes from 8
bytes before the area, so that 0 is no item: go through memory_item.

Invariants:
1. `version` is even and not 0 while the item is live; odd while it is free, a zombie or being
   filled; 0 where memory was given back to the operating system (it then reads as zeros). Every
   publication and every move takes a version that the shard has not used before (it wraps after
   2^31), so a reader that copies without the lock can tell that what it copied changed meanwhile.
2. Bytes of pages in use never exceed `budget_bytes`, pinned or not. While pins keep a lower budget
   from being reached `budget_bytes` follows the pages in use down, and no page is taken.
3. A freed item that is still pinned becomes a zombie: in no list and not in the index, its slot is
   returned by the last unpin.
4. Every item in use is in exactly one policy list, or a zombie, or being filled (allocated and not
   yet published); `item_bytes` counts all of them, `item_count` all but zombies, `pinned_bytes`
   those with a pin.
5. Items that are pinned, zombies or being filled are never moved and never victims.

A reader without the lock: look the reference up in the index, item_view, copy,
item_version_unchanged, and look the reference up in the index again. Both last steps are needed: a
page may be given to another class, and then what was a header may be bytes of somebody's value; the
index tells that the reference was still an item. (The arena is never unmapped while readers live.)

Pages (64 KiB, in shards below 64 MiB down to 4 KiB) hold slots of one size, 8 bytes apart at first,
then an eighth; above an eighth of a page an item takes a row of frames (1/64 page), across pages if
need be (_slab.pxd). When nothing is free, the policy chooses victims, a bounded number; when these
did not free the right place, the cheapest window of pages (fewest live bytes, nothing pinned) is
emptied: items move to free slots of their class or are evicted.

All functions: the caller holds the shard's lock. All hooks are set; `on_evict` and `on_move`
are called under the lock and may touch the index, nothing else. An allocation may evict any item
that is not pinned, also one with the same key: a caller that replaces an item frees it first, or
pins it.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._evict cimport EvictKind, EvictNode, EvictState
from edgecache._slab cimport SlabState
from edgecache._status cimport Status
from edgecache._sync cimport ec_load_u32, ec_load_u64, ec_store_u64

cdef enum:
    MEMORY_GRANULE_BYTES = 8            # a reference counts these: u32 reaches 32 GiB per shard
    MEMORY_PAGE_BYTES = 65536           # alignment of the area; the largest page (see _slab.pxd)
    MEMORY_BUDGET_BYTES_MIN = 262144    # least budget of a shard at its start
    MEMORY_KEY_BYTES_MAX = 16383        # 14 bits

cdef extern from *:
    """
    /* Orders a copy before the version is read again, and a version before the bytes that follow.
     * Source: H. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?" (2012).
     * */
    static inline void memory_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline void memory_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    """
    void memory_fence_acquire() noexcept nogil
    void memory_fence_release() noexcept nogil

cdef struct RamItem:
    EvictNode node
    uint32_t version
    uint32_t value_len
    uint64_t disk

# The item is being evicted (still readable); `hash` is that of its key.
ctypedef void (*memory_evict_function)(void* context, uint32_t reference,
                                       uint64_t hash) noexcept nogil
# The item was copied from `source` to `target`; `hash` as above. The index must follow.
ctypedef void (*memory_move_function)(void* context, uint32_t source, uint32_t target,
                                      uint64_t hash) noexcept nogil
# Hash of a key, low 64 bits as used for the index.
ctypedef uint64_t (*memory_hash_function)(void* context, const char* key,
                                          uint64_t key_len) noexcept nogil
# An item with this hash will probably be evicted soon: ask the memory for what on_evict touches.
ctypedef void (*memory_foresee_function)(void* context, uint64_t hash) noexcept nogil

cdef struct MemoryHooks:                # process-local, never in the arena
    memory_evict_function on_evict
    memory_move_function on_move
    memory_hash_function hash_key
    memory_foresee_function foresee
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
    uint64_t filling_count              # allocated, not yet published
    uint64_t eviction_count             # all, of these:
    uint64_t displace_count             # evicted to empty a page, not chosen by the policy
    uint64_t move_count
    uint64_t refuse_count               # allocations that found no place
    uint64_t private_offset             # page table, then the policy's area; arena offset
    uint64_t private_size_bytes
    uint32_t version_last
    uint32_t foreseen_reference         # the next victim, perhaps; with ...
    uint32_t foreseen_version           # ... this version it is the item that ...
    uint32_t zero
    uint64_t foreseen_hash              # ... has this hash
    SlabState slab

# Bytes of page table plus policy area for that area.
cdef uint64_t memory_private_bytes(EvictKind kind, uint64_t area_size_bytes,
                                   uint64_t mean_object_bytes) noexcept nogil
# Offsets are multiples of 64 (the area: of MEMORY_PAGE_BYTES) and not 0; the budget is rounded down
# to pages. STATUS_INVALID when they are not, the area is above 32 GiB or the budget below
# MEMORY_BUDGET_BYTES_MIN. Neither area needs to be zeroed; page table entries are written as
# pages are first used.
cdef Status memory_init(char* base, MemoryShard* shard, EvictKind kind, uint64_t area_offset,
                        uint64_t area_size_bytes, uint64_t budget_bytes, uint64_t private_offset,
                        uint64_t private_size_bytes) noexcept nogil

# What an item would occupy (its slot or frames); 0: too large for any.
cdef uint32_t memory_slot_bytes(const MemoryShard* shard, uint32_t key_len, uint32_t meta_len,
                                uint64_t value_len, bint has_expiry) noexcept nogil
# Allocate an item, fill header and key, leave meta and value for the caller to copy, then
# memory_publish. Evicts as needed. Returns 0 when it cannot fit (too large, or what is pinned is in
# the way). The new item is in no list until memory_publish, cannot be a victim and does not move;
# the lock may be released between the two. expiry_us 0: none.
cdef uint32_t memory_allocate(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              const char* key, uint32_t key_len, uint32_t meta_len,
                              uint64_t value_len, int64_t expiry_us) noexcept nogil
# Version becomes even, the item enters the policy. Never moves or evicts.
cdef void memory_publish(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                         uint32_t reference, uint64_t hash) noexcept nogil
# The same two for a caller that holds the lock from one to the other and calls nothing of this page
# in between: then the item's pages need not be told that it is being filled.
cdef uint32_t memory_allocate_held(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                   const char* key, uint32_t key_len, uint32_t meta_len,
                                   uint64_t value_len, int64_t expiry_us) noexcept nogil
cdef void memory_publish_held(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              uint32_t reference, uint64_t hash) noexcept nogil
# Remove a live (or not yet published) item; a pinned one becomes a zombie.
cdef void memory_free(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
cdef void memory_hit(char* base, MemoryShard* shard, uint32_t reference,
                     uint64_t hash) noexcept nogil
# Pins keep bytes in place. memory_pin returns False when the count is at its limit (65535).
cdef bint memory_pin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
cdef void memory_unpin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil
# Shrink or grow (rounded down to pages, at most the area); returns the bytes still over the budget
# because of pins (0: done). Zombies' pages follow by themselves when they are unpinned; for the
# rest call again. Shrinking gives memory back to the operating system under the lock (one madvise
# per row of free pages): a rare operation.
cdef uint64_t memory_set_budget(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                uint64_t budget_bytes) noexcept nogil
# Evict one item now (0: nothing to evict); used by tests and by shrinking. The reference returned
# is already free.
cdef uint32_t memory_evict_one(char* base, MemoryShard* shard,
                               const MemoryHooks* hooks) noexcept nogil
# Free every published item, without on_evict: the caller clears the index. Pinned ones become
# zombies, items being filled stay.
cdef void memory_clear(char* base, MemoryShard* shard) noexcept nogil
# Live published items in page order: *position = 0 to start, 0 returned at the end. Items that are
# published or moved between calls may be seen twice or not at all; none is seen that is not live.
cdef uint32_t memory_scan(char* base, MemoryShard* shard, uint64_t* position) noexcept nogil
# 0 when every invariant holds, else the number of the broken one (of this page's; + 100: of
# _slab.pxd; + 200: of the policy).
cdef int memory_check(char* base, MemoryShard* shard) noexcept nogil

cdef inline RamItem* memory_item(char* base, const MemoryShard* shard,
                                 uint32_t reference) noexcept nogil:
    return <RamItem*>(base + shard.area_offset - MEMORY_GRANULE_BYTES
                      + <uint64_t>reference * MEMORY_GRANULE_BYTES)

# Who has an item pinned reads the word without the lock, while its location may change.
cdef inline uint64_t item_disk(const RamItem* item) noexcept nogil:
    return ec_load_u64(&item.disk)

cdef inline uint32_t item_key_len(const RamItem* item) noexcept nogil:
    return <uint32_t>(item_disk(item) >> 50)

cdef inline bint item_has_expiry(const RamItem* item) noexcept nogil:
    return (item_disk(item) >> 49) & 1

cdef inline bint item_has_meta(const RamItem* item) noexcept nogil:
    return (item_disk(item) >> 48) & 1

cdef inline bint item_is_zombie(const RamItem* item) noexcept nogil:
    return (item_disk(item) >> 47) & 1

cdef inline uint64_t item_disk_location(const RamItem* item) noexcept nogil:
    return item_disk(item) & <uint64_t>0xFFFFFFFFFF

cdef inline uint8_t item_disk_size_class(const RamItem* item) noexcept nogil:
    return <uint8_t>((item_disk(item) >> 40) & 0x7F)

cdef inline void item_set_disk(RamItem* item, uint64_t location, uint8_t size_class) noexcept nogil:
    ec_store_u64(&item.disk, (item.disk & <uint64_t>0xFFFF800000000000) |
                 (<uint64_t>size_class << 40) | location)

# From the item to its key, given its disk word.
cdef inline uint64_t item_key_offset(uint64_t disk) noexcept nogil:
    return sizeof(RamItem) + ((disk >> 46) & 8) + ((disk >> 45) & 8)

cdef inline int64_t item_expiry_us(const RamItem* item) noexcept nogil:
    return (<const int64_t*>(<const char*>item + sizeof(RamItem)))[0] \
        if item_has_expiry(item) else 0

cdef inline uint32_t item_meta_len(const RamItem* item) noexcept nogil:
    cdef uint64_t disk = item_disk(item)
    if not (disk >> 48) & 1:
        return 0
    return (<const uint32_t*>(<const char*>item + item_key_offset(disk) - 8))[0]

cdef inline char* item_key(RamItem* item) noexcept nogil:
    return <char*>item + item_key_offset(item_disk(item))

cdef inline char* item_meta(RamItem* item) noexcept nogil:
    cdef uint64_t disk = item_disk(item)
    return <char*>item + item_key_offset(disk) + (disk >> 50)

cdef inline char* item_value(RamItem* item) noexcept nogil:
    cdef uint64_t disk = item_disk(item)
    cdef char* key = <char*>item + item_key_offset(disk)
    cdef char* end = key + (disk >> 50)
    if (disk >> 48) & 1:
        end += (<uint32_t*>(key - 8))[0]
    if item.value_len >= 4096:
        return <char*>((<uint64_t>end + 63) & ~<uint64_t>63)
    return end

# For readers without the lock. 0 or odd: not live, do not read.
cdef inline uint32_t item_version_begin(const RamItem* item) noexcept nogil:
    return ec_load_u32(&item.version)

cdef inline bint item_version_is_live(uint32_t version) noexcept nogil:
    return version != 0 and not version & 1

cdef inline bint item_version_unchanged(const RamItem* item, uint32_t version) noexcept nogil:
    memory_fence_acquire()
    return ec_load_u32(&item.version) == version

# Where the parts of an item are, each field read once: what a reader without the lock works from.
cdef struct ItemView:
    uint32_t version
    uint32_t key_len
    uint32_t meta_len
    uint32_t value_len
    int64_t expiry_us
    uint64_t disk
    const char* key
    const char* meta
    const char* value

# False: not live, or its lengths point outside the area (a page that was given to another class).
# After copying: item_version_unchanged(item, view.version) and the index again.
cdef inline bint item_view(char* base, const MemoryShard* shard, uint32_t reference,
                           ItemView* view) noexcept nogil:
    cdef const RamItem* item = memory_item(base, shard, reference)
    cdef const char* bytes = <const char*>item
    cdef uint64_t left = <uint64_t>(base + shard.area_offset + shard.area_size_bytes - bytes)
    cdef uint64_t offset = sizeof(RamItem)
    view.version = item_version_begin(item)
    if not item_version_is_live(view.version) or left < sizeof(RamItem) + 8:
        return False
    view.value_len = item.value_len
    view.disk = item.disk
    view.key_len = <uint32_t>(view.disk >> 50)
    view.expiry_us = 0
    view.meta_len = 0
    if (view.disk >> 49) & 1:
        view.expiry_us = (<const int64_t*>(bytes + offset))[0]
        offset += 8
    if (view.disk >> 48) & 1:
        if left < offset + 8:
            return False
        view.meta_len = (<const uint32_t*>(bytes + offset))[0]
        offset += 8
    view.key = bytes + offset
    offset += view.key_len
    view.meta = bytes + offset
    offset += view.meta_len
    if view.value_len >= 4096:
        offset = ((<uint64_t>bytes + offset + 63) & ~<uint64_t>63) - <uint64_t>bytes
    view.value = bytes + offset
    return offset + view.value_len <= left
