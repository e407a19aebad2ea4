"""The asynchronous store: the same answers, no suspension for what RAM knows, no lost future."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgecache import AsyncStorage, Config, Storage, errors
from edgecache._core import Core
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import hold, release

ENGINES = ("memory", "threads", "auto", "files")

# Names of the engine that layers above it use; no part of the API.
ENGINE_NAMES = {
    "abandon", "check", "clear_all", "counters", "encode_meta", "needs_disk", "peek", "peek_entry",
    "expiry_at", "read_entry", "reformatted", "region_count", "replace", "shard_count",
    "try_put", "walk_begin", "walk_end",
    "walk_memory", "walk_region", "attach", "load_object", "put_beyond", "put_encoded",
    "split_values", "value_bytes_max", "has_lower", "scrub_lower", "walk_lower",
    "version_in_memory", "object_gone", "lower_key", "enter_written",
    "begin_part", "begin_read", "read_parts", "resume", "resume_forked",
}  # fmt: skip
# Not awaited: a decorator, and what a store was opened with.
NOT_AWAITED = {"memoize", "config", "closed", "support_streaming_partial_write"}


def config_of(engine: str, root: Path) -> Config:
    if engine == "memory":
        return Config(io="memory", memory="2MiB", disk="64MiB", shards=1)
    if engine == "files":
        return Config(
            root=str(root), memory="2MiB", disk="256MiB", shards=1, layout="files",
            flush_interval=0.01,
        )  # fmt: skip
    return Config.from_dict(
        {"root": str(root), "io": engine, "memory": "2MiB", "disk": "64MiB", "shards": 1}
    )


@asynccontextmanager
async def opened(
    engine: str, root: Path, disk: MemoryDisk | None = None
) -> AsyncIterator[AsyncStorage]:
    async with AsyncStorage(config_of(engine, root), disk=disk) as store:
        yield store


async def fill(store: AsyncStorage, count: int = 6000) -> list[str]:
    """More entries than RAM holds; the keys of some that are on disk only."""
    await store.put_many((f"k{number}", b"%d" % number * 100) for number in range(count))
    await store.flush()
    on_disk = [f"k{number}" for number in range(count) if store.storage.needs_disk(f"k{number}")]
    assert len(on_disk) > 500
    return on_disk


def value_of(key: str) -> bytes:
    return key[1:].encode() * 100


def run_without_suspending(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine by hand: it must finish in one step."""
    with pytest.raises(StopIteration) as finished:
        coroutine.send(None)
    return finished.value.value


# Parity


def public_names() -> list[str]:
    return sorted(
        name for name in dir(Storage) if not name.startswith("_") and name not in ENGINE_NAMES
    )


def test_the_engine_names_left_out_exist() -> None:
    assert set(dir(Storage)) >= ENGINE_NAMES


@pytest.mark.parametrize("name", public_names())
def test_every_name_of_the_store_is_there(name: str) -> None:
    ours = inspect.getattr_static(AsyncStorage, name)
    theirs = inspect.getattr_static(Storage, name)
    assert isinstance(ours, property) == isinstance(theirs, property)
    if not isinstance(ours, property) and name not in NOT_AWAITED:
        assert inspect.iscoroutinefunction(ours)


def parameters_of_native(name: str) -> list[str]:
    """Parameters of a native method, from the signature that Cython leaves in its docstring."""
    text = getattr(Core, name).__doc__.splitlines()[0]
    inner = text[text.index("(") + 1 : text.rindex(")")]
    depth, part, parts = 0, "", []
    for letter in inner:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [piece.split("=")[0].split(":")[0].strip() for piece in [*parts, part]]


@pytest.mark.parametrize("name", public_names())
def test_every_method_takes_the_same_parameters(name: str) -> None:
    theirs = inspect.getattr_static(Storage, name)
    if isinstance(theirs, property):
        return
    ours = inspect.signature(getattr(AsyncStorage, name))
    if not inspect.isfunction(theirs):
        names = [p.name for p in ours.parameters.values()]
        assert names == [p for p in parameters_of_native(name) if p not in ("*", "/")]
        return
    expected = inspect.signature(theirs)
    for mine, other in zip(ours.parameters.values(), expected.parameters.values(), strict=True):
        assert (mine.name, mine.kind, mine.default) == (other.name, other.kind, other.default)


# Answers without suspending


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "files"])
def test_what_ram_knows_is_answered_without_suspending(engine: str, tmp_path: Path) -> None:
    store = AsyncStorage(config_of(engine, tmp_path))
    assert run_without_suspending(store.put("key", b"value", ttl=100, tags=["t"])) is True
    assert run_without_suspending(store.get("key")) == b"value"
    assert run_without_suspending(store.get("absent", 7)) == 7
    assert run_without_suspending(store.exists("key")) is True
    assert run_without_suspending(store.get_many(["key", "absent"])) == [b"value", None]
    assert run_without_suspending(store.get_entry("key")).value == b"value"
    assert bytes(run_without_suspending(store.view("key"))) == b"value"
    assert run_without_suspending(store.readinto("key", bytearray(5))) == 5
    assert run_without_suspending(store.delete("key")) is True
    assert run_without_suspending(store.stats())["requests"]["puts"] == 1
    asyncio.run(store.close())


# Disk


@pytest.mark.parametrize("engine", ENGINES)
def test_values_come_from_disk_by_every_way(engine: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(engine, tmp_path) as store:
            keys = await fill(store)
            gets, rest = keys[:200], keys[200:]
            assert await asyncio.gather(*map(store.get, gets)) == list(map(value_of, gets))
            many = rest[:100]
            found = await store.get_many(["absent", *many])
            assert found == [None, *map(value_of, many)]
            entry = await store.get_entry(rest[100])
            assert entry is not None
            assert entry.value == value_of(rest[100])
            blob = await store.view(rest[101])
            assert blob is not None
            assert bytes(blob) == value_of(rest[101])
            target = bytearray(1000)
            size = await store.readinto(rest[102], target)
            assert target[:size] == value_of(rest[102])
            assert await store.exists(rest[103])
            assert await store.delete(rest[104])
            assert await store.get(rest[104]) is None
            assert await store.touch(rest[105], 100)
            assert await store.delete_many(rest[106:110]) == 4
            assert await store.prefetch(rest[110:400]) == len(rest[110:400])
            assert (await store.stats())["requests"]["hits"]["disk"] >= 300

    asyncio.run(main())


def test_reads_of_one_turn_are_submitted_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("auto", tmp_path) as store:
            keys = (await fill(store))[:32]
            await store.get(keys[0])  # the reader is there now
            before = (await store.stats())["io"]["submissions"]
            await asyncio.gather(*map(store.get, keys[1:]))
            assert (await store.stats())["io"]["submissions"] - before <= 2

    asyncio.run(main())


def test_a_cancelled_get_detaches_and_the_others_go_on(tmp_path: Path) -> None:
    disk = MemoryDisk()

    async def main() -> None:
        async with opened("memory", tmp_path, disk) as store:
            keys = (await fill(store))[:20]
            hold(disk, "read")
            tasks = [asyncio.create_task(store.get(key)) for key in keys]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.sleep(0)
            assert all(task.cancelled() for task in tasks[::2])
            assert not any(task.done() for task in tasks[1::2])
            release(disk)
            assert await asyncio.gather(*tasks[1::2]) == [value_of(key) for key in keys[1::2]]
            # The reads of the cancelled ones ended as well, and what they read is usable.
            assert await store.get_many(keys) == list(map(value_of, keys))

    asyncio.run(main())


def test_closing_fails_reads_that_wait_and_hangs_nobody(tmp_path: Path) -> None:
    disk = MemoryDisk()

    async def main() -> None:
        store = AsyncStorage(config_of("memory", tmp_path), disk=disk)
        keys = (await fill(store))[:20]
        hold(disk, "read")
        tasks = [asyncio.create_task(store.get(key)) for key in keys]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, errors.StoreClosedError) for result in results)
        release(disk)

    asyncio.run(main())


# Life


def test_a_closed_store_refuses_everything(tmp_path: Path) -> None:
    async def main() -> None:
        store = AsyncStorage(config_of("auto", tmp_path))
        await store.put("key", b"value")
        await store.close()
        await store.close()
        assert store.closed
        assert store.storage.closed
        calls: list[Awaitable[object]] = [
            store.get("key"), store.put("key", b""), store.delete("key"), store.exists("key"),
            store.get_many(["key"]), store.get_entry("key"), store.view("key"),
            store.readinto("key", bytearray(9)), store.touch("key", 1), store.sync(),
            store.flush(), store.checkpoint(), store.clear(), store.scrub(),
            store.delete_prefix("k"), store.purge_tag("t"), store.put_many({"k": b""}),
            store.delete_many(["k"]), store.prefetch(["k"]), store.stats(), store.health(),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(errors.StoreClosedError):
                await call

    asyncio.run(main())


def test_a_shared_store_stays_open_and_one_of_its_own_does_not(tmp_path: Path) -> None:
    async def main(storage: Storage) -> None:
        async with AsyncStorage(storage=storage) as store:
            assert await store.get("key") == b"value"
            keys = await fill(store)
            assert await store.get(keys[0]) == value_of(keys[0])
        assert not storage.closed
        async with await AsyncStorage.open(Config(memory="2MiB")) as own:
            assert await own.put("key", b"value")
        assert own.storage.closed

    with Storage(config_of("auto", tmp_path)) as storage:
        storage.put("key", b"value")
        asyncio.run(main(storage))
        assert storage.get("key") == b"value"
    with pytest.raises(errors.ArgumentError), Storage(Config(memory="2MiB")) as storage:
        AsyncStorage(Config(), storage=storage)


def test_closing_the_store_below_fails_reads_that_wait(tmp_path: Path) -> None:
    disk = MemoryDisk()

    async def main() -> None:
        storage = Storage(config_of("memory", tmp_path), disk=disk)
        store = AsyncStorage(storage=storage)
        keys = await fill(store)
        hold(disk, "read")
        task = asyncio.create_task(store.get(keys[0]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        storage.close()
        with pytest.raises(errors.StoreClosedError):
            await task
        release(disk)

    asyncio.run(main())


def test_loops_come_and_go(tmp_path: Path) -> None:
    """A reader per loop; those of closed loops are given back, and no loop is kept alive."""
    storage = Storage(config_of("threads", tmp_path))
    store = AsyncStorage(storage=storage)
    keys = asyncio.run(fill(store))
    loops = []

    async def read(key: str) -> bytes | None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return await store.get(key)

    for key in keys[:10]:
        assert asyncio.run(read(key)) == value_of(key)
    gc.collect()
    assert len(store._readers) <= 1
    assert sum(loop() is not None for loop in loops) <= 1
    asyncio.run(store.close())
    storage.close()


def test_loops_in_several_threads_share_a_store(tmp_path: Path) -> None:
    storage = Storage(config_of("auto", tmp_path))
    store = AsyncStorage(storage=storage)
    keys = asyncio.run(fill(store))
    wrong: list[str] = []

    def work(part: list[str]) -> None:
        async def main() -> None:
            for start in range(0, len(part), 20):
                batch = part[start : start + 20]
                values = await asyncio.gather(*map(store.get, batch))
                wrong.extend(k for k, v in zip(batch, values, strict=True) if v != value_of(k))

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(keys[n:400:4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    storage.close()


def test_close_detaches_from_a_loop_that_runs_in_another_thread(tmp_path: Path) -> None:
    store = AsyncStorage(config_of("auto", tmp_path))
    keys = asyncio.run(fill(store))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    value = asyncio.run_coroutine_threadsafe(store.get(keys[0]), loop).result(30)
    assert value == value_of(keys[0])
    asyncio.run(store.close())
    assert store.storage.closed
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_close_waits_for_what_runs_in_the_executor(tmp_path: Path) -> None:
    disk = MemoryDisk()

    async def main() -> None:
        store = AsyncStorage(config_of("memory", tmp_path), disk=disk)
        await store.put("key", b"value")
        hold(disk, "write")
        syncing = asyncio.create_task(store.sync())
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        assert not closing.done()
        release(disk)
        await syncing
        await closing
        assert store.storage.closed

    asyncio.run(main())


# Writing


def test_a_put_without_room_waits_off_the_loop(tmp_path: Path) -> None:
    disk = MemoryDisk()
    config = config_of("memory", tmp_path).replace(write_buffers=2, block_timeout=30)

    async def main() -> None:
        async with AsyncStorage(config, disk=disk) as store:
            hold(disk, "write")
            value = bytes(100_000)
            count = 0
            while True:
                put = asyncio.create_task(store.put(f"k{count}", value))
                await asyncio.sleep(0)
                count += 1
                if not put.done():
                    break
                assert put.result()
            assert await store.get("k0") == value  # the loop goes on meanwhile
            release(disk)
            assert await put
            assert await store.get(f"k{count - 1}") == value

    asyncio.run(main())


def test_large_values_and_one_shot_tags_are_stored(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncStorage(Config(memory="64MiB")) as store:
            value = bytes(3 << 20)
            assert await store.put("large", memoryview(value), tags=iter(["t"]))
            assert await store.get("large") == value
            assert await store.purge_tag("t") == 1
            with pytest.raises(TypeError, match="collection"):
                await store.put("key", b"", tags="single")

    asyncio.run(main())


def test_long_operations_tell_their_progress_on_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("memory", tmp_path) as store:
            await store.put_many({"a/1": b"", "a/2": b"", "b": b""})
            here = threading.get_ident()
            seen: list[tuple[int, int]] = []

            def progress(done: int, total: int) -> None:
                assert threading.get_ident() == here
                seen.append((done, total))

            assert await store.delete_prefix("a/", progress=progress) == 2
            await asyncio.sleep(0)
            assert seen
            assert seen[-1][0] == seen[-1][1]
            assert (await store.scrub(progress=progress)).entries == 1
            assert (await store.health()).status == "ok"
            await store.clear()
            assert await store.get("b") is None

    asyncio.run(main())


@pytest.mark.parametrize("call", ["delete_many", "prefetch", "get_many"])
def test_one_key_in_place_of_several_is_refused(call: str) -> None:
    async def main() -> None:
        async with AsyncStorage(Config(memory="2MiB")) as store:
            with pytest.raises(errors.KeyTypeError):
                await getattr(store, call)("abc")

    asyncio.run(main())


def test_wrong_keys_raise_and_leave_nothing_pending(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("auto", tmp_path) as store:
            wrong: list[Callable[[Any], Awaitable[object]]] = [
                store.get,
                store.exists,
                store.delete,
            ]
            for call in wrong:
                with pytest.raises(errors.KeySizeError):
                    await call(b"")
                with pytest.raises(errors.KeyTypeError):
                    await call(1)

    asyncio.run(main())
