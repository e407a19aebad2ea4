"""The reverse proxy door: it carries out what `rfc9111` decides, over the store."""

from edgecache.proxy.config import Collapsing, ProxyConfig, PurgeAccess, Route
from edgecache.proxy.proxy import Proxy, normal_uri
from edgecache.proxy.settings import (
    Breaker,
    DynamicOrigins,
    HealthCheck,
    Timeouts,
    UpstreamConfig,
)
from edgecache.proxy.statistics import ProxyReport

__all__ = [
    "Breaker",
    "Collapsing",
    "DynamicOrigins",
    "HealthCheck",
    "Proxy",
    "ProxyConfig",
    "ProxyReport",
    "PurgeAccess",
    "Route",
    "Timeouts",
    "UpstreamConfig",
    "normal_uri",
]
