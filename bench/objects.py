"""Objects of any size against plain file I/O of the same bytes, in the same run.

    python -m bench.objects [--bytes 1GiB] [--large 10GiB] [--repeat 3] [--json out/...json]

    write       one stream in 4 MiB pieces, durable at the end; a file: O_DIRECT writes, fdatasync
    read        the whole object in pieces, from disk; a file: O_DIRECT reads of 4 MiB
    write-fio   as `write`, against fio: io_uring, 1 MiB, 8 in flight, fsync at the end
    read-fio    as `read`, against fio: io_uring, 1 MiB, 8 in flight
    ranges      random ranges of 64 KiB of an object of `--large` bytes, each chunk met about once;
                O_DIRECT pread of as many ranges of the same data files
    hot-ranges  the same ranges in the first 1 GiB of it, whose heads are known by then
    file-ranges, file-hot-ranges    as these, with `layout: files` and against pread of its body;
                both sides through a page cache that has nothing of it
    file-write, file-read           as `write-fio` and `read-fio`, with `layout: files`
    tail        100 readers in 4 threads that follow one writer, RAM only; a file: 100 reads of it

The sides take turns, each round starting with another one. Ratios are per round, the median and the
extremes of them are reported: wall time of ours over theirs, below 1 is faster. Of ranges the bytes
read from the device over those asked for are reported, too.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import statistics
import subprocess
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
HOT_BYTES = GIB
READERS = 100
READER_THREADS = 4

# Bytes read from the device over bytes asked for, of each round of ranges.
RANGES_READ: list[float] = []
NEEDS_FIO = ("write-fio", "read-fio", "file-write", "file-read")
LARGE = ("ranges", "hot-ranges", "file-ranges", "file-hot-ranges")

Round = Callable[[], Stopwatch]


def open_store(root: Path, total: int, **options: Any) -> edgecache.Storage:
    return edgecache.open(root, memory="64MiB", disk=max(4 * GIB, 3 * total), **options)


def direct_file(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT | os.O_CREAT, 0o600)


def aligned(content: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(content))
    buffer.write(content)
    return buffer


def write_pair(
    directory: Path, total: int, piece: bytes, layout: str = "log"
) -> tuple[Round, Round]:
    source = aligned(piece)

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with open_store(directory / "store", total, layout=layout) as store:
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


def read_pair(
    directory: Path, total: int, piece: bytes, layout: str = "log"
) -> tuple[Round, Round]:
    write_file(directory / "file", total, piece)
    with (
        open_store(directory / "store", total, layout=layout) as store,
        store.get_miss_handler("object") as miss,
    ):
        for _ in range(total // len(piece)):
            miss.write(piece)
        miss.finish()

    def ours() -> Stopwatch:
        watch = Stopwatch()
        with open_store(directory / "store", total, layout=layout) as store:
            drop_cache(directory / "store")
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


def drop_cache(root: Path) -> None:
    """Have the page cache forget the files below a directory."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def device_bytes() -> int:
    """What this process had the device read, through the page cache or around it."""
    for line in Path("/proc/self/io").read_text("ascii").splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise OSError("no read_bytes in /proc/self/io")


def write_file(path: Path, total: int, piece: bytes) -> None:
    with path.open("wb") as file:
        for _ in range(total // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())


def fio(path: Path, mode: str, total: int) -> Stopwatch:
    """One job of fio over a file; its own clock, without its start."""
    command = [
        "fio", "--name=job", f"--filename={path}", f"--rw={mode}", "--bs=1M", f"--size={total}",
        "--direct=1", "--ioengine=io_uring", "--iodepth=8", "--output-format=json",
    ]  # fmt: skip
    if mode == "write":
        command.append("--end_fsync=1")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    watch = Stopwatch()
    watch.wall_s = job["job_runtime"] / 1000
    watch.cpu_s = watch.wall_s * (job["usr_cpu"] + job["sys_cpu"]) / 100
    return watch


def write_fio_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    ours, _ = write_pair(directory, total, piece)
    return ours, lambda: fio(directory / "fio", "write", total)


def read_fio_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    ours, _ = read_pair(directory, total, piece)
    return ours, lambda: fio(directory / "file", "read", total)


def file_write_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    ours, _ = write_pair(directory, total, piece, "files")
    return ours, lambda: fio(directory / "fio", "write", total)


def file_read_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    ours, _ = read_pair(directory, total, piece, "files")
    return ours, lambda: fio(directory / "file", "read", total)


def large_store(directory: Path, total: int, piece: bytes, layout: str) -> list[Path]:
    """A store with an object of `total` bytes; its data files."""
    root = directory / "store"
    with (
        edgecache.open(root, memory="64MiB", disk=total * 3 // 2, layout=layout) as store,
        store.get_miss_handler("object") as miss,
    ):
        for _ in range(total // len(piece)):
            miss.write(piece)
        miss.finish()
    return sorted((root / "data").iterdir() if layout == "log" else root.rglob("body.bin"))


def range_pair(
    directory: Path, total: int, piece: bytes, span: int | None = None, layout: str = "log"
) -> tuple[Round, Round]:
    """Both sides read ranges of the same bytes of the same files, ours by the object's key."""
    paths = large_store(directory, total, piece, layout)
    files = [
        direct_file(path, os.O_RDONLY) if layout == "log" else os.open(path, os.O_RDONLY)
        for path in paths
    ]
    file_bytes = GIB if layout == "log" else total
    span = total if span is None else min(span, total)
    rng = random.Random(1)
    RANGES_READ.clear()

    def draw() -> list[int]:
        return [rng.randrange(span // RANGE_BYTES) * RANGE_BYTES for _ in range(RANGE_COUNT)]

    def ours() -> Stopwatch:
        watch = Stopwatch()
        offsets = draw()
        with edgecache.open(
            directory / "store", memory="64MiB", disk=total * 3 // 2, layout=layout
        ) as store:
            drop_cache(directory / "store")
            if span < total:
                for offset in range(0, span, PIECE_BYTES):
                    store.read_range("object", offset, 1)
            before = device_bytes()
            with watch:
                for offset in offsets:
                    found = store.read_range("object", offset, RANGE_BYTES)
                    assert found is not None
                    assert len(found) == RANGE_BYTES
            read = device_bytes() - before
        RANGES_READ.append(read / (RANGE_COUNT * RANGE_BYTES))
        return watch

    def theirs() -> Stopwatch:
        target = mmap.mmap(-1, RANGE_BYTES)
        places = [divmod(offset, file_bytes) for offset in draw()]
        drop_cache(directory / "store")
        watch = Stopwatch()
        with watch:
            for number, offset in places:
                os.preadv(files[number], [target], offset)
        return watch

    return ours, theirs


def hot_range_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    return range_pair(directory, total, piece, HOT_BYTES)


def file_range_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    return range_pair(directory, total, piece, layout="files")


def file_hot_range_pair(directory: Path, total: int, piece: bytes) -> tuple[Round, Round]:
    return range_pair(directory, total, piece, HOT_BYTES, "files")


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
    "write-fio": write_fio_pair,
    "read-fio": read_fio_pair,
    "ranges": range_pair,
    "hot-ranges": hot_range_pair,
    "file-ranges": file_range_pair,
    "file-hot-ranges": file_hot_range_pair,
    "file-write": file_write_pair,
    "file-read": file_read_pair,
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
    if name in LARGE:
        row["read_ratio"] = statistics.median(RANGES_READ)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*WORKLOADS, []], default=[])
    parser.add_argument("--bytes", default="1GiB")
    parser.add_argument("--large", default="10GiB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names or WORKLOADS:
        if name in NEEDS_FIO and shutil.which("fio") is None:
            print(f"{name:10} left out: there is no fio", flush=True)
            continue
        total = parse_size(arguments.large if name in LARGE else arguments.bytes)
        row = run(name, total // PIECE_BYTES * PIECE_BYTES, arguments.repeat)
        rows.append(row)
        print(
            f"{name:10} ours {row['ours_wall_s']:7.3f} s ({row['ours_cpu_s']:.3f} CPU)   "
            f"file {row['file_wall_s']:7.3f} s ({row['file_cpu_s']:.3f} CPU)   "
            f"ratio {row['wall_ratio']:.2f} "
            f"({row['wall_ratio_least']:.2f} to {row['wall_ratio_greatest']:.2f})"
            + (f"   read {row['read_ratio']:.3f}" if "read_ratio" in row else ""),
            flush=True,
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": describe(), "rows": rows}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
