"""Metrics: the shape of `Storage.stats()`, and its export to Prometheus.

`prometheus_client` is imported when a collector is built, not with this package.
"""

from edgecache.metrics.collector import EdgeCacheCollector
from edgecache.metrics.schema import StatsSnapshot, check_snapshot, empty_snapshot

__all__ = ["EdgeCacheCollector", "StatsSnapshot", "check_snapshot", "empty_snapshot"]
