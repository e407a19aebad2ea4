"""A worker: one of several processes that answer clients from one shared cache.

    python -m edgecache.server.worker '{"slot": 0, "link": 5, "handles": [6], ...}'

The supervisor (`crew.py`) starts it, with its listening sockets and one end of a link. It opens the
same cache, serves, and does what the supervisor asks. When the link ends, the supervisor has gone:
it drains and ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from typing import Any

from edgecache.aio import AsyncStorage
from edgecache.api import PurgeOrder
from edgecache.errors import EdgeCacheError, StoreClosedError
from edgecache.http.server import Listener
from edgecache.http.tls import TlsFiles
from edgecache.server.link import Link
from edgecache.server.loading import load_settings
from edgecache.server.plane import Plane
from edgecache.server.settings import ServerSettings, for_worker
from edgecache.server.sums import http_numbers, proxy_numbers

_log = logging.getLogger("edgecache.server")


class Passed:
    """Listening sockets that the supervisor passed, as `sockets.Listeners`."""

    def __init__(self, descriptors: list[int]) -> None:
        self._handles = [socket.socket(fileno=each) for each in descriptors]

    def take(self, tls: TlsFiles | None) -> list[Listener]:
        """Return the listeners; the sockets belong to who starts them."""
        handles, self._handles = self._handles, []
        return [Listener(handle=handle, tls=tls) for handle in handles]


class Worker:
    """The life of a worker.

    Args:
        facts: What the supervisor said.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._path: str | None = facts["path"]
        self._options: dict[str, Any] = facts["options"]
        self._is_shared: bool = facts["shared"]
        self._passed = Passed(facts["handles"])
        self._link = Link(socket.socket(fileno=facts["link"]), self._serve)
        self._plane = Plane(self._load(), self._announce)
        self._stop = asyncio.Event()

    def _load(self) -> ServerSettings:
        return for_worker(load_settings(self._path, self._options), self._is_shared)

    async def main(self) -> None:
        """Serve until the supervisor says otherwise, or has gone.

        Raises:
            EdgeCacheError, OSError: It cannot start.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal: the supervisor's to judge
            signal.signal(number, signal.SIG_IGN)
        settings = self._plane.settings
        logging.getLogger("edgecache").setLevel(settings.log.level.upper())
        await self._link.open()
        self._plane.prepare()
        is_drained = False
        store = await AsyncStorage.open(settings.cache)
        watch = loop.create_task(self._watch())
        try:
            await self._plane.start(store, self._passed)
            await self._link.ask("ready")
            await self._stop.wait()
            await self._plane.drain()
            is_drained = True
        finally:
            watch.cancel()
            await self._plane.close(is_drained)
            await store.close()
            self._plane.close_log()
            self._link.close()

    async def _watch(self) -> None:
        """End when the supervisor has; look after the certificate files."""
        while True:
            settings = self._plane.settings.tls
            wait_s = settings.watch_s if settings is not None and settings.watch_s else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._link.closed.wait()
            except TimeoutError:
                self._plane.look_at_certificates()
                continue
            self._stop.set()
            return

    async def _announce(self, kind: str, value: bytes | None) -> None:
        """Tell the other workers, through the supervisor."""
        text = None if value is None else value.decode("latin-1")
        await self._link.ask("forget", kind=kind, value=text)

    # What the supervisor asks

    async def _serve(self, op: str, facts: dict[str, Any]) -> Any:
        plane = self._plane
        if op == "report":
            statistics, report = plane.statistics(), plane.report()
            return {
                "http": None if statistics is None else http_numbers(statistics),
                "proxy": None if report is None else proxy_numbers(report),
                "upstreams": plane.upstreams(),
                "troubles": [dict(each) for each in plane.troubles()],
            }
        if op == "purge":
            order = {name: facts[name] for name in ("prefix", "tag", "url", "everything", "soft")}
            for name in ("key", "prefix"):
                value = facts[name]
                order[name] = None if value is None else value.encode("latin-1")
            return await plane.purge(PurgeOrder(**order))
        if op == "forget":
            value = facts["value"]
            plane.forget(facts["kind"], None if value is None else value.encode("latin-1"))
        elif op == "reload":
            await plane.apply(self._load())
        elif op == "level":
            logging.getLogger("edgecache").setLevel(facts["level"].upper())
        elif op == "drain":
            self._stop.set()
        elif op == "cut":
            self._stop.set()
            await plane.cut_off()
        else:
            raise StoreClosedError(f"a worker cannot {op!r}", hint="restart the server")
        return None


def main() -> int:
    """Run a worker; the exit code."""
    import uvloop

    facts = json.loads(sys.argv[1])
    name = f"%(asctime)s %(levelname)s %(name)s[{facts['slot']}]: %(message)s"
    logging.basicConfig(stream=sys.stderr, format=name)

    async def serve() -> None:
        await Worker(facts).main()

    try:
        uvloop.run(serve())
    except (EdgeCacheError, OSError) as error:
        _log.error("the worker cannot serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
