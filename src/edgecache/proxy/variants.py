"""The list of a URI's variants: which fields select one, and which selections are stored.

    VariantList, little-endian
    | magic u32 "ECV1" | generation 16 bytes | set count u16 | variant count u16 |
    per set: name count u8, then per name its size u8 and its bytes
    per variant: set u16, hash 16 bytes                 the oldest first

The generation is part of the keys of the variants: when the list goes, whatever is left of them
can never be found again. Sets and variants are bounded; the oldest go first.

Source: RFC 9111, section 4.1.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

from xxhash import xxh3_128_digest

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import Rules
from edgecache.rfc9111.vary import Selecting, selecting, variance_input

SETS_MAX = 8

_HEAD = struct.Struct("<4s16sHH")
_MAGIC = b"ECV1"
_VARIANT = struct.Struct("<H16s")

Names = tuple[bytes, ...]


def variance_of(values: Selecting) -> bytes:
    """Return the 16 bytes that tell a variant from others of its URI."""
    return xxh3_128_digest(variance_input(values))


@dataclass(slots=True)
class VariantList:
    """What is known about the variants of one URI.

    Args:
        generation: Of the list.
        sets: Names of selecting fields, each sorted; the newest last.
        variants: (names, hash), the oldest first.
    """

    generation: bytes = field(default_factory=lambda: os.urandom(16))
    sets: list[Names] = field(default_factory=list)
    variants: dict[tuple[Names, bytes], None] = field(default_factory=dict)

    def candidates(self, request: Headers, rules: Rules) -> list[bytes]:
        """Return the hashes of the stored variants that fit a request, the newest set first."""
        found = []
        for names in reversed(self.sets):
            variance = variance_of(selecting(names, request, rules))
            if (names, variance) in self.variants:
                found.append(variance)
        return found

    def add(self, values: Selecting, variants_max: int) -> list[bytes]:
        """Add a variant; the hashes of those that had to go for it."""
        names = tuple(name for name, _ in values)
        place = (names, variance_of(values))
        self.variants.pop(place, None)
        self.variants[place] = None
        if names in self.sets:
            self.sets.remove(names)
        self.sets.append(names)
        dropped = []
        while len(self.variants) > variants_max:
            oldest = next(iter(self.variants))
            del self.variants[oldest]
            dropped.append(oldest[1])
        while len(self.sets) > SETS_MAX:
            gone = self.sets.pop(0)
            for key in [key for key in self.variants if key[0] == gone]:
                del self.variants[key]
                dropped.append(key[1])
        return dropped

    def hashes(self) -> list[bytes]:
        """Return the hashes of all variants."""
        return [variance for _, variance in self.variants]

    def encode(self) -> bytes:
        """Return the bytes of the list."""
        parts = [_HEAD.pack(_MAGIC, self.generation, len(self.sets), len(self.variants))]
        for names in self.sets:
            parts.append(bytes((len(names),)))
            for name in names:
                parts += (bytes((min(len(name), 255),)), name[:255])
        numbers = {names: number for number, names in enumerate(self.sets)}
        parts += [_VARIANT.pack(numbers[names], variance) for names, variance in self.variants]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> VariantList | None:
        """Read what `encode` wrote; None for anything else."""
        try:
            magic, generation, set_count, variant_count = _HEAD.unpack_from(data)
            if magic != _MAGIC:
                return None
            at = _HEAD.size
            sets: list[Names] = []
            for _ in range(set_count):
                name_count = data[at]
                at += 1
                names = []
                for _ in range(name_count):
                    size = data[at]
                    names.append(data[at + 1 : at + 1 + size])
                    at += 1 + size
                sets.append(tuple(names))
            variants: dict[tuple[Names, bytes], None] = {}
            for _ in range(variant_count):
                number, variance = _VARIANT.unpack_from(data, at)
                at += _VARIANT.size
                variants[sets[number], variance] = None
        except (struct.error, IndexError):
            return None
        return cls(generation, sets, variants) if at == len(data) else None
