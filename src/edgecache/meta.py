"""What is known about an entry besides its key and its value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from time import time_ns

from edgecache._meta import (
    decode_meta,
    decode_projection_trailer,
    encode_meta,
    encode_projection_trailer,
)
from edgecache.errors import MetaFieldError

__all__ = [
    "ENGINE_FLAGS",
    "ENGINE_OBJECT",
    "ENGINE_PART",
    "FLAG_HEADERS_ZSTD",
    "FRESH_FOREVER",
    "NO_VARIANCE",
    "Meta",
    "ProjectionTrailer",
    "engine_flags_of",
]

FLAG_HEADERS_ZSTD = 0x0001
"""The header block is one zstd frame."""
FRESH_FOREVER = 2**63 - 1
"""`fresh_until` of an entry that never becomes stale."""
ENGINE_OBJECT = 0x0002
"""Flag of the engine: the value is the head of an object (docs/objects.md)."""
ENGINE_PART = 0x0004
"""Flag of the engine: the entry is a part of an object."""
ENGINE_FLAGS = ENGINE_OBJECT | ENGINE_PART
NO_VARIANCE = bytes(16)
"""`variance` of an entry that has one variant only."""


def engine_flags_of(encoded: bytes) -> int:
    """Return the engine's flags of an encoded meta; 0 for b""."""
    return encoded[2] & ENGINE_FLAGS if len(encoded) > 2 else 0


def _now_us() -> int:
    return time_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What is known about an entry; immutable, equal by value.

    Ranges are checked by `encode`, not when a Meta is made. The bytes are specified in
    docs/format-meta.md.

    Args:
        created: When the entry was first stored, microseconds since the epoch; now, if not given.
        updated: When it was last stored or validated, microseconds since the epoch; now, if not
            given.
        fresh_until: First microsecond since the epoch at which it is stale.
        stale_while_revalidate: Seconds after `fresh_until` in which it may be served while it is
            refreshed (RFC 5861, section 3).
        stale_if_error: Seconds after `fresh_until` in which it may be served when refreshing fails
            (RFC 5861, section 4).
        watermark: Position in the event log that the value reflects; 0 where there is none.
        flags: `FLAG_HEADERS_ZSTD`; the high byte is free for the door that writes the entry.
        status: HTTP status; 0 where there is none.
        variance: 16 bytes that tell the variants of one primary key apart.
        tags: A set of tags, kept sorted by their UTF-8 bytes and without repetition.
        headers: Header block, opaque to the engine.
    """

    created: int = field(default_factory=_now_us)
    updated: int = field(default_factory=_now_us)
    fresh_until: int = FRESH_FOREVER
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    watermark: int = 0
    flags: int = 0
    status: int = 0
    variance: bytes = NO_VARIANCE
    tags: tuple[str, ...] = ()
    headers: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        given: object = self.tags
        if isinstance(given, str):
            raise TypeError("tags must be a collection of str, not a single one")
        # Code point order is the order of the UTF-8 bytes.
        if self.tags or not isinstance(given, tuple):
            object.__setattr__(self, "tags", tuple(sorted(set(self.tags))))

    def encode(self) -> bytes:
        """Return the bytes of this meta.

        Raises:
            MetaFieldError: A field is out of its range; the error names it.
            ValueTooLargeError: More than 65535 bytes.
        """
        if isinstance(self.flags, int) and self.flags & ENGINE_FLAGS:
            raise MetaFieldError(
                "these flags belong to the engine", field="flags", found=self.flags
            )
        return self.encode_as(0)

    def encode_as(self, engine_flags: int) -> bytes:
        """As `encode`, with flags of the engine: for the layer that stores objects."""
        encoded: bytes = encode_meta(
            self.created,
            self.updated,
            self.fresh_until,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
            watermark=self.watermark,
            flags=self.flags | engine_flags,
            status=self.status,
            variance=self.variance,
            tags=self.tags,
            headers=self.headers,
        )
        return encoded

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Meta:
        """Read a meta from exactly its bytes; the engine's flags are left out.

        Raises:
            MetaFormatError: Or rather one of its subclasses, which name what is wrong.
        """
        (
            created,
            updated,
            fresh_until,
            stale_while_revalidate,
            stale_if_error,
            watermark,
            flags,
            status,
            variance,
            tags,
            headers,
        ) = decode_meta(data)
        return cls(
            created=created,
            updated=updated,
            fresh_until=fresh_until,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            watermark=watermark,
            flags=flags & ~ENGINE_FLAGS,
            status=status,
            variance=variance,
            tags=tags,
            headers=headers,
        )

    def is_fresh(self, now_us: int) -> bool:
        """Say whether the entry may be served at `now_us` without asking anyone."""
        return now_us < self.fresh_until

    def may_revalidate(self, now_us: int) -> bool:
        """Say whether the entry is stale at `now_us`, but servable while it is refreshed."""
        return not self.is_fresh(now_us) and self._within(now_us, self.stale_while_revalidate)

    def may_serve_on_error(self, now_us: int) -> bool:
        """Say whether the entry is stale at `now_us`, but servable if refreshing it failed."""
        return not self.is_fresh(now_us) and self._within(now_us, self.stale_if_error)

    def _within(self, now_us: int, window_s: int) -> bool:
        return now_us < self.fresh_until + window_s * 1_000_000

    def with_fresh_until(self, fresh_until: int, *, updated: int | None = None) -> Meta:
        """Return this meta with another end of freshness, for instance after a validation."""
        return replace(
            self, fresh_until=fresh_until, updated=self.updated if updated is None else updated
        )

    def with_tags(self, tags: Iterable[str]) -> Meta:
        """Return this meta with these tags in place of its own."""
        if isinstance(tags, str):
            raise TypeError("tags must be a collection of str, not a single one")
        return replace(self, tags=tuple(tags))

    def with_headers(self, headers: bytes, *, is_zstd: bool = False) -> Meta:
        """Return this meta with another header block."""
        flags = self.flags & ~FLAG_HEADERS_ZSTD | (FLAG_HEADERS_ZSTD if is_zstd else 0)
        return replace(self, headers=headers, flags=flags)


@dataclass(frozen=True, slots=True)
class ProjectionTrailer:
    """The 16 bytes that follow a cached projection of an event log.

    Args:
        watermark: Position in the event log that the projection reflects.
        cached_at_us: When it was cached, microseconds since the epoch.
    """

    watermark: int
    cached_at_us: int

    def encode(self) -> bytes:
        """Return the 16 bytes; MetaFieldError if a field is out of its range."""
        encoded: bytes = encode_projection_trailer(self.watermark, self.cached_at_us)
        return encoded

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> ProjectionTrailer:
        """Read a trailer; MetaTruncatedError unless there are exactly 16 bytes."""
        return cls(*decode_projection_trailer(data))
