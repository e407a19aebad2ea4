"""Root: the arena of a store, laid out or joined (see _core_arena.pxd)."""

import os

cimport cython

from libc.errno cimport EAGAIN, EINVAL
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from edgecache._arena cimport (
    ARENA_HEADER_BYTES,
    ARENA_MAGIC,
    ARENA_NEW,
    ARENA_OPTIONS_BYTES,
    ARENA_VERSION,
    Arena,
    ArenaHeader,
    arena_make_memfd,
    arena_plan,
)
from edgecache._core_warm cimport (
    warm_back,
    warm_name,
    warm_needed_bytes,
    warm_why_foreign,
)
from edgecache._evict cimport EvictKind
from edgecache._index cimport IndexShard, index_init
from edgecache._io_align cimport IO_SECTOR_BYTES
from edgecache._lease cimport LeaseShared
from edgecache._lease_stream cimport StreamShared, stream_shared_bytes
from edgecache._memory cimport (
    MEMORY_BUDGET_BYTES_MIN,
    MEMORY_PAGE_BYTES,
    MemoryShard,
    RamItem,
    memory_init,
    memory_private_bytes,
)
from edgecache._process cimport (
    PROCESS_SLOTS,
    Hold,
    ProcessShared,
    ProcessSlot,
    process_attach,
    process_open,
    process_shared_bytes,
)
from edgecache._reclaim cimport GhostTable, ghost_bytes, ghost_init
from edgecache._repair cimport repair_is_dead, repair_reap, repair_word
from edgecache._segment cimport (
    FOOTER_SLOTS,
    LOG_COUNT,
    NONE32,
    LogShared,
    Region,
    WriteBuffer,
    log_shared_bytes,
)
from edgecache._segment_format cimport FOOTER_BYTES, FORMAT_VERSION, Footer, align_up
from edgecache._shard cimport (
    SHARD_EPOCHS,
    Shard,
    shard_at,
    shard_index_back,
    shard_set_close,
    shard_set_open,
)
from edgecache._slab cimport SLAB_SPAN_BYTES
from edgecache._status cimport Status, raise_for_status
from edgecache._sync cimport ec_monotonic_ns, robust_add

from edgecache import errors

cdef enum:
    MEAN_OBJECT_BYTES = 512         # sizes the ghosts of the RAM tier
    SHARD_BYTES_MIN = 33554432      # of the memory budget; fewer bytes, fewer shards
    SHARD_COUNT_MAX = 64
    REGIONS_PER_FILE_BYTES = 1073741824


cdef uint64_t pid_namespace() except? 0:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


cdef bint is_named(int descriptor):
    """Is the arena that others have open a file, and not a memfd?"""
    return not os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")


cdef str differing(str theirs, str ours):
    """The first option in which two texts of _arena_options differ."""
    cdef str there, here
    for there, here in zip(theirs.split("), ("), ours.split("), (")):
        if there != here:
            return f"{there.strip('[()]')} there, {here.strip('[()]')} here"
    return "unknown options"


@cython.no_gc_clear
cdef class CoreArena:

    cdef _plan(self, uint32_t shard_count):
        """Where everything lies in the arena; the same for all who open it with these options."""
        cdef ArenaPlan* plan = &self.plan
        cdef uint64_t cursor = ARENA_HEADER_BYTES, areas
        memset(plan, 0, sizeof(ArenaPlan))
        if shard_count == 0:
            shard_count = 1
            while shard_count < SHARD_COUNT_MAX and \
                    shard_count * 2 * <uint64_t>SHARD_BYTES_MIN <= self.memory_bytes:
                shard_count *= 2
        while shard_count > 1 and self.memory_bytes // shard_count < 4 * MEMORY_BUDGET_BYTES_MIN:
            shard_count //= 2
        plan.shard_count = shard_count
        plan.budget = (self.memory_bytes - min(self.front_budget_bytes, self.memory_bytes // 2)) \
            // shard_count
        plan.area_bytes = align_up(plan.budget, MEMORY_PAGE_BYTES)
        # Half of a shard's budget is the most that its index may take.
        plan.index_bytes = align_up(max(plan.budget // 2, <uint64_t>(1 << 18)), 4096)
        self.index_bytes = plan.index_bytes * shard_count
        plan.private_bytes = align_up(memory_private_bytes(
            <EvictKind>self.policy, plan.area_bytes, MEAN_OBJECT_BYTES), 4096)
        plan.stride = align_up(sizeof(Shard), 128)
        plan.shard_offset = arena_plan(&cursor, plan.stride * shard_count, 4096)
        plan.private_offset = arena_plan(&cursor, plan.private_bytes * shard_count, 4096)
        self.shards.epochs_offset = arena_plan(&cursor, SHARD_EPOCHS * sizeof(uint32_t), 4096)
        plan.store_offset = arena_plan(&cursor, sizeof(StoreShared), 4096)
        if self.is_shared:
            plan.process_offset = arena_plan(&cursor, process_shared_bytes(), 4096)
        plan.index_offset = arena_plan(&cursor, plan.index_bytes * shard_count, 4096)
        # Address space costs nothing: areas that huge pages fit into begin with one. Shared ones
        # are there twice (_repair.pxd).
        plan.memory_stride = align_up(
            plan.area_bytes, SLAB_SPAN_BYTES if plan.area_bytes >= 2 * SLAB_SPAN_BYTES
            else MEMORY_PAGE_BYTES)
        areas = 2 if self.is_shared else 1
        plan.memory_offset = arena_plan(&cursor, areas * plan.memory_stride * shard_count,
                                        SLAB_SPAN_BYTES)
        if self.has_disk:
            plan.region_count = self._region_count()
            self._shape_log()
            plan.ghosts_bytes = ghost_bytes(self.disk_bytes)
            plan.log_offset = arena_plan(
                &cursor, log_shared_bytes(plan.region_count, self.buffer_count,
                                          self.log.file_count), 4096)
            plan.ghost_offset = arena_plan(&cursor, sizeof(GhostTable) + 64 + plan.ghosts_bytes,
                                           64)
            plan.buffer_offset = arena_plan(&cursor, self.buffer_bytes * self.buffer_count,
                                            SLAB_SPAN_BYTES)
        if self.is_shared:
            plan.lease_offset = arena_plan(&cursor, sizeof(LeaseShared), 4096)
            plan.stream_offset = arena_plan(&cursor, stream_shared_bytes(), 4096)
        plan.size_bytes = align_up(cursor, 4096)

    cdef _map(self):
        """Map the arena: of its own, or what others have open."""
        cdef int descriptor = -1
        if self.is_shared:
            descriptor = self.options["arena"]
            self.is_attached = descriptor >= 0
            if self.is_attached:
                if os.fstat(descriptor).st_size != self.plan.size_bytes:
                    os.close(descriptor)
                    raise errors.SharedModeError(
                        "the processes that share this cache use other sizes",
                        expected=self.plan.size_bytes, hint="give all of them one configuration")
                self.arena = Arena(self.plan.size_bytes, descriptor)
                self._check_header()
                self.is_file = self.warm is not None and is_named(descriptor)
                return
        if self.warm is None or not self._map_left():
            self._map_new()

    cdef _map_new(self):
        cdef int descriptor = -1
        self.is_warm = False
        self.is_file = self.warm is not None and self._map_file()
        if self.is_file:
            return
        if self.is_shared:
            descriptor = arena_make_memfd(self.plan.size_bytes)
            if descriptor < 0:
                raise OSError(-descriptor, "cannot make the shared arena of the cache")
        self.arena = Arena(self.plan.size_bytes, descriptor)
        if self.has_disk and not self.is_shared:
            self.arena.use_huge_pages(self.plan.buffer_offset,
                                      self.buffer_bytes * self.buffer_count)
        self._fill_header()

    cdef bint _map_file(self) except -1:
        """A new arena that can be left behind; False, and `warm.refusal`: there cannot be one."""
        cdef int descriptor = self.warm.create(self.plan.size_bytes, warm_needed_bytes(self))
        cdef int result
        if descriptor < 0:
            return False
        self.arena = Arena(self.plan.size_bytes, descriptor)
        result = warm_back(self)
        if result != 0:
            self.arena = None
            self.warm.give_up("the kernel is older than 5.14" if result == -EINVAL else
                              f"no memory for the arena ({os.strerror(-result)})")
            return False
        self._fill_header()
        warm_name(self)
        return True

    cdef bint _map_left(self) except -1:
        """The arena that an earlier life left behind; False: a new one it is."""
        cdef int descriptor = self.warm.find()
        cdef str reason
        if descriptor < 0:
            return False
        if os.fstat(descriptor).st_size != self.plan.size_bytes:
            os.close(descriptor)
            self.warm.refuse("the arena has another size")
            return False
        self.arena = Arena(self.plan.size_bytes, descriptor)
        reason = warm_why_foreign(self)
        if reason:
            self.arena = None
            self.warm.refuse(reason)
            return False
        self.is_warm = self.is_file = True
        return True

    cdef _begin_cold(self, str reason):
        """What was mapped is stale: a new arena takes its place."""
        shard_set_close(&self.shards)
        self.arena = None
        self.warm.refuse(reason)
        self._map_new()
        self._wire()

    cdef bytes _arena_options(self):
        """Everything but the sizes of structures that must be equal for all processes."""
        cdef list names = ["memory_bytes", "disk_bytes", "policy", "front_bytes", "buffer_bytes",
                           "buffer_count", "namespace", "write_budget_bytes", "direct"]
        return repr([(name, self.options[name]) for name in names] + [
            ("keep_warm", self.warm is not None), ("shared", bool(self.is_shared)),
            ("build", self.warm.build if self.warm is not None else ""),
            ("shards", self.plan.shard_count), ("regions", self.plan.region_count),
            ("region_bytes", self.log.region_bytes), ("seed", self.seed),
            ("hash", bool(self.hash_native)),
            ("identity", self.superblock.identity[:16].hex())]).encode()

    cdef _fill_header(self):
        cdef ArenaHeader* header = <ArenaHeader*>self.arena.base
        cdef bytes text = self._arena_options()
        header.magic = ARENA_MAGIC
        header.abi_hash = self._abi_hash()
        header.size_bytes = self.plan.size_bytes
        header.shard_count = self.plan.shard_count
        header.region_count = self.plan.region_count
        header.shard_offset = self.plan.shard_offset
        header.shard_stride_bytes = self.plan.stride
        header.log_offset = self.plan.log_offset
        header.ghost_offset = self.plan.ghost_offset
        header.buffer_offset = self.plan.buffer_offset
        header.process_offset = self.plan.process_offset
        header.store_offset = self.plan.store_offset
        header.user = os.geteuid()
        header.pid_namespace = pid_namespace()
        memcpy(header.options, <const char*>text, min(len(text), ARENA_OPTIONS_BYTES - 1))

    cdef _check_header(self):
        """Raise SharedModeError unless the arena that others use is one that this process can use.
        """
        cdef ArenaHeader* header = <ArenaHeader*>self.arena.base
        cdef bytes theirs, ours
        if header.magic != ARENA_MAGIC:
            raise errors.SharedModeError("what the processes of this cache have open is no arena",
                                         hint="end them")
        if header.abi_hash != self._abi_hash():
            raise errors.SharedModeError(
                "the processes that share this cache run another build of edgecache",
                hint="run one version everywhere; close the others first to change it")
        if header.user != os.geteuid():
            raise errors.SharedModeError("the arena of this cache belongs to another user",
                                         expected=os.geteuid(), found=header.user)
        if header.pid_namespace != pid_namespace():
            raise errors.SharedModeError(
                "the processes that share this cache run in another PID namespace",
                hint="start all of them in one container, or give each its own root")
        theirs, ours = header.options, self._arena_options()[:ARENA_OPTIONS_BYTES - 1]
        if theirs != ours or header.size_bytes != self.plan.size_bytes:
            raise errors.SharedModeError(
                "the processes that share this cache have another configuration: "
                + differing(theirs.decode(), ours.decode()),
                hint="give all of them one configuration; close the others first to change it")
        if header.state == ARENA_NEW:
            raise errors.SharedModeError("the arena of this cache was never laid out",
                                         hint="end the processes that have it open")

    cdef _wire(self):
        """Pointers of this process into the arena."""
        cdef ArenaPlan* plan = &self.plan
        self.common = <StoreShared*>(self.arena.base + plan.store_offset)
        self.shards.base = self.arena.base
        self.shards.offset = plan.shard_offset
        self.shards.stride_bytes = plan.stride
        self.shards.count = plan.shard_count
        if shard_set_open(&self.shards, self.engine.api, self.seed) != 0:
            raise MemoryError("no memory for the shard table")
        self.engine.shards = &self.shards
        self.engine.shared = &self.common.engine
        self.engine.shard_budget_bytes = plan.budget
        self.engine.log = NULL
        self.maintenance.shared = &self.common.maintenance
        if self.is_shared:
            self.leases.shared = <LeaseShared*>(self.arena.base + plan.lease_offset)
            self.leases.processes = &self.processes
            self.streams.shared = <StreamShared*>(self.arena.base + plan.stream_offset)
            self.streams.leases = &self.leases
        self.reclaimer.shared = &self.common.maintenance.reclaim
        self.checkpointer.shared = &self.common.maintenance.checkpoint
        if self.has_disk:
            self.ghosts = <GhostTable*>(self.arena.base + plan.ghost_offset)
            self.engine.ghosts = self.ghosts
            self._wire_log()

    cdef _lay_out(self):
        """The empty store."""
        cdef ArenaPlan* plan = &self.plan
        cdef uint32_t number, index
        cdef uint64_t limit = plan.index_bytes
        cdef Shard* shard
        cdef Status status
        for number in range(plan.shard_count):
            shard = shard_at(&self.shards, number)
            shard.number = number
            shard.index_offset = plan.index_offset + number * plan.index_bytes
            shard.index_bytes = plan.index_bytes
            shard.area_offsets[0] = plan.memory_offset + number * plan.memory_stride
            shard.area_offsets[1] = shard.area_offsets[0] + plan.shard_count * plan.memory_stride
            shard.area_bytes = plan.area_bytes
            shard.is_file = self.is_file
            shard.budget_bytes = plan.budget
            shard.private_offset = plan.private_offset + number * plan.private_bytes
            shard.private_bytes = plan.private_bytes
            shard.policy = self.policy
            if self.is_file:
                shard_index_back(self.arena.base, shard, 0)
                if shard.index.used_bytes_limit == 0:
                    raise MemoryError("no memory for the index of the cache in /dev/shm")
                limit = shard.index.used_bytes_limit
            status = index_init(self.arena.base, &shard.index, shard.index_offset,
                                plan.index_bytes, 0)
            raise_for_status(status, "index layout")
            shard.index.used_bytes_limit = limit
            status = memory_init(self.arena.base, &shard.memory, <EvictKind>self.policy,
                                 shard.area_offsets[0], plan.area_bytes, plan.budget,
                                 shard.private_offset, plan.private_bytes)
            raise_for_status(status, f"RAM tier layout ({plan.budget} bytes a shard)")
            shard.memory.slab.is_file = self.is_file
        self.common.write_tokens = <double>self.write_budget_bytes / 24
        self.common.write_tokens_ns = ec_monotonic_ns()
        self.common.reformatted = self.reformatted
        if not self.has_disk:
            return
        ghost_init(self.arena.base, self.ghosts, align_up(plan.ghost_offset + sizeof(GhostTable),
                                                          64), plan.ghosts_bytes)
        self.log.shared.prewrite_start = NONE32
        self.log.shared.region_count = plan.region_count
        self.log.shared.free_count = plan.region_count
        self.log.shared.buffer_count = self.buffer_count
        for index in range(LOG_COUNT):
            self.log.shared.heads[index].region = NONE32
            self.log.shared.heads[index].buffer = NONE32
        for index in range(self.buffer_count):
            self.log.buffers[index].data_offset = plan.buffer_offset + index * self.buffer_bytes
        for index in range(FOOTER_SLOTS):
            self.log.footer_regions[index] = NONE32

    cdef _attach_process(self):
        """Take a slot among the processes, and see to those that died."""
        cdef int result
        if not self.is_shared:
            return
        process_open(&self.processes, self.arena.base, self.plan.process_offset,
                     self.registry.descriptor)
        self.repairs.shards = &self.shards
        self.repairs.log = &self.log
        self.repairs.engine = self.engine.shared
        self.repairs.maintenance = self.maintenance.shared
        self.repairs.processes = &self.processes
        self.repairs.leases = &self.leases
        self.repairs.streams = &self.streams
        self.log.reap = repair_reap
        self.log.reap_context = &self.repairs
        self.robust = robust_add(self.arena.base, self.arena.size_bytes, repair_is_dead,
                                 repair_word, &self.repairs)
        if self.robust == NULL:
            raise errors.SharedModeError("this process has too many shared caches open",
                                         hint="close some of them")
        with nogil:
            repair_reap(&self.repairs)
            result = process_attach(&self.processes)
        if result == -EAGAIN:
            raise errors.SharedModeError("too many processes share this cache",
                                         expected=PROCESS_SLOTS, hint="start fewer of them")
        if result != 0:
            raise OSError(-result, "cannot lock the registry of the cache's processes")
        self.shards.processes = &self.processes
        self.engine.processes = &self.processes
        self.log.processes = &self.processes
        self.maintenance.processes = &self.processes
        self.registry.enter(self.processes.number, self.arena.descriptor)

    cdef uint64_t _abi_hash(self):
        cdef uint64_t sizes[18]
        sizes[0] = sizeof(Shard)
        sizes[1] = sizeof(IndexShard)
        sizes[2] = sizeof(MemoryShard)
        sizes[3] = sizeof(LogShared)
        sizes[4] = sizeof(Region)
        sizes[5] = sizeof(WriteBuffer)
        sizes[6] = sizeof(GhostTable)
        sizes[7] = sizeof(ArenaHeader)
        sizes[8] = sizeof(StoreShared)
        sizes[9] = sizeof(ProcessShared)
        sizes[10] = sizeof(ProcessSlot)
        sizes[11] = sizeof(ArenaPlan)
        sizes[12] = sizeof(Hold)
        sizes[13] = sizeof(RamItem)
        sizes[14] = FORMAT_VERSION
        sizes[15] = ARENA_VERSION
        sizes[16] = sizeof(LeaseShared)
        sizes[17] = stream_shared_bytes()
        return self.engine.api.bits64(sizes, sizeof(sizes), 1)

    cdef uint32_t _region_count(self):
        cdef uint64_t region_bytes = <uint64_t>1 << self.superblock.region_shift
        # The rest pays for the two checkpoints: some 20 bytes per object.
        return <uint32_t>max(<uint64_t>4, (self.disk_bytes - self.disk_bytes // 50)
                             // region_bytes)

    cdef _shape_log(self):
        cdef LogStore* log = &self.log
        log.ops = &self.io.ops
        log.engine = self.io.state
        log.direct = self.options["direct"]
        log.api = self.engine.api
        log.seed = self.superblock.seed
        log.region_bytes = <uint64_t>1 << self.superblock.region_shift
        log.buffer_bytes = min(self.buffer_bytes, log.region_bytes // 4)
        log.regions_per_file = <uint32_t>max(<uint64_t>1,
                                             <uint64_t>REGIONS_PER_FILE_BYTES // log.region_bytes)
        log.file_count = (self.plan.region_count + log.regions_per_file - 1) \
            // log.regions_per_file
        log.failure_limit = 3
        # A buffered file takes any span, and a sector is as good as a byte.
        log.read_align_bytes = IO_SECTOR_BYTES

    cdef _wire_log(self):
        cdef LogStore* log = &self.log
        cdef uint64_t offset = self.plan.log_offset
        cdef uint32_t index
        log.base = self.arena.base
        log.shared = <LogShared*>(log.base + offset)
        offset += align_up(sizeof(LogShared), 64)
        log.regions = <Region*>(log.base + offset)
        offset += align_up(<uint64_t>self.plan.region_count * sizeof(Region), 64)
        log.buffers = <WriteBuffer*>(log.base + offset)
        offset += align_up(<uint64_t>self.buffer_count * sizeof(WriteBuffer), 64)
        log.footers = <Footer*>(log.base + offset)
        offset += <uint64_t>FOOTER_SLOTS * FOOTER_BYTES
        log.footer_regions = <uint32_t*>(log.base + offset)
        offset += align_up(<uint64_t>FOOTER_SLOTS * sizeof(uint32_t), 64)
        log.dirty = <uint32_t*>(log.base + offset)
        if log.files != NULL:
            return
        log.files = <int32_t*>malloc(log.file_count * sizeof(int32_t))
        if log.files == NULL:
            raise MemoryError("no memory for the file table")
        for index in range(log.file_count):
            log.files[index] = -1
