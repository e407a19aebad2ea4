"""Equal chunks of several objects are kept once, and go with the last object that has them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_objects import content, publish

from edgecache import Config, Storage, errors
from edgecache._io_memory import MemoryDisk
from edgecache.objects import sharing
from edgecache.objects.head import content_hash, decode_head
from edgecache.objects.keys import shared_name
from edgecache.objects.sharing import decode_pages, encode_pages

OPTIONS: dict[str, Any] = {
    "io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1, "share_chunks": True,
    "chunk_size": "64KiB",
}  # fmt: skip
CHUNK = 65536


@contextlib.contextmanager
def opened(image: MemoryDisk, **options: Any) -> Iterator[Storage]:
    with Storage(Config(**OPTIONS | options), disk=image) as store:
        yield store
        with contextlib.suppress(errors.StoreClosedError):  # it crashed
            assert store.check() == []


def crash(store: Storage) -> None:
    store.sync()
    store.abandon()


def value(*seeds: int, end: int = 100) -> bytes:
    """Chunks by their seeds, and a short one behind them."""
    return b"".join([content(CHUNK, seed) for seed in seeds]) + content(end, 999)


def has(store: Storage, seed: int) -> bool:
    return store._objects.backend.has_part(shared_name(content_hash(content(CHUNK, seed))), 0)


def objects(store: Storage) -> dict[str, int]:
    return store._objects.stats()


def test_equal_chunks_are_stored_once() -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1, 2, 3))
        before = store.counters()["objects"]
        publish(store, "b", value(1, 2, 4))
        # Its head, its table, and the one chunk that is new.
        assert store.counters()["objects"] == before + 3
        publish(store, "zeros", bytes(20 * CHUNK))
        assert store.counters()["objects"] == before + 3 + 3
        stats = objects(store)
        assert stats["shared_chunks"] == 3 + 19
        assert stats["shared_bytes"] == 2 * CHUNK + 100 + 19 * CHUNK
        assert store.get("a") == value(1, 2, 3)
        assert store.get("b") == value(1, 2, 4)
        assert store.get("zeros") == bytes(20 * CHUNK)


def test_the_disk_holds_equal_chunks_once() -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(*range(50)))
        store.sync()
        before = store.counters()["log_record_bytes"]
        publish(store, "b", value(*range(50)))
        store.sync()
        assert store.counters()["log_record_bytes"] - before < 5 * CHUNK


def test_a_chunk_goes_with_the_last_object_that_has_it() -> None:
    with opened(MemoryDisk()) as store:
        empty = store.counters()["objects"]
        publish(store, "a", value(1, 2))
        publish(store, "b", value(2, 3))
        publish(store, "c", value(2))
        assert store.delete("a")
        assert (has(store, 1), has(store, 2), has(store, 3)) == (False, True, True)
        assert store.get("b") == value(2, 3)
        store.put("b", b"short")
        assert (has(store, 2), has(store, 3)) == (True, False)
        assert store.purge("c")
        assert store.delete("b")
        assert not has(store, 2)
        assert store.counters()["objects"] == empty
        assert objects(store)["share_table"] == 0


def test_an_aborted_write_gives_its_chunks_back() -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1))
        miss = store.get_miss_handler("b")
        miss.write(value(1, 2, 3))
        miss.abort()
        dropped = store.get_miss_handler("b")
        dropped.write(value(1, 2, 3))
        del dropped
        gc.collect()
        publish(store, "c", value(9))
        assert (has(store, 1), has(store, 2), has(store, 3)) == (True, False, False)
        assert store.get("a") == value(1)


def test_a_reader_of_a_deleted_object_keeps_its_chunks() -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1, 2))
        with store.lookup("a") as hit:  # type: ignore[union-attr]
            assert store.delete("a")
            store.scrub()
            assert b"".join(hit) == value(1, 2)
            assert has(store, 1)
        assert not has(store, 1)


def test_another_chunk_of_the_same_hash_is_kept_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = content(CHUNK, 1), content(CHUNK, 2)
    digest = content_hash(theirs)

    def colliding(data: Any) -> bytes:
        return digest if bytes(data) == ours else content_hash(data)

    monkeypatch.setattr(sharing, "content_hash", colliding)
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1))
        publish(store, "b", value(0, 2, 3, 1))
        assert objects(store)["share_collisions"] == 1
        assert store.get("a") == value(1)
        assert store.get("b") == value(0, 2, 3, 1)
        assert store.delete("a")
        assert store.get("b") == value(0, 2, 3, 1)
        assert store.delete("b")
        assert not has(store, 0)


def test_a_damaged_chunk_is_replaced_by_the_next_object_that_has_it() -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1))
        name = shared_name(content_hash(content(CHUNK, 1)))
        assert store._objects.backend.put_part(name, 0, b"x" * CHUNK)
        publish(store, "b", value(1))
        assert store.get("b") == value(1)
        assert store.get("a") == value(1)


def test_what_is_shared_is_known_after_a_restart() -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1, 2))
        publish(store, "b", value(2, 3))
    with opened(disk, share_chunks=False) as store:
        assert store.delete("a")
        assert (has(store, 1), has(store, 2), has(store, 3)) == (False, True, True)
        publish(store, "c", value(7))
        assert not has(store, 7)
    with opened(disk) as store:
        assert store.get("b") == value(2, 3)
        publish(store, "d", value(2))
        assert store.delete("b")
        assert (has(store, 2), has(store, 3)) == (True, False)
        assert store.get("d") == value(2)


def test_after_a_crash_nothing_goes_that_somebody_needs_and_a_sweep_finds_the_rest() -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1, 2))
        publish(store, "b", value(2, 3))
        publish(store, "c", value(4))
        crash(store)
    with opened(disk) as store:
        publish(store, "d", value(2, 5))
        assert store.delete("d")
        # Born in this life, and nobody else's.
        assert not has(store, 5)
        assert has(store, 2)
        assert store.delete("a")
        assert store.delete("c")
        # Others might have them: nobody has looked.
        assert has(store, 1)
        assert has(store, 4)
        store.scrub()
        assert [has(store, seed) for seed in (1, 2, 3, 4)] == [False, True, True, False]
        assert store.get("b") == value(2, 3)
        assert store.delete("b")
        assert not has(store, 2)


def test_a_table_that_was_taken_up_is_never_taken_up_again() -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1))
    with opened(disk) as store:
        publish(store, "b", value(1))
        crash(store)
    with opened(disk) as store:
        # By the table of the first life it would be the last one.
        assert store.delete("a")
        assert store.get("b") == value(1)


def test_a_reader_from_before_a_sweep_keeps_chunks_of_an_earlier_life() -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1, 2))
        crash(store)
    with opened(disk) as store, store.lookup("a") as hit:  # type: ignore[union-attr]
        assert store.delete("a")
        store.scrub()
        assert b"".join(hit) == value(1, 2)
        hit.close()
        assert not has(store, 1)


def test_a_head_that_moves_while_a_sweep_looks_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1))
        crash(store)
    with opened(disk) as store:
        shared = store._objects.sharing
        sweep = shared.sweep

        def overlooking(find_chunks: Any, find_heads: Any, hashes_of: Any) -> int:
            def found() -> Iterator[Any]:
                assert list(find_heads())
                assert store.touch("a", 60)
                yield from ()

            return sweep(find_chunks, found, hashes_of)

        monkeypatch.setattr(shared, "sweep", overlooking)
        store.scrub()
        assert has(store, 1)
        assert store.get("a") == value(1)


def test_an_object_that_goes_while_a_sweep_looks_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(1))
        crash(store)
    with opened(disk) as store:
        shared = store._objects.sharing
        sweep = shared.sweep

        def late(find_chunks: Any, find_heads: Any, hashes_of: Any) -> int:
            def found() -> Iterator[Any]:
                for head in find_heads():
                    yield head
                    assert store.delete("a")

            return sweep(find_chunks, found, hashes_of)

        monkeypatch.setattr(shared, "sweep", late)
        store.scrub()
        assert not has(store, 1)
        assert objects(store)["share_table"] == 0


def test_chunks_are_shared_after_a_clear(tmp_path: Path) -> None:
    with opened(MemoryDisk()) as store:
        publish(store, "a", value(1))
        store.clear()
        assert not has(store, 1)
        publish(store, "b", value(1))
        publish(store, "c", value(1))
        assert store.delete("b")
        assert store.get("c") == value(1)
        assert store.delete("c")
        assert not has(store, 1)


def test_evicted_chunks_are_forgotten_and_come_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PRUNE_MIN", 32)
    with opened(MemoryDisk(), disk="16MiB", memory="1MiB") as store:
        store._objects.sharing._prune_at = 32
        publish(store, "old", value(0))
        for number in range(40):
            publish(store, f"k{number}", value(*range(100 + 10 * number, 110 + 10 * number)))
        assert not has(store, 0)
        assert objects(store)["share_table"] < 400
        publish(store, "new", value(0))
        store.delete("old")
        assert store.get("new") == value(0)


def test_a_large_table_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PAGE_BYTES", 64)
    disk = MemoryDisk()
    with opened(disk) as store:
        publish(store, "a", value(*range(20)))
        publish(store, "b", value(*range(10)))
    with opened(disk) as store:
        assert store.delete("a")
        assert [has(store, seed) for seed in range(20)] == [True] * 10 + [False] * 10


def test_pages_that_are_damaged_or_missing_are_refused() -> None:
    refs = {bytes([n]) * 16: {bytes([n, m]) * 8 for m in range(3)} for n in range(1, 50)}
    pages = encode_pages(refs)
    assert decode_pages(pages) == refs
    sharing_pages = encode_pages(refs)
    for place in (0, 5, 9, 20, 40, len(pages[0]) - 1):
        damaged = bytearray(sharing_pages[0])
        damaged[place] ^= 1
        assert decode_pages([bytes(damaged), *sharing_pages[1:]]) is None
    assert decode_pages([*pages[:-1], b""]) is None
    assert decode_pages([]) is None


def test_a_short_first_chunk_is_a_chunk_of_its_own() -> None:
    with opened(MemoryDisk(), share_chunks=False, first_chunk_size="4KiB") as store:
        whole = value(1, 2)
        publish(store, "a", whole)
        stored = store.read_entry("a")
        assert stored is not None
        head = decode_head(stored[0])
        assert head is not None
        assert [head.grid.span(n, head.size) for n in range(head.chunk_count)] == [
            (0, 4096), (4096, 4096 + CHUNK), (4096 + CHUNK, len(whole)),
        ]  # fmt: skip
        with store.lookup("a") as hit:  # type: ignore[union-attr]
            assert len(hit.read()) == 4096
            hit.seek(4000, 5000)
            assert b"".join(hit) == whole[4000:5000]
        assert store.read_range("a", 4090, 10) == whole[4090:4100]
        # Up to a chunk of the usual size an object is an ordinary entry.
        publish(store, "b", whole[:CHUNK])
        assert store.read_entry("b")[0] == whole[:CHUNK]  # type: ignore[index]


@pytest.mark.parametrize("name", ["share_chunks", "first_chunk_size"])
def test_the_file_layout_has_no_chunks_to_share_or_shorten(name: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        Config(
            io="memory", layout="files", disk="64MiB", **{name: 4096 if "size" in name else True}
        )
    assert caught.value.key == name


def test_a_first_chunk_is_not_larger_than_the_others() -> None:
    with pytest.raises(errors.ConfigError):
        Config(chunk_size="64KiB", first_chunk_size="68KiB")
