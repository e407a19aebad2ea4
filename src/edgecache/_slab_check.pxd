"""Are the invariants of _slab.pxd true? For tests and debug builds; O(everything)."""

from edgecache._slab cimport SlabState

# 0, or the number of the broken invariant.
cdef int slab_check(char* base, SlabState* state) noexcept nogil
