"""Python-visible handles on the I/O engines for the tests and the raw benchmark; no public API.

Results are those of the contract: a number, or a negative errno. Buffers are aligned, so that the
same calls work on files opened direct.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from edgecache._io cimport (
    IO_ALIGNMENT, IO_OPEN_CREATE, IO_OPEN_DIRECT, IO_OPEN_EXCLUSIVE, IO_OPEN_READ,
    IO_OPEN_TRUNCATE, IO_OPEN_WRITE, IO_READ, IO_SYNC, IO_WRITE, IoChannel, IoEngine,
    IoFileSystem, IoRequest, IoStats, io_advance, io_begin, io_latency_bucket, io_name_check,
)
from edgecache._io_memory cimport MemoryDisk
from edgecache._io_memory_pages cimport (
    FAULTS_MAX, FAULT_ALLOCATE, FAULT_LIST, FAULT_MAKE_DIRECTORY, FAULT_OPEN, FAULT_RENAME,
    FAULT_SIZE, FAULT_SYNC_DIRECTORY, FAULT_TRUNCATE, FAULT_UNLINK, POWER_DROP, POWER_KEEP,
    POWER_RANDOM, FaultRule, pthread_mutex_lock, pthread_mutex_unlock,
)
from edgecache._io_memory_transfer cimport image_power_cut, image_release
from edgecache._io_uring cimport UringEngine, uring_refuse_enter
from edgecache._sync cimport ec_monotonic_ns

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size)

READ, WRITE, SYNC = IO_READ, IO_WRITE, IO_SYNC
OPEN_READ, OPEN_WRITE, OPEN_CREATE = IO_OPEN_READ, IO_OPEN_WRITE, IO_OPEN_CREATE
OPEN_EXCLUSIVE, OPEN_TRUNCATE, OPEN_DIRECT = IO_OPEN_EXCLUSIVE, IO_OPEN_TRUNCATE, IO_OPEN_DIRECT


cdef char* aligned_new(size_t size_bytes) except NULL:
    cdef void* memory = NULL
    if posix_memalign(&memory, IO_ALIGNMENT, max(size_bytes, <size_t>IO_ALIGNMENT)) != 0:
        raise MemoryError
    memset(memory, 0xEE, max(size_bytes, <size_t>IO_ALIGNMENT))
    return <char*>memory


cdef class Driver:
    """The ops of an engine as methods. Every call drops the GIL."""

    cdef readonly IoEngine engine
    cdef char* region
    cdef uint64_t region_bytes

    def __cinit__(self, IoEngine engine):
        self.engine = engine

    def __dealloc__(self):
        free(self.region)

    def open_file(self, bytes name, int flags=0):
        cdef const char* text = name
        cdef int result
        with nogil:
            result = self.engine.ops.open_file(self.engine.state, text, flags)
        return result

    def close_file(self, uint32_t file):
        return self.engine.ops.close_file(self.engine.state, file)

    def file_size(self, uint32_t file):
        return self.engine.ops.file_size(self.engine.state, file)

    def allocate(self, uint32_t file, uint64_t size_bytes):
        return self.engine.ops.allocate(self.engine.state, file, size_bytes)

    def truncate(self, uint32_t file, uint64_t size_bytes):
        return self.engine.ops.truncate(self.engine.state, file, size_bytes)

    def unlink(self, bytes name):
        return self.engine.ops.unlink(self.engine.state, name)

    def rename(self, bytes source, bytes target):
        return self.engine.ops.rename(self.engine.state, source, target)

    def exchange(self, bytes source, bytes target):
        return self.engine.ops.exchange(self.engine.state, source, target)

    def link(self, bytes source, bytes target):
        return self.engine.ops.link(self.engine.state, source, target)

    def allocated_bytes(self, uint32_t file):
        return self.engine.ops.allocated_bytes(self.engine.state, file)

    def make_directory(self, bytes name):
        return self.engine.ops.make_directory(self.engine.state, name)

    def sync_directory(self, bytes name=b""):
        return self.engine.ops.sync_directory(self.engine.state, name)

    def list_directory(self, bytes name=b"", uint64_t room_bytes=65536):
        """Sorted names, or a negative errno; asks again when the room was too small."""
        cdef char* out = NULL
        cdef int64_t needed = room_bytes
        while True:
            free(out)
            room_bytes = needed
            out = aligned_new(room_bytes)
            needed = self.engine.ops.list_directory(self.engine.state, name, out, room_bytes)
            if needed <= <int64_t>room_bytes:
                break
        found = needed if needed < 0 else sorted(
            out[:needed - 1].split(b"\0") if needed > 0 else [])
        free(out)
        return found

    def read(self, uint32_t file, uint64_t offset, uint32_t length):
        """The bytes read, or a negative errno."""
        cdef char* buffer = aligned_new(length)
        cdef int64_t moved
        with nogil:
            moved = self.engine.ops.read(self.engine.state, file, offset, buffer, length)
        found = moved if moved < 0 else buffer[:moved]
        free(buffer)
        return found

    def write(self, uint32_t file, uint64_t offset, bytes data):
        cdef char* buffer = aligned_new(len(data))
        cdef uint32_t length = <uint32_t>len(data)
        cdef int64_t moved
        memcpy(buffer, <char*>data, length)
        with nogil:
            moved = self.engine.ops.write(self.engine.state, file, offset, buffer, length)
        free(buffer)
        return moved

    def sync(self, uint32_t file):
        cdef int result
        with nogil:
            result = self.engine.ops.sync(self.engine.state, file)
        return result

    def register(self, uint64_t size_bytes):
        """Register a region of that size; requests with `fixed` take their buffers from it."""
        if self.region == NULL:
            self.region = aligned_new(size_bytes)
            self.region_bytes = size_bytes
        return self.engine.ops.register_buffer(self.engine.state, self.region, size_bytes)

    def channel(self, uint32_t depth=0, bint event_fd=False):
        """Open a channel; OSError when it is refused."""
        cdef Channel channel = Channel.__new__(Channel)
        cdef int result
        channel.driver = self
        channel.owned = {}
        with nogil:
            result = self.engine.ops.channel_open(self.engine.state, depth, event_fd,
                                                  &channel.channel)
        if result < 0:
            raise OSError(-result, "channel_open")
        return channel


cdef struct Slot:               # one request of a Channel, with its own buffer
    IoRequest request
    char* memory
    bint is_region


cdef class Channel:
    """A channel with requests numbered by tickets. Leaks nothing, also when it is not drained."""

    cdef Driver driver
    cdef IoChannel* channel
    cdef dict owned             # ticket -> address of its Slot, while in flight
    cdef uint64_t tickets

    def __dealloc__(self):
        if self.channel != NULL:
            self.close()

    def close(self):
        """Close the channel (waits for what is in flight) and free the buffers."""
        cdef IoChannel* channel = self.channel
        self.channel = NULL
        if not self.driver.engine.closed:       # which closed its channels, too
            with nogil:
                channel.ops.channel_close(channel)
        for address in self.owned.values():
            self.slot_free(<Slot*><size_t>address)
        self.owned.clear()

    cdef void slot_free(self, Slot* slot):
        if not slot.is_region:
            free(slot.memory)
        free(slot)

    @property
    def event_fd(self):
        return self.channel.ops.event_fd(self.channel)

    @property
    def in_flight(self):
        return self.channel.in_flight

    @property
    def depth(self):
        return self.channel.depth

    cdef size_t slot_new(self, int operation, uint32_t file, uint64_t offset, object payload,
                         bint fixed) except 0:
        cdef Slot* slot = <Slot*>calloc(1, sizeof(Slot))
        cdef uint32_t length = 0
        if operation == IO_WRITE:
            length = <uint32_t>len(payload)
        elif operation == IO_READ:
            length = payload
        if fixed:
            # Each ticket takes the next part of the region.
            slot.is_region = True
            slot.memory = self.driver.region + (
                self.tickets * 65536 % max(<uint64_t>65536, self.driver.region_bytes))
        else:
            slot.memory = aligned_new(length)
        if operation == IO_WRITE:
            memcpy(slot.memory, <char*>(<bytes>payload), length)
        slot.request.operation = <uint8_t>operation
        slot.request.buffer_index = 0 if fixed else -1
        slot.request.file = file
        slot.request.offset_bytes = offset
        slot.request.buffer = slot.memory
        slot.request.length_bytes = length
        slot.request.user_data = self.tickets
        self.tickets += 1
        return <size_t>slot

    def submit(self, list operations, bint fixed=False):
        """Submit (operation, file, offset, data or length) tuples.

        Returns: the tickets taken, in order; or a negative errno.
        """
        cdef uint32_t count = <uint32_t>len(operations), index
        cdef IoRequest** requests = <IoRequest**>calloc(max(count, 1), sizeof(IoRequest*))
        cdef int taken
        cdef list slots = [
            self.slot_new(operation, file, offset, payload, fixed)
            for operation, file, offset, payload in operations
        ]
        for index in range(count):
            requests[index] = &(<Slot*><size_t>slots[index]).request
        with nogil:
            taken = self.channel.ops.submit(self.channel, requests, count)
        free(requests)
        tickets = []
        for index in range(count):
            address = slots[index]
            if <int>index < taken:
                ticket = (<Slot*><size_t>address).request.user_data
                self.owned[ticket] = address
                tickets.append(ticket)
            else:
                self.slot_free(<Slot*><size_t>address)
        return taken if taken < 0 else tickets

    def reap(self, uint32_t capacity=64, uint32_t wanted=0, int64_t timeout_ns=0):
        """Returns: [(ticket, result, bytes read or None)], or a negative errno."""
        cdef IoRequest** out = <IoRequest**>calloc(max(capacity, 1), sizeof(IoRequest*))
        cdef int count, index
        cdef Slot* slot
        with nogil:
            count = self.channel.ops.reap(self.channel, out, capacity, wanted, timeout_ns)
        found = []
        for index in range(count):
            ticket = out[index].user_data
            slot = <Slot*><size_t>self.owned.pop(ticket)
            data = None
            if out[index].operation == IO_READ and out[index].result >= 0:
                data = slot.memory[:out[index].result]
            found.append((ticket, out[index].result, data))
            self.slot_free(slot)
        free(out)
        return count if count < 0 else found


# ---- hooks ---------------------------------------------------------------------------------------

def refuse_enter(UringEngine engine, uint32_t errno_code):
    """Let every io_uring_enter of this engine fail with this errno (0: works again)."""
    uring_refuse_enter(engine, errno_code)


def refuse_fallocate(IoEngine engine):
    """Let a uring or threads engine believe that its file system has no fallocate."""
    (<IoFileSystem*>engine.state).refuse_fallocate = True


def forget_openat2(IoEngine engine):
    """Let a uring or threads engine walk paths by components, as on kernels before 5.6."""
    (<IoFileSystem*>engine.state).has_openat2 = False


FAULT_POINTS = {
    "read": IO_READ, "write": IO_WRITE, "sync": IO_SYNC, "open": FAULT_OPEN, "size": FAULT_SIZE,
    "allocate": FAULT_ALLOCATE, "truncate": FAULT_TRUNCATE, "unlink": FAULT_UNLINK,
    "rename": FAULT_RENAME, "make_directory": FAULT_MAKE_DIRECTORY,
    "sync_directory": FAULT_SYNC_DIRECTORY, "list": FAULT_LIST,
}
POWER_MODES = {"drop": POWER_DROP, "keep": POWER_KEEP, "random": POWER_RANDOM}


def fail(MemoryDisk disk, str point, int error, *, uint64_t nth=1, int64_t count=1):
    """Let the nth primitive call of a kind from now on, and `count` in all, fail with an errno.

    A primitive is what one system call would be: EINTR and EAGAIN are continued by the engine, and
    a failed sync loses what it was to write. count < 0: for ever. Rules add up; the first wins.
    """
    cdef FaultRule* rule
    pthread_mutex_lock(&disk.image.mutex)
    if disk.image.fault_count == FAULTS_MAX or nth == 0:
        pthread_mutex_unlock(&disk.image.mutex)
        raise ValueError("too many fault rules, or nth is 0")
    rule = &disk.image.faults[disk.image.fault_count]
    rule.point = FAULT_POINTS[point]
    rule.error = error
    rule.skip = nth - 1
    rule.count = count
    disk.image.fault_count += 1
    pthread_mutex_unlock(&disk.image.mutex)


def heal(MemoryDisk disk):
    """Remove every fault, short transfer, delay, hold, shuffle and space limit."""
    pthread_mutex_lock(&disk.image.mutex)
    disk.image.fault_count = 0
    disk.image.short_one_in = 0
    disk.image.shuffle = False
    disk.image.delay_reaps = 0
    disk.image.hold_mask = 0
    disk.image.capacity_bytes = 0
    pthread_mutex_unlock(&disk.image.mutex)
    image_release(disk.image, <uint64_t>-1)


def disturb(MemoryDisk disk, *, uint64_t seed=0, uint32_t short_one_in=0, bint shuffle=False,
            uint32_t delay_reaps=0, space_left_bytes=None):
    """Short transfers (one in n), completions out of order or late, a disk that fills up."""
    pthread_mutex_lock(&disk.image.mutex)
    disk.image.random = seed
    disk.image.short_one_in = short_one_in
    disk.image.shuffle = shuffle
    disk.image.delay_reaps = delay_reaps
    if space_left_bytes is not None:
        disk.image.capacity_bytes = max(1, disk.image.used_bytes + <uint64_t>space_left_bytes)
    pthread_mutex_unlock(&disk.image.mutex)


def hold(MemoryDisk disk, *points):
    """Let requests of these kinds that are submitted from now on wait for a `release`."""
    cdef uint32_t mask = 0
    for point in points:
        mask |= <uint32_t>1 << <int>FAULT_POINTS[point]
    pthread_mutex_lock(&disk.image.mutex)
    disk.image.hold_mask = mask
    pthread_mutex_unlock(&disk.image.mutex)


def release(MemoryDisk disk, uint64_t count=<uint64_t>-1):
    """Let the oldest `count` held requests complete, and wake who waits for them."""
    with nogil:
        image_release(disk.image, count)


def power_cut(MemoryDisk disk, *, uint64_t seed=0, str mode="random"):
    """Lose power: the image becomes what the medium holds; engines open on it fail with EIO.

    mode: "drop" leaves what was synced; "keep" everything; "random" keeps, drops or takes an
    earlier version of each unsynced 512-byte sector, size and directory change by itself.
    """
    cdef int code = POWER_MODES[mode]
    cdef int result
    with nogil:
        result = image_power_cut(disk.image, seed, code)
    if result < 0:
        raise MemoryError


def advance(int operation, uint32_t length, uint32_t alignment, list outcomes):
    """Feed outcomes to `io_advance`: (done, result, moved, outcomes used)."""
    cdef IoRequest request
    cdef IoStats stats
    cdef bint done = False
    cdef uint32_t used = 0
    memset(&request, 0, sizeof(request))
    memset(&stats, 0, sizeof(stats))
    request.operation = <uint8_t>operation
    request.length_bytes = length
    io_begin(&request, NULL, 0)
    for outcome in outcomes:
        done = io_advance(&request, outcome, alignment, &stats)
        used += 1
        if done:
            break
    return done, request.result, request.moved_bytes, used


def name_check(bytes name):
    return io_name_check(name)


def latency_bucket(uint64_t latency_us):
    return io_latency_bucket(latency_us)


# ---- native loops for bench/io_raw.py ------------------------------------------------------------

cdef struct LoopState:
    uint64_t random             # xorshift64 state; source: G. Marsaglia, "Xorshift RNGs" (2003)
    uint64_t blocks
    uint64_t next_block
    uint32_t file
    uint32_t block_bytes
    bint is_write


cdef inline void loop_request(LoopState* loop, IoRequest* request) noexcept nogil:
    cdef uint64_t block
    if loop.is_write:
        block = loop.next_block % loop.blocks
        loop.next_block += 1
    else:
        loop.random ^= loop.random << 13
        loop.random ^= loop.random >> 7
        loop.random ^= loop.random << 17
        block = loop.random % loop.blocks
    request.operation = IO_WRITE if loop.is_write else IO_READ
    request.file = loop.file
    request.offset_bytes = block * loop.block_bytes


cdef int64_t loop_run(IoChannel* channel, LoopState* loop, IoRequest* requests, uint32_t depth,
                      int64_t end_ns, uint64_t* errors) noexcept nogil:
    """Keep `depth` requests in flight until the time is over; the number finished."""
    cdef IoRequest* batch[4096]
    cdef uint32_t index, wanted = max(1, depth // 4)
    cdef int64_t finished = 0
    cdef int count
    for index in range(depth):
        loop_request(loop, &requests[index])
        batch[index] = &requests[index]
    count = <int>depth
    while True:
        count = channel.ops.submit(channel, batch, <uint32_t>count)
        if count < 0:
            return count
        count = channel.ops.reap(channel, batch, depth, wanted, -1)
        if count < 0:
            return count
        finished += count
        for index in range(<uint32_t>count):
            if batch[index].result != batch[index].length_bytes:
                errors[0] += 1
            loop_request(loop, batch[index])
        if ec_monotonic_ns() >= end_ns:
            break
    while channel.in_flight > 0:
        count = channel.ops.reap(channel, batch, depth, channel.in_flight, -1)
        if count < 0:
            return count
        finished += count
    return finished


def run_loop(IoEngine engine, uint32_t file, uint64_t size_bytes, uint32_t block_bytes,
             uint32_t depth, double seconds, bint is_write=False, uint64_t seed=1,
             bint fixed=True):
    """Random reads or sequential writes at a queue depth: (operations, seconds, errors).

    Raises: OSError when the channel cannot be opened or breaks.
    """
    cdef IoRequest* requests = <IoRequest*>calloc(depth, sizeof(IoRequest))
    cdef char* memory = aligned_new(<size_t>depth * block_bytes)
    cdef IoChannel* channel = NULL
    cdef LoopState loop
    cdef uint32_t index
    cdef uint64_t errors = 0
    cdef int64_t begin_ns, finished
    cdef int registered = -1
    if not 1 <= depth <= 4096:
        raise ValueError("depth")
    if fixed:
        registered = engine.ops.register_buffer(engine.state, memory, <uint64_t>depth * block_bytes)
    memset(&loop, 0, sizeof(loop))
    loop.random = seed * <uint64_t>0x9E3779B97F4A7C15 | 1
    loop.blocks = size_bytes // block_bytes
    loop.file = file
    loop.block_bytes = block_bytes
    loop.is_write = is_write
    for index in range(depth):
        requests[index].buffer = memory + <size_t>index * block_bytes
        requests[index].length_bytes = block_bytes
        requests[index].buffer_index = 0 if registered == 0 else -1
    finished = engine.ops.channel_open(engine.state, depth, False, &channel)
    begin_ns = ec_monotonic_ns()
    if finished >= 0:
        with nogil:
            finished = loop_run(channel, &loop, requests, depth,
                                begin_ns + <int64_t>(seconds * 1e9), &errors)
    taken = (ec_monotonic_ns() - begin_ns) / 1e9
    if channel != NULL:
        channel.ops.channel_close(channel)
    free(requests)
    # A registered region stays pinned until the engine closes; the caller uses one engine per run.
    if registered != 0:
        free(memory)
    if finished < 0:
        raise OSError(-finished, "raw loop")
    return finished, taken, errors
