"""Prepared answers to requests with conditions and ranges: the same as those that are made anew."""

from __future__ import annotations

import pytest
from support.origin import looped, response
from support.origin_world import World

BODY = bytes(range(256)) * 4
FRESH = {"Cache_Control": "max-age=60", "ETag": '"one"'}


def prepared(world: World) -> int:
    return world.proxy._memo.hit_count


@pytest.mark.parametrize(
    ("fields", "status", "body"),
    [
        ({"If_None_Match": '"one"'}, 304, b""),
        ({"If_None_Match": '"two"'}, 200, BODY),
        ({"Range": "bytes=10-19"}, 206, BODY[10:20]),
        ({"Range": "bytes=-5"}, 206, BODY[-5:]),
        ({"Range": "bytes=5-6", "If_Range": '"one"'}, 206, BODY[5:7]),
        ({"Range": "bytes=5-6", "If_Range": '"two"'}, 200, BODY),
        ({"Range": "bytes=5-6", "If_None_Match": '"one"'}, 304, b""),
    ],
)
@looped
async def test_a_repeated_request_gets_the_prepared_answer(
    fields: dict[str, str], status: int, body: bytes
) -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, BODY, **FRESH))
        await world.get("/x")
        client = await world.client()
        answers = [await client.ask("/x", **fields) for _ in range(3)]
        assert [(each.status, each.body) for each in answers] == [(status, body)] * 3
        assert prepared(world) >= 1
        assert len({each["etag"] for each in answers}) == 1
        assert (await client.ask("/x")).body == BODY


@looped
async def test_a_prepared_answer_ends_with_the_version_it_is_of() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"old", **FRESH))
        await world.get("/x")
        client = await world.client()
        for _ in range(3):
            assert (await client.ask("/x", If_None_Match='"one"')).status == 304
        await world.proxy.purge("http://example.org/x")
        world.origin.answer("/x", response(200, b"new", **{**FRESH, "ETag": '"two"'}))
        found = await client.ask("/x", If_None_Match='"one"')
        assert (found.status, found.body) == (200, b"new")


@looped
async def test_what_depends_on_more_than_bytes_and_time_is_made_anew() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, BODY, **FRESH))
        await world.get("/x")
        client = await world.client()
        several = [await client.ask("/x", Range="bytes=0-1,5-6") for _ in range(2)]
        assert [each.status for each in several] == [206, 206]
        assert several[0]["content-type"] != several[1]["content-type"]
        for _ in range(2):
            assert (await client.ask("/x", Range="bytes=5000-")).status == 416
        assert (await client.ask("/x", Cache_Control="max-age=30")).status == 200
