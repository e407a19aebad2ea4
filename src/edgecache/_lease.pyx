"""Leases (see _lease.pxd)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._hash cimport Hash128
from edgecache._process cimport (
    PROCESS_SLOTS,
    PROCESS_USED,
    ProcessSlot,
    process_is_live,
    process_slot,
)
from edgecache._sync cimport (
    ec_add_u32,
    ec_add_u64,
    ec_count,
    ec_futex_wait,
    ec_futex_wake,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_store_u32,
    ec_store_u64,
    ec_thread_id,
)

cdef enum:
    EVERYBODY = 0x7FFFFFFF


cdef bint lease_owner_is_live(const LeaseTable* self, uint32_t owner, uint32_t pid,
                              uint64_t start_time) noexcept nogil:
    cdef const ProcessSlot* slot
    if owner >= PROCESS_SLOTS:
        return False
    slot = process_slot(self.processes, owner)
    return ec_load_u32(&slot.state) == PROCESS_USED and slot.pid == pid and \
        slot.start_time == start_time and process_is_live(self.processes, owner)


cdef bint _holds(const LeaseTable* self, const LeaseCell* cell) noexcept nogil:
    """Does what is HELD still hold? (invariant 3) Of a copy: it asks the system, under no lock."""
    return ec_monotonic_ns() < cell.deadline_ns and \
        lease_owner_is_live(self, cell.owner, cell.pid, cell.start_time)


cdef void _take_mask(LeaseCell* cell, uint64_t* waiting) noexcept nogil:
    cdef uint32_t index
    for index in range(LEASE_MASKS):
        waiting[index] = cell.waiting[index]
        cell.waiting[index] = 0


cdef LeaseCell* _find_locked(LeaseSet* group, const Hash128* hash, uint64_t stale) noexcept nogil:
    """The cell of the hash, else one that nobody needs; NULL: all are held, but for `stale`."""
    cdef LeaseCell* cell
    cdef LeaseCell* spare = NULL
    cdef uint32_t number
    for number in range(LEASE_WAYS):
        cell = &group.cells[number]
        if _is_of(cell, hash):
            return cell
        if cell.state == LEASE_FREE:
            spare = cell
        elif cell.state == LEASE_HELD:
            if spare == NULL and cell.token == stale:
                spare = cell
        elif spare == NULL or (spare.state == LEASE_GIVEN
                               and cell.ended_token < spare.ended_token):
            # The one that ended first: those who waited for it know by now.
            spare = cell
    return spare


cdef bint _is_of(const LeaseCell* cell, const Hash128* hash) noexcept nogil:
    return cell.state != LEASE_FREE and \
        cell.hash_low == hash.low and cell.hash_high == hash.high


cdef uint64_t _find_stale(const LeaseTable* self, LeaseSet* group) noexcept nogil:
    """The token of a take in a full set that holds no more; 0: there is none."""
    cdef LeaseCell copy
    cdef uint32_t number
    for number in range(LEASE_WAYS):
        ec_lock_acquire(&group.lock)
        copy = group.cells[number]
        ec_lock_release(&group.lock)
        if copy.state == LEASE_HELD and not _holds(self, &copy):
            return copy.token
    return 0


cdef void _fill_locked(LeaseTable* self, LeaseCell* cell, const Hash128* hash,
                       int64_t lifetime_ns) noexcept nogil:
    """Make a cell HELD by this thread, in the order of invariant 4."""
    cdef bint is_same = _is_of(cell, hash)
    ec_store_u32(&cell.state, LEASE_FREE)
    if not is_same:
        cell.ended_token = 0
    cell.hash_low = hash.low
    cell.hash_high = hash.high
    cell.owner = self.processes.number
    cell.pid = self.processes.pid
    cell.start_time = self.processes.start_time
    cell.thread = ec_thread_id()
    cell.note = 0
    cell.deadline_ns = ec_monotonic_ns() + lifetime_ns
    cell.token = ec_add_u64(&self.shared.token_last, 1)
    ec_store_u32(&cell.state, LEASE_HELD)


cdef LeaseAnswer lease_take(LeaseTable* self, const Hash128* hash, int64_t lifetime_ns,
                            LeaseTake* take) noexcept nogil:
    cdef LeaseShared* shared = self.shared
    cdef uint32_t set_number = <uint32_t>(hash.high % LEASE_SETS)
    cdef LeaseSet* group = &shared.sets[set_number]
    cdef LeaseCell* cell
    cdef LeaseCell copy
    cdef uint64_t[LEASE_MASKS] waiting
    cdef uint64_t stale = 0      # a take that was found to hold no more
    cdef bint is_takeover
    take.set_number = set_number
    take.thread = 0
    while True:
        ec_lock_acquire(&group.lock)
        cell = _find_locked(group, hash, stale)
        if cell == NULL:
            ec_lock_release(&group.lock)
            stale = _find_stale(self, group)
            if stale:
                continue
            ec_count(&shared.full_count, 1)
            return LEASE_FULL
        take.cell_number = <uint32_t>(cell - &group.cells[0])
        if not _is_of(cell, hash) or cell.state != LEASE_HELD or cell.token == stale:
            break
        copy = cell[0]
        ec_lock_release(&group.lock)
        if _holds(self, &copy):
            take.token = copy.token
            take.note = copy.note
            if copy.pid == self.processes.pid:
                take.thread = copy.thread
            return LEASE_BUSY
        stale = copy.token
    is_takeover = cell.state == LEASE_HELD and _is_of(cell, hash)
    _take_mask(cell, waiting)
    _fill_locked(self, cell, hash, lifetime_ns)
    take.token = cell.token
    take.note = 0
    ec_lock_release(&group.lock)
    ec_count(&shared.take_count, 1)
    if is_takeover:
        ec_count(&shared.takeover_count, 1)
    # Those who waited for another take of the cell: it is over.
    lease_wake(self, waiting)
    return LEASE_TAKEN


cdef LeaseCell* _held_locked(LeaseTable* self, const LeaseTake* take) noexcept nogil:
    """The cell of a take that still holds; NULL: it was taken over. The set is locked here."""
    cdef LeaseSet* group = &self.shared.sets[take.set_number]
    cdef LeaseCell* cell = &group.cells[take.cell_number]
    ec_lock_acquire(&group.lock)
    if cell.state == LEASE_HELD and cell.token == take.token:
        return cell
    ec_lock_release(&group.lock)
    return NULL


cdef bint lease_renew(LeaseTable* self, const LeaseTake* take, int64_t lifetime_ns) noexcept nogil:
    cdef LeaseCell* cell = _held_locked(self, take)
    if cell == NULL:
        return False
    cell.deadline_ns = ec_monotonic_ns() + lifetime_ns
    ec_lock_release(&self.shared.sets[take.set_number].lock)
    return True


cdef bint lease_note(LeaseTable* self, const LeaseTake* take, uint64_t note) noexcept nogil:
    cdef LeaseCell* cell = _held_locked(self, take)
    cdef uint64_t[LEASE_MASKS] waiting
    if cell == NULL:
        return False
    ec_store_u64(&cell.note, note)
    _take_mask(cell, waiting)
    ec_lock_release(&self.shared.sets[take.set_number].lock)
    lease_wake(self, waiting)
    return True


cdef bint lease_give(LeaseTable* self, const LeaseTake* take, LeaseOutcome outcome,
                     uint32_t detail) noexcept nogil:
    cdef LeaseCell* cell = _held_locked(self, take)
    cdef uint64_t[LEASE_MASKS] waiting
    if cell == NULL:
        return False
    cell.outcome = outcome
    cell.detail = detail
    ec_store_u64(&cell.ended_token, take.token)
    _take_mask(cell, waiting)
    ec_store_u32(&cell.state, LEASE_GIVEN)
    ec_lock_release(&self.shared.sets[take.set_number].lock)
    lease_wake(self, waiting)
    return True


cdef uint32_t lease_look(LeaseTable* self, LeaseTake* take, uint32_t* detail) noexcept nogil:
    cdef LeaseSet* group = &self.shared.sets[take.set_number]
    cdef LeaseCell* cell = &group.cells[take.cell_number]
    cdef LeaseCell copy
    ec_lock_acquire(&group.lock)
    if cell.state == LEASE_HELD and cell.token == take.token:
        lease_mark(cell.waiting, self.processes.number)
    copy = cell[0]
    ec_lock_release(&group.lock)
    detail[0] = 0
    if copy.ended_token == take.token:
        detail[0] = copy.detail
        return copy.outcome
    if copy.state == LEASE_HELD and copy.token == take.token and _holds(self, &copy):
        take.note = copy.note
        return 0
    return LEASE_LOST


cdef void lease_leave(LeaseTable* self, uint32_t owner) noexcept nogil:
    cdef LeaseSet* group
    cdef LeaseCell* cell
    cdef uint32_t set_number, number, index
    cdef uint64_t[LEASE_MASKS] waiting
    for set_number in range(LEASE_SETS):
        group = &self.shared.sets[set_number]
        for index in range(LEASE_MASKS):
            waiting[index] = 0
        ec_lock_acquire(&group.lock)
        for number in range(LEASE_WAYS):
            cell = &group.cells[number]
            if cell.state == LEASE_HELD and cell.owner == owner:
                for index in range(LEASE_MASKS):
                    waiting[index] |= cell.waiting[index]
                    cell.waiting[index] = 0
                ec_store_u32(&cell.state, LEASE_FREE)
        ec_lock_release(&group.lock)
        lease_wake(self, waiting)


# ---------------------------------------------------------------- sleeping

cdef uint32_t lease_event(const LeaseTable* self) noexcept nogil:
    return ec_load_u32(&self.shared.events[self.processes.number].word)


cdef void lease_sleep(const LeaseTable* self, uint32_t seen, int64_t timeout_ns) noexcept nogil:
    ec_futex_wait(&self.shared.events[self.processes.number].word, seen, timeout_ns)


cdef void _bump(const LeaseTable* self, uint32_t number) noexcept nogil:
    ec_add_u32(&self.shared.events[number].word, 1)
    ec_futex_wake(&self.shared.events[number].word, EVERYBODY)


cdef void lease_wake(const LeaseTable* self, const uint64_t* waiting) noexcept nogil:
    cdef uint32_t index, bit
    for index in range(LEASE_MASKS):
        if waiting[index] == 0:
            continue
        for bit in range(64):
            if waiting[index] >> bit & 1:
                _bump(self, index * 64 + bit)


cdef void lease_poke(const LeaseTable* self) noexcept nogil:
    _bump(self, self.processes.number)
