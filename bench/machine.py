"""What a figure depends on: processor, kernel, file system, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

DISTRIBUTIONS = (
    "xxhash", "liburing", "numpy", "uvloop", "cachebox", "diskcache", "lmdb", "rocksdict", "plyvel",
)  # fmt: skip


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def file_system(path: Path) -> str:
    """Type of the file system that holds `path` (the longest mount point that contains it)."""
    best = ("", "unknown")
    try:
        lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    place = str(path.resolve())
    for line in lines:
        device, point, kind = line.split()[:3]
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, f"{kind} on {device}")
    return best[1]


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def fio_version() -> str:
    if not shutil.which("fio"):
        return "not installed"
    return subprocess.run(
        ["fio", "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()


def describe(directory: Path | None = None) -> dict[str, str]:
    """Return facts about machine and versions, by name."""
    import sqlite3

    import edgecache

    return {
        "processor": processor(),
        "CPUs": str(os.cpu_count()),
        "memory": f"{memory_bytes() / (1 << 30):.1f} GiB",
        "kernel": platform.release(),
        "file system": file_system(directory or Path(tempfile.gettempdir())),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "edgecache": edgecache.__version__,
        "fio": fio_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in DISTRIBUTIONS},
    }
