"""The data plane of one process: doors, listeners, certificates, access log; and their reload.

Invariants:

1. Settings that are not usable never replace ones that are: what can fail comes first in `apply`.
2. Requests go on with the doors that they began with; old doors end when their requests have.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from edgecache.errors import ConfigError, StoreClosedError
from edgecache.http.server import HttpServer, Listener
from edgecache.http.tls import TlsFiles
from edgecache.server.access_log import AccessLog
from edgecache.server.doors import Doors
from edgecache.server.settings import ServerSettings
from edgecache.server.sockets import refused

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.api import PurgeOrder
    from edgecache.http.statistics import HttpStatistics
    from edgecache.proxy import ProxyReport
    from edgecache.proxy.changes import Announce


class Listening(Protocol):
    """Sockets that are bound."""

    def take(self, tls: TlsFiles | None) -> list[Listener]:
        """Return them; they belong to who starts them."""


_log = logging.getLogger("edgecache.server")

# What a reload can change; the rest needs another process.
LIVE_SECTIONS = frozenset({"tls", "limits", "proxy", "api", "log", "drain_s"})


class Plane:
    """What answers clients in this process.

    Args:
        settings: Those in use.
        announce: Tells other processes what is purged here; None: there are none.

    *Thread-safety*: belongs to one loop.
    """

    def __init__(self, settings: ServerSettings, announce: Announce | None = None) -> None:
        self.settings = settings
        self._announce = announce
        self._store: AsyncStorage | None = None
        self._doors: Doors | None = None
        self._retired: list[Doors] = []
        self._tls: TlsFiles | None = None
        self._certificates_seen: tuple[int, ...] = ()
        self._access: AccessLog | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.server: HttpServer | None = None

    # Life

    def prepare(self) -> None:
        """Read certificates and open the access log, before anything else takes time.

        Raises:
            ConfigError: One of them is not usable.
        """
        settings = self.settings
        if settings.tls is not None:
            # Before they are read: what changes meanwhile is read again.
            self._certificates_seen = self._certificate_stamp()
            self._tls = TlsFiles(settings.tls.cert, settings.tls.key)
        if settings.log.access is not None:
            self._access = AccessLog(settings.log.access)

    async def start(self, store: AsyncStorage, listeners: Listening) -> None:
        """Serve.

        Raises:
            ListenError: An address cannot be used.
        """
        settings = self.settings
        self._store = store
        self._doors = await Doors.start(settings, store, self._announce)
        server = HttpServer(
            self._doors.handler,
            limits=settings.limits,
            on_answer=self._access,
            shows_time=settings.proxy.adds_total_time,
        )
        self._doors.server = server
        try:
            await server.start(listeners.take(self._tls))
        except OSError as error:
            raise refused(settings.addresses[-1], "listen", error) from error
        self.server = server
        # What there is now stays: the collector of cycles need not look at it again and again.
        gc.collect()
        gc.freeze()

    async def drain(self) -> None:
        """Let requests under way end, within the time that the settings give."""
        if self.server is None:
            return
        drain_s = self.settings.drain_s
        _log.info("draining: requests under way have %g s", drain_s)
        begin_s = time.monotonic()
        cut = await self.server.drain(drain_s)
        if cut:
            _log.warning("%d connections were cut off", cut)
        for doors in self._all_doors():
            await doors.stop(max(0.0, drain_s - (time.monotonic() - begin_s)))

    async def cut_off(self) -> None:
        """End everything now."""
        if self.server is not None:
            await self.server.stop()
        for doors in self._all_doors():
            await doors.stop(0.0)

    async def close(self, is_drained: bool) -> None:
        """Stop what is left. The store stays open."""
        for task in list(self._tasks):
            task.cancel()
        if self.server is not None and not is_drained:
            await self.server.stop()
        for doors in self._all_doors():
            await doors.stop(0.0)

    def close_log(self) -> None:
        """Close the access log, the last of all."""
        if self._access is not None:
            self._access.close()

    def _all_doors(self) -> list[Doors]:
        return [*self._retired, *([] if self._doors is None else [self._doors])]

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Observing

    async def refresh(self) -> None:
        """Bring in what other processes count: here there are none."""

    def statistics(self) -> HttpStatistics | None:
        """Return the counters of the data plane; None before it serves."""
        return None if self.server is None else self.server.statistics

    def report(self) -> ProxyReport | None:
        """Return the statistics of the proxy; None before it serves."""
        return None if self._doors is None else self._doors.report()

    def upstreams(self) -> dict[str, list[dict[str, Any]]]:
        """Return the state of every server of every group."""
        return {} if self._doors is None else self._doors.upstreams()

    def troubles(self) -> Iterable[Mapping[str, str]]:
        """Yield reasons for which the server is less than well."""
        return () if self._doors is None else self._doors.troubles()

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered."""
        return self.server is not None

    def set_log_level(self, level: str) -> None:
        """Tell other processes from which level on to log: here there are none."""

    async def purge(self, order: PurgeOrder) -> int:
        """Carry a purge out; the number of entries it met."""
        if self._doors is None:
            raise StoreClosedError("the cache is being opened", hint="try again")
        count = await self._doors.purge(order)
        for doors in self._retired:  # what they have on the way must not be published after it
            await doors.purge(order)
        return count

    def forget(self, kind: str, value: bytes | None) -> None:
        """Keep what is on its way from being published: another process purges it."""
        for doors in self._all_doors():
            doors.forget(kind, value)

    # Reload

    def look_at_certificates(self) -> None:
        """Read the certificates again if their files have changed."""
        stamp = self._certificate_stamp()
        if stamp != self._certificates_seen:
            self._certificates_seen = stamp
            self._reload_certificates()

    def _certificate_stamp(self) -> tuple[int, ...]:
        settings = self.settings.tls
        if settings is None:
            return ()
        stamps = []
        for name in (settings.cert, settings.key or settings.cert):
            try:
                found = os.stat(name)
            except OSError:
                return ()
            stamps += [found.st_mtime_ns, found.st_ino, found.st_size]
        return tuple(stamps)

    def _reload_certificates(self) -> None:
        if self._tls is None:
            return
        try:
            self._tls.reload()
        except ConfigError as error:
            _log.error("the certificates stay as they are: %s", error)
        else:
            _log.info("certificates read again")

    async def apply(self, fresh: ServerSettings) -> None:
        """Change over to other settings.

        Raises:
            EdgeCacheError, OSError: They are not usable; nothing has changed.
        """
        server, store = self.server, self._store
        if server is None or store is None:
            raise StoreClosedError("the cache is being opened", hint="try again")
        old = self.settings
        live, fixed = split_changes(old, fresh)
        access = self._access
        if fresh.log.access != old.log.access:
            access = None if fresh.log.access is None else AccessLog(fresh.log.access)
        doors: Doors | None = None
        try:
            if live & {"proxy", "api"}:
                doors = await Doors.start(old.merged(fresh, live), store, self._announce)
            if self._tls is not None and fresh.tls is not None:
                self._tls.move(fresh.tls.cert, fresh.tls.key)
        except BaseException:
            if access is not None and access is not self._access:
                access.close()
            if doors is not None:
                await doors.stop(0.0)
            raise
        if doors is not None:
            self._change_doors(doors, server)
        server.change(limits=fresh.limits)
        server.show_time(fresh.proxy.adds_total_time)
        logging.getLogger("edgecache").setLevel(fresh.log.level.upper())
        if access is not self._access:
            server.observe(access)
            before, self._access = self._access, access
            if before is not None:
                before.close()
        elif access is not None:
            access.reopen()
        self.settings = old.merged(fresh, live)
        if fixed:
            _log.warning("these settings change at the next start only: %s", ", ".join(fixed))
        _log.info("configuration read again; changed: %s", ", ".join(sorted(live)) or "nothing")

    def _change_doors(self, doors: Doors, server: HttpServer) -> None:
        old = self._doors
        doors.server = server
        self._doors = doors
        server.change(handler=doors.handler)
        if old is not None:
            self._retired.append(old)
            self._spawn(self._retire(old, server))

    async def _retire(self, doors: Doors, server: HttpServer) -> None:
        """Stop old doors when what they were answering has ended."""
        drain_s = self.settings.drain_s
        begin_s = time.monotonic()
        if not await server.settle(drain_s):
            _log.warning("requests that began before the reload are cut off after %g s", drain_s)
        await doors.stop(max(0.0, drain_s - (time.monotonic() - begin_s)))
        self._retired.remove(doors)


def split_changes(old: ServerSettings, fresh: ServerSettings) -> tuple[frozenset[str], list[str]]:
    """Return the names of the sections that differ: those that can change now, and the others."""
    changed = {
        each.name
        for each in dataclasses.fields(ServerSettings)
        if getattr(fresh, each.name) != getattr(old, each.name)
    }
    live = changed & LIVE_SECTIONS
    if (old.tls is None) != (fresh.tls is None):  # listeners do not begin to speak TLS
        live -= {"tls"}
    return frozenset(live), sorted(changed - live)
