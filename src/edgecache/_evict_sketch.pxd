"""Kernel: how often a key was asked for lately, in a few bits: a doorkeeper and 4-bit counters.

The first request of a period sets the key's bits in the doorkeeper (a Bloom filter of three bits
per key); later ones raise its four counters, only those that are at the minimum. When as many
requests were counted as the owner's sample, the sketch ages: counters are halved and the
doorkeeper is cleared.

Ageing is spread out: a hand walks over the words, 64 of them with each further request, so that no
single request pays for the whole table.

    area: | counters, word_count u64 of 16 counters each | doorkeeper, word_count / 8 u64, >= 1 |
    counter row i of a key: a word chosen by the i-th hash, counter 4 * i + 2 bits of the hash in it

Invariants, asserted by `sketch_check`:
1. word_count is 0 (no area) or a power of two.
2. The ageing hand is within the table; 0 when no ageing is under way.

Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy",
ACM TOS 13(4), 2017, sections 3.3 (ageing), 3.4 (minimal increment, doorkeeper).
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef enum:
    SKETCH_WORD_AREA_BYTES = 9      # 8 of counters, 1 of doorkeeper
    SKETCH_AGE_WORDS = 64           # words aged with one request
    SKETCH_SAMPLE_FACTOR = 10       # requests per cached object between two ageings

cdef struct FrequencySketch:
    uint64_t words_offset           # from the arena base
    uint64_t word_count
    uint64_t addition_count         # requests since the last ageing
    uint64_t age_hand               # words aged so far, counters first, then doorkeeper


cdef inline uint64_t* sketch_words(char* base, const FrequencySketch* sketch) noexcept nogil:
    return <uint64_t*>(base + sketch.words_offset)


cdef inline uint64_t sketch_door_count(const FrequencySketch* sketch) noexcept nogil:
    return sketch.word_count // 8 if sketch.word_count >= 8 else 1


cdef inline void sketch_init(char* base, FrequencySketch* sketch, uint64_t area_offset,
                             uint64_t area_size_bytes) noexcept nogil:
    cdef uint64_t word_count = 1
    while word_count * 2 * SKETCH_WORD_AREA_BYTES + 8 <= area_size_bytes:
        word_count *= 2
    sketch.words_offset = area_offset
    sketch.word_count = word_count if area_size_bytes >= 16 else 0
    sketch.addition_count = 0
    sketch.age_hand = 0
    if sketch.word_count != 0:
        memset(base + area_offset, 0, (word_count + sketch_door_count(sketch)) * 8)


cdef inline uint64_t sketch_mix(uint64_t hash, uint64_t row) noexcept nogil:
    # One round of murmur3's finaliser over hash + row * golden ratio: an independent hash per row.
    cdef uint64_t mixed = hash + (row + 1) * <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    return mixed ^ (mixed >> 32)


cdef inline uint64_t sketch_shift(uint64_t mixed, uint64_t row) noexcept nogil:
    return ((row << 2) + (mixed >> 62)) << 2


cdef inline uint64_t sketch_minimum(char* base, const FrequencySketch* sketch,
                                    uint64_t hash) noexcept nogil:
    cdef const uint64_t* words = sketch_words(base, sketch)
    cdef uint64_t minimum = 15
    cdef uint64_t row, mixed, value
    for row in range(4):
        mixed = sketch_mix(hash, row)
        value = (words[mixed & (sketch.word_count - 1)] >> sketch_shift(mixed, row)) & 15
        if value < minimum:
            minimum = value
    return minimum


cdef inline bint sketch_door(char* base, const FrequencySketch* sketch, uint64_t hash,
                             bint enter) noexcept nogil:
    """Whether the doorkeeper knows the key; with `enter` it does so afterwards."""
    cdef uint64_t* door = sketch_words(base, sketch) + sketch.word_count
    cdef uint64_t mixed = sketch_mix(hash, 4)
    # All three bits in one word: one cache line.
    cdef uint64_t bits = (<uint64_t>1 << (mixed >> 58)) | (<uint64_t>1 << ((mixed >> 52) & 63)) \
        | (<uint64_t>1 << ((mixed >> 46) & 63))
    cdef uint64_t index = mixed & (sketch_door_count(sketch) - 1)
    cdef bint known = (door[index] & bits) == bits
    if enter and not known:
        door[index] |= bits
    return known


cdef inline uint64_t sketch_estimate(char* base, const FrequencySketch* sketch,
                                     uint64_t hash) noexcept nogil:
    if sketch.word_count == 0:
        return 0
    return sketch_minimum(base, sketch, hash) + sketch_door(base, sketch, hash, False)


cdef inline void sketch_age(char* base, FrequencySketch* sketch) noexcept nogil:
    cdef uint64_t* words = sketch_words(base, sketch)
    cdef uint64_t total_count = sketch.word_count + sketch_door_count(sketch)
    cdef uint64_t end = min(sketch.age_hand + SKETCH_AGE_WORDS, total_count)
    cdef uint64_t i
    for i in range(sketch.age_hand, end):
        if i < sketch.word_count:
            # Halve 16 counters at once: shift, then drop the bit that came from the neighbour.
            words[i] = (words[i] >> 1) & <uint64_t>0x7777777777777777
        else:
            words[i] = 0
    sketch.age_hand = end if end < total_count else 0


cdef inline void sketch_add(char* base, FrequencySketch* sketch, uint64_t hash,
                            uint64_t sample_count) noexcept nogil:
    """Count a request; ageing starts when `sample_count` requests were counted since the last."""
    cdef uint64_t* words = sketch_words(base, sketch)
    cdef uint64_t row, mixed, minimum, shift
    if sketch.word_count == 0:
        return
    if sketch_door(base, sketch, hash, True):
        minimum = sketch_minimum(base, sketch, hash)
        if minimum < 15:
            for row in range(4):
                mixed = sketch_mix(hash, row)
                shift = sketch_shift(mixed, row)
                if ((words[mixed & (sketch.word_count - 1)] >> shift) & 15) == minimum:
                    words[mixed & (sketch.word_count - 1)] += <uint64_t>1 << shift
    sketch.addition_count += 1
    if sketch.age_hand != 0:
        sketch_age(base, sketch)
    elif sketch.addition_count >= sample_count:
        sketch.addition_count = 0
        sketch_age(base, sketch)


cdef inline int sketch_check(const FrequencySketch* sketch) noexcept nogil:
    if sketch.word_count & (sketch.word_count - 1):
        return 1
    if sketch.word_count == 0:
        return 0
    return 2 if sketch.age_hand >= sketch.word_count + sketch_door_count(sketch) else 0
