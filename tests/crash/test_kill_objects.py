"""kill -9 while objects of any size are written: shared chunks, large bodies, sparse objects."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import objects_child
import pytest
from objects_child import CHUNK, KEYS, SPARSE_CHUNKS, body, options, sparse_body
from support.images import LONG

import edgecache
from edgecache import Storage, errors
from edgecache.objects.ranges import RangeSet

KILLS = 60 if LONG else 6


def run_and_kill(root: Path, seed: int, layout: str, life: int, lines_wanted: int) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, objects_child.__file__, str(root), str(seed), layout, str(life)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert child.stdout is not None
    guard = threading.Timer(120, child.kill)
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


class Model:
    """What each key may have: its last durable state, and every state since."""

    def __init__(self) -> None:
        self.durable: dict[str, bytes | None] = dict.fromkeys(KEYS)
        self.since: dict[str, list[bytes | None]] = {key: [] for key in KEYS}
        self.ranges = RangeSet()
        self.written = RangeSet()

    def take(self, lines: list[str]) -> None:
        self.ranges, self.written = RangeSet(), RangeSet()
        for line in lines[1:]:
            kind, *words = line.split()
            if kind == "o":
                self.since[words[0]].append(body([int(number) for number in words[1].split(",")]))
            elif kind == "d":
                self.since[words[0]].append(None)
            elif kind == "r":
                self.written.add(int(words[1]), int(words[2]))
            else:
                for key, states in self.since.items():
                    self.durable[key] = states[-1] if states else self.durable[key]
                    states.clear()
                self.ranges = self.written.copy()

    def check(self, store: Storage) -> dict[str, bytes]:
        """What is there is whole, and what was durable is there; all objects that are."""
        found: dict[str, bytes] = {}
        surprises = []
        for key in KEYS:
            value = store.get(key)
            if value not in (self.durable[key], *self.since[key]):
                # What it did last it may not have said.
                surprises.append(key)
                assert value is None or is_of_known_chunks(value)
            if value is not None:
                found[key] = value
            self.durable[key] = value
            self.since[key].clear()
        assert len(surprises) <= 1
        return found


def is_of_known_chunks(value: bytes) -> bool:
    chunks = [objects_child.chunk(number) for number in range(8)]
    assert value[-1:] == b"."
    parts = [value[start : start + CHUNK] for start in range(0, len(value) - 1, CHUNK)]
    return all(part in chunks for part in parts)


def check_sparse(store: Storage, name: str, model: Model) -> None:
    known = store.availability(name)
    assert known is not None, "a sparse object outlives its process"
    there = RangeSet(known.ranges)
    for start, end in model.ranges:
        assert there.covers(start, end), "a range was durable and is gone"
    expected = sparse_body()
    for start, end in known.ranges:
        assert store.read_range(name, start, end - start) == expected[start:end]


@pytest.mark.parametrize("layout", ["log", "files"])
def test_objects_outlive_kills_whole_and_no_delete_takes_what_another_needs(
    tmp_path: Path, layout: str
) -> None:
    rng = random.Random(5)
    root = tmp_path / "r"
    model = Model()
    for life in range(KILLS):
        lines = run_and_kill(root, rng.randrange(1 << 30), layout, life, rng.randint(5, 60))
        model.take(lines)
        with edgecache.open(root, **options(layout)) as store:  # type: ignore[arg-type]
            found = model.check(store)
            check_sparse(store, f"sparse{life}", model)
            # Half of them go; the others lose nothing by that.
            for key in rng.sample(sorted(found), len(found) // 2):
                assert store.delete(key)
                del found[key]
                model.durable[key] = None
            if rng.random() < 0.5:
                store.scrub()
            for key, value in found.items():
                assert store.get(key) == value
            store.sync()
            if rng.random() < 0.5:
                store.abandon()
    with edgecache.open(root, **options(layout)) as store:  # type: ignore[arg-type]
        complete_all(store)
        for key in KEYS:
            store.delete(key)
        store.scrub()
        if layout == "log":
            assert store._objects.stats()["share_table"] == 0


def complete_all(store: Storage) -> None:
    """Every unfinished object can be completed, and is then what it was meant to be."""
    for life in range(KILLS):
        name = f"sparse{life}"
        known = store.availability(name)
        assert known is not None
        for start, end in known.missing:
            store.write_range(name, start, sparse_body()[start:end])
        assert store.finalize(name) == SPARSE_CHUNKS * CHUNK
        assert store.get(name) == sparse_body()
        with pytest.raises(errors.ObjectNotFoundError):
            store.write_range(name, 0, b"x")
