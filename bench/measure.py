"""Measuring: interleaved rounds, wall and CPU clocks, child processes, cold files.

Rules that every workload follows:

1. Two sides are measured in the same run, alternately; each round changes who goes first, so a
   drift of the machine falls on both.
2. A ratio is computed per round and its median reported, with the least and the greatest.
3. CPU is user plus system time of all threads of the process (getrusage), so background flushing
   is counted.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One measurement of one side."""

    operations: int
    wall_s: float
    cpu_s: float
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def wall_us(self) -> float:
        return 1e6 * self.wall_s / self.operations

    @property
    def cpu_us(self) -> float:
        return 1e6 * self.cpu_s / self.operations

    @property
    def rate(self) -> float:
        return self.operations / self.wall_s


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values:
            raise ValueError("no values")
        return cls(statistics.median(values), min(values), max(values))


def cpu_seconds() -> float:
    """CPU time of this process so far, all threads, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Stopwatch:
    """Wall and CPU time of a `with` block; the collector of cycles rests meanwhile."""

    wall_s = 0.0
    cpu_s = 0.0

    def __enter__(self) -> Stopwatch:
        self._collects = gc.isenabled()
        gc.disable()
        self._cpu = cpu_seconds()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter() - self._wall
        self.cpu_s += cpu_seconds() - self._cpu
        if self._collects:
            gc.enable()

    def sample(self, operations: int, **extra: float) -> Sample:
        return Sample(operations, self.wall_s, self.cpu_s, extra)


Side = Callable[[int], Sample]


def interleave(sides: Mapping[str, Side], repeat: int) -> dict[str, list[Sample]]:
    """Measure all sides `repeat` times, each round starting with another one.

    Args:
        sides: Name to a function of the round's number.
    """
    names = list(sides)
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(repeat):
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            found[name].append(sides[name](number))
    return found


REPOSITORY = Path(__file__).resolve().parents[1]


def child_environment() -> dict[str, str]:
    """Environment in which a child finds the same packages, wherever it is started."""
    places = [str(REPOSITORY), *(place for place in sys.path if place)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


class ChildError(RuntimeError):
    """A measuring child process ended badly; the message holds what it wrote."""


def in_child(target: str, timeout_s: float = 600, **arguments: Any) -> Any:
    """Call `target` ("module:function") in a new process; its JSON result.

    A new process has cold caches, an RSS of its own, and no threads left over from a peer.
    """
    command = [sys.executable, "-m", "bench.child", target, json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False,
        env=child_environment(),
    )  # fmt: skip
    if done.returncode != 0 or not done.stdout.strip():
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise ChildError(f"{target} ended with status {done.returncode}: {tail}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def sample_in_child(target: str, **arguments: Any) -> Sample:
    """As `in_child`, for functions that return a `Sample`."""
    return Sample(**in_child(target, **arguments))


def resolve(target: str) -> Callable[..., Any]:
    """Return the function that "module:function" names; only modules of the bench."""
    module, _, name = target.partition(":")
    if not module.startswith("bench."):
        raise ValueError(f"{target!r} is not part of the bench")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (item for item in sorted(path.rglob("*")) if item.is_file())


def make_cold(path: Path) -> None:
    """Drop the page cache of all files below `path`.

    Dirty pages are written first; pages that a process has mapped stay, so call it before opening.
    """
    for item in files_below(path):
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def allocated_bytes(path: Path) -> int:
    """Bytes that the file system gave to the files below `path`."""
    return sum(item.stat().st_blocks * 512 for item in files_below(path))


def device_bytes() -> tuple[int, int]:
    """Bytes that this process made the device read and write so far (proc(5), /proc/pid/io)."""
    fields = dict(
        line.split(": ") for line in Path("/proc/self/io").read_text("ascii").splitlines()
    )
    return int(fields["read_bytes"]), int(fields["write_bytes"])


def resident_bytes() -> int:
    """Resident set of this process now."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def context_switches() -> int:
    """Voluntary context switches of all threads of this process: times one slept and woke."""
    total = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text("ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


@contextmanager
def scratch(prefix: str, directory: Path | None = None) -> Iterator[Path]:
    """Give a temporary directory that is removed however the block ends."""
    path = Path(tempfile.mkdtemp(prefix=f"edgecache-{prefix}-", dir=directory)).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
