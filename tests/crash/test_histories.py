"""Eight threads on one store: every answer fits the begin and end times of the changes of its key.

Each key is changed by one thread at a time (a lock per key orders them) and read by all without
one. A read may return a value whose change began before the read ended, unless a newer change had
ended before the read began. Source: the value history of CacheLib's cachebench.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.images import LONG
from support.model import KIB, MIB, any_size, make_value, options

from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk

SECONDS = 120.0 if LONG else 3.0
THREADS = 8
KEYS = 24


class History:
    """Changes of one key in order: [begin, end, value]; end is infinite while one runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changes: list[list[Any]] = [[-1.0, -1.0, None]]

    def judge(self, begin: float, end: float, found: bytes | None) -> str:
        """Why a read cannot have returned this; "" if it can."""
        if found is None:
            return ""
        changes = list(self.changes)
        problem = "never put"
        # A value stands twice where a put was shed: any of its turns may explain the read.
        for index in range(len(changes) - 1, -1, -1):
            if changes[index][2] != found:
                continue
            newer = [change[:2] for change in changes[index + 1 :]]
            if changes[index][0] > end:
                problem = "put only after the read"
            elif any(change[1] < begin for change in newer):
                problem = f"behind {newer} at {begin}"
            else:
                return ""
        return problem

    def change(self, core: Core, key: bytes, number: int, rng: random.Random) -> None:
        value = None if rng.random() < 0.2 else make_value(key, number, any_size(rng))
        with self.lock:
            before = self.changes[-1][2]
            entry = [time.monotonic(), float("inf"), value]
            self.changes.append(entry)
            if value is None:
                core.delete(key)
            elif not core.put(key, value):
                # Shed: the value before it may have stayed.
                self.changes.append([entry[0], float("inf"), before])
                return
            entry[1] = time.monotonic()


class Work:
    """What all threads share."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.histories = {b"key-%d" % number: History() for number in range(KEYS)}
        self.keys = sorted(self.histories)
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self.hits = 0

    def read(self, keys: list[bytes]) -> None:
        begin = time.monotonic()
        found = self.core.get_many(keys) if len(keys) > 1 else [self.core.get(keys[0])]
        end = time.monotonic()
        for key, value in zip(keys, found, strict=True):
            self.hits += value is not None
            problem = self.histories[key].judge(begin, end, value)
            if problem:
                self.wrong.append(f"{key!r}: {problem}")

    def run(self, seed: int) -> None:
        rng = random.Random(seed)
        number = seed * 10_000_000
        try:
            while not self.stop.is_set():
                number += 1
                key = rng.choice(self.keys)
                kind = rng.random()
                if kind < 0.35:
                    self.histories[key].change(self.core, key, number, rng)
                elif kind < 0.9:
                    self.read([key])
                elif kind < 0.97:
                    self.read(self.keys)
                elif kind < 0.99:
                    self.core.put(b"churn-%d" % number, bytes(rng.randint(100, 30_000)))
                elif kind < 0.996:
                    self.core.sync()
                else:
                    self.core.checkpoint()
        except Exception as error:
            self.wrong.append(repr(error))
        if self.wrong:
            self.stop.set()


@pytest.mark.parametrize("kind", ["memory", "uring", "threads"])
def test_no_read_is_impossible_and_no_deleted_value_returns(kind: str, tmp_path: Path) -> None:
    disk = MemoryDisk() if kind == "memory" else None
    root = tmp_path if kind != "memory" else None
    store = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, checkpoint_interval_s=0.05)
    core = Core(store, open_engine(kind, root, disk=disk))
    work = Work(core)
    threads = [threading.Thread(target=work.run, args=(seed,)) for seed in range(1, THREADS + 1)]
    for thread in threads:
        thread.start()
    work.stop.wait(SECONDS)
    work.stop.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert work.wrong == []
    assert core.check() == []
    assert work.hits > 500
    assert core.counters()["reclaimed_regions"] > 0
    now = time.monotonic()
    for key in work.keys:
        assert work.histories[key].judge(now, now, core.get(key)) == ""
    core.sync()
    core.abandon()
    core = Core(store, open_engine(kind, root, disk=disk))
    for key in work.keys:
        assert work.histories[key].judge(now, now, core.get(key)) == ""
    core.close()
