"""What a request carries upstream and a response downstream, besides its own fields.

Fields that a client may send and that origins believe (X-Forwarded-Host and the like) are not part
of the key. So they never reach an origin as the client wrote them: the proxy removes them and
writes its own, unless the peer is a proxy that the configuration trusts.

Source: RFC 9110, sections 7.6.1, 7.6.2, 7.6.3; RFC 7239.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from edgecache.proxy.wire import Fields

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Unkeyed, and believed by one origin or another: caches were poisoned through each of them.
UNTRUSTED = frozenset(
    (
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(b"x-forwarded-port", b"x-forwarded-scheme", b"x-forwarded-server", b"x-forwarded-ssl"),
        *(b"x-forwarded-prefix", b"x-forwarded-path", b"x-forwarded-uri", b"x-real-ip"),
        *(
            b"x-host",
            b"x-original-host",
            b"x-original-url",
            b"x-rewrite-url",
            b"x-http-host-override",
        ),
        *(b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-uri"),
        *(b"x-client-ip", b"true-client-ip", b"cf-connecting-ip", b"x-cluster-client-ip"),
        *(b"front-end-https", b"x-url-scheme", b"x-scheme", b"proxy", b"x-backend-host"),
    )
)


def host_of(peer: object) -> str:
    """Return the address of a peer, "" for a Unix socket."""
    if isinstance(peer, tuple) and peer:
        return str(peer[0]).partition("%")[0]
    return ""


def is_within(peer: object, networks: Sequence[Network]) -> bool:
    """Say whether a peer is in one of the networks; a Unix socket counts as loopback."""
    text = host_of(peer)
    try:
        address = ipaddress.ip_address(text) if text else ipaddress.IPv4Address("127.0.0.1")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in networks)


@dataclass(frozen=True, slots=True)
class Forwarder:
    """Makes the fields that tell an origin about the client.

    Args:
        pseudonym: The name of this proxy in Via.
        trusted: Networks of proxies whose forwarding fields are kept and extended.
        adds_forwarded: Whether to send `Forwarded` beside the X-Forwarded fields.
    """

    pseudonym: bytes
    trusted: tuple[Network, ...] = ()
    adds_forwarded: bool = True

    def request_fields(
        self, fields: Fields, peer: object, scheme: bytes, host: bytes, minor: int
    ) -> Fields:
        """Return end-to-end request fields with the proxy's own added, untrusted ones removed.

        Args:
            fields: (lower-case name, value), hop-by-hop fields removed already.
            peer: Address of the client.
            scheme: Of the client's request.
            host: Authority of the client's request.
            minor: Of the client's HTTP version.
        """
        is_trusted = bool(self.trusted) and is_within(peer, self.trusted)
        kept: Fields = []
        known: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            if name == b"via":
                known.setdefault(name, []).append(value)
            elif name not in UNTRUSTED:
                kept.append((name, value))
            elif is_trusted:
                known.setdefault(name, []).append(value)
        client = host_of(peer).encode()
        via = known.pop(b"via", [])
        kept.append((b"via", b", ".join([*via, b"1.%d %b" % (minor, self.pseudonym)])))
        chain = known.pop(b"x-forwarded-for", [])
        if client:
            kept.append((b"x-forwarded-for", b", ".join([*chain, client])))
        for name, value in ((b"x-forwarded-proto", scheme), (b"x-forwarded-host", host)):
            given = known.pop(name, None)
            kept.append((name, given[-1] if given else value))
        if self.adds_forwarded:
            element = self._element(client, scheme, host)
            kept.append((b"forwarded", b", ".join([*known.pop(b"forwarded", []), element])))
        for name, values in known.items():
            kept += [(name, value) for value in values]
        return kept

    def _element(self, client: bytes, scheme: bytes, host: bytes) -> bytes:
        shown = b'"[%b]"' % client if b":" in client else client or b"unknown"
        return b'for=%b;host="%b";proto=%b' % (shown, host, scheme)

    def via(self, existing: bytes | None, minor: int) -> bytes:
        """Return the Via of a response that came by HTTP/1.minor."""
        own = b"1.%d %b" % (minor, self.pseudonym)
        return own if existing is None else existing + b", " + own
