"""The life of the server process.

    admin plane up -> cache opened (recovery shows in /health) -> doors -> listening -> ready
    SIGHUP: configuration and certificates are read again, connections stay
    SIGTERM, SIGINT: drain; a second one ends at once

Invariants:

1. The admin plane answers from before the cache is open until after the doors are drained.
2. A configuration that is not usable never replaces one that is: SIGHUP reports and goes on.
3. The cache is closed (flushed, checkpointed) on every way out but SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecache._version import __version__
from edgecache.aio import AsyncStorage
from edgecache.errors import ConfigError, EdgeCacheError
from edgecache.http.cache_api.observe import HttpCollector
from edgecache.http.server import HttpServer, Listener, activated_sockets
from edgecache.http.tls import TlsFiles
from edgecache.server.access_log import AccessLog
from edgecache.server.admin import AdminListener
from edgecache.server.banner import print_banner
from edgecache.server.doors import Doors
from edgecache.server.metrics_door import MetricsDoor, ProxyCollector
from edgecache.server.notify import Notifier
from edgecache.server.settings import Address, ServerSettings, load_settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from edgecache.api import PurgeOrder
    from edgecache.http.statistics import HttpStatistics
    from edgecache.proxy import ProxyReport

_log = logging.getLogger("edgecache.server")

# What a reload can change; the rest needs another process.
LIVE_SECTIONS = frozenset({"tls", "limits", "proxy", "api", "log", "drain_s"})


def run(settings: ServerSettings, path: str | None, options: Mapping[str, Any]) -> int:
    """Serve until a signal says otherwise; the exit code."""
    import uvloop

    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
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
        self._access: AccessLog | None = None
        self._server: HttpServer | None = None
        self._metrics: HttpServer | None = None
        self._reload_count = 0
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
        assert self._doors is not None
        return await self._doors.purge(order)

    # Life

    async def main(self) -> int:
        """Run from start to end; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        logging.getLogger("edgecache").setLevel(self._settings.log.level.upper())
        admin: AdminListener | None = None
        try:
            admin = await self._start_admin()
            await self._open_store()
            await self._start_doors()
            self._write_pid()
            self._notifier.ready()
            print_banner(self._settings, self._server, admin)
            self._spawn(self._watch())
            await self._stop.wait()
            self._notifier.stopping()
            await self._drain()
        except EdgeCacheError as error:
            _log.error("%s", error)
            return 2 if isinstance(error, ConfigError) else 1
        except OSError as error:
            _log.error("the server cannot start: %s", error)
            return 1
        finally:
            await self._close(admin)
        return 0

    async def _start_admin(self) -> AdminListener | None:
        settings = self._settings.admin
        if settings.listen is None:
            return None
        admin = AdminListener(self, settings.read_token())
        await admin.start(Address.parse(settings.listen, "admin.listen"))
        return admin

    async def _open_store(self) -> None:
        def note(done: int, total: int) -> None:
            self._recovery = (done, total)
            self._notifier.status(f"recovering: {done} of {total} regions")

        self._store = await AsyncStorage.open(self._settings.cache, progress=note)

    async def _start_doors(self) -> None:
        assert self._store is not None
        settings = self._settings
        if settings.log.access is not None:
            self._access = AccessLog(settings.log.access)
        if settings.tls is not None:
            self._tls = TlsFiles(settings.tls.cert, settings.tls.key)
        self._doors = await Doors.start(settings, self._store)
        await self._store.register_metrics(self._registry)
        self._server = HttpServer(
            self._doors.handler,
            limits=settings.limits,
            on_answer=self._access,
        )
        self._doors.server = self._server
        await self._server.start(_listeners(settings, self._tls))
        self._registry.register(HttpCollector(self._statistics))
        self._registry.register(ProxyCollector(self._report))
        if settings.metrics.listen is not None:
            address = Address.parse(settings.metrics.listen, "metrics.listen")
            self._metrics = HttpServer(MetricsDoor(self))
            await self._metrics.start([_listener(address, None)])

    def _statistics(self) -> HttpStatistics | None:
        return None if self._server is None else self._server.statistics

    def _report(self) -> ProxyReport | None:
        return None if self._doors is None else self._doors.report()

    def _write_pid(self) -> None:
        if self._settings.pid_file is not None:
            with open(self._settings.pid_file, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Give signs of life to the service manager; look after the certificate files."""
        settings = self._settings.tls
        watchdog_s = self._notifier.watchdog_s
        tls_s = settings.watch_s if settings is not None and settings.watch_s else None
        waits = [each for each in (watchdog_s, tls_s) if each]
        if not waits:
            return
        seen = self._certificate_stamp()
        while True:
            await asyncio.sleep(min(waits))
            if watchdog_s:
                self._notifier.watchdog()
            stamp = self._certificate_stamp()
            if tls_s and stamp != seen:
                seen = stamp
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

    def _ask_to_stop(self) -> None:
        if self._is_draining:
            _log.warning("second signal: ending at once")
            self._cut_off()
            return
        self._is_draining = True
        self._stop.set()

    def _cut_off(self) -> None:
        if self._server is not None:
            self._spawn(self._stop_server(self._server))

    async def _stop_server(self, server: HttpServer) -> None:
        await server.stop()

    def _ask_to_reload(self) -> None:
        if not self._is_draining:
            self._spawn(self._reload())

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            fresh = load_settings(self._path, self._options)
            changed = [
                name
                for name in ServerSettings.__dataclass_fields__
                if getattr(fresh, name) != getattr(self._settings, name)
            ]
            fixed = sorted(set(changed) - LIVE_SECTIONS)
            if fixed:
                _log.warning("these settings change at the next start only: %s", ", ".join(fixed))
            await self._apply(fresh, set(changed))
            self._reload_count += 1
            _log.info("configuration read again; changed: %s", ", ".join(changed) or "nothing")
        except (EdgeCacheError, OSError) as error:
            _log.error("the configuration stays as it is: %s", error)
        finally:
            self._notifier.ready()

    async def _apply(self, fresh: ServerSettings, changed: set[str]) -> None:
        assert self._doors is not None
        assert self._server is not None
        if changed & {"proxy", "api"}:
            old = self._doors
            assert self._store is not None
            self._doors = await Doors.start(fresh, self._store)
            self._doors.server = self._server
            self._server.change(handler=self._doors.handler)
            self._spawn(old.stop(self._settings.drain_s))
        if "limits" in changed:
            self._server.change(limits=fresh.limits)
        if "log" in changed:
            logging.getLogger("edgecache").setLevel(fresh.log.level.upper())
        if self._access is not None:
            self._access.reopen()
        self._reload_certificates()
        self._settings = self._settings.merged(fresh, LIVE_SECTIONS)

    # End

    async def _drain(self) -> None:
        assert self._server is not None
        _log.info("draining: requests under way have %g s", self._settings.drain_s)
        cut = await self._server.drain(self._settings.drain_s)
        if cut:
            _log.warning("%d connections were cut off", cut)

    async def _close(self, admin: AdminListener | None) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None and not self._is_draining:
            await self._server.stop()
        if self._doors is not None:
            await self._doors.stop(0.0)
        if self._metrics is not None:
            await self._metrics.stop()
        if self._store is not None:
            await self._store.close()
        if admin is not None:
            await admin.stop()
        if self._access is not None:
            self._access.close()
        if self._settings.pid_file is not None:
            try:
                os.unlink(self._settings.pid_file)
            except OSError:
                pass
        _log.info("edgecache %s ended", __version__)


def _listener(address: Address, tls: TlsFiles | None) -> Listener:
    if address.path is not None:
        return Listener(path=address.path, tls=tls)
    return Listener(host=address.host, port=address.port, tls=tls)


def _listeners(settings: ServerSettings, tls: TlsFiles | None) -> list[Listener]:
    found = []
    for address in settings.addresses:
        if not address.is_activated:
            found.append(_listener(address, tls))
            continue
        handles = activated_sockets()
        if not handles:
            raise ConfigError(
                "listen: systemd passed no sockets",
                key="listen",
                hint="start it from a socket unit, or name an address",
            )
        found += [Listener(handle=handle, tls=tls) for handle in handles]
    return found
