from typing import Any, TypeVar, overload

from typing_extensions import disjoint_base

from edgecache._core_base import CoreBase

__pyx_capi__: dict[str, object]
__test__: dict[str, str]

_T = TypeVar("_T")

@disjoint_base
class ObjectHead:
    @property
    def entry(self) -> tuple[bytes, bytes, int, int, int]: ...
    # Always raises: heads come from the store.
    def __init__(self, *args: object, **kwargs: object) -> None: ...

@disjoint_base
class CoreRead(CoreBase):
    @overload
    def get(self, key: bytes | str, default: None = None) -> bytes | None: ...
    @overload
    def get(self, key: bytes | str, default: _T) -> bytes | _T: ...
    # The value, and the bytes of its meta; the Python face makes an Entry of it.
    def read_entry(self, key: bytes | str) -> tuple[bytes, bytes, int, int, int] | None: ...
    # NotImplemented: only the disk knows.
    def peek(self, key: bytes | str) -> Any: ...
    def version_in_memory(self, key: bytes | str) -> int: ...
    # Overridden by the layer that knows objects; None: a miss.
    def load_object(
        self, key: bytes | str, entry: tuple[bytes, bytes, int, int, int]
    ) -> bytes | None: ...
