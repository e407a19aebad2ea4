"""Root: chunks of objects (see _core_part.pxd)."""

import threading
import weakref

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from edgecache._change cimport (
    CHANGE_COMPOSITE,
    CHANGE_KEEP_BLOCK,
    CHANGE_STRIPS,
    Change,
    Engine,
    change_finish_put,
    change_init,
)
from edgecache._core_base cimport STORE_FORKED, STORE_OPEN
from edgecache._core_batch cimport BatchReader
from edgecache._core_read cimport LARGE_COPY_BYTES, KeyView
from edgecache._core_write cimport CoreWrite
from edgecache._fetch cimport Fetch
from edgecache._hash cimport Hash128, XxhashApi
from edgecache._io cimport IoChannel, IoEngine, IoRequest
from edgecache._jobs cimport (
    JOB_DONE,
    Job,
    JobPool,
    job_wait,
    jobs_cancel,
    jobs_stop,
    jobs_submit,
)
from edgecache._memory cimport (
    RamItem,
    item_value,
    memory_hit,
    memory_item,
)
from edgecache._part cimport (
    PART_BAD,
    PART_FOUND,
    PART_READ,
    PartFetch,
    PartState,
    part_advance,
    part_begin,
    part_free,
    part_init,
    part_run,
    part_table_free,
)
from edgecache._part_format cimport part_content_hash, part_meta_bytes
from edgecache._promote cimport promote_allocate, promote_copy, promote_publish, promote_touch
from edgecache._segment cimport LOG_MAIN
from edgecache._spare_blocks cimport block_give
from edgecache._segment_format cimport RecordHeader
from edgecache._shard cimport (
    Probe,
    Shard,
    shard_at,
    shard_number,
    shard_pin,
    shard_probe,
    shard_unpin,
)
from edgecache._status cimport Status
from edgecache._strips cimport STRIPS_MAX, strip_count, strips_hash, strips_sum
from edgecache._sync cimport (
    ec_add_u32,
    ec_futex_wait,
    ec_futex_wake,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_store_u32,
)

from edgecache import errors

cdef enum:
    TOGETHER_MAX = 32               # part reads of one submission, of two requests at most

cdef bytes NO_HASH = bytes(16)


cdef bytes hash_bytes(Hash128 hash):
    """The canonical form: most significant byte first."""
    return (<object>hash.high).to_bytes(8, "big") + (<object>hash.low).to_bytes(8, "big")


cdef bytes content_hash_of(const XxhashApi* api, const char* data, uint64_t size):
    cdef uint64_t[STRIPS_MAX] sums
    cdef Hash128 hash
    with nogil:
        strips_sum(api, data, size, sums)
        hash = strips_hash(api, sums, strip_count(size))
    return hash_bytes(hash)


cdef inline void give_place(uint32_t* in_flight) noexcept nogil:
    """One of the PART_WRITES_MAX is free: who waits for one may look."""
    ec_add_u32(in_flight, <uint32_t>-1)
    ec_futex_wake(in_flight, 1)


cdef void _run_write(Job* job) noexcept nogil:
    cdef WriteJob* self = <WriteJob*>job
    cdef uint32_t* in_flight = self.in_flight
    cdef bint is_stored = change_finish_put(&self.change)
    ec_lock_acquire(&self.lock)
    self.is_stored = is_stored
    ec_store_u32(&self.is_over, 1)
    if self.exports == 0 and self.block != NULL:
        block_give(self.block, self.block_bytes)
        self.block = NULL
    ec_lock_release(&self.lock)
    give_place(in_flight)


cdef void _note_read(Engine* engine, PartFetch* part) noexcept nogil:
    """Tell the policy of a read from disk; a whole part goes to RAM where that takes its size."""
    cdef Shard* shard = shard_at(engine.shards, shard_number(engine.shards, part.hash.high))
    cdef Fetch fetch
    cdef uint32_t reference = 0, hold = 0
    memset(&fetch, 0, sizeof(Fetch))
    fetch.log = part.log
    fetch.shards = engine.shards
    fetch.hash = part.hash
    fetch.key = part.key
    fetch.key_len = part.key_len
    fetch.record = part.record
    fetch.location = part.location
    fetch.size_class = part.size_class
    ec_lock_acquire(&shard.lock)
    shard.counters.disk_hit_count += 1
    ec_lock_release(&shard.lock)
    if part.record != NULL and part.is_joined and part.first == 0 and \
            part.last == part.part_bytes:
        reference = promote_allocate(engine, &fetch, &hold)
    if reference:
        promote_copy(engine, &fetch, reference)
        promote_publish(engine, &fetch, reference, hold)
    else:
        promote_touch(engine, &fetch)


cdef void _run_read(Job* job) noexcept nogil:
    cdef ReadJob* self = <ReadJob*>job
    self.fetch.state = part_run(&self.fetch)
    if self.fetch.state == PART_FOUND:
        _note_read(self.engine, &self.fetch)
    part_free(&self.fetch)


cdef void copy_out(char* target, const char* source, uint64_t size) noexcept:
    if size > LARGE_COPY_BYTES:
        with nogil:
            memcpy(target, source, size)
    else:
        memcpy(target, source, size)


cdef void note_reads(Engine* engine, PartFetch* fetches, uint32_t count) noexcept nogil:
    cdef uint32_t index
    for index in range(count):
        if fetches[index].state == PART_FOUND:
            _note_read(engine, &fetches[index])


cdef void perform(PartFetch* fetch) noexcept nogil:
    """Carry its requests out here, and whatever it wants after them."""
    cdef IoRequest* request
    cdef uint32_t number
    for number in range(fetch.request_count):
        request = &fetch.requests[number]
        request.result = fetch.log.ops.read(fetch.log.engine, request.file, request.offset_bytes,
                                            request.buffer, request.length_bytes)
    fetch.state = part_advance(fetch)
    if fetch.state == PART_READ:
        perform(fetch)


cdef void run_together(IoChannel* channel, PartFetch* fetches, uint32_t count) noexcept nogil:
    cdef (IoRequest*)[2 * TOGETHER_MAX] requests
    cdef uint32_t index, number, total = 0
    cdef int taken, reaped
    cdef PartFetch* fetch
    for index in range(count):
        fetch = &fetches[index]
        if fetch.state != PART_READ:
            continue
        for number in range(fetch.request_count):
            requests[total] = &fetch.requests[number]
            total += 1
    taken = channel.ops.submit(channel, requests, total) if total else 0
    taken = max(taken, 0)
    # What the channel has no room for, or a broken one did not take, is read here meanwhile.
    for index in range(<uint32_t>taken, total):
        requests[index].result = fetches.log.ops.read(
            fetches.log.engine, requests[index].file, requests[index].offset_bytes,
            requests[index].buffer, requests[index].length_bytes)
    while taken > 0:
        # All at once: each wake-up of this thread costs as much as a small read.
        reaped = channel.ops.reap(channel, requests, 2 * TOGETHER_MAX, <uint32_t>taken, -1)
        taken -= max(reaped, 0)
    for index in range(count):
        fetch = &fetches[index]
        if fetch.state == PART_READ:
            fetch.state = part_advance(fetch)
            if fetch.state == PART_READ:
                perform(fetch)


cdef class CorePart(CoreWrite):

    def __init__(self, dict options, IoEngine io=None):
        CoreWrite.__init__(self, options, io)
        self.channels = threading.local()
        self.reader_references = set()
        self.left_readers = []

    def close(self):
        """Flush, checkpoint, stop the threads and give everything back. Idempotent.

        *Cost*: blocks until the device took what is buffered.
        """
        cdef BatchReader held
        if self.state == STORE_OPEN:
            with nogil:
                jobs_stop(&self.jobs)
        CoreWrite.close(self)
        # The channels of batches hold a ring each, one per thread that ever read one.
        for reference in list(self.reader_references or ()):
            held = reference()
            if held is not None:
                held.close()
        self.channels = threading.local()

    def abandon(self):
        """Stop without flushing or a checkpoint, as a crash would: for tests."""
        if self.state == STORE_OPEN:
            with nogil:
                jobs_stop(&self.jobs)
        CoreWrite.abandon(self)

    def __dealloc__(self):
        if self.state == STORE_FORKED:
            return
        if self.jobs.thread_count:
            with nogil:
                jobs_stop(&self.jobs)
        part_table_free(&self.parts)

    cdef forget_threads(self):
        CoreWrite.forget_threads(self)
        self.forked = [self.forked, self.channels, self.io]
        self.forked += [reference() for reference in list(self.reader_references or ())]
        self.channels = threading.local()
        self.reader_references = set()
        memset(&self.jobs, 0, sizeof(JobPool))
        memset(&self.parts, 0, sizeof(PartTable))

    cdef BatchReader batch_reader(self):
        """A reader of this thread that is not in the middle of a batch."""
        cdef BatchReader reader = getattr(self.channels, "reader", None)
        cdef BatchReader fresh, left
        if self.left_readers:
            self.left_readers = [left for left in self.left_readers if not left.recover()]
        if reader is not None and not reader.is_busy:
            return reader
        # Busy: a finalizer that the collector ran in the middle of a batch asks for another one.
        fresh = BatchReader(self.io)
        self.reader_references.add(weakref.ref(fresh, self.reader_references.discard))
        if reader is None:
            self.channels.reader = fresh
        return fresh

    cdef read_batch(self, list found, list waiting):
        """Read (position, key) pairs from disk, together."""
        cdef BatchReader reader = self.batch_reader()
        reader.read(self, found, waiting)
        if reader.is_overdue:
            self.left_readers.append(reader)

    cdef int check_forked(self) except -1:
        """What was begun may be ended after a close, but not in the child of a fork."""
        return self.check_open() if self.state == STORE_FORKED else 0

    # Writing

    def begin_part(self, key, data, bytes meta not None):
        """Store a chunk of an object; a `PartWrite` to wait for.

        Args:
            data: Any contiguous buffer; it may change as soon as this returns.
            meta: What the part gets where its record cannot make its own (in RAM only).

        *Cost*: one copy, and one pass to sum its strips, without the GIL. Large records are then
        written by a thread of the store; with PART_WRITES_MAX of them on their way it waits.
        """
        cdef KeyView view
        cdef Py_buffer source
        cdef object owner
        cdef PartWrite part
        self.check_open()
        owner = self.take_key(key, &view)
        owner = key if owner is None else (key, owner)
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            if self.has_disk and source.len and part_meta_bytes(
                    <uint32_t>view.size, source.len) + source.len <= self.largest_value_bytes:
                part = self.write_part(key, owner, &view, <const char*>source.buf, source.len)
                if part is not None:
                    return part
            part = PartWrite.__new__(PartWrite)
            part.core = self
            part.content_hash = content_hash_of(self.engine.api, <const char*>source.buf,
                                                source.len)
            part.job.is_over = 1
            part.is_counted = 1
            part.job.is_stored = self.put_encoded(key, data, meta, 0)
            return part
        finally:
            PyBuffer_Release(&source)

    cdef int wait_for_room(self) except -1:
        """Take one of the PART_WRITES_MAX places."""
        cdef uint32_t seen
        with nogil:
            while True:
                seen = ec_load_u32(&self.part_writes)
                if seen < PART_WRITES_MAX:
                    break
                ec_futex_wait(&self.part_writes, seen, -1)
        # The GIL is held: nobody else takes the place meanwhile.
        ec_add_u32(&self.part_writes, 1)
        return 0

    cdef PartWrite write_part(self, object key, object owner, KeyView* view, const char* data,
                              uint64_t size):
        """Hand the chunk to the log; None: the write budget refuses it, or there is no room."""
        cdef PartWrite part = PartWrite.__new__(PartWrite)
        cdef Change* change = &part.job.change
        cdef Status status
        part.core = self
        part.owner = owner
        part.job.in_flight = &self.part_writes
        change_init(change, &self.engine, view.hash, view.data, <uint32_t>view.size,
                    CHANGE_STRIPS | CHANGE_KEEP_BLOCK |
                    (CHANGE_COMPOSITE if self.is_composite else 0))
        change.value = data
        change.value_len = size
        change.meta_len = <uint32_t>part_meta_bytes(<uint32_t>view.size, size)
        if not self.admit(view.hash.low, size + <uint64_t>view.size + 64, &change.head):
            return None
        if ec_load_u32(&self.log.shared.ready_count) >= 3:
            # All of an object outlives the small log, which a large one would fill alone.
            change.head = LOG_MAIN
        self.wait_for_room()
        try:
            self.check_open()
            status = <Status>self.prepare(change, True)
        except BaseException:
            give_place(&self.part_writes)
            raise
        if status != Status.STATUS_OK:
            give_place(&self.part_writes)
            part.job.is_over = 1
            part.is_counted = 1
            self.count_shed(status)
            part.content_hash = NO_HASH
            return part
        part.content_hash = hash_bytes(part_content_hash(self.engine.api,
                                                         <RecordHeader*>change.append.record))
        part.job.job.run = _run_write
        if change.is_large:
            part.job.block = change.append.block_base
            part.job.block_bytes = change.append.block_bytes
            part.is_flying = jobs_submit(&self.jobs, &part.job.job)
        if not part.is_flying:
            with nogil:
                _run_write(&part.job.job)
        return part

    # Reading

    def read_parts(self, list wanted not None):
        """Read ranges of parts, all of a call together.

        Args:
            wanted: Tuples (key, bytes of the whole part, start, end, content hash): end exclusive,
                the hash 16 bytes, zeros where it is not known.

        Returns:
            In their order: the bytes; None: there is no such part of that size; False: it is not
            what the content hash says.

        *Thread-safety*: any thread. *Cost*: from disk, the strips that cover the range, and the
        head of the record where it is not known; blocks without the GIL.
        """
        cdef PartFetch* fetches
        cdef KeyView view
        cdef uint32_t count = 0, index
        cdef Py_ssize_t start
        cdef list found = [], owners = [], places = []
        cdef bytes target
        self.check_open()
        # A list may be changed by another thread whenever this one gives the GIL up, and its keys
        # must stay.
        wanted = list(wanted)
        fetches = <PartFetch*>malloc(min(len(wanted), TOGETHER_MAX) * sizeof(PartFetch))
        if fetches == NULL:
            raise MemoryError("no memory for the reads of parts")
        try:
            for start in range(0, len(wanted), TOGETHER_MAX):
                count = 0
                for entry in wanted[start:start + TOGETHER_MAX]:
                    owners.append(self.take_key(entry[0], &view))
                    target = self.new_target(entry)
                    found.append(target)
                    if not self.start_fetch(&view, &fetches[count], entry, target):
                        places.append(len(found) - 1)
                        count += 1
                if count:
                    self.read_together(fetches, count)
                for index in range(count):
                    found[places[index]] = self.take_part(
                        fetches[index].state, wanted[places[index]], found[places[index]])
                    part_free(&fetches[index])
                del places[:], owners[:]
                count = 0
        finally:
            for index in range(count):
                part_free(&fetches[index])
            free(fetches)
        return found

    def begin_read(self, tuple wanted not None):
        """Start one read of `read_parts`; a `PartRead` whose `result` waits for it.

        *Cost*: a thread of the store reads; what is in RAM is copied here.
        """
        cdef KeyView view
        cdef object owner
        cdef PartRead part
        self.check_open()
        owner = self.take_key(wanted[0], &view)
        part = PartRead.__new__(PartRead)
        part.core = self
        part.owner = owner
        part.wanted = wanted
        part.target = self.new_target(wanted)
        part.value = NotImplemented
        if self.start_fetch(&view, &part.job.fetch, wanted, part.target):
            part.value = part.target
            part.target = None
            return part
        part.job.engine = &self.engine
        part.job.job.run = _run_read
        part.is_flying = jobs_submit(&self.jobs, &part.job.job)
        return part

    cdef bytes new_target(self, tuple wanted):
        if not 0 <= wanted[2] < wanted[3] <= wanted[1]:
            raise errors.RangeError("the range does not lie in the part", expected=(0, wanted[1]),
                                    found=(wanted[2], wanted[3]))
        return PyBytes_FromStringAndSize(NULL, wanted[3] - wanted[2])

    cdef bint start_fetch(self, KeyView* view, PartFetch* fetch, tuple wanted,
                          bytes target) except -1:
        """Copy from RAM (True), or prepare the fetch for the disk."""
        cdef Shard* shard = shard_at(&self.shards, shard_number(&self.shards, view.hash.high))
        cdef char* base = self.shards.base
        cdef bytes expected = wanted[4]
        cdef Probe probe
        cdef RamItem* item
        cdef uint64_t first = wanted[2], last = wanted[3], size = wanted[1]
        cdef uint32_t is_here = 0
        ec_lock_acquire(&shard.lock)
        shard_probe(base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        if probe.ram:
            item = memory_item(base, &shard.memory, probe.ram)
            is_here = shard_pin(&self.shards, shard, probe.ram) if item.value_len == size else 0
            if is_here:
                memory_hit(base, &shard.memory, probe.ram, view.hash.low)
                shard.counters.memory_hit_count += 1
        ec_lock_release(&shard.lock)
        if is_here:
            # Pinned items neither move nor change.
            copy_out(PyBytes_AS_STRING(target), item_value(item) + first, last - first)
            ec_lock_acquire(&shard.lock)
            shard_unpin(&self.shards, shard, probe.ram, is_here)
            ec_lock_release(&shard.lock)
            return True
        part_init(fetch, &self.log, &self.parts, view.hash, view.data, <uint32_t>view.size, &probe)
        fetch.part_bytes = size
        fetch.first = first
        fetch.last = last
        fetch.target = PyBytes_AS_STRING(target)
        if expected is not None and expected != NO_HASH:
            fetch.has_content_hash = 1
            fetch.content_hash.high = int.from_bytes(expected[:8], "big")
            fetch.content_hash.low = int.from_bytes(expected[8:], "big")
        return False

    cdef object take_part(self, PartState state, tuple wanted, bytes value):
        """What a finished fetch comes to; where it found nothing, the whole record is read."""
        cdef KeyView view
        cdef object _owner, whole
        if state == PART_FOUND:
            return value
        if state == PART_BAD:
            return False
        _owner = self.take_key(wanted[0], &view)
        whole = self.find(wanted[0], &view, False)
        if whole is None or len(whole) != wanted[1]:
            return None
        if wanted[4] is not None and wanted[4] != NO_HASH and wanted[4] != content_hash_of(
                self.engine.api, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole)):
            return False
        return whole[wanted[2]:wanted[3]]

    cdef int read_together(self, PartFetch* fetches, uint32_t count) except -1:
        """Drive the fetches to their ends, all requests on their way at the same time."""
        cdef BatchReader reader
        cdef uint32_t index, request_count = 0
        for index in range(count):
            fetches[index].state = part_begin(&fetches[index])
            if fetches[index].state == PART_READ:
                request_count += fetches[index].request_count
        if request_count <= 1:
            # One read needs no channel: a system call is the shortest way.
            with nogil:
                for index in range(count):
                    if fetches[index].state == PART_READ:
                        perform(&fetches[index])
                note_reads(&self.engine, fetches, count)
            return 0
        reader = self.batch_reader()
        reader.is_busy = True
        with nogil:
            # Without the GIL: who closes the channel holds the lock, and needs the GIL afterwards.
            ec_lock_acquire(&reader.lock)
        try:
            if reader.channel == NULL:
                self.check_open()
                reader.open()
            with nogil:
                if reader.channel == NULL:
                    # Out of descriptors or memory: one after the other.
                    for index in range(count):
                        if fetches[index].state == PART_READ:
                            perform(&fetches[index])
                else:
                    run_together(reader.channel, fetches, count)
                note_reads(&self.engine, fetches, count)
        finally:
            ec_lock_release(&reader.lock)
            reader.is_busy = False
        return 0


@cython.final
@cython.no_gc
cdef class PartWrite:

    def __cinit__(self):
        memset(&self.job, 0, sizeof(WriteJob))

    def __dealloc__(self):
        self.settle()
        if self.job.block != NULL:
            block_give(self.job.block, self.job.block_bytes)

    cdef bint settle(self):
        # In the child of a fork its thread does not exist: there is nothing to wait for.
        if self.is_flying and self.core.state != STORE_FORKED:
            with nogil:
                job_wait(&self.job.job, -1)
        return self.job.is_stored

    def wait(self):
        """Whether it was stored; False: shed and counted. Blocks until that is known."""
        cdef bint is_stored
        self.core.check_forked()
        is_stored = self.settle()
        if not is_stored and not self.is_counted:
            self.is_counted = 1
            self.core.count_shed_late(self.job.change.status)
        return is_stored

    @property
    def is_done(self):
        """Whether `wait` would return at once, and `peek` has nothing."""
        return ec_load_u32(&self.job.is_over) != 0

    @property
    def has_failed(self):
        """Whether it is known that it was not stored."""
        cdef bint has_failed
        ec_lock_acquire(&self.job.lock)
        has_failed = self.job.is_over and not self.job.is_stored
        ec_lock_release(&self.job.lock)
        return has_failed

    def peek(self, Py_ssize_t start, Py_ssize_t size):
        """Up to `size` of its bytes from `start` on; None: they are no longer here, but stored.

        *Cost*: one copy, large ones without the GIL.
        """
        cdef bytes found = None
        cdef bint is_here
        ec_lock_acquire(&self.job.lock)
        is_here = self.job.block != NULL
        self.job.exports += is_here
        ec_lock_release(&self.job.lock)
        if not is_here:
            return None
        try:
            start = max(0, min(start, <Py_ssize_t>self.job.change.value_len))
            size = max(0, min(size, <Py_ssize_t>self.job.change.value_len - start))
            found = PyBytes_FromStringAndSize(NULL, size)
            copy_out(PyBytes_AS_STRING(found), self.job.change.value + start, size)
        finally:
            ec_lock_acquire(&self.job.lock)
            self.job.exports -= 1
            if self.job.exports == 0 and self.job.is_over:
                block_give(self.job.block, self.job.block_bytes)
                self.job.block = NULL
            ec_lock_release(&self.job.lock)
        return found


@cython.final
@cython.no_gc
cdef class PartRead:

    def __cinit__(self):
        memset(&self.job, 0, sizeof(ReadJob))

    def __dealloc__(self):
        if self.is_flying and self.core.state != STORE_FORKED and \
                not jobs_cancel(&self.core.jobs, &self.job.job):
            with nogil:
                job_wait(&self.job.job, -1)

    @property
    def is_done(self):
        """Whether `result` would return without waiting for the device."""
        return not self.is_flying or ec_load_u32(&self.job.job.state) == JOB_DONE

    def result(self):
        """What `read_parts` returns for it; blocks until it is there."""
        if self.value is NotImplemented:
            self.core.check_forked()
            if self.is_flying:
                with nogil:
                    job_wait(&self.job.job, -1)
            else:
                with nogil:
                    _run_read(&self.job.job)
            self.is_flying = 0
            self.value = self.core.take_part(self.job.fetch.state, self.wanted, self.target)
            self.target = None
        return self.value

    def cancel(self):
        """Do not begin it if it has not begun; True: it will never be there."""
        if not self.is_flying or self.core.state == STORE_FORKED:
            return False
        if not jobs_cancel(&self.core.jobs, &self.job.job):
            return False
        self.is_flying = 0
        self.value = None
        return True
