"""The supervisor of workers: it starts them, restarts what dies, and speaks for all of them.

Each worker is a process of its own, started by exec, with one listening socket per address: the
kernel shares connections out among them (SO_REUSEPORT). The supervisor keeps all of these sockets
open, so what waits in the queue of a worker that dies is answered by the one that takes its place.
It has the same face as `plane.Plane`.

Invariants:

1. There is at most one process per slot, and it has the sockets of that slot.
2. A purge has reached what every worker has on its way before it is answered.
3. What a worker counted stays in the sums after its end, as of the last report.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgecache.errors import EdgeCacheError, StoreClosedError
from edgecache.server.link import Link, LinkError
from edgecache.server.plane import split_changes
from edgecache.server.sums import gone, http_numbers, http_sum, proxy_sum

if TYPE_CHECKING:
    from edgecache.aio import AsyncStorage
    from edgecache.api import PurgeOrder
    from edgecache.http.statistics import HttpStatistics
    from edgecache.proxy import ProxyReport
    from edgecache.server.settings import ServerSettings
    from edgecache.server.sockets import Kept, Listeners

READY_S = 120.0
REPORT_S = 5.0
RELOAD_S = 60.0
PURGE_S = 600.0
RESTART_S_MIN, RESTART_S_MAX = 0.1, 30.0
STEADY_S = 60.0  # a worker that lived so long begins with a short pause again
GRACE_S = 5.0  # beyond the time to drain

_log = logging.getLogger("edgecache.server")


class WorkerError(EdgeCacheError):
    """A worker could not start."""

    default_hint = "the lines above it in the log say why"


class Slot:
    """The place of one worker."""

    def __init__(self, number: int, handles: list[socket.socket]) -> None:
        self.number = number
        self.handles = handles
        self.process: asyncio.subprocess.Process | None = None
        self.link: Link | None = None
        self.is_ready = asyncio.Event()
        self.restart_count = 0
        self.failures_in_a_row = 0
        self.numbers: dict[str, Any] = {}

    @property
    def is_up(self) -> bool:
        """Whether its worker serves."""
        return self.process is not None and self.is_ready.is_set()


class Crew:
    """All workers of a server.

    Args:
        settings: Those in use.
        path, options: Where they came from: workers read them there.
        is_shared: Whether the workers share the cache; false only in tests of the supervisor.

    *Thread-safety*: belongs to one loop.
    """

    def __init__(
        self,
        settings: ServerSettings,
        path: str | None,
        options: Mapping[str, Any],
        is_shared: bool = True,
    ) -> None:
        self.settings = settings
        self._path = path
        self._options = dict(options)
        self._is_shared = is_shared
        self._slots: list[Slot] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._gone: list[dict[str, Any]] = []
        self._is_ending = False
        self._is_serving = False
        self._level: asyncio.Task[list[Any]] | None = None
        self._kept: Kept | None = None

    # Life

    def prepare(self) -> None:
        """Nothing: the workers read certificates and open logs."""

    async def start(self, store: AsyncStorage, listeners: Listeners) -> None:
        """Start all workers, and wait until they serve. The cache must be open.

        Raises:
            WorkerError: One of them cannot.
        """
        del store  # opened before any worker, so that recovery happens once
        loop = asyncio.get_running_loop()
        self._kept = listeners.keep()
        for number, handles in enumerate(self._kept.slots):
            slot = Slot(number, handles)
            self._slots.append(slot)
            await self._spawn(slot)
            keeper = loop.create_task(self._keep(slot))
            keeper.add_done_callback(_tell_failure)
            self._keepers.append(keeper)
        ready = loop.create_task(self._all_ready())
        ends = [loop.create_task(_end_of(slot)) for slot in self._slots]
        try:
            waits = {ready, *ends}
            await asyncio.wait(waits, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise WorkerError("a worker did not start")
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._is_serving = True

    async def _all_ready(self) -> None:
        for slot in self._slots:
            await slot.is_ready.wait()

    async def _spawn(self, slot: Slot) -> None:
        """Start the worker of a slot."""
        ours, theirs = socket.socketpair()
        facts = {
            "slot": slot.number,
            "link": theirs.fileno(),
            "handles": [each.fileno() for each in slot.handles],
            "path": self._path,
            "options": self._options,
            "shared": self._is_shared,
        }
        slot.is_ready.clear()
        slot.numbers = {}
        ours.setblocking(False)
        slot.link = Link(ours, _Ears(self, slot))
        await slot.link.open()
        with theirs:
            slot.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "edgecache.server.worker", json.dumps(facts)),
                pass_fds=[theirs.fileno(), *(each.fileno() for each in slot.handles)],
            )

    async def _keep(self, slot: Slot) -> None:
        """Put another worker in the place of one that ended."""
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            was_ready = await self._bury(slot)
            if self._is_ending or not (was_ready or self._is_serving):
                return
            if loop.time() - begun_s >= STEADY_S:
                slot.failures_in_a_row = 0
            while slot.process is None:
                pause_s = min(RESTART_S_MAX, RESTART_S_MIN * 2.0**slot.failures_in_a_row)
                slot.failures_in_a_row = min(slot.failures_in_a_row + 1, 16)
                _log.error("another worker %d begins in %g s", slot.number, pause_s)
                await asyncio.sleep(pause_s)  # cut short by `_end`, which cancels
                slot.restart_count += 1
                try:
                    await self._spawn(slot)
                except OSError as error:  # no memory, no processes: that passes
                    _log.error("worker %d cannot be started: %s", slot.number, error)

    async def _bury(self, slot: Slot) -> bool:
        """Wait for the end of a worker, and put its things in order; whether it had served."""
        assert slot.process is not None
        code = await slot.process.wait()
        slot.process = None
        was_ready = slot.is_ready.is_set()
        slot.is_ready.clear()
        if slot.link is not None:
            slot.link.close()
        if slot.numbers:
            self._gone.append(gone(slot.numbers))
            self._fold()
            slot.numbers = {}
        if not self._is_ending:
            _log.error("worker %d ended with %s", slot.number, _ending(code))
        return was_ready

    def _fold(self) -> None:
        """Keep the numbers of all that have ended as one."""
        http = [each["http"] for each in self._gone if "http" in each]
        proxy = [each["proxy"] for each in self._gone if "proxy" in each]
        left: dict[str, Any] = {}
        if http:
            left["http"] = http_numbers(http_sum(http))
        if proxy:
            left["proxy"] = asdict(proxy_sum(proxy))
        self._gone = [left]

    async def drain(self) -> None:
        """Let the requests of all workers end, and the workers with them."""
        if not self._is_serving:
            return
        self._end()
        if self._kept is not None:
            self._kept.close()  # what waits in a queue is refused, and asks elsewhere
        await self._tell_all("drain")
        await self._wait_gone(self.settings.drain_s + GRACE_S)

    async def cut_off(self) -> None:
        """End all connections now."""
        self._end()
        await self._tell_all("cut")

    async def close(self, is_drained: bool) -> None:
        """End what is left."""
        self._end()
        if not is_drained:
            await self._tell_all("cut")
            await self._wait_gone(GRACE_S)
        for slot in self._slots:
            if slot.process is not None:
                _log.error("worker %d does not end: killed", slot.number)
                slot.process.kill()
        for keeper in self._keepers:
            if any(slot.process is not None for slot in self._slots):
                await asyncio.wait({keeper}, timeout=GRACE_S)
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._kept is not None:
            self._kept.close()

    def close_log(self) -> None:
        """Nothing: the access log is the workers'."""

    def _end(self) -> None:
        """Put no worker in the place of another any more."""
        self._is_ending = True
        for slot, keeper in zip(self._slots, self._keepers, strict=False):
            if slot.process is None:
                keeper.cancel()

    async def _wait_gone(self, timeout_s: float) -> None:
        if self._keepers:
            await asyncio.wait(set(self._keepers), timeout=timeout_s)

    # Talking to workers

    def _up(self) -> list[tuple[Slot, Link]]:
        return [(slot, slot.link) for slot in self._slots if slot.is_up and slot.link is not None]

    async def _tell_all(self, op: str, timeout_s: float = REPORT_S, **facts: Any) -> list[Any]:
        """Ask all workers at once; the answers of those that gave one."""
        asked = [link.ask(op, timeout_s, **facts) for _, link in self._up()]
        found = await asyncio.gather(*asked, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, LinkError):
                raise each
        return [each for each in found if not isinstance(each, BaseException)]

    async def heard(self, slot: Slot, op: str, facts: dict[str, Any]) -> None:
        """A worker says something."""
        if op == "ready":
            slot.is_ready.set()
        elif op == "forget":
            others = [link for other, link in self._up() if other is not slot]
            asked = [link.ask("forget", REPORT_S, **facts) for link in others]
            # A worker that does not answer is about to end, with all that it had on its way.
            await asyncio.gather(*asked, return_exceptions=True)
        else:
            raise StoreClosedError(f"the supervisor cannot {op!r}", hint="restart the server")

    # As `Plane`

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered."""
        return self._is_serving

    async def refresh(self) -> None:
        """Ask all workers what they counted."""

        async def one(slot: Slot, link: Link) -> None:
            try:
                slot.numbers = await link.ask("report", REPORT_S)
            except LinkError as error:
                _log.warning("worker %d gives no report: %s", slot.number, error)

        await asyncio.gather(*(one(slot, link) for slot, link in self._up()))

    def _numbers(self, name: str) -> list[dict[str, Any]]:
        every = [*self._gone, *(slot.numbers for slot in self._slots)]
        return [each[name] for each in every if each.get(name) is not None]

    def statistics(self) -> HttpStatistics | None:
        """Return the sum of the counters, as of the last `refresh`."""
        return http_sum(self._numbers("http"))

    def report(self) -> ProxyReport | None:
        """Return the sum of the statistics of the proxies, as of the last `refresh`."""
        return proxy_sum(self._numbers("proxy"))

    def upstreams(self) -> dict[str, list[dict[str, Any]]]:
        """Return the state of every server of every group: the worst that a worker sees."""
        report = self.report()
        servers = {} if report is None else report.servers
        return {
            name: [
                {
                    "server": each.server,
                    "up": each.is_up,
                    "circuit": each.circuit,
                    "failures": each.failure_count,
                    "last_failure": each.last_failure,
                }
                for each in found
            ]
            for name, found in servers.items()
        }

    def troubles(self) -> Iterable[Mapping[str, str]]:
        """Yield what workers complain of, once, and a reason per worker that does not serve."""
        seen = {json.dumps(one) for slot in self._slots for one in slot.numbers.get("troubles", ())}
        for text in sorted(seen):
            yield json.loads(text)
        for slot in self._slots:
            if not slot.is_up:
                detail = f"worker {slot.number} is down; restarted {slot.restart_count} times"
                yield {"name": "worker", "detail": detail}

    def workers(self) -> list[tuple[int, bool, int]]:
        """Return number, whether it serves, and restarts of every worker."""
        return [(slot.number, slot.is_up, slot.restart_count) for slot in self._slots]

    async def purge(self, order: PurgeOrder) -> int:
        """Carry a purge out; the number of entries it met.

        Every worker does it, one after the other: the first finds what is stored, the others what
        they had on their way.
        """
        facts = asdict(order)
        for name in ("key", "prefix"):
            if facts[name] is not None:
                facts[name] = facts[name].decode("latin-1")
        found = self._up()
        if not found:
            raise StoreClosedError("no worker serves", hint="try again")
        count = 0
        for _, link in found:
            count += await link.ask("purge", PURGE_S, **facts)
        return count

    def set_log_level(self, level: str) -> None:
        """Have all workers log from a level on."""
        loop = asyncio.get_running_loop()
        self._level = loop.create_task(self._tell_all("level", level=level))

    async def apply(self, fresh: ServerSettings) -> None:
        """Have the workers read the settings again, one after the other.

        Raises:
            LinkError: The first one refused: nothing has changed.
        """
        live, fixed = split_changes(self.settings, fresh)
        for number, (slot, link) in enumerate(self._up()):
            try:
                await link.ask("reload", RELOAD_S)
            except LinkError as error:
                if number == 0:
                    raise
                _log.error("worker %d did not take the settings: %s", slot.number, error)
        logging.getLogger("edgecache").setLevel(fresh.log.level.upper())
        self.settings = self.settings.merged(fresh, live)
        if fixed:
            _log.warning("these settings change at the next start only: %s", ", ".join(fixed))
        _log.info("all workers have read the configuration again")


class _Ears:
    """What one worker says, and which one it is."""

    def __init__(self, crew: Crew, slot: Slot) -> None:
        self._crew = crew
        self._slot = slot

    async def __call__(self, op: str, facts: dict[str, Any]) -> None:
        await self._crew.heard(self._slot, op, facts)


def _tell_failure(task: asyncio.Task[None]) -> None:
    """A slot that nobody looks after any more is worth a line in the log."""
    if not task.cancelled() and task.exception() is not None:
        _log.critical("a worker is not replaced any more", exc_info=task.exception())


async def _end_of(slot: Slot) -> None:
    """Wait until the worker of a slot ends."""
    assert slot.process is not None
    await slot.process.wait()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class CrewCollector(Collector):
    """Exports the state of the workers."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        up = GaugeMetricFamily("edge_cache_worker_up", "1: it serves.", labels=["worker"])
        restarts = CounterMetricFamily(
            "edge_cache_worker_restarts", "Workers that ended unasked.", labels=["worker"]
        )
        for number, is_up, count in self._crew.workers():
            up.add_metric([str(number)], int(is_up))
            restarts.add_metric([str(number)], count)
        yield up
        yield restarts
