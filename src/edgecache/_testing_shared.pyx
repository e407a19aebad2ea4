"""Test hooks of shared mode: deaths in states that otherwise last for nanoseconds."""

from libc.stdint cimport uint32_t

from edgecache._core_base cimport CoreBase
from edgecache._shard cimport shard_at
from edgecache._sync cimport ec_lock_acquire


def hold_shard(CoreBase core, uint32_t number):
    """Take the lock of a shard and keep it: the process is to die now."""
    if number >= core.shards.count:
        raise ValueError("no such shard")
    ec_lock_acquire(&shard_at(&core.shards, number).lock)
