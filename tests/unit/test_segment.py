"""What the log writes is what docs/format.md says, byte by byte, read by a reader of its own."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import xxhash
from support.images import open_on, put_image, take_image
from support.layout import (
    DELETE,
    OVERWRITES,
    Block,
    read_footer,
    read_region,
    read_superblock,
)
from support.model import KIB, MIB, make_value, options, until

from edgecache import _testing_io as io
from edgecache._io_memory import MemoryDisk

STORE = options(region_bytes=128 * KIB, disk_bytes=2 * MIB, buffer_bytes=32 * KIB,
                flush_interval_s=60)  # fmt: skip
GOLDEN = Path(__file__).parents[1] / "format" / "root_v1.json"


def regions_of(image: dict[bytes, bytes]) -> tuple[int, list[bytes]]:
    """Seed and regions."""
    superblock = read_superblock(image[b"superblock"])
    assert image[b"superblock"] == image[b"superblock.copy"]
    data = image[b"data/00000000.edge"]
    size = superblock.region_bytes
    return superblock.seed, [data[n : n + size] for n in range(0, len(data) - size + 1, size)]


def blocks_of(image: dict[bytes, bytes]) -> list[Block]:
    seed, regions = regions_of(image)
    found = []
    for number, region in enumerate(regions):
        blocks = list(read_region(region, seed))
        assert all(block.region == number for block in blocks)
        assert len({block.generation for block in blocks}) <= 1
        found += blocks
    return found


def write_some(core: Any) -> dict[bytes, bytes]:
    values = {}
    for number in range(150):
        key = b"key-%d" % (number % 100)
        values[key] = make_value(key, number, (10, 700, 5000, 70_000)[number % 4])
        assert core.put(key, values[key])
    for number in range(0, 100, 10):
        core.delete(b"key-%d" % number)
        values.pop(b"key-%d" % number)
    return values


def test_every_block_and_record_is_as_documented() -> None:
    disk = MemoryDisk()
    core = open_on(disk, {**STORE, "disk_bytes": 8 * MIB})
    values = write_some(core)
    core.sync()
    core.abandon()
    image = take_image(disk)
    seed, _ = regions_of(image)
    newest: dict[bytes, Any] = {}
    for record in (record for block in blocks_of(image) for record in block.records):
        low, high = record.hashes
        assert xxhash.xxh3_128_intdigest(record.key, seed) == high << 64 | low
        if record.sequence > newest.get(record.key, record).sequence or record.key not in newest:
            newest[record.key] = record
    assert {k: r.body for k, r in newest.items() if not r.flags & DELETE} == values
    assert {k for k, r in newest.items() if r.flags & DELETE} == {
        b"key-%d" % n for n in range(0, 100, 10)
    }


def test_tickets_grow_and_name_what_was_durable() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"one", b"1")
    core.sync()
    core.put(b"two", b"2")
    core.sync()
    core.abandon()
    first, second = sorted(blocks_of(take_image(disk)), key=lambda block: block.ticket)
    assert [r.key for r in first.records] == [b"one"]
    assert second.synced_ticket == first.ticket
    assert second.ticket > first.ticket
    assert second.sequence_max > first.sequence_max


def test_an_overwriting_record_says_so() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"1")
    core.put(b"other", b"1")
    core.put(b"key", b"2")
    core.sync()
    core.abandon()
    records = [record for block in blocks_of(take_image(disk)) for record in block.records]
    flags = {(record.key, record.body): record.flags for record in records}
    assert flags == {(b"key", b"1"): 0, (b"other", b"1"): 0, (b"key", b"2"): OVERWRITES}


def test_a_sealed_region_lists_its_blocks_in_its_footer() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    for number in range(200):
        assert core.put(b"key-%d" % number, bytes(2000))
    core.close()
    seed, regions = regions_of(take_image(disk))
    sealed = 0
    for region in regions:
        footer = read_footer(region, seed)
        if footer is None:
            continue
        blocks = list(read_region(region, seed))
        assert footer[1] == blocks[0].generation
        assert [entry[:2] for entry in footer[2]] == [(b.offset, b.size) for b in blocks]
        assert [entry[3] for entry in footer[2]] == [len(b.records) for b in blocks]
        sealed += 1
    assert sealed >= 2


def test_an_idle_store_flushes_what_waited_for_the_interval() -> None:
    """The first record after idling must wake the flusher: nothing else would."""
    disk = MemoryDisk()
    core = open_on(disk, options(flush_interval_s=0.01))
    for number in range(3):
        core.put(b"key-%d" % number, b"value")
        until(lambda wanted=number + 1: core.counters()["flushes"] == wanted)
    core.abandon()
    core = open_on(disk, options())
    assert core.get(b"key-2") == b"value"
    core.close()


def test_the_names_of_data_files_are_durable_before_anything_in_them() -> None:
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    core.put(b"key", b"value")
    core.sync()
    io.power_cut(disk, mode="drop")
    core.abandon()
    core = open_on(disk, STORE)
    assert core.get(b"key") == b"value"
    core.close()


# ---- golden root ---------------------------------------------------------------------------------


def golden_values() -> dict[bytes, bytes]:
    return {b"key-%d" % n: make_value(b"key-%d" % n, n, (10, 700, 5000)[n % 3]) for n in range(40)}


def golden_store() -> dict[str, Any]:
    return options(region_bytes=64 * KIB, disk_bytes=MIB, buffer_bytes=16 * KIB)


def load_golden() -> dict[bytes, bytes]:
    packed = json.loads(GOLDEN.read_text("ascii"))
    return {k.encode(): zlib.decompress(base64.b64decode(v)) for k, v in packed.items()}


def test_the_golden_root_is_read_by_the_reader_of_its_own() -> None:
    image = load_golden()
    keys = {r.key for block in blocks_of(image) for r in block.records if not r.flags & DELETE}
    assert keys == set(golden_values()) | {b"gone"}


@pytest.mark.parametrize("without", [(), (b"checkpoint.a", b"checkpoint.b"), (b"superblock",)])
def test_the_golden_root_opens_and_holds_its_values(without: tuple[bytes, ...]) -> None:
    image = {name: content for name, content in load_golden().items() if name not in without}
    core = open_on(put_image(image), golden_store())
    assert core.get(b"gone") is None
    assert {key: core.get(key) for key in golden_values()} == golden_values()
    assert core.counters()["recovery_checkpoint_loaded"] is (b"checkpoint.a" not in without)
    core.close()
