"""SQLite in WAL mode, one row per key; `flush` commits. `sync`: a commit is durable."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any


class SqlitePeer:
    def __init__(self, path: Path | str, sync: bool) -> None:
        self.database = sqlite3.connect(Path(path) / "peer.sqlite", isolation_level=None)
        self.database.execute("pragma journal_mode = wal")
        self.database.execute(f"pragma synchronous = {'full' if sync else 'off'}")
        self.database.execute(
            "create table if not exists entries (key blob primary key, value blob) without rowid"
        )

    def put(self, key: bytes, value: bytes) -> None:
        self.database.execute("insert or replace into entries values (?, ?)", (key, value))

    def get(self, key: bytes) -> bytes | None:
        row = self.database.execute("select value from entries where key = ?", (key,)).fetchone()
        return row[0] if row else None

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.database.close()


def open_peer(path: Path | str, *, sync: bool = False, **_: Any) -> SqlitePeer:
    return SqlitePeer(path, sync)
