"""The processes that share a cache root, and where the arena is that they share.

    <root>/processes        byte n, n < 128         locked (fcntl) while the process in slot n lives
                            64 bytes at 4096 + 64 n "pid descriptor", text: where its arena is
                            whole file              locked (flock) while somebody attaches or leaves

The arena is a memfd, which has no name, or a file in /dev/shm (`keep_warm`). Either is opened as
/proc/<pid>/fd/<descriptor> of any process that has it. When the last one is gone, so is a memfd.

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
import time
from collections.abc import Iterator

from edgecache.errors import SharedModeError, UnsafePathError

__all__ = ["Registry"]

NAME = "processes"
SLOTS = 128
RECORDS_OFFSET = 4096
RECORD_BYTES = 64
# What the link of an arena's descriptor begins with: a memfd, or a file that outlives processes.
ARENAS = ("/memfd:edgecache", "/dev/shm/edgecache-")
# struct flock of 64-bit Linux: type, whence, start, length, pid.
FLOCK = struct.Struct("@hhqqi4x")
# How long a process that ends may keep its lock after its descriptors.
GOING_S = 5.0


class Registry:
    """The registry file of one root, as all stores of this process use it; see `of`.

    Attributes:
        descriptor: Of the file; the native part locks bytes of it.

    *Thread-safety*: any thread; `exclusive` serialises all stores of all processes.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._users = 0
        self._lock = threading.RLock()
        self._own: set[int] = set()
        self.descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
        )
        try:
            _check(os.fstat(self.descriptor), path)
        except UnsafePathError:
            os.close(self.descriptor)
            raise

    @classmethod
    def of(cls, root: str) -> Registry:
        """Return the registry of the directory, for one user more; each ends with `release`."""
        path = os.path.join(root, NAME)
        with _registries_lock:
            registry = _registries.get(path)
            if registry is None:
                registry = _registries[path] = cls(path)
            registry._users += 1
            return registry

    def release(self) -> None:
        """One user less; the file is closed with the last. Not in a child of fork()."""
        with _registries_lock:
            self._users -= 1
            if self._users == 0 and _registries.get(self._path) is self:
                del _registries[self._path]
                os.close(self.descriptor)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other stores from attaching to the root and from leaving it."""
        with _registries_lock:
            self._users += 1  # who uses it may release it in the block
        try:
            with self._lock:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        finally:
            self.release()

    def find_arena(self) -> int:
        """Open the arena of a process that lives; -1: there is none. Under `exclusive`.

        Raises:
            SharedModeError: There are such processes, and none of them gives its arena.
        """
        deadline = time.monotonic() + GOING_S
        while True:
            reasons = {}
            is_going = False
            for number in filter(self._is_held, range(SLOTS)):
                try:
                    return self._open_arena(number)
                except (FileNotFoundError, ProcessLookupError):
                    # It is about to end: its lock goes in a moment, as its descriptors did.
                    is_going = True
                    reasons[number] = "and its arena is gone"
                except OSError as error:
                    reasons[number] = str(error)
            if not reasons:
                return -1
            if not is_going or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        # A new one beside theirs would make two caches of one root.
        number, reason = min(reasons.items())
        raise SharedModeError(
            f"the arena of this cache cannot be opened: process {self._holder(number)} has slot "
            f"{number} of {self._path}, {reason}",
            hint="run all processes as one user, in one container; else end that process",
        )

    def _open_arena(self, number: int) -> int:
        """Open what a slot that is in use says.

        Raises:
            FileNotFoundError, ProcessLookupError: The process has it open no more.
            OSError: It is no arena, or not to be had.
        """
        record = os.pread(self.descriptor, RECORD_BYTES, RECORDS_OFFSET + RECORD_BYTES * number)
        fields = record.rstrip(b"\0\n").split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            raise OSError("and its record is damaged")
        path = f"/proc/{int(fields[0])}/fd/{int(fields[1])}"
        target = os.readlink(path)
        if not target.startswith(ARENAS):
            raise OSError(f"and its record leads to {target}")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        reason = ""
        if found.st_uid != os.geteuid():
            reason = f"and its arena belongs to user {found.st_uid}"
        elif not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            reason = f"and the mode of its arena is {stat.S_IMODE(found.st_mode):04o}, not 0600"
        if reason:
            os.close(descriptor)
            raise OSError(reason)
        return descriptor

    def enter(self, number: int, arena: int) -> None:
        """Say that this process, in slot `number`, has the arena open. Under `exclusive`."""
        record = b"%d %d\n" % (os.getpid(), arena)
        os.pwrite(
            self.descriptor,
            record.ljust(RECORD_BYTES, b"\0"),
            RECORDS_OFFSET + RECORD_BYTES * number,
        )
        self._own.add(number)

    def leave(self, number: int) -> None:
        """The slot is given up."""
        self._own.discard(number)

    def _is_held(self, number: int) -> bool:
        return self._holder(number) >= 0

    def _holder(self, number: int) -> int:
        """Number of the process that has the slot; -1: none, 0: one of another PID namespace."""
        if number in self._own:
            return os.getpid()  # the system does not tell a process of its own locks
        wanted = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        kind, *_, process = FLOCK.unpack(fcntl.fcntl(self.descriptor, fcntl.F_GETLK, wanted))
        return -1 if kind == fcntl.F_UNLCK else process


def _check(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise UnsafePathError("the registry is not a plain file of its own", path=path)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafePathError("others may write to the registry of the processes", path=path)


# Reachable from here, so the collector never takes one apart before the store that uses it.
_registries: dict[str, Registry] = {}
_registries_lock = threading.Lock()
_parents: list[Registry] = []


def _forget_in_child() -> None:
    """A child of fork holds no locks; with its parent's descriptors it would share theirs."""
    global _registries_lock
    _registries_lock = threading.Lock()
    for registry in _registries.values():
        os.close(registry.descriptor)
    _parents.extend(_registries.values())  # stores of the parent still refer to them
    _registries.clear()


os.register_at_fork(after_in_child=_forget_in_child)
