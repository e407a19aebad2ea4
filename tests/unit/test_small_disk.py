"""A file system that is smaller than the budget: the cache is as large as there is space for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.model import KIB, MIB, options

from edgecache import Config, Storage
from edgecache._core import Core
from edgecache._io import open_engine
from edgecache._io_memory import MemoryDisk
from edgecache.opening import REGION_COUNT_MAX, region_bytes_for

VALUE_BYTES = 16 * KIB


def value_of(number: int) -> bytes:
    return number.to_bytes(4, "little") * (VALUE_BYTES // 4)


def open_small(disk: MemoryDisk) -> Core:
    """A store that may use 32 MiB, in one data file, and RAM for hardly anything."""
    store = options(disk_bytes=32 * MIB, block_timeout_s=30.0)
    return Core(store, open_engine("memory", disk=disk))


def test_what_there_is_space_for_is_used_and_used_again() -> None:
    disk = MemoryDisk(capacity_bytes=3 * MIB)
    core = open_small(disk)
    assert all(core.put(b"%d" % n, value_of(n)) for n in range(1000))
    core.sync()
    found = [n for n in range(1000) if core.get(b"%d" % n) is not None]
    # The newest ones are there, about as many as there are regions to keep them.
    assert found[-1] == 999
    assert len(found) * VALUE_BYTES > MIB
    assert all(core.get(b"%d" % n) in (None, value_of(n)) for n in range(1000))
    counters = core.counters()
    assert counters["prepare_errors"] > 0
    core.close()
    again = open_small(disk)
    assert again.get(b"999") == value_of(999)
    assert again.put(b"more", value_of(7))
    again.close()


def test_without_space_for_one_region_puts_are_shed() -> None:
    core = open_small(MemoryDisk(capacity_bytes=64 * KIB))
    assert not core.put(b"key", value_of(1))
    assert core.get(b"key") is None
    core.close()


CHILD = """
import resource, sys
from support.model import MIB, options
from edgecache._core import Core
from edgecache._io import open_engine
engine, root = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB))
core = Core(options(disk_bytes=32 * MIB, block_timeout_s=30.0), open_engine(engine, root))
value = bytes(16384)
assert all(core.put(b"%d" % n, value) for n in range(500))
assert core.get(b"499") == value
core.close()
print("done")
"""


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_files_that_may_not_grow_hold_what_fits(engine: str, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, engine, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    (data,) = (tmp_path / "data").iterdir()
    # Whole regions, and nothing reserved behind them.
    assert data.stat().st_size % (256 * KIB) == 0
    assert data.stat().st_blocks * 512 <= data.stat().st_size + 64 * KIB


def test_regions_of_a_new_root_are_sized_by_the_space_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        f_bavail = 25_600
        f_frsize = 4096

    monkeypatch.setattr(os, "statvfs", lambda _path: Found)
    config = Config(root=str(tmp_path), disk="100GiB")
    assert region_bytes_for(config, str(tmp_path)) == 4 * MIB
    # A fixed size is a fixed size, and an enormous budget does not make countless regions.
    assert region_bytes_for(config.replace(region_size="64MiB"), str(tmp_path)) == 64 * MIB
    huge = config.replace(disk="64TiB")
    assert huge.disk // region_bytes_for(huge, str(tmp_path)) <= REGION_COUNT_MAX


def test_the_size_of_an_old_root_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(root=str(tmp_path / "cache"), memory="4MiB", disk="64MiB")
    with Storage(config) as store:
        assert store.put("key", b"value")

    class Found:
        f_bavail = 4096
        f_frsize = 4096

    monkeypatch.setattr(os, "statvfs", lambda _path: Found)
    with Storage(config) as store:
        assert store.get("key") == b"value"


def test_the_file_layout_makes_room_on_a_device_that_is_smaller_than_its_budget() -> None:
    disk = MemoryDisk(capacity_bytes=4 * MIB)
    config = Config(io="memory", layout="files", memory="1MiB", disk="64MiB", block_timeout=30)
    with Storage(config, disk=disk) as store:
        assert all(store.put(f"{n}", value_of(n)) for n in range(600))
        store.sync()
        found = [n for n in range(600) if store.get(f"{n}") is not None]
        assert found[-1] == 599
        assert len(found) * VALUE_BYTES > MIB
        assert all(store.get(f"{n}") in (None, value_of(n)) for n in found)
        assert store.health().status != "failing"
