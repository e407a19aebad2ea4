"""Root: putting, deleting and making it durable (see _core_write.pxd)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._change cimport (
    CHANGE_COMPOSITE,
    CHANGE_DELETE,
    CHANGE_DONE,
    CHANGE_FAILED,
    CHANGE_IF_SAME,
    CHANGE_NO_DISK,
    CHANGE_NOTHING,
    CHANGE_RESERVE,
    CHANGE_RESOLVE,
    CHANGE_TAGGED,
    CHANGE_UNLOGGED,
    LARGE_COPY_BYTES,
    OBJECT_HEAD_BYTES,
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
    CoreBase,
)
from edgecache._core_lower cimport (
    LOWER_COMPOSITE,
    LOWER_OBJECT,
    LOWER_PART,
    LOWER_TAGGED,
    lower_hash,
    lower_ram_version,
    lower_store_ram,
)
from edgecache._flush cimport log_flush, log_sync, log_wait
from edgecache._meta cimport META_FLAG_OBJECT, META_FLAG_PART, meta_has_flag, meta_tag_count
from edgecache._segment cimport LOG_MAIN, log_errno
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport ec_count, ec_load_u32, ec_monotonic_ns, ec_now_us

from edgecache import errors
from edgecache._core_blob cimport CoreBlob
from edgecache._core_front cimport KeyView, take_plain_key

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char* memory, Py_ssize_t size, int flags)
    int PyBUF_READ

cdef enum:
    SYNC_NS = 60000000000
    PENDING_WAIT_NS = 20000000


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


cdef class CoreWrite(CoreBlob):

    # Writing

    cdef int prepare(self, Change* change, bint block) except -1:
        """Reserve log space, waiting as the policy allows; the Status."""
        cdef Status status
        cdef bint big = change.value_len > LARGE_COPY_BYTES, waited
        cdef int64_t deadline = 0
        while True:
            if big:
                with nogil:
                    status = change_prepare(change)
            else:
                status = change_prepare(change)
            if status != Status.STATUS_AGAIN or not block or not self.block:
                return <int>status
            if deadline == 0:
                deadline = ec_monotonic_ns() + self.block_timeout_ns
            with nogil:
                waited = log_wait(&self.log, deadline)
            if not waited:
                return <int>status

    cdef void count_shed(self, Status status):
        if status == Status.STATUS_AGAIN or status == Status.STATUS_TIMEOUT:
            self.cells.shed[SHED_BACKPRESSURE] += 1
        elif status == Status.STATUS_NO_SPACE:
            self.cells.shed[SHED_NO_SPACE] += 1
        elif status == Status.STATUS_TOO_LARGE:
            self.cells.shed[SHED_TOO_LARGE] += 1
        elif status == Status.STATUS_NO_MEMORY:
            self.cells.shed[SHED_NO_MEMORY] += 1
        elif self.log.shared != NULL and ec_load_u32(&self.log.shared.read_only):
            self.cells.shed[SHED_READ_ONLY] += 1
        else:
            self.cells.shed[SHED_IO_ERROR] += 1

    cdef void count_shed_late(self, Status status):
        """A put that found no place when its record was ready."""
        if status == Status.STATUS_NO_MEMORY:
            self.cells.shed[SHED_INDEX_FULL] += 1
        elif status == Status.STATUS_NO_SPACE:
            # RAM only, and RAM has no room for a value of this size.
            self.cells.shed[SHED_TOO_LARGE] += 1
        else:
            self.count_shed(status)

    cdef int write_large(self, Change* change) except -1:
        """Write a record of its own block; the Status. Blocks on the device."""
        cdef Status status
        with nogil:
            status = change_write_large(change)
            while status == Status.STATUS_AGAIN:
                # Too many large records on their way: one of them will be done soon.
                log_wait(&self.log, ec_monotonic_ns() + <int64_t>PENDING_WAIT_NS)
                status = change_write_large(change)
        return <int>status

    cdef int store(self, KeyView* view, const char* value, uint64_t value_len, const char* meta,
                   uint32_t meta_len, int64_t expiry_us, uint32_t flags, bint block,
                   uint32_t expected_version, uint64_t expected_location) except -1:
        """Put one entry; a StoreResult. The last two matter with CHANGE_IF_SAME only."""
        cdef Change change
        cdef ChangeResult result
        cdef Status status = Status.STATUS_OK
        cdef char head[OBJECT_HEAD_BYTES]
        # Only a delete tells whether what it removes was still alive.
        cdef int64_t now = 0
        if self.lower is not None:
            if not block:
                return WOULD_BLOCK
            return self.store_lower(view, value, value_len, meta, meta_len, expiry_us, flags,
                                    expected_version, expected_location)
        if self.is_composite:
            flags |= CHANGE_COMPOSITE
        change_init(&change, &self.engine, view.hash, view.data, <uint32_t>view.size, flags)
        change.value = value
        change.value_len = value_len
        change.meta = meta
        change.meta_len = meta_len
        change.expiry_us = expiry_us
        change.expected_version = expected_version
        change.expected_location = expected_location
        if not flags & CHANGE_IF_SAME:
            # Another value, not the same one with another meta: the object before it goes.
            change.object_head = head
        if self.has_disk and not flags & CHANGE_NO_DISK:
            if self.admit(view.hash.low, value_len + <uint64_t>view.size + 64, &change.head):
                if meta_has_flag(meta, meta_len, META_FLAG_PART | META_FLAG_OBJECT) and \
                        ec_load_u32(&self.log.shared.ready_count) >= 3:
                    # An object that loses its head or one part is worthless: all of it outlives the
                    # small log, which an object larger than that would fill alone.
                    change.head = LOG_MAIN
                status = <Status>self.prepare(&change, block)
            else:
                self.cells.shed[SHED_WRITE_BUDGET] += 1
                change.flags |= CHANGE_NO_DISK
        if status == Status.STATUS_OK and change.is_large:
            if block:
                status = <Status>self.write_large(&change)
            else:
                status = Status.STATUS_AGAIN
        if status == Status.STATUS_OK and value_len > LARGE_COPY_BYTES:
            change_stage(&change)
            with nogil:
                change_stage_copy(&change)
        while status == Status.STATUS_OK:
            result = change_commit(&change, now)
            if change.has_object:
                self.object_gone(PyBytes_FromStringAndSize(head, OBJECT_HEAD_BYTES))
            if result == CHANGE_DONE:
                return STORED
            if result == CHANGE_NOTHING:
                return NOT_SAME
            if result == CHANGE_FAILED:
                self.count_shed_late(change.status)
                change_abandon(&change)
                return NOT_STORED
            if not block:
                status = Status.STATUS_AGAIN
            elif result == CHANGE_RESOLVE:
                with nogil:
                    change_resolve(&change, now)
            else:
                status = <Status>self.prepare(&change, block)
        change_abandon(&change)
        if status == Status.STATUS_AGAIN and not block:
            return WOULD_BLOCK
        self.count_shed(status)
        return NOT_STORED

    cdef int store_lower(self, KeyView* view, const char* value, uint64_t value_len,
                         const char* meta, uint32_t meta_len, int64_t expiry_us, uint32_t flags,
                         uint32_t expected_version, uint64_t expected_sequence) except -1:
        """`store` for a lower tier: written there without a lock, then entered there and in RAM."""
        cdef bytes hash16 = lower_hash(view.hash)
        cdef bytes key = PyBytes_FromStringAndSize(view.data, view.size)
        cdef object ticket, source, head = None
        cdef int result = NOT_STORED
        cdef uint32_t kind = LOWER_COMPOSITE if self.is_composite else 0
        if flags & CHANGE_TAGGED:
            kind |= LOWER_TAGGED
        if meta_has_flag(meta, meta_len, META_FLAG_PART):
            kind |= LOWER_PART
        if meta_has_flag(meta, meta_len, META_FLAG_OBJECT):
            kind |= LOWER_OBJECT
        # The callers keep the bytes alive; the view of them does not outlive this call.
        source = PyMemoryView_FromMemory(<char*>value, <Py_ssize_t>value_len, PyBUF_READ)
        try:
            ticket = self.lower.write(
                hash16, key, source,
                PyBytes_FromStringAndSize(meta, meta_len) if meta_len else b"", expiry_us, kind)
        finally:
            source.release()
        # The ticket is entered or dropped, also when a signal's handler raises in between.
        try:
            with self.lower.lock(hash16):
                if not flags & CHANGE_IF_SAME:
                    head = self.lower.object_head(hash16, key)
                result = self.enter_lower(view, hash16, ticket, value, value_len, meta, meta_len,
                                          expiry_us, flags, expected_version, expected_sequence)
        finally:
            self.lower.drop(ticket)
        if head is not None:
            # Without the key's lock: the parts have locks of their own.
            self.object_gone(head)
        return result

    def lower_key(self, key):
        """(hash, stored key, flags) that the lower tier knows this key by."""
        cdef KeyView view
        cdef object _owner
        self.check_open()
        _owner = self.take_key(key, &view)
        return (lower_hash(view.hash), PyBytes_FromStringAndSize(view.data, view.size),
                LOWER_COMPOSITE if self.is_composite else 0)

    def enter_written(self, key, ticket):
        """Publish a version that was written to the lower tier directly; RAM lets the older go."""
        cdef KeyView view
        cdef object _owner, head
        cdef bint is_stored = False
        self.check_open()
        _owner = self.take_key(key, &view)
        hash16 = lower_hash(view.hash)
        try:
            with self.lower.lock(hash16):
                head = self.lower.object_head(
                    hash16, PyBytes_FromStringAndSize(view.data, view.size))
                self.remove_ram(&view, NULL)
                is_stored = self.lower.enter(ticket)
        finally:
            self.lower.drop(ticket)
        if head is not None:
            self.object_gone(head)
        return is_stored

    cdef int enter_lower(self, KeyView* view, bytes hash16, object ticket, const char* value,
                         uint64_t value_len, const char* meta, uint32_t meta_len,
                         int64_t expiry_us, uint32_t flags, uint32_t expected_version,
                         uint64_t expected_sequence) except -1:
        """Make a written version the current one. The caller holds the key's lock."""
        # A version that only RAM has is told by its own number: the tier below has none for it.
        if flags & CHANGE_IF_SAME and (
                self.lower.sequence(hash16) != expected_sequence or
                (expected_sequence == 0 and expected_version != lower_ram_version(
                    self, view.hash, view.data, <uint32_t>view.size))):
            return NOT_SAME
        if not self.lower.enter(ticket):
            # Shed: the older version went with it, here as there.
            self.remove_ram(view, NULL)
            return NOT_STORED
        lower_store_ram(self, view.hash, view.data, <uint32_t>view.size, value, value_len, meta,
                        meta_len, expiry_us)
        return STORED

    cdef bint remove(self, KeyView* view) except -1:
        """Delete one entry; whether there was one."""
        cdef bytes hash16
        cdef object head = None
        cdef bint was_there
        cdef char room[OBJECT_HEAD_BYTES]
        if self.lower is None:
            was_there = self.remove_ram(view, room)
        else:
            hash16 = lower_hash(view.hash)
            with self.lower.lock(hash16):
                head = self.lower.object_head(
                    hash16, PyBytes_FromStringAndSize(view.data, view.size))
                was_there = self.remove_ram(view, NULL)
                was_there = self.lower.delete(hash16, was_there) or was_there
        if head is not None:
            self.object_gone(head)
        return was_there

    def object_gone(self, bytes head not None):
        """The object with this head was deleted or replaced; for the layer that knows objects."""

    cdef bint remove_ram(self, KeyView* view, char* object_head) except -1:
        """Delete the entry of RAM and region log; of an object the rest, too, if there is room to
        keep its head meanwhile.
        """
        cdef Change change
        cdef ChangeResult result
        cdef int64_t now = ec_now_us()
        change_init(&change, &self.engine, view.hash, view.data, <uint32_t>view.size,
                    CHANGE_DELETE | (CHANGE_COMPOSITE if self.is_composite else 0))
        change.object_head = object_head
        while True:
            result = change_commit(&change, now)
            if result == CHANGE_RESOLVE:
                with nogil:
                    change_resolve(&change, now)
            elif result == CHANGE_RESERVE:
                if self.prepare(&change, True) != <int>Status.STATUS_OK:
                    # The entry goes all the same; the next sync waits for a checkpoint.
                    change.flags |= CHANGE_UNLOGGED
                    ec_count(&self.engine.shared.unlogged_delete_count, 1)
            else:
                break
        change_abandon(&change)
        if change.has_object:
            self.object_gone(PyBytes_FromStringAndSize(object_head, OBJECT_HEAD_BYTES))
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
        return self.put_object(key, value, ttl, tags, meta, True) == STORED

    def try_put(self, key, value, *, ttl=None, tags=(), meta=None):
        """As `put`, but None where `put` would wait for the disk: nothing was changed then."""
        cdef int result = self.put_object(key, value, ttl, tags, meta, False)
        return None if result == WOULD_BLOCK else result == STORED

    def replace(self, key, bytes value not None, bytes meta not None, int64_t expiry_us,
                uint32_t version, uint64_t location):
        """Put over the very version of an entry that `read_entry` returned.

        Returns:
            True; False: shed and counted; None: the entry was changed or deleted since (or moved
            on disk: read it again), and nothing was done.
        """
        cdef KeyView view
        cdef object _owner
        cdef uint32_t flags = CHANGE_IF_SAME
        cdef int result
        self.check_open()
        _owner = self.take_key(key, &view)
        if PyBytes_GET_SIZE(meta) and meta_tag_count(PyBytes_AS_STRING(meta)):
            flags |= CHANGE_TAGGED
        result = self.store(&view, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value),
                            PyBytes_AS_STRING(meta), <uint32_t>PyBytes_GET_SIZE(meta), expiry_us,
                            flags, True, version, location)
        return None if result == NOT_SAME else result == STORED

    def put_encoded(self, key, value, bytes meta not None, int64_t expiry_us):
        """Put with the bytes of a meta and an absolute expiry (0: never); for the layers above.

        No configured size limit is looked at; False also when one entry cannot hold the value.
        """
        cdef KeyView view
        cdef object _owner
        cdef Py_buffer source
        cdef uint32_t flags = 0
        self.check_open()
        _owner = self.take_key(key, &view)
        if PyBytes_GET_SIZE(meta) and meta_tag_count(PyBytes_AS_STRING(meta)):
            flags = CHANGE_TAGGED
        PyObject_GetBuffer(value, &source, PyBUF_SIMPLE)
        try:
            return self.store(&view, <const char*>source.buf, source.len, PyBytes_AS_STRING(meta),
                              <uint32_t>PyBytes_GET_SIZE(meta), expiry_us, flags, True, 0,
                              0) == STORED
        finally:
            PyBuffer_Release(&source)

    def expiry_at(self, ttl):
        """When a lifetime of `ttl` seconds from now ends, in us since the epoch; 0: never."""
        return expiry_of(self, ttl)

    cdef int put_object(self, object key, object value, object ttl, object tags, object meta,
                        bint block) except -1:
        cdef KeyView view
        cdef object _owner
        cdef bytes encoded = None
        cdef Py_buffer source
        cdef int64_t expiry
        cdef uint32_t flags = 0
        cdef const char* meta_data = b""     # copied from, also when it is empty
        cdef uint32_t meta_len = 0
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        expiry = expiry_of(self, ttl) if ttl is not None or self.default_ttl_us else 0
        if meta is not None or tags:
            encoded = self.encode_meta(meta, tags)
            meta_data = PyBytes_AS_STRING(encoded)
            meta_len = <uint32_t>PyBytes_GET_SIZE(encoded)
            if meta_tag_count(meta_data):
                flags = CHANGE_TAGGED
        if PyBytes_CheckExact(value):
            if <uint64_t>PyBytes_GET_SIZE(value) > self.max_object_bytes:
                return self.store_beyond(key, value, ttl, tags, meta, block)
            return self.store(&view, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), meta_data,
                              meta_len, expiry, flags, block, 0, 0)
        if isinstance(value, str):
            raise TypeError("the value is str; encode it, or use a codec")
        PyObject_GetBuffer(value, &source, PyBUF_SIMPLE)
        try:
            if <uint64_t>source.len > self.max_object_bytes:
                return self.store_beyond(key, value, ttl, tags, meta, block)
            return self.store(&view, <const char*>source.buf, source.len, meta_data, meta_len,
                              expiry, flags, block, 0, 0)
        finally:
            PyBuffer_Release(&source)

    cdef int store_beyond(self, object key, object value, object ttl, object tags, object meta,
                          bint block) except -1:
        """A value that no single entry holds."""
        if not block:
            return WOULD_BLOCK
        return STORED if self.put_beyond(key, value, ttl, tags, meta) else NOT_STORED

    def split_values(self):
        """From now on a value that one entry cannot hold goes to `put_beyond`, too."""
        self.max_object_bytes = min(self.max_object_bytes, self.largest_value_bytes)

    def put_beyond(self, key, value, ttl, tags, meta):
        """`put` of a value that no single entry holds; the layer that knows objects overrides it.
        """
        raise errors.ValueTooLargeError(
            f"the value has {memoryview(value).nbytes} bytes, at most {self.max_object_bytes} fit",
            hint="raise max_object_size, or split the value")

    def encode_meta(self, meta, tags):
        """Bytes of a meta with these tags; the Python face overrides it."""
        raise TypeError("this store takes neither tags nor meta")

    def delete(self, key):
        """Remove `key` from every tier; whether there was a live entry.

        *Cost*: appends a tombstone if the entry is on disk; may read one page to compare keys.
        """
        cdef KeyView view
        cdef object _owner
        self.check_open()
        _owner = self.take_key(key, &view)
        if not self.remove(&view):
            return False
        self.cells.invalidations += 1
        return True

    def sync(self):
        """Make everything put or deleted so far durable; returns when it is.

        Raises:
            DiskIOError: the device failed; what was not yet durable may be lost.
            DeadlineError: it took longer than a minute.

        *Thread-safety*: any thread; callers that come together share one fdatasync.
        """
        cdef Status status
        self.check_open()
        if self.lower is not None:
            self.lower.sync()
        if not self.has_disk:
            return
        with nogil:
            status = log_sync(&self.log, ec_monotonic_ns() + <int64_t>SYNC_NS)
        if status != Status.STATUS_OK:
            raise_for_status(status, "sync", log_errno(&self.log))

    def flush(self):
        """Hand everything buffered to the device without waiting for it to be durable."""
        cdef Status status
        self.check_open()
        if self.lower is not None:
            self.lower.flush()
        if self.has_disk:
            with nogil:
                status = log_flush(&self.log, ec_monotonic_ns() + <int64_t>SYNC_NS)
            raise_for_status(status, "flush", log_errno(&self.log))
