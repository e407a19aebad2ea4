"""Root, part one: a store's life (layout, open, recovery, threads, close) and its counters."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._arena cimport Arena
from edgecache._change cimport Engine
from edgecache._checkpoint cimport Checkpointer
from edgecache._io cimport IoEngine
from edgecache._maintenance cimport Maintenance
from edgecache._reclaim cimport GhostTable, Reclaimer
from edgecache._recovery cimport RecoveryReport
from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._superblock cimport Superblock

cdef enum StoreState:
    STORE_NEW = 0
    STORE_OPEN = 1
    STORE_CLOSED = 2
    STORE_FORKED = 3

cdef enum:                         # index of a shed counter
    SHED_BACKPRESSURE = 0
    SHED_NO_SPACE = 1
    SHED_IO_ERROR = 2
    SHED_WRITE_BUDGET = 3       # not a shed put while RAM takes it; counted all the same
    SHED_INDEX_FULL = 4
    SHED_TOO_LARGE = 5
    SHED_NO_MEMORY = 6
    SHED_READ_ONLY = 7
    SHED_REASON_COUNT = 8

cdef class CoreBase:
    cdef Engine engine
    cdef LogStore log
    cdef ShardSet shards
    cdef Reclaimer reclaimer
    cdef Checkpointer checkpointer
    cdef Maintenance maintenance
    cdef RecoveryReport report
    cdef Superblock superblock
    cdef GhostTable* ghosts
    cdef Arena arena
    cdef IoEngine io
    cdef object lower                   # a tier below RAM that is no log (_core_lower.pxd), or None
    cdef uint32_t state                 # StoreState
    cdef bint has_disk
    cdef bint hash_native
    cdef bint policy_hits_unlocked      # a hit may just write the node's frequency
    cdef bint block
    cdef bint is_composite              # keys are (namespace, key) in canonical encoding
    cdef int64_t block_timeout_ns
    cdef int64_t default_ttl_us
    cdef uint64_t max_object_bytes      # a larger value goes to put_beyond
    cdef uint64_t largest_value_bytes
    cdef uint64_t memory_bytes
    cdef uint64_t disk_bytes
    cdef uint64_t index_bytes
    cdef uint64_t buffer_bytes
    cdef uint32_t buffer_count
    cdef uint64_t seed                  # of key hashes
    cdef uint64_t front_budget_bytes
    cdef uint32_t policy
    cdef bytes namespace
    cdef object progress
    cdef readonly bint reformatted      # the root held no superblock that verified

    # Write budget (token bucket, bytes); under the GIL.
    cdef uint64_t write_budget_bytes    # per day, 0: none
    cdef double write_tokens
    cdef int64_t write_tokens_ns
    cdef uint32_t write_level           # 0 admits all .. 3 only what was asked for before
    cdef uint64_t shed_counts[8]        # by SHED_*

    cdef object __weakref__

    cdef _take_options(self, dict options)
    cdef _limit_values(self)
    cdef _open_superblock(self, uint64_t region_bytes)
    cdef _lay_out(self, uint32_t shard_count)
    cdef _lay_out_log(self, uint64_t log_offset, uint64_t buffer_offset, uint32_t region_count)
    cdef _open_log(self, dict options)
    cdef _free(self)
    cdef uint64_t _abi_hash(self)
    cdef uint32_t _region_count(self)
    cdef int check_open(self) except -1
    cdef bint admit(self, uint64_t hash, uint64_t size_bytes, uint32_t* head) noexcept
