"""Root: putting, deleting and making it durable."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._change cimport Change
from edgecache._core_blob cimport CoreBlob
from edgecache._core_front cimport KeyView
from edgecache._status cimport Status

cdef enum StoreResult:
    STORED = 1
    NOT_STORED = 0                  # shed and counted
    WOULD_BLOCK = 2                 # only when asked not to block
    NOT_SAME = 3                    # only for CHANGE_IF_SAME

cdef class CoreWrite(CoreBlob):

    cdef int prepare(self, Change* change, bint block) except -1
    cdef void count_shed(self, Status status)
    cdef int store_beyond(self, object key, object value, object ttl, object tags, object meta,
                          bint block) except -1
    cdef int store(self, KeyView* view, const char* value, uint64_t value_len, const char* meta,
                   uint32_t meta_len, int64_t expiry_us, uint32_t flags, bint block,
                   uint32_t expected_version, uint64_t expected_location) except -1
    cdef void count_shed_late(self, Status status)
    cdef int write_large(self, Change* change) except -1
    cdef int put_object(self, object key, object value, object ttl, object tags, object meta,
                        bint block) except -1
    cdef bint remove(self, KeyView* view) except -1
    cdef int store_lower(self, KeyView* view, const char* value, uint64_t value_len,
                         const char* meta, uint32_t meta_len, int64_t expiry_us, uint32_t flags,
                         uint32_t expected_version, uint64_t expected_sequence) except -1
    cdef int enter_lower(self, KeyView* view, bytes hash16, object ticket, const char* value,
                         uint64_t value_len, const char* meta, uint32_t meta_len,
                         int64_t expiry_us, uint32_t flags, uint32_t expected_version,
                         uint64_t expected_sequence) except -1
    cdef bint remove_ram(self, KeyView* view, char* object_head) except -1
