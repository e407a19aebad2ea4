"""Objects of the file layout on an I/O engine (see _files.pxd)."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EBADMSG, EEXIST, EIO, ENOMEM, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from edgecache._files_format cimport (
    BODY_FILE_BYTES,
    FILE_CHUNK_BYTES,
    FILE_CHUNK_STRIPS,
    FILE_STRIP_BYTES,
    FILE_STRIPS_BODY_MIN,
    FILE_SUM_BYTES,
    FILE_VERSION,
    FileHead,
    file_chunk_sum,
    file_has_strips,
    file_head_bytes,
    file_head_key,
    file_head_sums,
)
from edgecache._files_tree cimport (
    strip_table_free,
    tree_check_body_size,
    tree_load,
    tree_load_head,
    tree_new_head,
    tree_read,
    tree_read_chunks,
    tree_read_meta,
    tree_read_part,
    tree_strip_sums,
    tree_unlink_object,
    tree_write,
    tree_write_metas,
    tree_write_object,
)
from edgecache._hash cimport KEY_COMPOSITE_SEED
from edgecache._io cimport (
    IO_OPEN_CREATE,
    IO_OPEN_EXCLUSIVE,
    IO_OPEN_READ,
    IO_OPEN_WRITE,
    IO_SYNC,
    IoChannel,
    IoEngine,
    IoFileSystem,
    IoRequest,
)
from edgecache._status cimport Status, raise_for_status
from edgecache._xxhash cimport xxhash_api

import os

cdef extern from *:
    """
    #include <unistd.h>
    extern int syncfs(int fd);      /* declared by glibc only with _GNU_SOURCE */
    """
    int syncfs(int descriptor) nogil


def _kernel_version():
    """(major, minor), or (0, 0) when the name does not begin like that."""
    parts = os.uname().release.split(".")
    return (int(parts[0]), int(parts[1])) if parts[0].isdigit() and parts[1].isdigit() else (0, 0)


SYNCFS_REPORTS = _kernel_version() >= (5, 8)

CORRUPT = -EBADMSG
STRIP_BYTES = FILE_STRIP_BYTES
STRIPS_BODY_MIN = FILE_STRIPS_BODY_MIN
CHUNK_BYTES = FILE_CHUNK_BYTES
KEEP_BODY_FILE_BYTES = BODY_FILE_BYTES

cdef enum:
    SYNC_DEPTH = 64
    LIST_ROOM_BYTES = 65536
    LIST_TRIES = 8
    # Heads of objects that were read by range: 4 MiB at most, none above 1 MiB (256 GiB of body).
    HEADS_KEPT = 64
    HEAD_KEPT_BYTES = 1048576
    HEADS_KEPT_BYTES = 4194304


cdef bytes hash_bytes(uint64_t low, uint64_t high):
    """A key hash as its name on disk reads: high half first, big-endian."""
    cdef unsigned char text[16]
    cdef int index
    for index in range(8):
        text[index] = <unsigned char>(high >> (56 - 8 * index))
        text[8 + index] = <unsigned char>(low >> (56 - 8 * index))
    return PyBytes_FromStringAndSize(<char*>text, 16)


cdef int place_hash(FileHead* head, bytes hash16) except -1:
    head.hash_high = int.from_bytes(hash16[:8], "big")
    head.hash_low = int.from_bytes(hash16[8:], "big")
    return 0


cdef uint64_t body_sequence_of(const FileHead* head) noexcept nogil:
    return head.body_sequence if head.body_sequence else head.sequence


@cython.final
@cython.no_gc
cdef class KnownHead:

    def __dealloc__(self):
        free(self.head)


@cython.final
cdef class ObjectFiles:

    def __cinit__(self, IoEngine engine not None, uint64_t seed):
        self.engine = engine
        self.tree.ops = &engine.ops
        self.tree.engine = engine.state
        self.tree.api = xxhash_api()
        self.tree.seed = seed
        self.heads = {}

    def __dealloc__(self):
        strip_table_free(&self.strips)

    cdef object take_head(self, const FileHead* head):
        return (hash_bytes(head.hash_low, head.hash_high),
                PyBytes_FromStringAndSize(file_head_key(<FileHead*>head), head.key_len),
                head.sequence, head.expiry_us, head.created_us, head.body_len, head.flags)

    def hash_of(self, bytes key not None, bint is_composite):
        """The 16 bytes that name a stored key on disk."""
        cdef const char* data = key
        cdef uint64_t seed = self.tree.seed ^ KEY_COMPOSITE_SEED if is_composite else self.tree.seed
        hash = self.tree.api.bits128(data, <size_t>PyBytes_GET_SIZE(key), seed)
        return hash_bytes(hash.low, hash.high)

    def write_object(self, bytes name not None, bytes hash16 not None, bytes key not None, value,
                     bytes meta not None, uint64_t sequence, int64_t expiry_us, int64_t created_us,
                     uint32_t flags):
        """Write a whole object into the new directory `name`.

        Returns:
            The bytes that its files take on the device, or a negative errno.
        """
        cdef Py_buffer source
        cdef FileHead* head
        cdef const char* directory = name
        cdef const char* meta_data = meta
        cdef const char* key_data = key
        cdef uint32_t key_len = <uint32_t>PyBytes_GET_SIZE(key)
        cdef uint32_t meta_len = <uint32_t>PyBytes_GET_SIZE(meta)
        cdef int64_t result = -ENOMEM
        PyObject_GetBuffer(value, &source, PyBUF_SIMPLE)
        try:
            with nogil:
                head = tree_new_head(&self.tree, key_data, key_len, <uint64_t>source.len, meta_data,
                                     meta_len)
                if head != NULL:
                    head.sequence = head.body_sequence = sequence
                    head.expiry_us = expiry_us
                    head.created_us = created_us
                    head.flags = <unsigned short>flags
            if head != NULL:
                place_hash(head, hash16)
                with nogil:
                    result = tree_write_object(&self.tree, directory, head,
                                               <const char*>source.buf, meta_data)
                    free(head)
        finally:
            PyBuffer_Release(&source)
        return result

    def write_metas(self, bytes name not None, bytes hash16 not None, bytes key not None,
                    uint64_t body_len, bytes sums not None, bytes meta not None, uint64_t sequence,
                    int64_t expiry_us, int64_t created_us, uint32_t flags,
                    uint64_t body_file_bytes):
        """Write head and meta beside a body that is there; the space they take, or -errno.

        Args:
            sums: The sums of all chunks of the body, 16 bytes each.
            body_file_bytes: Where the body goes on in the next file.
        """
        cdef const char* directory = name
        cdef const char* meta_data = meta
        cdef const char* key_data = key
        cdef int64_t result
        cdef FileHead* head = tree_new_head(&self.tree, key_data, <uint32_t>PyBytes_GET_SIZE(key),
                                            body_len, meta_data, <uint32_t>PyBytes_GET_SIZE(meta))
        if head == NULL:
            return -ENOMEM
        if <uint64_t>PyBytes_GET_SIZE(sums) != head.chunk_count * FILE_SUM_BYTES:
            free(head)
            return -EBADMSG
        head.sequence = sequence
        head.expiry_us = expiry_us
        head.created_us = created_us
        head.flags = <unsigned short>flags
        head.body_sequence = sequence
        head.body_file_bytes = body_file_bytes
        place_hash(head, hash16)
        memcpy(file_head_sums(head), PyBytes_AS_STRING(sums), <size_t>PyBytes_GET_SIZE(sums))
        with nogil:
            result = tree_write_metas(&self.tree, directory, head, meta_data)
            free(head)
        return result

    def read_object(self, bytes name not None):
        """Read and verify a whole object.

        Returns:
            (hash, key, sequence, expiry_us, created_us, body size, flags, body, meta), or a
            negative errno: CORRUPT for whatever does not verify.
        """
        cdef FileHead* head = NULL
        cdef const char* directory = name
        cdef char* body_data
        cdef char* meta_data
        cdef int64_t result
        cdef object body, meta
        with nogil:
            result = tree_load_head(&self.tree, directory, &head)
            if result == 0:
                result = tree_check_body_size(&self.tree, directory, head)
        try:
            if result < 0:
                return result
            body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>head.body_len)
            meta = PyBytes_FromStringAndSize(NULL, head.meta_len)
            body_data = PyBytes_AS_STRING(body)
            meta_data = PyBytes_AS_STRING(meta)
            with nogil:
                result = tree_read_meta(&self.tree, directory, head, meta_data)
                if result == 0:
                    result = tree_read_chunks(&self.tree, directory, head, 0, head.chunk_count,
                                              body_data)
            if result < 0:
                return result
            return (*self.take_head(head), body, meta)
        finally:
            free(head)

    def read_range(self, bytes name not None, uint64_t offset, uint64_t length,
                   uint64_t sequence=0):
        """Read and verify a part of a body.

        Args:
            sequence: Of the version that is expected there; its head need not be read again.

        Returns:
            (sequence, key, bytes, sequence of the body), or a negative errno. Clipped at the end of
            the body.

        *Cost*: reads whole chunks where they are wanted whole, else the strips that cover the part;
        of a body of 64 KiB and less all of it.
        """
        cdef const char* directory = name
        cdef char* target
        cdef int64_t result
        cdef object found, looked = self.know_head(name, sequence)
        cdef KnownHead known
        if not isinstance(looked, KnownHead):
            return looked
        known = looked
        offset = min(offset, known.head.body_len)
        length = min(length, known.head.body_len - offset)
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        target = PyBytes_AS_STRING(found)
        if length:
            with nogil:
                result = tree_read_part(&self.tree, directory, known.head, &self.strips, offset,
                                        length, target)
            if result < 0:
                return result
        return known.head.sequence, known.key, found, body_sequence_of(known.head)

    def read_facts(self, bytes name not None, uint64_t sequence=0):
        """As `read_head` and `read_meta` together.

        Args:
            sequence: Of the version that is expected there; then it need not be read again.

        Returns:
            (hash, key, sequence, meta, body size, expiry_us, sequence of the body), or a negative
            errno.
        """
        cdef const char* directory = name
        cdef char* data
        cdef int64_t result
        cdef object looked = self.know_head(name, sequence)
        cdef bytes meta
        cdef KnownHead known
        if not isinstance(looked, KnownHead):
            return looked
        known = looked
        if known.meta is None:
            meta = PyBytes_FromStringAndSize(NULL, known.head.meta_len)
            data = PyBytes_AS_STRING(meta)
            with nogil:
                result = tree_read_meta(&self.tree, directory, known.head, data)
            if result < 0:
                return result
            known.meta = meta
        return (hash_bytes(known.head.hash_low, known.head.hash_high), known.key,
                known.head.sequence, known.meta, known.head.body_len, known.head.expiry_us,
                body_sequence_of(known.head))

    cdef object know_head(self, bytes name, uint64_t sequence):
        """A `KnownHead`, or a negative errno."""
        cdef const char* directory = name
        cdef int64_t result
        cdef KnownHead known = self.heads.get(sequence) if sequence else None
        if known is not None:
            return known
        known = KnownHead.__new__(KnownHead)
        with nogil:
            result = tree_load_head(&self.tree, directory, &known.head)
            if result == 0:
                result = tree_check_body_size(&self.tree, directory, known.head)
        if result < 0:
            return result
        known.key = PyBytes_FromStringAndSize(file_head_key(known.head), known.head.key_len)
        self.keep_head(known)
        return known

    cdef int keep_head(self, KnownHead known) except -1:
        cdef uint64_t size = file_head_bytes(known.head.key_len, known.head.chunk_count)
        size += known.head.meta_len
        if size > HEAD_KEPT_BYTES:
            return 0
        if len(self.heads) >= HEADS_KEPT or self.heads_bytes + size > HEADS_KEPT_BYTES:
            self.heads.clear()
            self.heads_bytes = 0
        self.heads[known.head.sequence] = known
        self.heads_bytes += size
        return 0

    def link_object(self, bytes name not None, bytes target not None, uint64_t expected,
                    bytes meta not None, uint64_t sequence, int64_t expiry_us, uint32_t flags):
        """Make a new directory `target` with the body of an object, and another head and meta.

        Args:
            expected: The sequence that the object must have.

        Returns:
            (space of head and meta, space of the linked files, names of the latter), or a negative
            errno: -EOPNOTSUPP where there are no links, or the object is of version 1; -EAGAIN: it
            is another version. Nothing is left behind then.
        """
        cdef FileHead* head = NULL
        cdef FileHead* other
        cdef const char* directory = name
        cdef const char* there = target
        cdef const char* meta_data = meta
        cdef int64_t result, space
        cdef uint64_t number
        cdef list leaves = []
        with nogil:
            result = tree_load_head(&self.tree, directory, &head)
        try:
            if result < 0:
                return result
            if head.sequence != expected:
                return -EAGAIN
            if head.version != FILE_VERSION:
                return -EOPNOTSUPP
            leaves = [b"body.bin" if number == 0 else b"body.bin.%d" % number for number in range(
                max(1, (head.body_len + head.body_file_bytes - 1) // head.body_file_bytes))]
            if file_has_strips(head):
                leaves.append(b"body.sums")
            other = tree_new_head(&self.tree, file_head_key(head), head.key_len, head.body_len,
                                  meta_data, <uint32_t>PyBytes_GET_SIZE(meta))
            if other == NULL:
                return -ENOMEM
            memcpy(file_head_sums(other), file_head_sums(head), head.chunk_count * FILE_SUM_BYTES)
            other.hash_low, other.hash_high = head.hash_low, head.hash_high
            other.body_file_bytes = head.body_file_bytes
            other.created_us, other.body_sequence = head.created_us, head.body_sequence
            other.sequence, other.expiry_us, other.flags = sequence, expiry_us, <uint16_t>flags
            free(head)
            head = other
            result = self.make_directory(target)
            if result < 0:
                return result
            space = 0
            for leaf in leaves:
                result = self.link(b"%b/%b" % (name, leaf), b"%b/%b" % (target, leaf))
                if result == 0:
                    result = self.space_of(b"%b/%b" % (target, leaf))
                if result < 0:
                    break
                space += result
            if result >= 0:
                with nogil:
                    result = tree_write_metas(&self.tree, there, head, meta_data)
            if result < 0:
                self.unlink_object(target)
                return result
            return result, space, tuple(leaves)
        finally:
            free(head)

    def read_head(self, bytes name not None):
        """Read and verify a head, and the sizes of the body's files.

        Returns:
            (hash, key, sequence, expiry_us, created_us, body size, flags, sequence of the body), or
            a negative errno.
        """
        cdef FileHead* head = NULL
        cdef const char* directory = name
        cdef int64_t result
        with nogil:
            result = tree_load_head(&self.tree, directory, &head)
            if result == 0:
                result = tree_check_body_size(&self.tree, directory, head)
        try:
            return result if result < 0 else (*self.take_head(head), body_sequence_of(head))
        finally:
            free(head)

    def read_meta(self, bytes name not None):
        """Read and verify the meta: (sequence, key, meta), or a negative errno."""
        cdef FileHead* head = NULL
        cdef const char* directory = name
        cdef char* data
        cdef int64_t result
        with nogil:
            result = tree_load_head(&self.tree, directory, &head)
        try:
            if result < 0:
                return result
            meta = PyBytes_FromStringAndSize(NULL, head.meta_len)
            data = PyBytes_AS_STRING(meta)
            with nogil:
                result = tree_read_meta(&self.tree, directory, head, data)
            if result < 0:
                return result
            return (head.sequence, PyBytes_FromStringAndSize(file_head_key(head), head.key_len),
                    meta)
        finally:
            free(head)

    def space_of(self, bytes name not None):
        """The bytes that a file takes on the device, or a negative errno."""
        cdef const char* path = name
        cdef int64_t result
        cdef int file
        with nogil:
            result = file = self.tree.ops.open_file(self.tree.engine, path, IO_OPEN_READ)
            if file >= 0:
                result = self.tree.ops.allocated_bytes(self.tree.engine, <uint32_t>file)
                self.tree.ops.close_file(self.tree.engine, <uint32_t>file)
        return result

    def write_at(self, bytes name not None, uint64_t offset, data):
        """Write bytes of a file, which is made if needed; 0 or a negative errno."""
        cdef Py_buffer source
        cdef const char* path = name
        cdef int64_t result
        cdef int file
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            with nogil:
                result = file = self.tree.ops.open_file(self.tree.engine, path,
                                                        IO_OPEN_WRITE | IO_OPEN_CREATE)
                if file >= 0:
                    result = tree_write(&self.tree, <uint32_t>file, offset,
                                        <const char*>source.buf, <uint64_t>source.len)
                    self.tree.ops.close_file(self.tree.engine, <uint32_t>file)
        finally:
            PyBuffer_Release(&source)
        return result

    def read_at(self, bytes name not None, uint64_t offset, uint64_t length):
        """Read exactly these bytes of a file: bytes, or a negative errno. Nothing is verified."""
        cdef const char* path = name
        cdef int64_t result
        cdef int file
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        cdef char* data = PyBytes_AS_STRING(found)
        with nogil:
            result = file = self.tree.ops.open_file(self.tree.engine, path, IO_OPEN_READ)
            if file >= 0:
                result = tree_read(&self.tree, <uint32_t>file, offset, data, length)
                self.tree.ops.close_file(self.tree.engine, <uint32_t>file)
        return result if result < 0 else found

    def load(self, bytes name not None, uint64_t limit_bytes):
        """Read a whole small file: bytes, or a negative errno."""
        cdef const char* path = name
        cdef char* data = NULL
        cdef int64_t size
        with nogil:
            size = tree_load(&self.tree, path, limit_bytes, &data)
        try:
            return size if size < 0 else PyBytes_FromStringAndSize(data, size)
        finally:
            free(data)

    def save(self, bytes name not None, bytes data not None):
        """Make a new file of these bytes, durable by itself; 0 or a negative errno."""
        cdef const char* path = name
        cdef const char* content = data
        cdef uint64_t size = <uint64_t>PyBytes_GET_SIZE(data)
        cdef int64_t result
        cdef int file
        with nogil:
            result = file = self.tree.ops.open_file(
                self.tree.engine, path, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE)
            if file >= 0:
                result = tree_write(&self.tree, <uint32_t>file, 0, content, size)
                if result == 0:
                    result = self.tree.ops.sync(self.tree.engine, <uint32_t>file)
                self.tree.ops.close_file(self.tree.engine, <uint32_t>file)
        return result

    def strips_of(self, data):
        """The sums of the strips that bytes at a strip's begin have, 8 bytes each."""
        cdef Py_buffer source
        cdef uint64_t[FILE_CHUNK_STRIPS] sums
        cdef uint32_t count
        cdef uint64_t start
        cdef list found = []
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            for start in range(0, <uint64_t>source.len, FILE_CHUNK_BYTES):
                with nogil:
                    count = tree_strip_sums(&self.tree, <const char*>source.buf + start,
                                            min(<uint64_t>FILE_CHUNK_BYTES,
                                                <uint64_t>source.len - start), sums)
                found.append(PyBytes_FromStringAndSize(<char*>sums, <Py_ssize_t>count * 8))
        finally:
            PyBuffer_Release(&source)
        return b"".join(found)

    def sum_of(self, data):
        """The 16 bytes that verify these: a file, or the sums of the strips of a chunk."""
        cdef Py_buffer source
        cdef char out[FILE_SUM_BYTES]
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            with nogil:
                file_chunk_sum(self.tree.api, self.tree.seed, <const char*>source.buf,
                               <uint64_t>source.len, out)
        finally:
            PyBuffer_Release(&source)
        return PyBytes_FromStringAndSize(out, FILE_SUM_BYTES)

    # Names. All return 0 or a negative errno.

    def unlink(self, bytes name not None):
        """Remove a file or an empty directory."""
        cdef const char* path = name
        cdef int result
        with nogil:
            result = self.tree.ops.unlink(self.tree.engine, path)
        return result

    def unlink_object(self, bytes name not None):
        """Remove an object directory with its files."""
        cdef const char* path = name
        cdef int result
        with nogil:
            result = tree_unlink_object(&self.tree, path)
        return result

    def rename(self, bytes source not None, bytes target not None):
        """Move a file or directory; a file replaces, a directory needs a free or empty target."""
        cdef const char* first = source
        cdef const char* second = target
        cdef int result
        with nogil:
            result = self.tree.ops.rename(self.tree.engine, first, second)
        return result

    def link(self, bytes source not None, bytes target not None):
        """Give a file another name."""
        cdef const char* first = source
        cdef const char* second = target
        cdef int result
        with nogil:
            result = self.tree.ops.link(self.tree.engine, first, second)
        return result

    def exchange(self, bytes source not None, bytes target not None):
        """Swap two names in one step."""
        cdef const char* first = source
        cdef const char* second = target
        cdef int result
        with nogil:
            result = self.tree.ops.exchange(self.tree.engine, first, second)
        return result

    def make_directory(self, bytes name not None):
        """Make a directory: 1; 0: it was there; or a negative errno."""
        cdef const char* path = name
        cdef int result
        with nogil:
            result = self.tree.ops.make_directory(self.tree.engine, path)
        return 1 if result == 0 else (0 if result == -EEXIST else result)

    def sync_directory(self, bytes name not None):
        """Make the names in a directory durable; b"" is the root."""
        cdef const char* path = name
        cdef int result
        with nogil:
            result = self.tree.ops.sync_directory(self.tree.engine, path)
        return result

    def list_directory(self, bytes name not None):
        """The names in a directory, unsorted: a list, or a negative errno."""
        cdef const char* path = name
        cdef int64_t needed = LIST_ROOM_BYTES, room
        cdef char* out = NULL
        cdef int _try
        try:
            for _try in range(LIST_TRIES):
                room = needed
                free(out)
                out = <char*>malloc(<size_t>room)
                if out == NULL:
                    return -ENOMEM
                with nogil:
                    needed = self.tree.ops.list_directory(self.tree.engine, path, out,
                                                          <uint64_t>room)
                if needed < 0:
                    return needed
                if needed <= room:
                    names = PyBytes_FromStringAndSize(out, needed).split(b"\0")
                    names.pop()
                    return names
            return -EIO         # it grew faster than it could be listed
        finally:
            free(out)


@cython.final
cdef class FileSyncer:

    def __cinit__(self, IoEngine engine not None):
        cdef int result
        self.engine = engine
        self.channel = NULL
        # Their state begins with an IoFileSystem (_io.pxd).
        self.has_syncfs = engine.name in ("uring", "threads") and SYNCFS_REPORTS
        self.tree.ops = &engine.ops
        self.tree.engine = engine.state
        result = engine.ops.channel_open(engine.state, SYNC_DEPTH, False, &self.channel)
        if result < 0:
            raise_for_status(Status.STATUS_IO_ERROR, "cannot open an I/O channel", -result)

    def sync(self, list names not None):
        """Make the bytes of files durable; per name 0 or a negative errno.

        *Cost*: up to 64 requests in flight, so that the file system can join them.
        """
        cdef list outcomes = []
        cdef Py_ssize_t start
        if self.channel == NULL:
            return [-EIO] * len(names)
        for start in range(0, len(names), SYNC_DEPTH):
            outcomes += self._sync_some(names[start:start + SYNC_DEPTH])
        return outcomes

    def _sync_some(self, list names):
        cdef IoRequest requests[SYNC_DEPTH]
        cdef IoRequest* waiting[SYNC_DEPTH]
        cdef IoRequest* done[SYNC_DEPTH]
        cdef int files[SYNC_DEPTH]
        cdef const char* path
        cdef uint32_t count = <uint32_t>len(names), index, sent = 0, back = 0
        cdef int taken = 0
        for index in range(count):
            path = names[index]
            memset(&requests[index], 0, sizeof(IoRequest))
            with nogil:
                files[index] = self.tree.ops.open_file(self.tree.engine, path, IO_OPEN_WRITE)
            requests[index].operation = IO_SYNC
            requests[index].buffer_index = -1
            requests[index].result = files[index] if files[index] < 0 else -EIO
            if files[index] >= 0:
                requests[index].file = <uint32_t>files[index]
                waiting[sent] = &requests[index]
                sent += 1
        with nogil:
            index = 0
            while index < sent or back > 0:
                if index < sent:
                    taken = self.tree.ops.submit(self.channel, &waiting[index], sent - index)
                    if taken < 0:
                        sent = index        # those not taken keep -EIO
                    else:
                        index += <uint32_t>taken
                        back += <uint32_t>taken
                if back > 0:
                    taken = self.tree.ops.reap(self.channel, done, SYNC_DEPTH, 1, -1)
                    if taken < 0:
                        break
                    back -= <uint32_t>taken
            if back > 0:
                # A broken channel: closing it waits, so that nothing here is in use any more.
                self.tree.ops.channel_close(self.channel)
                self.channel = NULL
                for index in range(count):
                    requests[index].result = -EIO
            for index in range(count):
                if files[index] >= 0:
                    self.tree.ops.close_file(self.tree.engine, <uint32_t>files[index])
        return [requests[index].result for index in range(count)]

    def sync_all(self):
        """Make everything below the root durable; 0 or a negative errno.

        -EOPNOTSUPP: not with this engine, or not on a kernel that would keep failures to itself.
        *Cost*: one system call, whatever there is; writes what others have written to the same
        file system, too. Source: syncfs(2), which reports failed writes since Linux 5.8.
        """
        cdef IoFileSystem* fs
        cdef int result
        if not self.has_syncfs:
            return -EOPNOTSUPP
        fs = <IoFileSystem*>self.engine.state
        with nogil:
            result = 0 if syncfs(fs.root) == 0 else -errno
        return result

    def close(self):
        """Give the channel back. Idempotent."""
        cdef IoChannel* channel = self.channel
        self.channel = NULL
        if channel != NULL:
            with nogil:
                self.tree.ops.channel_close(channel)

    def __dealloc__(self):
        if self.channel != NULL:
            with nogil:
                self.tree.ops.channel_close(self.channel)
