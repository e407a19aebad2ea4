"""HTTP/1.1 answers as bytes: strict, and without I/O.

A cache must know where an answer ends better than anybody behind it, so whatever is not certain is
refused: the connection is closed and nothing is stored. Names of fields become lower case, their
values stay as they are, byte by byte.

Source: RFC 9112, sections 2.2, 4, 5, 6 and 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from edgecache.http._fields import split_head

Fields = list[tuple[bytes, bytes]]

HEAD_BYTES_MAX = 64 << 10
FIELD_COUNT_MAX = 256
CHUNK_LINE_BYTES_MAX = 1 << 10
# Of all chunk lines of an answer together, beyond the sizes: RFC 9112, section 7.1.1.
EXTENSION_BYTES_MAX = 16 << 10
SIZE_MAX = (1 << 63) - 1

_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x21-\x7e\x80-\xff]*"
    rb"(?:[\t\x20]+[\x21-\x7e\x80-\xff]+)*)[ \t]*"
)
_LENGTH = re.compile(rb"[0-9]{1,19}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*((?:;[\t\x20-\x7e\x80-\xff]*)?)")


class WireError(Exception):
    """Bytes that cannot be an answer; the text is the reason. Never leaves this package."""

    def __init__(self, reason: str, *, is_limit: bool = False) -> None:
        super().__init__(reason)
        self.is_limit = is_limit


class Head(NamedTuple):
    """The head of an answer.

    Args:
        status: 100 to 999.
        reason: The reason phrase.
        fields: (lower-case name, value), in order, with repetitions.
        minor: 0 or 1, of the version.
        length: Content-Length where the framing is plain, else -1.
    """

    status: int
    reason: bytes
    fields: Fields
    minor: int
    length: int = -1


def parse_fields(block: bytes, count_max: int = FIELD_COUNT_MAX) -> Fields:
    """Return the field lines of a block without its last CRLF.

    Raises:
        WireError: A line folded, ended by a bare LF, with a space before its colon, with a control
            character, without a name; or too many of them.
    """
    if not block:
        return []
    lines = block.split(b"\r\n")
    if len(lines) > count_max:
        raise WireError("too many fields", is_limit=True)
    match = _FIELD.fullmatch
    fields: Fields = []
    for line in lines:
        found = match(line)
        if found is None:
            raise WireError("malformed field line")
        fields.append((found[1].lower(), found[2]))
    return fields


_MALFORMED = ("", "malformed status line", "malformed field line", "too many fields")
_MANY = 3


def parse_head(data: bytes, end: int, count_max: int = FIELD_COUNT_MAX) -> tuple[Head, bool]:
    """Return the head that ends before `end`, where an empty line begins.

    Returns:
        The head, and whether its framing is plain: HTTP/1.1, at most one Content-Length, a number,
        and nothing else that bears on it. The length is then in `Head.length`.

    Raises:
        WireError: It is not the head of an HTTP/1.0 or HTTP/1.1 answer.
    """
    found = split_head(data, 0, end, count_max)
    if isinstance(found, int):
        raise WireError(_MALFORMED[found], is_limit=found == _MANY)
    status, reason, fields, minor, length, is_odd = found
    is_plain = minor == 1 and not is_odd
    return Head(status, reason, fields, minor, length if is_plain else -1), is_plain


@dataclass(slots=True)
class Framing:
    """Where the body of an answer ends.

    Args:
        kind: "none", "length", "chunked" or "close".
        length: Its size where the head tells, else None.
        is_reusable: Whether another request may follow on the connection.
    """

    kind: str
    length: int | None
    is_reusable: bool


def content_length(fields: Fields) -> int | None:
    """Return the one Content-Length, None without one.

    Raises:
        WireError: It is not a plain number, or there are different ones. A list of equal numbers is
            refused as well, which RFC 9112, section 6.3, allows.
    """
    found: bytes | None = None
    for name, value in fields:
        if name == b"content-length":
            if _LENGTH.fullmatch(value) is None or (found is not None and found != value):
                raise WireError("bad content-length")
            found = value
    if found is None:
        return None
    length = int(found)
    if length > SIZE_MAX:
        raise WireError("bad content-length")
    return length


def has_token(fields: Fields, name: bytes, token: bytes) -> bool:
    """Say whether a list field contains a token, in any case."""
    return any(
        field == name and token in [member.strip(b" \t").lower() for member in value.split(b",")]
        for field, value in fields
    )


def plain_framing(head: Head, is_head_request: bool) -> Framing:
    """As `framing_of`, of a head whose framing is plain."""
    length = None if head.length < 0 else head.length
    if is_head_request or head.status in (204, 304):
        return Framing("none", length, True)
    if length is None:
        return Framing("close", None, False)
    return Framing("length" if length else "none", length, True)


def framing_of(head: Head, is_head_request: bool, is_lenient: bool = False) -> Framing:
    """Decide how the body of an answer is delimited (RFC 9112, section 6.3).

    Args:
        head: The head of a final answer.
        is_head_request: Whether it answers a HEAD.
        is_lenient: Ignore transfer codings other than chunked instead of refusing them.

    Raises:
        WireError: Two ways of delimiting at once, an unknown transfer coding, a bad length.
    """
    fields = head.fields
    codings = [value.strip().lower() for name, value in fields if name == b"transfer-encoding"]
    length = content_length(fields)
    keep = head.minor == 1 or has_token(fields, b"connection", b"keep-alive")
    keep = keep and not has_token(fields, b"connection", b"close")
    if is_head_request or head.status in (204, 304):
        return Framing("none", length, keep and not codings)
    if codings:
        if codings == [b"chunked"]:
            if length is not None:
                raise WireError("content-length and transfer-encoding")
            if head.minor == 0:
                raise WireError("transfer-encoding in HTTP/1.0")
            return Framing("chunked", None, keep)
        if not is_lenient or any(b"chunked" in coding for coding in codings):
            raise WireError("unknown transfer coding")
        keep = False  # nobody else may agree on where it ends
    if length is not None:
        return Framing("length" if length else "none", length, keep)
    return Framing("close", None, False)


class Chunks:
    """The chunked transfer coding, read piece by piece.

    Invariants:

    1. Data is given on only after it was claimed by a chunk size.
    2. `is_done` becomes true by the last chunk, its trailers and the empty line, by nothing else.
    """

    __slots__ = ("_buffer", "_extension_bytes", "_is_first", "_left", "is_done", "trailers")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._is_first = True
        self._extension_bytes = 0
        self.is_done = False
        self.trailers: Fields = []

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take bytes; return pieces of the body and, when it is done, the bytes that follow it.

        Raises:
            WireError: The coding is broken, or its lines are too long.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        position = 0
        size = len(data)
        while position < size and not self.is_done:
            if self._left:
                end = min(size, position + self._left)
                pieces.append(data[position:end] if position or end != size else data)
                self._left -= end - position
                position = end
                continue
            taken = self._line(data, position)
            if not taken:
                self._buffer = data[position:]
                return pieces, b""
            position += taken
        return pieces, data[position:] if self.is_done else b""

    def _line(self, data: bytes, start: int) -> int:
        """Take what stands between two chunks; how many bytes, 0 when more are needed."""
        begin = start
        if not self._is_first:
            crlf = data[start : start + 2]
            if crlf != b"\r\n"[: len(crlf)]:
                raise WireError("chunk without end")
            if len(crlf) < 2:
                return 0
            start += 2
        end = data.find(b"\n", start, start + CHUNK_LINE_BYTES_MAX)
        if end < 0:
            if len(data) - start >= CHUNK_LINE_BYTES_MAX:
                raise WireError("chunk line too long", is_limit=True)
            return 0
        found = _CHUNK.fullmatch(data, start, end - 1) if data[end - 1] == 13 else None
        if found is None or end == start:
            raise WireError("bad chunk size")
        length = int(found[1], 16)
        if length > SIZE_MAX:
            raise WireError("bad chunk size")
        if length:
            self._extension_bytes += len(found[2])
            if self._extension_bytes > EXTENSION_BYTES_MAX:
                raise WireError("chunk extensions too long", is_limit=True)
            self._left = length
            self._is_first = False
            return end + 1 - begin
        taken = self._trailer_bytes(data, end + 1)
        return end + 1 + taken - begin if taken else 0

    def _trailer_bytes(self, data: bytes, start: int) -> int:
        if data.startswith(b"\r\n", start):
            self.is_done = True
            return 2
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            if len(data) - start > HEAD_BYTES_MAX:
                raise WireError("trailers too long", is_limit=True)
            return 0
        self.trailers = parse_fields(data[start:end])
        self.is_done = True
        return end + 4 - start
