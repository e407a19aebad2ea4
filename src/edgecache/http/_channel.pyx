"""Connections of a wire (see _channel.pxd)."""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as c_close

from edgecache.http._head cimport monotonic_ns
from edgecache.http._outbox cimport OUTBOX_LARGE_BYTES, Outbox, iovec
from edgecache.http._wire cimport (
    WIRE_READ_BYTES,
    WIRE_SAMPLE_READS,
    Watched,
    Wire,
    os_error,
)

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t recv(int descriptor, void* data, size_t size, int flags)
    Py_ssize_t sendmsg(int descriptor, const msghdr* message, int flags)
    int shutdown(int descriptor, int how)
    int getsockopt(int descriptor, int level, int name, void* value, uint32_t* size)
    int MSG_NOSIGNAL, MSG_DONTWAIT, SHUT_WR, SOL_SOCKET, SO_ERROR

WRITE_HIGH_BYTES = 65536


cdef Channel adopt(Wire wire, int descriptor, object peer, object protocol):
    """Make the transport of a connected socket that does not block; it owns the descriptor."""
    cdef Channel channel = Channel.__new__(Channel)
    channel.wire = wire
    channel.descriptor = descriptor
    channel.peer = peer
    channel.protocol = protocol
    channel.lane = protocol.lane
    channel.queue = []
    channel.is_reading = True
    channel.high_bytes = WRITE_HIGH_BYTES
    channel.low_bytes = WRITE_HIGH_BYTES // 4
    wire.add(channel)
    wire.channels.add(channel)
    try:
        protocol.connection_made(channel)
    except BaseException as error:
        channel.lose(error)
        raise
    return channel


def attach(Wire wire not None, handle not None, protocol not None):
    """Let a protocol have a connected socket; the wire owns it from now on.

    Args:
        handle: A socket that does not block.
        protocol: It has an attribute `lane`; `connection_made` is called before this returns.
    """
    peer = handle.getpeername()
    adopt(wire, handle.detach(), peer, protocol)


@cython.final
cdef class Channel(Watched):

    def __dealloc__(self):
        # Of a loop that was closed before its connections.
        if self.descriptor >= 0:
            c_close(self.descriptor)

    # Events

    cdef int on_events(self, uint32_t events) except -1:
        if self.is_told:
            return 0
        if events & EPOLLOUT:
            self.send_queue()
        if events & EPOLLIN and self.is_reading and not self.is_over:
            return self.read()
        if events & (EPOLLERR | EPOLLHUP) and not self.is_told:
            # Nobody reads, and nothing can be written any more.
            self.lose(self.socket_error())
        return 0

    cdef int on_failure(self, object error) except -1:
        return self.lose(error)

    cdef object socket_error(self):
        cdef int number = 0
        cdef uint32_t size = sizeof(int)
        getsockopt(self.descriptor, SOL_SOCKET, SO_ERROR, &number, &size)
        return os_error(number) if number else None

    cdef int read(self) except -1:
        cdef Py_ssize_t size
        # Small requests with large answers: what is read at once bounds what is answered at once.
        cdef size_t most = CHANNEL_LANE_BYTES if self.lane.is_open else WIRE_READ_BYTES
        while True:
            size = recv(self.descriptor, self.wire.buffer, most, MSG_DONTWAIT)
            if size >= 0 or errno != EINTR:
                break
        if size > 0:
            self.wire.reads_to_sample -= 1
            if self.wire.reads_to_sample <= 0 and self.wire.exchange.on_sample is not None:
                return self.take_timed(size)
            return self.take(size)
        if size == 0:
            self.is_at_end = True
            self.is_reading = False
            if self.protocol.eof_received():
                self.balance()
            else:
                self.close()
            return 0
        if errno != EAGAIN:
            self.lose(os_error(errno))
        return 0

    cdef int take(self, Py_ssize_t size) except -1:
        """Pass on what was read."""
        if self.lane.is_open and self.waiting_bytes == 0 and not self.is_paused:
            return self.pass_lane(size)
        self.protocol.data_received(PyBytes_FromStringAndSize(self.wire.buffer, size))
        return 0

    cdef int take_timed(self, Py_ssize_t size) except -1:
        """Pass on what was read, and tell how long that took if it was answered at once."""
        cdef object protocol = self.protocol
        cdef bytes first = PyBytes_FromStringAndSize(
            self.wire.buffer, min(size, <Py_ssize_t>CHANNEL_FIRST_BYTES))
        cdef uint64_t before = protocol.answered_count + self.lane.answered_count
        cdef int64_t start_ns, spent_ns
        self.wire.reads_to_sample = WIRE_SAMPLE_READS
        start_ns = monotonic_ns()
        self.take(size)
        spent_ns = monotonic_ns() - start_ns
        if protocol.answered_count + self.lane.answered_count > before and \
                protocol.request is None:
            self.wire.exchange.on_sample(first, spent_ns / 1e9)
        return 0

    cdef int pass_lane(self, Py_ssize_t size) except -1:
        """Answer what the lane takes; the rest is for the protocol."""
        cdef Outbox outbox = self.wire.outbox
        cdef Py_ssize_t at = 0, taken, sent
        if self.wire.exchange.shows_time:
            self.wire.exchange.began_ns = monotonic_ns()
        try:
            while at < size and self.waiting_bytes == 0 and not self.is_over:
                taken = 0 if at else self.lane.repeat(self.wire.buffer, size, outbox)
                if taken == 0:
                    taken = self.lane.take(self.wire.buffer + at, size - at, outbox)
                if taken == 0:
                    break
                at += taken
                self.wire.exchange.tally.bytes_sent += outbox.total
                sent = outbox.send(self.descriptor)
                if sent < 0:
                    if sent != -EAGAIN:
                        self.lose(os_error(-sent))
                        return 0
                    sent = 0
                if <size_t>sent < outbox.total:
                    self.keep(outbox.rest(sent))
                outbox.clear()
        finally:
            outbox.clear()
        if self.waiting_bytes:
            self.balance()
        if at < size and not self.is_over:
            self.protocol.data_received(PyBytes_FromStringAndSize(self.wire.buffer + at, size - at))
        return 0

    # Writing

    cdef int keep(self, object piece) except -1:
        self.queue.append(piece)
        self.waiting_bytes += PyBytes_GET_SIZE(piece)
        return 0

    def write(self, data):
        """Send bytes, or keep what the socket does not take."""
        if self.is_over or self.is_ending:
            return
        self.keep(data if PyBytes_CheckExact(data) else bytes(data))
        if self.interest & EPOLLOUT:
            self.balance()  # the socket is full: only the marks may have been passed
        else:
            self.send_queue()

    def writelines(self, pieces):
        """Send pieces by as few calls as possible, or keep what the socket does not take."""
        if self.is_over or self.is_ending:
            return
        for piece in pieces:
            self.keep(piece if PyBytes_CheckExact(piece) else bytes(piece))
        if self.interest & EPOLLOUT:
            self.balance()  # the socket is full: only the marks may have been passed
        else:
            self.send_queue()

    cdef int send_queue(self) except -1:
        """Send what waits, as much as the socket takes."""
        cdef iovec[32] vectors
        cdef msghdr message
        cdef Py_ssize_t sent
        cdef size_t count, size, want, skip
        cdef bytes piece
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = vectors
        while self.first < <size_t>len(self.queue):
            count = want = 0
            skip = self.offset
            while count < CHANNEL_VECTORS and self.first + count < <size_t>len(self.queue):
                piece = <bytes>self.queue[self.first + count]
                vectors[count].iov_base = PyBytes_AS_STRING(piece) + skip
                vectors[count].iov_len = PyBytes_GET_SIZE(piece) - skip
                want += vectors[count].iov_len
                skip = 0
                count += 1
            message.msg_iovlen = count
            if want > OUTBOX_LARGE_BYTES:
                with nogil:
                    sent = sendmsg(self.descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                sent = sendmsg(self.descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.lose(os_error(errno))
                    return 0
                break
            self.waiting_bytes -= sent
            size = sent + self.offset
            while self.first < <size_t>len(self.queue) and \
                    size >= <size_t>PyBytes_GET_SIZE(<bytes>self.queue[self.first]):
                size -= PyBytes_GET_SIZE(<bytes>self.queue[self.first])
                self.queue[self.first] = None
                self.first += 1
            self.offset = size
            if <size_t>sent < want:
                break
        if self.first == <size_t>len(self.queue):
            self.queue.clear()
            self.first = self.offset = 0
        elif self.first > 64:
            del self.queue[:self.first]
            self.first = 0
        return self.balance()

    cdef int balance(self) except -1:
        """Watch for what is to be done, and keep the protocol's writing within its marks."""
        cdef uint32_t interest = 0
        if self.is_told:
            return 0
        if self.waiting_bytes:
            interest = EPOLLOUT
        if self.is_reading and not self.is_over:
            interest |= EPOLLIN
        self.watch(interest)
        if self.waiting_bytes == 0:
            if self.is_over:
                return self.lose(None)
            if self.is_ending:
                self.end_writing()
        if not self.is_paused and self.waiting_bytes > self.high_bytes:
            self.is_paused = True
            self.protocol.pause_writing()
        elif self.is_paused and self.waiting_bytes <= self.low_bytes:
            self.is_paused = False
            if not self.is_over:
                self.protocol.resume_writing()
        return 0

    cdef int end_writing(self) except -1:
        if not self.is_ended:
            self.is_ended = True
            # It fails when the client is gone: reading says so.
            shutdown(self.descriptor, SHUT_WR)
        return 0

    def write_eof(self):
        """Tell the client, behind what waits, that nothing follows."""
        if not self.is_ending and not self.is_over:
            self.is_ending = True
            if self.waiting_bytes == 0:
                self.end_writing()

    def can_write_eof(self):
        """Return True: a plain socket can be closed by halves."""
        return True

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the marks at which the protocol is told to stop, and to go on (bytes)."""
        self.high_bytes = WRITE_HIGH_BYTES if high is None else high
        self.low_bytes = self.high_bytes // 4 if low is None else low

    def get_write_buffer_size(self):
        """Return the bytes that the socket did not take yet."""
        return self.waiting_bytes

    # Reading

    def pause_reading(self):
        """Read nothing until `resume_reading`."""
        if not self.is_at_end:
            self.is_reading = False
            self.balance()

    def resume_reading(self):
        """Read again."""
        if not self.is_at_end and not self.is_over:
            self.is_reading = True
            self.balance()

    # The end

    def is_closing(self):
        """Say whether it is closed, or about to be."""
        return bool(self.is_over)

    def close(self):
        """Send what waits, then close."""
        if not self.is_over:
            self.is_over = True
            self.balance()

    def abort(self):
        """Close now; what waits is dropped."""
        self.lose(None)

    cdef int lose(self, object error) except -1:
        """End the connection; the protocol hears of it in the next turn of the loop."""
        if self.is_told:
            return 0
        self.is_over = self.is_told = True
        self.is_reading = False
        self.queue.clear()
        self.waiting_bytes = 0
        self.wire.remove(self)
        self.wire.loop.call_soon(self.on_lost, error)
        return 0

    def on_lost(self, error):
        """Close the descriptor, and tell the protocol. Called by the loop."""
        try:
            self.protocol.connection_lost(error)
        finally:
            c_close(self.descriptor)
            self.descriptor = -1
            self.protocol = None
            self.wire.channels.discard(self)
            self.wire.rest()

    def get_extra_info(self, name, default=None):
        """Return "peername", or "socket": something with a `fileno`."""
        if name == "peername":
            return self.peer
        if name == "socket":
            return self
        return default
