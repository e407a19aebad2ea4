"""Workloads that write to disk. Each measurement is a new process over a new directory."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path
from typing import Any

from bench.compare import open_peer
from bench.compare.fio import run_fio
from bench.engine import GIB, MIB, open_store
from bench.measure import (
    Sample,
    Side,
    Spread,
    Stopwatch,
    allocated_bytes,
    interleave,
    sample_in_child,
)
from bench.rows import Row, compare
from bench.workloads import Plan

POOL = 256
GROUP_THREADS = 16


def key_of(number: int) -> bytes:
    return b"object/%09d" % number


def pool_of(size_bytes: int, seed: int) -> list[bytes]:
    """Incompressible values, all different; a peer that compresses gains nothing."""
    generator = random.Random(seed)
    return [generator.randbytes(size_bytes) for _ in range(POOL)]


def open_side(side: str, path: str, data_bytes: int, engine: str = "auto") -> Any:
    """Our store with room for everything and RAM for a part of it, or a peer."""
    if side != "edgecache":
        return open_peer(side, path, size_bytes=4 * data_bytes + GIB)
    return open_store(
        path, memory=64 * MIB, disk=max(GIB, 2 * data_bytes), max_object_size=16 * MIB,
        block_timeout=30, engine=engine,
    )  # fmt: skip


def put_all(
    side: str, path: str, count: int, size_bytes: int, seed: int, through: str, engine: str = "auto"
) -> Sample:
    """Child: put `count` values; the clock stops after `through` ("flush" or "close")."""
    values = pool_of(size_bytes, seed)
    keys = [key_of(number) for number in range(count)]
    random.Random(seed).shuffle(keys)
    store = open_side(side, path, count * size_bytes, engine)
    put, flush = store.put, store.flush
    watch = Stopwatch()
    with watch:
        for number, key in enumerate(keys):
            put(key, values[number % POOL])
        flush()
        if through == "close":
            store.close()
    if through != "close":
        missing = sum(store.get(keys[n]) != values[n % POOL] for n in range(0, count, 31))
        if missing:
            raise RuntimeError(f"{side} lost {missing} of the sampled values")
        store.close()
    return watch.sample(count, bytes=float(count * size_bytes))


def put_sides(
    plan: Plan, names: list[str], counts: dict[str, int], size_bytes: int, through: str
) -> dict[str, list[Sample]]:
    """Interleave `put_all` of all sides; every measurement gets a directory of its own."""

    def side(name: str) -> Side:
        def measure(number: int) -> Sample:
            path = plan.place(f"put-{name}-{number}")
            try:
                return sample_in_child(
                    "bench.writes:put_all", side=name, path=str(path), count=counts[name],
                    size_bytes=size_bytes, seed=plan.seed, through=through,
                )  # fmt: skip
            finally:
                shutil.rmtree(path, ignore_errors=True)

        return measure

    return interleave({name: side(name) for name in names}, plan.repeat)


def put_1k_cpu(plan: Plan) -> list[Row]:
    bounds = {"diskcache": (1 / 30, 1 / 75), "lmdb": (1 / 4, 1 / 10), "rocksdict": (1 / 2.5, 1 / 5)}
    names = ["edgecache", *plan.among(*bounds)]
    counts = dict.fromkeys(names, plan.sized(100_000, 20_000))
    counts["diskcache"] = plan.sized(4000, 1000)
    samples = put_sides(plan, names, counts, 1000, "close")
    notes = {"lmdb": "one transaction, unsynced", "diskcache": "defaults", "rocksdict": "unsynced"}
    return [
        compare(
            "put_1k_cpu", "`put` of 1 KB, CPU from first put to closed", "cpu us", samples, peer,
            must=must, aim=aim, note=notes[peer] if peer in samples else "",
        )
        for peer, (must, aim) in bounds.items()
    ]  # fmt: skip


def best_of(
    plan: Plan, workload: str, label: str, size_bytes: int, count: int, must: float, aim: float
) -> list[Row]:
    """Puts per second against each peer; the best one is the one that counts."""
    peers = ("lmdb", "rocksdict", "plyvel")
    names = ["edgecache", *plan.among(*peers)]
    samples = put_sides(plan, names, dict.fromkeys(names, count), size_bytes, "flush")
    medians = {
        name: Spread.of([s.rate for s in samples[name]]).median for name in peers if name in samples
    }
    best = max(medians, key=medians.__getitem__, default="")
    rows = []
    for peer in peers:
        is_best = peer == best
        row = compare(
            workload, label, "rate", samples, peer,
            must=must if is_best else None, aim=aim if is_best else None,
            note="the best peer" if is_best else "",
        )  # fmt: skip
        rows.append(row)
    return rows


def put_4k(plan: Plan) -> list[Row]:
    label = "`put` of 4 KB, unsynced, until handed over"
    return best_of(plan, "put_4k", label, 4096, plan.sized(100_000, 20_000), 4, 10)


def put_64k(plan: Plan) -> list[Row]:
    label = "`put` of 64 KB, unsynced, until handed over"
    return best_of(plan, "put_64k", label, 65536, plan.sized(8000, 2000), 1.5, 3)


def put_1m(plan: Plan) -> list[Row]:
    size = 1_000_000
    count = plan.sized(800, 200)
    total = count * size // 4096 * 4096

    def store_side(number: int) -> Sample:
        path = plan.place(f"big-{number}")
        try:
            return sample_in_child(
                "bench.writes:put_all", side="edgecache", path=str(path), count=count,
                size_bytes=size, seed=plan.seed, through="flush",
            )  # fmt: skip
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def fio_side(number: int) -> Sample:
        path = plan.place("fio") / f"sequential-{number}"
        found = run_fio(
            path, rw="write", bs="1000k", iodepth=16, ioengine="io_uring", direct=1, size=total
        )
        path.unlink(missing_ok=True)
        per_put = total / found.operations / size
        return Sample(max(1, round(found.operations * per_put)), found.wall_s, found.cpu_s)

    sides: dict[str, Side] = {"edgecache": store_side}
    if plan.has("fio"):
        sides["fio"] = fio_side
    samples = interleave(sides, plan.repeat)
    return [
        compare(
            "put_1m", "`put` of 1 MB, sustained to the device", "rate", samples, "fio",
            must=0.6, aim=0.85, note="op/s of 1 MB; fio: sequential direct writes, depth 16",
        )
    ]  # fmt: skip


def put_synced(side: str, path: str, count: int, seed: int, threads: int = 1) -> Sample:
    """Child: puts of 4 KB, each durable before the next of its thread."""
    values = pool_of(4096, seed)
    store = (
        open_peer(side, path, sync=True) if side != "edgecache" else open_side(side, path, 64 * MIB)
    )
    finish = store.sync if side == "edgecache" else store.flush
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(worker, count, threads):
                store.put(key_of(number), values[number % POOL])
                finish()
        except BaseException as error:
            failures.append(error)

    work(count - 1)
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    watch = Stopwatch()
    with watch:
        if threads == 1:
            work(0)
        else:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    if failures:
        raise failures[0]
    store.close()
    return watch.sample(count)


def put_durable(plan: Plan) -> list[Row]:
    count = plan.sized(1500, 400)

    def side(name: str, threads: int) -> Side:
        def measure(number: int) -> Sample:
            path = plan.place(f"sync-{name}-{threads}-{number}")
            try:
                return sample_in_child(
                    "bench.writes:put_synced", side=name, path=str(path),
                    count=count * (4 if threads > 1 else 1), seed=plan.seed, threads=threads,
                )  # fmt: skip
            finally:
                shutil.rmtree(path, ignore_errors=True)

        return measure

    def fio_side(number: int) -> Sample:
        path = plan.place("fio") / "durable"
        return run_fio(
            path, rw="write", bs=4096, ioengine="psync", direct=1, fdatasync=1,
            size=count * 4096, fallocate="none", overwrite=1,
        )  # fmt: skip

    sides = {"edgecache": side("edgecache", 1), "group": side("edgecache", GROUP_THREADS)}
    sides |= {name: side(name, 1) for name in plan.among("sqlite", "rocksdict")}
    if plan.has("fio"):
        sides["fio"] = fio_side
    samples = interleave(sides, plan.repeat)
    one, many = "`put` + `sync` of 4 KB, one thread", f"the same from {GROUP_THREADS} threads"
    samples["one thread of ours"] = samples["edgecache"]
    return [
        compare("put_durable", one, "rate", samples, "fio", aim=0.9, note="write + fdatasync"),
        compare("put_durable", one, "rate", samples, "sqlite", must=1.2, note="a commit each"),
        compare("put_durable", one, "rate", samples, "rocksdict", note="WriteOptions.sync"),
        compare("put_durable", many, "rate", samples, "one thread of ours", ours="group", aim=8),
    ]


def space_of(path: str, count: int, size_bytes: int, seed: int) -> dict[str, float]:
    """Child: bytes of the log, and bytes of files, per payload byte (keys not counted)."""
    values = pool_of(size_bytes, seed)
    store = open_side("edgecache", path, count * size_bytes)
    empty = store.counters()
    for number in range(count):
        store.put(key_of(number), values[number % POOL])
    store.flush()
    full = store.counters()
    payload = count * size_bytes
    store.close()
    return {
        "written": (full["flushed_bytes"] - empty["flushed_bytes"]) / payload,
        "records": (full["log_record_bytes"] - empty["log_record_bytes"]) / payload,
        "files": allocated_bytes(Path(path)) / payload,
        "region_bytes": full["region_bytes"],
    }


def space(plan: Plan) -> list[Row]:
    from bench.measure import in_child

    rows = []
    for label, size, must, aim in (("1 KB", 1000, 1.15, 1.08), ("4 KB", 4096, 1.06, 1.02)):
        path = plan.place(f"space-{size}")
        found = in_child(
            "bench.writes:space_of", path=str(path), count=plan.sized(400, 100) * MIB // size,
            size_bytes=size, seed=plan.seed,
        )  # fmt: skip
        shutil.rmtree(path, ignore_errors=True)
        rows.append(
            Row(
                "space", f"disk bytes per payload byte, {label}", "B/B", [found["written"]],
                must=must, aim=aim,
                note=f"all bytes of the log, 16-byte keys; records alone {found['records']:.3f}, "
                f"allocated files {found['files']:.3f} (regions are made ahead)",
            )
        )  # fmt: skip
    return rows
