"""Reading a range of a chunk from the disk tier: its head, and the strips that cover the range.

A range costs one request where the head of the record is known (PartTable) or lies beside the
range, else two that the device works on at the same time. What is read is verified: header, key
and strip sums by the payload sum of the record (_part_format.pxd), strips by their sums, the sums
by the content hash that the object's head has, where the caller knows it.

    part_begin -> PART_FOUND | PART_BAD | PART_ELSE | PART_READ (perform all requests, then ...)
    part_advance -> the same

A part read never changes the index and never judges a record: in doubt it says PART_ELSE, and the
whole record is read by _fetch.pxd, which does.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edgecache._io cimport IoRequest
from edgecache._segment cimport LogStore
from edgecache._segment_format cimport RecordHeader
from edgecache._shard cimport Probe
from edgecache._strips cimport STRIPS_MAX
from edgecache._xxhash cimport Hash128

cdef enum:
    PART_SLOTS = 512                # parts whose strip sums are kept, of the whole store: 1.1 MB

cdef enum PartState:
    PART_READ = 0
    PART_FOUND = 1
    PART_BAD = 2                    # intact, but not what the content hash says
    PART_ELSE = 3                   # not to be had in this way: read the whole record

cdef struct KnownPart:              # a record whose head was verified; location 0: none
    uint64_t hash_low
    uint64_t hash_high
    uint64_t location
    uint64_t generation             # of its region
    uint64_t part_bytes
    uint64_t[STRIPS_MAX] sums

# Direct-mapped by the key's hash. *Thread-safety*: the lock guards the slots.
cdef struct PartTable:              # zeroed: empty
    uint32_t lock
    uint32_t zero
    KnownPart* slots                # PART_SLOTS, made with the first part that is read

cdef struct PartFetch:
    LogStore* log
    PartTable* table
    Hash128 hash
    const char* key
    uint32_t key_len
    uint32_t next                   # candidate to try
    Probe probe
    uint64_t part_bytes             # of the whole body
    uint64_t first                  # the wanted range, in the body ...
    uint64_t last
    char* target                    # ... and where it goes
    Hash128 content_hash            # of the whole body
    uint32_t has_content_hash
    uint32_t is_known               # the head was not read
    uint32_t is_joined              # one request for head and strips
    uint32_t request_count
    PartState state                 # for whoever performs the requests
    uint32_t head_skip
    uint32_t body_skip
    uint64_t buffered_bytes         # copied from a write buffer
    uint64_t generation
    uint64_t location
    uint8_t size_class
    RecordHeader* record            # PART_FOUND and not is_known: in scratch; joined: all of it
    char* scratch
    uint64_t scratch_bytes
    uint64_t head_room              # of scratch, before the strips
    IoRequest[2] requests
    uint64_t[STRIPS_MAX] sums

# Caller fills part_bytes, first < last <= part_bytes, target and the content hash afterwards.
cdef void part_init(PartFetch* self, LogStore* log, PartTable* table, Hash128 hash,
                    const char* key, uint32_t key_len, const Probe* probe) noexcept nogil
cdef PartState part_begin(PartFetch* self) noexcept nogil
# All requests have their results.
cdef PartState part_advance(PartFetch* self) noexcept nogil
# Drive it to the end on this thread; blocks on the device.
cdef PartState part_run(PartFetch* self) noexcept nogil
cdef void part_free(PartFetch* self) noexcept nogil
cdef void part_table_free(PartTable* self) noexcept nogil
