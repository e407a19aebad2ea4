"""How long answers take, by door, at no cost for hits.

An answer that a handler gave at once is timed by sample: the wire looks at the clock around one
read of a socket in `SAMPLE_READS` (not with TLS, whose sockets are the loop's). An answer that had
to wait for something (the disk, an origin, the content of the request, a slow client) is timed
always: two looks at the clock are nothing beside it.

Buckets are powers of two of a microsecond, as those of the engine (`metrics.histogram`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgecache.metrics.histogram import quantile_seconds

__all__ = ["BUCKET_COUNT", "SAMPLE_READS", "Latencies", "LatencyHistogram"]

BUCKET_COUNT = 28
"""2**0 to 2**26 us (67 s), and one without an end."""
SAMPLE_READS = 61
"""Of so many reads of sockets one is timed (WIRE_SAMPLE_READS of `_wire.pxd`)."""
_OTHER = "other"


@dataclass(slots=True)
class LatencyHistogram:
    """Counts by bucket; bucket `n` ends at 2**n us, which belongs to it.

    Args:
        counts: By bucket.
        sum_s: Of all.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BUCKET_COUNT)
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one answer."""
        microseconds = int(seconds * 1_000_000)
        place = max(0, microseconds - 1).bit_length()
        self.counts[min(place, BUCKET_COUNT - 1)] += 1
        self.sum_s += seconds


class Latencies:
    """The histograms of one server.

    Args:
        doors: (prefix of the path, name); the longest prefix that fits counts, "other" without one.

    *Thread-safety*: written by one loop; read by anybody.
    """

    __slots__ = ("_doors", "at_once", "waited")

    def __init__(self, doors: Iterable[tuple[bytes, str]] = ()) -> None:
        self.at_once: dict[str, LatencyHistogram] = {}
        self.waited: dict[str, LatencyHistogram] = {}
        self._doors: list[tuple[bytes, str]] = []
        self.name_doors(doors)

    def name_doors(self, doors: Iterable[tuple[bytes, str]]) -> None:
        """Set the names; what was counted stays."""
        self._doors = sorted(doors, key=lambda door: -len(door[0]))

    def door_of(self, target: bytes) -> str:
        """Return the name of the door that a target leads to."""
        for prefix, name in self._doors:
            if target.startswith(prefix):
                return name
        return _OTHER

    def add_waited(self, target: bytes, seconds: float) -> None:
        """Count an answer that took its time."""
        _add(self.waited, self.door_of(target), seconds)

    def add_sample(self, first: bytes, seconds: float) -> None:
        """Count an answer that was given at once.

        Args:
            first: The beginning of the request, or of several.
            seconds: From the read of the socket to the send.
        """
        _add(self.at_once, self.door_of(first.partition(b" ")[2]), seconds)

    def as_dict(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return counts and quantiles by door and kind, "at_once" and "waited".

        Each counted answer of a kind stands for about `weight` answers.
        """
        found: dict[str, dict[str, dict[str, object]]] = {}
        kinds = (("at_once", self.at_once, SAMPLE_READS), ("waited", self.waited, 1))
        for kind, histograms, weight in kinds:
            for door, histogram in list(histograms.items()):
                counts = list(histogram.counts)
                found.setdefault(door, {})[kind] = {
                    "counts": counts,
                    "weight": weight,
                    "sum_seconds": histogram.sum_s,
                    "p50_seconds": quantile_seconds(counts, 0.5),
                    "p90_seconds": quantile_seconds(counts, 0.9),
                    "p99_seconds": quantile_seconds(counts, 0.99),
                }
        return found


def _add(histograms: dict[str, LatencyHistogram], door: str, seconds: float) -> None:
    histogram = histograms.get(door)
    if histogram is None:
        histogram = histograms[door] = LatencyHistogram()
    histogram.add(seconds)
