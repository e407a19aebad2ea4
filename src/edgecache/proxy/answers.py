"""The answer of an origin, assembled from bytes as they come: head, interim heads, body, trailers.

Invariants:

1. `is_complete` is true only after a positive mark: the length was reached, the last chunk came, or
   the peer closed a body that is delimited so. An end in any other place is an error.
2. `is_reusable` is false as soon as anything about the framing was odd, or bytes followed the end.
"""

from __future__ import annotations

from collections import deque

from edgecache.proxy.wire import (
    HEAD_BYTES_MAX,
    Chunks,
    Fields,
    Framing,
    Head,
    WireError,
    framing_of,
    parse_head,
    plain_framing,
)

INTERIM_COUNT_MAX = 16


class AnswerReader:
    """Reads one answer.

    Args:
        is_head_request: Whether it answers a HEAD.
        is_lenient: Ignore unknown transfer codings.
        head_bytes_max: Limit of a head.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_head_bytes_max",
        "_is_head_request",
        "_is_lenient",
        "_left",
        "framing",
        "has_bytes",
        "head",
        "interim",
        "is_complete",
        "is_reusable",
        "pieces",
        "trailers",
    )

    def __init__(
        self,
        is_head_request: bool,
        is_lenient: bool = False,
        head_bytes_max: int = HEAD_BYTES_MAX,
    ) -> None:
        self._is_head_request = is_head_request
        self._is_lenient = is_lenient
        self._head_bytes_max = head_bytes_max
        self._buffer = b""
        self._chunks: Chunks | None = None
        self._left = 0
        self.framing: Framing | None = None
        self.head: Head | None = None
        self.interim: deque[Head] = deque()
        self.pieces: deque[bytes] = deque()
        self.trailers: Fields = []
        self.has_bytes = False
        self.is_complete = False
        self.is_reusable = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection.

        Raises:
            WireError: They break the protocol; nothing more may be fed.
        """
        self.has_bytes = True
        if self.is_complete:
            self.is_reusable = False
            return
        if self.framing is None:
            data = self._feed_head(data)
            if not data or self.framing is None:
                return
        self._feed_body(data, self.framing)

    def _feed_head(self, data: bytes) -> bytes:
        """Take heads; what is left belongs to the body."""
        if self._buffer:
            data = self._buffer + data
        interim_count = 0
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > self._head_bytes_max:
                if len(data) > self._head_bytes_max:
                    raise WireError("head too long", is_limit=True)
                if b"\n\n" in data or not data.startswith(b"HTTP/1."[: len(data)]):
                    raise WireError("malformed head")
                self._buffer = data
                return b""
            head, is_plain = parse_head(data, end)
            data = data[end + 4 :]
            if head.status >= 200:
                break
            if head.status == 101:
                raise WireError("unasked upgrade")
            interim_count += 1
            if len(self.interim) + interim_count > INTERIM_COUNT_MAX:
                raise WireError("too many interim answers", is_limit=True)
            self.interim.append(head)
        self._buffer = b""
        if is_plain:
            framing = plain_framing(head, self._is_head_request)
        else:
            framing = framing_of(head, self._is_head_request, self._is_lenient)
        self.head = head
        self.framing = framing
        if framing.kind == "none":
            self._finish(framing, data)
            return b""
        if framing.kind == "chunked":
            self._chunks = Chunks()
        elif framing.kind == "length":
            self._left = framing.length or 0
        return data

    def _feed_body(self, data: bytes, framing: Framing) -> None:
        if self._chunks is not None:
            pieces, rest = self._chunks.feed(data)
            self.pieces.extend(pieces)
            if self._chunks.is_done:
                self.trailers = self._chunks.trailers
                self._finish(framing, rest)
        elif framing.kind == "length":
            size = len(data)
            if size < self._left:
                self._left -= size
                self.pieces.append(data)
                return
            rest = data[self._left :]
            self.pieces.append(data[: self._left] if rest else data)
            self._left = 0
            self._finish(framing, rest)
        else:
            self.pieces.append(data)

    def _finish(self, framing: Framing, rest: bytes) -> None:
        self.is_complete = True
        self.is_reusable = framing.is_reusable and not rest

    def end(self) -> str:
        """Tell that the peer closed; what is missing, "" when the answer is complete by that."""
        if self.is_complete:
            return ""
        if self.framing is None:
            return "no answer" if not self.has_bytes else "head cut"
        if self.framing.kind == "close":
            self.is_complete = True
            return ""
        return "body cut"
