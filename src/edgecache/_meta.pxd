"""Format: what is known about an entry besides its key and its value.

docs/format-meta.md is normative.

    Meta, version 1, little-endian: a fixed part of 80 bytes, the tags, the header block

    | 0     1 | 1       2 | 2     4 | 4      6 | 6         8 | 8            16 | 16           24 |
    | magic u8| version u8| flags   | status   | tag_count   | created_us i64  | updated_us i64  |
    |         |           | u16     | u16      | u16         |                 |                 |

    | 24               32 | 32                        36 | 36               40 | 40           48 |
    | fresh_until_us i64  | stale_while_revalidate_s u32 | stale_if_error_s u32| watermark u64   |

    | 48         64 | 64           68 | 68         72 | 72         80 | 80     T | T          end |
    | variance      | header_len u32  | tags_len u32  | checksum u64  | tags     | header block   |
    | 16 bytes      |                 |               |               |          | opaque         |

    tags, tag_count times:  | 0       2 | 2     2 + n |        T = 80 + tags_len
                            | n u16     | tag         |      end = T + header_len

Invariants of a valid meta (meta_decode checks them all, in this order; the numbers are also in the
document):

1. It has 80 to 65535 bytes, begins with the magic and version 1, and is exactly as long as
   80 + tags_len + header_len.
2. checksum is checksum_pair of bytes [0, 72) and [80, end).
3. Bits 3 to 7 of flags are 0; status is at most 999; tag_count is at most 255.
4. The tags fill tags_len exactly; each has 1 to 255 bytes; they ascend strictly, bytewise (of two
   with a common prefix the shorter one first). So a set of tags has one encoding only.

The layout has no padding. Timestamps are microseconds since the epoch, of any sign.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._bytes cimport (
    ByteReader, ByteWriter, bytes_load_i64, bytes_load_u16, bytes_load_u32, bytes_load_u64,
    reader_init, writer_bytes, writer_u16)
from edgecache._status cimport Status

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>

    typedef struct {
        uint8_t magic;
        uint8_t version;
        uint16_t flags;
        uint16_t status;
        uint16_t tag_count;
        int64_t created_us;
        int64_t updated_us;
        int64_t fresh_until_us;
        uint32_t stale_while_revalidate_s;
        uint32_t stale_if_error_s;
        uint64_t watermark;
        uint8_t variance[16];
        uint32_t header_len;
        uint32_t tags_len;
        uint64_t checksum;
    } EcMetaFixed;

    _Static_assert(sizeof(EcMetaFixed) == 80, "meta: fixed part");
    _Static_assert(offsetof(EcMetaFixed, version) == 1, "meta: version");
    _Static_assert(offsetof(EcMetaFixed, flags) == 2, "meta: flags");
    _Static_assert(offsetof(EcMetaFixed, status) == 4, "meta: status");
    _Static_assert(offsetof(EcMetaFixed, tag_count) == 6, "meta: tag_count");
    _Static_assert(offsetof(EcMetaFixed, created_us) == 8, "meta: created_us");
    _Static_assert(offsetof(EcMetaFixed, updated_us) == 16, "meta: updated_us");
    _Static_assert(offsetof(EcMetaFixed, fresh_until_us) == 24, "meta: fresh_until_us");
    _Static_assert(offsetof(EcMetaFixed, stale_while_revalidate_s) == 32, "meta: revalidate");
    _Static_assert(offsetof(EcMetaFixed, stale_if_error_s) == 36, "meta: stale_if_error_s");
    _Static_assert(offsetof(EcMetaFixed, watermark) == 40, "meta: watermark");
    _Static_assert(offsetof(EcMetaFixed, variance) == 48, "meta: variance");
    _Static_assert(offsetof(EcMetaFixed, header_len) == 64, "meta: header_len");
    _Static_assert(offsetof(EcMetaFixed, tags_len) == 68, "meta: tags_len");
    _Static_assert(offsetof(EcMetaFixed, checksum) == 72, "meta: checksum");
    """
    ctypedef struct MetaFixed "EcMetaFixed":
        uint8_t magic
        uint8_t version
        uint16_t flags
        uint16_t status
        uint16_t tag_count
        int64_t created_us
        int64_t updated_us
        int64_t fresh_until_us
        uint32_t stale_while_revalidate_s
        uint32_t stale_if_error_s
        uint64_t watermark
        uint8_t variance[16]
        uint32_t header_len
        uint32_t tags_len
        uint64_t checksum

cdef enum:
    META_MAGIC = 0xEC
    META_VERSION = 1
    META_FIXED_BYTES = 80
    META_FRESH_UNTIL_OFFSET = 24
    META_CHECKSUM_OFFSET = 72
    META_VARIANCE_BYTES = 16
    META_MAX_BYTES = 65535
    META_TAG_COUNT_MAX = 255
    META_TAG_MAX_BYTES = 255
    META_STATUS_MAX = 999

    # flags: the low byte belongs to the engine and its unknown bits must be 0; the high byte
    # belongs to the door that wrote the entry, any value is kept.
    META_FLAG_HEADERS_ZSTD = 0x0001     # the header block is one zstd frame
    META_FLAG_OBJECT = 0x0002           # the value is the head of an object (docs/objects.md)
    META_FLAG_PART = 0x0004             # a part of an object: purges by prefix or tag pass it over
    META_FLAGS_RESERVED = 0x00F8
    META_FLAGS_DOOR = 0xFF00

    PROJECTION_TRAILER_BYTES = 16

# Check every invariant; STATUS_OK fills `fixed`, in host order. `size` is the length of the meta
# as the record or the caller gives it. STATUS_TRUNCATED: the size does not fit. STATUS_VERSION: no
# magic, or another version. STATUS_CORRUPT: checksum. STATUS_INVALID: invariants 3 or 4.
cdef Status meta_decode(const char* meta, size_t size, MetaFixed* fixed) noexcept nogil
# Write meta_encoded_bytes(fixed) bytes. The caller fills `fixed` but for magic, version and
# checksum, and lays out the tags with meta_tag_append; `tags` and `headers` may be NULL where
# their length is 0. STATUS_NO_SPACE: capacity. STATUS_TOO_LARGE: META_MAX_BYTES. STATUS_INVALID:
# invariants 3 or 4.
cdef Status meta_encode(char* target, size_t capacity_bytes, const MetaFixed* fixed,
                        const char* tags, const char* headers) noexcept nogil
# Change one field in place and the checksum with it. The old checksum is verified first: a damaged
# meta must not become a valid one.
cdef Status meta_set_fresh_until(char* meta, size_t size, int64_t fresh_until_us) noexcept nogil
# `meta` as meta_decode accepted it; never reads outside [meta, meta + size) in any case.
cdef bint meta_has_tag(const char* meta, size_t size, const char* tag,
                       size_t tag_len) noexcept nogil
# Name of the first field that breaks invariant 3 or 4, or NULL. `tags` holds tags_len bytes.
cdef const char* meta_field_check(const MetaFixed* fixed, const char* tags) noexcept nogil
# Stop the process if a meta that this code made is not valid (debug builds).
cdef void meta_check(const char* meta, size_t size) noexcept nogil
# Next tag of a reader over the tags; NULL at the end, and (with failed set) where it is malformed.
cdef const char* meta_tag_next(ByteReader* reader, size_t* tag_len) noexcept nogil


cdef inline uint64_t meta_encoded_bytes(uint32_t tags_len, uint32_t header_len) noexcept nogil:
    return <uint64_t>META_FIXED_BYTES + tags_len + header_len


# Lay out one more tag; sorting and limits are the caller's, meta_encode checks them.
cdef inline void meta_tag_append(ByteWriter* writer, const char* tag,
                                 uint16_t tag_len) noexcept nogil:
    writer_u16(writer, tag_len)
    writer_bytes(writer, tag, tag_len)


# Accessors: `meta` was accepted by meta_decode.

cdef inline uint16_t meta_flags(const char* meta) noexcept nogil:
    return bytes_load_u16(meta + 2)


# For metas of any origin: False where the fixed part is not all there.
cdef inline bint meta_has_flag(const char* meta, size_t size, uint16_t flag) noexcept nogil:
    return size >= META_FIXED_BYTES and meta_flags(meta) & flag != 0


cdef inline uint16_t meta_status(const char* meta) noexcept nogil:
    return bytes_load_u16(meta + 4)


cdef inline uint16_t meta_tag_count(const char* meta) noexcept nogil:
    return bytes_load_u16(meta + 6)


cdef inline int64_t meta_created_us(const char* meta) noexcept nogil:
    return bytes_load_i64(meta + 8)


cdef inline int64_t meta_updated_us(const char* meta) noexcept nogil:
    return bytes_load_i64(meta + 16)


cdef inline int64_t meta_fresh_until_us(const char* meta) noexcept nogil:
    return bytes_load_i64(meta + META_FRESH_UNTIL_OFFSET)


cdef inline uint32_t meta_stale_while_revalidate_s(const char* meta) noexcept nogil:
    return bytes_load_u32(meta + 32)


cdef inline uint32_t meta_stale_if_error_s(const char* meta) noexcept nogil:
    return bytes_load_u32(meta + 36)


cdef inline uint64_t meta_watermark(const char* meta) noexcept nogil:
    return bytes_load_u64(meta + 40)


cdef inline const char* meta_variance(const char* meta) noexcept nogil:
    return meta + 48


cdef inline uint32_t meta_header_len(const char* meta) noexcept nogil:
    return bytes_load_u32(meta + 64)


cdef inline uint32_t meta_tags_len(const char* meta) noexcept nogil:
    return bytes_load_u32(meta + 68)


cdef inline const char* meta_tags(const char* meta) noexcept nogil:
    return meta + META_FIXED_BYTES


cdef inline const char* meta_headers(const char* meta) noexcept nogil:
    return meta + META_FIXED_BYTES + meta_tags_len(meta)


# Length of the meta that starts here, by its own fields; 0 if the fixed part is not all there.
cdef inline uint64_t meta_size(const char* meta, size_t available_bytes) noexcept nogil:
    if available_bytes < META_FIXED_BYTES:
        return 0
    return meta_encoded_bytes(meta_tags_len(meta), meta_header_len(meta))


cdef inline void meta_tags_reader(const char* meta, ByteReader* reader) noexcept nogil:
    reader_init(reader, meta_tags(meta), meta_tags_len(meta))
