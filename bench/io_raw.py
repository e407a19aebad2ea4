"""Raw speed of the I/O engines against fio, on one file of one file system.

Workloads: 4 KiB random O_DIRECT reads at queue depth 1, 16 and 64; 1 MiB sequential O_DIRECT writes
at queue depth 4. Each engine runs a native loop without the GIL (`_testing_io.run_loop`), waiting
for a quarter of the depth; fio, when installed, runs io_uring on the same file. Runs are
interleaved and medians given, with the spread; CPU is user plus system time of the process.

    python bench/io_raw.py [--size-bytes 1073741824 --seconds 2 --repeat 5 --json F --directory D]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from edgecache import _testing_io as io
from edgecache._io import open_engine

ENGINES = ("uring", "threads")
FILE_NAME = "raw"
FILL_BYTES = 1 << 20


class Workload(NamedTuple):
    name: str
    block_bytes: int
    depth: int
    is_write: bool


class Sample(NamedTuple):
    operations_per_s: float
    cpu_us_per_operation: float


WORKLOADS = (
    Workload("randread-4k-qd1", 4096, 1, False),
    Workload("randread-4k-qd16", 4096, 16, False),
    Workload("randread-4k-qd64", 4096, 64, False),
    Workload("seqwrite-1m-qd4", 1 << 20, 4, True),
)


def fill(root: Path, size_bytes: int) -> None:
    """Write the whole file: reading holes or unwritten extents would not reach the device."""
    driver = io.Driver(open_engine("threads", root))
    flags = io.OPEN_CREATE | io.OPEN_WRITE | io.OPEN_DIRECT
    file = driver.open_file(FILE_NAME.encode(), flags)
    body = os.urandom(FILL_BYTES)
    for offset in range(0, size_bytes, FILL_BYTES):
        if driver.write(file, offset, body) != FILL_BYTES:
            raise OSError("the benchmark file could not be written")
    driver.sync(file)
    driver.engine.close()


def run_engine(kind: str, root: Path, work: Workload, size_bytes: int, seconds: float) -> Sample:
    engine = open_engine(kind, root, queue_depth=work.depth)
    driver = io.Driver(engine)
    file = driver.open_file(FILE_NAME.encode(), io.OPEN_WRITE | io.OPEN_DIRECT)
    before = time.process_time()
    count, taken, errors = io.run_loop(
        engine, file, size_bytes, work.block_bytes, work.depth, seconds, work.is_write
    )
    cpu_s = time.process_time() - before
    engine.close()
    if errors or not count:
        raise OSError(f"{kind} {work.name}: {errors} of {count} operations failed")
    return Sample(count / taken, cpu_s * 1e6 / count)


def run_fio(root: Path, work: Workload, size_bytes: int, seconds: float) -> Sample:
    command = [
        "fio",
        "--name=raw",
        "--ioengine=io_uring",
        "--direct=1",
        "--thread",
        "--norandommap",
        "--randrepeat=0",
        "--time_based",
        "--gtod_reduce=1",
        "--output-format=json",
        f"--filename={root / FILE_NAME}",
        f"--rw={'write' if work.is_write else 'randread'}",
        f"--bs={work.block_bytes}",
        f"--iodepth={work.depth}",
        f"--size={size_bytes}",
        f"--runtime={max(1, round(seconds))}",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    job = found["jobs"][0]
    side = job["write" if work.is_write else "read"]
    cpu_share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return Sample(side["iops"], cpu_share * 1e6 / side["iops"])


def summary(samples: list[Sample]) -> dict[str, Any]:
    rates = [sample.operations_per_s for sample in samples]
    return {
        "operations_per_s": statistics.median(rates),
        "operations_per_s_min": min(rates),
        "operations_per_s_max": max(rates),
        "cpu_us_per_operation": statistics.median(s.cpu_us_per_operation for s in samples),
    }


def measure(root: Path, size_bytes: int, seconds: float, repeat: int) -> list[dict[str, Any]]:
    rows = []
    peers = [*ENGINES, *(["fio"] if shutil.which("fio") else [])]
    for work in WORKLOADS:
        samples: dict[str, list[Sample]] = {peer: [] for peer in peers}
        for _ in range(repeat):
            for peer in peers:
                if peer == "fio":
                    samples[peer].append(run_fio(root, work, size_bytes, seconds))
                else:
                    samples[peer].append(run_engine(peer, root, work, size_bytes, seconds))
        row: dict[str, Any] = {"workload": work.name}
        row |= {peer: summary(found) for peer, found in samples.items()}
        for peer in ENGINES if "fio" in peers else ():
            for figure, name in (("operations_per_s", "rate"), ("cpu_us_per_operation", "cpu")):
                row[f"{peer}_{name}_ratio_to_fio"] = row[peer][figure] / row["fio"][figure]
        rows.append(row)
        print_row(row, peers)
    return rows


def print_row(row: dict[str, Any], peers: list[str]) -> None:
    for peer in peers:
        found = row[peer]
        line = (
            f"{row['workload']:18} {peer:8} {found['operations_per_s']:10.0f}/s"
            f"  ({found['operations_per_s_min']:.0f} to {found['operations_per_s_max']:.0f})"
            f"  {found['cpu_us_per_operation']:8.2f} us CPU"
        )
        if f"{peer}_rate_ratio_to_fio" in row:
            line += f"  {row[f'{peer}_rate_ratio_to_fio']:.2f}x rate"
            line += f"  {row[f'{peer}_cpu_ratio_to_fio']:.2f}x CPU of fio"
        print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-bytes", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where the file goes (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    size_bytes = max(FILL_BYTES, options.size_bytes // FILL_BYTES * FILL_BYTES)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        root = Path(folder)
        fill(root, size_bytes)
        rows = measure(root, size_bytes, options.seconds, options.repeat)
    machine = {"kernel": platform.release(), "cores": os.cpu_count(), "python": sys.version}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
