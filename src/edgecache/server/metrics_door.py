"""The metrics listener, and the metrics of the data plane itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgecache.api.application import render_metrics
from edgecache.http.response import Response, text_response

if TYPE_CHECKING:
    from edgecache.api import Control
    from edgecache.http.request import Request
    from edgecache.proxy import ProxyReport

PREFIX = "edge_cache_proxy"


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
        return Response(200, [("Content-Type", content_type), ("Vary", "Accept")], body)


class ProxyCollector(Collector):
    """Export the counters of the proxy.

    Args:
        source: Returns its report, or None while there is no proxy.
    """

    def __init__(self, source: Callable[[], ProxyReport | None]) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        report = self._source()
        if report is None:
            return
        answers = CounterMetricFamily(
            f"{PREFIX}_answers", "Answers of the proxy, by X-Cache-Status.", labels=["status"]
        )
        for word, count in report.answers.items():
            answers.add_metric([word], count)
        yield answers
        for name, text, value in (
            ("fetches", "Requests sent to origins.", report.fetches),
            ("collapsed", "Requests answered by another's fetch.", report.collapsed),
            ("released", "Requests that waited for an uncacheable answer.", report.released),
            ("wait_timeouts", "Requests that waited for too long.", report.wait_timeouts),
            ("predicted", "Requests of keys known as uncacheable.", report.predicted_uncacheable),
            ("refreshes", "Background refreshes.", report.refreshes),
            ("purged", "Responses purged.", report.purged),
            ("invalidated", "Responses removed by unsafe requests.", report.invalidated),
        ):
            yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
        failures = CounterMetricFamily(
            f"{PREFIX}_failures", "Failed exchanges with origins.", labels=["reason"]
        )
        for reason, count in report.failures.items():
            failures.add_metric([reason], count)
        yield failures
        yield GaugeMetricFamily(
            f"{PREFIX}_background_tasks", "Fills and refreshes under way.", report.background_tasks
        )
        yield from self._servers(report)

    def _servers(self, report: ProxyReport) -> Iterator[Metric]:
        labels = ["upstream", "server"]
        up = GaugeMetricFamily(f"{PREFIX}_server_up", "1: takes requests.", labels=labels)
        busy = GaugeMetricFamily(
            f"{PREFIX}_server_connections", "Open connections to a server.", labels=labels
        )
        for name, servers in report.servers.items():
            for each in servers:
                is_up = each.is_up and each.circuit != "open"
                up.add_metric([name, each.server], int(is_up))
                busy.add_metric([name, each.server], each.open_connections)
        yield up
        yield busy
