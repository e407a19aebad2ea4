"""From the name of an origin to the addresses that may be connected to.

For dynamic origins the address is judged after the name was resolved, and exactly the judged
address is connected to: a second resolution could answer something else (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from typing import NamedTuple

from edgecache.proxy.problems import OriginConnectError, OriginForbiddenError

NAMES_MAX = 4_096
FRESH_S = 10.0


class Address(NamedTuple):
    """An address to connect to.

    Args:
        family: socket.AF_INET or AF_INET6.
        host: The address as text.
        port: The port.
    """

    family: int
    host: str
    port: int


def is_public(host: str) -> bool:
    """Say whether an address is one of the public internet.

    IPv4 addresses inside of IPv6 ones (mapped, 6to4, NAT64, Teredo) are judged themselves.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
        elif address.teredo is not None:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Resolver:
    """Resolves names, and remembers the answers for a short while.

    *Thread-safety*: belongs to one loop. *Cost*: a lookup runs in the loop's executor.
    """

    __slots__ = ("_known", "_pending")

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._pending: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def resolve(self, host: str, port: int, needs_public: bool = False) -> list[Address]:
        """Return the addresses of a host, in the order of the system.

        Args:
            host: A name, or an address.
            port: Of the origin.
            needs_public: Refuse the host if any of its addresses is not public.

        Raises:
            OriginConnectError: The name is unknown.
            OriginForbiddenError: An address is not public.
        """
        try:
            literal = ipaddress.ip_address(host)
        except ValueError:
            addresses = await self._lookup(host, port)
        else:
            family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
            addresses = [Address(family, host, port)]
        if needs_public and not all(is_public(address.host) for address in addresses):
            raise OriginForbiddenError(
                f"{host} has an address that is not public",
                phase="resolve",
                upstream=f"{host}:{port}",
                hint="dynamic.allow_private lets the proxy connect to such addresses",
            )
        return addresses

    async def _lookup(self, host: str, port: int) -> list[Address]:
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        task = self._pending.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(_query(host, port))
            self._pending[key] = task
            task.add_done_callback(lambda _: self._pending.pop(key, None))
        addresses = await asyncio.shield(task)
        self._known.pop(key, None)
        if len(self._known) >= NAMES_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (time.monotonic() + FRESH_S, addresses)
        return addresses


async def _query(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OriginConnectError(
            f"the name {host} cannot be resolved: {error}",
            phase="resolve",
            upstream=f"{host}:{port}",
            reason="dns",
        ) from error
    addresses = [Address(int(entry[0]), str(entry[4][0]), port) for entry in found]
    if not addresses:
        raise OriginConnectError(f"{host} has no address", phase="resolve", reason="dns")
    return list(dict.fromkeys(addresses))
