"""A Prometheus collector that takes one snapshot per store and scrape.

Nothing is counted here: the hit path pays nothing for being observed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgecache.metrics.histogram import MICROSECONDS_PER_SECOND, cumulative_buckets
from edgecache.metrics.names import METRICS, UP, Metric

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector as _Collector
else:  # prometheus_client is imported when a collector is built
    _Collector = object

Snapshot = Callable[[], Mapping[str, Any]]

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_log = logging.getLogger("edgecache.metrics")


class EdgeCacheCollector(_Collector):
    """Export one or more stores.

        registry.register(EdgeCacheCollector(store.stats, labels={"store": "images"}))

    Args:
        snapshot: Returns a `StatsSnapshot`; called once per scrape.
        labels: Labels added to every sample of that store.

    A store whose snapshot fails is reported as `edge_cache_up 0` and logged; other stores and
    other collectors of the registry are still scraped.

    *Thread-safety*: scrapes may run at the same time; `add_store` may run beside them.
    """

    def __init__(self, snapshot: Snapshot, labels: Mapping[str, str] | None = None) -> None:
        from prometheus_client import core

        self._core = core
        self._stores: tuple[tuple[Snapshot, dict[str, str]], ...] = ()
        self.add_store(snapshot, labels)

    def add_store(self, snapshot: Snapshot, labels: Mapping[str, str] | None = None) -> None:
        """Export another store, told apart by the values of the same labels.

        Raises:
            ValueError: A label is malformed, taken by a metric, or does not tell the stores apart.
        """
        wanted = dict(labels or {})
        taken = {metric.label for metric in METRICS} | {"le"}
        taken.update(key for metric in METRICS for key in metric.info_keys)
        for name in wanted:
            if not _LABEL.fullmatch(name) or name.startswith("__") or name in taken:
                raise ValueError(f"{name!r} cannot be the name of a label")
        for _, other in self._stores:
            if other.keys() != wanted.keys():
                raise ValueError(f"all stores need the same labels: {sorted(other)}")
            if other == wanted:
                raise ValueError(f"another store has the labels {wanted}")
        # One assignment: a scrape that runs now sees the old tuple or the new one.
        self._stores = (*self._stores, (snapshot, wanted))

    def describe(self) -> Iterator[Family]:
        """Return the families without samples: registering takes no snapshot."""
        yield from self._families().values()

    def collect(self) -> Iterator[Family]:
        """Take the snapshots and return the families."""
        families = self._families()
        for snapshot, labels in self._stores:
            up = 1.0
            try:
                stats = snapshot()
                for metric in METRICS:
                    _add(families[metric.name], metric, _at(stats, metric.path), labels)
            except Exception:  # a closed store must not hide the metrics of the process
                _log.warning("no statistics from the store %s", labels, exc_info=True)
                up = 0.0
            families[UP.name].add_sample(UP.name, labels, up)
        yield from families.values()

    def _families(self) -> dict[str, Family]:
        families: dict[str, Family] = {}
        for metric in (UP, *METRICS):
            if metric.name not in families:
                # A family is named without the suffix that its kind adds in the exposition.
                suffix = {"counter": "_total", "info": "_info"}.get(metric.kind, "")
                family_name = metric.name.removesuffix(suffix)
                families[metric.name] = self._core.Metric(family_name, metric.help, metric.kind)
        return families


def _at(stats: Mapping[str, Any], path: str) -> Any:
    value: Any = stats
    for key in path.split("."):
        value = value[key]
    return value


def _add(family: Family, metric: Metric, value: Any, labels: dict[str, str]) -> None:
    """Add the samples of one place of the snapshot."""
    if metric.kind == "info":
        words = {key: str(value[key]) for key in metric.info_keys}
        family.add_sample(metric.name, {**labels, **words}, 1.0)
    elif metric.kind == "histogram":
        buckets = cumulative_buckets(value["bucket_counts"])
        for bound, count in buckets:
            family.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
        family.add_sample(f"{metric.name}_count", labels, buckets[-1][1])
        sum_seconds = value["sum_us"] / MICROSECONDS_PER_SECOND
        family.add_sample(f"{metric.name}_sum", labels, sum_seconds)
    elif metric.label and not metric.label_value:
        for word, count in value.items():
            family.add_sample(metric.name, {**labels, metric.label: word}, count * metric.scale)
    else:
        own = {metric.label: metric.label_value} if metric.label else {}
        family.add_sample(metric.name, {**labels, **own}, value * metric.scale)
