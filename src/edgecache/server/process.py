"""The life of the server process.

    addresses bound, certificates read -> admin plane up -> cache opened (recovery shows in
        /health) -> doors -> listening -> ready
    SIGHUP: configuration and certificates are read again, connections stay
    SIGTERM, SIGINT: drain; a second one cuts off what is left

Invariants:

1. The admin plane answers from before the cache is open until after the doors are drained.
2. A configuration that is not usable never replaces one that is: SIGHUP reports and goes on.
3. The cache is closed (flushed, checkpointed) on every way out but SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecache._version import __version__
from edgecache.aio import AsyncStorage
from edgecache.errors import ConfigError, EdgeCacheError, StoreClosedError
from edgecache.http.cache_api.observe import HttpCollector
from edgecache.http.server import HttpServer
from edgecache.http.tls import TlsFiles
from edgecache.server.access_log import AccessLog
from edgecache.server.admin import AdminListener
from edgecache.server.banner import print_banner
from edgecache.server.doors import Doors
from edgecache.server.loading import load_settings
from edgecache.server.metrics_door import MetricsDoor, ProxyCollector
from edgecache.server.notify import Notifier
from edgecache.server.settings import Address, ServerSettings
from edgecache.server.sockets import Listeners, refused

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from edgecache.api import PurgeOrder
    from edgecache.http.statistics import HttpStatistics
    from edgecache.proxy import ProxyReport

_log = logging.getLogger("edgecache.server")

# What a reload can change; the rest needs another process.
LIVE_SECTIONS = frozenset({"tls", "limits", "proxy", "api", "log", "drain_s"})
EXIT_FORCED = 1


def run(settings: ServerSettings, path: str | None, options: Mapping[str, Any]) -> int:
    """Serve until a signal says otherwise; the exit code: 1 when connections were cut off.

    Raises:
        EdgeCacheError, OSError: It cannot start.
    """
    import uvloop

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    process = ServerProcess(settings, path, options)
    return uvloop.run(process.main())


class ServerProcess:
    """One server: the cache, its doors, and the listeners (see `api.Control`)."""

    def __init__(
        self, settings: ServerSettings, path: str | None, options: Mapping[str, Any]
    ) -> None:
        from prometheus_client import CollectorRegistry

        self._settings = settings
        self._path = path
        self._options = options
        self._store: AsyncStorage | None = None
        self._recovery = (0, 0)
        self._is_draining = False
        self._stop = asyncio.Event()
        self._notifier = Notifier()
        self._registry = CollectorRegistry()
        self._doors: Doors | None = None
        self._tls: TlsFiles | None = None
        self._certificates_seen: tuple[int, ...] = ()
        self._access: AccessLog | None = None
        self._server: HttpServer | None = None
        self._metrics: HttpServer | None = None
        self._admin: AdminListener | None = None
        self._retired: list[Doors] = []
        self._reloading = asyncio.Lock()
        self._is_forced = False
        self._has_pid_file = False
        self._tasks: set[asyncio.Task[None]] = set()

    # Control

    @property
    def store(self) -> AsyncStorage | None:
        """The cache; None while it is being opened."""
        return self._store

    @property
    def registry(self) -> CollectorRegistry:
        """All metrics of the process."""
        return self._registry

    @property
    def is_draining(self) -> bool:
        """Whether the server stops."""
        return self._is_draining

    def configuration(self) -> Mapping[str, Any]:
        """Return the settings in use, without secrets."""
        return self._settings.redacted()

    def http(self) -> Mapping[str, Any]:
        """Return what the data plane counts."""
        statistics = self._statistics()
        return {} if statistics is None else statistics.as_dict()

    async def health(self) -> Mapping[str, Any]:
        """Judge the cache and the upstreams."""
        if self._store is None or self._doors is None:
            done, total = self._recovery
            return {"status": "starting", "recovery": {"done": done, "total": total}}
        report = (await self._store.health()).to_dict()
        reasons = [*report["reasons"], *self._doors.troubles()]
        status = report["status"]
        if status == "ok" and len(reasons) > len(report["reasons"]):
            status = "degraded"
        return {
            **report,
            "status": status,
            "reasons": reasons,
            "upstreams": self._doors.upstreams(),
            "draining": self._is_draining,
        }

    async def purge(self, order: PurgeOrder) -> int:
        """Carry a purge out; the number of entries it met."""
        if self._doors is None:
            raise StoreClosedError("the cache is being opened", hint="try again")
        count = await self._doors.purge(order)
        for doors in self._retired:  # what they have on the way must not be published after it
            await doors.purge(order)
        return count

    # Life

    async def main(self) -> int:
        """Run from start to end; the exit code.

        Raises:
            EdgeCacheError, OSError: It cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        logging.getLogger("edgecache").setLevel(self._settings.log.level.upper())
        try:
            await self._start()
            await self._stop.wait()
            self._notifier.stopping()
            if self._server is not None:
                await self._drain(self._server)
        finally:
            await self._close()
        return EXIT_FORCED if self._is_forced else 0

    async def _start(self) -> None:
        settings = self._settings
        listeners = Listeners(settings.addresses, "listen")
        metrics = Listeners((), "metrics.listen")
        try:
            if settings.metrics.listen is not None:
                address = Address.parse(settings.metrics.listen, "metrics.listen")
                metrics = Listeners((address,), "metrics.listen")
            if settings.tls is not None:
                # Before they are read: what changes meanwhile is read again.
                self._certificates_seen = self._certificate_stamp()
                self._tls = TlsFiles(settings.tls.cert, settings.tls.key)
            if settings.log.access is not None:
                self._access = AccessLog(settings.log.access)
            self._admin = await self._start_admin()
            self._store = await AsyncStorage.open(settings.cache, progress=self._note_recovery)
            if self._stop.is_set():
                return
            await self._start_doors(self._store, listeners, metrics)
        finally:
            listeners.close()
            metrics.close()
        if settings.pid_file is not None:
            write_pid(settings.pid_file)
            self._has_pid_file = True
        print_banner(settings, self._server, self._admin, self._metrics)
        self._notifier.ready()
        self._spawn(self._watch())

    async def _start_admin(self) -> AdminListener | None:
        settings = self._settings.admin
        if settings.listen is None:
            return None
        admin = AdminListener(self, settings.read_token())
        await admin.start(Address.parse(settings.listen, "admin.listen"))
        return admin

    def _note_recovery(self, done: int, total: int) -> None:
        self._recovery = (done, total)
        self._notifier.status(f"recovering: {done} of {total} regions")

    async def _start_doors(
        self, store: AsyncStorage, listeners: Listeners, metrics: Listeners
    ) -> None:
        settings = self._settings
        self._doors = await Doors.start(settings, store)
        await store.register_metrics(self._registry)
        server = HttpServer(self._doors.handler, limits=settings.limits, on_answer=self._access)
        self._doors.server = server
        try:
            await server.start(listeners.take(self._tls))
        except OSError as error:
            raise refused(settings.addresses[-1], "listen", error) from error
        self._server = server
        self._registry.register(HttpCollector(self._statistics))
        self._registry.register(ProxyCollector(self._report))
        if settings.metrics.listen is not None:
            address = Address.parse(settings.metrics.listen, "metrics.listen")
            door = HttpServer(MetricsDoor(self))
            try:
                await door.start(metrics.take(None))
            except OSError as error:
                raise refused(address, "metrics.listen", error) from error
            self._metrics = door

    def _statistics(self) -> HttpStatistics | None:
        return None if self._server is None else self._server.statistics

    def _report(self) -> ProxyReport | None:
        return None if self._doors is None else self._doors.report()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Give signs of life to the service manager; look after the certificate files."""
        watchdog_s = self._notifier.watchdog_s
        looked_s = time.monotonic()
        while True:
            settings = self._settings.tls
            tls_s = settings.watch_s if settings is not None and settings.watch_s else None
            waits = [each for each in (watchdog_s, tls_s) if each]
            if not waits:
                return
            await asyncio.sleep(min(waits))
            if watchdog_s:
                self._notifier.watchdog()
            if tls_s and time.monotonic() - looked_s >= tls_s * 0.9:
                looked_s = time.monotonic()
                stamp = self._certificate_stamp()
                if stamp != self._certificates_seen:
                    self._certificates_seen = stamp
                    self._reload_certificates()

    def _certificate_stamp(self) -> tuple[int, ...]:
        settings = self._settings.tls
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

    # Signals

    def _ask_to_stop(self, number: int) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._stop.set()
        elif self._server is None:
            _log.warning("second signal before the cache was open: ending at once")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self._is_forced:
            _log.warning("second signal: connections are cut off")
            self._is_forced = True
            self._spawn(self._cut_off(self._server))

    async def _cut_off(self, server: HttpServer) -> None:
        await server.stop()
        for doors in self._all_doors():
            await doors.stop(0.0)

    def _all_doors(self) -> list[Doors]:
        return [*self._retired, *([] if self._doors is None else [self._doors])]

    def _ask_to_reload(self) -> None:
        if not self._is_draining:
            self._spawn(self._reload())

    async def _reload(self) -> None:
        async with self._reloading:
            if self._server is None or self._store is None:
                _log.warning("not ready yet: the configuration is not read again")
                return
            self._notifier.reloading()
            try:
                fresh = load_settings(self._path, self._options)
                await self._apply(fresh, self._server, self._store)
            except (EdgeCacheError, OSError) as error:
                _log.error("the configuration stays as it is: %s", error)
            finally:
                self._notifier.ready()

    async def _apply(self, fresh: ServerSettings, server: HttpServer, store: AsyncStorage) -> None:
        """Change over to other settings; everything that can fail comes first."""
        old = self._settings
        live, fixed = split_changes(old, fresh)
        access = self._access
        if fresh.log.access != old.log.access:
            access = None if fresh.log.access is None else AccessLog(fresh.log.access)
        doors: Doors | None = None
        try:
            if live & {"proxy", "api"}:
                doors = await Doors.start(old.merged(fresh, live), store)
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
        logging.getLogger("edgecache").setLevel(fresh.log.level.upper())
        if access is not self._access:
            server.observe(access)
            before, self._access = self._access, access
            if before is not None:
                before.close()
        elif access is not None:
            access.reopen()
        self._settings = old.merged(fresh, live)
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
        drain_s = self._settings.drain_s
        begin_s = time.monotonic()
        if not await server.settle(drain_s):
            _log.warning("requests that began before the reload are cut off after %g s", drain_s)
        await doors.stop(max(0.0, drain_s - (time.monotonic() - begin_s)))
        self._retired.remove(doors)

    # End

    async def _drain(self, server: HttpServer) -> None:
        drain_s = self._settings.drain_s
        _log.info("draining: requests under way have %g s", drain_s)
        begin_s = time.monotonic()
        cut = await server.drain(drain_s)
        if cut:
            _log.warning("%d connections were cut off", cut)
        for doors in self._all_doors():
            await doors.stop(max(0.0, drain_s - (time.monotonic() - begin_s)))

    async def _close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None and not self._is_draining:
            await self._server.stop()
        for doors in self._all_doors():
            await doors.stop(0.0)
        if self._metrics is not None:
            await self._metrics.stop()
        if self._store is not None:
            await self._store.close()
        if self._admin is not None:
            await self._admin.stop()
        if self._access is not None:
            self._access.close()
        if self._has_pid_file and self._settings.pid_file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._settings.pid_file)
        _log.info("edgecache %s ended", __version__)


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


def write_pid(path: str) -> None:
    """Write the process id.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigError(
            f"the pid file cannot be written: {error.strerror}", key="pid_file", path=path
        ) from error
