"""The smuggling table through the doors themselves: the reverse proxy and the cache API.

`test_http_smuggling.py` shows that the data plane refuses each request; here nothing of it may
reach an origin, nor the store.
"""

from __future__ import annotations

import asyncio

import pytest
from support.http import statuses
from support.origin import Received, looped, response
from support.origin_world import World
from support.smuggling import CASES, CHAIN

from edgecache import AsyncStorage, Config
from edgecache.http import HttpApp, HttpServer, Listener, mount_cache_api

BATCHES = 6
NAMES = sorted(CASES)


async def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("batch", range(BATCHES))
@looped
async def test_nothing_smuggled_reaches_an_origin(batch: int) -> None:
    async with World() as world:
        world.origin.answer_all(lambda _: response(200, b"body", Cache_Control="max-age=60"))
        good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
        for name in NAMES[batch::BATCHES]:
            data, status = CASES[name]
            received = await exchange(world.port, data + CHAIN)
            assert statuses(received) == [status], (name, received)
            # Behind a miss and a hit, too.
            if not data.startswith((b"\r", b"\n")):
                received = await exchange(world.port, good + good + data + CHAIN)
                assert statuses(received) == [200, 200, status], (name, received)
        await world.settled()
        complete = [one.target for one in world.origin.requests if one.target != b"/good"]
        assert b"/second" not in complete
        # The head of an upload may be on its way before its content turns out to be broken; its
        # content is then never ended, so the origin never has it as a request.
        assert complete == []


class _Api:
    """The cache API over a store of its own."""

    async def __aenter__(self) -> _Api:
        self.store = AsyncStorage(Config.from_dict({"memory": "64MiB"}))
        app = HttpApp()
        mount_cache_api(app, self.store)
        self.server = HttpServer(app)
        await self.server.start([Listener(host="127.0.0.1", port=0)])
        self.port = self.server.addresses[0][1]
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.server.drain(1.0)
        await self.store.close()


def at_the_api(data: bytes) -> bytes:
    """Return a request of the table as one for the cache API."""
    for method in (b"POST", b"GET"):
        data = data.replace(method + b" / HTTP", method + b" /cache/attacked HTTP", 1)
    return data


@pytest.mark.parametrize("batch", range(BATCHES))
@looped
async def test_nothing_smuggled_reaches_the_store(batch: int) -> None:
    chain = b"DELETE /cache/victim HTTP/1.1\r\nHost: a\r\n\r\n"
    hit = b"GET /cache/victim HTTP/1.1\r\nHost: a\r\n\r\n"
    async with _Api() as api:
        await api.store.put("victim", b"value")
        for name in NAMES[batch::BATCHES]:
            data, status = CASES[name]
            received = await exchange(api.port, at_the_api(data) + chain)
            assert statuses(received) == [status], (name, received)
            if not data.startswith((b"\r", b"\n")):
                received = await exchange(api.port, hit + hit + at_the_api(data) + chain)
                assert statuses(received) == [200, 200, status], (name, received)
            assert await api.store.get("attacked") is None, name
            assert await api.store.get("victim") == b"value", name


@looped
async def test_what_a_broken_upload_sent_is_never_a_whole_request_at_the_origin() -> None:
    """Its first chunk is forwarded; the origin must see the connection end, not the content."""
    async with World() as world:
        seen: list[Received] = []

        def answer(asked: Received) -> bytes:
            seen.append(asked)
            return response(200, b"taken")

        world.origin.answer("/up", answer)
        head = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        received = await exchange(world.port, head + b"5\r\nhello\r\n" + b"5\r\nhelloXX" + CHAIN)
        assert statuses(received) == [400]
        await world.settled()
        assert seen == []
