from typing_extensions import disjoint_base

from edgecache._core_base import CoreBase

__test__: dict[str, str]

@disjoint_base
class CoreFront(CoreBase): ...
