"""The functions that `AsyncStorage.memoize` returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

from edgecache.memoize.across import AsyncLeases, compute_once_soon
from edgecache.memoize.flight_async import AsyncFlights
from edgecache.memoize.key import KeyBuilder
from edgecache.memoize.plan import Plan
from edgecache.memoize.wrap import EntryLike, Found, judge, meta_of
from edgecache.meta import Meta

Compute = Callable[[], Coroutine[Any, Any, bytes]]
P = ParamSpec("P")
R = TypeVar("R")


class AsyncStore(Protocol):
    """The part of `AsyncStorage` that remembering needs."""

    @property
    def leases(self) -> AsyncLeases | None: ...

    async def exists(self, key: bytes | str, /) -> bool: ...

    async def get(self, key: bytes | str, /) -> bytes | None: ...

    async def get_entry(self, key: bytes | str, /) -> EntryLike | None: ...

    async def put(
        self, key: bytes | str, value: bytes, /, *, ttl: float | None, meta: Meta | None
    ) -> bool: ...


def wrap_async(
    store: AsyncStore,
    flights: AsyncFlights,
    plan: Plan,
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return the coroutine function with its results remembered in `store`.

    Raises:
        TypeError: It is a plain function.
        KeyTypeError: It needs a `key`.
    """
    if not inspect.iscoroutinefunction(function):
        raise TypeError("a plain function is remembered by Storage.memoize")
    keys = KeyBuilder(function, plan.key)
    encode, decode = plan.codec
    stale_s, lifetime_s = plan.stale_s, plan.lifetime_s

    async def look_up(key: bytes | str) -> Found | None:
        if stale_s:
            return judge(await store.get_entry(key))
        data = await store.get(key)
        return None if data is None else Found(data, False)

    def computing(
        key: bytes | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Coroutine[Any, Any, bytes]], Compute]:
        """Return what computes a result for all processes, and for this caller alone."""

        async def compute() -> tuple[bytes, bool]:
            data = encode(await function(*args, **kwargs))
            return data, await store.put(key, data, ttl=lifetime_s, meta=meta_of(plan))

        async def compute_alone() -> bytes:
            return (await compute())[0]

        async def look_again() -> bytes | None:
            # Not counted as a second miss.
            again = await look_up(key) if await store.exists(key) else None
            return None if again is None or again.is_stale else again.data

        async def lead(stale: bytes | None = None) -> bytes:
            leases = store.leases
            if leases is None or not plan.lock_timeout_s:
                return await compute_alone()
            timeout_s = plan.lock_timeout_s
            return await compute_once_soon(leases, key, timeout_s, look_again, compute, stale)

        return lead, compute_alone

    @functools.wraps(function)
    async def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys.build(args, kwargs)
        for _ in range(2):
            seen_count = flights.finished_count
            found = await look_up(key)
            if found is not None:
                if found.is_stale:
                    lead, _ = computing(key, args, kwargs)
                    flights.refresh(key, functools.partial(lead, found.data))
                return decode(found.data)  # type: ignore[no-any-return]
            # A flight that ended while the disk was read may have been this one: look again.
            if flights.finished_count == seen_count:
                break
        data = await flights.run(key, *computing(key, args, kwargs))
        return decode(data)  # type: ignore[no-any-return]

    return remembered
