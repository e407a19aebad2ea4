"""From the native counters and those of the I/O engine to one `StatsSnapshot`.

Pure: plain mappings go in. What the engine does not count stays at its zero, and so does everything
about a tier that is not in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecache._version import __version__
from edgecache.metrics.schema import (
    IoStats,
    LatencyHistogram,
    StatsSnapshot,
    empty_snapshot,
)

Counters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the counters do not know.

    Args:
        io: Name of the I/O engine, or "none".
        io_fallback_reason: Why it is not the one that was wished for, or "".
        layout, policy, is_direct, is_atomic_publish, queue_depth: From the configuration.
        uptime_seconds: Since the store was opened.
        cold_reason: With `keep_warm`: why the store began cold, or "".
        warm_refusal: The same: why it will leave nothing in memory, or "".
        soft_purge_count: Entries made stale by `purge_tag(soft=True)`.
        objects: `ObjectManager.stats()`.
    """

    io: str
    io_fallback_reason: str
    layout: str
    policy: str
    is_direct: bool
    is_atomic_publish: bool
    queue_depth: int
    uptime_seconds: float
    soft_purge_count: int
    cold_reason: str = ""
    warm_refusal: str = ""
    objects: Mapping[str, int] = field(default_factory=dict)


def build_snapshot(counters: Counters, io: Counters, facts: Facts) -> StatsSnapshot:
    """Return the snapshot.

    Args:
        counters: `Core.counters()`.
        io: `IoEngine.stats()`, or an empty mapping without a disk tier.
        facts: The rest.
    """
    found = empty_snapshot()
    _fill_engine(found, counters, io, facts)
    _fill_requests(found, counters, facts)
    if facts.objects:
        _fill_objects(found, facts.objects)
    _fill_memory(found, counters)
    if "processes" in counters:
        _fill_sharing(found, counters)
    if "lease_takes" in counters:
        _fill_leases(found, counters)
    if io:
        _fill_disk(found, counters)
        _fill_log(found, counters)
        _fill_io(found["io"], io, facts)
    return found


def _fill_engine(found: StatsSnapshot, counters: Counters, io: Counters, facts: Facts) -> None:
    engine = found["engine"]
    engine["version"] = __version__
    engine["io"] = facts.io
    engine["io_fallback_reason"] = facts.io_fallback_reason
    engine["cold_reason"] = facts.cold_reason
    engine["warm_refusal"] = facts.warm_refusal
    engine["hash"] = "native" if counters["is_hash_native"] else "python"
    engine["layout"] = facts.layout
    engine["policy"] = facts.policy
    engine["is_direct"] = bool(io) and facts.is_direct and not io.get("direct_refused", 0)
    engine["is_io_uring"] = facts.io == "uring"
    engine["is_atomic_publish"] = facts.is_atomic_publish
    engine["uptime_seconds"] = facts.uptime_seconds


def _fill_requests(found: StatsSnapshot, counters: Counters, facts: Facts) -> None:
    requests = found["requests"]
    requests["hits"]["front"] = counters["front_hits"]
    requests["hits"]["memory"] = counters["memory_hits"]
    requests["hits"]["disk"] = counters["disk_hits"]
    requests["misses"] = counters["misses"]
    requests["puts"] = counters["puts"]
    requests["put_bytes"] = counters["put_bytes"]
    requests["deletes"] = counters["deletes"]
    requests["expired"] = counters["expired"]
    requests["shed"] = dict(counters["shed"])
    requests["evictions"] = counters["memory_evictions"] + counters["disk_evictions"]
    requests["invalidations"] = counters["invalidations"] + facts.soft_purge_count
    requests["demotions"] = counters["demotions"]


def _fill_objects(found: StatsSnapshot, counted: Mapping[str, int]) -> None:
    requests, objects = found["requests"], found["objects"]
    requests["stream_attaches"] = counted["stream_attaches"]
    requests["stream_attach_misses"] = counted["stream_attach_misses"]
    requests["partial_writes"] = counted["partial_writes"]
    # The engine counts parts of objects as it counts objects, and each purged key as an
    # invalidation; those purged as evictions are none.
    own_deletes = counted["own_deletes"]
    requests["puts"] = max(0, requests["puts"] - counted["own_puts"])
    requests["deletes"] = max(0, requests["deletes"] - own_deletes)
    requests["evictions"] += counted["purged_evictions"]
    requests["invalidations"] = max(
        0, requests["invalidations"] - own_deletes - counted["engine_evictions"]
    )
    requests["shed"]["too_large"] += counted["too_large"]
    # Read by range from the tier below, past the engine.
    requests["hits"]["disk"] += counted["large_hits"]
    objects["aborted_writes"] = counted["aborted_writes"]
    objects["refused_writes"] = counted["refused_writes"]
    objects["shed_writes"] = counted["shed_writes"]
    objects["sparse"] = counted["sparse"]
    objects["sparse_bytes"] = counted["sparse_bytes"]
    objects["memory_bytes"] = counted["memory_bytes"]
    objects["holes"] = counted["holes"]
    objects["hash_mismatches"] = counted["hash_mismatches"]
    objects["shared_chunks"] = counted["shared_chunks"]
    objects["shared_bytes"] = counted["shared_bytes"]
    objects["share_collisions"] = counted["share_collisions"]
    objects["share_table"] = counted["share_table"]


def _fill_memory(found: StatsSnapshot, counters: Counters) -> None:
    memory, index = found["memory"], found["index"]
    memory["budget_bytes"] = counters["memory_budget_bytes"]
    # One budget for all of it: the tier itself, the index, and the front table.
    memory["used_bytes"] = (
        counters["memory_used_bytes"] + counters["index_used_bytes"] + counters["front_bytes"]
    )
    memory["item_bytes"] = counters["memory_item_bytes"]
    memory["items"] = counters["memory_items"]
    memory["pinned_bytes"] = counters["memory_pinned_bytes"]
    memory["zombies"] = counters["memory_zombies"]
    memory["evictions"] = counters["memory_evictions"] + counters["demotions"]
    memory["moves"] = counters["memory_moves"]
    memory["refusals"] = counters["memory_refusals"]
    memory["front_budget_bytes"] = counters["front_budget_bytes"]
    memory["front_bytes"] = counters["front_bytes"]
    memory["front_items"] = counters["front_items"]
    index["objects"] = counters["objects"]
    index["used_bytes"] = counters["index_used_bytes"]
    index["overflow"] = counters["index_overflow"]
    index["grows"] = counters["index_grows"]


def _fill_sharing(found: StatsSnapshot, counters: Counters) -> None:
    sharing = found["sharing"]
    sharing["processes"] = counters["processes"]
    sharing["attaches"] = counters["processes_attached"]
    sharing["deaths"] = counters["processes_reaped"]
    sharing["writer_pid"] = counters["writer_pid"]
    sharing["is_writer"] = counters["is_writer"]
    sharing["role_takeovers"] = counters["role_takeovers"]
    sharing["lock_repairs"] = counters["lock_repairs"]
    sharing["shard_resets"] = counters["shard_resets"]
    sharing["index_resets"] = counters["index_resets"]


def _fill_leases(found: StatsSnapshot, counters: Counters) -> None:
    leases = found["leases"]
    leases["takes"] = counters["lease_takes"]
    leases["waits"] = counters["lease_waits"]
    leases["hits"] = counters["lease_hits"]
    leases["takeovers"] = counters["lease_takeovers"]
    leases["timeouts"] = counters["lease_timeouts"]
    leases["full"] = counters["lease_full"]
    leases["stream_attaches"] = counters["lease_attaches"]
    leases["streams_full"] = counters["lease_streams_full"]


def _fill_disk(found: StatsSnapshot, counters: Counters) -> None:
    disk, recovery, errors = found["disk"], found["recovery"], found["errors"]
    disk["budget_bytes"] = counters["disk_budget_bytes"]
    disk["used_bytes"] = counters["disk_used_bytes"]
    disk["is_read_only"] = counters["is_read_only"]
    disk["regions"]["free"] = counters["regions_free"]
    disk["regions"]["open"] = counters["regions_open"]
    disk["regions"]["sealed"] = counters["regions_full"]
    disk["regions"]["retired"] = counters["regions_lost"]
    disk["write_budget_level"] = counters["write_budget_level"]
    disk["write_budget_bytes"] = counters["write_budget_bytes"]
    recovery["seconds"] = counters["recovery_us"] / 1e6
    recovery["records"] = counters["recovery_objects"]
    recovery["is_warm"] = counters.get("recovery_is_warm", False)
    recovery["regions_read"] = counters["recovery_regions"]
    recovery["regions_skipped"] = (
        counters["recovery_regions_damaged"] + counters["recovery_regions_unreadable"]
    )
    errors["corruption"] = {
        "record": counters["corrupt_records"],
        "region": counters["recovery_regions_damaged"],
        "checkpoint": counters["recovery_checkpoints_damaged"],
        "superblock": int(counters["was_reformatted"]),
    }
    errors["open"] = counters["prepare_errors"]
    errors["regions_retired"] = counters["regions_retired"]


def _fill_log(found: StatsSnapshot, counters: Counters) -> None:
    log, reclaim = found["log"], found["reclaim"]
    log["flushes"] = counters["flushes"]
    log["flushed_bytes"] = counters["flushed_bytes"]
    log["flush_waits"] = counters["flush_waits"]
    log["flush_wait_us"] = counters["flush_wait_us"]
    log["io_timeouts"] = counters["io_timeouts"]
    log["buffered_bytes"] = counters["buffered_bytes"]
    log["checkpoints"] = counters["checkpoints"]
    log["checkpoint_failures"] = counters["checkpoint_errors"]
    reclaim["regions"] = counters["reclaimed_regions"]
    reclaim["bytes"] = counters["reclaimed_bytes"]
    reclaim["reinserted"] = counters["reinserted"]
    reclaim["reinserted_bytes"] = counters["reinserted_bytes"]
    reclaim["dropped"] = counters["dropped"]


def _fill_io(found: IoStats, io: Counters, facts: Facts) -> None:
    found["queue_depth"] = facts.queue_depth
    found["in_flight"] = io["in_flight"]
    found["submissions"] = io["submit_calls"]
    for operation in ("read", "write", "sync"):
        counted = io[operation]
        found["operations"][operation] = counted["finished"]
        found["failures"][operation] = counted["failed"]
        if operation != "sync":
            found["bytes"][operation] = counted["bytes"]
    found["errors"] = dict(io["errors"])
    found["short_transfers"] = io["short_transfers_continued"]
    found["interruptions"] = io["interruptions_continued"]
    found["direct_refused"] = io["direct_refused"]
    found["threads"] = io["threads"]
    found["read_latency"] = _histogram(io["read"])
    found["write_latency"] = _histogram(io["write"])
    found["sync_latency"] = _histogram(io["sync"])


def _histogram(counted: Counters) -> LatencyHistogram:
    return {
        "bucket_counts": list(counted["latency_us_log2"]),
        "sum_us": counted["latency_us_sum"],
    }
