"""Plain sockets of one loop, without a callback of the loop for each: a transport of our own.

All sockets stand in one epoll set, and the loop watches that set. One wake-up of the loop serves
all connections that are ready; a request that a lane answers costs one recv and one send, and makes
no object but its target.

Invariants:

1. A channel is in `Wire.channels` from its making until `connection_lost`, which is always called
   from the loop, never from inside another call. So nothing that epoll names is freed while the
   events of one wake-up are gone through.
Source: epoll(7).
"""

from libc.stdint cimport uint32_t

from edgecache.http._head cimport Exchange
from edgecache.http._outbox cimport Outbox

cdef enum:
    WIRE_READ_BYTES = 262144
    WIRE_EVENTS = 128               # taken by one call
    # One read in so many is timed; a prime, so that no pattern of connections hides from it.
    WIRE_SAMPLE_READS = 61

cdef object os_error(int number)

cdef class Wire

cdef class Watched:
    """Something with a descriptor in the epoll set."""

    cdef int descriptor
    cdef uint32_t interest          # EPOLLIN, EPOLLOUT; what epoll knows
    cdef Wire wire

    cdef int on_events(self, uint32_t events) except -1
    cdef int on_failure(self, object error) except -1
    cdef int watch(self, uint32_t interest) except -1

cdef class Wire:
    """Everything that one loop watches: listeners and connections.

    *Thread-safety*: belongs to its loop.
    """

    cdef object loop
    cdef Exchange exchange
    cdef Outbox outbox
    cdef int reads_to_sample        # reads of sockets until one is timed
    cdef char* buffer               # every socket is read into it
    cdef int epoll
    cdef set channels
    cdef set ports
    cdef bint is_watching

    cdef int add(self, Watched watched) except -1
    cdef int remove(self, Watched watched) except -1
    cdef int rest(self) except -1
    cdef int fail(self, Watched watched, error) except -1
