"""The superblock: what identifies a cache root and fixes its geometry. Two files, equal.

    Superblock, 4096 bytes                                        (docs/format.md, "Superblock")
    | 0      8 | 8      12 | 12         16 | 16   24 | 24          32 | 32          48 | 48     56 |
    | magic    | version   | region_shift  | seed    | created_us     | identity       | sum      |
    sum is XXH3-64 (seed 0) of the page with this field 0; the rest of the page is zero.

`superblock` is written first, `superblock.copy` second, both synced; one damaged file is repaired
from the other. Both damaged: the records cannot be verified, and the root is formatted anew.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._io cimport IoEngineOps
from edgecache._status cimport Status
from edgecache._xxhash cimport XxhashApi

cdef enum:
    SUPERBLOCK_BYTES = 4096
    SUPERBLOCK_VERSION = 1

cdef struct Superblock:
    uint64_t magic
    uint32_t version
    uint32_t region_shift           # region size = 1 << region_shift bytes
    uint64_t seed                   # of key hashes and sums
    uint64_t created_us
    unsigned char identity[16]
    uint64_t sum

# STATUS_OK; STATUS_NOT_FOUND: neither file exists; STATUS_CORRUPT: none verifies; STATUS_VERSION:
# written by another version (nothing was touched). *repair: one of the two must be written again.
cdef Status superblock_load(const IoEngineOps* ops, void* engine, const XxhashApi* api,
                            Superblock* out, bint* repair) noexcept nogil
cdef Status superblock_store(const IoEngineOps* ops, void* engine, const XxhashApi* api,
                             Superblock* block) noexcept nogil
