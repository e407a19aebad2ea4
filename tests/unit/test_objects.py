"""Objects of any size in one store: written as streams, read by anybody, replaced atomically."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecache import Config, Meta, Miss, PurgeType, Storage, errors
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import fail, heal
from edgecache.objects import table
from edgecache.objects.head import decode_head

MIB = 1 << 20
# The chunk size in use: with a region or shard as small as these, the configured one does not fit.
CONFIGS: dict[str, dict[str, Any]] = {
    "ram": {"memory": "32MiB", "shards": 2},
    "disk": {"io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1},
    "namespace": {
        "io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1, "namespace": "n",
        "default_ttl": 3600,
    },
    "shared": {
        "io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1, "share_chunks": True,
        "first_chunk_size": "12KiB",
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


@pytest.fixture(params=[name for name in CONFIGS if name not in ("files", "shared")])
def cut_store(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """A store that cuts large objects into parts of their own (the others have their own tests)."""
    with Storage(Config(**CONFIGS[request.param])) as opened:
        yield opened
        assert opened.check() == []


@pytest.fixture(params=["disk", "files"])
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of a store with a disk tier, of each layout."""
    return CONFIGS[request.param]


@pytest.fixture
def disk_store() -> Iterator[Storage]:
    with Storage(Config(**CONFIGS["disk"])) as opened:
        yield opened


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def chunk_bytes(store: Storage) -> int:
    return store._objects.chunk_bytes


def publish(store: Storage, key: str, value: bytes, piece: int = 100_003, **options: Any) -> int:
    with store.get_miss_handler(key, **options) as miss:
        for start in range(0, len(value), piece):
            assert miss.write(value[start : start + piece]) == len(value[start : start + piece])
        assert miss.size == len(value)
        return miss.finish()


def part_count(store: Storage) -> int:
    """How many entries there are besides heads and values: index slots."""
    return store.stats()["index"]["objects"]


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [0, 1, 2, 5])
def test_what_was_written_is_what_every_door_reads(store: Storage, chunks: int, extra: int) -> None:
    size = max(0, chunks * chunk_bytes(store) + extra)
    value = content(size)
    assert publish(store, "k", value) == size
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert (hit.key, hit.size, hit.weight) == (b"k", size, size)
        assert b"".join(hit) == value
        assert hit.read() == hit.read(5) == b""
    assert store.get("k") == store.get_many(["absent", "k"])[1] == value
    assert bytes(store.view("k")) == value  # type: ignore[arg-type]
    target = bytearray(size + 1)
    assert store.readinto("k", target) == size
    assert target[:size] == value
    assert store.exists("k")
    entry = store.get_entry("k")
    assert entry is not None
    assert entry.value == value
    assert entry.meta is not None
    assert entry.meta.flags == 0
    assert store.read_range("k", 1, size) == value[1:]


def test_a_short_object_is_an_ordinary_entry(store: Storage) -> None:
    before = part_count(store)
    publish(store, "k", content(chunk_bytes(store)))
    assert part_count(store) == before + 1


def test_a_value_too_large_for_one_entry_is_put_in_chunks(store: Storage) -> None:
    value = content(store.value_bytes_max + 1)
    for given in (value, bytearray(value), memoryview(value)):
        assert store.put("k", given, tags=["t"])
        assert store.get("k") == value
    assert store.try_put("k", value) is None, "it would wait"
    assert store.purge_tag("t") == 1
    assert store.get("k") is None


def test_a_value_larger_than_the_store_is_shed_and_leaves_no_stale_one(
    disk_store: Storage,
) -> None:
    disk_store.put("k", b"old")
    assert not disk_store.put("k", bytes(100 * MIB))
    requests = disk_store.stats()["requests"]
    assert (requests["shed"]["too_large"], requests["puts"], requests["deletes"]) == (1, 1, 0)
    assert disk_store.get("k") is None


def test_max_object_size_holds_for_every_way_in() -> None:
    with Storage(Config(memory="32MiB", max_object_size="3MiB")) as store:
        assert store.put("k", bytes(3 * MIB))
        for call in (
            lambda: store.put("k", bytes(3 * MIB + 1)),
            lambda: store.create_sparse("k", 3 * MIB + 1),
            lambda: store.get_miss_handler("k", size=3 * MIB + 1),
            lambda: publish(store, "k", bytes(3 * MIB + 1)),
        ):
            with pytest.raises(errors.ValueTooLargeError):
                call()
        assert store.get("k") == bytes(3 * MIB)


def test_seek_reads_any_range_and_is_reusable(store: Storage) -> None:
    value = content(3 * chunk_bytes(store) + 77)
    publish(store, "k", value)
    rng = random.Random(1)
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.can_seek()
        assert hit.can_seek_multipart()
        for _ in range(60):
            start, end = sorted(rng.randrange(len(value) + 1) for _ in range(2))
            hit.seek_multipart(start, end)
            size = rng.choice([1000, 70_000, 10 * MIB])
            pieces = list(iter(lambda size=size: hit.read(size), b""))
            assert b"".join(pieces) == value[start:end]
            assert all(len(piece) <= size for piece in pieces)
            hit.seek(start)
            target = bytearray(end - start)
            assert hit.readinto(target) == end - start
            assert target == value[start:end]
        for wrong in ((-1, None), (len(value) + 1, None), (5, 4), (0, len(value) + 1)):
            with pytest.raises(errors.RangeError):
                hit.seek(*wrong)
        with pytest.raises(errors.ArgumentError):
            hit.read(-2)


def test_a_hit_tells_what_it_is(store: Storage) -> None:
    meta = Meta(created=1, updated=2, status=200, headers=b"h: v", flags=0x0300)
    publish(store, "k", content(2 * chunk_bytes(store)), meta=meta, tags=["t"])
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.meta == meta.with_tags(["t"])
        assert hit.should_count_access()
        assert hit.source in ("memory", "disk")
        assert hit.missing(0, hit.size or 0) == ()
        first = hit.version
    publish(store, "k", content(2 * chunk_bytes(store), 1))
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.version > first
    store.put("k", b"plain")
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.version not in (first, 0)
        assert hit.meta is None
        assert hit.read() == b"plain"
    assert store.lookup("absent") is None
    assert store.support_streaming_partial_write


def test_a_stale_object_is_found_by_lookup_and_not_by_get(store: Storage) -> None:
    value = content(2 * chunk_bytes(store))
    publish(store, "k", value, meta=Meta(created=0, updated=0, fresh_until=1))
    assert store.get("k") is None
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert b"".join(hit) == value


def test_a_reader_is_pinned_to_its_generation(cut_store: Storage) -> None:
    old, new = (content(4 * chunk_bytes(cut_store), seed) for seed in (1, 2))
    publish(cut_store, "k", old)
    hit = cut_store.lookup("k")
    assert hit is not None
    first = hit.read(10)
    publish(cut_store, "k", new)
    assert first + b"".join(hit) == old, "its parts stay while it reads"
    before = part_count(cut_store)
    hit.finish()
    assert part_count(cut_store) == before - 4, "and go with it"
    hit.close()
    with pytest.raises(errors.StoreClosedError):
        hit.read()
    assert cut_store.get("k") == new


def test_a_reader_of_a_replaced_object_never_gets_the_other_bytes(cut_store: Storage) -> None:
    old, new = (content(4 * chunk_bytes(cut_store), seed) for seed in (1, 2))
    publish(cut_store, "k", old)
    with cut_store.lookup("k") as hit:  # type: ignore[union-attr]
        assert hit.read(10) == old[:10]
        publish(cut_store, "k", new)
        objects = cut_store._objects
        chunks = hit._source._chunks  # type: ignore[attr-defined]
        objects.backend.delete_parts(chunks._object_id, range(4))  # as an eviction would
        hit.seek(2 * chunk_bytes(cut_store))
        with pytest.raises(errors.ObjectChangedError):
            hit.read()


def test_a_chunk_that_is_gone_is_a_hole_and_never_joined_across(cut_store: Storage) -> None:
    size = chunk_bytes(cut_store)
    value = content(4 * size)
    publish(cut_store, "k", value)
    hit = cut_store.lookup("k")
    assert hit is not None
    source: Any = hit._source
    cut_store._objects.backend.delete_parts(source._chunks._object_id, [1, 2])
    assert hit.missing(0, 4 * size) == ((size, 3 * size),)
    assert hit.read() == value[:size]
    with pytest.raises(errors.RangeMissingError) as caught:
        hit.read()
    assert caught.value.missing == ((size, 2 * size),)
    with pytest.raises(errors.RangeMissingError):
        cut_store.read_range("k", 0, 4 * size)
    assert cut_store.read_range("k", 3 * size, 10) == value[3 * size : 3 * size + 10]
    assert cut_store.get("k") is cut_store.get_many(["k"])[0] is cut_store.view("k") is None
    available = cut_store.availability("k")
    assert available is not None
    assert available.missing == ((size, 3 * size),)
    assert available.is_finalized
    assert cut_store.stats()["objects"]["holes"] > 0
    hit.close()


def test_a_chunk_of_other_content_is_a_hole(disk_store: Storage) -> None:
    size = chunk_bytes(disk_store)
    publish(disk_store, "k", content(3 * size))
    disk_store.flush()
    head = decode_head(disk_store.read_entry("k")[0])  # type: ignore[index]
    assert head is not None
    backend = disk_store._objects.backend
    backend.put_part(head.object_id, 1, bytes(size))
    disk_store.put_many((f"k{number}", bytes(4000)) for number in range(2000))
    disk_store.flush()
    assert backend.is_cold(head.object_id, 1)
    with disk_store.lookup("k") as hit:  # type: ignore[union-attr]
        assert len(hit.read()) == size
        with pytest.raises(errors.RangeMissingError):
            hit.read()
    assert disk_store.stats()["objects"]["hash_mismatches"] > 0


def test_update_meta_keeps_body_and_lifetime(store: Storage) -> None:
    value = content(2 * chunk_bytes(store))
    publish(store, "large", value, ttl=1000)
    store.put("small", b"v", ttl=1000)
    for key, expected in (("large", value), ("small", b"v")):
        before = store.read_entry(key)
        assert store.update_meta(key, Meta(created=1, updated=2, tags=("new",)))
        after = store.read_entry(key)
        assert before is not None
        assert after is not None
        assert after[2] == before[2] != 0
        assert store.get(key) == expected
        with store.lookup(key) as hit:  # type: ignore[union-attr]
            assert hit.meta == Meta(created=1, updated=2, tags=("new",))
    assert store.purge_tag("new") == 2
    assert not store.update_meta("absent", Meta(created=0, updated=0))
    with pytest.raises(TypeError):
        store.update_meta("k", b"meta")  # type: ignore[arg-type]


def test_purge_deletes_an_object_with_its_parts_and_is_counted_by_kind(store: Storage) -> None:
    before = part_count(store)
    counts = []
    for kind in PurgeType:
        publish(store, "k", content(3 * chunk_bytes(store)))
        assert store.purge("k", kind)
        assert not store.purge("k", kind)
        assert part_count(store) == before
        requests = store.stats()["requests"]
        counts.append((requests["evictions"], requests["invalidations"]))
    assert counts == [(1, 0), (1, 1)]
    with pytest.raises(TypeError):
        store.purge("k", "eviction")  # type: ignore[arg-type]


def test_everyday_methods_work_on_objects(store: Storage) -> None:
    value = content(2 * chunk_bytes(store))
    for number in range(3):
        publish(store, f"a/{number}", value, tags=["t"])
    assert store.touch("a/0", 0)
    assert store.get("a/0") is None
    assert store.touch("a/1", 1000)
    assert store.get("a/1") == value
    assert store.purge_tag("t", soft=True) == 2
    assert store.get("a/1") is None
    assert store.get_entry("a/1").value == value  # type: ignore[union-attr]
    assert store.delete_prefix("a/") == 2
    publish(store, "b", value)
    assert store.delete("b")
    assert not store.exists("b")
    publish(store, "c", value)
    store.clear()
    assert store.lookup("c") is None
    assert part_count(store) == 0


REMOVALS: dict[str, Callable[[Storage], object]] = {
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["k", "absent"]),
    "put": lambda store: store.put("k", b"short"),
    "put with meta": lambda store: store.put("k", b"short", tags=["other"]),
    "delete_prefix": lambda store: store.delete_prefix("k"),
    "purge_tag": lambda store: store.purge_tag("t"),
    "purge": lambda store: store.purge("k", PurgeType.EVICTION),
    "another object": lambda store: publish(store, "k", content(10)),
    "a put that is shed": lambda store: store.put("k", bytes(200 * MIB)),
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("is_cold", [False, True])
def test_nothing_of_an_object_outlives_its_head(
    store: Storage, removal: str, is_cold: bool
) -> None:
    has_disk = store.config.disk > 0
    publish(store, "k", content(3 * chunk_bytes(store) + 5), tags=["t"])
    fill = [f"fill-{number}" for number in range(150)]
    if is_cold and has_disk:
        store.put_many((key, bytes(40_000)) for key in fill)
        store.flush()
        assert store.needs_disk("k")
    REMOVALS[removal](store)
    store.delete_many(fill)
    left = store.exists("k")
    found = store.stats()
    assert found["index"]["objects"] == found["memory"]["items"] == left
    assert found["memory"]["item_bytes"] < 1000
    assert store.check() == []


def test_statistics_scrub_and_health_know_objects(disk_store: Storage) -> None:
    store = disk_store
    size = chunk_bytes(store)
    publish(store, "k", content(3 * size))
    store.create_sparse("s", 4 * size)
    store.write_range("s", size, content(size))
    store.sync()
    found = store.stats()
    assert (found["requests"]["puts"], found["requests"]["deletes"]) == (1, 0)
    assert found["objects"]["sparse_bytes"] == size
    assert store.health().status == "ok"
    report = store.scrub()
    # A head and three chunks; mark, head and chunk of the unfinished one.
    assert (report.entries, report.corrupt) == (4 + 3 + 1, 0)  # and the list of unfinished ones
    assert report.bytes >= 4 * size
    assert store.get("k") == content(3 * size)


def test_touching_an_object_keeps_its_parts(store: Storage) -> None:
    value = content(3 * chunk_bytes(store))
    publish(store, "k", value, tags=["t"])
    assert store.touch("k", 1000)
    assert store.update_meta("k", Meta(created=1, updated=1, tags=("t",)))
    assert store.get("k") == value
    assert store.purge_tag("t", soft=True) == 1
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        assert b"".join(hit) == value


def test_a_purge_by_prefix_never_touches_the_parts_of_objects(store: Storage) -> None:
    value = content(2 * chunk_bytes(store))
    publish(store, "k", value)
    store.create_sparse("s", 10)
    store.write_range("s", 0, b"ab")
    assert store.delete_prefix(b"\xff") == 0
    assert store.get("k") == value
    assert store.read_range("s", 0, 2) == b"ab"


def test_memoize_works_with_results_of_any_size(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=60, key="result")
    def result(size: int) -> bytes:
        calls.append(size)
        return content(size)

    size = store.value_bytes_max + 10
    assert result(size) == result(size) == content(size)
    assert calls == [size]


# Writes that end otherwise


def test_a_write_that_is_not_finished_leaves_nothing_behind(store: Storage) -> None:
    store.put("k", b"old")
    before = part_count(store)
    miss = store.get_miss_handler("k")
    miss.write(content(5 * chunk_bytes(store)))
    miss.abort()
    miss.abort()
    with store.get_miss_handler("k") as left:
        left.write(content(5 * chunk_bytes(store)))
    dropped = store.get_miss_handler("k")
    dropped.write(content(5 * chunk_bytes(store)))
    del dropped
    gc.collect()
    assert part_count(store) == before
    assert store.get("k") == b"old"
    objects, requests = store.stats()["objects"], store.stats()["requests"]
    assert (objects["aborted_writes"], requests["partial_writes"]) == (3, 0)
    for call in (lambda: miss.write(b"x"), miss.finish):
        with pytest.raises(errors.StreamAbortedError):
            call()


def test_two_writers_of_a_key_never_mix_and_the_last_to_finish_wins(cut_store: Storage) -> None:
    size = 3 * chunk_bytes(cut_store)
    one, two = content(size, 1), content(size, 2)
    before = part_count(cut_store)
    first, second = cut_store.get_miss_handler("k"), cut_store.get_miss_handler("k")
    for start in range(0, size, 50_000):
        first.write(one[start : start + 50_000])
        second.write(two[start : start + 50_000])
    assert second.finish() == size
    assert cut_store.get("k") == two
    assert first.finish() == size
    assert cut_store.get("k") == one
    assert part_count(cut_store) == before + 4, "the parts of the other are gone"


def test_a_shed_part_fails_the_write_and_the_old_object_stays(layout: dict[str, Any]) -> None:
    disk = MemoryDisk()
    with Storage(Config(**layout), disk=disk) as store:
        store.put("k", b"old")
        miss = store.get_miss_handler("k")
        fail(disk, "write", 5, count=-1)
        with pytest.raises(errors.ObjectShedError):
            miss.write(content(20 * MIB))
        heal(disk)
        assert store.get("k") == b"old"
        assert store.stats()["objects"]["shed_writes"] == 1
        with pytest.raises(errors.StreamAbortedError):
            miss.finish()


def test_an_announced_size_is_insisted_on(store: Storage) -> None:
    with pytest.raises(errors.ValueTooLargeError) as caught:
        publish(store, "k", bytes(10), size=11)
    assert (caught.value.expected, caught.value.found) == (11, 10)
    with pytest.raises(errors.ValueTooLargeError):
        publish(store, "k", bytes(10), size=9)
    assert publish(store, "k", bytes(10), size=10) == 10
    with pytest.raises(errors.ArgumentError):
        store.get_miss_handler("k", size=-1)


def test_open_writes_are_limited_by_number_and_by_memory(layout: dict[str, Any]) -> None:
    options = {**layout, "max_partial_writes": 2}
    with Storage(Config(**options)) as store:
        misses = [store.get_miss_handler("k") for _ in range(2)]
        assert store.stats()["requests"]["partial_writes"] == 2
        with pytest.raises(errors.PartialWritesError):
            store.get_miss_handler("other")
        misses[0].abort()
        store.get_miss_handler("other").abort()
        assert store.put("large", bytes(store.value_bytes_max + 1)), "a put is no stream"
        misses[1].finish()
    options = {**layout, "max_in_mem_partial_bytes": "100KiB"}
    with Storage(Config(**options)) as store:
        misses: list[Miss] = []
        with pytest.raises(errors.PartialWritesError):
            misses.extend(store.get_miss_handler("k") for _ in range(100))
        assert len(misses) > 1, "chunks shrink until none fits"
        assert store.stats()["objects"]["memory_bytes"] <= 100 << 10
        assert store.stats()["objects"]["refused_writes"] == 1
        value = content(MIB)
        misses[-1].write(value)
        misses[-1].finish()
        assert store.get("k") == value


def test_bad_arguments_are_refused_at_once(store: Storage) -> None:
    for call, kind in (
        (lambda: store.get_miss_handler(5), errors.KeyTypeError),
        (lambda: store.get_miss_handler(""), errors.KeySizeError),
        (lambda: store.lookup("\ud800"), errors.KeyTypeError),
        (lambda: store.get_miss_handler("k", ttl=-1), errors.InvalidTTLError),
        (lambda: store.get_miss_handler("k", meta=b"m"), TypeError),
        (lambda: store.get_miss_handler("k", tags="t"), TypeError),
        (lambda: store.get_miss_handler("k", tags=["t" * 300]), errors.MetaFieldError),
        (lambda: store.lookup_streaming_write("k", 5), TypeError),
    ):
        with pytest.raises(kind):
            call()
    assert store.stats()["requests"]["partial_writes"] == 0


@pytest.mark.parametrize("layout", ["log", "files"])
def test_objects_survive_a_restart(tmp_path: Path, layout: str) -> None:
    config = Config(
        root=str(tmp_path / "r"), memory="4MiB", disk="64MiB", io="threads", layout=layout
    )
    value = content(5 * MIB)
    with Storage(config) as store:
        publish(store, "k", value, meta=Meta(created=1, updated=2, status=404))
        tag_version = store.lookup("k").version  # type: ignore[union-attr]
    with Storage(config) as store:
        assert store.get("k") == value
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            assert hit.version == tag_version
            assert hit.meta == Meta(created=1, updated=2, status=404)
            assert hit.source == "disk"
        if layout == "files":
            return  # one body: its tag names the write in the process that made it
        tag = tag_version.to_bytes(8, "big")
        with store.lookup_streaming_write("k", tag) as hit:  # type: ignore[union-attr]
            assert hit.read() == value[: chunk_bytes(store)]
        assert publish(store, "k", value) == len(value)
        assert store.lookup("k").version > tag_version  # type: ignore[union-attr]


def test_hash_tables_larger_than_a_page_are_stored_as_pages(
    disk_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "PAGE_CHUNKS", 3)
    monkeypatch.setattr("edgecache.objects.manager.PAGE_CHUNKS", 3)
    value = content(20 * chunk_bytes(disk_store) + 5)
    before = part_count(disk_store)
    publish(disk_store, "k", value)
    head = decode_head(disk_store.read_entry("k")[0])  # type: ignore[index]
    assert head is not None
    assert head.is_paged
    assert len(head.table) == 7 * 16
    disk_store.put_many((f"k{number}", bytes(4000)) for number in range(2000))
    with disk_store.lookup("k") as hit:  # type: ignore[union-attr]
        assert b"".join(hit) == value
        hashes = hit._source._chunks._table  # type: ignore[attr-defined]
        assert all(hashes.get(number) != bytes(16) for number in range(21))
    disk_store.delete_prefix("k1")
    entries = part_count(disk_store)
    assert disk_store.purge("k")
    assert part_count(disk_store) == entries - 1 - 21 - 7
    assert before == 0


@pytest.mark.parametrize("layout", ["log", "files"])
def test_a_stream_takes_a_few_chunks_of_memory_whatever_its_size(layout: str) -> None:
    config = Config(
        root=None, io="memory", layout=layout, memory="8MiB", disk="512MiB", chunk_size="256KiB"
    )
    with Storage(config) as store:
        piece = content(100_000)
        tracemalloc.start()
        try:
            with store.get_miss_handler("k") as miss:
                for _ in range(400):
                    miss.write(piece)
                miss.finish()
            with store.lookup("k") as hit:  # type: ignore[union-attr]
                size = sum(map(len, hit))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size == 40_000_000
        # One body is verified in chunks of 4 MiB.
        assert peak < (6 * (256 << 10) if layout == "log" else 5 * (4 << 20))
