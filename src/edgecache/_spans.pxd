"""Kernel: how many bytes of a record to ask the disk for, when only its size class is known.

A class spans up to a quarter of its size. Asking for the whole class reads up to a quarter too
much, and often a page more. Records of a store resemble each other, so the longest one that was met
in the class lately is asked for instead; a longer one costs a second read, and is remembered.

Invariants:

1. A hint is at most the size of its class, and is only ever a wish: who reads compares it with the
   size in the record's header.
2. `longest` is the greatest size since the last turn, `longest_before` that of the turn before; a
   turn has SPAN_TURN records. So at most one read in SPAN_TURN of a stable mix is done twice.

Any thread may write; a lost update costs one hint.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._sync cimport ec_load_u32, ec_store_u32

cdef enum:
    SPAN_CLASSES = 128
    SPAN_TURN = 256

cdef struct SpanHints:                  # zeroed: nothing known
    uint32_t[128] longest
    uint32_t[128] longest_before
    uint32_t[128] count

cdef inline uint64_t span_wanted(SpanHints* self, uint32_t size_class,
                                 uint64_t class_bytes) noexcept nogil:
    """Bytes to ask for: what the last records of the class had, else all that it can have."""
    cdef uint32_t known = max(ec_load_u32(&self.longest[size_class]),
                              ec_load_u32(&self.longest_before[size_class]))
    return min(<uint64_t>known, class_bytes) if known else class_bytes

cdef inline void span_learn(SpanHints* self, uint32_t size_class,
                            uint64_t size_bytes) noexcept nogil:
    """A record of this class had `size_bytes`."""
    cdef uint32_t size = <uint32_t>size_bytes, count
    if size_bytes >> 32:
        return                          # asked for as a whole, in parts
    count = ec_load_u32(&self.count[size_class]) + 1
    if count >= SPAN_TURN:
        ec_store_u32(&self.longest_before[size_class], ec_load_u32(&self.longest[size_class]))
        ec_store_u32(&self.longest[size_class], size)
        count = 0
    elif size > ec_load_u32(&self.longest[size_class]):
        ec_store_u32(&self.longest[size_class], size)
    ec_store_u32(&self.count[size_class], count)
