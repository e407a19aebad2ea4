"""diskcache: SQLite rows and files; defaults but for a size limit that does not cull."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diskcache


class DiskcachePeer:
    def __init__(self, path: Path | str, size_bytes: int) -> None:
        self.cache = diskcache.Cache(str(path), size_limit=size_bytes)
        self.get = self.cache.get
        self.put = self.cache.set

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.cache.close()


def open_peer(path: Path | str, *, size_bytes: int = 8 << 30, **_: Any) -> DiskcachePeer:
    return DiskcachePeer(path, size_bytes)
