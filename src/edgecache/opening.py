"""What opening a store needs: the native options of a `Config`, and the report of a recovery."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecache.config import rules

if TYPE_CHECKING:
    from edgecache._io import IoEngine
    from edgecache.config import Config
    from edgecache.files import FileTier

Progress = Callable[[int, int], object]

REPORT_INTERVAL_S = 1.0
NO_LIMIT_BYTES = 2**63 - 1
# Of 96 bytes of memory each, whether there is space for them or not.
REGION_COUNT_MAX = 1 << 18
FILES_ROOT_NAME = "files.edge"
_log = logging.getLogger("edgecache.recovery")


class RecoveryProgress:
    """Log how far a recovery is, at most once per second, and tell `progress` each time.

    Args:
        progress: Called with (done, total); what it raises is logged once and ends its calls, so
            that a progress bar cannot stop a recovery.
        clock: Seconds, monotonic.
        unit: What is counted.
    """

    __slots__ = ("_clock", "_progress", "_reported_s", "_unit")

    def __init__(
        self,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "regions",
    ) -> None:
        self._unit = unit
        self._progress = progress
        self._clock = clock
        self._reported_s = clock()

    def __call__(self, done: int, total: int) -> None:
        now_s = self._clock()
        if now_s - self._reported_s >= REPORT_INTERVAL_S:
            self._reported_s = now_s
            _log.info("recovery: %d of %d %s", done, total, self._unit)
        if self._progress is not None:
            try:
                self._progress(done, total)
            except Exception:
                self._progress = None
                _log.warning("the progress callback failed and is not called again", exc_info=True)


def open_lower(
    config: Config, engine: IoEngine, root: str | None, progress: Progress | None
) -> FileTier | None:
    """Return the tier of a store whose layout is files; None for the other layout.

    Raises:
        FormatVersionError: The root has the other layout.
    """
    if config.layout == "files":
        from edgecache.files import FileTier

        return FileTier(
            engine,
            budget_bytes=config.disk,
            namespace=config.namespace.encode(),
            flush_interval_s=config.flush_interval,
            block_timeout_s=config.block_timeout if config.backpressure == "block" else 0.0,
            order_interval_s=config.checkpoint_interval,
            root=root,
            progress=RecoveryProgress(progress, unit="directories"),
        )
    # Without importing the other layout for nothing.
    if root is None or os.path.lexists(os.path.join(root, FILES_ROOT_NAME)):
        from edgecache.files import refuse_files_root

        refuse_files_root(engine)
    return None


def region_bytes_for(config: Config, root: str | None) -> int:
    """Return the size of regions for a new root: of a budget that the disk has no space for, the
    space counts, or the cache would be a few large regions.
    """
    if root is None or config.region_size:
        return config.region_size_bytes
    found = os.statvfs(root)
    region = rules.region_bytes(min(config.disk, found.f_bavail * found.f_frsize), 0)
    while region * REGION_COUNT_MAX < config.disk:
        region *= 2
    return region


def core_options(
    config: Config, progress: Progress | None, root: str | None = None
) -> dict[str, Any]:
    """Return the native options of a configuration: final values, sizes in bytes, times in s.

    Args:
        root: The directory that holds, or will hold, the store; None: it is not on a disk.
    """
    return {
        "memory_bytes": config.memory,
        "disk_bytes": config.disk if config.has_disk else 0,
        "region_bytes": region_bytes_for(config, root),
        "shards": config.shard_count(os.cpu_count() or 1),
        "policy": config.policy,
        "front_bytes": config.front_size_bytes,
        "buffer_bytes": config.flush_size,
        "buffer_count": config.write_buffers,
        "flush_interval_s": config.flush_interval,
        "block": config.backpressure == "block",
        "block_timeout_s": config.block_timeout,
        "read_timeout_s": config.read_timeout,
        "write_timeout_s": config.write_timeout,
        "max_object_bytes": config.max_object_size or NO_LIMIT_BYTES,
        "checkpoint_interval_s": config.checkpoint_interval,
        "small_share": config.small_ratio,
        "reinsert": config.reinsert,
        "write_budget_bytes": config.write_budget,
        "namespace": config.namespace.encode(),
        "default_ttl_s": config.default_ttl,
        "queue_depth": config.queue_depth,
        "locked_bytes": config.locked_memory,
        "direct": config.direct,
        "progress": RecoveryProgress(progress) if config.has_disk else None,
    }
