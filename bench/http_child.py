"""The serving process of `bench.http_api`: a cache API whose entries are the files of a folder."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from edgecache import AsyncStorage, Config
from edgecache.http import HttpApp, HttpServer, Listener, mount_cache_api
from edgecache.http.cache_api.stored import content_etag, make_meta


async def serve(port: int, folder: Path) -> None:
    store = AsyncStorage(Config(memory="256MiB"))
    for path in folder.iterdir():
        if path.name.isdigit():
            value = path.read_bytes()
            meta = make_meta(b"application/octet-stream", content_etag(value), 0)
            await store.put(path.name, value, meta=meta)
    app = HttpApp()
    mount_cache_api(app, store, statistics=lambda: server.statistics)
    server = HttpServer(app)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await server.start([Listener(host="127.0.0.1", port=port)])
    await stopped.wait()
    await server.stop()
    await store.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
