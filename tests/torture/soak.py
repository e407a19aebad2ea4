"""soak: mixed load at capacity; memory, descriptors, threads and latency stay flat.

Compared are the middle and the last third of the run, the first is for warming up. An injection is
a second.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from support.model import MIB, any_size, make_value

from edgecache import Config, Storage
from torture.campaign import Row, Run

THREADS = 4
KEYS = 20_000
SAMPLE_S = 0.25
# Allocators keep what they once had: a leak shows over minutes, not over seconds.
GROWTH_SHARE, GROWTH_BYTES = 0.02, 4 * MIB
LATENCY_RATIO = 3.0
JUDGE_LATENCY_S = 300
WARM_S = 60


@dataclass
class Sample:
    rss_bytes: int
    descriptors: int
    threads: int
    latency_us: float


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def sample(latencies_us: list[float]) -> Sample:
    middle = statistics.median(latencies_us) if latencies_us else 0.0
    return Sample(
        resident_bytes(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")),
        middle,
    )  # fmt: skip


class Load:
    """Threads that put, get and delete, and check what they get."""

    def __init__(self, store: Storage, seed: int) -> None:
        self.store, self.seed = store, seed
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self.latencies_us: list[float] = []
        self.operations = [0] * THREADS

    def step(self, rng: random.Random, number: int) -> None:
        # Skewed, so that there are hits: the square of an even draw.
        key = b"key-%d" % int(KEYS * rng.random() ** 2)
        kind = rng.random()
        if kind < 0.7:
            begin = time.perf_counter()
            found = self.store.get(key)
            if number % 16 == 0:
                self.latencies_us.append((time.perf_counter() - begin) * 1e6)
            if found is None:
                self.store.put(key, make_value(key, number, any_size(rng, large=False)))
            elif not found.startswith(key[: len(found)]):
                self.wrong.append(f"{key!r} returned {found[:40]!r}")
                self.stop.set()
        elif kind < 0.9:
            self.store.put(key, make_value(key, number, any_size(rng)), ttl=rng.choice((None, 5)))
        elif kind < 0.98:
            self.store.delete(key)
        elif kind < 0.999:
            self.store.get_many([b"key-%d" % rng.randrange(KEYS) for _ in range(32)])
        elif kind < 0.9995:
            self.store.sync()
        else:
            self.store.stats()

    def run(self, thread: int) -> None:
        rng = random.Random(f"{self.seed}/{thread}")
        try:
            while not self.stop.is_set():
                self.operations[thread] += 1
                self.step(rng, self.operations[thread])
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.stop.set()


def gather(run: Run, load: Load) -> list[Sample]:
    """One sample each second, until the time is over or something is wrong."""
    samples = []
    for _ in range(run.count):
        if load.stop.wait(1.0):
            break
        latencies_us, load.latencies_us = load.latencies_us, []
        samples.append(sample(latencies_us))
        run.done()
    return samples


def judge(run: Run, samples: list[Sample]) -> str:
    third = len(samples) // 3
    if third == 0:
        return f"{len(samples)} s are too short to compare"
    middle, last = samples[third : 2 * third], samples[2 * third :]
    rss = [statistics.median(s.rss_bytes for s in part) for part in (middle, last)]
    latency = [statistics.median(s.latency_us for s in part) for part in (middle, last)]
    descriptors = [max(s.descriptors for s in part) for part in (middle, last)]
    tasks = [max(s.threads for s in part) for part in (middle, last)]
    if rss[1] > rss[0] * (1 + GROWTH_SHARE) + GROWTH_BYTES:
        run.violation(run.first, f"RSS grew from {rss[0]:,.0f} to {rss[1]:,.0f} bytes")
    # Channels are opened and threads of the thread engine started as they are needed, and kept.
    if len(samples) >= WARM_S and descriptors[1] > descriptors[0]:
        run.violation(run.first, f"descriptors grew from {descriptors[0]} to {descriptors[1]}")
    if len(samples) >= WARM_S and tasks[1] > tasks[0]:
        run.violation(run.first, f"threads grew from {tasks[0]} to {tasks[1]}")
    if len(samples) >= JUDGE_LATENCY_S and latency[1] > latency[0] * LATENCY_RATIO:
        run.violation(run.first, f"median get grew from {latency[0]:.2f} to {latency[1]:.2f} us")
    growth = (rss[1] / rss[0] - 1) * 100
    run.outcome.facts.update(rss_bytes=rss, latency_us=latency, descriptors=descriptors)
    return (f"RSS {rss[1] / MIB:.0f} MiB {growth:+.2f} %, {descriptors[1]} descriptors, "
            f"median get {latency[0]:.1f} -> {latency[1]:.1f} us")  # fmt: skip


def soak(run: Run) -> str:
    with run.scratch() as directory:
        config = Config(root=str(directory / "root"), memory=16 * MIB, disk=64 * MIB,
                        region_size=2 * MIB, checkpoint_interval=2)  # fmt: skip
        with Storage(config) as store:
            load = Load(store, run.seed)
            threads = [threading.Thread(target=load.run, args=(n,)) for n in range(THREADS)]
            for thread in threads:
                thread.start()
            samples = gather(run, load)
            load.stop.set()
            for thread in threads:
                thread.join()
            if store.check():
                run.violation(run.first, f"broken structures: {store.check()}")
            reclaimed = store.counters()["reclaimed_regions"]
    for wrong in load.wrong[:5]:
        run.violation(run.first, wrong)
    figure = judge(run, samples)
    return f"{sum(load.operations):,} operations, {reclaimed} regions reclaimed; {figure}"


ROW = Row(
    "soak",
    "mixed load at capacity, in seconds",
    "flat resident memory, descriptors, threads and latency",
    short=30,
    long=1800,
    run=soak,
)
