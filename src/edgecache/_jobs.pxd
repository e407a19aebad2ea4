"""A few threads that carry out blocking work, in the order in which it came. No Python in them.

The threads start with the first job and sleep on a futex between jobs: a pool that is not used has
none, an idle one wakes nobody.

Invariants (under `lock`):

1. A job is in the queue (JOB_QUEUED), with a thread (JOB_RUNNING), or its owner's alone (JOB_IDLE,
   JOB_DONE). Its memory must stay until it is its owner's again.
2. `job_count` is the number of jobs that are queued or running.
3. After `is_stopping` no job is taken: jobs_submit says so, and what was queued is carried out
   before the threads end.

*Thread-safety*: every function but jobs_stop, which is called once.
"""

from libc.stdint cimport int64_t, uint32_t

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t

cdef enum:
    JOB_THREADS = 4                 # large transfers that keep a device busy (bench/objects.py)

cdef enum JobState:
    JOB_IDLE = 0
    JOB_QUEUED = 1
    JOB_RUNNING = 2
    JOB_DONE = 3

cdef struct Job:                    # zeroed: idle
    void (*run)(Job* job) noexcept nogil
    uint32_t state                  # also the futex of who waits for it
    uint32_t zero
    Job* next

cdef struct JobPool:                # zeroed: no thread
    uint32_t lock
    uint32_t work_word              # futex: changed when a job came
    uint32_t is_stopping
    uint32_t thread_count
    uint32_t job_count
    uint32_t zero
    Job* first
    Job* last
    pthread_t[JOB_THREADS] threads

# False: the pool is stopping, or the system gives no thread; the caller runs the job itself.
cdef bint jobs_submit(JobPool* self, Job* job) noexcept nogil
# Wait until it is done; at once for a job that was not submitted. timeout_ns < 0: no limit.
cdef bint job_wait(Job* job, int64_t timeout_ns) noexcept nogil
# Take a job back that no thread has begun; False: it runs, or is done.
cdef bint jobs_cancel(JobPool* self, Job* job) noexcept nogil
# Finish all jobs and end the threads. Blocks.
cdef void jobs_stop(JobPool* self) noexcept nogil
