"""fuzz: mutated inputs for everything that reads bytes from outside (`fuzz.targets`).

Files of the corpus are replayed first. Then good inputs are mutated: bits, integers at their edges,
pieces cut, doubled and moved. `python -m fuzz.guided` does the same guided by coverage.
"""

from __future__ import annotations

import random
import time

from fuzz.guided import CORPUS
from fuzz.targets import TARGETS, seeds

from torture.campaign import Row, Run

INPUT_S_MAX = 5.0
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutate(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    # Half of a file is zeros behind what was written: aim where something is.
    used = len(data.rstrip(b"\0")) or 1
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(used, len(found)) or 1)
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(EDGES) & (1 << 8 * size) - 1
            found[at : at + size] = value.to_bytes(size, "little")
        elif kind == 2:
            found[at : at + rng.randrange(16)] = b""
        elif kind == 3:
            found[at:at] = rng.randbytes(rng.randrange(1, 16))
        elif kind == 4:
            size = rng.choice((1, 8, 64, 4096))
            source = rng.randrange(len(found) or 1)
            found[at : at + size] = found[source : source + size]
        else:
            del found[rng.randrange(len(found) + 1) :]
    return bytes(found)


def replay(run: Run) -> int:
    """The files of the corpus; how many there are."""
    paths = sorted(path for path in CORPUS.glob("*/*") if path.parent.name in TARGETS)
    for path in paths:
        with run.judged(run.first):
            try:
                TARGETS[path.parent.name](path.read_bytes())
            except Exception as error:
                raise AssertionError(f"{path.parent.name}/{path.name}: {error!r}") from error
    return len(paths)


def fuzz(run: Run) -> str:
    names = list(TARGETS)
    good = seeds()
    replayed = replay(run)
    slowest_s = 0.0
    for number in run.numbers():
        rng = run.random(number)
        name = names[number % len(names)]
        data = mutate(rng.choice(good[name]), rng)
        begin = time.monotonic()
        with run.judged(number):
            try:
                TARGETS[name](data)
            except Exception as error:
                kept = data.hex() if len(data) < 300 else f"{len(data)} bytes"
                raise AssertionError(f"{name}: {type(error).__name__}: {error}; {kept}") from error
            taken_s = time.monotonic() - begin
            slowest_s = max(slowest_s, taken_s)
            assert taken_s < INPUT_S_MAX, f"{name} took {taken_s:.1f} s"
    run.outcome.facts.update(targets=names, slowest_s=slowest_s, replayed=replayed)
    return f"{len(names)} targets, {replayed} of the corpus replayed, slowest {slowest_s:.2f} s"


ROW = Row(
    "fuzz",
    "mutated metas, heads, keys, configurations, arenas and files of a root, sums made good",
    "a typed error or a miss; no crash, no hang, nothing wrong",
    short=700,
    long=200_000,
    run=fuzz,
)
