"""Walking a whole store: for purges by prefix or tag, and for the scrubber.

The maintenance lock is held for the walk alone, so that no entry moves from a region that is still
to be read to one that was. Nothing is deleted meanwhile: a delete may need room on disk that only
reclaim can make, and reclaim waits for the lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from edgecache.entry import ScrubReport

Progress = Callable[[int, int], object]


class Walkable(Protocol):
    """The part of `Core` that a walk needs."""

    @property
    def shard_count(self) -> int: ...

    @property
    def region_count(self) -> int: ...

    def walk_begin(self) -> None: ...

    def walk_end(self) -> None: ...

    def walk_memory(
        self, shard: int, prefix: bytes | None = None, tag: bytes | None = None, flag: int = 0
    ) -> list[bytes]: ...

    def walk_lower(
        self,
        prefix: bytes | None = None,
        tag: bytes | None = None,
        progress: Progress | None = None,
    ) -> list[bytes]: ...

    def scrub_lower(self, progress: Progress | None = None) -> tuple[int, int, int] | None: ...

    def walk_region(
        self, region: int, prefix: bytes | None = None, tag: bytes | None = None, flag: int = 0
    ) -> tuple[list[bytes], int, int, int]: ...


def find_keys(
    core: Walkable,
    prefix: bytes | None,
    tag: bytes | None,
    progress: Progress | None,
    flag: int = 0,
) -> set[bytes]:
    """Return the keys of all entries that have the prefix and the tag.

    Parts of objects are passed over. With a flag of the engine (`meta.py`) it is those entries that
    have it, in a store without a lower tier.

    An entry may be found in RAM and on disk, and one that moves from one to the other meanwhile is
    found in at least one of them: RAM first, because what is promoted keeps its copy on disk.
    """
    found: set[bytes] = set()

    def visit_shard(shard: int) -> None:
        found.update(core.walk_memory(shard, prefix, tag, flag))

    def visit_region(region: int) -> None:
        found.update(core.walk_region(region, prefix, tag, flag)[0])

    _walk(core, visit_shard, visit_region, progress)
    if not flag:
        found.update(core.walk_lower(prefix, tag, progress))
    return found


def scrub_regions(core: Walkable, progress: Progress | None) -> ScrubReport:
    """Verify every checksum on disk; what fails is dropped."""
    begin_s = time.monotonic()
    below = core.scrub_lower(progress)
    if below is not None:
        return ScrubReport(*below, 0, time.monotonic() - begin_s)
    sums = [0, 0, 0]

    def visit_region(region: int) -> None:
        for place, count in enumerate(core.walk_region(region)[1:]):
            sums[place] += count

    _walk(core, None, visit_region, progress)
    seconds = time.monotonic() - begin_s
    return ScrubReport(sums[0], sums[1], sums[2], core.region_count, seconds)


def _walk(
    core: Walkable,
    visit_shard: Callable[[int], None] | None,
    visit_region: Callable[[int], None],
    progress: Progress | None,
) -> None:
    shard_count = core.shard_count if visit_shard is not None else 0
    total = shard_count + core.region_count
    core.walk_begin()
    try:
        for number in range(total):
            if visit_shard is not None and number < shard_count:
                visit_shard(number)
            else:
                visit_region(number - shard_count)
            if progress is not None:
                progress(number + 1, total)
    finally:
        core.walk_end()
