"""Root: many disk reads of one thread (see _core_batch.pxd)."""

cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from edgecache._core_read cimport CoreRead, KeyView
from edgecache._fetch cimport (
    FETCH_BATCH_DEPTH,
    FETCH_BATCH_SIZE,
    FETCH_FOUND,
    Fetch,
    fetch_batch_run,
    fetch_free,
    fetch_init,
)
from edgecache._io cimport IoEngine
from edgecache._shard cimport Probe, Shard, shard_at, shard_number, shard_probe
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport ec_count, ec_lock_acquire, ec_lock_release


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

    cdef int open(self) except -1:
        cdef int result
        result = self.io.ops.channel_open(self.io.state, FETCH_BATCH_DEPTH, False, &self.channel)
        if result < 0:
            self.channel = NULL
            raise_for_status(Status.STATUS_IO_ERROR, "cannot open an I/O channel", -result)
        self.batch.channel = self.channel
        return 0

    cdef void close(self) noexcept:
        """Wait for a batch that another thread has under way, and give the channel back."""
        with nogil:
            ec_lock_acquire(&self.lock)
            if self.channel != NULL:
                self.io.ops.channel_close(self.channel)
                self.channel = NULL
                self.batch.channel = NULL
            ec_lock_release(&self.lock)

    def __dealloc__(self):
        if self.channel != NULL:
            with nogil:
                self.io.ops.channel_close(self.channel)
        free(self.fetches)

    cdef read(self, CoreRead core, list found, list waiting):
        """Read the (position, key) pairs from disk into `found`."""
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
                self.open()
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
        finally:
            if self.free_count < FETCH_BATCH_SIZE:
                self.reset()
            ec_lock_release(&self.lock)
            self.is_busy = False

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
