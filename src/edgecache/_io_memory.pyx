"""The memory engine: the whole contract in RAM, with faults and power loss on demand.

A request is carried out when it is reaped, not when it is submitted, so a caller that reuses a
buffer too early is found out. Continuation goes through `io_advance` as everywhere, one primitive
transfer at a time; the faults are injected into the primitives.

An engine belongs to the image as it was when it opened: after a power loss all its calls fail with
EIO, and a new engine over the same disk sees what survived.
"""

cimport cython

from libc.errno cimport (
    EAGAIN, EBADF, EBUSY, ECHILD, EEXIST, EFBIG, EINTR, EINVAL, EIO, EISDIR, EMFILE, ENOENT, ENOMEM,
    ENOSPC, errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strlen

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._io cimport (
    IO_ALIGNMENT, IO_OPEN_CREATE, IO_OPEN_DIRECT, IO_OPEN_EXCLUSIVE, IO_OPEN_TRUNCATE,
    IO_OPEN_WRITE, IO_READ, IO_SYNC, IO_WRITE, IoChannel, IoEngine, IoEngineOps, IoRequest,
    IoStats, io_advance, io_begin, io_stats_finish,
)
from edgecache._sync cimport (
    ec_add_u32, ec_count, ec_futex_wait, ec_futex_wake, ec_load_u32, ec_monotonic_ns,
)

cdef extern from *:
    """
    #include <limits.h>
    #include <sys/eventfd.h>
    #include <unistd.h>
    """
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned initial, int flags) noexcept nogil
    int eventfd_write(int fd, uint64_t value) noexcept nogil
    int eventfd_read(int fd, uint64_t* value) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int c_getpid "getpid"() noexcept nogil

cdef enum:
    CHANNEL_DEPTH_MAX = 65536
    FILES_MAX = 65536
    HELD = 0xffffffff           # MemorySlot.delay: until it is released

cdef struct MemoryFile:
    Node* node                  # NULL: free
    bint is_open
    bint is_writable
    uint32_t alignment_bytes
    uint32_t users              # requests in flight

cdef struct MemoryState:
    IoStats stats
    Image* image
    IoEngineOps* ops
    uint32_t generation
    uint32_t queue_depth
    int process
    bint closed
    MemoryFile* files
    uint32_t file_count
    bint has_region

cdef struct MemorySlot:         # a request in flight, in order of submission
    IoRequest* request
    uint32_t delay              # reaps to go, or HELD

cdef struct MemoryChannel:
    IoChannel base              # first
    MemorySlot* slots
    uint32_t slot_count
    int event_fd
    MemoryChannel* next


# ---- power loss ----------------------------------------------------------------------------------

cdef int image_power_cut(Image* image, uint64_t seed, int mode) noexcept nogil:
    """Lose power now. 0 or -ENOMEM (the image is then unusable)."""
    cdef MemoryChannel* channel
    cdef Node* node
    cdef uint32_t index
    cdef int result = 0
    pthread_mutex_lock(&image.mutex)
    image.random = seed
    channel = <MemoryChannel*>image.channels
    while channel != NULL:
        # Writes in flight may have reached the medium in part.
        for index in range(channel.slot_count):
            write_in_flight(image, channel, channel.slots[index].request)
            channel.slots[index].delay = 0
        channel = channel.next
    tree_power_cut(image, mode)
    node = image.nodes
    while node != NULL and result == 0:
        result = node_power_cut(image, node, mode)
        node = node.next
    image.generation += 1
    image.hold_mask = 0
    image_wake(image)
    pthread_mutex_unlock(&image.mutex)
    return result


cdef void write_in_flight(Image* image, MemoryChannel* channel, IoRequest* request) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>channel.base.engine
    if (request.operation == IO_WRITE and state.generation == image.generation
            and request.result == 0 and state.files[request.file].is_writable):
        node_write(image, state.files[request.file].node,
                   request.offset_bytes + request.moved_bytes,
                   request.buffer + request.moved_bytes,
                   request.length_bytes - request.moved_bytes)


cdef void image_wake(Image* image) noexcept nogil:
    cdef MemoryChannel* channel = <MemoryChannel*>image.channels
    ec_add_u32(&image.wake_word, 1)
    ec_futex_wake(&image.wake_word, 1 << 30)
    while channel != NULL:
        if channel.event_fd >= 0 and channel_has_ready(channel):
            eventfd_write(channel.event_fd, 1)
        channel = channel.next


cdef void image_release(Image* image, uint64_t count) noexcept nogil:
    """Let the oldest `count` held requests complete."""
    cdef MemoryChannel* channel
    cdef uint32_t index
    pthread_mutex_lock(&image.mutex)
    channel = <MemoryChannel*>image.channels
    while channel != NULL:
        for index in range(channel.slot_count):
            if channel.slots[index].delay == HELD and count > 0:
                channel.slots[index].delay = 0
                count -= 1
        channel = channel.next
    image_wake(image)
    pthread_mutex_unlock(&image.mutex)


# ---- file operations -----------------------------------------------------------------------------

cdef int engine_enter(MemoryState* state, int point) noexcept nogil:
    """Lock the image for one call. 0 with the lock held, or a negative errno without it."""
    cdef int fault
    if c_getpid() != state.process:
        return -ECHILD
    pthread_mutex_lock(&state.image.mutex)
    fault = 0
    if state.closed:
        fault = -EBADF
    elif state.generation != state.image.generation:
        fault = -EIO
    elif point > IO_SYNC:
        fault = image_fault(state.image, point)
    if fault < 0:
        pthread_mutex_unlock(&state.image.mutex)
    return fault


cdef void image_check_locked(Image* image) noexcept nogil:
    cdef Node* node = image.nodes
    cdef Page* page
    cdef uint64_t index, offset
    cdef int half
    while node != NULL:
        ec_assert(node.live_references <= node.references, b"image 4")
        ec_assert(node.is_directory or node.entries == NULL, b"image 3")
        for index in range(node.page_count):
            page = &node.pages[index]
            for half in range(2):
                ec_assert(page.dirty[half] & page.lost[half] == 0, b"image 2: dirty or lost")
                ec_assert(page.dirty[half] | page.lost[half] == 0 or page.shadowed, b"image 2")
                ec_assert(page.rewritten[half] & ~page.dirty[half] == 0, b"image 2: rewritten")
            offset = node.size_bytes % PAGE_BYTES
            if page.live != NULL and index == node.size_bytes // PAGE_BYTES:
                while offset % SECTOR_BYTES != 0:       # the rest would take too long
                    ec_assert(page.live[offset] == 0, b"image 1")
                    offset += 1
        node = node.next


cdef inline int64_t engine_leave(MemoryState* state, int64_t result) noexcept nogil:
    if EDGECACHE_DEBUG:
        image_check_locked(state.image)
    pthread_mutex_unlock(&state.image.mutex)
    return result


cdef MemoryFile* file_find(MemoryState* state, uint32_t index) noexcept nogil:
    if index >= state.file_count or not state.files[index].is_open:
        return NULL
    return &state.files[index]


cdef void file_release(MemoryState* state, uint32_t index) noexcept nogil:
    """One user, or the open itself, is gone."""
    cdef MemoryFile* file = &state.files[index]
    if file.node != NULL and not file.is_open and file.users == 0:
        node_drop_live(state.image, file.node)
        file.node = NULL


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


# ---- transfers -----------------------------------------------------------------------------------

cdef int64_t transfer_once(Image* image, MemoryFile* file, IoRequest* request) noexcept nogil:
    """What one system call would do: perhaps short, perhaps failing."""
    cdef uint64_t length = request.length_bytes - request.moved_bytes
    cdef uint64_t offset = request.offset_bytes + request.moved_bytes
    cdef uint64_t grain = SECTOR_BYTES if file.alignment_bytes > 1 else 1
    cdef int fault = image_fault(image, request.operation)
    if request.operation == IO_SYNC:
        # Interrupted, the call did nothing; failed, it lost what it was to write.
        if fault != -EINTR and fault != -EAGAIN and node_sync(file.node, fault < 0) < 0:
            return -ENOMEM
        return fault
    if fault < 0:
        return fault
    if image.short_one_in > 0 and length > grain and (
            image_random(image) % image.short_one_in == 0):
        length = grain * (1 + image_random(image) % ((length - 1) // grain))
    if request.operation == IO_READ:
        return node_read(file.node, offset, request.buffer + request.moved_bytes, length)
    return node_write(image, file.node, offset, request.buffer + request.moved_bytes, length)


cdef void request_perform(MemoryState* state, IoRequest* request) noexcept nogil:
    """Carry out a whole request on a pinned file, under the lock. `result` is set on return."""
    cdef MemoryFile* file = &state.files[request.file]
    cdef uint64_t place = request.offset_bytes | request.length_bytes | <size_t>request.buffer
    cdef uint64_t grain = file.alignment_bytes
    if request.operation == IO_READ and grain > 1:
        grain = SECTOR_BYTES
    if state.generation != state.image.generation:
        request.result = -EIO
    elif request.operation == IO_WRITE and not file.is_writable:
        request.result = -EBADF
    elif request.operation != IO_SYNC and (
            request.offset_bytes >> 63 or place % grain != 0):
        request.result = -EINVAL
    elif request.operation == IO_WRITE and (
            request.offset_bytes + request.length_bytes > <uint64_t>FILE_BYTES_MAX):
        request.result = -EFBIG
    else:
        while not io_advance(request, transfer_once(state.image, file, request),
                             file.alignment_bytes, &state.stats):
            pass


cdef int64_t transfer_now(MemoryState* state, uint8_t operation, uint32_t index, uint64_t offset,
                          char* buffer, uint32_t length) noexcept nogil:
    cdef IoRequest request
    cdef int result = engine_enter(state, operation)
    if result < 0:
        return result
    if file_find(state, index) == NULL:
        return engine_leave(state, -EBADF)
    memset(&request, 0, sizeof(request))
    request.operation = operation
    request.file = index
    request.offset_bytes = offset
    request.buffer = buffer
    request.length_bytes = length
    io_begin(&request, NULL, ec_monotonic_ns())
    request_perform(state, &request)
    io_stats_finish(&state.stats, &request, ec_monotonic_ns())
    return engine_leave(state, request.result)


cdef int64_t memory_read(void* engine, uint32_t index, uint64_t offset, char* buffer,
                         uint32_t length) noexcept nogil:
    return transfer_now(<MemoryState*>engine, IO_READ, index, offset, buffer, length)


cdef int64_t memory_write(void* engine, uint32_t index, uint64_t offset, const char* buffer,
                          uint32_t length) noexcept nogil:
    return transfer_now(<MemoryState*>engine, IO_WRITE, index, offset, <char*>buffer, length)


cdef int memory_sync(void* engine, uint32_t index) noexcept nogil:
    return <int>transfer_now(<MemoryState*>engine, IO_SYNC, index, 0, NULL, 0)


cdef int memory_register_buffer(void* engine, char* base, uint64_t size_bytes) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    if base == NULL or size_bytes == 0 or state.has_region:
        return -EBUSY if state.has_region else -EINVAL
    state.has_region = True
    return 0


# ---- channels ------------------------------------------------------------------------------------

cdef bint channel_has_ready(MemoryChannel* channel) noexcept nogil:
    cdef uint32_t index
    for index in range(channel.slot_count):
        if channel.slots[index].delay != HELD:
            return True
    return False


cdef int memory_channel_open(void* engine, uint32_t depth, bint want_event_fd,
                             IoChannel** out) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryChannel* channel
    cdef int result = engine_enter(state, IO_READ)
    if result < 0:
        return result
    depth = depth if depth > 0 else state.queue_depth
    if depth > CHANNEL_DEPTH_MAX:
        return <int>engine_leave(state, -EINVAL)
    channel = <MemoryChannel*>calloc(1, sizeof(MemoryChannel))
    if channel == NULL:
        return <int>engine_leave(state, -ENOMEM)
    channel.slots = <MemorySlot*>calloc(depth, sizeof(MemorySlot))
    channel.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) if want_event_fd else -1
    if channel.slots == NULL or (want_event_fd and channel.event_fd < 0):
        result = -ENOMEM if channel.slots == NULL else -errno
        free(channel.slots)
        free(channel)
        return <int>engine_leave(state, result)
    channel.base.ops = state.ops
    channel.base.engine = engine
    channel.base.depth = depth
    channel.next = <MemoryChannel*>state.image.channels
    state.image.channels = channel
    out[0] = &channel.base
    return <int>engine_leave(state, 0)


cdef void memory_channel_close(IoChannel* base) noexcept nogil:
    """Held requests are carried out too: nobody could wait for their release any more."""
    cdef MemoryChannel* channel = <MemoryChannel*>base
    cdef MemoryState* state = <MemoryState*>base.engine
    cdef MemoryChannel** link
    if c_getpid() != state.process:
        return
    pthread_mutex_lock(&state.image.mutex)
    while channel.slot_count > 0:
        slot_finish(state, channel, 0)
        ec_count(&state.stats.completed, 1)
    link = <MemoryChannel**>&state.image.channels
    while link[0] != channel:
        link = &link[0].next
    link[0] = channel.next
    pthread_mutex_unlock(&state.image.mutex)
    if channel.event_fd >= 0:
        c_close(channel.event_fd)
    free(channel.slots)
    free(channel)


cdef int memory_submit(IoChannel* base, IoRequest** requests, uint32_t count) noexcept nogil:
    cdef MemoryChannel* channel = <MemoryChannel*>base
    cdef MemoryState* state = <MemoryState*>base.engine
    cdef MemorySlot* slot
    cdef IoRequest* request
    cdef uint32_t index
    cdef int result = engine_enter(state, IO_READ)
    if result < 0:
        return result
    count = min(count, base.depth - base.in_flight)
    for index in range(count):
        request = requests[index]
        io_begin(request, channel, ec_monotonic_ns())
        slot = &channel.slots[channel.slot_count]
        channel.slot_count += 1
        slot.request = request
        slot.delay = state.image.delay_reaps
        if request.operation > IO_SYNC:
            request.operation = IO_SYNC
            request.result = -EINVAL
        elif file_find(state, request.file) == NULL:
            request.result = -EBADF
        else:
            state.files[request.file].users += 1
            if state.image.hold_mask >> request.operation & 1:
                slot.delay = HELD
    base.in_flight += count
    ec_count(&state.stats.submitted, count)
    if channel.event_fd >= 0 and channel_has_ready(channel):
        eventfd_write(channel.event_fd, 1)
    return <int>engine_leave(state, count)


cdef IoRequest* slot_finish(MemoryState* state, MemoryChannel* channel,
                            uint32_t index) noexcept nogil:
    """Carry out the request of a slot and take it off the channel."""
    cdef IoRequest* request = channel.slots[index].request
    channel.slot_count -= 1
    while index < channel.slot_count:
        channel.slots[index] = channel.slots[index + 1]
        index += 1
    if request.result == 0:
        request_perform(state, request)
        state.files[request.file].users -= 1
        file_release(state, request.file)
    io_stats_finish(&state.stats, request, ec_monotonic_ns())
    return request


cdef uint32_t ready_take(MemoryState* state, MemoryChannel* channel, IoRequest** out,
                         uint32_t capacity) noexcept nogil:
    """One pass over the slots: count delays down, finish what is due."""
    cdef uint32_t index, count = 0, due, chosen
    for index in range(channel.slot_count):
        if 0 < channel.slots[index].delay < HELD:
            channel.slots[index].delay -= 1
    while count < capacity:
        due = 0
        chosen = 0
        for index in range(channel.slot_count):
            if channel.slots[index].delay == 0:
                due += 1
                # Each of those seen so far is kept with equal chance (reservoir of one).
                if due == 1 or (state.image.shuffle and image_random(state.image) % due == 0):
                    chosen = index
        if due == 0:
            break
        out[count] = slot_finish(state, channel, chosen)
        count += 1
    return count


cdef int memory_reap(IoChannel* base, IoRequest** out, uint32_t capacity, uint32_t wanted,
                     int64_t timeout_ns) noexcept nogil:
    cdef MemoryChannel* channel = <MemoryChannel*>base
    cdef MemoryState* state = <MemoryState*>base.engine
    cdef uint32_t count = 0, seen
    cdef uint64_t signals = 0
    cdef int64_t deadline_ns = ec_monotonic_ns() + timeout_ns
    cdef int64_t left_ns = timeout_ns
    if c_getpid() != state.process:
        return -ECHILD
    wanted = min(wanted, min(capacity, base.in_flight))
    pthread_mutex_lock(&state.image.mutex)
    while True:
        count += ready_take(state, channel, out + count, capacity - count)
        if count >= wanted or timeout_ns == 0:
            break
        if channel_has_ready(channel):
            continue
        seen = ec_load_u32(&state.image.wake_word)
        pthread_mutex_unlock(&state.image.mutex)
        if timeout_ns > 0:
            left_ns = deadline_ns - ec_monotonic_ns()
        if timeout_ns < 0 or left_ns > 0:
            ec_futex_wait(&state.image.wake_word, seen, left_ns)
        pthread_mutex_lock(&state.image.mutex)
        if timeout_ns > 0 and ec_monotonic_ns() >= deadline_ns:
            timeout_ns = 0      # one more look
    base.in_flight -= count
    ec_count(&state.stats.completed, count)
    if channel.event_fd >= 0:
        eventfd_read(channel.event_fd, &signals)
        if channel_has_ready(channel):
            eventfd_write(channel.event_fd, 1)
    pthread_mutex_unlock(&state.image.mutex)
    return <int>count


cdef int memory_event_fd(IoChannel* base) noexcept nogil:
    return (<MemoryChannel*>base).event_fd


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
    cdef MemoryChannel* channel = <MemoryChannel*>state.image.channels
    cdef MemoryChannel* following
    cdef uint32_t index
    while channel != NULL:
        following = channel.next
        if channel.base.engine == state:
            memory_channel_close(&channel.base)
        channel = following
    pthread_mutex_lock(&state.image.mutex)
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
    engine.ops.make_directory = memory_make_directory
    engine.ops.sync_directory = memory_sync_directory
    engine.ops.list_directory = memory_list_directory
    engine.ops.read = memory_read
    engine.ops.write = memory_write
    engine.ops.sync = memory_sync
    engine.ops.register_buffer = memory_register_buffer
    engine.ops.channel_open = memory_channel_open
    engine.ops.channel_close = memory_channel_close
    engine.ops.submit = memory_submit
    engine.ops.reap = memory_reap
    engine.ops.event_fd = memory_event_fd
    return engine
