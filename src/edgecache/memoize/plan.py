"""What `memoize` was asked for, checked; and the steps that both of its kinds share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

from edgecache.errors import ArgumentError, InvalidTTLError
from edgecache.memoize.codec import CodecChoice, resolve_codec
from edgecache.memoize.key import KeyFunction

P = ParamSpec("P")
R = TypeVar("R")

MICROSECONDS = 1_000_000
LOCK_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S_MAX = 1e9
# Source: `stale_while_revalidate` is a u32 of seconds (docs/format-meta.md).
STALE_SECONDS_MAX = 2**32 - 1


class Decorator(Protocol):
    """Keeps the signature of a function."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class AsyncDecorator(Protocol):
    """Keeps the signature of a coroutine function."""

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...


class Plan:
    """The arguments of one `memoize`.

    Raises:
        InvalidTTLError: `stale` without `ttl`, or one of them is not a duration.
        ArgumentError: The codec, the key or the lock timeout is not usable.
    """

    __slots__ = ("codec", "key", "lifetime_s", "lock_timeout_s", "stale_s", "ttl_s")

    def __init__(
        self,
        ttl: float | None,
        stale: float,
        key: str | KeyFunction | None,
        codec: CodecChoice | None,
        lock_timeout: float,
    ) -> None:
        for name, value in (("ttl", ttl), ("stale", stale)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidTTLError(f"{name} is {value!r}", hint="give seconds, 0 or more")
        if stale and ttl is None:
            raise InvalidTTLError("stale needs a ttl", hint="give ttl= as well")
        if stale > STALE_SECONDS_MAX:
            raise InvalidTTLError(f"stale is {stale!r}", hint="at most 2**32 - 1 seconds")
        if key is not None and not callable(key) and not (isinstance(key, str) and key):
            raise ArgumentError(f"key is {key!r}", hint="give a name, or a function")
        if not 0 <= lock_timeout <= LOCK_TIMEOUT_S_MAX:
            raise ArgumentError(f"lock_timeout is {lock_timeout!r}", hint="give seconds, 0 or more")
        self.ttl_s = ttl
        self.lock_timeout_s = lock_timeout
        self.stale_s = stale
        self.lifetime_s = None if ttl is None else ttl + stale
        self.key = key
        self.codec = resolve_codec(codec)

    def fresh_until_us(self) -> tuple[int, int]:
        """Return now and the end of freshness of a result computed now, in us since the epoch."""
        now_us = time.time_ns() // 1000
        assert self.ttl_s is not None
        return now_us, now_us + int(self.ttl_s * MICROSECONDS)
