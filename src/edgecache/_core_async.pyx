"""Root: disk reads for an event loop (see _core_async.pxd)."""

cimport cython
from libc.stdint cimport uint32_t

from edgecache._core_front cimport KeyView
from edgecache._core_read cimport CoreRead
from edgecache._fetch cimport (
    FETCH_FOUND,
    FETCH_READ,
    FetchState,
    fetch_advance,
    fetch_begin,
    fetch_free,
    fetch_init,
)
from edgecache._io cimport IoChannel, IoRequest
from edgecache._shard cimport Probe, Shard, shard_at, shard_number, shard_probe
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release

from edgecache import errors

cdef enum:
    REAP_BATCH = 64
    CHANNEL_DEPTH = 256
    # Reads taken, and started, together. What is left is taken in the next turn of the loop: the
    # device then works on what the first tasks asked for while the others have their values made.
    TURN_READS = 16


@cython.no_gc_clear
cdef class PendingGet:

    def __dealloc__(self):
        if self.is_started:
            fetch_free(&self.fetch)


@cython.no_gc_clear
cdef class AsyncReader:

    def __cinit__(self, CoreRead core not None):
        cdef int result
        core.check_open()
        self.channel = NULL
        self.descriptor = -1
        if not core.has_disk:
            raise errors.ArgumentError("a store in RAM only has nothing to read",
                                       hint="give it a root directory")
        self.core = core
        self.queued = []
        self.in_flight = {}
        self.resolved = []
        result = core.io.ops.channel_open(core.io.state, CHANNEL_DEPTH, True, &self.channel)
        if result < 0:
            raise_for_status(Status.STATUS_IO_ERROR, "cannot open an I/O channel", -result)
        self.descriptor = core.io.ops.event_fd(self.channel)
        if self.descriptor < 0:
            raise_for_status(Status.STATUS_IO_ERROR, "the I/O channel has no event descriptor")

    def fileno(self):
        """The descriptor that becomes readable when reads have finished."""
        return self.descriptor

    @property
    def timeout_s(self):
        """Longest wait for a read; 0: as long as the disk takes. Who waits keeps the time."""
        return self.core.log.read_timeout_ns / 1e9

    def count_timeout(self):
        """A read was given up; it goes on, and what it finds is nobody's."""
        ec_count(&self.core.log.lanes.timeout_count, 1)

    @property
    def pending(self):
        """Reads queued or in flight."""
        return len(self.queued) + len(self.in_flight)

    def submit(self, key, future):
        """Queue a get for `future`; `flush` starts it. Errors of the key are raised here."""
        cdef KeyView view
        cdef Probe probe
        cdef Shard* shard
        cdef PendingGet pending = PendingGet()
        self.core.check_open()
        if self.channel == NULL:
            raise errors.StoreClosedError("the reader is closed", hint="make a new one")
        pending.key = key
        pending.future = future
        pending.owner = self.core.take_key(key, &view)
        shard = shard_at(&self.core.shards, shard_number(&self.core.shards, view.hash.high))
        ec_lock_acquire(&shard.lock)
        shard_probe(self.core.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size,
                    &probe)
        ec_lock_release(&shard.lock)
        fetch_init(&pending.fetch, &self.core.log, &self.core.shards, view.hash, view.data,
                   <uint32_t>view.size, &probe, False)
        pending.is_started = True
        self.advance(pending, fetch_begin(&pending.fetch))

    cdef advance(self, PendingGet pending, FetchState state):
        if state == FETCH_READ:
            self.queued.append(pending)
            if len(self.queued) >= TURN_READS:
                self.start_queued()
        else:
            self.resolve(pending, state)

    cdef resolve(self, PendingGet pending, FetchState state):
        """The read is over: its value, or the slow way when the record moved meanwhile."""
        cdef KeyView view
        cdef object _owner, value = None
        if state == FETCH_FOUND:
            value = self.core.take_fetched(&pending.fetch, False)
        if value is None:
            if pending.fetch.was_stale or pending.fetch.probe.ram:
                _owner = self.core.take_key(pending.key, &view)
                value = self.core.find_raw(pending.key, &view, False)
            else:
                view.hash = pending.fetch.hash
                self.core.count_miss(&view)
        self.resolved.append((pending.future, value))

    cdef list take_resolved(self):
        cdef list taken = self.resolved
        self.resolved = []
        return taken

    def flush(self):
        """Start what is queued, in one submission; returns the (future, value) pairs at hand."""
        if self.queued:
            self.start_queued()
        return self.take_resolved()

    cdef start_queued(self):
        cdef IoRequest* batch[REAP_BATCH]
        cdef PendingGet pending
        cdef uint32_t count
        cdef int taken = 1
        while self.queued and taken > 0 and self.channel != NULL:
            count = 0
            for pending in self.queued[:REAP_BATCH]:
                self.number += 1
                pending.fetch.request.user_data = self.number
                batch[count] = &pending.fetch.request
                count += 1
            taken = self.core.io.ops.submit(self.channel, batch, count)
            if taken < 0:
                self.read_here()
                break
            for pending in self.queued[:taken]:
                self.in_flight[pending.fetch.request.user_data] = pending
            del self.queued[:taken]
            # A full channel takes the rest when `reap` has made room.

    cdef read_here(self):
        """The channel is broken: read on this thread, so that nobody waits for ever."""
        cdef PendingGet pending
        cdef FetchState state
        cdef list queued = self.queued
        self.queued = []
        for pending in queued:
            state = FETCH_READ
            while state == FETCH_READ:
                pending.fetch.request.result = self.core.io.ops.read(
                    self.core.io.state, pending.fetch.request.file,
                    pending.fetch.request.offset_bytes, pending.fetch.request.buffer,
                    pending.fetch.request.length_bytes)
                state = fetch_advance(&pending.fetch)
            self.resolve(pending, state)

    def reap(self):
        """Collect what has finished; returns (future, value) pairs. Never blocks."""
        cdef IoRequest* done[REAP_BATCH]
        cdef PendingGet pending
        cdef int count, index
        if self.channel == NULL:
            return []
        count = self.core.io.ops.reap(self.channel, done, TURN_READS, 0, 0)
        for index in range(count):
            pending = self.in_flight.pop(done[index].user_data)
            self.advance(pending, fetch_advance(&pending.fetch))
        if self.queued:
            return self.flush()
        return self.take_resolved()

    def close(self):
        """Wait for the reads in flight and give the channel back. Idempotent.

        Futures of reads that were not handed out are returned, so that they can be cancelled.
        """
        cdef IoChannel* channel = self.channel
        cdef PendingGet pending
        cdef list left
        if channel == NULL:
            return []
        self.channel = NULL
        with nogil:
            self.core.io.ops.channel_close(channel)
        left = []
        for pending in self.queued:
            left.append(pending.future)
        for pending in self.in_flight.values():
            left.append(pending.future)
        self.queued = []
        self.in_flight = {}
        return left

    def __dealloc__(self):
        if self.channel != NULL:
            with nogil:
                self.core.io.ops.channel_close(self.channel)
