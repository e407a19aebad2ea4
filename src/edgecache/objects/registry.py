"""Which keys have unfinished sparse objects, so that their bytes count after a restart, too.

A key is in the bucket that its hash names; a bucket is an internal entry (docs/objects.md, "Parts")
that lists the keys in it. It is written before the head of a new object is, and after that of an
old one is gone: so it may list a key too many, never one too few, unless it was evicted.

    a bucket:   | count u32 | count times: key_len u16, key |          little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import xxhash

from edgecache.objects.backend import PART_META, Backend
from edgecache.objects.keys import OBJECT_ID_BYTES, part_key

BUCKETS = 64
# No object has this id: they are drawn at random.
REGISTRY_ID = bytes(OBJECT_ID_BYTES)
COUNT = struct.Struct("<I")
KEY_LEN = struct.Struct("<H")


def encode_bucket(keys: set[bytes]) -> bytes:
    """Return the bytes of a bucket."""
    return COUNT.pack(len(keys)) + b"".join([KEY_LEN.pack(len(key)) + key for key in sorted(keys)])


def decode_bucket(content: bytes) -> set[bytes]:
    """Read a bucket; as far as it goes where it is damaged."""
    keys: set[bytes] = set()
    if len(content) < COUNT.size:
        return keys
    position = COUNT.size
    for _ in range(COUNT.unpack_from(content)[0]):
        if position + KEY_LEN.size > len(content):
            break
        (size,) = KEY_LEN.unpack_from(content, position)
        position += KEY_LEN.size
        if position + size > len(content):
            break
        keys.add(content[position : position + size])
        position += size
    return keys


class Registry:
    """See the module. *Thread-safety*: its owner's lock."""

    __slots__ = ("_backend", "_buckets")

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._buckets: dict[int, set[bytes]] = {}

    def _bucket(self, number: int) -> set[bytes]:
        keys = self._buckets.get(number)
        if keys is None:
            name = part_key(REGISTRY_ID, number)
            stored = self._backend.get_head(name) if self._backend.has_head(name) else None
            keys = self._buckets[number] = set() if stored is None else decode_bucket(stored.value)
        return keys

    def _save(self, number: int) -> bool:
        name, keys = part_key(REGISTRY_ID, number), self._buckets[number]
        if keys:
            return self._backend.put_entry(name, encode_bucket(keys), PART_META, None)
        self._backend.delete_entry(name)
        return True

    def add(self, key: bytes) -> bool:
        """List a key; False: it was shed."""
        number = xxhash.xxh3_64_intdigest(key) % BUCKETS
        keys = self._bucket(number)
        if key in keys:
            return True
        keys.add(key)
        if self._save(number):
            return True
        keys.discard(key)
        return False

    def remove(self, key: bytes) -> None:
        """Forget a key. Where that is shed the key stays listed, which does no harm."""
        number = xxhash.xxh3_64_intdigest(key) % BUCKETS
        keys = self._bucket(number)
        if key in keys:
            keys.discard(key)
            self._save(number)

    def forget_all(self) -> None:
        """The store was cleared."""
        self._buckets.clear()

    def __iter__(self) -> Iterator[bytes]:
        for number in range(BUCKETS):
            yield from list(self._bucket(number))
