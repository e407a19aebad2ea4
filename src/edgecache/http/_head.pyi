from collections.abc import Callable
from typing import final

from edgecache.http.response import Response

__test__: dict[str, str]

def split_line(data: bytes, position: int) -> tuple[bytes, bytes, int, int] | None: ...
def plain_rest(target: bytes, prefix: bytes, size_max: int) -> bytes | None: ...

@final
class Tally:
    bytes_received: int
    bytes_sent: int
    @property
    def hit_count(self) -> int: ...
    def take_hits(self) -> int: ...

@final
class Exchange:
    idle_deadline_s: float
    is_plain: bool
    shows_time: bool
    target_bytes_max: int
    end_keep: bytes
    routes: list[tuple[bytes, Callable[..., object] | None, bool]]
    def __new__(
        cls,
        tally: Tally,
        ready: type,
        count: Callable[[bytes, int], None],
        on_sample: Callable[[bytes, float], None] | None,
        target_bytes_max: int,
    ) -> Exchange: ...

@final
class Lane:
    repeats: dict[bytes, tuple[Callable[[], Response | None], bytes]] | None
    def __new__(cls, exchange: Exchange) -> Lane: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def deadline_s(self) -> float: ...
    def open(self, fields: bytes, end: bytes, left_count: int) -> None: ...
    def close(self) -> int: ...
