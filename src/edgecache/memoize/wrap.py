"""The functions that `memoize` returns, over a store or over an asynchronous one."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from edgecache.memoize.flight import Flights
from edgecache.memoize.flight_async import AsyncFlights
from edgecache.memoize.key import KeyBuilder
from edgecache.memoize.plan import Plan
from edgecache.meta import Meta

P = ParamSpec("P")
R = TypeVar("R")


class EntryLike(Protocol):
    """A value with what is known about it."""

    @property
    def value(self) -> bytes: ...

    @property
    def meta(self) -> Meta | None: ...


class Store(Protocol):
    """The part of `Storage` that remembering needs."""

    def get(self, key: bytes | str, /) -> bytes | None: ...

    def get_entry(self, key: bytes | str, /) -> EntryLike | None: ...

    def put(
        self, key: bytes | str, value: bytes, /, *, ttl: float | None, meta: Meta | None
    ) -> bool: ...


class AsyncStore(Protocol):
    """The part of `AsyncStorage` that remembering needs."""

    async def get(self, key: bytes | str, /) -> bytes | None: ...

    async def get_entry(self, key: bytes | str, /) -> EntryLike | None: ...

    async def put(
        self, key: bytes | str, value: bytes, /, *, ttl: float | None, meta: Meta | None
    ) -> bool: ...


class _Found(NamedTuple):
    data: bytes
    is_stale: bool


def _judge(entry: EntryLike | None) -> _Found | None:
    """Tell fresh from stale; None: there is nothing, or it is too old even for stale."""
    if entry is None:
        return None
    meta = entry.meta
    if meta is None:
        return _Found(entry.value, False)
    now_us = time.time_ns() // 1000
    if meta.is_fresh(now_us):
        return _Found(entry.value, False)
    return _Found(entry.value, True) if meta.may_revalidate(now_us) else None


def _meta(plan: Plan) -> Meta | None:
    if not plan.stale_s:
        return None
    now_us, fresh_until_us = plan.fresh_until_us()
    return Meta(
        created=now_us,
        updated=now_us,
        fresh_until=fresh_until_us,
        stale_while_revalidate=math.ceil(plan.stale_s),
    )


def wrap(store: Store, flights: Flights, plan: Plan, function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` with its results remembered in `store`.

    Raises:
        TypeError: It is a coroutine function.
        KeyTypeError: It needs a `key`.
    """
    if inspect.iscoroutinefunction(function):
        raise TypeError("a coroutine function is remembered by AsyncStorage.memoize")
    keys = KeyBuilder(function, plan.key)
    encode, decode = plan.codec
    stale_s, lifetime_s = plan.stale_s, plan.lifetime_s

    def look_up(key: bytes | str) -> _Found | None:
        if stale_s:
            return _judge(store.get_entry(key))
        data = store.get(key)
        return None if data is None else _Found(data, False)

    def look_up_fresh(key: bytes | str) -> bytes | None:
        found = look_up(key)
        return None if found is None or found.is_stale else found.data

    @functools.wraps(function)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys.build(args, kwargs)
        seen_count = flights.finished_count
        found = look_up(key)
        if found is not None and (not found.is_stale or flights.is_flying(key)):
            return decode(found.data)  # type: ignore[no-any-return]

        def compute() -> bytes:
            data = encode(function(*args, **kwargs))
            store.put(key, data, ttl=lifetime_s, meta=_meta(plan))
            return data

        data = flights.run(key, compute, lambda: look_up_fresh(key), seen_count)
        return decode(data)  # type: ignore[no-any-return]

    return remembered


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

    async def look_up(key: bytes | str) -> _Found | None:
        if stale_s:
            return _judge(await store.get_entry(key))
        data = await store.get(key)
        return None if data is None else _Found(data, False)

    @functools.wraps(function)
    async def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
        key = keys.build(args, kwargs)

        async def compute() -> bytes:
            data = encode(await function(*args, **kwargs))
            await store.put(key, data, ttl=lifetime_s, meta=_meta(plan))
            return data

        for _ in range(2):
            seen_count = flights.finished_count
            found = await look_up(key)
            if found is not None:
                if found.is_stale:
                    flights.refresh(key, compute)
                return decode(found.data)  # type: ignore[no-any-return]
            # A flight that ended while the disk was read may have been this one: look again.
            if flights.finished_count == seen_count:
                break
        return decode(await flights.run(key, compute))  # type: ignore[no-any-return]

    return remembered
