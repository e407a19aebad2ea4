"""The root directory: private, checked, and held by one store at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecache import root as root_module
from edgecache.errors import StoreLockedError, UnsafePathError
from edgecache.root import RootClaim


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o377, 0o777])
@pytest.mark.usefixtures("umask")
def test_new_directories_are_private_whatever_the_umask_says(tmp_path: Path, mask: int) -> None:
    os.umask(mask)
    claim = RootClaim(tmp_path / "a" / "b")
    os.umask(0o022)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "lock") & 0o077 == 0
    claim.release()


@pytest.mark.usefixtures("umask")
def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(0o755)
    RootClaim(root).release()
    assert mode(root) == 0o755


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777])
@pytest.mark.usefixtures("umask")
def test_a_root_that_others_may_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(bits)
    with pytest.raises(UnsafePathError) as caught:
        RootClaim(root)
    assert caught.value.path == str(root)
    assert "chmod go-w" in caught.value.hint
    root.chmod(0o700)
    RootClaim(root).release()


def test_a_foreign_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(UnsafePathError) as caught:
        RootClaim(root)
    assert (caught.value.expected, caught.value.found) == (
        root.stat().st_uid + 1,
        root.stat().st_uid,
    )


def test_a_linked_root_is_refused_but_a_link_above_it_is_not(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(UnsafePathError, match="symbolic link"):
        RootClaim(link)
    assert list(real.iterdir()) == []
    RootClaim(link / "below").release()
    assert (real / "below" / "lock").exists()


@pytest.mark.parametrize("name", ["data", "lock", "superblock", "data/00000000.edge"])
def test_a_link_inside_the_root_is_refused(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    root = tmp_path / "root"
    (root / name).parent.mkdir(0o700, parents=True)
    root.chmod(0o700)
    (root / name).symlink_to(victim)
    with pytest.raises(UnsafePathError, match="symbolic link") as caught:
        RootClaim(root)
    assert caught.value.path == str(root / name)
    assert victim.read_bytes() == b"precious"


def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(0o700)
    (root / "superblock").write_bytes(b"")
    (root / "superblock").chmod(0o666)
    with pytest.raises(UnsafePathError) as caught:
        RootClaim(root)
    assert caught.value.path == str(root / "superblock")


def test_a_lock_that_is_a_name_of_another_file_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o600)
    root = tmp_path / "root"
    root.mkdir(0o700)
    os.link(victim, root / "lock")
    with pytest.raises(UnsafePathError, match="plain file"):
        RootClaim(root)
    assert victim.read_bytes() == b"precious"


def test_a_file_in_place_of_the_root_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_bytes(b"")
    root.chmod(0o600)
    with pytest.raises(UnsafePathError, match="not a directory"):
        RootClaim(root)


def test_a_fifo_in_place_of_the_lock_does_not_hang(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(0o700)
    os.mkfifo(root / "lock", 0o600)
    with pytest.raises(UnsafePathError, match="plain file"):
        RootClaim(root)


def test_a_root_is_held_once_and_free_after_release(tmp_path: Path) -> None:
    first = RootClaim(tmp_path / "root")
    with pytest.raises(StoreLockedError) as caught:
        RootClaim(tmp_path / "root")
    assert caught.value.pid == os.getpid()
    assert caught.value.path == str(tmp_path / "root")
    first.release()
    first.release()
    assert not first.is_held
    second = RootClaim(tmp_path / "root")
    assert second.is_held
    del second
    RootClaim(tmp_path / "root").release()


HOLD = "import sys; from edgecache.root import RootClaim; c = RootClaim(sys.argv[1]); "


def test_another_process_is_named_and_its_death_frees_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD + "print(flush=True); input()", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(StoreLockedError) as caught:
        RootClaim(root)
    assert caught.value.pid == holder.pid
    assert f"process {holder.pid}" in str(caught.value)
    holder.kill()
    holder.communicate()
    RootClaim(root).release()


def test_a_child_of_fork_does_not_keep_the_root(tmp_path: Path) -> None:
    claim = RootClaim(tmp_path / "root")
    awake, wake = os.pipe()
    child = os.fork()
    if child == 0:
        held = claim.is_held
        os.close(wake)
        os.read(awake, 1)  # until the parent has reopened the root
        os._exit(int(held))
    os.close(awake)
    try:
        claim.release()
        RootClaim(tmp_path / "root").release()
    finally:
        os.close(wake)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_started_program_does_not_inherit_the_lock(tmp_path: Path) -> None:
    claim = RootClaim(tmp_path / "root")
    program = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
    )
    claim.release()
    RootClaim(tmp_path / "root").release()
    program.communicate(b"\n")


def test_a_lock_file_with_garbage_names_nobody(tmp_path: Path) -> None:
    claim = RootClaim(tmp_path / "root")
    (tmp_path / "root" / "lock").write_bytes(b"\xffnobody\n")
    with pytest.raises(StoreLockedError) as caught:
        RootClaim(tmp_path / "root")
    assert caught.value.pid is None
    claim.release()


LEAVE = """
import os, sys
from edgecache.root import RootClaim
claim = RootClaim(sys.argv[1])
os.set_inheritable(claim.descriptor, True)
os.execvp("cat", ["cat"])
"""


@pytest.fixture
def dead_holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The lock is held, and the process that the lock file names is gone: as by a ring that has
    requests in the kernel. Here a program that inherited the open file stands in for it."""
    rest = subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(tmp_path / "root")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert rest.stdin is not None
    assert rest.stdout is not None
    rest.stdin.write(b"up\n")
    rest.stdin.flush()
    assert rest.stdout.readline() == b"up\n"
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "root" / "lock").write_text(f"{gone.pid} 12345\n")
    yield rest
    rest.kill()
    rest.communicate()


def test_the_last_writes_of_a_dead_holder_are_waited_for(
    tmp_path: Path, dead_holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def landed(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            dead_holder.kill()
            dead_holder.wait()

    monkeypatch.setattr(root_module.time, "sleep", landed)
    RootClaim(tmp_path / "root").release()
    assert len(waits) == 3


@pytest.mark.usefixtures("dead_holder")
def test_a_dead_holder_whose_writes_never_land_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_module, "DEAD_WAIT_S", 0.0)
    with pytest.raises(StoreLockedError, match="is gone") as caught:
        RootClaim(tmp_path / "root")
    assert "does not answer" in caught.value.hint


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    own = root_module._start_time(os.getpid())
    assert root_module._is_alive(os.getpid(), own)
    assert root_module._is_alive(os.getpid(), 0)
    assert not root_module._is_alive(os.getpid(), own + 1)


def test_a_killed_process_that_nobody_has_asked_for_yet_is_not_alive() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        assert root_module._is_alive(process.pid, 0)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not root_module._is_alive(process.pid, 0)
    finally:
        process.communicate()


def test_a_file_that_goes_while_the_root_is_checked_is_none_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that share a root write files beside the old ones, and rename them."""
    root = tmp_path / "root"
    RootClaim(root, shared=True).release()
    (root / "warm.new").touch(0o600)
    scan = os.scandir

    @contextlib.contextmanager
    def scan_late(directory: int) -> Iterator[list[os.DirEntry[str]]]:
        with scan(directory) as entries:
            found = list(entries)
        (root / "warm.new").unlink(missing_ok=True)
        yield found

    monkeypatch.setattr("edgecache.root.os.scandir", scan_late)
    RootClaim(root, shared=True).release()
