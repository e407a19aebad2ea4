"""The thread engine: a pool of native threads that carry out requests by system calls."""

from edgecache._io cimport IoEngine

cdef class ThreadsEngine(IoEngine):
    pass
