"""cut: power cuts of real file systems, by the shutdown call of ext4 and XFS on a loop device.

A forked process works as in the row `kill`. The file system is shut down under it: from then on
nothing reaches the device, and what had not reached it is lost, the page cache included. Only what
the process said *before* the call binds: fsync has been seen to succeed after it. Then the process
is killed, the file system mounted again (which replays its journal) and every key is checked.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import threading
import time
from contextlib import ExitStack

from support.model import Model

from torture.campaign import Row, Run
from torture.kill import child, config_of, read_until, verify
from torture.loopfs import Mount, file_system
from torture.oracle import Replay

CUTS_PER_ROOT = 5
KINDS = ("ext4", "xfs")
TOLD = re.compile(r"edgecache\.errors\.(?:DiskIOError|NoSpaceError|DeadlineError)|OSError: \[Errno")


def drain(pipe: int) -> bytes:
    """What is there now, without waiting."""
    found = b""
    while select.select([pipe], [], [], 0)[0]:
        piece = os.read(pipe, 65536)
        if not piece:
            break
        found += piece
    return found


def run_and_cut(
    mount: Mount, engine: str, rng: random.Random, seed: str, number: int
) -> tuple[list[str], list[str]]:
    """Lines that were said before the cut began, and those after it."""
    config = config_of(mount.point / "root", engine, False)
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        child(config, seed, number, writer, False)
    os.close(writer)
    try:
        lines_wanted = rng.choice((0, 2, 60, 400))
        before = read_until(reader, lines_wanted, time.monotonic() + 60)
        threading.Event().wait(rng.random() * 0.02)
        before += drain(reader)
        mount.cut_power()
        # It may work on for a moment, on a disk that fails: sometimes it learns of that.
        threading.Event().wait(rng.choice((0, 0.005)))
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    after = b""
    while piece := os.read(reader, 65536):
        after += piece
    os.close(reader)
    whole, _, torn = before.rpartition(b"\n")
    return whole.decode().split("\n") if whole else [], (torn + after).decode().split("\n")[:-1]


def replay_all(model: Model, before: list[str], after: list[str]) -> Replay:
    """Both into the model; what was said after the cut began binds nobody."""
    replay = Replay(model)
    for line in before:
        assert not line.startswith("error"), line
        if line not in ("open", "closed"):
            replay.line(line)
    replay.is_deaf = True
    for line in after:
        if line.startswith("error"):
            # Only what asks for durability, or opens, may tell of the disk, and by its own errors.
            assert TOLD.search(line), line
            break
        if line not in ("open", "closed"):
            replay.line(line)
    replay.crash()
    return replay


def one_cut(run: Run, mount: Mount, model: Model, number: int, cut: int) -> tuple[int, int, int]:
    """One cut and the check after it: (hits, binding syncs, the last number used)."""
    rng = run.random(cut)
    engine = rng.choice(("uring", "threads"))
    before, after = run_and_cut(mount, engine, rng, f"{run.seed}/{cut}", number)
    mount.unmount()
    mount.mount()
    replay = replay_all(model, before, after)
    config = config_of(mount.point / "root", engine, False)
    return verify(config, model, rng.random() < 0.5), replay.syncs, replay.last_number


def cuts(run: Run) -> str:
    hits = syncs = number = 0
    state: tuple[Mount, Model] | None = None
    made = dict.fromkeys(KINDS, 0)
    run.first -= run.first % CUTS_PER_ROOT
    with run.scratch() as directory, ExitStack() as stack:
        for cut in run.numbers():
            if state is None or cut % CUTS_PER_ROOT == 0:
                stack.close()
                kind = KINDS[cut // CUTS_PER_ROOT % len(KINDS)]
                place = directory / str(cut)
                place.mkdir()
                state = stack.enter_context(file_system(kind, place)), Model()
                number = 0
            with run.judged(cut):
                found = one_cut(run, *state, number, cut)
                hits, syncs = hits + found[0], syncs + found[1]
                number = max(number, found[2]) + 1000
                made[state[0].kind] += 1
    run.outcome.facts.update(hits=hits, syncs=syncs, **made)
    done = ", ".join(f"{count} {kind}" for kind, count in made.items())
    return f"{done}; {syncs} syncs returned before, {hits} hits verified after"


ROW = Row(
    "cut",
    "real power cuts: shutdown of ext4 and XFS on a loop device",
    "what a sync returned for is there or newer, the rest older or a miss",
    short=4,
    long=200,
    run=cuts,
)
