"""A process that is to be killed: `objects_child.py <root> <seed> <layout> <first number>`.

Writes, replaces and deletes objects of few different chunks, and ranges of sparse ones, for ever.
Says on its standard output what it has done: `o key numbers` (an object of these chunks is
published), `d key`, `r key start end` (a range is written), `s` (all of that is durable).
"""

from __future__ import annotations

import os
import random
import sys

import edgecache

CHUNK = 65536
KEYS = ["a", "b", "c", "d", "e"]
SPARSE_CHUNKS = 6


def options(layout: str) -> dict[str, object]:
    return {
        "memory": "4MiB", "disk": "256MiB", "shards": 1, "io": "threads", "chunk_size": CHUNK,
        "checkpoint_interval": 1, "flush_interval": 0.01, "layout": layout,
        **({"share_chunks": True} if layout == "log" else {}),
    }  # fmt: skip


def chunk(number: int) -> bytes:
    return random.Random(number).randbytes(CHUNK)


def body(numbers: list[int]) -> bytes:
    # So that it is longer than a chunk, whatever they are.
    return b"".join([chunk(number) for number in numbers]) + b"."


def sparse_body() -> bytes:
    return random.Random("sparse").randbytes(SPARSE_CHUNKS * CHUNK)


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def main() -> None:
    root, seed, layout, life = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    rng = random.Random(seed)
    store = edgecache.open(root, **options(layout))  # type: ignore[arg-type]
    name = f"sparse{life}"
    store.create_sparse(name, SPARSE_CHUNKS * CHUNK)
    say("open")
    while True:
        key = rng.choice(KEYS)
        kind = rng.random()
        if kind < 0.6:
            numbers = [rng.randrange(8) for _ in range(rng.randint(1, 5))]
            with store.get_miss_handler(key) as miss:
                miss.write(body(numbers))
                if rng.random() < 0.9:
                    miss.finish()
                    say(f"o {key} {','.join(map(str, numbers))}")
        elif kind < 0.75:
            store.delete(key)
            say(f"d {key}")
        elif kind < 0.95:
            start = rng.randrange(SPARSE_CHUNKS * CHUNK)
            end = min(start + rng.randrange(2 * CHUNK), SPARSE_CHUNKS * CHUNK)
            store.write_range(name, start, sparse_body()[start:end])
            say(f"r {name} {start} {end}")
        else:
            store.sync()
            say("s")


if __name__ == "__main__":
    main()
