"""The chunked coding, read as strictly as it is written.

Invariants:

1. A size is 1 to 16 hexadecimal digits and below 2**63; every line and every chunk ends with CRLF
   and nothing else; extensions are tokens or quoted strings, without whitespace, and bounded.
2. Bytes that do not follow these rules never become content and never a request.
3. What is kept between calls is one unfinished line, or the trailers; both are bounded.

Source: RFC 9112, section 7.1.
"""

from __future__ import annotations

import re

from edgecache.http.failures import RequestError
from edgecache.http.framing import LENGTH_MAX, TOKEN, bad, confirm_fields, parse_fields
from edgecache.http.limits import HttpLimits

__all__ = ["ChunkedDecoder"]

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:;" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?)*+)"
)
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
# Trailer fields that would change what was decided already (RFC 9110, section 6.5.1).
_FORBIDDEN = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"host", b"content-encoding", b"content-range"),
        *(b"content-type", b"connection", b"authorization", b"expect", b"te", b"trailer"),
        *(b"upgrade", b"content_length", b"transfer_encoding"),
    }
)
SIZE_LINE, DATA, DATA_END, TRAILERS, DONE = range(5)


class ChunkedDecoder:
    """Takes the bytes behind a header with `Transfer-Encoding: chunked`.

    Args:
        limits: For extensions and trailers.

    After an error it must not be fed again.
    """

    __slots__ = ("_extension_bytes", "_left", "_limits", "_line", "_state", "trailers")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._state = SIZE_LINE
        self._left = 0
        self._line = b""
        self._extension_bytes = 0
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the last chunk and the trailers were read."""
        return self._state == DONE

    def feed(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Decode `data` from `position` on; the place behind what was used.

        Args:
            pieces: Gets the content, also when an error follows it.

        Raises:
            RequestError: The coding is broken.

        *Cost*: copies the content once.
        """
        size = len(data)
        while position < size and self._state != DONE:
            if self._state == DATA:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if self._left == 0:
                    self._state = DATA_END
            else:
                position = self._take_line(data, position)
        return position

    def _take_line(self, data: bytes, position: int) -> int:
        line_max = {
            SIZE_LINE: self._limits.chunk_extension_bytes_max + 16,
            DATA_END: 0,
            TRAILERS: self._limits.header_bytes_max,
        }[self._state]
        start = len(self._line)
        # Only what a line may hold is looked at: the rest of the segment is left alone.
        line = self._line + data[position : position + line_max + 2 - start]
        end = line.find(b"\n\r\n" if self._state == TRAILERS and line[:2] != b"\r\n" else b"\r\n")
        if end >= 0 and self._state == TRAILERS and line[:2] != b"\r\n":
            end += 1
        shown = line if end < 0 else line[: end + 2]
        if _BARE.search(shown) or (self._state == DATA_END and line[:1] != b"\r"):
            raise bad("a chunk does not end with CRLF", "chunk_end")
        if end >= 0:
            self._line = b""
            self._take(line[:end])
            return position + end + 2 - start
        if len(line) >= line_max + 2:
            raise self._too_long()
        self._line = line
        return position + len(line) - start

    def _too_long(self) -> RequestError:
        if self._state == TRAILERS:
            return bad("the trailers are too long", "header_bytes", 431)
        return bad("a chunk size line is too long", "chunk_extension_bytes")

    def _take(self, line: bytes) -> None:
        if self._state == DATA_END:
            self._state = SIZE_LINE
        elif self._state == SIZE_LINE:
            self._take_size(line)
        else:
            self._take_trailers(line)

    def _take_size(self, line: bytes) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise bad("a chunk size line is malformed", "chunk_size")
        self._extension_bytes += len(match[2])
        if self._extension_bytes > self._limits.chunk_extension_bytes_max:
            raise bad("too many chunk extensions", "chunk_extension_bytes")
        self._left = int(match[1], 16)
        if self._left > LENGTH_MAX:
            raise bad("a chunk is too large", "chunk_size")
        self._state = DATA if self._left else TRAILERS

    def _take_trailers(self, lines: bytes) -> None:
        if lines.count(b"\r\n") > self._limits.header_count_max:
            raise bad("too many trailer fields", "header_count", 431)
        self.trailers = parse_fields(lines)
        for name, _ in self.trailers:
            if name.lower() in _FORBIDDEN:
                raise bad("a field that may not be a trailer", "trailer")
        confirm_fields(lines, self.trailers)
        self._state = DONE
