"""Workloads over a store's life: bytes per object, opening after a crash, idling."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from bench.engine import GIB, MIB, counters, open_store
from bench.measure import (
    Sample,
    Stopwatch,
    child_environment,
    context_switches,
    cpu_seconds,
    in_child,
)
from bench.rows import Row
from bench.workloads import Plan
from edgecache.warm import forget_warm

OBJECTS, OBJECTS_QUICK = 10_000_000, 1_000_000
SMALL_VALUE_BYTES = 16
OPEN_TOTAL_S = 20.0
IDLE_S, IDLE_QUICK_S = 10.0, 2.0


def small_key(number: int) -> bytes:
    return b"k%011x" % number


def open_many(path: str, count: int, **options: Any) -> Any:
    """A store with an index for that many objects: half of the RAM budget is the index's."""
    return open_store(
        path, memory=max(64 * MIB, count * 56), disk=max(GIB, count * 400), block_timeout=60,
        front_size=0, **options,
    )  # fmt: skip


def fill_many(path: str, count: int) -> None:
    """Child: put `count` small values, sync, say the figures and die by SIGKILL."""
    store = open_many(path, count)
    put = store.put
    watch = Stopwatch()
    shed = 0
    with watch:
        for number in range(count):
            shed += not put(small_key(number), b"%016x" % number)
        store.sync()
    found = counters(store)
    figures = {
        "objects": found["objects"], "index_used_bytes": found["index_used_bytes"],
        "wall_s": watch.wall_s, "shed": shed,
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def fill_and_die(path: str, count: int) -> dict[str, float]:
    """Run `fill_many`, which does not come back."""
    target = ["bench.child", "bench.life:fill_many", json.dumps({"path": path, "count": count})]
    done = subprocess.run(
        [sys.executable, "-m", *target], capture_output=True, text=True, check=False,
        env=child_environment(),
    )  # fmt: skip
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the filling child ended with {done.returncode}: {done.stderr[-400:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def open_again(path: str, count: int, is_clean: bool, **options: Any) -> dict[str, Any]:
    """Child: time to open; then check a sample; leave as it was found, or close."""
    # What the interpreter loads for the first store is not the store's time.
    open_store(None, memory=MIB).close()
    began = time.perf_counter()
    cpu_before = cpu_seconds()
    store = open_many(path, count, **options)
    wall_s, cpu_s = time.perf_counter() - began, cpu_seconds() - cpu_before
    found = counters(store)
    numbers = range(0, count, max(1, count // 2000))
    values = store.get_many([small_key(number) for number in numbers])
    right = sum(value == b"%016x" % n for n, value in zip(numbers, values, strict=True))
    result = {
        "wall_s": wall_s, "cpu_s": cpu_s, "objects": found["objects"], "right": right,
        "sampled": len(numbers), "is_warm": store.stats()["recovery"]["is_warm"],
        "cold_reason": store.stats()["engine"]["cold_reason"],
        "refusal": store.stats()["engine"]["warm_refusal"],
    }  # fmt: skip
    if is_clean:
        store.close()
    else:
        store.abandon()
    return result


def index_ram(plan: Plan) -> list[Row]:
    return life_rows(plan, ("index_ram",))


def open_killed(plan: Plan) -> list[Row]:
    return life_rows(plan, ("index_ram", "open_killed"))[1:]


def life_rows(plan: Plan, wanted: tuple[str, ...]) -> list[Row]:
    count = plan.sized(OBJECTS, OBJECTS_QUICK)
    path = plan.place("many")
    plan.say(f"{count:,} puts in a child process that then dies by SIGKILL")
    filled = fill_and_die(str(path), count)
    words = f"{count / 1e6:g}M objects"
    rows = [
        Row(
            "index_ram", f"index RAM per object, {words}", "bytes",
            [filled["index_used_bytes"] / max(1, filled["objects"])], must=14, aim=10,
            note=f"{filled['objects']:,.0f} objects; put {1e6 * filled['wall_s'] / count:.2f} us",
        )
    ]  # fmt: skip
    if "open_killed" in wanted:
        killed = open_rounds(plan, str(path), count, is_clean=False)
        in_child("bench.life:open_again", path=str(path), count=count, is_clean=True)
        clean = open_rounds(plan, str(path), count, is_clean=True)
        rows += [open_row(f"open after kill -9, {words}", killed, count, 1.0, 0.4)]
        rows += [open_row(f"open after a clean close, {words}", clean, count, None, None)]
        rows += warm_rows(plan, str(path), count, words)
    shutil.rmtree(path)
    return rows


def warm_rows(plan: Plan, path: str, count: int, words: str) -> list[Row]:
    """Opening with the arena of the life before, private and shared."""
    rows = []
    for label, shared in (("warm", False), ("warm, shared", True)):
        options = {"keep_warm": True, "shared": shared}
        first = in_child("bench.life:open_again", path=path, count=count, is_clean=True, **options)
        if first["refusal"]:
            plan.say(f"open {label}: not run, {first['refusal']}")
            continue
        found = [
            in_child("bench.life:open_again", path=path, count=count, is_clean=True, **options)
            for _round in range(plan.repeat)
        ]
        for one in found:
            if not one["is_warm"]:
                raise RuntimeError(f"the arena was not adopted: {one['cold_reason']}")
        rows.append(open_row(f"open {label}, {words}", found, count, 0.1, 0.02))
    forget_warm(path)
    return rows


def open_rounds(plan: Plan, path: str, count: int, is_clean: bool) -> list[dict[str, Any]]:
    """Open again and again; a store that opens slowly is not opened more than it must."""
    found: list[dict[str, Any]] = []
    while len(found) < plan.repeat and sum(one["wall_s"] for one in found) < OPEN_TOTAL_S:
        found.append(in_child("bench.life:open_again", path=path, count=count, is_clean=is_clean))
    return found


def open_row(
    label: str, found: list[dict[str, Any]], count: int, must: float | None, aim: float | None
) -> Row:
    last = found[-1]
    missing = count - last["objects"]
    return Row(
        "open_killed", label, "s", [one["wall_s"] for one in found], must=must, aim=aim,
        note=f"{last['right']} of {last['sampled']} sampled values right, {missing:,} objects "
        f"missing; {last['cpu_s']:.2f} s CPU",
    )  # fmt: skip


def idle_child(path: str, seconds: float, engine: str) -> Sample:
    """Child: what an open store does while nobody uses it."""
    store = open_store(path, memory=64 * MIB, disk=GIB, engine=engine)
    for number in range(1000):
        store.put(small_key(number), b"x" * 1000)
    store.sync()
    time.sleep(0.5)  # the time-based flush of the last puts
    store.get_many([small_key(number) for number in range(1000)])
    switches, cpu = context_switches(), cpu_seconds()
    time.sleep(seconds)
    woken = context_switches() - switches - 1  # one is this thread's own sleep
    used = cpu_seconds() - cpu
    store.close()
    return Sample(1, seconds, used, {"wakeups_per_s": max(0, woken) / seconds})


def idle(plan: Plan) -> list[Row]:
    seconds = IDLE_QUICK_S if plan.is_quick else IDLE_S
    rows = []
    for engine in plan.engines:
        path = plan.place(f"idle-{engine}")
        found = Sample(
            **in_child("bench.life:idle_child", path=str(path), seconds=seconds, engine=engine)
        )
        shutil.rmtree(path)
        rows += [
            Row("idle", f"idle CPU, {engine}", "%", [100 * found.cpu_s / seconds], must=0.5,
                note=f"{seconds:g} s"),
            Row("idle", f"wake-ups while idle, {engine}", "per s",
                [found.extra["wakeups_per_s"]], aim=0.0,
                note="voluntary context switches of all threads"),
        ]  # fmt: skip
    return rows
