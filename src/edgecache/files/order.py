"""The order file: what eviction knew at the last close, so that a restart goes on with it.

It is a hint. Objects that it does not name come in the order in which they were written.
"""

from __future__ import annotations

import struct

from edgecache._files import ObjectFiles
from edgecache._files_index import FileIndex
from edgecache.files.names import ORDER_FILE

MAGIC = b"EGORDER1"
HEADER = struct.Struct("<8sQQ")
ENTRY_BYTES = 17
SUM_BYTES = 16
ORDER_BYTES_MAX = 1 << 32


def save_order(files: ObjectFiles, index: FileIndex, place: bytes) -> int:
    """Write the order file by a rename; 0 or an errno. `place` is a free name in `tmp`."""
    dumped = index.dump()
    data = HEADER.pack(MAGIC, index.take_sequence(), len(dumped) // ENTRY_BYTES) + dumped
    outcome = files.save(place, data + files.sum_of(data)) or files.rename(place, ORDER_FILE)
    if outcome:
        files.unlink(place)
    return -outcome


def load_order(files: ObjectFiles) -> tuple[int, list[tuple[bytes, int]]]:
    """Return the sequence number of the file, and (hash, rank) in its order; (0, []): none."""
    data = files.load(ORDER_FILE, ORDER_BYTES_MAX)
    if isinstance(data, int) or len(data) < HEADER.size + SUM_BYTES:
        return 0, []
    body = data[:-SUM_BYTES]
    magic, sequence, count = HEADER.unpack_from(body)
    if (
        magic != MAGIC
        or len(body) != HEADER.size + count * ENTRY_BYTES
        or files.sum_of(body) != data[-SUM_BYTES:]
    ):
        return 0, []
    starts = range(HEADER.size, len(body), ENTRY_BYTES)
    return sequence, [(body[start : start + 16], body[start + 16]) for start in starts]
