"""The arena: one mapping that holds index, RAM tier, lists, counters and write buffers.

Everything in it refers to everything else by offsets from its base, never by pointers, so that a
mapping at another address, or in another process, means the same. Address space is reserved
generously and touched as it is used; the kernel gives pages on first touch.

    ArenaHeader, 4096 bytes at offset 0
    | magic u64 | abi_hash u64 | size_bytes u64 | shard_count u32, region_count u32 | offsets ... |

The ABI hash covers the sizes of all structures in the arena: a process built differently must not
attach to it.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    ARENA_MAGIC = 0x0041454E41524345    # "ECRANEA\\0"
    ARENA_HEADER_BYTES = 4096
    ARENA_ALIGNMENT = 2097152           # of the base: a huge page of x86-64

cdef struct ArenaHeader:
    uint64_t magic
    uint64_t abi_hash
    uint64_t size_bytes
    uint32_t shard_count
    uint32_t region_count
    uint64_t shard_offset
    uint64_t shard_stride_bytes
    uint64_t log_offset
    uint64_t ghost_offset
    uint64_t buffer_offset

cdef class Arena:
    """Own one private mapping; it goes with the last reference.

    *Thread-safety*: immutable after construction.
    """

    cdef char* base
    cdef readonly uint64_t size_bytes

    # For parts that are in use as a whole: whole huge pages of [offset, offset + size_bytes).
    cdef void use_huge_pages(self, uint64_t offset, uint64_t size_bytes) noexcept

# Bump allocation while the layout is planned: returns the offset and moves *cursor behind it.
cdef inline uint64_t arena_plan(uint64_t* cursor, uint64_t size_bytes,
                                uint64_t alignment) noexcept nogil:
    cdef uint64_t offset = (cursor[0] + alignment - 1) & ~(alignment - 1)
    cursor[0] = offset + size_bytes
    return offset
