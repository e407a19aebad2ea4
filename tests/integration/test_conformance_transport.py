"""Messages through the proxy as real clients see them (RFC 9110, RFC 9112, RFC 9211)."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from typing import Any

import pytest
from support.conformance import Case, Play, asked, hit, holding, ok, play, says
from support.origin import CLOSE, looped, response
from support.origin_world import World

FRESH = "max-age=3600"
OLD = b"HTTP/1.0 200 OK\r\nCache-Control: max-age=3600\r\n"

CASES: dict[str, Case] = {
    "an origin of HTTP/1.0 with a length": (
        asked([OLD + b"Content-Length: 2\r\n\r\nhi", CLOSE], body=b"hi", status=200),
        hit(body=b"hi"),
    ),
    "an origin of HTTP/1.0 that closes": (
        asked([OLD + b"\r\nhi", CLOSE], body=b"hi", status=200),
    ),
    "a reason that is empty": (
        asked([b"HTTP/1.1 200 \r\nCache-Control: max-age=9\r\nContent-Length: 2\r\n\r\nhi"],
              body=b"hi", status=200),
        hit(body=b"hi"),
    ),
    "chunks with extensions and trailers": (
        asked([b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"1;a=b\r\nh\r\n1\r\ni\r\n0\r\nX-Trailer: 1\r\nCache-Control: no-store\r\n\r\n"],
              body=b"hi", status=200),
        hit(body=b"hi", has={"x-trailer": None, "cache-control": "max-age=9"}),
    ),
    "length and chunked at once is refused": (
        asked([b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nTransfer-Encoding: chunked\r\n"
               b"Content-Length: 3\r\n\r\n0\r\n\r\n"], status=502),
        asked(ok(FRESH)),
    ),
    "two lengths are refused": (
        asked([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"],
              status=502),
    ),
    "40 KiB of fields": (
        asked(ok(FRESH, [(f"X-{number}", "v" * 1000) for number in range(40)])),
        hit(has={"x-39": "v" * 1000}),
    ),
    "a long target": (
        asked(ok(FRESH), target="/x?" + "q" * 4000),
        hit(target="/x?" + "q" * 4000),
        asked(target="/x?" + "q" * 3999),
    ),
    "Via upstream and downstream": (
        asked(ok(FRESH, {"Via": "1.1 origin-side"}), {"Via": "1.0 client-side"},
              saw={"via": holding("1.0 client-side, 1.1 ")},
              has={"via": holding("1.1 origin-side, 1.1 ")}),
        hit(has={"via": holding("1.1 origin-side, 1.1 ")}),
    ),
    "Via tells the version of the origin": (
        asked([OLD + b"Content-Length: 2\r\n\r\nhi", CLOSE], body=b"hi", status=200,
              has={"via": "1.0 edgecache"}),
        hit(body=b"hi", has={"via": "1.0 edgecache"}),
    ),
    "Via of what passes": (
        asked([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", CLOSE], body=b"hi", status=200,
              has={"via": "1.0 edgecache"}),
        asked([b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", CLOSE], method="POST",
              content=b"q", status=200, has={"via": "1.0 edgecache"}),
    ),
    "Max-Forwards of OPTIONS counts down": (
        asked(ok("no-store"), {"Max-Forwards": "5"}, method="OPTIONS", saw={"max-forwards": "4"}),
        asked(ok("no-store"), {"Max-Forwards": "1"}, method="OPTIONS", saw={"max-forwards": "0"}),
        asked(ok("no-store"), {"Max-Forwards": "x"}, method="OPTIONS", saw={"max-forwards": None}),
        hit({"Max-Forwards": "0"}, method="OPTIONS", status=204),
    ),
    "Max-Forwards of others passes": (
        asked(ok("no-store"), {"Max-Forwards": "5"}, saw={"max-forwards": "5"}),
    ),
    "Cache-Status of a miss and a hit": (
        asked(ok(FRESH), has={"cache-status": "edgecache; fwd=uri-miss; fwd-status=200; stored"}),
        hit(has={"cache-status": holding("edgecache; hit; ttl=3")}),
    ),
    "Cache-Status of caches before": (
        asked(ok(FRESH, {"Cache-Status": "Origin; hit"})),
        hit(has={"cache-status": holding("Origin; hit, edgecache; hit")}),
    ),
    "Cache-Status of another variant": (
        asked(ok(FRESH, {"Vary": "Foo"}), {"Foo": "1"}),
        asked(None, {"Foo": "2"}, has={"cache-status": holding("fwd=vary-miss")}),
    ),
    "Cache-Status of another method": (
        asked(None, method="POST", content=b"q", has={"cache-status": holding("fwd=method")}),
    ),
    "Cache-Status of a request that asks past it": (
        asked(ok(FRESH)),
        asked(None, {"Cache-Control": "no-cache"}, has={"cache-status": holding("fwd=request")}),
    ),
    "Date is added where an answer passes without": (
        asked(None, method="POST", content=b"q", has={"date": holding(" GMT")}),
        asked(None, method="HEAD", has={"date": holding(" GMT")}),
        asked(ok("no-store"), has={"date": holding(" GMT")}),
        asked(says(206, {"Content-Range": "bytes 0-0/2"}, body=b"a"), {"Range": "bytes=0-0"},
              has={"date": holding(" GMT")}),
    ),
    "205 has no content": (
        asked(says(205, {"Cache-Control": FRESH}, body=b"")), hit(status=205, body=b""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_messages(case: str) -> None:
    play(CASES[case])


@looped
async def test_interim_answers_come_before_the_final_one_and_100_stays_with_us() -> None:
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
        b"\r\n"
    )
    async with World() as world:
        played = Play(world)
        first = await played.one(asked(ok(FRESH, interim=interim)), "first")
        assert [status for status, _ in first.interim] == [102, 103]
        assert first.interim[1][1] == [(b"Link", b"</a>; rel=preload")]
        second = await played.one(hit(), "second")
        assert second.interim == []


@looped
async def test_an_origin_that_closes_on_every_request_is_asked_twice_at_most() -> None:
    """Once more than at first: a failed retry is not retried (RFC 9110, section 9.2.2)."""
    async with World(upstream={"retries": 1}) as world:
        world.origin.answer("/kept", response(200, b"x"))
        world.origin.answer("/closed", [CLOSE])
        await world.get("/kept")
        assert (await world.get("/closed")).status == 502
        assert world.origin.count("/closed") == 2
        assert (await world.get("/closed")).status == 502
        assert world.origin.count("/closed") == 4


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run a blocking client beside the proxy."""
    return await asyncio.to_thread(work)


@looped
async def test_a_client_of_the_standard_library_keeps_one_connection() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"0123456789", ETag='"v"', Cache_Control=FRESH))
        world.origin.answer("/chunked", response(200, b"abc", chunked=True))
        world.origin.answer("/none", response(204, Cache_Control=FRESH))

        def work() -> list[tuple[int, bytes]]:
            connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=10)
            found = []
            for method, target, fields in (
                ("GET", "/x", {}),
                ("HEAD", "/x", {}),
                ("GET", "/x", {"If-None-Match": '"v"'}),
                ("GET", "/x", {"Range": "bytes=2-4"}),
                ("GET", "/chunked", {}),
                ("GET", "/none", {}),
                ("GET", "/none", {}),
                ("HEAD", "/chunked", {}),
                ("GET", "/x", {}),
            ):
                connection.request(method, target, headers=fields)
                kept = connection.sock
                answer = connection.getresponse()
                found.append((answer.status, answer.read()))
                assert connection.sock is kept
            connection.close()
            return found

        assert await in_thread(work) == [
            (200, b"0123456789"), (200, b""), (304, b""), (206, b"234"), (200, b"abc"),
            (204, b""), (204, b""), (200, b""), (200, b"0123456789"),
        ]  # fmt: skip


@looped
async def test_a_client_of_http_1_0_gets_no_interim_answers() -> None:
    async with World() as world:
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        world.origin.answer("/x", hint + response(200, b"body", Cache_Control=FRESH))
        client = await world.client()
        await client.send(b"GET /x HTTP/1.0\r\nHost: example.org\r\n\r\n")
        found = await client.answer()
        assert (found.status, found.body, found.interim) == (200, b"body", [])
        assert await client.reader.read() == b""


@looped
async def test_content_reaches_the_origin_whatever_the_method() -> None:
    async with World() as world:
        world.origin.answer_all(lambda received: response(200, received.body))
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "FOO"):
            content = method.encode() * 1000
            assert (await world.ask("/x", method, content)).body == content
        client = await world.client()
        await client.send(
            b"GET /x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        assert (await client.answer()).body == b"abc"
        await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert (await client.answer()).body == b""


@looped
async def test_a_response_with_more_fields_than_are_stored_passes() -> None:
    async with World() as world:
        fields = {f"X_{number}": "v" * 1000 for number in range(55)}
        world.origin.answer("/x", response(200, b"body", Cache_Control=FRESH, **fields))
        for count in (1, 2):
            assert (await world.get("/x"))["x-54"] == "v" * 1000
            assert world.origin.count() == count
