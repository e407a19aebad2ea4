"""The peer of the hit-ratio bench: libCacheSim through its Python package.

Optional. Without the package the bench runs ours alone and says so. The comparison uses the same
requests, written as an oracleGeneral file, the same capacity in bytes and no per-object metadata.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from bench.traces import Trace

try:
    import libcachesim
except ImportError:
    libcachesim = None

NAMES = {"s3fifo": "S3FIFO", "lru": "LRU", "arc": "ARC", "sieve": "Sieve", "wtinylfu": "WTinyLFU"}

# Its W-TinyLFU sizes a counting Bloom filter by the capacity in bytes: 300 MB of capacity take
# gigabytes of counters, so larger ones are left out.
WTINYLFU_CAPACITY_BYTES_MAX = 300_000_000


def version() -> str | None:
    """Return the package's version, or None when it is not installed."""
    if libcachesim is None:
        return None
    from importlib.metadata import version as package_version

    return package_version("libcachesim")


def size_limit_bytes(policy: str, capacity_bytes: int) -> int:
    """Return the largest object that libCacheSim's policy takes at that capacity."""
    if policy == "s3fifo":
        return max(capacity_bytes // 10 - 1, 0)
    if policy == "wtinylfu":
        return capacity_bytes // 100
    return capacity_bytes


def miss_ratios(
    policy: str, trace: Trace, path: Path, capacity_bytes: int, object_count: int
) -> tuple[float, float, float] | None:
    """Run libCacheSim over the trace written at `path`.

    Returns:
        (miss ratio by requests, by bytes, seconds), or None where the policy cannot run.
    """
    if libcachesim is None:
        return None
    if policy == "wtinylfu" and capacity_bytes > WTINYLFU_CAPACITY_BYTES_MAX:
        return None
    # Its hash table starts with 2 ** hashpower chains; growing it would be charged to the policy.
    hashpower = max(12, min(24, math.ceil(math.log2(object_count + 1))))
    cache: Any = getattr(libcachesim, NAMES[policy])(capacity_bytes, hashpower=hashpower)
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    begin = time.perf_counter()
    by_requests, by_bytes = cache.process_trace(reader)
    return by_requests, by_bytes, time.perf_counter() - begin
