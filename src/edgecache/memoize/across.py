"""Single flight between processes: what the leader of a flight does where its store has leases.

The leader of each process asks for the lease of the key. One gets it and computes; the others wait,
and find the result in the cache. Errors stay in their process: after one, those who wait compete
for the lease.

Who waits never waits longer than its timeout, so a cycle over several processes ends; one that
would wait for a lease of its own thread computes at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

KIND = 1  # of leases: results of functions

Computed = tuple[bytes, bool]
"""A result, and whether the store took it."""


class Leases(Protocol):
    """The part of `LeaseDesk` that threads need."""

    STORED: int
    RELEASED: int
    FAILED: int
    TIMED_OUT: int

    def take(self, kind: int, key: bytes | str, lifetime_s: float, /) -> tuple[Any, Any]: ...
    def wait(self, wait: Any, timeout_s: float, /) -> int: ...
    def count_hit(self) -> None: ...


class AsyncLeases(Protocol):
    """The part of `LeaseDesk` that tasks need."""

    STORED: int
    RELEASED: int
    FAILED: int
    TIMED_OUT: int

    def take(self, kind: int, key: bytes | str, lifetime_s: float, /) -> tuple[Any, Any]: ...
    async def wait_soon(self, wait: Any, timeout_s: float, /) -> int: ...
    def count_hit(self) -> None: ...


def compute_once(
    leases: Leases,
    key: bytes | str,
    timeout_s: float,
    look_again: Callable[[], bytes | None],
    compute: Callable[[], Computed],
    stale: bytes | None,
) -> bytes:
    """Return the result that this or another process computes.

    Args:
        leases: Of the store.
        key: What is computed.
        timeout_s: The longest wait; and how long others may have to wait for this process.
        look_again: Looks the result up, since another process may have stored it by now.
        compute: Computes and stores it.
        stale: An old result, which is returned where another process computes.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        lease, wait = leases.take(KIND, key, timeout_s)
        if lease is not None:
            outcome = leases.FAILED
            try:
                data = look_again()
                is_stored = True
                if data is None:
                    data, is_stored = compute()
                outcome = leases.STORED if is_stored else leases.RELEASED
                return data
            finally:
                lease.give(outcome)
        if wait is None or wait.is_own_thread:
            return compute()[0]
        if stale is not None:
            return stale
        outcome = leases.wait(wait, end_s - time.monotonic())
        data = None if outcome in (leases.TIMED_OUT, leases.RELEASED) else look_again()
        if data is not None:
            leases.count_hit()
            return data
        if outcome in (leases.TIMED_OUT, leases.RELEASED, leases.STORED):
            # The last: it is not there any more, and would not be there the next time.
            return compute()[0]


async def compute_once_soon(
    leases: AsyncLeases,
    key: bytes | str,
    timeout_s: float,
    look_again: Callable[[], Awaitable[bytes | None]],
    compute: Callable[[], Awaitable[Computed]],
    stale: bytes | None,
) -> bytes:
    """As `compute_once`, for tasks."""
    end_s = time.monotonic() + timeout_s
    while True:
        lease, wait = leases.take(KIND, key, timeout_s)
        if lease is not None:
            outcome = leases.FAILED
            try:
                data = await look_again()
                is_stored = True
                if data is None:
                    data, is_stored = await compute()
                outcome = leases.STORED if is_stored else leases.RELEASED
                return data
            finally:
                lease.give(outcome)
        if wait is None:
            return (await compute())[0]
        if stale is not None:
            return stale
        outcome = await leases.wait_soon(wait, end_s - time.monotonic())
        data = None if outcome in (leases.TIMED_OUT, leases.RELEASED) else await look_again()
        if data is not None:
            leases.count_hit()
            return data
        if outcome in (leases.TIMED_OUT, leases.RELEASED, leases.STORED):
            return (await compute())[0]
