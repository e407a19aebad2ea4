"""Kernel: meta_internal.bin, the head of an object of the file layout.

Normative: docs/format-files.md.
All integers are little-endian.

    FileHead, 128 bytes                                            (docs/format-files.md, "Head")
    | 0        8 | 8      10 | 10   12 | 12        16 | 16       24 | 24      32 | 32         40 |
    | magic u64  | version   | flags   | chunk_bytes  | hash_low    | hash_high  | sequence u64  |
    | 40             48 | 48            56 | 56       64 | 64                72 | 72         80 |
    | expiry_us i64     | created_us i64   | body_len    | body_file_bytes u64  | meta_sum u64  |
    | 80       84 | 84        88 | 88           96 | 96               104 | 104  120 | 120   128 |
    | key_len u32 | meta_len u32 | chunk_count u64 | body_sequence u64    | zero     | sum u64   |

    then the key, zeros up to a multiple of 8, and chunk_count sums of 16 bytes (XXH3-128, low half
    first). sum is XXH3-64 of the whole file, with the field itself as zero.

Sums are seeded with the root's seed, so that files of another root never verify. That of a chunk is
of its strip sums (_strips.pxd); version 1 has no body_sequence and sums chunks as they are.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._xxhash cimport Hash128, XxhashApi

cdef enum:
    FILE_HEAD_BYTES = 128
    FILE_VERSION = 2
    FILE_VERSION_WHOLE = 1              # chunks are summed whole, and there are no strips
    FILE_KEY_BYTES_MAX = 16384          # 8 KiB of key, and what a namespace adds to it
    FILE_META_BYTES_MAX = 65535
    FILE_CHUNK_BYTES = 4194304
    FILE_SUM_BYTES = 16
    FILE_STRIP_BYTES = 16384            # STRIP_BYTES_MIN of _strips.pxd, whatever the chunk has
    FILE_CHUNK_STRIPS = 256
    # Longer bodies have a file with the sums of all strips; shorter ones are read whole.
    FILE_STRIPS_BODY_MIN = 65536
    # A head with more would not fit a read of 32 bits; 64 TiB of body stay far below.
    FILE_CHUNKS_MAX = 0x8000000

cdef enum FileFlags:
    FILE_TAGGED = 1                     # the meta carries tags
    FILE_COMPOSITE = 2                  # the key encodes (namespace, primary, variance)
    FILE_PART = 4                       # part of an object that is larger than a chunk
    FILE_OBJECT = 8                     # head of such an object
    FILE_FLAGS_ALL = 15

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    /* Source: the ASCII letters "EGOBJECT". */
    #define EC_FILE_MAGIC UINT64_C(0x5443454a424f4745)
    /* ext4 ends a file at 16 TiB; half of it leaves every file system room. */
    #define EC_BODY_FILE_BYTES (UINT64_C(8) << 40)
    typedef struct {
        uint64_t magic;
        uint16_t version, flags;
        uint32_t chunk_bytes;
        uint64_t hash_low, hash_high, sequence;
        int64_t expiry_us, created_us;
        uint64_t body_len, body_file_bytes, meta_sum;
        uint32_t key_len, meta_len;
        uint64_t chunk_count, body_sequence, zero[2], sum;
    } ec_file_head;
    _Static_assert(sizeof(ec_file_head) == 128, "FileHead");
    _Static_assert(offsetof(ec_file_head, key_len) == 80, "FileHead.key_len");
    _Static_assert(offsetof(ec_file_head, body_sequence) == 96, "FileHead.body_sequence");
    _Static_assert(offsetof(ec_file_head, sum) == 120, "FileHead.sum");
    """
    ctypedef struct FileHead "ec_file_head":
        uint64_t magic
        uint16_t version
        uint16_t flags
        uint32_t chunk_bytes
        uint64_t hash_low
        uint64_t hash_high
        uint64_t sequence
        int64_t expiry_us
        int64_t created_us
        uint64_t body_len
        uint64_t body_file_bytes
        uint64_t meta_sum
        uint32_t key_len
        uint32_t meta_len
        uint64_t chunk_count
        uint64_t body_sequence
        uint64_t[2] zero
        uint64_t sum
    const uint64_t FILE_MAGIC "EC_FILE_MAGIC"
    const uint64_t BODY_FILE_BYTES "EC_BODY_FILE_BYTES"


cdef inline uint64_t file_chunk_count(uint64_t body_len, uint32_t chunk_bytes) noexcept nogil:
    return (body_len + chunk_bytes - 1) // chunk_bytes


cdef inline uint64_t file_head_bytes(uint64_t key_len, uint64_t chunk_count) noexcept nogil:
    """Size of a whole meta_internal.bin."""
    return FILE_HEAD_BYTES + ((key_len + 7) & ~<uint64_t>7) + chunk_count * FILE_SUM_BYTES


cdef inline char* file_head_key(FileHead* head) noexcept nogil:
    return <char*>head + FILE_HEAD_BYTES


cdef inline char* file_head_sums(FileHead* head) noexcept nogil:
    return <char*>head + FILE_HEAD_BYTES + ((<uint64_t>head.key_len + 7) & ~<uint64_t>7)


cdef inline void file_head_seal(const XxhashApi* api, uint64_t seed, FileHead* head) noexcept nogil:
    """Sum a head whose other fields, key and chunk sums are in place."""
    head.sum = 0
    head.sum = api.bits64(head, file_head_bytes(head.key_len, head.chunk_count), seed)


cdef inline bint file_head_check(const XxhashApi* api, uint64_t seed, FileHead* head,
                                 uint64_t size_bytes) noexcept nogil:
    """Is this a whole head that this release reads? Lengths first: nothing beyond is touched."""
    cdef uint64_t found
    cdef bint holds
    if size_bytes < FILE_HEAD_BYTES or head.magic != FILE_MAGIC or \
            not FILE_VERSION_WHOLE <= head.version <= FILE_VERSION or \
            not 0 < head.key_len <= FILE_KEY_BYTES_MAX or \
            head.meta_len > FILE_META_BYTES_MAX or head.flags & ~<int>FILE_FLAGS_ALL or \
            head.chunk_bytes == 0 or head.body_file_bytes % head.chunk_bytes != 0 or \
            head.body_file_bytes == 0 or head.chunk_count > FILE_CHUNKS_MAX or \
            head.chunk_count != file_chunk_count(head.body_len, head.chunk_bytes) or \
            size_bytes != file_head_bytes(head.key_len, head.chunk_count):
        return False
    found = head.sum
    head.sum = 0
    holds = api.bits64(head, size_bytes, seed) == found
    head.sum = found
    if head.version == FILE_VERSION_WHOLE and head.body_sequence != 0 or \
            head.version == FILE_VERSION and head.chunk_bytes != FILE_CHUNK_BYTES or \
            head.body_sequence > head.sequence:
        return False
    return holds and head.zero[0] == 0 and head.zero[1] == 0


cdef inline bint file_has_strips(const FileHead* head) noexcept nogil:
    """Is there a file with the sums of its strips?"""
    return head.version == FILE_VERSION and head.body_len > FILE_STRIPS_BODY_MIN


cdef inline void file_chunk_sum(const XxhashApi* api, uint64_t seed, const char* data,
                                uint64_t size_bytes, char* out) noexcept nogil:
    cdef Hash128 sum = api.bits128(data, size_bytes, seed)
    memcpy(out, &sum.low, 8)
    memcpy(out + 8, &sum.high, 8)
