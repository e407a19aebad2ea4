"""The sockets of a server, bound before anything else happens: what cannot work is said at once."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, ClassVar

from edgecache.errors import ConfigError, EdgeCacheError
from edgecache.http.server import Listener, activated_sockets, bind_unix

if TYPE_CHECKING:
    from edgecache.http.tls import TlsFiles
    from edgecache.server.settings import Address

UNIX_MODE = 0o600


class ListenError(EdgeCacheError, OSError):
    """An address cannot be listened on.

    `address` is it, `key` names the setting that asks for it.
    """

    default_hint = "is another server running? name another address"
    fact_names: ClassVar[tuple[str, ...]] = (*EdgeCacheError.fact_names, "address", "key")
    address: str | None = None
    key: str | None = None


def bind(address: Address, key: str) -> list[socket.socket]:
    """Bind the sockets of an address; a name may stand for several.

    Raises:
        ListenError: One of them cannot be bound.
    """
    handles: list[socket.socket] = []
    try:
        if address.path is not None:
            return [bind_unix(address.path, UNIX_MODE)]
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, place in dict.fromkeys(found):
            handle = socket.socket(family, socket.SOCK_STREAM)
            handles.append(handle)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            handle.bind(place)
            handle.setblocking(False)
    except OSError as error:
        for handle in handles:
            handle.close()
        raise refused(address, key, error) from error
    return handles


def refused(address: Address, key: str, error: OSError) -> ListenError:
    """Return the error for an address that cannot be used."""
    return ListenError(
        f"{key}: cannot listen on {address}: {error.strerror or error}",
        hint=None if error.errno == 98 else "check the address and the permissions",
        address=str(address),
        key=key,
        errno=error.errno,
    )


class Listeners:
    """The sockets of a list of addresses.

    Unix sockets are left to the `HttpServer`, which removes them when it stops.

    Raises:
        ListenError: An address cannot be used.
        ConfigError: The service manager passed no sockets.
    """

    def __init__(self, addresses: tuple[Address, ...], key: str) -> None:
        self._key = key
        self._paths = [each for each in addresses if each.path is not None]
        self._handles: list[socket.socket] = []
        try:
            for address in addresses:
                if address.is_activated:
                    self._handles += _activated(key)
                elif address.path is None:
                    self._handles += bind(address, key)
        except BaseException:
            self.close()
            raise

    def take(self, tls: TlsFiles | None) -> list[Listener]:
        """Return the listeners; the sockets belong to who starts them."""
        handles, self._handles = self._handles, []
        return [
            *(Listener(handle=handle, tls=tls) for handle in handles),
            *(Listener(path=each.path, tls=tls) for each in self._paths),
        ]

    def close(self) -> None:
        """Close what was not taken."""
        for handle in self._handles:
            handle.close()
        self._handles.clear()


def _activated(key: str) -> list[socket.socket]:
    handles = activated_sockets()
    if not handles:
        raise ConfigError(
            f"{key}: the service manager passed no sockets",
            key=key,
            hint="start it from a socket unit, or name an address",
        )
    return handles
