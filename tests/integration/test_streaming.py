"""Readers that tail a writer: from threads and event loops, to the end or to the writer's death."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from edgecache import AsyncStorage, Config, Meta, PurgeType, Storage, errors

MIB = 1 << 20
CONFIGS: dict[str, dict[str, Any]] = {
    "ram": {"memory": "32MiB", "shards": 2},
    "memory": {"io": "memory", "memory": "4MiB", "disk": "128MiB", "shards": 1},
    "threads": {"io": "threads", "memory": "4MiB", "disk": "128MiB"},
    "auto": {"io": "auto", "memory": "4MiB", "disk": "128MiB"},
    "files": {
        "io": "threads", "layout": "files", "memory": "4MiB", "disk": "128MiB",
        "chunk_size": "256KiB",
    },
}  # fmt: skip
READERS = 4


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    options = CONFIGS[request.param]
    on_files = request.param in ("threads", "auto", "files")
    return Config(**options, root=str(tmp_path / "r") if on_files else None)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def pieces(value: bytes, seed: int = 0) -> list[bytes]:
    """Cut into pieces of very different sizes."""
    rng, found, start = random.Random(seed), [], 0
    while start < len(value):
        size = rng.choice([1, 100, 5000, 70_000, 700_000])
        found.append(value[start : start + size])
        start += size
    return found


def test_readers_in_threads_follow_a_writer_to_the_end(config: Config) -> None:
    value = content(3 * MIB)
    with Storage(config) as store, ThreadPoolExecutor(READERS) as pool:
        meta = Meta(created=1, updated=2, status=200)
        miss = store.get_miss_handler("k", meta)
        tag = miss.streaming_write_tag
        assert len(tag) == 8

        def follow(size: int) -> Future[bytes]:
            hit = store.lookup_streaming_write("k", tag)
            assert hit is not None
            assert (hit.meta, hit.source) == (meta, "stream")
            assert not hit.should_count_access()
            return pool.submit(lambda: b"".join(iter(lambda: hit.read(size), b"")))

        readers = [follow(size) for size in (-1, 1000, 100_000, 5 * MIB)]
        for piece in pieces(value):
            miss.write(piece)
        late = follow(-1)
        assert miss.finish() == len(value)
        assert [reader.result(60) == value for reader in [*readers, late]] == [True] * 5
        with store.lookup_streaming_write("k", tag) as hit:  # type: ignore[union-attr]
            assert hit.size == len(value), "what the write published"
            assert b"".join(hit) == value
        assert store.stats()["requests"]["stream_attaches"] == 5


def test_what_is_written_can_be_read_before_the_writer_goes_on(config: Config) -> None:
    with Storage(config) as store:
        size = store._objects.chunk_bytes
        value = content(3 * size)
        with store.get_miss_handler("k") as miss:
            hit = store.lookup_streaming_write("k", miss.streaming_write_tag)
            assert hit is not None
            got = b""
            for start in range(0, len(value), 50_000):
                miss.write(value[start : start + 50_000])
                while len(got) < miss.size:
                    got += hit.read(30_000)
                assert got == value[: miss.size]
                assert hit.size is None
            hit.seek(5)
            assert hit.read(10) == value[5:15], "in the stored chunks"
            hit.seek(miss.size - 3, miss.size - 1)
            assert hit.read() == value[miss.size - 3 : miss.size - 1]
            assert hit.read() == b"", "the end of the range"
            assert hit.missing(0, miss.size + 5) == ((miss.size, miss.size + 5),)
            with pytest.raises(errors.RangeError):
                hit.seek(miss.size + 1)
            hit.seek(size // 2)
            target = bytearray(4 * size)
            assert hit.readinto(target) == miss.size - size // 2, "what is at hand"
            miss.finish()
        assert hit.size == len(value)
        assert hit.read() == b""


def test_a_short_write_is_followed_and_found_by_its_tag(config: Config) -> None:
    with Storage(config) as store:
        with store.get_miss_handler("k") as miss:
            hit = store.lookup_streaming_write("k", miss.streaming_write_tag)
            assert hit is not None
            miss.write(b"short")
            assert hit.read(3) == b"sho"
            miss.finish()
        assert hit.read() == b"rt"
        assert store.get("k") == b"short"
        found = store.lookup_streaming_write("k", miss.streaming_write_tag)
        assert found is not None
        assert found.read() == b"short"
        store.put("k", b"other")
        assert store.lookup_streaming_write("k", miss.streaming_write_tag) is None


def test_a_dead_writer_is_an_error_and_never_an_end(config: Config) -> None:
    value = content(MIB)
    for death in ("abort", "drop", "leave", "close"):
        with Storage(config) as store, ThreadPoolExecutor(READERS) as pool:
            miss = store.get_miss_handler("k")
            hits = [
                store.lookup_streaming_write("k", miss.streaming_write_tag) for _ in range(READERS)
            ]
            miss.write(value)
            at_end = threading.Semaphore(0)

            def drain(hit: Any, at_end: threading.Semaphore = at_end) -> None:
                got = b""
                while len(got) < len(value):
                    got += hit.read()
                assert got == value
                at_end.release()
                hit.read()

            readers = [pool.submit(drain, hit) for hit in hits]
            for _ in hits:
                assert at_end.acquire(timeout=60)
            if death == "abort":
                miss.abort()
            elif death == "drop":
                del miss
            elif death == "close":
                store.close()
            else:
                with pytest.raises(KeyError), miss:
                    raise KeyError
            for reader in readers:
                with pytest.raises(errors.StreamAbortedError):
                    reader.result(60)


def test_a_writer_whose_thread_dies_is_a_dead_writer(config: Config) -> None:
    value = content(MIB)
    with Storage(config) as store, ThreadPoolExecutor(1) as pool:
        tags: SimpleQueue[bytes] = SimpleQueue()
        may_die = threading.Event()

        def dying() -> None:
            miss = store.get_miss_handler("k")
            tags.put(miss.streaming_write_tag)
            miss.write(value)
            may_die.wait(60)
            raise KeyError  # nobody else has the writer

        def write() -> None:
            with contextlib.suppress(KeyError):
                dying()

        writer = threading.Thread(target=write)
        writer.start()
        hit = store.lookup_streaming_write("k", tags.get(timeout=60))
        assert hit is not None

        def drain() -> None:
            got = b""
            while len(got) < len(value):
                got += hit.read()
            may_die.set()
            hit.read()

        with pytest.raises(errors.StreamAbortedError):
            pool.submit(drain).result(60)
        writer.join()
        assert store.get("k") is None


def test_readers_outlive_replacement_and_purge_of_what_they_followed(config: Config) -> None:
    value = content(2 * MIB)
    with Storage(config) as store:
        with store.get_miss_handler("k") as miss:
            miss.write(value[:MIB])
            hit = store.lookup_streaming_write("k", miss.streaming_write_tag)
            assert hit is not None
            first = hit.read(1000)
            miss.write(value[MIB:])
            miss.finish()
        store.put("k", b"other")
        assert store.purge("k", PurgeType.EVICTION)
        if config.layout == "files":
            # One body, which goes with its key: nobody gets other bytes.
            with pytest.raises(errors.ObjectChangedError):
                b"".join(hit)
        else:
            assert first + b"".join(hit) == value


def test_only_the_write_of_the_tag_is_attached_to(config: Config) -> None:
    with Storage(config) as store:
        one, two = store.get_miss_handler("k"), store.get_miss_handler("k")
        assert one.streaming_write_tag < two.streaming_write_tag, "ids grow"
        one.write(b"one")
        two.write(b"two")
        for miss, expected in ((one, b"one"), (two, b"two")):
            hit = store.lookup_streaming_write("k", miss.streaming_write_tag)
            assert hit is not None
            assert hit.read(3) == expected
        for key, tag in (
            ("other", one.streaming_write_tag), ("k", bytes(8)), ("k", b""), ("k", b"x" * 9),
        ):  # fmt: skip
            assert store.lookup_streaming_write(key, tag) is None
        assert store.stats()["requests"]["stream_attach_misses"] == 4
        one.abort()
        assert store.lookup_streaming_write("k", one.streaming_write_tag) is None


def test_lookup_shows_a_write_in_progress_only_where_publishing_is_not_atomic() -> None:
    with Storage(Config(memory="8MiB")) as store:
        store.get_miss_handler("k").write(b"x")
        assert store.lookup("k") is None
    with Storage(Config(memory="8MiB", atomic_publish=False)) as store:
        miss = store.get_miss_handler("k")
        miss.write(b"x")
        hit = store.lookup("k")
        assert hit is not None
        assert hit.read(1) == b"x"
        store.put("k", b"complete")
        assert store.lookup("k").read() == b"complete"  # type: ignore[union-attr]
        assert store.get("absent") is store.lookup("absent") is None
        miss.abort()


# Event loops


def run(config: Config, main: Callable[[AsyncStorage], Any]) -> Any:
    async def start() -> Any:
        async with AsyncStorage(config) as store:
            return await main(store)

    return asyncio.run(start())


def test_tasks_follow_a_writer_on_the_same_loop(config: Config) -> None:
    value = content(3 * MIB)

    async def main(store: AsyncStorage) -> None:
        async with await store.get_miss_handler("k", size=len(value)) as miss:
            hits = [
                await store.lookup_streaming_write("k", miss.streaming_write_tag) for _ in range(4)
            ]

            async def follow(hit: Any) -> bytes:
                return b"".join([piece async for piece in hit])

            readers = [asyncio.create_task(follow(hit)) for hit in hits]
            for piece in pieces(value):
                await miss.write(piece)
                await asyncio.sleep(0)
            assert miss.size == len(value)
            assert await miss.finish() == len(value)
            assert await asyncio.gather(*readers) == [value] * 4
        assert await store.get("k") == value
        assert await store.get_many(["k", "absent"]) == [value, None]
        async with await store.lookup("k") as hit:  # type: ignore[union-attr]
            await hit.seek(100, 2 * MIB)
            target = bytearray(3 * MIB)
            assert await hit.readinto(target) == 2 * MIB - 100
            assert target[: 2 * MIB - 100] == value[100 : 2 * MIB]
            await hit.seek_multipart(0, 5)
            assert await hit.read(10) == value[:5]
            await hit.finish()

    run(config, main)


def test_a_cold_object_is_read_in_every_way(tmp_path: Path) -> None:
    value = content(9 * MIB + 5)
    config = Config(root=str(tmp_path / "cold"), memory="16MiB", disk="512MiB")

    async def write(store: AsyncStorage) -> None:
        async with await store.get_miss_handler("k") as miss:
            await miss.write(value)
            await miss.finish()

    async def read(store: AsyncStorage) -> None:
        async with await store.lookup("k") as hit:  # type: ignore[union-attr]
            assert b"".join([piece async for piece in hit]) == value
            spans = [(0, 9), (4 * MIB - 9, 8 * MIB + 9), (len(value) - 1, len(value))]
            assert await hit.read_ranges(spans) == [value[start:end] for start, end in spans]
            await hit.seek(MIB)
            assert await hit.read(1000) == value[MIB : MIB + 1000]
            assert b"".join([piece async for piece in hit]) == value[MIB + 1000 :]
            await hit.seek(0)
            assert await hit.read(10) == value[:10]
        async with await store.lookup("k") as hit:  # type: ignore[union-attr]
            readers = [asyncio.create_task(store.read_range("k", MIB, 10)) for _ in range(9)]
            assert await asyncio.gather(*readers) == [value[MIB : MIB + 10]] * 9
            first = await hit.read()
            assert first
            assert value.startswith(first)

    run(config, write)
    run(config, read)


def test_loops_and_threads_follow_one_writer(config: Config) -> None:
    value = content(2 * MIB)
    with Storage(config) as store, ThreadPoolExecutor(READERS) as pool:
        miss = store.get_miss_handler("k")
        ready = threading.Barrier(READERS + 1)

        async def follow() -> bytes:
            shared = AsyncStorage(storage=store)
            hit = await shared.lookup_streaming_write("k", miss.streaming_write_tag)
            assert hit is not None
            ready.wait(60)
            got = [b"".join([piece async for piece in hit])]
            await shared.close()
            return got[0]

        readers = [pool.submit(lambda: asyncio.run(follow())) for _ in range(READERS)]
        ready.wait(60)
        for piece in pieces(value):
            miss.write(piece)
        miss.finish()
        assert [reader.result(60) == value for reader in readers] == [True] * READERS


def test_a_task_that_waits_hears_of_the_writers_death(config: Config) -> None:
    async def main(store: AsyncStorage) -> None:
        miss = await store.get_miss_handler("k")
        hit = await store.lookup_streaming_write("k", miss.streaming_write_tag)
        assert hit is not None
        waiting = asyncio.create_task(hit.read())
        cancelled = asyncio.create_task(hit.read())
        await asyncio.sleep(0)
        cancelled.cancel()
        await miss.write(b"x")
        assert await waiting == b"x"
        waiting = asyncio.create_task(hit.read())
        await asyncio.sleep(0)
        await miss.abort()
        with pytest.raises(errors.StreamAbortedError):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    run(config, main)


def test_sparse_objects_and_the_rest_are_awaitable(config: Config) -> None:
    value = content(MIB + 5)

    async def main(store: AsyncStorage) -> None:
        assert store.support_streaming_partial_write
        assert await store.create_sparse("s", len(value), tags=["t"])
        assert await store.write_range("s", 7, value[7:])
        with pytest.raises(errors.RangeMissingError):
            await store.read_range("s", 0, 8)
        assert (await store.availability("s")).missing == ((0, 7),)  # type: ignore[union-attr]
        assert await store.write_range("s", 0, value[:7])
        assert await store.finalize("s", ttl=100) == len(value)
        assert await store.read_range("s", 5, 10) == value[5:15]
        assert await store.view("s") is not None
        assert (await store.get_entry("s")).value == value  # type: ignore[union-attr]
        assert await store.update_meta("s", Meta(created=1, updated=2))
        hit = await store.lookup("s")
        assert hit is not None
        assert hit.meta == Meta(created=1, updated=2)
        assert await store.purge("s")
        assert await store.lookup("s") is None
        assert await store.put("big", value * 10)
        assert await store.get("big") == value * 10

    run(config, main)


def test_no_method_for_objects_works_on_a_closed_store(config: Config) -> None:
    async def main(store: AsyncStorage) -> None:
        hit = await store.lookup_streaming_write(
            "k", (await store.get_miss_handler("k")).streaming_write_tag
        )
        await store.close()
        for call in (
            lambda: store.lookup("k"),
            lambda: store.get_miss_handler("k"),
            lambda: store.read_range("k", 0, 1),
            lambda: store.purge("k"),
        ):
            with pytest.raises(errors.StoreClosedError):
                await call()
        del hit

    run(config, main)
    with Storage(config) as store:
        store.create_sparse("s", 5)
    for call in (
        lambda: store.lookup("k"),
        lambda: store.get_miss_handler("k"),
        lambda: store.write_range("s", 0, b"x"),
        lambda: store.read_range("k", 0, 1),
        lambda: store.availability("s"),
        lambda: store.purge("k"),
        lambda: store.sync(),
    ):
        with pytest.raises(errors.StoreClosedError):
            call()
