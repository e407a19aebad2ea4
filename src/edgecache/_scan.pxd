"""Reading a region back: blocks, mini-indexes, and what to do when a header is damaged.

Shared by recovery (what is there?) and reclaim (what must be moved or dropped?).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._segment cimport LogStore
from edgecache._segment_format cimport RecordHeader
from edgecache._status cimport Status

cdef struct ScanEntry:
    uint64_t hash_low
    uint64_t hash_high
    uint64_t flags_sequence         # as in IndexEntry
    uint64_t location               # units of 64 bytes in the disk tier
    uint32_t size_units
    uint32_t ticket                 # of its block; a user of the list may keep a note here

cdef struct ScanList:
    ScanEntry* entries
    uint64_t count
    uint64_t capacity

cdef struct ScanWindow:             # what of a region is in memory now; zeroed at first
    char* bytes                     # freed by the caller
    uint64_t start                  # offset from the first region
    uint64_t end
    uint64_t capacity

cdef struct ScanInfo:
    uint64_t generation             # 0: nothing of ours in the region
    uint64_t sequence_max
    uint32_t log
    uint32_t end_offset             # behind the last good block
    uint32_t block_count
    uint32_t damaged_count          # blocks whose header or mini-index did not verify
    uint32_t lost_bytes             # spans stepped over
    uint32_t failed_count           # reads that the device refused
    uint32_t ticket_max             # of the blocks, and the highest that they call synced
    uint32_t synced_max             # (serial numbers: ticket_is_after)

cdef void scan_list_free(ScanList* entries) noexcept nogil
cdef Status scan_list_push(ScanList* entries, const ScanEntry* entry) noexcept nogil

cdef inline bint ticket_is_after(uint32_t ticket, uint32_t other) noexcept nogil:
    return <int32_t>(ticket - other) > 0

# The generation a region holds, judged by its first block (or, if that is damaged, by all of it)
# and by its footer page, where an erased region says up to which generation its blocks are dead.
cdef Status scan_generation(LogStore* log, uint32_t region, uint64_t* generation) noexcept nogil
# Append the entries of all blocks of `generation` from start_offset on (a block boundary).
cdef Status scan_region(LogStore* log, uint32_t region, uint64_t generation, uint32_t start_offset,
                        ScanList* entries, ScanInfo* info) noexcept nogil
# The whole record of an entry in memory, verified; NULL when it does not verify or cannot be read.
# Valid until the next call. Entries in the order of their locations cost the fewest reads.
cdef RecordHeader* scan_load(LogStore* log, const ScanEntry* entry,
                             ScanWindow* window) noexcept nogil
# Read [offset, offset + length) of a region; both multiples of the page.
cdef int64_t scan_read(LogStore* log, uint32_t region, uint64_t offset, char* target,
                       uint64_t length) noexcept nogil
