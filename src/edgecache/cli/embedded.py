"""The embedded half of `edgecache bench`: a store in a temporary directory, timed as it is used."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from edgecache.storage import Storage, open_store

KEY_COUNT = 20_000
VALUE_BYTES = 4096
BATCH_KEYS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One measured step.

    Args:
        name: What was done.
        operations: How often.
        wall_s, cpu_s: What it took, all threads of the process together for CPU.
    """

    name: str
    operations: int
    wall_s: float
    cpu_s: float


def run_embedded(directory: str | None, tell: Callable[[str], None]) -> Iterator[Step]:
    """Yield the steps of the quick benchmark.

    Args:
        directory: Where its temporary root goes; None: the system's place for such.
        tell: Called with what is about to be done.
    """
    with tempfile.TemporaryDirectory(prefix="edgecache-bench-", dir=directory) as parent:
        root = os.path.join(parent, "root")
        keys = [b"bench:%d" % number for number in range(KEY_COUNT)]
        value = random.Random(1).randbytes(VALUE_BYTES)
        shuffled = random.Random(2).sample(keys, len(keys))
        plain = dict.fromkeys(keys, value)
        with open_store(root, memory="256MiB", disk="1GiB") as store:
            tell("put 4 KiB values")
            yield _timed("put 4 KiB", KEY_COUNT, lambda: [store.put(k, value) for k in keys])
            tell("get from RAM")
            yield _timed("get, RAM", KEY_COUNT, lambda: [store.get(k) for k in shuffled])
            yield _timed("dict.get, for scale", KEY_COUNT, lambda: [plain.get(k) for k in shuffled])
            tell("make it durable")
            yield _timed("sync", 1, store.sync)
        for engine in ("auto", "threads"):
            tell(f"get from disk, io: {engine}")
            with open_store(root, memory="8MiB", disk="1GiB", io=engine) as store:
                name = store.stats()["engine"]["io"]
                batches = [
                    shuffled[start : start + BATCH_KEYS]
                    for start in range(0, len(shuffled), BATCH_KEYS)
                ]
                read = partial(_read_batches, store, batches)
                yield _timed(f"get_many(64), disk, {name}", KEY_COUNT, read)


def _read_batches(store: Storage, batches: list[list[bytes]]) -> None:
    for each in batches:
        store.get_many(each)


def _timed(name: str, operations: int, run: Callable[[], object]) -> Step:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run()
    return Step(name, operations, time.perf_counter() - wall_s, time.process_time() - cpu_s)
