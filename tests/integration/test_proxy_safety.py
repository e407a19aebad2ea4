"""What broke other caches must not break this one: poisoning, smuggling, truncation, floods.

Each test names the class of attack; the public identifiers say who was broken by it.
"""

from __future__ import annotations

import asyncio

import pytest
from support.origin import CLOSE, RESET, SILENCE, Received, looped, response
from support.origin_world import World

from edgecache.proxy import Timeouts

FRESH = {"Cache_Control": "max-age=60"}
HEAD = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

TRUNCATED: dict[str, list[object]] = {
    "length, closed": [HEAD + b"Content-Length: 10\r\n\r\nabc", CLOSE],
    "length, reset": [HEAD + b"Content-Length: 10\r\n\r\nabc", RESET],
    "length, nothing of it": [HEAD + b"Content-Length: 10\r\n\r\n", CLOSE],
    "chunked, no last chunk": [CHUNKED + b"3\r\nabc\r\n", CLOSE],
    "chunked, cut chunk": [CHUNKED + b"5\r\nabc", CLOSE],
    "chunked, half a last chunk": [CHUNKED + b"3\r\nabc\r\n0\r\n", CLOSE],
    "chunked, reset": [CHUNKED + b"3\r\nabc\r\n", RESET],
    "chunked, broken size": [CHUNKED + b"3\r\nabc\r\nzz\r\n", CLOSE],
    "chunked, broken chunk end": [CHUNKED + b"3\r\nabcde\r\n0\r\n\r\n"],
    "head, closed": [b"HTTP/1.1 200 OK\r\nCache-Con", CLOSE],
    "nothing": [CLOSE],
    "without length, reset": [HEAD + b"\r\nabc", asyncio.Event, RESET],
}


@pytest.mark.parametrize("case", TRUNCATED)
@looped
async def test_a_truncated_answer_is_never_stored_as_complete_nor_ended_as_complete(
    case: str,
) -> None:
    """squid#528, ATS#2699: an answer that was cut became an answer from the cache."""
    async with World() as world:
        steps: list[object] = []
        for step in TRUNCATED[case]:
            if step is asyncio.Event:
                event = asyncio.Event()
                asyncio.get_running_loop().call_later(0.05, event.set)
                steps.append(event)
            else:
                steps.append(step)
        whole = response(200, b"whole", **FRESH)
        world.origin.answer("/x", steps, whole)  # type: ignore[arg-type]
        client = await world.client()
        try:
            first = await client.ask("/x")
        except asyncio.IncompleteReadError:
            pass
        else:
            assert first.status == 502 or not first.is_complete
        await world.settled()
        assert (await world.get("/x")).body == b"whole"


@looped
async def test_an_answer_that_ends_by_an_orderly_close_is_complete() -> None:
    async with World() as world:
        world.origin.answer("/x", [HEAD + b"\r\nabc", CLOSE])
        assert (await world.get("/x")).body == b"abc"
        assert (await world.get("/x")).word == "hit"


UNCERTAIN = {
    "both lengths": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 9\r\n\r\nabc",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\nabc",
    "folded": HEAD + b"X-A: b\r\n c\r\nContent-Length: 1\r\n\r\nx",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    "space before colon": HEAD + b"Content-Length : 1\r\n\r\nx",
    "NUL": HEAD + b"X-A: \0\r\nContent-Length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("case", UNCERTAIN)
@looped
async def test_an_answer_of_uncertain_framing_is_a_502_and_its_connection_is_not_used_again(
    case: str,
) -> None:
    """CVE-2022-23959, CVE-2023-38522, CVE-2018-8004."""
    async with World() as world:
        world.origin.answer("/x", UNCERTAIN[case], response(200, b"next", **FRESH))
        assert (await world.get("/x")).status == 502
        assert (await world.get("/x")).body == b"next"
        assert world.origin.connection_count == 2


@looped
async def test_bytes_behind_an_answer_are_not_the_next_answer() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            response(200, b"one", Cache_Control="no-store") + response(200, b"smuggled", **FRESH),
        )
        world.origin.answer("/y", response(200, b"two", **FRESH))
        assert (await world.get("/x")).body == b"one"
        assert (await world.get("/y")).body == b"two"
        assert world.origin.connection_count == 2


@looped
async def test_content_on_a_hit_is_not_the_next_request() -> None:
    """CVE-2025-4366: the body of a request that was answered from the cache was parsed as one."""
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.target, **FRESH))
        await world.get("/x")
        evil = b"GET /evil HTTP/1.1\r\nHost: example.org\r\n\r\n"
        client = await world.client()
        await client.send(
            b"GET /x HTTP/1.1\r\nHost: example.org\r\nContent-Length: %d\r\n\r\n" % len(evil)
            + evil
            + b"GET /y HTTP/1.1\r\nHost: example.org\r\n\r\n"
        )
        assert (await client.answer()).body == b"/x"
        assert (await client.answer()).body == b"/y"
        assert world.origin.count("/evil") == 0


POISON = (
    "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Host",
    "X-Forwarded-Server", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override",
    "X-Forwarded-Scheme", "Forwarded", "X-Forwarded-For", "X-Real-IP", "X-Original-Host",
)  # fmt: skip


@pytest.mark.parametrize("name", POISON)
@looped
async def test_fields_that_are_not_in_the_key_do_not_reach_the_origin_as_sent(name: str) -> None:
    """Unkeyed input: an origin that reflects it would poison what others get."""
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get("/x", **{name.replace("-", "_"): "evil.example"})
        assert b"evil.example" not in world.origin.requests[0].raw


@looped
async def test_forwarding_fields_of_a_trusted_proxy_are_kept_and_extended() -> None:
    import ipaddress

    trusted = (ipaddress.ip_network("127.0.0.0/8"),)
    async with World(trusted_proxies=trusted) as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get(
            "/x", X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https", Via="1.1 front"
        )
        asked = world.origin.requests[0]
        assert asked.get("x-forwarded-for") == b"192.0.2.7, 127.0.0.1"
        assert asked.get("x-forwarded-proto") == b"https"
        assert asked.get("via") == b"1.1 front, 1.1 edgecache"


@looped
async def test_the_origin_is_told_who_asks_and_how() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", Via="1.0 inner", **FRESH))
        answer = await world.get("/x", Host="Example.org:80")
        asked = world.origin.requests[0]
        assert asked.get("host") == b"example.org"
        assert asked.get("x-forwarded-for") == b"127.0.0.1"
        assert asked.get("x-forwarded-host") == b"example.org"
        assert asked.get("forwarded") == b'for=127.0.0.1;host="example.org";proto=http'
        assert asked.get("via") == b"1.1 edgecache"
        assert answer["via"] == "1.0 inner, 1.1 edgecache"


@looped
async def test_fields_of_the_clients_connection_are_not_forwarded() -> None:
    """CVE-2022-45059: `Connection: <field>` removed what both ends rely on."""
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get(
            "/x",
            Connection="X-Named, Authorization, Cookie, Cache-Control, close",
            X_Named="1",
            Authorization="Basic abc",
            Cookie="a=1",
            TE="trailers",
            Keep_Alive="5",
            Proxy_Connection="keep-alive",
        )
        asked = world.origin.requests[0]
        for name in ("connection", "x-named", "te", "keep-alive", "proxy-connection", "upgrade"):
            assert asked.get(name) is None, name
        assert asked.get("authorization") == b"Basic abc"
        assert asked.get("cookie") == b"a=1"


@looped
async def test_an_absolute_target_goes_before_host() -> None:
    """CVE-2016-4553: the key came from one, the request from the other."""
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.get("host") or b"", **FRESH))
        answer = await world.get("http://example.net/x", Host="example.net")
        assert answer.body == b"example.net"
        client = await world.client()
        answer = await client.ask("http://example.net/x", Host="other.example")
        assert answer.status == 400
        assert world.origin.count() == 1


@looped
async def test_methods_that_are_not_forwarded_are_refused() -> None:
    async with World() as world:
        trace = await world.ask("/x", "TRACE")
        assert trace.status == 405
        client = await world.client()
        await client.send(b"CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\r\n")
        assert (await client.answer()).status in (405, 501)
        assert world.origin.connection_count == 0


@looped
async def test_an_upgrade_is_not_forwarded() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        answer = await world.get("/x", Connection="Upgrade", Upgrade="websocket")
        assert answer.status == 200
        assert world.origin.requests[0].get("upgrade") is None


@looped
async def test_an_upgrade_that_nobody_asked_for_is_a_502() -> None:
    async with World() as world:
        world.origin.answer("/x", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        assert (await world.get("/x")).status == 502


@looped
async def test_a_request_that_goes_round_in_a_circle_ends() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x"))
        seen = ", ".join(["1.1 edgecache"] * 8)
        assert (await world.get("/x", Via=seen)).status == 508
        assert (await world.get("/x", Via="1.1 edgecache")).status == 200


@looped
async def test_max_forwards_ends_at_zero_for_options() -> None:
    async with World() as world:
        assert (await world.ask("/x", "OPTIONS", Max_Forwards="0")).status == 204
        assert world.origin.count() == 0


@looped
async def test_personal_answers_are_never_shared() -> None:
    """Waiters of a private answer, and requests after it, each get their own."""
    async with World() as world:
        world.origin.answer_all(
            lambda asked: response(200, asked.get("cookie") or b"", Cache_Control="private")
        )
        answers = await asyncio.gather(*[world.get("/me", Cookie=f"u={n}") for n in range(20)])
        assert [answer.body for answer in answers] == [b"u=%d" % n for n in range(20)]


@looped
async def test_an_error_page_provoked_by_a_request_is_not_kept_for_others() -> None:
    """CPDoS: an oversized or odd field made the origin fail for everybody."""
    async with World() as world:

        def answer(asked: Received) -> bytes:
            if asked.get("x-odd"):
                return response(400, b"bad request", reason=b"Bad Request")
            return response(200, b"fine", **FRESH)

        world.origin.answer_all(answer)
        assert (await world.get("/x", X_Odd="1")).status == 400
        assert (await world.get("/x")).body == b"fine"


@looped
async def test_encoded_content_is_kept_as_it_came() -> None:
    """Nothing is decompressed, so nothing explodes."""
    bomb = b"\x1f\x8b\x08\x00" + b"\0" * 200
    async with World() as world:
        world.origin.answer("/x", response(200, bomb, Content_Encoding="gzip", **FRESH))
        for _ in range(2):
            answer = await world.get("/x")
            assert (answer.body, answer["content-encoding"]) == (bomb, "gzip")


@looped
async def test_interim_answers_are_relayed_and_never_stored() -> None:
    async with World() as world:
        world.origin.answer(
            "/x",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            + response(200, b"x", **FRESH),
        )
        first = await world.get("/x")
        assert [(status, dict(fields)) for status, fields in first.interim] == [
            (103, {b"Link": b"</a>"})
        ]
        again = await world.get("/x")
        assert (again.word, again.interim) == ("hit", [])


@looped
async def test_trailers_pass_and_those_that_belong_into_a_head_do_not() -> None:
    async with World() as world:
        chunked = (
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=1\r\n"
            b"Content-Length: 9\r\n\r\n"
        )
        world.origin.answer("/x", b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n" + chunked)
        world.origin.answer("/y", HEAD + chunked)
        first = await world.get("/x")
        assert first.body == b"abc"
        assert (await world.get("/y")).body == b"abc"
        again = await world.get("/y")
        assert (again.word, again.body, again["content-length"]) == ("hit", b"abc", "3")


@looped
async def test_request_bodies_stream_upstream() -> None:
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, b"%d" % len(asked.body)))
        big = b"x" * 3_000_000
        assert (await world.ask("/x", "POST", big)).body == b"3000000"
        assert world.origin.requests[0].body == big
        client = await world.client()
        await client.send(
            b"PUT /x HTTP/1.1\r\nHost: e.org\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n"
        )
        assert (await client.answer()).body == b"5"
        assert world.origin.requests[1].get("transfer-encoding") == b"chunked"


@looped
async def test_expect_is_answered_here() -> None:
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.body))
        client = await world.client()
        await client.send(
            b"POST /x HTTP/1.1\r\nHost: e.org\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        status, _, _ = await client.head()
        assert status == 100
        await client.send(b"hi")
        assert (await client.answer()).body == b"hi"
        assert world.origin.requests[0].get("expect") is None


# An upstream that fails


@looped
async def test_failures_of_the_origin_have_their_statuses() -> None:
    quick = Timeouts(first_byte_s=0.1, between_bytes_s=0.1)
    async with World(upstream={"timeouts": quick}) as world:
        world.origin.answer("/silent", [b"", SILENCE])
        world.origin.answer("/closed", [CLOSE])
        assert (await world.get("/silent")).status == 504
        answer = await world.get("/closed")
        assert (answer.status, answer.word) == (502, "error")
        await world.origin.stop()
        assert (await world.get("/down")).status == 502
        report = world.proxy.report()
        assert report.failures["timeout"] == 1
        assert report.servers["default"][0].failure_count >= 3


@looped
async def test_a_slow_body_is_given_up_in_time_and_not_stored() -> None:
    quick = Timeouts(first_byte_s=5, between_bytes_s=0.1)
    async with World(upstream={"timeouts": quick}) as world:
        head = response(200, b"", length=10, **FRESH)
        world.origin.answer("/x", [head, b"abc", SILENCE], response(200, b"whole", **FRESH))
        first = await world.get("/x")
        assert (first.status, first.is_complete) == (200, False)
        await world.settled()
        assert (await world.get("/x")).body == b"whole"


@looped
async def test_no_route_is_404_and_a_stopping_proxy_503() -> None:
    async with World(route={"host": "example.org"}) as world:
        world.origin.answer("/x", response(200, b"x"))
        assert (await world.get("/x", Host="example.net")).status == 404
        assert (await world.get("/x")).status == 200
        await world.proxy.stop()
        assert (await world.get("/x")).status == 503
