"""When a stored response answers, and what validation does to it (RFC 9111, section 4)."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest
from support.origin import CLOSE, RESET, Received, looped, response
from support.origin_world import World

FRESH = {"Cache_Control": "max-age=60"}


# id: Cache-Control of the request, age of the stored response, status, hit or not
REQUESTS: dict[str, tuple[dict[str, str], float, int, bool]] = {
    "nothing": ({}, 10, 200, True),
    "no-cache": ({"Cache_Control": "no-cache"}, 0, 200, False),
    "pragma": ({"Pragma": "no-cache"}, 0, 200, False),
    "pragma beside cache-control": ({"Pragma": "no-cache", "Cache_Control": "x=1"}, 0, 200, True),
    "max-age satisfied": ({"Cache_Control": "max-age=20"}, 10, 200, True),
    "max-age exceeded": ({"Cache_Control": "max-age=5"}, 10, 200, False),
    "max-age zero": ({"Cache_Control": "max-age=0"}, 1, 200, False),
    "min-fresh satisfied": ({"Cache_Control": "min-fresh=40"}, 10, 200, True),
    "min-fresh not satisfied": ({"Cache_Control": "min-fresh=55"}, 10, 200, False),
    "max-stale": ({"Cache_Control": "max-stale=100"}, 100, 200, True),
    "max-stale without limit": ({"Cache_Control": "max-stale"}, 100, 200, True),
    "max-stale exceeded": ({"Cache_Control": "max-stale=10"}, 100, 200, False),
    "only-if-cached hit": ({"Cache_Control": "only-if-cached"}, 10, 200, True),
    "only-if-cached stale": ({"Cache_Control": "only-if-cached"}, 100, 504, False),
    "stale": ({}, 61, 200, False),
}


@pytest.mark.parametrize("case", REQUESTS)
@looped
async def test_request_directives_decide_about_reuse(case: str) -> None:
    fields, age_s, status, is_hit = REQUESTS[case]
    async with World() as world:
        world.origin.answer("/x", response(200, b"one", **FRESH), response(200, b"two", **FRESH))
        await world.get("/x")
        await world.age("/x", age_s)
        answer = await world.get("/x", **fields)
        assert answer.status == status
        if status == 200:
            assert answer.body == (b"one" if is_hit else b"two")
        assert world.origin.count() == (1 if is_hit or status == 504 else 2)


@looped
async def test_only_if_cached_without_anything_stored_is_504_and_asks_nobody() -> None:
    async with World() as world:
        answer = await world.get("/x", Cache_Control="only-if-cached")
        assert (answer.status, answer.word) == (504, "gateway-timeout")
        assert world.origin.count() == 0


@looped
async def test_a_request_with_no_store_is_not_stored() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get("/x", Cache_Control="no-store")
        await world.get("/x")
        assert world.origin.count() == 2


@looped
async def test_age_is_on_every_hit_and_adds_up() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Age="7", Cache_Control="max-age=100"))
        first = await world.get("/x")
        assert first["age"] == "7"
        await world.age("/x", 20)
        again = await world.get("/x")
        assert again.word == "hit"
        assert 27 <= int(again["age"]) <= 29
        assert "hit" in again["cache-status"]
        assert "ttl=7" in again["cache-status"]
        await world.age("/x", 80)
        assert (await world.get("/x")).word != "hit"


@looped
async def test_a_response_without_date_gets_one_and_keeps_it() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        first = await world.get("/x")
        await world.age("/x", 10)
        again = await world.get("/x")
        assert again["date"] == first["date"]
        assert [name.lower() for name, _ in again.fields].count(b"date") == 1


@looped
async def test_the_origins_date_is_kept() -> None:
    date = formatdate(time.time() - 5, usegmt=True)
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Date=date, **FRESH))
        assert (await world.get("/x"))["date"] == date
        again = await world.get("/x")
        assert again["date"] == date
        assert int(again["age"]) >= 5


# Validation


@looped
async def test_a_stale_response_is_validated_by_its_own_validators() -> None:
    async with World() as world:
        modified = formatdate(time.time() - 10_000, usegmt=True)
        world.origin.answer(
            "/x",
            response(200, b"body", ETag='"v1"', Last_Modified=modified, X_Old="1", **FRESH),
            response(304, ETag='"v1"', Cache_Control="max-age=300", X_New="2", X_Old="changed"),
        )
        await world.get("/x")
        await world.age("/x", 100)
        answer = await world.get("/x")
        asked = world.origin.requests[1]
        assert asked.get("if-none-match") == b'"v1"'
        assert asked.get("if-modified-since") == modified.encode()
        assert (answer.status, answer.body, answer.word) == (200, b"body", "revalidated")
        assert (answer["x-new"], answer["x-old"]) == ("2", "changed")
        assert answer["cache-control"] == "max-age=300"
        again = await world.get("/x")
        assert (again.word, again["x-new"], again.body) == ("hit", "2", b"body")
        assert world.origin.count() == 2


@looped
async def test_a_304_does_not_change_what_describes_the_stored_bytes() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"body", ETag='"v1"', Content_Type="text/a", Content_MD5="x", **FRESH),
            response(
                304,
                ETag='"v1"',
                Content_Encoding="gzip",
                Content_MD5="other",
                Content_Range="bytes 0-1/2",
                Content_Location="/new",
                **FRESH,
            ),
        )
        await world.get("/x")
        await world.age("/x", 100)
        await world.get("/x")
        again = await world.get("/x")
        assert again.word == "hit"
        assert again.get("content-encoding") is None
        assert again.get("content-range") is None
        assert again["content-md5"] == "other"
        assert again["content-length"] == "4"
        assert again["content-location"] == "/new"


@looped
async def test_another_answer_to_a_validation_replaces_what_is_stored() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"old", ETag='"v1"', **FRESH),
            response(200, b"new", ETag='"v2"', **FRESH),
        )
        await world.get("/x")
        await world.age("/x", 100)
        answer = await world.get("/x")
        assert (answer.body, answer.word) == (b"new", "expired")
        again = await world.get("/x")
        assert (again.body, again["etag"], again.word) == (b"new", '"v2"', "hit")


@looped
async def test_a_304_about_something_else_makes_the_proxy_fetch_the_whole() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"old", ETag='"v1"', **FRESH),
            response(304, ETag='"v9"', **FRESH),
            response(200, b"new", ETag='"v9"', **FRESH),
        )
        await world.get("/x")
        await world.age("/x", 100)
        answer = await world.get("/x")
        assert (answer.status, answer.body) == (200, b"new")
        assert world.origin.requests[2].get("if-none-match") is None


@looped
async def test_no_cache_is_validated_every_time() -> None:
    async with World() as world:
        headers = {"ETag": '"v1"', "Cache_Control": "no-cache"}
        world.origin.answer("/x", response(200, b"x", **headers), response(304, **headers))
        await world.get("/x")
        for number in range(2, 5):
            answer = await world.get("/x")
            assert (answer.body, answer.word) == (b"x", "revalidated")
            assert world.origin.count() == number


CLIENT_CONDITIONS = {
    "etag matches": ({"If_None_Match": '"v1"'}, 304),
    "etag matches weakly": ({"If_None_Match": 'W/"v1"'}, 304),
    "etag in a list": ({"If_None_Match": '"a", "v1"'}, 304),
    "any etag": ({"If_None_Match": "*"}, 304),
    "etag differs": ({"If_None_Match": '"v2"'}, 200),
    "etag goes before date": (
        {"If_None_Match": '"v2"', "If_Modified_Since": formatdate(usegmt=True)},
        200,
    ),
    "not modified since": ({"If_Modified_Since": formatdate(usegmt=True)}, 304),
    "modified since": ({"If_Modified_Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 200),
    "date that is none": ({"If_Modified_Since": "yesterday"}, 200),
}


@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "validated"])
@pytest.mark.parametrize("case", CLIENT_CONDITIONS)
@looped
async def test_conditions_of_clients_are_evaluated_against_what_is_stored(
    case: str, is_fresh: bool
) -> None:
    fields, status = CLIENT_CONDITIONS[case]
    modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    headers = {"ETag": '"v1"', "Last_Modified": modified, "X_A": "b", **FRESH}
    async with World() as world:
        world.origin.answer("/x", response(200, b"body", **headers), response(304, **headers))
        await world.get("/x")
        if not is_fresh:
            await world.age("/x", 100)
        answer = await world.get("/x", **fields)
        assert answer.status == status
        assert answer["etag"] == '"v1"'
        # Age says that the origin did not validate it for this request (RFC 9111, section 5.1).
        assert (answer.get("age") is not None) == is_fresh
        assert answer.body == (b"" if status == 304 else b"body")
        if status == 304:
            assert answer.get("content-length") is None
        if not is_fresh:
            assert world.origin.requests[1].get("if-none-match") == b'"v1"'


@looped
async def test_a_condition_on_a_miss_does_not_keep_the_whole_from_being_stored() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"body", ETag='"v1"', **FRESH))
        answer = await world.get("/x", If_None_Match='"v1"')
        assert answer.status == 304
        assert world.origin.requests[0].get("if-none-match") is None
        again = await world.get("/x")
        assert (again.word, again.body) == ("hit", b"body")


@looped
async def test_if_match_goes_to_the_origin() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", ETag='"v1"', **FRESH), response(412, b"no"))
        await world.get("/x")
        answer = await world.get("/x", If_Match='"v2"')
        assert answer.status == 412
        assert world.origin.requests[1].get("if-match") == b'"v2"'
        assert (await world.get("/x")).word == "hit"


@looped
async def test_an_answer_to_head_freshens_or_outdates_what_is_stored() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"body", ETag='"v1"', **FRESH),
            b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nCache-Control: max-age=500\r\nX-New: 1\r\n\r\n',
            b'HTTP/1.1 200 OK\r\nETag: "v2"\r\nCache-Control: max-age=500\r\n\r\n',
            response(200, b"other", ETag='"v2"', **FRESH),
        )
        await world.get("/x")
        await world.age("/x", 100)
        head = await world.ask("/x", "HEAD")
        assert (head.status, world.origin.requests[1].method) == (200, b"HEAD")
        again = await world.get("/x")
        assert (again.word, again["x-new"], again.body) == ("hit", "1", b"body")
        await world.age("/x", 600)
        await world.ask("/x", "HEAD")
        last = await world.get("/x")
        assert last.body == b"other"


# Stale


STALE_CASES: dict[str, tuple[str, object, int, bytes]] = {
    "disconnected": ("max-age=60", [CLOSE], 200, b"old"),
    "reset": ("max-age=60", [RESET], 200, b"old"),
    "nonsense": ("max-age=60", b"nonsense\r\n\r\n", 200, b"old"),
    "disconnected, must-revalidate": ("max-age=60, must-revalidate", [CLOSE], 504, b""),
    "disconnected, proxy-revalidate": ("max-age=60, proxy-revalidate", [CLOSE], 504, b""),
    "disconnected, s-maxage": ("s-maxage=60", [CLOSE], 504, b""),
    "disconnected, no-cache": ("no-cache", [CLOSE], 504, b""),
    "500": ("max-age=60", response(500, b"bad"), 500, b"bad"),
    "500, stale-if-error": ("max-age=60, stale-if-error=600", response(500, b"bad"), 200, b"old"),
    "502, stale-if-error": ("max-age=60, stale-if-error=600", response(502, b"bad"), 200, b"old"),
    "503, stale-if-error": ("max-age=60, stale-if-error=600", response(503, b"bad"), 200, b"old"),
    "504, stale-if-error": ("max-age=60, stale-if-error=600", response(504, b"bad"), 200, b"old"),
    "404, stale-if-error": ("max-age=60, stale-if-error=600", response(404, b"bad"), 404, b"bad"),
    "stale-if-error too long ago": (
        "max-age=60, stale-if-error=10",
        response(500, b"bad"),
        500,
        b"bad",
    ),
    "stale-if-error and must-revalidate": (
        "max-age=60, stale-if-error=600, must-revalidate",
        response(500, b"bad"),
        500,
        b"bad",
    ),
}


@pytest.mark.parametrize("case", STALE_CASES)
@looped
async def test_stale_responses_serve_on_failure_exactly_where_they_may(case: str) -> None:
    control, answer, status, body = STALE_CASES[case]
    async with World() as world:
        first = response(200, b"old", ETag='"v1"', Cache_Control=control)
        world.origin.answer("/x", first, answer)  # type: ignore[arg-type]
        await world.get("/x")
        await world.age("/x", 100)
        found = await world.get("/x")
        assert found.status == status
        if body:
            assert found.body == body
        if body == b"old":
            assert found.word == "stale"
            assert int(found["age"]) >= 100


@looped
async def test_stale_while_revalidate_serves_at_once_and_refreshes_once_in_the_background() -> None:
    release = asyncio.Event()
    control = {"Cache_Control": "max-age=60, stale-while-revalidate=600", "ETag": '"v1"'}
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"old", **control),
            [release, response(200, b"new", **control)],
        )
        await world.get("/x")
        await world.age("/x", 100)
        for _ in range(10):
            answer = await world.get("/x")
            assert (answer.body, answer.word) == (b"old", "stale-updating")
        await world.origin.wait_for(2)
        release.set()
        await world.settled()
        answer = await world.get("/x")
        assert (answer.body, answer.word) == (b"new", "hit")
        assert world.origin.count() == 2
        assert world.proxy.report().refreshes == 1


@looped
async def test_a_head_that_finds_a_stale_response_refreshes_all_of_it() -> None:
    control = {"Cache_Control": "max-age=60, stale-while-revalidate=600"}
    async with World() as world:
        world.origin.answer(
            "/x", response(200, b"old", **control), response(200, b"new", **control)
        )
        await world.get("/x")
        await world.age("/x", 100)
        assert (await world.ask("/x", "HEAD")).word == "stale-updating"
        await world.settled()
        assert world.origin.requests[1].method == b"GET"
        answer = await world.get("/x")
        assert (answer.body, answer.word) == (b"new", "hit")


@looped
async def test_stale_while_revalidate_ends_and_is_forbidden_by_must_revalidate() -> None:
    async with World() as world:
        for control in (
            "max-age=60, stale-while-revalidate=10",
            "max-age=60, stale-while-revalidate=600, must-revalidate",
            "max-age=60, stale-while-revalidate=600, proxy-revalidate",
        ):
            target = f"/{len(control)}"
            world.origin.answer(
                target,
                response(200, b"old", Cache_Control=control),
                response(200, b"new", Cache_Control=control),
            )
            await world.get(target)
            await world.age(target, 100)
            assert (await world.get(target)).body == b"new"


@looped
async def test_a_refresh_that_fails_leaves_the_stale_response() -> None:
    control = {"Cache_Control": "max-age=60, stale-while-revalidate=600"}
    async with World() as world:
        world.origin.answer("/x", response(200, b"old", **control), [CLOSE])
        await world.get("/x")
        await world.age("/x", 100)
        for _ in range(3):
            assert (await world.get("/x")).body == b"old"
            await world.settled()
        assert world.origin.count() == 5  # the first was repeated: its connection was a kept one


@looped
async def test_requests_with_stale_if_error_may_have_it() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"old", **FRESH), response(500, b"bad"))
        await world.get("/x")
        await world.age("/x", 100)
        answer = await world.get("/x", Cache_Control="stale-if-error=600")
        assert (answer.status, answer.body) == (200, b"old")


# Vary


@looped
async def test_variants_are_told_apart_by_all_fields_of_vary() -> None:
    async with World() as world:

        def answer(asked: Received) -> bytes:
            body = b"%b|%b" % (asked.get("foo") or b"-", asked.get("bar") or b"-")
            return response(200, body, Vary="Foo, BAR", **FRESH)

        world.origin.answer_all(answer)
        wanted = [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
        for turn in range(2):
            for foo, bar in wanted:
                found = await world.get("/x", Foo=foo, Bar=bar)
                assert found.body == f"{foo}|{bar}".encode()
                assert found.word == ("hit" if turn else "miss")
            none = await world.get("/x", Foo="1")
            assert none.body == b"1|-"
        assert world.origin.count() == 5


@looped
async def test_what_only_looks_different_is_the_same_variant() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Vary="Foo, Accept-Encoding", **FRESH))
        await world.get("/x", Foo="a", Accept_Encoding="gzip, br")
        same = (
            {"Foo": "  a ", "Accept_Encoding": "gzip,br"},
            {"Foo": "a", "Accept_Encoding": "GZIP ,  br"},
            {"Foo": "a", "Accept_Encoding": "br,gzip"},
        )
        for fields in same:
            assert (await world.get("/x", **fields)).word == "hit"
        for fields in ({"Foo": "A", "Accept_Encoding": "gzip, br"}, {"Foo": "a"}, {}):
            assert (await world.get("/x", **fields)).word == "miss"


@looped
async def test_a_vary_star_is_never_reused() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Vary="Foo, *", **FRESH))
        for _ in range(2):
            await world.get("/x", Foo="1")
        assert world.origin.count() == 2


@looped
async def test_an_answer_that_begins_or_stops_to_vary_takes_the_place_of_the_others() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"all", **FRESH),
            response(200, b"foo 1", Vary="Foo", **FRESH),
            response(200, b"all again", **FRESH),
        )
        await world.get("/x", Foo="1")
        assert (await world.get("/x", Foo="2")).body == b"all"
        answer = await world.get("/x", Foo="1", Cache_Control="no-cache")
        assert answer.body == b"foo 1"
        assert (await world.get("/x", Foo="1")).body == b"foo 1"
        assert (await world.get("/x", Foo="2")).body == b"all again"
        # It leaves out Vary, but a fresh response says that the URI varies (RFC 9111, 4.1).
        assert (await world.get("/x", Foo="1")).body == b"foo 1"
        await world.age("/x", 1000)
        assert (await world.get("/x", Foo="2")).body == b"all again"
        assert (await world.get("/x", Foo="1")).body == b"all again"
        assert world.origin.count() == 4


@looped
async def test_variants_are_bounded_and_the_oldest_goes() -> None:
    async with World(variants_max=3) as world:
        world.origin.answer_all(
            lambda asked: response(200, asked.get("foo") or b"", Vary="Foo", **FRESH)
        )
        for number in range(5):
            await world.get("/x", Foo=str(number))
        words = [(await world.get("/x", Foo=str(number))).word for number in (4, 3, 2, 0)]
        assert words == ["hit", "hit", "hit", "miss"]


@looped
async def test_a_variant_is_validated_by_its_own_validator() -> None:
    async with World() as world:

        def answer(asked: Received) -> bytes:
            tag = b'"%b"' % (asked.get("foo") or b"")
            if asked.get("if-none-match") == tag:
                return response(304, ETag=tag.decode(), Vary="Foo", **FRESH)
            return response(200, tag, ETag=tag.decode(), Vary="Foo", **FRESH)

        world.origin.answer_all(answer)
        for foo in ("a", "b"):
            await world.get("/x", Foo=foo)
        await world.age("/x", 100)
        for foo in ("a", "b"):
            found = await world.get("/x", Foo=foo)
            assert (found.body, found.word) == (f'"{foo}"'.encode(), "revalidated")
            assert (await world.get("/x", Foo=foo)).word == "hit"


# id: Cache-Control, validator, how long it is kept after its end (seconds)
KEPT: dict[str, tuple[str, bool, float]] = {
    "must-revalidate": ("max-age=100, must-revalidate", False, 600),
    "s-maxage": ("s-maxage=100", False, 600),
    "must-revalidate, with a validator": ("max-age=100, must-revalidate", True, 7 * 86_400),
    "may be served when disconnected": ("max-age=100", False, 86_400),
    "stale-while-revalidate": ("max-age=100, stale-while-revalidate=99999", False, 99_999),
}


@pytest.mark.parametrize("case", KEPT)
@looped
async def test_a_stale_response_is_kept_for_as_long_as_it_means_anything(case: str) -> None:
    cache_control, has_validator, kept_s = KEPT[case]
    tag = {"ETag": '"v1"'} if has_validator else {}
    async with World() as world:
        world.origin.answer("/x", response(200, b"body", Cache_Control=cache_control, **tag))
        await world.get("/x")
        library = world.proxy._library
        entry = await library.load(b"http://example.org:80/x")
        assert entry is not None
        assert library.ttl_of(entry.policy) == pytest.approx(100 + kept_s, abs=30)
