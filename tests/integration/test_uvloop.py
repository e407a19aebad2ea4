"""The asynchronous store on uvloop: the same as on asyncio's own loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from edgecache import AsyncStorage, Config, errors
from edgecache._io_memory import MemoryDisk
from edgecache._testing_io import hold, release

Runner = Callable[[Coroutine[Any, Any, None]], None]
RUNNERS: dict[str, Runner] = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Runner:
    return RUNNERS[request.param]


def value_of(number: int) -> bytes:
    return b"%d" % number * 100


def config_of(root: Path, engine: str = "auto") -> Config:
    return Config.from_dict(
        {"root": str(root), "io": engine, "memory": "2MiB", "disk": "64MiB", "shards": 1}
    )


@pytest.mark.parametrize("engine", ["threads", "auto"])
def test_tasks_read_and_write_side_by_side(run: Runner, engine: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncStorage(config_of(tmp_path, engine)) as store:

            async def work(seed: int) -> int:
                wrong = 0
                for number in range(seed, 8000, 32):
                    assert await store.put(f"k{number}", value_of(number))
                    other = (number * 7919) % (number + 1)
                    wrong += await store.get(f"k{other}") not in (value_of(other), None)
                return wrong

            assert sum(await asyncio.gather(*map(work, range(32)))) == 0
            await store.sync()
            found = await store.get_many([f"k{number}" for number in range(8000)])
            assert found == [value_of(number) for number in range(8000)]
            assert (await store.stats())["requests"]["hits"]["disk"] > 0
            assert await store.delete_prefix("k1") == 1111

    run(main())


def test_cancelled_tasks_leave_the_reader_sound(run: Runner) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", memory="2MiB", disk="64MiB", shards=1)

    async def main() -> None:
        async with AsyncStorage(config, disk=disk) as store:
            await store.put_many((f"k{number}", value_of(number)) for number in range(8000))
            await store.flush()
            on_disk = [n for n in range(8000) if store.storage.needs_disk(f"k{n}")]
            for start in range(0, 1000, 100):
                numbers = on_disk[start : start + 100]
                hold(disk, "read")
                tasks = [asyncio.create_task(store.get(f"k{n}")) for n in numbers]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                for task in tasks[::3]:
                    task.cancel()
                hold(disk)
                release(disk)
                results = await asyncio.gather(*tasks, return_exceptions=True)
                for place, (number, result) in enumerate(zip(numbers, results, strict=True)):
                    if place % 3:
                        assert result == value_of(number)
                    else:
                        assert isinstance(result, asyncio.CancelledError)

    run(main())


def test_a_timeout_of_a_read_is_the_callers_alone(run: Runner) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", memory="2MiB", disk="64MiB", shards=1)

    async def main() -> None:
        async with AsyncStorage(config, disk=disk) as store:
            await store.put_many((f"k{number}", value_of(number)) for number in range(8000))
            await store.flush()
            number = next(n for n in range(8000) if store.storage.needs_disk(f"k{n}"))
            hold(disk, "read")
            patient = asyncio.create_task(store.get(f"k{number}"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.get(f"k{number}"), 0.01)
            release(disk)
            assert await patient == value_of(number)

    run(main())


def test_closing_with_reads_in_flight_fails_them(run: Runner) -> None:
    disk = MemoryDisk()
    config = Config(io="memory", memory="2MiB", disk="64MiB", shards=1)

    async def main() -> None:
        store = AsyncStorage(config, disk=disk)
        await store.put_many((f"k{number}", value_of(number)) for number in range(8000))
        await store.flush()
        on_disk = [n for n in range(8000) if store.storage.needs_disk(f"k{n}")][:50]
        hold(disk, "read")
        tasks = [asyncio.create_task(store.get(f"k{n}")) for n in on_disk]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {errors.StoreClosedError}

    run(main())


def test_loops_that_end_give_their_reader_back(run: Runner, tmp_path: Path) -> None:
    store = AsyncStorage(config_of(tmp_path, "threads"))

    async def fill() -> None:
        await store.put_many((f"k{number}", value_of(number)) for number in range(8000))
        await store.flush()

    async def read(number: int) -> None:
        assert await store.get(f"k{number}") == value_of(number)

    run(fill())
    on_disk = [n for n in range(8000) if store.storage.needs_disk(f"k{n}")]
    for number in on_disk[:20]:
        run(read(number))
    gc.collect()
    assert len(store._readers) <= 1
    run(store.close())


def test_the_loop_goes_on_while_a_walk_runs(run: Runner, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncStorage(config_of(tmp_path)) as store:
            await store.put_many((f"k{number}", value_of(number)) for number in range(8000))
            walk = asyncio.create_task(store.scrub())
            turns = 0
            while not walk.done():
                assert await store.get("k7999") == value_of(7999)
                turns += 1
                await asyncio.sleep(0)
            assert (await walk).corrupt == 0
            assert turns > 1

    run(main())
