"""The configuration of the server: one section per part, one dataclass per section.

    cache: {memory: 1GiB, disk: 100GiB, root: /var/cache/edgecache}
    listen: ["127.0.0.1:8080"]
    proxy: {upstream: ["http://127.0.0.1:3000"]}

docs/serve.md lists every key; a test compares it with this file. `loading` reads them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecache.config import Config
from edgecache.errors import ConfigError
from edgecache.http.limits import HttpLimits
from edgecache.proxy import (
    Collapsing,
    DynamicOrigins,
    ProxyConfig,
    PurgeAccess,
    Route,
    UpstreamConfig,
)
from edgecache.proxy.config import DEMO, DYNAMIC
from edgecache.proxy.forwarding import Network

LISTEN = "127.0.0.1:8080"
ADMIN_LISTEN = "127.0.0.1:14000"
METRICS_LISTEN = "127.0.0.1:6192"
LEVELS = ("debug", "info", "warning", "error", "critical")
SECRET = "***"
DRAIN_S_MAX = 3600.0
WATCH_S_MAX = 86_400.0
WORKERS_MAX = 64

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:/]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Args:
        host: A name or an address; None for a Unix socket or an activated one.
        port: 0 to 65535; 0: any free one.
        path: Of a Unix socket.
        is_activated: The sockets that the service manager passed.
    """

    host: str | None
    port: int = 0
    path: str | None = None
    is_activated: bool = False

    @classmethod
    def parse(cls, text: str, key: str) -> Address:
        """Read "host:port", "[::1]:port", "unix:/path" or "systemd".

        Raises:
            ConfigError: It is something else.
        """
        if text == "systemd":
            return cls(None, is_activated=True)
        if text.startswith("unix:") and len(text) > 5:
            return cls(None, path=text[5:])
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ConfigError(
                f"{key}: {text!r} is no address",
                key=key,
                hint='write "127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock" or "systemd"',
            )
        return cls(match["six"] or match["host"], int(match["port"]))

    def not_activated(self, key: str) -> Address:
        """Return it, unless it stands for the sockets of the service manager.

        Raises:
            ConfigError: It does; only `listen` takes them.
        """
        if self.is_activated:
            raise ConfigError(
                "only `listen` takes the sockets of the service manager",
                key=key,
                hint='write an address, as "127.0.0.1:14000"',
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.is_activated:
            return "systemd"
        if self.path is not None:
            return f"unix:{self.path}"
        return (
            f"[{self.host}]:{self.port}" if ":" in (self.host or "") else f"{self.host}:{self.port}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSettings:
    """The admin plane.

    Args:
        listen: Its address; None: no admin plane.
        token: What clients must send as Bearer; needed when it is not on the loopback.
        token_file: A file that holds the token instead.
    """

    listen: str | None = ADMIN_LISTEN
    token: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if self.listen is None:
            return
        address = Address.parse(self.listen, "admin.listen").not_activated("admin.listen")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token and token_file: give one of them", key="admin.token_file")
        if self.token is not None and not re.fullmatch(r"[!-~]{8,512}", self.token):
            raise ConfigError(
                "the admin token is too short or not printable",
                key="admin.token",
                hint="use 8 to 512 printable characters without spaces",
            )
        if not address.is_loopback and self.token is None and self.token_file is None:
            raise ConfigError(
                f"{self.listen} can be reached by others, and the admin plane has no token",
                key="admin.listen",
                hint="set admin.token or admin.token_file, or listen on 127.0.0.1",
            )

    def read_token(self) -> str | None:
        """Return the token in use.

        Raises:
            ConfigError: The file cannot be read, or holds no usable token.
        """
        if self.token_file is None:
            return self.token
        try:
            with open(self.token_file, encoding="ascii") as file:
                token = file.read(1024).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the token file cannot be read: {error}", key="admin.token_file"
            ) from error
        return AdminSettings(listen=self.listen, token=token).token


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """The metrics listener.

    Args:
        listen: Its address; None: metrics are on the admin listener only.
    """

    listen: str | None = METRICS_LISTEN

    def __post_init__(self) -> None:
        if self.listen is not None:
            Address.parse(self.listen, "metrics.listen").not_activated("metrics.listen")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates of the listeners in `listen`.

    Args:
        cert: PEM file of the chain.
        key: PEM file of the key; None: in the same file.
        watch_s: How often the files are looked at for a change; 0: on SIGHUP only. Seconds.
    """

    cert: str
    key: str | None = None
    watch_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.watch_s <= WATCH_S_MAX:
            raise ConfigError(f"{self.watch_s:g} s is not within 0 and 1 day", key="tls.watch_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, to stderr.

    Args:
        level: debug, info, warning, error or critical.
        access: A file for one JSON line per request, "-" for stdout; None: none.
    """

    level: str = "info"
    access: str | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ConfigError(
                f"{self.level!r} is no level", key="log.level", hint=f"one of {', '.join(LEVELS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """What one token of the cache API permits.

    Args:
        token: The secret.
        prefix: Of the resource, as "/cache/tenant1/".
        methods: None named: all.
    """

    token: str
    prefix: str = "/"
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]{8,512}", self.token):
            raise ConfigError(
                "a token is too short or not printable",
                key="api.tokens",
                hint="use 8 to 512 printable characters without spaces",
            )
        if not self.prefix.startswith("/"):
            raise ConfigError(f"the prefix {self.prefix!r} does not begin with /", key="api.tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The cache API.

    Args:
        enabled: None: unless others can reach a listener and there are no tokens.
        host: Answer on this host (with its port, as in the Host field) only.
        tokens: Who may do what; none: everybody everything.
    """

    enabled: bool | None = None
    host: str | None = None
    tokens: tuple[TokenSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The reverse proxy: all keys of `ProxyConfig`, and a short form for one group of servers.

    Args:
        upstream: URLs of the servers; with neither these nor `upstreams`, `routes` or `dynamic`
            the demo origin answers.
        profile: "safe", or "rfc": the letter where it is unsafe in practice.
        upstreams, routes, dynamic, ...: As in `ProxyConfig` (docs/proxy.md).
    """

    upstream: tuple[str, ...] = ()
    profile: str = "safe"
    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    dynamic: DynamicOrigins | None = None
    name: str = "edgecache"
    purge: PurgeAccess = field(default_factory=PurgeAccess)
    collapsing: Collapsing = field(default_factory=Collapsing)
    trusted_proxies: tuple[Network, ...] = ()
    adds_forwarded: bool = True
    adds_via: bool = True
    adds_cache_status: bool = True
    adds_status_word: bool = True
    adds_total_time: bool = True
    shows_key: bool = False
    keep_stale_s: int = 7 * 86_400
    variants_max: int = 64
    memo_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        self.config()

    @property
    def is_demo(self) -> bool:
        """Whether the demo origin answers."""
        return not (self.upstream or self.upstreams or self.routes or self.dynamic)

    def config(self) -> ProxyConfig:
        """Return it as the proxy takes it.

        Raises:
            ConfigError: It is not usable.
        """
        values = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(ProxyConfig)
            if each.name in {own.name for own in dataclasses.fields(self)}
        }
        upstreams = dict(self.upstreams)
        routes = self.routes
        if self.upstream:
            coding = "lenient" if self.profile == "rfc" else "strict"
            try:
                group = UpstreamConfig(servers=self.upstream, transfer_coding=coding)
            except ConfigError as error:
                text = error.message.removeprefix(f"{error.key}: ")
                raise ConfigError(text, key="proxy.upstream", hint=error.hint) from None
            upstreams["default"] = group
        if not routes:
            name = "default" if self.upstream else next(iter(upstreams), DEMO)
            if self.dynamic is not None and not upstreams:
                name = DYNAMIC
            routes = (Route(upstream=name),)
        return ProxyConfig(**{**values, "upstreams": upstreams, "routes": routes})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All settings of `edgecache serve`.

    Args:
        cache: The cache itself: docs/configuration.md.
        listen: Addresses of the cache API and the proxy.
        admin, metrics, tls, limits, proxy, api, log: The sections.
        workers: Processes.
        drain_s: How long requests may run on when the server stops. Seconds.
        pid_file: Where the process id is written.
    """

    cache: Config
    listen: tuple[str, ...] = (LISTEN,)
    admin: AdminSettings = field(default_factory=AdminSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    tls: TlsSettings | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    api: ApiSettings = field(default_factory=ApiSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    log: LogSettings = field(default_factory=LogSettings)
    workers: int = 1
    drain_s: float = 30.0
    pid_file: str | None = None

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError("listen: needs at least one address", key="listen")
        for text in self.listen:
            Address.parse(text, "listen")
        if len(set(self.listen)) != len(self.listen):
            raise ConfigError("listen: an address is named twice", key="listen")
        if not 0 <= self.drain_s <= DRAIN_S_MAX:
            raise ConfigError(f"{self.drain_s:g} s is not within 0 and 1 h", key="drain_s")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(
                f"{self.workers} is not within 1 and {WORKERS_MAX}",
                key="workers",
                hint="use workers: 1, or as many as there are CPUs",
            )
        if self.workers > 1:
            object.__setattr__(self, "cache", shared_cache(self.cache, self.workers))

    @property
    def is_demo(self) -> bool:
        """Whether the proxy answers from the demo origin."""
        return self.proxy.is_demo

    @property
    def serves_api(self) -> bool:
        """Whether there is a cache API: not where strangers could write without a token."""
        if self.api.enabled is not None:
            return self.api.enabled
        return bool(self.api.tokens) or all(
            each.is_loopback or each.is_activated for each in self.addresses
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to listen."""
        return tuple(Address.parse(text, "listen") for text in self.listen)

    def merged(self, other: ServerSettings, names: frozenset[str]) -> ServerSettings:
        """Return these settings with the sections `names` of others."""
        known = {each.name for each in dataclasses.fields(self)}
        return dataclasses.replace(self, **{n: getattr(other, n) for n in names & known})

    def redacted(self) -> dict[str, Any]:
        """Return all settings as plain values, secrets hidden."""
        shown = {
            each.name: _plain(getattr(self, each.name))
            for each in dataclasses.fields(self)
            if each.name != "cache"
        }
        return {"cache": self.cache.to_dict(), **shown}


def shared_cache(cache: Config, workers: int) -> Config:
    """Return the settings of a cache that all workers use.

    Raises:
        ConfigError: Processes cannot share it.
    """
    try:
        return dataclasses.replace(cache, shared=True)
    except ConfigError as error:
        raise ConfigError(
            f"{workers} workers need a cache that processes share: {error.message}",
            key="workers",
            hint=f"use workers: 1, or: {error.hint}",
        ) from error


def for_worker(settings: ServerSettings, is_shared: bool) -> ServerSettings:
    """Return the settings of one of several processes.

    Args:
        settings: Those of the server.
        is_shared: Whether it shares the cache with the others.
    """
    cache = shared_cache(settings.cache, 1) if is_shared else settings.cache
    return dataclasses.replace(settings, cache=cache, workers=1, pid_file=None)


_SECRET_NAMES = frozenset({"token", "tokens", "password", "secret"})


def _plain(value: object, name: str = "") -> Any:
    if name in _SECRET_NAMES and value:
        return SECRET
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: _plain(getattr(value, each.name), each.name)
            for each in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(each, str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(each) for each in value), key=str)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
