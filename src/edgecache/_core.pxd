"""Root: the whole store. `Core` is what storage.py builds on; see _core_base.pxd for the first
part."""

from libc.stdint cimport uint32_t

from edgecache._core_write cimport CoreWrite
from edgecache._io cimport IoChannel, IoEngine
from edgecache._walk cimport Walk

cdef class BatchChannel:
    """An I/O channel of one thread; closed with the store, or when the thread's locals go.

    *Thread-safety*: used and closed under `lock`, a sleeping lock; opened under the GIL.
    """

    cdef IoEngine io
    cdef IoChannel* channel         # NULL: closed
    cdef uint32_t lock
    cdef object __weakref__

    cdef int open(self) except -1
    cdef void close(self)

cdef class Core(CoreWrite):
    cdef object channels            # threading.local: a channel per thread for batches
    cdef object channel_references  # set of weak references to all of them

    cdef BatchChannel channel(self)
    cdef get_batch(self, list found, list waiting)
    cdef object stored_key(self, const char* data, Py_ssize_t size)
    cdef list take_keys(self, Walk* walk)
    cdef bytes prepare_walk(self, Walk* walk, object prefix, bytes tag)
    cdef list filter_keys(self, Walk* walk, object prefix)
