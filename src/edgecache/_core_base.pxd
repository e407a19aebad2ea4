"""Root, part one: a store's life (layout, open, recovery, threads, close) and its counters."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._arena cimport Arena
from edgecache._change cimport Engine, EngineShared
from edgecache._checkpoint cimport Checkpointer
from edgecache._io cimport IoEngine
from edgecache._maintenance cimport Maintenance, MaintenanceShared
from edgecache._process cimport ProcessCells, ProcessTable
from edgecache._reclaim cimport GhostTable, Reclaimer
from edgecache._recovery cimport RecoveryReport
from edgecache._repair cimport Repairs
from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._superblock cimport Superblock
from edgecache._sync cimport RobustRange

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

cdef struct StoreShared:           # in the arena: what describes the store as a whole
    EngineShared engine
    MaintenanceShared maintenance
    RecoveryReport report
    double write_tokens             # write budget (token bucket, bytes); under admit_lock
    int64_t write_tokens_ns
    uint32_t write_level            # 0 admits all .. 3 only what was asked for before
    uint32_t reformatted            # the root held no superblock that verified

cdef struct ArenaPlan:             # arena offsets, and sizes
    uint64_t size_bytes
    uint64_t budget                 # of one shard
    uint64_t area_bytes
    uint64_t index_bytes
    uint64_t private_bytes
    uint64_t stride
    uint64_t memory_stride
    uint64_t ghosts_bytes
    uint64_t shard_offset
    uint64_t private_offset
    uint64_t index_offset
    uint64_t memory_offset
    uint64_t log_offset
    uint64_t ghost_offset
    uint64_t buffer_offset
    uint64_t process_offset
    uint64_t store_offset
    uint32_t shard_count
    uint32_t region_count

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
    cdef ArenaPlan plan
    cdef StoreShared* common
    cdef ProcessTable processes
    cdef Repairs repairs
    cdef RobustRange* robust
    cdef ProcessCells* cells            # what this process counts
    cdef Arena arena
    cdef dict options
    cdef readonly object registry       # shared mode: keeps the registry file open
    cdef readonly bint is_shared
    cdef readonly bint is_attached      # shared mode: others had laid the arena out
    cdef readonly uint32_t life         # changes when holds of earlier times mean nothing any more
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

    cdef uint64_t write_budget_bytes    # per day, 0: none

    cdef object __weakref__

    cdef _take_options(self, dict options)
    cdef _limit_values(self)
    cdef _open_superblock(self, uint64_t region_bytes)
    cdef _plan(self, uint32_t shard_count)
    cdef _map(self)
    cdef bytes _arena_options(self)
    cdef _fill_header(self)
    cdef _check_header(self)
    cdef _lay_out(self)
    cdef _wire(self)
    cdef _wire_log(self)
    cdef _attach_process(self)
    cdef _open_log(self)
    cdef _start_log(self)
    cdef _free(self)
    cdef _detach(self)
    cdef uint64_t _abi_hash(self)
    cdef uint32_t _region_count(self)
    cdef int check_open(self) except -1
    cdef forget_threads(self)
    cdef _shape_log(self)
    cdef _open_files(self, uint32_t flags)
    cdef bint is_last(self) noexcept
    cdef front_leave(self)
    cdef front_attach(self)
    cdef bint spend(self, uint64_t hash, uint64_t size_bytes, bint remembered) noexcept
    cdef bint admit(self, uint64_t hash, uint64_t size_bytes, uint32_t* head) noexcept
