"""Test hooks of the hashes, checksums, byte cursors, statuses and metas. Not part of the API."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect,
    munmap)

from edgecache._bytes cimport (
    ByteReader, ByteWriter, bytes_store_u64, reader_i64, reader_init, reader_range,
    reader_remaining, reader_u8, reader_u16, reader_u32, reader_u64, writer_bytes, writer_i64,
    writer_init, writer_remaining, writer_u8, writer_u16, writer_u32, writer_u64, writer_zeros)
from edgecache._checksum cimport CHECKSUM_SEED, checksum_pair, checksum_range
from edgecache._hash cimport (
    KEY_COMPOSITE_SEED, hash_equal, key_encode_composite, key_encoded_bytes, key_hash_encoded,
    key_hash_plain)
from edgecache._meta cimport (
    META_CHECKSUM_OFFSET, META_FIXED_BYTES, MetaFixed, meta_created_us, meta_decode, meta_flags,
    meta_fresh_until_us, meta_has_tag, meta_header_len, meta_headers, meta_set_fresh_until,
    meta_size, meta_stale_if_error_s, meta_stale_while_revalidate_s, meta_status, meta_tag_count,
    meta_updated_us, meta_variance, meta_watermark)
from edgecache._status cimport Status, raise_for_meta, raise_for_status
from edgecache._xxhash cimport Hash128, XxhashApi, xxhash_api, xxhash_is_native, xxhash_python_api

CHECKSUM_SEED_VALUE = CHECKSUM_SEED
KEY_COMPOSITE_SEED_VALUE = KEY_COMPOSITE_SEED
IS_NATIVE = bool(xxhash_is_native())

cdef enum:
    PAGE_BYTES = 65536                  # a multiple of every page size there is


cdef const XxhashApi* api_of(str backend) except NULL:
    return xxhash_api() if backend == "active" else xxhash_python_api()


cdef object number_of(Hash128 hash):
    return (<object>hash.high << 64) | hash.low


def hash64(bytes data, uint64_t seed, str backend="active"):
    cdef const XxhashApi* api = api_of(backend)
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef uint64_t hash
    with nogil:
        hash = api.bits64(start, size, seed)
    return hash


def hash128(bytes data, uint64_t seed, str backend="active"):
    cdef const XxhashApi* api = api_of(backend)
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef Hash128 hash
    with nogil:
        hash = api.bits128(start, size, seed)
    return number_of(hash)


def hash_prefixes(bytes data, uint64_t seed, str backend="active"):
    """XXH3 64 and 128 of every prefix of `data`, the empty one included."""
    cdef const XxhashApi* api = api_of(backend)
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef size_t size
    return [(api.bits64(start, size, seed), number_of(api.bits128(start, size, seed)))
            for size in range(<size_t>PyBytes_GET_SIZE(data) + 1)]


def stream64(list parts, uint64_t seed, str backend="active"):
    """Digest after every part, of one stream over all of them."""
    cdef const XxhashApi* api = api_of(backend)
    cdef void* stream = api.stream_create()
    cdef bytes part
    digests = []
    if stream == NULL or api.stream_reset64(stream, seed) != 0:
        raise MemoryError
    for part in parts:
        if api.stream_update64(stream, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part)) != 0:
            raise MemoryError
        digests.append(api.stream_digest64(stream))
    api.stream_free(stream)
    return digests


def stream128(list parts, uint64_t seed, str backend="active"):
    """Digest after every part, of one stream over all of them."""
    cdef const XxhashApi* api = api_of(backend)
    cdef void* stream = api.stream_create()
    cdef bytes part
    digests = []
    if stream == NULL or api.stream_reset128(stream, seed) != 0:
        raise MemoryError
    for part in parts:
        if api.stream_update128(stream, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part)) != 0:
            raise MemoryError
        digests.append(number_of(api.stream_digest128(stream)))
    api.stream_free(stream)
    return digests


def hash_in_loop(bytes data, uint64_t seed, uint64_t count, str backend="active"):
    """Hash `count` times without the GIL (the native backend); for timing and for threads."""
    cdef const XxhashApi* api = api_of(backend)
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef uint64_t total = 0, _round
    with nogil:
        for _round in range(count):
            total ^= api.bits128(start, size, seed ^ total).low
    return total


def key_encode(bytes namespace, bytes primary, bytes variance, size_t capacity_bytes):
    """The composite form, or None where it does not fit into the capacity."""
    cdef bytes target = PyBytes_FromStringAndSize(NULL, capacity_bytes)
    cdef size_t size = key_encode_composite(
        PyBytes_AS_STRING(target), capacity_bytes, PyBytes_AS_STRING(namespace), len(namespace),
        PyBytes_AS_STRING(primary), len(primary), PyBytes_AS_STRING(variance), len(variance))
    return target[:size] if size else None


def key_bytes(namespace_len, primary_len, variance_len):
    return key_encoded_bytes(namespace_len, primary_len, variance_len)


def key_hash(bytes namespace, bytes primary, bytes variance, uint64_t seed):
    cdef bytes encoded
    if not namespace and not variance:
        return number_of(key_hash_plain(xxhash_api(), PyBytes_AS_STRING(primary), len(primary),
                                        seed))
    encoded = key_encode(namespace, primary, variance,
                         key_encoded_bytes(len(namespace), len(primary), len(variance)))
    return number_of(key_hash_encoded(xxhash_api(), PyBytes_AS_STRING(encoded), len(encoded),
                                      seed))


def hashes_equal(left, right):
    cdef Hash128 first, second
    first.low = left & 0xFFFFFFFFFFFFFFFF
    first.high = left >> 64
    second.low = right & 0xFFFFFFFFFFFFFFFF
    second.high = right >> 64
    return bool(hash_equal(&first, &second))


def sum_range(bytes data):
    return checksum_range(xxhash_api(), PyBytes_AS_STRING(data), len(data))


def sum_pair(bytes first, bytes second):
    return checksum_pair(xxhash_api(), PyBytes_AS_STRING(first), len(first),
                         PyBytes_AS_STRING(second), len(second))


cdef class Guarded:
    """Bytes that end, to the byte, where an inaccessible page begins: reading on is a SIGSEGV."""

    cdef char* mapping
    cdef size_t mapping_bytes
    cdef char* start
    cdef size_t size

    def __cinit__(self, bytes data):
        cdef void* mapping
        self.size = len(data)
        self.mapping_bytes = (self.size + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES + PAGE_BYTES
        mapping = mmap(NULL, self.mapping_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if mapping == MAP_FAILED:
            raise MemoryError
        self.mapping = <char*>mapping
        self.start = self.mapping + self.mapping_bytes - PAGE_BYTES - self.size
        memcpy(self.start, PyBytes_AS_STRING(data), self.size)
        if mprotect(self.start + self.size, PAGE_BYTES, PROT_NONE) != 0:
            raise OSError("mprotect failed")

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapping_bytes)

    def tobytes(self):
        return self.start[:self.size]


def read_fields(bytes data, list operations):
    """Run a reader: "u8" ... "i64" or a number of bytes. Returns (values, offset, failed)."""
    cdef Guarded guarded = Guarded(data)
    cdef ByteReader reader
    cdef const char* range_start
    cdef size_t range_size
    values = []
    reader_init(&reader, guarded.start, guarded.size)
    for operation in operations:
        if operation == "u8":
            values.append(reader_u8(&reader))
        elif operation == "u16":
            values.append(reader_u16(&reader))
        elif operation == "u32":
            values.append(reader_u32(&reader))
        elif operation == "u64":
            values.append(reader_u64(&reader))
        elif operation == "i64":
            values.append(reader_i64(&reader))
        else:
            range_size = operation
            range_start = reader_range(&reader, range_size)
            values.append(None if range_start == NULL else range_start[:range_size])
    assert reader.offset + reader_remaining(&reader) == guarded.size
    return values, reader.offset, bool(reader.failed)


def write_fields(size_t capacity_bytes, list operations):
    """Run a writer: ("u8", value) ... ("bytes", data), ("zeros", count).

    Returns (bytes, offset, failed); what was not written is 0xAA.
    """
    cdef Guarded guarded = Guarded(b"\xaa" * capacity_bytes)
    cdef ByteWriter writer
    cdef bytes data
    writer_init(&writer, guarded.start, guarded.size)
    for name, value in operations:
        if name == "u8":
            writer_u8(&writer, value)
        elif name == "u16":
            writer_u16(&writer, value)
        elif name == "u32":
            writer_u32(&writer, value)
        elif name == "u64":
            writer_u64(&writer, value)
        elif name == "i64":
            writer_i64(&writer, value)
        elif name == "zeros":
            writer_zeros(&writer, value)
        else:
            data = value
            writer_bytes(&writer, PyBytes_AS_STRING(data) if data else NULL, len(data))
    assert writer.offset + writer_remaining(&writer) == guarded.size
    return guarded.tobytes(), writer.offset, bool(writer.failed)


def raise_status(int status, detail=None, int errno_code=0):
    return raise_for_status(<Status>status, detail, errno_code)


def raise_meta_status(int status, facts=None):
    return raise_for_meta(<Status>status, facts)


def meta_decode_status(bytes meta):
    """The Status of meta_decode alone, with nothing readable after the meta."""
    cdef Guarded guarded = Guarded(meta)
    cdef MetaFixed fixed
    return <int>meta_decode(guarded.start, guarded.size, &fixed)


def meta_contains(bytes meta, bytes tag):
    """meta_has_tag on bytes that need not be a valid meta."""
    cdef Guarded guarded = Guarded(meta)
    return bool(meta_has_tag(guarded.start, guarded.size, PyBytes_AS_STRING(tag), len(tag)))


def meta_refreshed(bytes meta, int64_t fresh_until_us):
    """(Status, bytes) of meta_set_fresh_until."""
    cdef Guarded guarded = Guarded(meta)
    cdef Status status = meta_set_fresh_until(guarded.start, guarded.size, fresh_until_us)
    return <int>status, guarded.tobytes()


def meta_sealed(bytes meta):
    """`meta` with the checksum that fits its bytes, whatever they are; 80 bytes or more."""
    cdef Guarded guarded = Guarded(meta)
    assert guarded.size >= META_FIXED_BYTES
    bytes_store_u64(guarded.start + META_CHECKSUM_OFFSET, checksum_pair(
        xxhash_api(), guarded.start, META_CHECKSUM_OFFSET, guarded.start + META_FIXED_BYTES,
        guarded.size - META_FIXED_BYTES))
    return guarded.tobytes()


def meta_own_size(bytes meta):
    cdef Guarded guarded = Guarded(meta)
    return meta_size(guarded.start, guarded.size)


def meta_fields(bytes meta):
    """What the accessors say of a valid meta."""
    cdef Guarded guarded = Guarded(meta)
    cdef const char* start = guarded.start
    return {
        "created": meta_created_us(start),
        "updated": meta_updated_us(start),
        "fresh_until": meta_fresh_until_us(start),
        "stale_while_revalidate": meta_stale_while_revalidate_s(start),
        "stale_if_error": meta_stale_if_error_s(start),
        "watermark": meta_watermark(start),
        "flags": meta_flags(start),
        "status": meta_status(start),
        "variance": meta_variance(start)[:16],
        "tag_count": meta_tag_count(start),
        "headers": meta_headers(start)[:meta_header_len(start)],
    }
