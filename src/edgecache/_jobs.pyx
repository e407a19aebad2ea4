"""A few threads that carry out blocking work (see _jobs.pxd)."""

from libc.stdint cimport int64_t, uint32_t

from edgecache._sync cimport (
    ec_add_u32,
    ec_futex_wait,
    ec_futex_wake,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
    ec_monotonic_ns,
    ec_store_u32,
)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                       void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* set)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* old)
    enum:
        SIG_SETMASK

cdef enum:
    ALL_WAITERS = 0x7FFFFFFF


cdef Job* _next_job(JobPool* self) noexcept nogil:
    """The oldest job; waits for one. NULL: the pool stops, and none is left."""
    cdef Job* job
    cdef uint32_t seen
    cdef bint is_stopping
    while True:
        seen = ec_load_u32(&self.work_word)
        ec_lock_acquire(&self.lock)
        job = self.first
        if job != NULL:
            self.first = job.next
            if self.first == NULL:
                self.last = NULL
            ec_store_u32(&job.state, JOB_RUNNING)
        is_stopping = self.is_stopping
        ec_lock_release(&self.lock)
        if job != NULL or is_stopping:
            return job
        ec_futex_wait(&self.work_word, seen, -1)


cdef void* _worker(void* argument) noexcept nogil:
    cdef JobPool* self = <JobPool*>argument
    cdef Job* job = _next_job(self)
    while job != NULL:
        job.run(job)
        ec_lock_acquire(&self.lock)
        self.job_count -= 1
        ec_lock_release(&self.lock)
        # From here on it is its owner's, who may free it before the wake: a futex address without
        # a waiter is only a number.
        ec_store_u32(&job.state, JOB_DONE)
        ec_futex_wake(&job.state, ALL_WAITERS)
        job = _next_job(self)
    return NULL


cdef void _start_thread_locked(JobPool* self) noexcept nogil:
    cdef sigset_t all_signals, old
    # Signals are the interpreter's: its main thread must get them, not ours.
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &old)
    if pthread_create(&self.threads[self.thread_count], NULL, _worker, self) == 0:
        self.thread_count += 1
    pthread_sigmask(SIG_SETMASK, &old, NULL)


cdef bint jobs_submit(JobPool* self, Job* job) noexcept nogil:
    ec_lock_acquire(&self.lock)
    if not self.is_stopping and self.thread_count < JOB_THREADS and \
            self.job_count >= self.thread_count:
        _start_thread_locked(self)
    if self.is_stopping or self.thread_count == 0:
        ec_lock_release(&self.lock)
        return False
    job.next = NULL
    ec_store_u32(&job.state, JOB_QUEUED)
    if self.last == NULL:
        self.first = job
    else:
        self.last.next = job
    self.last = job
    self.job_count += 1
    ec_lock_release(&self.lock)
    ec_add_u32(&self.work_word, 1)
    ec_futex_wake(&self.work_word, 1)
    return True


cdef bint job_wait(Job* job, int64_t timeout_ns) noexcept nogil:
    cdef uint32_t state = ec_load_u32(&job.state)
    cdef int64_t deadline = 0, left = -1
    if timeout_ns >= 0:
        deadline = ec_monotonic_ns() + timeout_ns
    while state == JOB_QUEUED or state == JOB_RUNNING:
        if timeout_ns >= 0:
            left = deadline - ec_monotonic_ns()
            if left <= 0:
                return False
        ec_futex_wait(&job.state, state, left)
        state = ec_load_u32(&job.state)
    return True


cdef bint jobs_cancel(JobPool* self, Job* job) noexcept nogil:
    cdef Job* before = NULL
    cdef Job* here
    cdef bint found = False
    ec_lock_acquire(&self.lock)
    here = self.first
    while here != NULL and here != job:
        before = here
        here = here.next
    if here != NULL:
        found = True
        if before == NULL:
            self.first = here.next
        else:
            before.next = here.next
        if self.last == here:
            self.last = before
        self.job_count -= 1
        ec_store_u32(&job.state, JOB_IDLE)
    ec_lock_release(&self.lock)
    if found:
        ec_futex_wake(&job.state, ALL_WAITERS)
    return found


cdef void jobs_stop(JobPool* self) noexcept nogil:
    cdef uint32_t number, count
    ec_lock_acquire(&self.lock)
    self.is_stopping = 1
    count = self.thread_count
    self.thread_count = 0
    ec_lock_release(&self.lock)
    ec_add_u32(&self.work_word, 1)
    ec_futex_wake(&self.work_word, ALL_WAITERS)
    for number in range(count):
        pthread_join(self.threads[number], NULL)
