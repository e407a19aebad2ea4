"""Prepared answers, by the exact bytes of requests.

Invariants:

1. An answer is used only while the store still holds the version of the entry that it was made of,
   and while that is fresh.
2. The prepared answers hold no more bytes than their budget.

*Cost* of a hit: one dictionary lookup, one look at the entry's version in RAM.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING

from edgecache.http.response import Response
from edgecache.proxy.asking import Asked
from edgecache.proxy.entries import Entry, Library, age_us_of
from edgecache.proxy.rendering import NO_NOTE, Dressed, Renderer, status_line
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.reuse import Action, Reuse

if TYPE_CHECKING:
    from edgecache.http.request import Request

ENTRY_COST_BYTES = 1_024
JOIN_BYTES_MAX = 32_768
Key = tuple[bytes, bytes, bytes, str]


class Prepared:
    """An answer of an entry, made anew every second: its Age and ttl change.

    `until_us` is when it must be made anew, or is not fresh any more.
    """

    __slots__ = (
        "asked", "cost_bytes", "dressed", "entry", "key", "memo", "response", "until_us", "version",
    )  # fmt: skip

    def __init__(
        self, memo: Memo, asked: Asked, entry: Entry, dressed: Dressed, cost_bytes: int
    ) -> None:
        self.asked = asked
        self.entry = entry
        self.key = entry.key
        self.version = 0 if entry.version is None else entry.version[0]
        self.dressed = dressed
        self.cost_bytes = cost_bytes
        self.until_us = 0
        self.response: Response
        self.memo = memo

    def again(self) -> Response | None:
        """Return the answer while it is good, else None."""
        memo = self.memo
        if memo.version_of(self.key) != self.version:
            return None
        now = time_ns() // 1000
        if now < self.until_us:
            memo.hit_count += 1
            return self.response
        return memo.renewed(self, now)


class Memo:
    """The prepared answers of a proxy.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_budget_bytes", "_bytes", "_entries", "_renderer", "hit_count", "version_of")

    def __init__(self, library: Library, renderer: Renderer, budget_bytes: int) -> None:
        self.version_of = library.store.storage.version_in_memory
        self._renderer = renderer
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._entries: dict[Key, Prepared] = {}
        self.hit_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, request: Request) -> Response | None:
        """Return the prepared answer to a request, None without a usable one."""
        key = (request.target, request.block.raw, request.method, request.scheme)
        prepared = self._entries.get(key)
        if prepared is None:
            return None
        response = prepared.again()
        if response is None:
            self._drop(key)
        return response

    def renewed(self, prepared: Prepared, now: int) -> Response | None:
        """Return the answer of another second; None when it is fresh no more."""
        if now < prepared.entry.policy.fresh_until_us:
            return self._render(prepared, now)
        return None

    def _render(self, prepared: Prepared, now: int) -> Response:
        entry = prepared.entry
        policy = entry.policy
        age_us = age_us_of(policy, now)
        age_s = age_us // SECOND_US
        left_s = max(0, policy.fresh_until_us - now) // SECOND_US
        reuse = Reuse(Action.HIT, b"", age_s, left_s)
        added = self._renderer.added(prepared.asked, prepared.dressed, reuse, NO_NOTE)
        body = entry.body or b""
        lines = b"Age: %d\r\n" % age_s + added
        if policy.status not in (204, 304):
            lines += b"Content-Length: %d\r\n" % len(body)
        if prepared.asked.method == b"HEAD":
            body = b""
        head = status_line(policy.status) + prepared.dressed.lines + lines
        response = Response.ready(policy.status, head, body)
        response.has_date = True
        response.again = prepared.again
        # One piece where a copy costs less than a second buffer does.
        ending = head + b"\r\n"
        is_short = len(body) <= JOIN_BYTES_MAX
        response.wire = (ending + body,) if is_short else (ending, body)
        prepared.response = response
        next_us = now + SECOND_US - age_us % SECOND_US
        prepared.until_us = min(next_us, policy.fresh_until_us)
        return prepared.response

    def add(self, asked: Asked, entry: Entry) -> Response:
        """Prepare the answer to a request that asks nothing in particular; returns it."""
        dressed = self._renderer.dress(entry.stored.headers, entry.policy.flags)
        cost_bytes = ENTRY_COST_BYTES + len(entry.stored.wire) * 2 + entry.size
        cost_bytes += len(asked.target) + len(asked.request.block.raw)
        prepared = Prepared(self, asked, entry, dressed, cost_bytes)
        response = self._render(prepared, time_ns() // 1000)
        if entry.version is None or cost_bytes > self._budget_bytes // 8:
            return response
        request = asked.request
        key = (request.target, request.block.raw, request.method, request.scheme)
        self._drop(key)
        self._entries[key] = prepared
        self._bytes += cost_bytes
        while self._bytes > self._budget_bytes:
            self._drop(next(iter(self._entries)))
        return response

    def _drop(self, key: Key) -> None:
        prepared = self._entries.pop(key, None)
        if prepared is not None:
            self._bytes -= prepared.cost_bytes
