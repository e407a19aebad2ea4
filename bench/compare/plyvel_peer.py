"""LevelDB through plyvel, no compression; the log is written but not synced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plyvel


class PlyvelPeer:
    def __init__(self, path: Path | str) -> None:
        self.database = plyvel.DB(str(path), create_if_missing=True, compression=None)
        self.get = self.database.get
        self.put = self.database.put

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.database.close()


def open_peer(path: Path | str, **_: Any) -> PlyvelPeer:
    return PlyvelPeer(path)
