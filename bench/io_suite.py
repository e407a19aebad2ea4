"""io_uring against threads through the same API, point by point; `bench/plots.py` draws the rows.

RAM holds a few percent of the data, so nearly every get reads the disk. `depth` is the number of
keys per `get_many`, or of asyncio tasks that each await one get after the other.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.compare.fio import run_fio
from bench.engine import GIB, MIB, open_async, open_store
from bench.measure import Sample, Spread, Stopwatch, in_child, make_cold
from bench.reads import FIO_READ, MEMORY_BYTES_MIN, POOL, VALUE_BYTES, fill_file, sampled
from bench.rows import Row
from bench.workloads import Plan
from bench.writes import key_of, pool_of

DEPTHS = (1, 4, 16, 64, 256)
SIZES = (512, 4096, 16384, 65536, 262144, 1048576)
SHARES = (0, 10, 30, 50, 70, 100)
CACHES = ("direct", "buffered, cold", "buffered, warm")
MODES = ("get_many", "asyncio")
SIZE_BATCH = 16
SIZE_TOTAL_BYTES = 96 * MIB
CACHE_DEPTH = 64

Points = list[dict[str, Any]]


def options(engine: str, **more: Any) -> dict[str, Any]:
    return {
        "memory": MEMORY_BYTES_MIN, "disk": 2 * GIB, "engine": engine, "queue_depth": 256,
        "max_object_size": 16 * MIB, "block_timeout": 30, **more,
    }  # fmt: skip


def fill(path: str, count: int) -> None:
    """Child: `count` values of 4 KiB."""
    values = pool_of(VALUE_BYTES, 1)
    store = open_store(path, **options("auto"))
    for number in range(count):
        store.put(key_of(number), values[number % POOL])
    store.sync()
    store.close()


def read_for(
    store: Any, count: int, batch: int, seconds: float, generator: random.Random, pool: list[bytes]
) -> Sample:
    """`get_many` of random keys for some seconds; values are checked outside the time."""
    watch = Stopwatch()
    done = 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        numbers = [generator.randrange(count) for _ in range(batch)]
        keys = [key_of(number) for number in numbers]
        with watch:
            values = store.get_many(keys)
        sampled(values, numbers, pool)
        done += batch
    return watch.sample(done)


async def await_for(
    store: Any, count: int, tasks: int, seconds: float, seed: int, pool: list[bytes]
) -> Sample:
    """`tasks` tasks, each awaiting one get after the other."""
    watch = Stopwatch()
    done = 0
    until = time.perf_counter() + seconds

    async def reader(number: int) -> None:
        nonlocal done
        generator = random.Random(seed * 1000 + number)
        while time.perf_counter() < until:
            chosen = generator.randrange(count)
            if await store.get(key_of(chosen)) != pool[chosen % POOL]:
                raise RuntimeError("a value was wrong or missing")
            done += 1

    with watch:
        await asyncio.gather(*(reader(number) for number in range(tasks)))
    return watch.sample(done)


def depth_points(
    path: str,
    engine: str,
    mode: str,
    count: int,
    seconds: float,
    seed: int,
    depths: list[int],
    direct: bool = True,
) -> Points:
    """Child: one sample per depth."""
    pool = pool_of(VALUE_BYTES, 1)
    if mode == "asyncio":
        return asyncio.run(_depth_async(path, engine, count, seconds, seed, depths, direct, pool))
    store = open_store(path, **options(engine, direct=direct))
    generator = random.Random(seed)
    read_for(store, count, CACHE_DEPTH, seconds / 5, generator, pool)
    found = [read_for(store, count, depth, seconds, generator, pool) for depth in depths]
    store.close()
    return [asdict(sample) for sample in found]


async def _depth_async(
    path: str,
    engine: str,
    count: int,
    seconds: float,
    seed: int,
    depths: list[int],
    direct: bool,
    pool: list[bytes],
) -> Points:
    store = await open_async(path, **options(engine, direct=direct))
    await await_for(store, count, CACHE_DEPTH, seconds / 5, seed, pool)
    found = [await await_for(store, count, depth, seconds, seed, pool) for depth in depths]
    await store.close()
    return [asdict(sample) for sample in found]


def cache_points(path: str, engine: str, mode: str, cache: str, **more: Any) -> Points:
    """Child: one sample at depth 64, with the page cache as `cache` says."""
    if cache == "buffered, cold":
        make_cold(Path(path))
    elif cache == "buffered, warm":
        for item in Path(path).rglob("*.edge"):
            with item.open("rb") as file:
                while file.read(16 * MIB):
                    pass
    return depth_points(path, engine, mode, direct=cache == "direct", **more)


def size_points(path: str, engine: str, size_bytes: int, seconds: float, seed: int) -> Points:
    """Child: writes of one size until handed over, then random reads in batches of 16."""
    pool = pool_of(size_bytes, 1)
    count = SIZE_TOTAL_BYTES // size_bytes
    store = open_store(path, **options(engine))
    watch = Stopwatch()
    with watch:
        for number in range(count):
            store.put(key_of(number), pool[number % POOL])
        store.flush()
    writes = watch.sample(count)
    reads = read_for(store, count, SIZE_BATCH, seconds, random.Random(seed), pool)
    store.close()
    return [asdict(writes), asdict(reads)]


def mix_points(path: str, engine: str, count: int, seconds: float, seed: int) -> Points:
    """Child: batches of 64 operations, of which a share are puts; one sample per share."""
    pool = pool_of(VALUE_BYTES, 1)
    generator = random.Random(seed)
    store = open_store(path, **options(engine))
    found = []
    for share in SHARES:
        watch = Stopwatch()
        done = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            numbers = [generator.randrange(count) for _ in range(CACHE_DEPTH)]
            cut = CACHE_DEPTH * share // 100
            keys = [key_of(number) for number in numbers[cut:]]
            with watch:
                for number in numbers[:cut]:
                    store.put(key_of(number), pool[number % POOL])
                values = store.get_many(keys)
            sampled(values, numbers[cut:], pool)
            done += CACHE_DEPTH
        found.append(watch.sample(done))
    store.close()
    return [asdict(sample) for sample in found]


def rounds(
    plan: Plan, sides: dict[str, Callable[[int], list[Sample]]]
) -> dict[str, list[list[Sample]]]:
    """As `interleave`, for sides that measure several points per turn: [point][round]."""
    names = list(sides)
    turns: dict[str, list[list[Sample]]] = {name: [] for name in names}
    for number in range(plan.repeat):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            turns[name].append(sides[name](number))
    return {
        name: [list(point) for point in zip(*found, strict=True)] for name, found in turns.items()
    }


def child(target: str, **arguments: Any) -> list[Sample]:
    return [Sample(**point) for point in in_child(f"bench.io_suite:{target}", **arguments)]


def engine_rows(
    workload: str, label: str, found: dict[str, list[Sample]], at: dict[str, Any], scale: float = 1
) -> list[Row]:
    """A row of io_uring against threads, and one against fio where it was measured."""
    rows = []
    first = "uring" if "uring" in found else next(iter(found))
    peers = [name for name in found if name != first] or [""]
    for peer in peers:
        mine, theirs = found[first], found.get(peer, [])
        rows.append(
            Row(
                workload, f"{label}, {first}", at.get("unit", "op/s"),
                [scale * s.rate for s in mine], peer, [scale * s.rate for s in theirs],
                lower_is_better=False,
                cpu_us=Spread.of([s.cpu_us for s in mine]).median,
                peer_cpu_us=Spread.of([s.cpu_us for s in theirs]).median if theirs else None,
                wall_us=Spread.of([s.wall_us for s in mine]).median,
                peer_wall_us=Spread.of([s.wall_us for s in theirs]).median if theirs else None,
                at={**at, "first": first},
            )
        )  # fmt: skip
    return rows


def seconds_of(plan: Plan) -> float:
    return 0.1 if plan.is_quick else 0.25


def depth(plan: Plan) -> list[Row]:
    count = plan.sized(131072, 32768)
    path, file = plan.place("io-depth"), plan.place("fio") / "depth"
    in_child("bench.io_suite:fill", path=str(path), count=count)
    seconds = seconds_of(plan)
    has_fio = plan.has("fio")
    if has_fio:
        fill_file(file, count * VALUE_BYTES)
    rows = []
    for mode in MODES:
        sides: dict[str, Callable[[int], list[Sample]]] = {}
        for engine in plan.engines:
            sides[engine] = lambda number, engine=engine, mode=mode: child(
                "depth_points", path=str(path), engine=engine, mode=mode, count=count,
                seconds=seconds, seed=plan.seed + number, depths=list(DEPTHS),
            )  # fmt: skip
        if has_fio:
            sides["fio"] = lambda _: [
                run_fio(file, runtime_s=max(0.3, seconds), ioengine="io_uring", iodepth=depth,
                        size=count * VALUE_BYTES, **FIO_READ)
                for depth in DEPTHS
            ]  # fmt: skip
        found = rounds(plan, sides)
        for place, one in enumerate(DEPTHS):
            rows += engine_rows(
                "io_depth", f"4 KiB random reads, {mode}, depth {one}",
                {name: points[place] for name, points in found.items()},
                {"figure": "depth", "mode": mode, "x": one},
            )  # fmt: skip
    shutil.rmtree(path)
    file.unlink(missing_ok=True)
    return rows


def size(plan: Plan) -> list[Row]:
    rows = []
    for size_bytes in SIZES:
        sides: dict[str, Callable[[int], list[Sample]]] = {}
        for engine in plan.engines:

            def side(number: int, engine: str = engine, size_bytes: int = size_bytes) -> Any:
                path = plan.place(f"io-size-{engine}-{number}")
                try:
                    return child("size_points", path=str(path), engine=engine, seed=plan.seed,
                                 size_bytes=size_bytes, seconds=seconds_of(plan))  # fmt: skip
                finally:
                    shutil.rmtree(path)

            sides[engine] = side
        found = rounds(plan, sides)
        for place, what in enumerate(("put", "get_many")):
            rows += engine_rows(
                "io_size", f"{what} of {size_bytes:,} B",
                {name: points[place] for name, points in found.items()},
                {"figure": "size", "mode": what, "x": size_bytes, "unit": "MB/s"},
                size_bytes / 1e6,
            )  # fmt: skip
    return rows


def mix(plan: Plan) -> list[Row]:
    count = plan.sized(65536, 16384)
    sides: dict[str, Callable[[int], list[Sample]]] = {}
    for engine in plan.engines:
        path = plan.place(f"io-mix-{engine}")
        in_child("bench.io_suite:fill", path=str(path), count=count)
        sides[engine] = lambda number, engine=engine, path=path: child(
            "mix_points", path=str(path), engine=engine, count=count, seconds=seconds_of(plan),
            seed=plan.seed + number,
        )  # fmt: skip
    found = rounds(plan, sides)
    rows = []
    for place, share in enumerate(SHARES):
        rows += engine_rows(
            "io_mix", f"4 KiB, batches of 64, {share} % puts",
            {name: points[place] for name, points in found.items()},
            {"figure": "mix", "mode": "mix", "x": share},
        )  # fmt: skip
    for engine in plan.engines:
        shutil.rmtree(plan.place(f"io-mix-{engine}"))
    return rows


def cache(plan: Plan) -> list[Row]:
    count = plan.sized(65536, 16384)
    path = plan.place("io-cache")
    in_child("bench.io_suite:fill", path=str(path), count=count)
    rows = []
    for mode in MODES:
        for kind in CACHES:
            sides: dict[str, Callable[[int], list[Sample]]] = {}
            for engine in plan.engines:
                sides[engine] = lambda number, engine=engine, mode=mode, kind=kind: child(
                    "cache_points", path=str(path), engine=engine, mode=mode, cache=kind,
                    count=count, seconds=seconds_of(plan), seed=plan.seed + number,
                    depths=[CACHE_DEPTH],
                )  # fmt: skip
            found = rounds(plan, sides)
            rows += engine_rows(
                "io_cache", f"4 KiB random reads, {mode} {CACHE_DEPTH}, {kind}",
                {name: points[0] for name, points in found.items()},
                {"figure": "cache", "mode": mode, "x": kind},
            )  # fmt: skip
    shutil.rmtree(path)
    return rows
