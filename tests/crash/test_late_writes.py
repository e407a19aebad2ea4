"""Writes that a killed process left on their way: who opens the root next waits for them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.model import MIB
from torture.campaign import CannotRunError
from torture.loopfs import Mount, file_system
from torture.throttle import SLOW_BPS, Throttle, throttle

from edgecache import Config, Storage
from edgecache import root as root_module
from edgecache.errors import StoreLockedError

KEY, VALUE = b"key", b"value" * 20_000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Mount, Throttle]]:
    with contextlib.ExitStack() as stack:
        try:
            mount = stack.enter_context(file_system("ext4", tmp_path, size_bytes=96 * MIB))
            found = stack.enter_context(throttle(mount.point))
        except CannotRunError as reason:
            pytest.skip(str(reason))
        yield mount, found


def config_of(root: Path, engine: str) -> Config:
    return Config(root=str(root), io=engine, memory=4 * MIB, disk=32 * MIB, region_size=MIB,
                  flush_interval=0.001)  # fmt: skip


def on_its_way(store: Storage, engine: str) -> bool:
    """Whether a block was handed to the device: by a ring, or by a thread that waits in a write."""
    if engine == "uring":
        return bool(store.stats()["io"]["in_flight"])
    tasks = Path("/proc/self/task").glob("*/stat")
    return any(task.read_text().rpartition(")")[2].split()[0] == "D" for task in tasks)


def work(config: Config, throttle: Throttle, pipe: int) -> None:
    """In a child: put, and say so when the block is on its way to a device that is stuck."""
    throttle.add(os.getpid())
    store = Storage(config)
    store.put(b"before", b"value")
    store.sync()
    throttle.set("write", SLOW_BPS)
    assert store.put(KEY, VALUE)
    while not on_its_way(store, config.io):
        pass
    # A ring may hand it to a kernel thread, which a kill keeps from starting: let it start. The
    # device takes minutes for it.
    threading.Event().wait(0.5)
    os.write(pipe, b"!")
    signal.pause()


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_an_opener_sees_what_a_killed_process_had_on_its_way_to_the_device(
    slow: tuple[Mount, Throttle], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, throttle = slow
    config = config_of(mount.point / "root", engine)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(config, throttle, writer)
        finally:
            os._exit(3)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"!"
        with pytest.raises(StoreLockedError, match="has this cache root open"):
            Storage(config)
        os.kill(child, signal.SIGKILL)
        # Not waited for: a thread in a write is there until the device answers.
        monkeypatch.setattr(root_module, "DEAD_WAIT_S", 0.3)
        with pytest.raises(StoreLockedError, match="is gone"):
            Storage(config)
        monkeypatch.undo()
        # The rest lands while the next opener waits for it.
        monkeypatch.setattr(root_module.time, "sleep", lambda _: throttle.release())
        with Storage(config) as store:
            assert store.get(b"before") == b"value"
            assert store.get(KEY) == VALUE
    finally:
        throttle.release()
        os.close(reader)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
