"""Root: keys, the front table, and reading (see _core_read.pxd)."""

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memmove, memset

from edgecache._change cimport LARGE_COPY_BYTES
from edgecache._core_base cimport STORE_OPEN, CoreBase
from edgecache._evict cimport EVICT_SIEVE, EVICT_WTINYLFU, evict_miss
from edgecache._fetch cimport FETCH_FOUND, Fetch, FetchState, fetch_free, fetch_init, fetch_run
from edgecache._hash cimport key_encode_composite, key_encoded_bytes
from edgecache._io cimport IoEngine
from edgecache._memory cimport (
    RamItem,
    item_disk_location,
    item_expiry_us,
    item_has_expiry,
    item_has_meta,
    item_key,
    item_key_len,
    item_meta,
    item_meta_len,
    item_value,
    memory_hit,
    memory_item,
    memory_pin,
    memory_unpin,
)
from edgecache._meta cimport (
    META_FIXED_BYTES,
    META_FLAG_OBJECT,
    meta_fresh_until_us,
    meta_has_flag,
)
from edgecache._promote cimport promote_allocate, promote_copy, promote_publish, promote_touch
from edgecache._segment_format cimport RecordHeader, record_body, record_meta
from edgecache._shard cimport (
    Probe,
    Shard,
    shard_at,
    shard_epoch,
    shard_erase_disk,
    shard_erase_ram,
    shard_number,
    shard_probe,
)
from edgecache._sync cimport (
    ec_count,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_now_coarse_us,
    ec_now_us,
    ec_prefetch,
)

from edgecache import errors

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size) noexcept

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    ctypedef struct PyVarObject:
        Py_ssize_t ob_size

cdef enum:
    FRONT_VALUE_BYTES_MAX = 65536
    FRONT_ENTRY_COST_BYTES = 128        # the slot and both objects' own overhead
    FRONT_WAYS = 4
    # Of 32 hits on an entry the first 4 look at the item: the policy learns that it is in use (its
    # counts saturate at 3), the others need not touch the item's memory.
    FRONT_LOOK_MASK = 31
    FRONT_LOOK_COUNT = 4
    LOOKUP_RETRIES = 4                  # of a key whose record is moved while it is read


cdef inline uint32_t page_epoch(const Shard* shard) noexcept nogil:
    return shard.memory.slab.page_epoch


cdef bint is_past(int64_t moment_us) noexcept:
    """The coarse clock first: it lags 4 ms at most and costs a quarter."""
    return moment_us <= ec_now_coarse_us() or moment_us <= ec_now_us()


cdef bint meta_is_stale(const char* meta, uint32_t meta_len) noexcept:
    cdef int64_t fresh_until
    if meta_len < META_FIXED_BYTES:
        return False
    fresh_until = meta_fresh_until_us(meta)
    return fresh_until != 0 and is_past(fresh_until)


cdef object MOVED = object()        # a record that reclaim moved while it was read


cdef object copy_pinned(const char* data, uint64_t size):
    """A bytes object of memory that cannot move; big copies without the GIL."""
    cdef object value = PyBytes_FromStringAndSize(NULL, size)
    cdef char* target = PyBytes_AS_STRING(value)
    if size > LARGE_COPY_BYTES:
        with nogil:
            memcpy(target, data, size)
    else:
        memcpy(target, data, size)
    return value


cdef inline uint64_t front_cost(object key, object value) noexcept:
    """Bytes that an entry keeps: both objects and its slot, by a fixed estimate per object."""
    cdef uint64_t size = <uint64_t>PyBytes_GET_SIZE(value) + FRONT_ENTRY_COST_BYTES
    return size + <uint64_t>(<PyVarObject*>key).ob_size if PyBytes_CheckExact(key) else size + 64


cdef bint same_key(PyObject* held, KeyView* view) noexcept:
    """Is the key object of an entry equal to the wanted bytes?"""
    cdef const char* data
    cdef Py_ssize_t size
    if PyBytes_CheckExact(<object>held):
        size = PyBytes_GET_SIZE(<object>held)
        data = PyBytes_AS_STRING(<object>held)
    else:
        # Made when the entry was: the UTF-8 form is cached in the object, nothing can fail.
        data = PyUnicode_AsUTF8AndSize(<object>held, &size)
    return size == view.size and memcmp(data, view.data, size) == 0


cdef tuple whole_entry(object value, RamItem* item):
    return (value, PyBytes_FromStringAndSize(item_meta(item), item_meta_len(item)),
            item_expiry_us(item), item.version, item_disk_location(item))


cdef class ObjectHead:

    def __init__(self):
        raise TypeError("heads of objects come from the store")


cdef ObjectHead object_head(tuple entry):
    cdef ObjectHead head = ObjectHead.__new__(ObjectHead)
    head.entry = entry
    return head


cdef class CoreRead(CoreBase):

    def __init__(self, dict options, IoEngine io=None):
        cdef uint64_t sets = 1
        CoreBase.__init__(self, options, io)
        # Entries for values of 200 bytes and more to fill the budget.
        while sets * FRONT_WAYS * 256 < self.front_budget_bytes:
            sets *= 2
        if posix_memalign(<void**>&self.front, 64, sets * FRONT_WAYS * sizeof(FrontEntry)) != 0:
            raise MemoryError("no memory for the front table")
        memset(self.front, 0, sets * FRONT_WAYS * sizeof(FrontEntry))
        self.front_mask = sets - 1
        self.front_frequency_max = 1 if self.policy == EVICT_SIEVE else 3
        self.front_value_max = min(<uint64_t>FRONT_VALUE_BYTES_MAX, self.front_budget_bytes // 8)

    def __dealloc__(self):
        cdef uint64_t index
        if self.front != NULL:
            for index in range((self.front_mask + 1) * FRONT_WAYS):
                if self.front[index].key != NULL:
                    Py_DECREF(<object>self.front[index].key)
                    Py_DECREF(<object>self.front[index].value)
            free(self.front)

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
                view.data = PyUnicode_AsUTF8AndSize(key, &view.size)
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

    cdef inline FrontEntry* front_find(self, object key, KeyView* view) noexcept:
        """The valid entry of a key, or NULL; an outdated one is dropped."""
        cdef FrontEntry* entry = &self.front[(view.hash.low & self.front_mask) * FRONT_WAYS]
        cdef FrontEntry* end = entry + FRONT_WAYS
        while entry.tag != <uint32_t>view.hash.high or entry.key == NULL or not (
                entry.key == <PyObject*>key or same_key(entry.key, view)):
            entry += 1
            if entry == end:
                return NULL
        if entry.epoch != ec_load_u32(shard_epoch(&self.shards, view.hash.low)) or \
                entry.has_expiry or entry.hits & FRONT_LOOK_MASK < FRONT_LOOK_COUNT:
            if not self.front_revalidate(entry, view):
                self.front_drop(entry)
                return NULL
        entry.hits += 1
        self.front_hit_count += 1
        return entry

    cdef inline void front_prefetch(self, const KeyView* view) noexcept:
        cdef FrontEntry* entry = &self.front[(view.hash.low & self.front_mask) * FRONT_WAYS]
        ec_prefetch(entry)
        ec_prefetch(<char*>entry + 64)

    cdef bint front_revalidate(self, FrontEntry* entry, KeyView* view) noexcept:
        """Look at the item itself; tells the policy of the hit, too."""
        cdef Shard* shard = shard_at(&self.shards, entry.shard)
        cdef RamItem* item = memory_item(self.shards.base, &shard.memory, entry.reference)
        cdef uint32_t epoch = ec_load_u32(shard_epoch(&self.shards, view.hash.low))
        if ec_load_u32(&item.version) != entry.version or page_epoch(shard) != entry.page_epoch or \
                item_key_len(item) != <uint32_t>view.size or \
                memcmp(item_key(item), view.data, view.size) != 0 or \
                (item_has_expiry(item) and is_past(item_expiry_us(item))):
            return False
        entry.epoch = epoch
        if self.policy_hits_unlocked:
            # One byte that only matters to the policy; a lost race costs one count.
            if item.node.frequency < self.front_frequency_max:
                item.node.frequency += 1
        else:
            ec_lock_acquire(&shard.lock)
            memory_hit(self.shards.base, &shard.memory, entry.reference, view.hash.low)
            ec_lock_release(&shard.lock)
        return True

    cdef object front_get(self, object key, KeyView* view):
        """The object for a key, or None; the hit is counted and told to the policy."""
        cdef FrontEntry* entry = self.front_find(key, view)
        return None if entry == NULL else <object>entry.value

    cdef void front_drop(self, FrontEntry* entry) noexcept:
        cdef PyObject* key = entry.key
        cdef PyObject* value = entry.value
        entry.key = NULL
        self.front_count -= 1
        self.front_bytes -= front_cost(<object>key, <object>value)
        Py_DECREF(<object>key)
        Py_DECREF(<object>value)

    cdef void front_put(self, object key, KeyView* view, Shard* shard, uint32_t reference,
                        object value):
        """Remember a value just copied out of `reference`. Caller checked that it is unchanged."""
        cdef FrontEntry* entry = &self.front[(view.hash.low & self.front_mask) * FRONT_WAYS]
        cdef uint64_t cost = front_cost(key, value)
        cdef uint64_t last = (self.front_mask + 1) * FRONT_WAYS - 1
        cdef RamItem* item
        if cost > self.front_value_max or \
                not (PyBytes_CheckExact(key) or PyUnicode_CheckExact(key)):
            return
        if entry.key != NULL:
            # The newest of a set stands first; the oldest goes.
            if entry[FRONT_WAYS - 1].key != NULL:
                self.front_drop(&entry[FRONT_WAYS - 1])
            memmove(&entry[1], entry, (FRONT_WAYS - 1) * sizeof(FrontEntry))
            entry.key = NULL
        while self.front_bytes + cost > self.front_budget_bytes:
            self.front_hand = 0 if self.front_hand >= last else self.front_hand + 1
            if self.front[self.front_hand].key != NULL:
                self.front_drop(&self.front[self.front_hand])
        item = memory_item(self.shards.base, &shard.memory, reference)
        entry.tag = <uint32_t>view.hash.high
        entry.epoch = ec_load_u32(shard_epoch(&self.shards, view.hash.low))
        entry.reference = reference
        entry.version = item.version
        entry.shard = shard.number
        entry.page_epoch = page_epoch(shard)
        entry.hits = 0
        entry.has_expiry = item_has_expiry(item)
        Py_INCREF(key)
        Py_INCREF(value)
        entry.key = <PyObject*>key
        entry.value = <PyObject*>value
        self.front_count += 1
        self.front_bytes += cost

    cdef bint front_has_room(self, const KeyView* view, uint64_t value_bytes) noexcept:
        """Would a value of this size fit without pushing out another?"""
        cdef FrontEntry* last = &self.front[
            (view.hash.low & self.front_mask) * FRONT_WAYS + FRONT_WAYS - 1]
        cdef uint64_t cost = value_bytes + <uint64_t>view.size + FRONT_ENTRY_COST_BYTES
        return last.key == NULL and self.front_bytes + cost <= self.front_budget_bytes

    # Reading

    cdef object lookup_memory(self, object key, KeyView* view, Probe* probe, bint whole,
                              LookupResult* result):
        """Look the key up in RAM; None unless *result is LOOKUP_HIT. Counts hits, not misses.

        `whole`: also when it is stale, and as (value, meta, expiry_us, version, location).
        Otherwise the head of an object comes as an ObjectHead.
        """
        cdef object value
        cdef bint is_object = False
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        cdef char* base = self.shards.base
        cdef RamItem* item
        cdef uint32_t reference
        cdef bint fronted
        ec_lock_acquire(&shard.lock)
        shard_probe(base, shard, view.hash.low, view.data, <uint32_t>view.size, probe)
        reference = probe.ram
        if reference == 0:
            ec_lock_release(&shard.lock)
            result[0] = LOOKUP_DISK if probe.count else LOOKUP_MISS
            return None
        item = memory_item(base, &shard.memory, reference)
        if item_has_expiry(item) and is_past(item_expiry_us(item)):
            shard_erase_ram(&self.shards, shard, view.hash.low, reference)
            shard.counters.expired_count += 1
            ec_lock_release(&shard.lock)
            result[0] = LOOKUP_MISS
            return None
        if not whole and item_has_meta(item):
            if meta_is_stale(item_meta(item), item_meta_len(item)):
                ec_lock_release(&shard.lock)
                result[0] = LOOKUP_STALE
                return None
            is_object = meta_has_flag(item_meta(item), item_meta_len(item), META_FLAG_OBJECT)
        result[0] = LOOKUP_HIT
        memory_hit(base, &shard.memory, reference, view.hash.low)
        shard.counters.memory_hit_count += 1
        if item.value_len <= LARGE_COPY_BYTES or not memory_pin(base, &shard.memory, reference):
            # Making an object of bytes runs no Python code, so it may happen under the lock.
            value = PyBytes_FromStringAndSize(item_value(item), item.value_len)
            if whole or is_object:
                value = whole_entry(value, item)
            fronted = not item_has_meta(item)
            ec_lock_release(&shard.lock)
            # Nobody else ran since: the GIL is held, and native threads change versions only.
            if fronted and self.front_budget_bytes and not whole:
                self.front_put(key, view, shard, reference, value)
            return object_head(value) if is_object else value
        ec_lock_release(&shard.lock)
        value = copy_pinned(item_value(item), item.value_len)
        if whole or is_object:
            # Pinned items neither move nor change.
            value = whole_entry(value, item)
        ec_lock_acquire(&shard.lock)
        memory_unpin(base, &shard.memory, reference)
        ec_lock_release(&shard.lock)
        return object_head(value) if is_object else value

    cdef object take_fetched(self, Fetch* fetch, bint whole):
        """Value of a found record, promoted to RAM; None if it is expired or stale."""
        cdef RecordHeader* record = fetch.record
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, fetch.hash.high))
        cdef uint32_t reference
        cdef bint is_object = not whole and meta_has_flag(record_meta(record), record.meta_len,
                                                          META_FLAG_OBJECT)
        if record.expiry_us and is_past(record.expiry_us):
            ec_lock_acquire(&shard.lock)
            shard_erase_disk(self.shards.base, shard, fetch.hash.low, fetch.location)
            shard.counters.expired_count += 1
            ec_lock_release(&shard.lock)
            return None
        if not whole and meta_is_stale(record_meta(record), record.meta_len):
            return None
        value = copy_pinned(record_body(record), record.body_len)
        if whole or is_object:
            value = (value, PyBytes_FromStringAndSize(record_meta(record), record.meta_len),
                     record.expiry_us, 0, fetch.location)
            if is_object:
                value = object_head(value)
        ec_lock_acquire(&shard.lock)
        shard.counters.disk_hit_count += 1
        shard.counters.clash_count += fetch.clash_count
        ec_lock_release(&shard.lock)
        reference = promote_allocate(&self.engine, fetch)
        if reference == 0:
            promote_touch(&self.engine, fetch)
            return value
        if record.body_len > LARGE_COPY_BYTES:
            with nogil:
                promote_copy(&self.engine, fetch, reference)
        else:
            promote_copy(&self.engine, fetch, reference)
        promote_publish(&self.engine, fetch, reference)
        return value

    cdef object get_disk(self, KeyView* view, Probe* probe, bint whole):
        """Read the candidates of `probe`; None when none of them is the key's live record.

        MOVED when one was moved while it was read: look it up again.
        """
        cdef Fetch fetch
        cdef FetchState state
        cdef bint moved
        fetch_init(&fetch, &self.log, &self.shards, view.hash, view.data, <uint32_t>view.size,
                   probe, False)
        with nogil:
            state = fetch_run(&fetch)
        try:
            if state == FETCH_FOUND:
                return self.take_fetched(&fetch, whole)
            moved = fetch.was_stale
        finally:
            fetch_free(&fetch)
        return MOVED if moved else None

    cdef object find(self, object key, KeyView* view, bint whole):
        """Value of a key from any tier, or None (counted as a miss)."""
        cdef object value = self.find_raw(key, view, whole)
        if type(value) is ObjectHead:
            value = self.load_object(key, (<ObjectHead>value).entry)
            if value is None:
                self.count_miss(view)
        return value

    def load_object(self, key, entry):
        """All bytes of the object whose head is `entry` (as of `read_entry`), or None.

        The layer that knows objects overrides it; here nobody does.
        """
        return None

    cdef object find_raw(self, object key, KeyView* view, bint whole):
        """As `find`, but the head of an object comes as an ObjectHead."""
        cdef Probe probe
        cdef LookupResult result
        cdef object value = None
        cdef int _attempt
        for _attempt in range(LOOKUP_RETRIES):
            value = self.lookup_memory(key, view, &probe, whole, &result)
            if result == LOOKUP_HIT:
                return value
            if result != LOOKUP_DISK:
                break
            value = self.get_disk(view, &probe, whole)
            if value is not MOVED:
                break
        if value is MOVED:
            value = None
        if value is None:
            self.count_miss(view)
        return value

    cdef void count_miss(self, KeyView* view) noexcept:
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_count(&shard.counters.miss_count, 1)
        if self.policy == EVICT_WTINYLFU:
            # Its sketch counts what was asked for, found or not.
            ec_lock_acquire(&shard.lock)
            evict_miss(self.shards.base, &shard.memory.evict, view.hash.low)
            ec_lock_release(&shard.lock)

    def get(self, key, default=None):
        """Return the value of `key`, or `default`.

        Args:
            key: bytes or str (UTF-8), 1 to 8192 bytes.
            default: What a miss returns.

        Raises:
            KeyTypeError, KeySizeError: the key is not usable.
            StoreClosedError, StoreForkedError: the store is.

        *Thread-safety*: any thread. *Cost*: a RAM hit makes no system call; a disk hit blocks
        for one read, without the GIL.
        """
        cdef KeyView view
        cdef FrontEntry* entry
        cdef object _owner, value
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        entry = self.front_find(key, &view)
        if entry != NULL:
            return <object>entry.value
        value = self.find(key, &view, False)
        return default if value is None else value

    def read_entry(self, key):
        """Return (value, meta bytes, expiry_us, version, location), fresh or stale, or None.

        For the layers above. The last two name this very version of the entry for `replace`.
        """
        cdef KeyView view
        cdef object _owner
        self.check_open()
        _owner = self.take_key(key, &view)
        return self.find(key, &view, True)

    def peek(self, key):
        """Return a value if RAM has it, None for a certain miss, `NotImplemented` for the disk.

        What asyncio uses to answer without suspending.
        """
        cdef KeyView view
        cdef Probe probe
        cdef object _owner, value = None
        cdef LookupResult result
        if self.state != STORE_OPEN:
            self.check_open()
        _owner = self.take_key(key, &view)
        value = self.front_get(key, &view)
        if value is not None:
            return value
        value = self.lookup_memory(key, &view, &probe, False, &result)
        if result == LOOKUP_HIT:
            return NotImplemented if type(value) is ObjectHead else value
        if result == LOOKUP_DISK:
            return NotImplemented
        self.count_miss(&view)
        return None

    def version_in_memory(self, key):
        """Return the version of an entry that is in RAM and fresh, 0 without one. Counts a hit.

        For layers above that keep something made of an entry: it is good while the version is the
        one that `read_entry` gave. A version is never used twice in a shard.
        """
        cdef KeyView view
        cdef Probe probe
        cdef Shard* shard
        cdef RamItem* item
        cdef uint32_t version = 0
        cdef object _owner
        if self.state != STORE_OPEN:
            self.check_open()
        _owner = self.take_key(key, &view)
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_lock_acquire(&shard.lock)
        shard_probe(self.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        if probe.ram != 0:
            item = memory_item(self.shards.base, &shard.memory, probe.ram)
            if not (item_has_expiry(item) and is_past(item_expiry_us(item))) and not (
                    item_has_meta(item) and meta_is_stale(item_meta(item), item_meta_len(item))):
                version = item.version
                memory_hit(self.shards.base, &shard.memory, probe.ram, view.hash.low)
                shard.counters.memory_hit_count += 1
        ec_lock_release(&shard.lock)
        return version
