"""The changes of every key with their begin and end times, in memory that processes share.

Bounded: of each key the newest changes are kept, and of those that were dropped the latest end.
What a read returned is judged by times alone, so nobody has to wait for anybody: changes of one key
may overlap, in one process or in several. The clock is the system's (CLOCK_MONOTONIC), so times of
all processes compare. Source: the value history of CacheLib's cachebench.

A value is impossible for a read if

1. its bytes are not those that were put, or it was put after the read had ended,
2. something that removes it, a newer change of its key or a purge of its prefix, of its tag or of
   everything, began after its put had ended, and had ended before the read began, or
3. its lifetime was over, for longer than SLACK_NS, before the read began.

A miss is always possible: it is a cache.

Words of a line (of a key, prefix, tag, or all), 8 bytes each: version (odd: being changed), latest
begin, latest end of a change that was dropped; then SLOTS times number (0: free), begin, end.
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
import struct
import time

KEYS = 96
PREFIXES = 4  # key n is below prefix n % PREFIXES
TAGS = 3  # tag 0: none
LINES = KEYS + PREFIXES + TAGS + 1
EVERYTHING = LINES - 1
SLOTS = 32
WORDS = 3 + 3 * SLOTS
LOCKS = 32
NEVER = 2**62
SLACK_NS = 200_000_000

HEAD = struct.Struct("<4sHHIiqq")  # magic, key, tag, size, lifetime (ms, < 0: none), number, begin
MAGIC = b"race"
POOL_BYTES = 1 << 20
POOL = random.Random(0).randbytes(POOL_BYTES)


def key_of(number: int) -> bytes:
    return b"p%d/key-%d" % (number % PREFIXES, number)


def prefix_of(number: int) -> bytes:
    return b"p%d/" % number


def make_value(key: int, tag: int, size: int, ttl_ms: int, number: int, begin: int) -> bytes:
    """`size` bytes (HEAD.size at least) that say what they are, different for every number."""
    body = max(0, size - HEAD.size)
    start = number * 7919 % (POOL_BYTES - body)
    head = HEAD.pack(MAGIC, key, tag, HEAD.size + body, ttl_ms, number, begin)
    return head + POOL[start : start + body]


def _is_whole(value: bytes, number: int) -> bool:
    body = len(value) - HEAD.size
    start = number * 7919 % (POOL_BYTES - body)
    return value.endswith(POOL[start : start + body])


class History:
    """See the module. Made before the processes are forked that use it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, LINES * WORDS * 8)
        self._words = memoryview(self._memory).cast("q")
        context = multiprocessing.get_context("fork")
        self._locks = [context.Lock() for _ in range(LOCKS)]

    def begin(self, line: int, number: int) -> tuple[int, int]:
        """A change begins, now: (its slot, for `end`; its begin)."""
        words, first = self._words, line * WORDS
        with self._locks[line % LOCKS]:
            begin = time.monotonic_ns()
            words[first] += 1
            slot = self._free_slot(first)
            words[slot] = number
            words[slot + 1] = begin
            words[slot + 2] = NEVER
            words[first + 1] = begin
            words[first] += 1
        return slot, begin

    def _free_slot(self, first: int) -> int:
        """A free one, or that of the change which ended first."""
        words = self._words
        oldest, oldest_end = 0, NEVER
        for slot in range(first + 3, first + WORDS, 3):
            if words[slot] == 0:
                return slot
            if words[slot + 2] < oldest_end:
                oldest, oldest_end = slot, words[slot + 2]
        assert oldest, "more changes of a key at a time than there are slots"
        words[first + 2] = max(words[first + 2], oldest_end)
        return oldest

    def end(self, line: int, slot: int, happened: bool = True) -> None:
        """It ended, now. One that did not happen (a put that was shed) removes nothing."""
        words, first = self._words, line * WORDS
        with self._locks[line % LOCKS]:
            now = time.monotonic_ns()
            words[first] += 1
            words[slot + 2] = now
            if not happened:
                words[slot] = 0
                words[first + 2] = max(words[first + 2], now)
            words[first] += 1

    def _entries(self, line: int) -> list[int]:
        """All words of a line as they were at one moment."""
        words, first = self._words, line * WORDS
        while True:
            version = words[first]
            found = words[first : first + WORDS].tolist()
            if version & 1 == 0 and words[first] == version:
                return found
            time.sleep(0)

    def judge(self, key: int, begin: int, end: int, found: bytes) -> str:
        """Why a read of `key` between these times cannot have returned this; "" if it can."""
        if len(found) < HEAD.size:
            return f"{len(found)} bytes are no value"
        magic, of_key, tag, size, ttl_ms, number, put_begin = HEAD.unpack_from(found)
        if magic != MAGIC or of_key != key or size != len(found) or not _is_whole(found, number):
            return f"torn, or of another key: {found[:48]!r}, {len(found)} bytes"
        if put_begin > end:
            return f"number {number} was put at {put_begin}, after the read"
        lines = (key, KEYS + key % PREFIXES, KEYS + PREFIXES + tag, EVERYTHING)
        words = self._words
        # Mostly there is nothing newer.
        if ttl_ms < 0 and all(words[line * WORDS + 1] <= put_begin for line in lines):
            return ""
        entries = self._entries(key)
        put_end = entries[2]
        for slot in range(3, WORDS, 3):
            if entries[slot] == number:
                put_end = entries[slot + 2]
        if ttl_ms >= 0 and begin > put_end + ttl_ms * 1_000_000 + SLACK_NS:
            return f"number {number} was put up to {put_end} for {ttl_ms} ms"
        for line in lines:
            entries = self._entries(line)
            for slot in range(3, WORDS, 3):
                if entries[slot] and entries[slot + 1] > put_end and entries[slot + 2] < begin:
                    around = sorted(
                        (entries[at + 1] - begin, entries[at + 2] - begin, entries[at])
                        for at in range(3, WORDS, 3)
                        if entries[at] and entries[at + 2] >= put_begin
                    )
                    return (
                        f"number {number} of {size} bytes was put from {put_begin - begin} to "
                        f"{put_end - begin} ns; changes of line {line} since (begin, end, "
                        f"number, < 0: a removal): {around}"
                    )
        return ""
