"""The memory engine: the state of an engine over an image, its open files and channels."""

from libc.errno cimport EBADF, ECHILD, EIO
from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._debug cimport EDGECACHE_DEBUG, ec_assert
from edgecache._io cimport IO_SYNC, IoChannel, IoEngineOps, IoRequest, IoStats
from edgecache._io_memory_pages cimport (
    PAGE_BYTES, SECTOR_BYTES, Image, Node, Page, image_fault, pthread_mutex_lock,
    pthread_mutex_unlock,
)
from edgecache._io_memory_tree cimport node_drop_live

cdef extern from "unistd.h":
    int c_getpid "getpid"() noexcept nogil

cdef enum:
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

cdef inline int engine_enter(MemoryState* state, int point) noexcept nogil:
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

cdef inline void image_check_locked(Image* image) noexcept nogil:
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

cdef inline MemoryFile* file_find(MemoryState* state, uint32_t index) noexcept nogil:
    if index >= state.file_count or not state.files[index].is_open:
        return NULL
    return &state.files[index]

cdef inline void file_release(MemoryState* state, uint32_t index) noexcept nogil:
    """One user, or the open itself, is gone."""
    cdef MemoryFile* file = &state.files[index]
    if file.node != NULL and not file.is_open and file.users == 0:
        node_drop_live(state.image, file.node)
        file.node = NULL
