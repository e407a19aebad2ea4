from typing import final

from edgecache._io import IoEngine

__test__: dict[str, str]

@final
class BatchReader:
    def __new__(cls, io: IoEngine) -> BatchReader: ...
    @property
    def is_busy(self) -> bool: ...
