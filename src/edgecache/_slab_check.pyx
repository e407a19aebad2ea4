"""The invariants of _slab.pxd, one by one."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from edgecache._slab cimport (
    SLAB_CLASS_COUNT_MAX, SLAB_PAGE_FRAMES, SLAB_PAGE_FREE, SLAB_PAGE_SLOTS, SlabPage, SlabState,
    frame_shift, page_bytes, slab_class_bytes, slab_class_count, slab_link, slab_next, slab_node,
    slab_page, slab_position,
)
from edgecache._slab_holes cimport hole_find


cdef inline bint page_can_give(const SlabState* state, const SlabPage* page) noexcept nogil:
    return page.free_slot != 0 \
        or page.fresh_count < page_bytes(state) // slab_class_bytes(state, page.size_class)


cdef inline uint32_t frames_count(uint64_t word) noexcept nogil:
    cdef uint32_t count = 0
    while word:
        word &= word - 1
        count += 1
    return count


# 0, or the number of the broken invariant of this page by itself.
cdef int page_check(char* base, SlabState* state, uint32_t number) noexcept nogil:
    cdef SlabPage* page = slab_page(base, state, number)
    cdef uint64_t position = <uint64_t>number << state.page_shift, frame, last
    cdef uint64_t end = position + page_bytes(state)
    cdef uint32_t reference, used = 0, free = 0
    if page.kind == SLAB_PAGE_FREE:
        return 6 if page.live_bytes or page.busy_count or page.used_count else 0
    if page.live_bytes == 0 or not page.dirty:
        return 1
    if page.kind == SLAB_PAGE_SLOTS:
        while slab_next(base, state, &position, end):
            used += 1
        reference = page.free_slot
        while reference and free <= page.fresh_count:
            if slab_position(reference) >> state.page_shift != number \
                    or slab_node(base, state, reference).size_bytes:
                return 3
            free += 1
            reference = slab_link(base, state, reference)[0]
        if used != page.used_count or used + free != page.fresh_count:
            return 3
        return 0 if page.live_bytes == used * slab_class_bytes(state, page.size_class) else 6
    if page.start_frames & ~page.used_frames:
        return 5
    while True:
        reference = slab_next(base, state, &position, end)
        if reference == 0:
            break
        frame = slab_position(reference) >> frame_shift(state)
        last = frame + (slab_node(base, state, reference).size_bytes >> frame_shift(state))
        frame += 1
        while frame < last:
            page = slab_page(base, state, <uint32_t>(frame >> 6))
            if page.kind != SLAB_PAGE_FRAMES or not ((page.used_frames >> (frame & 63)) & 1) \
                    or (page.start_frames >> (frame & 63)) & 1:
                return 5
            frame += 1
    page = slab_page(base, state, number)
    used = frames_count(page.used_frames)
    return 0 if page.live_bytes == used << frame_shift(state) else 6


# Pages in a list, which must be exactly those that `wanted` (counted by the caller) belong there.
cdef int list_check(char* base, SlabState* state, uint32_t head, uint32_t wanted, int kind,
                    uint32_t size_class) noexcept nogil:
    cdef uint32_t count = 0, previous = 0
    cdef SlabPage* page
    while head:
        page = slab_page(base, state, head - 1)
        if page.kind != kind or page.prev != previous or count == wanted \
                or (kind == SLAB_PAGE_SLOTS and (page.size_class != size_class or page.closing
                                                 or not page_can_give(state, page))):
            return 4
        count += 1
        previous = head
        head = page.next
    return 0 if count == wanted else 4


cdef int slab_check(char* base, SlabState* state) noexcept nogil:
    cdef uint32_t number, size_class, used = 0, free = 0, dirty = 0, longest = 0
    cdef uint32_t partial[SLAB_CLASS_COUNT_MAX]
    cdef SlabPage* page
    cdef int broken
    memset(partial, 0, sizeof(partial))
    for number in range(state.page_high):
        broken = page_check(base, state, number)
        if broken:
            return broken
        page = slab_page(base, state, number)
        if page.kind == SLAB_PAGE_FREE:
            free += 1
            dirty += page.dirty
        else:
            used += 1
            if page.kind == SLAB_PAGE_SLOTS and page_can_give(state, page) and not page.closing:
                partial[page.size_class] += 1
    if used != state.used_pages or dirty != state.dirty_pages or used > state.page_limit \
            or used + dirty > state.page_limit or state.page_limit < state.page_target:
        return 2
    for size_class in range(slab_class_count(state)):
        if list_check(base, state, state.partial_pages[size_class], partial[size_class],
                      SLAB_PAGE_SLOTS, size_class):
            return 4
    if hole_find(base, state, state.hole_frames_max + 1, 0, 0, state.page_high,
                 &longest) >= 0:
        return 7
    if state.huge_pages > max(state.page_high, state.page_limit):
        return 8
    return list_check(base, state, state.free_page, free, SLAB_PAGE_FREE, 0)
