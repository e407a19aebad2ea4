"""The internal keys of an object's parts.

    a part:           | PART 8 bytes   | object id 16 bytes, random | number u64 big-endian |
    a shared chunk:   | SHARED 8 bytes | content hash 16 bytes      | zeros, 8 bytes        |
    a sparse head:    | SPARSE 8 bytes | the user's key                                     |

Numbers below 2^62 are chunks; above are pieces of unfinished chunks, and pages of the hash table.
An id is drawn at random for every write and never shown, so that no key of a user meets one, and
parts of two writes never mix. A shared chunk has a name of 24 bytes in the place of the id.
"""

from __future__ import annotations

import os

# Random once; none is valid UTF-8, so no key given as text begins like this.
PART_PREFIX = b"\xff\xec\x9b\x02\xd7\x81\xc6\x1f"
SPARSE_PREFIX = b"\xff\xec\xf3\x58\x90\xab\x0d\x94"
SHARED_PREFIX = b"\xff\xec\x2d\xa5\x71\xe4\x08\xb3"
SPARSE_MARK_KEY = SPARSE_PREFIX  # an entry that says: there may be sparse objects here
KEY_BYTES_MAX = 8192
SPARSE_KEY_BYTES_MAX = KEY_BYTES_MAX - len(SPARSE_PREFIX)
OBJECT_ID_BYTES = 16
PIECE_BASE = 1 << 62
TABLE_BASE = 1 << 63


def new_object_id() -> bytes:
    """Draw an id that no object ever had."""
    return os.urandom(OBJECT_ID_BYTES)


def part_key(object_id: bytes, number: int) -> bytes:
    """Return the key of a chunk, a piece or a table page."""
    name = PART_PREFIX + object_id if len(object_id) == OBJECT_ID_BYTES else object_id
    return name + number.to_bytes(8, "big")


def shared_name(content_hash: bytes) -> bytes:
    """Return what stands for the object id in the key of a shared chunk; its number is 0."""
    return SHARED_PREFIX + content_hash


def sparse_key(key: bytes) -> bytes:
    """Return the key of the head of the unfinished sparse object of a key."""
    return SPARSE_PREFIX + key
