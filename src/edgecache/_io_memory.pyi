from typing import final

from edgecache._io import IoEngine

__pyx_capi__: dict[str, object]
__test__: dict[str, str]

@final
class MemoryDisk:
    def __new__(cls, capacity_bytes: int = 0) -> MemoryDisk: ...
    @property
    def used_bytes(self) -> int: ...

@final
class MemoryEngine(IoEngine): ...

def open_memory(disk: MemoryDisk | None, queue_depth: int) -> MemoryEngine: ...
