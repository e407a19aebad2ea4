"""The memory engine: power loss, transfers, and channels.

A request is carried out when it is reaped. Fills the ops of transfers and channels.
"""

from libc.stdint cimport uint64_t

from edgecache._io cimport IoChannel, IoEngineOps
from edgecache._io_memory_pages cimport Image

cdef void memory_transfer_ops(IoEngineOps* ops) noexcept nogil
cdef void memory_channel_close(IoChannel* base) noexcept nogil

# Test hooks, with the GIL; the Python names are in `_testing_io`.
cdef int image_power_cut(Image* image, uint64_t seed, int mode) noexcept nogil
cdef void image_release(Image* image, uint64_t count) noexcept nogil
