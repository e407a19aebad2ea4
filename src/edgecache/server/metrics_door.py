"""The metrics listener, and the metrics of the data plane itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgecache.api.application import render_metrics
from edgecache.http.response import Response, text_response

if TYPE_CHECKING:
    from edgecache.api import Control
    from edgecache.http.request import Request
    from edgecache.http.server import HttpServer

PREFIX = "edge_cache_http"


class MetricsDoor:
    """Answer GET and HEAD of /metrics."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def __call__(self, request: Request) -> Response:
        if request.path_and_query[0] not in (b"/metrics", b"/"):
            return text_response(404, "metrics are at /metrics")
        if request.method not in (b"GET", b"HEAD"):
            return text_response(405, "use GET", [("Allow", "GET, HEAD")])
        accept = (request.get(b"accept") or b"").decode("latin-1")
        body, content_type = render_metrics(self._control, accept)
        return Response(200, [("Content-Type", content_type)], body)


class ServerCollector(Collector):
    """Export the counters of an `HttpServer`; they are read when somebody scrapes."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        numbers = self._server.statistics
        yield GaugeMetricFamily(
            f"{PREFIX}_connections", "Open client connections.", value=numbers.connections
        )
        for name, text, value in (
            ("accepted", "Client connections accepted.", numbers.accepted),
            ("received_bytes", "Bytes read from clients.", numbers.bytes_received),
            ("sent_bytes", "Bytes written to clients.", numbers.bytes_sent),
            ("reading_pauses", "Times a client was not read.", numbers.reading_pauses),
            ("writing_pauses", "Times an answer waited for its client.", numbers.writing_pauses),
        ):
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        methods = CounterMetricFamily(f"{PREFIX}_requests", "Requests answered.", labels=["method"])
        for method, count in list(numbers.requests_by_method.items()):
            methods.add_metric([method.decode("ascii")], count)
        yield methods
        statuses = CounterMetricFamily(f"{PREFIX}_answers", "Answers.", labels=["status"])
        for status, count in list(numbers.answers_by_status.items()):
            statuses.add_metric([str(status)], count)
        yield statuses
        refused = CounterMetricFamily(
            f"{PREFIX}_refused", "Requests and connections refused or cut off.", labels=["reason"]
        )
        for reason, count in list(numbers.refused_by_reason.items()):
            refused.add_metric([reason], count)
        yield refused
