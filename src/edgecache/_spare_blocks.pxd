"""Memory for large transfers: the last few blocks of the process are kept for the next ones.

*Thread-safety*: any thread.
"""

from libc.stdint cimport uint64_t

# Page-aligned memory for large transfers, or NULL; `size` as it was taken, or less, on return: the
# last few blocks are kept for the next ones.
cdef char* block_take(uint64_t size) noexcept nogil
cdef void block_give(char* block, uint64_t size) noexcept nogil
