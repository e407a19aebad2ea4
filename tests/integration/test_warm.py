"""keep_warm: what a store leaves in memory, and what the next one makes of it."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.smallshm import with_small_shm

import edgecache
from edgecache import Config, Storage, errors

MIB = 1 << 20
SHM = Path("/dev/shm")
COUNT = 3000
# Offsets in the header of an arena; see ArenaHeader in _arena.pxd.
MAGIC, ABI, STATE, USER, BOOT, TOKEN, OPTIONS = 0, 8, 88, 92, 120, 160, 192


def config_of(root: Path, **changes: object) -> Config:
    options = {
        "keep_warm": True, "memory": 8 * MIB, "disk": 64 * MIB, "region_size": MIB, "shards": 2,
        "flush_size": "64KiB", "flush_interval": 0.005,
    }  # fmt: skip
    return Config.from_options(root, **{**options, **changes})


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "root"
    yield path
    for name in names_of(path):
        with contextlib.suppress(FileNotFoundError):
            (SHM / name).unlink()


def names_of(root: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return (root / "warm").read_text("ascii").split()
    return []


def arena_of(root: Path) -> Path:
    return SHM / names_of(root)[0]


def value_of(number: int) -> bytes:
    return b"value-%d-" % number * (1 + number % 40)


def fill(store: Storage) -> None:
    for number in range(COUNT):
        assert store.put(b"key-%d" % number, value_of(number))


def judge(store: Storage) -> None:
    assert store.check() == []
    for number in range(COUNT):
        assert store.get(b"key-%d" % number) == value_of(number)


def left(root: Path, shared: bool) -> Path:
    """A filled store that was closed; its arena."""
    with Storage(config_of(root, shared=shared)) as store:
        fill(store)
    return arena_of(root)


def test_the_next_store_begins_where_the_last_one_ended(root: Path, shared: bool) -> None:
    with Storage(config_of(root, shared=shared)) as store:
        assert store.stats()["engine"]["cold_reason"] == "no arena was kept"
        fill(store)
        store.put("lasting", b"stays", ttl=1000.0)
        store.put("brief", b"goes", ttl=0.001)
        store.put("deleted", b"x")
        store.delete("deleted")
        store.put("tagged", b"t", tags=("tag",))
        store.delete(b"key-1")
        store.put(b"key-1", value_of(1))
    for life in range(3):
        with Storage(config_of(root, shared=shared)) as store:
            found = store.stats()
            assert found["recovery"]["is_warm"]
            assert found["engine"]["cold_reason"] == ""
            reads = store.counters()["disk_reads"]
            judge(store)
            assert store.counters()["disk_reads"] == reads, "all of it is in RAM"
            assert store.get("deleted") is None
            assert store.get("lasting") == b"stays"
            assert store.get("brief") is None
            assert (store.get("tagged") is None) == (life > 0)
            store.purge_tag("tag")
            store.put("life", b"%d" % life)
            assert store.health().status == "ok"
        with Storage(config_of(root, shared=shared)) as store:
            assert store.get("life") == b"%d" % life


def test_the_arena_is_private_to_the_user_and_named_by_the_root(root: Path, shared: bool) -> None:
    arena = left(root, shared)
    assert arena.stat().st_mode & 0o777 == 0o600
    with Storage(config_of(root, shared=shared)):
        assert not arena.exists(), "an arena is adopted under another name"
        assert arena_of(root).exists()


def test_what_is_not_adopted_is_recovered_from_disk(root: Path, shared: bool) -> None:
    """A store that does not keep its arena removes what an earlier one left: it ages."""
    arena = left(root, shared)
    with Storage(config_of(root, shared=shared, keep_warm=False)) as store:
        assert not arena.exists()
        assert names_of(root) == []
        judge(store)
        store.put(b"key-0", b"newer")
    with Storage(config_of(root, shared=shared)) as store:
        assert not store.stats()["recovery"]["is_warm"]
        assert store.get(b"key-0") == b"newer"


def patch(offset: int, value: bytes) -> Callable[[Path, Path], None]:
    def change(arena: Path, root: Path) -> None:
        with open(arena, "r+b") as file:
            file.seek(offset)
            file.write(value)

    return change


def swap_for_a_link(arena: Path, root: Path) -> None:
    shutil.move(arena, root.parent / "moved")
    arena.symlink_to(root.parent / "moved")


def link_twice(arena: Path, root: Path) -> None:
    os.link(arena, str(arena) + "-second")


def chop_data(arena: Path, root: Path) -> None:
    os.truncate(next(iter(sorted((root / "data").iterdir()))), 4096)


def remove_data(arena: Path, root: Path) -> None:
    for path in (root / "data").iterdir():
        path.unlink()


def remove_checkpoints(arena: Path, root: Path) -> None:
    for path in root.glob("checkpoint.*"):
        path.unlink()


STALE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "magic": (patch(MAGIC, b"\0"), "another build"),
    "abi": (patch(ABI, b"\1\2\3"), "another build"),
    "not closed": (patch(STATE, struct.pack("<I", 1)), "did not close"),
    "owner": (patch(USER, struct.pack("<I", 54321)), "user 54321"),
    "boot": (patch(BOOT, b"another-boot"), "started anew"),
    "token": (patch(TOKEN, b"0000"), "not the one"),
    "options": (patch(OPTIONS, b"[('memory_bytes', 7"), "configuration"),
    "mode": (lambda arena, _root: arena.chmod(0o640), "mode"),
    "size": (lambda arena, _root: os.truncate(arena, 8192), "size"),
    "empty": (lambda arena, _root: os.truncate(arena, 0), "size"),
    "gone": (lambda arena, _root: arena.unlink(), "gone"),
    "link": (swap_for_a_link, "gone"),
    "two names": (link_twice, "plain file"),
    "shorter data": (chop_data, "data file"),
    "other checkpoint": (remove_checkpoints, "checkpoint"),
}


@pytest.mark.parametrize("case", STALE)
def test_a_stale_arena_is_refused_by_name(case: str, root: Path, shared: bool) -> None:
    damage, reason = STALE[case]
    arena = left(root, shared)
    damage(arena, root)
    try:
        with Storage(config_of(root, shared=shared)) as store:
            found = store.stats()
            assert not found["recovery"]["is_warm"]
            assert reason in found["engine"]["cold_reason"]
            note = {note.name: note.detail for note in store.health().notes}
            assert reason in note["cold_start"]
            if case != "shorter data":
                judge(store)
            assert store.check() == []
            assert not arena.exists(), "its memory goes back"
            fill(store)
        with Storage(config_of(root, shared=shared)) as store:
            assert store.stats()["recovery"]["is_warm"]
            judge(store)
    finally:
        for path in SHM.glob(arena.name + "*"):
            path.unlink()


def test_data_files_that_are_gone_make_the_arena_stale(root: Path, shared: bool) -> None:
    left(root, shared)
    remove_data(arena_of(root), root)
    with Storage(config_of(root, shared=shared)) as store:
        assert "cannot be opened" in store.stats()["engine"]["cold_reason"]
        assert store.check() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a file to another user")
def test_an_arena_of_another_user_is_refused(root: Path, shared: bool) -> None:
    arena = left(root, shared)
    os.chown(arena, 54321, -1)
    with Storage(config_of(root, shared=shared)) as store:
        assert "54321" in store.stats()["engine"]["cold_reason"]
        judge(store)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"policy": "lru"}, "policy"),
        ({"namespace": "n"}, "namespace"),
        ({"memory": 9 * MIB}, "size"),
    ],
)
def test_another_configuration_begins_cold(
    changes: dict[str, object], word: str, root: Path, shared: bool
) -> None:
    left(root, shared)
    with Storage(config_of(root, shared=shared, **changes)) as store:
        assert word in store.stats()["engine"]["cold_reason"]


@pytest.mark.parametrize("text", [b"", b"nonsense", b"../../etc/passwd\n", b"\xff" * 600])
def test_names_that_are_none_are_passed_over(text: bytes, root: Path) -> None:
    left(root, False).unlink()
    (root / "warm").write_bytes(text)
    with Storage(config_of(root)) as store:
        assert store.stats()["engine"]["cold_reason"] == "no arena was kept"
        judge(store)


def test_a_copy_of_the_root_does_not_get_the_arena_of_a_later_life(root: Path) -> None:
    left(root, False)
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    with Storage(config_of(root)) as store:
        store.put(b"key-0", b"newer")
    with Storage(config_of(copy)) as store:
        assert not store.stats()["recovery"]["is_warm"]
        judge(store)
    with Storage(config_of(root)) as store:
        assert store.stats()["recovery"]["is_warm"]
        assert store.get(b"key-0") == b"newer"
    (SHM / names_of(copy)[0]).unlink()


def test_a_killed_process_leaves_no_memory_for_good(root: Path, shared: bool) -> None:
    left(root, shared)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            store = Storage(config_of(root, shared=shared))
            store.put("more", b"more")
            store.sync()
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    arena = arena_of(root)
    with Storage(config_of(root, shared=shared)) as store:
        assert "did not close" in store.stats()["engine"]["cold_reason"]
        assert not arena.exists()
        assert store.get("more") == b"more"
        judge(store)


def test_a_pinned_value_keeps_the_arena_from_being_left(root: Path, shared: bool) -> None:
    store = Storage(config_of(root, shared=shared))
    fill(store)
    store.put("large", b"L" * 20_000)
    blob = store.view("large")
    assert blob is not None
    arena = arena_of(root)
    store.close()
    assert not arena.exists()
    assert names_of(root) == []
    assert bytes(blob) == b"L" * 20_000
    del blob, store
    gc.collect()
    with Storage(config_of(root, shared=shared)) as store:
        assert not store.stats()["recovery"]["is_warm"]
        judge(store)


def test_the_last_of_several_processes_leaves_it(root: Path) -> None:
    with Storage(config_of(root, shared=True)) as first:
        fill(first)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                first.put("child", b"was here")
                first.close()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        judge(first)
        assert first.get("child") == b"was here"
    with Storage(config_of(root, shared=True)) as store:
        assert store.stats()["recovery"]["is_warm"]
        assert store.get("child") == b"was here"
        judge(store)


def test_processes_of_one_root_agree_on_keep_warm(root: Path) -> None:
    with Storage(config_of(root, shared=True)):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                Storage(config_of(root, shared=True, keep_warm=False))
            except errors.SharedModeError as error:
                code = 0 if "keep_warm" in str(error) else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_of_fork_changes_nothing_of_its_parents_arena(root: Path) -> None:
    with Storage(config_of(root)) as store:
        fill(store)
        store.put("large", b"L" * 20_000)
        blob = store.view("large")
        assert blob is not None
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.get("large")
            except errors.StoreForkedError:
                del blob
                gc.collect()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.counters()["memory_pinned_bytes"] > 0
        assert store.check() == []
        del blob
    with Storage(config_of(root)) as store:
        assert store.stats()["recovery"]["is_warm"]
        judge(store)


@pytest.mark.parametrize("seed", range(3))
def test_many_lives_of_one_cache(seed: int, root: Path, shared: bool) -> None:
    """Random changes, evictions and reclaims over warm and cold openings: nothing old or wrong."""
    rng = random.Random(seed)
    known: dict[bytes, bytes] = {}
    hits = 0
    for life in range(12):
        is_warm = rng.random() < 0.7
        store = Storage(config_of(root, shared=shared, disk=16 * MIB, keep_warm=is_warm))
        for number in range(rng.randrange(50, 1500)):
            key = b"k%d" % rng.randrange(400)
            chance = rng.random()
            if chance < 0.6:
                size = rng.choice([10, 100, 1000, 5000, 30_000])
                known[key] = (b"%d-%d-" % (life, number)) * (1 + size // 8)
                if not store.put(key, known[key]):
                    known.pop(key)
            elif chance < 0.75:
                store.delete(key)
                known.pop(key, None)
            else:
                found = store.get(key)
                hits += found is not None
                assert found is None or found == known.get(key)
        assert store.check() == []
        store.close()
    assert hits > 100


def test_a_small_shm_is_refused_by_name(root: Path) -> None:
    def work() -> None:
        with Storage(config_of(root)) as store:
            fill(store)
            judge(store)
            report = store.health()
            assert report.status == "degraded"
            assert [reason.name for reason in report.reasons] == ["keep_warm"]
            assert "MiB free" in report.reasons[0].detail

    with_small_shm(4 * MIB, work)


def test_a_full_shm_costs_hits_and_nothing_else(root: Path, shared: bool) -> None:
    """Others may take what was free at opening: without a page the store goes on, on its disk."""

    def work() -> None:
        ballast = SHM / "ballast"
        with Storage(config_of(root, shared=shared, memory=16 * MIB)) as store:
            with open(ballast, "wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))
            numbers = range(8 * COUNT)
            for number in numbers:
                assert store.put(b"key-%d" % number, value_of(number))
            store.put("extent", b"e" * 100_000)
            assert store.get("extent") in (None, b"e" * 100_000)
            assert store.stats()["memory"]["refusals"] > 0
            assert store.check() == []
            store.sync()
            for number in numbers:
                assert store.get(b"key-%d" % number) == value_of(number)
            few = store.stats()["memory"]["items"]
            ballast.unlink()
            for _round in range(3):
                for number in numbers:
                    assert store.get(b"key-%d" % number) == value_of(number)
            assert store.stats()["memory"]["items"] > few, "the tier grows again"
            assert store.check() == []
        with Storage(config_of(root, shared=shared, memory=16 * MIB)) as store:
            assert store.stats()["recovery"]["is_warm"]
            for number in numbers:
                assert store.get(b"key-%d" % number) == value_of(number)
            assert store.check() == []

    with_small_shm(64 * MIB, work)


@pytest.mark.parametrize("changes", [{"layout": "files"}, {"io": "memory"}, {"disk": 0}])
def test_without_a_log_on_disk_there_is_nothing_to_keep_warm(
    changes: dict[str, object], root: Path
) -> None:
    with pytest.raises(edgecache.ConfigError, match="keep_warm"):
        config_of(root, **changes)


def test_a_kill_while_closing_or_adopting_loses_nothing_synced(root: Path, shared: bool) -> None:
    """The child opens (warm or cold), puts, syncs, says so and closes; the kill comes then."""
    rng = random.Random(5)
    outcomes: set[bool] = set()
    newest = -1
    for life in range(40):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.close(reader)
                store = Storage(config_of(root, shared=shared))
                store.put("newest", b"%d" % life)
                for number in range(50):
                    store.put(b"key-%d" % number, value_of(number))
                store.sync()
                os.write(writer, b"synced")
                store.close()
                os.write(writer, b"closed")
                signal.pause()
            os._exit(1)
        os.close(writer)
        if rng.random() < 0.8:
            assert os.read(reader, 6) == b"synced"
            newest = life
            # Now and then all of it is over, however slow the machine is.
            assert rng.random() < 0.8 or os.read(reader, 6) == b"closed"
        threading.Event().wait(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(reader)
        with Storage(config_of(root, shared=shared)) as store:
            outcomes.add(store.stats()["recovery"]["is_warm"])
            assert store.check() == []
            found = store.get("newest")
            assert found is not None or newest < 0
            assert int(found or b"-1") >= newest
            if newest >= 0:
                for number in range(50):
                    assert store.get(b"key-%d" % number) == value_of(number)
    assert outcomes == {True, False}, "kills came before and after the arena was left"


# Sizes of what ends a shared arena; see _lease.pxd and _lease_stream.pxd.
PAGE = 4096
LEASE_HEAD, LEASE_EVENTS, LEASE_SETS, LEASE_SET = 128, 128 * 64, 64, 64 + 32 * 128
STREAMS = 64 + 256 * 192 + 256 * 8192


def test_leases_begin_anew_with_an_arena_that_was_left(root: Path) -> None:
    """Also where a thread was in the middle of one: its lock is not one of the living."""
    config = config_of(root, shared=True)
    with Storage(config) as store:
        assert store.leases is not None
        assert store.leases.take(1, b"key", 600).lease is not None
        takes = store.stats()["leases"]["takes"]
    arena = arena_of(root)
    streams = arena.stat().st_size - -(-STREAMS // PAGE) * PAGE
    leases = streams - -(-(LEASE_HEAD + LEASE_EVENTS + LEASE_SETS * LEASE_SET) // PAGE) * PAGE
    with arena.open("r+b") as file:
        file.seek(leases + 8)
        assert struct.unpack("<Q", file.read(8)) == (takes,)
        for number in range(LEASE_SETS):
            file.seek(leases + LEASE_HEAD + LEASE_EVENTS + number * LEASE_SET)
            # A thread of this name lives: nobody would take the lock over from it.
            file.write(struct.pack("<I", threading.get_native_id()))
        file.seek(streams)
        file.write(struct.pack("<I", threading.get_native_id()))
    with Storage(config) as store, Storage(config) as other:
        assert store.stats()["recovery"]["is_warm"]
        assert store.leases is not None
        assert store.leases.take(1, b"key", 600).lease is not None
        assert store.stats()["leases"]["takes"] == takes + 1
        with store.get_miss_handler("stream") as miss:
            assert other.lookup_streaming_write("stream", miss.streaming_write_tag) is not None
