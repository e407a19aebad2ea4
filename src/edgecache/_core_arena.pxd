"""Root, part one: what a store is made of, and the arena that it lies in.

Opening plans where everything is (the same for every process with the same options), maps memory of
its own, a new shared arena or one that other processes have open, points into it, and lays it out
unless others have.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edgecache._arena cimport Arena
from edgecache._change cimport Engine, EngineShared
from edgecache._checkpoint cimport Checkpointer
from edgecache._io cimport IoEngine
from edgecache._lease cimport LeaseTable
from edgecache._lease_stream cimport StreamTable
from edgecache._maintenance cimport Maintenance, MaintenanceShared
from edgecache._process cimport ProcessCells, ProcessTable
from edgecache._reclaim cimport GhostTable, Reclaimer
from edgecache._recovery cimport RecoveryReport
from edgecache._repair cimport Repairs
from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from edgecache._superblock cimport Superblock
from edgecache._sync cimport RobustRange

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
    uint64_t lease_offset
    uint64_t stream_offset
    uint32_t shard_count
    uint32_t region_count

cdef uint64_t pid_namespace() except? 0
cdef str differing(str theirs, str ours)

cdef class CoreArena:
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
    cdef LeaseTable leases              # shared mode
    cdef StreamTable streams
    cdef Repairs repairs
    cdef RobustRange* robust
    cdef ProcessCells* cells            # what this process counts
    cdef Arena arena
    cdef dict options
    cdef object registry       # shared mode: keeps the registry file open
    cdef bint is_shared
    cdef bint is_attached      # shared mode: others had laid the arena out
    cdef object warm           # keep_warm: who has the arena's file (warm.py), else None
    cdef bint is_warm          # the arena of an earlier life, adopted
    cdef bint is_file          # the arena is a file: new pages are asked for (_pages.pxd)
    cdef uint32_t life         # changes when holds of earlier times mean nothing any more
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

    cdef _plan(self, uint32_t shard_count)
    cdef _map(self)
    cdef _map_new(self)
    cdef bint _map_file(self) except -1
    cdef bint _map_left(self) except -1
    cdef _begin_cold(self, str reason)
    cdef bytes _arena_options(self)
    cdef _fill_header(self)
    cdef _check_header(self)
    cdef _lay_out(self)
    cdef _wire(self)
    cdef _wire_log(self)
    cdef _shape_log(self)
    cdef _attach_process(self)
    cdef uint64_t _abi_hash(self)
    cdef uint32_t _region_count(self)
