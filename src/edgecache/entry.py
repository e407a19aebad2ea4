"""What the Python face hands out besides plain values: entries and the report of a scrub."""

from __future__ import annotations

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
