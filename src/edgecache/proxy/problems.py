"""What can go wrong between the proxy and an origin.

Every failure says in which `phase` it happened, at which `upstream`, and whether any byte of an
answer had arrived: the layers above retry, serve stale or answer 502 and 504 by these facts alone.
"""

from __future__ import annotations

import errno as _errno

from edgecache.errors import EdgeCacheError

__all__ = [
    "NoUpstreamError",
    "OriginConnectError",
    "OriginError",
    "OriginForbiddenError",
    "OriginLimitError",
    "OriginProtocolError",
    "OriginTimeoutError",
    "OriginTruncatedError",
]


class OriginError(EdgeCacheError):
    """An exchange with an origin failed.

    Attributes:
        phase: "resolve", "connect", "request", "head", "body" or "choose".
        upstream: The server it happened at, "host:port".
        reason: One word for logs, statistics and `Proxy-Status`-like fields.
        has_answer: Whether bytes of the answer had arrived.
        is_reused: Whether the connection had served other requests before.
        is_second: Whether the request had failed on a kept connection just before.
        status_code: What a client is told when nothing else can serve it.
    """

    phase: str = ""
    upstream: str = ""
    reason: str = "error"
    has_answer: bool = False
    is_reused: bool = False
    is_second: bool = False
    status_code: int = 502

    fact_names = (
        *EdgeCacheError.fact_names,
        "phase",
        "upstream",
        "reason",
        "has_answer",
        "is_reused",
    )


class OriginConnectError(OriginError, ConnectionError):
    """The origin cannot be reached: its name, its port, its certificate."""

    reason = "connect"
    errno_default = _errno.ECONNREFUSED


class OriginTimeoutError(OriginError, TimeoutError):
    """A phase of the exchange took too long."""

    reason = "timeout"
    status_code = 504
    errno_default = _errno.ETIMEDOUT


class OriginProtocolError(OriginError, ValueError):
    """The answer is not HTTP/1.1, or its framing is not certain."""

    reason = "protocol"


class OriginTruncatedError(OriginError, EOFError):
    """The connection ended before the answer did."""

    reason = "truncated"


class OriginLimitError(OriginError, ValueError):
    """The answer exceeds a configured limit."""

    reason = "limit"


class OriginForbiddenError(OriginError, PermissionError):
    """The policy for dynamic origins does not allow this host or its address."""

    reason = "forbidden"
    status_code = 403
    errno_default = _errno.EACCES


class NoUpstreamError(OriginError, ConnectionError):
    """No server of the group may be asked: all are down, or their circuits are open."""

    reason = "no-upstream"
    status_code = 503
    phase = "choose"
    errno_default = _errno.EHOSTUNREACH
