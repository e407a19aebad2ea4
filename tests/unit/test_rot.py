"""Whatever the files turn into, a store opens, and a get is right or a miss.

The stores are closed cleanly or abandoned first. Single flipped bits must never bring an
overwritten or deleted value back. Where whole pages or files go, what they knew about older
versions goes too, unless a checkpoint knows it as well: a clean close leaves nothing to replay.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from support.images import LONG, flip, open_on, put_image, take_image
from support.model import KIB, MIB, make_value, options

from edgecache._io_memory import MemoryDisk

STORE = options(region_bytes=128 * KIB, disk_bytes=2 * MIB, buffer_bytes=32 * KIB)
FLIPS = 3000 if LONG else 330
Image = dict[bytes, bytes]
Expected = dict[bytes, set[bytes]]


def build(*, clean: bool, seed: int = 1) -> tuple[Image, dict[bytes, bytes], Expected]:
    """An image with overwritten and deleted keys; newest values, and all that each key ever had."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    newest: dict[bytes, bytes] = {}
    ever: Expected = {}
    for number in range(900):
        key = b"key-%d" % rng.randrange(500)
        if number % 9 == 8:
            core.delete(key)
            newest.pop(key, None)
        else:
            value = make_value(key, number, rng.choice((20, 300, 1500, 5000)))
            assert core.put(key, value)
            newest[key] = value
            ever.setdefault(key, set()).add(value)
        if number in (300, 600):
            core.checkpoint()
        if number % 50 == 49:
            core.sync()
    core.sync()
    if clean:
        core.close()
    else:
        # Only a block written after a sync tells a recovery that the blocks before it were durable.
        # Until then what does not verify counts as torn, and an older version as the truth.
        core.put(b"after the sync", bytes(100))
        core.flush()
        core.abandon()
    return take_image(disk), newest, ever


@pytest.fixture(scope="module", params=[True, False], ids=["closed", "abandoned"])
def built(request: pytest.FixtureRequest) -> tuple[Image, dict[bytes, bytes], Expected, bool]:
    return (*build(clean=request.param), request.param)


def examine(image: Image, newest: dict[bytes, bytes], allowed: Expected | None = None) -> int:
    """Open, get every key, put, close and open again; returns how many entries are lost."""
    disk = put_image(image)
    core = open_on(disk, STORE)
    lost = 0
    for number in range(500):
        key = b"key-%d" % number
        found = core.get(key)
        if found is None:
            lost += key in newest
        elif allowed is None:
            assert found == newest.get(key), f"{key!r}: {found[:40]!r}"
        else:
            assert found in allowed.get(key, set()), f"{key!r}: {found[:40]!r}"
    assert core.check() == []
    assert core.put(b"later", b"value")
    core.sync()
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"later") == b"value"
    core.close()
    return lost


def test_an_undamaged_image_is_whole(
    built: tuple[Image, dict[bytes, bytes], Expected, bool],
) -> None:
    image, newest, _, _ = built
    assert examine(image, newest) == 0


def test_a_flipped_bit_costs_one_entry_at_most(
    built: tuple[Image, dict[bytes, bytes], Expected, bool],
    record_property: Callable[[str, object], None],
) -> None:
    image, newest, _, _ = built
    rng = random.Random(7)
    used = written_bytes(image)
    lost = []
    for _ in range(FLIPS // 2):
        name = rng.choice(sorted(used))
        bit = rng.randrange(used[name] * 8)
        damaged = {**image, name: flip(image[name], bit)}
        try:
            lost.append(examine(damaged, newest))
        except AssertionError as error:
            raise AssertionError(f"bit {bit} of {name!r}: {error}") from None
    record_property("lost_per_flip", sum(lost) / len(lost))
    assert max(lost) <= 1
    assert sum(lost) > 0, "some bits of records were hit"


def written_bytes(image: Image) -> dict[bytes, int]:
    """How much of each file holds anything: flips in the zeros behind it show little."""
    return {name: len(content.rstrip(b"\0")) for name, content in image.items() if content}


def test_a_flipped_bit_of_each_small_file_costs_nothing(
    built: tuple[Image, dict[bytes, bytes], Expected, bool],
) -> None:
    image, newest, _, _ = built
    rng = random.Random(8)
    for name in sorted(set(image) - {n for n in image if n.startswith(b"data/")}):
        for _ in range(FLIPS // 60):
            content = flip(image[name], rng.randrange(max(1, len(image[name].rstrip(b"\0"))) * 8))
            assert examine({**image, name: content}, newest) == 0, name


@pytest.mark.parametrize("seed", range(120 if LONG else 12))
def test_lost_pages_cost_what_they_held(
    built: tuple[Image, dict[bytes, bytes], Expected, bool], seed: int
) -> None:
    image, newest, ever, is_clean = built
    rng = random.Random(seed)
    used = written_bytes(image)
    name = rng.choice(sorted(used))
    page = rng.randrange(max(1, used[name] // 4096)) * 4096
    filler = rng.choice((bytes(4096), rng.randbytes(4096), image[b"data/00000000.edge"][:4096]))
    content = image[name][:page] + filler + image[name][page + 4096 :]
    examine({**image, name: content}, newest, None if is_clean else ever)


@pytest.mark.parametrize("name", [b"superblock", b"superblock.copy", b"checkpoint.a",
                                  b"checkpoint.b", b"data/00000000.edge"])  # fmt: skip
@pytest.mark.parametrize("kind", ["gone", "empty", "half", "page", "noise", "longer"])
def test_lost_files_cost_what_they_held(
    built: tuple[Image, dict[bytes, bytes], Expected, bool], name: bytes, kind: str
) -> None:
    image, newest, ever, is_clean = built
    changed = dict(image)
    content = changed.pop(name)
    if kind == "empty":
        changed[name] = b""
    elif kind == "half":
        changed[name] = content[: len(content) // 2]
    elif kind == "page":
        changed[name] = content[:4096]
    elif kind == "noise":
        changed[name] = random.Random(1).randbytes(len(content))
    elif kind == "longer":
        changed[name] = content + b"\xff" * 8192
    lost = examine(changed, newest, None if is_clean else ever)
    if name.startswith(b"superblock"):
        assert lost == 0


def test_garbage_files_are_left_alone(
    built: tuple[Image, dict[bytes, bytes], Expected, bool],
) -> None:
    image, newest, _, _ = built
    changed = {**image, b"data/noise": b"x" * 5000, b"data/99999999.edge": b"y" * 9000,
               b"checkpoint.c": b"z"}  # fmt: skip
    assert examine(changed, newest) == 0


def test_old_checkpoints_and_old_regions_never_bring_values_back() -> None:
    """Each file is replaced by what it was earlier in the life of the same root."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    key = b"the key"
    for number in range(40):
        core.put(b"pad-%d" % number, bytes(2000))
    core.put(key, b"old")
    core.close()
    early = take_image(disk)
    core = open_on(disk, STORE)
    for number in range(1200):
        core.put(b"fill-%d" % number, bytes(4000))
    core.put(key, b"new")
    core.delete(key)
    core.close()
    late = take_image(disk)
    for name in sorted(early):
        if early[name] == late.get(name):
            continue
        core = open_on(put_image({**late, name: early[name]}), STORE)
        found = core.get(key)
        core.abandon()
        if name.startswith(b"checkpoint"):
            assert found is None, name
        else:
            # The whole data file went back in time: what it held then is all that is known.
            assert found in (None, b"old"), name


def test_files_of_another_root_are_not_believed() -> None:
    image, newest, _ = build(clean=True, seed=1)
    foreign, _, _ = build(clean=True, seed=2)
    for name in sorted(set(image) - {b"superblock", b"superblock.copy"}):
        lost = examine({**image, name: foreign[name]}, newest)
        assert lost <= len(newest)


def test_both_superblocks_damaged_format_the_root_anew() -> None:
    image, _, _ = build(clean=True)
    for name in (b"superblock", b"superblock.copy"):
        image[name] = flip(image[name], 300)
    disk = put_image(image)
    core = open_on(disk, STORE)
    assert core.counters()["was_reformatted"]
    assert [core.get(b"key-%d" % number) for number in range(500)] == [None] * 500
    core.close()


@pytest.mark.parametrize("evidence", ["block", "checkpoint", "other log"])
def test_rot_of_a_synced_overwrite_is_a_miss_and_never_the_older_version(evidence: str) -> None:
    """Something written later vouches for the block: what fails in it has rotted, and is not torn.

    A byte out of nine of the newer version's block is hit, headers, record and mini-index alike.
    """
    store = {**STORE, "flush_interval_s": 60}
    disk = MemoryDisk()
    core = open_on(disk, store)
    key, old, new = b"key", make_value(b"old", 1, 900), make_value(b"new", 2, 900)
    core.put(key, old)
    core.sync()
    core.put(key, new)
    core.sync()
    if evidence == "checkpoint":
        core.checkpoint()
    elif evidence == "block":
        core.put(b"later", b"value")
        core.flush()
    else:
        # A block of the other kind: a large record has one of its own.
        core.put(b"later", bytes(60_000))
    core.abandon()
    image = take_image(disk)
    name = b"data/00000000.edge"
    start = image[name].index(new) // 4096 * 4096
    rng = random.Random(3)
    answers = {None: 0, new: 0}
    for offset in range(start, start + 4096, 1 if LONG else 9):
        content = flip(image[name], offset * 8 + rng.randrange(8))
        core = open_on(put_image({**image, name: content}), store)
        found = core.get(key)
        assert found in answers, f"byte {offset - start}: an older version"
        answers[found] += 1
        core.abandon()
    assert min(answers.values()) > 40
