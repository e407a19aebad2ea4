from typing_extensions import disjoint_base

__test__: dict[str, str]

@disjoint_base
class CoreArena:
    @property
    def reformatted(self) -> bool: ...
