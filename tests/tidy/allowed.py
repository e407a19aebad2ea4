"""Exceptions to the rules of `test_sources.py`, each with its reason.

A path that is listed and does not need it fails as well, so the lists cannot grow stale.
"""

from __future__ import annotations

# Components without a header: nothing cimports them.
PYX_WITHOUT_PXD: dict[str, str] = {}

# Tests that may skip, by file: what the machine may lack.
SKIPS: dict[str, str] = {
    "tests/crash/test_late_writes.py": "a mounted file system and a throttled device need root",
    "tests/integration/test_index_deaths.py": "a machine may let nobody trace its children",
    "tests/integration/test_shared_attach.py": "a file of another user needs root",
    "tests/integration/test_shared_streams.py": "a machine may let nobody trace its children",
    "tests/integration/test_leases.py": "a machine may let nobody trace its children",
    "tests/integration/test_shared_steps.py": "a machine may let nobody trace its children",
    "tests/support/smallshm.py": "a /dev/shm of its own needs root or user namespaces",
    "tests/integration/test_warm.py": "a file of another user needs root",
    "tests/unit/test_evict_bench.py": "libcachesim and zstandard are optional peers of the bench",
    "tests/unit/test_io_fallback.py": "system call filters and RLIMIT_MEMLOCK need root and x86-64",
    "tests/unit/test_io_threads.py": "a tmpfs of its own needs root",
}
