"""Field sections of requests that were read before: clients send the same ones again and again.

What is kept depends on the exact bytes of the fields and on the scheme alone, so it is the same for
every request that has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecache.http.framing import split_authority
from edgecache.proxy.asking import short_authority
from edgecache.rfc9111.fields import Headers
from edgecache.rfc9111.key import origin_of
from edgecache.rfc9111.request import PLAIN, request_facts

if TYPE_CHECKING:
    from edgecache.http.request import Request
    from edgecache.proxy.asking import Asked
    from edgecache.proxy.service import Service

KNOWN_MAX = 512
# Larger sections are read anew: together they take a few MiB at most.
KNOWN_BYTES_MAX = 4_096
PEERS_MAX = 64
HOPS_MAX = 8


class Known:
    """What the fields of a request say, whatever it asks for.

    Args:
        request: It has the fields.
        pseudonym: The name of this proxy in Via.

    Attributes:
        authority: The Host field, b"" without one; what a target in origin form refers to.
        host: Its host, in lower case.
        origin: Scheme, host and port in normal form; None if they are not usable.
        short: What goes upstream as Host.
        is_plain: A GET with them asks nothing in particular.
        is_circular: The request came through this proxy too often.
        is_last_hop: Max-Forwards forbids to forward an OPTIONS.
    """

    __slots__ = (
        "_lines", "authority", "headers", "host", "is_circular", "is_last_hop", "is_plain",
        "origin", "short",
    )  # fmt: skip

    def __init__(self, request: Request, pseudonym: bytes) -> None:
        self.headers = headers = Headers(request.fields)
        authority = self.authority = request.block.get(b"host") or b""
        self.host = split_authority(authority)[0] if authority else b""
        scheme = request.scheme.encode()
        self.origin = origin_of(scheme, authority)
        self.short = b"" if self.origin is None else short_authority(self.origin)
        self.is_plain = request_facts(b"GET", headers) is PLAIN
        hops = headers.get(b"max-forwards")
        self.is_last_hop = hops is not None and hops.strip() == b"0"
        seen = (headers.combined(b"via") or b"").lower().split(b",")
        own = [member for member in seen if member.split()[-1:] == [pseudonym.lower()]]
        self.is_circular = len(own) >= HOPS_MAX
        self._lines: dict[object, tuple[Headers, bytes]] = {}

    def upstream(
        self, asked: Asked, service: Service, keeps_conditions: bool
    ) -> tuple[Headers, bytes]:
        """Return what goes upstream: the section, and its lines as they go out.

        Args:
            asked: A request with these fields, its target in origin form.
            service: Makes the section.
            keeps_conditions: Whether the answer is for this client only.
        """
        request = asked.request
        peer = request.peer
        place = peer[0] if isinstance(peer, tuple) and peer else peer
        rules = asked.rules
        key = (place, request.minor, rules.accept_encodings, rules.target_list, keeps_conditions)
        found = self._lines.get(key)
        if found is None:
            headers = service.upstream_headers(asked, keeps_conditions)
            lines = [name + b": " + value + b"\r\n" for name, value in headers.pairs]
            found = headers, b"".join(lines)
            if len(self._lines) >= PEERS_MAX:
                self._lines.clear()
            self._lines[key] = found
        return found


class KnownSections:
    """The sections that were read last.

    *Thread-safety*: belongs to one loop. *Cost* of one that is known: a dictionary lookup.
    """

    __slots__ = ("_found", "_pseudonym")

    def __init__(self, pseudonym: bytes) -> None:
        self._pseudonym = pseudonym
        self._found: dict[tuple[bytes, str], Known] = {}

    def __len__(self) -> int:
        return len(self._found)

    def of(self, request: Request) -> Known:
        """Return what the fields of a request say."""
        key = (request.block.raw, request.scheme)
        known = self._found.get(key)
        if known is None:
            known = Known(request, self._pseudonym)
            if len(key[0]) <= KNOWN_BYTES_MAX:
                if len(self._found) >= KNOWN_MAX:
                    del self._found[next(iter(self._found))]
                self._found[key] = known
        return known
