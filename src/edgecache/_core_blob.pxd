"""Root: views of values without a copy, and questions that need no value."""

from libc.stdint cimport uint32_t

from edgecache._core_read cimport CoreRead, KeyView

cdef class Blob

cdef class CoreBlob(CoreRead):
    cdef Blob pin(self, KeyView* view)

cdef class Blob:
    """A read-only view of one value, without a copy.

    Supports the buffer protocol, `len`, `bytes` and `with`. The bytes stay in place while the blob
    lives: they are counted as pinned and cannot be evicted, so release it soon.

    *Thread-safety*: any thread may read it; releasing it is up to its owner. Exported memoryviews
    keep it from being released.
    """

    cdef CoreBlob core
    cdef object owner               # a bytes object instead of a pinned item
    cdef const char* data
    cdef Py_ssize_t size
    cdef uint32_t reference
    cdef uint32_t shard
    cdef Py_ssize_t exports
    cdef Py_ssize_t[1] shape
    cdef Py_ssize_t[1] strides

    cdef int release_now(self) except -1
