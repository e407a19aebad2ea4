"""What several processes counted, as numbers that travel and as sums."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from edgecache.http.latency import LatencyHistogram
from edgecache.http.statistics import HttpStatistics
from edgecache.proxy.servers import ServerReport
from edgecache.proxy.statistics import ProxyReport

_PLAIN = ("connections", "accepted", "reading_pauses", "writing_pauses")
_KINDS = ("at_once", "waited")
_NOW = frozenset({"background_tasks"})  # of a proxy: not counted since the start
_WORST = ("open", "half-open", "closed")


def http_numbers(statistics: HttpStatistics) -> dict[str, Any]:
    """Return the counters of a data plane as JSON takes them."""
    return {
        **{name: getattr(statistics, name) for name in _PLAIN},
        "bytes_received": statistics.bytes_received,
        "bytes_sent": statistics.bytes_sent,
        "refused": dict(statistics.refused_by_reason),
        "answers": [
            [method.decode("ascii"), status, count]
            for (method, status), count in statistics.answers.items()
        ],
        "latencies": {
            kind: {
                door: [histogram.counts, histogram.sum_s]
                for door, histogram in getattr(statistics.latencies, kind).items()
            }
            for kind in _KINDS
        },
    }


def proxy_numbers(report: ProxyReport) -> dict[str, Any]:
    """Return the statistics of a proxy as JSON takes them."""
    return dataclasses.asdict(report)


def http_sum(numbers: Iterable[dict[str, Any]]) -> HttpStatistics:
    """Return the sum of data planes."""
    total = HttpStatistics()
    for each in numbers:
        for name in _PLAIN:
            setattr(total, name, getattr(total, name) + each[name])
        total.native.bytes_received += each["bytes_received"]
        total.native.bytes_sent += each["bytes_sent"]
        total.refused_by_reason.update(each["refused"])
        for method, status, count in each["answers"]:
            key = (method.encode("ascii"), status)
            total.known_answers[key] = total.known_answers.get(key, 0) + count
        for kind in _KINDS:
            into: dict[str, LatencyHistogram] = getattr(total.latencies, kind)
            for door, (counts, sum_s) in each["latencies"][kind].items():
                histogram = into.setdefault(door, LatencyHistogram())
                histogram.counts = [a + b for a, b in zip(histogram.counts, counts, strict=True)]
                histogram.sum_s += sum_s
    return total


def gone(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return what stays of the numbers of a process that has ended: what it counted."""
    http, proxy = numbers.get("http"), numbers.get("proxy")
    left: dict[str, Any] = {}
    if http is not None:
        left["http"] = {**http, "connections": 0}
    if proxy is not None:
        left["proxy"] = {**proxy, **dict.fromkeys(_NOW, 0), "servers": {}}
    return left


def proxy_sum(numbers: Iterable[dict[str, Any]]) -> ProxyReport:
    """Return the sum of proxies; a server is as bad as the worst opinion of it."""
    counts: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    servers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for each in numbers:
        answers.update(each["answers"])
        failures.update(each["failures"])
        counts.update({name: value for name, value in each.items() if isinstance(value, int)})
        for group, found in each["servers"].items():
            for server in found:
                servers.setdefault(group, {}).setdefault(server["server"], []).append(server)
    names = [each.name for each in dataclasses.fields(ProxyReport)]
    plain = {name: counts[name] for name in names if name not in ("answers", "failures", "servers")}
    merged = {
        group: tuple(_server_sum(several) for several in found.values())
        for group, found in servers.items()
    }
    return ProxyReport(answers=dict(answers), failures=dict(failures), servers=merged, **plain)


def _server_sum(several: list[dict[str, Any]]) -> ServerReport:
    facts: dict[str, Any] = dict(several[0])
    for name, value in several[0].items():
        if isinstance(value, int) and not isinstance(value, bool):
            facts[name] = sum(each[name] for each in several)
    facts["is_up"] = all(each["is_up"] for each in several)
    facts["circuit"] = min((each["circuit"] for each in several), key=_WORST.index)
    facts["last_failure"] = next((e["last_failure"] for e in several if e["last_failure"]), "")
    return ServerReport(**facts)
