"""Writing, reading and verifying the files of objects (see _files_tree.pxd)."""

from libc.errno cimport EBADMSG, ENAMETOOLONG, ENOENT, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from edgecache._files_format cimport (
    BODY_FILE_BYTES,
    FILE_CHUNK_BYTES,
    FILE_CHUNK_STRIPS,
    FILE_MAGIC,
    FILE_STRIP_BYTES,
    FILE_SUM_BYTES,
    FILE_VERSION,
    FILE_VERSION_WHOLE,
    FileHead,
    file_chunk_count,
    file_chunk_sum,
    file_head_bytes,
    file_head_check,
    file_head_key,
    file_head_seal,
    file_head_sums,
    file_has_strips,
)
from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_EXCLUSIVE, IO_OPEN_READ, IO_OPEN_WRITE
from edgecache._strips cimport strip_count, strips_copy_verified, strips_hold, strips_sum
from edgecache._sync cimport ec_lock_acquire, ec_lock_release


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
    cdef uint64_t number, size
    cdef int64_t result
    # One by one, so that a chunk is summed while it is in the cache.
    for number in range(first, end):
        size = tree_chunk_size(head, number)
        result = tree_body_transfer(tree, directory, head, number * head.chunk_bytes, data, size)
        if result < 0:
            return result
        if not tree_chunk_holds(tree, head, number, data, size):
            return -EBADMSG
        data += size
    return 0


cdef inline uint64_t tree_chunk_size(const FileHead* head, uint64_t number) noexcept nogil:
    return min(<uint64_t>head.chunk_bytes, head.body_len - number * head.chunk_bytes)


cdef bint tree_chunk_holds(const Tree* tree, const FileHead* head, uint64_t number,
                           const char* data, uint64_t size) noexcept nogil:
    cdef uint64_t[FILE_CHUNK_STRIPS] strips
    cdef char sum[FILE_SUM_BYTES]
    if head.version == FILE_VERSION_WHOLE:
        file_chunk_sum(tree.api, tree.seed, data, size, sum)
    else:
        tree_sum_of_strips(tree, strips, tree_strip_sums(tree, data, size, strips), sum)
    return sums_equal(sum, file_head_sums(<FileHead*>head) + number * FILE_SUM_BYTES)


cdef uint32_t tree_strip_sums(const Tree* tree, const char* data, uint64_t size_bytes,
                              uint64_t* sums) noexcept nogil:
    strips_sum(tree.api, data, size_bytes, sums)
    return strip_count(size_bytes)


cdef void tree_sum_of_strips(const Tree* tree, const uint64_t* sums, uint32_t count,
                             char* out) noexcept nogil:
    file_chunk_sum(tree.api, tree.seed, <const char*>sums, <uint64_t>count * 8, out)


# ---- strips ------------------------------------------------------------------------------------

cdef inline KnownStrips* strip_slot(StripTable* table, uint64_t body_sequence,
                                    uint64_t number) noexcept nogil:
    return &table.slots[(body_sequence * 31 + number) % STRIP_SLOTS]


cdef bint strips_recall(StripTable* table, uint64_t body_sequence, uint64_t number,
                        uint64_t* sums) noexcept nogil:
    cdef KnownStrips* known
    cdef bint is_known = False
    ec_lock_acquire(&table.lock)
    if table.slots != NULL:
        known = strip_slot(table, body_sequence, number)
        is_known = known.body_sequence == body_sequence and known.number == number
        if is_known:
            memcpy(sums, known.sums, sizeof(known.sums))
    ec_lock_release(&table.lock)
    return is_known


cdef void strips_remember(StripTable* table, uint64_t body_sequence, uint64_t number,
                          const uint64_t* sums) noexcept nogil:
    cdef KnownStrips* known
    ec_lock_acquire(&table.lock)
    if table.slots == NULL:
        table.slots = <KnownStrips*>calloc(STRIP_SLOTS, sizeof(KnownStrips))
    if table.slots != NULL:
        known = strip_slot(table, body_sequence, number)
        known.body_sequence = body_sequence
        known.number = number
        memcpy(known.sums, sums, sizeof(known.sums))
    ec_lock_release(&table.lock)


cdef void strip_table_free(StripTable* table) noexcept nogil:
    free(table.slots)
    table.slots = NULL


cdef int64_t strips_load(const Tree* tree, const char* directory, const FileHead* head,
                         StripTable* table, uint64_t number, uint64_t* sums) noexcept nogil:
    """The sums of the strips of a chunk, verified by the sum that the head has of it."""
    cdef char name[OBJECT_NAME_BYTES]
    cdef char sum[FILE_SUM_BYTES]
    cdef uint32_t count = strip_count(tree_chunk_size(head, number))
    cdef int64_t result
    cdef int file
    if strips_recall(table, head.body_sequence, number, sums):
        return 0
    result = tree_name(name, directory, b"body.sums", 0)
    if result < 0:
        return result
    file = tree.ops.open_file(tree.engine, name, IO_OPEN_READ)
    if file < 0:
        return file
    result = tree_read(tree, <uint32_t>file, number * (FILE_CHUNK_STRIPS * 8), <char*>sums,
                       <uint64_t>count * 8)
    tree.ops.close_file(tree.engine, <uint32_t>file)
    if result < 0:
        return result
    tree_sum_of_strips(tree, sums, count, sum)
    if not sums_equal(sum, file_head_sums(<FileHead*>head) + number * FILE_SUM_BYTES):
        return -EBADMSG
    strips_remember(table, head.body_sequence, number, sums)
    return 0


cdef int64_t tree_read_strips(const Tree* tree, const char* directory, const FileHead* head,
                              StripTable* table, uint64_t number, uint64_t first, uint64_t last,
                              char* target) noexcept nogil:
    """Read [first, last) of a chunk by the strips that cover it."""
    cdef uint64_t[FILE_CHUNK_STRIPS] sums
    cdef uint64_t size = tree_chunk_size(head, number)
    cdef uint64_t low = first // FILE_STRIP_BYTES * FILE_STRIP_BYTES
    cdef uint64_t high = min(size, (last + FILE_STRIP_BYTES - 1) // FILE_STRIP_BYTES
                             * FILE_STRIP_BYTES)
    cdef char* scratch = target
    cdef int64_t result = strips_load(tree, directory, head, table, number, sums)
    if result < 0:
        return result
    if low < first or high > last:
        scratch = <char*>malloc(high - low)
        if scratch == NULL:
            return -ENOMEM
    result = tree_body_transfer(tree, directory, head, number * head.chunk_bytes + low, scratch,
                                high - low)
    if result == 0:
        if scratch == target:
            if not strips_hold(tree.api, target, low, size, high, sums):
                result = -EBADMSG
        elif not strips_copy_verified(tree.api, target, scratch, low, size, first, last, sums):
            result = -EBADMSG
    if scratch != target:
        free(scratch)
    return result


cdef int64_t tree_read_part(const Tree* tree, const char* directory, const FileHead* head,
                            StripTable* table, uint64_t offset, uint64_t length,
                            char* target) noexcept nogil:
    cdef uint64_t number, size, first, last, end = offset + length
    cdef char* chunk
    cdef int64_t result = 0
    while offset < end and result == 0:
        number = offset // head.chunk_bytes
        size = tree_chunk_size(head, number)
        first = offset - number * head.chunk_bytes
        last = min(size, first + end - offset)
        if first == 0 and last == size:
            result = tree_read_chunks(tree, directory, head, number, number + 1, target)
        elif file_has_strips(head):
            result = tree_read_strips(tree, directory, head, table, number, first, last, target)
        else:
            chunk = <char*>malloc(size)
            if chunk == NULL:
                return -ENOMEM
            result = tree_read_chunks(tree, directory, head, number, number + 1, chunk)
            if result == 0:
                memcpy(target, chunk + first, last - first)
            free(chunk)
        target += last - first
        offset += last - first
    return result


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
    result = tree_unlink_leaf(tree, directory, b"body.sums", 0)
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
    cdef uint64_t[FILE_CHUNK_STRIPS] few
    cdef uint64_t* strips = few
    cdef uint64_t number, count = 0
    cdef int64_t space = 0, result = tree.ops.make_directory(tree.engine, directory)
    if result < 0:
        return result
    if head.chunk_count > 1:
        strips = <uint64_t*>malloc(head.chunk_count * sizeof(few))
        if strips == NULL:
            result = -ENOMEM
    if result == 0:
        result = tree_write_body(tree, directory, head, body, strips)
    if result >= 0 and file_has_strips(head):
        space = result
        for number in range(head.chunk_count):
            count += strip_count(tree_chunk_size(head, number))
        result = tree_name(name, directory, b"body.sums", 0)
        if result == 0:
            result = tree_write_file(tree, name, <const char*>strips, count * 8)
    if strips != few:
        free(strips)
    if result >= 0:
        space += result
        result = tree_write_metas(tree, directory, head, meta)
    if result < 0:
        tree_unlink_object(tree, directory)
        return result
    return space + result


cdef int64_t tree_write_body(const Tree* tree, const char* directory, FileHead* head,
                             const char* body, uint64_t* strips) noexcept nogil:
    """Write the body's file, and sum each chunk before it is written, while it is near; its space.
    """
    cdef char name[OBJECT_NAME_BYTES]
    cdef uint64_t number, size, offset
    cdef uint32_t count
    cdef int64_t result = tree_name(name, directory, b"body.bin", 0)
    cdef int file
    if result < 0:
        return result
    file = tree.ops.open_file(tree.engine, name,
                              IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE)
    if file < 0:
        return file
    for number in range(head.chunk_count):
        size = tree_chunk_size(head, number)
        offset = number * head.chunk_bytes
        count = tree_strip_sums(tree, body + offset, size, strips)
        tree_sum_of_strips(tree, strips, count,
                           file_head_sums(head) + number * FILE_SUM_BYTES)
        result = tree_write(tree, <uint32_t>file, offset, body + offset, size)
        if result < 0:
            break
        strips += count
    if result == 0:
        result = tree.ops.allocated_bytes(tree.engine, <uint32_t>file)
    tree.ops.close_file(tree.engine, <uint32_t>file)
    return result
