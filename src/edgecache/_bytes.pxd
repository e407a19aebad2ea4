"""Kernel: little-endian loads and stores, and cursors that cannot leave their range.

Loads and stores go through memcpy, so any alignment is fine; on a big-endian host they swap.

Invariants of both cursors:

1. offset <= size, always; only [base, base + size) is ever touched.
2. Once failed is set it stays set, and offset no longer moves.
3. A read that does not fit sets failed and returns 0 (NULL for a range); a write that does not fit
   sets failed and writes nothing. So a decoder reads all fields and looks at failed once.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define ec_little16(x) __builtin_bswap16(x)
    #define ec_little32(x) __builtin_bswap32(x)
    #define ec_little64(x) __builtin_bswap64(x)
    #elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define ec_little16(x) (x)
    #define ec_little32(x) (x)
    #define ec_little64(x) (x)
    #else
    #error "edgecache knows little- and big-endian hosts only"
    #endif
    """
    # Host order to little-endian, and the same back.
    uint16_t ec_little16(uint16_t value) noexcept nogil
    uint32_t ec_little32(uint32_t value) noexcept nogil
    uint64_t ec_little64(uint64_t value) noexcept nogil


cdef inline uint16_t bytes_load_u16(const void* source) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, source, 2)
    return ec_little16(value)


cdef inline uint32_t bytes_load_u32(const void* source) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, source, 4)
    return ec_little32(value)


cdef inline uint64_t bytes_load_u64(const void* source) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, source, 8)
    return ec_little64(value)


cdef inline int64_t bytes_load_i64(const void* source) noexcept nogil:
    return <int64_t>bytes_load_u64(source)


cdef inline void bytes_store_u16(void* target, uint16_t value) noexcept nogil:
    value = ec_little16(value)
    memcpy(target, &value, 2)


cdef inline void bytes_store_u32(void* target, uint32_t value) noexcept nogil:
    value = ec_little32(value)
    memcpy(target, &value, 4)


cdef inline void bytes_store_u64(void* target, uint64_t value) noexcept nogil:
    value = ec_little64(value)
    memcpy(target, &value, 8)


cdef inline void bytes_store_i64(void* target, int64_t value) noexcept nogil:
    bytes_store_u64(target, <uint64_t>value)


cdef struct ByteReader:
    const char* base
    size_t size
    size_t offset
    bint failed


cdef inline void reader_init(ByteReader* reader, const void* base, size_t size) noexcept nogil:
    reader.base = <const char*>base
    reader.size = size
    reader.offset = 0
    reader.failed = False


cdef inline size_t reader_remaining(const ByteReader* reader) noexcept nogil:
    return reader.size - reader.offset


# The next `size` bytes in place, valid as long as the underlying range; NULL if there are fewer.
cdef inline const char* reader_range(ByteReader* reader, size_t size) noexcept nogil:
    cdef const char* start
    # Compared by subtraction: offset + size could wrap round.
    if reader.failed or size > reader.size - reader.offset:
        reader.failed = True
        return NULL
    start = reader.base + reader.offset
    reader.offset += size
    return start


cdef inline uint8_t reader_u8(ByteReader* reader) noexcept nogil:
    cdef const char* start = reader_range(reader, 1)
    return 0 if reader.failed else (<const uint8_t*>start)[0]


cdef inline uint16_t reader_u16(ByteReader* reader) noexcept nogil:
    cdef const char* start = reader_range(reader, 2)
    return 0 if reader.failed else bytes_load_u16(start)


cdef inline uint32_t reader_u32(ByteReader* reader) noexcept nogil:
    cdef const char* start = reader_range(reader, 4)
    return 0 if reader.failed else bytes_load_u32(start)


cdef inline uint64_t reader_u64(ByteReader* reader) noexcept nogil:
    cdef const char* start = reader_range(reader, 8)
    return 0 if reader.failed else bytes_load_u64(start)


cdef inline int64_t reader_i64(ByteReader* reader) noexcept nogil:
    return <int64_t>reader_u64(reader)


cdef struct ByteWriter:
    char* base
    size_t size
    size_t offset
    bint failed


cdef inline void writer_init(ByteWriter* writer, void* base, size_t size) noexcept nogil:
    writer.base = <char*>base
    writer.size = size
    writer.offset = 0
    writer.failed = False


cdef inline size_t writer_remaining(const ByteWriter* writer) noexcept nogil:
    return writer.size - writer.offset


# Room for the next `size` bytes, to be filled by the caller; NULL if there is less.
cdef inline char* writer_range(ByteWriter* writer, size_t size) noexcept nogil:
    cdef char* start
    if writer.failed or size > writer.size - writer.offset:
        writer.failed = True
        return NULL
    start = writer.base + writer.offset
    writer.offset += size
    return start


cdef inline void writer_u8(ByteWriter* writer, uint8_t value) noexcept nogil:
    cdef char* start = writer_range(writer, 1)
    if not writer.failed:
        (<uint8_t*>start)[0] = value


cdef inline void writer_u16(ByteWriter* writer, uint16_t value) noexcept nogil:
    cdef char* start = writer_range(writer, 2)
    if not writer.failed:
        bytes_store_u16(start, value)


cdef inline void writer_u32(ByteWriter* writer, uint32_t value) noexcept nogil:
    cdef char* start = writer_range(writer, 4)
    if not writer.failed:
        bytes_store_u32(start, value)


cdef inline void writer_u64(ByteWriter* writer, uint64_t value) noexcept nogil:
    cdef char* start = writer_range(writer, 8)
    if not writer.failed:
        bytes_store_u64(start, value)


cdef inline void writer_i64(ByteWriter* writer, int64_t value) noexcept nogil:
    writer_u64(writer, <uint64_t>value)


cdef inline void writer_bytes(ByteWriter* writer, const void* source, size_t size) noexcept nogil:
    cdef char* start = writer_range(writer, size)
    # memcpy from NULL is undefined even for 0 bytes, and an empty range may be NULL.
    if size > 0 and not writer.failed:
        memcpy(start, source, size)


cdef inline void writer_zeros(ByteWriter* writer, size_t size) noexcept nogil:
    cdef char* start = writer_range(writer, size)
    if size > 0 and not writer.failed:
        memset(start, 0, size)
