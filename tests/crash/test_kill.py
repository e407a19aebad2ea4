"""kill -9 of a real process at any moment, on real files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kill_child import STORE
from support.images import LONG
from support.model import Model, make_value, open_core

from edgecache._io import open_engine

HERE = Path(__file__).parent
KILLS = 400 if LONG else 15


def run_and_kill(
    root: Path, engine: str, seed: int, number: int, lines_wanted: int, layout: str
) -> list[str]:
    """Its lines until it was killed, somewhere behind the one asked for."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    child = subprocess.Popen(
        [
            sys.executable,
            str(HERE / "kill_child.py"),
            str(root),
            engine,
            str(seed),
            str(number),
            layout,
        ],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert child.stdout is not None
    # A child that hangs is a failure, not a wait without end.
    guard = threading.Timer(60, child.kill)
    guard.start()
    found = b""
    while found.count(b"\n") < lines_wanted:
        piece = os.read(child.stdout.fileno(), 4096)
        assert piece, f"the child ended by itself: {found[-200:]!r}"
        found += piece
    child.send_signal(signal.SIGKILL)
    found += child.stdout.read()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    guard.cancel()
    return found.decode().split("\n")[:-1]


def replay(model: Model, lines: list[str]) -> int:
    """What the child said into the model; returns the last number that it used."""
    number = 0
    pending: list[str] = []
    for line in lines[1:]:
        if line not in ("=", "!"):
            pending = line.split()
            if pending[0] == "p":
                number = int(pending[2])
            continue
        done, pending = pending, []
        if done[0] == "s":
            model.sync()
            continue
        key = done[1].encode()
        if done[0] == "d":
            model.add(key, None)
        elif line == "=":
            model.add(key, make_value(key, int(done[2]), int(done[3])))
        else:
            model.add_shed(key, make_value(key, int(done[2]), int(done[3])))
    model.crash()
    if pending and pending[0] != "s":
        # Killed in the middle of it: it may have happened or not.
        key = pending[1].encode()
        value = None
        if pending[0] == "p":
            value = make_value(key, int(pending[2]), int(pending[3]))
        floor = model.floor.get(key, 0)
        model.add(key, value)
        model.floor[key] = floor
        model.crashed.add(key)
    return number


@pytest.mark.parametrize(
    ("engine", "layout"),
    [("uring", "log"), ("threads", "log"), ("uring", "files"), ("threads", "files")],
)
def test_a_killed_process_loses_nothing_that_was_synced(
    engine: str, layout: str, tmp_path: Path
) -> None:
    rng = random.Random(11)
    model = Model()
    number = hits = 0
    kills = KILLS if layout == "log" else KILLS // 2  # most of it waits for the device
    for kill in range(kills):
        lines = run_and_kill(tmp_path, engine, kill, number, rng.choice((2, 40, 300, 1500)), layout)
        assert lines[0] == "open"
        number = max(number, replay(model, lines)) + 1000
        core = open_core(STORE, open_engine(engine, tmp_path), layout)
        for index in range(40):
            key = b"key-%d" % index
            found = core.get(key)
            hits += found is not None
            model.check(key, found)
        assert core.check() == []
        if kill % 3 == 0:
            core.close()
        else:
            core.abandon()
    assert hits > kills
