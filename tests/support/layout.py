"""The files of a root, read by docs/format.md alone: no code shared with the package."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

UNIT = 64
PAGE = 4096
RECORD = struct.Struct("<HBBHHQQQQqIIQ")
BLOCK = struct.Struct("<IHHIIQQIIIIQQ")
ENTRY = struct.Struct("<QQQII")
FOOTER = struct.Struct("<IHHIIQQ24xQ")
FOOTER_BLOCK = struct.Struct("<IIII")
SUPERBLOCK = struct.Struct("<8sIIQQ16sQ")
CHECKPOINT = struct.Struct("<IIQQQQQIIIIQQQQQQQ")
CHECKPOINT_REGION = struct.Struct("<QIIIIII")
DELETE, VOID, OVERWRITES = 1, 2, 4


def sum64(data: bytes, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


@dataclass
class Record:
    offset: int
    flags: int
    sequence: int
    expiry: int
    key: bytes
    meta: bytes
    body: bytes
    total: int
    hashes: tuple[int, int]


@dataclass
class Block:
    offset: int
    size: int
    log: int
    region: int
    ticket: int
    synced_ticket: int
    generation: int
    sequence_max: int
    records: list[Record]


@dataclass
class Superblock:
    region_bytes: int
    seed: int


def read_superblock(page: bytes) -> Superblock:
    magic, version, shift, seed, _, _, found = SUPERBLOCK.unpack_from(page)
    assert (magic, version) == (b"EGCACHE1", 1)
    assert found == sum64(page[:48] + bytes(8) + page[56:], 0)
    assert page[56:] == bytes(len(page) - 56)
    return Superblock(1 << shift, seed)


def read_record(block: bytes, offset: int, seed: int, generation: int) -> Record:
    fields = RECORD.unpack_from(block, offset)
    magic, version, flags, key_len, meta_len, low, high, sequence, body_len = fields[:9]
    expiry, chunk, header_sum, payload_sum = fields[9:]
    assert (magic, version, chunk) == (0xEC5D, 1, 0)
    header = block[offset : offset + 64]
    plain = header[:52] + bytes(4) + header[56:]
    assert header_sum == sum64(plain, seed ^ generation) & 0xFFFFFFFF
    start = offset + 64
    end = start + key_len + meta_len + body_len
    total = (end - offset + UNIT - 1) // UNIT * UNIT
    payload = block[start:end]
    if not flags & VOID:
        assert payload_sum == sum64(payload, seed)
        assert block[end : offset + total] == bytes(offset + total - end), "padding is zero"
    return Record(
        offset, flags, sequence, expiry, payload[:key_len], payload[key_len : key_len + meta_len],
        payload[key_len + meta_len :], total, (low, high),
    )  # fmt: skip


def read_block(region: bytes, offset: int, seed: int) -> Block | None:
    """The block at an offset of a region, with everything verified; None: there is none."""
    fields = BLOCK.unpack_from(region, offset)
    if fields[0] != 0x4B424345:
        return None
    _, version, log, number, ticket, generation, sequence_max, size, index_offset = fields[:9]
    count, synced, index_sum, header_sum = fields[9:]
    block = region[offset : offset + size]
    assert version == 1
    assert header_sum == sum64(block[:56], seed)
    assert block[:64] == block[-64:], "the header stands at both ends"
    assert size % PAGE == 0
    index = block[index_offset : index_offset + count * 32]
    assert index_sum == sum64(index, seed)
    padding = block[index_offset + count * 32 : -64]
    assert padding == bytes(len(padding))
    records = []
    position = 64
    while position < index_offset:
        records.append(read_record(block, position, seed, generation))
        position += records[-1].total
    assert position == index_offset
    live = [record for record in records if not record.flags & VOID]
    assert [ENTRY.unpack_from(index, 32 * n) for n in range(count)] == [
        (*r.hashes, r.sequence | r.flags << 56, (offset + r.offset) // UNIT, r.total // UNIT)
        for r in live
    ]
    assert sequence_max == max((r.sequence for r in live), default=0)
    return Block(offset, size, log, number, ticket, synced, generation, sequence_max, live)


def read_region(region: bytes, seed: int) -> Iterator[Block]:
    offset = 0
    while offset < len(region) - PAGE:
        block = read_block(region, offset, seed)
        if block is None:
            return
        yield block
        offset += block.size


def read_footer(region: bytes, seed: int) -> tuple[int, int, list[tuple[int, ...]]] | None:
    """(region, generation, blocks) of the footer; None: there is none."""
    page = region[-PAGE:]
    magic, version, _, number, count, generation, _, found = FOOTER.unpack_from(page)
    if magic != 0x4F464345:
        return None
    assert version == 1
    assert found == sum64(page[:56] + bytes(8) + page[64:], seed)
    return number, generation, [FOOTER_BLOCK.unpack_from(page, 64 + 16 * n) for n in range(count)]
