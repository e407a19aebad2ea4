"""Workloads in RAM: hits, views, batches, puts with eviction, resident bytes per entry."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from bench.compare import open_peer
from bench.engine import MIB, open_store
from bench.measure import Sample, Side, Stopwatch, interleave, resident_bytes, sample_in_child
from bench.rows import Row, compare
from bench.workloads import Plan

HOT_KEYS = 1000
VALUE_BYTES = 100
BATCH = 64
LOOP_NOTE = "the loop itself is in both figures"


def key_texts(count: int) -> list[str]:
    return [f"object/{number:010d}" for number in range(count)]


def fresh(texts: Sequence[str]) -> list[str]:
    """Copies whose hash nobody has computed yet (str remembers its hash)."""
    return ["".join((text[:7], text[7:])) for text in texts]


def values(count: int, size_bytes: int, seed: int) -> list[bytes]:
    generator = random.Random(seed)
    return [generator.randbytes(size_bytes) for _ in range(count)]


def filled(plan: Plan, keys: Sequence[str], peers: Sequence[str]) -> dict[str, Any]:
    """Our store and the peers, each with the same entries."""
    stores: dict[str, Any] = {"edgecache": open_store(None, memory=256 * MIB)}
    for name in plan.among(*peers):
        stores[name] = open_peer(name, None, entries=2 * len(keys))
    for key, value in zip(keys, values(len(keys), VALUE_BYTES, plan.seed), strict=True):
        for store in stores.values():
            store.put(key, value)
    return stores


def time_calls(call: Callable[[Any], object], keys: Sequence[Any], passes: int) -> Sample:
    for key in keys[:HOT_KEYS]:
        call(key)
    watch = Stopwatch()
    with watch:
        for _ in range(passes):
            for key in keys:
                call(key)
    return watch.sample(passes * len(keys))


def hot_side(call: Callable[[str], object], keys: Sequence[str], passes: int) -> Side:
    return lambda _: time_calls(call, keys, passes)


def close_all(stores: dict[str, Any]) -> None:
    for store in stores.values():
        store.close()


def get_hot(plan: Plan) -> list[Row]:
    keys = key_texts(HOT_KEYS)
    stores = filled(plan, keys, ("dict", "cachebox"))
    passes = plan.sized(1000, 200)
    samples = interleave(
        {name: hot_side(store.get, keys, passes) for name, store in stores.items()}, plan.repeat
    )
    close_all(stores)
    label = "`get` RAM hit, hot key objects"
    return [
        compare("get_hot", label, "wall ns", samples, "dict", must=1.3, aim=1.1, note=LOOP_NOTE),
        compare("get_hot", label, "wall ns", samples, "cachebox", must=0.9, aim=0.75),
    ]


def get_fresh(plan: Plan) -> list[Row]:
    keys = key_texts(HOT_KEYS)
    stores = filled(plan, keys, ("dict", "cachebox"))
    chunks = plan.sized(60, 12)

    def side(call: Callable[[str], object]) -> Side:
        def measure(_: int) -> Sample:
            watch = Stopwatch()
            for _ in range(chunks):
                batch = [key for _ in range(10) for key in fresh(keys)]
                with watch:
                    for key in batch:
                        call(key)
            return watch.sample(chunks * 10 * HOT_KEYS)

        return measure

    samples = interleave({name: side(store.get) for name, store in stores.items()}, plan.repeat)
    close_all(stores)
    label = "`get` RAM hit, fresh key objects"
    return [
        compare("get_fresh", label, "wall ns", samples, "dict", must=0.8, aim=0.55, note=LOOP_NOTE),
        compare("get_fresh", label, "wall ns", samples, "cachebox", must=0.75, aim=0.5),
    ]


def get_wide(plan: Plan) -> list[Row]:
    keys = key_texts(100_000)
    stores = filled(plan, keys, ("dict", "cachebox"))
    order = list(keys)
    random.Random(plan.seed).shuffle(order)
    samples = interleave(
        {name: hot_side(store.get, order, plan.sized(5, 2)) for name, store in stores.items()},
        plan.repeat,
    )
    close_all(stores)
    label = "`get` RAM hit, 100,000 keys in random order"
    return [compare("get_wide", label, "wall ns", samples, peer) for peer in ("dict", "cachebox")]


def view_hot(plan: Plan) -> list[Row]:
    keys = key_texts(HOT_KEYS)
    stores = filled(plan, keys, ("dict",))
    passes = plan.sized(600, 150)
    calls = {name: store.get for name, store in stores.items()}
    calls["edgecache"] = stores["edgecache"].view
    samples = interleave(
        {name: hot_side(call, keys, passes) for name, call in calls.items()}, plan.repeat
    )
    calls.clear()
    close_all(stores)
    label = "`view` RAM hit, released at once"
    return [
        compare("view_hot", label, "wall ns", samples, "dict", must=2.0, aim=1.5, note=LOOP_NOTE)
    ]


def get_many_hot(plan: Plan) -> list[Row]:
    keys = key_texts(BATCH * 16)
    stores = filled(plan, keys, ("dict",))
    batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
    passes = plan.sized(800, 200)

    def one_by_one(get: Callable[[str], object]) -> Callable[[list[str]], object]:
        return lambda batch: [get(key) for key in batch]

    def side(call: Callable[[list[str]], object]) -> Side:
        def measure(_: int) -> Sample:
            found = time_calls(call, batches, passes)
            return Sample(found.operations * BATCH, found.wall_s, found.cpu_s)

        return measure

    sides = {"edgecache": side(stores["edgecache"].get_many)}
    if "dict" in stores:
        sides["dict"] = side(one_by_one(stores["dict"].get))
    samples = interleave(sides, plan.repeat)
    close_all(stores)
    label = "`get_many(64)` per key; the peer is a list of `dict.get`"
    return [compare("get_many_hot", label, "wall ns", samples, "dict", must=0.9, aim=0.6)]


def put_evict(plan: Plan) -> list[Row]:
    memory = 64 * MIB
    entries = memory // 1024
    pool = values(1000, 1024, plan.seed)
    count = plan.sized(100_000, 40_000)

    def side(put: Callable[[str, bytes], object]) -> Side:
        state = {"next": 0}

        def batch(size: int) -> list[tuple[str, bytes]]:
            first = state["next"]
            state["next"] += size
            return [(f"object/{n:010d}", pool[n % 1000]) for n in range(first, first + size)]

        for key, value in batch(entries + entries // 4):
            put(key, value)

        def measure(_: int) -> Sample:
            items = batch(count)
            watch = Stopwatch()
            with watch:
                for key, value in items:
                    put(key, value)
            return watch.sample(count)

        return measure

    store = open_store(None, memory=memory)
    stores: dict[str, Any] = {"edgecache": store}
    for name in plan.among("cachebox"):
        stores[name] = open_peer(name, None, entries=entries)
    samples = interleave({name: side(peer.put) for name, peer in stores.items()}, plan.repeat)
    close_all(stores)
    return [
        compare(
            "put_evict",
            "put at capacity with eviction, 1 KiB",
            "wall ns",
            samples,
            "cachebox",
            must=1.5,
            aim=1.0,
            note="ours copies the value, the peer (LRU) keeps a reference",
        )
    ]


def rss_of(side: str, count: int, seed: int) -> Sample:
    """Child: resident bytes per entry of 16-byte key and 107-byte value, all objects new."""
    generator = random.Random(seed)
    memory = max(64 * MIB, count * 320)
    store: Any = (
        open_store(None, memory=memory)
        if side == "edgecache"
        else open_peer(side, None, entries=2 * count)
    )
    put = store.put
    put(b"warm", generator.randbytes(107))
    watch = Stopwatch()
    before = resident_bytes()
    with watch:
        for number in range(count):
            put(b"key/%012d" % number, generator.randbytes(107))
    grown = resident_bytes() - before
    held = sum(store.get(b"key/%012d" % n) is not None for n in range(0, count, 97))
    if held != len(range(0, count, 97)):
        raise RuntimeError(f"{side} kept {held} of the sampled entries")
    return watch.sample(count, entry_bytes=grown / count)


def rss_small(plan: Plan) -> list[Row]:
    count = plan.sized(400_000, 100_000)
    sides: dict[str, Side] = {}
    for name in ["edgecache", *plan.among("cachebox", "dict")]:
        sides[name] = lambda _, side=name: sample_in_child(
            "bench.ram:rss_of", side=side, count=count, seed=plan.seed
        )
    samples = interleave(sides, min(plan.repeat, 3))
    rows = []
    for peer, must, aim in (("cachebox", 0.75, 0.58), ("dict", None, None)):
        theirs = samples.get(peer, [])
        rows.append(
            Row(
                "rss_small",
                "RSS per 123 B entry",
                "bytes",
                [s.extra["entry_bytes"] for s in samples["edgecache"]],
                peer,
                [s.extra["entry_bytes"] for s in theirs],
                must,
                aim,
                note="" if theirs else f"{peer} is not installed",
            )
        )
    return rows
