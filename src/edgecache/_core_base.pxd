"""Root, part two: a store's life (open, recovery, threads, fork, close)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._core_arena cimport CoreArena

cdef enum StoreState:
    STORE_NEW = 0
    STORE_OPEN = 1
    STORE_CLOSED = 2
    STORE_FORKED = 3

cdef enum:                         # index of a shed counter
    SHED_BACKPRESSURE = 0
    SHED_NO_SPACE = 1
    SHED_IO_ERROR = 2
    SHED_WRITE_BUDGET = 3       # not a shed put while RAM takes it; counted all the same
    SHED_INDEX_FULL = 4
    SHED_TOO_LARGE = 5
    SHED_NO_MEMORY = 6
    SHED_READ_ONLY = 7
    SHED_REASON_COUNT = 8

cdef class CoreBase(CoreArena):
    cdef object __weakref__
    cdef int64_t opened_ns

    cdef _take_options(self, dict options)
    cdef _limit_values(self)
    cdef _open_superblock(self, uint64_t region_bytes)
    cdef _open_log(self)
    cdef _go_on(self)
    cdef _start_log(self)
    cdef _leave_warm(self, bint is_clean)
    cdef _free(self)
    cdef _detach(self)
    cdef int check_open(self) except -1
    cdef forget_threads(self)
    cdef _open_files(self, uint32_t flags)
    cdef bint is_last(self) noexcept
    cdef front_leave(self)
    cdef front_attach(self)
    cdef bint spend(self, uint64_t hash, uint64_t size_bytes, bint remembered) noexcept
    cdef bint admit(self, uint64_t hash, uint64_t size_bytes, uint32_t* head) noexcept
