"""Sparse objects: any order, any alignment, holes that stay holes, and what a crash leaves."""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import Config, Meta, PurgeType, Storage, errors
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import fail, heal
from edgecache.objects import budget, sparse
from edgecache.objects.registry import decode_bucket, encode_bucket

MIB = 1 << 20
TB = 10**12
CONFIGS: dict[str, dict[str, Any]] = {
    "ram": {"memory": "32MiB", "shards": 2},
    "disk": {"io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1},
    "short of memory": {
        "io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1, "namespace": "n",
        "max_in_mem_partial_bytes": "1MiB", "default_ttl": 3600,
    },
    "files": {
        "io": "memory", "layout": "files", "memory": "4MiB", "disk": "128MiB", "shards": 1,
        "chunk_size": "256KiB",
    },
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def store(request: pytest.FixtureRequest) -> Iterator[Storage]:
    with Storage(Config(**CONFIGS[request.param])) as opened:
        yield opened
        assert opened.check() == []


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["log", "files"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def disk_config(root: Path, **changes: Any) -> Config:
    return Config(root=str(root), memory="8MiB", disk="64MiB", io="threads", **changes)


def test_ranges_in_any_order_become_the_object(store: Storage) -> None:
    value = content(3 * MIB + 123)
    assert store.create_sparse("k", len(value), tags=["t"], meta=Meta(created=1, updated=2))
    rng = random.Random(2)
    cuts = sorted({0, len(value), *(rng.randrange(len(value)) for _ in range(60))})
    spans = list(itertools.pairwise(cuts))
    rng.shuffle(spans)
    for start, end in spans:
        low = max(0, start - rng.randrange(5000))  # overlapping what is there
        assert store.write_range("k", low, value[low:end])
        assert store.read_range("k", low, end - low) == value[low:end]
    available = store.availability("k")
    assert available is not None
    assert (available.is_complete, available.is_finalized) == (True, False)
    assert (available.percent, available.present_bytes) == (100.0, len(value))
    assert store.get("k") is store.lookup("k") is None, "only read_range shows it"
    assert store.finalize("k") == len(value)
    assert store.get("k") == value
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert b"".join(hit) == value
        assert hit.meta == Meta(created=1, updated=2, tags=("t",))
    assert store.availability("k").is_finalized  # type: ignore[union-attr]
    with pytest.raises(errors.ObjectNotFoundError):
        store.finalize("k")


def test_a_later_write_of_the_same_bytes_wins(store: Storage) -> None:
    size = 3 * store._objects.chunk_bytes
    model = bytearray(content(size))
    store.create_sparse("k", size)
    store.write_range("k", 0, model)
    rng = random.Random(5)
    for number in range(40):
        start, end = sorted(rng.randrange(size + 1) for _ in range(2))
        model[start:end] = content(end - start, number)
        assert store.write_range("k", start, model[start:end])
    assert store.read_range("k", 0, size) == model
    store.finalize("k")
    assert store.get("k") == model


def test_a_hole_is_reported_and_never_joined_across(store: Storage) -> None:
    store.create_sparse("k", 100)
    store.write_range("k", 10, b"0123456789")
    store.write_range("k", 30, b"x")
    with pytest.raises(errors.RangeMissingError) as caught:
        store.read_range("k", 5, 100)
    assert caught.value.missing == ((5, 10), (20, 30), (31, 100))
    assert store.read_range("k", 10, 10) == b"0123456789"
    assert store.read_range("k", 12, 0) == b""
    available = store.availability("k")
    assert available is not None
    assert available.ranges == ((10, 20), (30, 31))
    assert available.missing == ((0, 10), (20, 30), (31, 100))
    assert (available.size, available.percent, available.is_complete) == (100, 11.0, False)
    with pytest.raises(errors.IncompleteObjectError) as refused:
        store.finalize("k")
    assert refused.value.missing == available.missing
    store.write_range("k", 0, bytes(100))
    assert store.finalize("k") == 100
    assert store.get("k") == bytes(100)


def test_ranges_are_clipped_at_the_end_of_the_object(store: Storage) -> None:
    assert store.read_range("absent", 0, 10) is store.availability("absent") is None
    store.create_sparse("k", 10)
    store.write_range("k", 0, b"0123456789")
    for published in (False, True):
        if published:
            store.finalize("k")
        assert store.read_range("k", 8, 100) == b"89"
        assert store.read_range("k", 10, 1) == store.read_range("k", 999, 1) == b""
        for wrong in ((-1, 5), (0, -1)):
            with pytest.raises(errors.RangeError):
                store.read_range("k", *wrong)


def test_writes_outside_of_the_object_are_refused(store: Storage) -> None:
    store.create_sparse("k", 10)
    for offset, size in ((-1, 2), (10, 1), (5, 6), (TB, 1)):
        with pytest.raises(errors.RangeError):
            store.write_range("k", offset, bytes(size))
    assert store.write_range("k", 10, b"")
    assert store.availability("k").ranges == ()  # type: ignore[union-attr]
    with pytest.raises(errors.ObjectNotFoundError):
        store.write_range("absent", 0, b"x")
    with pytest.raises(KeyError):
        store.finalize("absent")
    with pytest.raises(errors.RangeError):
        store.create_sparse("negative", -1)
    with pytest.raises(errors.KeySizeError):
        store.create_sparse(bytes(8185), 1)


def test_an_unfinished_object_is_created_once_and_a_complete_one_serves_meanwhile(
    store: Storage,
) -> None:
    store.put("k", b"complete")
    store.create_sparse("k", 3)
    with pytest.raises(errors.ObjectExistsError):
        store.create_sparse("k", 3)
    store.write_range("k", 0, b"ne")
    assert store.get("k") == store.read_range("k", 0, 100) == b"complete"
    assert store.availability("k").size == 3  # type: ignore[union-attr]
    store.write_range("k", 2, b"w")
    store.finalize("k", ttl=1000)
    assert store.get("k") == b"new"
    assert store.read_entry("k")[2] > 0  # type: ignore[index]
    store.create_sparse("k", 5)
    assert store.purge("k")
    assert store.availability("k") is store.get("k") is None
    store.create_sparse("k", 5)
    assert store.purge("k", PurgeType.EVICTION), "an unfinished one counts"
    assert not store.purge("k")


def test_an_object_of_no_bytes_is_complete_from_the_start(store: Storage) -> None:
    store.create_sparse("k", 0)
    assert store.availability("k").percent == 100.0  # type: ignore[union-attr]
    assert store.finalize("k") == 0
    assert store.get("k") == b""
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.read() == b""


def test_lifetime_of_the_finished_object_is_what_was_said_first_or_last(store: Storage) -> None:
    for key, created, finalized in (("a", 0, None), ("b", None, 0), ("c", 0, 1000)):
        store.create_sparse(key, 1, ttl=created)
        store.write_range(key, 0, b"x")
        store.finalize(key, ttl=finalized)
    assert [store.get(key) for key in "abc"] == [None, None, b"x"]


def test_20_tb_take_seconds_and_megabytes(tmp_path: Path, layout: str) -> None:
    config = disk_config(tmp_path / "r", layout=layout)
    size = 20 * TB
    tracemalloc.start()
    try:
        with Storage(config) as store:
            store.create_sparse("k", size)
            assert store.write_range("k", 0, b"begin")
            assert store.write_range("k", size - 3, b"end")
            assert store.write_range("k", size // 2, bytes(5 * MIB))
        with Storage(config) as store:
            assert store.read_range("k", 0, 5) == b"begin"
            assert store.read_range("k", size - 3, 1000) == b"end"
            available = store.availability("k")
            assert available is not None
            assert available.present_bytes == 8 + 5 * MIB
            assert available.missing[0] == (5, size // 2)
            with pytest.raises(errors.IncompleteObjectError):
                store.finalize("k")
            assert store.purge("k")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB


def test_ranges_all_over_an_object_take_no_more_memory_than_is_allowed(
    tmp_path: Path, layout: str
) -> None:
    """Chunks that are being filled go to the disk, not beyond `max_in_mem_partial_bytes`."""
    limit = 2 * MIB
    config = disk_config(
        tmp_path / "r", layout=layout, max_in_mem_partial_bytes=limit, chunk_size="256KiB"
    )
    expected = bytearray(32 * MIB)
    tracemalloc.start()
    try:
        with Storage(config) as store:
            store.create_sparse("k", len(expected))
            base = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for number in range(256):
                # Every chunk again and again, none of them whole.
                start = number * 37 % 128 * 256 * 1024 + number * 100
                data = content(5000, number)
                assert store.write_range("k", start, data)
                expected[start : start + len(data)] = data
                assert 0 < store.stats()["objects"]["memory_bytes"] <= limit
            peak = tracemalloc.get_traced_memory()[1] - base
        with Storage(config) as store:
            available = store.availability("k")
            assert available is not None
            for start, end in available.ranges:
                assert store.read_range("k", start, end - start) == expected[start:end]
    finally:
        tracemalloc.stop()
    # What is on its way to the disk and the tables come on top.
    assert peak < limit + 3 * MIB


def test_what_was_stored_survives_a_restart_and_can_be_completed(
    tmp_path: Path, layout: str
) -> None:
    config = disk_config(tmp_path / "r", layout=layout)
    value = content(6 * MIB)
    with Storage(config) as store:
        store.create_sparse("k", len(value), meta=Meta(created=1, updated=2), ttl=1000)
        for start in range(0, len(value), 500_000):
            if start % 1_000_000:
                store.write_range("k", start, value[start : start + 300_000])
        expected = store.availability("k")
    with Storage(config) as store:
        assert store.availability("k") == expected
        with pytest.raises(errors.ObjectExistsError):
            store.create_sparse("k", 5)
        for start, end in expected.missing:  # type: ignore[union-attr]
            assert store.write_range("k", start, value[start:end])
        assert store.finalize("k") == len(value)
    with Storage(config) as store:
        assert store.get("k") == value
        assert store.read_entry("k")[2] > 0  # type: ignore[index]
        assert store.availability("k").is_finalized  # type: ignore[union-attr]


def test_a_crash_loses_what_was_not_stored_and_nothing_is_ever_wrong() -> None:
    disk = MemoryDisk()
    config = Config(**CONFIGS["disk"])
    value = content(3 * MIB)
    store = Storage(config, disk=disk)
    store.create_sparse("k", len(value))
    for start in range(0, MIB, 100_000):
        store.write_range("k", start, value[start : start + 60_000])
    store.sync()
    kept = store.availability("k")
    store.write_range("k", 0, value[:MIB])  # completes chunks, which replace their pieces
    store.write_range("k", 2 * MIB, value[2 * MIB : 2 * MIB + 5])
    store.flush()
    store.abandon()
    with Storage(config, disk=disk) as again:
        found = again.availability("k")
        assert found is not None
        assert kept is not None
        for start, end in kept.ranges:
            assert again.read_range("k", start, end - start) == value[start:end]
        with pytest.raises(errors.RangeMissingError):
            again.read_range("k", 2 * MIB, 5)
        for start, end in again.availability("k").missing:  # type: ignore[union-attr]
            again.write_range("k", start, value[start:end])
        again.finalize("k")
        assert again.get("k") == value


def test_parts_that_were_evicted_are_holes_again(store: Storage) -> None:
    size = store._objects.chunk_bytes
    value = content(3 * size)
    store.create_sparse("k", len(value))
    store.write_range("k", 0, value)
    found = store._objects.sparse.require(b"k")
    store._objects.backend.delete_parts(found.head.object_id, [1])  # as an eviction would
    with pytest.raises(errors.IncompleteObjectError) as caught:
        store.finalize("k")
    assert caught.value.missing == ((size, 2 * size),)
    with pytest.raises(errors.RangeMissingError):
        store.read_range("k", size - 1, 2)
    assert store.availability("k").present_bytes == 2 * size  # type: ignore[union-attr]
    store._objects.backend.delete_parts(found.head.object_id, [2])
    store.write_range("k", 2 * size, b"x")
    with pytest.raises(errors.RangeMissingError):
        store.read_range("k", 0, 3 * size)
    store.write_range("k", size, value[size:])
    store.finalize("k")
    assert store.get("k") == value


def test_the_quota_holds_over_all_unfinished_objects() -> None:
    with Storage(Config(**CONFIGS["disk"], partial_quota="1MiB")) as store:
        for key in "ab":
            store.create_sparse(key, 10 * MIB)
        store.write_range("a", 0, bytes(MIB // 2))
        store.write_range("b", 0, bytes(MIB // 2))
        with pytest.raises(errors.PartialQuotaError) as caught:
            store.write_range("b", 5 * MIB, b"x")
        assert caught.value.limit == "partial_quota"
        assert store.write_range("b", 0, bytes(100)), "bytes that are there take nothing"
        assert store.stats()["objects"]["sparse_bytes"] == MIB
        store.purge("a")
        assert store.write_range("b", 5 * MIB, b"x")
        assert store.stats()["objects"]["sparse_bytes"] == MIB // 2 + 1
        store.purge("b")
        assert store.stats()["objects"]["sparse_bytes"] == 0
        assert store.stats()["objects"]["memory_bytes"] == 0


def test_the_quota_counts_unfinished_objects_of_an_earlier_life(tmp_path: Path) -> None:
    config = disk_config(tmp_path / "r", partial_quota="1MiB")
    with Storage(config) as store:
        for key in ("a", "b", "gone"):
            store.create_sparse(key, 10 * MIB)
            store.write_range(key, 0, bytes(MIB // 4))
        store.purge("gone")
    with Storage(config) as store:
        store.create_sparse("new", 10 * MIB)
        assert store.stats()["objects"]["sparse_bytes"] == MIB // 2
        store.write_range("new", 0, bytes(MIB // 2))
        with pytest.raises(errors.PartialQuotaError):
            store.write_range("new", MIB, b"x")
        # One that is used again is counted once, one that goes no more.
        assert store.read_range("a", 0, 4) == bytes(4)
        assert store.stats()["objects"]["sparse_bytes"] == MIB
        store.purge("b")
        assert store.write_range("new", MIB, b"x")
        assert store.stats()["objects"]["sparse_bytes"] == 3 * MIB // 4 + 1
    with Storage(config) as store:
        store.create_sparse("b", 1)
        assert store.stats()["objects"]["sparse_bytes"] == 3 * MIB // 4 + 1
        store.clear()
        assert store.stats()["objects"]["sparse_bytes"] == 0
        assert store.create_sparse("new", 2 * MIB)
        assert store.write_range("new", 0, bytes(MIB))


@given(st.sets(st.binary(min_size=1, max_size=40), max_size=20), st.binary(max_size=60))
def test_a_bucket_of_the_registry_is_read_as_written_and_damage_costs_keys_only(
    keys: set[bytes], rubbish: bytes
) -> None:
    encoded = encode_bucket(keys)
    assert decode_bucket(encoded) == keys
    for size in range(len(encoded)):
        assert decode_bucket(encoded[:size]) <= keys
    decode_bucket(rubbish)


def test_the_number_of_separate_ranges_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "RUNS_MAX", 10)
    with Storage(Config(**CONFIGS["ram"])) as store:
        store.create_sparse("k", 1000)
        for number in range(10):
            store.write_range("k", 10 * number, b"x")
        with pytest.raises(errors.PartialQuotaError) as caught:
            store.write_range("k", 500, b"x")
        assert caught.value.limit == "ranges"
        assert store.read_range("k", 90, 1) == b"x"


def test_an_unfinished_object_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(sparse.time, "monotonic", lambda: now)
    with Storage(Config(**CONFIGS["ram"], partial_ttl=60)) as store:
        store.create_sparse("k", 10)
        store.create_sparse("other", 10)
        store.write_range("k", 0, b"x")
        now += 59
        assert store.availability("k") is not None
        now += 1
        assert store.availability("k") is None
        with pytest.raises(errors.ObjectNotFoundError):
            store.write_range("k", 0, b"x")
        store.create_sparse("k", 20)
        assert store.stats()["objects"]["sparse"] == 1, "the other one was dropped, too"
        assert store.stats()["objects"]["sparse_bytes"] == 0


def test_purges_by_tag_prefix_and_clear_reach_unfinished_objects(
    tmp_path: Path, layout: str
) -> None:
    config = disk_config(tmp_path / "r", layout=layout)
    with Storage(config) as store:
        store.put("a/plain", b"v", tags=["t"])
        for key in ("a/1", "a/2", "b/1", "b/2"):
            store.create_sparse(key, 10, tags=["t"] if key.endswith("1") else [])
            store.write_range(key, 0, b"x")
    with Storage(config) as store:  # none of them is known in memory
        assert store.purge_tag("t", soft=True) == 1
        assert store.purge_tag("t") == 3
        assert [store.availability(key) is None for key in ("a/1", "b/1")] == [True, True]
        assert store.delete_prefix("a/") == 1
        assert store.availability("a/2") is None
        assert store.read_range("b/2", 0, 1) == b"x"
        miss = store.get_miss_handler("k")
        miss.write(bytes(2 * MIB))
        store.clear()
        assert store.availability("b/2") is None
        with pytest.raises(errors.StreamAbortedError):
            miss.finish()
        assert store.stats()["index"]["objects"] == 0
        store.create_sparse("b/2", 5)


@pytest.mark.parametrize("layout", ["disk", "files"])
def test_a_sick_disk_sheds_ranges_and_nothing_is_lost_that_was_accepted(layout: str) -> None:
    disk = MemoryDisk()
    options = {**CONFIGS[layout], "max_in_mem_partial_bytes": "1MiB"}
    with Storage(Config(**options), disk=disk) as store:
        size = 40 * MIB
        value = content(size)
        store.create_sparse("k", size)
        fail(disk, "write", 5, count=-1)
        shed = 0
        # What the buffers still take is accepted; in time they are full.
        for start in [*range(0, size, MIB)] * 50:
            shed += not store.write_range("k", start, value[start : start + 100_000])
            if shed:
                break
        assert shed
        assert store.stats()["objects"]["shed_writes"] == shed
        heal(disk)
        for start, end in store.availability("k").ranges:  # type: ignore[union-attr]
            try:
                assert store.read_range("k", start, end - start) == value[start:end]
            except errors.RangeMissingError:
                continue  # a piece that the sick disk had taken and lost


def test_a_store_that_is_dropped_saves_its_unfinished_objects(tmp_path: Path, layout: str) -> None:
    config = disk_config(tmp_path / "r", layout=layout)
    store = Storage(config)
    store.create_sparse("k", 10)
    store.write_range("k", 3, b"abc")
    cycle = [store]
    cycle.append(cycle)  # type: ignore[arg-type]
    del store, cycle
    gc.collect()
    with Storage(config) as again:
        assert again.read_range("k", 3, 3) == b"abc"
