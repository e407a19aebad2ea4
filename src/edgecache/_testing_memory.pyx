"""Test hooks for the RAM tier: a shard with a toy index, driven from Python or by native loops.

Keys are numbers: the first 8 bytes of a key are its number (so a hook can find it again), the rest
is filler. The toy index is an array from number to reference, kept by the shard's own hooks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from edgecache._evict cimport (
    EVICT_ARC, EVICT_LRU, EVICT_S3FIFO, EVICT_SIEVE, EVICT_WTINYLFU, EvictKind,
)
from edgecache._memory cimport (
    ItemView, MemoryHooks, MemoryShard, RamItem, item_disk_location, item_disk_size_class,
    item_expiry_us, item_key, item_key_len, item_meta, item_meta_len, item_set_disk, item_value,
    item_version_unchanged, item_view, memory_allocate, memory_check, memory_clear,
    memory_evict_one, memory_fence_acquire, memory_free, memory_hit, memory_init, memory_item,
    memory_pin, memory_private_bytes, memory_publish, memory_scan, memory_set_budget,
    memory_slot_bytes, memory_unpin,
)
from edgecache._slab cimport (
    SLAB_PAGE_FRAMES, SLAB_PAGE_SLOTS, SLAB_SPAN_BYTES, page_bytes, slab_class_bytes,
    slab_class_count, slab_page, slab_rounded_bytes,
)
from edgecache._status cimport STATUS_OK
from edgecache._sync cimport (
    ec_load_u32, ec_lock_acquire, ec_lock_release, ec_monotonic_ns, ec_store_u32,
)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_SHARED
        MAP_ANONYMOUS
        MAP_NORESERVE
    void* mmap(void* start, size_t length, int protection, int flags, int file, int64_t offset)
    int munmap(void* start, size_t length)
    int mincore(void* start, size_t length, unsigned char* resident)

cdef enum:
    AREA_OFFSET = 65536
    KEY_BYTES_MAX = 256
    VALUE_BYTES_MAX = 1048576 + 65536

KINDS = {"s3fifo": EVICT_S3FIFO, "lru": EVICT_LRU, "arc": EVICT_ARC, "sieve": EVICT_SIEVE,
         "wtinylfu": EVICT_WTINYLFU}


cdef struct ToyIndex:
    char* base
    MemoryShard* shard
    uint32_t* references                # by key number
    uint64_t key_count
    uint64_t mismatch_count             # a hook named an item that the index has elsewhere
    uint64_t foreseen_count
    uint64_t evicted_bytes


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    # Source: G. Steele et al., "Fast Splittable Pseudorandom Number Generators" (2014).
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef uint64_t toy_hash(void* context, const char* key, uint64_t key_len) noexcept nogil:
    return mix((<const uint64_t*>key)[0] + 1)


cdef inline uint64_t toy_number(ToyIndex* index, uint32_t reference) noexcept nogil:
    cdef uint64_t number = 0
    memcpy(&number, item_key(memory_item(index.base, index.shard, reference)), 8)
    return number


cdef void toy_foresee(void* context, uint64_t hash) noexcept nogil:
    (<ToyIndex*>context).foreseen_count += 1


cdef void toy_on_evict(void* context, uint32_t reference, uint64_t hash) noexcept nogil:
    cdef ToyIndex* index = <ToyIndex*>context
    cdef uint64_t number = toy_number(index, reference)
    if number >= index.key_count or index.references[number] != reference \
            or hash != mix(number + 1):
        index.mismatch_count += 1
        return
    index.evicted_bytes += memory_item(index.base, index.shard, reference).node.size_bytes
    ec_store_u32(&index.references[number], 0)


cdef void toy_on_move(void* context, uint32_t source, uint32_t target,
                      uint64_t hash) noexcept nogil:
    cdef ToyIndex* index = <ToyIndex*>context
    cdef uint64_t number = toy_number(index, target)
    if number >= index.key_count or index.references[number] != source \
            or hash != mix(number + 1) or toy_number(index, source) != number:
        index.mismatch_count += 1
        return
    ec_store_u32(&index.references[number], target)


# The bytes of key `number`'s value in its generation: 8-byte words that tell number and place.
cdef void pattern_write(char* value, uint64_t value_len, uint64_t number) noexcept nogil:
    cdef uint64_t offset, word
    for offset in range(0, value_len, 8):
        word = number * <uint64_t>0x9E3779B97F4A7C15 + offset
        memcpy(value + offset, &word, min(<uint64_t>8, value_len - offset))


cdef bint pattern_check(const char* value, uint64_t value_len, uint64_t number) noexcept nogil:
    cdef uint64_t offset, word
    for offset in range(0, value_len, 8):
        word = number * <uint64_t>0x9E3779B97F4A7C15 + offset
        if memcmp(value + offset, &word, min(<uint64_t>8, value_len - offset)):
            return False
    return True


cdef class MemoryHarness:
    """One RAM-tier shard in its own mapping, with keys 0 .. key_count - 1.

    *Thread-safety*: `hammer` and `read_unlocked` may run in several threads at once, and only
    these.
    """

    cdef char* mapping
    cdef char* base
    cdef size_t mapping_bytes
    cdef MemoryShard* shard
    cdef MemoryHooks hooks
    cdef ToyIndex index
    cdef uint32_t lock
    cdef char* zeros

    def __cinit__(self, kind, uint64_t budget_bytes, *, uint64_t area_bytes=0,
                  uint64_t key_count=4096, uint64_t mean_object_bytes=1024, bint shared=False):
        cdef EvictKind evict_kind = <EvictKind><int>KINDS[kind]
        cdef uint64_t private_bytes
        cdef void* start
        area_bytes = (area_bytes or budget_bytes) & ~<uint64_t>65535
        private_bytes = (memory_private_bytes(evict_kind, area_bytes, mean_object_bytes)
                         + 65535) & ~<uint64_t>65535
        self.mapping_bytes = 2 * AREA_OFFSET + area_bytes + private_bytes + SLAB_SPAN_BYTES
        start = mmap(NULL, self.mapping_bytes, PROT_READ | PROT_WRITE,
                     (MAP_SHARED if shared else MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if start == <void*><uintptr_t>-1:
            raise MemoryError
        self.mapping = <char*>start
        # As in the arena, where areas begin with a whole huge page.
        self.base = self.mapping + (-<uint64_t>(self.mapping + AREA_OFFSET) % SLAB_SPAN_BYTES)
        # Old bytes must not matter: page table and policy area start out dirty.
        memset(self.base, 0xA5, 2 * AREA_OFFSET)
        memset(self.base + AREA_OFFSET + area_bytes, 0xA5, private_bytes)
        self.shard = <MemoryShard*>(self.base + 64)
        self.index.references = <uint32_t*>calloc(key_count, sizeof(uint32_t))
        self.zeros = <char*>calloc(1, VALUE_BYTES_MAX)
        if self.index.references == NULL or self.zeros == NULL:
            raise MemoryError
        self.index.key_count = key_count
        self.index.base = self.base
        self.index.shard = self.shard
        self.hooks.on_evict = toy_on_evict
        self.hooks.on_move = toy_on_move
        self.hooks.hash_key = toy_hash
        self.hooks.foresee = toy_foresee
        self.hooks.context = &self.index
        if memory_init(self.base, self.shard, evict_kind, AREA_OFFSET, area_bytes, budget_bytes,
                       AREA_OFFSET + area_bytes, private_bytes) != STATUS_OK:
            raise ValueError("memory_init refused")

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapping_bytes)
        free(self.index.references)
        free(self.zeros)

    # ------------------------------------------------------------ one operation at a time

    def allocate(self, uint64_t number, uint64_t value_len, *, uint32_t meta_len=0,
                 uint32_t key_len=16, int64_t expiry_us=0):
        """Allocate an item that is not in the index yet; its reference, or 0."""
        cdef char key[KEY_BYTES_MAX]
        if not 8 <= key_len <= KEY_BYTES_MAX:
            raise ValueError("key_len")
        memset(key, 0x6B, sizeof(key))
        memcpy(key, &number, 8)
        return memory_allocate(self.base, self.shard, &self.hooks, key, key_len, meta_len,
                               value_len, expiry_us)

    def publish(self, uint32_t reference):
        cdef uint64_t number = toy_number(&self.index, reference)
        self.index.references[number] = reference
        memory_publish(self.base, self.shard, &self.hooks, reference, mix(number + 1))

    def put(self, uint64_t number, bytes value, *, bytes meta=b"", uint32_t key_len=16,
            int64_t expiry_us=0):
        """Replace or create; False when the shard found no place (the old item is gone then)."""
        cdef uint32_t reference
        cdef RamItem* item
        self.delete(number)
        reference = self.allocate(number, len(value), meta_len=len(meta), key_len=key_len,
                                  expiry_us=expiry_us)
        if reference == 0:
            return False
        item = memory_item(self.base, self.shard, reference)
        memcpy(item_meta(item), PyBytes_AS_STRING(meta), len(meta))
        memcpy(item_value(item), PyBytes_AS_STRING(value), len(value))
        self.publish(reference)
        return True

    def get(self, uint64_t number):
        """The value, counted as a hit, or None."""
        cdef uint32_t reference = self.index.references[number]
        if reference == 0:
            return None
        memory_hit(self.base, self.shard, reference, mix(number + 1))
        return self.value_at(reference)

    def peek(self, uint64_t number):
        cdef uint32_t reference = self.index.references[number]
        return self.value_at(reference) if reference else None

    def reference(self, uint64_t number):
        return self.index.references[number]

    def value_at(self, uint32_t reference):
        cdef RamItem* item = memory_item(self.base, self.shard, reference)
        return PyBytes_FromStringAndSize(item_value(item), item.value_len)

    def describe(self, uint32_t reference):
        """Everything that the header of the item says."""
        cdef RamItem* item = memory_item(self.base, self.shard, reference)
        return {"number": toy_number(&self.index, reference), "key_len": item_key_len(item),
                "meta": PyBytes_FromStringAndSize(item_meta(item), item_meta_len(item)),
                "expiry_us": item_expiry_us(item), "value_len": item.value_len,
                "version": item.version, "slot_bytes": item.node.size_bytes,
                "pins": item.node.pins, "disk": item_disk_location(item),
                "disk_size_class": item_disk_size_class(item),
                "value_address": <uintptr_t>item_value(item)}

    def set_disk(self, uint32_t reference, uint64_t location, int size_class):
        item_set_disk(memory_item(self.base, self.shard, reference), location, size_class)

    def version_unchanged(self, uint32_t reference, uint32_t version):
        return item_version_unchanged(memory_item(self.base, self.shard, reference), version)

    def view(self, uint32_t reference):
        """(key number, meta, value) through the lock-free view, or None when it is refused."""
        cdef ItemView view
        if not item_view(self.base, self.shard, reference, &view):
            return None
        return ((<const uint64_t*>view.key)[0], view.meta[:view.meta_len],
                view.value[:view.value_len])

    def overwrite(self, uint32_t reference, bytes header):
        """Write raw bytes where an item's version starts: what a repurposed page may hold."""
        memcpy(&memory_item(self.base, self.shard, reference).version, PyBytes_AS_STRING(header),
               len(header))

    def delete(self, uint64_t number):
        cdef uint32_t reference = self.index.references[number]
        if reference == 0:
            return False
        self.index.references[number] = 0
        memory_free(self.base, self.shard, reference)
        return True

    def free_reference(self, uint32_t reference):
        memory_free(self.base, self.shard, reference)

    def pin(self, uint32_t reference):
        return memory_pin(self.base, self.shard, reference)

    def unpin(self, uint32_t reference):
        memory_unpin(self.base, self.shard, reference)

    def evict_one(self):
        return memory_evict_one(self.base, self.shard, &self.hooks)

    def set_budget(self, uint64_t budget_bytes):
        return memory_set_budget(self.base, self.shard, &self.hooks, budget_bytes)

    def clear(self):
        memset(self.index.references, 0, self.index.key_count * sizeof(uint32_t))
        memory_clear(self.base, self.shard)

    def check(self):
        """0, or the number of the broken invariant; 99 when a hook was called wrongly."""
        return 99 if self.index.mismatch_count else memory_check(self.base, self.shard)

    def scan(self):
        """Key numbers of the live items in page order."""
        cdef uint64_t position = 0
        cdef uint32_t reference
        numbers = []
        while True:
            reference = memory_scan(self.base, self.shard, &position)
            if reference == 0:
                return numbers
            numbers.append(toy_number(&self.index, reference))

    def keys(self):
        return [number for number in range(self.index.key_count) if self.index.references[number]]

    def stats(self):
        cdef MemoryShard* shard = self.shard
        return {"budget_bytes": shard.budget_bytes, "used_bytes": shard.used_bytes,
                "item_bytes": shard.item_bytes, "item_count": shard.item_count,
                "pinned_bytes": shard.pinned_bytes, "zombie_count": shard.zombie_count,
                "filling_count": shard.filling_count, "eviction_count": shard.eviction_count,
                "displace_count": shard.displace_count, "move_count": shard.move_count,
                "refuse_count": shard.refuse_count,
                "private_size_bytes": shard.private_size_bytes}

    def content_bytes(self):
        """Header, key, meta and value bytes of live items: without rounding and free slots."""
        cdef uint64_t position = 0, bytes = 0
        cdef uint32_t reference
        cdef RamItem* item
        while True:
            reference = memory_scan(self.base, self.shard, &position)
            if reference == 0:
                return bytes
            item = memory_item(self.base, self.shard, reference)
            bytes += <uint64_t>(item_value(item) - <char*>item) + item.value_len

    def payload_bytes(self):
        """Key and value bytes of live items."""
        cdef uint64_t position = 0, bytes = 0
        cdef uint32_t reference
        cdef RamItem* item
        while True:
            reference = memory_scan(self.base, self.shard, &position)
            if reference == 0:
                return bytes
            item = memory_item(self.base, self.shard, reference)
            bytes += item_key_len(item) + item.value_len

    def pages(self):
        """(kind, slot bytes or 0, live bytes, busy count) of each page so far touched."""
        result = []
        for number in range(self.shard.slab.page_high):
            page = slab_page(self.base, &self.shard.slab, number)
            kind = {SLAB_PAGE_SLOTS: "slots", SLAB_PAGE_FRAMES: "frames"}.get(page.kind, "free")
            slot_bytes = 0
            if kind == "slots":
                slot_bytes = slab_class_bytes(&self.shard.slab, page.size_class)
            result.append((kind, slot_bytes, page.live_bytes, page.busy_count))
        return result

    def resident_bytes(self):
        """Memory that the operating system holds behind the area."""
        cdef size_t pages = self.shard.area_size_bytes // 4096
        cdef bytearray vector = bytearray(pages)
        cdef unsigned char* flags = vector
        if mincore(self.base + AREA_OFFSET, self.shard.area_size_bytes, flags):
            raise OSError("mincore")
        return 4096 * sum(flag & 1 for flag in vector)

    def page_bytes(self):
        return page_bytes(&self.shard.slab)

    def class_sizes(self):
        """Slot sizes of all classes, ascending."""
        return [slab_class_bytes(&self.shard.slab, size_class)
                for size_class in range(slab_class_count(&self.shard.slab))]

    def rounded_bytes(self, uint64_t size_bytes):
        """What an object of that size occupies; 0: too large."""
        return slab_rounded_bytes(&self.shard.slab, size_bytes)

    def slot_bytes(self, uint32_t key_len, uint32_t meta_len, uint64_t value_len, bint has_expiry):
        """What an item occupies; 0: refused."""
        return memory_slot_bytes(self.shard, key_len, meta_len, value_len, has_expiry)

    # ------------------------------------------------------------ native loops

    def hammer(self, uint64_t seed, uint64_t operations, uint64_t value_len_max):
        """Random operations under the lock, without the GIL; the number of wrong values."""
        cdef uint64_t wrong = 0
        with nogil:
            wrong = hammer_run(self, seed, operations, value_len_max)
        return wrong

    def read_unlocked(self, uint64_t seed, uint64_t operations):
        """Seqlock reads without the lock: (values read, wrong values)."""
        cdef uint64_t seen = 0, wrong = 0
        with nogil:
            wrong = read_run(self, seed, operations, &seen)
        return seen, wrong

    def time_puts(self, uint64_t first, uint64_t count, uint64_t value_len):
        """Nanoseconds for puts of keys first, first + 1 ... with values copied in."""
        cdef int64_t start
        with nogil:
            start = ec_monotonic_ns()
            puts_run(self, first, count, value_len)
            start = ec_monotonic_ns() - start
        return start

    def time_hits(self, uint64_t count, uint64_t key_count):
        """Nanoseconds for `count` hits on keys spread over 0 .. key_count - 1, and hits found."""
        cdef int64_t start
        cdef uint64_t i, number, found = 0
        cdef uint32_t reference
        with nogil:
            start = ec_monotonic_ns()
            for i in range(count):
                number = mix(i) % key_count
                reference = self.index.references[number]
                if reference:
                    memory_hit(self.base, self.shard, reference, mix(number + 1))
                    found += 1
            start = ec_monotonic_ns() - start
        return start, found

    def fill(self, const uint32_t[::1] sizes):
        """Put a value of sizes[i] bytes under a new key each; returns nanoseconds."""
        cdef uint64_t i
        cdef int64_t start
        with nogil:
            start = ec_monotonic_ns()
            for i in range(<uint64_t>sizes.shape[0]):
                puts_run(self, i, 1, sizes[i])
            start = ec_monotonic_ns() - start
        return start


cdef uint32_t item_put(MemoryHarness harness, uint64_t number, uint64_t value_len) noexcept nogil:
    cdef char key[16]
    cdef uint32_t reference = harness.index.references[number]
    memset(key, 0x6B, sizeof(key))
    memcpy(key, &number, 8)
    if reference:
        ec_store_u32(&harness.index.references[number], 0)
        memory_free(harness.base, harness.shard, reference)
    return memory_allocate(harness.base, harness.shard, &harness.hooks, key, 16, 0, value_len, 0)


cdef void item_publish(MemoryHarness harness, uint64_t number, uint32_t reference) noexcept nogil:
    memory_publish(harness.base, harness.shard, &harness.hooks, reference, mix(number + 1))
    ec_store_u32(&harness.index.references[number], reference)


cdef void puts_run(MemoryHarness harness, uint64_t first, uint64_t count,
                   uint64_t value_len) noexcept nogil:
    cdef uint64_t i, number
    cdef uint32_t reference
    for i in range(count):
        number = (first + i) % harness.index.key_count
        reference = item_put(harness, number, value_len)
        if reference:
            memcpy(item_value(memory_item(harness.base, harness.shard, reference)),
                   harness.zeros, value_len)
            item_publish(harness, number, reference)


# A value is filled between two critical sections, as a real writer does, so that the others run
# while an item is allocated and not yet published.
cdef uint64_t hammer_run(MemoryHarness harness, uint64_t seed, uint64_t operations,
                         uint64_t value_len_max) noexcept nogil:
    cdef uint64_t i, random, number, value_len, wrong = 0
    cdef uint32_t reference
    cdef RamItem* item
    for i in range(operations):
        random = mix(seed * <uint64_t>0x9E3779B97F4A7C15 + i)
        number = (random >> 8) % harness.index.key_count
        value_len = value_len_max >> ((random >> 40) % 16)
        value_len = 8 + (random >> 48) % (value_len + 1)
        ec_lock_acquire(&harness.lock)
        reference = harness.index.references[number]
        if random & 7 < 4:
            reference = item_put(harness, number, value_len)
            if reference:
                ec_lock_release(&harness.lock)
                item = memory_item(harness.base, harness.shard, reference)
                pattern_write(item_value(item), value_len, number)
                ec_lock_acquire(&harness.lock)
                if harness.index.references[number]:        # another writer was first
                    memory_free(harness.base, harness.shard, reference)
                else:
                    item_publish(harness, number, reference)
        elif reference and random & 7 == 4:
            ec_store_u32(&harness.index.references[number], 0)
            memory_free(harness.base, harness.shard, reference)
        elif reference and memory_pin(harness.base, harness.shard, reference):
            memory_hit(harness.base, harness.shard, reference, mix(number + 1))
            ec_lock_release(&harness.lock)
            item = memory_item(harness.base, harness.shard, reference)
            wrong += not pattern_check(item_value(item), item.value_len, number)
            ec_lock_acquire(&harness.lock)
            memory_unpin(harness.base, harness.shard, reference)
        if i % 512 == 0 and memory_check(harness.base, harness.shard):
            wrong += 1
        ec_lock_release(&harness.lock)
    return wrong


cdef uint64_t read_run(MemoryHarness harness, uint64_t seed, uint64_t operations,
                       uint64_t* seen) noexcept nogil:
    cdef char* target = <char*>calloc(1, VALUE_BYTES_MAX)
    cdef uint64_t i, number, wrong = 0
    cdef uint32_t reference
    cdef ItemView view
    if target == NULL:
        return 1
    for i in range(operations):
        number = mix(seed + i) % harness.index.key_count
        reference = ec_load_u32(&harness.index.references[number])
        if reference == 0 or not item_view(harness.base, harness.shard, reference, &view) \
                or view.value_len > VALUE_BYTES_MAX:
            continue
        memcpy(target, view.value, view.value_len)
        if not item_version_unchanged(memory_item(harness.base, harness.shard, reference),
                                      view.version):
            continue
        memory_fence_acquire()
        if ec_load_u32(&harness.index.references[number]) != reference:
            continue
        seen[0] += 1
        wrong += not pattern_check(target, view.value_len, number)
    free(target)
    return wrong
