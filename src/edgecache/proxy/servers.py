"""What is known about one server of a group: its health, its circuit, its pool, its statistics.

The circuit has three states. Closed: exchanges flow. Open: after `failure_count` failures in a row
nothing is sent for `open_s`. Half open: one exchange tries; its success closes the circuit, its
failure opens it again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgecache.proxy.pool import Pool
from edgecache.proxy.settings import Breaker, HealthCheck, Server


class Circuit(enum.Enum):
    """State of a circuit."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What `/health` and the statistics show of a server.

    Args:
        server: "host:port".
        is_up: What the active checks say; true without them.
        circuit: "closed", "half-open" or "open".
        exchange_count, failure_count, retry_count: Since the start.
        open_connections, idle_connections: Now.
        connect_count, reuse_count: Connections made, and uses of one made before.
        last_failure: The last one, "" if there was none.
    """

    server: str
    is_up: bool
    circuit: str
    exchange_count: int
    failure_count: int
    retry_count: int
    open_connections: int
    idle_connections: int
    connect_count: int
    reuse_count: int
    last_failure: str


class ServerState:
    """A server as the balancer sees it.

    *Thread-safety*: belongs to one loop.
    """

    __slots__ = (
        "_breaker",
        "_check",
        "_checks_in_a_row",
        "_failures_in_a_row",
        "_is_trying",
        "_opened_s",
        "exchange_count",
        "failure_count",
        "is_up",
        "last_failure",
        "last_used_s",
        "pool",
        "retry_count",
        "seed",
        "server",
    )

    def __init__(
        self, server: Server, pool: Pool, breaker: Breaker, check: HealthCheck | None, seed: int
    ) -> None:
        self.server = server
        self.pool = pool
        self.seed = seed
        self._breaker = breaker
        self._check = check
        self._checks_in_a_row = 0
        self._failures_in_a_row = 0
        self._opened_s: float | None = None
        self._is_trying = False
        self.is_up = True
        self.exchange_count = 0
        self.failure_count = 0
        self.retry_count = 0
        self.last_failure = ""
        self.last_used_s = 0.0

    def circuit(self, now_s: float) -> Circuit:
        """Return the state of the circuit."""
        if self._opened_s is None:
            return Circuit.CLOSED
        if now_s - self._opened_s < self._breaker.open_s:
            return Circuit.OPEN
        return Circuit.HALF_OPEN

    def may_send(self, now_s: float) -> bool:
        """Say whether an exchange may begin."""
        if not self.is_up:
            return False
        circuit = self.circuit(now_s)
        return circuit is Circuit.CLOSED or (circuit is Circuit.HALF_OPEN and not self._is_trying)

    def begin(self, now_s: float) -> None:
        """An exchange begins."""
        self.exchange_count += 1
        self.last_used_s = now_s
        if self._opened_s is not None:
            self._is_trying = True

    def succeed(self) -> None:
        """The server answered."""
        self._failures_in_a_row = 0
        self._opened_s = None
        self._is_trying = False

    def fail(self, now_s: float, reason: str) -> None:
        """The server failed to answer."""
        self.failure_count += 1
        self._failures_in_a_row += 1
        self.last_failure = reason
        limit = self._breaker.failure_count
        if self._is_trying or (limit and self._failures_in_a_row >= limit):
            self._opened_s = now_s
        self._is_trying = False

    def give_up(self) -> None:
        """An exchange ended without telling anything about the server."""
        self._is_trying = False

    def checked(self, is_healthy: bool) -> None:
        """Take the result of an active check."""
        assert self._check is not None
        if is_healthy == self.is_up:
            self._checks_in_a_row = 0
            return
        self._checks_in_a_row += 1
        if self._checks_in_a_row >= (self._check.rise if is_healthy else self._check.fall):
            self.is_up = is_healthy
            self._checks_in_a_row = 0
            if is_healthy:
                self.succeed()

    def report(self, now_s: float) -> ServerReport:
        """Return what is known."""
        return ServerReport(
            server=str(self.server),
            is_up=self.is_up,
            circuit=self.circuit(now_s).value,
            exchange_count=self.exchange_count,
            failure_count=self.failure_count,
            retry_count=self.retry_count,
            open_connections=self.pool.open_count,
            idle_connections=self.pool.idle_count,
            connect_count=self.pool.connect_count,
            reuse_count=self.pool.reuse_count,
            last_failure=self.last_failure,
        )
