"""After the death of a process that changed an index: what a change in progress may have left.

Every step of a change of one slot leaves the structure walkable: what is mended here are bytes of
free slots and counts. A change of groups or of the overflow table may leave more than that
(`is_restructuring`, index_check): the caller then lays the index out anew.
"""

from edgecache._index cimport IndexShard

# True when every invariant of the index holds afterwards. The caller holds the shard's lock.
cdef bint index_mend(char* base, IndexShard* shard) noexcept nogil
