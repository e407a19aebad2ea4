"""Walking all entries: for purges by prefix or tag, and for the scrubber.

The caller holds the maintenance lock, so no region is reclaimed meanwhile, and flushed before.
Cost: RAM items are walked in place; of the disk tier every region is read once, in runs of 1 MiB
(for a tag only the blocks that hold tagged records).
"""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._change cimport Engine
from edgecache._checkpoint cimport Checkpointer
from edgecache._status cimport Status

cdef struct Walk:
    Engine* engine
    const char* prefix              # NULL: any key
    uint32_t prefix_len
    uint32_t tag_len
    const char* tag                 # NULL: any entry
    uint32_t flag                   # of the meta: entries that have it; 0: those that are no parts
    uint32_t zero
    # Keys of matching live entries, one after the other: u32 length, bytes.
    char* keys
    uint64_t keys_bytes
    uint64_t keys_capacity
    uint64_t match_count
    uint64_t entry_count            # live entries seen
    uint64_t byte_count
    uint64_t corrupt_count

cdef void walk_free(Walk* self) noexcept nogil
cdef Status walk_memory(Walk* self, uint32_t shard_index) noexcept nogil
cdef Status walk_region(Walk* self, uint32_t region) noexcept nogil
# Forget every entry: indexes, RAM tier and regions. Entries put meanwhile may or may not survive.
# Writes a checkpoint. Durable when log_settle has returned, for which the caller writes another.
cdef void walk_clear(Engine* engine, Checkpointer* checkpointer) noexcept nogil
