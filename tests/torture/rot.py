"""rot: bytes of files flipped, files truncated, files and pages swapped with those of other roots.

Images are taken from a root in memory, damaged, and put on a fresh disk. A flipped bit must
cost one entry at most and never show anything but the newest value; where pages or files go, what
they knew about deletes may go too, so there every value that the key ever had is allowed, and a
value that it never had is not. After each: nothing raises, the store takes a put and recovers
once more.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from support.images import flip, open_on, put_image, take_image
from support.model import KIB, MIB, make_value, options

from edgecache._io_memory import MemoryDisk
from torture.campaign import Row, Run

STORE = options(region_bytes=64 * KIB, disk_bytes=MIB, buffer_bytes=32 * KIB)
KEYS = 160
PAGE = 4096


@dataclass
class Built:
    """An image of a root and what its keys hold and ever held."""

    image: dict[bytes, bytes]
    newest: dict[bytes, bytes]
    ever: dict[bytes, set[bytes]]
    is_closed: bool

    @property
    def used(self) -> dict[bytes, int]:
        """How much of each file holds anything."""
        return {name: len(content.rstrip(b"\0")) or 1
                for name, content in self.image.items() if content}  # fmt: skip


@cache
def build(seed: int, is_closed: bool) -> Built:
    """Overwritten and deleted keys over several regions, two checkpoints among them."""
    rng = random.Random(f"image/{seed}")
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    newest: dict[bytes, bytes] = {}
    ever: dict[bytes, set[bytes]] = {}
    for number in range(260):
        key = b"key-%d" % rng.randrange(KEYS)
        if number % 9 == 8:
            core.delete(key)
            newest.pop(key, None)
        else:
            value = make_value(key, seed * 1000 + number, rng.choice((20, 300, 1500, 5000)))
            assert core.put(key, value)
            newest[key] = value
            ever.setdefault(key, set()).add(value)
        if number in (90, 180):
            core.checkpoint()
        if number % 50 == 49:
            core.sync()
    core.sync()
    if is_closed:
        core.close()
    else:
        # Something written after the sync vouches for the blocks before it (docs/format.md).
        core.put(b"after the sync", bytes(100))
        core.flush()
        core.abandon()
    return Built(take_image(disk), newest, ever, is_closed)


def examine(
    image: dict[bytes, bytes], built: Built, allowed: dict[bytes, set[bytes]] | None
) -> int:
    """Open, read every key, put, recover once more; how many entries are lost."""
    disk = put_image(image)
    core = open_on(disk, STORE)
    lost = 0
    for number in range(KEYS):
        key = b"key-%d" % number
        found = core.get(key)
        if found is None:
            lost += key in built.newest
        elif allowed is None:
            assert found == built.newest.get(key), f"{key!r} returned {found[:40]!r}"
        else:
            assert found in allowed.get(key, ()), f"{key!r} returned {found[:40]!r}"
    assert core.check() == []
    assert core.put(b"later", b"value")
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"later") == b"value"
    core.close()
    return lost


def damage_flip(built: Built, rng: random.Random) -> tuple[dict[bytes, bytes], str]:
    used = built.used
    # Half of the flips in a file drawn by its size, half in a file drawn by its name.
    names = sorted(used)
    name = rng.choices(names, [used[n] for n in names])[0] if rng.random() < 0.5 \
        else rng.choice(names)  # fmt: skip
    bit = rng.randrange(used[name] * 8)
    return {**built.image, name: flip(built.image[name], bit)}, f"bit {bit} of {name!r} flipped"


def damage_truncate(built: Built, rng: random.Random) -> tuple[dict[bytes, bytes], str]:
    name = rng.choice(sorted(built.used))
    size = rng.choice((0, rng.randrange(built.used[name] + 1),
                       rng.randrange(built.used[name] // PAGE + 1) * PAGE))  # fmt: skip
    return {**built.image, name: built.image[name][:size]}, f"{name!r} cut to {size} bytes"


def damage_page(built: Built, rng: random.Random) -> tuple[dict[bytes, bytes], str]:
    name = rng.choice(sorted(built.used))
    at = rng.randrange(max(1, built.used[name] // PAGE)) * PAGE
    source = rng.choice(sorted(built.used))
    start = rng.randrange(max(1, built.used[source] // PAGE)) * PAGE
    filler = rng.choice(
        (bytes(PAGE), rng.randbytes(PAGE), built.image[source][start : start + PAGE])
    )
    content = built.image[name]
    return ({**built.image, name: content[:at] + filler + content[at + PAGE:]},
            f"page {at // PAGE} of {name!r} replaced")  # fmt: skip


def damage_swap(built: Built, rng: random.Random) -> tuple[dict[bytes, bytes], str]:
    """Files of this root change places, or one comes from another root."""
    first, second = rng.choice(sorted(built.image)), rng.choice(sorted(built.image))
    image = dict(built.image)
    if rng.random() < 0.5:
        image[first], image[second] = image[second], image[first]
        return image, f"{first!r} and {second!r} swapped"
    image[first] = build(2, built.is_closed).image[second]
    return image, f"{first!r} is {second!r} of another root"


DAMAGES = (damage_flip,) * 7 + (damage_truncate, damage_page, damage_swap)


def rot(run: Run) -> str:
    flips = lost_by_flips = hits = 0
    for is_closed in (True, False):
        built = build(1, is_closed)
        if examine(built.image, built, None) != 0:
            run.violation(run.first, "the undamaged image is not whole")
    for number in run.numbers():
        rng = run.random(number)
        built = build(1, rng.random() < 0.5)
        damage = rng.choice(DAMAGES)
        image, what = damage(built, rng)
        is_flip = damage is damage_flip
        with run.judged(number):
            try:
                lost = examine(image, built, None if is_flip else built.ever)
                assert not is_flip or lost <= 1, f"{lost} entries lost"
            except Exception as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
            hits += len(built.newest) - lost
            if is_flip:
                flips, lost_by_flips = flips + 1, lost_by_flips + lost
    mean = lost_by_flips / max(1, flips)
    run.outcome.facts.update(flips=flips, lost_per_flip=mean, hits=hits)
    return f"{flips} flips at {mean:.2f} entries lost each, the rest files and pages; {hits} hits"


ROW = Row(
    "rot",
    "bits flipped, files truncated, pages and files swapped",
    "a miss, never a wrong byte; at most one entry per flip; opens and heals",
    short=120,
    long=20_000,
    run=rot,
)
