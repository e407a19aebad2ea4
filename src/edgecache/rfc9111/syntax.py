"""The small grammars that HTTP fields share: tokens, quoted strings, lists, delta-seconds, qvalues.

Nothing here raises on bytes from the network: what does not parse is None. All scans are linear in
the length of the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

DELTA_SECONDS_MAX = 2**31
"""What a delta-seconds saturates at (RFC 9111, section 1.2.2)."""
OWS = b" \t"

_MEMO_VALUE_BYTES_MAX = 256
_MEMO_COUNT_MAX = 2048
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUOTED = re.compile(rb'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*+)"')
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = re.compile(rb'[",\\]')
_QVALUE = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

Parsed = TypeVar("Parsed")


def memoised(parse: Callable[[bytes], Parsed]) -> Callable[[bytes], Parsed]:
    """Remember the results of a pure parser, boundedly.

    Field values repeat; those longer than 256 bytes are not kept, so the memory of one parser stays
    under a megabyte whatever is sent. *Thread-safety*: as `functools.lru_cache`.
    """
    cached = lru_cache(maxsize=_MEMO_COUNT_MAX)(parse)

    @wraps(parse)
    def call(value: bytes) -> Parsed:
        return cached(value) if len(value) <= _MEMO_VALUE_BYTES_MAX else parse(value)

    return call


def is_token(value: bytes) -> bool:
    """Say whether the value is a token (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(value) is not None


def token_prefix(value: bytes) -> bytes:
    """Return the token that the value begins with, or b""."""
    found = _TOKEN.match(value)
    return found.group() if found else b""


def unquote(value: bytes) -> bytes | None:
    """Return what a quoted-string says (RFC 9110, section 5.6.4), or None if it is none."""
    found = _QUOTED.fullmatch(value)
    if found is None:
        return None
    inner = found.group(1)
    return _ESCAPE.sub(rb"\1", inner) if b"\\" in inner else inner


def split_list(value: bytes) -> tuple[list[bytes], bool]:
    """Split a list at its commas outside of quoted strings (RFC 9110, section 5.6.1).

    Empty members are dropped, white space around members too.

    Returns:
        The members, and whether all quoted strings end. Text after a quote that does not end is
        split at every comma, so that a directive in it is still seen.
    """
    if b'"' not in value:
        members = value.split(b",")
        is_closed = True
    else:
        members, is_closed = _split_quoted(value)
    return [stripped for member in members if (stripped := member.strip(OWS))], is_closed


def _split_quoted(value: bytes) -> tuple[list[bytes], bool]:
    members = []
    start = 0
    opened = -1
    skip_until = 0
    for found in _SPECIAL.finditer(value):
        position = found.start()
        if position < skip_until:
            continue
        sign = value[position]
        if sign == 0x22:
            opened = position if opened < 0 else -1
        elif sign == 0x5C:
            if opened >= 0:
                skip_until = position + 2
        elif opened < 0:
            members.append(value[start:position])
            start = position + 1
    if opened < 0:
        members.append(value[start:])
        return members, True
    tail = value[opened:].split(b",")
    members.append(value[start:opened] + tail[0])
    members += tail[1:]
    return members, False


@memoised
def list_of_tokens(value: bytes) -> tuple[bytes, ...]:
    """Return the members of a list that are tokens, in lower case; others are left out."""
    return tuple(member.lower() for member in split_list(value)[0] if is_token(member))


def parse_delta_seconds(value: bytes) -> int | None:
    """Parse delta-seconds (RFC 9111, section 1.2.2): digits only, saturating at 2**31."""
    if not value.isdigit():
        return None
    if len(value) > 10:
        value = value.lstrip(b"0") or b"0"
        if len(value) > 10:
            return DELTA_SECONDS_MAX
    return min(int(value), DELTA_SECONDS_MAX)


def parse_qvalue(value: bytes) -> int | None:
    """Parse a qvalue (RFC 9110, section 12.4.2) as thousandths, 0 to 1000."""
    if _QVALUE.fullmatch(value) is None:
        return None
    whole, _, decimals = value.partition(b".")
    return int(whole) * 1000 + int(decimals.ljust(3, b"0"))
