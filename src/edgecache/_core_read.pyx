"""Root: reading (see _core_read.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from edgecache._change cimport LARGE_COPY_BYTES
from edgecache._core_base cimport STORE_OPEN
from edgecache._core_front cimport (
    CoreFront,
    FrontEntry,
    KeyView,
    front_find,
    front_same,
    is_past,
    take_plain_key,
)
from edgecache._core_lower cimport lower_hash, lower_store_ram
from edgecache._evict cimport EVICT_WTINYLFU, evict_miss
from edgecache._fetch cimport FETCH_FOUND, Fetch, FetchState, fetch_free, fetch_init, fetch_run
from edgecache._memory cimport (
    RamItem,
    item_disk_location,
    item_expiry_us,
    item_has_expiry,
    item_has_meta,
    item_meta,
    item_meta_len,
    item_value,
    memory_hit,
    memory_item,
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
    shard_pin,
    shard_probe,
    shard_unpin,
)
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release

cdef enum:
    LOOKUP_RETRIES = 4                  # of a key whose record is moved while it is read


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


cdef object taken(PyObject* made):
    """Take over a reference that bytes_or_null returned."""
    if made == NULL:
        PyErr_Clear()       # set by the call that failed; a second one on top is a SystemError
        raise MemoryError("no memory for a bytes object")
    cdef object value = <object>made
    Py_DECREF(value)
    return value


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


cdef class CoreRead(CoreFront):

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
        cdef PyObject* made
        cdef PyObject* made_meta = NULL
        cdef int64_t expiry_us = 0
        cdef uint64_t location = 0
        cdef uint32_t reference, version = 0
        cdef uint32_t hold = 0, epoch
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
        if item.value_len > LARGE_COPY_BYTES:
            hold = shard_pin(&self.shards, shard, reference)
        if hold == 0:
            # Bytes alone are made under the lock: other objects may start a collection, and that
            # may run Python code. Nothing leaves by way of an exception.
            made = bytes_or_null(item_value(item), item.value_len)
            if whole or is_object:
                made_meta = bytes_or_null(item_meta(item), item_meta_len(item))
                expiry_us = item_expiry_us(item)
                version = item.version
                location = item_disk_location(item)
            fronted = not item_has_meta(item)
            epoch = shard_epoch(&self.shards, shard, view.hash.low)[0]
            ec_lock_release(&shard.lock)
            value = taken(made)
            if whole or is_object:
                value = (value, taken(made_meta), expiry_us, version, location)
            if fronted and self.front_budget_bytes and not whole:
                self.front_put(key, view, shard, reference, epoch, value)
            return object_head(value) if is_object else value
        ec_lock_release(&shard.lock)
        try:
            value = copy_pinned(item_value(item), item.value_len)
            if whole or is_object:
                # Pinned items neither move nor change.
                value = whole_entry(value, item)
        finally:
            ec_lock_acquire(&shard.lock)
            shard_unpin(&self.shards, shard, reference, hold)
            ec_lock_release(&shard.lock)
        return object_head(value) if is_object else value

    cdef object take_fetched(self, Fetch* fetch, bint whole):
        """Value of a found record, promoted to RAM; None if it is expired or stale."""
        cdef RecordHeader* record = fetch.record
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, fetch.hash.high))
        cdef uint32_t reference, hold = 0
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
        reference = promote_allocate(&self.engine, fetch, &hold)
        if reference == 0:
            promote_touch(&self.engine, fetch)
            return value
        if record.body_len > LARGE_COPY_BYTES:
            with nogil:
                promote_copy(&self.engine, fetch, reference)
        else:
            promote_copy(&self.engine, fetch, reference)
        promote_publish(&self.engine, fetch, reference, hold)
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
        if self.lower is not None and result == LOOKUP_MISS:
            value = self.find_lower(view, whole)
        if value is None:
            self.count_miss(view)
        return value

    cdef object find_lower(self, KeyView* view, bint whole):
        """As `find_raw` for the lower tier; promoted to RAM. None: it has none, or a stale one."""
        cdef bytes hash16 = lower_hash(view.hash), value, meta
        cdef object found
        cdef Shard* shard
        if not self.lower.contains(hash16):
            return None
        found = self.lower.get(hash16, PyBytes_FromStringAndSize(view.data, view.size))
        if found is None:
            return None
        value, meta = found[0], found[1]
        if not whole and meta_is_stale(PyBytes_AS_STRING(meta), <uint32_t>PyBytes_GET_SIZE(meta)):
            return None
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_count(&shard.counters.disk_hit_count, 1)
        with self.lower.lock(hash16):
            # Whoever changed the key meanwhile has put the newer version into RAM.
            if self.lower.sequence(hash16) == found[3]:
                ec_count(&shard.counters.promotion_count, lower_store_ram(
                    self, view.hash, view.data, <uint32_t>view.size, PyBytes_AS_STRING(value),
                    PyBytes_GET_SIZE(value), PyBytes_AS_STRING(meta),
                    <uint32_t>PyBytes_GET_SIZE(meta), found[2]))
        if whole:
            return value, meta, found[2], 0, found[3]
        if meta_has_flag(PyBytes_AS_STRING(meta), <uint32_t>PyBytes_GET_SIZE(meta),
                         META_FLAG_OBJECT):
            return object_head((value, meta, found[2], 0, found[3]))
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
        cdef PyObject* ready = front_same(self, key)
        cdef object _owner, value
        if ready != NULL:
            return <object>ready
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        entry = front_find(self, key, &view)
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
        if self.lower is None:
            return self.find(key, &view, True)
        hash16 = lower_hash(view.hash)
        with self.lower.lock(hash16):
            found = self.find(key, &view, True)
            # RAM may have it and the tier below not any more: then 0, and it has no version there.
            return None if found is None else (*found[:4], self.lower.sequence(hash16))

    def peek(self, key):
        """Return a value if RAM has it, None for a certain miss, `NotImplemented` for the disk.

        What asyncio uses to answer without suspending.
        """
        cdef KeyView view
        cdef Probe probe
        cdef object _owner, value = None
        cdef LookupResult result
        cdef FrontEntry* entry
        cdef PyObject* ready = front_same(self, key)
        if ready != NULL:
            return <object>ready
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        entry = front_find(self, key, &view)
        if entry != NULL:
            return <object>entry.value
        value = self.lookup_memory(key, &view, &probe, False, &result)
        if result == LOOKUP_HIT:
            return NotImplemented if type(value) is ObjectHead else value
        if result == LOOKUP_DISK:
            return NotImplemented
        if self.lower is not None and result == LOOKUP_MISS and \
                self.lower.contains(lower_hash(view.hash)):
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
