"""The head of a request: its line, its fields, and where its content ends.

Invariants:

1. What is accepted matches the grammar of RFC 9112 and RFC 9110 letter by letter; where the RFCs
   let a recipient repair, this one refuses. Nothing is trimmed but the optional whitespace around
   a field's value.
2. Where the content ends has one reading: at most one Content-Length of 1 to 19 digits, or one
   Transfer-Encoding that is exactly "chunked", never both.
3. A field block is judged by two parsers, this one and llhttp, and both must see the same fields.
4. The answer to bad bytes does not depend on how they were cut into segments: `check_shape` finds
   what it finds at the same byte of a whole head as of a part of it, and goes first.

Source: RFC 9112, sections 2.2, 3, 5, 6, 7; RFC 9110, sections 5, 7.2, 10.1.1.
"""

from __future__ import annotations

import re

from edgecache.http._head import split_line
from edgecache.http.failures import RequestError
from edgecache.http.judge import fields_by_llhttp
from edgecache.http.limits import HttpLimits

__all__ = [
    "LINE", "Block", "check_shape", "parse_block", "parse_line", "split_authority",
    "split_target",
]  # fmt: skip

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Visible ASCII without "#": a fragment is never sent (RFC 9112, section 3.2), and caches that took
# one apart from the rest were poisoned by it.
TARGET = rb"[!-\"$-~]"
LINE = re.compile(rb"(" + TOKEN + rb"{1,32}+) (" + TARGET + rb"++) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(TOKEN + rb"{1,32}+ " + TARGET + rb"++ HTTP/[0-9]\.[0-9]\r\n")
_FIELD = re.compile(rb"(" + TOKEN + rb"++):[ \t]*+([\t -~\x80-\xff]*+)")
_ABSOLUTE = re.compile(rb"(?i:(https?)://)([^/?]*)([/?].*)?", re.S)
# RFC 3986, section 3.2, without user information and percent-encoding, which no host name needs.
_AUTHORITY = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~!$&'()*+;=-]{1,255})(?::([0-9]{1,5}))?"
)
_LENGTH = re.compile(rb"[0-9]{1,19}")
_TOKENS = re.compile(rb"[ \t]*+,[ \t]*+")
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\x00")

LENGTH_MAX = 2**63 - 1
# Some servers take "_" for "-": a framing field in such a disguise is refused for their sake.
DISGUISED = frozenset({b"content_length", b"transfer_encoding"})
CONDITIONS = frozenset(
    {
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
        *(b"if-range", b"range"),
    }
)


def bad(message: str, reason: str = "syntax", status: int = 400) -> RequestError:
    """Make the error for a request that is not taken."""
    return RequestError(message, status=status, reason=reason)


def check_shape(data: bytes, is_complete: bool, limits: HttpLimits) -> None:
    """Refuse a head, or what has arrived of one, for its size or for a bare CR, LF or NUL.

    Args:
        data: From the first byte of the request line; all of the head, with its last CRLF once,
            when `is_complete`.
    """
    line_max = limits.request_line_bytes_max
    # A CR at the very end may still get its LF.
    if _BARE.search(data[: line_max + 2]):
        raise bad("a bare CR, LF or NUL", "line_end")
    end = data.find(b"\r\n", 0, line_max + 2)
    if end < 0:
        if len(data) >= line_max + 2:
            raise bad("the request line is too long", "request_line_bytes", 414)
        return
    head_max = end + limits.header_bytes_max + 2
    if len(data) > line_max + 2 and _BARE.search(data[:head_max]):
        raise bad("a bare CR, LF or NUL", "line_end")
    # A part may hold one byte of the empty line already.
    if len(data) > head_max + (not is_complete):
        raise bad("the header is too long", "header_bytes", 431)
    if is_complete and data.count(b"\r\n") - 1 > limits.header_count_max:
        raise bad("too many header fields", "header_count", 431)


def parse_line(data: bytes, position: int) -> tuple[bytes, bytes, int, int]:
    """Return method, target, minor version, and the place behind the request line.

    Raises:
        RequestError: 505 for a line that is right but for its version, 400 for any other.
    """
    # The native side takes what this pattern takes; `tests/unit/test_http_head.py` compares them.
    line = split_line(data, position)
    if line is None:
        if _OTHER_VERSION.match(data, position):
            raise bad("the version is not HTTP/1.0 or HTTP/1.1", "version", 505)
        raise bad("the request line is malformed", "request_line")
    method, target, _, _ = line
    if target[0] != 47:  # "/"
        _check_form(method, target)
    return line


def _check_form(method: bytes, target: bytes) -> None:
    """Judge a target that is not in origin-form (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        raise bad("CONNECT is not for this server", "connect", 501)
    if target == b"*":
        if method != b"OPTIONS":
            raise bad("only OPTIONS may have the target *", "target")
        return
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise bad("the target has no form of RFC 9112", "target")
    split_authority(match[2], "target")


def split_authority(authority: bytes, reason: str = "host") -> tuple[bytes, bytes]:
    """Return host (lower case) and port (digits, or b""); RequestError unless it is both."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > 65535:
        raise bad("the host is not valid", reason)
    return match[1].lower(), match[2] or b""


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """Return the origin-form of a target, and its authority when it was in absolute-form."""
    if target[0] == 47 or target == b"*":
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise bad("the target has no form of RFC 9112", "target")
    rest: bytes = match[3] or b"/"
    return rest if rest[0] == 47 else b"/" + rest, match[2]


class Block:
    """The fields of a request, and what follows from them alone; immutable, shared by requests.

    Args:
        raw: The bytes of the field lines, the key of the connection's memory; `raw_end`: with the
            empty line.
        fields: Name (as sent) and value, in order, with duplicates.
        keeps, keeps_old: Whether the client lets a connection of HTTP/1.1, of HTTP/1.0 go on.
        values: Lower-case name to the values of its lines, in order.
    """

    __slots__ = (
        "connection",
        "content_length",
        "expects_continue",
        "fields",
        "has_conditions",
        "has_host",
        "is_chunked",
        "is_plain",
        "is_simple",
        "is_swift",
        "keeps",
        "keeps_old",
        "raw",
        "raw_end",
        "values",
    )

    def __init__(self, raw: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        self.raw = raw
        self.fields = fields
        values: dict[bytes, tuple[bytes, ...]] = {}
        for name, value in fields:
            lower = name.lower()
            values[lower] = (*values[lower], value) if lower in values else (value,)
        self.values = values
        self.has_conditions = not CONDITIONS.isdisjoint(values)
        self.has_host = b"host" in values
        self.connection = frozenset(
            token.lower() for line in values.get(b"connection", ()) for token in _TOKENS.split(line)
        )
        self.keeps = b"close" not in self.connection
        self.keeps_old = self.keeps and b"keep-alive" in self.connection
        self.content_length = self._find_length()
        self.is_chunked = self._find_coding()
        self._check_host()
        self.expects_continue = self._find_expectation()
        self.raw_end = raw + b"\r\n"
        # Nothing more to judge when the target is a path: a Host, and no content.
        # A GET with these fields depends on its target alone, but for a token.
        self.is_plain = self.keeps and not self.has_conditions
        self.is_simple = self.has_host and not self.is_chunked and not self.content_length
        self.is_swift = self.is_simple and self.is_plain

    def get(self, name: bytes) -> bytes | None:
        """Return the lines of a field joined as a list (RFC 9110, section 5.3), or None."""
        lines = self.values.get(name)
        return None if lines is None else lines[0] if len(lines) == 1 else b", ".join(lines)

    def _find_length(self) -> int | None:
        if not DISGUISED.isdisjoint(self.values):
            raise bad("a framing field in disguise", "disguise")
        lines = self.values.get(b"content-length")
        if lines is None:
            return None
        if len(lines) > 1:
            raise bad("several Content-Length fields", "content_length")
        if _LENGTH.fullmatch(lines[0]) is None or int(lines[0]) > LENGTH_MAX:
            raise bad("Content-Length is not a number", "content_length")
        return int(lines[0])

    def _find_coding(self) -> bool:
        lines = self.values.get(b"transfer-encoding")
        if lines is None:
            return False
        if self.content_length is not None:
            raise bad("both Content-Length and Transfer-Encoding", "both_lengths")
        if len(lines) > 1:
            raise bad("several Transfer-Encoding fields", "transfer_encoding")
        coding = lines[0].lower()
        if coding == b"chunked":
            return True
        codings = _TOKENS.split(coding)
        if codings.count(b"chunked") > 1 or b"" in codings or b"chunked" in codings[:-1]:
            raise bad("Transfer-Encoding is malformed", "transfer_encoding")
        raise bad("only the transfer coding chunked is known", "transfer_encoding", 501)

    def _check_host(self) -> None:
        lines = self.values.get(b"host")
        if lines is not None:
            if len(lines) > 1:
                raise bad("several Host fields", "host")
            split_authority(lines[0])

    def _find_expectation(self) -> bool:
        lines = self.values.get(b"expect")
        if lines is None:
            return False
        if len(lines) > 1 or lines[0].lower() != b"100-continue":
            raise bad("only the expectation 100-continue is known", "expectation", 417)
        return True


def parse_block(raw: bytes) -> Block:
    """Read the field lines of a request, each with its CRLF.

    Raises:
        RequestError: A rule is broken.

    *Cost*: some microseconds; connections remember their last block.
    """
    fields = parse_fields(raw)
    block = Block(raw, fields)
    # Behind the rules of our own: its refusal says less than theirs.
    confirm_fields(raw, fields)
    return block


def confirm_fields(raw: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """Refuse field lines in which llhttp does not read the same."""
    if fields and fields_by_llhttp(raw) != list(fields):
        raise bad("two parsers read the header differently", "disagreement")


def parse_fields(raw: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Read field lines, of a header or of trailers."""
    fields = []
    matches = _FIELD.fullmatch
    for line in raw.split(b"\r\n")[:-1]:
        match = matches(line)
        if match is None:
            folded = line[:1] in (b" ", b"\t")
            raise bad(
                "a folded field line" if folded else "a malformed field line",
                "folding" if folded else "field",
            )
        name, value = match.groups()
        fields.append((name, value.rstrip(b" \t")))
    return tuple(fields)
