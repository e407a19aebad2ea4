"""The table of processes (see _process.pxd)."""

from libc.errno cimport EAGAIN, ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from edgecache._sync cimport (
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_store_u32,
    ec_count,
)

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* 1: another process holds the byte, 0: nobody else does; -1: it cannot be told. */
    static int ec_byte_is_held(int file, uint32_t number) {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = number;
        lock.l_len = 1;
        if (fcntl(file, F_GETLK, &lock) != 0) return -1;
        return lock.l_type != F_UNLCK;
    }

    static int ec_byte_lock(int file, uint32_t number, int type) {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = (short)type;
        lock.l_whence = SEEK_SET;
        lock.l_start = number;
        lock.l_len = 1;
        return fcntl(file, F_SETLK, &lock) == 0 ? 0 : -errno;
    }

    /* Is there such a thread in that process? EPERM would say that there is. */
    static int ec_thread_exists(uint32_t pid, uint32_t thread) {
        return syscall(SYS_tgkill, pid, thread, 0) == 0 || errno == EPERM;
    }

    /* Field 22 of /proc/self/stat; 0: unknown. Source: proc(5). */
    static uint64_t ec_start_time(void) {
        char text[1024];
        char *at;
        int field;
        ssize_t size;
        int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
        if (file < 0) return 0;
        size = read(file, text, sizeof text - 1);
        close(file);
        if (size <= 0) return 0;
        text[size] = 0;
        at = strrchr(text, ')');        /* the name may hold anything */
        for (field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
        return at ? strtoull(at + 1, NULL, 10) : 0;
    }
    """
    int ec_byte_is_held(int file, uint32_t number) noexcept nogil
    int ec_byte_lock(int file, uint32_t number, int type) noexcept nogil
    bint ec_thread_exists(uint32_t pid, uint32_t thread) noexcept nogil
    uint64_t ec_start_time() noexcept nogil
    int F_WRLCK
    int F_UNLCK

cdef extern from "unistd.h" nogil:
    int getpid()


cdef uint64_t process_shared_bytes() noexcept nogil:
    return PROCESS_PAGE_BYTES + PROCESS_SLOTS * (
        sizeof(ProcessSlot) + 2 * PROCESS_PAGE_BYTES - sizeof(ProcessSlot) % PROCESS_PAGE_BYTES)


cdef void process_open(ProcessTable* self, char* base, uint64_t offset,
                       int registry) noexcept nogil:
    memset(self, 0, sizeof(ProcessTable))
    self.base = base
    self.offset = offset
    self.shared = <ProcessShared*>(base + offset)
    self.registry = registry
    self.pid = <uint32_t>getpid()
    self.start_time = ec_start_time()


cdef int process_attach(ProcessTable* self) noexcept nogil:
    cdef ProcessSlot* slot
    cdef uint32_t number, index
    cdef int result
    for number in range(PROCESS_SLOTS):
        slot = process_slot(self, number)
        if slot.state == PROCESS_FREE:
            break
    else:
        return -EAGAIN
    self.free_holds = <uint32_t*>malloc(PROCESS_HOLDS * sizeof(uint32_t))
    if self.free_holds == NULL:
        return -ENOMEM
    result = ec_byte_lock(self.registry, number, F_WRLCK)
    if result != 0:
        return result
    for index in range(PROCESS_HOLDS):
        self.free_holds[index] = PROCESS_HOLDS - index
    self.free_count = PROCESS_HOLDS
    slot.pid = self.pid
    slot.start_time = self.start_time
    slot.front_claim_bytes = 0
    slot.hold_high = 0
    memset(slot.readers, 0, sizeof(slot.readers))
    memset(slot.holds, 0, sizeof(slot.holds))
    self.own = slot
    self.number = number
    ec_store_u32(&slot.state, PROCESS_USED)
    ec_count(&self.shared.attach_count, 1)
    return 0


cdef void process_detach(ProcessTable* self) noexcept nogil:
    cdef ProcessCells* cells
    if self.own == NULL:
        return
    cells = process_cells(self, self.number)
    cells.front_bytes = 0
    cells.front_items = 0
    ec_lock_acquire(&self.shared.claim_lock)
    self.own.front_claim_bytes = 0
    ec_lock_release(&self.shared.claim_lock)
    ec_store_u32(&self.own.state, PROCESS_FREE)
    self.own = NULL
    ec_byte_lock(self.registry, self.number, F_UNLCK)


cdef void process_close(ProcessTable* self) noexcept nogil:
    free(self.free_holds)
    self.free_holds = NULL


cdef bint process_is_live(const ProcessTable* self, uint32_t number) noexcept nogil:
    cdef const ProcessSlot* slot = process_slot(self, number)
    if slot.pid == self.pid:
        # The locks of this process are not told by F_GETLK. Another start time: an earlier process
        # that had the same number.
        return slot.start_time == self.start_time
    return ec_byte_is_held(self.registry, number) != 0


cdef uint32_t process_of_thread(const ProcessTable* self, uint32_t thread) noexcept nogil:
    cdef const ProcessSlot* slot
    cdef uint32_t number
    if ec_thread_exists(self.pid, thread):
        return self.pid
    for number in range(PROCESS_SLOTS):
        slot = process_slot(self, number)
        if ec_load_u32(&slot.state) == PROCESS_USED and slot.pid != self.pid and \
                process_is_live(self, number) and ec_thread_exists(slot.pid, thread):
            return slot.pid
    return 0


cdef bint process_thread_is_live(const ProcessTable* self, uint32_t thread) noexcept nogil:
    return process_of_thread(self, thread) != 0


cdef uint32_t process_live_count(const ProcessTable* self) noexcept nogil:
    cdef uint32_t number, count = 0
    for number in range(PROCESS_SLOTS):
        if ec_load_u32(&process_slot(self, number).state) == PROCESS_USED and \
                process_is_live(self, number):
            count += 1
    return count


cdef uint32_t hold_take(ProcessTable* self, HoldKind kind, uint32_t place, uint32_t reference,
                        uint32_t incarnation, uint64_t size_bytes,
                        uint64_t generation) noexcept nogil:
    cdef uint32_t number = 0
    cdef Hold* hold
    ec_lock_acquire(&self.lock)
    if self.free_count:
        self.free_count -= 1
        number = self.free_holds[self.free_count]
        if number > self.own.hold_high:
            self.own.hold_high = number
    ec_lock_release(&self.lock)
    if number == 0:
        return 0
    hold = &self.own.holds[number - 1]
    hold.place = place
    hold.reference = reference
    hold.incarnation = incarnation
    hold.size_bytes = size_bytes
    hold.generation = generation
    ec_store_u32(&hold.kind, kind)
    return number


cdef void hold_give(ProcessTable* self, uint32_t hold) noexcept nogil:
    ec_store_u32(&self.own.holds[hold - 1].kind, HOLD_NONE)
    ec_lock_acquire(&self.lock)
    self.free_holds[self.free_count] = hold
    self.free_count += 1
    ec_lock_release(&self.lock)
