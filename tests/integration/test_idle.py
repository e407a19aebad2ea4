"""A server that nobody asks anything has no timer that could wake it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from edgecache import AsyncStorage, Config
from edgecache.api import PurgeOrder
from edgecache.http.server import HttpServer, Listener
from edgecache.proxy import Proxy, ProxyConfig
from edgecache.server.admin import AdminListener
from edgecache.server.settings import Address


class Quiet:
    """A server with nothing in it."""

    store: Any = None
    is_draining = False
    registry = CollectorRegistry()

    def configuration(self) -> Mapping[str, Any]:
        return {}

    def http(self) -> Mapping[str, Any]:
        return {}

    async def health(self) -> Mapping[str, Any]:
        return {"status": "ok"}

    async def purge(self, order: PurgeOrder) -> int:
        return 0

    async def refresh(self) -> None:
        pass

    def set_log_level(self, level: str) -> None:
        pass


def timers() -> list[object]:
    """The timers of this loop that may still go off."""
    loop: Any = asyncio.get_running_loop()
    return [handle for handle in loop._scheduled if not handle.cancelled()]


async def settle() -> None:
    """Let everything run that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_admin_plane_sleeps_until_it_is_asked_and_still_knows_the_date() -> None:
    async def main() -> None:
        admin = AdminListener(Quiet(), None)
        await admin.start(Address("127.0.0.1", 0))
        await settle()
        assert timers() == []
        address: Any = admin.address
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{address[1]}/livez")
            assert answer.json() == {"status": "alive"}
            assert len(answer.headers.get_list("date")) == 1
            assert parsedate_to_datetime(answer.headers["date"]) is not None
        await admin.stop()

    asyncio.run(main())


def test_the_data_plane_has_no_timer_without_connections() -> None:
    async def main() -> None:
        async with AsyncStorage(Config(memory="16MiB", disk=0)) as store:
            proxy = Proxy(ProxyConfig.for_upstream("http://127.0.0.1:9"), store)
            await proxy.start()
            server = HttpServer(proxy)
            await server.start([Listener(host="127.0.0.1", port=0)])
            await settle()
            assert timers() == []
            address: Any = server.addresses[0]
            _, writer = await asyncio.open_connection("127.0.0.1", address[1])
            while not server.connections:
                await asyncio.sleep(0)
            writer.close()
            while server.connections:
                await asyncio.sleep(0)
            [tick] = timers()  # it finds nobody, and sets no other
            tick._run()  # type: ignore[attr-defined]
            tick.cancel()  # type: ignore[attr-defined]
            assert timers() == []
            await server.stop()
            await proxy.stop()

    asyncio.run(main())
