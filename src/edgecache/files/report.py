"""The counters of a file tier, by the names that a store's statistics are made of."""

from __future__ import annotations

from typing import Any

from edgecache.files.state import TierState

# What only a region log has.
LOG_ONLY = (
    "regions_free", "regions_open", "regions_full", "regions_lost", "regions_retired",
    "recovery_regions_damaged", "recovery_checkpoints_damaged", "prepare_errors",
    "reclaimed_regions", "reinserted", "reinserted_bytes",
)  # fmt: skip


def tier_counters(state: TierState, is_reformatted: bool) -> dict[str, Any]:
    """Return all counters and gauges; those of the region log are 0."""
    counted, report, index = state.counters, state.report, state.index
    with state.mutex:
        pending = [change.space for change in state.changes.values() if change.place]
        used = state.used_bytes
    return {
        **dict.fromkeys(LOG_ONLY, 0),
        "puts": counted.puts,
        "put_bytes": counted.put_bytes,
        "deletes": counted.deletes,
        "objects": len(index),
        "lower_shed": dict(counted.shed),
        "disk_budget_bytes": state.budget_bytes,
        "disk_used_bytes": used,
        "disk_evictions": counted.evictions,
        "disk_expired": counted.expired,
        "corrupt_records": counted.corrupt + report.garbage,
        "read_errors": counted.read_errors,
        "is_read_only": state.is_read_only,
        "last_errno": state.last_errno,
        "was_reformatted": is_reformatted,
        "index_file_bytes": index.memory_bytes,
        "flushes": counted.cycles,
        "flushed_bytes": counted.published_bytes,
        "flush_waits": counted.waits,
        "flush_wait_us": counted.wait_us,
        "io_timeouts": 0,  # its reads and writes wait as long as the disk takes
        "buffered_bytes": sum(pending),
        "published": counted.publishes,
        "publish_errors": counted.publish_errors,
        "exchange_fallbacks": counted.exchange_fallbacks,
        "checkpoints": counted.orders,
        "checkpoint_errors": counted.order_errors,
        "reclaimed_bytes": counted.evicted_bytes,
        "dropped": counted.evictions,
        "recovery_us": report.duration_us,
        "recovery_objects": report.objects,
        "recovery_regions": report.directories,
        "recovery_regions_unreadable": report.unreadable,
        "recovery_orphans": report.orphans,
        "recovery_garbage": report.garbage,
        "recovery_foreign": report.foreign,
        "recovery_expired": report.expired,
    }
