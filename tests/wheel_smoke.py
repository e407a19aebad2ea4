"""What an installed wheel must do, outside of any source tree: `make wheel-check` runs it.

No test of the suite: it imports nothing but the package and what that depends on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import edgecache

COUNT = 3000


def value_of(number: int) -> bytes:
    return b"%d" % number * 200


def put_and_find_again(root: str, kind: str) -> str:
    """More than RAM holds, over a reopening; the engine that ran."""
    keys = [f"key-{number}" for number in range(COUNT)]
    values = [value_of(number) for number in range(COUNT)]
    with edgecache.open(root, memory="2MiB", disk="64MiB", io=kind) as store:
        assert all(store.put(key, value) for key, value in zip(keys, values, strict=True))
        store.sync()
    with edgecache.open(root, memory="2MiB", disk="64MiB", io=kind) as store:
        assert store.get_many(keys) == values
        assert store.get(keys[5]) == values[5]
        assert store.health().status == "ok", store.health()
        engine = store.stats()["engine"]
        return f"{engine['io']} {engine['io_fallback_reason']}"


async def put_and_get(root: str) -> None:
    config = edgecache.Config(root=root, memory="2MiB", disk="64MiB")
    async with edgecache.AsyncStorage(config) as store:
        assert await store.put("key", b"value")
        assert await store.get("key") == b"value"


def main() -> None:
    installed = Path(edgecache.__file__).resolve()
    assert Path(sys.prefix).resolve() in installed.parents, f"{installed} is not the installed one"
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as base:
        found = [put_and_find_again(f"{base}/{kind}", kind) for kind in ("auto", "threads")]
        asyncio.run(put_and_get(f"{base}/async"))
    print(f"edgecache {edgecache.__version__} works as installed: {', '.join(found)}")


if __name__ == "__main__":
    main()
