"""The processes of `bench.http_proxy`: a proxy, and the origin behind both sides.

    python -m bench.http_proxy_child origin PORT
    python -m bench.http_proxy_child proxy PORT ORIGIN_PORT

The origin answers /size/N with N bytes that are fresh for an hour, /miss/... with 1 KiB that may
not be stored, and /slow/... with 1 KiB after 300 ms, and counts what it was asked under /count.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable

import uvloop

from edgecache import AsyncStorage, Config
from edgecache.http import HttpServer, Listener
from edgecache.http.request import Request
from edgecache.http.response import Response
from edgecache.proxy import Proxy, ProxyConfig

SLOW_S = 0.3
FRESH = (("Cache-Control", "max-age=3600"), ("Content-Type", "application/octet-stream"))
UNIQUE = (("Cache-Control", "no-store"), ("Content-Type", "application/octet-stream"))


class Origin:
    """The origin."""

    def __init__(self) -> None:
        self.count = 0
        self._bodies: dict[int, Response] = {}

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        target = request.target
        if target == b"/count":
            return Response(200, (("Cache-Control", "no-store"),), b"%d" % self.count)
        self.count += 1
        if target.startswith(b"/size/"):
            size = int(target[6:].partition(b"?")[0])
            if size not in self._bodies:
                self._bodies[size] = Response(200, FRESH, b"x" * size)
            return self._bodies[size]
        if target.startswith(b"/slow/"):
            return self.slow()
        return Response(200, UNIQUE if target.startswith(b"/miss/") else FRESH, b"x" * 1024)

    async def slow(self) -> Response:
        await asyncio.sleep(SLOW_S)
        return Response(200, FRESH, b"x" * 1024)


async def serve(kind: str, port: int, origin_port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    listener = Listener(host="127.0.0.1", port=port, backlog=4096)
    if kind == "origin":
        server = HttpServer(Origin())
        await server.start([listener])
        await stopped.wait()
        await server.stop()
        return
    async with AsyncStorage(Config(memory="256MiB")) as store:
        proxy = Proxy(ProxyConfig.for_upstream(f"http://127.0.0.1:{origin_port}"), store)
        await proxy.start()
        server = HttpServer(proxy)
        await server.start([listener])
        await stopped.wait()
        await server.stop()
        await proxy.stop()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0])))
