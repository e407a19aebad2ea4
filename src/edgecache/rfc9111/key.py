"""URIs: the cache key, origins, references, and the query as an operator may normalise it.

The key is the target URI itself (RFC 9111, section 2): scheme, authority and the exact bytes of
path and query. No part can be mistaken for another, since neither scheme nor authority holds a
slash. The method is not in it: only GET and HEAD are answered from it. Host and path are never
taken from other fields (CVE-2026-2836, CVE-2016-4553), and no byte of the path is decoded,
collapsed or
dropped: what the origin may tell apart is told apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from edgecache.rfc9111.syntax import OWS

KEY_BYTES_MAX = 8192
"""Longest key of the engine; a longer URI is not cached."""

_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
# reg-name or IPv4 of RFC 3986, or an IP literal in brackets, and a port; no userinfo.
_AUTHORITY = re.compile(
    rb"([0-9A-Za-z\-._~!$&'()*+,;=%]+|\[[0-9A-Fa-f:.]+(?:%25[0-9A-Za-z._~\-]+)?\])(?::([0-9]*))?"
)
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e\x80-\xff]+")
_REFERENCE = re.compile(rb"[\x21-\x7e\x80-\xff]+")  # urlsplit would drop tabs and line ends


@lru_cache(maxsize=1024)
def normal_authority(scheme: bytes, authority: bytes) -> bytes | None:
    """Return `host:port` with the host in lower case and the port always said; None if invalid."""
    found = _AUTHORITY.fullmatch(authority)
    default = _DEFAULT_PORTS.get(scheme)
    if found is None or default is None or len(authority) > 255 + 6:
        return None
    host, port = found.groups()
    port = port.lstrip(b"0") if port else default
    if not port or len(port) > 5 or int(port) > 65535:
        return None
    return host.lower() + b":" + port


def origin_of(scheme: bytes, authority: bytes) -> bytes | None:
    """Return the origin (RFC 9110, section 4.3.1) as `scheme://host:port`; None if invalid."""
    scheme = scheme.lower()
    normal = normal_authority(scheme, authority)
    return None if normal is None else scheme + b"://" + normal


def is_path(target: bytes) -> bool:
    """Say whether a target is in origin form, and can be part of a target URI."""
    return target.startswith(b"/") and _TARGET.fullmatch(target) is not None


def target_uri(scheme: bytes, authority: bytes, target: bytes) -> bytes | None:
    """Return the target URI of a request (RFC 9110, section 7.1), which is also its cache key.

    Args:
        scheme: `http` or `https`, of the connection.
        authority: Of the request target if that is absolute, else of Host.
        target: Path and query, exactly as received.

    Returns:
        None for what must be refused or passed by: another scheme, userinfo, a fragment
        (CVE-2021-27577), a target that is not in origin form, white space or control bytes.
    """
    origin = origin_of(scheme, authority)
    if origin is None or not is_path(target):
        return None
    return origin + target


def cache_key(method: bytes, uri: bytes) -> bytes | None:
    """Return the key for a request; None if its method is never answered from the cache."""
    if method not in (b"GET", b"HEAD") or len(uri) > KEY_BYTES_MAX:
        return None
    return uri


def resolve(base: bytes, reference: bytes) -> bytes | None:
    """Resolve a reference (RFC 3986, section 5.2) and return it in the form of `target_uri`.

    The fragment is dropped. None if it is invalid or leads to another scheme than http and https.
    """
    reference = reference.strip(OWS)
    if reference and _REFERENCE.fullmatch(reference) is None:
        return None
    is_query_empty = reference.partition(b"#")[0].endswith(b"?")
    if is_query_empty and len(reference.partition(b"#")[0]) == 1:
        return base.partition(b"?")[0] + b"?"
    try:
        parts = urlsplit(urljoin(base.decode("latin-1"), reference.decode("latin-1")))
    except ValueError:
        return None
    target = parts.path or "/"
    if parts.query or is_query_empty:
        target += "?" + parts.query
    return target_uri(
        parts.scheme.encode("latin-1"), parts.netloc.encode("latin-1"), target.encode("latin-1")
    )


def origin_of_uri(uri: bytes) -> bytes:
    """Return the origin of a URI that `target_uri` made."""
    return uri[: uri.index(b"/", uri.index(b"//") + 2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRules:
    """How the query is normalised before it becomes part of the key, and is forwarded.

    What is not in the key must not reach the origin either, so the normalised target is to be
    forwarded. Names are compared as they stand, undecoded.

    Args:
        sorts: Whether parameters are sorted by name; equal names keep their order.
        drops: Names to leave out; a `*` at the end stands for any rest.
        keeps: If not None, all names but these are left out; before `drops`.
        drops_all: Leave out the whole query.
    """

    sorts: bool = False
    drops: tuple[bytes, ...] = ()
    keeps: tuple[bytes, ...] | None = None
    drops_all: bool = False


AS_IS = QueryRules()


def _is_named(name: bytes, patterns: tuple[bytes, ...]) -> bool:
    for pattern in patterns:
        if name == pattern or (pattern.endswith(b"*") and name.startswith(pattern[:-1])):
            return True
    return False


def normal_target(target: bytes, rules: QueryRules = AS_IS) -> bytes:
    """Return the request target with its query normalised; the path is never touched."""
    if rules == AS_IS:
        return target
    path, separator, query = target.partition(b"?")
    if not separator or rules.drops_all:
        return path
    kept = []
    for parameter in query.split(b"&"):
        name = parameter.partition(b"=")[0]
        is_kept = rules.keeps is None or _is_named(name, rules.keeps)
        if is_kept and not _is_named(name, rules.drops):
            kept.append(parameter)
    if rules.sorts:
        kept.sort(key=lambda parameter: parameter.partition(b"=")[0])
    return path + b"?" + b"&".join(kept) if kept else path
