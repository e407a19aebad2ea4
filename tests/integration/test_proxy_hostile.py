"""Attacks that other caches fell to, against the reverse proxy over real sockets."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from support.origin import looped, response
from support.origin_world import World

from edgecache.objects.chunks import READERS_BYTES_MAX

FRESH = {"Cache_Control": "max-age=60"}
PAGE_BYTES = 4096


def resident_bytes() -> int:
    """RAM that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


# Web cache deception: a page of one person under a path that looks like a file

DECEPTIVE = [
    "/account/x.css", "/account/x.js", "/account.php/logo.png", "/account;x.css",
    "/account%2Fx.css", "/account%23x.css", "/account%3Fx.css", "/account%00x.css",
    "/account%3Bx.css", "/account%0Ax.css",
    "/static/..%2Faccount", "/static/../account", "/account?x.css", "/account/.css", "/robots.txt",
]  # fmt: skip


@pytest.mark.parametrize("target", DECEPTIVE)
@looped
async def test_no_spelling_of_a_path_makes_a_response_cacheable(target: str) -> None:
    """Only what the response says counts (Gil 2017; Mirheidari 2020; Doyhenard 2024)."""
    async with World() as world:
        world.origin.answer_all(lambda _: response(200, b"secret", Set_Cookie="session=1"))
        for _ in range(2):
            assert (await world.get(target, Cookie="session=1")).word == "miss"
        assert [one.target for one in world.origin.requests] == [target.encode()] * 2


@looped
async def test_spellings_of_a_path_are_different_keys_and_go_upstream_as_sent() -> None:
    spellings = ["/a/b", "/a//b", "/a/./b", "/a/c/../b", "/a%2Fb", "/a%2fb", "/A/b", "/a/b/",
                 "/a/b?", "/a/b;c", "/a/%62", "/a\\b", "//a/b"]  # fmt: skip
    async with World() as world:
        world.origin.answer_all(lambda asked: response(200, asked.target, **FRESH))
        for _ in range(2):
            for target in spellings:
                assert (await world.get(target)).body == target.encode()
        assert world.origin.count() == len(spellings)


# Cache-poisoned denial of service: an error that a hostile request provokes

PROVOKED = [400, 403, 405, 406, 407, 408, 411, 413, 414, 415, 417, 421, 422, 426, 428, 429, 431,
            500, 501, 502, 503, 504, 505]  # fmt: skip


@pytest.mark.parametrize("status", PROVOKED)
@looped
async def test_an_error_without_explicit_freshness_is_not_kept(status: int) -> None:
    """CPDoS (Nguyen, Lo Iacono, Federrath 2019): oversize header, meta characters, methods."""
    async with World() as world:
        modified = {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        world.origin.answer("/x", response(status, b"no", **modified), response(200, b"yes"))
        await world.get("/x", X_Oversized="a" * 7000)
        answer = await world.get("/x")
        assert (answer.status, answer.body) == (200, b"yes")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"X-Big: " + b"a" * 70_000, 431),
        (b"X-Meta: a\x07b", 400),
        (b"X-Meta: a\x00b", 400),
        (b"X-Line: a\nb: c", 400),
        (b"\r\n".join([b"A: b"] * 200), 431),
    ],
)
@looped
async def test_what_is_refused_here_never_reaches_the_origin_nor_the_cache(
    sent: bytes, status: int
) -> None:
    async with World() as world:
        world.origin.answer("/x", response(200, b"yes", **FRESH))
        client = await world.client()
        await client.send(b"GET /x HTTP/1.1\r\nHost: example.org\r\n" + sent + b"\r\n\r\n")
        assert (await client.answer()).status == status
        assert world.origin.count() == 0
        assert sum(world.server.statistics.refused_by_reason.values()) == 1
        assert (await world.get("/x")).word == "miss"


# Connection: <a field that both ends rely on>

PROTECTED = [
    "Authorization", "Cookie", "Host", "Cache-Control", "Pragma", "Range", "If-None-Match",
    "Accept", "If-Modified-Since", "Accept-Encoding", "Accept-Language", "Content-Type", "Origin",
    "Referer",
    "Expect", "Content-Length", "Sec-Fetch-Site", "Access-Control-Request-Method",
]  # fmt: skip


@pytest.mark.parametrize("name", PROTECTED)
@looped
async def test_connection_removes_no_field_that_others_rely_on(name: str) -> None:
    """CVE-2022-45059."""
    value = {"Host": "example.org", "Expect": "100-continue", "Content-Length": "2"}.get(name, "v")
    async with World() as world:
        world.origin.answer("/x", response(200, b"x"))
        client = await world.client()
        host = "" if name == "Host" else "Host: example.org\r\n"
        length = "" if name == "Content-Length" else "Content-Length: 2\r\n"
        head = (
            f"POST /x HTTP/1.1\r\n{host}Connection: {name.lower()}\r\n{name}: {value}\r\n{length}"
        )
        await client.send(head.encode() + b"\r\nhi")
        answer = await client.answer()
        assert answer.status == 200
        asked = world.origin.requests[0]
        assert asked.body == b"hi"
        if name not in ("Expect", "Host"):  # the first is answered here, the second written anew
            assert asked.get(name) == value.encode()
        assert asked.get("host") == b"example.org"


# PURGE by somebody who is not who the address says


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://example.org"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Via": "1.1 front"},
        {"X_Forwarded_For": "192.0.2.1"},
        {"Forwarded": "for=192.0.2.1"},
        {"X_Real_IP": "192.0.2.1"},
    ],
    ids=str,
)
@looped
async def test_a_purge_that_was_passed_on_is_refused_without_a_token(
    fields: dict[str, str],
) -> None:
    """CVE-2026-27589 and DNS rebinding: a page in a browser on this machine."""
    async with World() as world:
        world.origin.answer("/x", response(200, b"x", **FRESH))
        await world.get("/x")
        for more in ({}, {"X_Purge": "everything"}, {"X_Purge": "prefix"}):
            assert (await world.ask("/x", "PURGE", **fields, **more)).status == 403
        assert (await world.get("/x")).word == "hit"
        assert (await world.ask("/x", "PURGE")).status == 200
    from edgecache.proxy import PurgeAccess

    async with World(purge=PurgeAccess(token="a token of sixteen")) as world:
        good = {"Authorization": "Bearer a token of sixteen"}
        assert (await world.ask("/x", "PURGE", **fields, **good)).status == 404
        assert (await world.ask("/x", "PURGE", **fields)).status == 403


# Ranges


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=" + "0-," * 8,
        "bytes=" + ",".join(["0-"] * 1000),
        "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2)),
        "bytes=" + ",".join(f"-{n}" for n in range(1, 9)),
        "bytes=0-99999,1-99999,2-99999,3-99999",
        "bytes=0-0,99999-99999",
        "bytes=9223372036854775806-9223372036854775807",
        "bytes=0-18446744073709551615",
        "bytes=-18446744073709551616",
        "bytes=18446744073709551615-18446744073709551617",
    ],
    ids=lambda text: text[:30],
)
@looped
async def test_no_range_is_answered_by_more_than_the_object_nor_by_foreign_bytes(
    wanted: str,
) -> None:
    """CVE-2011-3192, CVE-2017-7529, CVE-2021-31806, CVE-2025-62727."""
    body = bytes(range(250)) * 400
    async with World() as world:
        world.origin.answer("/x", response(200, body, **FRESH))
        world.origin.answer("/secret", response(200, b"SECRET" * 1000, **FRESH))
        await world.get("/secret")
        await world.get("/x")
        answer = await world.get("/x", Range=wanted)
        assert answer.status in (200, 206, 416)
        assert len(answer.body) <= 1.1 * len(body)
        assert b"SECRET" not in answer.body
        if answer.status == 206 and answer.get("content-range"):
            span = answer["content-range"].removeprefix("bytes ").partition("/")[0]
            first, last = map(int, span.split("-"))
            assert answer.body == body[first : last + 1]
        assert world.origin.count("/x") == 1


# Clients that do not read


@pytest.mark.parametrize("kind", ["memory", "disk"])
@looped
async def test_stalled_readers_of_a_large_object_cost_next_to_nothing(
    kind: str, tmp_path: Path
) -> None:
    """120 clients that read nothing of 32 MiB: 3.8 GiB if the body were held for each."""
    size, count = 32 << 20, 120
    piece = bytes(range(256)) * 4096
    memory = "128MiB" if kind == "memory" else "16MiB"
    store: dict[str, Any] = {"memory": memory, "disk": "256MiB", "root": str(tmp_path / "cache")}
    async with World(store=store) as world:
        world.origin.answer("/x", response(200, piece * (size // len(piece)), **FRESH))
        assert len((await world.get("/x")).body) == size
        await world.settled()
        assert (await world.get("/x")).word == "hit"
        gc.collect()
        before = resident_bytes()
        clients = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /x HTTP/1.1\r\nHost: example.org\r\n\r\n")
            clients.append((reader, writer))
        async with asyncio.timeout(30):
            while world.server.statistics.writing_pauses < count:
                await asyncio.sleep(0.01)
        grown = resident_bytes() - before
        for _, writer in clients:
            writer.transport.abort()
        # What all readers of the disk may hold together, and a piece and a write buffer each.
        assert grown < READERS_BYTES_MAX + count * (1 << 20)
        assert (await world.get("/x")).word == "hit"
