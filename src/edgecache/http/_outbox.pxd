"""Bytes on their way to one socket: gathered first, then handed over by one system call.

Invariants:

1. Small pieces are copied into one buffer; large ones stay where they are, and are held by the
   buffer protocol from `put` until `clear`. Nothing is held across two turns of the loop.
2. `vectors` lists all pieces in order; pieces that follow each other in the buffer share one.
"""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef enum:
    OUTBOX_BYTES = 131072           # of the buffer
    OUTBOX_COPY_BYTES_MAX = 16384   # a larger body is not copied: see docs/adr/0013
    OUTBOX_BODIES = 24              # of such bodies at once
    OUTBOX_VECTORS = 64
    OUTBOX_HEAD_BYTES_MAX = 8192
    OUTBOX_TIME_BYTES_MAX = 64      # of a line with a time
    OUTBOX_ANSWER_BYTES_MAX = 32768  # of both ends of a head, and a small body
    OUTBOX_GATHER_BYTES = 262144    # enough for one call
    OUTBOX_LARGE_BYTES = 65536      # from here on a call gives the GIL away

cdef class Outbox:
    """*Thread-safety*: belongs to one loop; used within one of its callbacks at a time."""

    cdef char* buffer
    cdef size_t used                # bytes of the buffer
    cdef size_t total               # bytes of all pieces
    cdef iovec[64] vectors
    cdef int vector_count
    cdef Py_buffer[24] bodies
    cdef int body_count

    cdef bint has_room(self) noexcept
    cdef int put(self, bytes head, bytes end, object body, int64_t spent_ns) except -1
    cdef int put_again(self, bytes piece, int64_t spent_ns) except -1
    cdef void add_time(self, int64_t spent_ns) noexcept
    cdef void add(self, const char* data, size_t size) noexcept
    cdef Py_ssize_t send(self, int descriptor) noexcept
    cdef bytes rest(self, size_t sent)
    cdef void clear(self) noexcept
