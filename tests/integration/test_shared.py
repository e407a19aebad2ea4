"""Several processes on one root: they see one cache, under one budget, whoever dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import eventually, in_child, killed_child, start

import edgecache
from edgecache import Config, Storage, errors

MIB = 1024 * 1024
DEADLINE_S = 30.0


def config_of(root: Path, **changes: object) -> Config:
    options = {
        "shared": True, "memory": 4 * MIB, "disk": 64 * MIB, "region_size": MIB, "shards": 2,
        "flush_size": "64KiB", "flush_interval": 0.005,
    }  # fmt: skip
    return Config.from_options(root, **{**options, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Iterator[Storage]:
    with Storage(config_of(root)) as opened:
        yield opened
        assert opened.check() == []


# One cache


def test_a_put_in_one_process_is_a_ram_hit_in_the_other(store: Storage, root: Path) -> None:
    script = (
        "import edgecache, sys\n"
        "from edgecache import Config, Storage\n"
        f"store = Storage(Config.from_dict({config_of(root).to_dict()!r}))\n"
        "assert store.get('from parent') == b'value'\n"
        "assert store.counters()['disk_reads'] == 0\n"
        "store.put('from child', b'other', tags=['t'], ttl=60)\n"
        "store.close()\n"
    )
    store.put("from parent", b"value")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE_S)
    reads = store.counters()["disk_reads"]
    assert store.get("from child") == b"other"
    assert store.counters()["disk_reads"] == reads
    assert store.purge_tag("t") == 1
    assert store.get("from child") is None


def test_changes_reach_the_objects_that_another_process_keeps_ready(
    store: Storage, root: Path
) -> None:
    store.put("key", b"old")
    for _ in range(100):
        assert store.get("key") == b"old"

    def change() -> None:
        with Storage(config_of(root)) as other:
            assert other.get("key") == b"old"
            other.put("key", b"new")
            other.delete("gone")

    store.put("gone", b"value")
    assert store.get("gone") == b"value"
    in_child(change)
    assert store.get("key") == b"new"
    assert store.get("gone") is None


def test_two_stores_of_one_process_share_too(store: Storage, root: Path) -> None:
    with Storage(config_of(root)) as other:
        other.put("key", b"value")
        assert store.get("key") == b"value"
        assert store.counters()["processes"] == 2
    assert store.counters()["processes"] == 1
    # Closing one must not have given up the lock by which others know that this one lives.
    in_child(lambda: check_lives(root, 2))
    assert store.get("key") == b"value"


def check_lives(root: Path, count: int) -> None:
    with Storage(config_of(root)) as third:
        assert third.counters()["processes"] == count


def test_counters_are_sums_over_all_processes(store: Storage, root: Path) -> None:
    before = store.counters()

    def work() -> None:
        with Storage(config_of(root)) as other:
            for number in range(50):
                other.put(f"key-{number}", b"x" * 100)
            for _ in range(10):
                assert other.get("key-1") == b"x" * 100
            other.delete("key-2")

    for _ in range(2):
        in_child(work)
    killed_child(lambda: keep(root, 30))
    after = store.counters()
    assert after["puts"] - before["puts"] == 130
    assert after["deletes"] - before["deletes"] == 2
    assert after["invalidations"] - before["invalidations"] == 2
    hits = sum(after[name] - before[name] for name in ("memory_hits", "front_hits"))
    assert hits == 20


def keep(root: Path, count: int) -> None:
    """Puts of a process that will be killed."""
    other = Storage(config_of(root))
    for number in range(count):
        assert other.put(f"kept-{number}", b"kept" * 50)


def test_budgets_hold_over_all_processes(root: Path) -> None:
    config = config_of(root, front_size="1MiB")

    def fill(name: str) -> None:
        with Storage(config) as other:
            for number in range(6000):
                other.put(f"{name}-{number}", bytes(600))
                other.get(f"{name}-{number}")
            counters = other.counters()
            assert counters["front_bytes"] <= MIB
            ready.wait()
            done.wait()

    context = multiprocessing.get_context("fork")
    ready, done = context.Barrier(4), context.Barrier(4)
    children = [start(lambda name=f"p{n}": fill(name)) for n in range(3)]  # type: ignore[misc]
    with Storage(config) as store:
        ready.wait(DEADLINE_S)
        counters = store.counters()
        assert counters["processes"] == 4
        assert 0 < counters["front_bytes"] <= MIB
        total = sum(counters[n] for n in ("memory_used_bytes", "index_used_bytes", "front_bytes"))
        assert total <= 4 * MIB
        done.wait(DEADLINE_S)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        assert store.counters()["front_bytes"] == 0
        assert store.check() == []


# The dead


def test_acknowledged_puts_of_a_killed_writer_stay_and_the_role_goes_on(
    root: Path,
) -> None:
    reader, writer = os.pipe()

    def first() -> None:
        other = Storage(config_of(root, flush_interval=3600))
        # A full buffer is flushed by who has the role: so this process has it when it dies.
        for number in range(3):
            assert other.put(f"fill-{number}", bytes(40_000))
        eventually(lambda: other.counters()["flushes"] > 0)
        for number in range(40):
            assert other.put(f"kept-{number}", b"kept" * 50)
        eventually(lambda: other.counters()["is_writer"])
        os.write(writer, b".")
        signal.pause()

    child = start(first)
    assert os.read(reader, 1) == b"."
    with Storage(config_of(root, flush_interval=3600)) as second:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        eventually(lambda: second.counters()["role_takeovers"] == 1)
        eventually(lambda: second.counters()["processes_reaped"] == 1)
        found = [second.get(f"kept-{number}") for number in range(40)]
        assert found == [b"kept" * 50] * 40
        second.sync()
    # And on disk: the arena is gone now.
    with Storage(config_of(root)) as third:
        found = [third.get(f"kept-{number}") for number in range(40)]
        assert found == [b"kept" * 50] * 40


def test_the_role_goes_on_when_the_writer_closes(root: Path) -> None:
    first = Storage(config_of(root))
    second = Storage(config_of(root))
    first.close()
    assert second.put("key", b"value" * 100)
    eventually(lambda: second.counters()["buffered_bytes"] == 0)  # by time, so there is a flusher
    assert second.counters()["role_takeovers"] == 0
    second.close()


def test_pins_of_the_dead_are_given_back(store: Storage, root: Path) -> None:
    store.put("key", bytes(5000))

    def pin() -> None:
        other = Storage(config_of(root))
        blobs.append(other.view("key"))
        assert other.counters()["memory_pinned_bytes"] >= 5000

    blobs: list[object] = []
    killed_child(pin)

    def is_free() -> bool:
        store.put("work", b"for the flusher")
        return bool(store.counters()["memory_pinned_bytes"] == 0)

    eventually(is_free)
    # The last that is done for the dead.
    eventually(lambda: store.counters()["processes_reaped"] == 1)
    assert store.get("key") == bytes(5000)


def test_a_pinned_value_outlives_its_store_and_every_change(store: Storage, root: Path) -> None:
    other = Storage(config_of(root))
    value = os.urandom(8000)
    store.put("key", value)
    blob = other.view("key")
    assert blob is not None
    other.close()
    store.put("key", bytes(8000))
    for number in range(2000):
        store.put(f"churn-{number}", os.urandom(4000))
    assert blob.tobytes() == value
    assert store.counters()["processes"] == 2  # its pin keeps the slot
    del blob, other
    gc.collect()
    assert store.counters()["processes"] == 1


# Forking


def test_a_child_of_fork_joins_by_itself(store: Storage, root: Path) -> None:
    store.put("key", b"value")
    store.put("large", bytes(100_000))
    blob = store.view("large")

    def work() -> None:
        assert store.get("key") == b"value"
        assert store.counters()["processes"] == 2
        store.put("from child", b"x" * 3000)
        assert store.delete("key")
        store.sync()
        assert store.get_many(["from child", "key"]) == [b"x" * 3000, None]
        with store.get_miss_handler("stream") as miss:
            miss.write(b"streamed")
            miss.finish()
        assert store.check() == []
        store.close()

    in_child(work)
    assert store.counters()["processes"] == 1
    assert store.get("key") is None
    assert store.get("from child") == b"x" * 3000
    assert store.get("stream") == b"streamed"
    assert blob is not None
    assert blob.tobytes() == bytes(100_000)
    blob.release()
    assert store.counters()["memory_pinned_bytes"] == 0


def test_a_child_that_does_not_use_the_store_changes_nothing(store: Storage) -> None:
    store.put("key", b"value")
    in_child(lambda: None)
    assert store.counters()["processes"] == 1
    assert store.get("key") == b"value"


def test_a_child_whose_parent_has_closed_says_so(root: Path) -> None:
    store = Storage(config_of(root))
    reader, writer = os.pipe()

    def work() -> None:
        os.read(reader, 1)
        with pytest.raises(errors.StoreForkedError, match="closed since"):
            store.get("key")

    child = start(work)
    store.close()
    os.write(writer, b".")
    assert os.waitpid(child, 0)[1] == 0


def spawned(root: str, number: int) -> None:
    with Storage(config_of(Path(root))) as store:
        store.put(f"spawned-{number}", b"%d" % number)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(store: Storage, root: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=spawned, args=(str(root), n)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(DEADLINE_S)
        assert child.exitcode == 0
    assert [store.get(f"spawned-{n}") for n in range(3)] == [b"0", b"1", b"2"]


# Who may join


def test_private_and_shared_stores_do_not_mix(root: Path) -> None:
    with Storage(config_of(root)), pytest.raises(errors.StoreLockedError):
        Storage(config_of(root, shared=False))
    with Storage(config_of(root, shared=False)), pytest.raises(errors.StoreLockedError):
        Storage(config_of(root))


@pytest.mark.parametrize(
    "changes", [{"memory": 8 * MIB}, {"disk": 128 * MIB}, {"policy": "lru"}, {"namespace": "n"}]
)
def test_another_configuration_is_refused_by_name(
    store: Storage, root: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(errors.SharedModeError) as caught:
        Storage(config_of(root, **changes))
    assert caught.value.hint
    assert store.put("key", b"value")
    in_child(lambda: check_lives(root, 2))


def test_the_files_layout_and_ram_only_are_refused(root: Path) -> None:
    for changes in ({"layout": "files"}, {"disk": 0}, {"io": "memory"}):
        with pytest.raises(errors.ConfigError) as caught:
            config_of(root, **changes)
        assert caught.value.key == "shared"
    with pytest.raises(errors.ConfigError):
        edgecache.open(None, shared=True)
