"""The memory engine: the whole contract in RAM, with faults and power loss on demand.

Its kernels: `_io_memory_pages` (the image, its invariants), `_io_memory_tree`, `_io_memory_state`.
"""

from edgecache._io cimport IoEngine
from edgecache._io_memory_pages cimport Image

cdef class MemoryDisk:
    cdef Image* image

cdef class MemoryEngine(IoEngine):
    cdef MemoryDisk disk
