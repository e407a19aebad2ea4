"""kill: SIGKILL of a process at any moment, under load, while it opens, closes or recovers.

A child is forked, opens the store and says line by line what it does (`oracle.Replay`). It is
killed somewhere between its first system call and some hundred operations later. Then the store is
opened again, at once, and every key is read; what was not there then must not come later. Several
kills hit one root in turn, so recoveries build on recoveries. Every other root is large enough for
all that is put: there nothing that a sync covered may miss. Half of the roots keep their
arenas: what a process adopts, or leaves, is killed as well.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import threading
import time
import traceback
from pathlib import Path

from support.model import KIB, MIB, Model, any_size, make_value

from edgecache import Config, Storage
from edgecache.warm import forget_warm
from torture.campaign import Row, Run
from torture.oracle import Replay, StrictModel

KEYS = 48
KILLS_PER_ROOT = 10
SILENCE_S = 60.0


def config_of(root: Path, engine: str, is_strict: bool, keep_warm: bool = False) -> Config:
    return Config(
        root=str(root), io=engine, memory=4 * MIB, disk=(256 if is_strict else 16) * MIB,
        region_size=MIB, shards=1, flush_size=64 * KIB, flush_interval=0.005,
        checkpoint_interval=1, chunk_size=64 * KIB, keep_warm=keep_warm,
    )  # fmt: skip


def key_of(number: int) -> bytes:
    """Keys of four families, so that a prefix means several of them."""
    return b"%c-%d" % (b"abcd"[number % 4], number)


def live(store: Storage, rng: random.Random, number: int, pipe: int, is_strict: bool) -> None:
    """Work until the end comes, and say so."""

    def say(text: str) -> None:
        os.write(pipe, text.encode() + b"\n")

    while True:
        number += 1
        key = key_of(rng.randrange(KEYS))
        kind = rng.random()
        if kind < 0.62:
            size = any_size(rng, large=not is_strict) if rng.random() < 0.97 else 300_000
            value = make_value(key, number, size)
            say(f"p {key.decode()} {number} {len(value)}")
            say("=" if store.put(key, value) else "!")
        elif kind < 0.74:
            say(f"d {key.decode()}")
            store.delete(key)
            say("=")
        elif kind < 0.75:
            say(f"x {key[:2].decode()}")
            store.delete_prefix(key[:2])
            say("=")
        elif kind < 0.83:
            store.get_many([key_of(n) for n in range(KEYS)])
        elif kind < 0.92 and not is_strict:
            store.put(b"churn-%d" % number, bytes(rng.randint(1000, 60_000)))
        elif kind < 0.96:
            say("s")
            store.sync()
            say("=")
        elif kind < 0.963:
            store.checkpoint()


def child(config: Config, seed: str, number: int, pipe: int, is_strict: bool) -> None:
    """What the forked process does; it never returns."""
    status = 3
    try:
        rng = random.Random(seed)
        store = Storage(config)
        os.write(pipe, b"open\n")
        if rng.random() < 0.05:
            store.put(b"closing", b"value")
            store.close()
            os.write(pipe, b"closed\n")
            signal.pause()
        live(store, rng, number, pipe, is_strict)
    except BaseException:
        os.write(pipe, ("error " + traceback.format_exc().replace("\n", " | ")).encode() + b"\n")
    finally:
        os._exit(status)


def read_until(pipe: int, lines_wanted: int, end_s: float) -> bytes:
    """Its lines, at least so many; all there were when it ended by itself or fell silent."""
    found = b""
    while found.count(b"\n") < lines_wanted:
        left = end_s - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            raise AssertionError(f"the process fell silent for {SILENCE_S} s")
        piece = os.read(pipe, 65536)
        if not piece:
            break
        found += piece
        if b"closed\n" in found:
            break
    return found


def run_and_kill(
    config: Config, rng: random.Random, seed: str, number: int, is_strict: bool
) -> list[str]:
    """Fork a process that works, kill it, and return all that it said."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        child(config, seed, number, writer, is_strict)
    os.close(writer)
    lines_wanted = rng.choice((0, 0, 1, 2, 30, 200, 600))
    try:
        found = read_until(reader, lines_wanted, time.monotonic() + SILENCE_S)
        if lines_wanted < 2:
            # In the middle of opening, recovering, or the first operations.
            threading.Event().wait(rng.random() * 0.03)
    finally:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    while piece := os.read(reader, 65536):
        found += piece
    os.close(reader)
    lines = found.decode().split("\n")[:-1]
    errors = [line for line in lines if line.startswith("error")]
    assert not errors, errors
    assert os.WIFSIGNALED(status), f"it ended by itself: {status}"
    return lines


def verify(config: Config, model: Model, is_abandoned: bool) -> int:
    """Open, read every key and check all structures, then leave in one way or the other."""
    store = Storage(config)
    try:
        hits = 0
        for index in range(KEYS):
            found = store.get(key_of(index))
            hits += found is not None
            model.check(key_of(index), found)
        assert store.check() == []
        if is_abandoned:
            store.abandon()
    finally:
        store.close()
    return hits


class Root:
    """A directory and what is known about it, over several kills."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.is_strict = number % 2 == 0
        self.engine = ("uring", "threads", "auto")[number % 3]
        self.keep_warm = number % 4 > 1
        self.model: Model = StrictModel() if self.is_strict else Model()
        self.number = 0


def one_kill(run: Run, root: Root, kill: int) -> tuple[int, int]:
    """One kill of a root and the check after it: (hits, syncs seen)."""
    rng = run.random(kill)
    config = config_of(root.path, root.engine, root.is_strict, root.keep_warm)
    lines = run_and_kill(config, rng, f"{run.seed}/{kill}", root.number, root.is_strict)
    replay = Replay(root.model)
    for line in lines:
        if line == "closed":
            continue
        if line != "open":
            replay.line(line)
    replay.crash()
    root.number = max(root.number, replay.last_number) + 1000
    hits = verify(config, root.model, is_abandoned=rng.random() < 0.5)
    return hits, replay.syncs


def kills(run: Run) -> str:
    hits = syncs = 0
    root: Root | None = None
    # An injection builds on the ones before it on its root: begin where a root begins.
    run.first -= run.first % KILLS_PER_ROOT
    with run.scratch() as directory:
        for kill in run.numbers():
            if root is None or kill % KILLS_PER_ROOT == 0:
                if root is not None:
                    forget_warm(str(root.path))
                gc.collect()
                path = directory / str(kill)
                path.mkdir(mode=0o700)
                root = Root(path, kill // KILLS_PER_ROOT)
            before = run.outcome.violation_count
            with run.judged(kill):
                found = one_kill(run, root, kill)
                hits, syncs = hits + found[0], syncs + found[1]
            if run.outcome.violation_count > before:
                forget_warm(str(root.path))
                root = None
        if root is not None:
            forget_warm(str(root.path))
    if run.outcome.is_good and hits < run.outcome.injections:
        run.violation(run.first, f"only {hits} hits: the row shows nothing")
    run.outcome.facts.update(hits=hits, syncs=syncs)
    return f"{hits} hits verified after, {syncs} syncs returned before"


ROW = Row(
    "kill",
    "SIGKILL at any moment, under load and in recoveries",
    "nothing wrong, nothing deleted back, nothing lost that a sync covered",
    short=20,
    long=1000,
    run=kills,
)
