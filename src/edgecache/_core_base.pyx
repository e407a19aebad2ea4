"""Root, part two: open, close, fork and budgets of a store (see _core_base.pxd)."""

import logging
import os
import weakref

cimport cython

from libc.errno cimport EEXIST
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from edgecache._arena cimport ARENA_USED, ArenaHeader
from edgecache._checkpoint cimport CHECKPOINT_CLEAN
from edgecache._core_arena cimport CoreArena, StoreShared
from edgecache._core_warm cimport warm_adopt, warm_leave, warm_why_stale
from edgecache._evict cimport EVICT_ARC, EVICT_LRU, EVICT_S3FIFO, EVICT_SIEVE, EVICT_WTINYLFU
from edgecache._flush cimport log_flush, log_seal_regions
from edgecache._hash cimport KEY_COMPOSITE_SEED
from edgecache._io cimport IO_OPEN_CREATE, IO_OPEN_DIRECT, IO_OPEN_WRITE, IoEngine
from edgecache._io_lanes cimport Lanes, lanes_close, lanes_open
from edgecache._lease cimport lease_leave
from edgecache._lease_stream cimport stream_leave
from edgecache._maintenance cimport maintenance_checkpoint, maintenance_start, maintenance_stop
from edgecache._memory cimport MEMORY_PAGE_BYTES
from edgecache._process cimport (
    PROCESS_HOLDS,
    ProcessTable,
    process_close,
    process_detach,
    process_live_count,
)
from edgecache._read_buffers cimport ReadBuffers, read_buffers_close
from edgecache._reclaim cimport ghost_recall, reclaim_prepare
from edgecache._recovery cimport recovery_run
from edgecache._repair cimport repair_reap
from edgecache._segment cimport LOG_MAIN, LOG_SMALL, LogStore, log_errno, log_take_file
from edgecache._segment_format cimport FOOTER_BYTES
from edgecache._shard cimport shard_set_close
from edgecache._status cimport Status, raise_for_status
from edgecache._superblock cimport superblock_load, superblock_store
from edgecache._sync cimport (
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_now_us,
    robust_remove,
)
from edgecache._xxhash cimport xxhash_api, xxhash_is_native

from edgecache import errors

cdef dict POLICIES = {"s3fifo": EVICT_S3FIFO, "lru": EVICT_LRU, "arc": EVICT_ARC,
                      "sieve": EVICT_SIEVE, "wtinylfu": EVICT_WTINYLFU}

cdef enum:
    PREWRITE_BYTES = 4194304        # as many durable puts as come while the next are prewritten
    CLOSE_NS = 30000000000          # longest wait for the last flush
    RECORD_ROOM_BYTES = 98304       # the longest key and meta, headers, index entry and alignment

LOG = logging.getLogger("edgecache.warm")

# Stores that a fork must mark; a child must not touch their locks, rings or threads.
cdef object LIVE = weakref.WeakSet()


def _mark_forked():
    cdef CoreBase store
    for store in list(LIVE):
        if store.state == STORE_OPEN:
            store.state = STORE_FORKED


os.register_at_fork(after_in_child=_mark_forked)


cdef void _report_progress(void* context, uint64_t done, uint64_t total) noexcept nogil:
    if context == NULL:
        return
    with gil:
        try:
            (<object>context)(done, total)
        except Exception:       # noqa: B902 - a progress bar must not stop a recovery
            pass


@cython.no_gc_clear
cdef class CoreBase(CoreArena):

    def __cinit__(self, *args, **kwargs):
        self.state = STORE_NEW

    def __init__(self, dict options, IoEngine io=None):
        """Lay out and open a store.

        Args:
            options: Final values, all required: memory_bytes, disk_bytes, region_bytes, shards,
                policy, front_bytes, buffer_bytes, buffer_count, flush_interval_s, block,
                block_timeout_s, max_object_bytes, checkpoint_interval_s, small_share, reinsert,
                write_budget_bytes, namespace, default_ttl_s, queue_depth, locked_bytes, direct,
                progress. Sizes are bytes, times seconds. Not required: read_timeout_s and
                write_timeout_s, of one transfer that a get or put waits for (0: no limit).
                With a lower tier also: lower (_core_lower.pxd) and seed (of its key hashes).
                keep_warm: who has the file of an arena that outlives the store (warm.py), or None.
                With several processes: registry (registry.py, locked by the caller; the store
                releases it in the end), and arena: a descriptor of the arena that other processes
                have open, which the store takes over; -1: there is none.
            io: An engine over the locked root directory; None: the cache lives in RAM, with or
                without a lower tier.
        """
        cdef str stale
        if self.state != STORE_NEW:
            raise errors.StoreClosedError("a store is opened once", hint="make a new one")
        self.opened_ns = ec_monotonic_ns()
        self.io = io
        self.has_disk = io is not None
        self.lower = options.get("lower")
        self.options = options
        self.registry = options.get("registry")
        self.is_shared = self.registry is not None
        self.warm = options.get("keep_warm")
        self._take_options(options)
        if self.has_disk:
            self._open_superblock(options["region_bytes"])
        else:
            self.seed = options.get("seed") or int.from_bytes(os.urandom(8), "little")
        if self.is_composite:
            self.seed ^= KEY_COMPOSITE_SEED
        self._plan(options["shards"])
        try:
            self._map()
            self._wire()
            if self.is_warm:
                self._open_files(0)
                stale = warm_why_stale(self)
                if stale:
                    self._begin_cold(stale)
                else:
                    warm_adopt(self)
            if not self.is_attached and not self.is_warm:
                self._lay_out()
            self._attach_process()
            self._limit_values()
            if self.has_disk:
                self._open_log()
            (<ArenaHeader*>self.arena.base).state = ARENA_USED
            if self.has_disk:
                self._start_log()
            self.life += 1
            self.state = STORE_OPEN
            LIVE.add(self)
        except BaseException:
            self._detach()
            self._free()
            raise

    cdef _take_options(self, dict options):
        self.memory_bytes = options["memory_bytes"]
        self.disk_bytes = options["disk_bytes"]
        self.policy = <uint32_t>POLICIES[options["policy"]]
        # Between processes nothing but the lock keeps an item where it is.
        self.policy_hits_unlocked = not self.is_shared and \
            self.policy in (EVICT_S3FIFO, EVICT_SIEVE)
        self.block = options["block"]
        self.block_timeout_ns = <int64_t>(options["block_timeout_s"] * 1e9)
        self.max_object_bytes = options["max_object_bytes"]
        self.front_budget_bytes = options["front_bytes"]
        self.buffer_bytes = options["buffer_bytes"]
        self.buffer_count = options["buffer_count"]
        self.write_budget_bytes = options["write_budget_bytes"]
        self.namespace = options["namespace"]
        self.is_composite = len(self.namespace) > 0
        ttl = options["default_ttl_s"]
        self.default_ttl_us = 0 if ttl is None else <int64_t>(ttl * 1e6)
        self.progress = options["progress"]
        self.engine.api = xxhash_api()
        self.hash_native = xxhash_is_native()

    cdef _open_superblock(self, uint64_t region_bytes):
        cdef bint repair = False
        cdef Status status
        cdef bytes identity
        status = superblock_load(&self.io.ops, self.io.state, self.engine.api, &self.superblock,
                                 &repair)
        if status == Status.STATUS_VERSION:
            raise errors.FormatVersionError(
                "the cache root was written by another version of edgecache",
                hint="open it with that version, or point `root` to another directory")
        if status not in (Status.STATUS_OK, Status.STATUS_NOT_FOUND, Status.STATUS_CORRUPT):
            raise_for_status(status, "superblock")
        if status != Status.STATUS_OK:
            self.reformatted = status == Status.STATUS_CORRUPT
            memset(&self.superblock, 0, sizeof(self.superblock))
            self.superblock.region_shift = <uint32_t>((<object>region_bytes).bit_length() - 1)
            self.superblock.seed = int.from_bytes(os.urandom(8), "little")
            self.superblock.created_us = <uint64_t>ec_now_us()
            identity = os.urandom(16)
            memcpy(self.superblock.identity, <const char*>identity, 16)
        if status != Status.STATUS_OK or repair:
            status = superblock_store(&self.io.ops, self.io.state, self.engine.api,
                                      &self.superblock)
            # An old root on a sick disk still opens; a new one needs its superblock.
            if status != Status.STATUS_OK and not repair:
                raise_for_status(status, "cannot write the superblock of the cache root")
        self.seed = self.superblock.seed

    cdef _limit_values(self):
        """What one entry may hold: a region takes it with all that stands around it, or a shard.

        A lower tier has its own limits: RAM takes what fits and leaves the rest to it.
        """
        if self.lower is not None:
            self.largest_value_bytes = self.lower.value_bytes_max
        elif self.has_disk:
            self.largest_value_bytes = self.log.region_bytes - FOOTER_BYTES - RECORD_ROOM_BYTES
        else:
            self.largest_value_bytes = max(self.engine.shard_budget_bytes // 4,
                                           <uint64_t>MEMORY_PAGE_BYTES // 2)

    cdef _open_files(self, uint32_t flags):
        cdef LogStore* log = &self.log
        cdef uint32_t index
        cdef int result
        cdef char name[32]
        for index in range(log.file_count):
            if log.files[index] >= 0:
                continue
            snprintf(name, sizeof(name), b"data/%08u.edge", <unsigned int>index)
            result = log.ops.open_file(log.engine, name, flags | IO_OPEN_WRITE
                                       | (IO_OPEN_DIRECT if log.direct else 0))
            if result >= 0:
                log_take_file(log, index, <uint32_t>result)
            else:
                log.files[index] = result       # recovery asks why

    cdef _open_log(self):
        """Open the files; unless others have, recover what they hold."""
        cdef LogStore* log = &self.log
        cdef int result
        cdef Status status
        cdef void* progress = <void*>self.progress if self.progress is not None else NULL
        cdef dict options = self.options
        log.flush_interval_ns = <int64_t>(options["flush_interval_s"] * 1e9)
        log.read_timeout_ns = <int64_t>(options.get("read_timeout_s", 0) * 1e9)
        # In shared mode nothing that is being written stays behind in a ring (see log_flusher_run).
        log.write_timeout_ns = 0 if self.is_shared \
            else <int64_t>(options.get("write_timeout_s", 0) * 1e9)
        lanes_open(&log.lanes, log.ops, log.engine)
        result = log.ops.make_directory(log.engine, b"data")
        if result < 0 and result != -EEXIST:
            raise_for_status(Status.STATUS_IO_ERROR, "cannot make the directory `data`", -result)
        self._open_files(0)
        if not self.is_shared and (
                options["locked_bytes"] == 0 or
                options["locked_bytes"] >= self.buffer_bytes * self.buffer_count):
            log.registered = log.ops.register_buffer(
                log.engine, log.base + log.buffers[0].data_offset,
                self.buffer_bytes * self.buffer_count) == 0
        self.reclaimer.log = log
        self.reclaimer.shards = &self.shards
        self.reclaimer.ghosts = self.ghosts
        self.reclaimer.small_share = options["small_share"]
        self.reclaimer.reinsert = options["reinsert"]
        self.reclaimer.reinsert_share = 0.5
        self.checkpointer.log = log
        self.checkpointer.shards = &self.shards
        if self.is_attached:
            self.report = self.common.report
            return
        if self.is_warm:
            self._go_on()
            return
        with nogil:
            status = recovery_run(log, &self.shards, &self.checkpointer, _report_progress,
                                  progress, &self.report)
        raise_for_status(status, "recovery")
        self.common.report = self.report
        self.checkpointer.shared.last_record_count = log.shared.counters.record_count
        self.maintenance.shared.last_checkpoint_ns = ec_monotonic_ns()
        if self.is_shared:
            # Others open them when they attach: none may come later.
            self._open_files(IO_OPEN_CREATE)
        with nogil:
            reclaim_prepare(&self.reclaimer)

    cdef _go_on(self):
        """With an arena of an earlier life nothing is recovered."""
        self.common.report.duration_us = (ec_monotonic_ns() - self.opened_ns) // 1000
        self.report = self.common.report
        self.maintenance.shared.last_checkpoint_ns = ec_monotonic_ns()
        if self.is_shared:
            self._open_files(IO_OPEN_CREATE)
        with nogil:
            reclaim_prepare(&self.reclaimer)

    cdef _start_log(self):
        """From here on there are background threads."""
        cdef LogStore* log = &self.log
        cdef int result
        # In memory there is no file system that could gain.
        log.prewrite_bytes = PREWRITE_BYTES if log.direct and self.io.name != "memory" else 0
        self.maintenance.log = log
        self.maintenance.reclaimer = &self.reclaimer
        self.maintenance.checkpointer = &self.checkpointer
        self.maintenance.checkpoint_interval_ns = <int64_t>(
            self.options["checkpoint_interval_s"] * 1e9)
        self.maintenance.flusher_depth = min(self.options["queue_depth"], 16)
        log.stopping = 0
        result = maintenance_start(&self.maintenance)
        if result != 0:
            raise OSError(result, "cannot start the background threads of the cache")
        self.engine.log = log

    cdef int check_open(self) except -1:
        if self.state == STORE_OPEN:
            return 0
        if self.state == STORE_FORKED and self.is_shared:
            self.resume_forked()
            return 0
        if self.state == STORE_FORKED:
            raise errors.StoreForkedError(
                "this store was opened before fork() and cannot be used in the child",
                hint="open a store of its own in each process, after the fork")
        raise errors.StoreClosedError("the store is closed", hint="open it again")

    def resume_forked(self):
        """In a child of fork(): attach this process; the layer that opened the store overrides it.
        """
        raise errors.StoreForkedError("this store cannot be used in a child of fork()")

    def resume(self, IoEngine io not None, registry not None, int descriptor):
        """In a child of fork(): go on with the arena of the parent, as a process of its own.

        Args:
            io: An engine over the locked root directory.
            registry: As at opening.
            descriptor: Of the arena that other processes have open now, or -1.

        Raises:
            StoreForkedError: Nobody has the arena open any more, or it is another one now.
        """
        if self.state != STORE_FORKED:
            return
        there = os.fstat(descriptor) if descriptor >= 0 else None
        here = os.fstat(self.arena.descriptor)
        if descriptor >= 0:
            os.close(descriptor)
        if there is None or (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise errors.StoreForkedError(
                "the store of the parent was closed since, and cannot be joined any more",
                hint="open the store again in the child")
        self.forget_threads()
        self.registry = registry
        self.io = io
        self.log.ops = &io.ops
        self.log.engine = io.state
        memset(&self.log.lanes, 0, sizeof(Lanes))
        lanes_open(&self.log.lanes, self.log.ops, self.log.engine)
        for index in range(self.log.file_count):
            self.log.files[index] = -1
        robust_remove(self.robust)
        self._attach_process()
        self.front_attach()
        self._open_files(0)
        self._start_log()
        self.life += 1
        self.state = STORE_OPEN

    cdef forget_threads(self):
        """What threads of the parent may have been doing: they do not exist here."""
        self.maintenance.running = 0
        free(self.processes.free_holds)
        memset(&self.processes, 0, sizeof(ProcessTable))
        # What was read at the time of the fork is lost room, and no more.
        memset(&self.log.read_buffers, 0, sizeof(ReadBuffers))
        self.front_leave()

    cdef front_attach(self):
        """Watch the arena as this process; _core_front knows how."""

    cdef bint admit(self, uint64_t hash, uint64_t size_bytes, uint32_t* head) noexcept:
        """May these bytes go to disk now, and to which log? Caller holds the GIL."""
        cdef bint remembered = ghost_recall(self.log.base, self.ghosts, hash)
        cdef bint admitted
        head[0] = LOG_MAIN if remembered and ec_load_u32(&self.log.shared.ready_count) >= 3 \
            else LOG_SMALL
        if self.write_budget_bytes == 0:
            return True
        if not self.is_shared:
            return self.spend(hash, size_bytes, remembered)
        ec_lock_acquire(&self.processes.shared.admit_lock)
        admitted = self.spend(hash, size_bytes, remembered)
        ec_lock_release(&self.processes.shared.admit_lock)
        return admitted

    cdef bint spend(self, uint64_t hash, uint64_t size_bytes, bint remembered) noexcept:
        """Take the bytes out of the write budget, if they may be. Under the GIL, and its lock."""
        cdef StoreShared* common = self.common
        cdef int64_t now = ec_monotonic_ns()
        cdef double full = <double>self.write_budget_bytes / 24
        common.write_tokens = min(full, common.write_tokens
                                  + <double>(now - common.write_tokens_ns)
                                  * self.write_budget_bytes / 86400e9)
        common.write_tokens_ns = now
        # In steps: half empty admits every other key, then every fourth, then only what was here
        # before; an empty bucket admits nothing.
        common.write_level = 0 if common.write_tokens > full / 2 else \
            (1 if common.write_tokens > full / 4 else (2 if common.write_tokens > full / 10 else 3))
        if common.write_tokens < size_bytes or not (
                remembered or common.write_level == 0
                or (common.write_level < 3
                    and (hash >> 20) & ((1 << common.write_level) - 1) == 0)):
            return False
        common.write_tokens -= size_bytes
        return True

    def checkpoint(self):
        """Write a checkpoint of the index now. *Cost*: blocks; copies and writes the index."""
        cdef Status status
        self.check_open()
        if self.lower is not None:
            self.lower.checkpoint()
        if self.has_disk:
            with nogil:
                status = maintenance_checkpoint(&self.maintenance, 0)
            raise_for_status(status, "checkpoint", log_errno(&self.log))

    def close(self):
        """Flush, checkpoint, stop the threads and give everything back. Idempotent.

        *Cost*: blocks until the device took what is buffered.
        """
        cdef int64_t deadline
        cdef Status flushed = Status.STATUS_OK, settled = Status.STATUS_OK
        cdef bint is_last = True
        if self.state != STORE_OPEN:
            if self.state == STORE_NEW:
                self.state = STORE_CLOSED
            return
        self.state = STORE_CLOSED
        LIVE.discard(self)
        if self.has_disk:
            is_last = self.is_last()
            with nogil:
                deadline = ec_monotonic_ns() + <int64_t>CLOSE_NS
                flushed = log_flush(&self.log, deadline)
                log_seal_regions(&self.log)
                if is_last and not ec_load_u32(&self.log.shared.read_only):
                    settled = maintenance_checkpoint(&self.maintenance, CHECKPOINT_CLEAN)
                maintenance_stop(&self.maintenance)
        self._detach()
        if self.is_file and is_last:
            self._leave_warm(flushed == Status.STATUS_OK and settled == Status.STATUS_OK)
        self._free()
        if self.lower is not None:
            self.lower.close()

    cdef _leave_warm(self, bint is_clean):
        """The arena stays for the next one, or goes."""
        cdef str reason = warm_leave(self) if is_clean else "the disk did not take everything"
        if reason:
            LOG.warning("the arena is not kept for the next opening: %s", reason)
            self.warm.give_up(reason)

    cdef bint is_last(self) noexcept:
        """Does no other process use the arena? The caller holds the lock of the registry."""
        cdef uint32_t count = 1
        if self.is_shared:
            with nogil:
                repair_reap(&self.repairs)
                count = process_live_count(&self.processes)
        return count <= 1

    cdef _detach(self):
        """Leave the slot, unless something is held beyond the store's life (a Blob)."""
        if self.is_shared and self.processes.own != NULL and \
                self.processes.free_count == PROCESS_HOLDS:
            self.front_leave()
            number = self.processes.number
            with nogil:
                lease_leave(&self.leases, number)
                stream_leave(&self.streams, number)
                process_detach(&self.processes)
            self.registry.leave(number)
            robust_remove(self.robust)
            self.robust = NULL

    cdef front_leave(self):
        """The process gives up its part of the front budget; _core_front knows how."""

    def abandon(self):
        """Stop without flushing or a checkpoint, as a crash would: for tests."""
        if self.state != STORE_OPEN:
            return
        self.state = STORE_CLOSED
        LIVE.discard(self)
        if self.has_disk:
            with nogil:
                maintenance_stop(&self.maintenance)
        self._detach()
        self._free()
        if self.lower is not None:
            self.lower.abandon()

    cdef _free(self):
        """Give back process-local memory and files; the arena goes with its last user."""
        cdef uint32_t index
        self.state = STORE_CLOSED
        with nogil:
            # What the device still has of it lies in memory that goes with this object.
            lanes_close(&self.log.lanes)
        # Another thread may still be inside a call: the tables stay until the object goes, and a
        # closed file only fails.
        if self.log.files != NULL:
            for index in range(self.log.file_count):
                if self.log.files[index] >= 0:
                    self.log.ops.close_file(self.log.engine, <uint32_t>self.log.files[index])

    def __dealloc__(self):
        if self.state == STORE_FORKED:
            # The parent's threads do not exist here, and its memory is a copy: let it go.
            return
        if self.state == STORE_OPEN:
            self.state = STORE_CLOSED
            if self.has_disk:
                with nogil:
                    log_flush(&self.log, ec_monotonic_ns() + <int64_t>CLOSE_NS)
                    maintenance_stop(&self.maintenance)
            self._free()
        if self.processes.own != NULL and self.processes.pid == <uint32_t>os.getpid():
            process_detach(&self.processes)
            self.registry.leave(self.processes.number)
        if self.registry is not None:
            self.registry.release()
        robust_remove(self.robust)
        process_close(&self.processes)
        free(self.log.files)
        read_buffers_close(&self.log.read_buffers)
        shard_set_close(&self.shards)
