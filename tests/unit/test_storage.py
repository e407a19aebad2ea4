"""The synchronous store: what the Python face adds to the native methods."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgecache
from edgecache import Config, Meta, Storage, errors
from edgecache._io_memory import MemoryDisk

MIB = 1 << 20
MAKERS: dict[str, Callable[[Path], Config]] = {
    "ram": lambda root: Config(memory="8MiB"),
    "memory": lambda root: Config(io="memory", memory="8MiB", disk="64MiB"),
    "threads": lambda root: Config(root=str(root), io="threads", memory="8MiB", disk="64MiB"),
    "auto": lambda root: Config(root=str(root), memory="8MiB", disk="64MiB"),
    "files": lambda root: Config(root=str(root), memory="8MiB", disk="64MiB", layout="files"),
    "files in memory": lambda root: Config(
        io="memory", memory="8MiB", disk="64MiB", layout="files"
    ),
}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with Storage(MAKERS[request.param](tmp_path / "root")) as opened:
        yield opened


@pytest.fixture(params=["memory", "auto", "files", "files in memory"])
def disk_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with Storage(MAKERS[request.param](tmp_path / "root")) as opened:
        yield opened


def push_to_disk(store: Storage) -> None:
    """Fill RAM with other entries, so that what was there is on disk only."""
    for number in range(40):
        store.put(b"filler/%d" % number, bytes(256 * 1024))


def keys_on_disk(store: Storage, keys: list[str]) -> list[str]:
    return [key for key in keys if store.needs_disk(key)]


# Life


def test_open_makes_a_directory_and_reopening_finds_what_was_put(tmp_path: Path) -> None:
    with edgecache.open(tmp_path / "a" / "b", memory="8MiB", disk="64MiB") as store:
        assert store.put("key", b"value")
    with edgecache.open(tmp_path / "a" / "b", memory="8MiB", disk="64MiB", policy="lru") as store:
        assert store.get("key") == b"value"
        assert store.config.policy == "lru"


def test_open_without_a_root_is_a_cache_in_memory() -> None:
    with edgecache.open(None, memory="8MiB", disk=0) as store:
        assert store.put("key", b"value")
        assert store.region_count == 0
        assert store.stats()["engine"]["io"] == "none"
        store.sync()


def test_open_reads_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_POLICY", "arc")
    with edgecache.open(tmp_path / "r", memory="8MiB", disk="64MiB") as store:
        assert store.config.policy == "s3fifo"


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        edgecache.open(None, memroy="8MiB")
    assert "memory" in caught.value.hint


def test_a_memory_disk_outlives_its_store() -> None:
    disk = MemoryDisk()
    config = Config(io="memory", memory="8MiB", disk="64MiB")
    with Storage(config, disk=disk) as store:
        store.put("key", b"value")
    assert disk.used_bytes > 0
    with Storage(config, disk=disk) as store:
        assert store.get("key") == b"value"


def test_a_memory_disk_needs_its_engine(tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError):
        Storage(Config(root=str(tmp_path), disk="64MiB"), disk=MemoryDisk())


def test_a_closed_store_says_so_everywhere(store: Storage) -> None:
    store.put("key", b"value")
    store.close()
    store.close()
    assert store.closed
    calls: list[Callable[[], object]] = [
        lambda: store.get("key"),
        lambda: store.put("key", b""),
        lambda: store.delete("key"),
        lambda: store.get_entry("key"),
        lambda: store.get_many(["key"]),
        lambda: store.put_many({"key": b""}),
        lambda: store.delete_many(["key"]),
        lambda: store.touch("key", 1),
        lambda: store.delete_prefix("k"),
        lambda: store.purge_tag("t"),
        lambda: store.prefetch(["key"]),
        lambda: store.scrub(),
        lambda: store.clear(),
        lambda: store.stats(),
        lambda: store.health(),
        lambda: store.view("key"),
        lambda: store.exists("key"),
        lambda: store.sync(),
        lambda: store.flush(),
        lambda: store.checkpoint(),
    ]
    for call in calls:
        with pytest.raises(errors.StoreClosedError):
            call()


def test_a_root_is_free_after_close_and_after_collection(tmp_path: Path) -> None:
    config = MAKERS["auto"](tmp_path / "root")
    store = Storage(config)
    with pytest.raises(errors.StoreLockedError):
        Storage(config)
    store.put("key", b"value")
    store.close()
    store = Storage(config)
    store.put("more", b"value")
    del store
    gc.collect()
    with Storage(config) as store:
        assert store.get_many(["key", "more"]) == [b"value", b"value"]


def test_a_failed_open_frees_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MAKERS["auto"](tmp_path / "root")
    monkeypatch.setenv("EDGECACHE_IO_FAIL", "setup:EPERM")
    with pytest.raises(errors.EngineUnavailableError):
        Storage(config.replace(io="uring"))
    monkeypatch.delenv("EDGECACHE_IO_FAIL")
    Storage(config).close()


def test_closing_gives_every_descriptor_back(tmp_path: Path) -> None:
    config = MAKERS["threads"](tmp_path / "root")
    counts = []
    for _ in range(3):
        store = Storage(config)
        store.put("key", b"value")
        push_to_disk(store)
        store.sync()
        store.close()
        del store
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1] == counts[2]


def test_recovery_tells_its_progress_and_survives_a_broken_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", memory="8MiB", disk="64MiB")
    with Storage(config, disk=disk) as store:
        push_to_disk(store)
    seen: list[tuple[int, int]] = []
    with Storage(config, disk=disk, progress=lambda done, total: seen.append((done, total))):
        pass
    assert seen
    assert all(done <= total for done, total in seen)

    def broken(done: int, total: int) -> None:
        raise RuntimeError("no terminal")

    with caplog.at_level(logging.WARNING), Storage(config, disk=disk, progress=broken) as store:
        assert store.get("filler/39") is not None
    assert "no terminal" in caplog.text


# Entries, metas and tags


def test_values_and_metas_come_back(store: Storage) -> None:
    meta = Meta(created=1, updated=2, status=200, tags=("a",), headers=b"h: 1\r\n")
    assert store.put("plain", b"value")
    assert store.put("tagged", b"value", tags=["t", "a", "t"])
    assert store.put("meta", b"value", meta=meta, tags={"b"})
    assert store.get_entry("none") is None
    assert store.get_entry("plain") == (b"value", None)
    entry = store.get_entry("tagged")
    assert entry is not None
    assert entry.meta is not None
    assert entry.meta.tags == ("a", "t")
    assert entry.is_fresh
    entry = store.get_entry("meta")
    assert entry is not None
    assert entry.meta == meta.with_tags(("a", "b"))


def test_wrong_metas_and_tags_are_refused(store: Storage) -> None:
    with pytest.raises(TypeError, match="not Meta"):
        store.put("key", b"", meta={"status": 200})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not Meta"):
        store.put("key", b"", meta=b"EMET")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="collection"):
        store.put("key", b"", tags="tag")
    with pytest.raises(errors.MetaFieldError):
        store.put("key", b"", tags=[""])
    assert not store.exists("key")


def test_a_stale_entry_is_a_miss_but_still_there(store: Storage) -> None:
    now_us = time.time_ns() // 1000
    store.put("key", b"old", meta=Meta(created=1, updated=1, fresh_until=now_us - 1))
    assert store.get("key") is None
    entry = store.get_entry("key")
    assert entry is not None
    assert entry.value == b"old"
    assert not entry.is_fresh


def test_touch_changes_the_lifetime_and_keeps_the_rest(store: Storage) -> None:
    store.put("key", b"value", ttl=1000, tags=["t"])
    before = store.get_entry("key")
    assert store.touch("key", 2000)
    assert store.get_entry("key") == before
    assert store.purge_tag("t") == 1
    store.put("key", b"value")
    assert store.touch("key", 0)
    assert store.get("key") is None
    assert not store.touch("key", 10)
    assert not store.touch("absent", 10)


# Batches


def test_batches_count_what_they_did(store: Storage) -> None:
    assert store.put_many({"a": b"1", b"b": bytearray(b"2")}) == 2
    assert store.put_many(((f"k{n}", b"v") for n in range(100)), ttl=1000) == 100
    assert store.put_many([("gone", b"v")], ttl=0) == 1
    assert store.get_many(["a", "b", "gone", "k99"]) == [b"1", b"2", None, b"v"]
    assert store.delete_many(["a", "b", "gone", "absent"]) == 2
    assert store.delete_many(f"k{n}" for n in range(100)) == 100


def test_shed_puts_are_not_counted_as_stored() -> None:
    with Storage(Config(memory="1MiB", shards=1)) as store:
        assert store.put_many([("big", bytes(2 * MIB)), ("small", b"v")]) == 1
        assert sum(store.stats()["requests"]["shed"].values()) == 1
        assert store.get("big") is None


@pytest.mark.parametrize("key", ["abc", b"abc"])
def test_one_key_in_place_of_several_is_refused(store: Storage, key: str | bytes) -> None:
    for call in (store.delete_many, store.prefetch):
        with pytest.raises(errors.KeyTypeError):
            call(key)


def test_prefetch_brings_entries_to_memory(disk_store: Storage) -> None:
    keys = [f"k{number}" for number in range(150)]
    disk_store.put_many((key, bytes(1000)) for key in keys)
    push_to_disk(disk_store)
    assert keys_on_disk(disk_store, keys)
    assert disk_store.prefetch([*keys, "absent"]) == 150
    assert keys_on_disk(disk_store, keys) == []


def test_prefetch_of_nothing_finds_nothing(store: Storage) -> None:
    assert store.prefetch([]) == 0
    assert store.prefetch(f"absent{number}" for number in range(130)) == 0


# Observing


def test_clear_leaves_nothing_behind(tmp_path: Path) -> None:
    config = MAKERS["auto"](tmp_path / "root")
    with Storage(config) as store:
        store.put("key", b"value")
        push_to_disk(store)
        store.clear()
        assert store.get("key") is None
        assert store.stats()["index"]["objects"] == 0
        store.put("new", b"value")
    with Storage(config) as store:
        assert store.get_many(["key", "filler/0", "filler/39"]) == [None] * 3
        assert store.get("new") == b"value"


def test_scrub_reads_every_entry_on_disk(disk_store: Storage) -> None:
    disk_store.put_many((f"k{number}", bytes(1000)) for number in range(100))
    report = disk_store.scrub()
    assert (report.entries, report.corrupt) == (100, 0)
    assert report.bytes >= 100_000
    assert report.regions == disk_store.region_count


def test_the_namespace_is_no_part_of_the_keys_that_are_purged(tmp_path: Path) -> None:
    config = MAKERS["auto"](tmp_path / "root").replace(namespace="images")
    with Storage(config) as store:
        store.put_many((f"a/{number}", b"v") for number in range(10))
        store.put("im", b"v", tags=["t"])
        assert store.delete_prefix("im") == 1
        assert store.put("im", b"v", tags=["t"])
        assert store.purge_tag("t") == 1
        assert store.delete_prefix("a/") == 10


def test_native_structures_are_sound_after_use(store: Storage) -> None:
    for number in range(2000):
        store.put(f"k{number % 500}", bytes(number % 3000), tags=["t"] if number % 3 == 0 else ())
        if number % 7 == 0:
            store.delete(f"k{(number * 13) % 500}")
    store.delete_prefix("k1")
    store.purge_tag("t", soft=True)
    assert store.check() == []
