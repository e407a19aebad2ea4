"""The one table from snapshot paths to metrics; `docs/metrics.md` is checked against it.

The names of the earlier edge-cdn-store are kept exactly, so that its dashboards go on working
(after `edge_cache_`): hits, misses, evictions, invalidations, stream_attach, stream_attach_miss,
demotions, keys, partial_writes, disk_bytes, atomic_publish_enabled, io_uring_enabled,
disk_write_seconds, disk_read_seconds. Only hits has a label more, its tier.

Source: Prometheus naming conventions (base units, `_total` on counters, `_seconds`, `_bytes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["counter", "gauge", "histogram", "info"]

MICROSECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Metric:
    """How one place of the snapshot is exported.

    Args:
        path: Keys joined by dots. For "info", a section of which `info_keys` become labels.
        name: The exported name, with `_total` on counters.
        help: One line of description; equal for all entries of one name.
        label: A label of this metric; its value is `label_value`, or when that is "" the place is
            a mapping and each of its keys is one value.
        scale: What the number is multiplied by.
    """

    path: str
    name: str
    kind: MetricKind
    help: str
    label: str = ""
    label_value: str = ""
    scale: float = 1.0
    info_keys: tuple[str, ...] = ()


def _counter(path: str, name: str, help_text: str, label: str = "", value: str = "") -> Metric:
    return Metric(path, f"edge_cache_{name}_total", "counter", help_text, label, value)


def _gauge(path: str, name: str, help_text: str, label: str = "", value: str = "") -> Metric:
    return Metric(path, f"edge_cache_{name}", "gauge", help_text, label, value)


_HITS = "Lookups answered from the cache, by the tier that answered."
_REGIONS = "Regions of the disk tier, by state."

METRICS: tuple[Metric, ...] = (
    Metric(
        "engine",
        "edge_cache_engine_info",
        "info",
        "What runs: version, I/O engine and why not another, hash, layout, policy.",
        info_keys=(
            *("version", "io", "io_fallback_reason", "cold_reason", "warm_refusal"),
            *("hash", "layout", "policy"),
        ),
    ),
    _gauge("engine.uptime_seconds", "uptime_seconds", "Time since the store was opened."),
    _gauge("engine.is_io_uring", "io_uring_enabled", "1 when io_uring serves the disk tier."),
    _gauge("engine.is_atomic_publish", "atomic_publish_enabled", "1 when publishing is atomic."),
    _gauge("engine.is_direct", "direct_io_enabled", "1 when the page cache is bypassed."),
    _counter("requests.hits.front", "hits", _HITS, "tier", "front"),
    _counter("requests.hits.memory", "hits", _HITS, "tier", "memory"),
    _counter("requests.hits.disk", "hits", _HITS, "tier", "disk"),
    _counter("requests.misses", "misses", "Lookups that found nothing."),
    _counter("requests.puts", "puts", "Objects accepted."),
    _counter("requests.put_bytes", "put_bytes", "Bytes of values accepted."),
    _counter("requests.deletes", "deletes", "Objects deleted by key."),
    _counter("requests.expired", "expired", "Lookups that found an object past its lifetime."),
    _counter("requests.shed", "shed", "Objects not accepted, by reason.", "reason"),
    _counter("requests.evictions", "evictions", "Objects lost to a budget."),
    _counter("requests.invalidations", "invalidations", "Objects purged by key, tag or prefix."),
    _counter("requests.demotions", "demotions", "Objects whose only copy is now on disk."),
    _counter("requests.stream_attaches", "stream_attach", "Readers of a write in progress."),
    _counter(
        "requests.stream_attach_misses", "stream_attach_miss", "Readers that found no such write."
    ),
    _gauge("requests.partial_writes", "partial_writes", "Streaming writes in progress."),
    _counter("objects.aborted_writes", "aborted_writes", "Streaming writes given up."),
    _counter("objects.refused_writes", "refused_writes", "Streaming writes not started."),
    _counter("objects.shed_writes", "shed_writes", "Streams and ranges not accepted whole."),
    _gauge("objects.sparse", "sparse_objects", "Unfinished sparse objects."),
    _gauge("objects.sparse_bytes", "sparse_bytes", "Bytes present in unfinished sparse objects."),
    _gauge("objects.memory_bytes", "partial_memory_bytes", "Memory of unfinished objects."),
    _counter("objects.holes", "holes", "Reads of objects that found bytes missing."),
    _counter(
        "objects.hash_mismatches", "hash_mismatches", "Chunks whose content hash did not match."
    ),
    _counter("objects.shared_chunks", "shared_chunks", "Chunks found stored by another object."),
    _counter("objects.shared_bytes", "shared_bytes", "Bytes of them, which were not written."),
    _counter("objects.share_collisions", "share_collisions", "Chunks with the hash of another."),
    _gauge("objects.share_table", "share_table_chunks", "Shared chunks whose objects are known."),
    _gauge("memory.budget_bytes", "memory_budget_bytes", "Budget of the RAM tier."),
    _gauge("memory.used_bytes", "memory_bytes", "RAM tier in use, metadata included."),
    _gauge("memory.item_bytes", "memory_item_bytes", "RAM tier in use by objects."),
    _gauge("memory.items", "memory_items", "Objects in the RAM tier."),
    _gauge("memory.pinned_bytes", "memory_pinned_bytes", "Bytes that readers hold in place."),
    _gauge("memory.zombies", "memory_zombies", "Objects that are gone but still held by readers."),
    _counter("memory.evictions", "memory_evictions", "Objects evicted from the RAM tier."),
    _counter("memory.refusals", "memory_refusals", "Times the system had no memory for a page."),
    _counter("memory.moves", "memory_moves", "Objects moved to make room in the RAM tier."),
    _gauge("memory.front_budget_bytes", "front_budget_bytes", "Budget of the front table."),
    _gauge("memory.front_bytes", "front_bytes", "Front table in use."),
    _gauge("memory.front_items", "front_items", "Objects in the front table."),
    _gauge("index.objects", "keys", "Objects in the cache."),
    _gauge("index.used_bytes", "index_bytes", "Memory of the index."),
    _gauge("index.overflow", "index_overflow_objects", "Objects outside of their buckets."),
    _counter("index.grows", "index_grows", "Times the index grew."),
    _gauge("disk.budget_bytes", "disk_budget_bytes", "Budget of the disk tier."),
    _gauge("disk.used_bytes", "disk_bytes", "Disk tier in use."),
    _gauge("disk.is_read_only", "disk_read_only", "1 when the disk tier takes no writes."),
    _gauge("disk.regions.free", "regions", _REGIONS, "state", "free"),
    _gauge("disk.regions.open", "regions", _REGIONS, "state", "open"),
    _gauge("disk.regions.sealed", "regions", _REGIONS, "state", "sealed"),
    _gauge("disk.regions.retired", "regions", _REGIONS, "state", "retired"),
    _gauge("disk.write_budget_level", "write_budget_level", "How far admission is tightened."),
    _gauge(
        "disk.write_budget_bytes", "write_budget_bytes", "Allowed writes per day, 0 for no limit."
    ),
    _counter("log.flushes", "flushes", "Flushes of a write buffer."),
    _counter("log.flushed_bytes", "flushed_bytes", "Bytes flushed."),
    _counter("log.flush_waits", "flush_waits", "Puts that waited for a write buffer."),
    Metric(
        "log.flush_wait_us",
        "edge_cache_flush_wait_seconds_total",
        "counter",
        "Time that puts waited for a write buffer.",
        scale=MICROSECONDS,
    ),
    _counter(
        "log.io_timeouts",
        "io_timeouts",
        "Reads and writes given up because the disk did not answer.",
    ),
    _gauge("log.buffered_bytes", "buffered_bytes", "Bytes accepted and not yet flushed."),
    _counter("log.checkpoints", "checkpoints", "Checkpoints of the index."),
    _counter("log.checkpoint_failures", "checkpoint_failures", "Checkpoints that failed."),
    _counter("reclaim.regions", "reclaimed_regions", "Regions emptied."),
    _counter("reclaim.bytes", "reclaimed_bytes", "Bytes of the regions emptied."),
    _counter("reclaim.reinserted", "reinserted_objects", "Objects kept when their region went."),
    _counter("reclaim.reinserted_bytes", "reinserted_bytes", "Bytes of the objects kept."),
    _counter("reclaim.dropped", "dropped_objects", "Objects lost when their region went."),
    _gauge("recovery.seconds", "recovery_seconds", "Time that opening took."),
    _gauge("recovery.is_warm", "recovery_warm", "1 when RAM tier and index were kept in memory."),
    _gauge("recovery.records", "recovery_records", "Objects found when opening."),
    _gauge("recovery.regions_read", "recovery_regions", "Regions read when opening."),
    _gauge("recovery.regions_skipped", "recovery_regions_skipped", "Regions refused when opening."),
    _gauge("sharing.processes", "processes", "Processes that have the shared cache open."),
    _counter("sharing.attaches", "process_attaches", "Openings of the shared cache."),
    _counter("sharing.deaths", "process_deaths", "Processes that ended without closing."),
    _gauge("sharing.writer_pid", "writer_pid", "Number of the process that writes, 0 for none."),
    _gauge("sharing.is_writer", "writer", "1 when this process flushes and reclaims for all."),
    _counter("sharing.role_takeovers", "role_takeovers", "Writers that died and were replaced."),
    _counter("sharing.lock_repairs", "lock_repairs", "Locks taken over from dead processes."),
    _counter("sharing.shard_resets", "shard_resets", "Shards that lost their objects in RAM."),
    _counter("sharing.index_resets", "index_resets", "Shards that lost all their objects."),
    _gauge("io.queue_depth", "io_queue_depth", "Most requests in flight per channel."),
    _gauge("io.in_flight", "io_in_flight", "Requests in flight."),
    _counter("io.submissions", "io_submissions", "Submissions to the kernel."),
    _counter("io.operations", "io_operations", "Finished requests, by operation.", "operation"),
    _counter("io.bytes", "io_bytes", "Bytes moved, by operation.", "operation"),
    _counter("io.failures", "io_failures", "Failed requests, by operation.", "operation"),
    _counter("io.errors", "io_errors", "Failed requests, by errno.", "errno"),
    _counter("io.short_transfers", "io_short_transfers", "Transfers that had to be continued."),
    _counter("io.interruptions", "io_interruptions", "Transfers interrupted and continued."),
    _gauge("io.direct_refused", "io_direct_refused", "Files that could not be opened O_DIRECT."),
    _gauge("io.threads", "io_threads", "Threads of the I/O engine."),
    Metric(
        "io.read_latency", "edge_cache_disk_read_seconds", "histogram", "Time of one disk read."
    ),
    Metric(
        "io.write_latency", "edge_cache_disk_write_seconds", "histogram", "Time of one disk write."
    ),
    Metric("io.sync_latency", "edge_cache_disk_sync_seconds", "histogram", "Time of one sync."),
    _counter("leases.takes", "lease_takes", "Leases taken: work that one process does for all."),
    _counter("leases.waits", "lease_waits", "Waits for a lease of another begun."),
    _counter(
        "leases.hits", "lease_hits", "Waits that ended with what was waited for in the cache."
    ),
    _counter(
        "leases.takeovers", "lease_takeovers", "Leases taken over from a dead or late holder."
    ),
    _counter("leases.timeouts", "lease_timeouts", "Waits for a lease given up."),
    _counter("leases.full", "lease_full", "Leases for which the table had no room."),
    _counter(
        "leases.stream_attaches", "lease_stream_attach", "Readers of a stream of another process."
    ),
    _counter(
        "leases.streams_full",
        "lease_streams_full",
        "Streams that other processes could not be shown.",
    ),
    _counter("errors.corruption", "corruption", "Bytes that failed a check, by kind.", "kind"),
    _counter("errors.open", "open_errors", "Files that could not be opened."),
    _counter("errors.regions_retired", "regions_retired", "Regions given up after an error."),
)

UP = Metric("", "edge_cache_up", "gauge", "1 when the store answered the last scrape.")
