"""Root: the whole store (see _core.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport (
    PyList_CheckExact,
    PyList_GET_ITEM,
    PyList_GET_SIZE,
    PyList_SET_ITEM,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._core_base cimport STORE_OPEN
from edgecache._core_counters cimport collect_counters
from edgecache._core_front cimport (
    FrontEntry,
    KeyView,
    front_find,
    front_prefetch,
    front_same,
    take_plain_key,
)
from edgecache._core_lower cimport lower_hash
from edgecache._core_part cimport CorePart
from edgecache._core_read cimport (
    LOOKUP_DISK,
    LOOKUP_HIT,
    LOOKUP_MISS,
    LookupResult,
    ObjectHead,
)
from edgecache._flush cimport log_flush, log_settle
from edgecache._memory cimport RamItem, item_has_meta, item_meta, item_meta_len, memory_item
from edgecache._meta cimport META_FLAG_OBJECT, meta_has_flag
from edgecache._segment cimport log_check, log_errno
from edgecache._shard cimport (
    Probe,
    Shard,
    shard_at,
    shard_check,
    shard_number,
    shard_probe,
)
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport ec_lock_acquire, ec_lock_release, ec_monotonic_ns
from edgecache._walk cimport Walk, walk_clear, walk_free, walk_memory, walk_region

cdef enum:
    GET_CHUNK = 64                      # keys hashed, and their memory asked for, ahead
    WALK_FLUSH_NS = 60000000000
    SETTLE_NS = 60000000000


cdef inline void put_item(list found, Py_ssize_t index, object value) noexcept:
    """Into a slot that holds None, which is immortal in effect: it need not be released first."""
    Py_INCREF(value)
    Py_DECREF(<object>PyList_GET_ITEM(found, index))
    PyList_SET_ITEM(found, index, value)


cdef class Core(CorePart):

    @property
    def shard_count(self):
        """Number of lock shards."""
        return self.shards.count

    @property
    def region_count(self):
        """Number of regions of the disk tier; 0 without one."""
        return self.log.shared.region_count if self.has_disk else 0

    def needs_disk(self, key):
        """Would `get` or `delete` of this key read the disk, or many entries? Counts nothing."""
        cdef KeyView view
        cdef Probe probe
        cdef RamItem* item
        cdef bint is_object = False
        cdef object _owner
        cdef Shard* shard
        self.check_open()
        _owner = self.take_key(key, &view)
        shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        ec_lock_acquire(&shard.lock)
        shard_probe(self.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        if probe.ram:
            item = memory_item(self.shards.base, &shard.memory, probe.ram)
            is_object = item_has_meta(item) and \
                meta_has_flag(item_meta(item), item_meta_len(item), META_FLAG_OBJECT)
        ec_lock_release(&shard.lock)
        if self.lower is not None and probe.ram == 0:
            return self.lower.contains(lower_hash(view.hash))
        return is_object or (probe.ram == 0 and probe.count > 0)

    @property
    def value_bytes_max(self):
        """The largest value that one entry can hold, key and meta at their largest."""
        return self.largest_value_bytes

    @property
    def has_lower(self):
        """Whether the tier below RAM is one of files."""
        return self.lower is not None

    # Batches

    def get_many(self, keys):
        """Return the values of `keys` in their order, None for each miss.

        *Cost*: as many `get`s from RAM; what is on disk is read with up to 64 requests in
        flight. An invalid key raises before anything is read.
        """
        cdef KeyView[GET_CHUNK] views
        cdef Probe probe
        cdef object value, key
        cdef list found, waiting = None, objects = None, owners
        cdef LookupResult result
        cdef FrontEntry* entry
        cdef PyObject* ready
        cdef Py_ssize_t[GET_CHUNK] rest
        cdef Py_ssize_t start, index, count, total, place, rest_count
        if self.state != STORE_OPEN:
            self.check_open()
        if not PyList_CheckExact(keys):
            keys = list(keys)
        total = PyList_GET_SIZE(keys)
        found = [None] * total
        for start in range(0, total, GET_CHUNK):
            # A list may be changed by another thread whenever this one gives the GIL up.
            count = min(GET_CHUNK, PyList_GET_SIZE(keys) - start)
            owners = None
            rest_count = 0
            for index in range(count):
                key = <object>PyList_GET_ITEM(keys, start + index)
                ready = front_same(self, key)
                if ready != NULL:
                    put_item(found, start + index, <object>ready)
                    continue
                if not take_plain_key(self, key, &views[rest_count]):
                    value = self.take_key(key, &views[rest_count])
                    if value is not None:
                        owners = [] if owners is None else owners
                        owners.append(value)
                # By the time it is looked up, the set is in the cache.
                front_prefetch(self, &views[rest_count])
                rest[rest_count] = index
                rest_count += 1
            for place in range(rest_count):
                index = rest[place]
                key = <object>PyList_GET_ITEM(keys, start + index)
                entry = front_find(self, key, &views[place])
                if entry != NULL:
                    put_item(found, start + index, <object>entry.value)
                    continue
                value = self.lookup_memory(key, &views[place], &probe, False, &result)
                if result == LOOKUP_DISK or (self.lower is not None and result == LOOKUP_MISS):
                    waiting = [] if waiting is None else waiting
                    waiting.append((start + index, key))
                elif type(value) is ObjectHead:
                    objects = [] if objects is None else objects
                    objects.append((start + index, key, (<ObjectHead>value).entry))
                elif result == LOOKUP_HIT:
                    put_item(found, start + index, value)
                else:
                    self.count_miss(&views[place])
        if waiting is not None and self.lower is not None:
            for start, key in waiting:
                value = self.take_key(key, &views[0])
                found[start] = self.find(key, &views[0], False)
        elif waiting is not None:
            self.fetch_many(found, waiting)
        if objects is not None:
            # Python code, so after the loop that keeps pointers into `keys`.
            for start, key, entry_found in objects:
                found[start] = self.load_object(key, entry_found)
        return found

    cdef fetch_many(self, list found, list waiting):
        """Read the (position, key) pairs from disk into `found`."""
        cdef KeyView view
        cdef object _owner, value
        self.read_batch(found, waiting)
        for position, key in waiting:
            value = found[position]
            if type(value) is ObjectHead:
                # Python code, so after the batch, which it may want to use.
                value = found[position] = self.load_object(key, (<ObjectHead>value).entry)
                if value is None:
                    _owner = self.take_key(key, &view)
                    self.count_miss(&view)

    # Walks

    def walk_begin(self):
        """Keep reclaim and checkpoints away until `walk_end`; flushes first."""
        cdef Status status
        self.check_open()
        if not self.has_disk:
            return
        with nogil:
            ec_lock_acquire(&self.maintenance.shared.lock)
            status = log_flush(&self.log, ec_monotonic_ns() + <int64_t>WALK_FLUSH_NS)
        if status == Status.STATUS_TIMEOUT:
            ec_lock_release(&self.maintenance.shared.lock)
            raise_for_status(status, "flush before a walk")

    def walk_end(self):
        """Let reclaim and checkpoints go on."""
        if self.has_disk:
            ec_lock_release(&self.maintenance.shared.lock)

    cdef object stored_key(self, const char* data, Py_ssize_t size):
        """The caller's part of a key as it is stored."""
        cdef Py_ssize_t skip = 8 + len(self.namespace) if self.is_composite else 0
        cdef Py_ssize_t tail = 4 if self.is_composite else 0
        return PyBytes_FromStringAndSize(data + skip, size - skip - tail)

    cdef list take_keys(self, Walk* walk):
        cdef list keys = []
        cdef uint64_t offset = 0
        cdef uint32_t size
        while offset < walk.keys_bytes:
            memcpy(&size, walk.keys + offset, 4)
            keys.append(self.stored_key(walk.keys + offset + 4, size))
            offset += 4 + size
        return keys

    cdef bytes prepare_walk(self, Walk* walk, object prefix, bytes tag):
        """Fill a walk; the bytes that its prefix points into are returned to be kept alive."""
        cdef bytes stored = None
        memset(walk, 0, sizeof(Walk))
        walk.engine = &self.engine
        if prefix is not None:
            stored = prefix
            if self.is_composite:
                # The primary's length stands before it and differs: match behind the namespace
                # by a prefix of the fixed part, the rest is compared on the keys.
                stored = len(self.namespace).to_bytes(4, "little") + self.namespace
            walk.prefix = PyBytes_AS_STRING(stored)
            walk.prefix_len = <uint32_t>PyBytes_GET_SIZE(stored)
        if tag is not None:
            walk.tag = PyBytes_AS_STRING(tag)
            walk.tag_len = <uint32_t>PyBytes_GET_SIZE(tag)
        return stored

    cdef list filter_keys(self, Walk* walk, object prefix):
        cdef list keys = self.take_keys(walk)
        if prefix is not None and self.is_composite:
            keys = [key for key in keys if key.startswith(prefix)]
        return keys

    def walk_memory(self, uint32_t shard, prefix=None, tag=None, uint32_t flag=0):
        """Keys of the live RAM items of one shard that have this prefix and this tag (bytes).

        Parts of objects are passed over; with a flag, of the engine's in metas, it is those that
        have the flag.

        *Cost*: holds the shard's lock while it looks at every item of the shard.
        """
        cdef Walk walk
        cdef Status status
        cdef bytes _kept
        self.check_open()
        if shard >= self.shards.count:
            raise IndexError(f"shard {shard} of {self.shards.count}")
        _kept = self.prepare_walk(&walk, prefix, tag)
        walk.flag = flag
        try:
            with nogil:
                status = walk_memory(&walk, shard)
            raise_for_status(status, "walk")
            return self.filter_keys(&walk, prefix)
        finally:
            walk_free(&walk)

    def walk_region(self, uint32_t region, prefix=None, tag=None, uint32_t flag=0):
        """As `walk_memory` for the entries of one region: (keys, entries, bytes, corrupt).

        What does not verify is dropped. *Cost*: reads the region (for a tag only its tagged
        blocks), without the GIL. Between `walk_begin` and `walk_end` only.
        """
        cdef Walk walk
        cdef Status status
        cdef bytes _kept
        self.check_open()
        if region >= self.region_count:
            raise IndexError(f"region {region} of {self.region_count}")
        _kept = self.prepare_walk(&walk, prefix, tag)
        walk.flag = flag
        try:
            with nogil:
                status = walk_region(&walk, region)
            raise_for_status(status, "walk")
            return (self.filter_keys(&walk, prefix), walk.entry_count, walk.byte_count,
                    walk.corrupt_count)
        finally:
            walk_free(&walk)

    def walk_lower(self, prefix=None, tag=None, progress=None):
        """Keys of the live entries of the lower tier that have this prefix and this tag (bytes)."""
        self.check_open()
        return [] if self.lower is None else self.lower.walk(prefix, tag, progress)

    def scrub_lower(self, progress=None):
        """(entries, bytes, corrupt) of the lower tier; None: there is none."""
        self.check_open()
        return None if self.lower is None else self.lower.scrub(progress)

    def clear_all(self):
        """Forget every entry, durably when it returns. Not between `walk_begin` and `walk_end`.

        *Cost*: waits for the buffers, writes one page per region and two checkpoints.
        """
        cdef Status status
        self.check_open()
        if self.lower is not None:
            # With all keys locked: nothing is promoted or entered in between.
            with self.lower.lock_all():
                self.lower.clear()
                with nogil:
                    walk_clear(&self.engine, NULL)
            self.lower.sync()
            return
        with nogil:
            if self.has_disk:
                ec_lock_acquire(&self.maintenance.shared.lock)
            walk_clear(&self.engine, &self.checkpointer)
            if self.has_disk:
                ec_lock_release(&self.maintenance.shared.lock)
        if not self.has_disk:
            return
        self.checkpoint()
        with nogil:
            status = log_settle(&self.log, ec_monotonic_ns() + <int64_t>SETTLE_NS)
        raise_for_status(status, "clear", log_errno(&self.log))

    def counters(self):
        """Every counter and gauge of the native part by its plain name; see snapshot.py."""
        return collect_counters(self)

    def check(self):
        """Verify the invariants of all native structures; for tests. [] when all hold."""
        cdef uint32_t number
        cdef int result
        cdef list broken = []
        self.check_open()
        if self.lower is not None:
            broken += self.lower.check()
        for number in range(self.shards.count):
            result = shard_check(&self.shards, shard_at(&self.shards, number))
            if result:
                broken.append(f"shard {number}: part {result % 10}, invariant {result // 10}")
        if self.has_disk:
            ec_lock_acquire(&self.log.shared.lock)
            result = log_check(&self.log)
            ec_lock_release(&self.log.shared.lock)
            if result:
                broken.append(f"log: invariant {result}")
        return broken
