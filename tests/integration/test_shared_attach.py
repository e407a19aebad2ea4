"""What a process that attaches meets: whatever is wrong with the arena has a name.

Where a live process has the arena, a new one beside it would make two caches of one root: so the
opening is refused, with the reason. Where none lives, a new arena is made, whatever is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecache import Config, Storage, errors, registry

MIB = 1024 * 1024
HEADER_BYTES = 4096
RECORDS_OFFSET = 4096
# Places of the arena's header (_arena.pxd).
MAGIC, ABI_HASH, SIZE_BYTES, STATE, USER, PID_NAMESPACE, OPTIONS = 0, 8, 16, 88, 92, 96, 192


def config_of(root: Path) -> Config:
    return Config(
        root=str(root), shared=True, memory=4 * MIB, disk=64 * MIB, region_size=MIB, shards=2,
        flush_size=64 * 1024,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    with Storage(config_of(path)) as store:
        assert store.put("kept", b"on disk")
        store.sync()
    del store
    gc.collect()  # with its registry: every opening is the first of this process
    return path


@contextlib.contextmanager
def living(work: Callable[[], object]) -> Iterator[int]:
    """A child that has done `work` and lives until the end of the block."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kept = work()
            os.write(writer, b".")
            signal.pause()
            del kept
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"."
        yield child
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def arenas() -> set[int]:
    """The descriptors of arenas that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:edgecache"):
                found.add(int(name))
    return found


def patched(root: Path, change: Callable[[int], object]) -> Callable[[], object]:
    """Open the cache, and damage its arena."""

    def work() -> Storage:
        others = arenas()
        store = Storage(config_of(root))
        (arena,) = arenas() - others
        change(arena)
        return store

    return work


def written(place: int, form: str, value: int | bytes) -> Callable[[int], object]:
    return lambda arena: os.pwrite(arena, struct.pack(form, value), place)


def with_record(root: Path, make: Callable[[], bytes]) -> Callable[[], object]:
    """Live in slot 0 of the registry, with that record, and nothing else of a cache."""

    def work() -> int:
        file = os.open(root / "processes", os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0, os.SEEK_SET)
        os.pwrite(file, make().ljust(64, b"\0"), RECORDS_OFFSET)
        return file

    return work


def memfd_of(content: bytes, mode: int = 0o600) -> bytes:
    descriptor = os.memfd_create("edgecache")
    os.write(descriptor, content)
    os.fchmod(descriptor, mode)
    return b"%d %d\n" % (os.getpid(), descriptor)


def record_of(path: str) -> bytes:
    return b"%d %d\n" % (os.getpid(), os.open(path, os.O_RDWR))


def check_refused(root: Path, reason: str) -> str:
    with pytest.raises(errors.SharedModeError) as caught:
        Storage(config_of(root))
    assert reason in str(caught.value)
    assert caught.value.hint
    refusal = str(caught.value)
    del caught  # and with its frames the store that was not opened
    gc.collect()
    return refusal


def check_fresh(root: Path) -> None:
    """A new arena, recovered from disk."""
    with Storage(config_of(root)) as store:
        assert store.get("kept") == b"on disk"
        assert store.stats()["sharing"]["processes"] == store.stats()["sharing"]["attaches"] == 1


HEADERS: dict[str, tuple[Callable[[int], object], str]] = {
    "magic": (written(MAGIC, "<Q", 1), "no arena"),
    "abi": (written(ABI_HASH, "<Q", 1), "another build"),
    "size": (written(SIZE_BYTES, "<Q", 4096), "another configuration"),
    "new": (written(STATE, "<I", 0), "never laid out"),
    "user": (written(USER, "<I", 12345), "another user"),
    "namespace": (written(PID_NAMESPACE, "<Q", 1), "another PID namespace"),
    "options": (written(OPTIONS, "20s", b"[('memory_bytes', 12"), "'memory_bytes', 12"),
    "mode": (lambda arena: os.fchmod(arena, 0o640), "the mode of its arena is 0640"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_arena_in_use_that_is_not_ours_is_refused_by_name(root: Path, name: str) -> None:
    change, reason = HEADERS[name]
    with living(patched(root, change)):
        check_refused(root, reason)
        check_refused(root, reason)  # and nothing was left behind by the first try
    check_fresh(root)


def test_an_arena_that_belongs_to_another_user_is_refused(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    with living(patched(root, lambda arena: os.fchown(arena, 12345, 12345))):
        check_refused(root, "belongs to user 12345")
    check_fresh(root)


RECORDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "its record is damaged"),
    "garbage": (lambda: bytes(range(192, 256)), "its record is damaged"),
    "words": (lambda: b"12 thirteen\n", "its record is damaged"),
    "file": (lambda: record_of("/dev/null"), "its record leads to /dev/null"),
    "other memfd": (
        lambda: b"%d %d\n" % (os.getpid(), os.memfd_create("other")), "its record leads to /memfd:",
    ),
    "size": (lambda: memfd_of(b"small"), "other sizes"),
    "mode": (lambda: memfd_of(b"", 0o622), "the mode of its arena is 0622"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_live_process_without_an_arena_of_ours_keeps_a_second_one_from_being_made(
    root: Path, name: str
) -> None:
    make, reason = RECORDS[name]
    with living(with_record(root, make)) as process:
        refusal = check_refused(root, reason)
        assert ("slot" not in refusal) == (name == "size")
        assert "slot" not in refusal or f"process {process} has slot 0" in refusal
    check_fresh(root)


def test_a_process_whose_arena_is_gone_is_waited_for_and_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "GOING_S", 0.02)
    with living(with_record(root, lambda: b"%d 999\n" % os.getpid())):
        check_refused(root, "its arena is gone")
    check_fresh(root)


def test_one_process_with_an_arena_is_enough(root: Path) -> None:
    """Its neighbour's record is damaged; both have the arena that this one tells."""

    with living(lambda: Storage(config_of(root))), living(lambda: Storage(config_of(root))):
        descriptor = os.open(root / "processes", os.O_RDWR)
        os.pwrite(descriptor, b"?" * 64, RECORDS_OFFSET)
        os.close(descriptor)
        with Storage(config_of(root)) as store:
            assert store.stats()["sharing"]["processes"] == 3


@pytest.mark.parametrize(
    "record", [b"", b"?" * 64, b"1 0\n", b"OWN 0\n", b"99999999999999999999 7\n"]
)
def test_what_the_dead_have_left_in_the_registry_means_nothing(root: Path, record: bytes) -> None:
    record = record.replace(b"OWN", b"%d" % os.getpid())
    with open(root / "processes", "r+b") as file:
        for number in range(128):
            file.seek(RECORDS_OFFSET + 64 * number)
            file.write(record.ljust(64, b"\0"))
    check_fresh(root)


@pytest.mark.parametrize("damage", ["mode", "link", "symlink", "directory"])
def test_a_registry_that_others_could_write_is_refused(root: Path, damage: str) -> None:
    path = root / "processes"
    if damage == "mode":
        path.chmod(0o666)
    elif damage == "link":
        os.link(path, root / "second")
    else:
        path.unlink()
        if damage == "symlink":
            path.symlink_to(root / "elsewhere")
        else:
            path.mkdir()
    with pytest.raises((errors.UnsafePathError, OSError)) as caught:
        Storage(config_of(root))
    if damage in ("mode", "link"):
        assert isinstance(caught.value, errors.UnsafePathError)
        assert caught.value.path == str(path)
