"""The background threads (see _maintenance.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._checkpoint cimport checkpoint_write
from edgecache._flush cimport log_flusher_run
from edgecache._prewrite cimport log_prewrite
from edgecache._process cimport ProcessTable, process_of_thread, process_thread_is_live
from edgecache._reclaim cimport (
    reclaim_is_stuck,
    reclaim_needs_checkpoint,
    reclaim_one,
    reclaim_run,
)
from edgecache._segment cimport LogStore, log_is_settled, log_wake
from edgecache._shard cimport Shard, ShardSet, shard_at
from edgecache._status cimport Status
from edgecache._sync cimport (
    ec_cas_u32,
    ec_count,
    ec_futex_wait,
    ec_futex_wake,
    ec_load_u32,
    ec_load_u64,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_store_u32,
    ec_thread_id,
)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                       void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    int pthread_tryjoin_np(pthread_t thread, void** result)

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* set)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* old)
    enum:
        SIG_SETMASK

cdef enum:
    JOIN_NS = 1000000
    RETRY_NS = 100000000            # no region could be freed: look again soon
    UNSETTLED_NS = 1000000000       # a checkpoint is due that could not be written
    GROWN_RECORDS = 1000000         # a checkpoint is due after so many, or an eighth of all objects


cdef extern from *:
    """
    #include <linux/futex.h>
    #include <stddef.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* One entry, whose futex lies elsewhere: an offset from the entry may lead anywhere. */
    struct ec_robust_list {
        struct robust_list_head head;
        struct robust_list entry;
    };

    static __thread struct ec_robust_list ec_robust;

    /* For the rest of the calling thread's life: it must use no robust mutex of the C library. */
    static void ec_robust_watch(uint32_t *word) {
        ec_robust.head.list.next = &ec_robust.entry;
        ec_robust.head.futex_offset = (char *)word - (char *)&ec_robust.entry;
        ec_robust.head.list_op_pending = NULL;
        ec_robust.entry.next = &ec_robust.head.list;
        syscall(SYS_set_robust_list, &ec_robust.head, sizeof ec_robust.head);
    }
    #define EC_OWNER_DIED 0x40000000u
    #define EC_OWNER_MASK 0x3fffffffu
    """
    void ec_robust_watch(uint32_t* word) noexcept nogil
    uint32_t EC_OWNER_DIED
    uint32_t EC_OWNER_MASK
    uint32_t EC_LOCK_WAITERS


cdef uint32_t maintenance_writer(const ProcessTable* processes) noexcept nogil:
    cdef uint32_t owner = ec_load_u32(&processes.shared.role_word) & EC_OWNER_MASK
    return process_of_thread(processes, owner) if owner else 0


cdef bint _role_take(Maintenance* self) noexcept nogil:
    """Wait for the writer role; False: the store closes first."""
    cdef uint32_t* word = &self.processes.shared.role_word
    cdef uint32_t seen
    ec_robust_watch(word)
    while not ec_load_u32(&self.log.stopping):
        seen = ec_load_u32(word)
        if seen & EC_OWNER_MASK == 0 or seen & EC_OWNER_DIED or \
                not process_thread_is_live(self.processes, seen & EC_OWNER_MASK):
            if ec_cas_u32(word, seen, ec_thread_id() | EC_LOCK_WAITERS):
                if seen & (EC_OWNER_MASK | EC_OWNER_DIED):
                    ec_count(&self.processes.shared.takeover_count, 1)
                return True
        elif seen & EC_LOCK_WAITERS or ec_cas_u32(word, seen, seen | EC_LOCK_WAITERS):
            ec_futex_wait(word, seen | EC_LOCK_WAITERS, -1)
    return False


cdef void _role_give(Maintenance* self) noexcept nogil:
    ec_store_u32(&self.processes.shared.role_word, 0)
    ec_futex_wake(&self.processes.shared.role_word, 0x7FFFFFFF)


cdef void* _flusher(void* argument) noexcept nogil:
    cdef Maintenance* self = <Maintenance*>argument
    if self.processes == NULL:
        log_flusher_run(self.log, self.flusher_depth)
        return NULL
    if not _role_take(self):
        return NULL
    # What the last writer left in the hands of the dead, before anything waits for it.
    self.log.reap(self.log.reap_context)
    if pthread_create(&self.maintainer, NULL, _maintainer, self) == 0:
        log_flusher_run(self.log, self.flusher_depth)
        pthread_join(self.maintainer, NULL)
    _role_give(self)
    return NULL


cdef Status _checkpoint_locked(Maintenance* self, uint32_t flags) noexcept nogil:
    cdef Status status
    cdef uint64_t stable = 0
    status = checkpoint_write(self.checkpointer, flags, &stable)
    if status == Status.STATUS_OK:
        self.reclaimer.shared.stable_generation = stable
        self.reclaimer.shared.checkpoint_bytes = self.checkpointer.shared.last_bytes
    # Also after a failure: the next one is due when as many more have gathered.
    self.reclaimer.shared.tombstone_bytes = 0
    self.shared.last_checkpoint_ns = ec_monotonic_ns()
    return status


cdef void maintenance_prewrite(Maintenance* self, uint64_t ahead_bytes) noexcept nogil:
    ec_lock_acquire(&self.shared.lock)
    log_prewrite(self.log, ahead_bytes)
    ec_lock_release(&self.shared.lock)


cdef Status maintenance_checkpoint(Maintenance* self, uint32_t flags) noexcept nogil:
    cdef Status status
    ec_lock_acquire(&self.shared.lock)
    status = _checkpoint_locked(self, flags)
    ec_lock_release(&self.shared.lock)
    return status


cdef bint _is_dirty(Maintenance* self) noexcept nogil:
    return ec_load_u64(&self.log.shared.counters.record_count) != \
        self.checkpointer.shared.last_record_count


cdef bint _has_grown(Maintenance* self) noexcept nogil:
    cdef uint64_t objects = 0, records
    cdef uint32_t number
    cdef ShardSet* shards = self.checkpointer.shards
    cdef Shard* shard
    for number in range(shards.count):
        shard = shard_at(shards, number)
        ec_lock_acquire(&shard.lock)
        objects += shard.index.object_count
        ec_lock_release(&shard.lock)
    records = ec_load_u64(&self.log.shared.counters.record_count) \
        - self.checkpointer.shared.last_record_count
    return records > max(<uint64_t>GROWN_RECORDS, objects // 8)


cdef int64_t _maintain_locked(Maintenance* self) noexcept nogil:
    """Do what is due; how long to sleep then (-1: until woken)."""
    cdef LogStore* log = self.log
    cdef int64_t left, since
    cdef bint short_of_regions, is_settled
    if ec_load_u32(&log.shared.prewrite_wanted):
        log_prewrite(log, ec_load_u64(&log.prewrite_bytes))
        ec_store_u32(&log.shared.prewrite_wanted, 0)
    reclaim_run(self.reclaimer)
    if reclaim_is_stuck(self.reclaimer) and \
            _checkpoint_locked(self, 0) == Status.STATUS_OK and \
            _checkpoint_locked(self, 0) == Status.STATUS_OK:
        reclaim_one(self.reclaimer, True)
    if ec_load_u32(&log.shared.read_only):
        return -1
    # A lost region, or one that a recovery could not read, or a delete that the log had no room
    # for: until a checkpoint says so, another recovery might believe in it again. Where such
    # deletes come in rows, a checkpoint takes an eighth of the time.
    is_settled = log_is_settled(log)
    since = ec_monotonic_ns() - self.shared.last_checkpoint_ns
    if reclaim_needs_checkpoint(self.reclaimer) or self.checkpointer.shared.is_due or \
            self.checkpointer.shared.retired_count != \
            ec_load_u64(&log.shared.counters.retired_count) or \
            (not is_settled and since > <int64_t>RETRY_NS and
             since > 8000 * <int64_t>self.checkpointer.shared.last_duration_us):
        _checkpoint_locked(self, 0)
        return 0
    short_of_regions = ec_load_u32(&log.shared.ready_count) < self.reclaimer.ready_target
    if not _is_dirty(self):
        return -1 if is_settled else UNSETTLED_NS
    left = self.shared.last_checkpoint_ns + self.checkpoint_interval_ns - ec_monotonic_ns()
    if _has_grown(self):
        # What a recovery would have to replay is bounded by a share of what there is.
        left = 0
    if left <= 0:
        _checkpoint_locked(self, 0)
        left = self.checkpoint_interval_ns
    if short_of_regions:
        return min(left, <int64_t>RETRY_NS)
    return left if is_settled else min(left, <int64_t>UNSETTLED_NS)


cdef int64_t _maintain_once(Maintenance* self) noexcept nogil:
    cdef int64_t left
    ec_lock_acquire(&self.shared.lock)
    left = _maintain_locked(self)
    ec_lock_release(&self.shared.lock)
    return left


cdef void* _maintainer(void* argument) noexcept nogil:
    cdef Maintenance* self = <Maintenance*>argument
    cdef LogStore* log = self.log
    cdef uint32_t seen
    cdef int64_t left
    while not ec_load_u32(&log.stopping):
        seen = ec_load_u32(&log.shared.reclaim_word)
        left = _maintain_once(self)
        if left and not ec_load_u32(&log.stopping):
            ec_futex_wait(&log.shared.reclaim_word, seen, left)
    return NULL


cdef int maintenance_start(Maintenance* self) noexcept nogil:
    cdef sigset_t all_signals, old
    cdef int result
    # Signals are the interpreter's: its main thread must get them, not ours.
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &old)
    result = pthread_create(&self.flusher, NULL, _flusher, self)
    if result == 0 and self.processes == NULL:
        result = pthread_create(&self.maintainer, NULL, _maintainer, self)
        if result != 0:
            ec_store_u32(&self.log.stopping, 1)
            log_wake(&self.log.shared.flush_word)
            pthread_join(self.flusher, NULL)
    pthread_sigmask(SIG_SETMASK, &old, NULL)
    self.running = result == 0
    return result


cdef void maintenance_stop(Maintenance* self) noexcept nogil:
    cdef uint32_t never = 0
    if not self.running:
        return
    self.running = 0
    ec_store_u32(&self.log.stopping, 1)
    log_wake(&self.log.shared.reclaim_word)
    log_wake(&self.log.shared.flush_word)
    log_wake(&self.log.shared.done_word)
    if self.processes == NULL:
        pthread_join(self.maintainer, NULL)
        pthread_join(self.flusher, NULL)
        return
    # The flusher's thread ends the maintainer, if it has the role. If not, it may be about to sleep
    # on a word that does not change.
    while pthread_tryjoin_np(self.flusher, NULL) != 0:
        ec_futex_wake(&self.processes.shared.role_word, 0x7FFFFFFF)
        log_wake(&self.log.shared.flush_word)
        ec_futex_wait(&never, 0, JOIN_NS)
