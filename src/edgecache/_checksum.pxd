"""Kernel: the checksum of everything that is stored, XXH3-64 with one fixed seed.

    checksum_range(a)      = XXH3-64(a, seed = CHECKSUM_SEED)
    checksum_pair(a, b)    = XXH3-64(b, seed = checksum_range(a))

The pair covers two ranges that do not lie side by side, without a copy. It is not the sum of the
concatenation, and moving a byte over the border changes it: writer and reader must split alike. To
cover three ranges continue with checksum_continue. A body that comes in pieces goes through the
stream functions of XxhashApi with CHECKSUM_SEED and gives checksum_range of the whole.

It finds accidents (bit rot, torn and misplaced writes), not attacks. The seed keeps bytes written
by other programs that also use XXH3, with seed 0, from passing as ours, and makes a range of zeros
fail.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from edgecache._hash cimport XxhashApi

cdef extern from *:
    """
    /* Source: the ASCII letters "edgecach", read as a little-endian number. */
    #define EC_CHECKSUM_SEED UINT64_C(0x6863616365676465)
    """
    const uint64_t CHECKSUM_SEED "EC_CHECKSUM_SEED"


cdef inline uint64_t checksum_range(const XxhashApi* api, const void* data,
                                    size_t size) noexcept nogil:
    return api.bits64(data, size, CHECKSUM_SEED)


# Carry `sum`, of what came before, over one more range.
cdef inline uint64_t checksum_continue(const XxhashApi* api, uint64_t sum, const void* data,
                                       size_t size) noexcept nogil:
    return api.bits64(data, size, sum)


cdef inline uint64_t checksum_pair(const XxhashApi* api, const void* first, size_t first_size,
                                   const void* second, size_t second_size) noexcept nogil:
    return checksum_continue(api, checksum_range(api, first, first_size), second, second_size)
