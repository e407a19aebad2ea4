"""A client's request as the proxy sees it: what it asks for, by which route, under which key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecache.proxy.config import Route
from edgecache.proxy.entries import URI_BYTES_MAX
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.key import normal_target, target_uri
from edgecache.rfc9111.request import RequestFacts
from edgecache.rfc9111.rules import Rules

if TYPE_CHECKING:
    from edgecache.http.request import Request

# Not forwarded when the answer is to be stored: they ask for something about what the cache has.
CONDITIONS = frozenset(
    (
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
        *(b"if-range", b"range"),
    )
)
# Of what we send upstream the connection's own, and what is answered here.
NOT_FORWARDED = frozenset((b"expect", b"host", b"content-length"))


@dataclass(slots=True)
class Asked:
    """A request.

    Args:
        request: As the data plane gave it.
        method: Its method.
        uri: The target URI in normal form; the primary key.
        target: What goes upstream: path and query, exact bytes unless the route normalises them.
        authority: Host and port for the Host field upstream, in normal form.
        headers: Its header section.
        facts: What it asks of the cache.
        route: The route.
        rules: The rules of the route.
        scheme: Of the connection.
    """

    request: Request
    method: bytes
    uri: bytes
    target: bytes
    authority: bytes
    headers: Headers
    facts: RequestFacts
    route: Route
    rules: Rules
    scheme: bytes

    @property
    def is_get(self) -> bool:
        """Whether the method is GET."""
        return self.method == b"GET"

    @property
    def is_safe(self) -> bool:
        """Whether the method is one of those that are answered from the cache."""
        return self.method in (b"GET", b"HEAD")

    @property
    def is_cacheable(self) -> bool:
        """Whether the request may be answered from, or fill, the cache."""
        return self.route.cache and self.is_safe and len(self.uri) <= URI_BYTES_MAX


def short_authority(uri: bytes) -> bytes:
    """Return the authority of a target URI as Host fields have it: without a default port."""
    scheme, _, rest = uri.partition(b"://")
    authority = rest.partition(b"/")[0]
    default = b":443" if scheme == b"https" else b":80"
    return authority.removesuffix(default)


def place_of(
    scheme: bytes, authority: bytes, target: bytes, route: Route
) -> tuple[bytes, bytes] | None:
    """Return target URI and target of a request on a route; None if they are not usable."""
    normal = normal_target(target, route.query)
    uri = target_uri(scheme, authority, normal)
    return None if uri is None else (uri, normal)
