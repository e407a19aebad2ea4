"""How long answers take, by door (http/latency.py)."""

from __future__ import annotations

import pytest

from edgecache.cli.views import _latencies
from edgecache.http.latency import BUCKET_COUNT, SAMPLE_READS, Latencies, LatencyHistogram
from edgecache.metrics.histogram import bucket_bound_seconds, quantile_seconds


@pytest.mark.parametrize(
    ("microseconds", "bucket"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11), (10**12, 27)],
)
def test_a_bucket_ends_at_a_power_of_two_that_belongs_to_it(microseconds: int, bucket: int) -> None:
    histogram = LatencyHistogram()
    histogram.add(microseconds / 1e6)
    assert histogram.counts.index(1) == bucket
    if bucket < BUCKET_COUNT - 1:
        assert microseconds / 1e6 <= bucket_bound_seconds(bucket)


def test_quantiles_are_upper_ends_of_buckets() -> None:
    counts = [0] * BUCKET_COUNT
    assert quantile_seconds(counts, 0.5) is None
    counts[3], counts[7] = 90, 10
    assert quantile_seconds(counts, 0.5) == 8e-6
    assert quantile_seconds(counts, 0.9) == 8e-6
    assert quantile_seconds(counts, 0.91) == 128e-6
    assert quantile_seconds(counts, 1.0) == 128e-6
    counts = [0] * (BUCKET_COUNT - 1) + [1]
    assert quantile_seconds(counts, 0.5) == bucket_bound_seconds(BUCKET_COUNT - 2)


def test_the_longest_prefix_names_the_door() -> None:
    latencies = Latencies([(b"/", "proxy"), (b"/cache/", "cache")])
    latencies.add_sample(b"GET /cache/a HTTP/1.1\r\nHost:", 0.001)
    latencies.add_sample(b"GET /cachet HTTP/1.1\r\n", 0.001)
    latencies.add_sample(b"OPTIONS * HTTP/1.1\r\n", 0.001)
    latencies.add_waited(b"/x", 0.5)
    found = latencies.as_dict()
    assert {door: sorted(kinds) for door, kinds in found.items()} == {
        "cache": ["at_once"], "proxy": ["at_once", "waited"], "other": ["at_once"],
    }  # fmt: skip
    assert found["proxy"]["waited"]["p50_seconds"] == 2**19 / 1e6
    assert found["cache"]["at_once"]["weight"] == SAMPLE_READS


def test_top_shows_what_changed_only() -> None:
    latencies = Latencies([(b"/", "proxy")])
    latencies.add_waited(b"/x", 30.0)
    before = {"latencies": latencies.as_dict()}
    assert _latencies(before, before, 1.0) is None
    latencies.add_waited(b"/x", 0.001)
    table = _latencies(before, {"latencies": latencies.as_dict()}, 2.0)
    assert table is not None
    assert [list(column.cells) for column in table.columns] == [
        ["proxy"], ["waited"], ["0"], ["<= 1.02 ms"], ["<= 1.02 ms"], ["<= 1.02 ms"],
    ]  # fmt: skip
