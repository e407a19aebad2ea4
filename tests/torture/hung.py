"""hung: the file system is frozen, or the device holds what it is asked for, under a store.

Meanwhile hits in RAM, `stats` and `health` go on, and nothing returns a wrong byte. Puts give up
after `block_timeout`, and gets of what only the disk has after `read_timeout`, each before the
device answers again. After the thaw everything works. A process of its own thaws the file system
whatever happens here: what waits for a frozen one cannot even be killed.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from pathlib import Path

from support.model import MIB, make_value, until

from edgecache import Config, Storage
from torture.campaign import Row, Run
from torture.loopfs import call, file_system, require
from torture.throttle import SLOW_BPS, can_throttle, throttle

FROZEN_S = 2.0
BLOCK_TIMEOUT_S = 0.2
READ_TIMEOUT_S = 0.2
KEYS = 100
# A put waits for a buffer, then for its record; one that is under way longer than this after the
# last one began is held up. The file system is frozen all the time.
PUT_S_MAX = 10 * BLOCK_TIMEOUT_S
RESCUE_S = 30


def rescue(point: Path) -> subprocess.Popen[bytes]:
    """Thaws the file system after a while; told to go by closing its standard input."""
    script = f'timeout {RESCUE_S} cat > /dev/null; fsfreeze -u "$1" 2> /dev/null'
    return subprocess.Popen(["sh", "-c", script, "-", str(point)], stdin=subprocess.PIPE)


def hits_us(store: Storage, values: dict[bytes, bytes], wrong: list[str]) -> list[float]:
    taken = []
    for key, value in values.items():
        begin = time.perf_counter()
        found = store.get(key)
        taken.append((time.perf_counter() - begin) * 1e6)
        if found != value:
            wrong.append(f"{key!r} is not a hit in RAM: {found and found[:20]!r}")
    return taken


def quantile(taken: list[float], share: float) -> float:
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * share))]


def put_until(store: Storage, stop: threading.Event, seed: int) -> tuple[int, float]:
    """Fill the buffers: (puts that were shed, the longest one in seconds)."""
    rng = random.Random(seed)
    shed, longest_s, number = 0, 0.0, 0
    while not stop.is_set():
        number += 1
        begin = time.monotonic()
        shed += not store.put(b"fill-%d-%d" % (seed, number), rng.randbytes(30_000))
        longest_s = max(longest_s, time.monotonic() - begin)
    return shed, longest_s


def kernel_waits(putting: int | None) -> str:
    """Where the threads of this process wait in the kernel, the putting one first."""
    found = [Path(f"/proc/self/task/{putting}/syscall").read_text().split()[0] + " (put)"]
    for task in sorted(Path("/proc/self/task").iterdir()):
        name, waits = (task / "comm").read_text().strip(), (task / "wchan").read_text()
        if waits not in ("", "0", "futex_wait_queue", "futex_do_wait"):
            found.append(f"{name}: {waits}")
    return ", ".join(found)


class Puts(threading.Thread):
    """Puts in a thread of their own, for a hang must not hang the row."""

    def __init__(self, store: Storage, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self.arguments = store, stop, seed
        self.answer = 0, 0.0

    def run(self) -> None:
        self.answer = put_until(*self.arguments)


def freeze(store: Storage, point: Path, values: dict[bytes, bytes], seed: int) -> dict[str, float]:
    """One freeze: what was measured. Raises what went wrong."""
    wrong: list[str] = []
    before = hits_us(store, values, wrong) + hits_us(store, values, wrong)
    stop = threading.Event()
    puts = Puts(store, stop, seed)
    guard = rescue(point)
    call("fsfreeze", "-f", point)
    try:
        puts.start()
        end_s = time.monotonic() + FROZEN_S
        during: list[float] = []
        observed_s = 0.0
        while time.monotonic() < end_s:
            during += hits_us(store, values, wrong)
            begin = time.monotonic()
            store.stats()
            store.health()
            observed_s = max(observed_s, time.monotonic() - begin)
        stop.set()
        puts.join(PUT_S_MAX)
        assert not puts.is_alive(), f"a put is held up: {kernel_waits(puts.native_id)}"
    finally:
        guard.communicate()
    puts.join()
    store.sync()
    shed, longest_s = puts.answer
    assert not wrong, "; ".join(wrong[:3])
    assert shed > 0, "nothing was shed: the freeze did not reach the store"
    until(lambda: store.put(b"after", b"value"))
    store.sync()
    assert store.check() == []
    return {
        "before_us": quantile(before, 0.99), "during_us": quantile(during, 0.99),
        "put_s": longest_s, "stats_s": observed_s, "shed": shed,
    }  # fmt: skip


def hold_reads(config: Config, values: dict[bytes, bytes], point: Path) -> float:
    """The device gives nothing to a store that has nothing in RAM: the longest get in seconds."""
    longest_s = 0.0
    config = config.replace(root=str(point / "reads"), disk=16 * MIB)
    with Storage(config) as store:
        store.put_many(values)
    with throttle(point) as device, Storage(config) as store:
        device.add(os.getpid())
        warm = next(iter(values))
        # The deadline is short, and the device may have other work.
        until(lambda: store.get(warm) == values[warm])
        timeouts = store.counters()["io_timeouts"]
        device.set("read", SLOW_BPS)
        try:
            for ask in (store.get, lambda key: store.get_many([key])[0]):
                for key in list(values)[1:6]:
                    begin = time.monotonic()
                    found = ask(key)
                    longest_s = max(longest_s, time.monotonic() - begin)
                    assert found in (None, values[key]), f"{key!r} is wrong"
            assert store.get(warm) == values[warm], "not a hit in RAM"
            assert store.counters()["io_timeouts"] > timeouts, "no read waited for the device"
        finally:
            device.release()
        until(lambda: all(store.get(key) == value for key, value in values.items()))
        until(lambda: store.counters()["io_overdue"] == 0, touch=store.flush)
        assert store.check() == []
    return longest_s


def hung(run: Run) -> str:
    require("fsfreeze", package="util-linux")
    found: list[dict[str, float]] = []
    for number in run.numbers():
        engine = ("uring", "threads")[number % 2]
        with run.judged(number), run.scratch() as directory, \
                file_system("ext4", directory, size_bytes=96 * MIB) as mount:  # fmt: skip
            config = Config(root=str(mount.point / "root"), io=engine, memory=32 * MIB,
                            disk=48 * MIB, region_size=MIB, block_timeout=BLOCK_TIMEOUT_S,
                            read_timeout=READ_TIMEOUT_S, write_timeout=BLOCK_TIMEOUT_S,
                            write_buffers=2, flush_size="256KiB")  # fmt: skip
            with Storage(config) as store:
                values = {b"key-%d" % n: make_value(b"key-%d" % n, n, 3000) for n in range(KEYS)}
                store.put_many(values)
                store.sync()
                found.append(freeze(store, mount.point, values, number))
            if can_throttle():
                found[-1]["get_s"] = hold_reads(config, values, mount.point)
    if not found:
        return "nothing was measured"
    worst = {name: max(one.get(name, 0.0) for one in found) for name in found[-1]}
    run.outcome.facts.update(worst)
    gets = f"longest get {worst['get_s']:.2f} s" if "get_s" in worst else "gets: not throttled here"
    return (f"p99 RAM hit {worst['before_us']:.1f} -> {worst['during_us']:.1f} us, stats and health"
            f" {worst['stats_s'] * 1000:.0f} ms, longest put {worst['put_s']:.2f} s, {gets}, "
            f"{int(worst['shed'])} puts shed")  # fmt: skip


ROW = Row(
    "hung",
    "fsfreeze of the file system under load; a device that gives no reads",
    "RAM hits, stats and health go on, puts and gets time out, all works after the thaw",
    short=1,
    long=20,
    run=hung,
)
