"""A store next to a model of what it may answer.

The model keeps every version of a key in order. What a get may return:

1. Live: the newest version, or a miss (evicted). Never an older one, never anything else.
2. After a crash: any version from the newest one that a sync covered on, or a miss.
3. What a get saw after a crash is the newest version from then on: nothing goes back behind it.
4. A put that returned False left the earlier version or none; after a crash also its own value.

Allowed differences of store and model: a miss for a key that the model has (eviction, shedding).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from edgecache._core import Core
from edgecache._io import IoEngine, open_engine
from edgecache.errors import DiskIOError, NoSpaceError
from edgecache.files import FileTier

KIB = 1024
MIB = 1024 * KIB


def options(**changes: Any) -> dict[str, Any]:
    """Final options of a small store: regions of 256 KiB, hardly any RAM."""
    found: dict[str, Any] = {
        "memory_bytes": 2 * MIB,
        "disk_bytes": 8 * MIB,
        "region_bytes": 256 * KIB,
        "shards": 1,
        "policy": "s3fifo",
        "front_bytes": 16 * KIB,
        "buffer_bytes": 64 * KIB,
        "buffer_count": 6,
        "flush_interval_s": 0.005,
        "block": True,
        "block_timeout_s": 2.0,
        "max_object_bytes": 64 * MIB,
        "checkpoint_interval_s": 3600,
        "small_share": 0.1,
        "reinsert": True,
        "write_budget_bytes": 0,
        "namespace": b"",
        "default_ttl_s": None,
        "queue_depth": 16,
        "locked_bytes": 0,
        "direct": True,
        "progress": None,
    }
    found.update(changes)
    return found


def open_core(store: dict[str, Any], engine: IoEngine, layout: str = "log") -> Core:
    """A store of either layout over an engine."""
    if layout == "log":
        return Core(store, engine)
    tier = FileTier(
        engine,
        budget_bytes=store["disk_bytes"],
        namespace=store["namespace"],
        flush_interval_s=store["flush_interval_s"],
        block_timeout_s=store["block_timeout_s"],
        order_interval_s=store["checkpoint_interval_s"],
    )
    return Core({**store, "lower": tier, "seed": tier.seed}, None)


def until(condition: Callable[[], object], touch: Callable[[], object] | None = None) -> None:
    """Wait for a background thread; touches the store meanwhile. Fails if it never happens."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the store did not get there"
        if touch is None:
            time.sleep(0.001)
        else:
            touch()


class WrongAnswerError(AssertionError):
    """The store answered what the model forbids."""


class Version:
    """One value of a key, None for a delete."""

    __slots__ = ("expired", "value")

    def __init__(self, value: bytes | None, expired: bool = False) -> None:
        self.value = value
        self.expired = expired

    @property
    def seen(self) -> bytes | None:
        return None if self.expired else self.value


class Model:
    """Versions of all keys, and how much of them a sync covered."""

    def __init__(self) -> None:
        self.versions: dict[bytes, list[Version]] = {}
        self.floor: dict[bytes, int] = {}  # oldest version that a get may return
        self.synced: dict[bytes, int] = {}  # newest version that a sync covered
        self.crashed: set[bytes] = set()  # keys whose state after a crash was not seen yet
        self.wrong = 0

    def add(self, key: bytes, value: bytes | None, *, expired: bool = False) -> None:
        history = self.versions.setdefault(key, [Version(None)])
        history.append(Version(value, expired))
        self.floor[key] = len(history) - 1
        self.crashed.discard(key)

    def add_shed(self, key: bytes, value: bytes) -> None:
        """A put returned False: the version before it stays, and its own may survive a crash."""
        history = self.versions.setdefault(key, [Version(None)])
        floor = self.floor.get(key, 0)
        kept = history[-1]
        history[-1:] = [kept, Version(value), Version(kept.value, kept.expired)]
        self.floor[key] = floor if key in self.crashed else len(history) - 1

    def sync(self) -> None:
        for key, history in self.versions.items():
            if key in self.crashed:
                # Not seen since the crash: whichever version is there is durable now as before.
                continue
            self.synced[key] = len(history) - 1

    def crash(self) -> None:
        for key in self.versions:
            self.floor[key] = self.synced.get(key, 0)
            self.crashed.add(key)

    def check(self, key: bytes, found: bytes | None) -> None:
        history = self.versions.get(key)
        if history is None:
            if found is not None:
                raise WrongAnswerError(f"{key!r} was never put, and holds {describe(found)}")
            return
        if found is None:
            return
        floor = self.floor[key]
        for index in range(len(history) - 1, floor - 1, -1):
            if history[index].seen == found:
                if key in self.crashed:
                    # Behind this nothing goes back; what came later never happened.
                    del history[index + 1 :]
                    self.floor[key] = index
                    self.synced[key] = max(index, self.synced.get(key, 0))
                    self.crashed.discard(key)
                return
        older = [index for index, v in enumerate(history) if v.value == found]
        raise WrongAnswerError(
            f"{key!r} returned {describe(found)}: version {older} of {len(history) - 1}, "
            f"allowed from {floor} on, synced {self.synced.get(key)}, "
            f"{'after a crash' if key in self.crashed else 'live'}; newest "
            f"{describe(history[-1].value)}, expired {[v.expired for v in history]}"
        )


def describe(value: bytes | None) -> str:
    return "nothing" if value is None else f"{len(value)} bytes {value[:24]!r}"


def make_value(key: bytes, number: int, size: int) -> bytes:
    """A value that names its key and number, and is different in every byte range."""
    head = b"%b#%d#" % (key, number)
    if size <= len(head):
        return head[: max(size, 1)] if size > len(head) // 2 else head
    body = random.Random(number * 1_000_003 + len(key)).randbytes(min(size - len(head), 4096))
    return (head + body * (size // max(1, len(body)) + 1))[:size]


def any_size(rng: random.Random, large: bool = True) -> int:
    kind = rng.random()
    if kind < 0.5:
        return rng.randint(1, 400)
    if kind < 0.8:
        return rng.randint(400, 6000)
    if kind < 0.95 or not large:
        return rng.randint(6000, 50_000)
    return rng.randint(60_000, 200_000)


class Tortured:
    """A store over a memory disk or a directory, checked against a model at every get."""

    def __init__(
        self, seed: int, *, kind: str = "memory", root: Any = None, disk: Any = None,
        keys: int = 60, store: dict[str, Any] | None = None, layout: str = "log",
    ) -> None:  # fmt: skip
        self.layout = layout
        self.rng = random.Random(seed)
        self.seed = seed
        self.kind, self.root, self.disk = kind, root, disk
        self.store_options = store or options()
        self.keys = [b"key-%d" % number + b"." * (number % 40) for number in range(keys)]
        self.model = Model()
        self.number = 0
        self.hits = self.misses = self.shed = 0
        self.core: Any = None
        self.open()

    def open(self) -> None:
        if self.kind == "memory":
            engine = open_engine("memory", disk=self.disk)
        else:
            engine = open_engine(self.kind, self.root)
        self.core = open_core(self.store_options, engine, self.layout)

    # One operation each

    def put(self, key: bytes, size: int, ttl: float | None = None) -> None:
        self.number += 1
        value = make_value(key, self.number, size)
        if self.core.put(key, value, ttl=ttl):
            self.model.add(key, value, expired=ttl == 0)
        else:
            self.shed += 1
            self.model.add_shed(key, value)

    def delete(self, key: bytes) -> None:
        self.core.delete(key)
        self.model.add(key, None)

    def get(self, key: bytes) -> None:
        self.seen(key, self.core.get(key))

    def seen(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
        try:
            self.model.check(key, value)
        except WrongAnswerError as error:
            raise WrongAnswerError(f"seed {self.seed}: {error}") from None

    def get_many(self, keys: Iterable[bytes]) -> None:
        wanted = list(keys)
        for key, value in zip(wanted, self.core.get_many(wanted), strict=True):
            self.seen(key, value)

    def sync(self) -> bool:
        try:
            self.core.sync()
        except (DiskIOError, NoSpaceError):
            return False
        self.model.sync()
        return True

    def check_all(self) -> None:
        for key in self.keys:
            self.get(key)
        assert self.core.check() == []

    def crash(self) -> None:
        self.core.abandon()
        self.model.crash()

    def reopen(self) -> None:
        """A clean close loses nothing but what a disk of this size cannot hold."""
        self.core.close()
        self.open()

    def step(self) -> None:
        """One random operation."""
        rng = self.rng
        key = rng.choice(self.keys)
        kind = rng.random()
        if kind < 0.45:
            self.put(key, any_size(rng))
        elif kind < 0.48:
            self.put(key, any_size(rng, large=False), ttl=rng.choice((0, 0, 3600)))
        elif kind < 0.56:
            self.delete(key)
        elif kind < 0.90:
            self.get(key)
        elif kind < 0.94:
            self.get_many(rng.sample(self.keys, min(12, len(self.keys))))
        elif kind < 0.97:
            self.sync()
        elif kind < 0.985:
            self.core.flush()
        elif kind < 0.99:
            self.core.checkpoint()
        else:
            self.churn(rng.randint(5, 60))

    def churn(self, count: int) -> None:
        """Puts of keys that nobody asks for: they make reclaim run."""
        for _ in range(count):
            self.number += 1
            self.core.put(b"churn-%d" % self.number, bytes(self.rng.randint(100, 20_000)))
