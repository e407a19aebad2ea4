"""clock: the wall clock jumps, forwards and backwards, while a store runs and between its lives.

A child runs under a library that is loaded before the C library's and adds an offset to what the
wall clock says; the monotonic clocks are the kernel's own. Lifetimes end by the wall clock, so a
value may be served until its moment has come on the clock of that moment, and never after. What has
no lifetime is not touched by any step, and neither is the order of versions, through crashes too.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

from support.model import KIB, MIB, make_value

from edgecache import Config, Storage
from torture.campaign import CannotRunError, Row, Run

HOUR_S = 3600
STEPS_S = (1, -1, HOUR_S, -HOUR_S, -2 * HOUR_S, 90 * 86400, -90 * 86400, 10 * 365 * 86400,
           -10 * 365 * 86400)  # fmt: skip
KEYS = [b"key-%d" % number for number in range(40)]
OPERATIONS = 600
CHILD_S = 120
OFFSET_FILE = "TORTURE_CLOCK_OFFSET"
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile int64_t *offset_s;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void find(void) {
    const char *path = getenv("TORTURE_CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    if (page != MAP_FAILED) offset_s = page;
}
int clock_gettime(clockid_t clock, struct timespec *out) {
    int result;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    result = real(clock, out);
    if (result == 0 && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        out->tv_sec += *offset_s;
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class Clock:
    """The offset, as the library reads it."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        self.offset_s = 0

    def step(self, seconds: int) -> None:
        # Ten years to either side at most.
        offset_s = max(-STEPS_S[-2], min(STEPS_S[-2], self.offset_s + seconds))
        before, moved_s, self.offset_s = time.time(), offset_s - self.offset_s, offset_s
        self.page[:8] = struct.pack("q", offset_s)
        assert abs(time.time() - before - moved_s) < HOUR_S / 2, "the clock does not obey"


class Life:
    """A store and what it may answer: key -> (value, when its lifetime is over for sure)."""

    def __init__(self, config: Config, rng: random.Random, clock: Clock) -> None:
        self.config, self.rng, self.clock = config, rng, clock
        self.values: dict[bytes, tuple[bytes, float | None]] = {}
        self.store = Storage(config)
        self.hits = self.expired = self.steps = 0
        self.number = 0

    def put(self, key: bytes) -> None:
        self.number += 1
        value = make_value(key, self.number, self.rng.choice((50, 3000, 90_000)))
        ttl = self.rng.choice((None, None, 5, HOUR_S, 30 * 86400))
        assert self.store.put(key, value, ttl=ttl), "shed"
        self.values[key] = value, None if ttl is None else time.time() + ttl

    def get(self, key: bytes) -> None:
        begin = time.time()
        found = self.store.get(key)
        value, end = self.values.get(key, (None, None))
        if found is None:
            # Once seen after its end it may be gone, or be there again when the clock went back.
            if value is not None and end is None:
                raise AssertionError(f"{key!r} has no lifetime and is gone")
            self.expired += end is not None and end <= time.time() + 1
            return
        self.hits += 1
        if found != value:
            raise AssertionError(f"{key!r} returned {found[:20]!r}, not {(value or b'')[:20]!r}")
        if end is not None and begin >= end:
            raise AssertionError(f"{key!r} was served {begin - end:.3f} s after its end")

    def step(self) -> None:
        kind, key = self.rng.random(), self.rng.choice(KEYS)
        if kind < 0.4:
            self.put(key)
        elif kind < 0.85:
            self.get(key)
        elif kind < 0.92:
            self.store.delete(key)
            self.values.pop(key, None)
        elif kind < 0.97:
            self.clock.step(self.rng.choice(STEPS_S))
            self.steps += 1
        elif kind < 0.98:
            self.store.checkpoint()
        else:
            self.store.sync()
            if self.rng.random() < 0.5:
                self.store.abandon()
            self.store.close()
            self.clock.step(self.rng.choice(STEPS_S))
            self.store = Storage(self.config)


def child(root: str, seed: str) -> None:
    config = Config(root=root, memory=2 * MIB, disk=256 * MIB, region_size=MIB, shards=1,
                    flush_size=64 * KIB, flush_interval=0.005, block_timeout=60)  # fmt: skip
    life = Life(config, random.Random(seed), Clock(Path(os.environ[OFFSET_FILE])))
    for _ in range(OPERATIONS):
        life.step()
    for key in KEYS:
        life.get(key)
    problems = life.store.check()
    assert problems == [], problems
    life.store.close()
    print(json.dumps({"hits": life.hits, "expired": life.expired, "steps": life.steps}))


def build(directory: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotRunError("there is no C compiler for the clock's library")
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(SHIM)
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotRunError(f"the clock's library does not build: {done.stderr[:200]}")
    return library


def clock(run: Run) -> str:
    sums = {"hits": 0, "expired": 0, "steps": 0}
    with run.scratch() as directory:
        library = build(directory)
        for number in run.numbers():
            with run.judged(number), run.scratch() as place:
                offset = place / "offset"
                offset.write_bytes(bytes(4096))
                environment = {**os.environ, "LD_PRELOAD": str(library), OFFSET_FILE: str(offset),
                               "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # fmt: skip
                done = subprocess.run(
                    [sys.executable, "-m", "torture.clock", str(place / "root"),
                     f"clock/{run.seed}/{number}"],
                    env=environment, capture_output=True, text=True, timeout=CHILD_S,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr[-300:]
                for name, count in json.loads(done.stdout).items():
                    sums[name] += count
    if run.outcome.is_good and not (sums["hits"] and sums["steps"]):
        run.violation(run.first, f"{sums}: the row shows nothing")
    run.outcome.facts.update(sums)
    return (f"{sums['steps']} steps of up to ten years, {sums['hits']} hits, "
            f"{sums['expired']} lifetimes over")  # fmt: skip


ROW = Row(
    "clock",
    "the wall clock jumps back and forth, in a life and between two",
    "no value after its end on the clock, nothing without a lifetime lost, nothing wrong",
    short=2,
    long=100,
    run=clock,
)

if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2])
