"""Status codes of the native layers, and the one place that turns them into exceptions.

Kernels and components return a Status (or a negative errno where a system call is meant); only
`_core` and constructors call `raise_for_status`.
"""

cdef enum Status:
    STATUS_OK = 0
    STATUS_NOT_FOUND = 1
    STATUS_EXISTS = 2
    STATUS_AGAIN = 3            # a resource is busy; wait and retry
    STATUS_NO_SPACE = 4         # budget or disk full
    STATUS_NO_MEMORY = 5
    STATUS_CORRUPT = 6          # bytes fail their checksum or their format
    STATUS_IO_ERROR = 7
    STATUS_INVALID = 8          # an argument out of range
    STATUS_TOO_LARGE = 9
    STATUS_TIMEOUT = 10
    STATUS_CLOSED = 11
    STATUS_SHED = 12            # dropped by policy, counted
    STATUS_UNSUPPORTED = 13
    STATUS_FORKED = 14          # used in a child of the process that opened it
    STATUS_VERSION = 15         # a format version this build does not read
    STATUS_TRUNCATED = 16

# Raise the exception for `status`; returns 0 for STATUS_OK. `detail` is None, text that is added
# to the message, or a dict of facts (path, offset_bytes, expected, found, hint, those of the
# exception, and message, which replaces the standard one). `errno_code` (positive, or 0) becomes
# the attribute errno where the exception is an OSError; STATUS_IO_ERROR with ENOSPC or EDQUOT is a
# NoSpaceError.
cdef int raise_for_status(Status status, object detail=*, int errno_code=*) except -1
# The same for a meta: the classes below MetaFormatError. `facts` is None or a dict, as above.
cdef int raise_for_meta(Status status, dict facts=*) except -1
