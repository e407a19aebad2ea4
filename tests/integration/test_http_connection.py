"""One connection: order, framing of answers, what keeps it and what ends it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest
import uvloop
from support.http import Running, answers, read_all, request, statuses

from edgecache.http import FileRange, Request, RequestError, Response

LAST = request("GET", "/last", [("Connection", "close")])
FILE_BYTES = 3_000_000


class Site:
    """Answers that a target names, each kind once."""

    def __init__(self) -> None:
        self.content = os.urandom(FILE_BYTES)
        self.descriptor = os.memfd_create("content")
        os.write(self.descriptor, self.content)

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        path = request.path_and_query[0]
        if path.startswith(b"/status/"):
            return Response(int(path[8:]), (("X-Kind", "status"),), b"gone" * 3)
        if path == b"/file":
            return Response(200, (), FileRange(self.descriptor, 10, FILE_BYTES - 20))
        if path == b"/short-file":
            return Response(200, (), FileRange(self.descriptor, 0, FILE_BYTES + 1))
        if path == b"/buffers":
            return Response(200, (), [b"one ", memoryview(b"two "), b"three"])
        if path == b"/large":
            return Response(200, (), self.content)
        if path == b"/fails":
            raise ValueError("a bug")
        if path == b"/refuses":
            raise RequestError("not today", status=409, reason="test", fields=(("X-A", "b"),))
        if path in (b"/pieces", b"/known", b"/too-much", b"/too-little", b"/breaks"):
            length = {b"/known": 12, b"/too-much": 11, b"/too-little": 13}.get(path)
            return Response(200, (), self._pieces(path == b"/breaks"), length=length)
        if path == b"/ignore":
            return Response(200, (), b"not read")
        return self._later(request)

    async def _pieces(self, breaks: bool) -> AsyncIterator[bytes]:
        for piece in (b"some", b"", b"more", b"last"):
            await asyncio.sleep(0)
            yield piece
        if breaks:
            raise OSError("the disk is gone")

    async def _later(self, request: Request) -> Response:
        await asyncio.sleep(0)
        if request.body is not None:
            body = await request.body.read_all(1 << 24)
            trailers = dict(request.body.trailers)
            return Response(200, (("X-Trailer", trailers.get(b"X-T", b"").decode()),), body)
        return Response(200, (), request.target)


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = Site()
    yield found
    os.close(found.descriptor)


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest, site: Site) -> Iterator[Running]:
    with Running(site, loop_factory=LOOPS[request.param]) as running:
        yield running


def test_pipelined_answers_come_in_the_order_of_the_requests(server: Running) -> None:
    """Some are answered at once, others later: none overtakes."""
    targets = [f"/{kind}?{n}" for n in range(40) for kind in ("status/200", "x", "pieces")]
    with server.connect() as handle:
        handle.sendall(b"".join(request("GET", target) for target in targets) + LAST)
        found = [answer.body for answer in answers(handle)]
    expected = []
    for target in targets:
        if target.startswith("/status"):
            expected.append(b"gonegonegone")
        else:
            expected.append(target.encode() if target.startswith("/x") else b"somemorelast")
    assert found == [*expected, b"/last"]


def test_answers_to_a_client_that_closes_its_side_are_all_sent(server: Running) -> None:
    received = server.send(request("GET", "/x") * 3 + request("GET", "/pieces"), closes=True)
    assert statuses(received) == [200] * 4


@pytest.mark.parametrize("target", ["/buffers", "/file", "/large", "/known", "/pieces", "/x"])
def test_a_head_gets_the_fields_of_a_get_and_no_content(server: Running, target: str) -> None:
    get, head = (server.exchange(request(method, target)) for method in ("GET", "HEAD"))
    assert get.body
    assert head.body == b""
    assert head.status == get.status
    for fields in (get.fields, head.fields):
        fields.pop("date")
    assert head.fields == get.fields
    assert statuses(server.send(request("HEAD", target) + LAST)) == [200, 200]


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_content_have_no_length_and_the_next_follows(
    server: Running, status: int
) -> None:
    received = server.send(request("GET", f"/status/{status}") + LAST)
    assert statuses(received) == [status, 200]
    first = received.split(b"\r\n\r\n")[0].lower()
    assert b"content-length" not in first
    assert b"transfer-encoding" not in first


def test_every_kind_of_content_arrives_whole(server: Running, site: Site) -> None:
    assert server.exchange(request("GET", "/file")).body == site.content[10:-10]
    assert server.exchange(request("GET", "/large")).body == site.content
    assert server.exchange(request("GET", "/buffers")).body == b"one two three"
    chunked = server.exchange(request("GET", "/pieces"))
    assert (chunked.body, chunked.fields["transfer-encoding"]) == (b"somemorelast", "chunked")
    known = server.exchange(request("GET", "/known"))
    assert (known.body, known.fields["content-length"]) == (b"somemorelast", "12")


@pytest.mark.parametrize("target", ["/too-much", "/too-little", "/breaks", "/short-file"])
def test_content_that_fails_is_cut_off_and_never_looks_complete(
    server: Running, target: str
) -> None:
    received = server.send(request("GET", target) + LAST)
    assert statuses(received) in ([200], [])  # a reset may overtake the head
    head, _, body = received.partition(b"\r\n\r\n")
    if b"chunked" in head:
        assert not body.endswith(b"0\r\n\r\n")
    elif head:
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert len(body) < length


def test_http_1_0_is_closed_unless_it_asks_to_be_kept(server: Running) -> None:
    old = b"GET /x HTTP/1.0\r\n\r\n"
    received = server.send(old + old)
    assert statuses(received) == [200]
    assert b"Connection: close" in received
    kept = b"GET /x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    received = server.send(kept + old)
    assert statuses(received) == [200, 200]
    assert b"Connection: keep-alive" in received


def test_http_1_0_gets_content_of_unknown_length_until_the_end_of_the_connection(
    server: Running,
) -> None:
    received = server.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Transfer-Encoding" not in received
    assert received.endswith(b"\r\n\r\nsomemorelast")


def test_an_upgrade_is_not_made_and_its_content_is_content(server: Running) -> None:
    upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
    body = request("GET", "/smuggled")
    received = server.send(request("POST", "/x", upgrade, body) + LAST)
    assert statuses(received.replace(body, b"")) == [200, 200]
    assert b"101" not in received[:12]


def test_content_is_asked_for_when_the_handler_wants_it(server: Running) -> None:
    with server.connect() as handle:
        head = request("PUT", "/x", [("Expect", "100-Continue"), ("Content-Length", "5")])
        handle.sendall(head)
        assert handle.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        handle.sendall(b"hello" + LAST)
        found = list(answers(handle))
    assert [answer.body for answer in found] == [b"hello", b"/last"]


@pytest.mark.parametrize("target", ["/ignore", "/refuses", "/fails"])
def test_content_that_nobody_wants_is_not_asked_for(server: Running, target: str) -> None:
    """Whether it comes nobody can know, so the connection is closed behind the answer."""
    head = request("PUT", target, [("Expect", "100-continue"), ("Content-Length", "5")])
    received = server.send(head)
    assert b"100 Continue" not in received
    assert b"Connection: close" in received
    assert len(statuses(received)) == 1


def test_content_that_was_sent_without_waiting_is_taken_without_a_100(server: Running) -> None:
    received = server.send(request("PUT", "/x", [("Expect", "100-continue")], b"hello") + LAST)
    assert statuses(received) == [200, 200]


def test_content_that_a_handler_does_not_read_is_discarded(server: Running) -> None:
    body = request("GET", "/smuggled") * 100
    received = server.send(request("PUT", "/ignore", (), body) + LAST)
    assert statuses(received) == [200, 200]


def test_much_content_that_a_handler_does_not_read_ends_the_connection(server: Running) -> None:
    head = request("PUT", "/ignore", [("Content-Length", str(1 << 40))])
    received = server.send(head, b"x" * 1000)
    assert statuses(received) == [200]
    assert b"Connection: close" in received


def test_trailers_are_given_to_the_handler_apart_from_the_header(server: Running) -> None:
    head = request("PUT", "/x", [("Transfer-Encoding", "chunked")])
    found = server.exchange(head + b"5\r\nhello\r\n0\r\nX-T: yes\r\n\r\n")
    assert (found.body, found.fields["x-trailer"]) == (b"hello", "yes")


def test_errors_of_a_handler_are_answers_and_keep_the_connection(server: Running) -> None:
    data = request("GET", "/fails") + request("GET", "/refuses") + LAST
    received = server.send(data)
    assert statuses(received) == [500, 409, 200]
    assert b"a bug" not in received
    assert b"X-A: b\r\n" in received


def test_the_target_reaches_the_handler_byte_for_byte(server: Running) -> None:
    target = "/a%2Fb//../%00?x=%zz&y|z{}"
    assert server.exchange(request("GET", target)).body == target.encode()


def test_a_large_upload_passes_through_a_small_buffer(server: Running, site: Site) -> None:
    data = site.content * 3
    with server.connect() as handle:
        handle.sendall(request("PUT", "/x", [("Connection", "close")], data))
        (found,) = answers(handle)
    assert found.body == data


def test_a_client_that_leaves_during_its_upload_is_no_answer_and_no_error(
    server: Running,
) -> None:
    answered, refused = server.server.statistics.requests, server.refused
    with server.connect() as handle:
        handle.sendall(request("PUT", "/x", [("Content-Length", "1000")]) + b"x")
        handle.shutdown(socket.SHUT_WR)
        assert read_all(handle) == b""
    assert server.server.statistics.requests == answered
    assert server.refused == refused


def test_two_requests_in_one_segment_after_a_half_one(server: Running) -> None:
    one = request("GET", "/x")
    with server.connect() as handle:
        handle.sendall(one[:10])
        handle.sendall(one[10:] + one + one[:5])
        handle.sendall(one[5:] + LAST)
        assert [answer.status for answer in answers(handle)] == [200] * 4
        assert read_all(handle) == b""
