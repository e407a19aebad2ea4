import asyncio
from typing import final

from edgecache.http._head import Exchange

__test__: dict[str, str]

class Watched:
    def fileno(self) -> int: ...

@final
class Wire:
    def __new__(cls, loop: asyncio.AbstractEventLoop, exchange: Exchange) -> Wire: ...
    def on_ready(self) -> None: ...
