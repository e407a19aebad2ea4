"""Pages, slots and extents of the RAM tier; see _slab.pxd for the structure and its invariants."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from edgecache._pages cimport pages_back, pages_discard
from edgecache._slab_holes cimport (
    HOLE_FRAMES_MAX, frames_mask, hole_around, hole_find, slab_high_bit, slab_low_bit,
)
from edgecache._sync cimport ec_grow_u32

cdef extern from "sys/mman.h" nogil:
    int madvise(void* address, size_t length, int advice)
    enum:
        MADV_HUGEPAGE
        MADV_NOHUGEPAGE

cdef enum:
    REFUSED_WAIT = 1024                 # new pages that are not asked for after a refusal
    REFUSED_STEPS = 4096                # of a search of the free list meanwhile

# Constants after import, per page size: the sizes of the classes, and the class of a size in
# granules.
cdef uint32_t class_bytes[SLAB_PAGE_SIZES][SLAB_CLASS_COUNT_MAX]
cdef uint8_t class_of_granules[SLAB_PAGE_SIZES][SLAB_SLOT_GRANULES_MAX + 1]
cdef uint32_t class_count[SLAB_PAGE_SIZES]


# 8 bytes apart up to 256, then whole fractions of a page, each with an
# eighth fewer slots, so that neither a slot nor the end of a page wastes more. From 4 KiB on sizes
# are multiples of 64: values that start at a multiple of 64 bytes keep their place when a slot
# moves.
cdef void classes_init(uint32_t page_shift) noexcept nogil:
    cdef uint32_t row = page_shift - SLAB_PAGE_SHIFT_MIN, page_bytes = <uint32_t>1 << page_shift
    cdef uint32_t size = SLAB_SLOT_BYTES_MIN, slots = page_bytes // 256, size_max = page_bytes // 8
    cdef uint32_t granules, size_class = 0
    while True:
        class_bytes[row][class_count[row]] = size
        class_count[row] += 1
        if size == size_max:
            break
        if size < 256:
            size += 8
            continue
        slots = (slots * 8 + 8) // 9
        size = page_bytes // slots
        size &= ~<uint32_t>63 if size >= 4096 else ~<uint32_t>7
    for granules in range(size_max // SLAB_GRANULE_BYTES + 1):
        if granules * SLAB_GRANULE_BYTES > class_bytes[row][size_class]:
            size_class += 1
        class_of_granules[row][granules] = <uint8_t>size_class


cdef void all_classes_init() noexcept nogil:
    cdef uint32_t page_shift
    for page_shift in range(SLAB_PAGE_SHIFT_MIN, SLAB_PAGE_SHIFT_MAX + 1):
        classes_init(page_shift)

all_classes_init()


cdef inline uint32_t slot_bytes(const SlabState* state, uint32_t size_class) noexcept nogil:
    return class_bytes[state.page_shift - SLAB_PAGE_SHIFT_MIN][size_class]


cdef inline uint32_t class_of(const SlabState* state, uint32_t size_bytes) noexcept nogil:
    return class_of_granules[state.page_shift - SLAB_PAGE_SHIFT_MIN][
        (size_bytes + SLAB_GRANULE_BYTES - 1) // SLAB_GRANULE_BYTES]


cdef uint32_t slab_class_count(const SlabState* state) noexcept nogil:
    return class_count[state.page_shift - SLAB_PAGE_SHIFT_MIN]


cdef uint32_t slab_class_bytes(const SlabState* state, uint32_t size_class) noexcept nogil:
    return slot_bytes(state, size_class)


cdef uint32_t slab_rounded_bytes(const SlabState* state, uint64_t size_bytes) noexcept nogil:
    cdef uint64_t frame_bytes = <uint64_t>1 << frame_shift(state)
    cdef uint64_t rounded = (size_bytes + frame_bytes - 1) & ~(frame_bytes - 1)
    if size_bytes <= slot_bytes_max(state):
        return slot_bytes(state, class_of(state, <uint32_t>size_bytes))
    return <uint32_t>rounded if rounded <= <uint64_t>0xFFFFFFFF else 0


# So many pages that each class can have a few: the smaller the area, the smaller its pages.
cdef uint32_t page_shift_of(uint64_t area_size_bytes) noexcept nogil:
    cdef uint32_t page_shift = SLAB_PAGE_SHIFT_MAX
    while page_shift > SLAB_PAGE_SHIFT_MIN and area_size_bytes >> page_shift < SLAB_PAGES_WANTED:
        page_shift -= 1
    return page_shift


cdef uint64_t slab_table_bytes(uint64_t area_size_bytes) noexcept nogil:
    cdef uint64_t page_count = area_size_bytes >> page_shift_of(area_size_bytes)
    return (page_count * sizeof(SlabPage) + 63) & ~<uint64_t>63


cdef void slab_init(SlabState* state, uint64_t area_offset, uint64_t area_size_bytes,
                    uint64_t table_offset, uint64_t limit_bytes) noexcept nogil:
    memset(state, 0, sizeof(SlabState))
    state.page_shift = page_shift_of(area_size_bytes)
    state.area_offset = area_offset
    state.table_offset = table_offset
    state.page_count = <uint32_t>(area_size_bytes >> state.page_shift)
    state.page_limit = min(<uint32_t>(limit_bytes >> state.page_shift), state.page_count)
    state.page_target = state.page_limit


# ---------------------------------------------------------------- lists of pages

cdef inline void pages_push(char* base, SlabState* state, uint32_t* head,
                            uint32_t number) noexcept nogil:
    cdef SlabPage* page = slab_page(base, state, number)
    page.prev = 0
    page.next = head[0]
    if head[0]:
        slab_page(base, state, head[0] - 1).prev = number + 1
    head[0] = number + 1


cdef inline void pages_unlink(char* base, SlabState* state, uint32_t* head,
                              uint32_t number) noexcept nogil:
    cdef SlabPage* page = slab_page(base, state, number)
    if page.prev:
        slab_page(base, state, page.prev - 1).next = page.next
    else:
        head[0] = page.next
    if page.next:
        slab_page(base, state, page.next - 1).prev = page.prev
    page.prev = 0
    page.next = 0


# ---------------------------------------------------------------- huge pages

cdef inline uint32_t span_pages(const SlabState* state) noexcept nogil:
    return <uint32_t>(SLAB_SPAN_BYTES >> state.page_shift)


cdef inline char* page_address(char* base, const SlabState* state, uint32_t number) noexcept nogil:
    return base + state.area_offset + (<uint64_t>number << state.page_shift)


# A span before its first touch: one huge page costs a third of the 512 faults that it saves.
# Only where the limit leaves room for the whole span, so that the process stays within its budget.
cdef void span_advise(char* base, SlabState* state, uint32_t number) noexcept nogil:
    if state.is_file or <uint64_t>page_address(base, state, number) % SLAB_SPAN_BYTES \
            or number + span_pages(state) > state.page_limit:
        return
    if madvise(page_address(base, state, number), SLAB_SPAN_BYTES, MADV_HUGEPAGE) == 0:
        state.huge_pages = number + span_pages(state)


# Memory of free pages goes back. A span that loses some must not be made whole again by the kernel.
cdef void pages_give_back(char* base, SlabState* state, uint32_t first,
                          uint32_t count) noexcept nogil:
    cdef uint32_t start = first - first % span_pages(state)
    cdef uint32_t end = min(first + count, state.huge_pages)
    if start < end:
        end += (span_pages(state) - end % span_pages(state)) % span_pages(state)
        madvise(page_address(base, state, start), <uint64_t>(end - start) << state.page_shift,
                MADV_NOHUGEPAGE)
    pages_discard(page_address(base, state, first), <uint64_t>count << state.page_shift)


# The limit falls into spans that are not filled yet: what nobody has used goes.
cdef void spans_cut(char* base, SlabState* state) noexcept nogil:
    cdef uint32_t first = max(state.page_high, state.page_limit)
    if state.huge_pages > first:
        pages_give_back(base, state, first, state.huge_pages - first)
        state.huge_pages = first


# Entries below page_high are valid; pages passed over on the way up are free and untouched.
cdef void page_high_raise(char* base, SlabState* state, uint32_t page_high) noexcept nogil:
    while state.page_high < page_high:
        if state.page_high % span_pages(state) == 0:
            span_advise(base, state, state.page_high)
        memset(slab_page(base, state, state.page_high), 0, sizeof(SlabPage))
        if state.page_high < state.huge_pages:
            slab_page(base, state, state.page_high).dirty = 1
            state.dirty_pages += 1
        pages_push(base, state, &state.free_page, state.page_high)
        state.page_high += 1


# Memory for the pages [first, end) before they are used, where it may be refused. After a refusal
# the slab lives on what it has, as at its limit, and asks again after a while.
cdef bint pages_ready(char* base, SlabState* state, uint32_t first, uint32_t end) noexcept nogil:
    cdef uint32_t number
    cdef SlabPage* page
    if not state.is_file:
        return True
    for number in range(first, end):
        if number < state.page_high:
            page = slab_page(base, state, number)
            if page.kind != SLAB_PAGE_FREE or page.dirty:
                continue
        if pages_back(page_address(base, state, number), page_bytes(state)) == 0:
            continue
        state.refused_count += 1
        state.refused_wait = REFUSED_WAIT
        # What was given before it is not accounted for: it goes back.
        while number > first:
            number -= 1
            page = slab_page(base, state, number)
            if number >= state.page_high or (page.kind == SLAB_PAGE_FREE and not page.dirty):
                pages_discard(page_address(base, state, number), page_bytes(state))
        return False
    return True


# The caller has checked the limit, and that there is memory.
cdef void page_acquire(char* base, SlabState* state, uint32_t number,
                       SlabPageKind kind) noexcept nogil:
    cdef SlabPage* page
    if number >= state.page_high:
        page_high_raise(base, state, number + 1)
    page = slab_page(base, state, number)
    pages_unlink(base, state, &state.free_page, number)
    if page.dirty:
        state.dirty_pages -= 1
    memset(page, 0, sizeof(SlabPage))
    page.kind = kind
    page.dirty = 1
    ec_grow_u32(&state.page_epoch, 1)
    state.used_pages += 1
    if state.used_pages + state.dirty_pages > state.page_limit:
        slab_trim(base, state)


cdef void page_return(char* base, SlabState* state, uint32_t number) noexcept nogil:
    cdef SlabPage* page = slab_page(base, state, number)
    memset(page, 0, sizeof(SlabPage))
    page.dirty = 1
    state.used_pages -= 1
    state.dirty_pages += 1
    pages_push(base, state, &state.free_page, number)
    if state.page_limit > state.page_target:
        state.page_limit = max(state.page_target, state.used_pages)
        spans_cut(base, state)
    if state.used_pages + state.dirty_pages > state.page_limit:
        pages_give_back(base, state, number, 1)
        page.dirty = 0
        state.dirty_pages -= 1


cdef uint64_t slab_trim(char* base, SlabState* state) noexcept nogil:
    cdef uint32_t number = 0, first
    cdef uint64_t bytes = 0
    cdef SlabPage* page
    while number < state.page_high:
        first = number
        while number < state.page_high:
            page = slab_page(base, state, number)
            if page.kind != SLAB_PAGE_FREE or not page.dirty:
                break
            page.dirty = 0
            state.dirty_pages -= 1
            number += 1
        if number > first:
            pages_give_back(base, state, first, number - first)
            bytes += <uint64_t>(number - first) << state.page_shift
        else:
            number += 1
    return bytes


cdef void slab_set_limit(char* base, SlabState* state, uint32_t page_limit) noexcept nogil:
    state.page_target = min(page_limit, state.page_count)
    state.page_limit = max(state.page_target, state.used_pages)
    spans_cut(base, state)
    if state.used_pages + state.dirty_pages > state.page_limit:
        slab_trim(base, state)


# ---------------------------------------------------------------- slots

cdef inline uint32_t page_slot_count(const SlabState* state, const SlabPage* page) noexcept nogil:
    return page_bytes(state) // slot_bytes(state, page.size_class)


cdef inline bint page_can_give(const SlabState* state, const SlabPage* page) noexcept nogil:
    return page.free_slot != 0 or page.fresh_count < page_slot_count(state, page)


cdef inline uint32_t slot_take(char* base, SlabState* state, uint32_t size_class) noexcept nogil:
    cdef uint32_t number = state.partial_pages[size_class], reference
    cdef SlabPage* page
    if number == 0:
        return 0
    number -= 1
    page = slab_page(base, state, number)
    reference = page.free_slot
    if reference:
        page.free_slot = slab_link(base, state, reference)[0]
    else:
        reference = slab_reference((<uint64_t>number << state.page_shift)
                                   + <uint64_t>page.fresh_count * slot_bytes(state, size_class))
        page.fresh_count += 1
    page.used_count += 1
    page.live_bytes += slot_bytes(state, size_class)
    slab_node(base, state, reference).size_bytes = slot_bytes(state, size_class)
    if page.free_slot == 0 and page.fresh_count == page_slot_count(state, page):
        pages_unlink(base, state, &state.partial_pages[size_class], number)
    return reference


cdef inline void slot_give(char* base, SlabState* state, SlabPage* page, uint32_t number,
                           uint32_t reference) noexcept nogil:
    cdef uint32_t size_class = page.size_class
    cdef bint listed = page_can_give(state, page) and not page.closing
    page.used_count -= 1
    page.live_bytes -= slot_bytes(state, size_class)
    if page.used_count == 0:
        if listed:
            pages_unlink(base, state, &state.partial_pages[size_class], number)
        page_return(base, state, number)
        return
    slab_link(base, state, reference)[0] = page.free_slot
    page.free_slot = reference
    if not listed and not page.closing:
        pages_push(base, state, &state.partial_pages[size_class], number)


cdef uint32_t free_page_number(char* base, SlabState* state) noexcept nogil:
    cdef uint32_t number = state.free_page, steps = 0
    if state.used_pages >= state.page_limit:
        return 0
    if state.refused_wait:
        state.refused_wait -= 1
        # Only pages that have kept their memory.
        while state.dirty_pages and number and steps < REFUSED_STEPS:
            if slab_page(base, state, number - 1).dirty:
                return number
            number = slab_page(base, state, number - 1).next
            steps += 1
        return 0
    if number:
        return number
    return state.page_high + 1 if state.page_high < state.page_count else 0


cdef uint32_t slab_take(char* base, SlabState* state, uint32_t size_bytes,
                        bint new_page) noexcept nogil:
    cdef uint32_t size_class, reference, number
    cdef SlabPage* page
    if size_bytes > slot_bytes_max(state):
        return extent_take(base, state, size_bytes, new_page)
    size_class = class_of(state, size_bytes)
    reference = slot_take(base, state, size_class)
    if reference or not new_page:
        return reference
    number = free_page_number(base, state)
    if number == 0 or not pages_ready(base, state, number - 1, number):
        return 0
    page_acquire(base, state, number - 1, SLAB_PAGE_SLOTS)
    page = slab_page(base, state, number - 1)
    page.size_class = <uint8_t>size_class
    pages_push(base, state, &state.partial_pages[size_class], number - 1)
    return slot_take(base, state, size_class)


cdef uint32_t slab_take_larger(char* base, SlabState* state, uint32_t size_bytes) noexcept nogil:
    cdef uint32_t size_class, reference
    if size_bytes > slot_bytes_max(state):
        return 0
    size_class = class_of(state, size_bytes) + 1
    while size_class < slab_class_count(state) \
            and slot_bytes(state, size_class) <= size_bytes + size_bytes // 4:
        reference = slot_take(base, state, size_class)
        if reference:
            return reference
        size_class += 1
    return 0


# ---------------------------------------------------------------- extents

cdef void frames_mark(char* base, SlabState* state, uint64_t frame, uint32_t frames,
                      bint used) noexcept nogil:
    cdef uint32_t number, position, count
    cdef SlabPage* page
    while frames:
        number = <uint32_t>(frame >> 6)
        position = frame & 63
        count = min(SLAB_FRAMES_PER_PAGE - position, frames)
        if used and (number >= state.page_high
                     or slab_page(base, state, number).kind == SLAB_PAGE_FREE):
            page_acquire(base, state, number, SLAB_PAGE_FRAMES)
        page = slab_page(base, state, number)
        page.used_frames ^= frames_mask(position, count)
        if used:
            page.live_bytes += count * (<uint32_t>1 << frame_shift(state))
        else:
            page.live_bytes -= count * (<uint32_t>1 << frame_shift(state))
            if page.used_frames == 0:
                page_return(base, state, number)
        frame += count
        frames -= count


# Somewhere a hole may be that long, whether the running search has passed it or not.
cdef inline void holes_raise(SlabState* state, uint32_t frames) noexcept nogil:
    state.hole_frames_max = max(state.hole_frames_max, frames)
    state.hole_frames_seen = max(state.hole_frames_seen, frames)


cdef uint32_t extent_place(char* base, SlabState* state, uint64_t frame,
                           uint32_t size_bytes) noexcept nogil:
    cdef uint32_t reference = slab_reference(frame << frame_shift(state))
    cdef uint64_t end = frame + (size_bytes >> frame_shift(state))
    if not pages_ready(base, state, <uint32_t>(frame >> 6), <uint32_t>((end + 63) >> 6)):
        return 0
    frames_mark(base, state, frame, size_bytes >> frame_shift(state), True)
    slab_page(base, state, <uint32_t>(frame >> 6)).start_frames |= <uint64_t>1 << (frame & 63)
    slab_node(base, state, reference).size_bytes = size_bytes
    return reference


# The same where some frames may lie in free pages: what is left of the last one is a new hole.
cdef uint32_t extent_place_new(char* base, SlabState* state, uint64_t frame,
                               uint32_t size_bytes) noexcept nogil:
    cdef uint32_t reference = extent_place(base, state, frame, size_bytes), length = 0
    frame += size_bytes >> frame_shift(state)
    if reference and frame & 63:
        hole_around(base, state, frame, HOLE_FRAMES_MAX, 0, &length)
        holes_raise(state, length)
    return reference


# A part of the pages per call, the next part at the next: a full shard has few holes, and the
# search must not cost more than the eviction that makes one. The bound on holes is lowered when one
# round, over as many calls as it takes, is through with all pages.
cdef int64_t hole_look(char* base, SlabState* state, uint32_t frames) noexcept nogil:
    cdef uint32_t first = state.hole_page, end, longest = 0
    cdef int64_t frame
    if first == 0 or first >= state.page_high:
        first = 0
        state.hole_frames_seen = 0
    end = min(first + <uint32_t>HOLE_LOOK_PAGES, state.page_high)
    frame = hole_find(base, state, frames, 0, first, end, &longest)
    state.hole_frames_seen = max(state.hole_frames_seen, longest)
    if frame >= 0:
        # What is left of this hole is seen when the round goes on from its page.
        state.hole_page = <uint32_t>(frame // SLAB_FRAMES_PER_PAGE)
        return frame
    if end < state.page_high:
        # Overlapping, so that a hole across the end is seen whole next time.
        state.hole_page = end - <uint32_t>HOLE_LOOK_PAGES // 4
    else:
        state.hole_frames_max = state.hole_frames_seen
        state.hole_page = 0
    return -1


cdef uint32_t extent_take(char* base, SlabState* state, uint32_t size_bytes,
                          bint new_page) noexcept nogil:
    cdef uint32_t frames = size_bytes >> frame_shift(state), longest, free_pages
    cdef int64_t frame
    if frames <= state.hole_frames_max:
        frame = hole_look(base, state, frames)
        if frame >= 0:
            return extent_place(base, state, <uint64_t>frame, size_bytes)
    if state.refused_wait and new_page:
        state.refused_wait -= 1
    free_pages = headroom_pages(state)
    # Frames left over at both ends of a hole are fewer than two pages.
    if not new_page or free_pages == 0 \
            or <uint64_t>free_pages * SLAB_FRAMES_PER_PAGE + HOLE_FRAMES_MAX < frames:
        return 0
    # Nearly always the next page in order; what is left behind is worth a search only after that.
    frame = hole_find(base, state, frames, free_pages,
                      state.page_high - 1 if state.page_high else 0, state.page_count, &longest)
    if frame < 0:
        frame = hole_find(base, state, frames, free_pages, 0, state.page_count, &longest)
    if frame < 0:
        return 0
    return extent_place_new(base, state, <uint64_t>frame, size_bytes)


cdef uint32_t slab_take_near(char* base, SlabState* state, uint32_t reference,
                             uint32_t size_bytes) noexcept nogil:
    cdef uint32_t frames = size_bytes >> frame_shift(state), length = 0
    cdef uint64_t start
    if size_bytes <= slot_bytes_max(state):
        return 0
    start = hole_around(base, state, slab_position(reference) >> frame_shift(state), frames,
                        headroom_pages(state), &length)
    if length < frames:
        return 0
    # The giver told how long its hole is.
    return extent_place_new(base, state, start, size_bytes)


cdef uint32_t slab_take_at(char* base, SlabState* state, uint64_t frame,
                           uint32_t size_bytes) noexcept nogil:
    # Its pages were emptied: there may be holes on both sides.
    holes_raise(state, HOLE_FRAMES_MAX)
    return extent_place(base, state, frame, size_bytes)


cdef void extent_give(char* base, SlabState* state, uint32_t reference,
                      uint32_t size_bytes) noexcept nogil:
    cdef uint64_t frame = slab_position(reference) >> frame_shift(state)
    cdef uint64_t last = frame + (size_bytes >> frame_shift(state)) - 1
    cdef uint32_t length = 0
    slab_page(base, state, <uint32_t>(frame >> 6)).start_frames &= ~(<uint64_t>1 << (frame & 63))
    frames_mark(base, state, frame, size_bytes >> frame_shift(state), False)
    # Two holes where the pages between became free.
    hole_around(base, state, frame, HOLE_FRAMES_MAX, 0, &length)
    holes_raise(state, length)
    hole_around(base, state, last, HOLE_FRAMES_MAX, 0, &length)
    holes_raise(state, length)


# ---------------------------------------------------------------- both

cdef void slab_give(char* base, SlabState* state, uint32_t reference) noexcept nogil:
    cdef uint32_t number = <uint32_t>(slab_position(reference) >> state.page_shift)
    cdef SlabPage* page = slab_page(base, state, number)
    cdef EvictNode* node = slab_node(base, state, reference)
    cdef uint32_t size_bytes = node.size_bytes
    node.size_bytes = 0
    if page.kind == SLAB_PAGE_SLOTS:
        slot_give(base, state, page, number, reference)
    else:
        extent_give(base, state, reference, size_bytes)


cdef void slab_busy_add(char* base, SlabState* state, uint32_t reference,
                        int32_t delta) noexcept nogil:
    cdef uint64_t first = slab_position(reference)
    cdef uint64_t last = first + slab_node(base, state, reference).size_bytes - 1
    cdef uint64_t number
    for number in range(first >> state.page_shift, (last >> state.page_shift) + 1):
        slab_page(base, state, <uint32_t>number).busy_count += <uint32_t>delta


cdef bint slab_window_find(char* base, SlabState* state, uint32_t page_count,
                           uint32_t free_pages_max, uint32_t* page) noexcept nogil:
    cdef uint32_t number, end = min(state.page_count, state.page_high
                                    + min(free_pages_max, page_count))
    cdef uint32_t free_pages = 0, busy_pages = 0
    cdef uint64_t live_bytes = 0, best_bytes = ~<uint64_t>0
    cdef SlabPage* entry
    for number in range(end):
        if number >= page_count:
            entry = slab_page(base, state, number - page_count)
            free_pages -= entry.kind == SLAB_PAGE_FREE
            busy_pages -= entry.busy_count != 0
            live_bytes -= entry.live_bytes
        if number >= state.page_high:
            free_pages += 1
        else:
            entry = slab_page(base, state, number)
            free_pages += entry.kind == SLAB_PAGE_FREE
            busy_pages += entry.busy_count != 0
            live_bytes += entry.live_bytes
        if number + 1 >= page_count and busy_pages == 0 and free_pages <= free_pages_max \
                and live_bytes < best_bytes:
            best_bytes = live_bytes
            page[0] = number + 1 - page_count
    return best_bytes != ~<uint64_t>0


cdef void slab_window_close(char* base, SlabState* state, uint32_t page, uint32_t page_count,
                            bint closing) noexcept nogil:
    cdef uint32_t number
    cdef SlabPage* entry
    # Holes of closing pages were not looked at.
    holes_raise(state, HOLE_FRAMES_MAX)
    for number in range(page, min(page + page_count, state.page_high)):
        entry = slab_page(base, state, number)
        if entry.kind == SLAB_PAGE_FREE or entry.closing == closing:
            continue
        entry.closing = closing
        if entry.kind == SLAB_PAGE_SLOTS and page_can_give(state, entry):
            if closing:
                pages_unlink(base, state, &state.partial_pages[entry.size_class], number)
            else:
                pages_push(base, state, &state.partial_pages[entry.size_class], number)


cdef uint32_t slab_next(char* base, SlabState* state, uint64_t* position,
                        uint64_t end) noexcept nogil:
    cdef uint64_t page_start
    cdef uint32_t number, within, slot, size
    cdef uint64_t starts
    cdef SlabPage* page
    end = min(end, <uint64_t>state.page_high << state.page_shift)
    while position[0] < end:
        number = <uint32_t>(position[0] >> state.page_shift)
        page_start = <uint64_t>number << state.page_shift
        within = <uint32_t>(position[0] - page_start)
        page = slab_page(base, state, number)
        if page.kind == SLAB_PAGE_SLOTS:
            size = slot_bytes(state, page.size_class)
            for slot in range((within + size - 1) // size, page.fresh_count):
                within = slot * size
                if page_start + within >= end:
                    break
                if slab_node(base, state, slab_reference(page_start + within)).size_bytes:
                    position[0] = page_start + within + size
                    return slab_reference(page_start + within)
        elif page.kind == SLAB_PAGE_FRAMES:
            slot = (within + (<uint32_t>1 << frame_shift(state)) - 1) >> frame_shift(state)
            starts = page.start_frames >> slot << slot if slot < 64 else 0
            if starts:
                within = slab_low_bit(starts) << frame_shift(state)
                if page_start + within < end:
                    position[0] = page_start + within + (<uint32_t>1 << frame_shift(state))
                    return slab_reference(page_start + within)
        position[0] = page_start + page_bytes(state)
    return 0


cdef bint slab_page_has_slots(char* base, SlabState* state, uint32_t page,
                              uint32_t size_bytes) noexcept nogil:
    cdef SlabPage* entry = slab_page(base, state, page)
    return entry.kind == SLAB_PAGE_SLOTS and slot_bytes(state, entry.size_class) == size_bytes


cdef uint32_t slab_covering(char* base, SlabState* state, uint64_t frame) noexcept nogil:
    cdef uint32_t number = <uint32_t>(frame >> 6)
    cdef uint64_t bit = <uint64_t>1 << (frame & 63), starts
    cdef SlabPage* page = slab_page(base, state, number)
    if number >= state.page_high or page.kind != SLAB_PAGE_FRAMES \
            or not page.used_frames & bit or page.start_frames & bit:
        return 0
    starts = page.start_frames & (bit - 1)
    while starts == 0:
        number -= 1
        starts = slab_page(base, state, number).start_frames
    return slab_reference((<uint64_t>number * SLAB_FRAMES_PER_PAGE + slab_high_bit(starts))
                          << frame_shift(state))
