"""The file that a store keeps its RAM tier and index in, from one life to the next (`keep_warm`).

    /dev/shm/edgecache-<user id>-<token>    the arena, mode 0600
    <root>/warm                             names of such files; the first is the one to adopt

The store writes the root's file before it makes the other, so that whoever opens the root next
finds the memory of a store that was killed, and gives it back. An arena is adopted once: it gets
another name in the same moment, so a copy of the root directory that names the old one starts cold.

What the arena must be to be adopted, the native part says (_core_warm.pyx): here it is only made
sure that the file is nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

__all__ = ["WarmKeeper", "forget_warm"]

DIRECTORY = "/dev/shm"
NAME = "warm"
NAMES_BYTES_MAX = 512
TOKEN_BYTES = 16
# Of the file system, beyond what the arena may come to: it is not ours alone.
SPARE_BYTES = 16 << 20


class WarmKeeper:
    """The arena file of one root. Used by one store, under the root's lock.

    Args:
        root: The root directory, held.
        directory: Where the arena lies: a file system in memory.

    Attributes:
        reason: Why the store began cold; "" when it began warm, or joined others.
        refusal: Why it will leave nothing behind, or "".
        build: Digest of the native modules: another build must not adopt an arena.

    *Thread-safety*: none.
    """

    def __init__(self, root: str, directory: str = DIRECTORY) -> None:
        self._root = root
        self._directory = directory
        self._name = ""
        self._old_name = ""
        self.reason = ""
        self.refusal = ""
        self.build = _build_digest()

    @property
    def token(self) -> bytes:
        """What the header of the arena must name; changes when it is adopted."""
        return self._name.rpartition("-")[2].encode()

    def find(self) -> int:
        """Open the arena that was left behind, and make it ours; -1 and a reason: there is none.

        Everything else that the root names is removed. The header of what is found still names
        `old_token`.
        """
        names = _read_names(self._root)
        for name in names[1:]:
            _remove(self._directory, name)
        if not names:
            self.reason = "no arena was kept"
            return -1
        try:
            descriptor = os.open(
                os.path.join(self._directory, names[0]), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError as error:
            self.reason = f"the arena is gone ({error.strerror})"
            _remove(self._directory, names[0])
            return -1
        reason = _why_unsafe(os.fstat(descriptor))
        if not reason:
            self._old_name = names[0]
            self._name = _new_name()
            try:
                _write_names(self._root, self._name, self._old_name)
                os.rename(
                    os.path.join(self._directory, self._old_name),
                    os.path.join(self._directory, self._name),
                )
                return descriptor
            except OSError as error:
                reason = f"the arena cannot be renamed ({error.strerror})"
        os.close(descriptor)
        _remove(self._directory, names[0])
        self.reason = reason
        return -1

    @property
    def old_token(self) -> bytes:
        """What the header of the arena that `find` returned must name."""
        return self._old_name.rpartition("-")[2].encode()

    def refuse(self, reason: str) -> None:
        """What `find` returned is of no use: its memory goes back."""
        self._drop()
        self.reason = reason

    def create(self, size_bytes: int, needed_bytes: int) -> int:
        """Make an arena file; -1 and a `refusal`: there cannot be one.

        Args:
            size_bytes: Of the file; memory comes as it is used.
            needed_bytes: What it may come to: so much must be free.
        """
        try:
            found = os.statvfs(self._directory)
            free = found.f_bavail * found.f_frsize
            if free < needed_bytes + SPARE_BYTES:
                self.refusal = (
                    f"{self._directory} has {free >> 20} MiB free, "
                    f"the arena may take {(needed_bytes + SPARE_BYTES) >> 20} MiB"
                )
                return -1
            self._name = _new_name()
            _write_names(self._root, self._name)
            descriptor = os.open(
                os.path.join(self._directory, self._name),
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
        except OSError as error:
            self.give_up(f"no file for the arena: {error}")
            return -1
        try:
            os.ftruncate(descriptor, size_bytes)
        except OSError as error:
            os.close(descriptor)
            self.give_up(f"no file for the arena: {error}")
            return -1
        return descriptor

    def adopted(self) -> None:
        """What `find` returned is in use."""
        self.reason = ""
        with contextlib.suppress(OSError):  # then the next one looks for a name more
            _write_names(self._root, self._name)

    def give_up(self, reason: str) -> None:
        """There is nothing to leave behind; where it is mapped, the file lives without a name."""
        self._drop()
        self.refusal = reason

    def _drop(self) -> None:
        forget_warm(self._root, self._directory)


def forget_warm(root: str, directory: str = DIRECTORY) -> None:
    """Remove what earlier stores of the root have left in memory: it is about to be out of date."""
    for name in _read_names(root):
        _remove(directory, name)
    _forget_names(root)


def _new_name() -> str:
    return f"edgecache-{os.geteuid()}-{os.urandom(TOKEN_BYTES).hex()}"


def _read_names(root: str) -> list[str]:
    """The names in the root's file that are of the form of ours."""
    try:
        descriptor = os.open(
            os.path.join(root, NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = os.read(descriptor, NAMES_BYTES_MAX)
    except OSError:
        return []
    finally:
        os.close(descriptor)
    form = re.compile(rb"edgecache-%d-[0-9a-f]{%d}" % (os.geteuid(), 2 * TOKEN_BYTES))
    return [word.decode() for word in text.split() if form.fullmatch(word)]


def _write_names(root: str, *names: str) -> None:
    """Replace the root's file. After a power loss nothing in memory is left to be named."""
    path = os.path.join(root, NAME)
    beside = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(
        beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, " ".join(names).encode() + b"\n")
    finally:
        os.close(descriptor)
    os.rename(beside, path)


def _forget_names(root: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(root, NAME))


def _remove(directory: str, name: str) -> None:
    if name:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, name))


def _why_unsafe(found: os.stat_result) -> str:
    """Why the bytes of such a file must not be believed, or ""."""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return "the arena is not a plain file of its own"
    if found.st_uid != os.geteuid():
        return f"the arena belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"the mode of the arena is {stat.S_IMODE(found.st_mode):04o}, not 0600"
    return ""


def _build_digest() -> str:
    """Sizes and times of the native modules, as a short hash: sizes of structures may be equal."""
    import hashlib  # takes longer to load than a store without `keep_warm` to open

    package = os.path.dirname(__file__)
    digest = hashlib.blake2b(digest_size=8)
    with os.scandir(package) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.endswith(".so"):
                status = entry.stat()
                digest.update(
                    b"%s %d %d\n" % (entry.name.encode(), status.st_size, status.st_mtime_ns)
                )
    return digest.hexdigest()
