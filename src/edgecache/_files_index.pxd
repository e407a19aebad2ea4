"""The index of the file layout: which objects there are, what they take, and which goes first.

    FileEntry, 64 bytes                                          (process-local, native byte order)
    | 0     4 | 4     8 | 8       16 | 16      24 | 24      32 | 32      40 | 40       48 |
    | prev    | next    | hash_low   | hash_high  | sequence   | expiry_us  | bytes u64   |
    | 48          56 | 56      60 | 60     61 | 61         62 | 62   64 |
    | body_len u64   | place u32  | flags     | frequency   | zero    |

S3-FIFO: what is new enters the small queue (a tenth of the bytes); what was asked for there moves
to the main queue when its turn comes, the rest goes and leaves 32 bits of its hash in the ghost
table. What the ghosts know enters the main queue at once, which gives its members another round per
hit, up to three.
Source: J. Yang et al., "FIFO Queues are All You Need for Cache Eviction" (SOSP 2023), section 4.

Invariants, asserted by `check`:

1. Every entry in use is in exactly one queue and in exactly one cell of the table, reachable from
   its home cell without an empty cell in between.
2. The bytes and counts of the queues are the sums over their entries.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef struct FileEntry:
    uint32_t prev                   # towards the newest; index of the entry, 0: none
    uint32_t next
    uint64_t hash_low
    uint64_t hash_high
    uint64_t sequence
    int64_t expiry_us
    uint64_t size_bytes             # on the device
    uint64_t body_len
    uint32_t place                  # number of its directory in tmp, 0: it is published
    uint8_t flags
    uint8_t frequency
    uint8_t queue
    uint8_t zero

cdef struct FileQueue:
    uint32_t newest
    uint32_t oldest
    uint64_t size_bytes
    uint64_t count

cdef class FileIndex:
    """A map from key hash to FileEntry, with the order of eviction.

    *Thread-safety*: the GIL; no method gives it up. *Cost*: 64 bytes an object, and 8 of table.
    """

    cdef FileEntry* entries         # entry 0 is not used
    cdef uint32_t* cells            # index of an entry, 0: empty
    cdef uint64_t* ghosts           # by the low bits: high half of the hash << 32 | departure
    cdef uint64_t ghost_count       # departures from the small queue
    cdef uint64_t cell_mask
    cdef uint32_t entry_capacity
    cdef uint32_t entry_used        # entries ever given out
    cdef uint32_t free_head
    cdef uint64_t count
    cdef FileQueue[2] queues
    cdef uint64_t next_sequence

    cdef uint32_t find(self, uint64_t low, uint64_t high) noexcept
    cdef int grow_cells(self) except -1
    cdef uint32_t take_entry(self) except 0
    cdef void link(self, uint32_t number, uint8_t queue) noexcept
    cdef void unlink(self, uint32_t number) noexcept
    cdef void erase(self, uint32_t number) noexcept
    cdef void remember(self, uint64_t low) noexcept
    cdef bint recalls(self, uint64_t low) noexcept
    cdef object describe(self, const FileEntry* entry)
