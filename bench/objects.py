"""Objects of any size against plain file I/O of the same bytes, in the same run.

    python -m bench.objects [--bytes 1GiB] [--repeat 3] [--json out/bench/objects.json]

    write       one stream in 4 MiB pieces, durable at the end; a file: O_DIRECT writes, fdatasync
    read        the whole object in pieces, from disk; a file: O_DIRECT reads of 4 MiB
    ranges      random ranges of 64 KiB of a 10 GiB sparse object; a file: O_DIRECT pread of them
    ranges64k   the same with chunk_size="64KiB": a range is then a chunk
    tail        100 readers in 4 threads that follow one writer, RAM only; a file: 100 reads of it

The sides take turns, each round starting with another one. Ratios are per round, the median and the
extremes of them are reported: wall time of ours over theirs, below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgecache
from bench.machine import describe
from bench.measure import Stopwatch, scratch
from edgecache.config.units import parse_size

MIB = 1 << 20
GIB = 1 << 30
PIECE_BYTES = 4 * MIB
RANGE_BYTES = 64 << 10
RANGE_COUNT = 500
SPARSE_BYTES = 10 * GIB
READERS = 100
READER_THREADS = 4

Round = Callable[[], Stopwatch]


def open_store(root: Path, total: int, **options: Any) -> edgecache.Storage:
    return edgecache.open(root, memory="64MiB", disk=max(4 * GIB, 3 * total), **options)


def direct_file(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT | os.O_CREAT, 0o600)


def aligned(content: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(content))
    buffer.write(content)
    return buffer


def write_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    source = aligned(piece)

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with open_store(directory / "store", total) as store:
            with watch, store.get_miss_handler("object") as miss:
                for _ in range(total // len(piece)):
                    miss.write(piece)
                miss.finish()
                store.sync()
            store.purge("object")
        return watch

    def theirs() -> Stopwatch:
        file = direct_file(directory / "file", os.O_WRONLY)
        watch = Stopwatch()
        with watch:
            for _ in range(total // len(piece)):
                os.write(file, source)
            os.fdatasync(file)
        os.close(file)
        return watch

    return ours, theirs


def read_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    write_file(directory / "file", total, piece)
    with (
        open_store(directory / "store", total) as store,
        store.get_miss_handler("object") as miss,
    ):
        for _ in range(total // len(piece)):
            miss.write(piece)
        miss.finish()

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with open_store(directory / "store", total) as store:
            hit = store.lookup("object")
            assert hit is not None
            with watch, hit:
                found = sum(map(len, hit))
        assert found == total
        return watch

    def theirs() -> Stopwatch:
        file = direct_file(directory / "file", os.O_RDONLY)
        target = mmap.mmap(-1, len(piece))
        watch = Stopwatch()
        with watch:
            for start in range(0, total, len(piece)):
                os.preadv(file, [target], start)
        os.close(file)
        return watch

    return ours, theirs


def write_file(path: Path, total: int, piece: bytes) -> None:
    with path.open("wb") as file:
        for _ in range(total // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())


def range_pair(
    directory: Path, total: int, piece: bytes, chunk_bytes: int = 4 * MIB
) -> tuple[Round, Round]:
    """The ranges lie in the first `total` bytes of the sparse object, which are there."""
    write_file(directory / "file", total, piece)
    rng = random.Random(1)
    offsets = [rng.randrange(total // RANGE_BYTES) * RANGE_BYTES for _ in range(RANGE_COUNT)]
    with open_store(directory / "store", total, chunk_size=chunk_bytes) as store:
        store.create_sparse("object", SPARSE_BYTES)
        for start in range(0, total, len(piece)):
            store.write_range("object", start, piece)

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with open_store(directory / "store", total, chunk_size=chunk_bytes) as store, watch:
            for offset in offsets:
                assert len(store.read_range("object", offset, RANGE_BYTES) or b"") == RANGE_BYTES
        return watch

    def theirs() -> Stopwatch:
        file = direct_file(directory / "file", os.O_RDONLY)
        target = mmap.mmap(-1, RANGE_BYTES)
        watch = Stopwatch()
        with watch:
            for offset in offsets:
                os.preadv(file, [target], offset)
        os.close(file)
        return watch

    return ours, theirs


def small_chunk_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    return range_pair(directory, total, piece, RANGE_BYTES)


def tail_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    size = min(total, 64 * MIB) // READER_THREADS
    path = directory / "file"
    write_file(path, size, piece)

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with edgecache.open(None, memory="512MiB") as store:
            miss = store.get_miss_handler("object")
            hits = [
                store.lookup_streaming_write("object", miss.streaming_write_tag)
                for _ in range(READERS)
            ]
            found: list[int] = []

            def follow(mine: list[Any]) -> None:
                # In turns, as a server does with its connections.
                while mine:
                    for hit in mine.copy():
                        got = hit.read(256 << 10)
                        found.append(len(got))
                        if not got:
                            mine.remove(hit)

            threads = [
                threading.Thread(target=follow, args=(hits[number::READER_THREADS],))
                for number in range(READER_THREADS)
            ]
            with watch:
                for thread in threads:
                    thread.start()
                for _ in range(size // (256 << 10)):
                    miss.write(piece[: 256 << 10])
                miss.finish()
                for thread in threads:
                    thread.join()
        assert sum(found) == size * READERS
        return watch

    def theirs() -> Stopwatch:
        watch = Stopwatch()
        with watch:
            for _ in range(READERS):
                with path.open("rb", buffering=0) as file:
                    while file.read(256 << 10):
                        pass
        return watch

    return ours, theirs


WORKLOADS = {
    "write": write_pair,
    "read": read_pair,
    "ranges": range_pair,
    "ranges64k": small_chunk_pair,
    "tail": tail_pair,
}


def run(name: str, total: int, repeat: int) -> dict[str, Any]:
    piece = os.urandom(PIECE_BYTES)
    with scratch(f"objects-{name}") as directory:
        sides = dict(zip(("ours", "file"), WORKLOADS[name](directory, total, piece), strict=True))
        rounds: dict[str, list[Stopwatch]] = {"ours": [], "file": []}
        for number in range(repeat):
            for side in sorted(sides, reverse=bool(number % 2)):
                rounds[side].append(sides[side]())
    pairs = list(zip(rounds["ours"], rounds["file"], strict=True))
    ratios = sorted(ours.wall_s / theirs.wall_s for ours, theirs in pairs)
    row: dict[str, Any] = {"name": name, "bytes": total, "rounds": repeat}
    for side, watches in rounds.items():
        row[f"{side}_wall_s"] = statistics.median(watch.wall_s for watch in watches)
        row[f"{side}_cpu_s"] = statistics.median(watch.cpu_s for watch in watches)
    row["wall_ratio"] = statistics.median(ratios)
    row["wall_ratio_least"], row["wall_ratio_greatest"] = ratios[0], ratios[-1]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*WORKLOADS, []], default=[])
    parser.add_argument("--bytes", default="1GiB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    total = parse_size(arguments.bytes) // PIECE_BYTES * PIECE_BYTES
    rows = []
    for name in arguments.names or WORKLOADS:
        row = run(name, total, arguments.repeat)
        rows.append(row)
        print(
            f"{name:10} ours {row['ours_wall_s']:7.3f} s ({row['ours_cpu_s']:.3f} CPU)   "
            f"file {row['file_wall_s']:7.3f} s ({row['file_cpu_s']:.3f} CPU)   "
            f"ratio {row['wall_ratio']:.2f} "
            f"({row['wall_ratio_least']:.2f} to {row['wall_ratio_greatest']:.2f})",
            flush=True,
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": describe(), "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
