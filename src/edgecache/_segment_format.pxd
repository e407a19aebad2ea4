"""Kernel: the bytes of the region log. Normative text and drawings: docs/format.md.

A data file holds regions of equal size. A region is a run of blocks from its first byte and, once
sealed, a footer in its last 4096 bytes; erasing it leaves a footer without blocks there. A block is
what one flush wrote: header, records, mini-index, padding, and a copy of the header as its last 64
bytes. All integers are little-endian.

    RecordHeader, 64 bytes                                               (docs/format.md, "Record")
    | 0     2 | 2      3 | 3    4 | 4       6 | 6        8 | 8                    24 |
    | magic   | version  | flags  | key_len   | meta_len   | key hash, 128 bits      |
    | 24        32 | 32        40 | 40         48 | 48     52 | 52         56 | 56         64 |
    | sequence u64 | body_len u64 | expiry_us i64 | chunk u32 | header_sum u32| payload_sum  |

    BlockHeader, 64 bytes                                                 (docs/format.md, "Block")
    | 0     4 | 4       6 | 6     8 | 8        12 | 12         16 | 16        24 | 24          32 |
    | magic   | version   | log     | region u32  | ticket u32    | generation   | sequence_max   |
    | 32          36 | 36           40 | 40           44 | 44         48 | 48      56 | 56      64 |
    | block_bytes    | index_offset    | record_count    | synced_ticket | index_sum  | header_sum |

    IndexEntry, 32 bytes                                              (docs/format.md, "Mini-index")
    | 0             16 | 16                           24 | 24            28 | 28           32 |
    | key hash         | flags u8 << 56 | sequence 56    | offset_units    | size_units     |

    Tickets count blocks of the whole log, modulo 2^32. All blocks up to synced_ticket were durable
    when this one was built: what does not verify there rotted; in a later one it may be torn.

Sums are XXH3-64 seeded with the root's seed, so that bytes of another root never verify.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._strips cimport STRIPS_MAX, strip_count, strips_sum
from edgecache._xxhash cimport Hash128, XxhashApi

cdef enum:
    UNIT_BYTES = 64
    UNIT_SHIFT = 6
    PAGE_BYTES = 4096
    RECORD_HEADER_BYTES = 64
    BLOCK_HEADER_BYTES = 64
    INDEX_ENTRY_BYTES = 32
    FOOTER_BYTES = 4096
    FOOTER_BLOCKS_MAX = 251         # 4096 = 64 of header + 251 x 16, and 16 left over, zeroed
    RECORD_MAGIC = 0xEC5D
    RECORD_VERSION = 1
    BLOCK_MAGIC = 0x4B424345        # "ECBK"
    FOOTER_MAGIC = 0x4F464345       # "ECFO"
    FORMAT_VERSION = 1
    # Bodies of this size and more start at a multiple of 4096, so that O_DIRECT can place them.
    BODY_ALIGN_MIN_BYTES = 65536

cdef enum RecordFlags:
    RECORD_DELETE = 1               # a tombstone; expiry_us holds its birth generation
    RECORD_VOID = 2                 # filler or a copy that lost a race; not in the mini-index
    RECORD_OVERWRITES = 4           # an older version of the key was on disk when this was written
    RECORD_TAGGED = 8               # the meta carries tags
    RECORD_COMPOSITE = 16           # the key encodes (namespace, primary, variance)
    RECORD_STRIPS = 32              # payload_sum covers the strip sums of the body, not its bytes

cdef extern from *:
    """
    #include <stddef.h>
    typedef struct {
        uint16_t magic; uint8_t version; uint8_t flags; uint16_t key_len; uint16_t meta_len;
        uint64_t hash_low; uint64_t hash_high; uint64_t sequence; uint64_t body_len;
        int64_t expiry_us; uint32_t chunk; uint32_t header_sum; uint64_t payload_sum;
    } ec_record_header;
    _Static_assert(sizeof(ec_record_header) == 64, "record header");
    _Static_assert(offsetof(ec_record_header, sequence) == 24, "record header: sequence");
    _Static_assert(offsetof(ec_record_header, header_sum) == 52, "record header: header_sum");

    typedef struct {
        uint32_t magic; uint16_t version; uint16_t log; uint32_t region; uint32_t ticket;
        uint64_t generation; uint64_t sequence_max; uint32_t block_bytes; uint32_t index_offset;
        uint32_t record_count; uint32_t synced_ticket; uint64_t index_sum; uint64_t header_sum;
    } ec_block_header;
    _Static_assert(sizeof(ec_block_header) == 64, "block header");
    _Static_assert(offsetof(ec_block_header, header_sum) == 56, "block header: header_sum");

    typedef struct {
        uint64_t hash_low; uint64_t hash_high; uint64_t flags_sequence;
        uint32_t offset_units; uint32_t size_units;
    } ec_index_entry;
    _Static_assert(sizeof(ec_index_entry) == 32, "mini-index entry");

    typedef struct {
        uint32_t offset_bytes, block_bytes, index_offset, record_count;
    } ec_footer_block;
    typedef struct {
        uint32_t magic; uint16_t version; uint16_t log; uint32_t region; uint32_t block_count;
        uint64_t generation; uint64_t record_count; uint64_t zero[3]; uint64_t sum;
        ec_footer_block blocks[251]; uint8_t tail[16];
    } ec_footer;
    _Static_assert(sizeof(ec_footer) == 4096, "footer");
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the on-disk structures are little-endian; this host is not"
    #endif
    """
    ctypedef struct RecordHeader "ec_record_header":
        uint16_t magic
        uint8_t version
        uint8_t flags
        uint16_t key_len
        uint16_t meta_len
        uint64_t hash_low
        uint64_t hash_high
        uint64_t sequence
        uint64_t body_len
        int64_t expiry_us
        uint32_t chunk
        uint32_t header_sum
        uint64_t payload_sum

    ctypedef struct BlockHeader "ec_block_header":
        uint32_t magic
        uint16_t version
        uint16_t log
        uint32_t region
        uint32_t ticket
        uint64_t generation
        uint64_t sequence_max
        uint32_t block_bytes
        uint32_t index_offset
        uint32_t record_count
        uint32_t synced_ticket
        uint64_t index_sum
        uint64_t header_sum

    ctypedef struct IndexEntry "ec_index_entry":
        uint64_t hash_low
        uint64_t hash_high
        uint64_t flags_sequence
        uint32_t offset_units
        uint32_t size_units

    ctypedef struct FooterBlock "ec_footer_block":
        uint32_t offset_bytes
        uint32_t block_bytes
        uint32_t index_offset
        uint32_t record_count

    ctypedef struct Footer "ec_footer":
        uint32_t magic
        uint16_t version
        uint16_t log
        uint32_t region
        uint32_t block_count
        uint64_t generation
        uint64_t record_count
        uint64_t zero[3]
        uint64_t sum
        FooterBlock blocks[251]
        uint8_t tail[16]


cdef inline uint64_t align_up(uint64_t value, uint64_t grain) noexcept nogil:
    """`grain` is a power of two."""
    return (value + grain - 1) & ~(grain - 1)


cdef inline uint64_t record_bytes(uint64_t key_len, uint64_t meta_len,
                                  uint64_t body_len) noexcept nogil:
    """Bytes of a record on disk, padding to the next unit included."""
    return align_up(RECORD_HEADER_BYTES + key_len + meta_len + body_len, UNIT_BYTES)


cdef inline char* record_key(RecordHeader* record) noexcept nogil:
    return <char*>record + RECORD_HEADER_BYTES


cdef inline char* record_meta(RecordHeader* record) noexcept nogil:
    return record_key(record) + record.key_len


cdef inline char* record_body(RecordHeader* record) noexcept nogil:
    return record_meta(record) + record.meta_len


cdef inline uint64_t record_total_bytes(const RecordHeader* record) noexcept nogil:
    return record_bytes(record.key_len, record.meta_len, record.body_len)


cdef inline uint64_t record_strips_sum(const XxhashApi* api, uint64_t seed, RecordHeader* record,
                                       const uint64_t* sums) noexcept nogil:
    """The payload sum of a record of strips: of key and meta, then of the sums of the body."""
    cdef uint64_t head = api.bits64(record_key(record),
                                    <uint64_t>record.key_len + record.meta_len, seed)
    return api.bits64(sums, <uint64_t>strip_count(record.body_len) * 8, head)


cdef inline uint64_t record_payload_sum(const XxhashApi* api, uint64_t seed,
                                        RecordHeader* record) noexcept nogil:
    cdef uint64_t[STRIPS_MAX] sums
    if record.flags & RECORD_STRIPS:
        strips_sum(api, record_body(record), record.body_len, sums)
        return record_strips_sum(api, seed, record, sums)
    return api.bits64(record_key(record),
                      <uint64_t>record.key_len + record.meta_len + record.body_len, seed)


cdef inline uint32_t record_header_sum(const XxhashApi* api, uint64_t seed, uint64_t generation,
                                       const RecordHeader* record) noexcept nogil:
    # With the region's generation: where a write was torn, a record that lay there before must not
    # verify in the place of the new one.
    cdef RecordHeader copy = record[0]
    copy.header_sum = 0
    return <uint32_t>api.bits64(&copy, RECORD_HEADER_BYTES, seed ^ generation)


cdef inline bint record_header_valid(const XxhashApi* api, uint64_t seed, uint64_t generation,
                                     const RecordHeader* record) noexcept nogil:
    return record.magic == RECORD_MAGIC and record.version == RECORD_VERSION and \
        record.header_sum == record_header_sum(api, seed, generation, record)


cdef inline void record_void(const XxhashApi* api, uint64_t seed, uint64_t generation,
                             RecordHeader* record, uint64_t total_bytes) noexcept nogil:
    """Make `total_bytes` (a multiple of the unit) a filler that a walk steps over."""
    memset(record, 0, RECORD_HEADER_BYTES)
    record.magic = RECORD_MAGIC
    record.version = RECORD_VERSION
    record.flags = RECORD_VOID
    record.body_len = total_bytes - RECORD_HEADER_BYTES
    record.header_sum = record_header_sum(api, seed, generation, record)


cdef inline uint64_t block_header_sum(const XxhashApi* api, uint64_t seed,
                                      const BlockHeader* block) noexcept nogil:
    return api.bits64(block, BLOCK_HEADER_BYTES - 8, seed)


cdef inline bint block_header_valid(const XxhashApi* api, uint64_t seed, const BlockHeader* block,
                                    uint32_t region, uint64_t region_bytes) noexcept nogil:
    """Sum, then every length: what passes can be followed without leaving the region."""
    if block.magic != BLOCK_MAGIC or block.version != FORMAT_VERSION or block.region != region:
        return False
    if block.header_sum != block_header_sum(api, seed, block):
        return False
    if block.block_bytes < PAGE_BYTES or block.block_bytes % PAGE_BYTES or \
            block.block_bytes > region_bytes:
        return False
    return block.index_offset >= BLOCK_HEADER_BYTES and block.index_offset % UNIT_BYTES == 0 and \
        <uint64_t>block.index_offset + <uint64_t>block.record_count * INDEX_ENTRY_BYTES \
        + BLOCK_HEADER_BYTES <= block.block_bytes


cdef inline bint footer_valid(const XxhashApi* api, uint64_t seed, Footer* footer,
                              uint32_t region) noexcept nogil:
    cdef uint64_t found = footer.sum, expected
    if footer.magic != FOOTER_MAGIC or footer.version != FORMAT_VERSION or \
            footer.region != region or footer.block_count > FOOTER_BLOCKS_MAX:
        return False
    footer.sum = 0
    expected = api.bits64(footer, FOOTER_BYTES, seed)
    footer.sum = found
    return found == expected


cdef inline uint8_t entry_flags(const IndexEntry* entry) noexcept nogil:
    return <uint8_t>(entry.flags_sequence >> 56)


cdef inline uint64_t entry_sequence(const IndexEntry* entry) noexcept nogil:
    return entry.flags_sequence & <uint64_t>0x00FFFFFFFFFFFFFF


cdef inline uint32_t block_fill_index(const XxhashApi* api, char* block, uint32_t start,
                                      uint32_t end, uint32_t region_offset,
                                      uint64_t* sequence_max) noexcept nogil:
    """Walk the records in [start, end) of a block in memory and write the mini-index at `end`.

    The caller reserved the room. Returns the number of entries.
    """
    cdef RecordHeader* record
    cdef IndexEntry* entry = <IndexEntry*>(block + end)
    cdef uint32_t position = start, count = 0
    cdef uint64_t total
    sequence_max[0] = 0
    while position < end:
        record = <RecordHeader*>(block + position)
        total = record_total_bytes(record)
        if not record.flags & RECORD_VOID:
            entry.hash_low = record.hash_low
            entry.hash_high = record.hash_high
            entry.flags_sequence = record.sequence | <uint64_t>record.flags << 56
            entry.offset_units = (region_offset + position) >> UNIT_SHIFT
            entry.size_units = <uint32_t>(total >> UNIT_SHIFT)
            if record.sequence > sequence_max[0]:
                sequence_max[0] = record.sequence
            entry += 1
            count += 1
        position += <uint32_t>total
    return count
