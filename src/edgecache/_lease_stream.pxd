"""Writes in progress that other processes can follow: how far each of them is.

A stream writes its parts into the cache as they fill (docs/objects.md). A record here says which
object that is, how it is cut, what its meta is, and how many of its bytes are where anybody can
read them: `stored_bytes`. Readers of other processes read these from the cache and sleep, on the
word of their process slot (_lease.pxd), for more.

Invariants (all under the one lock of the table):

1. A record is FREE, OPEN for one write, or ENDED: FINISHED or ABORTED. `state` is stored last when
   it opens, and first when it is reused: a death in between leaves it FREE.
2. `token`, the write id, names the write. A reader whose token is no longer there has followed a
   write that is over; what it published, the cache says.
3. stored_bytes <= handed_bytes <= written_bytes, and none of them shrinks. Chunks below
   `stored_bytes` are in the cache, unless evicted; those below `handed_bytes` are on their way, and
   are there when the index has them.
4. An ended record stays until its place is needed, that which ended first going first: readers that
   sleep in slices hear of the end.
5. A record whose process is dead counts as ABORTED.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edgecache._lease cimport LeaseTable

cdef enum:
    STREAMS_MAX = 256               # that other processes can follow, at a time
    STREAM_TEXT_BYTES = 16384       # of key and meta together
    STREAM_SIZE_UNKNOWN = 0xFFFFFFFFFFFFFFFF

cdef enum StreamRecordState:
    STREAM_FREE = 0
    STREAM_OPEN = 1
    STREAM_FINISHED = 2
    STREAM_ABORTED = 3

cdef struct StreamRecord:           # 192 bytes
    uint64_t token                  # write id
    uint64_t written_bytes
    uint64_t handed_bytes
    uint64_t stored_bytes
    uint64_t expected_bytes         # of the whole, or STREAM_SIZE_UNKNOWN
    uint64_t version                # FINISHED as a value: of that value; else 0
    uint64_t start_time
    uint64_t ended_ticket
    uint64_t[2] waiting
    uint32_t state
    uint32_t owner
    uint32_t pid
    uint32_t chunk_bytes
    uint32_t first_bytes
    uint32_t key_bytes
    uint32_t meta_bytes
    uint32_t is_value               # FINISHED as one entry: it has no parts
    uint8_t[16] object_id
    uint64_t[8] zero

cdef struct StreamShared:           # in the arena; the texts follow the records
    uint32_t lock
    uint32_t zero
    uint64_t ended_ticket
    uint64_t[6] zeros
    StreamRecord[256] records

cdef struct StreamTable:            # process-local
    StreamShared* shared
    LeaseTable* leases

cdef uint64_t stream_shared_bytes() noexcept nogil
cdef inline char* stream_text(const StreamTable* self, uint32_t number) noexcept nogil:
    return <char*>self.shared + sizeof(StreamShared) + <uint64_t>number * STREAM_TEXT_BYTES

# Open a record: its number + 1; 0: there is none, or key and meta are too long.
cdef uint32_t stream_open(StreamTable* self, const StreamRecord* wanted, const char* key,
                          const char* meta) noexcept nogil
# What the writer says of it; whoever waits is woken when `stored_bytes` grew.
cdef void stream_advance(StreamTable* self, uint32_t number, uint64_t token,
                         uint64_t written_bytes, uint64_t handed_bytes,
                         uint64_t stored_bytes) noexcept nogil
cdef void stream_end(StreamTable* self, uint32_t number, uint64_t token, StreamRecordState state,
                     uint64_t size_bytes, uint64_t version, bint is_value) noexcept nogil
# Copy a record that is not FREE; False: it is another write's. With `waits` this process is woken
# by the next change.
cdef bint stream_look(StreamTable* self, uint32_t number, uint64_t token, bint waits,
                      StreamRecord* found) noexcept nogil
# The write of a token, OPEN or FINISHED, and of a key unless that is NULL; or, where the token is
# 0, the newest OPEN one of the key. Those of this process slot are passed over, and open ones whose
# process is dead. Its number + 1, and a copy; 0: there is none.
cdef uint32_t stream_find(StreamTable* self, uint64_t token, const char* key, uint32_t key_bytes,
                          StreamRecord* found) noexcept nogil
# Copy key and meta, so many bytes together; False: the record is another write's by now.
cdef bint stream_copy_text(StreamTable* self, uint32_t number, uint64_t token, char* target,
                           uint64_t size_bytes) noexcept nogil
# Abort what a process slot has open.
cdef void stream_leave(StreamTable* self, uint32_t owner) noexcept nogil
