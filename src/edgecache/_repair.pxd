"""Going on after the death of a process: locks it held, and what it held beyond locks.

A lock of the dead is taken over by whoever waits for it (_sync.pyx), which calls `repair_word`:

    shard lock      the RAM tier of the shard begins anew in its other area; RAM slots of the index
                    become the disk slots behind them, or go; an index that is torn is emptied.
                    What left the index with no record to say so is settled by the next checkpoint
                    (invariant 9 of _segment.pxd).
    log lock        every state has one meaning, because changes are made in an order that allows
                    it (_segment.pyx); counts are made anew from regions, buffers and holds.
    maintenance     a region being reclaimed is sealed again: reclaim may be cut anywhere.
    sync            files that the dead leader took for synced are dirty again.
    leases, streams nothing: every state has one meaning (_lease.pxd, _lease_stream.pxd).

Invariants:

1. Every repair may itself be cut by a death, and is then done again from its start.
2. Memory of the RAM tier that a live process has pinned, or fills, is neither reused nor given
   back: it lies in the area that the shard left, and that area is reused only when its last hold
   is gone (`stale_holds`). Should the shard be left again before that, it has no RAM tier until
   then (`is_closed`), and serves from disk.
3. The pages of such holds count within the budget of the shard.
"""

from edgecache._change cimport EngineShared
from edgecache._lease cimport LeaseTable
from edgecache._lease_stream cimport StreamTable
from edgecache._maintenance cimport MaintenanceShared
from edgecache._process cimport ProcessTable
from edgecache._segment cimport LogStore
from edgecache._shard cimport ShardSet
from libc.stdint cimport uint32_t

cdef struct Repairs:                # process-local
    ShardSet* shards
    LogStore* log
    EngineShared* engine
    MaintenanceShared* maintenance
    ProcessTable* processes
    LeaseTable* leases
    StreamTable* streams

# The two functions of a RobustRange (_sync.pxd); the context is a Repairs.
cdef bint repair_is_dead(void* context, uint32_t thread) noexcept nogil
cdef void repair_word(void* context, uint32_t* word) noexcept nogil
# Clean up after every process that died: locks, holds, slot. Cheap when nobody did: one system call
# per process.
cdef void repair_reap(void* context) noexcept nogil
