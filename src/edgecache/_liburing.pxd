"""liburing's C functions, resolved at run time from the installed library.

The structures are the kernel's (include/uapi/linux/io_uring.h) and are declared here, so that
neither the header nor the library is needed to build. `struct io_uring` itself is opaque: it is
reached only through the library's functions.

Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), liburing's own manual pages.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    URING_BYTES = 1024              # struct io_uring is 216 bytes in liburing 2.14
    URING_SETUP_IOPOLL = 1 << 0
    URING_SETUP_SQPOLL = 1 << 1
    URING_SETUP_CLAMP = 1 << 4
    URING_SETUP_R_DISABLED = 1 << 6
    URING_SETUP_COOP_TASKRUN = 1 << 8
    URING_SETUP_TASKRUN_FLAG = 1 << 9
    URING_SETUP_SINGLE_ISSUER = 1 << 12
    URING_SETUP_DEFER_TASKRUN = 1 << 13
    URING_FEATURE_NODROP = 1 << 1
    URING_FEATURE_EXT_ARG = 1 << 8
    URING_SQE_FIXED_FILE = 1 << 0
    URING_FSYNC_DATASYNC = 1 << 0

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    struct ec_uring_sqe {
        uint8_t opcode, flags;
        uint16_t ioprio;
        int32_t fd;
        uint64_t offset, address;
        uint32_t length, operation_flags;
        uint64_t user_data;
        uint16_t buffer_index, personality;
        int32_t splice_fd;
        uint64_t reserved[2];
    };
    struct ec_uring_cqe { uint64_t user_data; int32_t res; uint32_t flags; };
    struct ec_uring_params {
        uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
        uint32_t reserved[3];
        uint64_t offsets[10];
    };
    struct ec_uring_timespec { int64_t seconds; long long nanoseconds; };
    _Static_assert(sizeof(struct ec_uring_sqe) == 64, "io_uring_sqe");
    _Static_assert(offsetof(struct ec_uring_sqe, user_data) == 32, "io_uring_sqe.user_data");
    _Static_assert(sizeof(struct ec_uring_cqe) == 16, "io_uring_cqe");
    _Static_assert(sizeof(struct ec_uring_params) == 120, "io_uring_params");
    _Static_assert(offsetof(struct ec_uring_params, features) == 20, "io_uring_params.features");
    """
    ctypedef struct UringSqe "struct ec_uring_sqe":
        uint8_t flags
        uint64_t user_data
    ctypedef struct UringCqe "struct ec_uring_cqe":
        uint64_t user_data
        int32_t res
        uint32_t flags
    ctypedef struct UringParams "struct ec_uring_params":
        uint32_t cq_entries
        uint32_t flags
        uint32_t sq_thread_idle
        uint32_t features
    ctypedef struct UringTimespec "struct ec_uring_timespec":
        int64_t seconds
        int64_t nanoseconds

cdef struct UringVector:            # struct iovec
    void* base
    size_t length

cdef struct Liburing:
    int (*queue_init_params)(unsigned entries, void* ring, UringParams* params) noexcept nogil
    void (*queue_exit)(void* ring) noexcept nogil
    int (*enable_rings)(void* ring) noexcept nogil
    UringSqe* (*get_sqe)(void* ring) noexcept nogil
    unsigned (*sq_ready)(const void* ring) noexcept nogil
    int (*submit)(void* ring) noexcept nogil
    int (*submit_and_wait)(void* ring, unsigned wait_count) noexcept nogil
    int (*submit_and_wait_timeout)(void* ring, UringCqe** cqe, unsigned wait_count,
                                   UringTimespec* timeout, void* signals) noexcept nogil
    unsigned (*peek_batch_cqe)(void* ring, UringCqe** cqes, unsigned count) noexcept nogil
    void (*cq_advance)(void* ring, unsigned count) noexcept nogil
    void (*prep_nop)(UringSqe* sqe) noexcept nogil
    void (*prep_read)(UringSqe* sqe, int fd, void* buffer, unsigned length,
                      uint64_t offset) noexcept nogil
    void (*prep_write)(UringSqe* sqe, int fd, const void* buffer, unsigned length,
                       uint64_t offset) noexcept nogil
    void (*prep_read_fixed)(UringSqe* sqe, int fd, void* buffer, unsigned length,
                            uint64_t offset, int index) noexcept nogil
    void (*prep_write_fixed)(UringSqe* sqe, int fd, const void* buffer, unsigned length,
                             uint64_t offset, int index) noexcept nogil
    void (*prep_fsync)(UringSqe* sqe, int fd, unsigned flags) noexcept nogil
    int (*register_eventfd)(void* ring, int fd) noexcept nogil
    int (*register_buffers)(void* ring, const UringVector* vectors,
                            unsigned count) noexcept nogil
    int (*register_files_update)(void* ring, unsigned offset, const int* files,
                                 unsigned count) noexcept nogil
    # Below: NULL where the library is too old; the engine then goes without.
    int (*register_files_sparse)(void* ring, unsigned count) noexcept nogil
    int (*clone_buffers)(void* target, void* source) noexcept nogil

# The resolved functions, or NULL; the second gives the path used, or why there is none.
# Called with the GIL when an engine opens; resolves once per process.
cdef Liburing* liburing_load()
cdef str liburing_detail()
