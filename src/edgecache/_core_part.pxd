"""Root: chunks of objects: written while the caller goes on, ranges of them read and verified."""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._change cimport Change, Engine
from edgecache._core_batch cimport BatchReader
from edgecache._core_read cimport KeyView
from edgecache._core_write cimport CoreWrite
from edgecache._jobs cimport Job, JobPool
from edgecache._part cimport PartFetch, PartState, PartTable

cdef enum:
    PART_WRITES_MAX = 4             # on their way at a time, of a store: what a writer waits for

cdef struct WriteJob:
    Job job                         # first: a Job* is a WriteJob*
    Change change
    char* block                     # of the large record, while somebody may read it
    uint64_t block_bytes
    uint32_t* in_flight             # of the store: one less, and a futex, when it is done
    uint32_t lock                   # guards what follows
    uint32_t exports
    uint32_t is_over
    uint32_t is_stored

cdef struct ReadJob:
    Job job
    PartFetch fetch
    Engine* engine

cdef class CorePart(CoreWrite):
    cdef object channels            # threading.local: a BatchReader per thread
    cdef list left_readers          # overdue BatchReaders; their requests are still in flight
    cdef object reader_references   # set of weak references to all of them
    cdef list forked                # what a child of fork must not end: it is the parent's
    cdef JobPool jobs
    cdef PartTable parts
    cdef uint32_t part_writes       # in flight; a futex

    cdef BatchReader batch_reader(self)
    cdef read_batch(self, list found, list waiting)
    cdef int check_forked(self) except -1
    cdef PartWrite write_part(self, object key, object owner, KeyView* view, const char* data,
                              uint64_t size)
    cdef int wait_for_room(self) except -1
    cdef bytes new_target(self, tuple wanted)
    cdef bint start_fetch(self, KeyView* view, PartFetch* fetch, tuple wanted,
                          bytes target) except -1
    cdef object take_part(self, PartState state, tuple wanted, bytes value)
    cdef int read_together(self, PartFetch* fetches, uint32_t count) except -1

cdef class PartWrite:
    """A chunk on its way to the disk; its bytes can be read here meanwhile.

    *Thread-safety*: every method, any thread.
    """

    cdef CorePart core
    cdef object owner               # keeps the key's bytes alive
    cdef WriteJob job
    cdef uint32_t is_flying         # the job was handed to the pool
    cdef uint32_t is_counted        # a failure was
    cdef readonly bytes content_hash

    cdef bint settle(self)

cdef class PartRead:
    """A range of a chunk on its way from the disk. *Thread-safety*: one thread at a time."""

    cdef CorePart core
    cdef object owner
    cdef tuple wanted
    cdef object value               # NotImplemented until it is there
    cdef bytes target
    cdef ReadJob job
    cdef uint32_t is_flying
