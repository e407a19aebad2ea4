"""Leases: of several processes one works, the others wait; whoever dies, and when."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import join, start
from support.stepping import CannotTraceError, begin_steps, end_steps, run_and_kill

from edgecache import Config, Storage, leasing
from edgecache.leasing import LeaseDesk

MIB = 1024 * 1024
DEADLINE_S = 30.0
LONG_S = 600.0
KIND = 9
WAYS = 32
STEPS_MAX = 2_000_000
DEATHS = 12


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


@pytest.fixture
def desk(store: Storage) -> LeaseDesk:
    assert store.leases is not None
    return store.leases


def desk_of(store: Storage) -> LeaseDesk:
    store.exists("?")  # a child of fork joins by its first use
    assert store.leases is not None
    return store.leases


class Signal:
    """One byte from a process to another."""

    def __init__(self) -> None:
        self._from, self._to = os.pipe()

    def give(self) -> None:
        os.write(self._to, b"x")

    def await_it(self) -> None:
        assert os.read(self._from, 1) == b"x"


def test_a_private_store_has_no_leases() -> None:
    with Storage(Config(memory="1MiB")) as alone:
        assert alone.leases is None


def test_a_lease_is_held_by_one_until_it_is_given(desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    assert lease is not None
    nobody, wait = desk.take(KIND, b"key", LONG_S)
    assert nobody is None
    assert wait is not None
    assert wait.is_own_thread
    assert wait.look() == 0
    assert desk.take(KIND + 1, b"key", LONG_S).lease is not None
    assert lease.renew(LONG_S)
    assert lease.note(5)
    assert wait.look() == 0
    assert wait.note == 5
    assert lease.give(desk.STORED, 7)
    assert wait.look() == desk.STORED
    assert wait.detail == 7
    assert not lease.give(desk.FAILED)
    assert not lease.renew(LONG_S)
    assert not lease.note(1)
    assert desk.take(KIND, b"key", LONG_S).lease is not None


def test_a_lease_that_is_dropped_has_failed(desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    del lease
    assert wait.look() == desk.FAILED


def test_a_deadline_that_passed_lets_another_take_over(store: Storage, desk: LeaseDesk) -> None:
    late, _ = desk.take(KIND, b"key", 0)
    assert late is not None
    lease, _ = desk.take(KIND, b"key", LONG_S)
    assert lease is not None
    # Who was late changes nothing any more.
    assert not late.renew(LONG_S)
    assert not late.give(desk.STORED)
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    assert wait.look() == 0
    assert lease.give(desk.RELEASED)
    assert wait.look() == desk.RELEASED
    assert store.stats()["leases"]["takeovers"] == 1


def test_a_wait_ends_after_its_time(store: Storage, desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    assert desk.wait(wait, 0.001) == desk.TIMED_OUT
    assert asyncio.run(desk.wait_soon(wait, 0.001)) == desk.TIMED_OUT
    assert store.stats()["leases"]["timeouts"] == 2
    assert lease is not None


def test_a_full_table_is_counted_and_stops_nobody(store: Storage, desk: LeaseDesk) -> None:
    held = []
    while True:
        taken = desk.take(KIND, b"%d" % len(held), LONG_S)
        if taken.lease is None:
            assert taken.wait is None
            break
        held.append(taken.lease)
    assert len(held) >= WAYS
    assert store.stats()["leases"]["full"] == 1
    full = b"%d" % len(held)
    assert desk.take(KIND, full, LONG_S) == (None, None)
    for lease in held:
        lease.give(desk.STORED)
    assert desk.take(KIND, full, LONG_S).lease is not None


def test_late_leases_make_room_in_a_full_table(store: Storage, desk: LeaseDesk) -> None:
    late = []
    for number in range(WAYS * 64 * 4):
        taken = desk.take(KIND, b"%d" % number, 0)
        assert taken.lease is not None
        late.append(taken.lease)
    assert store.stats()["leases"]["full"] == 0
    assert sum(lease.give(desk.STORED) for lease in late) <= WAYS * 64


def test_what_another_process_gives_wakes_threads_and_tasks(
    root: Path, store: Storage, desk: LeaseDesk
) -> None:
    taken, waiting = Signal(), Signal()

    def hold() -> None:
        with Storage(config_of(root)) as other:
            assert other.leases is not None
            lease, _ = other.leases.take(KIND, b"key", LONG_S)
            assert lease is not None
            taken.give()
            waiting.await_it()
            lease.give(LeaseDesk.RELEASED, 3)

    child = start(hold)
    taken.await_it()
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    assert not wait.is_own_thread
    threads: list[int] = []

    def wait_here() -> None:
        _, mine = desk.take(KIND, b"key", LONG_S)
        assert mine is not None
        threads.append(desk.wait(mine, DEADLINE_S))

    workers = [threading.Thread(target=wait_here) for _ in range(3)]

    async def tasks() -> list[int]:
        waits = [desk.take(KIND, b"key", LONG_S).wait for _ in range(20)]
        each = [asyncio.ensure_future(desk.wait_soon(w, DEADLINE_S)) for w in waits if w]
        await asyncio.sleep(0)
        waiting.give()
        return await asyncio.gather(*each)

    for worker in workers:
        worker.start()
    assert asyncio.run(tasks()) == [desk.RELEASED] * 20
    for worker in workers:
        worker.join(DEADLINE_S)
    # Who came too late for the wait found the lease free, and failed its assertion.
    assert set(threads) <= {desk.RELEASED}
    assert desk.wait(wait, DEADLINE_S) == desk.RELEASED
    assert wait.detail == 3
    join(child)
    assert store.stats()["leases"]["waits"] >= 21


def test_a_holder_that_is_killed_lets_those_who_wait_go_on(
    root: Path, store: Storage, desk: LeaseDesk
) -> None:
    taken = Signal()

    def hold() -> None:
        other = Storage(config_of(root))
        assert other.leases is not None
        lease, _ = other.leases.take(KIND, b"key", LONG_S)
        assert lease is not None
        taken.give()
        signal.pause()

    child = start(hold)
    taken.await_it()
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    assert wait.look() == 0
    os.kill(child, signal.SIGKILL)
    assert desk.wait(wait, DEADLINE_S) == desk.LOST
    lease, _ = desk.take(KIND, b"key", LONG_S)
    assert lease is not None
    join(child, -signal.SIGKILL)
    assert lease.give(desk.STORED)


def test_a_store_that_closes_gives_up_what_it_held(root: Path, desk: LeaseDesk) -> None:
    other = Storage(config_of(root))
    assert other.leases is not None
    lease, _ = other.leases.take(KIND, b"key", LONG_S)
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    other.close()
    assert wait.look() == desk.LOST
    assert lease is not None
    assert not lease.give(desk.STORED)
    assert other.leases.take(KIND, b"key", LONG_S) == (None, None)


def test_waits_end_when_their_own_store_closes(root: Path, desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    other = Storage(config_of(root))
    assert other.leases is not None

    async def wait() -> int:
        assert other.leases is not None
        _, mine = other.leases.take(KIND, b"key", LONG_S)
        assert mine is not None
        task = asyncio.ensure_future(other.leases.wait_soon(mine, LONG_S))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, other.close)
        return await task

    assert asyncio.run(wait()) == desk.LOST
    assert lease is not None


def test_a_child_of_fork_holds_nothing_of_its_parent(store: Storage, desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    assert lease is not None

    def use() -> None:
        assert not lease.give(LeaseDesk.STORED)
        assert not lease.renew(LONG_S)
        theirs = desk_of(store)
        assert theirs is not desk
        nobody, wait = theirs.take(KIND, b"key", LONG_S)
        assert nobody is None
        assert wait is not None
        assert wait.look() == 0
        assert theirs.take(KIND, b"mine", LONG_S).lease is not None

    join(start(use))
    assert lease.renew(LONG_S)
    # What the child held went with it.
    assert desk.take(KIND, b"mine", LONG_S).lease is not None
    assert lease.give(desk.STORED)


def test_nobody_sleeps_for_ever_in_a_child(store: Storage, desk: LeaseDesk) -> None:
    """The thread that waits for tasks is the parent's; a child gets its own."""
    lease, wait = desk.take(KIND, b"key", LONG_S)[0], desk.take(KIND, b"key", LONG_S)[1]
    assert wait is not None
    assert asyncio.run(desk.wait_soon(wait, 0.001)) == desk.TIMED_OUT  # the thread runs

    def use() -> None:
        theirs = desk_of(store)
        _, mine = theirs.take(KIND, b"key", LONG_S)
        assert mine is not None
        assert asyncio.run(theirs.wait_soon(mine, 0.001)) == theirs.TIMED_OUT

    join(start(use))
    assert lease is not None


# Deaths at single instructions


def stepped(config: Config, operation: str) -> Callable[[], None]:
    def work() -> None:
        desk = desk_of(Storage(config))
        warm, _ = desk.take(KIND, b"warm", LONG_S)
        assert warm is not None
        warm.give(desk.STORED)
        lease = None
        if operation != "take":
            lease, _ = desk.take(KIND, b"key", LONG_S)
            assert lease is not None
        begin_steps()
        if operation == "take":
            lease, _ = desk.take(KIND, b"key", LONG_S)
        elif operation == "note":
            assert lease is not None
            lease.note(1)
        else:
            assert lease is not None
            lease.give(desk.STORED)
        end_steps()

    return work


@pytest.mark.parametrize("operation", ["take", "note", "give"])
def test_whoever_dies_at_any_instruction_leaves_a_lease_to_take(
    root: Path, store: Storage, desk: LeaseDesk, operation: str
) -> None:
    work = stepped(config_of(root), operation)
    try:
        count = run_and_kill(work, STEPS_MAX)
    except CannotTraceError as error:
        pytest.skip(f"ptrace: {error}")
    assert count is not None
    rng = random.Random(operation)
    for _ in range(DEATHS):
        run_and_kill(work, rng.randrange(count))
        began_s = time.monotonic()
        while True:
            taken = desk.take(KIND, b"key", LONG_S)
            if taken.lease is not None:
                break
            assert taken.wait is not None
            assert desk.wait(taken.wait, DEADLINE_S) != desk.TIMED_OUT
        assert time.monotonic() - began_s < DEADLINE_S
        assert taken.lease.give(desk.STORED)
        nobody = desk.take(KIND, b"key", 0).lease
        assert nobody is not None
        assert nobody.give(desk.FAILED)


def test_a_look_that_fails_ends_its_own_wait_and_no_other(desk: LeaseDesk) -> None:
    looks: list[int] = []

    def fails() -> bool:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError
        return False

    async def wait() -> None:
        lease, _ = desk.take(KIND, b"key", LONG_S)
        _, mine = desk.take(KIND, b"key", LONG_S)
        assert lease is not None
        assert mine is not None
        other = asyncio.ensure_future(desk.wait_soon(mine, DEADLINE_S))
        await asyncio.sleep(0)
        future = desk.sleep_soon(fails, DEADLINE_S)
        assert future is not None
        assert await future
        assert not other.done()
        lease.give(desk.STORED)
        assert await other == desk.STORED

    asyncio.run(wait())


def test_cleaning_up_after_a_dead_process_frees_what_it_held(
    root: Path, store: Storage, desk: LeaseDesk
) -> None:
    """Nobody has to take it over any more, and who waits is woken by it."""

    def hold() -> None:
        other = Storage(config_of(root))
        assert other.leases is not None
        lease, _ = other.leases.take(KIND, b"key", LONG_S)
        assert lease is not None
        os.kill(os.getpid(), signal.SIGKILL)

    join(start(hold), -signal.SIGKILL)
    deadline_s = time.monotonic() + DEADLINE_S
    while store.counters()["processes_reaped"] == 0:
        assert time.monotonic() < deadline_s
        store.put("warm", b"value")  # a writer with work looks for the dead
        threading.Event().wait(0.005)
    assert desk.take(KIND, b"key", LONG_S).lease is not None
    assert store.stats()["leases"]["takeovers"] == 0


def switches(thread: int) -> int:
    """How often a thread of this process has gone to sleep."""
    text = Path(f"/proc/self/task/{thread}/status").read_text()
    [line] = [one for one in text.splitlines() if one.startswith("voluntary_ctxt_switches")]
    return int(line.split()[1])


def test_the_thread_that_waits_for_tasks_sleeps_while_there_are_none(desk: LeaseDesk) -> None:
    lease, _ = desk.take(KIND, b"key", LONG_S)
    _, wait = desk.take(KIND, b"key", LONG_S)
    assert wait is not None
    assert asyncio.run(desk.wait_soon(wait, 0.001)) == desk.TIMED_OUT
    thread = desk._thread
    assert thread is not None
    assert thread.native_id is not None
    # It looks round once more, then waits for work: only that is its sleep.
    until_s = time.monotonic() + DEADLINE_S
    while not desk._changed._waiters:  # type: ignore[attr-defined]
        assert time.monotonic() < until_s
        threading.Event().wait(0.002)
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < until_s
    before = switches(thread.native_id)
    assert lease is not None
    lease.give(desk.STORED)
    for number in range(100):
        taken = desk.take(KIND, b"%d" % number, LONG_S).lease
        assert taken is not None
        taken.give(desk.STORED)
    # Ten slices of those in which it would look around if it waited for something.
    threading.Event().wait(10 * leasing.SLICE_S)
    assert switches(thread.native_id) <= before + 1
