"""Deaths at chosen instructions of an operation on a shared store, inside its locks included."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.stepping import (
    CannotTraceError,
    begin_steps,
    count_system_calls,
    end_steps,
    run_and_kill,
)

from edgecache import Config, Storage

MIB = 1024 * 1024
DEADLINE_S = 30.0
OTHER = b"o" * 5000
DEATHS_EACH = 8
STEPS_MAX = 2_000_000
GROWTHS = 3
# Instructions of a put that adds a segment to four: nearly all under the shard's lock. More of them
# in a debug build.
GROWTH_STEPS = 175_000


def value(number: int) -> bytes:
    return b"v%d|" % number + bytes(300)


# What a survivor may find under the key that held value(1), if the process died on its way.
OPERATIONS: dict[str, tuple[Callable[[Storage], object], set[bytes | None]]] = {
    "put": (lambda store: store.put("key", value(2)), {value(1), value(2), None}),
    "delete": (lambda store: store.delete("key"), {value(1), None}),
    "get": (lambda store: store.get("key"), {value(1)}),
    "view": (lambda store: store.view("key"), {value(1)}),
    "sync": (lambda store: store.sync(), {value(1)}),
    "new": (lambda store: store.put(os.urandom(8), value(4)), {value(1)}),
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        root=str(tmp_path / "root"), shared=True, memory=4 * MIB, disk=64 * MIB, region_size=MIB,
        shards=1, flush_size=64 * 1024, flush_interval=0.005, front_size=0,
    )  # fmt: skip


@pytest.fixture
def store(config: Config) -> Iterator[Storage]:
    with Storage(config) as opened:
        opened.put("key", value(1))
        opened.put("warm", value(0))
        yield opened


def stepped(config: Config, operation: Callable[[Storage], object]) -> Callable[[], None]:
    def work() -> None:
        store = Storage(config)
        store.put("mine", value(0))
        store.get("mine")
        store.view("mine")
        store.delete("mine")
        begin_steps()
        operation(store)
        end_steps()

    return work


@pytest.mark.parametrize("name", OPERATIONS)
def test_whoever_dies_at_any_instruction_leaves_a_cache_that_goes_on(
    config: Config, store: Storage, name: str
) -> None:
    operation, possible = OPERATIONS[name]
    rng = random.Random(name)
    try:
        count = run_and_kill(stepped(config, operation), STEPS_MAX)
    except CannotTraceError as error:
        pytest.skip(f"ptrace: {error}")
    assert count is not None
    for _ in range(DEATHS_EACH):
        assert store.put("key", value(1))
        assert store.put("other", OTHER)
        run_and_kill(stepped(config, operation), rng.randrange(count))
        began = time.monotonic()
        assert store.get("key") in possible
        assert store.get("other") == OTHER
        store.sync()
        assert time.monotonic() - began < DEADLINE_S
        forget_the_dead(store)
        assert store.check() == []


def growing_puts(config: Config) -> list[int]:
    """Which of the puts of key(0), key(1) ... make the index of that root grow."""
    found: list[int] = []
    with Storage(config) as store:
        grows, number = store.counters()["index_grows"], 0
        while len(found) < GROWTHS:
            store.put(b"%d" % number, value(number))
            if store.counters()["index_grows"] != grows:
                grows = store.counters()["index_grows"]
                found.append(number)
            number += 1
    return found


def test_whoever_dies_while_the_index_grows_costs_no_entry(config: Config, tmp_path: Path) -> None:
    rng = random.Random(4)
    with Storage(config):
        pass  # the root has its seed now: a copy of it grows at the same puts
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(str(config.root), rehearsal)
    growing = growing_puts(replace(config, root=str(rehearsal)))
    with Storage(config) as store:
        start, steps = 0, GROWTH_STEPS
        for death in growing:
            for number in range(start, death):
                assert store.put(b"%d" % number, value(number))
            start = death

            def grow(other: Storage, number: int = death) -> None:
                other.put(b"%d" % number, value(number))

            run_and_kill_or_skip(stepped(config, grow), rng.randrange(steps // 2, steps))
            steps += 38_000  # one segment more to be read
            for number in range(death):
                assert store.get(b"%d" % number) == value(number)
            assert store.counters()["index_resets"] == 0
            forget_the_dead(store)
            assert store.check() == []
        # Where in a growth each came depends on the root's seed; test_index_deaths has every place.
        assert store.counters()["processes_reaped"] >= len(growing)


def run_and_kill_or_skip(work: Callable[[], None], steps: int) -> None:
    try:
        run_and_kill(work, steps)
    except CannotTraceError as error:
        pytest.skip(f"ptrace: {error}")


def forget_the_dead(store: Storage) -> None:
    """Wait until nothing is left of a process that was killed."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        counters = store.counters()
        if counters["processes_attached"] - counters["processes_reaped"] == 1:
            assert counters["memory_pinned_bytes"] == counters["memory_zombies"] == 0
            return
        assert time.monotonic() < deadline
        store.put("warm", value(0))  # a writer with work looks for the dead
        threading.Event().wait(0.005)


@pytest.mark.parametrize("size", [100, 5000])
def test_a_ram_hit_takes_no_system_call(config: Config, store: Storage, size: int) -> None:
    store.put("key", bytes(size))

    def hit(other: Storage) -> None:
        for _ in range(100):
            other.get("key")

    try:
        nothing = count_system_calls(stepped(config, lambda other: None))
        assert count_system_calls(stepped(config, hit)) == nothing
    except CannotTraceError as error:
        pytest.skip(f"ptrace: {error}")
