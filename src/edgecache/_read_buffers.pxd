"""Memory that reads from the disk land in, kept from one read to the next.

One mapping of READ_POOL_BYTES per store, on a huge page where the system gives one: it is mapped
on first use, its pages are faulted in once, and a read that spans two pages is one segment for the
device. A read takes a row of slots; what does not fit, or comes when all are taken, gets memory of
its own from the allocator.

Invariants:

1. A bit of `taken` is set exactly while its slot belongs to somebody.
2. `base` is set once, under the lock, and stays until read_buffers_close.
3. Memory given out starts at a multiple of 4096.

*Thread-safety*: every function but open and close may be called from any thread.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    READ_POOL_BYTES = 2097152           # one huge page (x86-64, arm64 with 4 KiB pages)
    READ_SLOT_BYTES = 8192              # a 4 KiB value with its header, wherever it starts
    READ_SLOTS = 256
    READ_SLOTS_MAX = 16                 # of one read; larger ones are rare and worth an mmap

cdef struct ReadBuffers:                # zeroed: nothing mapped yet
    uint32_t lock
    uint32_t is_refused                 # the mapping failed: the allocator serves alone
    char* base
    uint64_t[4] taken

# NULL: no memory. *room_bytes becomes what was given, at least `size_bytes`.
cdef char* read_buffer_take(ReadBuffers* self, uint64_t size_bytes,
                            uint64_t* room_bytes) noexcept nogil
cdef void read_buffer_give(ReadBuffers* self, char* buffer, uint64_t room_bytes) noexcept nogil
# Caller: nothing is taken any more.
cdef void read_buffers_close(ReadBuffers* self) noexcept nogil
