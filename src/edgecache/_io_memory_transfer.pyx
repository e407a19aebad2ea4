"""The memory engine: power loss, transfers, and channels (see _io_memory_transfer.pxd)."""

from libc.errno cimport EAGAIN, EBADF, EBUSY, ECHILD, EFBIG, EINTR, EINVAL, EIO, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from edgecache._io cimport (
    IO_CHANNEL_EVENT_FD, IO_READ, IO_SYNC, IO_WRITE, IoChannel, IoEngineOps, IoRequest, io_advance,
    io_begin, io_stats_finish,
)
from edgecache._io_memory_pages cimport (
    FILE_BYTES_MAX, SECTOR_BYTES, Image, Node, image_fault, image_random, node_read, node_write,
    pthread_mutex_lock, pthread_mutex_unlock,
)
from edgecache._io_memory_state cimport (
    HELD, MemoryChannel, MemoryFile, MemorySlot, MemoryState, c_getpid, engine_enter, engine_leave,
    file_find, file_release,
)
from edgecache._io_memory_tree cimport node_power_cut, node_sync, tree_power_cut
from edgecache._sync cimport (
    ec_add_u32, ec_count, ec_futex_wait, ec_futex_wake, ec_load_u32, ec_monotonic_ns,
)

cdef extern from *:
    """
    #include <sys/eventfd.h>
    #include <unistd.h>
    """
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned initial, int flags) noexcept nogil
    int eventfd_write(int fd, uint64_t value) noexcept nogil
    int eventfd_read(int fd, uint64_t* value) noexcept nogil
    int c_close "close"(int fd) noexcept nogil

cdef enum:
    CHANNEL_DEPTH_MAX = 65536


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
    cdef MemorySlot* oldest
    cdef uint32_t index
    pthread_mutex_lock(&image.mutex)
    while count > 0:
        oldest = NULL
        channel = <MemoryChannel*>image.channels
        while channel != NULL:
            for index in range(channel.slot_count):
                if channel.slots[index].delay == HELD and (
                        oldest == NULL or
                        channel.slots[index].request.started_ns < oldest.request.started_ns):
                    oldest = &channel.slots[index]
            channel = channel.next
        if oldest == NULL:
            break
        oldest.delay = 0
        count -= 1
    image_wake(image)
    pthread_mutex_unlock(&image.mutex)


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


cdef int memory_channel_open(void* engine, uint32_t depth, uint32_t flags,
                             IoChannel** out) noexcept nogil:
    cdef MemoryState* state = <MemoryState*>engine
    cdef MemoryChannel* channel
    cdef bint want_event_fd = flags & IO_CHANNEL_EVENT_FD
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


cdef void memory_transfer_ops(IoEngineOps* ops) noexcept nogil:
    ops.read = memory_read
    ops.write = memory_write
    ops.sync = memory_sync
    ops.register_buffer = memory_register_buffer
    ops.channel_open = memory_channel_open
    ops.channel_close = memory_channel_close
    ops.submit = memory_submit
    ops.reap = memory_reap
    ops.event_fd = memory_event_fd
