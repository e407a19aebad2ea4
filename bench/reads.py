"""Workloads that read from disk: batches, asyncio, a cold process, more data than memory."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

from bench.compare import open_peer
from bench.compare.fio import run_fio
from bench.engine import GIB, MIB, counters, open_store
from bench.measure import (
    Sample,
    Side,
    Stopwatch,
    device_bytes,
    in_child,
    interleave,
    make_cold,
    sample_in_child,
)
from bench.rows import Row, compare
from bench.workloads import Plan
from bench.writes import key_of, pool_of

VALUE_BYTES = 4096
MEMORY_BYTES_MIN = 16 * MIB  # room for the index; RAM hits stay below 2 % of 1 GiB
BATCH = 64
LONG_BATCH = 1024
TASKS = 64
POOL = 256
FIO_READ = {"rw": "randread", "bs": 4096, "direct": 1, "invalidate": 1}


def open_reader(path: str, engine: str, memory_bytes: int, **options: Any) -> Any:
    return open_store(
        path, memory=memory_bytes, disk=4 * GIB, engine=engine, queue_depth=BATCH,
        region_size=64 * MIB, block_timeout=30, **options,
    )  # fmt: skip


def fill(side: str, path: str, count: int, size_bytes: int, seed: int) -> None:
    """Child: `count` values, in random order, at rest afterwards."""
    values = pool_of(size_bytes, seed)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    store = (
        open_reader(path, "auto", 64 * MIB)
        if side == "edgecache"
        else open_peer(side, path, size_bytes=4 * GIB)
    )
    for number in order:
        store.put(key_of(number), values[number % POOL])
    getattr(store, "settle", store.flush)()
    store.close()


def fill_file(path: Path, size_bytes: int) -> None:
    """A file for fio: written, since unwritten extents would not reach the device."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def sampled(values: list[Any], numbers: list[int], pool: list[bytes]) -> None:
    wrong = sum(v != pool[n % POOL] for v, n in zip(values, numbers, strict=True))
    if wrong:
        raise RuntimeError(f"{wrong} of {len(values)} values read were wrong or missing")


def read_batches(
    path: str, engine: str, count: int, seconds: float, seed: int, batch_keys: int
) -> Sample:
    """Child: random `get_many` for some seconds; the store keeps 64 reads in flight."""
    pool = pool_of(VALUE_BYTES, 1)
    store = open_reader(path, engine, MEMORY_BYTES_MIN)
    generator = random.Random(seed)
    keys = [key_of(number) for number in range(count)]
    store.get_many(generator.sample(keys, batch_keys))
    watch = Stopwatch()
    done = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        numbers = generator.sample(range(count), batch_keys)
        batch = [keys[number] for number in numbers]
        with watch:
            values = store.get_many(batch)
        sampled(values, numbers, pool)
        done += batch_keys
    found = counters(store)
    store.close()
    return watch.sample(done, disk_share=found["disk_hits"] / (done + batch_keys))


def read_qd64(plan: Plan) -> list[Row]:
    count = plan.sized(131072, 32768)
    seconds = 2.0 if not plan.is_quick else 1.0
    path, file = plan.place("qd64"), plan.place("fio") / "random"
    in_child("bench.reads:fill", side="edgecache", path=str(path), count=count,
             size_bytes=VALUE_BYTES, seed=1)  # fmt: skip
    sides: dict[str, Side] = {}
    for engine in plan.engines:
        for keys, name in ((LONG_BATCH, engine), (BATCH, f"{engine} of {BATCH}")):
            sides[name] = lambda number, engine=engine, keys=keys: sample_in_child(
                "bench.reads:read_batches", path=str(path), engine=engine, count=count,
                seconds=seconds, seed=plan.seed + number, batch_keys=keys,
            )  # fmt: skip
    if plan.has("fio"):
        fill_file(file, count * VALUE_BYTES)
        sides["fio"] = lambda number: run_fio(
            file, runtime_s=seconds, ioengine="io_uring", iodepth=BATCH, registerfiles=True,
            fixedbufs=True, iodepth_batch_complete_min=16, size=count * VALUE_BYTES, **FIO_READ,
        )  # fmt: skip
    samples = interleave(sides, plan.repeat)
    shutil.rmtree(path)
    file.unlink(missing_ok=True)
    label = f"4 KiB random read at depth 64, `get_many` of {LONG_BATCH}"
    rows = []
    if "uring" in samples:
        rows = [
            compare("read_qd64", label + ", IOPS", "rate", samples, "fio", ours="uring",
                    must=0.9, aim=1.0, note="fio: io_uring, depth 64, fixed buffers"),
            compare("read_qd64", label + ", CPU", "cpu us", samples, "fio", ours="uring", aim=0.6),
            compare("read_qd64", f"the same, `get_many` of {BATCH}, IOPS", "rate", samples, "fio",
                    ours=f"uring of {BATCH}", note="each call waits for its last read"),
        ]  # fmt: skip
    if {"uring", "threads"} <= samples.keys():
        rows.append(
            compare("read_qd64", "the same, thread engine against io_uring", "rate", samples,
                    "uring", ours="threads", must=0.5, aim=0.7)
        )  # fmt: skip
    return rows


async def gather_reads(store: Any, count: int, seconds: float, seed: int) -> tuple[int, Stopwatch]:
    pool = pool_of(VALUE_BYTES, 1)
    watch = Stopwatch()
    done = 0
    until = time.perf_counter() + seconds

    async def reader(number: int) -> None:
        nonlocal done
        generator = random.Random(seed * TASKS + number)
        while time.perf_counter() < until:
            chosen = generator.randrange(count)
            if await store.get(key_of(chosen)) != pool[chosen % POOL]:
                raise RuntimeError("a value was wrong or missing")
            done += 1

    await store.get(key_of(0))
    with watch:
        await asyncio.gather(*(reader(number) for number in range(TASKS)))
    return done, watch


def read_tasks(path: str, count: int, seconds: float, seed: int, engine: str = "auto") -> Sample:
    """Child: 64 tasks, each awaiting one get after the other."""
    from bench.engine import open_async

    async def main() -> Sample:
        store = await open_async(
            path, memory=MEMORY_BYTES_MIN, disk=4 * GIB, engine=engine, region_size=64 * MIB,
            queue_depth=TASKS,
        )  # fmt: skip
        done, watch = await gather_reads(store, count, seconds, seed)
        await store.close()
        return watch.sample(done)

    return asyncio.run(main())


class ExecutorReads:
    """What one does without this library: O_DIRECT preadv in a pool of threads."""

    def __init__(self, path: str) -> None:
        import mmap
        from concurrent.futures import ThreadPoolExecutor

        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.pool = ThreadPoolExecutor(TASKS)
        self.buffers = [mmap.mmap(-1, VALUE_BYTES) for _ in range(TASKS)]

    def pread(self, number: int) -> bytes:
        buffer = self.buffers.pop()
        try:
            os.preadv(self.descriptor, [buffer], number * VALUE_BYTES)
            return buffer[:]
        finally:
            self.buffers.append(buffer)

    async def get(self, key: bytes) -> bytes:
        number = int(key[7:])
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.pread, number)

    def close(self) -> None:
        self.pool.shutdown()
        os.close(self.descriptor)


def read_executor(path: str, count: int, seconds: float, seed: int) -> Sample:
    """Child: the same 64 tasks over `run_in_executor`."""

    async def main() -> Sample:
        store = ExecutorReads(path)
        done, watch = await gather_reads(store, count, seconds, seed)
        store.close()
        return watch.sample(done)

    return asyncio.run(main())


def fill_pool_file(path: Path, count: int) -> None:
    """A file of the same values at number * 4096, for reads without a cache."""
    pool = pool_of(VALUE_BYTES, 1)
    with path.open("wb") as file:
        for number in range(count):
            file.write(pool[number % POOL])
        file.flush()
        os.fsync(file.fileno())


def read_async(plan: Plan) -> list[Row]:
    count = plan.sized(131072, 32768)
    seconds = 2.0 if not plan.is_quick else 1.0
    path, file = plan.place("async"), plan.place("fio") / "values"
    in_child("bench.reads:fill", side="edgecache", path=str(path), count=count,
             size_bytes=VALUE_BYTES, seed=1)  # fmt: skip
    fill_pool_file(file, count)
    shared = {"count": count, "seconds": seconds}
    sides: dict[str, Side] = {
        "edgecache": lambda number: sample_in_child(
            "bench.reads:read_tasks", path=str(path), seed=plan.seed + number, **shared
        ),
        "run_in_executor": lambda number: sample_in_child(
            "bench.reads:read_executor", path=str(file), seed=plan.seed + number, **shared
        ),
    }
    if plan.has("fio"):
        sides["fio"] = lambda number: run_fio(
            file, runtime_s=seconds, ioengine="io_uring", iodepth=TASKS, registerfiles=True,
            fixedbufs=True, size=count * VALUE_BYTES, **FIO_READ,
        )  # fmt: skip
    samples = interleave(sides, plan.repeat)
    shutil.rmtree(path)
    file.unlink(missing_ok=True)
    label = "4 KiB random read, 64 asyncio tasks"
    return [
        compare("read_async", label + ", IOPS", "rate", samples, "fio", must=0.75, aim=0.9),
        compare("read_async", label + ", CPU", "cpu us", samples, "run_in_executor", aim=1 / 9,
                note="O_DIRECT preadv in 64 threads"),
        compare("read_async", label + ", IOPS", "rate", samples, "run_in_executor"),
    ]  # fmt: skip


def get_cold(side: str, path: str, count: int, gets: int, seed: int) -> Sample:
    """Child: the first gets of a process; no page of the files is cached."""
    make_cold(Path(path))
    pool = pool_of(VALUE_BYTES, 1)
    numbers = random.Random(seed).sample(range(count), gets)
    keys = [key_of(number) for number in numbers]
    store: Any
    if side == "edgecache":
        store = open_reader(path, "auto", 64 * MIB)
    else:
        store = open_peer(side, path, size_bytes=4 * GIB)
        if side == "lmdb":
            store.read_only()
    before = device_bytes()[0]
    latencies = []
    values = []
    watch = Stopwatch()
    for key in keys:
        with watch:
            began = time.perf_counter()
            value = store.get(key)
            latencies.append(time.perf_counter() - began)
        values.append(value)
    read_bytes = device_bytes()[0] - before
    sampled(values, numbers, pool)
    store.close()
    latencies.sort()
    return watch.sample(
        gets, read_bytes=read_bytes / gets, p50_us=1e6 * latencies[gets // 2],
        p99_us=1e6 * latencies[gets * 99 // 100],
    )  # fmt: skip


def read_cold(plan: Plan) -> list[Row]:
    count, gets = plan.sized(131072, 32768), plan.sized(2000, 500)
    names = ["edgecache", *plan.among("lmdb", "rocksdict")]
    file = plan.place("fio") / "cold"
    for name in names:
        in_child("bench.reads:fill", side=name, path=str(plan.place(f"cold-{name}")), count=count,
                 size_bytes=VALUE_BYTES, seed=1)  # fmt: skip
    sides: dict[str, Side] = {}
    for name in names:
        sides[name] = lambda number, name=name: sample_in_child(
            "bench.reads:get_cold", side=name, path=str(plan.place(f"cold-{name}")), count=count,
            gets=gets, seed=plan.seed + number,
        )  # fmt: skip
    if plan.has("fio"):
        fill_file(file, count * VALUE_BYTES)
        sides["fio"] = lambda number: run_fio(
            file, runtime_s=0.5, ioengine="psync", iodepth=1, size=count * VALUE_BYTES, **FIO_READ
        )
    samples = interleave(sides, plan.repeat)
    for name in names:
        shutil.rmtree(plan.place(f"cold-{name}"))
    file.unlink(missing_ok=True)
    label = "cold 4 KiB get, one thread, mean latency"
    mine = samples["edgecache"]
    middle = sorted(s.extra["p50_us"] for s in mine)[len(mine) // 2]
    return [
        compare("read_cold", label, "wall us", samples, "fio", aim=1.3,
                note=f"fio: pread at depth 1; our p50 is {middle:.0f} us"),
        compare("read_cold", label, "wall us", samples, "lmdb", must=0.6),
        compare("read_cold", label, "wall us", samples, "rocksdict"),
        Row("read_cold", "bytes read from the device per cold 4 KiB get", "bytes",
            [s.extra["read_bytes"] for s in mine], must=8192, aim=VALUE_BYTES + 512,
            note=", ".join(f"{name} {samples[name][0].extra['read_bytes']:,.0f}"
                           for name in names[1:])),
    ]  # fmt: skip


def get_4x(side: str, path: str, count: int, memory_bytes: int, gets: int, seed: int) -> Sample:
    """Child: uniform gets with `memory_bytes` for the cache, after that much was read untimed."""
    make_cold(Path(path))
    pool = pool_of(VALUE_BYTES, 1)
    generator = random.Random(seed)
    store: Any
    if side == "edgecache":
        store = open_reader(path, "auto", memory_bytes)
    elif side == "lmdb":
        # Page by page: with readahead the same memory holds fewer values that are asked for.
        store = open_peer(side, path, size_bytes=4 * GIB, readahead=False).read_only()
    else:
        store = open_peer(side, path, cache_bytes=memory_bytes, direct=True)
    before = device_bytes()[0]
    while device_bytes()[0] - before < memory_bytes:
        for _ in range(200):
            store.get(key_of(generator.randrange(count)))
    numbers = [generator.randrange(count) for _ in range(gets)]
    keys = [key_of(number) for number in numbers]
    middle = device_bytes()[0]
    watch = Stopwatch()
    with watch:
        values = [store.get(key) for key in keys]
    read_bytes = device_bytes()[0] - middle
    sampled(values, numbers, pool)
    store.close()
    return watch.sample(gets, read_bytes=read_bytes / gets)


def read_4x(plan: Plan) -> list[Row]:
    memory = plan.sized(64, 16) * MIB
    count, gets = 4 * memory // VALUE_BYTES, plan.sized(4000, 1000)
    names = ["edgecache", *plan.among("lmdb", "rocksdict")]
    for name in names:
        in_child("bench.reads:fill", side=name, path=str(plan.place(f"4x-{name}")), count=count,
                 size_bytes=VALUE_BYTES, seed=1)  # fmt: skip
    sides: dict[str, Side] = {}
    for name in names:
        sides[name] = lambda number, name=name: sample_in_child(
            "bench.reads:get_4x", side=name, path=str(plan.place(f"4x-{name}")), count=count,
            memory_bytes=memory, gets=gets, seed=plan.seed + number,
        )  # fmt: skip
    samples = interleave(sides, plan.repeat)
    for name in names:
        shutil.rmtree(plan.place(f"4x-{name}"))
    label = "random get, 4x more data than memory, one thread"
    return [
        compare("read_4x", label, "rate", samples, "lmdb", must=3, aim=5,
                note="its memory is the page cache, filled before the clock started"),
        compare("read_4x", label, "rate", samples, "rocksdict", must=3, aim=5,
                note="direct reads, block cache of the same size, bloom filters"),
    ]  # fmt: skip
