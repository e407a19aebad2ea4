"""Test hook: a cache simulator over the eviction policies, and nothing but them.

Nodes are dense, 32 bytes each, in one mapping with the policy's area, so references and offsets are
used as in the arena. The simulator has its own hash map from key hash to node; no value is stored.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edgecache._evict cimport (
    EVICT_ARC,
    EVICT_LRU,
    EVICT_S3FIFO,
    EVICT_SIEVE,
    EVICT_WTINYLFU,
    EvictKind,
    EvictNode,
    EvictState,
    evict_admits,
    evict_area_bytes,
    evict_check,
    evict_hit,
    evict_init,
    evict_insert,
    evict_miss,
    evict_relocate,
    evict_remove,
    evict_set_capacity,
    evict_victim,
    evict_walk,
)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void* MAP_FAILED

cdef enum:
    NODE_BYTES = 32
    OBJECT_COUNT_MIN = 1 << 16      # room for objects of no size and for growing budgets
    OBJECT_COUNT_MAX = 1 << 26

cdef struct SimulatorNode:
    EvictNode evict
    uint64_t hash
    uint32_t chain                  # next node of the map's bucket, or of the free list
    uint32_t zero

KINDS = {
    "s3fifo": EVICT_S3FIFO,
    "lru": EVICT_LRU,
    "arc": EVICT_ARC,
    "sieve": EVICT_SIEVE,
    "wtinylfu": EVICT_WTINYLFU,
}

cdef struct Simulator:
    EvictState state
    char* base
    uint32_t* buckets
    uint64_t bucket_mask
    uint32_t node_count             # nodes ever handed out; references start at 1
    uint32_t node_count_max
    uint32_t free_node
    uint64_t victim_count
    bint asks_admission             # follow evict_admits
    uint64_t limit_bytes            # or, if not 0, refuse larger objects than this
    bint is_exhausted               # a node was needed and none was left


cdef inline uint64_t mix_hash(uint64_t key) noexcept nogil:
    # splitmix64's finaliser: object ids of traces are often dense. Source: S. Vigna, 2015.
    key += <uint64_t>0x9E3779B97F4A7C15
    key = (key ^ (key >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    key = (key ^ (key >> 27)) * <uint64_t>0x94D049BB133111EB
    return key ^ (key >> 31)


cdef inline SimulatorNode* simulator_node(Simulator* self, uint32_t reference) noexcept nogil:
    return <SimulatorNode*>(self.base + <uint64_t>reference * NODE_BYTES)


cdef uint64_t simulator_hash(void* context, uint32_t reference) noexcept nogil:
    return simulator_node(<Simulator*>context, reference).hash


cdef inline uint32_t simulator_find(Simulator* self, uint64_t hash) noexcept nogil:
    cdef uint32_t reference = self.buckets[hash & self.bucket_mask]
    while reference != 0 and simulator_node(self, reference).hash != hash:
        reference = simulator_node(self, reference).chain
    return reference


cdef void simulator_unmap(Simulator* self, uint32_t reference) noexcept nogil:
    """Take a node out of the map and put it on the free list."""
    cdef SimulatorNode* node = simulator_node(self, reference)
    cdef uint32_t* link = &self.buckets[node.hash & self.bucket_mask]
    while link[0] != reference:
        link = &simulator_node(self, link[0]).chain
    link[0] = node.chain
    node.chain = self.free_node
    self.free_node = reference


cdef uint32_t simulator_take_node(Simulator* self) noexcept nogil:
    cdef uint32_t reference = self.free_node
    if reference != 0:
        self.free_node = simulator_node(self, reference).chain
    elif self.node_count < self.node_count_max:
        self.node_count += 1
        reference = self.node_count
    return reference


cdef uint32_t simulator_evict(Simulator* self) noexcept nogil:
    cdef uint32_t victim = evict_victim(self.base, &self.state, simulator_hash, self)
    if victim != 0:
        simulator_unmap(self, victim)
        self.victim_count += 1
    return victim


cdef bint simulator_make_room(Simulator* self, uint32_t size_bytes) noexcept nogil:
    while self.state.size_bytes + size_bytes > self.state.capacity_bytes:
        if simulator_evict(self) == 0:
            return False
    return True


cdef void simulator_insert(Simulator* self, uint64_t hash, uint32_t size_bytes) noexcept nogil:
    cdef uint32_t reference = simulator_take_node(self)
    cdef SimulatorNode* node
    if reference == 0:
        self.is_exhausted = True
        return
    node = simulator_node(self, reference)
    memset(node, 0, NODE_BYTES)
    node.hash = hash
    node.evict.size_bytes = size_bytes
    node.chain = self.buckets[hash & self.bucket_mask]
    self.buckets[hash & self.bucket_mask] = reference
    evict_insert(self.base, &self.state, reference, hash, simulator_hash, self)


cdef bint simulator_access(Simulator* self, uint64_t hash, uint32_t size_bytes) noexcept nogil:
    cdef uint32_t reference = simulator_find(self, hash)
    if reference != 0:
        evict_hit(self.base, &self.state, reference, hash)
        return True
    evict_miss(self.base, &self.state, hash)
    if self.limit_bytes != 0:
        if size_bytes > self.limit_bytes:
            return False
    elif self.asks_admission and not evict_admits(&self.state, size_bytes):
        return False
    # Larger than the whole cache, or everything is pinned: not cached.
    if size_bytes <= self.state.capacity_bytes and simulator_make_room(self, size_bytes):
        simulator_insert(self, hash, size_bytes)
    return False


cdef class PolicySimulator:
    """A cache of sizes without values.

    Args:
        kind: one of `KINDS`.
        capacity_bytes: budget.
        mean_object_bytes: sizes the ghost or sketch area; by default for 4,096 objects.
        area_bytes: size of that area, if it is to differ from what the policy asks for.
        admission: follow the policy's advice on large objects (`evict_admits`) in `access`, `run`.
        limit_bytes: instead, refuse objects larger than this in `access`, `run`; 0: no limit.

    *Thread-safety*: none.
    """
    cdef Simulator self_
    cdef uint64_t mapping_bytes

    def __cinit__(self, str kind, uint64_t capacity_bytes, *, uint64_t mean_object_bytes=0,
                  area_bytes=None, bint admission=False, uint64_t limit_bytes=0):
        cdef EvictKind policy = KINDS[kind]
        cdef uint64_t mean = mean_object_bytes or max(1, capacity_bytes // 4096)
        cdef uint64_t area = evict_area_bytes(policy, capacity_bytes, mean) \
            if area_bytes is None else <uint64_t>area_bytes
        cdef uint64_t node_count = min(max(capacity_bytes, <uint64_t>OBJECT_COUNT_MIN),
                                       <uint64_t>OBJECT_COUNT_MAX) + 1
        cdef uint64_t bucket_count = 64
        cdef void* mapping
        while bucket_count < capacity_bytes // mean:
            bucket_count *= 2
        area = (area + 7) // 8 * 8
        self.mapping_bytes = (node_count + 1) * NODE_BYTES + area + bucket_count * 4
        mapping = mmap(NULL, self.mapping_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if mapping == MAP_FAILED:
            raise MemoryError(f"cannot map {self.mapping_bytes} bytes")
        self.self_.base = <char*>mapping
        self.self_.asks_admission = admission
        self.self_.limit_bytes = limit_bytes
        self.self_.node_count_max = <uint32_t>node_count
        self.self_.bucket_mask = bucket_count - 1
        self.self_.buckets = <uint32_t*>(self.self_.base + (node_count + 1) * NODE_BYTES + area)
        if evict_init(self.self_.base, &self.self_.state, policy, 0, NODE_BYTES, capacity_bytes,
                      (node_count + 1) * NODE_BYTES, area) != 0:
            raise ValueError("evict_init refused its arguments")

    def __dealloc__(self):
        if self.self_.base != NULL:
            munmap(self.self_.base, self.mapping_bytes)

    @property
    def size_bytes(self) -> int:
        return self.self_.state.size_bytes

    @property
    def victim_count(self) -> int:
        return self.self_.victim_count

    def __len__(self):
        return self.self_.state.count

    def __contains__(self, uint64_t hash):
        return simulator_find(&self.self_, hash) != 0

    def access(self, uint64_t hash, uint32_t size) -> bool:
        """Look up, count, and insert on a miss. Returns whether it was a hit."""
        cdef bint hit = simulator_access(&self.self_, hash, size)
        self.raise_if_exhausted()
        return hit

    cdef int raise_if_exhausted(self) except -1:
        if self.self_.is_exhausted:
            raise MemoryError(f"more than {self.self_.node_count_max} objects")
        return 0

    def trace_access(self, uint64_t hash, uint32_t size):
        """As `access`, also listing the victims: (hit, [hash, ...])."""
        cdef Simulator* it = &self.self_
        cdef uint32_t victim
        victims = []
        if simulator_find(it, hash) != 0 or size > it.state.capacity_bytes:
            return simulator_access(it, hash, size), victims
        evict_miss(it.base, &it.state, hash)
        while it.state.size_bytes + size > it.state.capacity_bytes:
            victim = simulator_evict(it)
            if victim == 0:
                return False, victims
            victims.append(simulator_node(it, victim).hash)
        simulator_insert(it, hash, size)
        self.raise_if_exhausted()
        return False, victims

    def run(self, const uint64_t[::1] ids, const uint32_t[::1] sizes):
        """Access a trace's objects, ids mixed first. Returns (hits, bytes of the hits)."""
        cdef Simulator* it = &self.self_
        cdef uint64_t hit_count = 0
        cdef uint64_t hit_bytes = 0
        cdef Py_ssize_t i
        if ids.shape[0] != sizes.shape[0]:
            raise ValueError("ids and sizes must have the same length")
        with nogil:
            for i in range(ids.shape[0]):
                if simulator_access(it, mix_hash(ids[i]), sizes[i]):
                    hit_count += 1
                    hit_bytes += sizes[i]
        self.raise_if_exhausted()
        return hit_count, hit_bytes

    def evict(self):
        """Evict one object; its hash, or None when nothing can be evicted."""
        cdef uint32_t victim = simulator_evict(&self.self_)
        return simulator_node(&self.self_, victim).hash if victim != 0 else None

    def delete(self, uint64_t hash) -> bool:
        cdef uint32_t reference = simulator_find(&self.self_, hash)
        if reference == 0:
            return False
        evict_remove(self.self_.base, &self.self_.state, reference)
        simulator_unmap(&self.self_, reference)
        return True

    def set_pins(self, uint64_t hash, uint16_t pins) -> None:
        cdef uint32_t reference = simulator_find(&self.self_, hash)
        if reference == 0:
            raise KeyError(hash)
        simulator_node(&self.self_, reference).evict.pins = pins

    def set_capacity(self, uint64_t capacity_bytes) -> list:
        """Change the budget and evict down to it; the victims' hashes, in order."""
        cdef Simulator* it = &self.self_
        cdef uint32_t victim
        victims = []
        evict_set_capacity(it.base, &it.state, capacity_bytes)
        while it.state.size_bytes > capacity_bytes:
            victim = simulator_evict(it)
            if victim == 0:
                break
            victims.append(simulator_node(it, victim).hash)
        return victims

    def relocate(self, uint64_t hash) -> bool:
        """Move the object's node to another slot, as compaction does."""
        cdef Simulator* it = &self.self_
        cdef uint32_t source = simulator_find(it, hash)
        cdef uint32_t target
        cdef uint32_t* link
        if source == 0:
            return False
        target = simulator_take_node(it)
        if target == 0:
            return False
        memcpy(simulator_node(it, target), simulator_node(it, source), NODE_BYTES)
        evict_relocate(it.base, &it.state, source, target)
        link = &it.buckets[hash & it.bucket_mask]
        while link[0] != source:
            link = &simulator_node(it, link[0]).chain
        link[0] = target
        # Whatever still refers to the old slot must be found out.
        memset(simulator_node(it, source), 0xFF, NODE_BYTES)
        simulator_node(it, source).chain = it.free_node
        it.free_node = source
        return True

    def admits(self, uint64_t size_bytes) -> bool:
        return evict_admits(&self.self_.state, size_bytes)

    def order(self) -> list:
        """Hashes in eviction order, coldest first."""
        cdef uint64_t position = 0
        cdef uint32_t reference
        hashes = []
        while True:
            reference = evict_walk(self.self_.base, &self.self_.state, &position)
            if reference == 0:
                return hashes
            hashes.append(simulator_node(&self.self_, reference).hash)

    def contents(self) -> dict:
        """{hash: size} of what is cached."""
        cdef uint64_t position = 0
        cdef uint32_t reference
        sizes = {}
        while True:
            reference = evict_walk(self.self_.base, &self.self_.state, &position)
            if reference == 0:
                return sizes
            sizes[simulator_node(&self.self_, reference).hash] = \
                simulator_node(&self.self_, reference).evict.size_bytes

    def check(self) -> int:
        """0, or the number of the broken invariant of `_evict.pxd`."""
        return evict_check(self.self_.base, &self.self_.state)


def mixed(uint64_t key) -> int:
    """What `run` makes of an object id."""
    return mix_hash(key)
