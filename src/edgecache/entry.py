"""What the Python face hands out besides plain values: entries and the report of a scrub."""

from __future__ import annotations

import enum
import time
from typing import NamedTuple

from edgecache.meta import Meta


class Entry(NamedTuple):
    """A value and what is known about it, whether fresh or stale.

    Args:
        value: The bytes.
        meta: None for an entry that was put without tags and meta.
    """

    value: bytes
    meta: Meta | None

    @property
    def is_fresh(self) -> bool:
        """Whether `get` would return it."""
        return self.meta is None or self.meta.is_fresh(time.time_ns() // 1000)


class ScrubReport(NamedTuple):
    """What `scrub` read.

    Args:
        entries: Live entries on disk whose checksums were verified.
        bytes: Their size on disk.
        corrupt: Entries that failed and are gone now; a `get` of them misses.
        regions: Regions read.
        seconds: How long it took.
    """

    entries: int
    bytes: int
    corrupt: int
    regions: int
    seconds: float


class PurgeType(enum.Enum):
    """Why an object goes; each is counted for itself."""

    EVICTION = "eviction"
    INVALIDATION = "invalidation"


class Availability(NamedTuple):
    """Which bytes of an object are there; every range is (start, end), the end exclusive.

    Args:
        size: Bytes of the whole object.
        ranges: What is there, ascending, never adjacent.
        missing: The rest.
        is_finalized: Whether it is published; if not, only `read_range` shows it.
    """

    size: int
    ranges: tuple[tuple[int, int], ...]
    missing: tuple[tuple[int, int], ...]
    is_finalized: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def present_bytes(self) -> int:
        """Bytes that are there."""
        return sum(end - start for start, end in self.ranges)

    @property
    def percent(self) -> float:
        """Bytes that are there, of a hundred; 100.0 for an empty object."""
        return 100.0 * self.present_bytes / self.size if self.size else 100.0
