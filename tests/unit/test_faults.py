"""A sick disk: the store sheds, counts and goes on; nothing raises, nothing wrong is returned."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.images import LONG, open_on
from support.model import KIB, MIB, Tortured, WrongAnswerError, make_value, options, until

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DiskIOError, EdgeCacheError, NoSpaceError

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB,
                block_timeout_s=0.2)  # fmt: skip
TESTS = Path(__file__).parents[1]
POINTS = ("read", "write", "sync", "open", "allocate")


def exercise(store: Tortured, steps: int) -> None:
    """Random operations; syncs and checkpoints may say that the disk is sick, nothing else may."""
    for _ in range(steps):
        try:
            store.step()
        except (DiskIOError, NoSpaceError):
            pass


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_one_failure_anywhere_is_survived(point: str, code: int) -> None:
    """The nth call of each kind fails, for n from 1 until no call is reached any more."""
    for nth in [*range(1, 12), *range(12, 200, 40 if not LONG else 3)]:
        disk = MemoryDisk()
        store = Tortured(nth, disk=disk, keys=20, store=STORE)
        io.fail(disk, point, code, nth=nth)
        exercise(store, 60)
        io.heal(disk)
        exercise(store, 20)
        store.check_all()
        # The first may have to tell of what was lost.
        if not store.sync():
            assert store.sync()
        store.crash()
        store.open()
        store.check_all()
        store.core.close()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("seed", range(30 if LONG else 3))
def test_a_failing_disk_never_raises_from_get_put_or_delete(point: str, seed: int) -> None:
    disk = MemoryDisk()
    store = Tortured(seed, disk=disk, keys=20, store=STORE)
    exercise(store, 80)
    io.fail(disk, point, errno.EIO, count=-1)
    for number in range(200):
        key = store.rng.choice(store.keys)
        if number % 3 == 0:
            store.put(key, 3000)
        elif number % 7 == 0:
            store.delete(key)
        else:
            store.get(key)
    store.get_many(store.keys)
    io.heal(disk)
    store.crash()
    store.open()
    store.check_all()
    store.core.close()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 9, 30])
def test_a_failure_while_opening_is_a_cold_start_or_a_named_error(point: str, nth: int) -> None:
    disk = MemoryDisk()
    store = Tortured(nth, disk=disk, keys=20, store=STORE)
    exercise(store, 100)
    store.sync()
    store.crash()
    io.fail(disk, point, errno.EIO, nth=nth)
    try:
        store.open()
    except EdgeCacheError:
        io.heal(disk)
        store.open()
    io.heal(disk)
    exercise(store, 50)
    store.check_all()
    store.core.close()


def test_a_read_only_tier_serves_ram_and_disk_and_heals() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    values = {b"key-%d" % n: make_value(b"key-%d" % n, n, 2000) for n in range(300)}
    for key, value in values.items():
        assert core.put(key, value)
    core.sync()
    io.fail(disk, "write", errno.EIO, count=-1)
    counter = iter(range(10**9))

    def put() -> bool:
        return core.put(b"more-%d" % next(counter), bytes(5000))

    until(lambda: core.counters()["is_read_only"], put)
    assert put() is False
    shed = core.counters()["shed"]
    assert sum(shed.values()) > 0
    found = [core.get(key) for key in values]
    assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
    assert sum(value is not None for value in found) > len(values) // 3
    io.heal(disk)
    until(lambda: not core.counters()["is_read_only"], lambda: time.sleep(0.05))
    until(put, lambda: time.sleep(0.01))
    with pytest.raises(DiskIOError):
        core.sync()
    core.put(b"last", b"value")
    core.sync()
    assert core.check() == []
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"last") == b"value"
    core.close()


def test_a_failed_background_flush_is_told_by_the_next_sync() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    io.fail(disk, "write", errno.EIO)
    assert core.put(b"key", b"value")
    until(lambda: core.counters()["flush_errors"] > 0, lambda: time.sleep(0.001))
    with pytest.raises(DiskIOError):
        core.sync()
    core.sync()
    assert core.put(b"key", b"again")
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"key") == b"again"
    core.close()


def test_a_failed_sync_retires_what_it_covered_and_is_never_trusted() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"durable", b"value")
    core.sync()
    core.put(b"other", bytes(3000))
    core.flush()
    io.fail(disk, "sync", errno.EIO)
    with pytest.raises(DiskIOError):
        core.sync()
    assert core.counters()["regions_retired"] >= 1
    # Known to have been there: a delete must hide it from a recovery that can read it again.
    core.delete(b"durable")
    core.delete(b"other")
    core.sync()
    assert core.get(b"durable") is None
    core.abandon()
    for _ in range(2):
        core = open_on(disk, STORE)
        assert core.get(b"durable") is None
        assert core.get(b"other") is None
        core.abandon()


@pytest.mark.parametrize("change", ["delete", "overwrite"])
def test_a_record_that_cannot_be_read_is_still_hidden_by_what_follows(change: str) -> None:
    disk = MemoryDisk()
    store = {**STORE, "memory_bytes": 2 * MIB}
    core = open_on(disk, store)
    core.put(b"key", b"old" * 500)
    core.sync()
    core.abandon()
    core = open_on(disk, store)
    io.fail(disk, "read", errno.EIO, count=-1)
    if change == "delete":
        core.delete(b"key")
    else:
        core.put(b"key", b"new")
    io.heal(disk)
    wanted = None if change == "delete" else b"new"
    assert core.get(b"key") == wanted
    core.sync()
    for _ in range(2):
        core.abandon()
        core = open_on(disk, store)
        assert core.get(b"key") == wanted
    core.close()


def test_a_full_file_system_sheds_and_recovers_when_space_returns() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    assert core.put(b"early", b"value")
    core.sync()
    io.disturb(disk, space_left_bytes=0)
    answers = [core.put(b"key-%d" % n, bytes(20_000)) for n in range(400)]
    assert core.get(b"early") in (None, b"value")
    io.heal(disk)
    until(lambda: core.put(b"late", b"value"), lambda: time.sleep(0.01))
    core.sync()
    assert all(isinstance(answer, bool) for answer in answers)
    assert core.get(b"late") == b"value"
    core.close()


def test_a_root_on_a_full_file_system_opens_and_serves_from_ram() -> None:
    disk = MemoryDisk(capacity_bytes=64 * KIB)
    core = open_on(disk, STORE)
    answers = [core.put(b"key-%d" % n, bytes(2000)) for n in range(50)]
    assert all(isinstance(answer, bool) for answer in answers)
    assert all(core.get(b"key-%d" % n) in (None, bytes(2000)) for n in range(50))
    core.close()


@pytest.mark.parametrize("seed", range(20 if LONG else 4))
def test_short_transfers_and_interruptions_are_never_seen(seed: int) -> None:
    disk = MemoryDisk()
    store = Tortured(seed, disk=disk, keys=20, store=STORE)
    io.disturb(disk, seed=seed, short_one_in=2, shuffle=True, delay_reaps=1)
    for _ in range(300):
        store.step()
    store.check_all()
    store.crash()
    store.open()
    store.check_all()
    store.core.close()


@pytest.mark.parametrize("seed", range(400 if LONG else 25))
def test_random_faults_and_crashes_together_never_show_a_wrong_value(seed: int) -> None:
    """Faults of any kind come and go while the store runs, recovers and is cut off.

    What a sync acknowledged after a failure may be lost with the disk that failed; it is only asked
    that no value is returned that the key never had, nor one older than a change since the last
    opening of the store.
    """
    rng = random.Random(seed)
    disk = MemoryDisk()
    store = Tortured(seed, disk=disk, keys=20, store=STORE)
    for _ in range(3):
        for _ in range(rng.randint(1, 3)):
            exercise(store, rng.randint(1, 60))
            io.fail(disk, rng.choice(POINTS), rng.choice((errno.EIO, errno.ENOSPC)),
                    nth=rng.randint(1, 30), count=rng.choice((1, 1, 3)))  # fmt: skip
        exercise(store, 60)
        io.heal(disk)
        assert store.core.check() == []
        store.crash()
        store.model.synced.clear()
        if rng.random() < 0.5:
            io.power_cut(disk, seed=seed)
        store.model.crash()
        store.open()
        store.check_all()
    store.core.close()


def test_a_wrong_answer_would_be_noticed() -> None:
    """The model itself: older, foreign and deleted values are refused."""
    store: Any = Tortured(0, disk=MemoryDisk(), keys=2, store=STORE)
    key = store.keys[0]
    store.put(key, 100)
    old = store.core.get(key)
    store.put(key, 100)
    for value in (old, b"foreign"):
        with pytest.raises(WrongAnswerError):
            store.model.check(key, value)
    store.delete(key)
    with pytest.raises(WrongAnswerError):
        store.model.check(key, old)
    store.sync()
    store.crash()
    with pytest.raises(WrongAnswerError):
        store.model.check(key, old)
    store.open()
    store.core.close()


CHILD = """
import resource, sys
from support.model import options
from edgecache._core import Core
from edgecache._io import open_engine
from edgecache.errors import EdgeCacheError
engine, root, kind = sys.argv[1:]
# Without a fault every put gets a buffer in time, on a machine of any load.
patience_s = 0.05 if kind == "size" else 30.0
store = options(
    region_bytes=131072, disk_bytes=4194304, buffer_bytes=32768, block_timeout_s=patience_s
)
if kind == "size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
core = Core(store, open_engine(engine, root))
if kind == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
answers = [core.put(b"key-%d" % n, bytes(4000)) for n in range(20)]
found = [core.get(b"key-%d" % n) for n in range(20)]
assert all(value in (None, bytes(4000)) for value in found)
told = 0
for call in (core.checkpoint, core.sync):
    try:
        call()
    except EdgeCacheError:
        told += 1
if kind == "files":
    assert all(answers) and all(found) and told == 1
else:
    assert not all(answers)
core.get_many([b"key-%d" % n for n in range(20)])
core.close()
print("done")
"""


@pytest.mark.parametrize("engine", ["uring", "threads"])
@pytest.mark.parametrize("kind", ["size", "files"])
def test_limits_of_the_process_shed_and_are_told(engine: str, kind: str, tmp_path: Path) -> None:
    """RLIMIT_FSIZE (EFBIG, SIGXFSZ) and RLIMIT_NOFILE (EMFILE)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, engine, str(tmp_path), kind],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
