"""Root: keys, and the table of ready bytes objects (see _core_front.pxd)."""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memmove

from edgecache._core_base cimport CoreBase
from edgecache._evict cimport EVICT_SIEVE
from edgecache._hash cimport key_encode_composite, key_encoded_bytes
from edgecache._io cimport IoEngine
from edgecache._memory cimport (
    RamItem,
    item_expiry_us,
    item_has_expiry,
    item_key,
    item_key_len,
    item_key_offset,
    memory_fence_acquire,
    memory_hit,
    memory_item,
)
from edgecache._process cimport (
    PROCESS_PAGE_BYTES,
    PROCESS_SLOTS,
    ProcessCells,
    process_cells_page,
    process_slot,
)
from edgecache._shard cimport Shard, shard_at, shard_epoch
from edgecache._sync cimport (
    ec_glance_equal,
    ec_glance_u8,
    ec_glance_u32,
    ec_glance_u64,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_lock_try,
)

from edgecache import errors

cdef extern from "Python.h":
    ctypedef struct PyVarObject:
        Py_ssize_t ob_size

cdef extern from "sys/mman.h":
    void* mmap(void* address, size_t length, int protection, int flags, int file, long offset)
    int munmap(void* address, size_t length)
    int PROT_READ
    int PROT_WRITE
    int MAP_PRIVATE
    int MAP_SHARED
    int MAP_FIXED
    int MAP_ANONYMOUS
    int MAP_NORESERVE
    void* MAP_FAILED

cdef enum:
    FRONT_GRAINS = 64                   # parts of the budget that a process claims at a time
    FRONT_VALUE_BYTES_MAX = 65536
    FRONT_ENTRY_COST_BYTES = 144        # the slot and both objects' own overhead
    FRONT_HINTS_MAX = 65536             # 512 KiB


cdef inline uint32_t page_epoch(const Shard* shard) noexcept nogil:
    return ec_load_u32(&shard.memory.slab.page_epoch)


cdef inline uint64_t front_cost(object key, object value) noexcept:
    """Bytes that an entry keeps: both objects and its slot, by a fixed estimate per object."""
    cdef uint64_t size = <uint64_t>PyBytes_GET_SIZE(value) + FRONT_ENTRY_COST_BYTES
    return size + <uint64_t>(<PyVarObject*>key).ob_size if PyBytes_CheckExact(key) else size + 64


cdef class CoreFront(CoreBase):

    def __init__(self, dict options, IoEngine io=None):
        cdef uint64_t sets = 1, entries, hints
        CoreBase.__init__(self, options, io)
        # Entries for values of 200 bytes and more to fill the budget.
        while sets * FRONT_WAYS * 256 < self.front_budget_bytes:
            sets *= 2
        entries = sets * FRONT_WAYS
        hints = min(entries, <uint64_t>FRONT_HINTS_MAX)
        self._front_map(entries, hints)
        self.front_mask = sets - 1
        self.front_hint_mask = hints - 1
        self.front_frequency_max = 1 if self.policy == EVICT_SIEVE else 3
        self.front_value_max = min(<uint64_t>FRONT_VALUE_BYTES_MAX, self.front_budget_bytes // 8)
        self.front_limit_bytes = self.front_budget_bytes
        if self.is_shared:
            self.front_limit_bytes = 0

    cdef _front_map(self, uint64_t entries, uint64_t hints):
        """Map the table, zeroed by the system page by page as it is used, behind its cells."""
        cdef char* memory
        self.front_memory_bytes = PROCESS_PAGE_BYTES + hints * sizeof(FrontHint) \
            + entries * (sizeof(FrontEntry) + sizeof(FrontOrigin))
        memory = <char*>mmap(NULL, self.front_memory_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError("no memory for the front table")
        self.front_memory = memory
        self.front = <FrontEntry*>(memory + PROCESS_PAGE_BYTES)
        self.front_origins = <FrontOrigin*>&self.front[entries]
        self.front_hints = <FrontHint*>&self.front_origins[entries]
        self.front_attach()

    cdef front_attach(self):
        """Let the cells be those of the process's slot, and watch the arena's epochs."""
        if self.is_shared:
            if mmap(self.front_memory, PROCESS_PAGE_BYTES, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, self.arena.descriptor,
                    process_cells_page(&self.processes, self.processes.number)) == MAP_FAILED:
                raise MemoryError("no memory for the counters of the process")
        self.cells = front_cells(self)
        self.front_epochs = shard_epoch(&self.shards, shard_at(&self.shards, 0), 0)

    cdef front_leave(self):
        cdef ProcessCells unseen
        # In a child of fork the cells are the parent's.
        self.cells = &unseen
        self.front_clear()
        self.front_limit_bytes = 0
        self.cells = front_cells(self) if self.front != NULL else NULL

    cdef front_clear(self):
        """Forget every object."""
        cdef uint64_t index
        if self.front == NULL:
            return
        for index in range((self.front_mask + 1) * FRONT_WAYS):
            if self.front[index].key != NULL:
                self.front_drop(&self.front[index])

    def __dealloc__(self):
        cdef uint64_t index
        if self.front != NULL:
            for index in range((self.front_mask + 1) * FRONT_WAYS):
                if self.front[index].key != NULL:
                    Py_DECREF(<object>self.front[index].key)
                    Py_DECREF(<object>self.front[index].value)
        if self.front_memory != NULL:
            munmap(self.front_memory, self.front_memory_bytes)

    # Keys

    cdef object take_key(self, object key, KeyView* view):
        """Bytes and hash of a key; the result keeps them alive when they are not the key's own."""
        cdef bytes encoded = None
        cdef const char* space
        if PyBytes_CheckExact(key):
            view.data = PyBytes_AS_STRING(key)
            view.size = PyBytes_GET_SIZE(key)
        elif PyUnicode_CheckExact(key):
            try:
                view.data = text_bytes(key, &view.size)
            except UnicodeEncodeError as error:
                raise errors.KeyTypeError(
                    f"the key {key!r} cannot be encoded as UTF-8",
                    hint="encode it yourself and pass bytes") from error
        elif isinstance(key, (bytes, str)):
            encoded = bytes(key) if isinstance(key, bytes) else str.encode(key)
            return (encoded, self.take_key(encoded, view))
        else:
            raise errors.KeyTypeError(f"the key is {type(key).__name__}",
                                      hint="use bytes or str")
        if not 0 < view.size <= KEY_BYTES_MAX:
            raise errors.KeySizeError(
                f"the key has {view.size} bytes", hint="use 1 to 8192 bytes; hash longer names")
        if self.is_composite:
            space = self.namespace
            encoded = PyBytes_FromStringAndSize(
                NULL, key_encoded_bytes(len(self.namespace), view.size, 0))
            key_encode_composite(PyBytes_AS_STRING(encoded), len(encoded), space,
                                 len(self.namespace), view.data, view.size, NULL, 0)
            view.data = PyBytes_AS_STRING(encoded)
            view.size = PyBytes_GET_SIZE(encoded)
        view.hash = self.engine.api.bits128(view.data, view.size, self.seed)
        return encoded

    # The front: ready bytes objects

    cdef FrontEntry* front_settle(self, FrontEntry* entry, object key, KeyView* view) noexcept:
        """The rest of front_find: remember where the key's object is, and look where that is due.
        """
        cdef FrontHint* hint
        if entry.key == <PyObject*>key:
            hint = front_hint(self, entry.key)
            hint.key_bits = <uint32_t>(<uint64_t>entry.key >> 4)
            hint.entry = <uint32_t>(entry - self.front)
        if entry.rest and entry.epoch == ec_load_u32(&self.front_epochs[entry.epoch_slot]):
            entry.rest -= 1
        elif not self.front_revalidate(entry, view):
            self.front_drop(entry)
            return NULL
        front_cells(self).front_hits += 1
        return entry

    cdef void front_raise(self, FrontEntry* entry, const FrontOrigin* origin) noexcept:
        """One more in the item's frequency, unless somebody holds the shard's lock.

        Without the lock a native thread could give the item's place to somebody's value, between
        the look at the epoch and the addition.
        """
        cdef Shard* shard = shard_at(&self.shards, origin.shard)
        if not ec_lock_try(&shard.lock):
            return
        if entry.epoch == ec_load_u32(&self.front_epochs[entry.epoch_slot]) and \
                origin.item.node.frequency < self.front_frequency_max:
            origin.item.node.frequency += 1
        ec_lock_release(&shard.lock)

    cdef bint front_revalidate(self, FrontEntry* entry, KeyView* view) noexcept:
        """Look at the item itself; tells the policy of the hit, too."""
        cdef const FrontOrigin* origin = &self.front_origins[entry - self.front]
        cdef Shard* shard = shard_at(&self.shards, origin.shard)
        cdef const RamItem* item
        cdef const char* key
        cdef uint32_t epoch
        cdef uint64_t disk
        cdef bint is_valid
        if not self.policy_hits_unlocked:
            # The policy's lists may change only while the item is known to be in one; and in shared
            # mode nothing else keeps another process from giving its place to other bytes.
            ec_lock_acquire(&shard.lock)
            is_valid = self.front_look(entry, origin, shard, view)
            ec_lock_release(&shard.lock)
            return is_valid
        item = memory_item(self.shards.base, &shard.memory, entry.reference)
        epoch = ec_load_u32(&self.front_epochs[entry.epoch_slot])
        disk = ec_glance_u64(&item.disk)
        key = <const char*>item + item_key_offset(disk)
        if ec_glance_u32(&item.version) != origin.version or \
                page_epoch(shard) != origin.page_epoch or \
                disk >> 50 != <uint64_t>view.size or \
                not ec_glance_equal(key, view.data, view.size) or \
                (origin.has_expiry and is_past(<int64_t>ec_glance_u64(
                    <const uint64_t*>(<const char*>item + sizeof(RamItem))))):
            return False
        entry.epoch = epoch
        if not origin.has_expiry:
            front_count_told(entry)
        if ec_glance_u8(&item.node.frequency) < self.front_frequency_max:
            self.front_raise(entry, origin)
        return True

    cdef bint front_look(self, FrontEntry* entry, const FrontOrigin* origin, Shard* shard,
                         KeyView* view) noexcept:
        """The same under the shard's lock, which the caller holds."""
        cdef RamItem* item
        if shard.incarnation != origin.incarnation:
            return False
        item = memory_item(self.shards.base, &shard.memory, entry.reference)
        # The pages first: were they given to others, the item's words may be a value being copied.
        if page_epoch(shard) != origin.page_epoch or item.version != origin.version or \
                item_key_len(item) != <uint32_t>view.size or \
                memcmp(item_key(item), view.data, view.size) != 0 or \
                (item_has_expiry(item) and is_past(item_expiry_us(item))):
            return False
        entry.epoch = self.front_epochs[entry.epoch_slot]
        if not origin.has_expiry:
            front_count_told(entry)
        memory_hit(self.shards.base, &shard.memory, entry.reference, view.hash.low)
        return True

    cdef void front_drop(self, FrontEntry* entry) noexcept:
        cdef PyObject* key = entry.key
        cdef PyObject* value = entry.value
        entry.key = NULL
        self.front_count -= 1
        self.front_bytes -= front_cost(<object>key, <object>value)
        self.cells.front_bytes = self.front_bytes
        self.cells.front_items = self.front_count
        Py_DECREF(<object>key)
        Py_DECREF(<object>value)

    cdef bint front_claim(self, uint64_t wanted_bytes) noexcept:
        """Let this process keep a grain more of the budget that all share; False: there is none."""
        cdef uint32_t number
        cdef uint64_t claimed = 0, grain
        if not self.is_shared:
            return False
        grain = max(wanted_bytes, self.front_budget_bytes // FRONT_GRAINS)
        ec_lock_acquire(&self.processes.shared.claim_lock)
        for number in range(PROCESS_SLOTS):
            claimed += process_slot(&self.processes, number).front_claim_bytes
        if claimed + grain <= self.front_budget_bytes:
            self.processes.own.front_claim_bytes += grain
            self.front_limit_bytes += grain
            grain = 0
        ec_lock_release(&self.processes.shared.claim_lock)
        return grain == 0

    cdef void front_put(self, object key, KeyView* view, Shard* shard, uint32_t reference,
                        uint32_t epoch, object value):
        """Remember a value just copied out of `reference`, when the epoch of its hash was `epoch`.
        """
        cdef uint64_t first = (view.hash.low & self.front_mask) * FRONT_WAYS
        cdef FrontEntry* entry = &self.front[first]
        cdef FrontOrigin* origin = &self.front_origins[first]
        cdef uint64_t cost = front_cost(key, value)
        cdef uint64_t last = (self.front_mask + 1) * FRONT_WAYS - 1
        cdef RamItem* item
        cdef uint32_t version, pages, has_expiry
        if cost > self.front_value_max or \
                not (PyBytes_CheckExact(key) or PyUnicode_CheckExact(key)):
            return
        item = memory_item(self.shards.base, &shard.memory, reference)
        version = ec_glance_u32(&item.version)
        pages = page_epoch(shard)
        memory_fence_acquire()
        has_expiry = (ec_glance_u64(&item.disk) >> 49) & 1
        if ec_load_u32(shard_epoch(&self.shards, shard, view.hash.low)) != epoch:
            # Another process, or a native thread, changed it since.
            return
        if entry.key != NULL:
            # The newest of a set stands first; the oldest goes.
            if entry[FRONT_WAYS - 1].key != NULL:
                self.front_drop(&entry[FRONT_WAYS - 1])
            memmove(&entry[1], entry, (FRONT_WAYS - 1) * sizeof(FrontEntry))
            memmove(&origin[1], origin, (FRONT_WAYS - 1) * sizeof(FrontOrigin))
            entry.key = NULL
        while self.front_bytes + cost > self.front_limit_bytes:
            if self.front_limit_bytes < self.front_budget_bytes and self.front_claim(cost):
                continue
            if self.front_count == 0:
                return
            self.front_hand = 0 if self.front_hand >= last else self.front_hand + 1
            if self.front[self.front_hand].key != NULL:
                self.front_drop(&self.front[self.front_hand])
        entry.epoch_slot = <uint16_t>(shard_epoch(&self.shards, shard, view.hash.low)
                                      - self.front_epochs)
        entry.tag = <uint32_t>view.hash.high
        entry.epoch = epoch
        entry.reference = reference
        entry.rest = 0
        entry.told = 0
        origin.item = item
        origin.version = version
        origin.shard = shard.number
        origin.page_epoch = pages
        origin.has_expiry = has_expiry
        origin.incarnation = shard.incarnation
        Py_INCREF(key)
        Py_INCREF(value)
        entry.key = <PyObject*>key
        entry.value = <PyObject*>value
        self.front_count += 1
        self.front_bytes += cost
        self.cells.front_bytes = self.front_bytes
        self.cells.front_items = self.front_count

    cdef bint front_has_room(self, const KeyView* view, uint64_t value_bytes) noexcept:
        """Would a value of this size fit without pushing out another?"""
        cdef FrontEntry* last = &self.front[
            (view.hash.low & self.front_mask) * FRONT_WAYS + FRONT_WAYS - 1]
        cdef uint64_t cost = value_bytes + <uint64_t>view.size + FRONT_ENTRY_COST_BYTES
        return last.key == NULL and self.front_bytes + cost <= self.front_budget_bytes
