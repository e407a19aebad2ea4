"""A process that is to be killed: `kill_child.py <root> <engine> <seed> <first number> <layout>`.

Says on its standard output what it is about to do, one line each (`p key number size`, `d key`, `s`
for a sync), and `=` when that was done (`!`: shed). A line that was not written never counts.
"""

from __future__ import annotations

import os
import random
import sys

from support.model import KIB, MIB, any_size, make_value, open_core, options

from edgecache._io import open_engine

STORE = options(region_bytes=128 * KIB, disk_bytes=8 * MIB, checkpoint_interval_s=0.03)


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def main() -> None:
    root, engine, seed, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    layout = sys.argv[5]
    rng = random.Random(seed)
    core = open_core(STORE, open_engine(engine, root), layout)
    say("open")
    while True:
        key = b"key-%d" % rng.randrange(40)
        kind = rng.random()
        number += 1
        if kind < 0.7:
            size = any_size(rng)
            say(f"p {key.decode()} {number} {size}")
            say("=" if core.put(key, make_value(key, number, size)) else "!")
        elif kind < 0.85:
            say(f"d {key.decode()}")
            core.delete(key)
            say("=")
        elif kind < 0.95:
            core.put(b"churn-%d" % number, bytes(rng.randint(100, 30_000)))
        else:
            say("s")
            core.sync()
            say("=")


if __name__ == "__main__":
    main()
