"""Answers to clients: heads, what the proxy adds to them, conditions and ranges.

Source: RFC 9110, sections 13 to 15; RFC 9111, section 5.1; RFC 9211.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from edgecache.http._fields import render_fields
from edgecache.http.response import Response
from edgecache.proxy.asking import Asked
from edgecache.proxy.config import ProxyConfig
from edgecache.proxy.content import BytesContent, Content, Data
from edgecache.proxy.entries import age_us_of, now_us
from edgecache.rfc9111.cache_status import appended, member, outcome_word
from edgecache.rfc9111.fields import Headers, canonical_name
from edgecache.rfc9111.freshness import SECOND_US
from edgecache.rfc9111.preconditions import evaluate, not_modified_fields, representation_of
from edgecache.rfc9111.ranges import (
    ByteRange,
    answer_range,
    format_content_range,
    format_unsatisfied_range,
    frame_multipart,
    parse_range,
)
from edgecache.rfc9111.reuse import Reuse
from edgecache.rfc9111.stored import OLD_VERSION, StoredPolicy

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_OWN = frozenset((b"age", b"via", b"cache-status", b"x-cache-status", b"content-length"))
_BOUNDARY_BYTES = 16
# How many times the lines that the proxy adds are kept, and how long what others added may be.
ADDED_MAX = 512
KEPT_MAX = 512


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Note(NamedTuple):
    """What is told about an answer besides the decision.

    Args:
        forward_status: Status of the origin's answer, where there was one.
        is_stored: Whether that was stored.
        is_collapsed: Whether it is another request's answer.
        is_served_stored: Whether the stored response was served since forwarding failed.
        detail: Anything else.
        word: For X-Cache-Status, where it is not the usual one.
        is_first_hand: Whether the origin made or validated it for this request: it has no Age then
            (RFC 9111, section 5.1).
    """

    forward_status: int | None = None
    is_stored: bool | None = None
    is_collapsed: bool | None = None
    is_served_stored: bool = False
    detail: bytes | None = None
    word: str = ""
    is_first_hand: bool = False


NO_NOTE = Note()


@dataclass(frozen=True, slots=True)
class Dressed:
    """A header section without what the proxy adds, rendered, and what it adds to.

    Args:
        lines: The fields.
        via: Of the origin's answer, this proxy's member added; the whole line.
        cache_status: Of the caches before this one.
    """

    lines: bytes
    via: bytes
    cache_status: bytes | None


class Renderer:
    """Makes answers.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = ("_added", "_config", "_name", "_old_via", "_own_via", "_spellings", "count")

    def __init__(self, config: ProxyConfig, count: Callable[[str], None]) -> None:
        self._config = config
        self._name = config.name.encode()
        self._own_via = b"Via: 1.1 " + self._name + b"\r\n"
        self._old_via = b"Via: 1.0 " + self._name + b"\r\n"
        self._spellings: dict[bytes, bytes] = {}
        self._added: dict[tuple[bytes, bytes | None, Reuse, Note], tuple[bytes, str]] = {}
        self.count = count

    def dress(self, headers: Headers, flags: int = 0) -> Dressed:
        """Render a header section; the flags are those of its policy."""
        via = b""
        if self._config.adds_via:
            via = own = self._old_via if flags & OLD_VERSION else self._own_via
            value = headers.combined(b"via")
            if value is not None:
                via = b"Via: " + value + b", " + own.removeprefix(b"Via: ")
        elif b"via" in headers:
            via = b"Via: " + (headers.combined(b"via") or b"") + b"\r\n"
        status = headers.combined(b"cache-status")
        lines = render_fields(headers.pairs, _OWN, self._spellings, canonical_name)
        if lines is None:
            lines = headers.without(_OWN).to_wire()  # which says what is wrong
        return Dressed(lines, via, status)

    def added(self, asked: Asked, dressed: Dressed, reuse: Reuse, note: Note) -> bytes:
        """Return the lines that say what the cache did."""
        given = dressed.cache_status
        is_new = reuse.forward and not (reuse.age_s or reuse.ttl_s or note.is_served_stored)
        if not is_new or self._config.shows_key or len(dressed.via) + len(given or b"") > KEPT_MAX:
            lines, word = self._say(asked, dressed, reuse, note)
            self.count(word)
            return lines
        # Nothing of it changes with time: that it was forwarded, why, and what came of it.
        key = (dressed.via, given, reuse, note)
        known = self._added.get(key)
        if known is None:
            if len(self._added) >= ADDED_MAX:
                self._added.clear()
            known = self._added[key] = self._say(asked, dressed, reuse, note)
        self.count(known[1])
        return known[0]

    def _say(self, asked: Asked, dressed: Dressed, reuse: Reuse, note: Note) -> tuple[bytes, str]:
        config = self._config
        parts = [dressed.via]
        word = note.word or outcome_word(
            reuse, forward_status=note.forward_status, is_served_stored=note.is_served_stored
        )
        if config.adds_cache_status:
            own = member(
                reuse,
                name=self._name,
                forward_status=note.forward_status,
                is_stored=note.is_stored,
                is_collapsed=note.is_collapsed,
                key=asked.uri if config.shows_key else None,
                detail=note.detail,
                is_served_stored=note.is_served_stored,
            )
            parts.append(b"Cache-Status: " + appended(dressed.cache_status, own) + b"\r\n")
        elif dressed.cache_status is not None:
            parts.append(b"Cache-Status: " + dressed.cache_status + b"\r\n")
        if config.adds_status_word:
            parts.append(b"X-Cache-Status: " + word.encode() + b"\r\n")
        return b"".join(parts), word

    # Answers

    def passing(
        self,
        asked: Asked,
        status: int,
        headers: Headers,
        content: Content,
        reuse: Reuse,
        note: Note = NO_NOTE,
        trailers: Callable[[], bytes] | None = None,
        minor: int = 1,
    ) -> Response:
        """Return an answer as the origin gave it, by HTTP/1.minor."""
        dressed = self.dress(headers, 0 if minor else OLD_VERSION)
        added = self.added(asked, dressed, reuse, note)
        age = headers.get(b"age")
        if age is not None:
            added = b"Age: " + age + b"\r\n" + added
        return self._whole(asked, status, dressed.lines + added, content, trailers)

    def stored(
        self,
        asked: Asked,
        headers: Headers,
        policy: StoredPolicy,
        content: Content,
        reuse: Reuse,
        note: Note = NO_NOTE,
    ) -> Response:
        """Return an answer from a stored, or storable, response: conditions and ranges count."""
        now = now_us()
        age_s = age_us_of(policy, now) // SECOND_US
        verdict = None
        if (asked.facts.is_conditional or asked.facts.has_range) and policy.status == 200:
            target = representation_of(policy)
            verdict = evaluate(asked.method, asked.headers, target, now // SECOND_US)
        if verdict is not None and verdict.status == 304:
            content.close()
            headers = not_modified_fields(headers)
            content = BytesContent(b"")
        dressed = self.dress(headers, policy.flags)
        tail = self.added(asked, dressed, reuse, note)
        if not note.is_first_hand:
            tail = b"Age: %d\r\n" % age_s + tail
        if verdict is not None and verdict.status == 304:
            return made(304, dressed.lines + tail, b"", None)
        if verdict is not None and verdict.uses_range and content.size is not None:
            specs = parse_range(asked.headers.get(b"range") or b"")
            answer = answer_range(specs, content.size)
            if answer.status == 416:
                content.close()
                return self._unsatisfied(content.size, tail)
            headers = headers.without((b"content-range",))
            if len(answer.ranges) == 1:
                lines = self.dress(headers).lines + tail
                return self._part(lines, content, answer.ranges[0])
            if answer.ranges and content.takes_several:
                return self._parts(headers, tail, content, answer.ranges)
        return self._whole(asked, policy.status, dressed.lines + tail, content, None)

    def planned(
        self,
        asked: Asked,
        headers: Headers,
        policy: StoredPolicy,
        status: int,
        part: ByteRange,
        size: int,
        content: Content,
        reuse: Reuse,
        note: Note,
    ) -> Response:
        """Return an answer of a partial response: 200, 206, 304 or 416."""
        age_s = age_us_of(policy, now_us()) // SECOND_US
        if status == 304:
            headers = not_modified_fields(headers)
        dressed = self.dress(headers, policy.flags)
        tail = b"Age: %d\r\n" % age_s + self.added(asked, dressed, reuse, note)
        if status == 304:
            content.close()
            return made(304, dressed.lines + tail, b"", None)
        if status == 416:
            content.close()
            return self._unsatisfied(size, tail)
        lines = dressed.lines + tail
        if status == 206:
            lines += b"Content-Range: " + format_content_range(part, size) + b"\r\n"
        return self._whole(asked, status, lines, content, None)

    def _whole(
        self,
        asked: Asked,
        status: int,
        lines: bytes,
        content: Content,
        trailers: Callable[[], bytes] | None,
    ) -> Response:
        size = content.size
        if status in (204, 304):
            content.close()
            return made(status, lines, b"", None)
        if asked.method == b"HEAD":
            content.close()
            return made(status, lines + _length_line(size), b"", size)
        data = content.whole()
        if isinstance(data, bytes):
            size = len(data)
        response = made(status, lines + _length_line(size), data, size)
        response.trailers = trailers
        return response

    def _unsatisfied(self, size: int, tail: bytes) -> Response:
        line = b"Content-Range: " + format_unsatisfied_range(size) + b"\r\n"
        response = made(416, line + tail + b"Content-Length: 0\r\n", b"", 0)
        response.has_date = False
        return response

    def _part(self, lines: bytes, content: Content, part: ByteRange) -> Response:
        value = format_content_range(part, content.size)
        lines += b"Content-Range: " + value + b"\r\n" + _length_line(part.size)
        return made(206, lines, content.part(part.first, part.last), part.size)

    def _parts(
        self, headers: Headers, tail: bytes, content: Content, ranges: tuple[ByteRange, ...]
    ) -> Response:
        boundary = os.urandom(_BOUNDARY_BYTES).hex().encode()
        assert content.size is not None
        kind = headers.get(b"content-type")
        frame = frame_multipart(ranges, content.size, kind, boundary)
        lines = self.dress(headers.without((b"content-type",))).lines + tail
        lines += b"Content-Type: " + frame.content_type + b"\r\n" + _length_line(frame.total_bytes)
        pieces: list[Data] = []
        for head, part in frame.parts:
            pieces += (head, content.part(part.first, part.last))
        pieces.append(frame.tail)
        if all(isinstance(piece, bytes) for piece in pieces):
            content.close()
            return made(206, lines, b"".join(pieces), frame.total_bytes)  # type: ignore[arg-type]
        return made(206, lines, _chained(pieces, content), frame.total_bytes)

    def own(
        self,
        asked: Asked,
        status: int,
        text: str,
        reuse: Reuse,
        note: Note,
        extra: bytes = b"",
    ) -> Response:
        """Return an answer of the proxy itself."""
        body = f"{text}\n".encode()
        lines = b"Content-Type: text/plain; charset=utf-8\r\n" + extra
        lines += self.added(asked, Dressed(b"", b"", None), reuse, note)
        if not 300 <= status < 400:
            lines += b"Cache-Control: no-store\r\n"
        response = made(status, lines + _length_line(len(body)), body, len(body))
        response.has_date = False
        return response


async def _chained(pieces: list[Data], content: Content) -> AsyncIterator[bytes]:
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            async for part in piece:
                yield part
    finally:
        content.close()


def made(status: int, lines: bytes, data: Data, size: int | None) -> Response:
    """Return an answer whose head has a Date already."""
    response = Response(status, body=data, length=size, head=status_line(status) + lines)
    response.has_date = True
    return response


def _length_line(size: int | None) -> bytes:
    return b"" if size is None else b"Content-Length: %d\r\n" % size


def trailer_lines(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return trailers as lines, without those that may only stand in a head."""
    return Headers([pair for pair in fields if pair[0] not in _NO_TRAILERS]).to_wire()


# RFC 9110, section 6.5.1: framing, routing, authentication, control, and what the proxy decides by.
_NO_TRAILERS = frozenset(
    (
        *(b"transfer-encoding", b"content-length", b"host", b"connection", b"te", b"trailer"),
        *(b"cache-control", b"expires", b"age", b"date", b"vary", b"set-cookie", b"authorization"),
        *(b"content-encoding", b"content-type", b"content-range", b"content-location", b"etag"),
        *(b"last-modified", b"keep-alive", b"upgrade", b"proxy-connection", b"location", b"via"),
        *(b"www-authenticate", b"proxy-authenticate", b"cache-status", b"x-cache-status"),
    )
)
