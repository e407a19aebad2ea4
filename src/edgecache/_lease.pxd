"""Leases: of several processes one does a piece of work, the others wait for what comes of it.

A lease is named by 128 bits of hash. Cells lie in sets, and a set has one lock (_sync.pxd), so a
take, a give and a look cost one lock and a walk over one set; nobody sleeps under it. Who waits
sleeps on the word of its own process slot, for all that it waits for; a bit per slot in the cell
says whose words a change must wake. So a change wakes nobody who does not wait for it, and one
sleep serves any number of waits.

Invariants (all in the arena; the fields of a cell under the lock of its set):

1. A cell is FREE, HELD by one take, or GIVEN: over, with an outcome. At most one cell of a set that
   is not FREE has a given hash.
2. `token` names one take and is never used again. Who does not hold the token changes nothing: a
   take that was taken over, because its deadline had passed, cannot give or renew.
3. A take holds while its process lives and its deadline has not passed; then whoever asks may take
   it over. `owner`, `pid` and `start_time` name the process: where they do not fit together (a
   death between two stores), the owner counts as dead.
4. `state` is stored last by whatever makes a cell HELD, FREE or GIVEN, and what makes it another
   one's begins with FREE. So a cell whose set was locked by a process that died means something
   without a repair: what it was, or what it was to be.
5. `ended_token` and `outcome` tell how the last take of the cell ended. A waiter whose token is
   neither held nor the one that ended last has waited for something that is over: it looks again.
6. A wait is told that it is over at the latest when the next slice of its sleep ends: a death
   between a change and its wake costs a slice, not a wake for ever.

Source: fcntl(2) by way of _process.pxd for liveness; futex(2).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._hash cimport Hash128
from edgecache._process cimport ProcessTable

cdef enum:
    LEASE_SETS = 64
    LEASE_WAYS = 32                 # takes at a time: 2048, where hashes spread evenly
    LEASE_EVENTS = 128              # PROCESS_SLOTS
    LEASE_MASKS = 2                 # words of 64 bits for as many slots

cdef enum LeaseState:
    LEASE_FREE = 0
    LEASE_HELD = 1
    LEASE_GIVEN = 2

cdef enum LeaseOutcome:             # what those who waited do
    LEASE_STORED = 1                # look it up
    LEASE_RELEASED = 2              # it is of no use to others: each does it, at once
    LEASE_FAILED = 3                # compete for the next take
    LEASE_LOST = 4                  # the same: the holder died, was late, or nobody knows

cdef enum LeaseAnswer:              # of a take
    LEASE_TAKEN = 0
    LEASE_BUSY = 1                  # another holds it: wait
    LEASE_FULL = 2                  # no cell: do the work, others may do it as well

cdef struct LeaseCell:              # 128 bytes
    uint64_t hash_low
    uint64_t hash_high
    uint64_t token
    uint64_t ended_token
    uint64_t start_time
    int64_t deadline_ns             # CLOCK_MONOTONIC
    uint64_t note                   # of the holder, for those who wait; 0: none
    uint64_t[2] waiting             # bits: slots to wake
    uint32_t state
    uint32_t owner                  # slot of the process
    uint32_t pid
    uint32_t thread
    uint32_t outcome
    uint32_t detail                 # of the outcome; the holder's own
    uint64_t[4] zero

cdef struct LeaseSet:
    uint32_t lock
    uint32_t[15] zero
    LeaseCell[32] cells

cdef struct LeaseEvent:             # of one process slot, in a line of its own
    uint32_t word                   # futex: changes whenever something that it waits for does
    uint32_t[15] zero

cdef struct LeaseShared:
    uint64_t token_last
    uint64_t take_count
    uint64_t wait_count             # waits begun
    uint64_t hit_count              # waits that ended with what was waited for in the cache
    uint64_t takeover_count         # takes of what a dead or late one had held
    uint64_t timeout_count          # waits that were given up
    uint64_t full_count
    uint64_t attach_count           # readers of streams of other processes
    uint64_t stream_full_count      # streams that other processes could not see
    uint64_t[7] zero
    LeaseEvent[128] events
    LeaseSet[64] sets

cdef struct LeaseTable:             # process-local
    LeaseShared* shared             # NULL: there are no other processes
    ProcessTable* processes

cdef struct LeaseTake:              # of one who took a lease, or found it busy
    uint64_t token                  # the take that is held, or waited for
    uint64_t note
    uint32_t set_number
    uint32_t cell_number
    uint32_t thread                 # of who holds it, where that is this process; else 0
    uint32_t zero

cdef LeaseAnswer lease_take(LeaseTable* self, const Hash128* hash, int64_t lifetime_ns,
                            LeaseTake* take) noexcept nogil
# Whether it still holds (invariant 2): its deadline is then that far away.
cdef bint lease_renew(LeaseTable* self, const LeaseTake* take, int64_t lifetime_ns) noexcept nogil
# The same for the note; whoever waits is woken.
cdef bint lease_note(LeaseTable* self, const LeaseTake* take, uint64_t note) noexcept nogil
# End a take; whether it still held.
cdef bint lease_give(LeaseTable* self, const LeaseTake* take, LeaseOutcome outcome,
                     uint32_t detail) noexcept nogil
# How a take of others stands: 0, still held (this process is woken when that changes), or the
# outcome. `detail` and take.note are filled in.
cdef uint32_t lease_look(LeaseTable* self, LeaseTake* take, uint32_t* detail) noexcept nogil
# Free what a process slot holds, and wake who waits for it: the process closes, or is dead.
cdef void lease_leave(LeaseTable* self, uint32_t owner) noexcept nogil

# Does the process that is named still run?
cdef bint lease_owner_is_live(const LeaseTable* self, uint32_t owner, uint32_t pid,
                              uint64_t start_time) noexcept nogil

# Sleeping. Read the event before looking at what is waited for; it differs when that changed.
cdef uint32_t lease_event(const LeaseTable* self) noexcept nogil
cdef void lease_sleep(const LeaseTable* self, uint32_t seen, int64_t timeout_ns) noexcept nogil
# Wake the slots of a mask, which was read and cleared under the lock of what changed.
cdef void lease_wake(const LeaseTable* self, const uint64_t* waiting) noexcept nogil
# Wake this process: it waits for something more, or not at all any more.
cdef void lease_poke(const LeaseTable* self) noexcept nogil
cdef inline void lease_mark(uint64_t* waiting, uint32_t number) noexcept nogil:
    waiting[number >> 6] |= <uint64_t>1 << (number & 63)
