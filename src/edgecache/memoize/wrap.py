"""The functions that `Storage.memoize` returns."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from edgecache.memoize.across import Leases, compute_once
from edgecache.memoize.flight import Flights
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

    @property
    def leases(self) -> Leases | None: ...

    def exists(self, key: bytes | str, /) -> bool: ...

    def get(self, key: bytes | str, /) -> bytes | None: ...

    def get_entry(self, key: bytes | str, /) -> EntryLike | None: ...

    def put(
        self, key: bytes | str, value: bytes, /, *, ttl: float | None, meta: Meta | None
    ) -> bool: ...


class Found(NamedTuple):
    """The bytes of a result."""

    data: bytes
    is_stale: bool


def judge(entry: EntryLike | None) -> Found | None:
    """Tell fresh from stale; None: there is nothing, or it is too old even for stale."""
    if entry is None:
        return None
    meta = entry.meta
    if meta is None:
        return Found(entry.value, False)
    now_us = time.time_ns() // 1000
    if meta.is_fresh(now_us):
        return Found(entry.value, False)
    return Found(entry.value, True) if meta.may_revalidate(now_us) else None


def meta_of(plan: Plan) -> Meta | None:
    """Return the meta of a result computed now; None where there is no stale."""
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

    def look_up(key: bytes | str) -> Found | None:
        if stale_s:
            return judge(store.get_entry(key))
        data = store.get(key)
        return None if data is None else Found(data, False)

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

        def compute() -> tuple[bytes, bool]:
            data = encode(function(*args, **kwargs))
            return data, store.put(key, data, ttl=lifetime_s, meta=meta_of(plan))

        def look_again() -> bytes | None:
            # Not counted as a second miss.
            return look_up_fresh(key) if store.exists(key) else None

        def lead() -> bytes:
            leases = store.leases
            if leases is None or not plan.lock_timeout_s:
                return compute()[0]
            stale = None if found is None else found.data
            return compute_once(leases, key, plan.lock_timeout_s, look_again, compute, stale)

        data = flights.run(key, lead, lambda: look_up_fresh(key), seen_count, lambda: compute()[0])
        return decode(data)  # type: ignore[no-any-return]

    return remembered
