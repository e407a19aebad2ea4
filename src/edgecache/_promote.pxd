"""Bringing what was read from the disk into the RAM tier."""

from libc.stdint cimport uint32_t

from edgecache._change cimport Engine
from edgecache._fetch cimport Fetch

# In three steps, because the copy of a big value runs without lock and GIL between the others.
# 0: there is no room. Takes and releases the shard's lock.
cdef uint32_t promote_allocate(Engine* engine, const Fetch* fetch,
                               uint32_t* hold) noexcept nogil
cdef void promote_copy(Engine* engine, const Fetch* fetch, uint32_t reference) noexcept nogil
# False, and the item is freed: the entry changed meanwhile. Takes and releases the shard's lock.
cdef bint promote_publish(Engine* engine, const Fetch* fetch, uint32_t reference,
                          uint32_t hold) noexcept nogil
# Note a hit on disk without promoting it: it counts when the region is reclaimed.
cdef void promote_touch(Engine* engine, const Fetch* fetch) noexcept nogil
