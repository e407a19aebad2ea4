"""The processes of `bench.http_sides`: a proxy, the origin behind both sides, an idle crowd.

    python -m bench.http_side_child origin PORT
    python -m bench.http_side_child proxy PORT ORIGIN_PORT MEMORY [ROOT]
    python -m bench.http_side_child idle PORT COUNT

The origin answers /size/N with N bytes that are fresh for an hour, /miss/... with 1 KiB that may
not be stored, /slow/... with 1 KiB after 300 ms, anything else with 1 KiB that is fresh for an
hour, and counts what it was asked under /count. The crowd opens connections, asks once on each,
says "ready" and keeps them until its input ends.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Awaitable

import uvloop

from edgecache import AsyncStorage, Config
from edgecache.http import HttpServer, Listener
from edgecache.http.limits import HttpLimits
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


async def serve(kind: str, port: int, *rest: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    listener = Listener(host="127.0.0.1", port=port, backlog=4096)
    # Nobody is turned away: that is not what is measured.
    limits = HttpLimits(connections_max=50_000, idle_timeout_s=600.0)
    if kind == "origin":
        server = HttpServer(Origin(), limits=limits)
        await server.start([listener])
        await stopped.wait()
        await server.stop()
        return
    origin_port, memory, *root = rest
    config = Config.from_dict({"memory": memory, **({"root": root[0]} if root else {})})
    async with AsyncStorage(config) as store:
        proxy = Proxy(ProxyConfig.for_upstream(f"http://127.0.0.1:{origin_port}"), store)
        await proxy.start()
        server = HttpServer(proxy, limits=limits, shows_time=True)  # as `serve` does
        await server.start([listener])
        gc.collect()
        gc.freeze()  # as `edgecache serve` does
        await stopped.wait()
        await server.stop()
        await proxy.stop()


def idle(port: int, count: int) -> None:
    """Hold connections that have had an answer each."""
    links = []
    for _ in range(count):
        link = socket.create_connection(("127.0.0.1", port))
        link.sendall(b"GET /size/1024 HTTP/1.1\r\nHost: bench\r\n\r\n")
        left = 1024
        while left > 0:  # the head is much shorter than what is read here at once
            data = link.recv(65536)
            if not data:
                raise ConnectionError("closed")
            left -= len(data)
        links.append(link)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "idle":
        idle(int(sys.argv[2]), int(sys.argv[3]))
    else:
        uvloop.run(serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
