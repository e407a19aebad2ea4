"""The settings of upstreams: servers, time limits, health, circuits, pools.

All are frozen dataclasses that check themselves: what exists is usable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from edgecache.errors import ConfigError

BALANCES = ("round_robin", "least_busy", "rendezvous")
HOST_CHOICES = ("client", "server")

_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?")


def refuse(key: str, message: str, hint: str = "") -> ConfigError:
    """Return the error for a setting that is not usable."""
    return ConfigError(f"{key}: {message}", key=key, hint=hint)


def check_range(owner: str, target: Any, **limits: tuple[float, float]) -> None:
    """Check that numbers are numbers and within their limits.

    Raises:
        ConfigError: One is not; it names the setting.
    """
    for name, (low, high) in limits.items():
        value = getattr(target, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise refuse(f"{owner}.{name}", f"{value!r} is not a number")
        if not low <= value <= high:
            raise refuse(f"{owner}.{name}", f"{value} is not within {low} and {high}")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens.

    Args:
        host: A name or an address, without brackets.
        port: 1 to 65535.
        is_tls: Whether it speaks HTTPS.
    """

    host: str
    port: int
    is_tls: bool = False

    @classmethod
    def parse(cls, url: str, key: str = "servers") -> Server:
        """Read "http://host:port", "https://host" or "host:port".

        Raises:
            ConfigError: It is something else, or has a path, a query or credentials.
        """
        text = url if "://" in url else f"http://{url}"
        hint = 'write "http://host:port" or "https://host"'
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise refuse(key, f"{url!r}: {error}", hint) from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise refuse(key, f"{url!r} is no http or https URL with a host", hint)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise refuse(key, f"{url!r} has more than a host and a port", hint)
        if parts.path not in ("", "/"):
            raise refuse(key, f"{url!r} has a path", hint)
        host = parts.hostname
        if _HOST.fullmatch(f"[{host}]" if ":" in host else host) is None or port == 0:
            raise refuse(key, f"{url!r} has no usable host or port", hint)
        is_tls = parts.scheme == "https"
        return cls(host, port or (443 if is_tls else 80), is_tls)

    @property
    def authority(self) -> str:
        """What stands in a Host field for it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each phase of an exchange may take, in seconds.

    Args:
        connect_s: Name, TCP and TLS.
        send_s: The origin takes no byte of the request.
        first_byte_s: From the end of the request to the head of the answer.
        between_bytes_s: Between two reads of the body.
        total_s: The whole exchange.
    """

    connect_s: float = 5.0
    send_s: float = 30.0
    first_byte_s: float = 60.0
    between_bytes_s: float = 30.0
    total_s: float = 86_400.0

    def __post_init__(self) -> None:
        span = (0.001, 31_622_400.0)
        names = ("connect_s", "send_s", "first_byte_s", "between_bytes_s", "total_s")
        check_range("timeouts", self, **dict.fromkeys(names, span))


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Active health checks of each server.

    Args:
        path: Asked by GET; statuses below 400 are healthy.
        interval_s: Between two checks.
        timeout_s: Of one check.
        rise: Successes in a row until a server that was down is up.
        fall: Failures in a row until it is down.
    """

    path: str = "/"
    interval_s: float = 5.0
    timeout_s: float = 2.0
    rise: int = 2
    fall: int = 3

    def __post_init__(self) -> None:
        if not re.fullmatch(r"/[!-~]*", self.path):
            raise refuse("health.path", f"{self.path!r} is no path")
        check_range("health", self, interval_s=(0.01, 86_400), timeout_s=(0.01, 3_600))
        check_range("health", self, rise=(1, 1_000), fall=(1, 1_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When the circuit of a server opens by what its exchanges tell.

    Args:
        failure_count: Failures in a row that open it; 0: never.
        open_s: How long nothing is sent; then one exchange tries (half open).
    """

    failure_count: int = 5
    open_s: float = 5.0

    def __post_init__(self) -> None:
        check_range("breaker", self, failure_count=(0, 1_000_000), open_s=(0.001, 86_400))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """A group of servers that answer for the same content.

    Args:
        servers: URLs without a path.
        balance: "round_robin", "least_busy", or "rendezvous" (the same key to the same server:
            for parent caches).
        host: The Host field that they get: "client", "server", or an authority.
        connections_max: Open connections per server.
        idle_s: How long an unused connection is kept.
        retries: Further attempts of a safe request whose answer has not begun.
        retry_statuses: Answers that count as failures of the server, and are retried.
        tls_verify: Whether certificates must be valid.
        ca_file: Authorities to trust instead of those of the system.
        tls_name: The name that the certificate must have; None: the server's.
        timeouts, health, breaker: See there; health None: no active checks.
        head_bytes_max: Limit of the head of an answer.
        body_bytes_max: Limit of its body; None: none.
        transfer_coding: "strict" refuses unknown transfer codings, "lenient" ignores them.
    """

    servers: tuple[str, ...]
    balance: str = "round_robin"
    host: str = "client"
    connections_max: int = 256
    idle_s: float = 30.0
    retries: int = 1
    retry_statuses: frozenset[int] = frozenset()
    tls_verify: bool = True
    ca_file: str | None = None
    tls_name: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    health: HealthCheck | None = None
    breaker: Breaker = field(default_factory=Breaker)
    head_bytes_max: int = 64 << 10
    body_bytes_max: int | None = None
    transfer_coding: str = "strict"

    def __post_init__(self) -> None:
        given: object = self.servers
        if isinstance(given, str) or not given:
            raise refuse("upstream.servers", "needs at least one server")
        object.__setattr__(self, "servers", tuple(self.servers))
        for url in self.servers:
            Server.parse(url, "upstream.servers")
        if len(set(self.parsed)) != len(self.servers):
            raise refuse("upstream.servers", "a server is named twice")
        for name, kind in (("timeouts", Timeouts), ("breaker", Breaker)):
            if not isinstance(getattr(self, name), kind):
                raise refuse(f"upstream.{name}", f"is no {kind.__name__}")
        if self.balance not in BALANCES:
            raise refuse("upstream.balance", f"{self.balance!r} is none of {BALANCES}")
        if self.host not in HOST_CHOICES and not _AUTHORITY.fullmatch(self.host):
            raise refuse("upstream.host", f"{self.host!r} is no authority")
        if self.transfer_coding not in ("strict", "lenient"):
            raise refuse("upstream.transfer_coding", 'is "strict" or "lenient"')
        if any(not 400 <= status <= 599 for status in self.retry_statuses):
            raise refuse("upstream.retry_statuses", "only 400 to 599 tell of a failure")
        check_range("upstream", self, connections_max=(1, 65_535), idle_s=(0, 86_400))
        check_range("upstream", self, retries=(0, 100), head_bytes_max=(1 << 10, 1 << 20))
        if self.body_bytes_max is not None:
            check_range("upstream", self, body_bytes_max=(0, (1 << 63) - 1))

    @property
    def parsed(self) -> tuple[Server, ...]:
        """The servers."""
        return tuple(Server.parse(url) for url in self.servers)


_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicOrigins:
    """Origins that the client names by its Host field. Off unless configured.

    Args:
        hosts: Names that are allowed; "*.example.org" stands for all below it, "*" for every name.
        ports: Ports that are allowed.
        allow_private: Also connect to private, loopback, link-local and reserved addresses.
        servers_max: Origins remembered, with their connections.
        is_tls: Whether to speak HTTPS to them.
    """

    hosts: tuple[str, ...]
    ports: frozenset[int] = frozenset({80, 443})
    allow_private: bool = False
    servers_max: int = 1_024
    is_tls: bool = False

    def __post_init__(self) -> None:
        given: object = self.hosts
        if isinstance(given, str) or not given:
            raise refuse("dynamic.hosts", "needs at least one name or pattern")
        check_range("dynamic", self, servers_max=(1, 1_000_000))

    def allows(self, host: str, port: int) -> bool:
        """Say whether a client may name this origin; its address is judged after resolution."""
        host = host.lower().rstrip(".")
        if port not in self.ports:
            return False
        return any(
            pattern == "*"
            or pattern == host
            or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self.hosts
        )
