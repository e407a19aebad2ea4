"""Fields of one connection only (RFC 9110, section 7.6.1), and what Connection may not remove."""

from __future__ import annotations

from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.syntax import list_of_tokens

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding"),
        b"upgrade",
    )
)
"""Removed whether Connection names them or not (RFC 9110, section 7.6.1)."""

PROXY_FIELDS = frozenset((b"proxy-authenticate", b"proxy-authentication-info"))
"""Never stored (RFC 9111, section 3.1); relayed, since they answer the client's own proxy."""

# A field for all recipients is never a connection option (RFC 9110, section 7.6.1). Whoever names
# one in Connection wants it dropped between two peers that both rely on it (CVE-2022-45059).
_PROTECTED = frozenset(
    (
        *(b"age", b"allow", b"authorization", b"cache-control", b"cache-groups", b"cache-status"),
        *(b"cache-group-invalidation", b"cache-tag", b"cdn-cache-control", b"cdn-loop", b"cookie"),
        *(b"date", b"etag", b"expect", b"expires", b"forwarded", b"host", b"last-modified"),
        *(b"location", b"max-forwards", b"no-vary-search", b"origin", b"pragma", b"range"),
        *(b"referer", b"set-cookie", b"strict-transport-security", b"surrogate-key", b"vary"),
        *(b"via", b"www-authenticate", b"x-real-ip"),
    )
)
_PROTECTED_PREFIXES = (
    *(b"accept", b"access-control-", b"content-", b"if-", b"sec-", b"x-forwarded-"),
    b"x-frame-",
)


def is_protected(name: bytes) -> bool:
    """Say whether Connection may not remove this field (name in lower case)."""
    return name in _PROTECTED or name.startswith(_PROTECTED_PREFIXES)


def connection_options(headers: Headers) -> frozenset[bytes]:
    """Return the connection options, in lower case: `close`, `upgrade` and names of fields."""
    value = headers.combined(b"connection")
    return frozenset(list_of_tokens(value)) if value else frozenset()


def hop_by_hop_names(headers: Headers) -> frozenset[bytes]:
    """Return the names of all fields that must not be forwarded or stored."""
    if b"connection" not in headers:
        return HOP_BY_HOP
    named = frozenset(name for name in connection_options(headers) if not is_protected(name))
    return HOP_BY_HOP | named


def end_to_end(headers: Headers) -> Headers:
    """Return the header section to forward."""
    return headers.without(hop_by_hop_names(headers))
