"""Format: the record of a chunk of an object, whose meta carries the sums of its strips.

The header block of the meta of such a part                           (docs/objects.md, "Strips")

    | 0           4 | 4           8 | 8          8 + 8 n | ...                       |
    | strip_bytes   | strip_count n | sums, u64 each     | zeros, to a multiple of 64 |

with so many zeros that header, key and meta together are a multiple of the unit: the body then
starts exactly at a page (log_large_begin), where its strips can be read with no byte beside them.

The record has the flag STRIPS: who read all of it verifies it as any other record, who read its
head alone verifies the sums by the payload sum (part_sums), and strips by these.
"""

from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._bytes cimport bytes_load_u32
from edgecache._meta cimport (
    META_FIXED_BYTES,
    META_FLAG_PART,
    MetaFixed,
    meta_encode,
    meta_flags,
    meta_headers,
    meta_tags_len,
)
from edgecache._segment_format cimport (
    RECORD_HEADER_BYTES,
    RECORD_STRIPS,
    UNIT_BYTES,
    RecordHeader,
    align_up,
    record_body,
    record_meta,
    record_strips_sum,
)
from edgecache._strips cimport (
    PAST_CACHE_BYTES,
    STRIPS_MAX,
    strip_bytes,
    strip_count,
    strips_copy_and_sum,
    strips_hash,
    strips_sum_and_copy_past_cache,
)
from edgecache._xxhash cimport Hash128, XxhashApi

cdef struct PartSums:               # the header block, without its zeros
    uint32_t strip_bytes
    uint32_t strip_count
    uint64_t[STRIPS_MAX] sums
    uint64_t[8] zeros


cdef inline uint64_t part_meta_bytes(uint32_t key_len, uint64_t size) noexcept nogil:
    """Bytes of the meta of a part of `size` bytes; STRIPS_MAX keeps it below 64 KiB."""
    cdef uint64_t head = <uint64_t>RECORD_HEADER_BYTES + key_len
    return align_up(head + META_FIXED_BYTES + 8 + 8 * <uint64_t>strip_count(size), UNIT_BYTES) \
        - head


cdef inline void part_fill(const XxhashApi* api, uint64_t seed, RecordHeader* record,
                           const char* value, PartSums* block) noexcept nogil:
    """Fill meta and body of a record whose lengths, flags and key are there, and its sum."""
    cdef MetaFixed fixed
    block.strip_bytes = <uint32_t>strip_bytes(record.body_len)
    block.strip_count = strip_count(record.body_len)
    if record.body_len >= PAST_CACHE_BYTES:
        strips_sum_and_copy_past_cache(api, record_body(record), value, record.body_len,
                                       block.sums)
    else:
        strips_copy_and_sum(api, record_body(record), value, record.body_len, block.sums)
    memset(&block.sums[block.strip_count], 0, UNIT_BYTES)
    memset(&fixed, 0, sizeof(fixed))
    fixed.flags = META_FLAG_PART
    fixed.fresh_until_us = INT64_MAX
    fixed.header_len = <uint32_t>(record.meta_len - META_FIXED_BYTES)
    meta_encode(record_meta(record), record.meta_len, &fixed, NULL, <const char*>block)
    record.payload_sum = record_strips_sum(api, seed, record, block.sums)


cdef inline bint part_sums(const XxhashApi* api, uint64_t seed, RecordHeader* record,
                           uint64_t part_bytes, uint64_t* sums) noexcept nogil:
    """Take the strip sums of a part of this size; False: it is none, or its head is damaged.

    Caller verified the header, and that key and meta are there.
    """
    cdef const char* meta = record_meta(record)
    cdef const char* block
    if not record.flags & RECORD_STRIPS or record.body_len != part_bytes or \
            record.meta_len != part_meta_bytes(record.key_len, part_bytes) or \
            not meta_flags(meta) & META_FLAG_PART or meta_tags_len(meta) != 0:
        return False
    block = meta_headers(meta)
    if bytes_load_u32(block) != strip_bytes(part_bytes) or \
            bytes_load_u32(block + 4) != strip_count(part_bytes):
        return False
    memcpy(sums, block + 8, <size_t>strip_count(part_bytes) * 8)
    return record.payload_sum == record_strips_sum(api, seed, record, sums)


cdef inline Hash128 part_content_hash(const XxhashApi* api, RecordHeader* record) noexcept nogil:
    """The content hash of a part that part_fill just made."""
    cdef uint64_t[STRIPS_MAX] sums
    cdef uint32_t count = strip_count(record.body_len)
    memcpy(sums, record_meta(record) + META_FIXED_BYTES + 8, <size_t>count * 8)
    return strips_hash(api, sums, count)
