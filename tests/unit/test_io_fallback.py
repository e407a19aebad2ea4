"""When io_uring cannot run: a named reason, one log line, and the thread engine."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from edgecache import _testing_io as io
from edgecache._io import open_engine
from edgecache.errors import EngineUnavailableError

FORCED = {
    "no-liburing": "no-liburing",
    "setup:ENOSYS": "setup-refused: ENOSYS",
    "setup:ENOMEM": "memlock",
    "setup:EINVAL": "old-kernel",
    "enter:EBADF": "enter-refused: EBADF",
}


def works(engine: Any) -> bool:
    driver = io.Driver(engine)
    file = driver.open_file(b"f", io.OPEN_CREATE | io.OPEN_WRITE)
    channel = driver.channel()
    channel.submit([(io.WRITE, file, 0, b"works")])
    channel.reap(1, 1, -1)
    channel.close()
    return bool(driver.read(file, 0, 9) == b"works")


@pytest.mark.parametrize("forced", FORCED)
def test_auto_falls_back_to_threads_with_a_named_reason(
    forced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECACHE_IO_FAIL", forced)
    engine = open_engine("auto", tmp_path)
    assert engine.name == "threads"
    assert engine.fallback_reason.startswith(FORCED[forced])
    assert engine.stats()["fallback_reason"] == engine.fallback_reason
    assert works(engine)
    engine.close()


def test_a_refused_setup_is_told_from_the_sysctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECACHE_IO_FAIL", "setup:EPERM")
    disabled = Path("/proc/sys/kernel/io_uring_disabled")
    value = disabled.read_text().strip() if disabled.exists() else "0"
    expected = "setup-refused: EPERM" if value == "0" else "disabled-by-sysctl"
    assert open_engine("auto", tmp_path).fallback_reason.startswith(expected)


@pytest.mark.parametrize("forced", FORCED)
def test_uring_by_name_raises_with_the_reason_and_a_hint(
    forced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECACHE_IO_FAIL", forced)
    with pytest.raises(EngineUnavailableError, match="io_uring") as caught:
        open_engine("uring", tmp_path)
    assert str(caught.value.reason).startswith(FORCED[forced])
    assert caught.value.hint


def test_threads_by_name_need_no_reason(tmp_path: Path) -> None:
    engine = open_engine("threads", tmp_path)
    assert (engine.name, engine.fallback_reason) == ("threads", "")


def test_the_reason_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EDGECACHE_IO_FAIL", "setup:EMFILE")
    with caplog.at_level(logging.WARNING, logger="edgecache.io"):
        for _ in range(3):
            open_engine("auto", tmp_path).close()
    assert [r.name for r in caplog.records] == ["edgecache.io"]
    assert "setup-refused: EMFILE" in caplog.text


def child(script: str, *arguments: str) -> dict[str, str]:
    """Run a script that prints `name=value` lines in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(line.split("=", 1) for line in run.stdout.splitlines())


SECCOMP = """
import ctypes, errno, struct, sys
from edgecache import _testing_io as io
from edgecache._io import open_engine

def refuse(call, code):
    # Classic BPF: this system call answers `code`, every other is allowed.
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | code),
             (0x06, 0, 0, 0x7fff0000)]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(raw))
    assert libc.prctl(38, 1, 0, 0, 0) == 0          # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0   # PR_SET_SECCOMP, FILTER

def show(engine):
    driver = io.Driver(engine)
    file = driver.open_file(b"f", io.OPEN_CREATE | io.OPEN_WRITE)
    channel = driver.channel()
    channel.submit([(io.WRITE, file, 0, b"works")])
    channel.reap(1, 1, -1)
    print("name=" + engine.name)
    print("reason=" + engine.fallback_reason)
    print("read=" + driver.read(file, 0, 9).decode())
"""

IO_URING_SETUP, IO_URING_ENTER = 425, 426  # the same on every architecture but alpha


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        (IO_URING_SETUP, errno.EPERM, "setup-refused: EPERM"),
        (IO_URING_SETUP, errno.ENOSYS, "setup-refused: ENOSYS"),
        (IO_URING_SETUP, errno.ENOMEM, "memlock"),
        (IO_URING_ENTER, errno.EBADF, "enter-refused: EBADF"),
        (IO_URING_ENTER, errno.EPERM, "enter-refused: EPERM"),
    ],
)
def test_a_sandbox_that_forbids_io_uring_is_survived(
    call: int, code: int, reason: str, tmp_path: Path
) -> None:
    script = SECCOMP + "refuse(int(sys.argv[1]), int(sys.argv[2]))\n"
    script += "show(open_engine('auto', sys.argv[3]))\n"
    found = child(script, str(call), str(code), str(tmp_path))
    assert (found["name"], found["read"]) == ("threads", "works")
    assert found["reason"].startswith(reason)


LATER = (
    SECCOMP
    + """
engine = open_engine('uring', sys.argv[1])
driver = io.Driver(engine)
file = driver.open_file(b"f", io.OPEN_CREATE | io.OPEN_WRITE | io.OPEN_DIRECT)
driver.write(file, 0, b"x" * 65536)
channel = driver.channel(16)
channel.submit([(io.READ, file, i * 4096, 4096) for i in range(16)])
refuse(426, errno.EPERM)

answers = channel.reap(64, 16, -1)
print("count=%d" % len(answers))
print("results=%s" % sorted({r for _, r, _ in answers}))
print("later=%d" % channel.submit([(io.READ, file, 0, 4096)]))
channel.close()
engine.close()
"""
)


def test_a_sandbox_entered_later_fails_what_is_in_flight_and_hangs_nothing(tmp_path: Path) -> None:
    found = child(LATER, str(tmp_path))
    assert found["count"] == "16"
    assert found["results"] in ("[-1]", "[-1, 4096]", "[4096]")
    assert found["later"] == "-1"


MEMLOCK = (
    SECCOMP
    + """
import os, resource
os.chmod(sys.argv[1], 0o777)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.chdir(sys.argv[1])
os.mkdir("root")
show(open_engine('auto', "root"))
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root, whom the limit does not bind")
def test_too_little_locked_memory_is_survived(tmp_path: Path) -> None:
    for parent in [tmp_path, *tmp_path.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    found = child(MEMLOCK, str(tmp_path))
    assert found["read"] == "works"
    # Kernels that do not count ring memory against the limit (5.12 and later, before 6.14) still
    # have io_uring; either way the engine runs.
    assert found["name"] in ("uring", "threads")
    assert found["reason"].startswith("memlock") or found["name"] == "uring"
