"""Writing, reading and verifying the files of objects (see _files_tree.pxd)."""

from libc.errno cimport EBADMSG, ENAMETOOLONG, ENOENT, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from edgecache._files_format cimport (
    BODY_FILE_BYTES,
    FILE_CHUNK_BYTES,
    FILE_MAGIC,
    FILE_SUM_BYTES,
    FILE_VERSION,
    FileHead,
    file_chunk_count,
    file_chunk_sum,
    file_head_bytes,
    file_head_check,
    file_head_key,
    file_head_seal,
    file_head_sums,
)
from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_EXCLUSIVE, IO_OPEN_READ, IO_OPEN_WRITE


# ---- whole transfers ---------------------------------------------------------------------------

cdef int tree_name(char* out, const char* directory, const char* leaf,
                   uint64_t number) noexcept nogil:
    """`directory/leaf`, with `.number` behind it unless that is 0. 0 or -ENAMETOOLONG."""
    cdef int length
    if number == 0:
        length = snprintf(out, OBJECT_NAME_BYTES, b"%s/%s", directory, leaf)
    else:
        length = snprintf(out, OBJECT_NAME_BYTES, b"%s/%s.%u", directory, leaf,
                          <unsigned int>number)
    return 0 if 0 < length < OBJECT_NAME_BYTES else -ENAMETOOLONG


cdef int64_t tree_write(const Tree* tree, uint32_t file, uint64_t offset, const char* data,
                        uint64_t size_bytes) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint32_t part
    cdef int64_t moved
    while done < size_bytes:
        part = <uint32_t>min(size_bytes - done, <uint64_t>TRANSFER_BYTES)
        moved = tree.ops.write(tree.engine, file, offset + done, data + done, part)
        if moved < 0:
            return moved
        done += part
    return 0


cdef int64_t tree_read(const Tree* tree, uint32_t file, uint64_t offset, char* data,
                       uint64_t size_bytes) noexcept nogil:
    """0, -EBADMSG when the file ends before, or a negative errno."""
    cdef uint64_t done = 0
    cdef uint32_t part
    cdef int64_t moved
    while done < size_bytes:
        part = <uint32_t>min(size_bytes - done, <uint64_t>TRANSFER_BYTES)
        moved = tree.ops.read(tree.engine, file, offset + done, data + done, part)
        if moved < 0:
            return moved
        if moved < part:
            return -EBADMSG
        done += part
    return 0


cdef int64_t tree_write_file(const Tree* tree, const char* name, const char* data,
                             uint64_t size_bytes) noexcept nogil:
    """Make a new file of these bytes; the space it takes, or a negative errno."""
    cdef int64_t result
    cdef int file = tree.ops.open_file(tree.engine, name,
                                       IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE)
    if file < 0:
        return file
    result = tree_write(tree, <uint32_t>file, 0, data, size_bytes)
    if result == 0:
        result = tree.ops.allocated_bytes(tree.engine, <uint32_t>file)
    tree.ops.close_file(tree.engine, <uint32_t>file)
    return result


cdef int64_t tree_load(const Tree* tree, const char* name, uint64_t limit_bytes,
                       char** out) noexcept nogil:
    """Read a whole small file into memory of malloc; its size or a negative errno."""
    cdef int64_t size, result
    cdef int file = tree.ops.open_file(tree.engine, name, IO_OPEN_READ)
    if file < 0:
        return file
    size = tree.ops.file_size(tree.engine, <uint32_t>file)
    result = size
    if size >= 0 and <uint64_t>size > limit_bytes:
        result = -EBADMSG
    if result >= 0:
        out[0] = <char*>malloc(<size_t>size + 1)
        result = -ENOMEM if out[0] == NULL else tree_read(tree, <uint32_t>file, 0, out[0],
                                                          <uint64_t>size)
    tree.ops.close_file(tree.engine, <uint32_t>file)
    return result if result < 0 else size


# ---- heads, metas and bodies -------------------------------------------------------------------

cdef int64_t tree_load_head(const Tree* tree, const char* directory,
                            FileHead** out) noexcept nogil:
    """Read and verify a head; 0 or a negative errno. `out` is memory of malloc, perhaps of -errno.
    """
    cdef char name[OBJECT_NAME_BYTES]
    cdef char* data = NULL
    cdef int64_t size = tree_name(name, directory, b"meta_internal.bin", 0)
    if size == 0:
        size = tree_load(tree, name, <uint64_t>1 << 32, &data)
    out[0] = <FileHead*>data
    if size < 0:
        return size
    return 0 if file_head_check(tree.api, tree.seed, <FileHead*>data, <uint64_t>size) \
        else -EBADMSG


cdef int64_t tree_read_meta(const Tree* tree, const char* directory, const FileHead* head,
                            char* out) noexcept nogil:
    """Read and verify the meta into head.meta_len bytes; 0 or a negative errno."""
    cdef char name[OBJECT_NAME_BYTES]
    cdef char* data = NULL
    cdef int64_t size = tree_name(name, directory, b"meta_header.bin", 0)
    if head.meta_len == 0:
        return 0
    if size == 0:
        size = tree_load(tree, name, head.meta_len, &data)
    if size >= 0:
        if size != head.meta_len or tree.api.bits64(data, <size_t>size, tree.seed) != head.meta_sum:
            size = -EBADMSG
        else:
            memcpy(out, data, <size_t>size)
    free(data)
    return size if size < 0 else 0


cdef int64_t tree_body_transfer(const Tree* tree, const char* directory, const FileHead* head,
                                uint64_t offset, char* data, uint64_t size_bytes) noexcept nogil:
    """Read bytes of the body, from as many files as they lie in; nothing is verified."""
    cdef char name[OBJECT_NAME_BYTES]
    cdef uint64_t number, place, part
    cdef int64_t result = 0
    cdef int file
    while size_bytes > 0 and result == 0:
        number = offset // head.body_file_bytes
        place = offset % head.body_file_bytes
        part = min(size_bytes, head.body_file_bytes - place)
        result = tree_name(name, directory, b"body.bin", number)
        if result < 0:
            break
        file = tree.ops.open_file(tree.engine, name, IO_OPEN_READ)
        if file < 0:
            return file
        result = tree_read(tree, <uint32_t>file, place, data, part)
        tree.ops.close_file(tree.engine, <uint32_t>file)
        offset += part
        data += part
        size_bytes -= part
    return result


cdef int64_t tree_read_chunks(const Tree* tree, const char* directory, const FileHead* head,
                              uint64_t first, uint64_t end, char* data) noexcept nogil:
    """Read and verify whole chunks [first, end) of the body; 0 or a negative errno."""
    cdef uint64_t begin = first * head.chunk_bytes, number, size
    cdef char sum[FILE_SUM_BYTES]
    cdef char* sums = file_head_sums(<FileHead*>head)
    cdef uint64_t length = min(end * head.chunk_bytes, head.body_len) - begin
    cdef int64_t result = tree_body_transfer(tree, directory, head, begin, data, length)
    if result < 0:
        return result
    for number in range(first, end):
        size = min(<uint64_t>head.chunk_bytes, head.body_len - number * head.chunk_bytes)
        file_chunk_sum(tree.api, tree.seed, data, size, sum)
        if not sums_equal(sum, sums + number * FILE_SUM_BYTES):
            return -EBADMSG
        data += size
    return 0


cdef inline bint sums_equal(const char* first, const char* second) noexcept nogil:
    cdef int index
    for index in range(FILE_SUM_BYTES):
        if first[index] != second[index]:
            return False
    return True


cdef int64_t tree_check_body_size(const Tree* tree, const char* directory,
                                  const FileHead* head) noexcept nogil:
    """Do the files of the body have the sizes that the head says? 0 or a negative errno.

    Before memory is asked for: a size that is only claimed must not take any.
    """
    cdef char name[OBJECT_NAME_BYTES]
    cdef uint64_t number, left = head.body_len, part
    cdef uint64_t count = max(<uint64_t>1, (head.body_len + head.body_file_bytes - 1)
                              // head.body_file_bytes)
    cdef int64_t size
    cdef int file
    for number in range(count):
        part = min(left, head.body_file_bytes)
        left -= part
        size = tree_name(name, directory, b"body.bin", number)
        if size < 0:
            return size
        file = tree.ops.open_file(tree.engine, name, IO_OPEN_READ)
        if file < 0:
            return file
        size = tree.ops.file_size(tree.engine, <uint32_t>file)
        tree.ops.close_file(tree.engine, <uint32_t>file)
        if size < 0:
            return size
        if <uint64_t>size != part:
            return -EBADMSG
    return 0


cdef int tree_unlink_leaf(const Tree* tree, const char* directory, const char* leaf,
                          uint64_t number) noexcept nogil:
    cdef char name[OBJECT_NAME_BYTES]
    cdef int result = tree_name(name, directory, leaf, number)
    return result if result < 0 else tree.ops.unlink(tree.engine, name)


cdef int tree_unlink_object(const Tree* tree, const char* directory) noexcept nogil:
    """Remove an object directory and its files; 0 or an errno but -ENOENT."""
    cdef uint64_t number
    # The head first: without it the rest is garbage, whatever happens now.
    cdef int failed = tree_unlink_leaf(tree, directory, b"meta_internal.bin", 0)
    cdef int result = tree_unlink_leaf(tree, directory, b"meta_header.bin", 0)
    if result < 0 and result != -ENOENT:
        failed = result
    for number in range(BODY_FILES_MAX):
        result = tree_unlink_leaf(tree, directory, b"body.bin", number)
        if result == -ENOENT:
            break
        if result < 0:
            failed = result
    result = tree.ops.unlink(tree.engine, directory)
    if failed == 0 or failed == -ENOENT:
        failed = result
    return 0 if failed == -ENOENT else failed


cdef FileHead* tree_new_head(const Tree* tree, const char* key, uint32_t key_len, uint64_t body_len,
                             const char* meta, uint32_t meta_len) noexcept nogil:
    """A zeroed head with key, meta and sizes filled in; NULL without memory."""
    cdef uint64_t chunks = file_chunk_count(body_len, FILE_CHUNK_BYTES)
    cdef FileHead* head = <FileHead*>calloc(1, file_head_bytes(key_len, chunks))
    if head == NULL:
        return NULL
    head.magic = FILE_MAGIC
    head.version = FILE_VERSION
    head.chunk_bytes = FILE_CHUNK_BYTES
    head.body_file_bytes = BODY_FILE_BYTES
    head.body_len = body_len
    head.chunk_count = chunks
    head.key_len = key_len
    head.meta_len = meta_len
    head.meta_sum = tree.api.bits64(meta, meta_len, tree.seed)
    memcpy(file_head_key(head), key, key_len)
    return head


cdef int64_t tree_write_metas(const Tree* tree, const char* directory, FileHead* head,
                              const char* meta) noexcept nogil:
    """Seal the head and write it and the meta; the space both take, or a negative errno."""
    cdef char name[OBJECT_NAME_BYTES]
    cdef int64_t space = 0, result
    file_head_seal(tree.api, tree.seed, head)
    if head.meta_len > 0:
        result = tree_name(name, directory, b"meta_header.bin", 0)
        if result == 0:
            result = tree_write_file(tree, name, meta, head.meta_len)
        if result < 0:
            return result
        space = result
    result = tree_name(name, directory, b"meta_internal.bin", 0)
    if result == 0:
        result = tree_write_file(tree, name, <char*>head,
                                 file_head_bytes(head.key_len, head.chunk_count))
    return result if result < 0 else space + result


cdef int64_t tree_write_object(const Tree* tree, const char* directory, FileHead* head,
                               const char* body, const char* meta) noexcept nogil:
    """Write a whole object; the space it takes, or a negative errno with nothing left behind."""
    cdef char name[OBJECT_NAME_BYTES]
    cdef uint64_t number, offset
    cdef int64_t space = 0, result = tree.ops.make_directory(tree.engine, directory)
    if result < 0:
        return result
    for number in range(head.chunk_count):
        offset = number * head.chunk_bytes
        file_chunk_sum(tree.api, tree.seed, body + offset,
                       min(<uint64_t>head.chunk_bytes, head.body_len - offset),
                       file_head_sums(head) + number * FILE_SUM_BYTES)
    result = tree_name(name, directory, b"body.bin", 0)
    if result == 0:
        result = tree_write_file(tree, name, body, head.body_len)
    if result >= 0:
        space = result
        result = tree_write_metas(tree, directory, head, meta)
    if result < 0:
        tree_unlink_object(tree, directory)
        return result
    return space + result
