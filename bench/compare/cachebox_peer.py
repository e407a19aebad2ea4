"""cachebox: caches in Rust that hold references to Python objects, bounded by entries."""

from __future__ import annotations

from typing import Any

import cachebox


class CacheboxPeer:
    def __init__(self, entries: int, policy: str) -> None:
        self.cache = getattr(cachebox, policy)(entries)
        self.get = self.cache.get
        self.put = self.cache.insert

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.cache.clear()


def open_peer(
    path: object, *, entries: int = 0, policy: str = "LRUCache", **_: Any
) -> CacheboxPeer:
    return CacheboxPeer(entries, policy)
