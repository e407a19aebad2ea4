"""The processes that share a cache root, and where the arena is that they share.

    <root>/processes        byte n, n < 128         locked (fcntl) while the process in slot n lives
                            64 bytes at 4096 + 64 n "pid descriptor", text: where its arena is
                            whole file              locked (flock) while somebody attaches or leaves

The arena is a memfd: it has no name, and is opened as /proc/<pid>/fd/<descriptor> of any process
that has it. When the last one is gone, so is the arena.

A POSIX record lock goes when *any* descriptor of its file is closed by the process. So a process
opens the file once per root, whatever the number of its stores, and closes it with the last one.
Source: fcntl(2), flock(2), proc(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator

from edgecache.errors import SharedModeError, UnsafePathError

__all__ = ["Registry"]

NAME = "processes"
SLOTS = 128
RECORDS_OFFSET = 4096
RECORD_BYTES = 64
# struct flock of 64-bit Linux: type, whence, start, length, pid.
FLOCK = struct.Struct("@hhqqi4x")


class Registry:
    """The registry file of one root, as one store of this process uses it.

    Attributes:
        descriptor: Of the file; the native part locks bytes of it.
        arena: Of the arena that other processes have open, for the native part to take over; -1:
            there is none.

    *Thread-safety*: `exclusive` serialises all stores of all processes.
    """

    __slots__ = ("_file", "_is_released", "arena", "descriptor")

    def __init__(self, root: str) -> None:
        self._is_released = False
        self.arena = -1
        self._file = _File.of(root)
        self.descriptor = self._file.descriptor

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other stores from attaching to the root and from leaving it."""
        with self._file.lock:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def find_arena(self) -> None:
        """Open the arena of a process that lives. Under `exclusive`.

        Raises:
            SharedModeError: There are such processes, and none of them gives its arena.
        """
        refused: OSError | None = None
        for number in range(SLOTS):
            if not self._is_held(number):
                continue
            record = os.pread(self.descriptor, RECORD_BYTES, RECORDS_OFFSET + RECORD_BYTES * number)
            fields = record.rstrip(b"\0\n").split()
            if len(fields) != 2 or not all(field.isdigit() for field in fields):
                continue
            path = f"/proc/{int(fields[0])}/fd/{int(fields[1])}"
            try:
                if not os.readlink(path).startswith("/memfd:edgecache"):
                    continue
                self.arena = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                return
            except FileNotFoundError:
                continue  # it is about to end: its lock goes in a moment
            except OSError as error:
                refused = error
        if refused is not None:
            raise SharedModeError(
                f"the arena of this cache cannot be opened: {refused}",
                hint="run all processes as one user, in one container",
            )

    def enter(self, number: int, arena: int) -> None:
        """Say that this process, in slot `number`, has the arena open. Under `exclusive`."""
        record = b"%d %d\n" % (os.getpid(), arena)
        os.pwrite(
            self.descriptor,
            record.ljust(RECORD_BYTES, b"\0"),
            RECORDS_OFFSET + RECORD_BYTES * number,
        )
        self._file.own.add(number)

    def leave(self, number: int) -> None:
        """The slot is given up."""
        self._file.own.discard(number)

    def release(self) -> None:
        """Let the file go; it is closed with the last store. Idempotent."""
        if not self._is_released:
            self._is_released = True
            self._file.release()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.release()

    def _is_held(self, number: int) -> bool:
        if number in self._file.own:
            return True  # the system does not tell a process of its own locks
        wanted = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found = fcntl.fcntl(self.descriptor, fcntl.F_GETLK, wanted)
        return bool(FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


class _File:
    """The one descriptor of a registry file in this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.users = 0
        self.lock = threading.RLock()
        self.own: set[int] = set()
        self.descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
        )
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(self.descriptor)
            raise UnsafePathError("the registry is not a plain file of its own", path=path)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.close(self.descriptor)
            raise UnsafePathError("others may write to the registry of the processes", path=path)

    @classmethod
    def of(cls, root: str) -> _File:
        path = os.path.join(root, NAME)
        with _files_lock:
            file = _files.get(path)
            if file is None:
                file = _files[path] = cls(path)
            file.users += 1
            return file

    def release(self) -> None:
        with _files_lock:
            self.users -= 1
            if self.users == 0 and _files.get(self.path) is self:
                del _files[self.path]
                os.close(self.descriptor)


_files: dict[str, _File] = {}
_files_lock = threading.Lock()


def _forget_in_child() -> None:
    """A child of fork holds no locks; with its parent's descriptors it would share theirs."""
    global _files_lock
    _files_lock = threading.Lock()
    for file in _files.values():
        os.close(file.descriptor)
    _files.clear()


os.register_at_fork(after_in_child=_forget_in_child)
