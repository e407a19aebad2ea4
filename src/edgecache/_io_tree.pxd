"""Names of real files: removing, renaming, swapping, directories; and the space that a file uses.

Fills the rest of the ops of engines over real files (`uring`, `threads`).
"""

from edgecache._io cimport IoEngineOps

cdef void io_tree_ops(IoEngineOps* ops) noexcept nogil
