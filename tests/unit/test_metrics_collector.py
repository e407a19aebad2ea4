"""The exported metrics: names, values, labels, and their agreement with schema and guide."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edgecache.metrics import EdgeCacheCollector, StatsSnapshot, check_snapshot, empty_snapshot
from edgecache.metrics.histogram import bucket_bound_seconds, cumulative_buckets
from edgecache.metrics.names import METRICS, UP
from edgecache.metrics.schema import LATENCY_BUCKET_COUNT, LatencyHistogram

# Every place of a snapshot that is a word, not a number, and so part of the info metric only.
WORDS = {f"engine.{key}" for metric in METRICS for key in metric.info_keys}
# Source: the metrics of the earlier edge-cdn-store.
INHERITED = {
    "edge_cache_hits_total", "edge_cache_misses_total", "edge_cache_evictions_total",
    "edge_cache_invalidations_total", "edge_cache_stream_attach_total",
    "edge_cache_stream_attach_miss_total", "edge_cache_demotions_total", "edge_cache_keys",
    "edge_cache_partial_writes", "edge_cache_disk_bytes", "edge_cache_atomic_publish_enabled",
    "edge_cache_io_uring_enabled", "edge_cache_disk_write_seconds", "edge_cache_disk_read_seconds",
}  # fmt: skip


def leaves(kind: Any = StatsSnapshot, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in get_type_hints(kind).items():
        if is_typeddict(inner) and inner is not LatencyHistogram:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield path + name, inner


def place(snapshot: Any, path: str) -> tuple[Any, str]:
    *parents, last = path.split(".")
    for parent in parents:
        snapshot = snapshot[parent]
    return snapshot, last


def numbered_snapshot() -> tuple[StatsSnapshot, dict[str, int]]:
    """A snapshot with a different number in every place, and those numbers by path."""
    snapshot = empty_snapshot()
    numbers: dict[str, int] = {}
    for number, (path, kind) in enumerate(leaves(), 1001):
        parent, last = place(snapshot, path)
        numbers[path] = number
        if kind is LatencyHistogram:
            counts = [0] * LATENCY_BUCKET_COUNT
            counts[3] = number
            parent[last] = {"bucket_counts": counts, "sum_us": number * 12}
        elif get_origin(kind) is dict:
            parent[last] = {"first": number, "second": number + 5000}
        elif kind is bool:
            parent[last] = bool(number % 2)
            numbers[path] = number % 2
        elif kind is str:
            parent[last] = f"word {number}"
        else:
            parent[last] = kind(number)
    return snapshot, numbers


def scrape(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples as a scraper parses them from the text format."""
    samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} is exported twice"
            samples[key] = sample.value
    return samples


def scrape_one(snapshot: StatsSnapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(EdgeCacheCollector(lambda: snapshot))
    return scrape(registry)


def test_every_place_of_the_table_is_in_the_schema() -> None:
    known = dict(leaves())
    for metric in METRICS:
        if metric.kind == "info":
            assert {f"{metric.path}.{key}" for key in metric.info_keys} <= known.keys()
            continue
        kind = known[metric.path]
        assert (kind is LatencyHistogram) == (metric.kind == "histogram")
        is_mapping = bool(metric.label and not metric.label_value)
        assert (get_origin(kind) is dict) == is_mapping
        assert kind is not str


def test_every_number_of_the_schema_is_exported_exactly_once() -> None:
    paths = [metric.path for metric in METRICS if metric.kind != "info"]
    assert len(paths) == len(set(paths))
    assert {path for path, _ in leaves()} == set(paths) | WORDS


def test_names_follow_the_conventions_and_agree_in_kind_help_and_label() -> None:
    seen: dict[str, tuple[str, str, str]] = {}
    for metric in (*METRICS, UP):
        assert metric.name.startswith("edge_cache_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith(("_us", "_ms"))
        assert metric.help.endswith(".")
        same = (metric.kind, metric.help, metric.label)
        assert seen.setdefault(metric.name, same) == same
    assert seen.keys() >= INHERITED


def test_every_value_arrives_under_its_name_and_labels() -> None:
    snapshot, numbers = numbered_snapshot()
    samples = scrape_one(snapshot)
    expected = 1  # edge_cache_up
    assert samples[UP.name, frozenset()] == 1
    for metric in METRICS:
        if metric.kind == "info":
            engine: dict[str, Any] = dict(snapshot["engine"])
            words = {key: engine[key] for key in metric.info_keys}
            assert samples[metric.name, frozenset(words.items())] == 1
            expected += 1
        elif metric.kind == "histogram":
            number = numbers[metric.path]
            assert samples[metric.name + "_count", frozenset()] == number
            assert samples[metric.name + "_sum", frozenset()] == pytest.approx(number * 12e-6)
            below = frozenset({("le", repr(4e-6))})
            above = frozenset({("le", repr(8e-6))})
            assert samples[metric.name + "_bucket", below] == 0
            assert samples[metric.name + "_bucket", above] == number
            expected += LATENCY_BUCKET_COUNT + 2
        elif metric.label and not metric.label_value:
            for word, more in (("first", 0), ("second", 5000)):
                label = frozenset({(metric.label, word)})
                assert samples[metric.name, label] == numbers[metric.path] + more
                expected += 1
        else:
            label = frozenset({(metric.label, metric.label_value)} if metric.label else ())
            number = numbers[metric.path] * metric.scale
            assert samples[metric.name, label] == pytest.approx(number)
            expected += 1
    assert len(samples) == expected


def test_the_inherited_names_are_there_before_anything_happened() -> None:
    names = {name.removesuffix("_count") for name, _ in scrape_one(empty_snapshot())}
    assert names >= INHERITED


def test_a_scrape_takes_one_snapshot_and_registering_none() -> None:
    calls = []

    def snapshot() -> StatsSnapshot:
        calls.append(1)
        return empty_snapshot()

    registry = CollectorRegistry(auto_describe=True)
    registry.register(EdgeCacheCollector(snapshot))
    assert not calls
    generate_latest(registry)
    assert len(calls) == 1


def test_a_second_collector_on_one_registry_is_refused() -> None:
    registry = CollectorRegistry()
    registry.register(EdgeCacheCollector(empty_snapshot))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(EdgeCacheCollector(empty_snapshot))


def test_several_stores_are_told_apart_by_their_labels() -> None:
    first, second = empty_snapshot(), empty_snapshot()
    first["requests"]["misses"] = 1
    second["requests"]["misses"] = 2
    collector = EdgeCacheCollector(lambda: first, labels={"store": "a"})
    collector.add_store(lambda: second, labels={"store": "b"})
    registry = CollectorRegistry()
    registry.register(collector)
    samples = scrape(registry)
    assert samples["edge_cache_misses_total", frozenset({("store", "a")})] == 1
    assert samples["edge_cache_misses_total", frozenset({("store", "b")})] == 2
    assert samples["edge_cache_hits_total", frozenset({("store", "b"), ("tier", "disk")})] == 0


@pytest.mark.parametrize("labels", [None, {"other": "b"}, {"store": "a"}])
def test_stores_that_labels_do_not_tell_apart_are_refused(labels: dict[str, str] | None) -> None:
    collector = EdgeCacheCollector(empty_snapshot, labels={"store": "a"})
    with pytest.raises(ValueError, match="labels"):
        collector.add_store(empty_snapshot, labels=labels)


@pytest.mark.parametrize("name", ["tier", "reason", "le", "version", "io", "__x", "a-b", "", "1a"])
def test_a_label_that_is_taken_or_malformed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="label"):
        EdgeCacheCollector(empty_snapshot, labels={name: "x"})


@pytest.mark.parametrize("kind", ["raises", "misses a section"])
def test_a_failing_store_is_down_and_hides_no_other(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> dict[str, Any]:
        if kind == "raises":
            raise RuntimeError("closed")
        return {}

    collector = EdgeCacheCollector(broken, labels={"store": "broken"})
    collector.add_store(empty_snapshot, labels={"store": "whole"})
    registry = CollectorRegistry()
    registry.register(collector)
    samples = scrape(registry)
    assert samples[UP.name, frozenset({("store", "broken")})] == 0
    assert samples[UP.name, frozenset({("store", "whole")})] == 1
    assert ("edge_cache_keys", frozenset({("store", "whole")})) in samples
    assert "broken" in caplog.text


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=64))
def test_buckets_are_cumulative_end_at_infinity_and_lose_nothing(counts: list[int]) -> None:
    buckets = cumulative_buckets(counts)
    assert buckets[-1] == ("+Inf", sum(counts))
    assert len(buckets) == len(counts)
    values = [value for _, value in buckets]
    assert values == sorted(values)
    for position, (bound, value) in enumerate(buckets[:-1]):
        assert value == sum(counts[: position + 1])
        assert float(bound) == bucket_bound_seconds(position)


def test_bounds_double_from_one_microsecond() -> None:
    bounds = [bound for bound, _ in cumulative_buckets([0] * LATENCY_BUCKET_COUNT)]
    assert [float(bound) for bound in bounds[:4]] == [1e-6, 2e-6, 4e-6, 8e-6]
    assert bounds[-2:] == ["4.194304", "+Inf"]


def test_empty_and_numbered_snapshots_pass_the_check() -> None:
    assert check_snapshot(empty_snapshot()) == []
    assert check_snapshot(numbered_snapshot()[0]) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("memory.items", None, "memory.items: NoneType, not int"),
        ("memory.items", True, "memory.items: bool, not int"),
        ("memory.items", -1, "memory.items: negative"),
        ("memory.more", 1, "memory.more: unknown"),
        ("disk", 7, "disk: not a mapping"),
        ("disk.is_read_only", 0, "disk.is_read_only: int, not bool"),
        ("requests.shed", [], "requests.shed: not a mapping"),
        ("requests.shed", {"full": "x"}, "requests.shed.full: str, not int"),
        ("io.read_latency", {"sum_us": 1}, "io.read_latency.bucket_counts: missing"),
        ("io.read_latency.bucket_counts", 1, "io.read_latency.bucket_counts: not a list"),
        ("io.read_latency.bucket_counts", [1, -1], "io.read_latency.bucket_counts[1]: negative"),
    ],
)
def test_the_check_finds_what_is_wrong(path: str, value: Any, problem: str) -> None:
    snapshot = empty_snapshot()
    parent, last = place(snapshot, path)
    parent[last] = value
    assert [found.replace(".:", ":") for found in check_snapshot(snapshot)] == [problem]


def test_importing_the_package_does_not_import_prometheus() -> None:
    script = "import sys, edgecache.metrics; print('prometheus_client' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_the_guide_lists_every_metric_with_its_source() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    listed = []
    for line in guide.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[0].startswith("edge_cache_"):
            listed.append(tuple(cells))
    expected = []
    for metric in (UP, *METRICS):
        label = metric.label + (f'="{metric.label_value}"' if metric.label_value else "")
        if metric.kind == "info":
            label = ", ".join(metric.info_keys)
        expected.append((metric.name, metric.kind, label, metric.path, metric.help))
    assert listed == expected
