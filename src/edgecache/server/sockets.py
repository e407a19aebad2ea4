"""The sockets of a server, bound before anything else happens: what cannot work is said at once."""

from __future__ import annotations

import contextlib
import os
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


def bind(address: Address, key: str, copies: int = 1) -> list[socket.socket]:
    """Bind the sockets of an address; a name may stand for several.

    Args:
        address: Where.
        key: The setting that asks for it.
        copies: Above 1 there are so many sockets for each address, one after the other, and the
            kernel shares connections out among those that listen. A Unix socket has no copies.

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
            for _ in range(copies):
                handle = socket.socket(family, socket.SOCK_STREAM)
                handles.append(handle)
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if copies > 1:
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    handle.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                handle.bind(place)
                handle.setblocking(False)
                place = handle.getsockname()  # of port 0, the one that all copies have
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


class Kept:
    """Sockets that outlive the processes that listen on them.

    Args:
        slots: The sockets of each process; those that have no copies are in all of them.
        paths: Of Unix sockets; they are removed with them.
    """

    def __init__(self, slots: list[list[socket.socket]], paths: list[str]) -> None:
        self.slots = slots
        self._paths = paths

    def close(self) -> None:
        """Close all of them here; processes that listen go on. Idempotent."""
        for handles in self.slots:
            for handle in handles:
                handle.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._paths = []


class Listeners:
    """The sockets of a list of addresses.

    Unix sockets are left to the `HttpServer`, which removes them when it stops.

    Args:
        addresses: Where.
        key: The setting that names them.
        copies: How many processes listen.

    Raises:
        ListenError: An address cannot be used.
        ConfigError: The service manager passed no sockets.
    """

    def __init__(self, addresses: tuple[Address, ...], key: str, copies: int = 1) -> None:
        self._copies = copies
        self._paths = [each for each in addresses if each.path is not None]
        self._handles: list[socket.socket] = []
        self._common: list[socket.socket] = []  # of these there is one for all processes
        self._places: list[object] = []
        try:
            for address in addresses:
                if address.is_activated:
                    self._common += _activated(key)
                elif address.path is None:
                    self._handles += bind(address, key, copies)
            self._places = [
                each.getsockname() for each in (*self._handles[::copies], *self._common)
            ]
        except BaseException:
            self.close()
            raise

    def take(self, tls: TlsFiles | None) -> list[Listener]:
        """Return the listeners; the sockets belong to who starts them."""
        handles = [*self._handles, *self._common]
        self._handles, self._common = [], []
        return [
            *(Listener(handle=handle, tls=tls) for handle in handles),
            *(Listener(path=each.path, tls=tls) for each in self._paths),
        ]

    def keep(self) -> Kept:
        """Hand over the sockets of all processes.

        Raises:
            ListenError: A Unix socket cannot be made.
        """
        paths = [each.path for each in self._paths if each.path is not None]
        for address in self._paths:
            self._common += bind(address, "listen")
        handles, common = self._handles, self._common
        self._handles, self._common = [], []
        copies = self._copies
        return Kept([[*handles[number::copies], *common] for number in range(copies)], paths)

    @property
    def addresses(self) -> list[object]:
        """Where they are; also when they were taken."""
        return [*self._places, *(each.path for each in self._paths)]

    def close(self) -> None:
        """Close what was not taken."""
        for handle in (*self._handles, *self._common):
            handle.close()
        self._handles.clear()
        self._common.clear()


def _activated(key: str) -> list[socket.socket]:
    handles = activated_sockets()
    if not handles:
        raise ConfigError(
            f"{key}: the service manager passed no sockets",
            key=key,
            hint="start it from a socket unit, or name an address",
        )
    return handles
