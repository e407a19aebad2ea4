"""Plain sockets of one loop, without a callback of the loop for each: a transport of our own.

All sockets stand in one epoll set, and the loop watches that set. One wake-up of the loop serves
all connections that are ready; a request that a lane answers costs one recv and one send, and makes
no object but its target.

Invariants:

1. A channel is in `Wire.channels` from its making until `connection_lost`, which is always called
   from the loop, never from inside another call. So nothing that epoll names is freed while the
   events of one wake-up are gone through.
2. Bytes leave in the order they were given in: while any wait in `queue`, none are sent past them.
3. What waits belongs to the channel: bytes objects. Views of the store's memory never wait.
4. A channel that is not read, and has nothing to write, is watched for errors only.

Source: epoll(7); the contract of `asyncio.Transport` and of the flow control of its protocols.
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache.http._head cimport Exchange, Lane
from edgecache.http._outbox cimport Outbox

cdef enum:
    WIRE_READ_BYTES = 262144
    WIRE_EVENTS = 128               # taken by one call
    WIRE_ACCEPTS = 32               # connections of one listener taken at once
    WIRE_VECTORS = 32

cdef class Watched:
    """Something with a descriptor in the epoll set."""

    cdef int descriptor
    cdef uint32_t interest          # EPOLLIN, EPOLLOUT; what epoll knows
    cdef Wire wire

    cdef int on_events(self, uint32_t events) except -1
    cdef int watch(self, uint32_t interest) except -1

cdef class Wire:
    """*Thread-safety*: belongs to its loop."""

    cdef object loop
    cdef Exchange exchange
    cdef Outbox outbox
    cdef char* buffer               # every socket is read into it
    cdef int epoll
    cdef set channels
    cdef set ports
    cdef bint is_watching

    cdef int add(self, Watched watched) except -1
    cdef int remove(self, Watched watched) except -1
    cdef int rest(self) except -1
    cdef int fail(self, Watched watched, error) except -1

cdef class Port(Watched):
    """A listening socket."""

    cdef object handle
    cdef object connect
    cdef object on_full
    cdef bint is_stream_of_tcp

cdef class Channel(Watched):
    """One connection, with the methods of `asyncio.Transport`."""

    cdef object protocol
    cdef object peer
    cdef Lane lane
    cdef list queue                 # bytes that the socket did not take yet
    cdef size_t first               # place in `queue`
    cdef size_t offset              # in that piece
    cdef size_t waiting_bytes
    cdef size_t high_bytes
    cdef size_t low_bytes
    cdef bint is_over               # close or abort was called, or the connection is gone
    cdef bint is_told               # connection_lost is on its way
    cdef bint is_paused             # the protocol was told to stop writing
    cdef bint is_reading
    cdef bint is_at_end             # the client sends nothing more
    cdef bint is_ending             # write_eof was called
    cdef bint is_ended              # and everything before it was sent

    cdef object socket_error(self)
    cdef int read(self) except -1
    cdef int pass_lane(self, Py_ssize_t size) except -1
    cdef int keep(self, object piece) except -1
    cdef int send_queue(self) except -1
    cdef int end_writing(self) except -1
    cdef int balance(self) except -1
    cdef int lose(self, object error) except -1
