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
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecache._version import __version__
from edgecache.aio import AsyncStorage
from edgecache.errors import ConfigError, EdgeCacheError
from edgecache.http.cache_api.observe import HttpCollector
from edgecache.http.server import HttpServer
from edgecache.server.admin import AdminListener
from edgecache.server.banner import print_banner
from edgecache.server.crew import Crew, CrewCollector
from edgecache.server.loading import load_settings
from edgecache.server.metrics_door import MetricsDoor, ProxyCollector
from edgecache.server.notify import Notifier
from edgecache.server.plane import Plane
from edgecache.server.settings import Address, ServerSettings
from edgecache.server.sockets import Listeners, refused

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from edgecache.api import PurgeOrder

_log = logging.getLogger("edgecache.server")

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
        self._is_drained = False
        self._stop = asyncio.Event()
        self._notifier = Notifier()
        self._registry = CollectorRegistry()
        self._plane: Plane | Crew = (
            Plane(settings) if settings.workers == 1 else Crew(settings, path, options)
        )
        self._metrics: HttpServer | None = None
        self._admin: AdminListener | None = None
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
        return self._plane.settings.redacted()

    def set_log_level(self, level: str) -> None:
        """Log from a level on, in all processes."""
        logging.getLogger("edgecache").setLevel(level.upper())
        self._plane.set_log_level(level)

    async def refresh(self) -> None:
        """Bring in what other processes count."""
        await self._plane.refresh()

    def http(self) -> Mapping[str, Any]:
        """Return what the data plane counts."""
        statistics = self._plane.statistics()
        return {} if statistics is None else statistics.as_dict()

    async def health(self) -> Mapping[str, Any]:
        """Judge the cache, the workers and the upstreams."""
        if self._store is None or not self._plane.is_serving:
            done, total = self._recovery
            return {"status": "starting", "recovery": {"done": done, "total": total}}
        await self._plane.refresh()
        report = (await self._store.health()).to_dict()
        reasons = [*report["reasons"], *self._plane.troubles()]
        status = report["status"]
        if status == "ok" and len(reasons) > len(report["reasons"]):
            status = "degraded"
        return {
            **report,
            "status": status,
            "reasons": reasons,
            "upstreams": self._plane.upstreams(),
            "draining": self._is_draining,
        }

    async def purge(self, order: PurgeOrder) -> int:
        """Carry a purge out; the number of entries it met."""
        return await self._plane.purge(order)

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
            await self._plane.drain()
            self._is_drained = True
        finally:
            await self._close()
        return EXIT_FORCED if self._is_forced else 0

    async def _start(self) -> None:
        settings = self._settings
        listeners = Listeners(settings.addresses, "listen", settings.workers)
        metrics = Listeners((), "metrics.listen")
        try:
            if settings.metrics.listen is not None:
                address = Address.parse(settings.metrics.listen, "metrics.listen")
                metrics = Listeners((address,), "metrics.listen")
            self._plane.prepare()
            self._admin = await self._start_admin()
            self._store = await AsyncStorage.open(settings.cache, progress=self._note_recovery)
            if self._stop.is_set():
                return
            await self._plane.start(self._store, listeners)
            addresses = listeners.addresses
            await self._start_metrics(self._store, metrics)
        finally:
            listeners.close()
            metrics.close()
        if settings.pid_file is not None:
            write_pid(settings.pid_file)
            self._has_pid_file = True
        print_banner(settings, addresses, self._admin, self._metrics)
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

    async def _start_metrics(self, store: AsyncStorage, metrics: Listeners) -> None:
        settings = self._settings
        await store.register_metrics(self._registry)
        self._registry.register(HttpCollector(self._plane.statistics))
        self._registry.register(ProxyCollector(self._plane.report))
        if isinstance(self._plane, Crew):
            self._registry.register(CrewCollector(self._plane))
        if settings.metrics.listen is not None:
            address = Address.parse(settings.metrics.listen, "metrics.listen")
            door = HttpServer(MetricsDoor(self))
            try:
                await door.start(metrics.take(None))
            except OSError as error:
                raise refused(address, "metrics.listen", error) from error
            self._metrics = door

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Give signs of life to the service manager; look after the certificate files."""
        watchdog_s = self._notifier.watchdog_s
        looked_s = time.monotonic()
        while True:
            settings = self._plane.settings.tls if isinstance(self._plane, Plane) else None
            tls_s = settings.watch_s if settings is not None and settings.watch_s else None
            waits = [each for each in (watchdog_s, tls_s) if each]
            if not waits:
                return
            await asyncio.sleep(min(waits))
            if watchdog_s:
                self._notifier.watchdog()
            if tls_s and time.monotonic() - looked_s >= tls_s * 0.9:
                looked_s = time.monotonic()
                assert isinstance(self._plane, Plane)
                self._plane.look_at_certificates()

    # Signals

    def _ask_to_stop(self, number: int) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._stop.set()
        elif not self._plane.is_serving:
            _log.warning("second signal before the cache was open: ending at once")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self._is_forced:
            _log.warning("second signal: connections are cut off")
            self._is_forced = True
            self._spawn(self._plane.cut_off())

    def _ask_to_reload(self) -> None:
        if not self._is_draining:
            self._spawn(self._reload())

    async def _reload(self) -> None:
        async with self._reloading:
            if not self._plane.is_serving:
                _log.warning("not ready yet: the configuration is not read again")
                return
            self._notifier.reloading()
            try:
                await self._plane.apply(load_settings(self._path, self._options))
            except (EdgeCacheError, OSError) as error:
                _log.error("the configuration stays as it is: %s", error)
            finally:
                self._notifier.ready()

    # End

    async def _close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self._plane.close(self._is_drained)
        if self._metrics is not None:
            await self._metrics.stop()
        if self._store is not None:
            await self._store.close()
        if self._admin is not None:
            await self._admin.stop()
        self._plane.close_log()
        if self._has_pid_file and self._settings.pid_file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._settings.pid_file)
        _log.info("edgecache %s ended", __version__)


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
