"""Kernel: atomics, a process-shared lock and clocks. Waiting for a lock is in _sync.pyx.

The lock is one u32 in the arena. Invariants:

1. 0 means free; otherwise the low 30 bits are the owner's thread id and bit 31 says that a waiter
   may sleep in the kernel on this word.
2. It is held for tens of nanoseconds, never across a wait, a system call (but the futex's own) or a
   GIL release, and no Python code runs under it. A thread may therefore wait for it with the GIL.
3. The owner's id in the word is what lets another process find out that an owner died. Who waits
   for a lock in a range that was announced (robust_add) asks about a millisecond later whether that
   thread lives; if not, it takes the lock over, and the range's repair sees to what it guards.

Source: U. Drepper, "Futexes Are Tricky" (2011), mutex 3; futex(2).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/futex.h>
    #include <pthread.h>
    #include <sched.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #define EC_LOCK_WAITERS 0x80000000u

    /* 4 bytes of the space that the loader keeps for this model: no call to find the variable. */
    static __thread uint32_t ec_thread_id_cached __attribute__((tls_model("initial-exec")));

    /* The thread that forked is another one in the child, in every extension that has this. */
    static void ec_thread_forget(void) { ec_thread_id_cached = 0; }
    static __attribute__((constructor)) void ec_thread_watch_forks(void) {
        pthread_atfork(NULL, NULL, ec_thread_forget);
    }

    static inline uint32_t ec_thread_id(void) {
        if (__builtin_expect(ec_thread_id_cached == 0, 0))
            ec_thread_id_cached = (uint32_t)syscall(SYS_gettid) & 0x3fffffffu;
        return ec_thread_id_cached;
    }

    static inline void ec_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }

    static inline int ec_futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_ns) {
        struct timespec wait, *limit = NULL;
        if (timeout_ns >= 0) {
            wait.tv_sec = timeout_ns / 1000000000;
            wait.tv_nsec = timeout_ns % 1000000000;
            limit = &wait;
        }
        if (syscall(SYS_futex, word, FUTEX_WAIT, seen, limit, NULL, 0) == 0) return 0;
        return errno;
    }

    static inline void ec_futex_wake(uint32_t *word, int count) {
        syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    }

    static inline int ec_lock_try(uint32_t *word) {
        uint32_t expected = 0;
        return __builtin_expect(__atomic_compare_exchange_n(word, &expected, ec_thread_id(), 0,
                                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED), 1);
    }

    static inline void ec_lock_release(uint32_t *word) {
        uint32_t seen = __atomic_exchange_n(word, 0, __ATOMIC_RELEASE);
        if (__builtin_expect((seen & EC_LOCK_WAITERS) != 0, 0)) ec_futex_wake(word, 1);
    }

    static inline uint32_t ec_load_u32(const uint32_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    static inline uint64_t ec_load_u64(const uint64_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    static inline void ec_store_u8(uint8_t *p, uint8_t value) {
        __atomic_store_n(p, value, __ATOMIC_RELEASE);
    }
    static inline void ec_store_u32(uint32_t *p, uint32_t value) {
        __atomic_store_n(p, value, __ATOMIC_RELEASE);
    }
    static inline void ec_store_u64(uint64_t *p, uint64_t value) {
        __atomic_store_n(p, value, __ATOMIC_RELEASE);
    }
    /* For counts that one thread at a time changes, the holder of a lock, and others only look at:
       no bus lock. */
    static inline void ec_grow_u32(uint32_t *p, uint32_t value) {
        __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
    }
    static inline void ec_grow_u64(uint64_t *p, uint64_t value) {
        __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
    }
    static inline uint32_t ec_add_u32(uint32_t *p, uint32_t value) {
        return __atomic_add_fetch(p, value, __ATOMIC_ACQ_REL);
    }
    static inline uint64_t ec_add_u64(uint64_t *p, uint64_t value) {
        return __atomic_add_fetch(p, value, __ATOMIC_ACQ_REL);
    }
    static inline uint64_t ec_sub_u64(uint64_t *p, uint64_t value) {
        return __atomic_sub_fetch(p, value, __ATOMIC_ACQ_REL);
    }
    static inline void ec_count(uint64_t *p, uint64_t value) {
        __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
    }
    static inline int ec_cas_u32(uint32_t *p, uint32_t expected, uint32_t desired) {
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_ACQ_REL,
                                           __ATOMIC_ACQUIRE);
    }
    /* GCC takes a function that only prefetches for a pure one and drops calls of it; the empty
       assembler statement is a side effect in its eyes. Seen with GCC 12 at -O3. */
    static inline void ec_prefetch(const void *address) {
        __builtin_prefetch(address);
        __asm__ __volatile__("" : : "r"(address));
    }

    /* A look at bytes that may be something else by now. What it finds counts only if a version, an
       epoch or a lock says afterwards that they were what they seemed; so it is no race, which the
       thread sanitizer cannot know. */
    #if defined(__SANITIZE_THREAD__)
    #define EC_GLANCE static __attribute__((no_sanitize("thread"), noinline))
    #define EC_THREAD_SANITIZER 1
    #else
    #define EC_GLANCE static inline
    #define EC_THREAD_SANITIZER 0
    #endif
    EC_GLANCE uint8_t ec_glance_u8(const uint8_t *p) { return *(const volatile uint8_t *)p; }
    EC_GLANCE uint32_t ec_glance_u32(const uint32_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    EC_GLANCE uint64_t ec_glance_u64(const uint64_t *p) {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    EC_GLANCE int ec_glance_equal(const char *glanced, const char *own, size_t size) {
    #if defined(__SANITIZE_THREAD__)
        while (size && *(const volatile char *)glanced == *own) glanced++, own++, size--;
        return size == 0;
    #else
        return memcmp(glanced, own, size) == 0;
    #endif
    }

    static inline void ec_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    /* The compiler moves no access across it. That is all it takes against a death of the process:
       a thread ends between two instructions, with all stores before that point and none after. */
    static inline void ec_order(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

    static inline int64_t ec_clock_us(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    }
    static inline int64_t ec_now_us(void) { return ec_clock_us(CLOCK_REALTIME); }
    static inline int64_t ec_now_coarse_us(void) { return ec_clock_us(CLOCK_REALTIME_COARSE); }
    static inline int64_t ec_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    uint32_t ec_thread_id() noexcept nogil
    void ec_pause() noexcept nogil

    # Returns 0 when woken, else an errno (EAGAIN: *word != seen; ETIMEDOUT; EINTR).
    # timeout_ns < 0 waits without limit.
    int ec_futex_wait(uint32_t* word, uint32_t seen, int64_t timeout_ns) noexcept nogil
    void ec_futex_wake(uint32_t* word, int count) noexcept nogil

    bint ec_lock_try(uint32_t* word) noexcept nogil
    void ec_lock_release(uint32_t* word) noexcept nogil

    uint32_t ec_load_u32(const uint32_t* p) noexcept nogil
    uint64_t ec_load_u64(const uint64_t* p) noexcept nogil
    void ec_store_u8(uint8_t* p, uint8_t value) noexcept nogil
    void ec_store_u32(uint32_t* p, uint32_t value) noexcept nogil
    void ec_store_u64(uint64_t* p, uint64_t value) noexcept nogil
    void ec_grow_u32(uint32_t* p, uint32_t value) noexcept nogil         # by the holder of a lock
    void ec_grow_u64(uint64_t* p, uint64_t value) noexcept nogil
    uint32_t ec_add_u32(uint32_t* p, uint32_t value) noexcept nogil      # returns the new value
    uint64_t ec_add_u64(uint64_t* p, uint64_t value) noexcept nogil      # returns the new value
    uint64_t ec_sub_u64(uint64_t* p, uint64_t value) noexcept nogil      # returns the new value
    void ec_count(uint64_t* p, uint64_t value) noexcept nogil            # relaxed counter
    bint ec_cas_u32(uint32_t* p, uint32_t expected, uint32_t desired) noexcept nogil
    bint EC_THREAD_SANITIZER            # a constant
    uint8_t ec_glance_u8(const uint8_t* p) noexcept nogil
    uint32_t ec_glance_u32(const uint32_t* p) noexcept nogil
    uint64_t ec_glance_u64(const uint64_t* p) noexcept nogil
    bint ec_glance_equal(const char* glanced, const char* own, size_t size) noexcept nogil
    void ec_fence() noexcept nogil
    void ec_order() noexcept nogil                # for the compiler: what a death may not separate
    void ec_prefetch(const void* address) noexcept nogil

    int64_t ec_now_us() noexcept nogil            # CLOCK_REALTIME, microseconds since the epoch
    int64_t ec_now_coarse_us() noexcept nogil     # the same with 4 ms grain, 4x cheaper
    int64_t ec_monotonic_ns() noexcept nogil


# Waits until the lock is free, or its owner is known to be dead; the lock is the caller's then.
cdef void ec_lock_acquire_slow(uint32_t* word) noexcept nogil

cdef inline void ec_lock_acquire(uint32_t* word) noexcept nogil:
    if not ec_lock_try(word):
        ec_lock_acquire_slow(word)

# For locks that are only tried: when the owner is dead, repair and give the lock back. Whether.
cdef bint ec_lock_break(uint32_t* word) noexcept nogil

# Is the thread that holds a lock gone with its process?
ctypedef bint (*robust_dead_function)(void* context, uint32_t thread) noexcept nogil
# The lock's owner died holding it; the caller holds it now. Repair what it guards.
ctypedef void (*robust_repair_function)(void* context, uint32_t* word) noexcept nogil

cdef enum:
    ROBUST_RANGES_MAX = 32

cdef struct RobustRange:                # memory whose locks other processes may hold
    char* base                          # NULL: unused
    uint64_t size_bytes
    robust_dead_function is_dead
    robust_repair_function repair
    void* context

# Announce a range; NULL: there are too many. Both under the GIL; nobody may use its locks at the
# time of either.
cdef RobustRange* robust_add(char* base, uint64_t size_bytes, robust_dead_function is_dead,
                             robust_repair_function repair, void* context) noexcept nogil
cdef void robust_remove(RobustRange* place) noexcept nogil
