"""The answers to a stream of bytes do not depend on how it was cut."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.http import Running
from support.smuggling import CASES

from edgecache.http import Request, Response


def echo(request: Request) -> Response | Awaitable[Response]:
    if request.body is None:
        return Response(200, (), b"no content of " + request.target)
    whole = request.body.whole()
    return Response(200, (), b"content " + whole) if whole is not None else echo_later(request)


async def echo_later(request: Request) -> Response:
    assert request.body is not None
    return Response(200, (), b"content " + await request.body.read_all(1 << 20))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(echo) as running:
        yield running


def visible(received: bytes) -> bytes:
    """Leave away the fields that depend on time."""
    lines = received.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith((b"Date:", b"Connection:")))


GOOD = st.sampled_from(
    [
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /b?c HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        b"PUT /c HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
        b"GET /d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
        b"\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
)
SMALL = sorted(name for name, (data, _) in CASES.items() if len(data) < 1000)
BAD = st.sampled_from(SMALL).map(lambda name: CASES[name][0])
NOISE = st.binary(max_size=30)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """Requests, some of them spoiled, and where to cut them."""
    parts = draw(st.lists(GOOD, min_size=1, max_size=4))
    kind = draw(st.sampled_from(["good", "bad", "noise", "spoiled"]))
    data = b"".join(parts)
    if kind == "bad":
        data += draw(BAD) + draw(GOOD)
    elif kind == "noise":
        data += draw(NOISE) + draw(GOOD)
    elif kind == "spoiled":
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=8))
    return data, sorted(cuts)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(streams())
def test_segments_do_not_matter(server: Running, stream: tuple[bytes, list[int]]) -> None:
    data, cuts = stream
    places = [0, *cuts, len(data)]
    segments = [data[low:high] for low, high in itertools.pairwise(places)]
    whole = server.send(data, closes=True)
    assert visible(server.send(*segments, closes=True)) == visible(whole)
    assert server.server.statistics.refused_by_reason["handler"] == 0


@pytest.mark.parametrize("name", SMALL)
def test_every_single_cut_of_a_bad_request_gives_the_same_answer(
    name: str, server: Running
) -> None:
    data = CASES[name][0]
    expected = visible(server.send(data))
    step = max(1, len(data) // 12)
    for cut in range(1, len(data), step):
        assert visible(server.send(data[:cut], data[cut:])) == expected
