"""Every bound on a client holds, answers what it should, and is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable

import pytest
from support.http import Running, answers, read_all, request, statuses

from edgecache.errors import ArgumentError
from edgecache.http import HttpLimits, Request, Response

LAST = request("GET", "/last", [("Connection", "close")])
OK = Response(200, (), b"ok")
PIECE = bytes(65536)
ENDLESS = 1 << 40


def handler(request: Request) -> Response | Awaitable[Response]:
    if request.target == b"/endless":
        return Response(200, (), endless(), length=ENDLESS)
    if request.body is not None and request.target != b"/ignore":
        return read(request)
    return OK


async def read(request: Request) -> Response:
    assert request.body is not None
    size = 0
    async for piece in request.body:
        size += len(piece)
    return Response(200, (), b"%d" % size)


produced = [0]


async def endless() -> AsyncIterator[bytes]:
    while True:
        produced[0] += len(PIECE)
        yield PIECE


def fields(count: int) -> list[tuple[str, str]]:
    return [(f"X-{n}", "y") for n in range(count)]


@pytest.mark.parametrize(
    ("limits", "data", "status", "reason"),
    [
        ({"request_line_bytes_max": 50}, request("GET", "/" + "a" * 50), 414, "request_line_bytes"),
        ({"header_bytes_max": 100}, request("GET", "/", [("A", "b" * 100)]), 431, "header_bytes"),
        ({"header_count_max": 5}, request("GET", "/", fields(5)), 431, "header_count"),
        ({"body_bytes_max": 9}, request("PUT", "/", (), b"x" * 10), 413, "body_bytes"),
        (
            {"body_bytes_max": 9},
            request("PUT", "/", [("Transfer-Encoding", "chunked")])
            + b"A\r\n0123456789\r\n0\r\n\r\n",
            413,
            "body_bytes",
        ),
        (
            {"chunk_extension_bytes_max": 9},
            request("PUT", "/", [("Transfer-Encoding", "chunked")])
            + b"1;abcdefghi\r\nx\r\n0\r\n\r\n",
            400,
            "chunk_extension_bytes",
        ),
        ({"discard_bytes_max": 9}, request("GET", "/", (), b"x" * 10), 413, "discard_bytes"),
        (
            {"discard_bytes_max": 9},
            request("GET", "/", [("Transfer-Encoding", "chunked")])
            + b"A\r\n0123456789\r\n0\r\n\r\n",
            413,
            "discard_bytes",
        ),
    ],
)
def test_a_size_above_its_limit_is_refused_and_counted(
    limits: dict[str, int], data: bytes, status: int, reason: str
) -> None:
    with Running(handler, limits=HttpLimits(**limits)) as server:
        assert statuses(server.send(data + LAST)) == [status]
        assert server.refused == {reason: 1}


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        ({"request_line_bytes_max": 14}, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ({"header_bytes_max": 28}, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ({"header_count_max": 2}, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ({"body_bytes_max": 5}, request("PUT", "/", [("Connection", "close")], b"12345")),
        ({"discard_bytes_max": 5}, request("GET", "/", [("Connection", "close")], b"12345")),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_size_at_its_limit_is_taken(limits: dict[str, int], data: bytes, step: int) -> None:
    with Running(handler, limits=HttpLimits(**limits)) as server:
        segments = [data[at : at + step] for at in range(0, len(data), step)]
        assert statuses(server.send(*segments)) == [200]
        assert server.refused == {}


def test_discarding_behind_an_answer_is_bounded() -> None:
    limits = HttpLimits(discard_bytes_max=1000, linger_timeout_s=0.3)
    head = request("PUT", "/ignore", [("Transfer-Encoding", "chunked")])
    with Running(handler, limits=limits) as server, server.connect() as handle:
        handle.sendall(head + b"5\r\nhello\r\n")
        assert next(answers(handle)).status == 200
        handle.sendall(b"FF0\r\n" + bytes(0xFF0) + b"\r\n0\r\n\r\n" + LAST)
        assert read_all(handle) == b""
        assert server.refused == {"discard_bytes": 1}


@pytest.mark.parametrize(
    ("limits", "data", "received", "reason"),
    [
        ({"header_timeout_s": 0.3}, b"GET / HTTP/1.1\r\nHost: a\r\nX-A", [408], "header_timeout"),
        ({"header_timeout_s": 0.3}, b"G", [408], "header_timeout"),
        ({"idle_timeout_s": 0.3}, b"", [], "idle_timeout"),
        ({"idle_timeout_s": 0.3}, request("GET", "/"), [200], "idle_timeout"),
        (
            {"body_timeout_s": 0.3},
            request("PUT", "/", [("Content-Length", "100")]) + b"x",
            [408],
            "body_timeout",
        ),
        (
            {"body_timeout_s": 0.3},
            request("GET", "/", [("Content-Length", "100")]) + b"x",
            [408],
            "body_timeout",
        ),
        (
            {"body_timeout_s": 0.3},
            request("PUT", "/ignore", [("Content-Length", "100")]) + b"x",
            [200],
            "body_timeout",
        ),
    ],
)
def test_a_client_that_stalls_is_cut_off_and_counted(
    limits: dict[str, float], data: bytes, received: list[int], reason: str
) -> None:
    with Running(handler, limits=HttpLimits(linger_timeout_s=0.1, **limits)) as server:
        assert statuses(server.send(data)) == received
        assert server.refused == {reason: 1}


def test_a_header_that_drips_is_cut_off_although_bytes_keep_coming() -> None:
    """The time counts from the first byte of a header: progress does not prolong it."""
    limits = HttpLimits(header_timeout_s=0.4, linger_timeout_s=0.1)
    with Running(handler, limits=limits) as server, server.connect() as handle:
        handle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        handle.settimeout(0.05)
        received = b""
        while not received:
            handle.send(b"a")
            try:
                received = handle.recv(1000)
            except TimeoutError:
                continue
        assert statuses(received) == [408]


def test_content_that_drips_below_the_least_rate_is_cut_off() -> None:
    limits = HttpLimits(body_timeout_s=0.3, rate_bytes_min=1 << 20, linger_timeout_s=0.1)
    head = request("PUT", "/", [("Content-Length", str(1 << 30))])
    with Running(handler, limits=limits) as server, server.connect() as handle:
        handle.sendall(head)
        handle.settimeout(0.02)
        received = b""
        while not received:
            handle.send(b"a")
            try:
                received = handle.recv(1000)
            except TimeoutError:
                continue
        assert statuses(received) == [408]
        assert server.refused == {"body_timeout": 1}


def test_content_above_the_least_rate_may_take_as_long_as_it_needs() -> None:
    """The clock of the connection is moved instead of waiting: bytes received grant time."""
    limits = HttpLimits(body_timeout_s=10, rate_bytes_min=100)
    with Running(handler, limits=limits) as server, server.connect() as handle:
        handle.sendall(request("PUT", "/", [("Content-Length", "5000")]) + bytes(4000))
        shared = server.server._shared
        assert shared is not None
        server.call(until(lambda: any(c.body_bytes >= 4000 for c in shared.connections)))
        (connection,) = shared.connections

        async def look(seconds: float) -> bool:
            connection.on_deadline(connection.armed_s + seconds)
            return connection.is_broken

        assert not server.call(look(10 + 39))
        handle.sendall(bytes(500))
        server.call(until(lambda: connection.body_bytes >= 4500))
        assert not server.call(look(10 + 44))
        assert server.call(look(10 + 46))
        assert next(answers(handle)).status == 408


def test_a_client_that_reads_nothing_costs_bounded_memory_and_is_cut_off() -> None:
    limits = HttpLimits(write_buffer_bytes_max=131072, write_timeout_s=0.5)
    produced[0] = 0
    with Running(handler, limits=limits) as server, server.connect(SO_RCVBUF=65536) as handle:
        handle.sendall(request("GET", "/endless"))
        server.call(until(lambda: server.server.connections == 0))
        assert server.refused["write_timeout"] == 1
        # What the two sockets hold is the kernel's; ours is the write buffer and one piece.
        kernel = 2 * (1 << 22) + 4 * 65536
        assert produced[0] <= limits.write_buffer_bytes_max + 2 * len(PIECE) + kernel
        assert server.server.statistics.writing_pauses == 1


def test_a_client_that_does_not_read_its_pipelined_answers_stops_being_read() -> None:
    limits = HttpLimits(write_buffer_bytes_max=65536, pipelined_bytes_max=4096, write_timeout_s=60)
    big = Response(200, (), bytes(30000))
    with Running(lambda _: big, limits=limits) as server, server.connect(SO_RCVBUF=4096) as handle:
        handle.setblocking(False)
        data = request("GET", "/") * 1000
        sent = 0
        while True:
            try:
                sent += handle.send(data)
            except BlockingIOError:
                if server.server.statistics.reading_pauses:
                    break
        assert server.server.statistics.answers_by_status[200] < sent // len(request("GET", "/"))


async def until(is_true: object) -> None:
    while not is_true():  # type: ignore[operator]
        await asyncio.sleep(0.01)


def test_connections_above_the_limit_get_a_503() -> None:
    limits = HttpLimits(connections_max=2)
    with Running(handler, limits=limits) as server:
        first, second = server.connect(), server.connect()
        for each in (first, second):
            each.sendall(request("GET", "/"))
            assert next(answers(each)).status == 200
        assert statuses(server.send()) == [503]
        assert server.refused == {"connections": 1}
        first.close()
        server.call(until(lambda: server.server.connections == 1))
        assert server.exchange(request("GET", "/")).status == 200
        second.close()


def test_requests_per_connection_are_bounded() -> None:
    with Running(handler, limits=HttpLimits(requests_per_connection_max=3)) as server:
        received = server.send(request("GET", "/") * 10)
        assert statuses(received) == [200] * 3
        assert received.count(b"Connection: close") == 1


def test_content_that_is_not_taken_stops_the_reading_of_the_socket() -> None:
    gate: asyncio.Future[None]

    async def wait(request: Request) -> Response:
        await gate
        return await read(request)

    limits = HttpLimits(body_buffer_bytes_max=65536, body_timeout_s=60)
    with Running(wait, limits=limits) as server:
        gate = server.loop.create_future()
        size = 1 << 25
        with server.connect() as handle:
            handle.sendall(request("PUT", "/", [("Content-Length", str(size))]))
            handle.setblocking(False)
            sent = 0
            while not server.server.statistics.reading_pauses:
                try:
                    sent += handle.send(bytes(65536))
                except BlockingIOError:
                    continue
            (connection,) = server.server._shared.connections  # type: ignore[union-attr]
            assert connection.reader is not None
            assert connection.reader.pending_bytes <= limits.body_buffer_bytes_max + 262144
            server.loop.call_soon_threadsafe(gate.set_result, None)
            handle.settimeout(10)
            handle.sendall(bytes(size - sent))
            handle.shutdown(socket.SHUT_WR)
            assert next(answers(handle)).body == b"%d" % size


@pytest.mark.parametrize(
    "wrong",
    [
        {"header_count_max": 0},
        {"header_bytes_max": -1},
        {"body_bytes_max": "1"},
        {"idle_timeout_s": float("nan")},
        {"idle_timeout_s": float("inf")},
        {"rate_bytes_min": 1.5},
        {"connections_max": True},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        HttpLimits(**wrong)  # type: ignore[arg-type]
