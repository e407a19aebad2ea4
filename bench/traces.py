"""Traces for the hit-ratio bench: seeded generators and readers of two common formats.

zipf06, zipf08, zipf10, zipf12   popularity 1/rank^a over 100,000 objects of one size
zipf_scan   zipf 0.9, with sequential reads of 2,000 objects, each seen once, in between
loop        a cycle over 20,000 objects with 10 % of random jumps
shift       zipf 0.9 whose ranks move: every 50,000 requests the objects slide by 1,000 ranks
cdn         zipf 0.8, 35 % of requests for objects seen once, log-normal sizes from 100 B to 64 MiB

Every generator takes a request count and a seed; equal arguments give equal traces.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Source: libCacheSim's oracleGeneral format; packed, little-endian.
ORACLE_GENERAL = np.dtype(
    [("time_s", "<u4"), ("id", "<u8"), ("size_bytes", "<u4"), ("next_access", "<i8")]
)
SIZE_BYTES_MAX = 2**32 - 1


@dataclass(frozen=True)
class Trace:
    """Requests in order. An object's size is that of its first request."""

    name: str
    ids: NDArray[np.uint64]
    sizes: NDArray[np.uint32]

    def footprint(self) -> tuple[int, int]:
        """Return (distinct objects, the sum of their sizes in bytes)."""
        _, first = np.unique(self.ids, return_index=True)
        return len(first), int(self.sizes[first].sum(dtype=np.uint64))

    def write(self, path: Path) -> None:
        """Write as oracleGeneral; the next access is not filled in (-2: unknown)."""
        records = np.zeros(len(self.ids), dtype=ORACLE_GENERAL)
        # A reader may take a request in the first second for the start of the clock.
        records["time_s"] = 1 + np.arange(len(self.ids)) // 1000
        records["id"] = self.ids
        records["size_bytes"] = self.sizes
        records["next_access"] = -2
        records.tofile(path)


def ranks(rng: np.random.Generator, objects: int, skew: float, count: int) -> NDArray[np.int64]:
    """Draw `count` ranks from 0, of probability proportional to 1 / (rank + 1) ** skew."""
    cumulative = np.cumsum(1.0 / np.arange(1, objects + 1) ** skew)
    return np.searchsorted(cumulative, rng.random(count) * cumulative[-1])


def unit(name: str, ids: NDArray[np.int64]) -> Trace:
    # Ids from 1: some simulators reserve 0.
    return Trace(name, (ids + 1).astype(np.uint64), np.ones(len(ids), dtype=np.uint32))


def zipf(name: str, skew: float) -> Callable[[int, int], Trace]:
    def generate(count: int, seed: int) -> Trace:
        return unit(name, ranks(np.random.default_rng(seed), 100_000, skew, count))

    return generate


def zipf_scan(count: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    ids = ranks(rng, 100_000, 0.9, count)
    period, length = 20_000, 2_000
    for number, start in enumerate(range(period, count - length, period)):
        first = 1_000_000 + number * length
        ids[start : start + length] = np.arange(first, first + length)
    return unit("zipf_scan", ids)


def loop(count: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    ids = np.arange(count) % 20_000
    jumps = rng.random(count) < 0.1
    ids[jumps] = rng.integers(0, 20_000, int(jumps.sum()))
    return unit("loop", ids)


def shift(count: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    return unit("shift", ranks(rng, 100_000, 0.9, count) + np.arange(count) // 50_000 * 1_000)


def cdn(count: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    ids = ranks(rng, 200_000, 0.8, count)
    once = rng.random(count) < 0.35
    ids[once] = 1_000_000 + np.arange(int(once.sum()))
    per_object = rng.lognormal(np.log(24_000), 1.6, int(ids.max()) + 1)
    sizes = np.clip(per_object, 100, 64 * 2**20).astype(np.uint32)
    return Trace("cdn", (ids + 1).astype(np.uint64), sizes[ids])


TRACES: dict[str, Callable[[int, int], Trace]] = {
    "zipf06": zipf("zipf06", 0.6),
    "zipf08": zipf("zipf08", 0.8),
    "zipf10": zipf("zipf10", 1.0),
    "zipf12": zipf("zipf12", 1.2),
    "zipf_scan": zipf_scan,
    "loop": loop,
    "shift": shift,
    "cdn": cdn,
}


def generate(name: str, count: int, seed: int) -> Trace:
    return TRACES[name](count, seed)


def first_sizes(ids: NDArray[np.uint64], sizes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Give each request the size of its object's first one: a cache keeps what it stored."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return sizes[first][inverse]


def read_oracle_general(path: Path, count_max: int | None = None) -> Trace:
    """Read an oracleGeneral trace; `.zst` files need the `zstandard` package."""
    size_bytes = -1 if count_max is None else count_max * ORACLE_GENERAL.itemsize
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise SystemExit(f"{path}: reading .zst needs `pip install zstandard`") from error
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            data = stream.read(size_bytes) if size_bytes >= 0 else stream.read()
    else:
        with path.open("rb") as file:
            data = file.read(size_bytes)
    whole = len(data) // ORACLE_GENERAL.itemsize * ORACLE_GENERAL.itemsize
    if whole != len(data):
        raise SystemExit(f"{path}: {len(data)} bytes are not a whole number of records")
    records = np.frombuffer(data, dtype=ORACLE_GENERAL)
    ids = records["id"].astype(np.uint64)
    return Trace(path.name, ids, first_sizes(ids, np.maximum(records["size_bytes"], 1)))


def read_csv(path: Path, count_max: int | None = None) -> Trace:
    """Read a csv trace with a header naming `id` (or `key`) and, if sizes differ, `size`."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
        key = columns.get("id") or columns.get("key") or columns.get("obj_id")
        size = columns.get("size") or columns.get("obj_size")
        if key is None:
            raise SystemExit(f"{path}: no column named id, key or obj_id in {reader.fieldnames}")
        numbers: dict[str, int] = {}
        ids, sizes = [], []
        for row in reader:
            if count_max is not None and len(ids) >= count_max:
                break
            # Keys may be text: number them in order of appearance, from 1.
            ids.append(numbers.setdefault(row[key], len(numbers) + 1))
            sizes.append(max(int(row[size]), 1) if size else 1)
    if sizes and max(sizes) > SIZE_BYTES_MAX:
        raise SystemExit(f"{path}: an object of {max(sizes)} bytes exceeds 32 bits")
    id_array = np.array(ids, dtype=np.uint64)
    return Trace(path.name, id_array, first_sizes(id_array, np.array(sizes, dtype=np.uint32)))


def read(path: Path, count_max: int | None = None) -> Trace:
    """Read by suffix: `.csv`, otherwise oracleGeneral, plain or `.zst`."""
    if path.suffix == ".csv":
        return read_csv(path, count_max)
    return read_oracle_general(path, count_max)
