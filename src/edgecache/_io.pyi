import logging
import os
from typing import Any

from typing_extensions import disjoint_base

from edgecache._io_memory import MemoryDisk

__pyx_capi__: dict[str, object]
__test__: dict[str, str]

LOGGER: logging.Logger
logged_reasons: set[str]

@disjoint_base
class IoEngine:
    @property
    def name(self) -> str: ...
    @property
    def fallback_reason(self) -> str: ...
    def stats(self) -> dict[str, Any]: ...
    def close(self) -> None: ...

def log_fallback(reason: str) -> None: ...
def open_engine(
    kind: str = "auto",
    root: str | bytes | os.PathLike[str] | None = None,
    *,
    queue_depth: int = 64,
    threads: int = 16,
    direct: bool = True,
    sqpoll: bool = False,
    iopoll: bool = False,
    disk: MemoryDisk | None = None,
    lock_fd: int = -1,
) -> IoEngine: ...
