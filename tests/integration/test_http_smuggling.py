"""Every request whose end or form could be read in two ways gets one answer, and is the last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.http import Running, statuses
from support.smuggling import CASES, CHAIN

from edgecache.http import Request, Response

OK = Response(200, (("Content-Type", "text/plain"),), b"ok")


class Recorder:
    """A handler that remembers targets, and reads content when there is some."""

    def __init__(self) -> None:
        self.targets: list[bytes] = []

    def __call__(self, request: Request) -> Response:
        self.targets.append(request.target)
        if request.body is None:
            return OK
        return self._read(request)  # type: ignore[return-value]

    async def _read(self, request: Request) -> Response:
        assert request.body is not None
        return Response(200, (), await request.body.read_all(1 << 20))


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def server(recorder: Recorder) -> Iterator[Running]:
    with Running(recorder) as running:
        yield running


def test_the_table_is_as_large_as_promised() -> None:
    assert len(CASES) >= 120


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_gets_one_error_and_the_connection_is_closed(
    name: str, server: Running, recorder: Recorder
) -> None:
    data, status = CASES[name]
    received = server.send(data + CHAIN)
    assert statuses(received) == [status]
    assert b"\r\nConnection: close\r\n" in received
    assert b"/second" not in recorder.targets


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_that_comes_byte_by_byte_gets_the_same_answer(
    name: str, server: Running, recorder: Recorder
) -> None:
    data, status = CASES[name]
    if len(data) > 2000:
        step = len(data) // 7
        segments = [data[at : at + step] for at in range(0, len(data), step)]
    else:
        segments = [data[at : at + 1] for at in range(len(data))]
    received = server.send(*segments, CHAIN)
    assert statuses(received) == [status]
    assert b"/second" not in recorder.targets


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_behind_good_ones_does_not_harm_their_answers(
    name: str, server: Running, recorder: Recorder
) -> None:
    data, status = CASES[name]
    if data.startswith((b"\r", b"\n")) and data[:4] != b"\r\n\r\n":
        data = b"\r\n" + data
    good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
    received = server.send(good + good + data + CHAIN)
    assert statuses(received) == [200, 200, status]
    assert b"/second" not in recorder.targets


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t 5 \t\r\n\r\nhello", b"hello"),
        (b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:0000005\r\n\r\nhello", b"hello"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n"
            b'5;a;b=c;d="x;\\"y"\r\nhello\r\nA\r\n worldwide\r\n000\r\nX: y\r\n\r\n',
            b"hello worldwide",
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"ok"),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"ok"),
        (b"GET http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n", b"ok"),
        (b"FROBNICATE /x HTTP/1.1\r\nHost: [::1]:8080\r\nA:\r\n\r\n", b"ok"),
    ],
)
def test_a_good_request_is_answered_and_so_is_the_next(
    data: bytes, body: bytes, server: Running
) -> None:
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = server.send(data + last)
    assert statuses(received) == [200, 200]
    assert received.split(b"\r\n\r\n")[1].startswith(body)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_content_of_a_hit_is_never_taken_as_a_request(
    method: bytes, is_chunked: bool, server: Running, recorder: Recorder
) -> None:
    """A cache that answers a hit without reading the content would serve the smuggled request."""
    if is_chunked:
        framing = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(CHAIN), CHAIN)
    else:
        framing = b"Content-Length: %d\r\n\r\n%s" % (len(CHAIN), CHAIN)
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = server.send(method + b" / HTTP/1.1\r\nHost: a\r\n" + framing + last)
    assert statuses(received) == [200, 200]
    assert b"/second" not in recorder.targets
