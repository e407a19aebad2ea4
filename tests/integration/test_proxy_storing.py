"""What is stored and what is not, through the whole proxy (RFC 9111, section 3 and 5.2.2)."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from support.origin import Received, looped, response
from support.origin_world import DAY_S, World


def ago(seconds: float) -> str:
    return formatdate(time.time() - seconds, usegmt=True)


FRESH = {"Cache_Control": "max-age=60"}
# id: fields of the answer, whether the second request is answered from the cache
RESPONSES: dict[str, tuple[dict[str, str], bool]] = {
    "max-age": ({"Cache_Control": "max-age=60"}, True),
    "s-maxage": ({"Cache_Control": "s-maxage=60"}, True),
    "s-maxage over max-age": ({"Cache_Control": "max-age=0, s-maxage=60"}, True),
    "s-maxage=0 over max-age": ({"Cache_Control": "max-age=60, s-maxage=0"}, False),
    "max-age quoted": ({"Cache_Control": 'max-age="60"'}, True),
    "upper case": ({"Cache_Control": "MAX-AGE=60"}, True),
    "max-age with space": ({"Cache_Control": "max-age =60"}, False),
    "max-age negative": ({"Cache_Control": "max-age=-60"}, False),
    "max-age not a number": ({"Cache_Control": "max-age=abc"}, False),
    "max-age huge": ({"Cache_Control": "max-age=99999999999999999999"}, True),
    "max-age in a quoted string": ({"Cache_Control": 'extension="max-age=60"'}, False),
    "unknown directive": ({"Cache_Control": "max-age=60, unknown=1"}, True),
    "empty members": ({"Cache_Control": ",,max-age=60,,"}, True),
    "no-store": ({"Cache_Control": "max-age=60, no-store"}, False),
    "no-store in quotes": ({"Cache_Control": 'max-age=60, a="no-store"'}, True),
    "no-cache": ({"Cache_Control": "max-age=60, no-cache", "ETag": '"a"'}, False),
    "private": ({"Cache_Control": "max-age=60, private"}, False),
    "public": ({"Cache_Control": "max-age=60, public"}, True),
    "must-revalidate": ({"Cache_Control": "max-age=60, must-revalidate"}, True),
    "proxy-revalidate": ({"Cache_Control": "max-age=60, proxy-revalidate"}, True),
    "must-understand and no-store": (
        {"Cache_Control": "max-age=60, no-store, must-understand"},
        True,
    ),
    "no-transform": ({"Cache_Control": "max-age=60, no-transform"}, True),
    "immutable": ({"Cache_Control": "max-age=60, immutable"}, True),
    "expires": ({"Expires": formatdate(time.time() + 600, usegmt=True)}, True),
    "expires in the past": ({"Expires": ago(60)}, False),
    "expires zero": ({"Expires": "0"}, False),
    "expires and max-age": ({"Expires": ago(60), "Cache_Control": "max-age=60"}, True),
    "nothing": ({}, False),
    "heuristic": ({"Last_Modified": ago(100 * DAY_S)}, True),
    "heuristic of the future": ({"Last_Modified": ago(-3600)}, False),
    "set-cookie": ({"Set_Cookie": "a=1", **FRESH}, False),
    "set-cookie and public": ({"Set_Cookie": "a=1", "Cache_Control": "max-age=60, public"}, True),
    "targeted": ({"CDN_Cache_Control": "max-age=60", "Cache_Control": "no-store"}, True),
    "targeted no-store": ({"CDN_Cache_Control": "no-store", **FRESH}, False),
    "targeted invalid": ({"CDN_Cache_Control": "max-age=60,,", **FRESH}, True),
    "targeted wrong type": ({"CDN_Cache_Control": 'max-age="60"', **FRESH}, False),
    "targeted empty": ({"CDN_Cache_Control": "", **FRESH}, True),
    "surrogate-control is not ours": ({"Surrogate_Control": "max-age=60"}, False),
    "age uses it up": ({"Age": "61", **FRESH}, False),
    "age leaves some": ({"Age": "10", **FRESH}, True),
    "age invalid": ({"Age": "abc", **FRESH}, True),
    "old date": ({"Date": ago(61), **FRESH}, False),
    "vary star": ({"Vary": "*", **FRESH}, False),
    "pragma means nothing": ({"Pragma": "no-cache", **FRESH}, True),
    "clear-site-data": ({"Clear_Site_Data": '"cache"', **FRESH}, True),
}


@pytest.mark.parametrize("case", RESPONSES)
@looped
async def test_an_answer_is_reused_exactly_if_its_fields_allow_it(case: str) -> None:
    fields, is_reused = RESPONSES[case]
    async with World() as world:
        world.origin.answer("/x", response(200, b"one", **fields), response(200, b"two", **fields))
        first = await world.get("/x")
        second = await world.get("/x")
        assert (first.body, first.word) == (b"one", "miss")
        assert second.body == (b"one" if is_reused else b"two")
        assert world.origin.count() == (1 if is_reused else 2)
        assert ("hit" in second["cache-status"]) is is_reused


STATUSES = (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 418, 451, 501, 599)


@pytest.mark.parametrize("status", STATUSES)
@looped
async def test_any_final_status_with_explicit_freshness_is_stored(status: int) -> None:
    async with World() as world:
        location = {"Location": "http://other.example/"} if 300 <= status < 400 else {}
        world.origin.answer("/x", response(status, b"body", **FRESH, **location))
        first = await world.get("/x")
        second = await world.get("/x")
        assert first.status == second.status == status
        assert first.body == second.body == (b"" if status == 204 else b"body")
        assert second.word == "hit"
        assert second.get("location") == location.get("Location")
        assert world.origin.count() == 1


HEURISTIC = {200: True, 203: True, 204: True, 300: True, 301: True, 404: True, 410: True}
PLAIN_ONES = {302: False, 303: False, 307: False, 400: False, 500: False, 503: False, 599: False}


@pytest.mark.parametrize("status", [*HEURISTIC, *PLAIN_ONES])
@looped
async def test_a_heuristic_is_used_for_statuses_that_allow_it(status: int) -> None:
    async with World() as world:
        answer = response(status, b"x", Last_Modified=ago(100 * DAY_S))
        world.origin.answer("/x", answer)
        await world.get("/x")
        await world.get("/x")
        is_reused = {**HEURISTIC, **PLAIN_ONES}[status]
        assert world.origin.count() == (1 if is_reused else 2)


@pytest.mark.parametrize("status", [405, 414, 501])
@looped
async def test_statuses_that_hostile_requests_provoke_have_a_heuristic_in_profile_rfc_only(
    status: int,
) -> None:
    for profile, count in (("safe", 2), ("rfc", 1)):
        async with World(profile) as world:
            world.origin.answer("/x", response(status, b"x", Last_Modified=ago(100 * DAY_S)))
            await world.get("/x")
            await world.get("/x")
            assert world.origin.count() == count


@looped
async def test_set_cookie_is_stored_by_the_letter_in_profile_rfc() -> None:
    async with World("rfc") as world:
        world.origin.answer("/x", response(200, b"x", Set_Cookie="a=1", **FRESH))
        await world.get("/x")
        again = await world.get("/x")
        assert (again.word, again["set-cookie"]) == ("hit", "a=1")


AUTHORIZED = {
    "max-age=60": False,
    "max-age=60, public": True,
    "max-age=60, must-revalidate": True,
    "s-maxage=60": True,
    "max-age=60, proxy-revalidate": False,
    "max-age=60, private": False,
}


@pytest.mark.parametrize("control", AUTHORIZED)
@looped
async def test_an_authorized_answer_is_shared_only_if_it_says_so(control: str) -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"for alice", Cache_Control=control),
            response(200, b"for bob", Cache_Control=control),
        )
        first = await world.get("/x", Authorization="Basic alice")
        second = await world.get("/x", Authorization="Basic bob")
        assert first.body == b"for alice"
        assert second.body == (b"for alice" if AUTHORIZED[control] else b"for bob")
        assert world.origin.requests[0].get("authorization") == b"Basic alice"


NEVER_STORED = (
    *("Connection", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade", "Proxy-Authenticate"),
    *("Proxy-Authentication-Info", "Transfer-Encoding"),
)


@looped
async def test_fields_of_one_connection_are_neither_relayed_nor_stored() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(
                200,
                b"x",
                Connection="X-Named, close, ETag",
                X_Named="secret",
                ETag='"kept"',
                Keep_Alive="timeout=5",
                Upgrade="h2c",
                Proxy_Authenticate="Basic",
                TE="trailers",
                X_Kept="yes",
                **FRESH,
            ),
        )
        first = await world.get("/x")
        second = await world.get("/x")
        for answer in (first, second):
            assert answer.get("x-named") is None
            assert answer.get("keep-alive") is None
            assert answer.get("upgrade") is None
            assert answer["x-kept"] == "yes"
            assert answer["etag"] == '"kept"', "Connection may not remove protected fields"
        assert second.word == "hit"
        assert second.get("proxy-authenticate") is None


@looped
async def test_fields_are_preserved_bit_by_bit() -> None:
    odd = [
        (b"X-Binary", b"\xff\xfe \x80 z"),
        (b"X-Empty", b""),
        (b"X-Many", b"one"),
        (b"X-Many", b"two,  three"),
        (b"X-Quoted", b'"a \\"b\\" , c"'),
        (b"Set-Cookie", b"a=1; Expires=Wed, 21 Oct 2045 07:28:00 GMT"),
        (b"Set-Cookie", b"b=2"),
        (b"Link", b'<https://e.org/?a=1,2>; rel="next"'),
        (b"Content-Type", b'text/plain; charset="utf-8"'),
        (b"Content-Security-Policy", b"default-src 'self'; img-src *"),
    ]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in odd)
    async with World() as world:
        world.origin.answer(
            "/x",
            b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\n"
            + lines
            + b"Content-Length: 1\r\n\r\nx",
        )
        first = await world.get("/x")
        second = await world.get("/x")
        assert second.word == "hit"
        for answer in (first, second):
            for name in {name for name, _ in odd}:
                wanted = [value for key, value in odd if key == name]
                found = [value for key, value in answer.fields if key.lower() == name.lower()]
                assert found == wanted, name


@looped
async def test_fields_that_no_cache_or_private_list_are_not_stored() -> None:
    async with World() as world:
        control = 'max-age=60, no-cache="X-One", private="X-Two, set-cookie"'
        world.origin.answer(
            "/x",
            response(
                200, b"x", Cache_Control=control, X_One="1", X_Two="2", X_Three="3", Set_Cookie="a"
            ),
        )
        first = await world.get("/x")
        assert (first["x-one"], first["x-two"], first["set-cookie"]) == ("1", "2", "a")
        second = await world.get("/x")
        assert second.word == "hit"
        assert second.get("x-one") is second.get("x-two") is second.get("set-cookie") is None
        assert second["x-three"] == "3"


@looped
async def test_a_post_is_never_answered_from_the_cache() -> None:
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.method + asked.body, **FRESH))
        for number in range(2):
            answer = await world.ask("/x", "POST", b"%d" % number)
            assert answer.body == b"POST%d" % number
        assert (await world.get("/x")).body == b"GET"
        assert world.origin.count() == 3


@looped
async def test_a_post_that_says_what_it_answers_serves_later_gets() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"made", Content_Location="/x", **FRESH))
        await world.ask("/x", "POST", b"data")
        again = await world.get("/x")
        assert (again.word, again.body) == ("hit", b"made")
        assert world.origin.count() == 1


@looped
async def test_a_head_is_answered_from_what_a_get_stored_and_stores_nothing_itself() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"12345", X_A="b", **FRESH))
        head = await world.ask("/x", "HEAD")
        assert (head.word, head["content-length"]) == ("miss", "5")
        assert world.origin.requests[0].method == b"HEAD"
        await world.get("/x")
        assert world.origin.count() == 2
        for _ in range(2):
            head = await world.ask("/x", "HEAD")
            assert (head.word, head["content-length"], head["x-a"]) == ("hit", "5", "b")
        assert world.origin.count() == 2


@looped
async def test_the_key_tells_hosts_paths_and_queries_apart_exactly() -> None:
    targets = (
        "/a", "/A", "/a/", "/a?", "/a?x=1", "/a?x=2", "/a?x=1&y=2", "/a?y=2&x=1", "/%61", "/a%2Fb",
        "/a/b", "//a", "/a//b", "/a;b", "/a/./b", "/a/../b",
    )  # fmt: skip
    async with World() as world:

        def answer(asked: Received) -> bytes:
            host = asked.get("host") or b""
            return response(200, host + b" " + asked.target, **FRESH)

        world.origin.answer_all(answer)
        for _ in range(2):
            for target in targets:
                for host in ("one.example", "two.example", "one.example:81"):
                    found = await world.get(target, Host=host)
                    assert found.body == f"{host} {target}".encode()
        assert world.origin.count() == 3 * len(targets)


@looped
async def test_spellings_of_one_host_share_a_key_and_reach_the_origin_in_one_form() -> None:
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.get("host") or b"", **FRESH))
        for host in ("example.org", "EXAMPLE.org", "example.org:80", "example.org:080"):
            assert (await world.get("/x", Host=host)).body == b"example.org"
        assert (await world.get("http://Example.ORG/x")).body == b"example.org"
        assert world.origin.count() == 1
        assert world.origin.requests[0].target == b"/x"


@looped
async def test_a_route_without_cache_passes_everything() -> None:
    async with World(route={"cache": False}) as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        for _ in range(2):
            assert (await world.get("/x", If_None_Match='"a"')).word == "bypass"
        assert world.origin.count() == 2
        assert world.origin.requests[0].get("if-none-match") == b'"a"'


@looped
async def test_what_is_larger_than_the_route_allows_is_passed_and_not_stored() -> None:
    async with World(route={"stored_bytes_max": 1000}) as world:
        big = b"b" * 1001
        world.origin.answer("/length", response(200, big, **FRESH))
        world.origin.answer("/chunked", response(200, big, chunked=True, **FRESH))
        world.origin.answer("/fits", response(200, big[:1000], **FRESH))
        for target, count in (("/length", 2), ("/chunked", 2), ("/fits", 1)):
            for _ in range(2):
                assert (await world.get(target)).body[:1000] == big[:1000]
                await world.settled()
            assert world.origin.count(target) == count
