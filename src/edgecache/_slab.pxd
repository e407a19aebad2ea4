"""Pages of the RAM tier: slots of one size, extents of frames, a hard limit in pages.

The area is an array of pages: 64 KiB where that makes 1024 of them, smaller ones, down to 4 KiB, in
a smaller area (with 60 classes, few large pages would stand almost empty). A page in use holds
either slots of one size class (up to an eighth of a page) or 64 frames; an extent is a row of
frames, which may cross into the next frame page. Everything starts with an EvictNode whose
`size_bytes` is the size of its slot or extent, and 0 while the slot is free.

    reference r   <->   byte (r - 1) * SLAB_GRANULE_BYTES of the area; 0 is the null reference

    SlabPage, 48 bytes, one per page (0.07 % of the area at 64 KiB, 1.2 % at 4 KiB)
    | 0             8 | 8             16 | 16    20 | 20    24 | 24         28 | 28          32 |
    | used_frames u64 | start_frames u64 | prev u32 | next u32 | free_slot u32 | live_bytes u32 |
    | 32          36 | 36          38 | 38           40 | 40                               48 |
    | busy_count u32 | used_count u16 | fresh_count u16 | kind, size_class, closing, dirty u8; |
    |                |                |                 | 4 bytes zero                         |

Invariants:
1. A page is free, or its kind is SLOTS or FRAMES and something on it is in use: the last slot or
   frame returns the page at once, so that any class can take it.
2. `used_pages` counts the pages that are not free and never exceeds `page_limit`; used pages and
   free pages that still have memory behind them (`dirty`) together do not exceed it either.
3. A SLOTS page's free slots are linked from `free_slot` through the u32 that follows the header
   (SLAB_LINK_OFFSET); slots from `fresh_count` on were never handed out since the page was taken.
4. A SLOTS page with a slot to give is in the list of its class, unless it is being emptied
   (`closing`); FREE pages below `page_high` are in the free list; pages from `page_high` on are
   free, untouched and have no valid entry.
5. Extents do not overlap; a used frame without a start bit continues the extent before it.
6. `live_bytes` is the sum of what is in use on the page; `busy_count` counts the reasons (a pin,
   being filled) for which objects that touch it must stay.
7. No hole of free frames in FRAMES pages is longer than `hole_frames_max`, which spares searches.
8. With `is_file` a page has memory before it is used; no page is used without.
9. Huge pages are asked for by spans of 2 MiB, before the first page of a span is used, and only for
   spans that the limit covers. Pages before `huge_pages` may have memory that came with a span;
   where that is above `page_high`, it is not above the limit.

A header can be read at any time without the lock once its slot has been handed out: slots of a page
stay where they are until the page is returned. Free slots keep the header's other fields.

Source: J. Bonwick, "The Slab Allocator" (USENIX 1994) for slots and page return; first fit with
coalescing by bitmap as in D. Knuth, TAOCP 1, 2.5.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._evict cimport EvictNode

cdef enum:
    SLAB_GRANULE_BYTES = 8
    SLAB_PAGE_SHIFT_MIN = 12            # what the operating system takes back
    SLAB_PAGE_SHIFT_MAX = 16
    SLAB_PAGE_SIZES = 5
    SLAB_PAGES_WANTED = 1024
    SLAB_SPAN_BYTES = 2097152           # a huge page of x86-64 and of aarch64 with 4 KiB pages
    SLAB_FRAMES_PER_PAGE = 64           # one bit each in a u64
    HOLE_LOOK_PAGES = 32                # looked at per search for a hole
    SLAB_SLOT_BYTES_MIN = 40
    SLAB_SLOT_GRANULES_MAX = 1024       # an eighth of the largest page
    SLAB_CLASS_COUNT_MAX = 64
    SLAB_LINK_OFFSET = 32               # past the header, which readers without the lock may look
    at

cdef enum SlabPageKind:
    SLAB_PAGE_FREE = 0
    SLAB_PAGE_SLOTS = 1
    SLAB_PAGE_FRAMES = 2

cdef struct SlabPage:
    uint64_t used_frames
    uint64_t start_frames
    uint32_t prev                       # page number + 1, 0: none
    uint32_t next
    uint32_t free_slot                  # reference
    uint32_t live_bytes
    uint32_t busy_count
    uint16_t used_count
    uint16_t fresh_count
    uint8_t kind
    uint8_t size_class
    uint8_t closing
    uint8_t dirty
    uint32_t zero

cdef struct SlabState:                  # in the arena
    uint64_t area_offset
    uint64_t table_offset               # SlabPage[page_count], from the arena base
    uint32_t page_shift
    uint32_t page_count
    uint32_t page_high
    uint32_t page_limit                 # enforced
    uint32_t page_target                # asked for; below page_limit while pins hold pages
    uint32_t used_pages
    uint32_t dirty_pages                # free pages with memory behind them
    uint32_t free_page                  # head of the free list, page number + 1
    uint32_t page_epoch                 # pages taken: what a reference meant may have changed
    uint32_t huge_pages                 # pages before this one may be parts of huge pages
    uint32_t hole_page                  # where the search for a hole goes on
    uint32_t hole_frames_max            # no hole in FRAMES pages is longer (upper bound)
    uint32_t hole_frames_seen           # the same for the pages before hole_page
    uint32_t is_file                    # pages must be asked for before they are used (_pages.pxd)
    uint32_t refused_wait               # not 0: memory was refused; so many pages are not asked for
    uint64_t refused_count
    uint32_t partial_pages[SLAB_CLASS_COUNT_MAX]

cdef uint64_t slab_table_bytes(uint64_t area_size_bytes) noexcept nogil
cdef void slab_init(SlabState* state, uint64_t area_offset, uint64_t area_size_bytes,
                    uint64_t table_offset, uint64_t limit_bytes) noexcept nogil
# The size that an object of that many bytes occupies (a slot's or whole frames); 0: too large.
cdef uint32_t slab_rounded_bytes(const SlabState* state, uint64_t size_bytes) noexcept nogil
cdef uint32_t slab_class_count(const SlabState* state) noexcept nogil
cdef uint32_t slab_class_bytes(const SlabState* state, uint32_t size_class) noexcept nogil

# For all below `size_bytes` is a rounded size. A reference, or 0: nothing free. With `new_page` a
# free page may be taken as long as the limit holds.
cdef uint32_t slab_take(char* base, SlabState* state, uint32_t size_bytes,
                        bint new_page) noexcept nogil
# A free slot of one of the next classes up, at most a quarter larger, on a page in use.
cdef uint32_t slab_take_larger(char* base, SlabState* state, uint32_t size_bytes) noexcept nogil
# An extent in the hole around `reference`, which was just given back; 0: the hole is too small.
cdef uint32_t slab_take_near(char* base, SlabState* state, uint32_t reference,
                             uint32_t size_bytes) noexcept nogil
# An extent from frame `frame` on; the caller made its frames free and keeps to the limit.
cdef uint32_t slab_take_at(char* base, SlabState* state, uint64_t frame,
                           uint32_t size_bytes) noexcept nogil
cdef void slab_give(char* base, SlabState* state, uint32_t reference) noexcept nogil
# Pinned or being filled (+1), no more (-1): pages with such an object are never emptied.
cdef void slab_busy_add(char* base, SlabState* state, uint32_t reference,
                        int32_t delta) noexcept nogil

# The cheapest row of `page_count` pages (fewest live bytes, nothing busy) with at most
# `free_pages_max` free ones. False: there is none.
cdef bint slab_window_find(char* base, SlabState* state, uint32_t page_count,
                           uint32_t free_pages_max, uint32_t* page) noexcept nogil
# While a window is closing nothing is taken from its pages.
cdef void slab_window_close(char* base, SlabState* state, uint32_t page, uint32_t page_count,
                            bint closing) noexcept nogil
# The next object in use whose first byte lies in [*position, end) of the area; 0: none.
cdef uint32_t slab_next(char* base, SlabState* state, uint64_t* position,
                        uint64_t end) noexcept nogil
# The extent that starts before `frame` and covers it; 0: none does.
cdef uint32_t slab_covering(char* base, SlabState* state, uint64_t frame) noexcept nogil
cdef bint slab_page_has_slots(char* base, SlabState* state, uint32_t page,
                              uint32_t size_bytes) noexcept nogil

# Give the memory of free pages back to the operating system; returns the bytes.
cdef uint64_t slab_trim(char* base, SlabState* state) noexcept nogil
# A lower limit holds as soon as the used pages allow it; until then no page is taken.
cdef void slab_set_limit(char* base, SlabState* state, uint32_t page_limit) noexcept nogil

# Pages that may still be taken.
cdef inline uint32_t headroom_pages(const SlabState* state) noexcept nogil:
    if state.refused_wait or state.page_limit <= state.used_pages:
        return 0
    return state.page_limit - state.used_pages

cdef inline uint32_t page_bytes(const SlabState* state) noexcept nogil:
    return <uint32_t>1 << state.page_shift

cdef inline uint32_t frame_shift(const SlabState* state) noexcept nogil:
    return state.page_shift - 6

# Larger objects are extents; frames of 1/64 of a page then cost at most 12.5 %.
cdef inline uint32_t slot_bytes_max(const SlabState* state) noexcept nogil:
    return <uint32_t>1 << (state.page_shift - 3)

cdef inline SlabPage* slab_page(char* base, const SlabState* state, uint32_t page) noexcept nogil:
    return <SlabPage*>(base + state.table_offset) + page

cdef inline uint64_t slab_position(uint32_t reference) noexcept nogil:
    return <uint64_t>(reference - 1) * SLAB_GRANULE_BYTES

cdef inline uint32_t slab_reference(uint64_t position) noexcept nogil:
    return <uint32_t>(position // SLAB_GRANULE_BYTES) + 1

cdef inline EvictNode* slab_node(char* base, const SlabState* state,
                                 uint32_t reference) noexcept nogil:
    return <EvictNode*>(base + state.area_offset + slab_position(reference))

cdef inline uint32_t* slab_link(char* base, const SlabState* state,
                                uint32_t reference) noexcept nogil:
    return <uint32_t*>(base + state.area_offset + slab_position(reference) + SLAB_LINK_OFFSET)
