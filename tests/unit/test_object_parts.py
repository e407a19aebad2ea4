"""Ranges of chunks: verified by strips, read together, ahead, and while they are written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache import Config, Miss, Storage, errors
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import fail, heal
from edgecache.objects.backend import PART_META
from edgecache.objects.head import NO_HASH, Head, content_hash
from edgecache.objects.keys import part_key
from edgecache.objects.table import HashTable
from tests.support.images import flip, put_image, take_image

# As large as chunks get in regions of this store.
CHUNK = 512 << 10
STRIP = 16384
OPTIONS: dict[str, Any] = {
    "io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1, "chunk_size": "1MiB",
}  # fmt: skip


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def publish(store: Storage, key: str, value: bytes) -> None:
    with store.get_miss_handler(key) as miss:
        miss.write(value)
        miss.finish()


def reads(store: Storage) -> tuple[int, int]:
    """Device reads, and their bytes."""
    counters = store.counters()
    return counters["disk_reads"], counters["disk_read_bytes"]


def decoded(store: Storage) -> tuple[Head, HashTable]:
    """The head of "k" and its table."""
    stored = store._objects.backend.get_head(b"k")
    assert stored is not None
    found = store._objects._decoded(b"k", stored)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def image() -> tuple[dict[bytes, bytes], bytes]:
    """The root of a closed store with one object, and the object."""
    disk, value = MemoryDisk(), content(5 * CHUNK + 4321)
    with Storage(Config(**OPTIONS), disk=disk) as store:
        publish(store, "k", value)
    return take_image(disk), value


@pytest.fixture
def cold(image: tuple[dict[bytes, bytes], bytes]) -> Iterator[tuple[Storage, bytes]]:
    with Storage(Config(**OPTIONS), disk=put_image(image[0])) as store:
        yield store, image[1]
        assert store.check() == []


SIZES = [1, 100, STRIP - 1, STRIP, STRIP + 1, CHUNK, 256 * STRIP, 256 * STRIP + 1]


@pytest.mark.parametrize("size", SIZES)
def test_the_engine_and_the_plain_code_agree_on_the_content_hash(size: int) -> None:
    value = content(size)
    with Storage(Config(memory="128MiB")) as ram, Storage(Config(**OPTIONS)) as disk:
        for store in (ram, disk):
            part = store.begin_part(part_key(bytes(16), 1), value, PART_META)
            assert part.wait()
            assert part.content_hash == content_hash(value)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_range_of_a_cold_object_is_what_was_written(
    image: tuple[dict[bytes, bytes], bytes], data: st.DataObject
) -> None:
    content_bytes, value = image
    with Storage(Config(**OPTIONS), disk=put_image(content_bytes)) as store:
        for _ in range(4):
            offset = data.draw(st.integers(0, len(value) + 10))
            length = data.draw(st.sampled_from([0, 1, 100, STRIP, 65536, CHUNK, 3 * CHUNK]))
            assert store.read_range("k", offset, length) == value[offset : offset + length]
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            start = data.draw(st.integers(0, len(value)))
            end = data.draw(st.integers(start, len(value)))
            hit.seek(start, end)
            size = data.draw(st.sampled_from([-1, 1000, 30_000, 400_000]))
            assert b"".join(iter(lambda: hit.read(size), b"")) == value[start:end]


def test_a_cold_range_reads_its_strips_and_the_head_once(cold: tuple[Storage, bytes]) -> None:
    store, value = cold
    store.read_range("k", 0, 1)  # the head of the object
    before = reads(store)
    assert (
        store.read_range("k", 2 * CHUNK + 10 * STRIP, 65536)
        == value[2 * CHUNK + 10 * STRIP :][:65536]
    )
    first = reads(store)
    assert first[0] - before[0] == 2
    assert first[1] - before[1] <= 65536 + 2 * 4096
    assert (
        store.read_range("k", 2 * CHUNK + 20 * STRIP, 65536)
        == value[2 * CHUNK + 20 * STRIP :][:65536]
    )
    second = reads(store)
    assert (second[0] - first[0], second[1] - first[1]) == (1, 65536)


def test_small_reads_in_a_row_read_the_disk_in_growing_windows(cold: tuple[Storage, bytes]) -> None:
    store, value = cold
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        hit.seek(2 * CHUNK)
        before = reads(store)
        found = b"".join(iter(lambda: hit.read(1000), b""))
        assert found == value[2 * CHUNK :]
        assert reads(store)[0] - before[0] < 30


def test_a_damaged_strip_costs_the_ranges_that_touch_it(
    image: tuple[dict[bytes, bytes], bytes],
) -> None:
    files, value = image
    needle = value[CHUNK + 5 * STRIP :][:64]
    (name,) = [name for name in files if needle in files[name]]
    damaged = {**files, name: flip(files[name], files[name].index(needle) * 8)}
    with Storage(Config(**OPTIONS), disk=put_image(damaged)) as store:
        good = CHUNK + 6 * STRIP
        assert store.read_range("k", good, STRIP) == value[good : good + STRIP]
        assert store.counters()["corrupt_records"] == 0, "nobody looked at the damage"
        with pytest.raises(errors.RangeMissingError) as caught:
            store.read_range("k", good - 1, 2)
        assert caught.value.missing == ((CHUNK, 2 * CHUNK),)
        assert store.read_range("k", 2 * CHUNK, 100) == value[2 * CHUNK : 2 * CHUNK + 100]
        assert store.get("k") is None


@pytest.mark.parametrize("place", [2, 40, 70, 120, 200, 400])
def test_a_damaged_head_of_a_record_is_a_hole_and_never_wrong_bytes(
    image: tuple[dict[bytes, bytes], bytes], place: int
) -> None:
    files, value = image
    needle = value[CHUNK : CHUNK + 64]
    (name,) = [name for name in files if needle in files[name]]
    start = files[name].rindex(b"\x5d\xec\x01", 0, files[name].index(needle))
    assert files[name].index(needle) % 4096 == 0, "bodies of parts begin at a page"
    damaged = {**files, name: flip(files[name], (start + place) * 8)}
    with Storage(Config(**OPTIONS), disk=put_image(damaged)) as store:
        with pytest.raises(errors.RangeMissingError):
            store.read_range("k", CHUNK + 5 * STRIP, 100)
        assert store.read_range("k", 0, 100) == value[:100]


def test_parts_are_read_together_from_ram_and_disk(cold: tuple[Storage, bytes]) -> None:
    store, value = cold
    head = decoded(store)
    key = part_key(head[0].object_id, 1)
    digest = head[1].get(1)
    wanted = [(key, CHUNK, start, start + 100, digest) for start in range(0, CHUNK, 10_000)]
    assert store.read_parts(wanted) == [value[CHUNK + one[2] :][:100] for one in wanted]
    store.put("here", b"in RAM")
    assert store.read_parts(
        [
            (b"here", 6, 3, 6, NO_HASH),
            (b"absent", 6, 0, 6, NO_HASH),
            (key, CHUNK, 0, 4, content_hash(b"other")),
            (key, CHUNK - 1, 0, 4, NO_HASH),
            (key, CHUNK, CHUNK - 4, CHUNK, digest),
        ]
    ) == [b"RAM", None, False, None, value[2 * CHUNK - 4 : 2 * CHUNK]]
    assert store.read_parts([]) == []
    for first, last in ((-1, 4), (4, 4), (5, 4), (0, CHUNK + 1)):
        with pytest.raises(errors.RangeError):
            store.read_parts([(key, CHUNK, first, last, NO_HASH)])


def test_a_read_that_goes_on_by_itself_comes_to_the_same(cold: tuple[Storage, bytes]) -> None:
    store, value = cold
    head = decoded(store)
    started = [
        store.begin_read(
            (part_key(head[0].object_id, number), CHUNK, 0, CHUNK, head[1].get(number))
        )
        for number in [0, 1, 2, 3, 4] * 4
    ]
    for number, one in enumerate(started):
        if number % 3 and one.cancel():
            assert one.result() is None
        else:
            assert one.result() == value[number % 5 * CHUNK :][:CHUNK]
            assert one.is_done
    absent = store.begin_read((b"absent", CHUNK, 0, CHUNK, NO_HASH))
    assert absent.result() is None
    # Dropped while it runs, and with the store.
    store.begin_read((part_key(head[0].object_id, 1), CHUNK, 0, CHUNK, NO_HASH))


def test_several_ranges_of_a_hit_keep_its_position(cold: tuple[Storage, bytes]) -> None:
    store, value = cold
    with store.lookup("k") as hit:  # type: ignore[union-attr]
        hit.seek(7)
        spans = [(0, 10), (CHUNK - 5, 3 * CHUNK + 5), (9, 9), (len(value) - 1, len(value))]
        assert hit.read_ranges(spans) == [value[start:end] for start, end in spans]
        assert hit.position == 7
        with pytest.raises(errors.RangeError):
            hit.read_ranges([(0, 1), (0, len(value) + 1)])
    with pytest.raises(errors.StoreClosedError):
        hit.read_ranges([(0, 1)])
    miss = store.get_miss_handler("w")
    miss.write(value[: 2 * CHUNK + 5])
    attached = store.lookup_streaming_write("w", miss.streaming_write_tag)
    assert attached is not None
    with attached as hit:
        assert hit.read_ranges([(1, CHUNK + 2), (2 * CHUNK, 2 * CHUNK + 5)]) == [
            value[1 : CHUNK + 2],
            value[2 * CHUNK : 2 * CHUNK + 5],
        ]
    miss.abort()


@pytest.mark.parametrize("options", [OPTIONS, {"memory": "64MiB", "chunk_size": "1MiB"}])
def test_chunks_are_lent_where_they_are_in_ram(options: dict[str, Any]) -> None:
    value = content(3 * CHUNK + 5)
    with Storage(Config(**options)) as store:
        publish(store, "k", value)
        store.put("short", b"value")
        with store.lookup("k") as hit:  # type: ignore[union-attr]
            hit.seek(10, 2 * CHUNK + 10)
            views = list(hit.buffers())
            assert b"".join(views) == value[10 : 2 * CHUNK + 10]
            assert hit.read() == b""
            store.delete("k")
            assert b"".join(views) == value[10 : 2 * CHUNK + 10]
            del views
        with store.lookup("short") as hit:  # type: ignore[union-attr]
            assert b"".join(hit.buffers()) == b"value"
        assert store.check() == []


def test_what_the_caller_gave_may_change_when_write_returns(tmp_path: Path) -> None:
    config = Config(root=str(tmp_path), memory="8MiB", disk="256MiB", chunk_size="1MiB")
    buffer = bytearray(CHUNK)
    with Storage(config) as store, store.get_miss_handler("k") as miss:
        for number in range(32):
            buffer[:] = bytes([number]) * CHUNK
            miss.write(buffer)
        miss.finish()
    with Storage(config) as store:
        assert store.get("k") == b"".join([bytes([number]) * CHUNK for number in range(32)])


def test_a_chunk_on_its_way_can_be_read_until_the_store_has_it(tmp_path: Path) -> None:
    value = content(4 * CHUNK)
    config = Config(root=str(tmp_path), memory="8MiB", disk="256MiB")
    with Storage(config) as store:
        for number in range(12):
            part = store.begin_part(part_key(bytes(16), number), value, PART_META)
            seen = part.peek(number, 1000)
            assert seen in (value[number : number + 1000], None)
            if seen is None:
                assert part.is_done
            else:
                assert part.peek(4 * CHUNK, 10) in (b"", None)
            assert part.wait()
            assert part.peek(0, 1) is None
            assert store.get(part_key(bytes(16), number)) == value


def test_a_disk_that_fails_a_chunk_aborts_the_write_and_its_readers() -> None:
    disk = MemoryDisk()
    with Storage(Config(**{**OPTIONS, "chunk_size": "4MiB", "disk": "1GiB"}), disk=disk) as store:
        publish(store, "k", b"old")
        store.sync()
        fail(disk, "write", 5, count=-1)
        miss = store.get_miss_handler("k")
        hit = store.lookup_streaming_write("k", miss.streaming_write_tag)
        assert hit is not None
        with pytest.raises(errors.ObjectShedError):
            write_much(miss)
        with pytest.raises(errors.StreamAbortedError):
            hit.read()
        heal(disk)
        assert store.get("k") == b"old"
        assert store.stats()["objects"]["shed_writes"] == 1


def write_much(miss: Miss) -> None:
    for _ in range(20):
        miss.write(bytes(4 << 20))
    miss.finish()


def test_closing_while_chunks_are_on_their_way_ends_them_all(tmp_path: Path) -> None:
    config = Config(root=str(tmp_path), memory="8MiB", disk="512MiB")
    store = Storage(config)
    miss = store.get_miss_handler("k")
    for _ in range(8):
        miss.write(bytes(4 * CHUNK))
    store.close()
    with pytest.raises(errors.StreamAbortedError):
        miss.write(b"x")
    with Storage(config) as store:
        assert store.get("k") is None


def test_a_fork_leaves_the_threads_of_the_parent_alone(tmp_path: Path) -> None:
    import multiprocessing

    config = Config(root=str(tmp_path), memory="8MiB", disk="512MiB")
    with Storage(config) as store:
        value = content(9 * CHUNK)
        publish(store, "k", value)
        miss = store.get_miss_handler("under way")
        miss.write(value)  # the child has its chunks, too, and no thread that will ever be done
        child = multiprocessing.get_context("fork").Process(target=use_in_child, args=(store,))
        child.start()
        child.join()
        assert child.exitcode == 0
        miss.finish()
        assert store.get("under way") == value
        assert store.get("k") == value


def use_in_child(store: Storage) -> None:
    with pytest.raises(errors.StoreForkedError):
        store.begin_part(part_key(bytes(16), 1), b"x", PART_META)
    with pytest.raises(errors.StoreForkedError):
        store.read_parts([(b"k", 1, 0, 1, NO_HASH)])
