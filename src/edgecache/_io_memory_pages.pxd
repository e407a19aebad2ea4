"""The memory engine: a disk image in RAM that knows what a power loss would leave of it.

Here its structs and the content of files; `_io_memory_tree` has the names.

Invariants of an image, under `mutex`:

1. `live` of a page is what reads return; NULL reads as zeros. Beyond a file's size it is zero.
2. A sector is clean (live is durable), dirty (written since the last sync: a power loss keeps or
   drops it) or lost (a sync failed on it: reads see it, the medium never will). dirty and lost
   exclude each other. A page with a dirty or lost sector is `shadowed`: `durable` has its content
   on the medium. `earlier` has, for the sectors in `rewritten`, an unsynced version that was
   overwritten; it may reach the medium instead of the last one.
3. Entries exist twice: `entries` (what names mean now) and `durable_entries` (after a power loss).
   `journal` lists what turns the second into the first, in order.
4. `references` of a node counts its entries of both kinds, its journal records and its opens;
   `live_references` those that keep its space allocated: live entries and opens.

Source: T. Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014) for what may be
reordered; A. Rebello et al., "Can Applications Recover from fsync Failures?" (ATC 2020) for lost
sectors after a failed sync.
"""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef enum:
    SECTOR_BYTES = 512
    BLOCK_BYTES = 4096              # unit of space
    PAGE_BYTES = 65536
    PAGE_SECTORS = 128
    PAGE_BLOCKS = 16
    FILE_BYTES_MAX = 0x10000000000  # keeps the page table of a sparse file small
    FAULTS_MAX = 64
    NAME_BYTES = 256

cdef enum FaultPoint:               # after IoOperation
    FAULT_OPEN = 3
    FAULT_SIZE = 4
    FAULT_ALLOCATE = 5
    FAULT_TRUNCATE = 6
    FAULT_UNLINK = 7
    FAULT_RENAME = 8
    FAULT_MAKE_DIRECTORY = 9
    FAULT_SYNC_DIRECTORY = 10
    FAULT_LIST = 11
    FAULT_POINTS = 12

cdef enum JournalKind:
    JOURNAL_LINK = 0
    JOURNAL_UNLINK = 1
    JOURNAL_RENAME = 2
    JOURNAL_EXCHANGE = 3

cdef enum PowerMode:
    POWER_DROP = 0                  # only what was synced is left
    POWER_KEEP = 1                  # everything reached the medium
    POWER_RANDOM = 2                # each sector and each directory change by itself

cdef struct Page:
    char* live
    char* durable
    char* earlier
    uint64_t[2] dirty
    uint64_t[2] lost
    uint64_t[2] rewritten
    uint16_t blocks                 # that have space
    bint shadowed

cdef struct Entry:
    char[256] name
    Node* node
    Entry* next

cdef struct Node:
    bint is_directory
    uint32_t references
    uint32_t live_references
    uint64_t size_bytes
    uint64_t durable_size_bytes
    uint64_t page_count
    Page* pages
    Entry* entries
    Entry* durable_entries
    uint64_t commit_limit           # scratch of directory_commit
    Node* previous
    Node* next                      # all nodes of the image

cdef struct JournalRecord:
    int kind
    bint commit                     # scratch
    Node* parent
    Node* node
    Node* target_parent
    char[256] name
    char[256] target_name

cdef struct FaultRule:
    int point
    int error                       # positive errno
    uint64_t skip                   # calls that still succeed
    int64_t count                   # calls that fail after that; < 0: all

cdef struct Image:
    pthread_mutex_t mutex
    Node* root
    Node* nodes
    JournalRecord* journal
    uint64_t journal_count
    uint64_t journal_capacity
    uint64_t capacity_bytes         # 0: no limit
    uint64_t used_bytes
    uint32_t generation             # counts power losses; engines of an older one get EIO
    uint64_t random                 # state of the generator below
    uint32_t short_one_in           # 0: never
    bint shuffle                    # completions come out of order
    uint32_t hold_mask              # by IoOperation: completions wait for a release
    uint32_t delay_reaps            # a request completes in that many reaps more
    FaultRule[64] faults
    uint32_t fault_count
    uint32_t wake_word              # futex of reaps that wait for a release
    void* channels                  # of all engines on this image

# Source: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
cdef inline uint64_t image_random(Image* image) noexcept nogil:
    cdef uint64_t z
    image.random += <uint64_t>0x9E3779B97F4A7C15
    z = image.random
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)

cdef inline int image_fault(Image* image, int point) noexcept nogil:
    """The negative errno that this call is to fail with, or 0."""
    cdef uint32_t index
    cdef FaultRule* rule
    for index in range(image.fault_count):
        rule = &image.faults[index]
        if rule.point != point or rule.count == 0:
            continue
        if rule.skip > 0:
            rule.skip -= 1
            continue
        if rule.count > 0:
            rule.count -= 1
        return -rule.error
    return 0

# ---- pages ---------------------------------------------------------------------------------------

cdef inline bint bit_get(const uint64_t* bits, uint32_t index) noexcept nogil:
    return (bits[index // 64] >> (index % 64)) & 1

cdef inline void bit_set(uint64_t* bits, uint32_t index) noexcept nogil:
    bits[index // 64] |= <uint64_t>1 << (index % 64)

cdef inline void bit_clear(uint64_t* bits, uint32_t index) noexcept nogil:
    bits[index // 64] &= ~(<uint64_t>1 << (index % 64))

cdef inline void sector_copy(char* target, const char* source, uint32_t sector) noexcept nogil:
    """Copy one sector between pages; a NULL source is zeros."""
    if source == NULL:
        memset(target + sector * SECTOR_BYTES, 0, SECTOR_BYTES)
    else:
        memcpy(target + sector * SECTOR_BYTES, source + sector * SECTOR_BYTES, SECTOR_BYTES)

cdef inline Page* node_page(Node* node, uint64_t index) noexcept nogil:
    """The page, with the table grown to it; NULL without memory."""
    cdef Page* pages
    cdef uint64_t count
    if index >= node.page_count:
        count = max(index + 1, node.page_count * 2 if node.page_count < 4096 else index + 1024)
        pages = <Page*>realloc(node.pages, count * sizeof(Page))
        if pages == NULL:
            return NULL
        memset(pages + node.page_count, 0, (count - node.page_count) * sizeof(Page))
        node.pages = pages
        node.page_count = count
    return &node.pages[index]

cdef inline bint page_prepare(Page* page) noexcept nogil:
    """Give a page its live copy and its shadow. False without memory."""
    if page.live == NULL:
        page.live = <char*>calloc(1, PAGE_BYTES)
        if page.live == NULL:
            return False
        # What was a hole is one on the medium too: the shadow needs no memory.
    elif not page.shadowed and page.durable == NULL:
        page.durable = <char*>malloc(PAGE_BYTES)
        if page.durable == NULL:
            return False
        memcpy(page.durable, page.live, PAGE_BYTES)
    page.shadowed = True
    return True

cdef inline bint page_touch(Page* page, uint32_t first, uint32_t last) noexcept nogil:
    """Note that the sectors first..last are about to be overwritten. False without memory."""
    cdef uint32_t sector
    if not page_prepare(page):
        return False
    for sector in range(first, last + 1):
        if bit_get(page.dirty, sector):
            if page.earlier == NULL:
                page.earlier = <char*>malloc(PAGE_BYTES)
                if page.earlier == NULL:
                    return False
            sector_copy(page.earlier, page.live, sector)
            bit_set(page.rewritten, sector)
        bit_set(page.dirty, sector)
        bit_clear(page.lost, sector)
    return True

cdef inline void page_settle(Page* page) noexcept nogil:
    """Drop the copies that a page without dirty sectors does not need."""
    page.dirty[0] = page.dirty[1] = 0
    page.rewritten[0] = page.rewritten[1] = 0
    free(page.earlier)
    page.earlier = NULL
    if page.lost[0] == 0 and page.lost[1] == 0:
        free(page.durable)
        page.durable = NULL
        page.shadowed = False

cdef inline int page_sync(Page* page, bint fails) noexcept nogil:
    """Make dirty sectors durable, or lost when the sync fails. 0 or -ENOMEM."""
    cdef uint32_t sector
    cdef bint keeps_shadow = fails or page.lost[0] != 0 or page.lost[1] != 0
    if page.dirty[0] == 0 and page.dirty[1] == 0:
        return 0
    if keeps_shadow and not fails and page.durable == NULL:
        page.durable = <char*>calloc(1, PAGE_BYTES)
        if page.durable == NULL:
            return -ENOMEM
    for sector in range(PAGE_SECTORS if keeps_shadow else 0):
        if not bit_get(page.dirty, sector):
            continue
        if fails:
            bit_set(page.lost, sector)
        else:
            sector_copy(page.durable, page.live, sector)
    page_settle(page)
    return 0

cdef inline void page_power_cut(Page* page, Image* image, int mode) noexcept nogil:
    """Turn the page into what a power loss leaves."""
    cdef uint32_t sector
    cdef uint64_t chance
    if not page.shadowed:
        return
    for sector in range(PAGE_SECTORS):
        if bit_get(page.lost, sector):
            sector_copy(page.live, page.durable, sector)
        elif bit_get(page.dirty, sector) and mode != POWER_KEEP:
            chance = image_random(image) % 4
            if mode == POWER_DROP or chance < 2:
                sector_copy(page.live, page.durable, sector)
            elif chance == 2 and bit_get(page.rewritten, sector):
                sector_copy(page.live, page.earlier, sector)
    page.lost[0] = page.lost[1] = 0
    page_settle(page)

# Blocks of a page that [begin, end) touches and that have no space yet.
cdef inline uint16_t page_missing(const Page* page, uint32_t begin, uint32_t end) noexcept nogil:
    cdef uint32_t block
    cdef uint16_t found = 0
    for block in range(begin // BLOCK_BYTES, (end + BLOCK_BYTES - 1) // BLOCK_BYTES):
        found |= <uint16_t>(1 << block)
    return found & ~page.blocks

cdef inline uint32_t page_reserve(Image* image, Page* page, uint32_t begin,
                                  uint32_t end) noexcept nogil:
    """Give [begin, end) space, as far as there is some; returns how far it goes."""
    cdef uint16_t missing = page_missing(page, begin, end)
    cdef uint32_t block
    for block in range(PAGE_BLOCKS):
        if not missing >> block & 1:
            continue
        if image.capacity_bytes > 0 and image.used_bytes + BLOCK_BYTES > image.capacity_bytes:
            return max(begin, block * BLOCK_BYTES)
        image.used_bytes += BLOCK_BYTES
        page.blocks |= <uint16_t>(1 << block)
    return end

cdef inline uint64_t page_used_bytes(const Page* page) noexcept nogil:
    cdef uint32_t block
    cdef uint64_t found = 0
    for block in range(PAGE_BLOCKS):
        if page.blocks >> block & 1:
            found += BLOCK_BYTES
    return found

cdef inline uint64_t node_used_bytes(const Node* node) noexcept nogil:
    cdef uint64_t index, found = 0
    for index in range(node.page_count):
        found += page_used_bytes(&node.pages[index])
    return found

# ---- file content --------------------------------------------------------------------------------

cdef inline int64_t node_read(const Node* node, uint64_t offset, char* buffer,
                              uint64_t length) noexcept nogil:
    cdef uint64_t done = 0, part, index
    cdef const char* live
    if offset >= node.size_bytes:
        return 0
    length = min(length, node.size_bytes - offset)
    while done < length:
        index = (offset + done) // PAGE_BYTES
        part = min(length - done, PAGE_BYTES - (offset + done) % PAGE_BYTES)
        live = node.pages[index].live if index < node.page_count else NULL
        if live == NULL:
            memset(buffer + done, 0, part)
        else:
            memcpy(buffer + done, live + (offset + done) % PAGE_BYTES, part)
        done += part
    return <int64_t>done

cdef inline int64_t node_write(Image* image, Node* node, uint64_t offset, const char* buffer,
                               uint64_t length) noexcept nogil:
    """Bytes written (fewer when the space ends), -ENOSPC or -ENOMEM."""
    cdef uint64_t done = 0
    cdef uint32_t begin, end, reserved
    cdef Page* page
    while done < length:
        begin = <uint32_t>((offset + done) % PAGE_BYTES)
        end = <uint32_t>min(<uint64_t>PAGE_BYTES, begin + (length - done))
        page = node_page(node, (offset + done) // PAGE_BYTES)
        if page == NULL:
            return -ENOMEM
        reserved = page_reserve(image, page, begin, end)
        if reserved == begin:
            break
        if not page_touch(page, begin // SECTOR_BYTES, (reserved - 1) // SECTOR_BYTES):
            return -ENOMEM
        memcpy(page.live + begin, buffer + done, reserved - begin)
        done += reserved - begin
        if reserved < end:
            break
    if done > 0:
        node.size_bytes = max(node.size_bytes, offset + done)
    return <int64_t>done if done > 0 or length == 0 else -ENOSPC

cdef inline int node_truncate(Image* image, Node* node, uint64_t size_bytes) noexcept nogil:
    cdef uint64_t index = size_bytes // PAGE_BYTES
    cdef uint64_t before
    cdef uint32_t begin = <uint32_t>(size_bytes % PAGE_BYTES), block
    cdef Page* page
    while size_bytes < node.size_bytes and index < node.page_count:
        page = &node.pages[index]
        if page.live != NULL:
            if not page_touch(page, begin // SECTOR_BYTES, PAGE_SECTORS - 1):
                return -ENOMEM
            memset(page.live + begin, 0, PAGE_BYTES - begin)
        before = page_used_bytes(page)
        for block in range((begin + BLOCK_BYTES - 1) // BLOCK_BYTES, PAGE_BLOCKS):
            page.blocks &= ~<uint16_t>(1 << block)
        image.used_bytes -= before - page_used_bytes(page)
        begin = 0
        index += 1
    node.size_bytes = size_bytes
    return 0
