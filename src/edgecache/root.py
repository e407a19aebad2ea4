"""The root directory of a store: made private, checked, and held by one process at a time.

What is refused, and why: a symbolic link (somebody else may decide where it leads), a foreign owner
and write permission for others (whoever can write there can hand out any bytes as cached ones).

The lock is flock(2) on `<root>/lock`: it goes with the process, however that ends, and its file
only says who holds it, as `<pid> <start time>`. It goes with the last thread and the last ring of
the process (`lock_fd` of `open_engine`), so a killed holder keeps it until its last write has
landed: who opens the root then waits for that, and only a holder that lives is an error at once.
Source: flock(2), open(2), path_resolution(7), proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import time
import weakref

from edgecache.errors import StoreLockedError, UnsafePathError

__all__ = ["RootClaim"]

LOCK_NAME = "lock"
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
# What a store makes in its root is at most this deep: the root itself and `data`.
DEPTH_MAX = 2
HOLDER_BYTES_MAX = 64
# For the last writes of a holder that was killed: a device that answers takes milliseconds.
DEAD_WAIT_S = 10.0
# For a holder that has the lock and has not yet said who it is.
UNKNOWN_WAIT_S = 0.5
PAUSE_S_MIN, PAUSE_S_MAX = 0.0005, 0.05
PF_EXITING = 0x4  # include/linux/sched.h; in the flags of /proc/<pid>/stat


class RootClaim:
    """A root directory that this process holds until `release`.

    Args:
        path: The directory; it and missing parents are created with mode 0700.
        shared: Hold it together with others that say so too (registry.py), against all who do not.

    Raises:
        UnsafePathError: It, or something in it, is a symbolic link, foreign, or writable by others.
        StoreLockedError: Another store holds it; `pid` is that of its process if known. Or a
            process that was killed still writes to it after DEAD_WAIT_S.
        OSError: The directory or the lock file cannot be made.

    *Thread-safety*: any thread. *Cost*: one lstat per file in the root; waits for the last writes
    of a holder that was killed.
    """

    __slots__ = ("__weakref__", "_descriptor", "_process", "path")

    def __init__(self, path: str | os.PathLike[str], *, shared: bool = False) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._descriptor = -1
        self._process = os.getpid()
        _make_private(self.path)
        directory = _open_directory(self.path)
        try:
            _check_inside(directory, self.path, DEPTH_MAX)
            self._descriptor = _lock(directory, os.path.join(self.path, LOCK_NAME), shared)
        finally:
            os.close(directory)
        _held.add(self)

    @property
    def descriptor(self) -> int:
        """Of the lock, for who must keep it past the death of this process; -1 once released."""
        return self._descriptor

    @property
    def is_held(self) -> bool:
        """Whether this process holds the directory by this object."""
        return self._descriptor >= 0

    def release(self) -> None:
        """Give the directory back. Idempotent; the lock file stays, its lock goes.

        Unlinking it would let two processes lock two files of one name.
        """
        descriptor, self._descriptor = self._descriptor, -1
        _held.discard(self)
        if descriptor < 0:
            return
        if self._process == os.getpid():
            # A child that was just forked may still have its copy: closing ours is not enough.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.release()


# A child of fork shares the open file description and with it the lock: it must close its copy, or
# the directory would stay locked when its parent is killed.
_held: weakref.WeakSet[RootClaim] = weakref.WeakSet()


def _release_in_child() -> None:
    for claim in list(_held):
        claim.release()


os.register_at_fork(after_in_child=_release_in_child)


def _make_private(path: str) -> None:
    """Create a directory and its missing parents, mode 0700 whatever the umask says."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_private(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(path, 0o700)
    if stat.S_IMODE(os.lstat(path).st_mode) != 0o700:  # the umask took permissions of the owner
        os.chmod(path, 0o700)


def _open_directory(path: str) -> int:
    """Open the root for reading its names, after checking that it is ours alone."""
    _check_owner(os.lstat(path), path)
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise UnsafePathError(
            "the cache root is not a directory", path=path, hint="remove it, or use another root"
        ) from None
    try:
        _check_owner(os.fstat(directory), path)  # of what was opened, not of what stood there
    except BaseException:
        os.close(directory)
        raise
    return directory


def _check_owner(status: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnsafePathError(
            "a symbolic link in a cache root",
            path=path,
            hint="name the real directory, or remove the link",
        )
    if status.st_uid != os.geteuid():
        raise UnsafePathError(
            "the cache root, or a file in it, belongs to another user",
            path=path,
            expected=os.geteuid(),
            found=status.st_uid,
            hint="use a directory of this user, or chown it",
        )
    if status.st_mode & OTHERS_MAY_WRITE:
        raise UnsafePathError(
            "others may write to the cache root, or to a file in it",
            path=path,
            found=f"{stat.S_IMODE(status.st_mode):04o}",
            hint=f"chmod go-w {path}",
        )


def _check_inside(directory: int, path: str, depth: int) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = os.path.join(path, entry.name)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # another process of the root has renamed or removed it since
            _check_owner(status, name)
            if depth > 1 and entry.is_dir(follow_symlinks=False):
                below = os.open(
                    entry.name,
                    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    dir_fd=directory,
                )
                try:
                    _check_inside(below, name, depth - 1)
                finally:
                    os.close(below)


def _lock(directory: int, path: str, shared: bool) -> int:
    """Open and lock the lock file, and leave this process's number in it."""
    descriptor = os.open(
        LOCK_NAME,
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
        0o600,
        dir_fd=directory,
    )
    try:
        status = os.fstat(descriptor)
        _check_owner(status, path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            # Its first bytes are about to be overwritten: they must be nobody else's.
            raise UnsafePathError("the lock is not a plain file of its own", path=path)
        _take(descriptor, path, shared)
        with contextlib.suppress(OSError):  # a full disk must not keep a cache from opening
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d %d\n" % (os.getpid(), _start_time(os.getpid())), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take(descriptor: int, path: str, shared: bool) -> None:
    """Take the lock; of a holder that lives it is not waited for."""
    pause_s = PAUSE_S_MIN
    begin_s = time.monotonic()
    while True:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pid, start = _holder(descriptor)
        directory = os.path.dirname(path)
        if pid is not None and _is_alive(pid, start):
            holder = f"process {pid}" if pid != os.getpid() else "another store of this process"
            raise StoreLockedError(f"{holder} has this cache root open", path=directory, pid=pid)
        waited_s = time.monotonic() - begin_s
        if pid is None and waited_s > UNKNOWN_WAIT_S:
            raise StoreLockedError("another process has this cache root open", path=directory)
        if waited_s > DEAD_WAIT_S:
            raise StoreLockedError(
                f"process {pid} is gone, but not what it was writing to this cache root",
                path=directory,
                pid=pid,
                hint="the device does not answer, or the holder lives in another PID namespace",
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


def _holder(descriptor: int) -> tuple[int | None, int]:
    """Process number and start time that the lock file names; None and 0 where it does not."""
    words = os.pread(descriptor, HOLDER_BYTES_MAX, 0).split()
    numbers = [int(word) for word in words if word.isdigit()]
    if not words or len(numbers) != len(words):
        return None, 0
    return numbers[0], numbers[1] if len(numbers) > 1 else 0


def _start_time(pid: int) -> int:
    """When the process began, in clock ticks since the boot: a number may be given out again."""
    return int((_stat_fields(pid) or ["0"] * 20)[19])


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on; None: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _is_alive(pid: int, start: int) -> bool:
    """Whether the process goes on, and is the one that began at `start` (0: any).

    One that was killed is there until its last thread has left the kernel and its parent has asked.
    """
    fields = _stat_fields(pid)
    if fields is None or fields[0] in "ZX" or int(fields[6]) & PF_EXITING:
        return False
    if start and start != int(fields[19]):
        return False
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            masks = [line.split()[1] for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    except OSError:
        return False
    return not any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in masks)
