"""Encode and decode metas, and the trailer of projections; see `_meta.pxd` for the layout."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport (
    INT64_MAX, INT64_MIN, UINT16_MAX, UINT32_MAX, UINT64_MAX, int64_t, uint16_t, uint32_t, uint64_t)
from libc.string cimport memcmp, memcpy

from edgecache._bytes cimport (
    ByteReader, ByteWriter, bytes_load_i64, bytes_load_u64, bytes_store_i64, bytes_store_u64,
    reader_init, reader_i64, reader_range, reader_remaining, reader_u8, reader_u16, reader_u32,
    reader_u64, writer_bytes, writer_i64, writer_init, writer_u8, writer_u16, writer_u32,
    writer_u64)
from edgecache._checksum cimport checksum_pair
from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._status cimport (
    STATUS_CORRUPT, STATUS_INVALID, STATUS_NO_SPACE, STATUS_OK, STATUS_TOO_LARGE,
    STATUS_TRUNCATED, STATUS_VERSION, Status, raise_for_meta)
from edgecache._xxhash cimport xxhash_api

from edgecache.errors import MetaFieldError


cdef inline uint64_t meta_sum(const char* meta, size_t size) noexcept nogil:
    return checksum_pair(xxhash_api(), meta, META_CHECKSUM_OFFSET, meta + META_FIXED_BYTES,
                         size - META_FIXED_BYTES)


cdef const char* meta_tag_next(ByteReader* reader, size_t* tag_len) noexcept nogil:
    if reader.failed or reader_remaining(reader) == 0:
        return NULL
    tag_len[0] = reader_u16(reader)
    return reader_range(reader, tag_len[0])


cdef inline bint tags_ascend(const char* left, size_t left_len, const char* right,
                             size_t right_len) noexcept nogil:
    cdef int order = memcmp(left, right, left_len if left_len < right_len else right_len)
    return order < 0 or (order == 0 and left_len < right_len)


cdef bint tags_valid(const char* tags, uint32_t tags_len, uint32_t tag_count) noexcept nogil:
    cdef ByteReader reader
    cdef const char* previous = NULL
    cdef const char* tag
    cdef size_t previous_len = 0, tag_len = 0
    cdef uint32_t count = 0
    reader_init(&reader, tags, tags_len)
    while True:
        tag = meta_tag_next(&reader, &tag_len)
        if tag == NULL:
            return not reader.failed and count == tag_count
        if tag_len < 1 or tag_len > META_TAG_MAX_BYTES:
            return False
        if previous != NULL and not tags_ascend(previous, previous_len, tag, tag_len):
            return False
        previous = tag
        previous_len = tag_len
        count += 1


cdef const char* meta_field_check(const MetaFixed* fixed, const char* tags) noexcept nogil:
    if fixed.flags & META_FLAGS_RESERVED:
        return b"flags"
    if fixed.status > META_STATUS_MAX:
        return b"status"
    if fixed.tag_count > META_TAG_COUNT_MAX:
        return b"tag_count"
    if not tags_valid(tags, fixed.tags_len, fixed.tag_count):
        return b"tags"
    return NULL


cdef void fixed_read(MetaFixed* fixed, const char* meta) noexcept nogil:
    cdef ByteReader reader
    reader_init(&reader, meta, META_FIXED_BYTES)
    fixed.magic = reader_u8(&reader)
    fixed.version = reader_u8(&reader)
    fixed.flags = reader_u16(&reader)
    fixed.status = reader_u16(&reader)
    fixed.tag_count = reader_u16(&reader)
    fixed.created_us = reader_i64(&reader)
    fixed.updated_us = reader_i64(&reader)
    fixed.fresh_until_us = reader_i64(&reader)
    fixed.stale_while_revalidate_s = reader_u32(&reader)
    fixed.stale_if_error_s = reader_u32(&reader)
    fixed.watermark = reader_u64(&reader)
    memcpy(fixed.variance, reader_range(&reader, META_VARIANCE_BYTES), META_VARIANCE_BYTES)
    fixed.header_len = reader_u32(&reader)
    fixed.tags_len = reader_u32(&reader)
    fixed.checksum = reader_u64(&reader)


cdef Status meta_decode(const char* meta, size_t size, MetaFixed* fixed) noexcept nogil:
    if size < META_FIXED_BYTES:
        return STATUS_TRUNCATED
    fixed_read(fixed, meta)
    if fixed.magic != META_MAGIC or fixed.version != META_VERSION:
        return STATUS_VERSION
    if size > META_MAX_BYTES or meta_encoded_bytes(fixed.tags_len, fixed.header_len) != size:
        return STATUS_TRUNCATED
    if meta_sum(meta, size) != fixed.checksum:
        return STATUS_CORRUPT
    if meta_field_check(fixed, meta + META_FIXED_BYTES) != NULL:
        return STATUS_INVALID
    return STATUS_OK


cdef Status meta_encode(char* target, size_t capacity_bytes, const MetaFixed* fixed,
                        const char* tags, const char* headers) noexcept nogil:
    cdef uint64_t size = meta_encoded_bytes(fixed.tags_len, fixed.header_len)
    cdef ByteWriter writer
    if size > META_MAX_BYTES:
        return STATUS_TOO_LARGE
    if size > capacity_bytes:
        return STATUS_NO_SPACE
    if meta_field_check(fixed, tags) != NULL:
        return STATUS_INVALID
    writer_init(&writer, target, size)
    writer_u8(&writer, META_MAGIC)
    writer_u8(&writer, META_VERSION)
    writer_u16(&writer, fixed.flags)
    writer_u16(&writer, fixed.status)
    writer_u16(&writer, fixed.tag_count)
    writer_i64(&writer, fixed.created_us)
    writer_i64(&writer, fixed.updated_us)
    writer_i64(&writer, fixed.fresh_until_us)
    writer_u32(&writer, fixed.stale_while_revalidate_s)
    writer_u32(&writer, fixed.stale_if_error_s)
    writer_u64(&writer, fixed.watermark)
    writer_bytes(&writer, fixed.variance, META_VARIANCE_BYTES)
    writer_u32(&writer, fixed.header_len)
    writer_u32(&writer, fixed.tags_len)
    writer_u64(&writer, 0)                      # the checksum, below
    writer_bytes(&writer, tags, fixed.tags_len)
    writer_bytes(&writer, headers, fixed.header_len)
    bytes_store_u64(target + META_CHECKSUM_OFFSET, meta_sum(target, size))
    if EDGECACHE_DEBUG:
        ec_assert(not writer.failed and writer.offset == size, "meta: encoded size")
        meta_check(target, size)
    return STATUS_OK


cdef Status meta_set_fresh_until(char* meta, size_t size, int64_t fresh_until_us) noexcept nogil:
    cdef MetaFixed fixed
    cdef Status status = meta_decode(meta, size, &fixed)
    if status != STATUS_OK:
        return status
    bytes_store_i64(meta + META_FRESH_UNTIL_OFFSET, fresh_until_us)
    bytes_store_u64(meta + META_CHECKSUM_OFFSET, meta_sum(meta, size))
    return STATUS_OK


cdef bint meta_has_tag(const char* meta, size_t size, const char* tag,
                       size_t tag_len) noexcept nogil:
    cdef ByteReader reader
    cdef const char* found
    cdef size_t found_len = 0
    if meta_size(meta, size) != size or size == 0:
        return False
    meta_tags_reader(meta, &reader)
    while True:
        found = meta_tag_next(&reader, &found_len)
        if found == NULL:
            return False
        if found_len == tag_len and memcmp(found, tag, tag_len) == 0:
            return True


cdef void meta_check(const char* meta, size_t size) noexcept nogil:
    cdef MetaFixed fixed
    ec_assert(meta_decode(meta, size, &fixed) == STATUS_OK, "meta: invariants 1 to 4")


# ---- Python

cdef object integer_in(object value, object low, object high, str field):
    if not isinstance(value, int):
        raise TypeError(f"{field} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise MetaFieldError(f"{field} is out of range", field=field,
                             expected=f"{low} to {high}", found=value)
    return value


cdef inline int64_t time_of(object value, str field) except? -1:
    return integer_in(value, INT64_MIN, INT64_MAX, field)


cdef bytes tags_block(object tags, MetaFixed* fixed):
    """Lay out the tags, sorted and without repetition."""
    cdef bytes tag, block
    cdef Py_ssize_t block_bytes = 0
    cdef ByteWriter writer
    if isinstance(tags, (str, bytes)):
        raise TypeError("tags must be a collection of str, not a single one")
    try:
        encoded = sorted({str.encode(text, "utf-8") for text in tags})
    except UnicodeEncodeError as error:
        raise MetaFieldError("a tag is not valid Unicode", field="tags",
                             found=error.object) from None
    for tag in encoded:
        if not 1 <= len(tag) <= META_TAG_MAX_BYTES:
            raise MetaFieldError("a tag has no bytes, or too many", field="tags",
                                 expected=f"1 to {META_TAG_MAX_BYTES} bytes", found=tag)
        block_bytes += 2 + len(tag)
    if len(encoded) > META_TAG_COUNT_MAX:
        raise MetaFieldError("too many tags", field="tags",
                             expected=f"0 to {META_TAG_COUNT_MAX}", found=len(encoded))
    block = PyBytes_FromStringAndSize(NULL, block_bytes)
    writer_init(&writer, PyBytes_AS_STRING(block), block_bytes)
    for tag in encoded:
        meta_tag_append(&writer, PyBytes_AS_STRING(tag), <uint16_t>len(tag))
    fixed.tag_count = <uint16_t>len(encoded)
    fixed.tags_len = <uint32_t>block_bytes
    return block


def encode_meta(created, updated, fresh_until, *, stale_while_revalidate=0, stale_if_error=0,
                watermark=0, flags=0, status=0, bytes variance=bytes(16), tags=(),
                bytes headers=b"") -> bytes:
    """Encode a meta.

    Args:
        created, updated, fresh_until: Microseconds since the epoch.
        stale_while_revalidate, stale_if_error: Seconds, 0 to 2**32 - 1.
        watermark: 0 to 2**64 - 1.
        flags: 16 bits; bits 3 to 7 must be 0.
        status: 0 to 999.
        variance: 16 bytes.
        tags: Collection of str, at most 255 different ones, each of 1 to 255 bytes in UTF-8.
        headers: Opaque.

    Raises:
        MetaFieldError: A field is out of its range.
        ValueTooLargeError: The meta would have more than 65535 bytes.
    """
    cdef MetaFixed fixed
    cdef bytes block, target
    cdef uint64_t size
    cdef Status outcome
    cdef const char* broken
    fixed.created_us = time_of(created, "created")
    fixed.updated_us = time_of(updated, "updated")
    fixed.fresh_until_us = time_of(fresh_until, "fresh_until")
    fixed.stale_while_revalidate_s = integer_in(stale_while_revalidate, 0, UINT32_MAX,
                                                "stale_while_revalidate")
    fixed.stale_if_error_s = integer_in(stale_if_error, 0, UINT32_MAX, "stale_if_error")
    fixed.watermark = integer_in(watermark, 0, UINT64_MAX, "watermark")
    fixed.flags = integer_in(flags, 0, UINT16_MAX, "flags")
    fixed.status = integer_in(status, 0, META_STATUS_MAX, "status")
    if variance is None or len(variance) != META_VARIANCE_BYTES:
        raise MetaFieldError("variance must have 16 bytes", field="variance", found=variance)
    memcpy(fixed.variance, PyBytes_AS_STRING(variance), META_VARIANCE_BYTES)
    block = tags_block(tags, &fixed)
    if headers is None:
        raise TypeError("headers must be bytes, not None")
    size = <uint64_t>META_FIXED_BYTES + <uint64_t>len(block) + <uint64_t>len(headers)
    if size > META_MAX_BYTES:           # before len(headers) is cut down to 32 bits
        raise_for_meta(STATUS_TOO_LARGE, {"expected": META_MAX_BYTES, "found": size})
    fixed.header_len = <uint32_t>len(headers)
    target = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    outcome = meta_encode(PyBytes_AS_STRING(target), size, &fixed, PyBytes_AS_STRING(block),
                          PyBytes_AS_STRING(headers))
    if outcome != STATUS_OK:
        broken = meta_field_check(&fixed, PyBytes_AS_STRING(block))
        raise_for_meta(outcome, {"field": broken.decode()} if broken != NULL else None)
    return target


cdef tuple decoded(const char* meta, size_t size):
    cdef MetaFixed fixed
    cdef ByteReader reader
    cdef size_t tag_len = 0
    cdef const char* tag
    cdef Status outcome = meta_decode(meta, size, &fixed)
    if outcome == STATUS_INVALID:
        raise_for_meta(outcome, {"field": meta_field_check(&fixed, meta_tags(meta)).decode()})
    if outcome == STATUS_TRUNCATED:
        expected = META_FIXED_BYTES if size < META_FIXED_BYTES else meta_size(meta, size)
        raise_for_meta(outcome, {"expected": expected, "found": size})
    if outcome == STATUS_VERSION:
        raise_for_meta(outcome, {"expected": (META_MAGIC, META_VERSION),
                                 "found": (fixed.magic, fixed.version)})
    if outcome == STATUS_CORRUPT:
        raise_for_meta(outcome, {"expected": fixed.checksum, "found": meta_sum(meta, size)})
    tags = []
    meta_tags_reader(meta, &reader)
    tag = meta_tag_next(&reader, &tag_len)
    while tag != NULL:
        try:
            tags.append(tag[:tag_len].decode("utf-8"))
        except UnicodeDecodeError:
            raise MetaFieldError("a tag is not valid UTF-8", field="tags",
                                 found=tag[:tag_len]) from None
        tag = meta_tag_next(&reader, &tag_len)
    return (fixed.created_us, fixed.updated_us, fixed.fresh_until_us,
            fixed.stale_while_revalidate_s, fixed.stale_if_error_s, fixed.watermark, fixed.flags,
            fixed.status, (<const char*>fixed.variance)[:META_VARIANCE_BYTES], tuple(tags),
            meta_headers(meta)[:fixed.header_len])


def decode_meta(data) -> tuple:
    """Decode a meta, with all checks.

    Args:
        data: Any object with a contiguous buffer; exactly the meta, nothing after it.

    Returns:
        created, updated, fresh_until, stale_while_revalidate, stale_if_error, watermark, flags,
        status, variance, tags, headers.

    Raises:
        MetaTruncatedError, MetaVersionError, MetaChecksumError, MetaFieldError.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return decoded(<const char*>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)


def encode_projection_trailer(watermark, cached_at_us) -> bytes:
    """Encode the 16 bytes that follow a projection: watermark u64, cached_at_us i64."""
    cdef char target[PROJECTION_TRAILER_BYTES]
    bytes_store_u64(target, <uint64_t>integer_in(watermark, 0, UINT64_MAX, "watermark"))
    bytes_store_i64(target + 8, time_of(cached_at_us, "cached_at_us"))
    return target[:PROJECTION_TRAILER_BYTES]


def decode_projection_trailer(data) -> tuple:
    """Decode a projection's trailer, of exactly 16 bytes, to (watermark, cached_at_us)."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len != PROJECTION_TRAILER_BYTES:
            raise_for_meta(STATUS_TRUNCATED, {"expected": PROJECTION_TRAILER_BYTES,
                                              "found": view.len})
        return (bytes_load_u64(view.buf), bytes_load_i64(<const char*>view.buf + 8))
    finally:
        PyBuffer_Release(&view)
