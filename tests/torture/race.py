"""race: eight threads on one store; every answer fits the begin and end times of its key's changes.

A lock per key orders its changes; reads take none. A read may return a value whose change began
before the read ended, unless a newer change had ended before the read began. So nothing is torn,
invented, older than what was there, or back after an acknowledged delete. An operation is one key
read or changed. Source: the value history of CacheLib's cachebench.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from support.model import KIB, MIB, any_size, make_value, options

from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk
from torture.campaign import Row, Run

THREADS = 8
KEYS = 48
KEPT = 64
BATCH = 200
ENGINES = ("memory", "uring", "threads")
ENDLESS = float("inf")
SILENCE_S = 120.0


class History:
    """The newest changes of one key in order: [begin, end, value]; endless while it runs."""

    __slots__ = ("changes", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changes: list[list[Any]] = [[-1.0, -1.0, None]]

    def allows(self, begin: float, end: float, found: bytes | None) -> bool:
        """May a read between these times have returned this? A miss always: it is a cache."""
        if found is None:
            return True
        changes = self.changes
        for index in range(len(changes) - 1, -1, -1):
            change = changes[index]
            if change[2] == found and change[0] <= end:
                return True
            if change[1] < begin:
                return False  # it had ended, so whatever is older was gone
        return False

    def change(self, core: Core, key: bytes, number: int, rng: random.Random) -> None:
        value = None
        if rng.random() > 0.2:
            value = make_value(key, number, any_size(rng, large=False))
        with self.lock:
            before = self.changes[-1][2]
            entry = [time.monotonic(), ENDLESS, value]
            if len(self.changes) > KEPT:
                # A new list: readers may be walking along the old one.
                self.changes = [*self.changes[-KEPT // 2 :], entry]
            else:
                self.changes.append(entry)
            if value is None:
                core.delete(key)
            elif not core.put(key, value):
                # Shed: the value before it may have stayed.
                self.changes.append([entry[0], ENDLESS, before])
                return
            entry[1] = time.monotonic()


class Work:
    """What all threads share."""

    def __init__(self, core: Core, wanted: int) -> None:
        self.core = core
        self.histories = {b"key-%d" % number: History() for number in range(KEYS)}
        self.keys = sorted(self.histories)
        self.wanted = wanted
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self.lock = threading.Lock()
        self.operations = self.hits = 0

    def judge(self, begin: float, end: float, key: bytes, found: bytes | None) -> None:
        if not self.histories[key].allows(begin, end, found):
            shown = self.histories[key].changes[-3:]
            self.wrong.append(f"{key!r}: {found and found[:40]!r} at {begin}, after {shown!r:.300}")
            self.stop.set()

    def read(self, key: bytes) -> bool:
        begin = time.monotonic()
        found = self.core.get(key)
        self.judge(begin, time.monotonic(), key, found)
        return found is not None

    def read_all(self) -> int:
        begin = time.monotonic()
        found = self.core.get_many(self.keys)
        end = time.monotonic()
        for key, value in zip(self.keys, found, strict=True):
            self.judge(begin, end, key, value)
        return KEYS - found.count(None)

    def step(self, rng: random.Random, number: int) -> tuple[int, int]:
        """(operations, hits) of one random step."""
        key = self.keys[int(rng.random() * KEYS)]
        kind = rng.random()
        if kind < 0.3:
            self.histories[key].change(self.core, key, number, rng)
        elif kind < 0.93:
            return 1, self.read(key)
        elif kind < 0.98:
            return KEYS, self.read_all()
        elif kind < 0.998:
            self.core.put(b"churn-%d" % number, bytes(rng.randint(100, 30_000)))
        elif kind < 0.9995:
            self.core.sync()
        else:
            self.core.checkpoint()
        return 1, 0

    def run(self, seed: str, first: int) -> None:
        rng = random.Random(seed)
        number = first
        try:
            while not self.stop.is_set():
                operations = hits = 0
                for _ in range(BATCH):
                    number += 1
                    made, hit = self.step(rng, number)
                    operations, hits = operations + made, hits + hit
                with self.lock:
                    self.operations += operations
                    self.hits += hits
                    if self.operations >= self.wanted:
                        self.stop.set()
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
            self.stop.set()


def race_on(run: Run, kind: str, wanted: int) -> Work:
    with run.scratch() as directory:
        disk = MemoryDisk() if kind == "memory" else None
        root = directory if kind != "memory" else None
        store = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, checkpoint_interval_s=0.05)
        core = Core(store, open_engine(kind, root, disk=disk))
        work = Work(core, wanted)
        threads = [
            threading.Thread(target=work.run, args=(f"{run.seed}/{kind}/{n}", n * 10**9))
            for n in range(1, THREADS + 1)
        ]
        for thread in threads:
            thread.start()
        done, quiet_s = 0, time.monotonic()
        while not work.stop.wait(0.2):
            if work.operations > done:
                run.done(work.operations - done)
                done, quiet_s = work.operations, time.monotonic()
            elif time.monotonic() - quiet_s > SILENCE_S:
                work.wrong.append("no thread gets on")
                work.stop.set()
        for thread in threads:
            thread.join(SILENCE_S)
        run.done(work.operations - done)
        if any(thread.is_alive() for thread in threads):
            work.wrong.append("a thread hangs")
            return work
        work.wrong += core.check()
        if core.counters()["reclaimed_regions"] == 0:
            work.wrong.append("reclaim never ran: the row shows nothing")
        core.sync()
        core.abandon()
        work.core = core = Core(store, open_engine(kind, root, disk=disk))
        work.read_all()
        core.close()
    return work


def race(run: Run) -> str:
    begin = time.monotonic()
    hits = 0
    for number, kind in enumerate(ENGINES):
        # Most on the engine in memory: its completions come in any order, and it is the fastest.
        share = 0.5 if kind == "memory" else 0.25
        work = race_on(run, kind, int(run.count * share))
        hits += work.hits
        for wrong in work.wrong[:5]:
            run.violation(number, f"{kind}: {wrong}")
    rate = run.outcome.injections / (time.monotonic() - begin)
    run.outcome.facts.update(hits=hits, operations_per_s=rate, threads=THREADS)
    return f"{hits:,} hits judged, {THREADS} threads, {rate:,.0f} operations/s"


ROW = Row(
    "race",
    f"{THREADS} threads put, delete, read, sync and checkpoint the same keys",
    "no impossible read, no value after an acknowledged delete, none torn",
    short=1_000_000,
    long=100_000_000,
    run=race,
)
