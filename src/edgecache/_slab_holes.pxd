"""Kernel: rows of free frames over the page table, which extents are placed in.

A hole is a maximal row of free frames of FRAMES pages that are not closing; free pages may be
counted in, as many as the caller's limit allows. Since empty pages are free pages, a hole without
free pages is shorter than two pages (HOLE_FRAMES_MAX).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._slab cimport (
    SLAB_FRAMES_PER_PAGE, SLAB_PAGE_FRAMES, SLAB_PAGE_FREE, SlabPage, SlabState, slab_page,
)

cdef enum:
    HOLE_FRAMES_MAX = 126               # 63 at the end of a page and 63 at the start of the next

cdef extern from *:
    """
    #include <stdint.h>

    static inline uint32_t slab_low_bit(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }
    static inline uint32_t slab_high_bit(uint64_t word) {
        return 63u - (uint32_t)__builtin_clzll(word);
    }
    """
    uint32_t slab_low_bit(uint64_t word) noexcept nogil         # word != 0
    uint32_t slab_high_bit(uint64_t word) noexcept nogil        # word != 0


cdef inline uint64_t frames_mask(uint32_t first, uint32_t count) noexcept nogil:
    return (~<uint64_t>0 >> (SLAB_FRAMES_PER_PAGE - count)) << first


# First fit: the first frame of a hole of `frames`, or -1. With `free_pages` at most that many free
# pages may become part of it; without, `longest` tells the longest hole seen.
cdef inline int64_t hole_find(char* base, SlabState* state, uint32_t frames, uint32_t free_pages,
                              uint32_t first, uint32_t end, uint32_t* longest) noexcept nogil:
    """Search the pages [first, end)."""
    cdef uint32_t number, position, free, taken = 0
    cdef uint64_t start = 0, run = 0, used, rest
    cdef SlabPage* page
    longest[0] = 0
    for number in range(first, end):
        page = slab_page(base, state, number)
        if number >= state.page_high or page.kind == SLAB_PAGE_FREE:
            if taken == free_pages:             # restart behind, or at this page
                longest[0] = max(longest[0], <uint32_t>run)
                run = taken = 0
            if free_pages == 0:
                continue
            if run == 0:
                start = <uint64_t>number * SLAB_FRAMES_PER_PAGE
            taken += 1
            run += SLAB_FRAMES_PER_PAGE
            if run >= frames:
                return <int64_t>start
            continue
        used = page.used_frames
        if page.kind != SLAB_PAGE_FRAMES or page.closing or used == ~<uint64_t>0:
            longest[0] = max(longest[0], <uint32_t>run)
            run = taken = 0
            continue
        position = 0
        while position < SLAB_FRAMES_PER_PAGE:
            rest = used >> position
            free = slab_low_bit(rest) if rest else SLAB_FRAMES_PER_PAGE - position
            if free:
                if run == 0:
                    start = <uint64_t>number * SLAB_FRAMES_PER_PAGE + position
                run += free
                if run >= frames:
                    return <int64_t>start
                position += free
            if position < SLAB_FRAMES_PER_PAGE:
                longest[0] = max(longest[0], <uint32_t>run)
                run = taken = 0
                position += slab_low_bit(~(used >> position))
    longest[0] = max(longest[0], <uint32_t>run)
    return -1


# The hole around frame `frame`: its first frame; its length (cut at `frames`) in `length`.
cdef inline uint64_t hole_around(char* base, SlabState* state, uint64_t frame, uint32_t frames,
                                 uint32_t free_pages, uint32_t* length) noexcept nogil:
    cdef uint64_t start, end, rest
    cdef uint32_t position, free
    cdef SlabPage* page = slab_page(base, state, <uint32_t>(frame >> 6))
    if page.kind == SLAB_PAGE_FREE:
        frame &= ~<uint64_t>63
    start = end = frame
    while end - start < frames and (end >> 6) < state.page_count:
        page = slab_page(base, state, <uint32_t>(end >> 6))
        if (end >> 6) >= state.page_high or page.kind == SLAB_PAGE_FREE:
            if free_pages == 0:
                break
            free_pages -= 1
            end += SLAB_FRAMES_PER_PAGE
            continue
        if page.kind != SLAB_PAGE_FRAMES or page.closing:
            break
        position = end & 63
        rest = page.used_frames >> position
        free = slab_low_bit(rest) if rest else SLAB_FRAMES_PER_PAGE - position
        end += free
        if position + free < SLAB_FRAMES_PER_PAGE:
            break
    while end - start < frames and start > 0:
        page = slab_page(base, state, <uint32_t>((start - 1) >> 6))
        if page.kind == SLAB_PAGE_FREE:
            if free_pages == 0:
                break
            free_pages -= 1
            start -= SLAB_FRAMES_PER_PAGE
            continue
        if page.kind != SLAB_PAGE_FRAMES or page.closing:
            break
        position = (start - 1) & 63
        rest = page.used_frames << (63 - position)
        free = 63 - slab_high_bit(rest) if rest else position + 1
        start -= free
        if free <= position:
            break
    length[0] = <uint32_t>(end - start)
    return start
