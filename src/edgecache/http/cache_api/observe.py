"""/stats, /metrics, /health, /cluster: what the store and the server say about themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from edgecache.errors import EdgeCacheError
from edgecache.http.cache_api.tokens import TokenRules
from edgecache.http.request import Request
from edgecache.http.response import Response, json_response, text_response
from edgecache.http.statistics import HttpStatistics
from edgecache.metrics import EdgeCacheCollector
from edgecache.metrics.histogram import cumulative_buckets
from edgecache.metrics.rendering import prefers_json, render

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from edgecache.aio import AsyncStorage

__all__ = ["HttpCollector", "ObserveDoor"]

Source = Callable[[], HttpStatistics | None]
ALLOW = ("Allow", "GET, HEAD")


class HttpCollector(Collector):
    """Exports the counters of a server.

    Args:
        source: Returns them, or None while the server is not started.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        statistics = self._source()
        if statistics is None:
            return
        connections = GaugeMetricFamily("edge_cache_http_connections", "Open connections.")
        connections.add_metric([], statistics.connections)
        yield connections
        for name, text, value in (
            ("accepted", "Connections accepted.", statistics.accepted),
            ("received_bytes", "Bytes received.", statistics.bytes_received),
            ("sent_bytes", "Bytes sent.", statistics.bytes_sent),
            ("reading_pauses", "Times a socket was not read.", statistics.reading_pauses),
            ("writing_pauses", "Times an answer waited.", statistics.writing_pauses),
        ):
            counter = CounterMetricFamily(f"edge_cache_http_{name}", text)
            counter.add_metric([], value)
            yield counter
        methods = CounterMetricFamily(
            "edge_cache_http_requests", "Requests answered, by method.", labels=["method"]
        )
        for method, count in list(statistics.requests_by_method.items()):
            methods.add_metric([method.decode("ascii")], count)
        yield methods
        answers = CounterMetricFamily(
            "edge_cache_http_answers", "Answers, by status.", labels=["status"]
        )
        for status, count in list(statistics.answers_by_status.items()):
            answers.add_metric([str(status)], count)
        yield answers
        refused = CounterMetricFamily(
            "edge_cache_http_refused", "Refused or cut off, by reason.", labels=["reason"]
        )
        for reason, count in list(statistics.refused_by_reason.items()):
            refused.add_metric([reason], count)
        yield refused
        yield self._latencies(statistics)

    @staticmethod
    def _latencies(statistics: HttpStatistics) -> Metric:
        family = HistogramMetricFamily(
            "edge_cache_http_answer_seconds",
            "Time to answer, by door: of answers given at once a sample, of those that had to wait "
            "for something all.",
            labels=["door", "kind"],
        )
        latencies = statistics.latencies
        for kind, histograms in (("at_once", latencies.at_once), ("waited", latencies.waited)):
            for door, histogram in list(histograms.items()):
                buckets = cumulative_buckets(list(histogram.counts))
                family.add_metric([door, kind], buckets, histogram.sum_s)
        return family


class ObserveDoor:
    """Answers /stats, /metrics, /health, /cluster and /cluster/nodes.

    Args:
        store: Whose statistics are shown.
        tokens: Who may see them.
        source: The counters of the server.
    """

    def __init__(self, store: AsyncStorage, tokens: TokenRules, source: Source) -> None:
        self._store = store
        self._tokens = tokens
        self._source = source
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(EdgeCacheCollector(store.storage.stats))
        self._registry.register(HttpCollector(source))
        self._pages: dict[bytes, Callable[[Request], Response]] = {
            b"/stats": self._stats,
            b"/metrics": self._metrics,
            b"/health": self._health,
            b"/cluster": self._cluster,
            b"/cluster/nodes": self._nodes,
        }

    @property
    def paths(self) -> tuple[bytes, ...]:
        """What it answers."""
        return tuple(self._pages)

    def __call__(self, request: Request) -> Response:
        path = request.path_and_query[0]
        refused = self._tokens.refusal(request, path)
        if refused is not None:
            return refused
        page = self._pages.get(path)
        if page is None:
            return text_response(404, "nothing is served here")
        if request.method not in (b"GET", b"HEAD"):
            return text_response(405, "these pages are only read", (ALLOW,))
        try:
            return page(request)
        except EdgeCacheError as error:
            return text_response(503, error.message, (("Retry-After", "1"),))

    def _counts(self) -> dict[str, object]:
        """Return what the earlier blob cache's /stats had, under its names."""
        snapshot: Any = self._store.storage.stats()
        requests, memory, disk = snapshot["requests"], snapshot["memory"], snapshot["disk"]
        hits = sum(requests["hits"].values())
        asked = hits + requests["misses"]
        statistics = self._source()
        return {
            "hits": hits,
            "hits_by_tier": dict(requests["hits"]),
            "misses": requests["misses"],
            "puts": requests["puts"],
            "deletes": requests["deletes"],
            "evictions": requests["evictions"],
            "entry_count": snapshot["index"]["objects"],
            "size_bytes": memory["used_bytes"] + disk["used_bytes"],
            "capacity_bytes": memory["budget_bytes"] + disk["budget_bytes"],
            "memory_bytes": memory["used_bytes"],
            "disk_bytes": disk["used_bytes"],
            "hit_rate_percent": round(100 * hits / asked, 3) if asked else 0.0,
            "uptime_seconds": round(snapshot["engine"]["uptime_seconds"], 3),
            "http": {} if statistics is None else statistics.as_dict(),
        }

    def _stats(self, request: Request) -> Response:
        return json_response(200, self._counts())

    def _metrics(self, request: Request) -> Response:
        accept = (request.get(b"accept") or b"").decode("latin-1")
        if prefers_json(accept):
            return json_response(200, self._counts(), (("Vary", "Accept"),))
        body, content_type = render(self._registry, accept)
        return Response(200, (("Content-Type", content_type), ("Vary", "Accept")), body)

    def _health(self, request: Request) -> Response:
        report = self._store.storage.health()
        status = 503 if report.status == "failing" else 200
        return json_response(status, report.to_dict())

    def _node(self) -> dict[str, object]:
        counts = self._counts()
        names = ("entry_count", "size_bytes", "capacity_bytes", "uptime_seconds")
        return {
            "id": f"{socket.gethostname()}:{os.getpid()}",
            "state": "active",
            "is_self": True,
            **{name: counts[name] for name in names},
        }

    def _cluster(self, request: Request) -> Response:
        """Tell the truth of one node on its own: no cluster is configured."""
        counts = self._counts()
        names = ("entry_count", "size_bytes", "capacity_bytes")
        return json_response(
            200,
            {
                "mode": "standalone",
                "nodes_total": 1,
                "nodes_active": 1,
                **{name: counts[name] for name in names},
            },
        )

    def _nodes(self, request: Request) -> Response:
        return json_response(200, {"mode": "standalone", "nodes": [self._node()]})
