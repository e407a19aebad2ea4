"""Remembered results of coroutine functions."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edgecache import AsyncStorage, Config, errors

Test = Callable[[AsyncStorage], Awaitable[None]]


def run(test: Test) -> None:
    async def main() -> None:
        async with AsyncStorage(Config(memory="8MiB")) as store:
            async with asyncio.timeout(30):
                await test(store)
            assert all(not flights for flights in store._flights._by_loop.values())

    asyncio.run(main())


class FlakyError(Exception):
    pass


def test_tasks_that_come_together_share_one_computation() -> None:
    async def test(store: AsyncStorage) -> None:
        calls = []

        @store.memoize(ttl=60, key="f", codec="json")
        async def function(number: int) -> list[int]:
            """Say it."""
            calls.append(number)
            await asyncio.sleep(0)
            return [number]

        found = await asyncio.gather(*[function(n % 3) for n in range(30)])
        assert found == [[n % 3] for n in range(30)]
        assert await function(0) == [0]
        assert calls == [0, 1, 2]
        assert (function.__name__, function.__doc__) == ("function", "Say it.")
        assert inspect.iscoroutinefunction(function)

    run(test)


def test_an_error_goes_to_all_who_wait_and_the_next_caller_tries_again() -> None:
    async def test(store: AsyncStorage) -> None:
        calls = []

        @store.memoize(key="f")
        async def function() -> bytes:
            calls.append(1)
            await asyncio.sleep(0)
            if len(calls) == 1:
                raise FlakyError
            return b"value"

        results = await asyncio.gather(*[function() for _ in range(5)], return_exceptions=True)
        assert [type(result) for result in results] == [FlakyError] * 5
        assert await function() == b"value"
        assert len(calls) == 2

    run(test)


def test_a_cancelled_caller_takes_nobody_down_with_it() -> None:
    async def test(store: AsyncStorage) -> None:
        go = asyncio.Event()
        calls = []

        @store.memoize(key="f")
        async def function() -> bytes:
            calls.append(1)
            await go.wait()
            return b"value"

        tasks = [asyncio.create_task(function()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # the one that came first
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*tasks[1:]) == [b"value"] * 2
        assert tasks[0].cancelled()
        assert len(calls) == 1

    run(test)


def test_a_computation_that_cancels_itself_is_tried_again_by_who_waits() -> None:
    async def test(store: AsyncStorage) -> None:
        calls = []

        @store.memoize(key="f")
        async def function() -> bytes:
            calls.append(1)
            await asyncio.sleep(0)
            if len(calls) == 1:
                raise asyncio.CancelledError
            return b"value"

        assert await asyncio.gather(function(), function()) == [b"value"] * 2
        assert len(calls) == 2

    run(test)


def test_recursion_computes_itself_also_through_tasks() -> None:
    async def test(store: AsyncStorage) -> None:
        depth = []

        @store.memoize(key="same")
        async def same() -> bytes:
            depth.append(1)
            if len(depth) == 3:
                return b"end"
            (result,) = await asyncio.gather(same())
            return result

        assert await same() == b"end"

        @store.memoize(key="fib", codec="json")
        async def fib(number: int) -> int:
            return (
                number
                if number < 2
                else sum(await asyncio.gather(fib(number - 1), fib(number - 2)))
            )

        assert await fib(30) == 832040

    run(test)


def test_computations_that_need_each_other_do_not_hang() -> None:
    async def test(store: AsyncStorage) -> None:
        depth = []

        @store.memoize(key="a")
        async def a() -> bytes:
            depth.append("a")
            await asyncio.sleep(0)
            return b"a" if len(depth) > 4 else b"a" + await b()

        @store.memoize(key="b")
        async def b() -> bytes:
            depth.append("b")
            await asyncio.sleep(0)
            return b"b" if len(depth) > 4 else b"b" + await a()

        results = await asyncio.gather(a(), b())
        assert all(result.strip(b"ab") == b"" and result for result in results)

    run(test)


def test_a_stale_result_serves_at_once_while_a_task_refreshes() -> None:
    async def test(store: AsyncStorage) -> None:
        go, refreshed = asyncio.Event(), asyncio.Event()
        calls = []

        @store.memoize(ttl=0, stale=1000, key="f")
        async def function() -> bytes:
            calls.append(1)
            if len(calls) == 2:
                await go.wait()
                refreshed.set()
            return b"%d" % len(calls)

        assert await function() == b"1"
        assert await asyncio.gather(*[function() for _ in range(5)]) == [b"1"] * 5
        await asyncio.sleep(0)
        assert len(calls) == 2
        go.set()
        await refreshed.wait()
        await asyncio.sleep(0)
        assert await function() == b"2"
        await asyncio.sleep(0)  # it was stale again: let its refresh end
        await asyncio.sleep(0)

    run(test)


def test_a_failed_refresh_is_logged_and_the_old_result_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(store: AsyncStorage) -> None:
        calls = []

        @store.memoize(ttl=0, stale=1000, key="f")
        async def function() -> bytes:
            calls.append(1)
            if len(calls) > 1:
                raise FlakyError("no origin")
            return b"old"

        assert await function() == b"old"
        with caplog.at_level(logging.WARNING, "edgecache.memoize"):
            assert await function() == b"old"
            while len(calls) < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert "no origin" in caplog.text
        assert await function() == b"old"
        while len(calls) < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(test)


def test_wrong_uses_are_refused() -> None:
    async def test(store: AsyncStorage) -> None:
        def plain() -> bytes:
            return b""

        with pytest.raises(TypeError, match="by Storage"):
            store.memoize(key="f")(plain)  # type: ignore[arg-type]

        @store.memoize()
        async def function(value: Any) -> bytes:
            return b""

        with pytest.raises(errors.KeyTypeError):
            await function([])
        with pytest.raises(errors.InvalidTTLError):
            store.memoize(stale=1)

    run(test)
