"""Bytes in, requests out: the input side of one HTTP/1.1 connection.

Invariants:

1. Answers leave in the order of the requests: while one is being answered, what follows it stays
   unparsed in `_tail`, and above a limit the socket is not read.
2. The next request is looked for only behind the proven end of the content of the one before. If
   that end is not reached within `discard_bytes_max`, or its framing is broken, the connection is
   closed and nothing behind it is ever read as a request.
3. What a handler answers at once is written in one piece with the answers to all other requests of
   the same read of the socket; the hits before them, which the lane answers (`_head.pxd`), in
   another one.
4. After a fatal error there is one answer, then end of file.

Phases: HEAD (between requests, or in the middle of a header), BODY (content of a request, whoever
takes it), CLOSING (nothing is parsed any more). `answering.py` has the output side. The lane is
open only between requests, with nothing kept and nothing waiting.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, cast

from edgecache.http._head import split_line
from edgecache.http.answering import BODY, CLOSING, HEAD, Answering
from edgecache.http.chunked import ChunkedDecoder
from edgecache.http.failures import ClientGoneError, RequestError
from edgecache.http.framing import (
    Block,
    bad,
    check_shape,
    parse_block,
    parse_line,
    split_authority,
    split_target,
)
from edgecache.http.request import BodyReader, Request
from edgecache.http.response import Response
from edgecache.http.shared import Repeat

__all__ = ["HttpProtocol"]

# Answers of one read of the socket that are gathered before they are written.
BATCH_BYTES = 262144
GET_200 = (b"GET", 200)


class HttpProtocol(Answering, asyncio.Protocol):
    """One connection. Made by the server; `Shared` is what its connections have in common.

    *Thread-safety*: belongs to the thread of its loop.
    """

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        shared = self.shared
        transport.set_write_buffer_limits(high=shared.limits.write_buffer_bytes_max)
        self.peer = transport.get_extra_info("peername") or ""
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        self.repeats = self.lane.repeats = shared.repeats[self.scheme]
        shared.add(self)
        if shared.statistics.connections > shared.limits.connections_max:
            self.refuse(bad("too many connections", "connections", 503))
        else:
            self.arm()

    def connection_lost(self, error: Exception | None) -> None:
        self.phase = CLOSING
        self.tail = b""
        self.out.clear()
        self.shared.remove(self)
        if self.reader is not None:
            self.reader.fail(ClientGoneError("the client went away before the end of its content"))
        self.wake_writer()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.native.bytes_received += len(data)
        if self.lane.is_open:
            self.answered_count += self.lane.close()
        repeat = self.repeats.get(data)
        if repeat is not None and self._answer_again(data, repeat):
            return
        if self.phase == CLOSING:
            return
        if self.tail:
            data = self.tail + data
            self.tail = b""
        count = self.answered_count
        self._advance(data)
        repeat, self.repeat = self.repeat, None
        is_one = self.answered_count == count + 1 and self.request is None and not self.tail
        if repeat is not None and is_one and self.phase == HEAD:
            # These bytes were one request, all of it, and the next one begins behind them.
            self.shared.remember(self.repeats, data, repeat)

    def _answer_again(self, data: bytes, repeat: Repeat) -> bool:
        """Answer bytes that were one whole request before, if its answer is still good."""
        shared = self.shared
        if (
            self.phase != HEAD
            or self.tail
            or self.request is not None
            or self.is_write_paused
            or self.is_eof
            or self.is_broken
            or self.has_skipped_line
            or not shared.is_plain
            or self.answered_count + 1 >= shared.limits.requests_per_connection_max
        ):
            return False
        began_s = perf_counter() if shared.shows_time else 0.0
        response = repeat[0]()
        if response is None:
            self.repeats.pop(data, None)
            return False
        self.answered_count += 1
        statistics = self.statistics
        statistics.count(repeat[1], response.status)
        wire = response.wire
        if shared.shows_time:
            line, _, rest = wire[0].partition(b"\n")
            wire = (line + b"\n" + shared.end_after(began_s, rest), *wire[1:])
        size = len(wire[0]) if len(wire) == 1 else sum(map(len, wire))
        self.sent_bytes += size
        self.native.bytes_sent += size
        self.limit_reason = "idle_timeout"
        self.deadline_s = shared.idle_deadline_s
        if len(wire) == 1:
            self.transport.write(wire[0])
        else:
            self.transport.writelines(wire)
        return True

    def eof_received(self) -> bool:
        """Go on writing what is owed to a client that closed its side (RFC 9112, section 9.6)."""
        self.is_eof = True
        if self.phase == BODY and self.reader is not None:
            error = ClientGoneError("the client closed before the end of its content")
            self.reader.fail(error)
            is_owed = self.request is not None and self.request.body is self.reader
        else:
            is_owed = self.request is not None or (bool(self.tail) and self.is_write_paused)
        return is_owed and self.scheme == "http"  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self.shared.statistics.writing_pauses += 1
        self.arm()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self.wake_writer()
        self.arm()
        if self.request is None and self.phase == HEAD:
            self.resume_input()

    # Input

    def resume_input(self) -> None:
        """Go on with what was kept while a request was answered."""
        data, self.tail = self.tail, b""
        self._advance(data)

    def _advance(self, data: bytes) -> None:
        """Take as many requests from `data` as can be answered now; keep the rest."""
        if self.lane.is_open:
            self.answered_count += self.lane.close()
        position = 0
        size = len(data)
        try:
            while position < size:
                if self.phase == HEAD:
                    if self.request is not None or self.is_write_paused:
                        break
                    taken = self._take_head(data, position)
                    if taken < 0:
                        break
                    position = taken
                    if self.out_bytes > BATCH_BYTES:
                        self.flush()
                elif self.phase == BODY:
                    position = self._take_body(data, position)
                else:
                    position = size
        except RequestError as error:
            self.refuse(error)
            return
        if self.phase != CLOSING:
            self.tail = data[position:] if position else data
            if self.tail or self.is_read_paused or self.phase == BODY:
                self._balance_reading()
        if self.out:
            self.flush()
        if self.phase == HEAD:
            if not (self.tail or self.request or self.is_eof or self.is_write_paused):
                self.limit_reason = "idle_timeout"
                self.deadline_s = self.shared.idle_deadline_s
                block = self.block
                if block is not None and block.is_swift and not self.has_skipped_line:
                    most = self.shared.limits.requests_per_connection_max
                    self.lane.open(block.raw, block.raw_end, most - 1 - self.answered_count)
            elif self.is_eof and self.request is None and not self.is_write_paused:
                self.close_soon()
            else:
                self.arm()

    def _balance_reading(self) -> None:
        """Read the socket only while what arrives can be taken or kept."""
        limits = self.shared.limits
        reader = self.reader
        if self.phase == BODY and reader is not None:
            is_full = reader.pending_bytes > limits.body_buffer_bytes_max
        else:
            is_full = len(self.tail) > limits.pipelined_bytes_max
        if is_full != self.is_read_paused:
            self.is_read_paused = is_full
            if is_full:
                self.shared.statistics.reading_pauses += 1
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _take_head(self, data: bytes, position: int) -> int:
        """Take one header, and with it as much of the content as there is; -1: not all there."""
        if data[position] == 13 and not self.has_skipped_line:
            # RFC 9112, section 2.2: an empty line before a request is ignored, once.
            second = data[position + 1 : position + 2]
            if second == b"\n":
                self.has_skipped_line = True
                return position + 2
            if not second:
                return -1
        limits = self.shared.limits
        block = self.block
        if block is not None and block.is_simple:
            # The same fields as in the last request, as clients send them: they were judged.
            line = split_line(data, position)
            if line is not None and data.startswith(block.raw_end, line[3]):
                method, target, minor, end = line
                is_short = len(target) < limits.request_line_bytes_max - 48
                if target[0] == 47 and is_short:
                    self.has_skipped_line = False
                    self.limit_reason = ""
                    self._take_simple(method, target, minor, block)
                    return end + len(block.raw_end)
        end = data.find(b"\r\n\r\n", position)
        if end < 0:
            check_shape(data[position:], False, limits)
            return -1
        try:
            method, target, minor, line_end = parse_line(data, position)
            if line_end - position > limits.request_line_bytes_max + 2:
                raise bad("the request line is too long", "request_line_bytes", 414)
            raw = data[line_end : end + 2]
            if block is None or block.raw != raw:
                check_shape(data[position : end + 2], True, limits)
                block = self.block = parse_block(raw)
            request = Request(method, target, minor, block, self.peer, self.scheme)
            self._check(request)
        except RequestError:
            check_shape(data[position : end + 2], True, limits)
            raise
        self.has_skipped_line = False
        self.limit_reason = ""
        return self._start(request, data, end + 4)

    def _take_simple(self, method: bytes, target: bytes, minor: int, block: Block) -> None:
        """Answer a request for a path, without content, whose fields were judged before."""
        shared = self.shared
        answer: Any = None
        began_s = perf_counter() if shared.shows_time else None
        if method == b"GET" and minor and block.is_plain and shared.is_plain:
            try:
                answer = shared.instant(target)
                if isinstance(answer, tuple) and type(answer[1]) is not bytes:
                    # What the transport keeps must not be the store's memory.
                    answer = answer[0], memoryview(answer[1]).tobytes()
            except Exception:
                # The handler proper meets it again, and knows what to answer.
                answer = None
            if (
                isinstance(answer, tuple)
                and self.answered_count + 1 < shared.limits.requests_per_connection_max
            ):
                head, body = answer
                end = shared.end_keep
                if shared.shows_time:
                    end = shared.end_after(began_s, end)
                self.out += (head, end, body)
                self.out_bytes += len(head) + len(end) + len(body)
                self.answered_count += 1
                self.answers[GET_200] = self.answers.get(GET_200, 0) + 1
                return
        request = Request(method, target, minor, block, self.peer, self.scheme)
        request.began_s = began_s
        if answer is None:
            self.dispatch(request)
        elif isinstance(answer, tuple):
            self.deliver(request, Response.ready(200, *answer))
        else:
            self.deliver(request, answer)

    def _check(self, request: Request) -> None:
        """Judge what the line and the fields are only together."""
        block = request.block
        if request.minor == 1:
            if not block.has_host:
                raise bad("the Host field is missing", "host")
        elif block.is_chunked:
            raise bad("HTTP/1.0 has no transfer codings", "transfer_encoding")
        if request.target[0] != 47 and block.has_host:
            authority = split_target(request.target)[1]
            host = block.values[b"host"][0]
            if authority is not None and split_authority(authority) != split_authority(host):
                raise bad("Host and target name different hosts", "host")
        limits = self.shared.limits
        length = block.content_length or 0
        if limits.body_bytes_max is not None and length > limits.body_bytes_max:
            raise bad("the content is too large", "body_bytes", 413)
        if length > limits.discard_bytes_max and request.method in self.shared.without_content:
            raise bad("too much content for this method", "discard_bytes", 413)

    def _start(self, request: Request, data: bytes, position: int) -> int:
        """Begin with the content, if there is one, and hand the request over."""
        block = request.block
        length = block.content_length
        if not block.is_chunked and not length:
            self.dispatch(request)
            return position
        is_unwanted = request.method in self.shared.without_content
        if is_unwanted and block.expects_continue and request.minor == 1:
            # It is not asked for, so nobody knows whether it comes: the connection is over.
            request.keep_alive = False
            self.dispatch(request)
            return position
        self.phase = BODY
        self.left_bytes = length or 0
        self.discarded_bytes = 0
        self.decoder = ChunkedDecoder(self.shared.limits) if block.is_chunked else None
        self.reader = BodyReader(length, None if is_unwanted else self.on_demand)
        if is_unwanted:
            self.request = request
            self.arm()
            return position
        request.body = self.reader
        self.request = request
        self.wants_continue = block.expects_continue and request.minor == 1
        self.arm()
        if position < len(data):
            position = self._take_body(data, position)
        self.dispatch(request)
        return position

    def _take_body(self, data: bytes, position: int) -> int:
        """Take content; a broken one ends the connection, at the latest with its answer."""
        reader, decoder = self.reader, self.decoder
        assert reader is not None
        self.wants_continue = False
        pieces: list[bytes] = []
        start = position
        error: RequestError | None = None
        is_done = False
        if decoder is None:
            piece = data[position : position + self.left_bytes]
            position += len(piece)
            self.left_bytes -= len(piece)
            pieces.append(piece)
            is_done = self.left_bytes == 0
        else:
            try:
                position = decoder.feed(data, position, pieces)
            except RequestError as found:
                error = found
            is_done = decoder.is_done
        self.body_bytes += position - start
        try:
            self._give(reader, pieces)
        except RequestError as found:
            error = found
        if error is not None:
            self._on_broken_body(reader, error)
            return len(data)
        if is_done:
            self._finish_body(reader)
        return position

    def _give(self, reader: BodyReader, pieces: list[bytes]) -> None:
        """Pass content to who takes it; RequestError when it is too much."""
        limits = self.shared.limits
        for piece in pieces:
            reader.feed(piece)
        if limits.body_bytes_max is not None and reader.received_bytes > limits.body_bytes_max:
            raise bad("the content is too large", "body_bytes", 413)
        if self.request is None or self.request.body is None:
            self.discarded_bytes += reader.drop()
            if self.discarded_bytes > limits.discard_bytes_max:
                raise bad("too much content for this method", "discard_bytes", 413)

    def _on_broken_body(self, reader: BodyReader, error: RequestError) -> None:
        """Take no more input; who is to answer decides how the connection ends."""
        reader.fail(error)
        if self.request is None:  # answered already
            self.shared.statistics.refused_by_reason[error.reason] += 1
            self.close_soon()
        elif self.request.body is None:
            raise error
        else:
            self.is_broken = True
            self.phase = HEAD  # with a request in progress: input is kept aside, and never parsed

    def _finish_body(self, reader: BodyReader) -> None:
        self.phase = HEAD
        self.limit_reason = ""
        reader.finish(self.decoder.trailers if self.decoder is not None else ())
        self.reader = self.decoder = None
        request = self.request
        if request is not None and request.body is None:
            self.dispatch(request)
