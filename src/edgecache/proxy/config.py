"""The configuration of a proxy: upstreams, routes, purges, collapsing, what it adds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgecache.proxy.forwarding import Network
from edgecache.proxy.settings import DynamicOrigins, UpstreamConfig, check_range, refuse
from edgecache.rfc9111.key import AS_IS, QueryRules
from edgecache.rfc9111.rules import LETTER, SAFE, Rules

PROFILES: Mapping[str, Rules] = MappingProxyType({"safe": SAFE, "rfc": LETTER})
DYNAMIC = "dynamic"
"""The name of the upstream whose servers are named by the client."""
DEMO = "demo"
"""The name of the upstream that is the embedded demonstration."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is done with the requests for some hosts and paths. The first route that fits counts.

    Args:
        upstream: Name of the group that answers.
        host: The host, in lower case and without port; "*.example.org" for all below it; None: any.
        path: What the path begins with, exact bytes as sent.
        cache: Whether answers are stored and reused at all.
        rules: The choices of the cache; None: those of the profile.
        query: How the query is normalised.
        stored_bytes_max: Larger answers are passed on and not stored; None: no limit of its own.
    """

    upstream: str
    host: str | None = None
    path: str = "/"
    cache: bool = True
    rules: Rules | None = None
    query: QueryRules = AS_IS
    stored_bytes_max: int | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or not self.path.isascii():
            raise refuse("route.path", f"{self.path!r} does not begin with /, or is not ASCII")
        if self.host is not None and (not self.host or self.host != self.host.lower()):
            raise refuse("route.host", f"{self.host!r} is empty or not in lower case")
        if self.stored_bytes_max is not None:
            check_range("route", self, stored_bytes_max=(0, (1 << 63) - 1))

    def fits(self, host: bytes, target: bytes) -> bool:
        """Say whether a request belongs to the route; `host` is in lower case, without port."""
        if not target.startswith(self.path.encode()):
            return False
        if self.host is None:
            return True
        wanted = self.host.encode()
        return host.endswith(wanted[1:]) if wanted.startswith(b"*.") else host == wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeAccess:
    """Who may purge, by the PURGE method.

    Args:
        networks: Where they come from; loopback by default. Nobody: ().
        token: If set, `Authorization: Bearer <token>` is needed as well. Without one a PURGE that a
            browser sent (Origin, Sec-Fetch-Site), or that came through another proxy (Via,
            Forwarded, X-Forwarded-For, X-Real-IP), is refused: its address is not its sender's.
        allows_all: Whether everything may be purged at once.
    """

    networks: tuple[Network, ...] = LOOPBACK
    token: str | None = field(default=None, repr=False)
    allows_all: bool = True

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < 16 or not self.token.isascii()):
            raise refuse("purge.token", "is shorter than 16 characters, or not ASCII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapsing:
    """One fetch per key.

    Args:
        is_on: Whether requests for the same key share a fetch.
        wait_s: How long a request waits for another's head; then it goes to the origin itself.
        age_s: After so long without a head a fetch collects no more waiters.
        predicted_keys: Keys remembered as uncacheable; they are not collapsed.
        window_bytes: Of a body on its way kept in memory for readers that are behind.
        abandoned_bytes_max: How much is still fetched for the cache when no client is left; None:
            everything.
    """

    is_on: bool = True
    wait_s: float = 30.0
    age_s: float = 60.0
    predicted_keys: int = 100_000
    window_bytes: int = 1 << 20
    abandoned_bytes_max: int | None = 256 << 20

    def __post_init__(self) -> None:
        check_range("collapsing", self, wait_s=(0, 86_400), age_s=(0, 86_400))
        check_range("collapsing", self, predicted_keys=(0, 1 << 30), window_bytes=(65_536, 1 << 30))
        if self.abandoned_bytes_max is not None:
            check_range("collapsing", self, abandoned_bytes_max=(0, (1 << 63) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """The configuration of a proxy; checked when made.

    Args:
        upstreams: Groups of servers by name. `demo` and `dynamic` are taken.
        routes: In order; requests that none fits get 404.
        dynamic: Origins that clients name; None: there are none.
        profile: "safe" or "rfc": the rules of routes that have none of their own.
        name: This cache in Via and Cache-Status.
        purge: Who may purge.
        collapsing: See there.
        trusted_proxies: Whose Forwarded and X-Forwarded fields are kept.
        adds_forwarded: Whether origins get `Forwarded` beside X-Forwarded fields.
        adds_via: Whether answers get `Via`.
        adds_cache_status: Whether answers get `Cache-Status` (RFC 9211).
        adds_status_word: Whether answers get `X-Cache-Status`.
        shows_key: Whether Cache-Status has the key.
        keep_stale_s: How long a stale response with a validator is kept for validation.
        variants_max: Responses stored per URI that differ by what Vary names.
        memo_bytes: Budget for prepared answers.
    """

    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    dynamic: DynamicOrigins | None = None
    profile: str = "safe"
    name: str = "edgecache"
    purge: PurgeAccess = field(default_factory=PurgeAccess)
    collapsing: Collapsing = field(default_factory=Collapsing)
    trusted_proxies: tuple[Network, ...] = ()
    adds_forwarded: bool = True
    adds_via: bool = True
    adds_cache_status: bool = True
    adds_status_word: bool = True
    shows_key: bool = False
    keep_stale_s: int = 7 * 86_400
    variants_max: int = 64
    memo_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise refuse("proxy.profile", f"{self.profile!r} is none of {tuple(PROFILES)}")
        if _TOKEN.fullmatch(self.name) is None or not self.name[0].isalpha():
            raise refuse("proxy.name", f"{self.name!r} is no token that begins with a letter")
        check_range("proxy", self, keep_stale_s=(0, 1 << 31), variants_max=(1, 1_024))
        check_range("proxy", self, memo_bytes=(0, 1 << 40))
        for name in self.upstreams:
            if name in (DYNAMIC, DEMO):
                raise refuse("proxy.upstreams", f"the name {name!r} is taken")
        known = {*self.upstreams, DEMO, *((DYNAMIC,) if self.dynamic is not None else ())}
        for route in self.routes:
            if route.upstream not in known:
                raise refuse("route.upstream", f"there is no upstream {route.upstream!r}")

    @classmethod
    def for_upstream(cls, *servers: str, profile: str = "safe") -> ProxyConfig:
        """Return the configuration of a proxy before one group of servers."""
        coding = "lenient" if profile == "rfc" else "strict"
        group = UpstreamConfig(servers=servers, transfer_coding=coding)
        routes = (Route(upstream="default"),)
        return cls(upstreams={"default": group}, routes=routes, profile=profile)

    @classmethod
    def for_demo(cls) -> ProxyConfig:
        """Return the configuration of a proxy before the embedded demonstration."""
        return cls(routes=(Route(upstream=DEMO),))

    def rules_of(self, route: Route) -> Rules:
        """Return the rules of a route."""
        return PROFILES[self.profile] if route.rules is None else route.rules
