"""fio as a subprocess: what the device gives to a C program on the same file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.measure import Sample


def run_fio(path: Path, *, runtime_s: float = 0, **options: object) -> Sample:
    """Run one fio job on one file.

    Args:
        path: The file; fio makes it where it does not exist.
        runtime_s: How long; 0 runs through the file once.
        options: Options of fio (`rw`, `bs`, `iodepth`, `ioengine`, `size` ...).

    Returns:
        Operations, seconds of the job and its own CPU time (start-up is not in it); `extra` has
        the mean completion latency in us.
    """
    command = [
        "fio", "--name=peer", "--thread", "--norandommap", "--randrepeat=1",
        "--output-format=json", f"--filename={path}",
    ]  # fmt: skip
    if runtime_s:
        command += ["--time_based", f"--runtime={round(runtime_s * 1000)}ms"]
    command += [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio: {(done.stderr or done.stdout).strip()[-400:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["read"] if job["read"]["total_ios"] else job["write"]
    seconds = side["runtime"] / 1000 or side["total_ios"] / side["iops"]
    cpu_share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    # Source: fio's JSON: `runtime` counts whole ms, `iops` uses the same span.
    return Sample(
        int(side["total_ios"]),
        seconds,
        cpu_share * job["job_runtime"] / 1000,
        {"latency_us": side["clat_ns"]["mean"] / 1000},
    )
