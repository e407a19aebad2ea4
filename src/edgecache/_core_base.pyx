"""Root, part one: layout, open, close and counters of a store (see _core_base.pxd)."""

import os
import weakref

cimport cython

from libc.errno cimport EEXIST
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from edgecache._arena cimport (
    ARENA_HEADER_BYTES,
    ARENA_MAGIC,
    Arena,
    ArenaHeader,
    arena_plan,
)
from edgecache._checkpoint cimport CHECKPOINT_CLEAN
from edgecache._evict cimport (
    EVICT_ARC,
    EVICT_LRU,
    EVICT_S3FIFO,
    EVICT_SIEVE,
    EVICT_WTINYLFU,
    EvictKind,
)
from edgecache._flush cimport log_flush, log_seal_regions
from edgecache._hash cimport KEY_COMPOSITE_SEED
from edgecache._index cimport IndexShard, index_init
from edgecache._io cimport IO_OPEN_DIRECT, IO_OPEN_WRITE, IoEngine
from edgecache._io_align cimport IO_SECTOR_BYTES
from edgecache._io_lanes cimport lanes_close, lanes_open
from edgecache._maintenance cimport maintenance_checkpoint, maintenance_start, maintenance_stop
from edgecache._memory cimport (
    MEMORY_BUDGET_BYTES_MIN,
    MEMORY_PAGE_BYTES,
    MemoryShard,
    memory_init,
    memory_private_bytes,
)
from edgecache._read_buffers cimport read_buffers_close
from edgecache._reclaim cimport (
    GhostTable,
    ghost_bytes,
    ghost_init,
    ghost_recall,
    reclaim_prepare,
)
from edgecache._recovery cimport recovery_run
from edgecache._segment cimport (
    FOOTER_SLOTS,
    LOG_COUNT,
    LOG_MAIN,
    LOG_SMALL,
    NONE32,
    LogShared,
    Region,
    WriteBuffer,
    log_shared_bytes,
    log_take_file,
)
from edgecache._segment_format cimport FOOTER_BYTES, Footer, align_up
from edgecache._shard cimport SHARD_EPOCHS, Shard, shard_at, shard_set_close, shard_set_open
from edgecache._slab cimport SLAB_SPAN_BYTES
from edgecache._status cimport Status, raise_for_status
from edgecache._superblock cimport superblock_load, superblock_store
from edgecache._sync cimport ec_load_u32, ec_monotonic_ns, ec_now_us
from edgecache._xxhash cimport xxhash_api, xxhash_is_native

from edgecache import errors

cdef dict POLICIES = {"s3fifo": EVICT_S3FIFO, "lru": EVICT_LRU, "arc": EVICT_ARC,
                      "sieve": EVICT_SIEVE, "wtinylfu": EVICT_WTINYLFU}

cdef enum:
    MEAN_OBJECT_BYTES = 512         # sizes the ghosts of the RAM tier
    SHARD_BYTES_MIN = 33554432      # of the memory budget; fewer bytes, fewer shards
    SHARD_COUNT_MAX = 64
    REGIONS_PER_FILE_BYTES = 1073741824
    PREWRITE_BYTES = 4194304        # as many durable puts as come while the next are prewritten
    CLOSE_NS = 30000000000          # longest wait for the last flush
    RECORD_ROOM_BYTES = 98304       # the longest key and meta, headers, index entry and alignment

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
cdef class CoreBase:

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
            io: An engine over the locked root directory; None: the cache lives in RAM, with or
                without a lower tier.
        """
        if self.state != STORE_NEW:
            raise errors.StoreClosedError("a store is opened once", hint="make a new one")
        self.io = io
        self.has_disk = io is not None
        self.lower = options.get("lower")
        self._take_options(options)
        if self.has_disk:
            self._open_superblock(options["region_bytes"])
        else:
            self.seed = options.get("seed") or int.from_bytes(os.urandom(8), "little")
        if self.is_composite:
            self.seed ^= KEY_COMPOSITE_SEED
        self._lay_out(options["shards"])
        try:
            self._limit_values()
            if self.has_disk:
                self._open_log(options)
            self.state = STORE_OPEN
            LIVE.add(self)
        except BaseException:
            self._free()
            raise

    cdef _take_options(self, dict options):
        self.memory_bytes = options["memory_bytes"]
        self.disk_bytes = options["disk_bytes"]
        self.policy = <uint32_t>POLICIES[options["policy"]]
        self.policy_hits_unlocked = self.policy in (EVICT_S3FIFO, EVICT_SIEVE)
        self.block = options["block"]
        self.block_timeout_ns = <int64_t>(options["block_timeout_s"] * 1e9)
        self.max_object_bytes = options["max_object_bytes"]
        self.front_budget_bytes = options["front_bytes"]
        self.buffer_bytes = options["buffer_bytes"]
        self.buffer_count = options["buffer_count"]
        self.write_budget_bytes = options["write_budget_bytes"]
        self.write_tokens = <double>self.write_budget_bytes / 24
        self.write_tokens_ns = ec_monotonic_ns()
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

    cdef _lay_out(self, uint32_t shard_count):
        """Plan the arena, map it, and lay out what lives in RAM."""
        cdef uint64_t cursor = ARENA_HEADER_BYTES, budget, area_bytes, private_bytes, index_bytes
        cdef uint64_t shard_offset, stride, log_offset = 0, ghost_offset = 0, buffer_offset = 0
        cdef uint64_t private_offset, index_offset, memory_offset, memory_stride, ghosts_size = 0
        cdef uint32_t number, region_count = 0
        cdef ArenaHeader* header
        cdef Shard* shard
        cdef Status status
        if shard_count == 0:
            shard_count = 1
            while shard_count < SHARD_COUNT_MAX and \
                    shard_count * 2 * <uint64_t>SHARD_BYTES_MIN <= self.memory_bytes:
                shard_count *= 2
        while shard_count > 1 and self.memory_bytes // shard_count < 4 * MEMORY_BUDGET_BYTES_MIN:
            shard_count //= 2
        budget = (self.memory_bytes - min(self.front_budget_bytes, self.memory_bytes // 2)) \
            // shard_count
        area_bytes = align_up(budget, MEMORY_PAGE_BYTES)
        # Half of a shard's budget is the most that its index may take.
        index_bytes = align_up(max(budget // 2, <uint64_t>(1 << 18)), 4096)
        self.index_bytes = index_bytes * shard_count
        private_bytes = align_up(memory_private_bytes(<EvictKind>self.policy, area_bytes,
                                                      MEAN_OBJECT_BYTES), 4096)
        stride = align_up(sizeof(Shard), 128)
        shard_offset = arena_plan(&cursor, stride * shard_count, 4096)
        private_offset = arena_plan(&cursor, private_bytes * shard_count, 4096)
        self.shards.epochs_offset = arena_plan(&cursor, SHARD_EPOCHS * sizeof(uint32_t), 4096)
        index_offset = arena_plan(&cursor, index_bytes * shard_count, 4096)
        # Address space costs nothing: areas that huge pages fit into begin with one.
        memory_stride = align_up(area_bytes, SLAB_SPAN_BYTES if area_bytes >= 2 * SLAB_SPAN_BYTES
                                 else MEMORY_PAGE_BYTES)
        memory_offset = arena_plan(&cursor, memory_stride * shard_count, SLAB_SPAN_BYTES)
        if self.has_disk:
            region_count = self._region_count()
            ghosts_size = ghost_bytes(self.disk_bytes)
            log_offset = arena_plan(&cursor, log_shared_bytes(region_count, self.buffer_count), 64)
            ghost_offset = arena_plan(&cursor, sizeof(GhostTable) + 64 + ghosts_size, 64)
            buffer_offset = arena_plan(&cursor, self.buffer_bytes * self.buffer_count,
                                       SLAB_SPAN_BYTES)
        self.arena = Arena(align_up(cursor, 4096))
        if self.has_disk:
            self.arena.use_huge_pages(buffer_offset, self.buffer_bytes * self.buffer_count)
        header = <ArenaHeader*>self.arena.base
        header.magic = ARENA_MAGIC
        header.abi_hash = self._abi_hash()
        header.size_bytes = self.arena.size_bytes
        header.shard_count = shard_count
        header.region_count = region_count
        header.shard_offset = shard_offset
        header.shard_stride_bytes = stride
        header.log_offset = log_offset
        header.ghost_offset = ghost_offset
        header.buffer_offset = buffer_offset
        self.shards.base = self.arena.base
        self.shards.offset = shard_offset
        self.shards.stride_bytes = stride
        self.shards.count = shard_count
        for number in range(shard_count):
            shard = shard_at(&self.shards, number)
            shard.number = number
            status = index_init(self.arena.base, &shard.index, index_offset + number * index_bytes,
                                index_bytes, 0)
            raise_for_status(status, "index layout")
            shard.index.used_bytes_limit = index_bytes
            status = memory_init(self.arena.base, &shard.memory, <EvictKind>self.policy,
                                 memory_offset + number * memory_stride, area_bytes, budget,
                                 private_offset + number * private_bytes, private_bytes)
            raise_for_status(status, f"RAM tier layout ({budget} bytes a shard)")
        if shard_set_open(&self.shards, self.engine.api, self.seed) != 0:
            raise MemoryError("no memory for the shard table")
        self.engine.shards = &self.shards
        self.engine.shard_budget_bytes = budget
        self.engine.log = NULL
        if self.has_disk:
            self.ghosts = <GhostTable*>(self.arena.base + ghost_offset)
            ghost_init(self.arena.base, self.ghosts, align_up(ghost_offset + sizeof(GhostTable),
                                                              64), ghosts_size)
            self.engine.ghosts = self.ghosts
            self._lay_out_log(log_offset, buffer_offset, region_count)

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

    cdef uint64_t _abi_hash(self):
        cdef uint64_t sizes[8]
        sizes[0] = sizeof(Shard)
        sizes[1] = sizeof(IndexShard)
        sizes[2] = sizeof(MemoryShard)
        sizes[3] = sizeof(LogShared)
        sizes[4] = sizeof(Region)
        sizes[5] = sizeof(WriteBuffer)
        sizes[6] = sizeof(GhostTable)
        sizes[7] = sizeof(ArenaHeader)
        return self.engine.api.bits64(sizes, sizeof(sizes), 1)

    cdef uint32_t _region_count(self):
        cdef uint64_t region_bytes = <uint64_t>1 << self.superblock.region_shift
        # The rest pays for the two checkpoints: some 20 bytes per object.
        return <uint32_t>max(<uint64_t>4, (self.disk_bytes - self.disk_bytes // 50)
                             // region_bytes)

    cdef _lay_out_log(self, uint64_t log_offset, uint64_t buffer_offset, uint32_t region_count):
        cdef LogStore* log = &self.log
        cdef uint64_t offset = log_offset
        cdef uint32_t index
        log.base = self.arena.base
        log.shared = <LogShared*>(log.base + offset)
        offset += align_up(sizeof(LogShared), 64)
        log.regions = <Region*>(log.base + offset)
        offset += align_up(<uint64_t>region_count * sizeof(Region), 64)
        log.buffers = <WriteBuffer*>(log.base + offset)
        log.ops = &self.io.ops
        log.engine = self.io.state
        log.api = self.engine.api
        log.seed = self.superblock.seed
        log.region_bytes = <uint64_t>1 << self.superblock.region_shift
        log.buffer_bytes = min(self.buffer_bytes, log.region_bytes // 4)
        log.regions_per_file = <uint32_t>max(<uint64_t>1,
                                             <uint64_t>REGIONS_PER_FILE_BYTES // log.region_bytes)
        log.file_count = (region_count + log.regions_per_file - 1) // log.regions_per_file
        log.failure_limit = 3
        log.prewrite_start = NONE32
        log.shared.region_count = region_count
        log.shared.free_count = region_count
        log.shared.buffer_count = self.buffer_count
        for index in range(LOG_COUNT):
            log.shared.heads[index].region = NONE32
            log.shared.heads[index].buffer = NONE32
        for index in range(self.buffer_count):
            log.buffers[index].data_offset = buffer_offset + index * self.buffer_bytes
        log.files = <int32_t*>malloc(log.file_count * sizeof(int32_t))
        log.dirty = <uint32_t*>calloc(log.file_count, sizeof(uint32_t))
        log.footers = <Footer*>calloc(FOOTER_SLOTS, FOOTER_BYTES)
        log.footer_regions = <uint32_t*>malloc(FOOTER_SLOTS * sizeof(uint32_t))
        if log.files == NULL or log.dirty == NULL or log.footers == NULL or \
                log.footer_regions == NULL:
            raise MemoryError("no memory for the file table")
        # A buffered file takes any span, and a sector is as good as a byte.
        log.read_align_bytes = IO_SECTOR_BYTES
        for index in range(log.file_count):
            log.files[index] = -1
        for index in range(FOOTER_SLOTS):
            log.footer_regions[index] = NONE32

    cdef _open_log(self, dict options):
        cdef LogStore* log = &self.log
        cdef uint32_t index
        cdef int result
        cdef char name[32]
        cdef Status status
        cdef void* progress = <void*>self.progress if self.progress is not None else NULL
        log.direct = options["direct"]
        log.flush_interval_ns = <int64_t>(options["flush_interval_s"] * 1e9)
        log.read_timeout_ns = <int64_t>(options.get("read_timeout_s", 0) * 1e9)
        log.write_timeout_ns = <int64_t>(options.get("write_timeout_s", 0) * 1e9)
        lanes_open(&log.lanes, log.ops, log.engine)
        result = log.ops.make_directory(log.engine, b"data")
        if result < 0 and result != -EEXIST:
            raise_for_status(Status.STATUS_IO_ERROR, "cannot make the directory `data`", -result)
        for index in range(log.file_count):
            snprintf(name, sizeof(name), b"data/%08u.edge", <unsigned int>index)
            result = log.ops.open_file(log.engine, name,
                                       IO_OPEN_WRITE | (IO_OPEN_DIRECT if log.direct else 0))
            if result >= 0:
                log_take_file(log, index, <uint32_t>result)
            else:
                log.files[index] = result       # recovery asks why
        if options["locked_bytes"] == 0 or \
                options["locked_bytes"] >= self.buffer_bytes * self.buffer_count:
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
        with nogil:
            status = recovery_run(log, &self.shards, &self.checkpointer, _report_progress,
                                  progress, &self.report)
        raise_for_status(status, "recovery")
        self.checkpointer.last_record_count = log.shared.counters.record_count
        with nogil:
            reclaim_prepare(&self.reclaimer)
        # In memory there is no file system that could gain.
        log.prewrite_bytes = PREWRITE_BYTES if log.direct and self.io.name != "memory" else 0
        self.maintenance.log = log
        self.maintenance.reclaimer = &self.reclaimer
        self.maintenance.checkpointer = &self.checkpointer
        self.maintenance.checkpoint_interval_ns = <int64_t>(options["checkpoint_interval_s"] * 1e9)
        self.maintenance.flusher_depth = min(options["queue_depth"], 16)
        result = maintenance_start(&self.maintenance)
        if result != 0:
            raise OSError(result, "cannot start the background threads of the cache")
        self.engine.log = log

    cdef int check_open(self) except -1:
        if self.state == STORE_OPEN:
            return 0
        if self.state == STORE_FORKED:
            raise errors.StoreForkedError(
                "this store was opened before fork() and cannot be used in the child",
                hint="open a store of its own in each process, after the fork")
        raise errors.StoreClosedError("the store is closed", hint="open it again")

    cdef bint admit(self, uint64_t hash, uint64_t size_bytes, uint32_t* head) noexcept:
        """May these bytes go to disk now, and to which log? Caller holds the GIL."""
        cdef bint remembered = ghost_recall(self.log.base, self.ghosts, hash)
        cdef int64_t now
        cdef double full
        head[0] = LOG_MAIN if remembered and ec_load_u32(&self.log.shared.ready_count) >= 3 \
            else LOG_SMALL
        if self.write_budget_bytes == 0:
            return True
        now = ec_monotonic_ns()
        full = <double>self.write_budget_bytes / 24
        self.write_tokens = min(full, self.write_tokens + <double>(now - self.write_tokens_ns)
                                * self.write_budget_bytes / 86400e9)
        self.write_tokens_ns = now
        # In steps: half empty admits every other key, then every fourth, then only what was here
        # before; an empty bucket admits nothing.
        self.write_level = 0 if self.write_tokens > full / 2 else \
            (1 if self.write_tokens > full / 4 else (2 if self.write_tokens > full / 10 else 3))
        if self.write_tokens < size_bytes or not (
                remembered or self.write_level == 0
                or (self.write_level < 3
                    and (hash >> 20) & ((1 << self.write_level) - 1) == 0)):
            return False
        self.write_tokens -= size_bytes
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
            raise_for_status(status, "checkpoint", self.log.shared.last_errno)

    def close(self):
        """Flush, checkpoint, stop the threads and give everything back. Idempotent.

        *Cost*: blocks until the device took what is buffered.
        """
        cdef int64_t deadline
        if self.state != STORE_OPEN:
            if self.state == STORE_NEW:
                self.state = STORE_CLOSED
            return
        self.state = STORE_CLOSED
        LIVE.discard(self)
        if self.has_disk:
            with nogil:
                deadline = ec_monotonic_ns() + <int64_t>CLOSE_NS
                log_flush(&self.log, deadline)
                log_seal_regions(&self.log)
                if not self.log.shared.read_only:
                    maintenance_checkpoint(&self.maintenance, CHECKPOINT_CLEAN)
                maintenance_stop(&self.maintenance)
        self._free()
        if self.lower is not None:
            self.lower.close()

    def abandon(self):
        """Stop without flushing or a checkpoint, as a crash would: for tests."""
        if self.state != STORE_OPEN:
            return
        self.state = STORE_CLOSED
        LIVE.discard(self)
        if self.has_disk:
            with nogil:
                maintenance_stop(&self.maintenance)
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
        free(self.log.files)
        free(self.log.dirty)
        free(self.log.footers)
        free(self.log.footer_regions)
        read_buffers_close(&self.log.read_buffers)
        shard_set_close(&self.shards)
