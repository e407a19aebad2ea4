"""Listening sockets of a wire: where its connections come from."""

from edgecache.http._wire cimport Watched

cdef enum:
    PORT_ACCEPTS = 32               # connections taken at once

cdef class Port(Watched):
    """A listening socket."""

    cdef object handle
    cdef object connect
    cdef object on_full
    cdef bint is_tcp
