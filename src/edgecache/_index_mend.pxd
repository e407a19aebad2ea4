"""After the death of a process that changed an index: what a change in progress may have left.

What must survive are the slots of the segments that the directory names, and the nodes of the
overflow table; every change of these is made so that a death between any two of its stores loses
none (_index_bucket.pxd, group_commit and index_replace of _index.pyx). What is mended:

- a growth or a replacement under way is finished, a clearing done again (index_resume);
- an entry may be there twice, in both of its buckets, or in the overflow table too: one goes;
- the info of a slot that was being set, or cleared, is cleared;
- free pages, chains, free nodes, overflow counters and counts are made anew.

It may itself be cut anywhere, and is then done again.
"""

from edgecache._index cimport IndexShard

# True when every invariant of the index holds afterwards; False: it is not one that a death left
# behind, or there was no memory (index_check says how much). O(everything). The caller holds the
# shard's lock.
cdef bint index_mend(char* base, IndexShard* shard) noexcept nogil
