"""Keys and parameters out of targets: decoded exactly once, or refused."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from edgecache.http.failures import RequestError

__all__ = ["KEY_BYTES_MAX", "decode_key", "parse_decimal", "parse_query"]

KEY_BYTES_MAX = 8192
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DECIMAL = re.compile(rb"[0-9]{1,20}")


def decode(raw: bytes) -> bytes:
    """Decode percent-escapes once; RequestError for a "%" that begins none."""
    if b"%" not in raw:
        return raw
    if _BAD_ESCAPE.search(raw):
        raise RequestError("a percent-escape is malformed", reason="escape")
    return unquote_to_bytes(raw)


def decode_key(raw: bytes) -> bytes:
    """Return the key that a path segment names: any bytes, 1 to 8192 of them."""
    key = decode(raw)
    if not key:
        raise RequestError("the key is missing", reason="key")
    if len(key) > KEY_BYTES_MAX:
        raise RequestError("the key is longer than 8192 bytes", reason="key")
    return key


def parse_query(query: bytes | None, known: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return the parameters; RequestError for one that is unknown or given twice."""
    found: dict[bytes, bytes] = {}
    for part in (query or b"").split(b"&"):
        if not part:
            continue
        name, _, value = part.partition(b"=")
        name = decode(name)
        if name not in known or name in found:
            raise RequestError("a query parameter is unknown or given twice", reason="query")
        found[name] = decode(value)
    return found


def parse_decimal(value: bytes, what: str, largest: int) -> int:
    """Return a number of digits only; RequestError for anything else."""
    if _DECIMAL.fullmatch(value) is None or int(value) > largest:
        raise RequestError(f"{what} is not a number from 0 to {largest}", reason="number")
    return int(value)
