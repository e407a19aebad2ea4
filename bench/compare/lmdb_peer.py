"""LMDB: a memory-mapped B+ tree. Puts go into one transaction, unsynced unless asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb


class LmdbPeer:
    """`put` and `get` are those of one open transaction; `flush` commits and begins another."""

    def __init__(self, path: Path | str, size_bytes: int, sync: bool, readahead: bool) -> None:
        self.environment = lmdb.open(
            str(path), map_size=size_bytes, sync=sync, metasync=sync, readahead=readahead
        )
        self._begin(False)

    def _begin(self, read_only: bool) -> None:
        self.transaction = self.environment.begin(write=not read_only)
        self.put = self.transaction.put
        self.get = self.transaction.get

    def flush(self) -> None:
        self.transaction.commit()
        self._begin(False)

    def close(self) -> None:
        self.transaction.commit()
        self.environment.close()

    def read_only(self) -> LmdbPeer:
        self.transaction.commit()
        self._begin(True)
        return self


def open_peer(
    path: Path | str,
    *,
    size_bytes: int = 8 << 30,
    sync: bool = False,
    readahead: bool = True,
    **_: Any,
) -> LmdbPeer:
    return LmdbPeer(path, size_bytes, sync, readahead)
