"""Root, part two: the key/value face of a store (see _core.pxd).

The shard lock is held only between the GIL's own switches: a section under it never waits, never
runs Python code and never gives the GIL up. Waits, device I/O and copies above 64 KiB run without
the GIL and without a shard lock.
"""

import threading

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_SIMPLE,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from edgecache._change cimport (
    CHANGE_COMPOSITE,
    CHANGE_DELETE,
    CHANGE_DONE,
    CHANGE_FAILED,
    CHANGE_NO_DISK,
    CHANGE_NO_MEMORY,
    CHANGE_NOTHING,
    CHANGE_RESERVE,
    CHANGE_RESOLVE,
    CHANGE_TAGGED,
    CHANGE_UNLOGGED,
    LARGE_COPY_BYTES,
    Change,
    ChangeResult,
    change_abandon,
    change_commit,
    change_init,
    change_prepare,
    change_resolve,
    change_stage,
    change_stage_copy,
    change_write_large,
)
from edgecache._core_base cimport (
    SHED_BACKPRESSURE,
    SHED_INDEX_FULL,
    SHED_IO_ERROR,
    SHED_NO_MEMORY,
    SHED_NO_SPACE,
    SHED_READ_ONLY,
    SHED_TOO_LARGE,
    SHED_WRITE_BUDGET,
    STORE_OPEN,
    CoreBase,
)
from edgecache._fetch cimport (
    FETCH_FOUND,
    FETCH_MISS,
    Fetch,
    FetchState,
    fetch_free,
    fetch_init,
    fetch_run,
    fetch_run_many,
)
from edgecache._flush cimport log_flush, log_sync, log_wait
from edgecache._hash cimport Hash128, key_encode_composite, key_encoded_bytes
from edgecache._io cimport IoChannel, IoEngine
from edgecache._memory cimport (
    RamItem,
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
from edgecache._meta cimport META_FIXED_BYTES, meta_fresh_until_us, meta_tag_count
from edgecache._promote cimport (
    promote_allocate,
    promote_copy,
    promote_publish,
    promote_touch,
)
from edgecache._segment_format cimport RecordHeader, record_body, record_meta
from edgecache._shard cimport (
    Probe,
    Shard,
    shard_at,
    shard_erase_disk,
    shard_erase_ram,
    shard_number,
    shard_probe,
)
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport (
    ec_count,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_now_coarse_us,
    ec_now_us,
)

from edgecache import errors

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    KEY_BYTES_MAX = 8192
    FRONT_VALUE_BYTES_MAX = 65536
    FRONT_ENTRY_COST_BYTES = 96         # the slot and the object's own overhead
    FRONT_FREQUENCY_MAX = 3
    LOOKUP_RETRIES = 4                  # of a key whose record is moved while it is read
    SYNC_NS = 60000000000
    BATCH_FETCHES = 256


@cython.final
@cython.no_gc
cdef class BatchChannel:

    def __cinit__(self, IoEngine io):
        cdef int result
        self.io = io
        self.channel = NULL
        result = io.ops.channel_open(io.state, 64, False, &self.channel)
        if result < 0:
            raise_for_status(Status.STATUS_IO_ERROR, "cannot open an I/O channel", -result)

    def __dealloc__(self):
        if self.channel != NULL:
            with nogil:
                self.io.ops.channel_close(self.channel)


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


cdef int64_t expiry_of(CoreBase store, object ttl) except -1:
    """Absolute expiry in us for a lifetime in seconds; 0: none."""
    cdef double seconds
    if ttl is None:
        return ec_now_us() + store.default_ttl_us if store.default_ttl_us else 0
    try:
        seconds = ttl
    except TypeError:
        raise errors.InvalidTTLError(f"ttl is {ttl!r}", hint="give seconds as a number, or None")
    if isinstance(ttl, bool) or not isfinite(seconds) or seconds < 0:
        raise errors.InvalidTTLError(f"ttl is {ttl!r}",
                                     hint="give a finite number of seconds, 0 or more")
    # Beyond 2^52 us (140 years) nobody waits, and the sum stays exact.
    return ec_now_us() + <int64_t>min(seconds * 1e6, <double>(<int64_t>1 << 52))


cdef class Core(CoreBase):

    def __init__(self, dict options, IoEngine io=None):
        cdef uint64_t entries = 256
        CoreBase.__init__(self, options, io)
        self.channels = threading.local()
        if self.front_budget_bytes:
            while entries * 512 < self.front_budget_bytes and entries < 65536:
                entries *= 2
        else:
            entries = 1
        self.front = <FrontEntry*>calloc(entries, sizeof(FrontEntry))
        if self.front == NULL:
            raise MemoryError("no memory for the front table")
        self.front_mask = entries - 1
        self.front_value_max = min(<uint64_t>FRONT_VALUE_BYTES_MAX, self.front_budget_bytes // 8)

    def __dealloc__(self):
        cdef uint64_t index
        if self.front != NULL:
            for index in range(self.front_mask + 1):
                Py_XDECREF(self.front[index].value)
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

    cdef object front_get(self, KeyView* view):
        """The object for a key, or None; the hit is counted and told to the policy."""
        cdef FrontEntry* entry = &self.front[view.hash.low & self.front_mask]
        cdef Shard* shard
        cdef RamItem* item
        if entry.low != view.hash.low or entry.high != view.hash.high or entry.value == NULL:
            return None
        shard = shard_at(&self.shards, entry.shard)
        item = memory_item(self.shards.base, &shard.memory, entry.reference)
        if ec_load_u32(&item.version) != entry.version or page_epoch(shard) != entry.epoch or \
                item_key_len(item) != <uint32_t>view.size or \
                memcmp(item_key(item), view.data, view.size) != 0:
            self.front_drop(entry)
            return None
        if item_has_expiry(item) and is_past(item_expiry_us(item)):
            self.front_drop(entry)
            return None
        if self.policy_hits_unlocked:
            # One byte that only matters to the policy; a lost race costs one count.
            if item.node.frequency < FRONT_FREQUENCY_MAX:
                item.node.frequency = FRONT_FREQUENCY_MAX if self.policy == 3 \
                    else item.node.frequency + 1
        else:
            ec_lock_acquire(&shard.lock)
            if item.version == entry.version and item.node.queue:
                memory_hit(self.shards.base, &shard.memory, entry.reference, view.hash.low)
            ec_lock_release(&shard.lock)
        self.front_hit_count += 1
        return <object>entry.value

    cdef void front_drop(self, FrontEntry* entry) noexcept:
        cdef PyObject* value = entry.value
        entry.value = NULL
        self.front_count -= 1
        self.front_bytes -= PyBytes_GET_SIZE(<object>value) + FRONT_ENTRY_COST_BYTES
        Py_DECREF(<object>value)

    cdef void front_put(self, KeyView* view, Shard* shard, uint32_t reference, object value):
        """Remember a value just copied out of `reference`. Caller checked that it is unchanged."""
        cdef FrontEntry* entry = &self.front[view.hash.low & self.front_mask]
        cdef uint64_t cost = <uint64_t>PyBytes_GET_SIZE(value) + FRONT_ENTRY_COST_BYTES
        cdef uint64_t steps = 0
        if cost > self.front_value_max:
            return
        if entry.value != NULL:
            self.front_drop(entry)
        while self.front_bytes + cost > self.front_budget_bytes and steps <= self.front_mask:
            self.front_hand = (self.front_hand + 1) & self.front_mask
            if self.front[self.front_hand].value != NULL:
                self.front_drop(&self.front[self.front_hand])
            steps += 1
        if self.front_bytes + cost > self.front_budget_bytes:
            return
        entry.low = view.hash.low
        entry.high = view.hash.high
        entry.reference = reference
        entry.shard = shard.number
        entry.epoch = page_epoch(shard)
        entry.version = memory_item(self.shards.base, &shard.memory, reference).version
        Py_INCREF(value)
        entry.value = <PyObject*>value
        self.front_count += 1
        self.front_bytes += cost

    # Reading

    cdef object lookup_memory(self, KeyView* view, Probe* probe, bint whole, LookupResult* result):
        """Look the key up in RAM; None unless *result is LOOKUP_HIT. Counts hits, not misses.

        `whole`: also when it is stale, and as a pair (value, meta).
        """
        cdef object value, meta = None
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        cdef char* base = self.shards.base
        cdef RamItem* item
        cdef uint32_t reference
        cdef bint expired, fronted
        ec_lock_acquire(&shard.lock)
        shard_probe(base, shard, view.hash.low, view.data, <uint32_t>view.size, probe)
        reference = probe.ram
        if reference == 0:
            ec_lock_release(&shard.lock)
            result[0] = LOOKUP_DISK if probe.count else LOOKUP_MISS
            return None
        item = memory_item(base, &shard.memory, reference)
        if item_has_expiry(item) and is_past(item_expiry_us(item)):
            shard_erase_ram(base, shard, view.hash.low, reference)
            shard.counters.expired_count += 1
            ec_lock_release(&shard.lock)
            result[0] = LOOKUP_MISS
            return None
        if not whole and item_has_meta(item) and \
                meta_is_stale(item_meta(item), item_meta_len(item)):
            ec_lock_release(&shard.lock)
            result[0] = LOOKUP_STALE
            return None
        result[0] = LOOKUP_HIT
        memory_hit(base, &shard.memory, reference, view.hash.low)
        shard.counters.memory_hit_count += 1
        if item.value_len <= LARGE_COPY_BYTES or not memory_pin(base, &shard.memory, reference):
            # Making an object of bytes runs no Python code, so it may happen under the lock.
            value = PyBytes_FromStringAndSize(item_value(item), item.value_len)
            if whole:
                meta = PyBytes_FromStringAndSize(item_meta(item), item_meta_len(item))
            fronted = not item_has_meta(item)
            ec_lock_release(&shard.lock)
            # Nobody else ran since: the GIL is held, and native threads change versions only.
            if fronted and self.front_budget_bytes:
                self.front_put(view, shard, reference, value)
            return (value, meta) if whole else value
        if whole:
            meta = PyBytes_FromStringAndSize(item_meta(item), item_meta_len(item))
        ec_lock_release(&shard.lock)
        value = copy_pinned(item_value(item), item.value_len)
        ec_lock_acquire(&shard.lock)
        memory_unpin(base, &shard.memory, reference)
        ec_lock_release(&shard.lock)
        return (value, meta) if whole else value

    cdef object take_fetched(self, Fetch* fetch, bint whole):
        """Value of a found record, promoted to RAM; None if it is expired or stale."""
        cdef RecordHeader* record = fetch.record
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, fetch.hash.high))
        cdef uint32_t reference
        if record.expiry_us and is_past(record.expiry_us):
            ec_lock_acquire(&shard.lock)
            shard_erase_disk(self.shards.base, shard, fetch.hash.low, fetch.location)
            shard.counters.expired_count += 1
            ec_lock_release(&shard.lock)
            return None
        if not whole and meta_is_stale(record_meta(record), record.meta_len):
            return None
        value = copy_pinned(record_body(record), record.body_len)
        if whole:
            value = (value, PyBytes_FromStringAndSize(record_meta(record), record.meta_len))
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

    cdef object find(self, KeyView* view, bint whole):
        """Value of a key from any tier, or None (counted as a miss)."""
        cdef Probe probe
        cdef LookupResult result
        cdef object value = None
        cdef Shard* shard
        cdef int attempt
        for attempt in range(LOOKUP_RETRIES):
            value = self.lookup_memory(view, &probe, whole, &result)
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
            shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
            ec_count(&shard.counters.miss_count, 1)
        return value

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
        cdef object owner = None, value
        if self.state != STORE_OPEN:
            self.check_open()
        owner = self.take_key(key, &view)
        value = self.front_get(&view)
        if value is not None:
            return value
        value = self.find(&view, False)
        return default if value is None else value

    def get_entry(self, key):
        """Return (value, meta bytes) whether fresh or stale, or None. For the layers above."""
        cdef KeyView view
        cdef object owner
        self.check_open()
        owner = self.take_key(key, &view)
        return self.find(&view, True)

    def peek(self, key):
        """Return a value if RAM has it, None for a certain miss, `NotImplemented` for the disk.

        What asyncio uses to answer without suspending.
        """
        cdef KeyView view
        cdef Probe probe
        cdef object owner = None, value = None
        cdef LookupResult result
        cdef Shard* shard
        if self.state != STORE_OPEN:
            self.check_open()
        owner = self.take_key(key, &view)
        value = self.front_get(&view)
        if value is not None:
            return value
        value = self.lookup_memory(&view, &probe, False, &result)
        if result == LOOKUP_HIT:
            return value
        if result == LOOKUP_DISK:
            return NotImplemented
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_count(&shard.counters.miss_count, 1)
        return None

    def view(self, key):
        """Return a `Blob` over the value of `key` without copying it, or None.

        *Cost*: as `get`, less the copy. The bytes are pinned until the blob is released.
        """
        cdef KeyView view
        cdef object owner = None
        cdef Blob blob
        self.check_open()
        owner = self.take_key(key, &view)
        blob = self.pin(&view)
        if blob is not None:
            return blob
        value = self.find(&view, False)
        if value is None:
            return None
        # Promoted by now, unless RAM had no room: then the blob owns the bytes object.
        blob = self.pin(&view)
        if blob is None:
            blob = Blob.__new__(Blob)
            blob.owner = value
            blob.data = PyBytes_AS_STRING(value)
            blob.size = PyBytes_GET_SIZE(value)
        return blob

    cdef Blob pin(self, KeyView* view):
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        cdef char* base = self.shards.base
        cdef Probe probe
        cdef RamItem* item
        cdef Blob blob
        cdef bint pinned = False
        blob = Blob.__new__(Blob)
        ec_lock_acquire(&shard.lock)
        shard_probe(base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        if probe.ram:
            item = memory_item(base, &shard.memory, probe.ram)
            if not (item_has_expiry(item) and is_past(item_expiry_us(item))) and \
                    not (item_has_meta(item) and
                         meta_is_stale(item_meta(item), item_meta_len(item))):
                pinned = memory_pin(base, &shard.memory, probe.ram)
        if pinned:
            memory_hit(base, &shard.memory, probe.ram, view.hash.low)
            shard.counters.memory_hit_count += 1
            blob.data = item_value(item)
            blob.size = item.value_len
            blob.reference = probe.ram
            blob.shard = shard.number
        ec_lock_release(&shard.lock)
        if not pinned:
            return None
        blob.core = self
        return blob

    def readinto(self, key, buffer):
        """Copy the value of `key` to the start of a writable buffer; its size in bytes, or None.

        Raises:
            BufferError: the buffer is read-only or not contiguous.
            ValueError: the buffer is smaller than the value (nothing is copied).
        """
        cdef Py_buffer target
        cdef Blob blob = self.view(key)
        if blob is None:
            return None
        PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)
        try:
            if target.len < blob.size:
                raise errors.ArgumentError(
                    f"the value has {blob.size} bytes, the buffer {target.len}",
                    hint="pass a larger buffer, or use view()")
            if blob.size > LARGE_COPY_BYTES:
                with nogil:
                    memcpy(target.buf, blob.data, blob.size)
            else:
                memcpy(target.buf, blob.data, blob.size)
            return blob.size
        finally:
            PyBuffer_Release(&target)
            blob.release_now()

    def exists(self, key):
        """Is there a live entry? Reads at most one page of the disk, counts no hit."""
        cdef KeyView view
        cdef Probe probe
        cdef Fetch fetch
        cdef Shard* shard
        cdef RamItem* item
        cdef object owner = None
        cdef bint found = False, again = True
        cdef int attempt
        self.check_open()
        owner = self.take_key(key, &view)
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        for attempt in range(LOOKUP_RETRIES):
            ec_lock_acquire(&shard.lock)
            shard_probe(self.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size,
                        &probe)
            if probe.ram:
                item = memory_item(self.shards.base, &shard.memory, probe.ram)
                found = not (item_has_expiry(item) and is_past(item_expiry_us(item)))
            ec_lock_release(&shard.lock)
            if probe.ram or probe.count == 0:
                return found
            fetch_init(&fetch, &self.log, &self.shards, view.hash, view.data, <uint32_t>view.size,
                       &probe, True)
            with nogil:
                found = fetch_run(&fetch) == FETCH_FOUND
            if found:
                found = not (fetch.record.expiry_us and is_past(fetch.record.expiry_us))
            again = fetch.was_stale
            fetch_free(&fetch)
            if found or not again:
                break
        return found

    # Writing

    cdef int prepare(self, Change* change) except -1:
        """Reserve log space, waiting as the policy allows; the Status."""
        cdef Status status
        cdef bint big = change.value_len > LARGE_COPY_BYTES, waited
        cdef int64_t deadline = ec_monotonic_ns() + self.block_timeout_ns
        while True:
            if big:
                with nogil:
                    status = change_prepare(change)
            else:
                status = change_prepare(change)
            if status != Status.STATUS_AGAIN or not self.block:
                return <int>status
            with nogil:
                waited = log_wait(&self.log, deadline)
            if not waited:
                return <int>status

    cdef void count_shed(self, Status status):
        if status == Status.STATUS_AGAIN:
            self.shed_counts[SHED_BACKPRESSURE] += 1
        elif status == Status.STATUS_NO_SPACE:
            self.shed_counts[SHED_NO_SPACE] += 1
        elif status == Status.STATUS_TOO_LARGE:
            self.shed_counts[SHED_TOO_LARGE] += 1
        elif status == Status.STATUS_NO_MEMORY:
            self.shed_counts[SHED_NO_MEMORY] += 1
        elif self.log.shared != NULL and self.log.shared.read_only:
            self.shed_counts[SHED_READ_ONLY] += 1
        else:
            self.shed_counts[SHED_IO_ERROR] += 1

    cdef bint store(self, KeyView* view, const char* value, uint64_t value_len,
                    const char* meta, uint32_t meta_len, int64_t expiry_us,
                    uint32_t flags) except -1:
        """Put one entry; False: shed and counted."""
        cdef Change change
        cdef ChangeResult result
        cdef Status status
        cdef int64_t now = ec_now_coarse_us()
        if self.is_composite:
            flags |= CHANGE_COMPOSITE
        change_init(&change, &self.engine, view.hash, view.data, <uint32_t>view.size, flags)
        change.value = value
        change.value_len = value_len
        change.meta = meta
        change.meta_len = meta_len
        change.expiry_us = expiry_us
        if self.has_disk and not flags & CHANGE_NO_DISK:
            if self.admit(view.hash.low, value_len + <uint64_t>view.size + 64, &change.head):
                status = <Status>self.prepare(&change)
                if status != Status.STATUS_OK:
                    self.count_shed(status)
                    return False
            else:
                self.shed_counts[SHED_WRITE_BUDGET] += 1
                change.flags |= CHANGE_NO_DISK
        if change.is_large:
            with nogil:
                status = change_write_large(&change)
                while status == Status.STATUS_AGAIN:
                    log_wait(&self.log, ec_monotonic_ns() + 20000000)
                    status = change_write_large(&change)
            if status != Status.STATUS_OK:
                change_abandon(&change)
                self.count_shed(status)
                return False
        if value_len > LARGE_COPY_BYTES:
            change_stage(&change)
            with nogil:
                change_stage_copy(&change)
        while True:
            result = change_commit(&change, now)
            if result == CHANGE_RESOLVE:
                with nogil:
                    change_resolve(&change, now)
            elif result == CHANGE_RESERVE:
                status = <Status>self.prepare(&change)
                if status != Status.STATUS_OK:
                    change_abandon(&change)
                    self.count_shed(status)
                    return False
            else:
                break
        if result == CHANGE_DONE:
            return True
        change_abandon(&change)
        self.count_shed(change.status)
        return False

    cdef bint remove(self, KeyView* view) except -1:
        """Delete one entry; whether there was one."""
        cdef Change change
        cdef ChangeResult result
        cdef int64_t now = ec_now_us()
        change_init(&change, &self.engine, view.hash, view.data, <uint32_t>view.size,
                    CHANGE_DELETE | (CHANGE_COMPOSITE if self.is_composite else 0))
        while True:
            result = change_commit(&change, now)
            if result == CHANGE_RESOLVE:
                with nogil:
                    change_resolve(&change, now)
            elif result == CHANGE_RESERVE:
                if self.prepare(&change) != <int>Status.STATUS_OK:
                    # The entry goes all the same; after a crash it might be found again.
                    change.flags |= CHANGE_UNLOGGED
                    self.engine.unlogged_delete_count += 1
            else:
                break
        change_abandon(&change)
        return result == CHANGE_DONE

    def put(self, key, value, *, ttl=None, tags=(), meta=None):
        """Store `value` under `key`.

        Args:
            key: bytes or str (UTF-8), 1 to 8192 bytes.
            value: bytes or any contiguous buffer, at most `max_object_size` bytes.
            ttl: lifetime in seconds; 0 is over at once; None: the configured default.
            tags: up to 255 tags for `purge_tag`, each 1 to 255 bytes of UTF-8.
            meta: a `Meta` to keep with the value.

        Returns:
            True; False when the entry was shed (counted in `stats()`): the disk is full, sick or
            too slow, or no tier has room. A put that returns False leaves no stale value behind.

        Raises:
            KeyTypeError, KeySizeError, ValueTooLargeError, InvalidTTLError, TypeError (value).

        *Thread-safety*: any thread. *Cost*: copies the value twice (RAM, write buffer); durable
        after `sync()`.
        """
        cdef KeyView view
        cdef object owner = None
        cdef bytes encoded = None
        cdef Py_buffer source
        cdef int64_t expiry
        cdef uint32_t flags = 0
        cdef const char* meta_data = NULL
        cdef uint32_t meta_len = 0
        if self.state != STORE_OPEN:
            self.check_open()
        owner = self.take_key(key, &view)
        expiry = expiry_of(self, ttl) if ttl is not None or self.default_ttl_us else 0
        if meta is not None or tags:
            encoded = self.encode_meta(meta, tags)
            meta_data = PyBytes_AS_STRING(encoded)
            meta_len = <uint32_t>PyBytes_GET_SIZE(encoded)
            if meta_tag_count(meta_data):
                flags = CHANGE_TAGGED
        if PyBytes_CheckExact(value):
            self.check_size(PyBytes_GET_SIZE(value))
            return self.store(&view, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), meta_data,
                              meta_len, expiry, flags)
        if isinstance(value, str):
            raise TypeError("the value is str; encode it, or use a codec")
        PyObject_GetBuffer(value, &source, PyBUF_SIMPLE)
        try:
            self.check_size(source.len)
            return self.store(&view, <const char*>source.buf, source.len, meta_data, meta_len,
                              expiry, flags)
        finally:
            PyBuffer_Release(&source)

    cdef int check_size(self, uint64_t size) except -1:
        if size > self.max_object_bytes:
            raise errors.ValueTooLargeError(
                f"the value has {size} bytes, `max_object_size` is {self.max_object_bytes}",
                hint="raise max_object_size, or split the value")
        return 0

    def encode_meta(self, meta, tags):
        """Bytes of a meta with these tags; the Python face overrides it."""
        raise TypeError("this store takes neither tags nor meta")

    def delete(self, key):
        """Remove `key` from every tier; whether there was a live entry.

        *Cost*: appends a tombstone if the entry is on disk; may read one page to compare keys.
        """
        cdef KeyView view
        cdef object owner = None
        self.check_open()
        owner = self.take_key(key, &view)
        if not self.remove(&view):
            return False
        self.invalidation_count += 1
        return True

    # Batches

    cdef IoChannel* channel(self) except NULL:
        cdef BatchChannel held = getattr(self.channels, "channel", None)
        if held is None:
            held = BatchChannel(self.io)
            self.channels.channel = held
        return held.channel

    def get_many(self, keys):
        """Return the values of `keys` in their order, None for each miss.

        *Cost*: as many `get`s from RAM; what is on disk is read with up to 64 requests in
        flight. An invalid key raises before anything is read.
        """
        cdef KeyView view
        cdef Probe probe
        cdef object owner, value
        cdef list found = []
        cdef list waiting = None
        cdef LookupResult result
        cdef Shard* shard
        if self.state != STORE_OPEN:
            self.check_open()
        for key in keys:
            owner = self.take_key(key, &view)
            value = self.front_get(&view)
            if value is None:
                value = self.lookup_memory(&view, &probe, False, &result)
                if result == LOOKUP_DISK:
                    if waiting is None:
                        waiting = []
                    waiting.append((len(found), key))
                    value = None
                elif result != LOOKUP_HIT:
                    value = None
                    shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
                    ec_count(&shard.counters.miss_count, 1)
            found.append(value)
        if waiting is not None:
            for start in range(0, len(waiting), BATCH_FETCHES):
                self.get_batch(found, waiting[start:start + BATCH_FETCHES])
        return found

    cdef get_batch(self, list found, list waiting):
        """Read the (position, key) pairs from disk into `found`."""
        cdef uint32_t count = <uint32_t>len(waiting), index
        cdef Fetch* fetches = <Fetch*>malloc(count * sizeof(Fetch))
        cdef FetchState* states = <FetchState*>calloc(count, sizeof(FetchState))
        cdef KeyView view
        cdef Probe probe
        cdef Shard* shard
        cdef object owner, value
        cdef IoChannel* channel
        cdef list owners = []
        try:
            if fetches == NULL or states == NULL:
                raise MemoryError("no memory for a batch")
            memset(fetches, 0, count * sizeof(Fetch))
            channel = self.channel()
            for index in range(count):
                owner = self.take_key(waiting[index][1], &view)
                owners.append(owner)
                shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
                ec_lock_acquire(&shard.lock)
                shard_probe(self.shards.base, shard, view.hash.low, view.data,
                            <uint32_t>view.size, &probe)
                ec_lock_release(&shard.lock)
                fetch_init(&fetches[index], &self.log, &self.shards, view.hash, view.data,
                           <uint32_t>view.size, &probe, False)
            with nogil:
                fetch_run_many(fetches, states, count, channel)
            for index in range(count):
                value = None
                if states[index] == FETCH_FOUND:
                    value = self.take_fetched(&fetches[index], False)
                elif fetches[index].was_stale or fetches[index].probe.ram:
                    # Moved, or promoted by somebody else meanwhile: the slow way finds it.
                    owner = self.take_key(waiting[index][1], &view)
                    value = self.find(&view, False)
                    found[waiting[index][0]] = value
                    continue
                if value is None:
                    shard = shard_at(&self.shards, shard_number(&self.shards,
                                                                fetches[index].hash.high))
                    ec_count(&shard.counters.miss_count, 1)
                found[waiting[index][0]] = value
        finally:
            if fetches != NULL:
                for index in range(count):
                    fetch_free(&fetches[index])
            free(fetches)
            free(states)

    def sync(self):
        """Make everything put or deleted so far durable; returns when it is.

        Raises:
            DiskIOError: the device failed; what was not yet durable may be lost.
            DeadlineError: it took longer than a minute.

        *Thread-safety*: any thread; callers that come together share one fdatasync.
        """
        cdef Status status
        self.check_open()
        if not self.has_disk:
            return
        with nogil:
            status = log_sync(&self.log, ec_monotonic_ns() + <int64_t>SYNC_NS)
        if status != Status.STATUS_OK:
            raise_for_status(status, "sync", self.log.shared.last_errno)

    def flush(self):
        """Hand everything buffered to the device without waiting for it to be durable."""
        cdef Status status
        self.check_open()
        if self.has_disk:
            with nogil:
                status = log_flush(&self.log, ec_monotonic_ns() + <int64_t>SYNC_NS)
            raise_for_status(status, "flush", self.log.shared.last_errno)


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


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Blob:

    def __init__(self):
        raise TypeError("blobs come from view()")

    cdef int release_now(self) except -1:
        cdef Shard* shard
        if self.exports:
            raise BufferError("a memoryview of the blob is still in use; release it first")
        if self.core is not None:
            shard = shard_at(&self.core.shards, self.shard)
            ec_lock_acquire(&shard.lock)
            memory_unpin(self.core.shards.base, &shard.memory, self.reference)
            ec_lock_release(&shard.lock)
            self.core = None
        self.owner = None
        self.data = NULL
        return 0

    def release(self):
        """Unpin the bytes; the blob cannot be read any more. Idempotent.

        Raises:
            BufferError: a memoryview of it is in use.
        """
        self.release_now()

    def tobytes(self):
        """Return a copy as bytes."""
        if self.data == NULL:
            raise errors.StoreClosedError("the blob was released", hint="call view() again")
        return copy_pinned(self.data, self.size)

    @property
    def nbytes(self):
        """Size in bytes."""
        return self.size

    def __len__(self):
        return self.size

    def __bytes__(self):
        return self.tobytes()

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.release_now()

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a blob is read-only")
        if self.data == NULL:
            raise BufferError("the blob was released")
        self.shape[0] = self.size
        self.strides[0] = 1
        buffer.buf = <void*>self.data
        buffer.obj = self
        buffer.len = self.size
        buffer.itemsize = 1
        buffer.readonly = 1
        buffer.ndim = 1
        buffer.format = NULL
        if flags & PyBUF_FORMAT:
            buffer.format = <char*>b"B"
        buffer.shape = self.shape if flags & PyBUF_ND else NULL
        buffer.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1

    def __dealloc__(self):
        cdef Shard* shard
        if self.core is not None:
            shard = shard_at(&self.core.shards, self.shard)
            ec_lock_acquire(&shard.lock)
            memory_unpin(self.core.shards.base, &shard.memory, self.reference)
            ec_lock_release(&shard.lock)
