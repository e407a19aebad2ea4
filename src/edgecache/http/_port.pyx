"""Listening sockets of a wire (see _port.pxd)."""

cimport cython
from libc.errno cimport EMFILE, ENFILE, ENOBUFS, ENOMEM
from libc.stdint cimport uint32_t

import socket

from edgecache.http._channel cimport adopt
from edgecache.http._wire cimport Watched, Wire

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN

# Seconds until a listener tries again when the process has no descriptor left.
ACCEPT_RETRY_S = 0.5


def listen(Wire wire not None, handle not None, connect not None, on_full not None):
    """Accept connections of a listening socket; returns a `Port`, which now owns it.

    Args:
        handle: A socket that listens and does not block.
        connect: Makes a protocol; it has an attribute `lane`.
        on_full: Called when the process has no descriptor left for a connection.
    """
    cdef Port port = Port.__new__(Port)
    port.wire = wire
    port.handle = handle
    port.descriptor = handle.fileno()
    port.connect = connect
    port.on_full = on_full
    port.is_tcp = handle.family in (socket.AF_INET, socket.AF_INET6)
    wire.add(port)
    wire.ports.add(port)
    return port


@cython.final
cdef class Port(Watched):

    cdef int on_events(self, uint32_t events) except -1:
        cdef int _number
        for _number in range(PORT_ACCEPTS):
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
            if self.is_tcp:
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = self.connect()
            adopt(self.wire, handle.detach(), peer, protocol)
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
