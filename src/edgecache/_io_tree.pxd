"""What only a tree of files needs of a file system: swapping names, space in use.

Fills the rest of the ops of engines over real files (`uring`, `threads`).
"""

from edgecache._io cimport IoEngineOps

cdef void io_tree_ops(IoEngineOps* ops) noexcept nogil
