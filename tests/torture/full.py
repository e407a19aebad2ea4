"""full: no bytes, no inodes, a file size limit, no descriptors, a quota; before and after opening.

Each injection is a process of its own. It warms a store up and takes the room away, or opens
without it; calls every operation of the API, reads everything, gives the room back, and refills
what it misses as a cache does: within ten seconds 95 % of the working set must be hits again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.model import MIB, make_value

from edgecache import Config, Storage
from torture.campaign import CannotRunError, Row, Run
from torture.everything import use_everything
from torture.loopfs import file_system, memory_file_system

KEYS = 900
VALUE_BYTES = 8000
# Fits into each of the file systems below once they have room.
DISK_BYTES = 32 * MIB
RELIEF_S = 10.0
HIT_SHARE = 0.95

Choke = Callable[[], None]


class Ballast:
    """Takes all room of a file system, and gives it back."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def take_bytes(self) -> None:
        descriptor = os.open(self.place / "ballast", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for piece in (MIB, 65536, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(piece))
        os.close(descriptor)

    def take_inodes(self) -> None:
        try:
            for number in range(100_000):
                os.close(os.open(self.place / f"inode-{number}", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def give_back(self) -> None:
        for path in [*self.place.glob("ballast"), *self.place.glob("inode-*")]:
            path.unlink()


def limit(kind: int, value: int) -> tuple[Choke, Choke]:
    """Lower a soft limit of this process, and back."""
    old, hard = resource.getrlimit(kind)
    return (
        lambda: resource.setrlimit(kind, (value, hard)),
        lambda: resource.setrlimit(kind, (old, hard)),
    )


@contextmanager
def tmpfs_bytes(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    with memory_file_system(directory, "size=64m") as place:
        ballast = Ballast(place)
        yield place, ballast.take_bytes, ballast.give_back


@contextmanager
def tmpfs_inodes(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    with memory_file_system(directory, "size=64m", "nr_inodes=24") as place:
        ballast = Ballast(place)
        yield place, ballast.take_inodes, ballast.give_back


@contextmanager
def ext4_bytes(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    with file_system("ext4", directory, size_bytes=64 * MIB) as mount:
        ballast = Ballast(mount.point)
        yield mount.point, ballast.take_bytes, ballast.give_back


@contextmanager
def tmpfs_quota(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    """Not even root may have more inodes or bytes than its quota; the ballast counts."""
    options = ("size=128m", "usrquota", "usrquota_block_hardlimit=48m")
    with memory_file_system(directory, *options) as place:
        ballast = Ballast(place)
        yield place, ballast.take_bytes, ballast.give_back


@contextmanager
def file_size(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    yield directory, *limit(resource.RLIMIT_FSIZE, 2 * MIB)


@contextmanager
def descriptors(directory: Path) -> Iterator[tuple[Path, Choke, Choke]]:
    old, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def take() -> None:
        lowest = os.open(directory, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))

    yield directory, take, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))


SCENARIOS = {
    "bytes of a tmpfs": tmpfs_bytes,
    "inodes of a tmpfs": tmpfs_inodes,
    "bytes of ext4": ext4_bytes,
    "quota": tmpfs_quota,
    "RLIMIT_FSIZE": file_size,
    "RLIMIT_NOFILE": descriptors,
}


def warm(store: Storage, numbers: range, turn: int) -> None:
    for number in numbers:
        key = b"key-%d" % number
        store.put(key, make_value(key, turn * KEYS + number, VALUE_BYTES))


def hit_share(store: Storage, wrong: list[str], turn: int) -> float:
    """Read the whole working set; a miss is put again, as a cache's user does."""
    hits = 0
    for number in range(KEYS):
        key = b"key-%d" % number
        found = store.get(key)
        if found is None:
            store.put(key, make_value(key, turn * KEYS + number, VALUE_BYTES))
            continue
        hits += 1
        if not found.startswith(key + b"#") or len(found) != VALUE_BYTES:
            wrong.append(f"{key!r} returned {found[:40]!r}")
    return hits / KEYS


def open_or_say(config: Config, wrong: list[str]) -> Storage | None:
    """A store on a full disk opens, or says why by an error that is an OSError."""
    try:
        return Storage(config)
    except OSError as error:
        if not type(error).__module__.startswith("edgecache") and error.errno is None:
            wrong.append(f"opening raised {error!r}")
        return None


def suffer(
    place: Path, choke: Choke, relieve: Choke, rng: random.Random, *, is_early: bool
) -> dict[str, Any]:
    """What one process goes through; returns what it has to say."""
    config = Config(root=str(place / "root"), memory=2 * MIB, disk=DISK_BYTES, region_size=MIB,
                    io=rng.choice(("uring", "threads")), block_timeout=0.05)  # fmt: skip
    wrong: list[str] = []
    if is_early:
        choke()
        store = open_or_say(config, wrong)
        if store is None:
            relieve()
            store = Storage(config)
            choke()
    else:
        store = Storage(config)
        warm(store, range(KEYS), 0)
        hit_share(store, wrong, 1)
        choke()
    for _ in range(2):
        warm(store, range(0, KEYS, 2), 2)
        wrong += [f"while it lasted: {what}" for what in use_everything(store, rng)]
        under = hit_share(store, wrong, 3)
    shed = sum(store.counters()["shed"].values())
    relieve()
    begin = time.monotonic()
    share = 0.0
    while share < HIT_SHARE and time.monotonic() - begin < RELIEF_S * 1.5:
        share = hit_share(store, wrong, 4)
    took_s = time.monotonic() - begin
    if share < HIT_SHARE or took_s > RELIEF_S:
        wrong.append(f"{share:.0%} hits {took_s:.1f} s after relief")
    wrong += [f"after relief: {what}" for what in use_everything(store, rng)]
    if store.check():
        wrong.append(f"broken structures: {store.check()}")
    store.close()
    return {"wrong": wrong, "took_s": took_s, "shed": shed, "under": under}


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run it in a process of its own: limits and stores go with it."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reader)
            try:
                answer = work()
            except CannotRunError as reason:
                answer = {"cannot": str(reason)}
            except BaseException as error:
                answer = {"wrong": [f"{type(error).__name__}: {error}"]}
            with os.fdopen(writer, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(process, 0)
    return json.loads(text) if text else {"wrong": [f"the process ended with status {status}"]}


def full(run: Run) -> str:
    names = list(SCENARIOS)
    took_s, shed = [], 0
    cannot: dict[str, str] = {}
    for number in run.numbers():
        name = names[number % len(names)]
        is_early = number // len(names) % 2 == 1
        rng = run.random(number)
        with run.judged(number), run.scratch() as directory, contextlib.ExitStack() as stack:
            try:
                choked = stack.enter_context(SCENARIOS[name](directory))
            except CannotRunError as reason:
                cannot[name] = str(reason)
                continue
            found = in_child(lambda c=choked, r=rng, e=is_early: suffer(*c, r, is_early=e))
            for wrong in found["wrong"][:5]:
                when = "before opening" if is_early else "while open"
                run.violation(number, f"{name}, {when}: {wrong}")
            took_s.append(found.get("took_s", 0.0))
            shed += found.get("shed", 0)
    if len(cannot) == len(names):
        raise CannotRunError(str(cannot))
    if not shed and run.outcome.is_good:
        run.violation(run.first, "nothing was ever shed: the row shows nothing")
    run.outcome.facts.update(cannot_run=cannot, took_s=took_s, shed=shed)
    missing = "".join(f"; not here: {name} ({why})" for name, why in cannot.items())
    return (f"every operation; {shed:,} puts shed, 95 % hits again in {max(took_s, default=0):.1f}"
            f" s at most{missing}")  # fmt: skip


ROW = Row(
    "full",
    "no bytes, inodes, quota, file size or descriptors left, before and after opening",
    "shed with a counter, reads go on, 95 % hits again 10 s after relief",
    short=6,
    long=60,
    run=full,
)
