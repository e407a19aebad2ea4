"""The processes that share an arena: who lives, and what each of them holds beyond a lock.

Invariants (the table lies in the arena):

1. A slot is FREE, or USED by one process from attach to detach. While that process lives it holds
   byte `number` of the registry file by a POSIX record lock, which the kernel gives back when the
   process is gone (all its threads, and the system calls they were in), which a child of fork does
   not inherit, and which a process with the same number that comes later does not have.
2. A hold names something that belongs to the process while no lock is held: a reservation in a
   write buffer, a large block, a pinned item, an item being filled. `kind` is set last when it is
   taken and cleared first when it is given, both under the lock of what it names: so whoever dies
   without that lock leaves holds that are exact, and whoever dies with it leaves a structure that
   is repaired from the holds.
3. `readers[b]` counts the copies that the process makes from write buffer b; under the log's lock.
4. Counters in `cells` only grow, and stay when the slot goes to another process: their sums over
   all slots are those of the store.

Source: fcntl(2), "Traditional (process-associated) record locking"; tgkill(2).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    PROCESS_SLOTS = 128
    PROCESS_HOLDS = 2046            # of one process at a time; without one it does without
    PROCESS_BUFFERS = 64            # at least BUFFER_COUNT_MAX
    PROCESS_PAGE_BYTES = 4096

cdef enum ProcessState:
    PROCESS_FREE = 0
    PROCESS_USED = 1

cdef enum HoldKind:
    HOLD_NONE = 0
    HOLD_RESERVATION = 1            # place: buffer; reference, size_bytes: of the record in it
    HOLD_LARGE = 2                  # place: region
    HOLD_PIN = 3                    # place: shard; reference, incarnation, size_bytes: of the item
    HOLD_FILL = 4                   # the same

cdef struct Hold:                   # 32 bytes
    uint32_t kind
    uint32_t place
    uint32_t reference
    uint32_t incarnation
    uint64_t size_bytes
    uint64_t generation

cdef struct ProcessCells:           # 128 bytes: what one process counts without a lock
    uint64_t front_hits
    uint64_t front_bytes
    uint64_t front_items
    uint64_t invalidations
    uint64_t shed[8]
    uint64_t zero[4]

cdef struct ProcessSlot:
    uint32_t state
    uint32_t pid
    uint64_t start_time             # of the process, in clock ticks since boot
    uint64_t front_claim_bytes      # of the front budget
    uint32_t hold_high              # holds from here on were never used
    uint32_t zero
    uint32_t readers[64]
    Hold holds[2046]

cdef struct ProcessShared:          # in the arena, followed by the slots
    uint32_t role_word              # robust futex: thread id of the writer (_maintenance.pxd)
    uint32_t reap_lock              # who cleans up after the dead; only tried
    uint32_t claim_lock             # of front_claim_bytes
    uint32_t admit_lock             # of the write budget
    uint64_t reaped_count           # processes that died, cleaned up after
    uint64_t takeover_count         # writer roles that were taken over from the dead
    uint64_t repair_count           # locks taken over from the dead ...
    uint64_t shard_reset_count      # ... and how many of them cost a shard its RAM entries,
    uint64_t index_reset_count      # or its index
    uint64_t attach_count

cdef struct ProcessTable:           # process-local
    char* base
    uint64_t offset                 # of ProcessShared in the arena
    ProcessShared* shared
    ProcessSlot* own                # NULL: not attached
    uint32_t number
    int registry                    # descriptor of the registry file
    uint32_t pid
    uint32_t lock                   # of the stack below
    uint64_t start_time
    uint32_t* free_holds
    uint32_t free_count
    uint32_t zero

cdef uint64_t process_shared_bytes() noexcept nogil
cdef inline ProcessSlot* process_slot(const ProcessTable* self, uint32_t number) noexcept nogil:
    return <ProcessSlot*>(self.base + self.offset + PROCESS_PAGE_BYTES
                          + number * (sizeof(ProcessSlot) + PROCESS_PAGE_BYTES
                                      - sizeof(ProcessSlot) % PROCESS_PAGE_BYTES))
# The cells of a slot end a page of their own, which a process maps in front of its table of objects
# (_core_front.pxd).
cdef inline uint64_t process_cells_page(const ProcessTable* self, uint32_t number) noexcept nogil:
    """Arena offset of the page whose last 128 bytes are the cells."""
    return self.offset + PROCESS_PAGE_BYTES + PROCESS_SLOTS * (
        sizeof(ProcessSlot) + PROCESS_PAGE_BYTES - sizeof(ProcessSlot) % PROCESS_PAGE_BYTES) \
        + number * <uint64_t>PROCESS_PAGE_BYTES
cdef inline ProcessCells* process_cells(const ProcessTable* self, uint32_t number) noexcept nogil:
    return <ProcessCells*>(self.base + process_cells_page(self, number)
                           + PROCESS_PAGE_BYTES - sizeof(ProcessCells))

# Point the table at an arena; nothing is taken yet.
cdef void process_open(ProcessTable* self, char* base, uint64_t offset, int registry) noexcept nogil
# Take a slot that is FREE. 0, -EAGAIN: there is none (reap the dead first), or -errno. The caller
# is the only one that attaches (lock of the registry file).
cdef int process_attach(ProcessTable* self) noexcept nogil
# Give the slot back: nothing may be held.
cdef void process_detach(ProcessTable* self) noexcept nogil
cdef void process_close(ProcessTable* self) noexcept nogil
# Of a USED slot.
cdef bint process_is_live(const ProcessTable* self, uint32_t number) noexcept nogil
cdef bint process_thread_is_live(const ProcessTable* self, uint32_t thread) noexcept nogil
# Number of the process that has this thread; 0: it is gone.
cdef uint32_t process_of_thread(const ProcessTable* self, uint32_t thread) noexcept nogil
# How many processes live, this one included.
cdef uint32_t process_live_count(const ProcessTable* self) noexcept nogil

# A hold, as its number + 1; 0: all are taken. Under the lock of what it names.
cdef uint32_t hold_take(ProcessTable* self, HoldKind kind, uint32_t place, uint32_t reference,
                        uint32_t incarnation, uint64_t size_bytes,
                        uint64_t generation) noexcept nogil
cdef void hold_give(ProcessTable* self, uint32_t hold) noexcept nogil
cdef inline Hold* hold_at(const ProcessTable* self, uint32_t hold) noexcept nogil:
    return &self.own.holds[hold - 1]
