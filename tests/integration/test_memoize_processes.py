"""Remembered results over several processes: one of them computes, and whatever becomes of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import join, start

from edgecache import AsyncStorage, Config, Storage, errors

MIB = 1024 * 1024
DEADLINE_S = 30.0
LONG_S = 600.0
PROCESSES = 4
THREADS = 4
RESULT = b"result " * 100


def config_of(root: Path) -> Config:
    return Config(
        root=str(root), shared=True, memory=4 * MIB, disk=64 * MIB, region_size=MIB, shards=1,
        flush_size=64 * 1024, flush_interval=0.005,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Iterator[Storage]:
    with Storage(config_of(root)) as opened:
        yield opened
        assert opened.check() == []


class Signal:
    """One byte from a process to another."""

    def __init__(self) -> None:
        self._from, self._to = os.pipe()

    def give(self) -> None:
        os.write(self._to, b"x")

    def await_it(self) -> None:
        assert os.read(self._from, 1) == b"x"


def waits_of(store: Storage) -> int:
    return store.stats()["leases"]["waits"]


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.002)


def ask(config: dict[str, Any], calls: Path, barrier: Any) -> None:
    """A process of several threads that all want one result."""
    with Storage(Config.from_dict(config)) as store:

        @store.memoize(key="slow", ttl=LONG_S, lock_timeout=LONG_S)
        def compute(argument: int) -> bytes:
            with calls.open("ab") as out:
                out.write(b"x")
            # Long enough that the others come meanwhile: as many of them wait as there are.
            until(lambda: waits_of(store) >= PROCESSES - 1)
            return RESULT

        def want() -> None:
            found.append(compute(7))

        found: list[bytes] = []
        threads = [threading.Thread(target=want) for _ in range(THREADS)]
        barrier.wait(DEADLINE_S)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert found == [RESULT] * THREADS
        barrier.wait(DEADLINE_S)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_of_many_processes_and_threads_one_computes(
    store: Storage, root: Path, tmp_path: Path, method: str
) -> None:
    context = multiprocessing.get_context(method)
    barrier, calls = context.Barrier(PROCESSES), tmp_path / "calls"
    facts = (config_of(root).to_dict(), calls, barrier)
    children = [context.Process(target=ask, args=facts) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    for child in children:
        child.join(2 * DEADLINE_S)
        assert child.exitcode == 0
    assert calls.read_bytes() == b"x"
    leases = store.stats()["leases"]
    assert leases["takes"] == 1
    assert leases["waits"] == leases["hits"] == PROCESSES - 1
    assert leases["timeouts"] == leases["takeovers"] == 0


def test_of_tasks_in_several_processes_one_computes(
    store: Storage, root: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)

    async def main() -> None:
        async with AsyncStorage(config_of(root)) as own:

            @own.memoize(key="slow", ttl=LONG_S, lock_timeout=LONG_S)
            async def compute(argument: int) -> bytes:
                with calls.open("ab") as out:
                    out.write(b"x")
                while waits_of(own.storage) < PROCESSES - 1:
                    await asyncio.sleep(0.002)
                return RESULT

            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.001)

            ticking = asyncio.ensure_future(tick())
            barrier.wait(DEADLINE_S)
            assert await asyncio.gather(*[compute(7) for _ in range(20)]) == [RESULT] * 20
            ticking.cancel()
            # The loop went on while others computed.
            assert ticks > 1
            barrier.wait(DEADLINE_S)

    children = [start(lambda: asyncio.run(main())) for _ in range(PROCESSES)]
    for child in children:
        join(child)
    assert calls.read_bytes() == b"x"
    leases = store.stats()["leases"]
    assert leases["waits"] == leases["hits"] == PROCESSES - 1


class FlakyError(Exception):
    pass


def test_after_an_error_those_who_wait_try_one_by_one(store: Storage, root: Path) -> None:
    """The error stays in its process; the next who gets the lease computes."""
    computing, failed = Signal(), Signal()

    def fail() -> None:
        with Storage(config_of(root)) as other:

            @other.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
            def compute() -> bytes:
                computing.give()
                until(lambda: waits_of(other) == 1)
                raise FlakyError

            with pytest.raises(FlakyError):
                compute()
            failed.give()

    @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
    def compute() -> bytes:
        return RESULT

    child = start(fail)
    computing.await_it()
    assert compute() == RESULT
    failed.await_it()
    join(child)
    leases = store.stats()["leases"]
    assert leases["takes"] == 2
    assert leases["hits"] == leases["timeouts"] == 0


def test_a_leader_that_is_killed_is_succeeded(store: Storage, root: Path) -> None:
    rng = random.Random(4)
    for number in range(10):
        computing = Signal()
        pause_s = rng.random() * 0.01

        def die(computing: Signal = computing, number: int = number) -> None:
            other = Storage(config_of(root))

            @other.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
            def compute(argument: int) -> bytes:
                computing.give()
                signal.pause()
                return b"never"

            compute(number)

        @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
        def compute(argument: int) -> bytes:
            return RESULT

        child = start(die)
        computing.await_it()
        timer = threading.Timer(pause_s, os.kill, (child, signal.SIGKILL))
        timer.start()
        began_s = time.monotonic()
        assert compute(number) == RESULT
        assert time.monotonic() - began_s < DEADLINE_S
        join(child, -signal.SIGKILL)
        timer.join()
    assert store.stats()["leases"]["timeouts"] == 0


def test_who_has_waited_long_enough_computes(store: Storage, root: Path) -> None:
    computing, done = Signal(), Signal()

    def hang() -> None:
        with Storage(config_of(root)) as other:

            @other.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
            def compute() -> bytes:
                computing.give()
                done.await_it()
                return b"late"

            assert compute() == b"late"

    @store.memoize(key="f", ttl=LONG_S, lock_timeout=0.01)
    def compute() -> bytes:
        return RESULT

    child = start(hang)
    computing.await_it()
    assert compute() == RESULT
    assert store.stats()["leases"]["timeouts"] == 1
    done.give()
    join(child)


def test_a_timeout_of_nothing_waits_for_nobody(store: Storage) -> None:
    @store.memoize(key="f", ttl=LONG_S, lock_timeout=0)
    def compute() -> bytes:
        return RESULT

    assert compute() == RESULT
    assert store.stats()["leases"]["takes"] == 0
    with pytest.raises(errors.ArgumentError):
        store.memoize(lock_timeout=-1)
    with pytest.raises(errors.ArgumentError):
        store.memoize(lock_timeout=float("nan"))


def test_a_stale_result_serves_while_another_process_computes(store: Storage, root: Path) -> None:
    computing, done = Signal(), Signal()

    def decorated(own: Storage, result: Callable[[], bytes]) -> Callable[[], bytes]:
        @own.memoize(key="f", ttl=0, stale=LONG_S, lock_timeout=LONG_S)
        def compute() -> bytes:
            return result()

        return compute

    def refresh() -> None:
        with Storage(config_of(root)) as other:

            def result() -> bytes:
                computing.give()
                done.await_it()
                return b"new"

            assert decorated(other, result)() == b"new"

    assert decorated(store, lambda: b"old")() == b"old"
    child = start(refresh)
    computing.await_it()
    assert decorated(store, lambda: b"never")() == b"old"
    done.give()
    join(child)
    assert store.get_entry(next(iter_keys(store))).value == b"new"  # type: ignore[union-attr]


def iter_keys(store: Storage) -> Iterator[bytes]:
    yield from store.walk_memory(0, b"memoize:")


def test_a_call_that_would_wait_for_itself_computes(store: Storage, root: Path) -> None:
    """By way of another store of the process as well, whose flights do not know of it."""
    with Storage(config_of(root)) as other:

        @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
        def outer() -> bytes:
            return inner()

        @other.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
        def inner() -> bytes:
            return RESULT

        @store.memoize(key="g", ttl=LONG_S, lock_timeout=LONG_S)
        def recursive(depth: int) -> bytes:
            return recursive(depth - 1) if depth else RESULT

        assert outer() == RESULT
        assert recursive(3) == RESULT
    assert store.stats()["leases"]["waits"] == 0


def test_two_threads_that_need_each_other_do_not_wait_for_a_lease(store: Storage) -> None:
    met = threading.Barrier(2)

    def decorate(name: str, other: str) -> None:
        @store.memoize(key=name, ttl=LONG_S, lock_timeout=LONG_S)
        def compute(depth: int) -> bytes:
            if depth:
                met.wait(DEADLINE_S)
                functions[other](0 if depth < 2 else 1)
            return RESULT

        functions[name] = compute

    functions: dict[str, Callable[[int], bytes]] = {}
    decorate("a", "b")
    decorate("b", "a")
    threads = [threading.Thread(target=functions[name], args=(1,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_cycles_over_two_processes_end_by_the_deadline(store: Storage, root: Path) -> None:
    context = multiprocessing.get_context("fork")
    met = context.Barrier(2)

    def cross(own: Storage, first: str, second: str) -> bytes:
        @own.memoize(key=first, ttl=LONG_S, lock_timeout=0.2)
        def outer() -> bytes:
            met.wait(DEADLINE_S)
            return inner()

        @own.memoize(key=second, ttl=LONG_S, lock_timeout=0.2)
        def inner() -> bytes:
            return RESULT

        return outer()

    def work() -> None:
        with Storage(config_of(root)) as other:
            assert cross(other, "b", "a") == RESULT

    child = start(work)
    assert cross(store, "a", "b") == RESULT
    join(child)


def test_a_child_of_fork_does_not_wait_for_a_thread_of_its_parent(store: Storage) -> None:
    """What the parent computes is another process's: its lease is waited for, not its thread."""
    computing, done = threading.Event(), threading.Event()

    @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
    def compute() -> bytes:
        computing.set()
        assert done.wait(DEADLINE_S)
        return RESULT

    thread = threading.Thread(target=compute)
    thread.start()
    assert computing.wait(DEADLINE_S)

    def want() -> None:
        assert compute() == RESULT

    child = start(want)
    until(lambda: waits_of(store) == 1)
    done.set()
    join(child)
    thread.join(DEADLINE_S)
    assert store.stats()["leases"]["hits"] == 1


def test_what_the_store_does_not_take_is_computed_by_each(
    store: Storage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing = Signal()

    def shed() -> None:
        with Storage(config_of(root)) as other:
            monkeypatch.setattr(Storage, "put", lambda *_, **__: False)

            @other.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
            def compute() -> bytes:
                computing.give()
                until(lambda: waits_of(other) == 1)
                return b"shed"

            assert compute() == b"shed"

    @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
    def compute() -> bytes:
        return RESULT

    child = start(shed)
    computing.await_it()
    assert compute() == RESULT
    join(child)
    assert store.stats()["leases"]["takes"] == 1


def test_without_room_in_the_table_each_computes(store: Storage, root: Path) -> None:
    with Storage(config_of(root)) as other:
        desk = other.leases
        assert desk is not None
        held = [desk.take(9, b"%d" % number, LONG_S).lease for number in range(8192)]
        assert None in held

        @store.memoize(key="f", ttl=LONG_S, lock_timeout=LONG_S)
        def compute(argument: int) -> bytes:
            return b"%d" % argument

        full = store.stats()["leases"]["full"]
        for number in range(50):
            assert compute(number) == b"%d" % number
        assert store.stats()["leases"]["full"] > full
        assert store.stats()["leases"]["waits"] == 0
