"""The epoll set of one loop (see _wire.pxd)."""

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close as c_close

import os

from edgecache.http._head cimport Exchange
from edgecache.http._outbox cimport Outbox

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms)
    uint32_t EPOLLIN
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef class Watched:

    def __init__(self):
        raise TypeError("made by the server")

    cdef int on_events(self, uint32_t events) except -1:
        return 0

    cdef int on_failure(self, object error) except -1:
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
cdef class Wire:

    def __cinit__(self, object loop not None, Exchange exchange not None):
        self.epoll = -1
        self.loop = loop
        self.exchange = exchange
        self.outbox = Outbox()
        self.channels = set()
        self.reads_to_sample = WIRE_SAMPLE_READS
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
        return watched.on_failure(error)
