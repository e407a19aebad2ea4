"""File space for regions of the log: reserved before it is needed, and erased before it is used.

Called at open and by the maintenance thread only. A file system that has less space than the budget
is used as far as it goes: a data file that does not fit as a whole gets regions one by one.
"""

from libc.stdint cimport uint32_t

from edgecache._segment cimport LogStore

# The footer page that says that every block of the region up to its generation is dead. 0 or a
# negative errno; durable after a sync.
cdef int log_write_erasure(LogStore* log, uint32_t region) noexcept nogil
# Reserve file space for free regions, and erase them, until `wanted` are READY; 0 or a negative
# errno.
cdef int log_prepare(LogStore* log, uint32_t wanted) noexcept nogil
