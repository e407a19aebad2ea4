"""Answers: what handlers return and how it is framed.

Invariants:

1. The head of a response is rendered once, without the fields that the connection adds (Date,
   Connection); a response with bytes can be sent any number of times.
2. 1xx and 204 have neither content nor Content-Length, 304 has no content; what a HEAD gets differs
   from what a GET gets in the content alone (RFC 9110, sections 6.4, 8.6, 9.3.2).
3. A field that would break the framing cannot be rendered: ArgumentError.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from edgecache.errors import ArgumentError

__all__ = ["Body", "FileRange", "Response", "json_response", "text_response"]

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "date"})
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii")
    for status in HTTPStatus
}


@dataclass(frozen=True, slots=True)
class FileRange:
    """A part of an open file, sent without passing through Python where the transport allows.

    Args:
        descriptor: An open file; it is not closed.
        offset: First byte. size: Bytes to send; the file must have them.
    """

    descriptor: int
    offset: int
    size: int


Body: TypeAlias = bytes | Sequence[bytes | memoryview] | AsyncIterator[bytes] | FileRange


class Response:
    """An answer.

    Args:
        status: 200 to 599.
        fields: Names and values; Content-Length, Date and Connection are not among them.
        body: bytes, buffers, an asynchronous iterator, or a range of a file.
        length: Size of the content of an iterator; None: not known, it is sent chunked.
        head: All of the head but Date, Connection and the empty line, instead of `fields`.
        release: Called once content that is not bytes was sent, or will not be sent.

    `must_close` may be set to end the connection behind the answer.

    Raises:
        ArgumentError: A field cannot be sent.
    """

    # Not slots: what most answers leave as it is costs nothing when one is made.
    must_close = False
    release: Callable[[], None] | None = None
    length: int | None = None
    # Of an answer that another server made: its own Date is in the head.
    has_date = False
    # How to answer the very same bytes again without parsing them; None then: parse them.
    again: Callable[[], Response | None] | None = None
    # The whole answer as it goes out, where `again` gives it: head, empty line and content.
    wire: tuple[bytes, ...] = ()
    # Asked for when a chunked body has ended; rendered lines, each with its CRLF.
    trailers: Callable[[], bytes] | None = None

    def __init__(
        self,
        status: int,
        fields: Iterable[tuple[str, str]] = (),
        body: Body = b"",
        *,
        length: int | None = None,
        head: bytes | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.status = status
        if release is not None:
            self.release = release
        if isinstance(body, bytes):
            length = len(body)
        elif isinstance(body, FileRange):
            length = body.size
        elif not hasattr(body, "__aiter__"):
            length = sum(len(piece) for piece in body)
        if status in (204, 304) or status < 200:
            body = b""
        self.body: Body = body
        self.length = length
        self.head = render_head(status, fields, length) if head is None else head

    @classmethod
    def ready(cls, status: int, head: bytes, body: bytes) -> Response:
        """Make an answer of a head that was rendered before, Content-Length included."""
        self = cls.__new__(cls)
        self.status = status
        self.body = body
        self.head = head
        return self


def render_head(status: int, fields: Iterable[tuple[str, str]], length: int | None) -> bytes:
    """Return status line and fields; Content-Length when `length` is known and may be sent."""
    lines = [render_field(name, value) for name, value in fields]
    if length is not None and status >= 200 and status not in (204, 304):
        lines.append(b"Content-Length: %d\r\n" % length)
    return b"".join([STATUS_LINES[status], *lines])


def render_field(name: str, value: str) -> bytes:
    """Return one field line; ArgumentError when it could end early or look like another one."""
    if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
        raise ArgumentError("a response field is malformed", found=(name, value))
    if name.lower() in _OURS:
        raise ArgumentError("the connection adds this field itself", found=name)
    return f"{name}: {value}\r\n".encode("latin-1")


def text_response(status: int, text: str, fields: Iterable[tuple[str, str]] = ()) -> Response:
    """Make an answer of one line of text."""
    content_type = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status, (content_type, *fields), f"{text}\n".encode())


def json_response(status: int, value: object, fields: Iterable[tuple[str, str]] = ()) -> Response:
    """Make an answer of a JSON document."""
    body = json.dumps(value, ensure_ascii=True).encode("ascii") + b"\n"
    return Response(status, (("Content-Type", "application/json"), *fields), body)
