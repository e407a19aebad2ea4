"""Root: leaving an arena behind, and adopting one (see _core_warm.pxd)."""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._arena cimport (
    ARENA_MAGIC,
    ARENA_OPTIONS_BYTES,
    ARENA_WARM,
    ArenaHeader,
)
from edgecache._checkpoint cimport CheckpointStamp, checkpoint_stamp
from edgecache._core_arena cimport ArenaPlan, CoreArena, differing, pid_namespace
from edgecache._lease cimport lease_reset
from edgecache._lease_stream cimport stream_reset
from edgecache._pages cimport pages_back
from edgecache._process cimport PROCESS_FREE, PROCESS_SLOTS, process_slot
from edgecache._recovery cimport RecoveryReport
from edgecache._segment cimport (
    BUFFER_ACTIVE,
    BUFFER_FREE,
    REGION_FREE,
    LogShared,
    LogStore,
    WriteBuffer,
    log_is_settled,
)
from edgecache._shard cimport Shard, shard_at
from edgecache._sync cimport ec_load_u32, ec_lock_acquire, ec_lock_release


cdef bytes boot_id():
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read(40).strip()


cdef int warm_back(CoreArena core) noexcept:
    cdef ArenaPlan* plan = &core.plan
    cdef char* base = core.arena.base
    cdef int result
    with nogil:
        # Index and RAM tier lie between the fixed parts, and ask as they grow.
        result = pages_back(base, plan.index_offset)
        if result == 0:
            result = pages_back(base + plan.log_offset, plan.size_bytes - plan.log_offset)
    return result


cdef object warm_needed_bytes(CoreArena core):
    cdef ArenaPlan* plan = &core.plan
    return plan.index_offset + plan.size_bytes - plan.log_offset + plan.budget * plan.shard_count


cdef str warm_why_foreign(CoreArena core):
    cdef ArenaHeader* header = <ArenaHeader*>core.arena.base
    cdef bytes theirs, ours, token
    if header.magic != ARENA_MAGIC or header.abi_hash != core._abi_hash():
        return "the arena is of another build"
    token = header.token[:sizeof(header.token)]
    if token.rstrip(b"\0") != core.warm.old_token:
        return "the arena is not the one that the root names"
    theirs = header.boot_id[:sizeof(header.boot_id)]
    if theirs.rstrip(b"\0") != boot_id():
        return "the machine was started anew"
    if header.state != ARENA_WARM:
        return "the last process did not close it"
    if header.user != os.geteuid():
        return f"the arena is of user {header.user}"
    theirs = header.options[:ARENA_OPTIONS_BYTES]
    theirs = theirs.partition(b"\0")[0]
    ours = core._arena_options()[:ARENA_OPTIONS_BYTES - 1]
    if theirs != ours or header.size_bytes != core.plan.size_bytes:
        return "the configuration is another: " + differing(theirs.decode("utf-8", "replace"),
                                                            ours.decode())
    return ""


cdef str warm_why_stale(CoreArena core):
    cdef ArenaHeader* header = <ArenaHeader*>core.arena.base
    cdef LogStore* log = &core.log
    cdef CheckpointStamp stamp
    cdef uint32_t region, file
    cdef uint64_t end
    core.checkpointer.log = log
    core.checkpointer.shards = &core.shards
    checkpoint_stamp(&core.checkpointer, &stamp)
    if stamp.number != header.checkpoint_number or stamp.created_us != header.checkpoint_us:
        return "the disk has another checkpoint"
    for region in range(log.shared.region_count):
        if log.regions[region].state == REGION_FREE:
            continue
        file = region // log.regions_per_file
        if log.files[file] < 0:
            return f"data/{file:08d}.edge cannot be opened ({os.strerror(-log.files[file])})"
        end = <uint64_t>(region % log.regions_per_file) * log.region_bytes \
            + log.regions[region].written_bytes
        if log.ops.file_size(log.engine, <uint32_t>log.files[file]) < <int64_t>end:
            return "a data file is shorter than it was"
    return ""


cdef warm_adopt(CoreArena core):
    cdef ArenaHeader* header = <ArenaHeader*>core.arena.base
    cdef RecoveryReport* report = &core.common.report
    cdef uint32_t number
    # The last one had all of these when it left.
    core.maintenance.shared.lock = 0
    core.log.shared.lock = 0
    for number in range(core.shards.count):
        shard_at(&core.shards, number).lock = 0
    if core.is_shared:
        # Whose these were is gone, and a thread of theirs may have been at it when it was left.
        lease_reset(&core.leases)
        stream_reset(&core.streams)
    header.pid_namespace = pid_namespace()
    warm_name(core)
    core.warm.adopted()
    memset(report, 0, sizeof(RecoveryReport))
    report.is_warm = 1
    for number in range(core.shards.count):
        report.object_count += shard_at(&core.shards, number).index.object_count
    core.common.reformatted = 0


cdef warm_name(CoreArena core):
    """Write into the header which arena it is."""
    cdef ArenaHeader* header = <ArenaHeader*>core.arena.base
    cdef bytes token = core.warm.token, boot = boot_id()
    memset(header.token, 0, sizeof(header.token))
    memset(header.boot_id, 0, sizeof(header.boot_id))
    memcpy(header.token, <const char*>token, min(len(token), sizeof(header.token)))
    memcpy(header.boot_id, <const char*>boot, min(len(boot), sizeof(header.boot_id)))


cdef str _why_busy(CoreArena core):
    """What is under way, or ""; all locks of index, RAM tier and log are ours."""
    cdef LogStore* log = &core.log
    cdef LogShared* shared = log.shared
    cdef WriteBuffer* buffer
    cdef Shard* shard
    cdef uint32_t number
    for number in range(core.shards.count):
        shard = shard_at(&core.shards, number)
        if shard.memory.pinned_bytes or shard.memory.zombie_count or shard.memory.filling_count \
                or shard.stale_holds:
            return "values are still in use"
        if shard.index.growth_step or shard.index.replace_word:
            return "the index is torn"
    if shared.read_only or shared.counters.retired_count:
        return "the disk has failed"
    if not log_is_settled(log):
        return "what was deleted is not settled on disk"
    if shared.large_count or core.common.engine.pending_count:
        return "a put is still under way"
    for number in range(shared.buffer_count):
        buffer = &log.buffers[number]
        if buffer.writers or buffer.readers or not (buffer.state == BUFFER_FREE or (
                buffer.state == BUFFER_ACTIVE and buffer.record_count == 0)):
            return "a put is still under way"
    if shared.sync_lock or shared.seal_lock or core.common.engine.pending_lock:
        return "a call is still under way"
    if core.is_shared:
        for number in range(PROCESS_SLOTS):
            if ec_load_u32(&process_slot(&core.processes, number).state) != PROCESS_FREE:
                return "a value is still in use"
        if core.processes.shared.claim_lock or core.processes.shared.admit_lock or \
                core.processes.shared.reap_lock or core.processes.shared.role_word:
            return "a call is still under way"
    return ""


cdef str warm_leave(CoreArena core):
    cdef ArenaHeader* header = <ArenaHeader*>core.arena.base
    cdef uint32_t number
    cdef str reason
    cdef CheckpointStamp stamp
    checkpoint_stamp(&core.checkpointer, &stamp)
    if stamp.number == 0 or stamp.number != core.checkpointer.shared.number:
        return "the checkpoint cannot be read"
    ec_lock_acquire(&core.maintenance.shared.lock)
    for number in range(core.shards.count):
        ec_lock_acquire(&shard_at(&core.shards, number).lock)
    ec_lock_acquire(&core.log.shared.lock)
    reason = _why_busy(core)
    if not reason:
        header.checkpoint_number = stamp.number
        header.checkpoint_us = stamp.created_us
        header.state = ARENA_WARM
        if core.arena.part() != 0:
            header.state = 0
            reason = "the arena cannot be mapped"
    # From here on in the copy, where it was left: late threads need them.
    ec_lock_release(&core.log.shared.lock)
    for number in range(core.shards.count):
        ec_lock_release(&shard_at(&core.shards, number).lock)
    ec_lock_release(&core.maintenance.shared.lock)
    return reason
