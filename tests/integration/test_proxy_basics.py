"""A miss, a hit, what is prepared in between; the demonstration; what an embedder sees."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
from support.origin import ScriptedOrigin, looped, response
from support.origin_world import World

from edgecache import AsyncStorage, Config, errors
from edgecache.http.server import HttpServer, Listener
from edgecache.proxy import (
    Breaker,
    Collapsing,
    DynamicOrigins,
    HealthCheck,
    Proxy,
    ProxyConfig,
    PurgeAccess,
    Route,
    Timeouts,
    UpstreamConfig,
)
from edgecache.proxy.variants import VariantList
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.rules import SAFE

FRESH = {"Cache_Control": "max-age=60"}
GET = b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n"


@looped
async def test_a_fresh_answer_is_fetched_once() -> None:
    async with World() as world:
        world.origin.answer("/page", response(200, b"hello", **FRESH))
        first = await world.get("/page")
        assert (first.status, first.body, first.word) == (200, b"hello", "miss")
        for _ in range(5):
            again = await world.get("/page")
            assert (again.status, again.body, again.word) == (200, b"hello", "hit")
            assert again["age"] in ("0", "1")
        assert world.origin.count() == 1


@looped
async def test_a_prepared_answer_is_used_only_while_the_store_holds_what_it_was_made_of() -> None:
    async with World() as world:
        world.origin.answer("/x", *[response(200, b"%d" % n, **FRESH) for n in range(9)])
        client = await world.client()

        async def body() -> bytes:
            await client.send(GET)
            return (await client.answer()).body

        for _ in range(4):
            assert await body() == b"0"
        assert world.proxy.report().answers["hit"] == 3
        await world.proxy.purge("http://example.org/x")
        for _ in range(3):
            assert await body() == b"1"
        await world.store.clear()
        for _ in range(3):
            assert await body() == b"2"
        await world.age("/x", 100)
        for _ in range(3):
            assert await body() == b"3"
        await world.ask("/x", "POST", b"data")
        assert await body() != b"3"


@looped
async def test_prepared_answers_keep_order_and_framing_however_requests_are_cut() -> None:
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.target, **FRESH))
        client = await world.client()
        other = GET.replace(b"/x", b"/other")
        for request in (GET, GET, other, other):
            await client.send(request)
            await client.answer()
        head = GET.replace(b"GET", b"HEAD")
        await client.send(GET + other + head + GET)
        assert (await client.answer()).body == b"/x"
        assert (await client.answer()).body == b"/other"
        assert (await client.answer(is_head=True)).body == b""
        assert (await client.answer()).body == b"/x"
        for request in (head, head, head):
            await client.send(request)
            found = await client.answer(is_head=True)
            assert (found.status, found["content-length"]) == (200, "2")
        for cut in range(1, len(GET)):
            await client.send(GET[:cut])
            await asyncio.sleep(0)
            await client.send(GET[cut:])
            assert (await client.answer()).body == b"/x"
        closing = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        await client.send(closing)
        assert (await client.answer())["connection"] == "close"
        assert await client.reader.read() == b""


@looped
async def test_the_demonstration_shows_what_it_says() -> None:
    async with AsyncStorage(Config(memory="64MiB")) as store:
        proxy = Proxy(ProxyConfig.for_demo(), store)
        await proxy.start()
        server = HttpServer(proxy)
        await server.start([Listener(host="127.0.0.1", port=0)])
        world = World()
        address: Any = server.addresses[0]
        world.port = address[1]
        words = [(await world.get("/page")).word for _ in range(3)]
        assert words == ["miss", "hit", "hit"]
        part = await world.get("/range", Range="bytes=1000000-1000099")
        assert (part.status, len(part.body)) == (206, 100)
        assert b"/vary" in (await world.get("/")).body
        german = await world.get("/vary", Accept_Language="de")
        assert german.body.startswith(b"Guten Tag")
        assert (await world.get("/vary", Accept_Language="fr")).body.startswith(b"Bonjour")
        for _ in range(2):
            assert (await world.get("/nocache")).word != "hit"
        slow = await asyncio.gather(*[world.get("/slow") for _ in range(10)])
        assert len({answer.body for answer in slow}) == 1
        await world.get("/tagged")
        assert await proxy.purge_tag("demo") == 1
        await world.get("/toggle")
        assert (await world.get("/error")).status == 500
        assert (await world.get("/none")).status == 404
        await server.stop()
        await proxy.stop()


@looped
async def test_origins_that_clients_name_are_asked_only_if_they_are_allowed() -> None:
    async with ScriptedOrigin() as origin, AsyncStorage(Config(memory="64MiB")) as store:
        origin.answer("/x", response(200, b"named", **FRESH))
        for allows, status in ((True, 200), (False, 403)):
            dynamic = DynamicOrigins(
                hosts=("localhost",), ports=frozenset({origin.port}), allow_private=allows
            )
            config = ProxyConfig(dynamic=dynamic, routes=(Route(upstream="dynamic"),))
            proxy = Proxy(config, store)
            await proxy.start()
            server = HttpServer(proxy)
            await server.start([Listener(host="127.0.0.1", port=0)])
            world = World()
            address: Any = server.addresses[0]
            world.port = address[1]
            target = "/x" if allows else "/y"
            assert (await world.get(target, Host=f"localhost:{origin.port}")).status == status
            assert (await world.get("/x", Host="example.org")).status == 403
            await server.stop()
            await proxy.stop()
        assert origin.count() == 1


@looped
async def test_the_report_tells_about_servers_and_what_runs() -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get("/x")
        await world.get("/x")
        report = world.proxy.report()
        assert (report.answers["miss"], report.answers["hit"], report.fetches) == (1, 1, 1)
        server = report.servers["default"][0]
        assert (server.circuit, server.is_up, server.exchange_count) == ("closed", True, 1)
        assert server.server == f"127.0.0.1:{world.origin.port}"


WRONG: dict[str, Any] = {
    "profile": lambda: ProxyConfig(profile="loose"),
    "name": lambda: ProxyConfig(name="a b"),
    "route to nowhere": lambda: ProxyConfig(routes=(Route(upstream="none"),)),
    "taken name": lambda: ProxyConfig(upstreams={"demo": UpstreamConfig(servers=("a",))}),
    "no servers": lambda: UpstreamConfig(servers=()),
    "one server as text": lambda: UpstreamConfig(servers="http://a"),  # type: ignore[arg-type]
    "server with a path": lambda: UpstreamConfig(servers=("http://a/b",)),
    "server with a password": lambda: UpstreamConfig(servers=("http://a:b@c",)),
    "other scheme": lambda: UpstreamConfig(servers=("ftp://a",)),
    "bad port": lambda: UpstreamConfig(servers=("http://a:99999",)),
    "port zero": lambda: UpstreamConfig(servers=("http://a:0",)),
    "same server twice": lambda: UpstreamConfig(servers=("http://a", "a:80")),
    "balance": lambda: UpstreamConfig(servers=("a",), balance="random"),
    "host": lambda: UpstreamConfig(servers=("a",), host="a b"),
    "breaker": lambda: UpstreamConfig(servers=("a",), breaker={}),  # type: ignore[arg-type]
    "retry statuses": lambda: UpstreamConfig(servers=("a",), retry_statuses=frozenset({200})),
    "coding": lambda: UpstreamConfig(servers=("a",), transfer_coding="loose"),
    "negative timeout": lambda: Timeouts(connect_s=-1),
    "timeout that is none": lambda: Timeouts(connect_s=float("nan")),
    "timeout as text": lambda: Timeouts(connect_s="1"),  # type: ignore[arg-type]
    "health path": lambda: HealthCheck(path="live"),
    "health counts": lambda: HealthCheck(rise=0),
    "breaker time": lambda: Breaker(open_s=0),
    "route path": lambda: Route(upstream="a", path="x"),
    "route host": lambda: Route(upstream="a", host="Example.org"),
    "short token": lambda: PurgeAccess(token="short"),
    "window": lambda: Collapsing(window_bytes=1),
    "dynamic without hosts": lambda: DynamicOrigins(hosts=()),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_a_config_error_that_names_it(case: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        WRONG[case]()
    assert caught.value.key


def test_who_may_purge_is_loopback_by_default() -> None:
    networks = ProxyConfig().purge.networks
    assert all(network.is_loopback for network in networks)
    assert ipaddress.ip_network("127.0.0.0/8") in networks


def test_a_list_of_variants_survives_its_bytes_and_refuses_others() -> None:
    known = VariantList()
    for number in range(12):
        known.add(((b"foo", b"%d" % number), (b"bar", None)), variants_max=5)
    known.add(((b"baz", b"1"),), variants_max=5)
    data = known.encode()
    found = VariantList.decode(data)
    assert found == known
    assert len(known.variants) == 5
    assert len(known.candidates(Headers([(b"Foo", b"11"), (b"baz", b"1")]), SAFE)) == 2
    for cut in range(len(data)):
        assert VariantList.decode(data[:cut]) is None
    assert VariantList.decode(data + b"x") is None
    assert VariantList.decode(b"XXXX" + data[4:]) is None
