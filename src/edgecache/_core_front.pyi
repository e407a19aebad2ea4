from typing_extensions import disjoint_base

from edgecache._core_base import CoreBase

__pyx_capi__: dict[str, object]
__test__: dict[str, str]

@disjoint_base
class CoreFront(CoreBase): ...
