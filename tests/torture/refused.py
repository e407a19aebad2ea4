"""no-uring: io_uring is refused in five ways, and the suite of the engine passes on the pool.

Each injection is a process with a system call filter, or one that finds no library. Short: it opens
a store, uses it and looks at the reason; long: it runs the suite of the engine, too. The switch
kernel.io_uring_disabled is left alone, as others use the machine: what it does, EPERM from
io_uring_setup, is the first way.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from torture.campaign import Row, Run

TESTS = Path(__file__).parents[1]
# Numbers of io_uring_setup and io_uring_enter, the same on all architectures but alpha.
SETUP, ENTER = 425, 426
WAYS: tuple[tuple[str, int, int, str], ...] = (
    ("setup answers EPERM", SETUP, errno.EPERM, "setup-refused: EPERM"),
    ("setup answers ENOSYS", SETUP, errno.ENOSYS, "setup-refused: ENOSYS"),
    ("setup answers ENOMEM", SETUP, errno.ENOMEM, "memlock"),
    ("enter answers EBADF", ENTER, errno.EBADF, "enter-refused: EBADF"),
    ("no liburing", 0, 0, "no-liburing"),
)

# Classic BPF: one system call answers an errno, every other is allowed. Source: seccomp(2).
FILTER = """
import ctypes, os, struct, sys
call, code = int(sys.argv[1]), int(sys.argv[2])
if call:
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | code),
             (0x06, 0, 0, 0x7fff0000)]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(raw))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0):
        sys.exit("no system call filter: " + os.strerror(ctypes.get_errno()))
else:
    os.environ["EDGECACHE_IO_FAIL"] = "no-liburing"
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""

USE = """
import sys
from edgecache import Config, Storage
config = Config(root=sys.argv[1], memory="4MiB", disk="32MiB", region_size="1MiB")
values = {b"key-%d" % n: bytes([n % 251]) * 3000 for n in range(3000)}
with Storage(config) as store:
    io = store.stats()["engine"]
    store.put_many(values)
    store.sync()
with Storage(config) as store:
    found = store.get_many(values)
    wrong = [k for k, v in zip(values, found) if v not in (None, values[k])]
    print(len(wrong), sum(v is not None for v in found))
    print(store.stats()["engine"])
"""

SUITE = (
    "unit/test_storage.py", "unit/test_aio.py", "unit/test_reads.py", "unit/test_health.py",
    "unit/test_objects.py", "unit/test_io_contract.py", "crash/test_kill.py",
    "crash/test_histories.py",
)  # fmt: skip


def filtered(way: tuple[str, int, int, str], *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TESTS), *(entry for entry in sys.path if entry)])
    return subprocess.run(
        [sys.executable, "-c", FILTER, str(way[1]), str(way[2]), *words],
        capture_output=True, text=True, cwd=TESTS.parent, timeout=1200,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def one_way(run: Run, way: tuple[str, int, int, str], number: int) -> int:
    """Use a store where io_uring is refused so; hits."""
    with run.scratch() as directory:
        done = filtered(way, "-c", USE, str(directory / "root"))
    assert done.returncode == 0, done.stderr[-500:]
    counts, info = done.stdout.splitlines()
    wrong, hits = map(int, counts.split())
    assert wrong == 0, f"{wrong} wrong values"
    assert hits > 500, f"only {hits} hits"
    assert way[3] in info, f"no reason `{way[3]}` in {info}"
    assert "'threads'" in info, info
    if run.is_long:
        # What asks for io_uring by name cannot run here.
        done = filtered(way, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                        "-k", "not uring and not all_engines",
                        *(str(TESTS / name) for name in SUITE))  # fmt: skip
        assert done.returncode == 0, done.stdout[-1500:]
    return hits


def refused(run: Run) -> str:
    hits = 0
    for number in run.numbers():
        way = WAYS[number % len(WAYS)]
        with run.judged(number):
            try:
                hits += one_way(run, way, number)
            except Exception as error:
                raise AssertionError(f"{way[0]}: {error}") from error
    suite = f", {len(SUITE)} files of the suite each" if run.is_long else ""
    return f"thread pool with a named reason, {hits} hits{suite}"


ROW = Row(
    "no-uring",
    "io_uring refused in five ways",
    "the thread engine runs, says why, and gives the same answers",
    short=5,
    long=5,
    run=refused,
)
