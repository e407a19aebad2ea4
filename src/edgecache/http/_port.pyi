import socket
from collections.abc import Callable
from typing import final

from edgecache.http._channel import LaneProtocol
from edgecache.http._wire import Watched, Wire

__test__: dict[str, str]

ACCEPT_RETRY_S: float

def listen(
    wire: Wire,
    handle: socket.socket,
    connect: Callable[[], LaneProtocol],
    on_full: Callable[[], None],
) -> Port: ...

@final
class Port(Watched):
    @property
    def sockets(self) -> tuple[socket.socket]: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...
