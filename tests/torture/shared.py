"""shared: SIGKILL of any of several processes that share one cache, under load, at any moment.

Four processes attach to one root. Each changes keys of its own and reads everybody's, and writes
down when each operation began and ended (the clock is the system's, so times of several processes
compare). Some are killed and replaced while the others go on; now and then all are killed at once,
and the next ones recover from disk. Then every read must fit the changes of its key:

1. A hit is a value whose put began before the read ended, and nothing newer had ended before the
   read began. So nothing is torn, invented, older than what was there, or back after a delete.
2. A miss needs a delete, or a put whose process died in the middle. Acknowledged puts of a killed
   process stay: they were in the arena, and no index is ever lost (index_resets).
3. When all were killed: any version from the newest on that a sync covered.
4. Nobody waits for the dead, every structure holds its invariants, and nothing stays pinned.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from support.model import KIB, MIB

from edgecache import Config, Storage
from edgecache.warm import forget_warm
from torture.campaign import Row, Run

WORKERS = 4
KEYS_EACH = 12
ROUNDS_PER_ROOT = 8
SILENCE_S = 60.0
NEVER = float("inf")


class BrokenPromiseError(AssertionError):
    """An answer, or a state, that the promises do not allow."""


def config_of(root: Path, keep_warm: bool) -> Config:
    return Config(
        root=str(root), shared=True, memory=4 * MIB, disk=512 * MIB, region_size=MIB, shards=2,
        flush_size=64 * KIB, flush_interval=0.005, checkpoint_interval=1, chunk_size=64 * KIB,
        keep_warm=keep_warm,
    )  # fmt: skip


def key_of(owner: int, number: int) -> bytes:
    return b"w%d-%d" % (owner, number)


def value_of(key: bytes, number: int, size: int) -> bytes:
    head = b"%s|%d|%d|" % (key, number, size)
    return (head * (size // len(head) + 1))[: max(size, len(head))]


def number_of(key: bytes, value: bytes) -> int:
    """The number of a value that is whole and of this key."""
    fields = value.split(b"|", 3)
    if len(fields) == 4 and fields[0] == key:
        number, size = int(fields[1]), int(fields[2])
        if value == value_of(key, number, size):
            return number
    raise BrokenPromiseError(f"{key!r} has wrong bytes: {value[:60]!r} ({len(value)})")


# ---------------------------------------------------------------- a worker


class Worker:
    """What a child process does until it is told to stop, or killed."""

    def __init__(self, config: Config, owner: int, seed: str, path: Path, first: int) -> None:
        self.rng = random.Random(seed)
        self.owner = owner
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.number = first
        self.blobs: list[Any] = []
        self.stop = False
        signal.signal(signal.SIGUSR1, self._on_stop)
        self.store = Storage(config)

    def _on_stop(self, *_: object) -> None:
        self.stop = True

    def say(self, text: str) -> None:
        os.write(self.file, text.encode() + b"\n")

    def change(self) -> None:
        key = key_of(self.owner, self.rng.randrange(KEYS_EACH))
        kind = self.rng.random()
        self.number += 1
        if kind < 0.2:
            self.say(f"d {key.decode()} {time.monotonic()}")
            self.store.delete(key)
            self.say(f"= {time.monotonic()}")
            return
        size = self.rng.choice((40, 300, 1500, 5000, 20_000))
        if kind < 0.25:
            size = self.rng.randint(70_000, 300_000)
        value = value_of(key, self.number, size)
        self.say(f"p {key.decode()} {time.monotonic()} {self.number}")
        stored = self.store.put(key, value)
        self.say(f"{'=' if stored else '!'} {time.monotonic()}")

    def read(self, key: bytes) -> None:
        begin = time.monotonic()
        kind = self.rng.random()
        if kind < 0.2:
            blob = self.store.view(key)
            found = None if blob is None else bytes(blob)
            if blob is not None and self.rng.random() < 0.3:
                self.blobs.append((key, blob, found))
        else:
            found = self.store.get(key)
        self.say_read(key, begin, found)

    def say_read(self, key: bytes, begin: float, found: bytes | None) -> None:
        end = time.monotonic()
        number = -1 if found is None else number_of(key, found)
        self.say(f"g {key.decode()} {begin} {end} {number}")

    def look_at_blobs(self) -> None:
        """What is pinned stays as it is, whoever died meanwhile."""
        for key, blob, found in self.blobs:
            if bytes(blob) != found:
                raise BrokenPromiseError(f"the pinned value of {key!r} changed")
        if len(self.blobs) > 6:
            self.rng.shuffle(self.blobs)
            del self.blobs[3:]

    def step(self) -> None:
        kind = self.rng.random()
        if kind < 0.4:
            self.change()
        elif kind < 0.85:
            self.read(key_of(self.rng.randrange(WORKERS), self.rng.randrange(KEYS_EACH)))
        elif kind < 0.92:
            keys = [key_of(o, n) for o in range(WORKERS) for n in range(KEYS_EACH)]
            begin = time.monotonic()
            found = self.store.get_many(keys)
            for key, value in zip(keys, found, strict=True):
                self.say_read(key, begin, value)
        elif kind < 0.96:
            self.look_at_blobs()
            self.store.put(b"churn-%d-%d" % (self.owner, self.number), bytes(9000))
        elif kind < 0.985:
            self.say(f"s {time.monotonic()}")
            self.store.sync()
            self.say(f"= {time.monotonic()}")
        elif kind < 0.99:
            self.store.checkpoint()
        else:
            self.store.stats()

    def run(self) -> None:
        self.say("open")
        while not self.stop:
            self.step()
        self.look_at_blobs()
        self.blobs.clear()
        self.store.close()
        self.say("closed")


def spawn(config: Config, owner: int, seed: str, path: Path, first: int) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        Worker(config, owner, seed, path, first).run()
        status = 0
    except BaseException:
        with path.open("a") as file:
            file.write("error " + traceback.format_exc().replace("\n", " | ") + "\n")
    finally:
        os._exit(status)


# ---------------------------------------------------------------- judging


class Book:
    """Everything that is known about one root."""

    def __init__(self) -> None:
        # By key, in order: [begin, end, number]; -1: deleted.
        self.changes: dict[bytes, list[list[Any]]] = {}
        self.reads: list[tuple[bytes, float, float, int]] = []
        self.syncs: list[float] = []
        self.number = 0
        for owner in range(WORKERS):
            for number in range(KEYS_EACH):
                self.changes[key_of(owner, number)] = [[-1.0, -1.0, -1]]

    def take(self, path: Path) -> None:
        """Read what a process wrote down; the last line may be cut."""
        text = path.read_text()
        path.unlink()
        pending: list[Any] | None = None
        sync = -1.0
        for line in text.split("\n")[:-1]:
            word, *fields = line.split(" ")
            if word == "error":
                raise BrokenPromiseError(line[:2000])
            if word in ("p", "d"):
                number = int(fields[2]) if word == "p" else -1
                pending = [float(fields[1]), NEVER, number]
                self.changes[fields[0].encode()].append(pending)
                self.number = max(self.number, number)
            elif word == "s":
                sync = float(fields[0])
            elif word == "=" and sync >= 0:
                self.syncs.append(sync)
                sync = -1.0
            elif word == "=" and pending is not None:
                pending[1] = float(fields[0])
                pending = None
            elif word == "!" and pending is not None:
                # Shed: the older value may be there, or nothing.
                changes = self.changes[next(k for k, c in self.changes.items() if c[-1] is pending)]
                changes.append([pending[0], NEVER, changes[-2][2]])
                changes.append([pending[0], NEVER, -1])
                pending = None
            elif word == "g":
                self.reads.append(
                    (fields[0].encode(), float(fields[1]), float(fields[2]), int(fields[3]))
                )

    def allows(self, key: bytes, begin: float, end: float, found: int) -> bool:
        for change in reversed(self.changes[key]):
            if change[2] == found and change[0] <= end:
                return True
            if found < 0 and change[1] == NEVER and change[0] <= end:
                # Its process died between taking the older value out and entering this one.
                return True
            if change[1] < begin:
                return False
        return False

    def around(self, key: bytes, begin: float, end: float) -> list[list[Any]]:
        """The changes that a read between these times may have seen, and two before."""
        changes = self.changes[key]
        first = next((i for i, c in enumerate(changes) if c[1] >= begin), len(changes))
        last = next((i for i, c in enumerate(changes) if c[0] > end), len(changes))
        return changes[max(0, first - 2) : last + 1]

    def seen(self, key: bytes) -> str:
        """What was read of the key, and for how long, in short."""
        runs: list[list[Any]] = []
        for _, begin, _, found in sorted(r for r in self.reads if r[0] == key):
            if runs and runs[-1][0] == found:
                runs[-1][2:] = [begin, runs[-1][3] + 1]
            else:
                runs.append([found, begin, begin, 1])
        return " ".join(f"{r[0]}x{r[3]}@{r[1]:.3f}-{r[2]:.3f}" for r in runs[:12])

    def judge(self) -> int:
        """Check every read; how many hits."""
        hits = 0
        for key, begin, end, found in self.reads:
            hits += found >= 0
            if not self.allows(key, begin, end, found):
                raise BrokenPromiseError(
                    f"{key!r}: {found} from {begin} to {end}, of {self.around(key, begin, end)}; "
                    f"all reads: {self.seen(key)}"
                )
        self.reads.clear()
        return hits

    def settle(self, key: bytes, found: int, is_crash: bool) -> None:
        """What everybody sees now is what there is, from here on."""
        now = time.monotonic()
        changes = self.changes[key]
        floor = 0
        if is_crash:
            newest_sync = max(self.syncs, default=-1.0)
            for index, change in enumerate(changes):
                if change[1] < newest_sync:
                    floor = index
            possible = {change[2] for change in changes[floor:]}
            # In a crash what was not flushed may be missing: but not what a sync covered.
            if found < 0 and len(changes) - 1 > floor:
                possible.add(-1)
        else:
            possible = {c[2] for c in changes if self.allows(key, now, now, c[2])}
            if self.allows(key, now, now, -1):
                possible.add(-1)  # a put that was cut may leave a miss
        if found not in possible:
            raise BrokenPromiseError(
                f"{key!r}: {found} is not among {sorted(possible)} ({is_crash=}) {changes[-4:]}"
            )
        self.changes[key] = [[-1.0, -1.0, found]]


class Root:
    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.config = config_of(path, keep_warm=number % 2 == 1)
        self.book = Book()
        self.logs = 0

    def start(self, owner: int, seed: str) -> tuple[int, Path]:
        self.logs += 1
        path = self.path.parent / f"log-{self.path.name}-{self.logs}"
        # Numbers are never used twice, also by processes whose log was not read yet.
        first = self.logs * 100_000
        return spawn(self.config, owner, f"{seed}/{self.logs}", path, first), path


def wait_for(path: Path, process: int) -> None:
    """Until the process has attached, or is gone."""
    deadline = time.monotonic() + SILENCE_S
    while not (path.exists() and path.read_text().startswith(("open", "error"))):
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise BrokenPromiseError("a process does not get to attach")
        threading.Event().wait(0.005)


def end(process: int) -> None:
    deadline = time.monotonic() + SILENCE_S
    while os.waitpid(process, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise BrokenPromiseError("a process does not end: it waits for somebody")
        threading.Event().wait(0.005)


def one_round(run: Run, root: Root, number: int) -> tuple[int, int]:
    """(kills, hits) of one round."""
    rng = run.random(number)
    seed = f"{run.seed}/{number}"
    workers = {owner: root.start(owner, seed) for owner in range(WORKERS)}
    kills = 0
    is_crash = rng.random() < 0.3
    watcher: Storage | None = None
    try:
        for process, path in workers.values():
            if rng.random() < 0.9:
                wait_for(path, process)
        for _ in range(rng.randint(1, 5)):
            threading.Event().wait(rng.random() * 0.15)
            owner = rng.randrange(WORKERS)
            process, path = workers[owner]
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            kills += 1
            if path.exists():
                root.book.take(path)
            workers[owner] = root.start(owner, seed)
        threading.Event().wait(rng.random() * 0.15)
        if is_crash:
            for process, _ in workers.values():
                os.kill(process, signal.SIGKILL)
                kills += 1
            for process, _ in workers.values():
                os.waitpid(process, 0)
        else:
            # One that stays keeps the arena, and sees what all have left.
            for process, path in workers.values():
                wait_for(path, process)
            watcher = Storage(root.config)
            for process, _ in workers.values():
                os.kill(process, signal.SIGUSR1)
            for process, _ in workers.values():
                end(process)
    except BaseException:
        for process, _ in workers.values():
            try:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            except OSError:
                pass
        if watcher is not None:
            watcher.close()
        raise
    for _, path in workers.values():
        if path.exists():
            root.book.take(path)
    return kills, verify(root, watcher, is_crash)


def verify(root: Root, watcher: Storage | None, is_crash: bool) -> int:
    store = Storage(root.config) if watcher is None else watcher
    try:
        if store.counters()["index_resets"]:
            raise BrokenPromiseError("an index was not mended")
        hits = root.book.judge()
        store.sync()
        for key in list(root.book.changes):
            value = store.get(key)
            found = -1 if value is None else number_of(key, value)
            root.book.settle(key, found, is_crash)
        broken = store.check()
        counters = store.counters()
        left = {name: counters[name] for name in ("memory_pinned_bytes", "memory_zombies")}
        if broken or any(left.values()) or counters["processes"] != 1:
            raise BrokenPromiseError(f"{broken} {left} {counters['processes']} processes")
        if counters["memory_used_bytes"] + counters["index_used_bytes"] > 4 * MIB:
            raise BrokenPromiseError(f"over the budget: {counters}")
        root.book.syncs.clear()
    finally:
        store.close()
    return hits


def rounds(run: Run) -> str:
    kills = hits = 0
    root: Root | None = None
    run.first -= run.first % ROUNDS_PER_ROOT
    with run.scratch() as directory:
        for number in run.numbers():
            if root is None or number % ROUNDS_PER_ROOT == 0:
                if root is not None:
                    forget_warm(str(root.path))
                gc.collect()
                path = directory / str(number)
                path.mkdir(mode=0o700)
                root = Root(path, number // ROUNDS_PER_ROOT)
            with run.judged(number):
                try:
                    found = one_round(run, root, number)
                except BaseException:
                    forget_warm(str(root.path))
                    root = None
                    raise
                kills, hits = kills + found[0], hits + found[1]
        if root is not None:
            forget_warm(str(root.path))
    return f"{kills} kills among {WORKERS} processes, {hits} hits compared"


ROW = Row(
    "shared",
    "SIGKILL of any of four processes that share a cache, under load, and of all at once",
    "no wrong byte, no deleted key back, no acknowledged put lost while one lives, no hang",
    short=6,
    long=400,
    run=rounds,
)
