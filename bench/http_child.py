"""The serving processes of `bench.http_api`.

python -m bench.http_child PORT FOLDER cache            entries are the files of the folder
python -m bench.http_child PORT FOLDER proxy UPSTREAM   the reverse proxy
python -m bench.http_child PORT FOLDER echo             the same bytes, whatever is asked for
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import uvloop

from edgecache import AsyncStorage, Config
from edgecache.http import HttpApp, HttpServer, Listener, mount_cache_api
from edgecache.http.cache_api.answers import entry_fields
from edgecache.http.cache_api.stored import content_etag, facts_of, make_meta
from edgecache.http.response import Response


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.isdigit()}


@asynccontextmanager
async def cache(store: AsyncStorage, folder: Path) -> AsyncIterator[HttpApp]:
    for name, value in files(folder).items():
        meta = make_meta(b"application/octet-stream", content_etag(value), 0)
        await store.put(name, value, meta=meta)
    app = HttpApp()
    mount_cache_api(app, store)
    yield app


@asynccontextmanager
async def proxy(store: AsyncStorage, upstream: str) -> AsyncIterator[HttpApp]:
    from edgecache.proxy import Proxy, ProxyConfig

    door = Proxy(ProxyConfig.for_upstream(upstream), store)
    await door.start()
    app = HttpApp()
    app.mount(b"/", door)
    try:
        yield app
    finally:
        await door.stop()


class Echo(asyncio.Protocol):
    """Answers each read of the socket with the file that the first one asked for."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.answer:
            self.answer = self.answers[data.split()[1].rpartition(b"/")[2].decode("ascii")]
        self.transport.write(self.answer)


def rendered(value: bytes) -> bytes:
    etag = content_etag(value)
    facts = facts_of(make_meta(b"application/octet-stream", etag, 0))
    head = Response(200, entry_fields(facts, etag, len(value), "memory"), value).head
    return head + b"Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n" + value


async def serve(port: int, folder: Path, door: str, *upstream: str) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    if door == "echo":
        answers = {name: rendered(value) for name, value in files(folder).items()}
        listening = await loop.create_server(lambda: Echo(answers), "127.0.0.1", port)
        await stopped.wait()
        listening.close()
        return
    store = AsyncStorage(Config(memory="256MiB"))
    async with proxy(store, *upstream) if door == "proxy" else cache(store, folder) as app:
        server = HttpServer(app)
        await server.start([Listener(host="127.0.0.1", port=port)])
        await stopped.wait()
        await server.stop()
    await store.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
