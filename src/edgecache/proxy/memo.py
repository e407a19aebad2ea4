"""Prepared answers, by the exact bytes of requests.

Invariants:

1. An answer is used only while the store still holds the version of the entry that it was made of,
   and while that is fresh.
2. The prepared answers hold no more bytes than their budget.

*Cost* of a hit: one dictionary lookup, one look at the entry's version in RAM.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from edgecache.http.response import Response
from edgecache.proxy.asking import Asked
from edgecache.proxy.entries import Entry, Library, age_us_of
from edgecache.proxy.rendering import NO_NOTE, Dressed, Renderer, made
from edgecache.rfc9111.reuse import Action, Reuse

if TYPE_CHECKING:
    from edgecache.http.request import Request

ENTRY_COST_BYTES = 1_024
Key = tuple[bytes, bytes, bytes, str]


class Prepared:
    """An answer of an entry, made anew every second: its Age and ttl change."""

    __slots__ = (
        "asked", "cost_bytes", "dressed", "entry", "fresh_until_us", "response", "second",
    )  # fmt: skip

    def __init__(self, asked: Asked, entry: Entry, dressed: Dressed, cost_bytes: int) -> None:
        self.asked = asked
        self.entry = entry
        self.dressed = dressed
        self.cost_bytes = cost_bytes
        self.fresh_until_us = entry.policy.fresh_until_us
        self.second = -1
        self.response: Response | None = None


class Memo:
    """The prepared answers of a proxy.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_budget_bytes", "_bytes", "_entries", "_library", "_needs_disk", "_read_entry",
        "_renderer",
    )  # fmt: skip

    def __init__(self, library: Library, renderer: Renderer, budget_bytes: int) -> None:
        self._library = library
        self._needs_disk = library.store.storage.needs_disk
        self._read_entry = library.store.storage.read_entry
        self._renderer = renderer
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._entries: OrderedDict[Key, Prepared] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, request: Request) -> Response | None:
        """Return the prepared answer to a request, None without a usable one."""
        key = (request.target, request.block.raw, request.method, request.scheme)
        prepared = self._entries.get(key)
        if prepared is None:
            return None
        now = time.time_ns() // 1000
        entry = prepared.entry
        if now >= prepared.fresh_until_us or not self._is_current(entry):
            self._drop(key)
            return None
        second = age_us_of(entry.policy, now) // 1_000_000
        if prepared.second != second or prepared.response is None:
            return self._render(prepared, now, second)
        self._renderer.count("hit")
        return prepared.response

    def _is_current(self, entry: Entry) -> bool:
        if self._needs_disk(entry.key):
            return False
        found = self._read_entry(entry.key)
        return found is not None and found[3:] == entry.version

    def _render(self, prepared: Prepared, now: int, second: int) -> Response:
        entry = prepared.entry
        left_s = (prepared.fresh_until_us - now) // 1_000_000
        reuse = Reuse(Action.HIT, b"", second, left_s)
        added = self._renderer.added(prepared.asked, prepared.dressed, reuse, NO_NOTE)
        body = entry.body or b""
        lines = b"Age: %d\r\n" % max(0, second) + added
        if entry.policy.status not in (204, 304):
            lines += b"Content-Length: %d\r\n" % len(body)
        if prepared.asked.method == b"HEAD":
            body = b""
        prepared.response = made(entry.policy.status, prepared.dressed.lines + lines, body, None)
        prepared.second = second
        return prepared.response

    def add(self, asked: Asked, entry: Entry) -> Response:
        """Prepare the answer to a request that asks nothing in particular; returns it."""
        dressed = self._renderer.dress(entry.stored.headers)
        cost_bytes = ENTRY_COST_BYTES + len(entry.stored.wire) * 2 + entry.size
        cost_bytes += len(asked.target) + len(asked.request.block.raw)
        prepared = Prepared(asked, entry, dressed, cost_bytes)
        now = time.time_ns() // 1000
        response = self._render(prepared, now, age_us_of(entry.policy, now) // 1_000_000)
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
