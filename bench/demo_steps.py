"""The steps of the demo. Each takes an open store or a directory and returns plain figures."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bench.demo_source import Source, SourceFile, is_right, zipf_order
from bench.engine import MIB, counters, open_store
from bench.measure import Stopwatch, allocated_bytes, child_environment, device_bytes

MEMORY_BYTES_MIN = 4 * MIB
DISK_BYTES_MIN = 256 * MIB
CRASH_BYTES_MAX = 128 * MIB
SYNC_EVERY = 100
GO = "go\n"
KILLS = 3
BATCH = 64
ENGINE_ROUNDS = 5
TIERS = ("front", "memory", "disk", "miss")
COUNTER_OF = {"front": "front_hits", "memory": "memory_hits", "disk": "disk_hits"}

Advance = Callable[[int, int], object]


@dataclass(frozen=True)
class Setup:
    """Where the store is and how large its tiers are."""

    root: Path
    memory_bytes: int
    disk_bytes: int
    engine: str

    @classmethod
    def for_source(cls, root: Path, source: Source, ratio: float, engine: str) -> Setup:
        memory = max(MEMORY_BYTES_MIN, int(source.total_bytes * ratio))
        disk = max(DISK_BYTES_MIN, 2 * source.total_bytes + 2 * CRASH_BYTES_MAX)
        return cls(root, memory, disk // MIB * MIB, engine)

    def open(self, engine: str | None = None, memory_bytes: int | None = None) -> Any:
        return open_store(
            self.root, memory=memory_bytes or self.memory_bytes, disk=self.disk_bytes,
            engine=engine or self.engine, block_timeout=30,
        )  # fmt: skip


@dataclass
class Fill:
    """The first step's figures. Latencies in ns, one per put."""

    wall_s: float = 0
    cpu_s: float = 0
    sync_s: float = 0
    payload_bytes: int = 0
    shed_count: int = 0
    latencies: list[int] = field(default_factory=list)
    log_bytes: int = 0
    record_bytes: int = 0
    device_write_bytes: int = 0
    allocated_bytes: int = 0


def fill(setup: Setup, store: Any, source: Source, advance: Advance) -> Fill:
    """Put every file; reading it from its source is not in the time."""
    found = Fill()
    clock = time.perf_counter_ns
    device_before = device_bytes()[1]
    before = counters(store)
    watch = Stopwatch()
    for number, file in enumerate(source.files):
        value = Path(file.path).read_bytes()
        began = clock()
        with watch:
            stored = store.put(file.key, value)
        found.latencies.append(clock() - began)
        found.payload_bytes += len(value)
        found.shed_count += not stored
        if number % 64 == 0:
            advance(number, len(source.files))
    began = clock()
    with watch:
        store.sync()
    found.sync_s = (clock() - began) / 1e9
    found.wall_s, found.cpu_s = watch.wall_s, watch.cpu_s
    after = counters(store)
    found.log_bytes = after["flushed_bytes"] - before["flushed_bytes"]
    found.record_bytes = after["log_record_bytes"] - before["log_record_bytes"]
    found.device_write_bytes = device_bytes()[1] - device_before
    found.allocated_bytes = allocated_bytes(setup.root)
    advance(len(source.files), len(source.files))
    return found


@dataclass
class Reads:
    """Gets by tier: latencies in ns. `history`: shares of the tiers over time."""

    latencies: dict[str, list[int]] = field(default_factory=lambda: {tier: [] for tier in TIERS})
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    wrong: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    verified_bytes: int = 0
    wall_s: float = 0
    cpu_s: float = 0
    device_read_bytes: int = 0
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.latencies.values())


def tier_of(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Which tier answered one get: the one whose counter moved."""
    for tier, name in COUNTER_OF.items():
        if after[name] > before[name]:
            return tier
    return "miss"


def read(
    store: Any, source: Source, seed: int, count: int, advance: Advance, is_over: Callable[[], bool]
) -> Reads:
    """Get files in Zipf order, time each get by itself, and check every byte outside the time.

    A miss is filled from the source, as a cache's user would do.
    """
    found = Reads()
    clock = time.perf_counter_ns
    step = max(1, count // 100)
    recent = dict.fromkeys(TIERS, 0)
    device_before = device_bytes()[0]
    before = counters(store)
    watch = Stopwatch()
    for number, index in enumerate(islice(zipf_order(len(source.files), seed), count), 1):
        file = source.files[index]
        with watch:
            began = clock()
            value = store.get(file.key)
            taken = clock() - began
        after = counters(store)
        tier = tier_of(before, after)
        before = after
        found.latencies[tier].append(taken)
        recent[tier] += 1
        if value is None:
            store.put(file.key, Path(file.path).read_bytes())
        else:
            found.sizes[tier] += len(value)
            found.verified_bytes += len(value)
            if not is_right(file, value):
                found.wrong.append(file.key.decode("utf-8", "replace"))
        if number % step == 0:
            found.history.append({tier: recent[tier] / step for tier in TIERS})
            recent = dict.fromkeys(TIERS, 0)
        if number % 64 == 0:
            advance(number, count)
            if is_over():
                break
    found.wall_s, found.cpu_s = watch.wall_s, watch.cpu_s
    found.device_read_bytes = device_bytes()[0] - device_before
    found.after = before
    advance(count, count)
    return found


@dataclass
class EngineRun:
    """One engine's batch reads: a value per round."""

    engine: str
    rates: list[float] = field(default_factory=list)
    bandwidths: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    refused: str = ""


def race(
    setup: Setup,
    source: Source,
    seed: int,
    seconds: float,
    advance: Advance,
    engines: Sequence[str] = ("uring", "threads"),
) -> tuple[list[EngineRun], list[str]]:
    """Read batches through each engine in turn, on the same store; wrong keys come back too."""
    from edgecache.errors import EngineUnavailableError

    runs = {name: EngineRun(name) for name in engines}
    wrong: list[str] = []
    by_key = {file.key: file for file in source.files}
    keys = list(by_key)
    for number in range(ENGINE_ROUNDS):
        for name in engines[:: -1 if number % 2 else 1]:
            run = runs[name]
            if run.refused:
                continue
            try:
                store = setup.open(name, MEMORY_BYTES_MIN)
            except EngineUnavailableError as error:
                run.refused = str(error)
                continue
            try:
                wrong += race_once(store, by_key, keys, seed + number, seconds, run)
            finally:
                store.close()
            advance(number + 1, ENGINE_ROUNDS)
    return list(runs.values()), wrong


def race_once(
    store: Any,
    by_key: dict[bytes, SourceFile],
    keys: list[bytes],
    seed: int,
    seconds: float,
    run: EngineRun,
) -> list[str]:
    generator = random.Random(seed)
    wrong = []
    count = size = 0
    watch = Stopwatch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch = generator.sample(keys, min(BATCH, len(keys)))
        with watch:
            values = store.get_many(batch)
        for key, value in zip(batch, values, strict=True):
            if value is not None:
                count += 1
                size += len(value)
                if not is_right(by_key[key], value):
                    wrong.append(key.decode("utf-8", "replace"))
    if count:
        run.rates.append(count / watch.wall_s)
        run.bandwidths.append(size / watch.wall_s)
        run.cpu_us.append(1e6 * watch.cpu_s / count)
    return wrong


@dataclass
class Crash:
    """What was there after each SIGKILL."""

    open_s: list[float] = field(default_factory=list)
    synced: int = 0
    unsynced_found: int = 0
    written: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    originals_checked: int = 0
    originals_missing: int = 0
    recovery: list[dict[str, Any]] = field(default_factory=list)


def crash_key(round_number: int, number: int) -> bytes:
    return b"crash/%d/%09d" % (round_number, number)


def crash_value(round_number: int, number: int) -> bytes:
    """Bytes that follow from the key alone, of 64 B to 16 KiB."""
    generator = random.Random(round_number << 40 | number)
    return generator.randbytes(64 << generator.randrange(9))


def crash_writer(
    root: str, memory_bytes: int, disk_bytes: int, engine: str, round_number: int
) -> None:
    """Child: put and sync until it is killed; says how far it got.

    It waits for a word on its standard input: a parent that is interrupted while it starts this
    process cannot kill it, but closes the pipe.
    """
    if sys.stdin.readline() != GO:
        return
    store = Setup(Path(root), memory_bytes, disk_bytes, engine).open()
    for number in range(1 << 40):
        if not store.put(crash_key(round_number, number), crash_value(round_number, number)):
            raise RuntimeError("the store shed a put")
        if number % SYNC_EVERY == SYNC_EVERY - 1:
            store.sync()
            print(f"synced {number + 1}", flush=True)
        elif number % SYNC_EVERY == SYNC_EVERY // 2:
            print(f"putting {number + 1}", flush=True)


def kill_while_writing(setup: Setup, round_number: int, syncs: int) -> int:
    """Start a writer, kill it between two syncs after at least `syncs`; entries known as synced."""
    arguments = {
        "root": str(setup.root), "memory_bytes": setup.memory_bytes,
        "disk_bytes": setup.disk_bytes, "engine": setup.engine, "round_number": round_number,
    }  # fmt: skip
    command = [
        sys.executable, "-m", "bench.child", "bench.demo_steps:crash_writer", json.dumps(arguments),
    ]  # fmt: skip
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        bufsize=1,
        env=child_environment(),
    )  # fmt: skip
    synced = 0
    try:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(GO)
        writer.stdin.flush()
        for line in writer.stdout:
            word, number = line.split()
            if word == "synced":
                synced = int(number)
            elif synced >= syncs * SYNC_EVERY:
                break
        else:
            message = writer.stderr.read() if writer.stderr else ""
            raise RuntimeError(f"the writing child ended by itself: {message[-500:]}")
        writer.send_signal(signal.SIGKILL)
        # What it said before it died counts as synced as well; the last line may be cut short.
        for line in writer.stdout:
            if line.startswith("synced ") and line.endswith("\n"):
                synced = int(line.split()[1])
    finally:
        writer.kill()
        writer.wait()
        for pipe in (writer.stdin, writer.stdout, writer.stderr):
            if pipe:
                pipe.close()
    return synced


def crash(setup: Setup, source: Source, seed: int, syncs: int, advance: Advance) -> Crash:
    """Kill a writing process, reopen, and check what it had synced and what was there before."""
    found = Crash()
    generator = random.Random(seed)
    for round_number in range(KILLS):
        synced = kill_while_writing(setup, round_number, syncs + generator.randrange(syncs))
        began = time.perf_counter()
        store = setup.open()
        found.open_s.append(time.perf_counter() - began)
        try:
            report = counters(store)
            found.recovery.append({k: v for k, v in report.items() if k.startswith("recovery")})
            found.synced += synced
            check_killed(store, round_number, synced, found)
            for file in generator.sample(source.files, min(2000, len(source.files))):
                value = store.get(file.key)
                found.originals_checked += 1
                if value is None:
                    found.originals_missing += 1
                elif not is_right(file, value):
                    found.wrong.append(file.key.decode("utf-8", "replace"))
        finally:
            store.close()
        advance(round_number + 1, KILLS)
    return found


def check_killed(store: Any, round_number: int, synced: int, found: Crash) -> None:
    """Everything synced is there; what came after is right or absent."""
    for number in range(synced + 4 * SYNC_EVERY):
        value = store.get(crash_key(round_number, number))
        if value is None:
            if number < synced:
                found.lost.append(crash_key(round_number, number).decode())
        elif value != crash_value(round_number, number):
            found.wrong.append(crash_key(round_number, number).decode())
        elif number >= synced:
            found.unsynced_found += 1
