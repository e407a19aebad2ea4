"""memory: the system gives no more of it, to a store that works.

By number: a control group whose limit the configured budget stays under by a fifth (the kernel must
not kill it); an address space that is used up (native allocations fail); Python allocations that
fail, the nth of each operation, n from 1 on. Each in a process of its own. A store may shed, miss
and raise MemoryError then; it must not die, answer wrong, or be damaged afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from support.model import KIB, MIB, make_value

from edgecache import Config, Storage
from edgecache.errors import EdgeCacheError
from torture.campaign import CannotRunError, Row, Run

CONTROLLER = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 256 * MIB
# Interpreter and modules take some 60 MiB, write buffers 8, what is on its way the rest.
BUDGET_BYTES = LIMIT_BYTES * 4 // 10
ROUNDS = 6
KEYS = [b"key-%d" % number for number in range(60)]
NTH_MAX = 40
CHILD_S = 300


def config_of(root: Path, memory_bytes: int) -> Config:
    return Config(root=str(root), memory=memory_bytes, disk=512 * MIB, region_size=4 * MIB,
                  flush_size=MIB, block_timeout=60)  # fmt: skip


def check(store: Storage, values: dict[bytes, bytes]) -> int:
    hits = 0
    for key, value in values.items():
        found = store.get(key)
        hits += found is not None
        assert found in (None, value), f"{key!r} returned {(found or b'')[:20]!r}"
    problems = store.check()
    assert problems == [], problems
    return hits


def within_the_limit(root: Path, rng: random.Random) -> None:
    """Several times the budget goes through the store; the kernel kills who takes too much."""
    values: dict[bytes, bytes] = {}
    with Storage(config_of(root, BUDGET_BYTES)) as store:
        for number in range(ROUNDS * BUDGET_BYTES // (64 * KIB)):
            key = b"key-%d" % rng.randrange(6000)
            value = make_value(key, number, rng.choice((100, 3000, 60_000, 300_000)))
            if store.put(key, value):
                if len(values) < 300 or key in values:
                    values[key] = value
            else:
                values.pop(key, None)
            if number % 3 == 0:
                store.get(b"key-%d" % rng.randrange(6000))
        assert check(store, values) > 0


def without_address_space(root: Path, rng: random.Random) -> None:
    """Each allocation of some size fails: large blocks, buffers of reads, threads, channels."""
    values: dict[bytes, bytes] = {}
    config = config_of(root, 16 * MIB)
    shed = errors = 0
    with Storage(config) as store:
        store.put_many({key: make_value(key, 0, 5000) for key in KEYS})
        values.update({key: make_value(key, 0, 5000) for key in KEYS})
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        prepared = [(key, make_value(key, number, 2 * MIB)) for number, key in enumerate(KEYS, 1)]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + rng.choice((0, 64 * KIB, MIB)), limits[1]))
        try:
            for key, value in prepared:
                try:
                    is_stored = store.put(key, value)
                except MemoryError:
                    is_stored = False
                    errors += 1
                shed += not is_stored
                if is_stored:
                    values[key] = value
                else:
                    values.pop(key, None)
                with contextlib.suppress(MemoryError):
                    found = store.get(key)
                    # What was shed leaves the value before it, or none.
                    assert found in (None, value, make_value(key, 0, 5000)), f"{key!r} is wrong"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        for key, value in prepared[:10]:
            assert store.put(key, value), "shed with memory at hand"
            values[key] = value
        store.sync()
        check(store, values)
    with Storage(config) as store:
        check(store, values)


def operations(store: Storage, key: bytes, value: bytes) -> list[Callable[[], object]]:
    return [
        lambda: store.put(key, value),
        lambda: store.get(key),
        lambda: store.get_many([key, b"absent"]),
        lambda: store.put(key, value, ttl=60, tags=["tag"]),
        lambda: store.lookup(key),
        lambda: store.delete(key),
        lambda: store.put_many({key: value}),
        lambda: store.stats(),
    ]


def without_objects(root: Path, rng: random.Random) -> None:
    """The nth allocation of the interpreter fails, for every n that an operation gets to."""
    from _testcapi import remove_mem_hooks, set_nomemory

    key = b"every"
    with Storage(config_of(root, 16 * MIB)) as store:
        value = make_value(key, 1, rng.choice((100, 20_000, 1_500_000)))
        for operation in operations(store, key, value):
            for nth in range(NTH_MAX):
                gc.disable()
                set_nomemory(nth, nth + 1)
                try:
                    operation()
                except (MemoryError, EdgeCacheError):
                    pass
                finally:
                    remove_mem_hooks()
                    gc.enable()
                assert store.get(key) in (None, value), f"wrong after allocation {nth}"
        assert store.put(key, value)
        assert store.get(key) == value
        problems = store.check()
        assert problems == [], problems


@contextlib.contextmanager
def limited(number: int) -> Iterator[Path | None]:
    """A control group with a memory limit, where there can be one."""
    group = CONTROLLER / f"edgecache-{os.getpid()}-{number}"
    if not os.access(CONTROLLER / "memory.limit_in_bytes", os.R_OK) or os.geteuid() != 0:
        yield None
        return
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def in_child(body: Callable[[], None], group: Path | None) -> None:
    """Run it in a fork; what it raises there fails here."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        status = 1
        try:
            signal.alarm(CHILD_S)
            if group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            body()
            status = 0
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}"[:4000].encode())
        finally:
            os._exit(status)
    os.close(writer)
    said = b""
    while piece := os.read(reader, 65536):
        said += piece
    os.close(reader)
    _, status = os.waitpid(process, 0)
    assert not os.WIFSIGNALED(status), f"killed by signal {os.WTERMSIG(status)}"
    assert os.waitstatus_to_exitcode(status) == 0, said.decode()


KINDS = ("limit", "address space", "objects")


def memory(run: Run) -> str:
    done = dict.fromkeys(KINDS, 0)
    for number in run.numbers():
        kind = KINDS[number % len(KINDS)]
        rng = run.random(number)
        with run.judged(number), run.scratch() as directory, limited(number) as group:
            root = directory / "root"
            if kind == "limit":
                if group is None:
                    continue
                in_child(partial(within_the_limit, root, rng), group)
            elif kind == "address space":
                in_child(partial(without_address_space, root, rng), None)
            else:
                in_child(partial(without_objects, root, rng), None)
            done[kind] += 1
    if run.outcome.is_good and not any(done.values()):
        raise CannotRunError("no kind of shortage can be made here")
    run.outcome.facts.update(done)
    missing = "" if done["limit"] or run.count < len(KINDS) else "; no memory controller here"
    return ", ".join(f"{count} of {kind}" for kind, count in done.items()) + missing


ROW = Row(
    "memory",
    "a memory limit, a full address space, every nth allocation of the interpreter",
    "within its budget it is not killed; else MemoryError, a miss or a shed put, nothing wrong",
    short=3,
    long=60,
    run=memory,
)
