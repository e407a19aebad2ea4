"""Root: gathering counters (see _core_counters.pxd): those of one lock fit each other."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from edgecache._core_base cimport (
    SHED_BACKPRESSURE,
    SHED_INDEX_FULL,
    SHED_IO_ERROR,
    SHED_NO_MEMORY,
    SHED_NO_SPACE,
    SHED_READ_ONLY,
    SHED_REASON_COUNT,
    SHED_TOO_LARGE,
    SHED_WRITE_BUDGET,
)
from edgecache._core_write cimport CoreWrite
from edgecache._lease cimport LeaseShared
from edgecache._maintenance cimport maintenance_writer
from edgecache._process cimport (
    PROCESS_SLOTS,
    ProcessCells,
    ProcessShared,
    process_cells,
    process_live_count,
)
from edgecache._segment cimport (
    REGION_FREE,
    REGION_OPEN,
    REGION_READY,
    REGION_RECLAIMING,
    REGION_RETIRED,
    REGION_SEALED,
    REGION_SEALING,
    BUFFER_FREE,
    LogCounters,
    LogShared,
    LogStore,
)
from edgecache._shard cimport Shard, ShardCounters, shard_at
from edgecache._sync cimport ec_load_u32, ec_load_u64, ec_lock_acquire, ec_lock_release

cdef enum:
    SHARD_FIELDS = 24


cdef dict _sum_shards(CoreWrite store):
    cdef uint64_t[SHARD_FIELDS] sums
    cdef uint32_t number, field
    cdef Shard* shard
    cdef ShardCounters* counters
    for field in range(SHARD_FIELDS):
        sums[field] = 0
    for number in range(store.shards.count):
        shard = shard_at(&store.shards, number)
        counters = &shard.counters
        ec_lock_acquire(&shard.lock)
        sums[0] += counters.memory_hit_count
        sums[1] += ec_load_u64(&counters.disk_hit_count)
        sums[2] += ec_load_u64(&counters.miss_count)
        sums[3] += counters.put_count
        sums[4] += counters.put_bytes
        sums[5] += counters.delete_count
        sums[6] += counters.expired_count
        sums[7] += counters.demotion_count
        sums[8] += ec_load_u64(&counters.promotion_count)
        sums[9] += counters.memory_eviction_count
        sums[10] += counters.disk_eviction_count
        sums[11] += counters.clash_count
        sums[12] += shard.index.object_count
        sums[13] += shard.index.area_used_bytes
        sums[14] += shard.index.overflow_count
        sums[15] += shard.index.grow_count
        sums[16] += shard.memory.used_bytes
        sums[17] += shard.memory.item_bytes
        sums[18] += shard.memory.item_count
        sums[19] += shard.memory.pinned_bytes
        sums[20] += shard.memory.zombie_count
        sums[21] += shard.memory.move_count
        sums[22] += shard.memory.budget_bytes
        sums[23] += shard.refused_count + shard.memory.slab.refused_count
        ec_lock_release(&shard.lock)
    return {
        "memory_hits": sums[0], "disk_hits": sums[1], "misses": sums[2], "puts": sums[3],
        "put_bytes": sums[4], "deletes": sums[5], "expired": sums[6], "demotions": sums[7],
        "promotions": sums[8], "memory_evictions": sums[9], "disk_evictions": sums[10],
        "tag_clashes": sums[11], "objects": sums[12], "index_used_bytes": sums[13],
        "index_overflow": sums[14], "index_grows": sums[15], "memory_used_bytes": sums[16],
        "memory_item_bytes": sums[17], "memory_items": sums[18], "memory_pinned_bytes": sums[19],
        "memory_zombies": sums[20], "memory_moves": sums[21], "memory_tier_budget_bytes": sums[22],
        "memory_refusals": sums[23],
    }


cdef dict _log_counters(CoreWrite store):
    cdef LogStore* log = &store.log
    cdef LogShared* shared = log.shared
    cdef LogCounters counters
    cdef uint64_t[7] states
    cdef uint64_t buffered = 0, used
    cdef uint32_t index, last_errno
    for index in range(7):
        states[index] = 0
    ec_lock_acquire(&shared.lock)
    # Some of them are counted without the lock.
    for index in range(sizeof(LogCounters) // 8):
        (<uint64_t*>&counters)[index] = ec_load_u64(&(<uint64_t*>&shared.counters)[index])
    used = shared.used_bytes
    last_errno = <uint32_t>shared.last_errno
    for index in range(shared.region_count):
        states[log.regions[index].state] += 1
    for index in range(shared.buffer_count):
        if log.buffers[index].state != BUFFER_FREE:
            buffered += log.buffers[index].fill
    ec_lock_release(&shared.lock)
    return {
        "log_records": counters.record_count, "log_record_bytes": counters.record_bytes,
        "flushes": counters.flush_count, "flushed_bytes": counters.flush_bytes,
        "flush_waits": counters.flush_wait_count,
        "flush_wait_us": counters.flush_wait_ns // 1000,
        "flush_errors": counters.flush_error_count, "large_records": counters.large_count,
        "syncs": counters.sync_count, "sync_errors": counters.sync_error_count,
        "disk_reads": counters.read_count, "disk_read_bytes": counters.read_bytes,
        "buffer_reads": counters.buffer_read_count, "read_errors": counters.read_error_count,
        "io_timeouts": ec_load_u64(&log.lanes.timeout_count),
        "io_overdue": ec_load_u32(&log.lanes.overdue_count),
        "corrupt_records": counters.corrupt_count, "regions_retired": counters.retired_count,
        "regions_sealed": counters.sealed_count, "reclaimed_regions": counters.reclaim_count,
        "reclaimed_bytes": counters.reclaim_bytes, "reinserted": counters.reinsert_count,
        "reinserted_bytes": counters.reinsert_bytes, "dropped": counters.drop_count,
        "tombstones": counters.tombstone_count, "region_shortages": counters.no_region_count,
        "prepare_errors": counters.prepare_error_count,
        "region_bytes": log.region_bytes, "region_count": shared.region_count,
        "regions_free": states[<int>REGION_FREE] + states[<int>REGION_READY],
        "regions_open": states[<int>REGION_OPEN] + states[<int>REGION_SEALING],
        "regions_full": states[<int>REGION_SEALED] + states[<int>REGION_RECLAIMING],
        "regions_lost": states[<int>REGION_RETIRED],
        "disk_used_bytes": used, "buffered_bytes": buffered,
        "is_read_only": ec_load_u32(&shared.read_only) != 0, "last_errno": <int32_t>last_errno,
        "checkpoints": ec_load_u64(&store.checkpointer.shared.count),
        "checkpoint_errors": ec_load_u64(&store.checkpointer.shared.error_count),
        "checkpoint_bytes": ec_load_u64(&store.checkpointer.shared.last_bytes),
        "checkpoint_us": ec_load_u64(&store.checkpointer.shared.last_duration_us),
        "recovery_us": store.report.duration_us,
        "recovery_objects": store.report.object_count,
        "recovery_is_warm": store.report.is_warm != 0,
        "recovery_replayed": store.report.replayed_entries,
        "recovery_swept": store.report.swept_entries,
        "recovery_lost": store.report.lost_entries,
        "recovery_regions": store.report.region_count,
        "recovery_regions_replayed": store.report.region_replayed,
        "recovery_regions_damaged": store.report.region_damaged,
        "recovery_regions_unreadable": store.report.region_unreadable,
        "recovery_checkpoint_loaded": store.report.checkpoint_loaded != 0,
        "recovery_checkpoint_clean": store.report.checkpoint_clean != 0,
        "recovery_checkpoints_damaged": store.report.checkpoint_skipped,
        "is_registered": store.log.registered != 0,
    }


cdef void _sum_cells(CoreWrite store, ProcessCells* sums):
    """What all processes counted, those that have gone too."""
    cdef uint32_t number, reason
    cdef ProcessCells* cells
    cdef uint32_t count = PROCESS_SLOTS if store.is_shared else 1
    memset(sums, 0, sizeof(ProcessCells))
    for number in range(count):
        cells = process_cells(&store.processes, number) if store.is_shared else store.cells
        sums.front_hits += ec_load_u64(&cells.front_hits)
        sums.front_bytes += ec_load_u64(&cells.front_bytes)
        sums.front_items += ec_load_u64(&cells.front_items)
        sums.invalidations += ec_load_u64(&cells.invalidations)
        for reason in range(SHED_REASON_COUNT):
            sums.shed[reason] += ec_load_u64(&cells.shed[reason])


cdef dict _shared_counters(CoreWrite store):
    cdef ProcessShared* shared = store.processes.shared
    cdef LeaseShared* leases = store.leases.shared
    return {
        "lease_takes": ec_load_u64(&leases.take_count),
        "lease_waits": ec_load_u64(&leases.wait_count),
        "lease_hits": ec_load_u64(&leases.hit_count),
        "lease_takeovers": ec_load_u64(&leases.takeover_count),
        "lease_timeouts": ec_load_u64(&leases.timeout_count),
        "lease_full": ec_load_u64(&leases.full_count),
        "lease_attaches": ec_load_u64(&leases.attach_count),
        "lease_streams_full": ec_load_u64(&leases.stream_full_count),
        "processes": process_live_count(&store.processes),
        "writer_pid": maintenance_writer(&store.processes),
        "is_writer": maintenance_writer(&store.processes) == store.processes.pid,
        "processes_attached": ec_load_u64(&shared.attach_count),
        "processes_reaped": ec_load_u64(&shared.reaped_count),
        "role_takeovers": ec_load_u64(&shared.takeover_count),
        "lock_repairs": ec_load_u64(&shared.repair_count),
        "shard_resets": ec_load_u64(&shared.shard_reset_count),
        "index_resets": ec_load_u64(&shared.index_reset_count),
    }


cdef dict collect_counters(CoreWrite store):
    cdef dict found = _sum_shards(store)
    cdef ProcessCells sums
    _sum_cells(store, &sums)
    found["front_hits"] = sums.front_hits
    found["front_bytes"] = sums.front_bytes
    found["front_items"] = sums.front_items
    found["front_budget_bytes"] = store.front_budget_bytes
    found["invalidations"] = sums.invalidations
    found["memory_budget_bytes"] = store.memory_bytes
    found["disk_budget_bytes"] = store.disk_bytes if store.has_disk else 0
    found["index_reserved_bytes"] = store.index_bytes
    found["is_hash_native"] = bool(store.hash_native)
    found["was_reformatted"] = store.common.reformatted != 0
    found["write_budget_bytes"] = store.write_budget_bytes
    found["write_budget_level"] = store.common.write_level
    found["superseded_puts"] = ec_load_u64(&store.engine.shared.superseded_count)
    found["unlogged_deletes"] = ec_load_u64(&store.engine.shared.unlogged_delete_count)
    found["index_full"] = ec_load_u64(&store.engine.shared.index_full_count)
    found["memory_skips"] = ec_load_u64(&store.engine.shared.memory_skip_count)
    found["shed"] = {
        "backpressure": sums.shed[SHED_BACKPRESSURE],
        "no_space": sums.shed[SHED_NO_SPACE],
        "io_error": sums.shed[SHED_IO_ERROR],
        "write_budget": sums.shed[SHED_WRITE_BUDGET],
        "index_full": sums.shed[SHED_INDEX_FULL],
        "too_large": sums.shed[SHED_TOO_LARGE],
        "no_memory": sums.shed[SHED_NO_MEMORY],
        "read_only": sums.shed[SHED_READ_ONLY],
    }
    if store.lower is not None:
        found.update(store.lower.counters())
        found["shed"] = {name: count + found["lower_shed"].get(name, 0)
                         for name, count in found["shed"].items()}
        # What leaves RAM has its copy below.
        found["demotions"], found["memory_evictions"] = found["memory_evictions"], 0
    if store.has_disk:
        found.update(_log_counters(store))
    if store.is_shared:
        found.update(_shared_counters(store))
    return found
