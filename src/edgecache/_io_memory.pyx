"""The memory engine: the whole contract in RAM, with faults and power loss on demand.

A request is carried out when it is reaped, not when it is submitted, so a caller that reuses a
buffer too early is found out. Continuation goes through `io_advance` as everywhere, one primitive
transfer at a time; the faults are injected into the primitives.

An engine belongs to the image as it was when it opened: after a power loss all its calls fail with
EIO, and a new engine over the same disk sees what survived.
"""

cimport cython

from libc.errno cimport EBADF, ECHILD, EEXIST, EFBIG, EINVAL, EISDIR, EMFILE, ENOENT, ENOMEM, ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strlen

from edgecache._io cimport (
    IO_ALIGNMENT, IO_OPEN_CREATE, IO_OPEN_DIRECT, IO_OPEN_EXCLUSIVE, IO_OPEN_TRUNCATE,
    IO_OPEN_WRITE, IoEngine,
)
from edgecache._io_memory_pages cimport (
    FAULT_ALLOCATE, FAULT_LIST, FAULT_MAKE_DIRECTORY, FAULT_OPEN, FAULT_RENAME, FAULT_SIZE,
    FAULT_SYNC_DIRECTORY, FAULT_TRUNCATE, FAULT_UNLINK, FILE_BYTES_MAX, PAGE_BYTES, SECTOR_BYTES,
    Entry, Image, Node, Page, node_page, node_truncate, node_used_bytes, page_reserve,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from edgecache._io_memory_state cimport (
    MemoryChannel, MemoryFile, MemoryState, c_getpid, engine_enter, engine_leave, file_find,
    file_release,
)
from edgecache._io_memory_tree cimport (
    directory_commit, directory_find, entry_create, entry_find, exchange_locked, journal_forget,
    link_locked, make_directory_locked, node_drop_live, node_new, path_find, rename_locked,
    unlink_locked,
)
from edgecache._io_memory_transfer cimport memory_channel_close, memory_transfer_ops

cdef enum:
    FILES_MAX = 65536

# ---- file operations -----------------------------------------------------------------------------

cdef int file_install(MemoryState* state, Node* node, int flags) noexcept nogil:
    cdef uint32_t index = 0, count
    cdef MemoryFile* files
    while index < state.file_count and state.files[index].node != NULL:
        index += 1
    if index == state.file_count:
        if index == FILES_MAX:
            return -EMFILE
        count = max(16, index * 2)
        files = <MemoryFile*>realloc(state.files, count * sizeof(MemoryFile))
        if files == NULL:
            return -ENOMEM
        memset(files + index, 0, (count - index) * sizeof(MemoryFile))
        state.files = files
        state.file_count = count
    node.references += 1
    node.live_references += 1
    state.files[index].node = node
    state.files[index].is_open = True
    state.files[index].is_writable = flags & IO_OPEN_WRITE
    state.files[index].alignment_bytes = IO_ALIGNMENT if flags & IO_OPEN_DIRECT else 1
    state.files[index].users = 0
    return <int>index


cdef int open_locked(MemoryState* state, const char* name, int flags) noexcept nogil:
    cdef Image* image = state.image
    cdef Node* parent = NULL
    cdef const char* leaf = NULL
    cdef Node* node
    cdef Entry** link
    cdef int result = path_find(image, name, &parent, &leaf)
    if result < 0:
        return result
    link = entry_find(&parent.entries, leaf)
    if link[0] != NULL:
        if flags & IO_OPEN_CREATE and flags & IO_OPEN_EXCLUSIVE:
            return -EEXIST
        if link[0].node.is_directory:
            return -EISDIR
        if flags & IO_OPEN_TRUNCATE:
            result = node_truncate(image, link[0].node, 0)
        return result if result < 0 else file_install(state, link[0].node, flags)
    if not flags & IO_OPEN_CREATE:
        return -ENOENT
    node = node_new(image, False)
    if node == NULL:
        return -ENOMEM
    result = entry_create(image, parent, leaf, node)
    return result if result < 0 else file_install(state, node, flags)


cdef int memory_open_file(void* engine, const char* name, int flags) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_OPEN)
    if result < 0:
        return result
    return <int>engine_leave(state, open_locked(state, name, flags))


cdef int memory_close_file(void* engine, uint32_t index) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryFile* file
    if c_getpid() != state.process:
        return -ECHILD
    pthread_mutex_lock(&state.image.mutex)      # also after a power loss
    file = file_find(state, index)
    if file != NULL:
        file.is_open = False
        file_release(state, index)
    return <int>engine_leave(state, -EBADF if file == NULL else 0)


cdef uint32_t memory_read_alignment(void* engine, uint32_t index) noexcept nogil:
    # A disk of 512-byte sectors: the smallest there is, so that reads are as odd as they can be.
    return SECTOR_BYTES


cdef int64_t memory_file_size(void* engine, uint32_t index) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryFile* file
    cdef int result = engine_enter(state, FAULT_SIZE)
    if result < 0:
        return result
    file = file_find(state, index)
    return engine_leave(state, -EBADF if file == NULL else <int64_t>file.node.size_bytes)


cdef int64_t memory_allocated_bytes(void* engine, uint32_t index) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryFile* file
    cdef int64_t result = engine_enter(state, FAULT_SIZE)
    if result < 0:
        return result
    file = file_find(state, index)
    return engine_leave(state, -EBADF if file == NULL else <int64_t>node_used_bytes(file.node))


cdef int allocate_locked(Image* image, MemoryFile* file, uint64_t size_bytes) noexcept nogil:
    cdef uint64_t index = 0, end
    cdef Page* page
    if size_bytes == 0 or size_bytes >> 63:
        return -EINVAL
    if not file.is_writable:
        return -EBADF
    if size_bytes > <uint64_t>FILE_BYTES_MAX:
        return -EFBIG
    while index * PAGE_BYTES < size_bytes:
        page = node_page(file.node, index)
        if page == NULL:
            return -ENOMEM
        end = min(<uint64_t>PAGE_BYTES, size_bytes - index * PAGE_BYTES)
        if page_reserve(image, page, 0, <uint32_t>end) < end:
            return -ENOSPC
        index += 1
    file.node.size_bytes = max(file.node.size_bytes, size_bytes)
    return 0


cdef int memory_allocate(void* engine, uint32_t index, uint64_t size_bytes) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryFile* file
    cdef int result = engine_enter(state, FAULT_ALLOCATE)
    if result < 0:
        return result
    file = file_find(state, index)
    result = -EBADF if file == NULL else allocate_locked(state.image, file, size_bytes)
    return <int>engine_leave(state, result)


cdef int memory_truncate(void* engine, uint32_t index, uint64_t size_bytes) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryFile* file
    cdef int result = engine_enter(state, FAULT_TRUNCATE)
    if result < 0:
        return result
    file = file_find(state, index)
    if file == NULL:
        result = -EBADF
    elif not file.is_writable or size_bytes >> 63:
        result = -EINVAL
    elif size_bytes > <uint64_t>FILE_BYTES_MAX:
        result = -EFBIG
    else:
        result = node_truncate(state.image, file.node, size_bytes)
    return <int>engine_leave(state, result)


cdef int memory_unlink(void* engine, const char* name) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_UNLINK)
    if result < 0:
        return result
    return <int>engine_leave(state, unlink_locked(state.image, name))


cdef int memory_rename(void* engine, const char* source, const char* target) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_RENAME)
    if result < 0:
        return result
    return <int>engine_leave(state, rename_locked(state.image, source, target))


cdef int memory_exchange(void* engine, const char* source, const char* target) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_RENAME)
    return result if result < 0 else <int>engine_leave(
        state, exchange_locked(state.image, source, target))


cdef int memory_link(void* engine, const char* source, const char* target) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_RENAME)
    return result if result < 0 else <int>engine_leave(
        state, link_locked(state.image, source, target))


cdef int memory_make_directory(void* engine, const char* name) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef int result = engine_enter(state, FAULT_MAKE_DIRECTORY)
    if result < 0:
        return result
    return <int>engine_leave(state, make_directory_locked(state.image, name))


cdef int memory_sync_directory(void* engine, const char* name) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef Node* directory = NULL
    cdef int result = engine_enter(state, FAULT_SYNC_DIRECTORY)
    if result < 0:
        return result
    result = directory_find(state.image, name, &directory)
    if result == 0:
        directory_commit(state.image, directory)
    return <int>engine_leave(state, result)


cdef int64_t memory_list_directory(void* engine, const char* name, char* out,
                                   uint64_t out_bytes) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef Node* directory = NULL
    cdef Entry* entry
    cdef uint64_t needed = 0, length
    cdef int64_t result = engine_enter(state, FAULT_LIST)
    if result < 0:
        return result
    result = directory_find(state.image, name, &directory)
    if result < 0:
        return engine_leave(state, result)
    entry = directory.entries
    while entry != NULL:
        length = strlen(entry.name) + 1
        if needed + length <= out_bytes:
            memcpy(out + needed, entry.name, length)
        needed += length
        entry = entry.next
    return engine_leave(state, <int64_t>needed)


# ---- the objects ---------------------------------------------------------------------------------

@cython.final
cdef class MemoryDisk:
    """A disk image in RAM, for one engine after another: `open_engine("memory", disk=disk)`.

    Args:
        capacity_bytes: space for file content in units of 4 KiB; 0 for no limit.

    Thread-safety: an image has one lock; any thread may use it.
    """

    def __cinit__(self, uint64_t capacity_bytes=0):
        self.image = <Image*>calloc(1, sizeof(Image))
        if self.image == NULL:
            raise MemoryError
        pthread_mutex_init(&self.image.mutex, NULL)
        self.image.capacity_bytes = capacity_bytes
        self.image.root = node_new(self.image, True)
        if self.image.root == NULL:
            raise MemoryError
        self.image.root.references = 1
        self.image.root.live_references = 1

    def __dealloc__(self):
        cdef uint64_t index
        if self.image == NULL:
            return
        for index in range(self.image.journal_count):
            journal_forget(self.image, &self.image.journal[index])
        free(self.image.journal)
        if self.image.root != NULL:
            node_drop_live(self.image, self.image.root)
        pthread_mutex_destroy(&self.image.mutex)
        free(self.image)

    @property
    def used_bytes(self):
        """Space taken by the content of files that have a name or are open."""
        return self.image.used_bytes


@cython.final
@cython.no_gc
cdef class MemoryEngine(IoEngine):
    """See `open_engine`. Thread-safety: as IoEngine. Cost: a lock and a copy per transfer."""

    cdef object stats_dict(self):
        cdef MemoryState* state = <MemoryState*>self.state
        found = IoEngine.stats_dict(self)
        found["disk_used_bytes"] = state.image.used_bytes
        found["power_losses"] = state.image.generation
        return found

    cdef void shut(self) noexcept:
        cdef MemoryState* state = <MemoryState*>self.state
        if state == NULL or state.closed or c_getpid() != state.process:
            return
        memory_stop(state)

    def __dealloc__(self):
        cdef MemoryState* state = <MemoryState*>self.state
        if state == NULL or c_getpid() != state.process:
            return
        self.shut()
        free(state.files)
        free(state)


cdef void memory_stop(MemoryState* state) noexcept nogil:
    cdef MemoryChannel* channel
    cdef uint32_t index
    while True:
        # Other engines of the image open and close theirs meanwhile.
        pthread_mutex_lock(&state.image.mutex)
        channel = <MemoryChannel*>state.image.channels
        while channel != NULL and channel.base.engine != state:
            channel = channel.next
        if channel == NULL:
            break
        pthread_mutex_unlock(&state.image.mutex)
        memory_channel_close(&channel.base)
    state.closed = True
    for index in range(state.file_count):
        state.files[index].is_open = False
        file_release(state, index)
    pthread_mutex_unlock(&state.image.mutex)


def open_memory(object disk, int queue_depth):
    """Open a memory engine over a MemoryDisk (None: a new one); for `open_engine`."""
    cdef MemoryEngine engine = MemoryEngine.__new__(MemoryEngine)
    cdef MemoryState* state
    engine.disk = MemoryDisk() if disk is None else disk
    state = <MemoryState*>calloc(1, sizeof(MemoryState))
    if state == NULL:
        raise MemoryError
    state.image = engine.disk.image
    state.generation = state.image.generation
    state.queue_depth = queue_depth
    state.process = c_getpid()
    state.ops = &engine.ops
    engine.state = state
    engine.counters = &state.stats
    engine.name = "memory"
    engine.fallback_reason = ""
    engine.ops.open_file = memory_open_file
    engine.ops.close_file = memory_close_file
    engine.ops.file_size = memory_file_size
    engine.ops.read_alignment = memory_read_alignment
    engine.ops.allocate = memory_allocate
    engine.ops.truncate = memory_truncate
    engine.ops.unlink = memory_unlink
    engine.ops.rename = memory_rename
    engine.ops.exchange = memory_exchange
    engine.ops.link = memory_link
    engine.ops.allocated_bytes = memory_allocated_bytes
    engine.ops.make_directory = memory_make_directory
    engine.ops.sync_directory = memory_sync_directory
    engine.ops.list_directory = memory_list_directory
    memory_transfer_ops(&engine.ops)
    return engine
