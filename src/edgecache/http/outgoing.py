"""Connections that this process makes, on the transport of our own (`_wire.pxd`)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from edgecache.http._channel import attach
from edgecache.http._head import Exchange, Lane, Tally
from edgecache.http._wire import Wire
from edgecache.http.response import Response

if TYPE_CHECKING:
    from edgecache.http._channel import WireProtocol

__all__ = ["Outgoing"]


class Outgoing:
    """Makes plain connections of one loop.

    A connection on it costs one call of the kernel for each read and each write, and no callback of
    the loop of its own.

    *Thread-safety*: belongs to the loop.
    """

    __slots__ = ("_wire", "lane")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        exchange = Exchange(Tally(), Response, _count_nothing, None, 0)
        self._wire = Wire(loop, exchange)
        # Never open: nobody's requests come in here.
        self.lane = Lane(exchange)

    async def connect(self, family: int, host: str, port: int, protocol: WireProtocol) -> None:
        """Connect to an address, and let `protocol` have the connection.

        Raises:
            OSError: Nobody answers there.
        """
        handle = socket.socket(family, socket.SOCK_STREAM)
        try:
            handle.setblocking(False)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(handle, (host, port))
            protocol.lane = self.lane
            attach(self._wire, handle, protocol)
        except BaseException:
            handle.close()
            raise


def _count_nothing(method: bytes, status: int) -> None:
    """There are no answers."""
