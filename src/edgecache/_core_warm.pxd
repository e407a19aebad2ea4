"""Root, beside it: an arena that outlives its processes (`keep_warm`).

Closing, the last process takes all locks, makes sure that nothing in the arena is under way, marks
it WARM, and turns its own mapping into a private copy: what a thread that comes late still does
touches no byte of what is left behind. Opening, the next one checks that the arena is the one that
the root names, of this boot, build and configuration, closed in good order, and that the disk says
what it said then; if not, it begins with a new arena, and recovers.
"""

from edgecache._core_arena cimport CoreArena

# Memory for everything of a new arena whose size does not change; 0 or a negative errno.
cdef int warm_back(CoreArena core) noexcept
# What the arena may come to, in bytes.
cdef object warm_needed_bytes(CoreArena core)
# Why the header says that the arena is not to be adopted, or "".
cdef str warm_why_foreign(CoreArena core)
# The same for what lies behind it, once it is wired and the data files were opened.
cdef str warm_why_stale(CoreArena core)
# Write into the header whose file it is.
cdef warm_name(CoreArena core)
# Make it the arena of this life.
cdef warm_adopt(CoreArena core)
# Leave the arena behind: "", or why it cannot be. Nothing of this process works on it afterwards.
cdef str warm_leave(CoreArena core)
