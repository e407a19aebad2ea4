"""fork(): the child cannot use the store, cannot harm it, and its end changes nothing."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecache import AsyncStorage, Config, Storage, errors

ENGINES = ("ram", "memory", "threads", "auto")


def config_of(engine: str, root: Path) -> Config:
    if engine == "ram":
        return Config(memory="2MiB", shards=1)
    if engine == "memory":
        return Config(io="memory", memory="2MiB", disk="64MiB", shards=1)
    return Config.from_dict(
        {"root": str(root), "io": engine, "memory": "2MiB", "disk": "64MiB", "shards": 1}
    )


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with Storage(config_of(request.param, tmp_path / "root")) as opened:
        opened.put_many((f"k{number}", b"%d" % number * 100) for number in range(4000))
        yield opened


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child; its failure is a failure here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def check_parent(store: Storage, disk: bool) -> None:
    found = store.get_many([f"k{number}" for number in range(4000)])
    wrong = [n for n, value in enumerate(found) if value not in (b"%d" % n * 100, None)]
    assert wrong == []
    assert not disk or None not in found
    assert store.put("after", b"value")
    store.sync()
    assert store.get("after") == b"value"
    assert store.check() == []


def test_every_use_in_the_child_says_what_is_wrong(store: Storage) -> None:
    def work() -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.get("k0"),
            lambda: store.put("k0", b""),
            lambda: store.delete("k0"),
            lambda: store.view("k0"),
            lambda: store.exists("k0"),
            lambda: store.get_many(["k0"]),
            lambda: store.get_entry("k0"),
            lambda: store.touch("k0", 1),
            lambda: store.delete_prefix("k"),
            lambda: store.purge_tag("t"),
            lambda: store.clear(),
            lambda: store.scrub(),
            lambda: store.sync(),
            lambda: store.flush(),
            lambda: store.checkpoint(),
            lambda: store.stats(),
            lambda: store.health(),
            lambda: store.memoize(key="f")(lambda: b"")(),
        ]
        for call in calls:
            with pytest.raises(errors.StoreForkedError):
                call()

    in_child(work)
    check_parent(store, store.region_count > 0)


def test_closing_and_collecting_in_the_child_harms_nothing(store: Storage) -> None:
    holder = [store]

    def close() -> None:
        holder[0].close()
        holder[0].close()

    def collect() -> None:
        nonlocal store
        holder.clear()
        del store
        gc.collect()

    in_child(close)
    in_child(collect)
    check_parent(store, store.region_count > 0)


@pytest.mark.parametrize("engine", ["threads", "auto"])
def test_the_child_opens_a_store_of_its_own(engine: str, tmp_path: Path) -> None:
    with Storage(config_of(engine, tmp_path / "parent")) as store:
        store.put("key", b"parent")

        def work() -> None:
            with Storage(config_of(engine, tmp_path / "child")) as own:
                own.put_many((f"k{number}", bytes(1000)) for number in range(5000))
                own.sync()
                assert own.get("k4999") == bytes(1000)
            with pytest.raises(errors.StoreLockedError) as caught:
                Storage(config_of(engine, tmp_path / "parent"))
            assert caught.value.pid == os.getppid()

        in_child(work)
        assert store.get("key") == b"parent"


@pytest.mark.parametrize("engine", ["threads", "auto"])
def test_the_root_is_free_for_others_while_a_child_lives_on(engine: str, tmp_path: Path) -> None:
    store = Storage(config_of(engine, tmp_path / "root"))
    store.put("key", b"value")
    awake, wake = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wake)
        os.read(awake, 1)
        os._exit(0)
    os.close(awake)
    store.close()
    with Storage(config_of(engine, tmp_path / "root")) as again:
        assert again.get("key") == b"value"
    os.close(wake)
    os.waitpid(child, 0)


def test_views_and_asynchronous_faces_are_harmless_in_the_child(tmp_path: Path) -> None:
    import asyncio

    store = AsyncStorage(config_of("auto", tmp_path / "root"))
    asyncio.run(store.put("key", b"value" * 100))
    blob = store.storage.view("key")

    def work() -> None:
        nonlocal blob
        with pytest.raises(errors.StoreForkedError):
            asyncio.run(store.get("key"))
        assert blob is not None
        blob.release()
        blob = None
        gc.collect()
        asyncio.run(store.close())

    in_child(work)
    assert blob is not None
    assert bytes(blob) == b"value" * 100
    blob.release()
    assert asyncio.run(store.get("key")) == b"value" * 100
    asyncio.run(store.close())


def test_forks_while_other_threads_use_the_store(tmp_path: Path) -> None:
    """A lock that another thread holds at the moment of the fork must not hang the child."""
    import threading

    with Storage(config_of("auto", tmp_path / "root")) as store:
        stop = threading.Event()

        def work(seed: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                store.put(f"{seed}/{number % 500}", bytes(2000))
                store.get(f"{seed}/{(number * 7) % 500}")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()

        def child() -> None:
            with pytest.raises(errors.StoreForkedError):
                store.get("key")
            store.close()

        try:
            for _ in range(10):
                in_child(child)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert store.check() == []
