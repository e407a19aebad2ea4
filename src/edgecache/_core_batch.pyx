"""Root: many disk reads of one thread (see _core_batch.pxd)."""

cimport cython
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free

from edgecache._core_front cimport KeyView
from edgecache._core_read cimport CoreRead
from edgecache._fetch cimport (
    FETCH_BATCH_DEPTH,
    FETCH_BATCH_SIZE,
    FETCH_FOUND,
    Fetch,
    fetch_batch_landed,
    fetch_batch_run,
    fetch_free,
    fetch_init,
)
from edgecache._io cimport IoEngine
from edgecache._io_lanes cimport SUSPECT_NS
from edgecache._shard cimport Probe, Shard, shard_at, shard_number, shard_probe
from edgecache._sync cimport ec_count, ec_load_u32, ec_lock_acquire, ec_lock_release


@cython.final
@cython.no_gc
cdef class BatchReader:

    def __cinit__(self, IoEngine io not None):
        self.io = io
        self.channel = NULL
        self.lock = 0
        self.fetches = <Fetch*>calloc(FETCH_BATCH_SIZE, sizeof(Fetch))
        if self.fetches == NULL:
            raise MemoryError("no memory for a batch")
        self.keys = [None] * FETCH_BATCH_SIZE
        self.owners = [None] * FETCH_BATCH_SIZE
        self.reset()

    cdef bint open(self) noexcept:
        if self.io.ops.channel_open(self.io.state, FETCH_BATCH_DEPTH, 0, &self.channel) < 0:
            self.channel = NULL
        self.batch.channel = self.channel
        return self.channel != NULL

    cdef void close(self) noexcept:
        """Wait for a batch that another thread has under way, and give the channel back."""
        cdef uint32_t number
        with nogil:
            ec_lock_acquire(&self.lock)
            if self.channel != NULL:
                self.io.ops.channel_close(self.channel)
                self.channel = NULL
                self.batch.channel = NULL
                if self.batch.in_flight:
                    self.batch.in_flight = 0
                    for number in range(FETCH_BATCH_SIZE):
                        fetch_free(&self.fetches[number])
            ec_lock_release(&self.lock)

    def __dealloc__(self):
        if self.channel != NULL:
            with nogil:
                self.io.ops.channel_close(self.channel)
        free(self.fetches)

    cdef read(self, CoreRead core, list found, list waiting):
        """Read the (position, key) pairs from disk into `found`. Its thread must not use this
        reader again while it is `is_overdue`."""
        cdef Py_ssize_t next_pair = 0, total = len(waiting)
        cdef uint32_t index, done
        cdef uint32_t _place
        self.is_busy = True
        with nogil:
            # Without the GIL: who closes the channel holds the lock, and needs the GIL afterwards.
            ec_lock_acquire(&self.lock)
        try:
            if self.channel == NULL:
                # Both under the lock and the GIL: `close` misses no channel.
                core.check_open()
                if not self.open():
                    # Out of descriptors or memory: one after the other.
                    self.read_here(core, found, waiting)
                    return
            self.batch.timeout_ns = core.log.read_timeout_ns
            if self.batch.timeout_ns and ec_load_u32(&core.log.lanes.overdue_count):
                self.batch.timeout_ns = min(self.batch.timeout_ns, <int64_t>SUSPECT_NS)
            while next_pair < total or self.batch.in_flight:
                # As many as the queue is deep: what is done meanwhile is taken while they run.
                for _place in range(FETCH_BATCH_DEPTH):
                    if next_pair == total or self.free_count == 0:
                        break
                    self.prepare(core, waiting[next_pair])
                    next_pair += 1
                with nogil:
                    fetch_batch_run(&self.batch, False)
                done = self.batch.done_count
                self.batch.done_count = 0
                for index in range(done):
                    self.take(core, found, <uint32_t>(self.batch.done[index] - self.fetches))
                if self.batch.is_overdue:
                    self.count_overdue(core, waiting, next_pair)
                    break
        finally:
            self.is_overdue = self.batch.is_overdue
            if self.free_count < FETCH_BATCH_SIZE and not self.is_overdue:
                self.reset()
            ec_lock_release(&self.lock)
            self.is_busy = self.is_overdue

    cdef void count_overdue(self, CoreRead core, list waiting, Py_ssize_t next_pair):
        """What the device did not give in time, and what was not asked for then, are misses."""
        cdef KeyView view
        cdef uint32_t number
        cdef object _owner
        for number in range(FETCH_BATCH_SIZE):
            if self.keys[number] is not None:
                view.hash = self.fetches[number].hash
                core.count_miss(&view)
                ec_count(&core.log.lanes.timeout_count, 1)
        for _, key in waiting[next_pair:]:
            _owner = core.take_key(key, &view)
            core.count_miss(&view)

    cdef bint recover(self) noexcept:
        """Whether all that was left behind has landed; then it can be used as before."""
        with nogil:
            ec_lock_acquire(&self.lock)
            if self.channel == NULL or fetch_batch_landed(&self.batch) == 0:
                self.is_overdue = False
            ec_lock_release(&self.lock)
        if not self.is_overdue:
            if self.channel != NULL:
                self.reset()
            self.is_busy = False
        return not self.is_overdue

    cdef read_here(self, CoreRead core, list found, list waiting):
        cdef KeyView view
        cdef object _owner
        for position, key in waiting:
            _owner = core.take_key(key, &view)
            found[position] = core.find_raw(key, &view, False)

    cdef prepare(self, CoreRead core, object pair):
        """Look a key up again and hand its candidates to the batch."""
        cdef uint32_t number = self.free_numbers[self.free_count - 1]
        cdef KeyView view
        cdef Probe probe
        cdef Shard* shard
        position, key = pair
        self.owners[number] = core.take_key(key, &view)
        self.keys[number] = key
        self.positions[number] = position
        shard = shard_at(&core.shards, shard_number(&core.shards, view.hash.high))
        ec_lock_acquire(&shard.lock)
        shard_probe(core.shards.base, shard, view.hash.low, view.data, <uint32_t>view.size, &probe)
        ec_lock_release(&shard.lock)
        fetch_init(&self.fetches[number], &core.log, &core.shards, view.hash, view.data,
                   <uint32_t>view.size, &probe, False)
        self.free_count -= 1
        self.batch.prepared[self.batch.prepared_count] = &self.fetches[number]
        self.batch.prepared_count += 1

    cdef take(self, CoreRead core, list found, uint32_t number):
        """Put the value of a finished fetch into its place."""
        cdef Fetch* fetch = &self.fetches[number]
        cdef KeyView view
        cdef object _owner, value = None
        if fetch.state == FETCH_FOUND:
            value = core.take_fetched(fetch, False)
        if value is None:
            if fetch.state != FETCH_FOUND and (fetch.was_stale or fetch.probe.ram):
                # Moved, or promoted by somebody else meanwhile: the slow way finds it.
                _owner = core.take_key(self.keys[number], &view)
                value = core.find_raw(self.keys[number], &view, False)
            else:
                ec_count(&shard_at(&core.shards, shard_number(
                    &core.shards, fetch.hash.high)).counters.miss_count, 1)
        found[self.positions[number]] = value
        fetch_free(fetch)
        self.keys[number] = self.owners[number] = None
        self.free_numbers[self.free_count] = number
        self.free_count += 1

    cdef void reset(self) noexcept:
        """Wait for what is in flight and make every fetch free, whatever became of it."""
        cdef uint32_t number
        self.batch.prepared_count = 0
        self.batch.done_count = 0
        with nogil:
            fetch_batch_run(&self.batch, True)
        self.batch.done_count = 0
        for number in range(FETCH_BATCH_SIZE):
            fetch_free(&self.fetches[number])
            self.keys[number] = self.owners[number] = None
            self.free_numbers[number] = number
        self.free_count = FETCH_BATCH_SIZE
