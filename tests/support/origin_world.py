"""A proxy between a scripted origin and a raw client, all in one loop on loopback.

async with World() as world:
    world.origin.answer("/page", response(200, b"hi", Cache_Control="max-age=60"))
    first = await world.get("/page")
    again = await world.get("/page")
    assert again["age"] == "0"
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from edgecache import AsyncStorage, Config
from edgecache.http.server import HttpServer, Listener
from edgecache.proxy import Proxy, ProxyConfig, Route, UpstreamConfig
from support.origin import ScriptedOrigin

DAY_S = 86_400


@dataclasses.dataclass
class Answer:
    """What a client got."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    interim: list[tuple[int, list[tuple[bytes, bytes]]]]
    trailers: list[tuple[bytes, bytes]]
    is_complete: bool = True

    def get(self, name: str) -> str | None:
        """The value of a field, lines joined by ", "; None without one."""
        values = [value for key, value in self.fields if key.lower() == name.lower().encode()]
        return b", ".join(values).decode("latin-1") if values else None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"no {name} among {self.fields}"
        return value

    @property
    def word(self) -> str:
        """What the cache did, in a word."""
        return self["x-cache-status"]


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    parted = [line.partition(b":") for line in lines]
    return [(name, value.strip()) for name, _, value in parted]


class Client:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        """Read one head."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = raw[:-4].split(b"\r\n")
        _, status, reason = (line + b" ").split(b" ", 2)
        return int(status), reason.strip(), _fields(lines)

    async def answer(self, is_head: bool = False) -> Answer:
        """Read one answer, with interim ones before it."""
        interim = []
        while True:
            status, reason, fields = await self.head()
            if status >= 200:
                break
            interim.append((status, fields))
        found = Answer(status, reason, fields, b"", interim, [])
        if is_head or status in (204, 304):
            return found
        try:
            if found.get("transfer-encoding") is not None:
                pieces = []
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    pieces.append(await self.reader.readexactly(size))
                    found.body = b"".join(pieces)
                    await self.reader.readexactly(2)
                raw = b""
                while not raw.endswith(b"\r\n\r\n") and raw != b"\r\n":
                    raw += await self.reader.readuntil(b"\r\n")
                found.trailers = _fields(raw[:-2].split(b"\r\n")[:-1])
            elif found.get("content-length") is not None:
                found.body = await self.reader.readexactly(int(found["content-length"]))
            else:
                found.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            found.body += error.partial
            found.is_complete = False
        except ConnectionError:
            found.is_complete = False
        return found

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b"", **fields: str
    ) -> Answer:
        """Send a request and read its answer; names are written with "_" for "-"."""
        fields.setdefault("Host", "example.org")
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return await self.answer(method == "HEAD")

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()


class World:
    """Origin, proxy and clients.

    Args:
        profile: Of the proxy.
        upstream: Settings of the upstream group.
        route: Settings of its route.
        store: Settings of the store.
        options: Other settings of the proxy.
    """

    def __init__(
        self,
        profile: str = "safe",
        *,
        upstream: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        store: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.origin = ScriptedOrigin()
        self.port = 0
        self._upstream = {"retries": 0, **(upstream or {})}
        self._route = route or {}
        self._store = {"memory": "64MiB", **(store or {})}
        self._options = {"profile": profile, **options}
        self._clients: list[Client] = []
        self._main: Client | None = None
        self.store: AsyncStorage
        self.proxy: Proxy
        self.server: HttpServer

    async def __aenter__(self) -> World:
        await self.origin.__aenter__()
        self.store = AsyncStorage(Config.from_dict(self._store))
        group = UpstreamConfig(servers=(self.origin.url,), **self._upstream)
        config = ProxyConfig(
            upstreams={"default": group},
            routes=(Route(upstream="default", **self._route),),
            **self._options,
        )
        self.proxy = Proxy(config, self.store)
        await self.proxy.start()
        self.server = HttpServer(self.proxy)
        await self.server.start([Listener(host="127.0.0.1", port=0)])
        address: Any = self.server.addresses[0]
        self.port = address[1]
        return self

    async def __aexit__(self, *details: object) -> None:
        for client in self._clients:
            client.close()
        await self.server.drain(1.0)
        await self.proxy.stop()
        await self.store.close()
        await self.origin.stop()

    async def client(self) -> Client:
        """Open a connection; it is closed with the world."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def ask(
        self, target: str, method: str = "GET", body: bytes = b"", **fields: str
    ) -> Answer:
        """Ask on a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(target, method, body, **fields)
        finally:
            client.close()

    async def get(self, target: str, **fields: str) -> Answer:
        """Get, on a connection of its own."""
        return await self.ask(target, **fields)

    async def settled(self) -> None:
        """Wait until nothing runs in the background."""
        # The end of an answer may still be at work for the store when its client has all of it.
        assert await self.server.settle(20.0)
        assert await self.proxy.drain(20.0)

    async def age(self, target: str, seconds: float, host: str = "example.org:80") -> None:
        """Make what is stored for a target look as if it had been stored so long ago."""
        await make_older(self.proxy, f"http://{host}{target}", seconds)


async def make_older(proxy: Proxy, uri: str, seconds: float) -> None:
    """Move the times of all responses of a URI into the past, as if time had passed."""
    from edgecache.proxy.entries import meta_of

    library = proxy._library
    base = uri.encode("latin-1")
    keys = [base]
    known = await library._list(base)
    if known is not None:
        keys += [base + b"\0" + known.generation + variance for variance in known.hashes()]
    moved_us = round(seconds * 1_000_000)
    moved = 0
    for key in keys:
        entry = await library.load(key)
        if entry is None:
            continue
        policy = entry.stored.policy
        older = policy._replace(
            request_us=policy.request_us - moved_us,
            response_us=policy.response_us - moved_us,
            date_s=policy.date_s - round(seconds),
        )
        stored = entry.stored._replace(policy=older)
        moved += await library.store.update_meta(key, meta_of(stored, entry.tags))
    assert moved, f"nothing is stored for {uri}"


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    """As `World`."""
    async with World(**options) as one:
        yield one
