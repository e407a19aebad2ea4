"""Other engines, each in a module of its own that is imported only when it is measured.

A peer is a module with `open_peer(path, **options)`; what it returns has `get`, `put`, `flush` and
`close`. Where the peer's own call is callable as it is (`dict.get`), the attribute is that call, so
that no wrapper is measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

# Name to the distribution or program that must be there; "" is always there.
PEERS: dict[str, str] = {
    "dict": "",
    "cachebox": "cachebox",
    "diskcache": "diskcache",
    "lmdb": "lmdb",
    "rocksdict": "rocksdict",
    "plyvel": "plyvel",
    "sqlite": "",
    "fio": "fio",
}


def is_installed(name: str) -> bool:
    """Whether a peer can be measured here."""
    needed = PEERS[name]
    if not needed:
        return True
    if name == "fio":
        return shutil.which("fio") is not None
    return importlib.util.find_spec(needed) is not None


def open_peer(name: str, path: Path | str | None, **options: Any) -> Any:
    """Open a peer over a directory (None for those that live in RAM)."""
    if name not in PEERS or name == "fio":
        raise ValueError(f"no peer {name!r}")
    module = importlib.import_module(f"bench.compare.{name}_peer")
    if path is not None:
        Path(path).mkdir(parents=True, exist_ok=True)
    return module.open_peer(path, **options)
