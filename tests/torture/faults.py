"""io: every I/O in turn fails once or for good, is short, interrupted, late or out of order.

The nth primitive call of each kind fails with each errno, n from 1 on until no call is reached any
more: the way SQLite finds every call site (sqlite.org/testing.html). While the disk is sick
only what asks for durability may say so; nothing may be wrong, then or after a heal and a crash.
"""

from __future__ import annotations

import errno
import random

from support.model import KIB, MIB, Tortured, options, until

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk
from edgecache.errors import DeadlineError, DiskIOError, EdgeCacheError, NoSpaceError
from torture.campaign import Row, Run

STORE = options(region_bytes=128 * KIB, disk_bytes=4 * MIB, buffer_bytes=32 * KIB,
                block_timeout_s=0.05)  # fmt: skip
POINTS = tuple(io.FAULT_POINTS)
ERRORS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EAGAIN, errno.EROFS, errno.EDQUOT,
          errno.EMFILE, errno.ENOMEM, errno.EFBIG, errno.ETIMEDOUT)  # fmt: skip
TOLD = (DiskIOError, NoSpaceError, DeadlineError)


def exercise(store: Tortured, steps: int) -> None:
    for _ in range(steps):
        try:
            store.step()
        except TOLD:
            pass


def plan(number: int, rng: random.Random) -> tuple[str, int, int, int]:
    """(point, errno, nth, count): every kind of call first, deeper ones as the numbers grow."""
    point = POINTS[number % len(POINTS)]
    turn = number // len(POINTS)
    code = ERRORS[turn % len(ERRORS)]
    depth = turn // len(ERRORS)
    nth = depth + 1 if depth < 60 else rng.randint(60, 600)
    return point, code, nth, rng.choice((1, 1, 2, -1))


def one(number: int, rng: random.Random) -> tuple[int, str]:
    """One sick disk, healed and crashed: (hits, what was injected)."""
    point, code, nth, count = plan(number, rng)
    disk = MemoryDisk()
    store = Tortured(rng.randrange(2**31), disk=disk, keys=20, store=STORE)
    exercise(store, rng.choice((0, 0, 40)))
    if rng.random() < 0.4:
        io.disturb(disk, seed=number, short_one_in=rng.choice((0, 2, 5)), shuffle=True,
                   delay_reaps=rng.choice((0, 1, 3)))  # fmt: skip
    io.fail(disk, point, code, nth=nth, count=count)
    exercise(store, 60)
    if rng.random() < 0.3:
        # And while it is opened: a cold start or a named error.
        store.crash()
        store.model.synced.clear()
        store.model.crash()
        try:
            store.open()
        except EdgeCacheError:
            io.heal(disk)
            store.open()
    io.heal(disk)
    exercise(store, 20)
    store.check_all()
    # The first one may have to tell of what was lost, and a tier that went read-only probes now and
    # then whether it may write again.
    until(store.sync)
    store.crash()
    store.open()
    store.check_all()
    store.core.close()
    return store.hits, f"{point} {errno.errorcode[code]} nth={nth} count={count}"


def faults(run: Run) -> str:
    hits = 0
    for number in run.numbers():
        rng = run.random(number)
        with run.judged(number):
            try:
                hits += one(number, rng)[0]
            except Exception as error:
                what = plan(number, run.random(number))[:3]
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    sites = min(run.outcome.injections, len(POINTS) * len(ERRORS))
    run.outcome.facts.update(hits=hits, points=len(POINTS), errors=len(ERRORS))
    return f"{sites} of {len(POINTS) * len(ERRORS)} call kind x errno pairs, {hits} hits verified"


ROW = Row(
    "io",
    "each errno at every I/O in turn; short, late and shuffled transfers",
    "get, put and delete never raise, nothing is wrong, a healed disk is used again",
    short=120,
    long=8_000,
    run=faults,
)
