"""Root: views of values, and questions that need no value (see _core_blob.pxd)."""

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from edgecache._change cimport LARGE_COPY_BYTES
from edgecache._core_lower cimport lower_hash
from edgecache._fetch cimport FETCH_FOUND, Fetch, fetch_free, fetch_init, fetch_run
from edgecache._index cimport IndexCursor
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
from edgecache._meta cimport META_FLAG_OBJECT, meta_has_flag
from edgecache._shard cimport (
    Probe,
    Shard,
    shard_at,
    shard_epoch,
    shard_erase_ram,
    shard_find_ram,
    shard_number,
    shard_pin,
    shard_probe,
    shard_unpin,
)
from edgecache._sync cimport ec_lock_acquire, ec_lock_release

from edgecache import errors
from edgecache._core_base cimport STORE_FORKED
from edgecache._core_front cimport (
    FrontEntry,
    KeyView,
    front_find,
    front_same,
    is_past,
    take_plain_key,
)
from edgecache._core_read cimport (
    LARGE_COPY_BYTES,
    CoreRead,
    bytes_or_null,
    copy_pinned,
    meta_is_stale,
    taken,
)

cdef extern from "unistd.h" nogil:
    int getpid()

cdef enum:
    LOOKUP_RETRIES = 4                  # of a key whose record is moved while it is read


cdef Blob blob_of(object value):
    """A blob over a bytes object."""
    cdef Blob blob = Blob.__new__(Blob)
    blob.owner = value
    blob.data = PyBytes_AS_STRING(value)
    blob.size = PyBytes_GET_SIZE(value)
    return blob


cdef Pin pin_of(CoreBlob core, uint32_t shard, uint32_t reference, uint32_t hold):
    """The owner of a pin that was just taken; undoes it when there is no memory for one."""
    cdef Shard* place = shard_at(&core.shards, shard)
    cdef Pin pin
    try:
        pin = Pin.__new__(Pin)
    except MemoryError:
        ec_lock_acquire(&place.lock)
        shard_unpin(&core.shards, place, reference, hold)
        ec_lock_release(&place.lock)
        raise
    pin.core = core
    pin.shard = shard
    pin.reference = reference
    pin.hold = hold
    pin.life = core.life
    return pin


cdef Blob pinned_blob(CoreBlob core, uint32_t shard, uint32_t reference, uint32_t hold,
                      RamItem* item):
    """A blob over an item that was just pinned: it neither moves nor changes."""
    cdef Pin pin = pin_of(core, shard, reference, hold)
    cdef Blob blob = Blob.__new__(Blob)
    blob.owner = pin
    blob.data = item_value(item)
    blob.size = item.value_len
    return blob


cdef class CoreBlob(CoreRead):

    def view(self, key):
        """Return a `Blob` over the value of `key`, without copying a large one, or None.

        *Cost*: as `get`, less the copy. The bytes are pinned until the blob is released. Not so
        values of 256 bytes at most, whose copy costs less than keeping their place, and those that
        a ready bytes object is kept of anyway.
        """
        cdef KeyView view
        cdef object _owner
        cdef Blob blob
        cdef FrontEntry* entry
        cdef PyObject* ready = front_same(self, key)
        if ready != NULL:
            # A ready object exists: a view of it pins nothing.
            return blob_of(<object>ready)
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        entry = front_find(self, key, &view)
        if entry != NULL:
            return blob_of(<object>entry.value)
        blob = self.pin(key, &view)
        if blob is not None:
            return blob
        value = self.find(key, &view, False)
        if value is None:
            return None
        # Promoted by now, unless RAM had no room: then the blob owns the bytes object.
        blob = self.pin(key, &view)
        return blob_of(value) if blob is None else blob

    cdef Blob pin(self, object key, KeyView* view):
        """A blob over the item in RAM, or None. Counts a hit, not a miss."""
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        cdef char* base = self.shards.base
        cdef IndexCursor cursor
        cdef RamItem* item
        cdef uint32_t reference
        cdef PyObject* made = NULL
        cdef Blob blob = Blob.__new__(Blob)
        cdef bint is_small = False, is_fronted = False
        cdef uint32_t is_pinned = 0
        cdef uint32_t epoch = 0
        ec_lock_acquire(&shard.lock)
        reference = shard_find_ram(base, shard, view.hash.low, view.data, <uint32_t>view.size,
                                   &cursor)
        if reference:
            item = memory_item(base, &shard.memory, reference)
            if not (item_has_expiry(item) and is_past(item_expiry_us(item))) and \
                    not (item_has_meta(item) and
                         (meta_is_stale(item_meta(item), item_meta_len(item)) or
                          meta_has_flag(item_meta(item), item_meta_len(item), META_FLAG_OBJECT))):
                is_fronted = item.value_len <= BLOB_FRONT_BYTES and not item_has_meta(item) and \
                    self.front_has_room(view, item.value_len)
                is_small = is_fronted or item.value_len <= BLOB_SMALL_BYTES
                is_pinned = 0 if is_small else shard_pin(&self.shards, shard, reference)
        if is_small or is_pinned:
            memory_hit(base, &shard.memory, reference, view.hash.low)
            shard.counters.memory_hit_count += 1
            blob.size = item.value_len
            if is_small:
                epoch = shard_epoch(&self.shards, shard, view.hash.low)[0]
                # Making an object of bytes runs no Python code, so it may happen under the lock.
                made = bytes_or_null(item_value(item), item.value_len)
            else:
                blob.data = item_value(item)
        ec_lock_release(&shard.lock)
        if is_small:
            blob.owner = taken(made)
            blob.data = PyBytes_AS_STRING(blob.owner)
        if is_pinned:
            blob.owner = pin_of(self, shard.number, reference, is_pinned)
        elif is_fronted:
            # The next view of this key then needs no lock, and no look at the item. Views only fill
            # free places: more keys than the table holds must not chase each other out.
            self.front_put(key, view, shard, reference, epoch, blob.owner)
        return blob if is_small or is_pinned else None

    def peek_entry(self, key):
        """Return an entry as `read_entry` does, if RAM can tell: a large value as a `Blob`.

        Returns:
            (value, meta bytes, expiry_us, version, location), fresh or stale; None for a certain
            miss; NotImplemented when only the disk can tell, and for the head of an object. The
            value is bytes up to 16 KiB, above that a Blob, which pins its entry until it is
            released.

        *Thread-safety*: any thread. *Cost*: no system call; one copy of a small value.
        """
        cdef KeyView view
        cdef object _owner, value
        cdef Shard* shard
        cdef char* base = self.shards.base
        cdef RamItem* item
        cdef Probe probe
        cdef uint32_t reference
        cdef PyObject* made = NULL
        cdef PyObject* made_meta
        cdef uint32_t is_pinned
        if not take_plain_key(self, key, &view):
            self.check_open()
            _owner = self.take_key(key, &view)
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_lock_acquire(&shard.lock)
        shard_probe(base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        reference = probe.ram
        if reference == 0:
            ec_lock_release(&shard.lock)
            if probe.count:
                return NotImplemented
            self.count_miss(&view)
            return None
        item = memory_item(base, &shard.memory, reference)
        if item_has_meta(item) and \
                meta_has_flag(item_meta(item), item_meta_len(item), META_FLAG_OBJECT):
            ec_lock_release(&shard.lock)
            return NotImplemented
        if item_has_expiry(item) and is_past(item_expiry_us(item)):
            shard_erase_ram(&self.shards, shard, view.hash.low, reference)
            shard.counters.expired_count += 1
            ec_lock_release(&shard.lock)
            self.count_miss(&view)
            return None
        memory_hit(base, &shard.memory, reference, view.hash.low)
        shard.counters.memory_hit_count += 1
        is_pinned = 0
        if item.value_len > PEEK_COPY_BYTES:
            is_pinned = shard_pin(&self.shards, shard, reference)
        # Bytes alone are made under the lock: other objects may start a collection, and that may
        # run Python code.
        if not is_pinned:
            made = bytes_or_null(item_value(item), item.value_len)
        made_meta = bytes_or_null(item_meta(item), item_meta_len(item))
        expiry_us = item_expiry_us(item)
        version = item.version
        location = item_disk_location(item)
        ec_lock_release(&shard.lock)
        if is_pinned:
            value = pinned_blob(self, shard.number, reference, is_pinned, item)
        else:
            value = taken(made)
        return (value, taken(made_meta), expiry_us, version, location)

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
        cdef object _owner
        cdef bint found = False, again = True
        cdef int _attempt
        self.check_open()
        _owner = self.take_key(key, &view)
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        for _attempt in range(LOOKUP_RETRIES):
            ec_lock_acquire(&shard.lock)
            shard_probe(self.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size,
                        &probe)
            if probe.ram:
                item = memory_item(self.shards.base, &shard.memory, probe.ram)
                found = not (item_has_expiry(item) and is_past(item_expiry_us(item)))
            ec_lock_release(&shard.lock)
            if probe.ram or probe.count == 0:
                if self.lower is not None and not probe.ram:
                    found = self.lower.exists(lower_hash(view.hash))
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


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Pin:

    def __dealloc__(self):
        cdef Shard* shard = shard_at(&self.core.shards, self.shard)
        if self.life != self.core.life or self.core.state == STORE_FORKED or \
                self.core.is_shared and self.core.processes.pid != <uint32_t>getpid():
            # Of the process that this one was forked from, or of a store that has closed since.
            return
        ec_lock_acquire(&shard.lock)
        shard_unpin(&self.core.shards, shard, self.reference, self.hold)
        ec_lock_release(&shard.lock)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Blob:

    def __init__(self):
        raise TypeError("blobs come from view()")

    cdef int release_now(self) except -1:
        if self.exports:
            raise BufferError("a memoryview of the blob is still in use; release it first")
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
