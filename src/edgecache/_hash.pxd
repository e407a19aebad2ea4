"""Kernel: the table of hash functions, and from a cache key to its 128-bit hash.

A key is three byte strings: namespace, primary, variance. Where namespace and variance are empty
(the *plain* form, every key of the embedding API without a namespace) the hashed bytes are the
primary itself. Otherwise (the *composite* form) they are

    | 0             4 |           n | n          n+4 |           p | p           p+4 |          v |
    | namespace_len   | namespace   | primary_len    | primary     | variance_len    | variance   |

with u32 little-endian lengths, which keep ("ab", "c") apart from ("a", "bc"). The seed of the
composite form is another one, so a plain key whose bytes look like an encoding does not get its
hash. Such two keys still have equal *bytes*: whoever compares stored keys must also store and
compare the form.

The seed is random per cache root and stands in its superblock: who does not know it cannot prepare
keys that all fall into one bucket.
Source: J.-P. Aumasson, D. J. Bernstein, "SipHash" (2012), section 7, on hash flooding; XXH3 of
xxHash (doc/xxhash_spec.md), whose output is frozen since release 0.8.0.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from edgecache._bytes cimport ByteWriter, writer_bytes, writer_init, writer_u32

# Returned by value in two registers; same layout as XXH128_hash_t.
ctypedef struct Hash128:
    uint64_t low
    uint64_t high

# Filled by _xxhash; `xxhash_api()` there gives the one in use. XXH3 over [data, data + size).
#
# A stream hashes what does not lie in one piece. It is opaque and belongs to one caller at a time.
# stream_create returns NULL, reset and update return non-zero, when memory runs out. Reset before
# the first update and keep to the width that it was reset for; digest changes nothing, so one may
# go on.
cdef struct XxhashApi:
    Hash128 (*bits128)(const void* data, size_t size, uint64_t seed) noexcept nogil
    uint64_t (*bits64)(const void* data, size_t size, uint64_t seed) noexcept nogil
    void* (*stream_create)() noexcept nogil
    int (*stream_free)(void* stream) noexcept nogil
    int (*stream_reset64)(void* stream, uint64_t seed) noexcept nogil
    int (*stream_update64)(void* stream, const void* data, size_t size) noexcept nogil
    uint64_t (*stream_digest64)(const void* stream) noexcept nogil
    int (*stream_reset128)(void* stream, uint64_t seed) noexcept nogil
    int (*stream_update128)(void* stream, const void* data, size_t size) noexcept nogil
    Hash128 (*stream_digest128)(const void* stream) noexcept nogil

cdef enum:
    KEY_PART_MAX_BYTES = 0xFFFFFFFF             # what a length field holds

cdef extern from *:
    """
    /* Any odd constant would do. Source: the first 64 bits of the fractional part of the square
       root of 2, made odd (FIPS 180-4, 5.3.5 starts SHA-512 with those of 2, 3, 5 ...). */
    #define EC_KEY_COMPOSITE_SEED UINT64_C(0x6A09E667F3BCC909)
    """
    const uint64_t KEY_COMPOSITE_SEED "EC_KEY_COMPOSITE_SEED"


cdef inline size_t key_encoded_bytes(size_t namespace_len, size_t primary_len,
                                     size_t variance_len) noexcept nogil:
    return 12 + namespace_len + primary_len + variance_len


# Write the composite form; returns its length, or 0 if it does not fit (or a part has 4 GiB).
cdef inline size_t key_encode_composite(
        char* target, size_t capacity_bytes, const char* namespace, size_t namespace_len,
        const char* primary, size_t primary_len, const char* variance,
        size_t variance_len) noexcept nogil:
    cdef ByteWriter writer
    if (namespace_len > KEY_PART_MAX_BYTES or primary_len > KEY_PART_MAX_BYTES
            or variance_len > KEY_PART_MAX_BYTES):
        return 0
    writer_init(&writer, target, capacity_bytes)
    writer_u32(&writer, <uint32_t>namespace_len)
    writer_bytes(&writer, namespace, namespace_len)
    writer_u32(&writer, <uint32_t>primary_len)
    writer_bytes(&writer, primary, primary_len)
    writer_u32(&writer, <uint32_t>variance_len)
    writer_bytes(&writer, variance, variance_len)
    return 0 if writer.failed else writer.offset


cdef inline Hash128 key_hash_plain(const XxhashApi* api, const char* primary, size_t primary_len,
                                   uint64_t seed) noexcept nogil:
    return api.bits128(primary, primary_len, seed)


cdef inline Hash128 key_hash_encoded(const XxhashApi* api, const char* encoded, size_t encoded_len,
                                     uint64_t seed) noexcept nogil:
    return api.bits128(encoded, encoded_len, seed ^ KEY_COMPOSITE_SEED)


cdef inline bint hash_equal(const Hash128* left, const Hash128* right) noexcept nogil:
    return left.low == right.low and left.high == right.high
