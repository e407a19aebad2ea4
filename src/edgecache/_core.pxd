"""Root: the whole store. `Core` is what storage.py builds on; see _core_base.pxd for the first
part."""

from edgecache._core_part cimport CorePart
from edgecache._walk cimport Walk

cdef class Core(CorePart):
    cdef fetch_many(self, list found, list waiting)
    cdef object stored_key(self, const char* data, Py_ssize_t size)
    cdef list take_keys(self, Walk* walk)
    cdef bytes prepare_walk(self, Walk* walk, object prefix, bytes tag)
    cdef list filter_keys(self, Walk* walk, object prefix)
