"""One fetch per key: streamed to all who ask, released at once when it is for one only."""

from __future__ import annotations

import asyncio

import pytest
from support.origin import CLOSE, SILENCE, Received, looped, response
from support.origin_world import Answer, World

from edgecache.proxy import Collapsing

FRESH = {"Cache_Control": "max-age=60"}


async def waiting(world: World, count: int) -> None:
    """Wait until so many requests wait for a fetch."""
    async with asyncio.timeout(20):
        while sum(one.waiter_count for one in world.proxy._flights._flights.values()) < count:
            await asyncio.sleep(0.005)


@looped
async def test_a_thousand_requests_for_one_key_are_one_fetch() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", [release, response(200, b"shared", **FRESH)])
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(1000)]
        await waiting(world, 999)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.body for answer in answers} == {b"shared"}
        assert world.origin.count() == 1
        assert world.proxy.report().collapsed == 999
        assert sum("collapsed" in answer["cache-status"] for answer in answers) == 999


@looped
async def test_waiters_get_a_body_as_it_arrives() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    async with World() as world:
        head = response(200, b"", length=10, **FRESH)
        world.origin.answer("/x", [first, head, b"hello", second, b"world"])
        clients = [await world.client() for _ in range(20)]
        for client in clients:
            await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await waiting(world, 19)
        first.set()
        for client in clients:
            status, _, _ = await client.head()
            assert status == 200
            assert await client.reader.readexactly(5) == b"hello"
        late = await world.client()
        await late.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await late.head()
        assert await late.reader.readexactly(5) == b"hello"
        second.set()
        for client in (*clients, late):
            assert await client.reader.readexactly(5) == b"world"
        assert world.origin.count() == 1
        assert (await world.get("/x")).word == "hit"


@looped
async def test_an_answer_for_one_only_releases_all_waiters_at_once() -> None:
    release, second = asyncio.Event(), asyncio.Event()
    count = 50
    async with World() as world:

        async def answer(asked: Received) -> bytes:
            number = world.origin.count()
            if number == 1:
                await release.wait()
            else:
                await second.wait()
            return response(200, b"for %d" % number, Cache_Control="private")

        world.origin.answer_all(answer)
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(count)]
        await waiting(world, count - 1)
        release.set()
        # All of them ask at the same time: none is answered before the last has asked.
        await world.origin.wait_for(count)
        second.set()
        answers = await asyncio.gather(*tasks)
        assert len({answer.body for answer in answers}) == count
        assert world.proxy.report().released == count - 1


@looped
async def test_a_key_that_was_uncacheable_is_not_waited_for_until_it_is_cacheable_again() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Cache_Control="no-store"))
        await world.get("/x")
        world.origin.answer("/x", [release, response(200, b"y", **FRESH)])
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(5)]
        await world.origin.wait_for(6)
        release.set()
        assert {answer.body for answer in await asyncio.gather(*tasks)} == {b"y"}
        assert world.proxy.report().predicted_uncacheable >= 5
        assert not world.proxy._predictor.is_uncacheable(b"http://example.org:80/x")
        assert (await world.get("/x")).word == "hit"


@looped
async def test_variants_are_not_given_to_whom_they_do_not_fit() -> None:
    release = asyncio.Event()
    async with World() as world:

        async def answer(asked: Received) -> bytes:
            await release.wait()
            return response(200, asked.get("foo") or b"", Vary="Foo", **FRESH)

        world.origin.answer_all(answer)
        tasks = {
            (foo, number): asyncio.create_task(world.get("/x", Foo=foo))
            for foo in "abc"
            for number in range(10)
        }
        await waiting(world, 29)
        release.set()
        for (foo, _), task in tasks.items():
            assert (await task).body == foo.encode()
        assert world.origin.count() <= 6


@looped
async def test_a_leader_whose_client_leaves_goes_on_for_the_others_and_for_the_cache() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", [release, response(200, b"shared", **FRESH)])
        leader = await world.client()
        await leader.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await world.origin.wait_for(1)
        follower = asyncio.create_task(world.get("/x"))
        await waiting(world, 1)
        leader.close()
        await leader.writer.wait_closed()
        release.set()
        assert (await follower).body == b"shared"
        assert world.origin.count() == 1
        assert (await world.get("/x")).word == "hit"


@looped
async def test_a_large_fetch_that_nobody_reads_any_more_is_given_up() -> None:
    big = b"x" * 300_000
    more = asyncio.Event()
    limits = Collapsing(abandoned_bytes_max=100_000)
    async with World(collapsing=limits) as world:
        head = response(200, b"", length=1_000_000, **FRESH)
        world.origin.answer("/x", [head, big, more, big, big, b"x" * 100_000])
        client = await world.client()
        await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await client.head()
        await client.reader.readexactly(100)
        client.writer.transport.abort()
        async with asyncio.timeout(10):
            while world.server.connections:
                await asyncio.sleep(0.005)
        more.set()
        await world.settled()
        assert world.proxy.report().background_tasks == 0
        world.origin.answer("/x", response(200, b"again", **FRESH))
        assert (await world.get("/x")).body == b"again"


@looped
async def test_when_a_leader_fails_one_waiter_tries_again_for_all() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", [release, CLOSE], response(200, b"second", **FRESH))
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(30)]
        await waiting(world, 29)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(answer.status for answer in answers) == [200] * 29 + [502]
        assert world.origin.count() == 2


@looped
async def test_an_origin_in_trouble_is_not_stormed_by_waiters() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", [release, CLOSE])
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(100)]
        await waiting(world, 99)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.status for answer in answers} == {502}
        assert world.origin.count() <= 4


@looped
async def test_when_a_leader_fails_waiters_with_something_stale_get_that() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer("/x", response(200, b"old", **FRESH), [release, CLOSE])
        await world.get("/x")
        await world.age("/x", 100)
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(20)]
        await waiting(world, 19)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"old")}


@looped
async def test_nobody_waits_longer_than_the_wait_timeout() -> None:
    async with World(collapsing=Collapsing(wait_s=0.05)) as world:
        world.origin.answer("/x", [b"", SILENCE], response(200, b"alone", **FRESH))
        leader = await world.client()
        await leader.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await world.origin.wait_for(1)
        assert (await world.get("/x")).body == b"alone"
        assert world.proxy.report().wait_timeouts == 1


@looped
async def test_a_fetch_that_is_too_old_collects_no_more_waiters() -> None:
    async with World(collapsing=Collapsing(age_s=0.0)) as world:
        world.origin.answer("/x", [b"", SILENCE], response(200, b"second", **FRESH))
        leader = await world.client()
        await leader.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        await world.origin.wait_for(1)
        assert (await world.get("/x")).body == b"second"
        assert world.proxy.report().wait_timeouts == 0


@looped
async def test_validations_of_one_response_are_one_exchange() -> None:
    release = asyncio.Event()
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"x", ETag='"1"', **FRESH),
            [release, response(304, ETag='"1"', **FRESH)],
        )
        await world.get("/x")
        await world.age("/x", 100)
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(30)]
        await waiting(world, 29)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert {answer.body for answer in answers} == {b"x"}
        assert world.origin.count() == 2


@looped
async def test_what_must_be_validated_each_time_is_validated_by_each_at_once() -> None:
    release = asyncio.Event()
    control = {"ETag": '"1"', "Cache_Control": "no-cache"}
    async with World() as world:
        world.origin.answer(
            "/x", response(200, b"x", **control), [release, response(304, **control)]
        )
        await world.get("/x")
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(20)]
        await world.origin.wait_for(21)
        release.set()
        answers = await asyncio.gather(*tasks)
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"x")}


async def slow_and_fast(world: World, size: int) -> tuple[Answer, bytes]:
    """A client that reads nothing until another has read everything."""
    slow = await world.client()
    await slow.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await slow.head()
    fast = await world.get("/x")
    return fast, await slow.reader.readexactly(size)


@looped
async def test_a_slow_client_does_not_hold_up_the_others_and_gets_every_byte() -> None:
    size = 24 << 20
    piece = bytes(range(256)) * 1024
    async with World(store={"memory": "256MiB"}) as world:
        head = response(200, b"", length=size, **FRESH)
        world.origin.answer("/x", [head, *[piece] * (size // len(piece))])
        fast, slow = await slow_and_fast(world, size)
        assert fast.body == slow == piece * (size // len(piece))
        assert world.origin.count() == 1


@pytest.mark.parametrize("is_on", [True, False])
@looped
async def test_collapsing_can_be_switched_off(is_on: bool) -> None:
    release = asyncio.Event()
    async with World(collapsing=Collapsing(is_on=is_on)) as world:
        world.origin.answer("/x", [release, response(200, b"x", **FRESH)])
        tasks = [asyncio.create_task(world.get("/x")) for _ in range(5)]
        if is_on:
            await waiting(world, 4)
        else:
            await world.origin.wait_for(5)
        release.set()
        await asyncio.gather(*tasks)
        assert world.origin.count() == (1 if is_on else 5)


@looped
async def test_a_body_that_is_here_before_its_first_reader_is_not_given_up() -> None:
    """The first pieces of an answer of unknown length come before the client is answered."""
    big = b"x" * 300_000
    async with World() as world:
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
        whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
        for number in range(5):
            world.origin.answer(f"/{number}", whole)
            assert (await world.get(f"/{number}")).body == big
