"""Test hooks of the region log: states that otherwise last for microseconds."""

from libc.stdint cimport uint32_t, uint64_t

from edgecache._core_base cimport CoreBase
from edgecache._maintenance cimport maintenance_prewrite
from edgecache._segment cimport LOG_SMALL, NONE32, log_wake
from edgecache._sync cimport (
    ec_add_u32,
    ec_futex_wake,
    ec_load_u32,
    ec_lock_acquire,
    ec_lock_release,
)


def prewrite(CoreBase core, uint64_t ahead_bytes):
    """What the maintenance thread does while somebody syncs, now and on this thread."""
    with nogil:
        maintenance_prewrite(&core.maintenance, ahead_bytes)


def prewritten_bytes(CoreBase core):
    return core.log.shared.prewritten_bytes


def prewrite_begin(CoreBase core, uint32_t start):
    """As while zeroes are being written in the open region from `start` on."""
    ec_lock_acquire(&core.log.shared.lock)
    core.log.shared.prewrite_region = core.log.shared.heads[LOG_SMALL].region
    core.log.shared.prewrite_start = start
    ec_lock_release(&core.log.shared.lock)


def prewrite_end(CoreBase core):
    ec_lock_acquire(&core.log.shared.lock)
    core.log.shared.prewrite_start = NONE32
    ec_lock_release(&core.log.shared.lock)
    log_wake(&core.log.shared.done_word)


def sync_begin(CoreBase core):
    """As while another thread leads a sync."""
    ec_lock_acquire(&core.log.shared.sync_lock)


def sync_end(CoreBase core):
    """That thread is done, and covered nobody: all who wait look again."""
    cdef uint32_t number
    ec_lock_release(&core.log.shared.sync_lock)
    for number in range(2):
        ec_add_u32(&core.log.shared.sync_words[number], 1)
        ec_futex_wake(&core.log.shared.sync_words[number], 0x7FFFFFFF)


def sync_waiting(CoreBase core):
    return ec_load_u32(&core.log.shared.sync_waiting)
