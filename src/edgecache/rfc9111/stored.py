"""A stored response: what later decisions need, computed once, and its bytes in an entry's meta.

    StoredResponse, little-endian, 96 bytes and three parts
    | version u8 | zero u8 | status u16 | flags u32 | request_us i64 | response_us i64          |
    | initial_age_us i64 | date_s i64 | last_modified_s i64 (least i64: none)                    |
    | range_first i64 | range_last i64 | complete_bytes i64 (-1: unknown; range only if PARTIAL) |
    | lifetime_s u32 | stale_while_revalidate_s u32 | stale_if_error_s u32                       |
    | stale_on_disconnect_s u32 | etag size u16 | vary size u16 | header size u32                |
    etag: value of ETag. vary: per field, name size u16, name, value size u32 (all ones: absent),
    value. header: HTTP/1 lines without Age, which is made anew for every answer.

Unknown versions, sizes that do not add up and lines that are none decode to None: a miss.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from edgecache.errors import ValueTooLargeError
from edgecache.rfc9111.etags import EntityTag, parse_entity_tag
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.syntax import memoised
from edgecache.rfc9111.vary import Selecting

NO_CACHE = 1
FORBIDS_STALE = 2
IMMUTABLE = 4
PARTIAL = 8
HEURISTIC_LIFETIME = 16
TARGETED = 32
OLD_VERSION = 64
"""The response came by HTTP/1.0, which Via tells (RFC 9110, section 7.6.3)."""

STORED_BYTES_MAX = 60 * 1024
"""Largest encoded form; it shares the 64 KiB of an entry's meta with the tags."""

_VERSION = 1
_FIXED = struct.Struct("<BBHIqqqqqqqqIIIIHHI")
_NO_DATE = -(2**63)
_ABSENT = 2**32 - 1
_NAME_SIZE = struct.Struct("<H")
_VALUE_SIZE = struct.Struct("<I")
_LINES = re.compile(rb"(?:[^:\r\n\0]++: [^\r\n\0]*+\r\n)*+")


class StoredPolicy(NamedTuple):
    """The numbers that decide about a stored response.

    A named tuple, because one is made for every hit that is decoded (0.6 us; 4.7 us as a frozen
    dataclass). `stale_*_s` are permissions, 0 where there is none. It is fresh while
    `now < fresh_until_us`. A range is set only with the flag PARTIAL.
    """

    status: int
    flags: int
    request_us: int
    response_us: int
    initial_age_us: int
    date_s: int
    last_modified_s: int | None = None
    range_first: int = 0
    range_last: int = 0
    complete_bytes: int = -1
    lifetime_s: int = 0
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0
    stale_on_disconnect_s: int = 0
    etag: bytes = b""

    @property
    def fresh_until_us(self) -> int:
        """First microsecond since the epoch at which it is stale; for the entry's meta."""
        return self.response_us - self.initial_age_us + self.lifetime_s * SECOND_US

    @property
    def entity_tag(self) -> EntityTag | None:
        return parse_entity_tag(self.etag) if self.etag else None

    @property
    def has_validator(self) -> bool:
        return bool(self.etag) or self.last_modified_s is not None

    def expired(self, now_us: int) -> StoredPolicy:
        """Return the policy of a soft purge: stale from now on, permissions to serve stale kept."""
        age_us = max(0, now_us - self.response_us) + self.initial_age_us
        lifetime_s = min(self.lifetime_s, age_us // SECOND_US)
        return self._replace(lifetime_s=lifetime_s, flags=self.flags & ~IMMUTABLE)


class StoredResponse(NamedTuple):
    """A policy, the selecting values of the request that got it, and the header section.

    `wire` holds the lines for an HTTP/1 answer; Age and Cache-Status are to be added.
    """

    policy: StoredPolicy
    selecting: Selecting
    wire: bytes

    @property
    def headers(self) -> Headers:
        """The header section, parsed anew at every call."""
        headers = Headers.from_wire(self.wire)
        assert headers is not None, "checked by decode_stored and written by to_wire"
        return headers


def make_stored(policy: StoredPolicy, selecting: Selecting, headers: Headers) -> StoredResponse:
    """Join the parts; Age is left out.

    Raises:
        ArgumentError: A field cannot be written as a line.
    """
    return StoredResponse(policy, selecting, headers.without((b"age",)).to_wire())


def _encode_selecting(values: Selecting) -> bytes:
    parts: list[bytes] = []
    for name, value in values:
        parts += (_NAME_SIZE.pack(len(name)), name)
        if value is None:
            parts.append(_VALUE_SIZE.pack(_ABSENT))
        else:
            parts += (_VALUE_SIZE.pack(len(value)), value)
    return b"".join(parts)


@memoised
def _decode_selecting(block: bytes) -> Selecting | None:
    values: list[tuple[bytes, bytes | None]] = []
    at, end = 0, len(block)
    while at < end:
        if end - at < 2:
            return None
        (name_size,) = _NAME_SIZE.unpack_from(block, at)
        name = block[at + 2 : at + 2 + name_size]
        at += 2 + name_size
        if end - at < 4:
            return None
        (value_size,) = _VALUE_SIZE.unpack_from(block, at)
        at += 4
        if value_size == _ABSENT:
            values.append((name, None))
            continue
        if end - at < value_size:
            return None
        values.append((name, block[at : at + value_size]))
        at += value_size
    return tuple(values)


def encode_stored(stored: StoredResponse) -> bytes:
    """Return the bytes to keep in an entry's meta.

    Raises:
        ValueTooLargeError: More than `STORED_BYTES_MAX`; `assess` refuses such responses before.
    """
    policy = stored.policy
    vary = _encode_selecting(stored.selecting)
    size_bytes = _FIXED.size + len(policy.etag) + len(vary) + len(stored.wire)
    if size_bytes > STORED_BYTES_MAX or max(len(policy.etag), len(vary)) > 0xFFFF:
        raise ValueTooLargeError(
            "the header section is too large to store",
            expected=STORED_BYTES_MAX,
            found=size_bytes,
        )
    modified_s = policy.last_modified_s
    fixed = _FIXED.pack(
        _VERSION,
        0,
        policy.status,
        policy.flags,
        policy.request_us,
        policy.response_us,
        policy.initial_age_us,
        policy.date_s,
        _NO_DATE if modified_s is None else modified_s,
        policy.range_first,
        policy.range_last,
        policy.complete_bytes,
        policy.lifetime_s,
        policy.stale_while_revalidate_s,
        policy.stale_if_error_s,
        policy.stale_on_disconnect_s,
        len(policy.etag),
        len(vary),
        len(stored.wire),
    )
    return b"".join((fixed, policy.etag, vary, stored.wire))


def decode_stored(encoded: bytes) -> StoredResponse | None:
    """Read what `encode_stored` wrote; None for anything else."""
    if len(encoded) < _FIXED.size or encoded[0] != _VERSION or encoded[1] != 0:
        return None
    numbers = _FIXED.unpack_from(encoded)
    etag_size, vary_size, wire_size = numbers[16:]
    etag_end = _FIXED.size + etag_size
    vary_end = etag_end + vary_size
    if vary_end + wire_size != len(encoded):
        return None
    selecting = _decode_selecting(encoded[etag_end:vary_end]) if vary_size else ()
    wire = encoded[vary_end:]
    if selecting is None or _LINES.fullmatch(wire) is None:
        return None
    modified_s = None if numbers[8] == _NO_DATE else numbers[8]
    etag = encoded[_FIXED.size : etag_end]
    policy = StoredPolicy._make((*numbers[2:8], modified_s, *numbers[9:16], etag))
    return StoredResponse(policy, selecting, wire)
