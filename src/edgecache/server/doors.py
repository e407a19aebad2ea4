"""The doors of a server: which requests go where, and what purges mean for each.

    /cache/ /sparse/ /stats /metrics /health /cluster    the cache API
    everything else                                      the proxy

With `api.host` the cache API answers on that host only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgecache.errors import ArgumentError
from edgecache.http.app import HttpApp
from edgecache.http.cache_api import TokenRule, mount_cache_api
from edgecache.proxy import Proxy, ProxyReport

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.api import PurgeOrder
    from edgecache.http.answering import Handler
    from edgecache.http.server import HttpServer
    from edgecache.server.settings import ServerSettings


class Doors:
    """The handlers of one configuration.

    Args:
        settings: The configuration.
        store: The cache; it stays open when the doors stop.

    *Thread-safety*: belongs to the loop that it is started on.
    """

    def __init__(self, settings: ServerSettings, store: AsyncStorage) -> None:
        self._store = store
        self._proxy = Proxy(settings.proxy.config(), store)
        self._stopping = asyncio.Lock()
        self.server: HttpServer | None = None
        self._app = HttpApp()
        if settings.serves_api:
            mount_cache_api(
                self._app,
                store,
                tokens=_rules(settings),
                statistics=lambda: None if self.server is None else self.server.statistics,
                host=None if settings.api.host is None else settings.api.host.encode(),
            )
        self._app.mount(b"/", self._proxy, name="proxy")

    @classmethod
    async def start(cls, settings: ServerSettings, store: AsyncStorage) -> Doors:
        """Make and start them."""
        doors = cls(settings, store)
        await doors._proxy.start()
        return doors

    @property
    def handler(self) -> Handler:
        """What answers requests."""
        return self._app

    async def stop(self, timeout_s: float) -> None:
        """Let fills and refreshes end for some time, then stop. Idempotent."""
        if timeout_s > 0:
            await self._proxy.drain(timeout_s)
        async with self._stopping:  # it may be asked for again while it waits
            await self._proxy.stop()

    # Observing

    def report(self) -> ProxyReport:
        """Return the statistics of the proxy."""
        return self._proxy.report()

    def upstreams(self) -> dict[str, list[dict[str, Any]]]:
        """Return the state of every server of every group."""
        return {
            name: [
                {
                    "server": each.server,
                    "up": each.is_up,
                    "circuit": each.circuit,
                    "failures": each.failure_count,
                    "last_failure": each.last_failure,
                }
                for each in servers
            ]
            for name, servers in self._proxy.report().servers.items()
        }

    def troubles(self) -> Iterable[Mapping[str, str]]:
        """Yield a reason per server that is down or whose circuit is not closed."""
        for name, servers in self._proxy.report().servers.items():
            for each in servers:
                if not each.is_up or each.circuit != "closed":
                    state = "down" if not each.is_up else f"circuit {each.circuit}"
                    yield {
                        "name": "upstream",
                        "detail": f"{name}: {each.server} is {state}"
                        + (f" ({each.last_failure})" if each.last_failure else ""),
                    }

    # Purges

    async def purge(self, order: PurgeOrder) -> int:
        """Carry an order out; the number of entries it met.

        Raises:
            ArgumentError: It names no target, or asks for a soft purge of what has none.
        """
        proxy, store = self._proxy, self._store
        if order.tag is not None:
            return await proxy.purge_tag(order.tag, order.soft)
        if order.url is not None:
            return await proxy.purge(order.url, order.soft)
        if order.key is not None:
            return await (self._expire(order.key) if order.soft else self._remove(order.key))
        if order.soft:
            raise ArgumentError(
                "a prefix, or everything, cannot be made stale at once",
                hint="purge softly by key, tag or URL",
            )
        if order.prefix is not None:
            return await store.delete_prefix(order.prefix)
        if not order.everything:
            raise ArgumentError("the purge names no target", hint="key, prefix, tag, url, or all")
        return await self._clear()

    async def _remove(self, key: bytes) -> int:
        return int(await self._store.delete(key))

    async def _expire(self, key: bytes) -> int:
        return int(await self._store.expire(key))

    async def _clear(self) -> int:
        """Remove everything: the proxy's responses are stopped on their way, too."""
        count = await self._proxy.purge_everything()
        count += await self._store.count_entries()
        await self._store.clear()
        return count


def _rules(settings: ServerSettings) -> list[TokenRule]:
    return [
        TokenRule(each.token, each.prefix.encode(), each.methods or None)
        for each in settings.api.tokens
    ]
