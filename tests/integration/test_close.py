"""Closing a store gives back every descriptor and thread, whoever still reads from it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.model import until

from edgecache import AsyncStorage, Config, Storage
from edgecache.errors import StoreClosedError

CYCLES = 50
KEYS = [f"k{number}" for number in range(300)]


def descriptors() -> set[str]:
    """What each open descriptor points to; those of this call itself are gone again."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def collected() -> None:
    """Loops that earlier tests left in a cycle go first, not at some time in between."""
    gc.collect()


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def config_of(io: str, root: Path) -> Config:
    return Config(root=str(root), io=io, memory="1MiB", disk="16MiB", shards=1, front_size=0)


def fill(store: Storage) -> None:
    for key in KEYS:
        assert store.put(key, key.encode() * 1500)
    store.sync()


class Readers:
    """Threads that read batches until the store refuses them; each ends when it is told to."""

    def __init__(self, store: Storage, read: Callable[[Storage], object], count: int = 3) -> None:
        self.refused = 0
        self.unexpected: list[BaseException] = []
        self.started = threading.Barrier(count + 1)
        self.end = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(store, read)) for _ in range(count)]
        for thread in self.threads:
            thread.start()
        self.started.wait()

    def run(self, store: Storage, read: Callable[[Storage], object]) -> None:
        try:
            read(store)
            self.started.wait()
            while True:
                read(store)
        except StoreClosedError:
            with self.lock:
                self.refused += 1
        except BaseException as error:
            self.unexpected.append(error)
        self.end.wait()

    def join(self) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()


def read_one_by_one(store: Storage) -> None:
    for key in KEYS[::7]:
        assert store.get(key) in (key.encode() * 1500, None)


def read_batches(store: Storage) -> None:
    for key, value in zip(KEYS, store.get_many(KEYS), strict=True):
        assert value in (key.encode() * 1500, None)


@pytest.mark.parametrize("io", ["uring", "threads"])
@pytest.mark.parametrize("read", [read_one_by_one, read_batches])
def test_close_under_readers_gives_all_back_and_refuses_them(
    io: str, read: Callable[[Storage], object], tmp_path: Path
) -> None:
    """The threads live on, so that nothing is given back by their end."""
    config = config_of(io, tmp_path)
    with Storage(config) as store:
        fill(store)
    before, threads = descriptors(), native_threads()
    for cycle in range(CYCLES):
        store = Storage(config)
        readers = Readers(store, read, 2)
        store.close()
        for thread in readers.threads:
            assert thread.is_alive()
        assert not {each for each in descriptors() if str(tmp_path) in each or "uring" in each}
        readers.end.set()
        readers.join()
        assert readers.unexpected == []
        assert readers.refused == 2
        assert descriptors() == before, cycle
        until(lambda: native_threads() == threads)  # a Python thread ends a little after its join
        with pytest.raises(StoreClosedError):
            store.get_many(KEYS)


async def read_for_ever(store: Storage, reading: threading.Event) -> None:
    face = AsyncStorage(storage=store)
    while True:
        for key in KEYS[::7]:
            assert await face.get(key) in (key.encode() * 1500, None)
        reading.set()
        await asyncio.sleep(0)  # hits in RAM do not suspend


def run_loop(store: Storage, reading: threading.Event, ended: list[BaseException]) -> None:
    try:
        asyncio.run(read_for_ever(store, reading))
    except BaseException as error:
        ended.append(error)


@pytest.mark.parametrize("io", ["uring", "threads"])
def test_close_gives_back_the_readers_of_other_loops(io: str, tmp_path: Path) -> None:
    config = config_of(io, tmp_path)
    with Storage(config) as store:
        fill(store)
    before, threads = descriptors(), native_threads()
    for cycle in range(CYCLES):
        store = Storage(config)
        reading = threading.Event()
        ended: list[BaseException] = []
        thread = threading.Thread(target=run_loop, args=(store, reading, ended))
        thread.start()
        reading.wait()
        store.close()
        assert not {each for each in descriptors() if str(tmp_path) in each or "uring" in each}
        thread.join()
        assert [type(error) for error in ended] == [StoreClosedError]
        assert descriptors() == before, cycle
        until(lambda: native_threads() == threads)  # a Python thread ends a little after its join
