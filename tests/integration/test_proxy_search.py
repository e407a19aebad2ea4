"""No-Vary-Search: a stored response for other queries that mean the same (draft, section 7)."""

from __future__ import annotations

from typing import Any

import pytest
from support.conformance import Case, asked, hit, ok, play, unchanged, validated
from support.origin import looped, response
from support.origin_world import World

from edgecache.proxy.searching import URIS_MAX, VALUES_MAX, SearchIndex
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import SAFE

ON = {"rules": SAFE.changed(no_vary_search=True)}
FRESH = "max-age=100"


def nvs(value: str, **more: str) -> Any:
    """An answer with No-Vary-Search."""
    return ok(FRESH, {"No-Vary-Search": value, **more}, body=b"body")


def pair(value: str, first: str, second: str, is_same: bool) -> Case:
    """Two targets, and whether the response of the first answers the second."""
    if is_same:
        return (asked(nvs(value), target=first), hit(target=second, body=b"body"))
    return (asked(nvs(value), target=first), asked(target=second))


# id: No-Vary-Search, two targets, whether they mean the same by it
TARGETS: dict[str, tuple[str, str, str, bool]] = {
    "a named parameter": ('params=("u")', "/x?a=1&u=2", "/x?a=1&u=3", True),
    "a named parameter that is absent": ('params=("u")', "/x?a=1&u=2", "/x?a=1", True),
    "no query at all": ('params=("u")', "/x?u=2", "/x", True),
    "another parameter": ('params=("u")', "/x?a=1&u=2", "/x?a=2&u=2", False),
    "several named": ('params=("u" "v")', "/x?a=1&u=2&v=3", "/x?v=9&a=1", True),
    "all": ("params", "/x?a=1&b=2", "/x?c=3", True),
    "all but one, same": ('params, except=("a")', "/x?a=1&b=2", "/x?c=4&a=1", True),
    "all but one, different": ('params, except=("a")', "/x?a=1&b=2", "/x?a=2&b=2", False),
    "order": ("key-order", "/x?a=1&b=2", "/x?b=2&a=1", True),
    "order of one name matters": ("key-order", "/x?a=1&a=2", "/x?a=2&a=1", False),
    "order, not said": ('params=("u")', "/x?a=1&b=2", "/x?b=2&a=1", False),
    "spelling": ("key-order", "/x?a=x", "/x?%61=%78", True),
    "plus and blank": ("key-order", "/x?a=+", "/x?a=%20", True),
    "empty members": ("key-order", "/x?a=x&&&", "/x?a=x", True),
    "another path": ("params", "/x?a=1", "/y?a=1", False),
    "a longer path": ("params", "/x?a=1", "/x/y?a=1", False),
    "nothing said": ("key-order=?0", "/x?a=1", "/x?a=1&", False),
    "invalid": ("params=u", "/x?a=1&u=2", "/x?a=1&u=3", False),
    "except without params": ('except=("a")', "/x?a=1&b=1", "/x?a=1&b=2", False),
    "params as a string": ('params="u"', "/x?u=1", "/x?u=2", False),
    "an unknown key beside": ('params=("u"), foo=1', "/x?u=1", "/x?u=2", True),
}


@pytest.mark.parametrize("case", TARGETS)
def test_which_queries_a_stored_response_answers(case: str) -> None:
    play(pair(*TARGETS[case]), route=ON)


@pytest.mark.parametrize("profile", ["safe", "rfc"])
def test_without_the_rule_the_field_means_nothing(profile: str) -> None:
    play(pair('params=("u")', "/x?u=1", "/x?u=2", False), profile)


SEQUENCES: dict[str, Case] = {
    "no other host": (
        asked(nvs("params"), target="/x?u=1"), asked(target="/x?u=2", host="example.net"),
    ),
    "selecting fields count": (
        asked(nvs("params", Vary="Foo"), {"Foo": "1"}, target="/x?u=1"),
        asked(None, {"Foo": "2"}, target="/x?u=2"),
        hit({"Foo": "1"}, target="/x?u=3", body=b"body"),
    ),
    "what the stored response says now counts": (
        asked(nvs("params", ETag='"v1"'), target="/x?u=1"),
        validated(unchanged({"ETag": '"v1"', "No-Vary-Search": "key-order"}),
                  {"Cache-Control": "no-cache"}, target="/x?u=1"),
        asked(target="/x?u=2"),
    ),
    "a stale one is validated, and serves both": (
        asked(nvs("params", ETag='"v1"'), target="/x?u=1"),
        validated(unchanged({"ETag": '"v1"', "Cache-Control": FRESH}),
                  {"Cache-Control": "max-age=0"}, target="/x?u=2", body=b"body"),
        hit(target="/x?u=1"),
        hit(target="/x?u=3", body=b"body"),
    ),
    "conditions and ranges": (
        asked(nvs("params", ETag='"v1"'), target="/x?u=1"),
        hit({"If-None-Match": '"v1"'}, target="/x?u=2", status=304),
        hit({"Range": "bytes=1-2"}, target="/x?u=2", status=206, body=b"od"),
    ),
    "HEAD": (
        asked(nvs("params"), target="/x?u=1"), hit(target="/x?u=2", method="HEAD"),
    ),
    "only-if-cached": (
        asked(nvs("params"), target="/x?u=1"),
        hit({"Cache-Control": "only-if-cached"}, target="/x?u=2", body=b"body"),
    ),
    "another URI's own response comes first": (
        asked(nvs("params"), target="/x?u=1"),
        asked(ok(FRESH, body=b"own"), {"Cache-Control": "no-cache"}, target="/x?u=2"),
        hit(target="/x?u=2", body=b"own"),
        hit(target="/x?u=3", body=b"body"),
    ),
    "an unsafe request invalidates what would have answered": (
        asked(nvs("params"), target="/x?u=1"),
        asked(ok(), target="/x?u=2", method="POST", content=b"a"),
        asked(target="/x?u=3"),
        asked(target="/x?u=1"),
    ),
    "two values for one path": (
        asked(nvs('params=("u")'), target="/x?u=1"),
        asked(nvs('params=("w")'), target="/x?w=1"),
        hit(target="/x?u=2", body=b"body"),
        hit(target="/x?w=2", body=b"body"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences(case: str) -> None:
    play(SEQUENCES[case], route=ON)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@looped
async def test_a_purge_reaches_what_would_have_answered(soft: bool) -> None:
    fields = {"Cache_Control": FRESH, "No_Vary_Search": "params", "ETag": '"v1"'}
    async with World(route=ON) as world:
        world.origin.answer("/x", response(200, b"body", **fields))
        await world.get("/x?u=1")
        purged = await world.ask("/x?u=2", "PURGE", **({"X_Purge_Soft": "1"} if soft else {}))
        assert (purged.status, purged["x-purged-count"]) == (200, "1")
        await world.get("/x?u=3")
        assert world.origin.count() == 2
        assert world.origin.requests[1].get("if-none-match") == (b'"v1"' if soft else None)


@looped
async def test_prefix_and_everything_count_responses_only() -> None:
    fields = {"Cache_Control": FRESH, "No_Vary_Search": "params"}
    async with World(route=ON) as world:
        world.origin.answer("/x", response(200, b"body", **fields))
        world.origin.answer("/y", response(200, b"body", **fields))
        await world.get("/x?u=1")
        await world.get("/y?u=1")
        assert (await world.ask("/x", "PURGE", X_Purge="prefix"))["x-purged-count"] == "1"
        assert (await world.ask("/", "PURGE", X_Purge="everything"))["x-purged-count"] == "1"
        assert await world.store.count_entries() == 0
        await world.get("/x?u=2")
        assert world.origin.count() == 3


@looped
async def test_a_purge_stops_an_answer_of_the_path_on_its_way() -> None:
    """It is not known before it came which other queries it would have answered."""
    import asyncio

    go = asyncio.Event()
    fields = {"Cache_Control": FRESH, "No_Vary_Search": "params"}
    answer = response(200, b"body", **fields)
    async with World(route=ON) as world:
        world.origin.answer("/x", [go, answer], answer)
        slow = asyncio.create_task(world.get("/x?u=1"))
        await world.origin.wait_for(1)
        assert (await world.ask("/x?u=2", "PURGE")).status == 404
        go.set()
        assert (await slow).body == b"body"
        await world.settled()
        assert (await world.get("/x?u=1")).word == "miss"


@looped
async def test_a_streamed_response_answers_other_queries_as_well() -> None:
    big = b"0123456789" * 100_000
    fields = {"Cache_Control": FRESH, "No_Vary_Search": 'params=("u")'}
    async with World(route=ON) as world:
        world.origin.answer("/x", response(200, big, **fields))
        assert (await world.get("/x?u=1")).body == big
        await world.settled()
        again = await world.get("/x?u=2")
        assert (again.body, again.word) == (big, "hit")


@looped
async def test_the_index_stays_within_its_limits() -> None:
    async with World(route=ON) as world:
        index = SearchIndex(world.store)
        base = b"http://example.org:80/x?u="
        for number in range(URIS_MAX + 5):
            headers = Headers([(b"no-vary-search", b"params")])
            await index.add(base + b"%d" % number, headers)
        found = await index.others(base)
        assert found == [base + b"%d" % number for number in range(URIS_MAX + 4, 4, -1)]
        for number in range(VALUES_MAX + 1):
            headers = Headers([(b"no-vary-search", b'params=("u" "v%d")' % number)])
            await index.add(base + b"%d" % number, headers)
        found = await index.others(base)
        assert len(found) == VALUES_MAX  # the value "params" was the oldest
        await index.add(base, Headers([(b"no-vary-search", b"x" * 9999)]))
        await index.add(base, Headers([(b"no-vary-search", b"key-order=1")]))
        assert await index.others(base) == found
