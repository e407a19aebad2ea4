"""Root: views of values without a copy, and questions that need no value."""

from libc.stdint cimport uint32_t

from edgecache._core_front cimport KeyView
from edgecache._core_read cimport CoreRead

cdef class Blob

cdef enum:
    BLOB_SMALL_BYTES = 256          # a copy of these costs less than keeping them in their place
    PEEK_COPY_BYTES = 16384         # peek_entry copies up to this; see docs/adr/0013
    BLOB_FRONT_BYTES = 4096         # views fill the front table with values up to this

cdef class CoreBlob(CoreRead):
    cdef Blob pin(self, object key, KeyView* view)

cdef class Pin:
    """Keeps one RAM item in its place until it goes. Apart from Blob: one without needs no end."""

    cdef CoreBlob core
    cdef uint32_t reference
    cdef uint32_t shard
    cdef uint32_t hold                  # of shard_pin
    cdef uint32_t life                  # of the store when it was taken

cdef class Blob:
    """A read-only view of one value, without a copy.

    Supports the buffer protocol, `len`, `bytes` and `with`. The bytes stay in place while the blob
    lives: they are counted as pinned and cannot be evicted, so release it soon. (Not so where the
    blob stands over a bytes object, see CoreBlob.view.)

    *Thread-safety*: any thread may read it; releasing it is up to its owner. Exported memoryviews
    keep it from being released.
    """

    cdef object owner               # of the bytes: a Pin, or a bytes object; None: released
    cdef const char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t exports
    cdef Py_ssize_t[1] shape
    cdef Py_ssize_t[1] strides

    cdef int release_now(self) except -1
