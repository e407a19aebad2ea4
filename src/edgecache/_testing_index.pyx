"""Test and bench hooks of the metadata map: never imported by the package itself.

`IndexHarness` owns a private mapping with some shards in it, as the arena would. Its native loops
(`drive`, `bench_*`) run without the GIL and take the shard's lock for every operation, as `_core`
does.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from edgecache._index cimport (
    IndexCursor,
    IndexShard,
    index_area_bytes,
    index_clear,
    index_erase,
    index_find,
    index_init,
    index_insert,
    index_next,
    index_prefetch,
    index_replace,
    index_scan,
    index_seek,
    index_set_frequency,
    size_class_bytes,
    size_class_of,
)
from edgecache._index_bucket cimport bucket_step
from edgecache._index_check cimport index_check
from edgecache._index_mend cimport index_mend
from edgecache._status cimport STATUS_NO_MEMORY, STATUS_OK, Status
from edgecache._sync cimport ec_lock_acquire, ec_lock_release, ec_monotonic_ns

cdef extern from *:
    """
    #include <signal.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static struct { void *start; size_t size; } ec_trapped[2];

    /* The first store: let it and all others through, and stop for whoever traces. */
    static void ec_on_store(int number) {
        int which;
        (void)number;
        for (which = 0; which < 2; which++)
            mprotect(ec_trapped[which].start, ec_trapped[which].size, PROT_READ | PROT_WRITE);
        signal(SIGSEGV, SIG_DFL);
        kill(getpid(), SIGSTOP);
    }

    static int ec_trap_stores(void *first, size_t first_size, void *second, size_t second_size) {
        struct sigaction action;
        memset(&action, 0, sizeof(action));
        action.sa_handler = ec_on_store;
        ec_trapped[0].start = first;
        ec_trapped[0].size = first_size;
        ec_trapped[1].start = second;
        ec_trapped[1].size = second_size;
        if (sigaction(SIGSEGV, &action, NULL) != 0) return -1;
        return mprotect(first, first_size, PROT_READ) | mprotect(second, second_size, PROT_READ);
    }
    """
    int ec_trap_stores(void* first, size_t first_size, void* second,
                       size_t second_size) noexcept nogil

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MAP_NORESERVE
        MADV_HUGEPAGE
    int madvise(void* address, size_t size_bytes, int advice)

cdef enum:
    KEY_BITS = 22
    BATCH_COUNT = 64

# What a walk found; each is a broken promise of the contract.
cdef enum Failure:
    FAILURE_NONE = 0
    FAILURE_LOST = 1            # a stored key is not found
    FAILURE_GHOST = 2           # an absent key is found
    FAILURE_TWICE = 3           # a key is found twice
    FAILURE_FIELDS = 4          # a field differs from the model
    FAILURE_INSERT = 5          # unexpected status
    FAILURE_COUNT = 6           # object_count differs from the model
    FAILURE_CHECK = 100         # plus the number of the broken invariant

# One step of splitmix64. Source: S. Vigna, https://prng.di.unimi.it/splitmix64.c (public domain).
cdef inline uint64_t mix64(uint64_t value) noexcept nogil:
    value += <uint64_t>0x9e3779b97f4a7c15ULL
    value = (value ^ (value >> 30)) * <uint64_t>0xbf58476d1ce4e5b9ULL
    value = (value ^ (value >> 27)) * <uint64_t>0x94d049bb133111ebULL
    return value ^ (value >> 31)

cdef struct Drive:
    char* base
    IndexShard* shards
    uint32_t* locks
    uint64_t shard_mask
    uint64_t state                  # of the generator
    uint64_t seed
    uint64_t key_first
    uint64_t key_count
    uint64_t hash_and
    uint64_t hash_or
    uint32_t bias_count
    uint64_t* locations             # the model: 0 says absent
    uint16_t* attributes            # | frequency 2 | ram 1 | size class 7 |
    uint64_t present_count
    uint64_t insert_count
    uint64_t refused_count
    uint64_t other_count            # slots of other keys met on the way
    int failure

cdef inline uint64_t drive_hash(const Drive* drive, uint64_t key) noexcept nogil:
    cdef uint64_t hash = mix64((drive.key_first + key) ^ (drive.seed << 32))
    cdef uint64_t other = hash
    cdef uint32_t _number
    for _number in range(drive.bias_count):
        other = mix64(other)
        hash |= other
    return hash & drive.hash_and | drive.hash_or

cdef bint drive_walk(Drive* drive, IndexShard* shard, uint64_t hash, uint64_t key,
                     IndexCursor* cursor) noexcept nogil:
    """Find the slot of a key; locations carry the key in their low bits, as records do."""
    index_seek(drive.base, shard, hash, cursor)
    while index_next(drive.base, shard, cursor):
        if cursor.location & ((1 << KEY_BITS) - 1) == drive.key_first + key + 1:
            return True
        drive.other_count += 1
    return False

cdef int drive_verify(Drive* drive, IndexShard* shard, uint64_t hash, uint64_t key) noexcept nogil:
    cdef IndexCursor cursor
    cdef uint16_t attributes
    if not drive_walk(drive, shard, hash, key, &cursor):
        return FAILURE_LOST if drive.locations[key] != 0 else FAILURE_NONE
    if drive.locations[key] == 0:
        return FAILURE_GHOST
    attributes = (<uint16_t>cursor.frequency << 8) | (<uint16_t>cursor.is_ram << 7)
    attributes |= cursor.size_class
    if cursor.location != drive.locations[key] or attributes != drive.attributes[key]:
        return FAILURE_FIELDS
    while index_next(drive.base, shard, &cursor):
        if cursor.location & ((1 << KEY_BITS) - 1) == drive.key_first + key + 1:
            return FAILURE_TWICE
    return FAILURE_NONE

cdef int drive_add(Drive* drive, IndexShard* shard, uint64_t hash, uint64_t key,
                   uint64_t random) noexcept nogil:
    cdef uint64_t location = ((random >> 10) & 0x3ffff) << KEY_BITS | (drive.key_first + key + 1)
    cdef uint16_t attributes = <uint16_t>(random & 0x3ff)
    cdef Status status = index_insert(drive.base, shard, hash, location,
                                      <uint8_t>(attributes & 127), (attributes >> 7) & 1,
                                      <uint8_t>(attributes >> 8))
    if status == STATUS_NO_MEMORY:
        drive.refused_count += 1
        return FAILURE_NONE
    if status != STATUS_OK:
        return FAILURE_INSERT
    drive.locations[key] = location
    drive.attributes[key] = attributes
    drive.present_count += 1
    drive.insert_count += 1
    return FAILURE_NONE

cdef int drive_change(Drive* drive, IndexShard* shard, uint64_t hash, uint64_t key,
                      uint64_t random) noexcept nogil:
    """Erase (2 of 4), replace or set the frequency of a stored key."""
    cdef IndexCursor cursor
    cdef uint64_t location
    if not drive_walk(drive, shard, hash, key, &cursor):
        return FAILURE_LOST
    if random & 2:
        index_erase(drive.base, shard, &cursor)
        drive.locations[key] = 0
        drive.present_count -= 1
    elif random & 1:
        location = ((random >> 10) & 0x3ffff) << KEY_BITS | (drive.key_first + key + 1)
        index_replace(drive.base, shard, &cursor, location, <uint8_t>((random >> 30) & 127),
                      (random >> 37) & 1)
        drive.locations[key] = location
        drive.attributes[key] = (drive.attributes[key] & 0x300) | <uint16_t>(
            (random >> 30) & 0xff)
    else:
        index_set_frequency(drive.base, shard, &cursor, <uint8_t>((random >> 40) & 3))
        drive.attributes[key] = (drive.attributes[key] & 0xff) | <uint16_t>(
            ((random >> 40) & 3) << 8)
    return FAILURE_NONE

cdef int drive_step(Drive* drive, uint32_t insert_share) noexcept nogil:
    """Do one random operation under its shard's lock; insert_share of 256 fill, the rest change."""
    cdef uint64_t random, key, hash
    cdef uint32_t shard_number
    cdef IndexShard* shard
    cdef int failure
    drive.state += 1
    random = mix64(drive.state)
    key = ((random >> 32) * drive.key_count) >> 32
    random = mix64(random)
    hash = drive_hash(drive, key)
    shard_number = <uint32_t>(hash & drive.shard_mask)
    shard = &drive.shards[shard_number]
    ec_lock_acquire(&drive.locks[shard_number])
    failure = drive_verify(drive, shard, hash, key)
    if failure == FAILURE_NONE:
        if drive.locations[key] == 0:
            if random >> 56 < insert_share:
                failure = drive_add(drive, shard, hash, key, random)
        elif random >> 56 >= insert_share:
            failure = drive_change(drive, shard, hash, key, random)
    ec_lock_release(&drive.locks[shard_number])
    return failure

cdef int drive_check(Drive* drive, uint32_t shard_number) noexcept nogil:
    cdef int broken
    ec_lock_acquire(&drive.locks[shard_number])
    broken = index_check(drive.base, &drive.shards[shard_number])
    ec_lock_release(&drive.locks[shard_number])
    return FAILURE_CHECK + broken if broken else FAILURE_NONE

cdef int drive_phase(Drive* drive, uint64_t operation_count, uint32_t insert_share,
                     uint64_t check_every) noexcept nogil:
    cdef uint64_t number
    cdef int failure = FAILURE_NONE
    for number in range(operation_count):
        failure = drive_step(drive, insert_share)
        if failure == FAILURE_NONE and check_every and number % check_every == 0:
            failure = drive_check(drive, <uint32_t>(mix64(number) & drive.shard_mask))
        if failure != FAILURE_NONE:
            break
    return failure

cdef int drive_verify_all(Drive* drive) noexcept nogil:
    cdef uint64_t key, hash
    cdef uint32_t shard_number
    cdef int failure = FAILURE_NONE
    for key in range(drive.key_count):
        hash = drive_hash(drive, key)
        shard_number = <uint32_t>(hash & drive.shard_mask)
        ec_lock_acquire(&drive.locks[shard_number])
        failure = drive_verify(drive, &drive.shards[shard_number], hash, key)
        ec_lock_release(&drive.locks[shard_number])
        if failure != FAILURE_NONE:
            break
    return failure


cdef class IndexHarness:
    """Some shards in one mapping; `shared` makes it one that children of fork change too.

    *Thread-safety*: `drive` and `check` may run in several threads; the rest in one.
    """

    cdef char* base
    cdef uint64_t size_bytes
    cdef uint64_t area_bytes
    cdef IndexShard* shards
    cdef uint32_t* locks
    cdef readonly uint32_t shard_count

    def __cinit__(self, uint32_t shard_count=1, uint64_t area_bytes=1 << 20,
                  uint64_t expected_count=0, uint64_t offset_bytes=4096, bint huge=False,
                  bint shared=False):
        cdef uint32_t number
        cdef void* mapping
        if shard_count == 0 or shard_count & (shard_count - 1):
            raise ValueError("shard_count must be a power of two")
        self.shard_count = shard_count
        self.area_bytes = area_bytes
        self.size_bytes = offset_bytes + area_bytes * shard_count
        mapping = mmap(NULL, self.size_bytes, PROT_READ | PROT_WRITE,
                       (MAP_SHARED if shared else MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0)
        if mapping == MAP_FAILED:
            raise MemoryError("mmap")
        self.base = <char*>mapping
        if huge:
            madvise(mapping, self.size_bytes, MADV_HUGEPAGE)
        mapping = mmap(NULL, shard_count * sizeof(IndexShard), PROT_READ | PROT_WRITE,
                       (MAP_SHARED if shared else MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0)
        if mapping == MAP_FAILED:
            raise MemoryError("mmap")
        self.shards = <IndexShard*>mapping
        self.locks = <uint32_t*>calloc(shard_count, sizeof(uint32_t))
        if self.locks == NULL:
            raise MemoryError("calloc")
        for number in range(shard_count):
            status = index_init(self.base, &self.shards[number],
                                offset_bytes + number * area_bytes, area_bytes, expected_count)
            if status != STATUS_OK:
                raise ValueError(f"index_init: status {status}")

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
        if self.shards != NULL:
            munmap(self.shards, self.shard_count * sizeof(IndexShard))
        free(self.locks)

    # ---- single operations, on shard 0 ----

    def insert(self, uint64_t hash, uint64_t location, uint8_t size_class=1, bint ram=False,
               uint8_t frequency=0):
        return index_insert(self.base, self.shards, hash, location, size_class, ram, frequency)

    def entries(self, uint64_t hash):
        cdef IndexCursor cursor
        found = []
        index_seek(self.base, self.shards, hash, &cursor)
        while index_next(self.base, self.shards, &cursor):
            found.append((cursor.location, cursor.size_class, bool(cursor.is_ram),
                          cursor.frequency))
        return found

    def find(self, uint64_t hash, uint64_t location, bint ram=False):
        cdef IndexCursor cursor
        return bool(index_find(self.base, self.shards, hash, location, ram, &cursor))

    def erase(self, uint64_t hash, uint64_t location, bint ram=False):
        cdef IndexCursor cursor
        if not index_find(self.base, self.shards, hash, location, ram, &cursor):
            return False
        index_erase(self.base, self.shards, &cursor)
        return True

    def erase_walk(self, uint64_t hash, uint64_t keep_every):
        """Erase along one walk, but every keep_every-th entry; return how many were met."""
        cdef IndexCursor cursor
        cdef uint64_t met_count = 0
        index_seek(self.base, self.shards, hash, &cursor)
        while index_next(self.base, self.shards, &cursor):
            met_count += 1
            if met_count % keep_every != 0:
                index_erase(self.base, self.shards, &cursor)
        return met_count

    def replace(self, uint64_t hash, uint64_t location, bint ram, uint64_t new_location,
                uint8_t size_class, bint new_ram):
        cdef IndexCursor cursor
        if not index_find(self.base, self.shards, hash, location, ram, &cursor):
            return False
        index_replace(self.base, self.shards, &cursor, new_location, size_class, new_ram)
        return (cursor.location, cursor.size_class, bool(cursor.is_ram), cursor.frequency)

    def set_frequency(self, uint64_t hash, uint64_t location, bint ram, uint8_t frequency):
        cdef IndexCursor cursor
        if not index_find(self.base, self.shards, hash, location, ram, &cursor):
            return False
        index_set_frequency(self.base, self.shards, &cursor, frequency)
        return True

    def scan(self, uint64_t erase_modulus=0, uint64_t replace_location_bit=0):
        """Return (tag, location, size class, ram, frequency) of every slot.

        Entries whose location is a multiple of erase_modulus are erased on the way; the others get
        replace_location_bit added to their location.
        """
        cdef IndexCursor cursor
        cdef uint64_t position = 0
        found = []
        while index_scan(self.base, self.shards, &position, &cursor):
            found.append((cursor.hash >> 42, cursor.location, cursor.size_class,
                          bool(cursor.is_ram), cursor.frequency))
            if erase_modulus and cursor.location % erase_modulus == 0:
                index_erase(self.base, self.shards, &cursor)
            elif replace_location_bit:
                index_replace(self.base, self.shards, &cursor,
                              cursor.location | replace_location_bit, cursor.size_class,
                              cursor.is_ram)
        return found

    def digest(self):
        """Return how many entries there are and a sum over all fields of all of them.

        Two harnesses with the same entries, in whatever order, have the same digest.
        """
        cdef IndexCursor cursor
        cdef uint64_t position = 0, count = 0, total = 0, attributes
        while index_scan(self.base, self.shards, &position, &cursor):
            attributes = (<uint64_t>cursor.frequency << 8) | (<uint64_t>cursor.is_ram << 7)
            attributes |= cursor.size_class
            total += mix64(mix64(mix64(cursor.hash) ^ cursor.location) ^ attributes)
            count += 1
        return count, total

    def scan_and_insert(self, hashes):
        """Scan; after each visited slot insert one of `hashes`. Return the visited locations."""
        cdef IndexCursor cursor
        cdef uint64_t position = 0
        visited = []
        pending = list(hashes)
        while index_scan(self.base, self.shards, &position, &cursor):
            visited.append(cursor.location)
            if pending:
                hash, location = pending.pop()
                index_insert(self.base, self.shards, hash, location, 1, False, 0)
        return visited

    def clear(self):
        index_clear(self.base, self.shards)

    def check(self, uint32_t shard=0):
        cdef int broken
        with nogil:
            ec_lock_acquire(&self.locks[shard])
            broken = index_check(self.base, &self.shards[shard])
            ec_lock_release(&self.locks[shard])
        return broken

    def set_limit(self, uint64_t used_bytes_limit, uint32_t shard=0):
        self.shards[shard].used_bytes_limit = used_bytes_limit

    def state(self, uint32_t shard=0):
        """Return the header of a shard as a dict."""
        return self.shards[shard]

    # ---- copies and damage ----

    def save(self, uint32_t shard=0):
        """Return what a checkpoint holds: the struct and the prefix of the area."""
        cdef IndexShard* source = &self.shards[shard]
        return (PyBytes_FromStringAndSize(<char*>source, sizeof(IndexShard)),
                PyBytes_FromStringAndSize(self.base + source.area_offset, source.area_used_bytes))

    def restore(self, bytes header, bytes prefix, uint32_t shard=0):
        """Install a copy in a shard of this harness, over whatever bytes are there."""
        cdef IndexShard* target = &self.shards[shard]
        cdef uint64_t area_offset = target.area_offset
        if len(header) != sizeof(IndexShard) or <uint64_t>len(prefix) > self.area_bytes:
            raise ValueError("not a copy of a shard")
        memset(self.base + area_offset, 0xa5, self.area_bytes)
        memcpy(self.base + area_offset, PyBytes_AS_STRING(prefix), len(prefix))
        memcpy(target, PyBytes_AS_STRING(header), sizeof(IndexShard))
        target.area_offset = area_offset
        target.area_size_bytes = self.area_bytes

    def take(self, IndexHarness source):
        """Become a copy of another harness of this size; False if this is one already."""
        cdef uint64_t shards_bytes = self.shard_count * sizeof(IndexShard)
        cdef uint32_t number
        cdef uint64_t offset, used_bytes
        cdef bint is_equal = memcmp(self.shards, source.shards, shards_bytes) == 0
        if source.size_bytes != self.size_bytes or source.shard_count != self.shard_count:
            raise ValueError("of another size")
        memcpy(self.shards, source.shards, shards_bytes)
        for number in range(self.shard_count):
            offset = source.shards[number].area_offset
            used_bytes = source.shards[number].area_used_bytes
            if offset + used_bytes > self.size_bytes:
                raise ValueError("not a shard")
            if memcmp(self.base + offset, source.base + offset, used_bytes) != 0:
                memcpy(self.base + offset, source.base + offset, used_bytes)
                is_equal = False
        return not is_equal

    def stop_at_first_store(self):
        """Have this process stopped (SIGSTOP) when it next changes a shard."""
        if ec_trap_stores(self.base, self.size_bytes, self.shards,
                          self.shard_count * sizeof(IndexShard)) != 0:
            raise OSError("mprotect")

    def mend(self, uint32_t shard=0):
        """Repair after a death, as whoever takes over the shard's lock does; whether it worked."""
        return bool(index_mend(self.base, &self.shards[shard]))

    # ---- native loops ----

    def drive(self, uint64_t seed, uint64_t operation_count, uint64_t key_count,
              uint64_t key_first=0, uint64_t hash_and=0xffffffffffffffff, uint64_t hash_or=0,
              uint32_t bias_count=0, phases=(220, 60), uint64_t check_every=0, bint alone=True):
        """Run random operations against an array model, then look up every key and count.

        Args:
            hash_and, hash_or: bits forced to 0 or 1 in every hash.
            bias_count: each bit is 1 with probability 1 - 2^-(bias_count + 1).
            phases: share of inserts in 256, one number per equal part of the run.
            check_every: operations between two index_check of a random shard; 0: only at the end.
            alone: no other thread changes these shards, so their counts can be compared.

        Returns: counters; "failure" is 0 when index and model agree.
        """
        cdef Drive drive
        cdef uint64_t part_count
        cdef uint32_t insert_share, shard
        if key_first + key_count >= 1 << KEY_BITS:
            raise ValueError("too many keys")
        memset(&drive, 0, sizeof(drive))
        drive.base = self.base
        drive.shards = self.shards
        drive.locks = self.locks
        drive.shard_mask = self.shard_count - 1
        drive.seed = seed
        drive.state = mix64(seed + key_first)
        drive.key_first = key_first
        drive.key_count = key_count
        drive.hash_and = hash_and
        drive.hash_or = hash_or
        drive.bias_count = bias_count
        drive.locations = <uint64_t*>calloc(key_count, sizeof(uint64_t))
        drive.attributes = <uint16_t*>calloc(key_count, sizeof(uint16_t))
        try:
            if drive.locations == NULL or drive.attributes == NULL:
                raise MemoryError("calloc")
            part_count = operation_count // <uint64_t>len(phases)
            for share in phases:
                insert_share = share
                with nogil:
                    drive.failure = drive_phase(&drive, part_count, insert_share, check_every)
                if drive.failure:
                    break
            if drive.failure == 0:
                with nogil:
                    drive.failure = drive_verify_all(&drive)
            if drive.failure == 0 and alone:
                if sum(self.shards[shard].object_count for shard in range(self.shard_count)) != (
                        drive.present_count):
                    drive.failure = FAILURE_COUNT
        finally:
            free(drive.locations)
            free(drive.attributes)
        return {
            "failure": drive.failure, "present_count": drive.present_count,
            "insert_count": drive.insert_count, "refused_count": drive.refused_count,
            "other_count": drive.other_count,
        }

    def bench_insert(self, uint64_t first, uint64_t count):
        """Insert keys first .. first + count - 1; return (nanoseconds, refused)."""
        cdef uint64_t key, hash, refused_count = 0
        cdef uint64_t mask = self.shard_count - 1
        cdef uint32_t shard
        cdef int64_t start_ns, end_ns
        with nogil:
            start_ns = ec_monotonic_ns()
            for key in range(first, first + count):
                hash = mix64(key)
                shard = <uint32_t>(hash & mask)
                ec_lock_acquire(&self.locks[shard])
                refused_count += index_insert(self.base, &self.shards[shard], hash, key + 1, 9,
                                              False, 0) != STATUS_OK
                ec_lock_release(&self.locks[shard])
            end_ns = ec_monotonic_ns()
        return end_ns - start_ns, refused_count

    def bench_overhead(self, uint64_t first, uint64_t key_count, uint64_t count):
        """Return the nanoseconds of bench_lookup's own loop: order, hash, lock, but no lookup."""
        cdef uint64_t number, key, hash
        cdef uint64_t mask = self.shard_count - 1
        cdef uint32_t shard
        cdef int64_t start_ns, end_ns
        with nogil:
            start_ns = ec_monotonic_ns()
            for number in range(count):
                key = first + (number * 2654435761ULL) % key_count
                hash = mix64(key)
                shard = <uint32_t>(hash & mask)
                ec_lock_acquire(&self.locks[shard])
                ec_lock_release(&self.locks[shard])
            end_ns = ec_monotonic_ns()
        return end_ns - start_ns

    def bench_lookup(self, uint64_t first, uint64_t key_count, uint64_t count):
        """Look up `count` keys in a scattered order; return (nanoseconds, found, other slots)."""
        cdef uint64_t number, key, hash
        cdef uint64_t found_count = 0, other_count = 0
        cdef uint64_t mask = self.shard_count - 1
        cdef uint32_t shard
        cdef IndexCursor cursor
        cdef int64_t start_ns, end_ns
        with nogil:
            start_ns = ec_monotonic_ns()
            for number in range(count):
                key = first + (number * 2654435761ULL) % key_count
                hash = mix64(key)
                shard = <uint32_t>(hash & mask)
                ec_lock_acquire(&self.locks[shard])
                index_seek(self.base, &self.shards[shard], hash, &cursor)
                while index_next(self.base, &self.shards[shard], &cursor):
                    if cursor.location == key + 1:
                        found_count += 1
                        break
                    other_count += 1
                ec_lock_release(&self.locks[shard])
            end_ns = ec_monotonic_ns()
        return end_ns - start_ns, found_count, other_count

    def bench_lookup_batch(self, uint64_t first, uint64_t key_count, uint64_t count):
        """As bench_lookup, in batches of 64 whose buckets are prefetched first."""
        cdef uint64_t hashes[BATCH_COUNT]
        cdef uint64_t keys[BATCH_COUNT]
        cdef uint64_t batch, number
        cdef uint64_t found_count = 0, other_count = 0
        cdef uint64_t mask = self.shard_count - 1
        cdef uint32_t shard
        cdef IndexCursor cursor
        cdef int64_t start_ns, end_ns
        with nogil:
            start_ns = ec_monotonic_ns()
            for batch in range(count // BATCH_COUNT):
                for number in range(BATCH_COUNT):
                    keys[number] = first + (
                        (batch * BATCH_COUNT + number) * 2654435761ULL) % key_count
                    hashes[number] = mix64(keys[number])
                    shard = <uint32_t>(hashes[number] & mask)
                    ec_lock_acquire(&self.locks[shard])
                    index_prefetch(self.base, &self.shards[shard], hashes[number])
                    ec_lock_release(&self.locks[shard])
                for number in range(BATCH_COUNT):
                    shard = <uint32_t>(hashes[number] & mask)
                    ec_lock_acquire(&self.locks[shard])
                    index_seek(self.base, &self.shards[shard], hashes[number], &cursor)
                    while index_next(self.base, &self.shards[shard], &cursor):
                        if cursor.location == keys[number] + 1:
                            found_count += 1
                            break
                        other_count += 1
                    ec_lock_release(&self.locks[shard])
            end_ns = ec_monotonic_ns()
        return end_ns - start_ns, found_count, other_count


def area_bytes(uint64_t object_count_max):
    return index_area_bytes(object_count_max)


def size_class(uint64_t size_bytes):
    return size_class_of(size_bytes)


def size_class_limit_bytes(uint8_t number):
    return size_class_bytes(number)


def tag_step(uint64_t tag):
    return bucket_step(tag)
