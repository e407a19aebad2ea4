"""Deaths at chosen instructions of an operation on a shared store, inside its locks included."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
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
