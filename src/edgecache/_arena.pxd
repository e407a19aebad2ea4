"""The arena: one mapping that holds index, RAM tier, lists, counters and write buffers.

Everything in it refers to everything else by offsets from its base, never by pointers, so that a
mapping at another address, or in another process, means the same. Address space is reserved
generously and touched as it is used; the kernel gives pages on first touch.

    ArenaHeader, 4096 bytes at offset 0
    | magic u64 | abi_hash u64 | size_bytes u64 | state, user .. | offsets .. | options, text |

The ABI hash covers the sizes of all structures in the arena: a process built differently must not
attach to it. `options` names everything else that shapes it, as text, so that a refusal can say
what differs.

A private arena is anonymous memory; a shared one a memfd, which others open by way of /proc while
its processes live (registry.py), or a file in /dev/shm that outlives them (`keep_warm`).
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    ARENA_MAGIC = 0x0041454E41524345    # "ECRANEA\\0"
    ARENA_VERSION = 2                   # of what the structures mean, where sizes do not tell
    ARENA_HEADER_BYTES = 4096
    ARENA_ALIGNMENT = 2097152           # of the base: a huge page of x86-64
    ARENA_OPTIONS_BYTES = 3072

cdef enum ArenaState:
    ARENA_NEW = 0                       # being laid out
    ARENA_USED = 1
    ARENA_WARM = 2                      # closed in good order: nothing in it waits for the disk

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
    uint64_t process_offset
    uint64_t store_offset
    uint32_t state                      # ArenaState
    uint32_t user                       # effective user id of its maker
    uint64_t pid_namespace              # inode of /proc/self/ns/pid of its maker
    uint64_t checkpoint_number          # WARM: of the checkpoint that it was closed with
    uint64_t checkpoint_us
    char[40] boot_id
    char[32] token                      # of its file's name (warm.py)
    char[3072] options                  # zero-terminated

cdef class Arena:
    """Own one mapping, private or of a file; it goes with the last reference.

    *Thread-safety*: immutable after construction.
    """

    cdef char* base
    cdef readonly uint64_t size_bytes
    cdef readonly int descriptor        # of the file, owned; -1: private memory

    # For parts that are in use as a whole: whole huge pages of [offset, offset + size_bytes).
    cdef void use_huge_pages(self, uint64_t offset, uint64_t size_bytes) noexcept
    # Of a file: what is written from here on stays in this process. 0 or a negative errno.
    cdef int part(self) noexcept nogil

# Bump allocation while the layout is planned: returns the offset and moves *cursor behind it.
cdef inline uint64_t arena_plan(uint64_t* cursor, uint64_t size_bytes,
                                uint64_t alignment) noexcept nogil:
    cdef uint64_t offset = (cursor[0] + alignment - 1) & ~(alignment - 1)
    cursor[0] = offset + size_bytes
    return offset

# A new memfd of that size, sealed: whoever maps it can rely on its size. Or a negative errno.
cdef int arena_make_memfd(uint64_t size_bytes) noexcept nogil
