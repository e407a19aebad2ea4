"""race: threads of one process, or of four, on one store; every answer fits the history of its key.

A round is one store, of one engine or shared by processes, with one policy; its threads do whatever
a store can do, to the same few keys, at any time: no lock orders their changes. What a read returns
is judged by begin and end times (`history.py`). An operation is one key read or changed, or one
purge. The numbers drawn depend on seed, round and thread only; what overlaps what does not repeat.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.model import KIB, MIB

from edgecache import Config, Storage
from edgecache._io_memory import MemoryDisk
from torture.campaign import Row, Run
from torture.history import (
    EVERYTHING,
    KEYS,
    PREFIXES,
    TAGS,
    History,
    key_of,
    make_value,
    prefix_of,
)

THREADS = 8
PROCESSES = 4
ROUND_OPERATIONS = 50_000
BATCH = 50
READ_MANY = 48
BLOBS_KEPT = 3
FILL_BYTES = 30_000
SILENCE_S = 120.0
KINDS = ("shared", "memory", "shared", "uring", "shared", "threads")
POLICIES = ("s3fifo", "lru", "sieve", "arc", "wtinylfu")
NUMBER_STEP = 1 << 40  # numbers of one thread: never those of another


class BrokenPromiseError(AssertionError):
    """An answer, or a state, that the promises do not allow."""


def config_of(kind: str, policy: str, root: Path) -> Config:
    changes: dict[str, Any] = {"shared": True} if kind == "shared" else {"io": kind}
    if kind != "memory":
        changes["root"] = str(root)
    return Config(
        memory=4 * MIB, disk=16 * MIB, region_size=MIB, shards=2, flush_size=64 * KIB,
        flush_interval=0.005, checkpoint_interval=1, chunk_size=64 * KIB, policy=policy,
        front_size=256 * KIB, **changes,
    )  # fmt: skip


class Board:
    """What the processes of a round tell each other: words in shared memory."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._words = memoryview(mmap.mmap(-1, 8 * (3 + 2 * PROCESSES))).cast("q")

    def add(self, process: int, operations: int, hits: int) -> None:
        """One thread of a process at a time."""
        self._words[3 + process] += operations
        self._words[3 + PROCESSES + process] += hits

    @property
    def operations(self) -> int:
        return sum(self._words[3 : 3 + PROCESSES])

    @property
    def hits(self) -> int:
        return sum(self._words[3 + PROCESSES :])

    @property
    def is_over(self) -> bool:
        return self._words[0] != 0 or self.operations >= self.wanted

    def stop(self) -> None:
        self._words[0] = 1

    @property
    def may_close(self) -> bool:
        return self._words[1] != 0

    def let_close(self) -> None:
        self._words[1] = 1


class Thread:
    """One thread's work on a store."""

    def __init__(self, work: Work, number: int) -> None:
        self.work, self.store, self.history = work, work.store, work.history
        self.rng = random.Random(f"{work.seed}/{work.process}/{number}")
        self.number = (work.process * THREADS + number + 1) * NUMBER_STEP
        self.blobs: list[tuple[Any, bytes]] = []
        self.hits = 0

    def judge(self, key: int, begin: int, found: bytes | None) -> None:
        if found is None:
            return
        self.hits += 1
        why = self.history.judge(key, begin, time.monotonic_ns(), found)
        if why:
            raise BrokenPromiseError(f"{key_of(key)!r}, read from {begin}: {why}")

    def change(self, line: int, change: Callable[[int], object], sign: int = -1) -> None:
        """`change(begin)` is what removes the values of a line; False: it did not happen."""
        slot, begin = self.history.begin(line, sign * self.number)
        self.history.end(line, slot, change(begin) is not False)

    def put(self) -> None:
        rng = self.rng
        key = rng.randrange(KEYS)
        tag = rng.choice((0, 0, 1, 2))
        ttl_ms = rng.choice((-1, -1, -1, -1, -1, -1, 0, 20, 60_000))
        size = rng.randint(40, 400)
        kind = rng.random()
        if kind > 0.98:
            size = rng.randint(70_000, 200_000)
        elif kind > 0.6:
            size = rng.randint(400, 6000)

        def put(begin: int) -> bool:
            value = make_value(key, tag, size, ttl_ms, self.number, begin)
            ttl = None if ttl_ms < 0 else ttl_ms / 1000
            tags = [f"tag-{tag}"] if tag else ()
            return self.store.put(key_of(key), value, ttl=ttl, tags=tags)

        self.change(key, put, sign=1)

    def delete(self) -> None:
        key = self.rng.randrange(KEYS)
        self.change(key, lambda _: self.store.delete(key_of(key)) or None)

    def get(self) -> None:
        key = self.rng.randrange(KEYS)
        name = key_of(key)
        begin = time.monotonic_ns()
        self.judge(key, begin, self.store.get(name))

    def view(self) -> None:
        key = self.rng.randrange(KEYS)
        begin = time.monotonic_ns()
        blob = self.store.view(key_of(key))
        if blob is None:
            return
        found = bytes(blob)
        self.judge(key, begin, found)
        self.blobs.append((blob, found))
        if len(self.blobs) > BLOBS_KEPT:
            kept, expected = self.blobs.pop(self.rng.randrange(BLOBS_KEPT))
            if bytes(kept) != expected:
                raise BrokenPromiseError(f"a pinned value changed: {expected[:48]!r}")

    def get_many(self) -> int:
        keys = self.rng.sample(range(KEYS), READ_MANY)
        begin = time.monotonic_ns()
        for key, value in zip(keys, self.store.get_many(map(key_of, keys)), strict=True):
            self.judge(key, begin, value)
        return READ_MANY

    def purge(self) -> None:
        prefix, tag = self.rng.randrange(PREFIXES), self.rng.randrange(1, TAGS)
        kind = self.rng.random()
        if kind < 0.5:
            self.change(KEYS + prefix, lambda _: self.store.delete_prefix(prefix_of(prefix)))
        elif kind < 0.97:
            self.change(KEYS + PREFIXES + tag, lambda _: self.store.purge_tag(f"tag-{tag}"))
        else:
            self.change(EVERYTHING, lambda _: self.store.clear())

    def step(self) -> int:
        """One random step; how many operations it was."""
        self.number += 1
        kind = self.rng.random()
        if kind < 0.25:
            self.put()
        elif kind < 0.31:
            self.delete()
        elif kind < 0.80:
            self.get()
        elif kind < 0.88:
            self.view()
        elif kind < 0.96:
            return self.get_many()
        elif kind < 0.997:
            self.store.put(b"churn-%d" % self.number, bytes(self.rng.randint(100, 60_000)))
        elif kind < 0.9985:
            self.store.sync()
        elif kind < 0.9997:
            self.purge()
        else:
            self.store.checkpoint()
        return 1

    def run(self) -> None:
        board = self.work.board
        try:
            while not board.is_over:
                before = self.hits
                operations = sum(self.step() for _ in range(BATCH))
                with self.work.lock:
                    board.add(self.work.process, operations, self.hits - before)
        except BaseException as error:
            self.work.wrong.append(
                str(error) if isinstance(error, BrokenPromiseError) else traceback.format_exc()
            )
            board.stop()
        finally:
            self.blobs.clear()


class Work:
    """The threads of one process."""

    def __init__(
        self, store: Storage, history: History, board: Board, seed: str, process: int
    ) -> None:
        self.store, self.history, self.board = store, history, board
        self.seed, self.process = seed, process
        self.lock = threading.Lock()
        self.wrong: list[str] = []
        # Full from the start, so that reclaim works all the time.
        share = PROCESSES if store.config.shared else 1
        for number in range(store.config.disk // share // FILL_BYTES):
            store.put(b"fill-%d-%d" % (process, number), bytes(FILL_BYTES))
        self.threads = [
            threading.Thread(target=Thread(self, number).run, daemon=True)
            for number in range(THREADS)
        ]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(SILENCE_S)
        if any(thread.is_alive() for thread in self.threads):
            self.wrong.append("a thread hangs")


def watch(run: Run, board: Board, is_alive: Callable[[], bool]) -> list[str]:
    """Until the round is over; says when nobody gets on."""
    done, quiet_s = 0, time.monotonic()
    pause = threading.Event()
    while not board.is_over and is_alive():
        pause.wait(0.02)
        now = board.operations
        if now > done:
            run.done(now - done)
            done, quiet_s = now, time.monotonic()
        elif time.monotonic() - quiet_s > SILENCE_S:
            board.stop()
            return ["no thread gets on"]
    return []


def state_of(run: Run, store: Storage) -> list[str]:
    """What must hold once nobody works on the store."""
    counters = store.counters()
    facts = run.outcome.facts
    facts["reclaimed_regions"] = facts.get("reclaimed_regions", 0) + counters["reclaimed_regions"]
    left = {name: counters[name] for name in ("memory_pinned_bytes", "memory_zombies")}
    wrong = store.check()
    if any(left.values()):
        wrong.append(f"something is pinned by nobody: {left}")
    if counters["memory_used_bytes"] + counters["index_used_bytes"] > store.config.memory:
        wrong.append("over the budget")
    return wrong


def read_all(store: Storage, history: History) -> list[str]:
    wrong = []
    for key in range(KEYS):
        begin = time.monotonic_ns()
        found = store.get(key_of(key))
        if found is not None:
            why = history.judge(key, begin, time.monotonic_ns(), found)
            wrong += [f"{key_of(key)!r} at the end: {why}"] if why else []
    return wrong


def among_threads(run: Run, config: Config, seed: str, board: Board) -> list[str]:
    history = History()
    disk = MemoryDisk() if config.io == "memory" else None
    store = Storage(config, disk=disk)
    work = Work(store, history, board, seed, 0)
    wrong = watch(run, board, lambda: True)
    work.join()
    wrong += work.wrong
    if "a thread hangs" in wrong:
        return wrong
    wrong += state_of(run, store) if not wrong else []
    store.sync()
    if disk is not None:
        store.abandon()
    else:
        store.close()
    with Storage(config, disk=disk) as reopened:
        return wrong + read_all(reopened, history)


def child(
    config: Config, history: History, board: Board, seed: str, process: int, out: Path
) -> int:
    """What one of several processes does; its exit status."""
    wrong: list[str] = []
    try:
        with Storage(config) as store:
            work = Work(store, history, board, seed, process)
            work.join()
            wrong += work.wrong
            out.with_suffix(".done").touch()
            pause = threading.Event()
            # The parent looks at what all leave before the arena may go.
            while not board.may_close:
                pause.wait(0.005)
    except BaseException:
        wrong.append(traceback.format_exc())
        board.stop()
    out.write_text(json.dumps(wrong))
    return 1 if wrong else 0


def among_processes(
    run: Run, config: Config, seed: str, board: Board, directory: Path
) -> list[str]:
    history = History()
    children: dict[int, Path] = {}
    for process in range(PROCESSES):
        out = directory / f"process-{process}"
        number = os.fork()
        if number == 0:
            status = 1
            try:
                status = child(config, history, board, seed, process, out)
            finally:
                os._exit(status)
        children[number] = out
    gone: dict[int, int] = {}

    def is_alive() -> bool:
        for number in children:
            if number not in gone and os.waitpid(number, os.WNOHANG)[0]:
                gone[number] = 1
        return not gone

    wrong = watch(run, board, is_alive)
    board.stop()
    deadline = time.monotonic() + SILENCE_S
    pause = threading.Event()
    while is_alive() and not all(o.with_suffix(".done").exists() for o in children.values()):
        pause.wait(0.005)
        if time.monotonic() > deadline:
            wrong.append("a process does not get to its end")
            break
    if not gone and not wrong:
        with Storage(config) as watcher:
            board.let_close()
            end(children, gone, wrong)
            wrong += read_all(watcher, history) + state_of(run, watcher)
            if watcher.counters()["processes"] != 1:
                wrong.append(f"{watcher.counters()['processes']} processes are left")
            watcher.sync()
        with Storage(config) as reopened:
            wrong += read_all(reopened, history)
    board.let_close()
    end(children, gone, wrong)
    return wrong


def end(children: dict[int, Path], gone: dict[int, int], wrong: list[str]) -> None:
    """Wait for the children that are left, and read what they say."""
    deadline = time.monotonic() + SILENCE_S
    pause = threading.Event()
    for number, out in children.items():
        while number not in gone and os.waitpid(number, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                wrong.append(f"process {number} does not end")
                os.kill(number, 9)
                os.waitpid(number, 0)
                break
            pause.wait(0.005)
        gone[number] = 1
        if out.exists():
            wrong += json.loads(out.read_text())
            out.unlink()


def one_round(run: Run, number: int) -> Board:
    kind, policy = KINDS[number % len(KINDS)], POLICIES[number % len(POLICIES)]
    seed = f"race/{run.seed}/{number}"
    board = Board(ROUND_OPERATIONS)
    with run.scratch() as directory:
        root = directory / "root"
        root.mkdir(mode=0o700)
        config = config_of(kind, policy, root)
        before = run.outcome.injections
        if kind == "shared":
            wrong = among_processes(run, config, seed, board, directory)
        else:
            wrong = among_threads(run, config, seed, board)
        run.done(board.operations - (run.outcome.injections - before))
    for what in wrong[:5]:
        run.violation(number, f"{kind}, {policy}: {what}")
    return board


def race(run: Run) -> str:
    begin = time.monotonic()
    hits = among = 0
    number = run.first
    while run.outcome.injections < run.count and not run.outcome.violation_count:
        board = one_round(run, number)
        hits += board.hits
        among += board.operations if KINDS[number % len(KINDS)] == "shared" else 0
        number += 1
    if run.outcome.facts.get("reclaimed_regions", 0) == 0 and not run.outcome.violation_count:
        run.violation(run.first, "reclaim never ran: the row shows nothing")
    rate = run.outcome.injections / (time.monotonic() - begin)
    run.outcome.facts.update(
        hits=hits, operations_per_s=rate, threads=THREADS, processes=PROCESSES,
        operations_among_processes=among, rounds=number - run.first,
    )  # fmt: skip
    return (
        f"{hits:,} hits judged in {number - run.first} rounds, {among:,} operations among "
        f"{PROCESSES} processes of {THREADS} threads, {rate:,.0f} operations/s"
    )


ROW = Row(
    "race",
    f"{THREADS} threads, or {PROCESSES} processes of as many, do everything to the same keys",
    "no impossible read, no value after an acknowledged delete or purge, none torn",
    short=200_000,
    long=100_000_000,
    run=race,
)
