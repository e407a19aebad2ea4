"""The head of an object, and the pieces of an unfinished chunk: bytes of docs/objects.md.

    Head, version 2, little-endian: 96 bytes, the table, the runs

    | 0     4 | 4       6 | 6     7 | 7     8 | 8      16 | 16          24 | 24            40 |
    | magic   | version   | state   | flags   | size      | generation     | object id        |
    | u32     | u16       | u8      | u8      | u64       | u64            | 16 bytes         |

    | 40           44 | 44           48 | 48         52 | 52             56 | 56            64 |
    | chunk_bytes u32 | table_count u32 | run_count u32 | first_bytes u32   | lifetime_us u64  |

    | 64            72 | 72   80 | 80   96 | 96 + 16 x table_count | + 16 x run_count         |
    | shared_count u64 | zero    | sum     | content hashes        | runs: start u64, end u64 |

sum is XXH3-128 of all other bytes in their order. flags bit 0: the table holds the hashes of table
pages, not of chunks. first_bytes is 0 where the first chunk is as large as the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import xxhash

from edgecache.objects.grid import Grid
from edgecache.objects.ranges import Range

HEAD_MAGIC = 0x484F4345  # "ECOH"
PIECE_MAGIC = 0x504F4345  # "ECOP"
VERSION = 2
PIECE_VERSION = 1
STATE_COMPLETE = 1
STATE_SPARSE = 2
FLAG_PAGED = 1
HASH_BYTES = 16
NO_HASH = bytes(HASH_BYTES)
HEAD_FIXED = struct.Struct("<IHBBQQ16sIIIIQQ8s16s")
RUN = struct.Struct("<QQ")
PIECE_FIXED = struct.Struct("<IHHII")
PIECE_RUN = struct.Struct("<II")
SUM_OFFSET = 80
SIZE_MAX = 2**63 - 1
# As in _strips.pxd and _checksum.pxd.
STRIP_BYTES_MIN = 16384
STRIPS_MAX = 256
STRIP_SEED = 0x6863616365676465

assert HEAD_FIXED.size == SUM_OFFSET + HASH_BYTES


def content_hash(data: bytes | bytearray | memoryview) -> bytes:
    """Return the content hash of a chunk: XXH3-128 of the sums of its strips (docs/objects.md)."""
    strip = STRIP_BYTES_MIN
    while strip * STRIPS_MAX < len(data):
        strip *= 2
    view = memoryview(data)
    sums = b"".join(
        [
            xxhash.xxh3_64_intdigest(view[start : start + strip], STRIP_SEED).to_bytes(8, "little")
            for start in range(0, len(view), strip)
        ]
    )
    return xxhash.xxh3_128_digest(sums)


@dataclass(slots=True, kw_only=True)
class Head:
    """What is known about the chunks of one object.

    Args:
        size: Bytes of the whole object.
        generation: Grows with each write of the store; names this one.
        object_id: Where its parts are (`keys.py`).
        chunk_bytes: Bytes of every chunk but the last, and perhaps the first.
        first_bytes: Of the first one where that is smaller; else 0.
        shared_count: How many chunks, from the first on, are shared with other objects.
        table: Content hashes, 16 bytes each, of chunks or (is_paged) of table pages.
        runs: Which bytes are there, of a sparse object.
        lifetime_us: What `ttl` the published object shall have; 0: the default.
    """

    size: int
    generation: int
    object_id: bytes
    chunk_bytes: int
    state: int = STATE_COMPLETE
    is_paged: bool = False
    table: bytes = b""
    runs: list[Range] = field(default_factory=list)
    lifetime_us: int = 0
    first_bytes: int = 0
    shared_count: int = 0

    @property
    def grid(self) -> Grid:
        """How it is cut."""
        return Grid(self.chunk_bytes, self.first_bytes or self.chunk_bytes)

    @property
    def chunk_count(self) -> int:
        """How many chunks the whole object has."""
        return self.grid.count(self.size)

    def encode(self) -> bytes:
        """Return the bytes of the head."""
        tail = self.table + b"".join([RUN.pack(*run) for run in self.runs])
        fields = (
            HEAD_MAGIC, VERSION, self.state, FLAG_PAGED if self.is_paged else 0, self.size,
            self.generation, self.object_id, self.chunk_bytes, len(self.table) // HASH_BYTES,
            len(self.runs), self.first_bytes, self.lifetime_us, self.shared_count, bytes(8),
        )  # fmt: skip
        fixed = HEAD_FIXED.pack(*fields, NO_HASH)
        check = xxhash.xxh3_128(fixed[:SUM_OFFSET])
        check.update(tail)
        return fixed[:SUM_OFFSET] + check.digest() + tail


def decode_fixed(data: bytes) -> Head | None:
    """Read the fixed part of a head that was verified before; it has neither table nor runs."""
    (
        magic, version, state, flags, size, generation, object_id, chunk_bytes, _, _, first_bytes,
        lifetime_us, shared_count, _, _,
    ) = HEAD_FIXED.unpack_from(data)  # fmt: skip
    if magic != HEAD_MAGIC or version != VERSION or not chunk_bytes:
        return None
    return Head(
        size=size,
        generation=generation,
        object_id=object_id,
        chunk_bytes=chunk_bytes,
        state=state,
        is_paged=bool(flags & FLAG_PAGED),
        lifetime_us=lifetime_us,
        first_bytes=first_bytes,
        shared_count=shared_count,
    )


def decode_head(data: bytes) -> Head | None:
    """Read a head; None when it is damaged, or of a version that this release does not know."""
    if len(data) < HEAD_FIXED.size:
        return None
    (
        magic, version, state, flags, size, generation, object_id, chunk_bytes, table_count,
        run_count, first_bytes, lifetime_us, shared_count, zeros, check,
    ) = HEAD_FIXED.unpack_from(data)  # fmt: skip
    if magic != HEAD_MAGIC or version != VERSION:
        return None
    found = xxhash.xxh3_128(memoryview(data)[:SUM_OFFSET])
    found.update(memoryview(data)[HEAD_FIXED.size :])
    table_end = HEAD_FIXED.size + table_count * HASH_BYTES
    if (
        found.digest() != check
        or len(data) != table_end + run_count * RUN.size
        or state not in (STATE_COMPLETE, STATE_SPARSE)
        or flags > FLAG_PAGED
        or any(zeros)
        or not chunk_bytes
        or first_bytes >= chunk_bytes
        or size > SIZE_MAX
    ):
        return None
    head = Head(
        size=size,
        generation=generation,
        object_id=object_id,
        chunk_bytes=chunk_bytes,
        state=state,
        is_paged=bool(flags & FLAG_PAGED),
        table=data[HEAD_FIXED.size : table_end],
        runs=list(RUN.iter_unpack(data[table_end:])),
        lifetime_us=lifetime_us,
        first_bytes=first_bytes,
        shared_count=shared_count,
    )
    return head if shared_count <= head.chunk_count else None


def encode_piece(ranges: list[Range], content: bytearray) -> bytes:
    """Return what is there of an unfinished chunk: ranges in the chunk, then their bytes."""
    view = memoryview(content)
    parts = [PIECE_FIXED.pack(PIECE_MAGIC, PIECE_VERSION, 0, len(ranges), len(content))]
    parts += [PIECE_RUN.pack(*one) for one in ranges]
    return b"".join([*parts, *[view[start:end] for start, end in ranges]])


def decode_piece(data: bytes | memoryview, chunk_bytes: int) -> list[tuple[int, memoryview]] | None:
    """Return (offset in the chunk, bytes) of each range; None when that is not a piece."""
    view = memoryview(data)
    if len(view) < PIECE_FIXED.size:
        return None
    magic, version, zero, count, size = PIECE_FIXED.unpack_from(view)
    position = PIECE_FIXED.size + count * PIECE_RUN.size
    if magic != PIECE_MAGIC or version != PIECE_VERSION or zero or size != chunk_bytes:
        return None
    if position > len(view):
        return None
    found: list[tuple[int, memoryview]] = []
    for start, end in PIECE_RUN.iter_unpack(view[PIECE_FIXED.size : position]):
        if not start < end <= chunk_bytes or position + end - start > len(view):
            return None
        found.append((start, view[position : position + end - start]))
        position += end - start
    return found if position == len(view) else None
