"""Root: the whole store. `Core` is what storage.py builds on; see _core_base.pxd for the first
part."""

from edgecache._core_batch cimport BatchReader
from edgecache._core_write cimport CoreWrite
from edgecache._walk cimport Walk

cdef class Core(CoreWrite):
    cdef object channels            # threading.local: a BatchReader per thread
    cdef object reader_references   # set of weak references to all of them

    cdef BatchReader batch_reader(self)
    cdef fetch_many(self, list found, list waiting)
    cdef object stored_key(self, const char* data, Py_ssize_t size)
    cdef list take_keys(self, Walk* walk)
    cdef bytes prepare_walk(self, Walk* walk, object prefix, bytes tag)
    cdef list filter_keys(self, Walk* walk, object prefix)
