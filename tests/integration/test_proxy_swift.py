"""The short way of a miss: it ends in the same answers as the long one, whatever happens on it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from support.origin import CLOSE, Received, looped, response
from support.origin_world import Client, World

FRESH = {"Cache_Control": "max-age=60"}
NOT_STORED = {"Cache_Control": "no-store"}


async def warmed(world: World) -> None:
    """Give the pool an idle connection, without which nothing is short."""
    world.origin.answer("/warm", response(200, b"", **NOT_STORED))
    await world.get("/warm")


def leave(client: Client) -> None:
    """Reset a connection: one that is only half closed still gets its answer."""
    handle = client.writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def crossings(world: World) -> int:
    return len(world.proxy._swift)


async def crossing(world: World, count: int = 1) -> None:
    """Wait until so many requests are on the short way."""
    async with asyncio.timeout(20):
        while crossings(world) < count:
            await asyncio.sleep(0.005)


@looped
async def test_a_simple_miss_goes_the_short_way_and_is_stored() -> None:
    release = asyncio.Event()
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [release, response(200, b"body", Age="5", **FRESH)])
        task = asyncio.create_task(world.get("/x"))
        await crossing(world)
        release.set()
        first = await task
        assert (first.status, first.body, first["age"]) == (200, b"body", "5")
        assert "fwd=uri-miss; fwd-status=200; stored" in first["cache-status"]
        assert (await world.get("/x")).word == "hit"
        assert crossings(world) == 0


@looped
async def test_the_next_request_of_a_connection_follows_a_short_way() -> None:
    async with World() as world:
        await warmed(world)
        for name in ("/a", "/b", "/c"):
            world.origin.answer(name, response(200, name.encode(), **NOT_STORED))
        client = await world.client()
        lines = [f"GET {name} HTTP/1.1\r\nHost: example.org\r\n\r\n" for name in ("/a", "/b", "/c")]
        await client.send("".join(lines).encode())
        assert [(await client.answer()).body for _ in range(3)] == [b"/a", b"/b", b"/c"]


@looped
async def test_an_answer_in_pieces_is_streamed_as_it_comes() -> None:
    second = asyncio.Event()
    async with World() as world:
        await warmed(world)
        head = response(200, b"", length=10, **FRESH)
        world.origin.answer("/x", [head, b"hello", second, b"world"])
        client = await world.client()
        await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await client.head()
        assert await client.reader.readexactly(5) == b"hello"
        second.set()
        assert await client.reader.readexactly(5) == b"world"
        async with asyncio.timeout(20):
            while (await world.get("/x")).word != "hit":
                await asyncio.sleep(0.005)


@looped
async def test_a_head_in_pieces_is_read_to_its_end() -> None:
    second = asyncio.Event()
    async with World() as world:
        await warmed(world)
        whole = response(200, b"body", **FRESH)
        world.origin.answer("/x", [whole[:20], second, whole[20:]])
        task = asyncio.create_task(world.get("/x"))
        await crossing(world)
        second.set()
        assert (await task).body == b"body"


@looped
async def test_an_interim_answer_reaches_the_client() -> None:
    async with World() as world:
        await warmed(world)
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n"
        world.origin.answer("/x", [early, response(200, b"body", **FRESH)])
        found = await world.get("/x")
        assert [status for status, _ in found.interim] == [103]
        assert found.body == b"body"


@looped
async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    async with World() as world:
        await warmed(world)
        count = 0

        async def answer(asked: Received) -> object:
            nonlocal count
            count += 1
            return CLOSE if count == 1 else response(200, b"again", **FRESH)

        world.origin.answer_all(answer)
        assert (await world.get("/x")).body == b"again"
        assert count == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    ],
)
@looped
async def test_an_answer_with_broken_framing_is_refused(raw: bytes) -> None:
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [raw])
        found = await world.get("/x")
        assert found.status == 502
        world.origin.answer("/y", response(200, b"y", **FRESH))
        assert (await world.get("/y")).body == b"y"


@looped
async def test_bytes_behind_an_answer_end_its_connection_and_reach_nobody() -> None:
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [response(200, b"ok", **NOT_STORED) + b"HTTP/1.1 200 OK\r\n\r\n"])
        assert (await world.get("/x")).body == b"ok"
        world.origin.answer("/y", response(200, b"y", **NOT_STORED))
        assert (await world.get("/y")).body == b"y"


@looped
async def test_a_client_that_leaves_does_not_end_a_fetch_that_others_wait_for() -> None:
    release = asyncio.Event()
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [release, response(200, b"shared", **FRESH)])
        leader = await world.client()
        await leader.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await crossing(world)
        follower = asyncio.create_task(world.get("/x"))
        async with asyncio.timeout(20):
            while not any(one.waiter_count for one in world.proxy._flights._flights.values()):
                await asyncio.sleep(0.005)
        leave(leader)
        async with asyncio.timeout(20):
            while crossings(world):
                await asyncio.sleep(0.005)
        release.set()
        assert (await follower).body == b"shared"
        assert world.origin.count() == 2


@looped
async def test_a_client_that_leaves_alone_gives_the_connection_up() -> None:
    release = asyncio.Event()
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [release, response(200, b"late", **NOT_STORED)])
        world.proxy._predictor.mark(b"http://example.org:80/x")
        client = await world.client()
        await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await crossing(world)
        leave(client)
        async with asyncio.timeout(20):
            while crossings(world):
                await asyncio.sleep(0.005)
        [server] = world.proxy.report().servers["default"]
        assert server.open_connections == 0
        release.set()


@looped
async def test_a_purge_keeps_an_answer_on_its_way_from_being_stored() -> None:
    release = asyncio.Event()
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [release, response(200, b"old", **FRESH)])
        task = asyncio.create_task(world.get("/x"))
        await crossing(world)
        await world.proxy.purge("http://example.org/x")
        release.set()
        assert (await task).body == b"old"
        world.origin.answer("/x", response(200, b"new", **FRESH))
        assert (await world.get("/x")).body == b"new"


@looped
async def test_variants_are_kept_apart() -> None:
    async with World() as world:
        await warmed(world)
        for language in ("de", "en"):
            body = language.encode()
            world.origin.answer("/x", response(200, body, Vary="Accept-Language", **FRESH))
            found = await world.get("/x", Accept_Language=language)
            assert (found.word, found.body) == ("miss", body)
        for language in ("de", "en"):
            found = await world.get("/x", Accept_Language=language)
            assert (found.word, found.body) == ("hit", language.encode())


@looped
async def test_stopping_answers_who_waits() -> None:
    release = asyncio.Event()
    async with World() as world:
        await warmed(world)
        world.origin.answer("/x", [release, response(200, b"late", **FRESH)])
        task = asyncio.create_task(world.get("/x"))
        await crossing(world)
        await world.proxy.stop()
        assert (await task).status >= 500
        release.set()
