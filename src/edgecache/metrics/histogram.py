"""From counts per power of two to Prometheus' cumulative buckets."""

from __future__ import annotations

from collections.abc import Sequence

MICROSECONDS_PER_SECOND = 1_000_000


def bucket_bound_seconds(position: int) -> float:
    """Return the upper end of bucket `position`, 2**position us, which belongs to it."""
    return (1 << position) / MICROSECONDS_PER_SECOND


def cumulative_buckets(bucket_counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return pairs of upper bound in seconds and the count up to it; the last bound is "+Inf".

    The last count has no upper end (`LatencyHistogram`), so it only enters "+Inf".
    """
    buckets: list[tuple[str, float]] = []
    total = 0
    for position, count in enumerate(bucket_counts):
        total += count
        if position < len(bucket_counts) - 1:
            buckets.append((repr(bucket_bound_seconds(position)), float(total)))
    buckets.append(("+Inf", float(total)))
    return buckets


def quantile_seconds(bucket_counts: Sequence[int], share: float) -> float | None:
    """Return the upper end of the bucket that holds a quantile; None without any count.

    Of the last bucket, which has none, the lower one.
    """
    wanted = share * sum(bucket_counts)
    seen = 0
    for position, count in enumerate(bucket_counts):
        seen += count
        if count and seen >= wanted:
            return bucket_bound_seconds(min(position, len(bucket_counts) - 2))
    return None
