"""Every operation of the API once, and what each may raise while the disk is sick."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from support.model import make_value

from edgecache import Storage
from edgecache.errors import DeadlineError, DiskIOError, EdgeCacheError, NoSpaceError
from edgecache.meta import Meta

# What asks for durability, and nothing else, tells of a sick disk.
DURABLE = (DiskIOError, NoSpaceError, DeadlineError)
# What writes or reads an object says by its own errors that a part is not there.
PARTS = (EdgeCacheError,)
NOTHING: tuple[type[Exception], ...] = ()


def _stream(store: Storage, key: bytes, value: bytes) -> None:
    with store.get_miss_handler(key) as miss:
        for start in range(0, len(value), 50_000):
            miss.write(value[start : start + 50_000])
        miss.finish()


def _look(store: Storage, key: bytes) -> bytes | None:
    hit = store.lookup(key)
    if hit is None:
        return None
    with hit:
        return b"".join(hit)


def _view(store: Storage, key: bytes) -> bytes | None:
    blob = store.view(key)
    if blob is None:
        return None
    with blob:
        return bytes(blob)


def _sparse(store: Storage, key: bytes, value: bytes) -> None:
    store.create_sparse(key, len(value))
    store.write_range(key, 0, value[: len(value) // 2])
    store.availability(key)
    store.read_range(key, 0, 10)
    store.write_range(key, len(value) // 2, value[len(value) // 2 :])
    store.finalize(key)


def operations(
    store: Storage, key: bytes, value: bytes
) -> list[tuple[str, Callable[[], Any], tuple[type[Exception], ...]]]:
    """(name, call, what it may raise) of every operation, on this key."""
    buffer = bytearray(1 << 20)
    meta = Meta(created=1, updated=1, tags=("tag",))
    return [
        ("put", lambda: store.put(key, value), NOTHING),
        ("put with tags", lambda: store.put(key, value, ttl=3600, tags=["tag"]), NOTHING),
        ("put of an object", lambda: store.put(b"object", value * 20), NOTHING),
        ("put_many", lambda: store.put_many({key: value, b"many": value}), NOTHING),
        ("get", lambda: store.get(key), NOTHING),
        ("get of an object", lambda: store.get(b"object"), NOTHING),
        ("get_many", lambda: store.get_many([key, b"absent", b"object"]), NOTHING),
        ("get_entry", lambda: store.get_entry(key), NOTHING),
        ("view", lambda: _view(store, key), NOTHING),
        ("readinto", lambda: store.readinto(key, buffer), NOTHING),
        ("exists", lambda: store.exists(key), NOTHING),
        ("touch", lambda: store.touch(key, 60), NOTHING),
        ("prefetch", lambda: store.prefetch([key, b"many"]), NOTHING),
        ("lookup", lambda: _look(store, key), PARTS),
        ("get_miss_handler", lambda: _stream(store, b"stream", value * 20), PARTS),
        ("sparse object", lambda: _sparse(store, b"sparse", value * 20), PARTS),
        ("update_meta", lambda: store.update_meta(key, meta), PARTS),
        ("delete", lambda: store.delete(b"many"), NOTHING),
        ("delete_many", lambda: store.delete_many([b"many", b"absent"]), NOTHING),
        ("purge", lambda: store.purge(b"sparse"), NOTHING),
        ("purge_tag", lambda: store.purge_tag("tag", soft=True), DURABLE),
        ("delete_prefix", lambda: store.delete_prefix(b"str"), DURABLE),
        ("memoize", lambda: store.memoize(key="f", codec="json")(lambda: 1)(), NOTHING),
        ("stats", lambda: store.stats(), NOTHING),
        ("health", lambda: store.health(), NOTHING),
        ("flush", lambda: store.flush(), DURABLE),
        ("checkpoint", lambda: store.checkpoint(), DURABLE),
        ("scrub", lambda: store.scrub(), DURABLE),
        ("sync", lambda: store.sync(), (*DURABLE, EdgeCacheError)),
    ]


def use_everything(store: Storage, rng: random.Random) -> list[str]:
    """Call every operation; what they raised that they must not."""
    wrong = []
    key = b"every-%d" % rng.randrange(10**6)
    value = make_value(key, rng.randrange(1000), rng.choice((100, 5000, 40_000)))
    for name, call, allowed in operations(store, key, value):
        try:
            call()
        except allowed:
            pass
        except Exception as error:
            wrong.append(f"{name} raised {type(error).__module__}.{type(error).__name__}: {error}")
    return wrong
