"""Kernel: the sums of the strips of a chunk, by which a range of it is verified alone.

A chunk of `size` bytes is cut into strips of strip_bytes(size), the last one shorter: 16 KiB, and
twice as much as often as it takes to have 256 of them at most. The sum of a strip is XXH3-64 with
the seed of _checksum.pxd. The content hash of the chunk is XXH3-128, seed 0, of all sums in their
order (u64, little-endian), so that whoever knows the sums need not read the bytes once more.
(docs/objects.md, "Strips")

Source: R. Merkle, "A digital signature based on a conventional encryption function" (1987), for a
tree of two levels; the strip is the smallest power of two at which the sums of a 4 MiB chunk still
lie in the page of its header.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from edgecache._checksum cimport checksum_range
from edgecache._hash cimport Hash128, XxhashApi

cdef enum:
    STRIP_BYTES_MIN = 16384
    STRIPS_MAX = 256


cdef inline uint64_t strip_bytes(uint64_t size) noexcept nogil:
    cdef uint64_t strip = STRIP_BYTES_MIN
    while strip * STRIPS_MAX < size:
        strip *= 2
    return strip


cdef inline uint32_t strip_count(uint64_t size) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size)
    return <uint32_t>((size + strip - 1) // strip)


cdef inline void strips_sum(const XxhashApi* api, const char* data, uint64_t size,
                            uint64_t* sums) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size), start = 0
    cdef uint32_t number = 0
    while start < size:
        sums[number] = checksum_range(api, data + start, <size_t>min(strip, size - start))
        start += strip
        number += 1


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    /* Around the cache, whose lines the target would be read into first; the device reads it from
       memory. Source: Intel 64 and IA-32 Optimization Reference Manual, "Non-temporal Stores". */
    static inline void ec_copy_past_cache(char *target, const char *source, size_t size) {
        size_t at = 0;
        if (((uintptr_t)target & 15) != 0) {
            memcpy(target, source, size);
            return;
        }
        for (; at + 64 <= size; at += 64) {
            __m128i a = _mm_loadu_si128((const __m128i *)(source + at));
            __m128i b = _mm_loadu_si128((const __m128i *)(source + at + 16));
            __m128i c = _mm_loadu_si128((const __m128i *)(source + at + 32));
            __m128i d = _mm_loadu_si128((const __m128i *)(source + at + 48));
            _mm_stream_si128((__m128i *)(target + at), a);
            _mm_stream_si128((__m128i *)(target + at + 16), b);
            _mm_stream_si128((__m128i *)(target + at + 32), c);
            _mm_stream_si128((__m128i *)(target + at + 48), d);
        }
        memcpy(target + at, source + at, size - at);
    }
    static inline void ec_copy_past_cache_end(void) { _mm_sfence(); }
    #else
    static inline void ec_copy_past_cache(char *target, const char *source, size_t size) {
        memcpy(target, source, size);
    }
    static inline void ec_copy_past_cache_end(void) {}
    #endif
    """
    void ec_copy_past_cache(char* target, const char* source, size_t size) noexcept nogil
    void ec_copy_past_cache_end() noexcept nogil


cdef enum:
    PAST_CACHE_BYTES = 262144       # less is likely to be read again before it leaves the cache


# For what the device takes next: each strip is summed where it is, then copied past the cache.
# The source must not change meanwhile, or the sums are of other bytes than the copy.
cdef inline void strips_sum_and_copy_past_cache(const XxhashApi* api, char* target,
                                                const char* source, uint64_t size,
                                                uint64_t* sums) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size), start = 0, length
    cdef uint32_t number = 0
    while start < size:
        length = min(strip, size - start)
        sums[number] = checksum_range(api, source + start, <size_t>length)
        ec_copy_past_cache(target + start, source + start, length)
        start += strip
        number += 1
    ec_copy_past_cache_end()


# One pass over memory: each strip is summed where the copy left it in the cache.
cdef inline void strips_copy_and_sum(const XxhashApi* api, char* target, const char* source,
                                     uint64_t size, uint64_t* sums) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size), start = 0, length
    cdef uint32_t number = 0
    while start < size:
        length = min(strip, size - start)
        memcpy(target + start, source + start, length)
        sums[number] = checksum_range(api, target + start, <size_t>length)
        start += strip
        number += 1


# Copy [first, last) of a chunk of `size` bytes whose strips from `base` on lie at `source`, and
# verify every strip that it touches. False: one is damaged, and what was copied is worth nothing.
cdef inline bint strips_copy_verified(const XxhashApi* api, char* target, const char* source,
                                      uint64_t base, uint64_t size, uint64_t first, uint64_t last,
                                      const uint64_t* sums) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size), start = first // strip * strip, end, low
    cdef const char* data
    while start < last:
        end = min(start + strip, size)
        data = source + (start - base)
        if checksum_range(api, data, <size_t>(end - start)) != sums[start // strip]:
            return False
        low = max(first, start)
        memcpy(target + (low - first), data + (low - start), min(last, end) - low)
        start = end
    return True


# As that, of bytes in their place: strips of [base, last) of the chunk, at `data`.
cdef inline bint strips_hold(const XxhashApi* api, const char* data, uint64_t base, uint64_t size,
                             uint64_t last, const uint64_t* sums) noexcept nogil:
    cdef uint64_t strip = strip_bytes(size), start = base, end
    while start < last:
        end = min(start + strip, size)
        if checksum_range(api, data + (start - base), <size_t>(end - start)) != \
                sums[start // strip]:
            return False
        start = end
    return True


cdef inline Hash128 strips_hash(const XxhashApi* api, const uint64_t* sums,
                                uint32_t count) noexcept nogil:
    return api.bits128(sums, <size_t>count * 8, 0)
