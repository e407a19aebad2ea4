"""Plain sockets of one loop (see _wire.pxd)."""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.errno cimport EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close as c_close

import os
import socket

from edgecache.http._head cimport Exchange, Lane
from edgecache.http._outbox cimport OUTBOX_LARGE_BYTES, Outbox, iovec

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms)
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t recv(int descriptor, void* data, size_t size, int flags)
    Py_ssize_t sendmsg(int descriptor, const msghdr* message, int flags)
    int shutdown(int descriptor, int how)
    int getsockopt(int descriptor, int level, int name, void* value, uint32_t* size)
    int MSG_NOSIGNAL, MSG_DONTWAIT, SHUT_WR, SOL_SOCKET, SO_ERROR

# Seconds until a listener tries again when the process has no descriptor left.
ACCEPT_RETRY_S = 0.5
WRITE_HIGH_BYTES = 65536


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef class Watched:

    def __init__(self):
        raise TypeError("made by a Wire")

    cdef int on_events(self, uint32_t events) except -1:
        return 0

    cdef int watch(self, uint32_t interest) except -1:
        """Tell epoll what is of interest now."""
        cdef epoll_event event
        if interest == self.interest:
            return 0
        event.events = interest
        event.data.ptr = <void*>self
        if epoll_ctl(self.wire.epoll, EPOLL_CTL_MOD, self.descriptor, &event) < 0:
            raise os_error(errno)
        self.interest = interest
        return 0

    def fileno(self):
        """Return the descriptor; -1 when it is closed."""
        return self.descriptor


@cython.final
@cython.no_gc_clear
cdef class Wire:

    def __cinit__(self, object loop not None, Exchange exchange not None):
        self.epoll = -1
        self.loop = loop
        self.exchange = exchange
        self.outbox = Outbox()
        self.channels = set()
        self.ports = set()
        self.buffer = <char*>malloc(WIRE_READ_BYTES)
        if self.buffer == NULL:
            raise MemoryError("no memory for a read buffer")
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise os_error(errno)

    def __dealloc__(self):
        free(self.buffer)
        if self.epoll >= 0:
            c_close(self.epoll)

    def listen(self, handle not None, connect not None, on_full not None):
        """Accept connections of a listening socket; returns a `Port`, which now owns it.

        Args:
            handle: A socket that listens and does not block.
            connect: Makes a protocol; it has an attribute `lane`.
            on_full: Called when the process has no descriptor left for a connection.
        """
        cdef Port port = Port.__new__(Port)
        port.wire = self
        port.handle = handle
        port.descriptor = handle.fileno()
        port.connect = connect
        port.on_full = on_full
        port.is_stream_of_tcp = handle.family in (socket.AF_INET, socket.AF_INET6)
        self.add(port)
        self.ports.add(port)
        return port

    def adopt(self, int descriptor, peer, protocol not None):
        """Make the transport of a connected socket that does not block; it owns the descriptor."""
        cdef Channel channel = Channel.__new__(Channel)
        channel.wire = self
        channel.descriptor = descriptor
        channel.peer = peer
        channel.protocol = protocol
        channel.lane = protocol.lane
        channel.queue = []
        channel.is_reading = True
        channel.high_bytes = WRITE_HIGH_BYTES
        channel.low_bytes = WRITE_HIGH_BYTES // 4
        self.add(channel)
        self.channels.add(channel)
        protocol.connection_made(channel)
        return channel

    cdef int add(self, Watched watched) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = <void*>watched
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, watched.descriptor, &event) < 0:
            raise os_error(errno)
        watched.interest = EPOLLIN
        if not self.is_watching:
            self.is_watching = True
            self.loop.add_reader(self.epoll, self.on_ready)
        return 0

    cdef int remove(self, Watched watched) except -1:
        cdef epoll_event event
        if watched.descriptor >= 0:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, watched.descriptor, &event)
        return 0

    cdef int rest(self) except -1:
        """Leave the loop alone when there is nothing to watch: it can then end."""
        if self.is_watching and not self.ports and not self.channels:
            self.is_watching = False
            self.loop.remove_reader(self.epoll)
        return 0

    def on_ready(self):
        """Serve everything that is ready. Called by the loop."""
        cdef epoll_event[128] events
        cdef int count, number
        cdef Watched watched
        while True:
            count = epoll_wait(self.epoll, events, WIRE_EVENTS, 0)
            if count >= 0 or errno != EINTR:
                break
        for number in range(count):
            watched = <Watched>events[number].data.ptr
            try:
                watched.on_events(events[number].events)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.fail(watched, error)

    cdef int fail(self, Watched watched, error) except -1:
        """A callback raised: that ends its connection, and none but that."""
        self.loop.call_exception_handler({
            "message": "a connection failed", "exception": error,
            "transport": watched, "protocol": getattr(watched, "protocol", None)})
        if isinstance(watched, Channel):
            (<Channel>watched).lose(error)
        return 0


@cython.final
@cython.no_gc_clear
cdef class Port(Watched):

    cdef int on_events(self, uint32_t events) except -1:
        cdef int _number
        for _number in range(WIRE_ACCEPTS):
            if self.descriptor < 0:
                return 0
            try:
                handle, peer = self.handle.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return 0
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    raise
                # The connection stays in the backlog, and epoll would name it again and again.
                self.watch(0)
                self.wire.loop.call_later(ACCEPT_RETRY_S, self.resume)
                self.on_full()
                return 0
            handle.setblocking(False)
            if self.is_stream_of_tcp:
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.wire.adopt(handle.detach(), peer, self.connect())
        return 0

    def resume(self):
        """Accept again after a pause."""
        if self.descriptor >= 0:
            self.watch(EPOLLIN)

    def close(self):
        """Stop listening. Idempotent."""
        if self.descriptor >= 0:
            self.wire.remove(self)
            self.descriptor = -1
            self.handle.close()
            self.wire.ports.discard(self)
            self.wire.rest()

    @property
    def sockets(self):
        """The listening socket, as servers of asyncio name theirs."""
        return (self.handle,)


@cython.final
@cython.no_gc_clear
cdef class Channel(Watched):

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

    cdef object socket_error(self):
        cdef int number = 0
        cdef uint32_t size = sizeof(int)
        getsockopt(self.descriptor, SOL_SOCKET, SO_ERROR, &number, &size)
        return os_error(number) if number else None

    cdef int read(self) except -1:
        cdef Py_ssize_t size
        while True:
            size = recv(self.descriptor, self.wire.buffer, WIRE_READ_BYTES, MSG_DONTWAIT)
            if size >= 0 or errno != EINTR:
                break
        if size > 0:
            if self.lane.is_open and self.waiting_bytes == 0 and not self.is_paused:
                return self.pass_lane(size)
            self.protocol.data_received(PyBytes_FromStringAndSize(self.wire.buffer, size))
            return 0
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

    cdef int pass_lane(self, Py_ssize_t size) except -1:
        """Answer what the lane takes; the rest is for the protocol."""
        cdef Outbox outbox = self.wire.outbox
        cdef Py_ssize_t at = 0, taken, sent
        try:
            while at < size and self.waiting_bytes == 0 and not self.is_over:
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
            while count < WIRE_VECTORS and self.first + count < <size_t>len(self.queue):
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
