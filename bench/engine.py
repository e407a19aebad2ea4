"""How the benches open a store: one place, so that every side gets the same settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import edgecache

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

ENGINES = ("uring", "threads")


def open_store(root: Path | str | None, **options: Any) -> Any:
    """Open a `Storage`; `engine` is the I/O engine, everything else a field of `Config`."""
    if "engine" in options:
        options["io"] = options.pop("engine")
    if root is None:
        options["disk"] = 0
    else:
        os.makedirs(root, exist_ok=True)
    return edgecache.open(root, **options)


async def open_async(root: Path | str, **options: Any) -> Any:
    """As `open_store`, an `AsyncStorage`."""
    if "engine" in options:
        options["io"] = options.pop("engine")
    os.makedirs(root, exist_ok=True)
    return await edgecache.AsyncStorage.open(edgecache.Config.from_options(root, **options))


def engine_report(root: Path | str, engine: str) -> str:
    """Name of the engine that `engine` means here; a named reason when it cannot run."""
    from edgecache._io import open_engine
    from edgecache.errors import EngineUnavailableError

    try:
        opened = open_engine(engine, str(root))
    except EngineUnavailableError as error:
        return f"not available: {error}"
    try:
        reason = opened.fallback_reason
        return opened.name + (f" ({reason})" if reason else "")
    finally:
        opened.close()


def counters(store: Any) -> dict[str, Any]:
    """The native counters of a store, by name."""
    found: dict[str, Any] = store.counters()
    return found
