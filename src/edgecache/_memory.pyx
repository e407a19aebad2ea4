"""The RAM tier of one shard: items over slab pages and an eviction policy; see _memory.pxd.

Order of the attempts to find a place (memory_allocate):

1. a free slot of the class, or a page within the budget;
2. victims of the policy, until one of them frees the place or their number reaches its bound;
3. a free slot of a slightly larger class: cheaper than emptying a page for a rare size;
4. the cheapest window of pages, emptied: what finds a free slot elsewhere moves, the rest is
evicted.

Source: the page moves of memcached's slab rebalancer and CacheLib's slab release are the ancestors
of 4; here it is synchronous and bounded by one window, so nothing calcifies and no background
thread is needed.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._evict cimport (
    EvictKind, EvictNode, evict_area_bytes, evict_check, evict_hit, evict_init, evict_insert,
    evict_foresee, evict_prefetch_victim, evict_relocate, evict_remove, evict_set_capacity,
    evict_victim,
)
from edgecache._slab cimport (
    SLAB_FRAMES_PER_PAGE, SLAB_GRANULE_BYTES, SLAB_LINK_OFFSET, SLAB_PAGE_FREE, SLAB_PAGE_SLOTS,
    SlabPage, SlabState, frame_shift, headroom_pages, page_bytes, slab_busy_add, slab_covering,
    slab_give, slab_init, slab_next, slab_page, slab_page_has_slots, slab_position,
    slab_rounded_bytes, slab_set_limit, slab_table_bytes, slab_take, slab_take_at,
    slab_take_larger, slab_take_near, slab_window_close, slab_window_find, slot_bytes_max,
)
from edgecache._slab_check cimport slab_check
from edgecache._status cimport STATUS_INVALID, Status
from edgecache._sync cimport ec_prefetch, ec_store_u32, ec_store_u64

cdef extern from *:
    """
    #define MEMORY_LAYOUT_ASSERT(condition) _Static_assert(condition, "layout of the RAM tier")
    """
    void layout_assert "MEMORY_LAYOUT_ASSERT"(bint condition) noexcept nogil

cdef enum:
    VICTIM_COUNT_MAX = 16               # per allocation of a slot
    FORESEEN_BYTES_MAX = 2048           # what follows comes by the processor's own prefetch
    ZOMBIE_BIT = 47
    META_BIT = 48
    EXPIRY_BIT = 49
    KEY_SHIFT = 50
    ALIGNED_VALUE_BYTES_MIN = 4096


cdef inline bint item_is_busy(const RamItem* item) noexcept nogil:
    return item.node.pins != 0 or item.version & 1


cdef struct HashContext:                # what evict_hash_function needs to reach a key
    char* base
    MemoryShard* shard
    const MemoryHooks* hooks
    uint32_t reference                  # of the last hash asked for
    uint64_t hash


cdef inline bint item_is_filling(const RamItem* item) noexcept nogil:
    return item.version & 1 and not item_is_zombie(item)


cdef inline uint64_t item_hash(const MemoryHooks* hooks, RamItem* item) noexcept nogil:
    return hooks.hash_key(hooks.context, item_key(item), item_key_len(item))


cdef uint64_t node_hash(void* context, uint32_t reference) noexcept nogil:
    cdef HashContext* reach = <HashContext*>context
    cdef RamItem* item = memory_item(reach.base, reach.shard, reference)
    if reference == reach.shard.foreseen_reference \
            and item.version == reach.shard.foreseen_version:
        reach.hash = reach.shard.foreseen_hash
    else:
        reach.hash = item_hash(reach.hooks, item)
    reach.reference = reference
    return reach.hash


cdef inline uint64_t item_bytes_before_value(uint32_t key_len, uint32_t meta_len,
                                             uint64_t value_len, bint has_expiry) noexcept nogil:
    cdef uint64_t bytes = sizeof(RamItem) + (8 if has_expiry else 0) + (8 if meta_len else 0) \
        + key_len + meta_len
    if value_len >= ALIGNED_VALUE_BYTES_MIN:
        bytes = (bytes + 63) & ~<uint64_t>63
    return bytes


cdef uint32_t memory_slot_bytes(const MemoryShard* shard, uint32_t key_len, uint32_t meta_len,
                                uint64_t value_len, bint has_expiry) noexcept nogil:
    if key_len == 0 or key_len > MEMORY_KEY_BYTES_MAX or value_len > <uint64_t>0xFFFFFFFF:
        return 0
    return slab_rounded_bytes(
        &shard.slab, item_bytes_before_value(key_len, meta_len, value_len, has_expiry) + value_len)


# ---------------------------------------------------------------- start

cdef inline void pages_count(MemoryShard* shard) noexcept nogil:
    shard.used_bytes = <uint64_t>shard.slab.used_pages << shard.slab.page_shift
    shard.budget_bytes = <uint64_t>shard.slab.page_limit << shard.slab.page_shift


cdef uint64_t memory_private_bytes(EvictKind kind, uint64_t area_size_bytes,
                                   uint64_t mean_object_bytes) noexcept nogil:
    return slab_table_bytes(area_size_bytes) \
        + evict_area_bytes(kind, area_size_bytes, mean_object_bytes)


cdef Status memory_init(char* base, MemoryShard* shard, EvictKind kind, uint64_t area_offset,
                        uint64_t area_size_bytes, uint64_t budget_bytes, uint64_t private_offset,
                        uint64_t private_size_bytes) noexcept nogil:
    cdef uint64_t table_bytes = slab_table_bytes(area_size_bytes)
    if area_offset == 0 or area_offset % MEMORY_PAGE_BYTES or private_offset % 64 \
            or private_size_bytes < table_bytes \
            or min(budget_bytes, area_size_bytes) < MEMORY_BUDGET_BYTES_MIN \
            or area_size_bytes > <uint64_t>0xFFFFFFFF * SLAB_GRANULE_BYTES:
        return STATUS_INVALID
    layout_assert(sizeof(RamItem) == SLAB_LINK_OFFSET)
    layout_assert(sizeof(EvictNode) == 16)
    layout_assert(sizeof(SlabPage) == 48)
    memset(shard, 0, sizeof(MemoryShard))
    shard.area_offset = area_offset
    shard.area_size_bytes = area_size_bytes & ~<uint64_t>(MEMORY_PAGE_BYTES - 1)
    shard.private_offset = private_offset
    shard.private_size_bytes = private_size_bytes
    slab_init(&shard.slab, area_offset, shard.area_size_bytes, private_offset, budget_bytes)
    pages_count(shard)
    return evict_init(base, &shard.evict, kind, area_offset - SLAB_GRANULE_BYTES,
                      SLAB_GRANULE_BYTES, shard.budget_bytes, private_offset + table_bytes,
                      private_size_bytes - table_bytes)


# ---------------------------------------------------------------- giving back

# The version turns odd before the first byte of the slot changes: a reader sees one or the other.
cdef inline void version_close(RamItem* item) noexcept nogil:
    ec_store_u32(&item.version, item.version | 1)
    memory_fence_release()


cdef inline uint32_t version_next(MemoryShard* shard) noexcept nogil:
    shard.version_last += 2
    if shard.version_last == 0:
        shard.version_last = 2
    return shard.version_last


cdef inline void item_give(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil:
    shard.item_bytes -= memory_item(base, shard, reference).node.size_bytes
    slab_give(base, &shard.slab, reference)
    pages_count(shard)


# Out of the policy's lists already, and not pinned. Its place stays taken.
cdef inline void victim_close(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              uint32_t reference, uint64_t hash) noexcept nogil:
    hooks.on_evict(hooks.context, reference, hash)
    shard.eviction_count += 1
    shard.item_count -= 1
    version_close(memory_item(base, shard, reference))


cdef void victim_drop(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                      uint32_t reference) noexcept nogil:
    victim_close(base, shard, hooks, reference,
                 item_hash(hooks, memory_item(base, shard, reference)))
    item_give(base, shard, reference)


# The policy's next victim, closed; its place is not given back yet. 0: nothing can be evicted.
cdef inline uint32_t victim_take(char* base, MemoryShard* shard,
                                 const MemoryHooks* hooks) noexcept nogil:
    cdef HashContext reach
    cdef uint32_t reference
    reach.base = base
    reach.shard = shard
    reach.hooks = hooks
    reach.reference = 0
    reference = evict_victim(base, &shard.evict, node_hash, &reach)
    if reference:
        # A policy with ghosts has asked for the hash already.
        if reach.reference != reference:
            node_hash(&reach, reference)
        victim_close(base, shard, hooks, reference, reach.hash)
    return reference


# Victims are cold memory, and one miss after the other would cost more than all the rest of a put.
# So while one put ends, what the next one will evict is asked for: the item, mostly to be written
# over, the index and the ghosts that know its hash, and of the item after it the key, for its hash.
cdef void victim_foresee(char* base, MemoryShard* shard, const MemoryHooks* hooks) noexcept nogil:
    cdef uint32_t then = 0, offset, end
    cdef uint32_t reference = evict_foresee(base, &shard.evict, &then)
    cdef RamItem* item
    if then:
        ec_prefetch(memory_item(base, shard, then))
        ec_prefetch(<char*>memory_item(base, shard, then) + 64)
    if reference == 0:
        return
    item = memory_item(base, shard, reference)
    shard.foreseen_reference = reference
    shard.foreseen_version = item.version
    shard.foreseen_hash = item_hash(hooks, item)
    evict_prefetch_victim(base, &shard.evict, shard.foreseen_hash)
    hooks.foresee(hooks.context, shard.foreseen_hash)
    ec_prefetch(slab_page(base, &shard.slab,
                          <uint32_t>(slab_position(reference) >> shard.slab.page_shift)))
    end = min(item.node.size_bytes, <uint32_t>FORESEEN_BYTES_MAX)
    for offset in range(128, end, 64):
        ec_prefetch(<char*>item + offset)


cdef uint32_t memory_evict_one(char* base, MemoryShard* shard,
                               const MemoryHooks* hooks) noexcept nogil:
    cdef uint32_t reference = victim_take(base, shard, hooks)
    if reference:
        item_give(base, shard, reference)
    return reference


cdef void memory_free(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil:
    cdef RamItem* item = memory_item(base, shard, reference)
    if item_is_filling(item):
        shard.filling_count -= 1
        slab_busy_add(base, &shard.slab, reference, -1)
    else:
        evict_remove(base, &shard.evict, reference)
        version_close(item)
    shard.item_count -= 1
    if item.node.pins:
        ec_store_u64(&item.disk, item.disk | <uint64_t>1 << ZOMBIE_BIT)
        shard.zombie_count += 1
    else:
        item_give(base, shard, reference)


cdef bint memory_pin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil:
    cdef RamItem* item = memory_item(base, shard, reference)
    if item.node.pins == 0xFFFF:
        return False
    item.node.pins += 1
    if item.node.pins == 1:
        shard.pinned_bytes += item.node.size_bytes
        slab_busy_add(base, &shard.slab, reference, 1)
    return True


cdef void memory_unpin(char* base, MemoryShard* shard, uint32_t reference) noexcept nogil:
    cdef RamItem* item = memory_item(base, shard, reference)
    item.node.pins -= 1
    if item.node.pins:
        return
    shard.pinned_bytes -= item.node.size_bytes
    slab_busy_add(base, &shard.slab, reference, -1)
    if item_is_zombie(item):
        shard.zombie_count -= 1
        item_give(base, shard, reference)


cdef void memory_hit(char* base, MemoryShard* shard, uint32_t reference,
                     uint64_t hash) noexcept nogil:
    evict_hit(base, &shard.evict, reference, hash)


# ---------------------------------------------------------------- emptying pages

# Copy an item to a free slot of its class on a page in use. False: there is none.
cdef bint item_move(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                    uint32_t source) noexcept nogil:
    cdef RamItem* item = memory_item(base, shard, source)
    cdef RamItem* copy
    cdef uint64_t end
    cdef uint32_t target = slab_take(base, &shard.slab, item.node.size_bytes, False)
    if target == 0:
        return False
    copy = memory_item(base, shard, target)
    version_close(copy)
    copy.node = item.node
    copy.value_len = item.value_len
    copy.disk = item.disk
    end = <uint64_t>(item_value(item) - <char*>item) + item.value_len
    memcpy(<char*>copy + sizeof(RamItem), <char*>item + sizeof(RamItem), end - sizeof(RamItem))
    ec_store_u32(&copy.version, version_next(shard))
    shard.item_bytes += item.node.size_bytes
    evict_relocate(base, &shard.evict, source, target)
    hooks.on_move(hooks.context, source, target, item_hash(hooks, copy))
    shard.move_count += 1
    version_close(item)
    item_give(base, shard, source)
    return True


cdef inline void item_displace(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                               uint32_t reference) noexcept nogil:
    if item_move(base, shard, hooks, reference):
        return
    evict_remove(base, &shard.evict, reference)
    shard.displace_count += 1
    victim_drop(base, shard, hooks, reference)


# Nothing in the window is busy. Its pages become free one after the other.
cdef void window_empty(char* base, MemoryShard* shard, const MemoryHooks* hooks, uint32_t page,
                       uint32_t page_count) noexcept nogil:
    cdef uint64_t position = <uint64_t>page << shard.slab.page_shift
    cdef uint64_t end = position + (<uint64_t>page_count << shard.slab.page_shift)
    cdef uint32_t reference
    slab_window_close(base, &shard.slab, page, page_count, True)
    reference = slab_covering(base, &shard.slab, <uint64_t>page * SLAB_FRAMES_PER_PAGE)
    if reference:
        item_displace(base, shard, hooks, reference)
    while True:
        reference = slab_next(base, &shard.slab, &position, end)
        if reference == 0:
            break
        item_displace(base, shard, hooks, reference)
    slab_window_close(base, &shard.slab, page, page_count, False)


# A row of pages, emptied, that a run can take without exceeding the budget. Where the free pages of
# the best row are more than the budget leaves, single pages elsewhere are emptied first.
cdef bint window_make(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                      uint32_t page_count, uint32_t* page) noexcept nogil:
    cdef SlabState* slab = &shard.slab
    cdef uint32_t single
    if page_count > slab.page_limit:
        return False
    while True:
        if slab_window_find(base, slab, page_count, headroom_pages(slab), page):
            window_empty(base, shard, hooks, page[0], page_count)
            return True
        if headroom_pages(slab) >= page_count \
                or not slab_window_find(base, slab, 1, 0, &single):
            return False
        window_empty(base, shard, hooks, single, 1)


# Victims until one frees the place, at most as many as the bound says: a slot takes 16; an extent
# may take as many bytes as it needs, or one victim per 512 bytes. A victim of the very size hands
# its place over, and the page table need not be touched (but while a lower budget waits for pages).
cdef uint32_t place_by_victims(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                               uint32_t size_bytes) noexcept nogil:
    cdef bint is_extent = size_bytes > slot_bytes_max(&shard.slab)
    cdef uint32_t count = 0, victim, victim_bytes, reference
    cdef uint32_t count_max = VICTIM_COUNT_MAX + (size_bytes // 512 if is_extent else 0)
    cdef uint64_t freed_bytes = shard.item_bytes
    while count < count_max:
        victim = victim_take(base, shard, hooks)
        if victim == 0:
            return 0
        victim_bytes = memory_item(base, shard, victim).node.size_bytes
        if victim_bytes == size_bytes and shard.slab.page_limit == shard.slab.page_target:
            shard.item_bytes -= size_bytes
            victim_foresee(base, shard, hooks)
            return victim
        item_give(base, shard, victim)
        if is_extent:
            reference = slab_take_near(base, &shard.slab, victim, size_bytes)
        else:
            reference = slab_take(base, &shard.slab, size_bytes, True)
        if reference:
            return reference
        count += 1
        if is_extent and count >= VICTIM_COUNT_MAX \
                and freed_bytes - shard.item_bytes >= size_bytes:
            return 0
    return 0


# Every page has something pinned on it: take the place of an item of the class that is not.
cdef uint32_t slot_between_pinned(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                  uint32_t size_bytes) noexcept nogil:
    cdef uint32_t number, reference
    cdef uint64_t position
    cdef RamItem* item
    for number in range(shard.slab.page_high):
        if not slab_page_has_slots(base, &shard.slab, number, size_bytes):
            continue
        position = <uint64_t>number << shard.slab.page_shift
        while True:
            reference = slab_next(base, &shard.slab, &position,
                                  <uint64_t>(number + 1) << shard.slab.page_shift)
            if reference == 0:
                break
            item = memory_item(base, shard, reference)
            if not item_is_busy(item):
                evict_remove(base, &shard.evict, reference)
                shard.displace_count += 1
                victim_drop(base, shard, hooks, reference)
                return slab_take(base, &shard.slab, size_bytes, True)
    return 0


# The same for an extent: the first row of frames that no pinned item interrupts.
cdef uint32_t extent_between_pinned(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                    uint32_t size_bytes) noexcept nogil:
    cdef uint32_t number, reference
    cdef uint64_t start = 0, frames = size_bytes >> frame_shift(&shard.slab), position, end
    cdef SlabPage* page
    cdef RamItem* item
    for number in range(shard.slab.page_high):
        page = slab_page(base, &shard.slab, number)
        end = <uint64_t>(number + 1) * SLAB_FRAMES_PER_PAGE
        if page.kind == SLAB_PAGE_FREE or (page.kind == SLAB_PAGE_SLOTS and page.busy_count):
            start = end
        elif page.busy_count:
            position = <uint64_t>number << shard.slab.page_shift
            while True:
                reference = slab_next(base, &shard.slab, &position, end << frame_shift(&shard.slab))
                if reference == 0:
                    break
                if (slab_position(reference) >> frame_shift(&shard.slab)) >= start + frames:
                    break
                item = memory_item(base, shard, reference)
                if item_is_busy(item):
                    start = slab_position(reference) + item.node.size_bytes
                    start >>= frame_shift(&shard.slab)
        if start + frames <= end:
            frames_empty(base, shard, hooks, start, start + frames)
            return slab_take_at(base, &shard.slab, start, size_bytes)
    return 0


# Nothing that touches these frames is busy, nor are the slot pages among them.
cdef void frames_empty(char* base, MemoryShard* shard, const MemoryHooks* hooks, uint64_t start,
                       uint64_t end) noexcept nogil:
    cdef uint32_t page = <uint32_t>(start >> 6)
    cdef uint32_t page_count = <uint32_t>((end + 63) >> 6) - page, reference
    cdef uint64_t position = start << frame_shift(&shard.slab)
    cdef uint64_t end_bytes = end << frame_shift(&shard.slab)
    cdef SlabPage* last = slab_page(base, &shard.slab, page + page_count - 1)
    if last.kind == SLAB_PAGE_SLOTS:
        end_bytes = <uint64_t>(page + page_count) << shard.slab.page_shift
    if slab_page(base, &shard.slab, page).kind == SLAB_PAGE_SLOTS:
        position = <uint64_t>page << shard.slab.page_shift
    slab_window_close(base, &shard.slab, page, page_count, True)
    reference = slab_covering(base, &shard.slab, start)
    if reference:
        item_displace(base, shard, hooks, reference)
    while True:
        reference = slab_next(base, &shard.slab, &position, end_bytes)
        if reference == 0:
            break
        item_displace(base, shard, hooks, reference)
    slab_window_close(base, &shard.slab, page, page_count, False)


cdef uint32_t place_find(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                         uint32_t size_bytes) noexcept nogil:
    cdef uint32_t reference, page = 0, page_count
    cdef SlabState* slab = &shard.slab
    if size_bytes > <uint64_t>slab.page_limit << shard.slab.page_shift:
        return 0
    reference = slab_take(base, slab, size_bytes, True)
    if reference == 0:
        reference = place_by_victims(base, shard, hooks, size_bytes)
    if reference == 0:
        reference = slab_take_larger(base, slab, size_bytes)
    if reference:
        return reference
    if size_bytes <= slot_bytes_max(slab):
        if not window_make(base, shard, hooks, 1, &page):
            return slot_between_pinned(base, shard, hooks, size_bytes)
        return slab_take(base, slab, size_bytes, True)
    page_count = (size_bytes + page_bytes(slab) - 1) >> slab.page_shift
    if not window_make(base, shard, hooks, page_count, &page):
        return extent_between_pinned(base, shard, hooks, size_bytes)
    return slab_take_at(base, slab, <uint64_t>page * SLAB_FRAMES_PER_PAGE, size_bytes)


# ---------------------------------------------------------------- items

cdef uint32_t memory_allocate_held(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                   const char* key, uint32_t key_len, uint32_t meta_len,
                                   uint64_t value_len, int64_t expiry_us) noexcept nogil:
    cdef uint32_t size_bytes = memory_slot_bytes(shard, key_len, meta_len, value_len,
                                                 expiry_us != 0)
    cdef uint32_t reference = 0
    cdef char* bytes
    cdef RamItem* item
    if size_bytes:
        reference = place_find(base, shard, hooks, size_bytes)
        pages_count(shard)
    if reference == 0:
        shard.refuse_count += 1
        return 0
    item = memory_item(base, shard, reference)
    ec_store_u32(&item.version, shard.version_last | 1)
    memory_fence_release()
    size_bytes = item.node.size_bytes               # of a larger class, perhaps
    memset(&item.node, 0, sizeof(EvictNode))
    item.node.size_bytes = size_bytes
    item.value_len = <uint32_t>value_len
    item.disk = (<uint64_t>key_len << KEY_SHIFT) \
        | (<uint64_t>(expiry_us != 0) << EXPIRY_BIT) | (<uint64_t>(meta_len != 0) << META_BIT)
    bytes = <char*>item + sizeof(RamItem)
    if expiry_us:
        (<int64_t*>bytes)[0] = expiry_us
        bytes += 8
    if meta_len:
        (<uint32_t*>bytes)[0] = meta_len
        (<uint32_t*>bytes)[1] = 0
        bytes += 8
    memcpy(bytes, key, key_len)
    shard.item_bytes += item.node.size_bytes
    shard.item_count += 1
    return reference


cdef uint32_t memory_allocate(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              const char* key, uint32_t key_len, uint32_t meta_len,
                              uint64_t value_len, int64_t expiry_us) noexcept nogil:
    cdef uint32_t reference = memory_allocate_held(base, shard, hooks, key, key_len, meta_len,
                                                   value_len, expiry_us)
    if reference:
        shard.filling_count += 1
        slab_busy_add(base, &shard.slab, reference, 1)
    return reference


cdef void memory_publish_held(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                              uint32_t reference, uint64_t hash) noexcept nogil:
    cdef RamItem* item = memory_item(base, shard, reference)
    cdef HashContext reach
    reach.base = base
    reach.shard = shard
    reach.hooks = hooks
    ec_store_u32(&item.version, version_next(shard))
    evict_insert(base, &shard.evict, reference, hash, node_hash, &reach)


cdef void memory_publish(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                         uint32_t reference, uint64_t hash) noexcept nogil:
    shard.filling_count -= 1
    slab_busy_add(base, &shard.slab, reference, -1)
    memory_publish_held(base, shard, hooks, reference, hash)


cdef uint32_t memory_scan(char* base, MemoryShard* shard, uint64_t* position) noexcept nogil:
    cdef uint32_t reference
    while True:
        reference = slab_next(base, &shard.slab, position, shard.area_size_bytes)
        if reference == 0 or not memory_item(base, shard, reference).version & 1:
            return reference


cdef void memory_clear(char* base, MemoryShard* shard) noexcept nogil:
    cdef uint64_t position = 0
    cdef uint32_t reference
    while True:
        reference = memory_scan(base, shard, &position)
        if reference == 0:
            break
        memory_free(base, shard, reference)


# ---------------------------------------------------------------- budget

# Pages with few bytes first, so that most items move instead of being evicted; from the end of the
# area, so that what stays is together.
cdef void pages_reduce(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                       uint32_t page_target) noexcept nogil:
    cdef uint32_t eighths, number
    cdef SlabPage* page
    for eighths in range(1, 9):
        number = shard.slab.page_high
        while number and shard.slab.used_pages > page_target:
            number -= 1
            page = slab_page(base, &shard.slab, number)
            if page.kind != SLAB_PAGE_FREE and page.busy_count == 0 \
                    and page.live_bytes <= eighths * (page_bytes(&shard.slab) // 8):
                window_empty(base, shard, hooks, number, 1)


cdef uint64_t memory_set_budget(char* base, MemoryShard* shard, const MemoryHooks* hooks,
                                uint64_t budget_bytes) noexcept nogil:
    cdef uint32_t page_target
    cdef uint64_t over_pages = 0
    budget_bytes = min(budget_bytes, shard.area_size_bytes)
    page_target = <uint32_t>(budget_bytes >> shard.slab.page_shift)
    budget_bytes = <uint64_t>page_target << shard.slab.page_shift
    if shard.slab.used_pages > page_target:
        # A sixteenth is room for slots that nobody fills; with less, moving would find no place.
        while shard.item_bytes > budget_bytes - budget_bytes // 16 \
                and memory_evict_one(base, shard, hooks):
            pass
        pages_reduce(base, shard, hooks, page_target)
    slab_set_limit(base, &shard.slab, page_target)
    pages_count(shard)
    evict_set_capacity(base, &shard.evict, budget_bytes)
    if shard.slab.used_pages > page_target:
        over_pages = shard.slab.used_pages - page_target
    return over_pages << shard.slab.page_shift


# ---------------------------------------------------------------- checks

# Pins and items being filled that touch the page must add up to its busy_count.
cdef bint page_busy_check(char* base, MemoryShard* shard, uint32_t number) noexcept nogil:
    cdef uint64_t position = <uint64_t>number << shard.slab.page_shift
    cdef uint64_t end = position + page_bytes(&shard.slab)
    cdef uint32_t busy_count = 0
    cdef uint32_t reference = slab_covering(base, &shard.slab,
                                            <uint64_t>number * SLAB_FRAMES_PER_PAGE)
    cdef RamItem* item
    if reference == 0:
        reference = slab_next(base, &shard.slab, &position, end)
    while reference:
        item = memory_item(base, shard, reference)
        busy_count += (item.node.pins != 0) + item_is_filling(item)
        reference = slab_next(base, &shard.slab, &position, end)
    return busy_count == slab_page(base, &shard.slab, number).busy_count


cdef int memory_check(char* base, MemoryShard* shard) noexcept nogil:
    cdef uint64_t position = 0, item_bytes = 0, pinned_bytes = 0, listed_bytes = 0
    cdef uint64_t item_count = 0, zombie_count = 0, filling_count = 0
    cdef uint32_t reference, number
    cdef RamItem* item
    cdef int broken = slab_check(base, &shard.slab)
    if broken:
        return 100 + broken
    broken = evict_check(base, &shard.evict)
    if broken:
        return 200 + broken
    while True:
        reference = slab_next(base, &shard.slab, &position, shard.area_size_bytes)
        if reference == 0:
            break
        item = memory_item(base, shard, reference)
        item_bytes += item.node.size_bytes
        pinned_bytes += item.node.size_bytes if item.node.pins else 0
        if item.version == 0:
            return 1
        if item_is_zombie(item):
            if item.node.pins == 0 or item.node.queue or not item.version & 1:
                return 3
            zombie_count += 1
            continue
        item_count += 1
        if item.version & 1:
            filling_count += 1
        else:
            listed_bytes += item.node.size_bytes
        if (item.node.queue != 0) == (item.version & 1):
            return 4
    if shard.used_bytes > shard.budget_bytes or shard.budget_bytes > shard.area_size_bytes \
            or shard.used_bytes != <uint64_t>shard.slab.used_pages << shard.slab.page_shift \
            or shard.budget_bytes != <uint64_t>shard.slab.page_limit << shard.slab.page_shift:
        return 2
    if zombie_count != shard.zombie_count:
        return 3
    if item_bytes != shard.item_bytes or item_count != shard.item_count \
            or pinned_bytes != shard.pinned_bytes or filling_count != shard.filling_count \
            or listed_bytes != shard.evict.size_bytes \
            or item_count - filling_count != shard.evict.count:
        return 4
    for number in range(shard.slab.page_high):
        if not page_busy_check(base, shard, number):
            return 5
    return 0
