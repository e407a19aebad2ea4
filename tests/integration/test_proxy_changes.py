"""Unsafe methods, invalidation and purges (RFC 9111, section 4.4; RFC 9875)."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from support.origin import Received, looped, response
from support.origin_world import World

from edgecache.proxy import PurgeAccess

FRESH = {"Cache_Control": "max-age=600"}


def page(asked: Received) -> bytes:
    if asked.method in (b"GET", b"HEAD"):
        return response(200, asked.target, **FRESH)
    return response(200, b"changed " + asked.body)


METHODS = ("POST", "PUT", "DELETE", "PATCH", "LINK", "FOO", "get", "MERGE")


@pytest.mark.parametrize("method", METHODS)
@looped
async def test_unsafe_and_unknown_methods_pass_and_invalidate_their_target(method: str) -> None:
    async with World() as world:
        world.origin.answer_all(page)
        await world.get("/x")
        answer = await world.ask("/x", method, b"" if method == "DELETE" else b"data")
        assert (answer.status, answer.word) == (200, "bypass")
        assert world.origin.requests[1].method == method.encode()
        assert (await world.get("/x")).word == "miss"


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"])
@looped
async def test_safe_methods_do_not_invalidate(method: str) -> None:
    async with World() as world:
        world.origin.answer_all(page)
        await world.get("/x")
        await world.ask("/x", method)
        assert (await world.get("/x")).word == "hit"


@pytest.mark.parametrize("status", [400, 404, 500, 503])
@looped
async def test_an_error_does_not_invalidate(status: int) -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH), response(status, b"no"))
        await world.get("/x")
        assert (await world.ask("/x", "POST", b"data")).status == status
        assert (await world.get("/x")).word == "hit"


PLACES = {
    "location": ({"Location": "/other"}, True),
    "absolute location": ({"Location": "http://example.org/other"}, True),
    "content-location": ({"Content_Location": "/other"}, True),
    "another host": ({"Location": "http://example.net/other"}, False),
    "another port": ({"Location": "http://example.org:81/other"}, False),
    "another scheme": ({"Location": "https://example.org/other"}, False),
    "relative": ({"Location": "other"}, True),
}


@pytest.mark.parametrize("case", PLACES)
@looped
async def test_location_and_content_location_of_the_same_origin_are_invalidated(case: str) -> None:
    fields, is_invalidated = PLACES[case]
    async with World() as world:
        world.origin.answer("/other", response(200, b"x", **FRESH))
        world.origin.answer("/x", response(201, b"made", **fields))
        await world.get("/other")
        await world.ask("/x", "POST", b"data")
        assert (await world.get("/other")).word == ("miss" if is_invalidated else "hit")


@looped
async def test_invalidation_reaches_all_variants() -> None:
    async with World() as world:

        def answer(asked: Received) -> bytes:
            if asked.method == b"POST":
                return response(204)
            return response(200, asked.get("foo") or b"", Vary="Foo", **FRESH)

        world.origin.answer_all(answer)
        for foo in "abc":
            await world.get("/x", Foo=foo)
        await world.ask("/x", "POST", b"data")
        for foo in "abc":
            assert (await world.get("/x", Foo=foo)).word == "miss"


@looped
async def test_cache_group_invalidation_reaches_the_group_within_the_origin() -> None:
    async with World() as world:
        for target, groups in (("/a", '"one", "two"'), ("/b", '"two"'), ("/c", '"three"')):
            world.origin.answer(target, response(200, b"x", Cache_Groups=groups, **FRESH))
            await world.get(target)
        world.origin.answer("/x", response(200, b"ok", Cache_Group_Invalidation='"two"'))
        await world.get("/b", Host="example.net")
        await world.ask("/x", "POST", b"data")
        words = [(await world.get(target)).word for target in ("/a", "/b", "/c")]
        assert words == ["miss", "miss", "hit"]
        assert (await world.get("/b", Host="example.net")).word == "hit"


@looped
async def test_an_answer_on_its_way_during_an_invalidation_is_not_stored() -> None:
    release = asyncio.Event()
    async with World() as world:

        async def answer(asked: Received) -> bytes:
            if asked.method == b"POST":
                return response(200, b"changed")
            if world.origin.count() == 1:
                await release.wait()
                return response(200, b"old", **FRESH)
            return response(200, b"new", **FRESH)

        world.origin.answer_all(answer)
        slow = asyncio.create_task(world.get("/x"))
        await world.origin.wait_for(1)
        await world.ask("/x", "POST", b"data")
        release.set()
        assert (await slow).body == b"old"
        assert (await world.get("/x")).body == b"new"


# Purges


@looped
async def test_purge_removes_all_variants_and_counts_them() -> None:
    async with World() as world:
        world.origin.answer_all(
            lambda asked: response(200, asked.get("foo") or b"", Vary="Foo", **FRESH)
        )
        for foo in "abc":
            await world.get("/x", Foo=foo)
        await world.get("/y")
        answer = await world.ask("/x", "PURGE")
        assert (answer.status, answer["x-purged-count"]) == (200, "3")
        for foo in "abc":
            assert (await world.get("/x", Foo=foo)).word == "miss"
        assert (await world.get("/y")).word == "hit"
        assert (await world.ask("/none", "PURGE")).status == 404
        assert not any(one.method == b"PURGE" for one in world.origin.requests)


@looped
async def test_a_soft_purge_makes_stale_what_may_still_serve() -> None:
    async with World() as world:
        control = {"Cache_Control": "max-age=600, stale-while-revalidate=600", "ETag": '"1"'}
        world.origin.answer("/x", response(200, b"x", **control), response(304, **control))
        await world.get("/x")
        answer = await world.ask("/x", "PURGE", X_Purge_Soft="1")
        assert (answer.status, answer["x-purged-count"]) == (200, "1")
        assert (await world.get("/x")).word == "stale-updating"
        await world.settled()
        assert world.origin.requests[1].get("if-none-match") == b'"1"'
        assert (await world.get("/x")).word == "hit"


@pytest.mark.parametrize("soft", ["0", "1"])
@looped
async def test_purges_by_tag_reach_surrogate_keys_and_cache_tags(soft: str) -> None:
    async with World() as world:
        world.origin.answer("/a", response(200, b"x", Surrogate_Key="red blue", **FRESH))
        world.origin.answer("/b", response(200, b"x", Cache_Tag="blue,green", **FRESH))
        world.origin.answer("/c", response(200, b"x", Cache_Tag="green", **FRESH))
        for target in ("/a", "/b", "/c"):
            await world.get(target)
        answer = await world.ask("/", "PURGE", Surrogate_Key="blue", X_Purge_Soft=soft)
        assert answer["x-purged-count"] == "2"
        words = [(await world.get(target)).word for target in ("/a", "/b", "/c")]
        assert words == (["miss", "miss", "hit"] if soft == "0" else ["expired", "expired", "hit"])


@looped
async def test_purges_by_prefix_and_of_everything_count_exactly() -> None:
    async with World() as world:

        def answer(asked: Received) -> bytes:
            vary = {"Vary": "Foo"} if b"vary" in asked.target else {}
            return response(200, asked.target, **vary, **FRESH)

        world.origin.answer_all(answer)
        for target in ("/in/a", "/in/b", "/in/vary", "/out"):
            await world.get(target, Foo="1")
        await world.get("/in/vary", Foo="2")
        await world.get("/in/a", Host="example.net")
        await world.store.put("not-http", b"kept")
        answer = await world.ask("/in/", "PURGE", X_Purge="prefix")
        assert answer["x-purged-count"] == "4"
        assert (await world.get("/out")).word == "hit"
        assert (await world.get("/in/a", Host="example.net")).word == "hit"
        answer = await world.ask("/", "PURGE", X_Purge="everything")
        assert answer["x-purged-count"] == "2"
        assert await world.store.get("not-http") == b"kept"
        assert world.proxy.report().purged == 6


@looped
async def test_purge_functions_do_the_same() -> None:
    async with World() as world:
        world.origin.answer_all(page)
        for target in ("/a", "/b", "/c"):
            await world.get(target)
        assert await world.proxy.purge("http://EXAMPLE.org/a") == 1
        assert await world.proxy.purge_prefix("http://example.org/b") == 1
        assert await world.proxy.purge_everything() == 1
        for url in ("example.org/a", "ftp://example.org/", "http://a b/"):
            with pytest.raises(ValueError):
                await world.proxy.purge(url)


REFUSED = {
    "nobody": PurgeAccess(networks=()),
    "others": PurgeAccess(networks=(ipaddress.ip_network("192.0.2.0/24"),)),
    "with a token": PurgeAccess(token="0123456789abcdef"),
}


@pytest.mark.parametrize("case", REFUSED)
@looped
async def test_who_may_not_purge_is_refused(case: str) -> None:
    async with World(purge=REFUSED[case]) as world:
        world.origin.answer_all(page)
        await world.get("/x")
        assert (await world.ask("/x", "PURGE", Authorization="Bearer wrong")).status == 403
        assert (await world.get("/x")).word == "hit"
        if REFUSED[case].token:
            good = {"Authorization": f"Bearer {REFUSED[case].token}"}
            assert (await world.ask("/x", "PURGE", **good)).status == 200


@looped
async def test_a_purge_that_makes_no_sense_is_refused() -> None:
    async with World() as world:
        for fields in ({"X_Purge": "all of it"}, {"X_Purge": "prefix", "X_Purge_Soft": "1"}):
            assert (await world.ask("/x", "PURGE", **fields)).status == 400
