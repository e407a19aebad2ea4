"""Root: leases and streams as Python objects (see _core_lease.pxd)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._core_arena cimport CoreArena
from edgecache._hash cimport Hash128
from edgecache._lease cimport (
    LEASE_FAILED,
    LEASE_FULL,
    LEASE_LOST,
    LEASE_RELEASED,
    LEASE_STORED,
    LEASE_TAKEN,
    LeaseAnswer,
    LeaseOutcome,
    lease_event,
    lease_give,
    lease_leave,
    lease_look,
    lease_note,
    lease_poke,
    lease_renew,
    lease_sleep,
    lease_take,
)
from edgecache._lease_stream cimport (
    STREAM_ABORTED,
    STREAM_FINISHED,
    STREAM_SIZE_UNKNOWN,
    StreamRecord,
    stream_advance,
    stream_copy_text,
    stream_end,
    stream_find,
    stream_leave,
    stream_look,
    stream_open,
)
from edgecache._sync cimport ec_count, ec_thread_id

from edgecache import errors

cdef extern from "unistd.h" nogil:
    int getpid()

cdef enum:
    OBJECT_ID_BYTES = 16

cdef extern from *:
    """
    /* Any odd constant would do: kinds of work do not share hashes, nor with keys. Source: the
       first 64 bits of the fractional part of the golden ratio (D. Knuth, TAOCP 3, 6.4). */
    #define EC_LEASE_SEED UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t LEASE_SEED "EC_LEASE_SEED"


cdef int64_t to_ns(double seconds) except? -1:
    """A duration; years are as good as for ever."""
    if not 0 <= seconds <= 1e9:
        raise errors.ArgumentError("a duration is 0 to 10**9 seconds", found=seconds)
    return <int64_t>(seconds * 1e9)


@cython.final
cdef class Leases:
    """What several processes do only once, and how far their streams are.

    Args:
        core: An open store in shared mode.

    *Thread-safety*: every method, any thread.
    """

    STORED = LEASE_STORED
    RELEASED = LEASE_RELEASED
    FAILED = LEASE_FAILED
    LOST = LEASE_LOST

    def __cinit__(self, CoreArena core not None):
        if not core.is_shared or core.processes.own == NULL:
            raise errors.ArgumentError("this store has no other processes",
                                       hint="open it with shared: true")
        self.processes = core.processes
        self.processes.free_holds = NULL
        self.arena = core.arena
        self.table.shared = core.leases.shared
        self.table.processes = &self.processes
        self.streams.shared = core.streams.shared
        self.streams.leases = &self.table
        self.api = core.engine.api
        self.seed = core.seed
        self.is_open = True

    cdef bint is_usable(self) noexcept:
        return self.is_open and self.processes.pid == <uint32_t>getpid()

    def close(self):
        """End what this process has taken and is writing; whoever waits goes on. Idempotent."""
        if not self.is_usable():
            return
        self.is_open = False
        with nogil:
            lease_leave(&self.table, self.processes.number)
            stream_leave(&self.streams, self.processes.number)
            lease_poke(&self.table)

    @property
    def closed(self):
        """Whether it is of no use any more."""
        return not self.is_usable()

    def take(self, uint32_t kind, bytes key not None, double lifetime_s):
        """Take the lease of a piece of work, or find out who has it.

        Args:
            kind: Of the work: a small number.
            key: Which of that kind.
            lifetime_s: After so many seconds others may take it over.

        Returns:
            A `Lease`; a `LeaseWait` when another one holds it; None when the table is full, or the
            store is closed: the work is done without.
        """
        cdef int64_t lifetime_ns = to_ns(lifetime_s)
        cdef Hash128 hash
        cdef LeaseTake taken
        cdef LeaseAnswer answer
        cdef Lease lease
        cdef LeaseWait wait
        if not self.is_usable():
            return None
        hash = self.api.bits128(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                                self.seed ^ (LEASE_SEED * (2 * kind + 1)))
        with nogil:
            answer = lease_take(&self.table, &hash, lifetime_ns, &taken)
        if answer == LEASE_FULL:
            return None
        if answer == LEASE_TAKEN:
            lease = Lease.__new__(Lease)
            lease.taken = taken
            lease.leases = self
            return lease
        wait = LeaseWait.__new__(LeaseWait)
        wait.taken = taken
        wait.leases = self
        return wait

    # Sleeping

    def event(self):
        """Return a number that changes when something does that is waited for here."""
        return lease_event(&self.table) if self.is_usable() else 0

    def sleep(self, uint32_t seen, double timeout_s):
        """Sleep until `event()` is another one than `seen`, or so many seconds, without the GIL."""
        cdef int64_t timeout_ns = to_ns(timeout_s)
        if not self.is_usable():
            return
        with nogil:
            lease_sleep(&self.table, seen, timeout_ns)

    def poke(self):
        """Wake who sleeps in this process."""
        if self.is_usable():
            lease_poke(&self.table)

    # What is counted here is summed over all processes

    def count_wait(self):
        """A wait begins."""
        ec_count(&self.table.shared.wait_count, 1)

    def count_hit(self):
        """It ended with what it was for."""
        ec_count(&self.table.shared.hit_count, 1)

    def count_timeout(self):
        """It took too long."""
        ec_count(&self.table.shared.timeout_count, 1)

    def count_attach(self):
        """A reader follows a stream of another process."""
        ec_count(&self.table.shared.attach_count, 1)

    # Streams

    def open_stream(self, bytes key not None, uint64_t token, bytes object_id not None,
                    uint32_t chunk_bytes, uint32_t first_bytes, expected, bytes meta not None):
        """Show a write to other processes; None: there are too many, or its texts are too long.

        Args:
            key, meta: At most 16 KiB together.
            token: The write id.
            object_id, chunk_bytes, first_bytes: Of its parts.
            expected: Bytes of the whole, or None.
        """
        cdef StreamRecord record
        cdef StreamBeacon beacon
        cdef uint32_t number
        if not self.is_usable() or PyBytes_GET_SIZE(object_id) != OBJECT_ID_BYTES:
            return None
        memset(&record, 0, sizeof(record))
        record.token = token
        record.chunk_bytes = chunk_bytes
        record.first_bytes = first_bytes
        record.expected_bytes = STREAM_SIZE_UNKNOWN if expected is None else <uint64_t>expected
        record.key_bytes = <uint32_t>PyBytes_GET_SIZE(key)
        record.meta_bytes = <uint32_t>PyBytes_GET_SIZE(meta)
        memcpy(record.object_id, PyBytes_AS_STRING(object_id), OBJECT_ID_BYTES)
        number = stream_open(&self.streams, &record, PyBytes_AS_STRING(key),
                             PyBytes_AS_STRING(meta))
        if number == 0:
            return None
        beacon = StreamBeacon.__new__(StreamBeacon)
        beacon.leases = self
        beacon.number = number
        beacon.token = token
        return beacon

    def find_stream(self, bytes key, uint64_t token):
        """Find a write of another process, by key and write id, or by one of them.

        Args:
            key: None: any.
            token: 0: the newest open write of the key. Else it may have finished, too.

        Returns:
            A `StreamView`, or None.
        """
        cdef StreamView view
        cdef StreamRecord record
        cdef uint32_t number, size
        cdef bytes text
        if not self.is_usable() or (key is None and token == 0):
            return None
        number = stream_find(&self.streams, token,
                             NULL if key is None else PyBytes_AS_STRING(key),
                             0 if key is None else <uint32_t>PyBytes_GET_SIZE(key), &record)
        if number == 0:
            return None
        size = record.key_bytes + record.meta_bytes
        text = PyBytes_FromStringAndSize(NULL, size)
        if not stream_copy_text(&self.streams, number, record.token, PyBytes_AS_STRING(text), size):
            return None
        view = StreamView.__new__(StreamView)
        view.leases = self
        view.number = number
        view.record = record
        view.key = text[:record.key_bytes]
        view.meta = text[record.key_bytes:]
        return view


@cython.final
@cython.no_gc_clear
cdef class Lease:
    """A lease that this process holds; dropped without `give`, it counts as failed.

    *Thread-safety*: every method, any thread.
    """

    def renew(self, double lifetime_s):
        """Put its deadline that far away; False: another one has taken it over."""
        cdef int64_t lifetime_ns = to_ns(lifetime_s)
        return not self.is_over and self.leases.is_usable() and \
            lease_renew(&self.leases.table, &self.taken, lifetime_ns)

    def note(self, uint64_t note):
        """Tell those who wait something (not 0); False as `renew`."""
        return not self.is_over and self.leases.is_usable() and \
            lease_note(&self.leases.table, &self.taken, note)

    def give(self, uint32_t outcome, uint32_t detail=0):
        """Say what came of it, once; whether anybody may hear it.

        Args:
            outcome: `Leases.STORED`, `RELEASED` or `FAILED`.
            detail: Passed on to those who wait.
        """
        if self.is_over:
            return False
        self.is_over = True
        return self.leases.is_usable() and \
            lease_give(&self.leases.table, &self.taken, <LeaseOutcome>outcome, detail)

    def __dealloc__(self):
        if not self.is_over and self.leases is not None and self.leases.is_usable():
            lease_give(&self.leases.table, &self.taken, LEASE_FAILED, 0)


@cython.final
cdef class LeaseWait:
    """A lease that somebody else holds."""

    @property
    def is_own_thread(self):
        """Whether the calling thread holds it: to wait would be for itself."""
        return self.taken.thread == ec_thread_id()

    @property
    def note(self):
        """What the holder said last, as far as `look` saw; 0: nothing."""
        return self.taken.note

    @property
    def detail(self):
        """Of the outcome."""
        return self.said

    def look(self):
        """Return the outcome, or 0 while it is held; `event` changes when that does."""
        if self.result == 0:
            self.result = LEASE_LOST
            if self.leases.is_usable():
                self.result = lease_look(&self.leases.table, &self.taken, &self.said)
        return self.result


@cython.final
cdef class StreamBeacon:
    """What the writer of a stream tells other processes. *Thread-safety*: any thread."""

    def advance(self, uint64_t written, uint64_t handed, uint64_t stored):
        """So many bytes are written, given to the store, and there for all to read."""
        if self.leases.is_usable():
            stream_advance(&self.leases.streams, self.number, self.token, written, handed, stored)

    def finish(self, uint64_t size, value_version=None):
        """It is published; with a version: as one value, which has that version."""
        if self.leases.is_usable():
            stream_end(&self.leases.streams, self.number, self.token, STREAM_FINISHED, size,
                       0 if value_version is None else <uint64_t>value_version,
                       value_version is not None)

    def abort(self):
        """It is given up."""
        if self.leases.is_usable():
            stream_end(&self.leases.streams, self.number, self.token, STREAM_ABORTED, 0, 0, False)


@cython.final
cdef class StreamView:
    """A write of another process, as it was at the last `look`.

    *Thread-safety*: one thread at a time.
    """

    def look(self):
        """See how far it is; False: the record is another write's, so this one is over.

        `Leases.event` changes when there is more, or the write ends.
        """
        return self.leases.is_usable() and \
            stream_look(&self.leases.streams, self.number, self.record.token, True, &self.record)

    @property
    def token(self):
        """The write id."""
        return self.record.token

    @property
    def object_id(self):
        """Of its parts."""
        return PyBytes_FromStringAndSize(<char*>self.record.object_id, OBJECT_ID_BYTES)

    @property
    def chunk_bytes(self):
        """Of its chunks."""
        return self.record.chunk_bytes

    @property
    def first_bytes(self):
        """Of the first one."""
        return self.record.first_bytes

    @property
    def expected(self):
        """Bytes of the whole, where the writer knew; else None."""
        cdef uint64_t expected = self.record.expected_bytes
        return None if expected == STREAM_SIZE_UNKNOWN else expected

    @property
    def written(self):
        """Bytes written."""
        return self.record.written_bytes

    @property
    def handed(self):
        """Bytes given to the store: there when its index has them."""
        return self.record.handed_bytes

    @property
    def stored(self):
        """Bytes that the cache has."""
        return self.record.stored_bytes

    @property
    def is_finished(self):
        """Whether it was published."""
        return self.record.state == STREAM_FINISHED

    @property
    def is_aborted(self):
        """Whether it was given up, or its process died."""
        return self.record.state == STREAM_ABORTED

    @property
    def value_version(self):
        """The version of the value that it was published as; None: it has parts."""
        return self.record.version if self.record.is_value else None
