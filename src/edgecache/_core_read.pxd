"""Root: reading."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from edgecache._core_front cimport CoreFront, KeyView
from edgecache._fetch cimport Fetch
from edgecache._shard cimport Probe

cdef enum:
    LARGE_COPY_BYTES = 65536        # copies above this are made without the GIL

cdef enum LookupResult:
    LOOKUP_MISS = 0
    LOOKUP_HIT = 1
    LOOKUP_DISK = 2                 # `probe` holds candidates
    LOOKUP_STALE = 3                # there, but past its freshness

cdef extern from "Python.h":
    # As a plain pointer: under a lock nothing may leave by way of an exception.
    PyObject* bytes_or_null "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size)

# The object of a reference that bytes_or_null returned; MemoryError for NULL.
cdef object taken(PyObject* made)
cdef bint meta_is_stale(const char* meta, uint32_t meta_len) noexcept
# A bytes object of memory that cannot move; big copies without the GIL.
cdef object copy_pinned(const char* data, uint64_t size)

# The head of an object where a value was asked for: the layer above knows how to get that.
cdef class ObjectHead:
    cdef readonly tuple entry       # as of read_entry

cdef class CoreRead(CoreFront):
    cdef object lookup_memory(self, object key, KeyView* view, Probe* probe, bint whole,
                              LookupResult* result)
    cdef object take_fetched(self, Fetch* fetch, bint whole)
    cdef object get_disk(self, KeyView* view, Probe* probe, bint whole)
    cdef object find(self, object key, KeyView* view, bint whole)
    cdef object find_raw(self, object key, KeyView* view, bint whole)
    cdef object find_lower(self, KeyView* view, bint whole)
    cdef void count_miss(self, KeyView* view) noexcept
