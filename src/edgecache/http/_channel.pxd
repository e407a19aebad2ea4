"""Connections of a wire: a transport of our own.

Invariants:

1. Bytes leave in the order they were given in: while any wait in `queue`, none are sent past them.
2. What waits belongs to the channel: bytes objects. Views of the store's memory never wait.
3. A channel that is not read, and has nothing to write, is watched for errors only.

Source: the contract of `asyncio.Transport`, and of the flow control of its protocols.
"""

from edgecache.http._head cimport Lane
from edgecache.http._wire cimport Watched, Wire

cdef enum:
    CHANNEL_LANE_BYTES = 16384      # read at once while the lane is open
    CHANNEL_VECTORS = 32            # pieces that one call sends
    CHANNEL_FIRST_BYTES = 128       # of a request whose answer is timed: its door is told by them

cdef Channel adopt(Wire wire, int descriptor, object peer, object protocol)

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
    cdef int take(self, Py_ssize_t size) except -1
    cdef int take_timed(self, Py_ssize_t size) except -1
    cdef int pass_lane(self, Py_ssize_t size) except -1
    cdef int keep(self, object piece) except -1
    cdef int send_queue(self) except -1
    cdef int end_writing(self) except -1
    cdef int balance(self) except -1
    cdef int lose(self, object error) except -1
