"""The thread engine and the real file table it shares with io_uring."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from edgecache import _testing_io as io
from edgecache._io import open_engine

CREATE = io.OPEN_CREATE | io.OPEN_WRITE


def driver_for(root: Path, kind: str = "threads", **options: Any) -> Any:
    return io.Driver(open_engine(kind, root, **options))


def task_count() -> int:
    return len(os.listdir("/proc/self/task"))


def tasks_are(expected: int) -> bool:
    """Whether that many threads are left; /proc lists a joined one for another moment."""
    return any(task_count() == expected or os.sched_yield() for _ in range(100_000))


def test_threads_start_as_needed_never_above_the_limit_and_end_with_close(tmp_path: Path) -> None:
    before = task_count()
    driver = driver_for(tmp_path, threads=3)
    file = driver.open_file(b"f", CREATE)
    assert driver.write(file, 0, b"x" * 4096) == 4096
    assert task_count() == before
    channel = driver.channel(64)
    channel.submit([(io.WRITE, file, i, b"y") for i in range(64)])
    channel.reap(64, 64, -1)
    assert 1 <= driver.engine.stats()["threads"] <= 3
    assert task_count() - before == driver.engine.stats()["threads"]
    channel.close()
    driver.engine.close()
    assert tasks_are(before)


def test_one_request_at_a_time_needs_one_thread(tmp_path: Path) -> None:
    driver = driver_for(tmp_path)
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel(4)
    for i in range(200):
        channel.submit([(io.WRITE, file, i, b"z")])
        assert [r for _, r, _ in channel.reap(1, 1, -1)] == [1]
    assert driver.engine.stats()["threads"] == 1
    channel.close()
    driver.engine.close()


def test_a_collected_engine_leaves_no_threads_or_descriptors(tmp_path: Path) -> None:
    tasks, descriptors = task_count(), len(os.listdir("/proc/self/fd"))
    for kind in ("threads", "uring"):
        driver = driver_for(tmp_path, kind)
        file = driver.open_file(b"f", CREATE)
        channel = driver.channel(8, True)
        channel.submit([(io.WRITE, file, 0, b"z")] * 8)
        del channel, driver
    assert tasks_are(tasks)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("kind", ["threads", "uring"])
def test_a_write_past_the_file_size_limit_fails_whole(tmp_path: Path, kind: str) -> None:
    """The kernel writes up to the limit first: the continuation meets EFBIG."""
    driver = driver_for(tmp_path, kind)
    file = driver.open_file(b"f", CREATE)
    channel = driver.channel(4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        channel.submit([(io.WRITE, file, 4096, b"x" * 10_000)])
        results = [r for _, r, _ in channel.reap(4, 1, -1)]
        direct_call = driver.write(file, 4096, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (results, direct_call) == ([-errno.EFBIG], -errno.EFBIG)
    assert driver.file_size(file) == 8192
    assert driver.engine.stats()["short_transfers_continued"] == 2
    channel.close()
    driver.engine.close()


@pytest.mark.parametrize("kind", ["threads", "uring"])
@pytest.mark.parametrize("walks", [False, True])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: str, walks: bool) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    driver = driver_for(root, kind)
    if walks:
        io.forget_openat2(driver.engine)
    refused = (-errno.ELOOP, -errno.ENOTDIR)
    for flags in (0, io.OPEN_WRITE, CREATE, CREATE | io.OPEN_TRUNCATE):
        assert driver.open_file(b"link", flags) in refused
        assert driver.open_file(b"up/secret", flags) in refused
        assert driver.open_file(b"d", flags) == -errno.EISDIR
    assert driver.open_file(b"fifo", io.OPEN_WRITE) == -errno.EINVAL
    assert driver.open_file(b"fifo", io.OPEN_READ) == -errno.EINVAL
    assert driver.unlink(b"up/secret") in refused
    assert driver.rename(b"up/secret", b"x") in refused
    assert driver.list_directory(b"up") in refused
    assert driver.make_directory(b"up/x") in refused
    assert (tmp_path / "secret").read_bytes() == b"secret"
    file = driver.open_file(b"d/f", CREATE)
    assert file >= 0
    assert (root / "d/f").stat().st_mode & 0o777 == 0o600
    assert driver.make_directory(b"new") == 0
    assert (root / "new").stat().st_mode & 0o777 == 0o700
    driver.engine.close()


def test_a_root_that_is_a_link_or_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file", "absent"):
        for kind in ("threads", "uring", "auto"):
            with pytest.raises(OSError, match=name):
                open_engine(kind, tmp_path / name)


@pytest.mark.parametrize("kind", ["threads", "uring"])
@pytest.mark.parametrize("flags", [CREATE, CREATE | io.OPEN_DIRECT])
def test_allocate_without_fallocate_fills_only_the_holes(
    tmp_path: Path, kind: str, flags: int
) -> None:
    driver = driver_for(tmp_path, kind)
    io.refuse_fallocate(driver.engine)
    file = driver.open_file(b"f", flags)
    assert driver.write(file, 1 << 20, b"D" * 8192) == 8192
    assert driver.allocate(file, (2 << 20) + 5) == 0
    assert driver.file_size(file) == (2 << 20) + 5
    assert os.stat(tmp_path / "f").st_blocks * 512 >= 2 << 20
    body = (tmp_path / "f").read_bytes()
    assert body[1 << 20 : (1 << 20) + 8192] == b"D" * 8192
    assert body.count(b"\0") == (2 << 20) + 5 - 8192
    assert driver.write(file, 4096, b"E" * 4096) == 4096
    assert driver.allocate(file, 100) == 0
    assert driver.file_size(file) == (2 << 20) + 5
    driver.engine.close()


REFUSE_DIRECT = """
import ctypes, struct, sys
from edgecache import _testing_io as io
from edgecache._io import open_engine
libc = ctypes.CDLL(None, use_errno=True)
# Classic BPF: fcntl(_, F_SETFL, arg) with O_DIRECT (0x4000) answers EINVAL.
code = [(0x20, 0, 0, 0), (0x15, 0, 5, 72), (0x20, 0, 0, 24), (0x15, 0, 3, 4),
        (0x20, 0, 0, 32), (0x45, 0, 1, 0x4000), (0x06, 0, 0, 0x00050000 | 22),
        (0x06, 0, 0, 0x7fff0000)]
raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(raw))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
driver = io.Driver(open_engine(sys.argv[2], sys.argv[1]))
file = driver.open_file(b"f", io.OPEN_CREATE | io.OPEN_WRITE | io.OPEN_EXCLUSIVE | io.OPEN_DIRECT)
assert file >= 0, file
assert driver.write(file, 1, b"any offset") == 10
assert driver.engine.stats()["direct_refused"] == 1
"""


@pytest.mark.parametrize("kind", ["threads", "uring"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter names x86-64 system calls")
def test_a_file_system_without_direct_io_is_used_buffered_and_says_so(
    tmp_path: Path, kind: str
) -> None:
    script = textwrap.dedent(REFUSE_DIRECT)
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), kind], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_direct_false_opens_every_file_buffered(tmp_path: Path) -> None:
    driver = driver_for(tmp_path, direct=False)
    file = driver.open_file(b"f", CREATE | io.OPEN_DIRECT)
    assert driver.write(file, 3, b"odd") == 3
    assert driver.engine.stats()["direct_refused"] == 0
    driver.engine.close()
    driver = driver_for(tmp_path)
    file = driver.open_file(b"f", io.OPEN_WRITE | io.OPEN_DIRECT)
    assert driver.write(file, 3, b"odd") == -errno.EINVAL
    driver.engine.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("kind", ["threads", "uring"])
def test_a_full_file_system_is_enospc_for_writes_and_allocation(tmp_path: Path, kind: str) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mount is not permitted here")
    try:
        driver = driver_for(tmp_path, kind)
        file = driver.open_file(b"f", CREATE)
        channel = driver.channel(4)
        channel.submit([(io.WRITE, file, 0, b"x" * (2 << 20))])
        assert [r for _, r, _ in channel.reap(4, 1, -1)] == [-errno.ENOSPC]
        assert driver.write(file, 0, b"y" * (2 << 20)) == -errno.ENOSPC
        assert driver.truncate(file, 0) == 0
        assert driver.allocate(file, 4 << 20) == -errno.ENOSPC
        channel.close()
        driver.engine.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    for options in (
        {"kind": "aio"},
        {"queue_depth": 0},
        {"queue_depth": 5000},
        {"threads": 0},
        {"threads": 300},
    ):
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            open_engine(options.pop("kind", "threads"), tmp_path, **options)
    with pytest.raises(ValueError, match="root"):
        open_engine("threads")
