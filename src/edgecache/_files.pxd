"""Objects of the file layout on an I/O engine: writing, reading and verifying their files.

An object is a directory with `body.bin` (and `body.bin.1` ... for what lies beyond 8 TiB),
`meta_internal.bin` (the head, `_files_format.pxd`) and, when it has a meta, `meta_header.bin`.
Names are relative to the root of the engine. Nothing here knows which object is current: that is
the business of `edgecache.files`.

Invariants:

1. `write_object` leaves a whole object or nothing (what cannot be removed again is an orphan that
   the next start finds).
2. What a read returns was verified: the head by its sum, the meta by the sum in the head, each
   chunk of the body by its own. Anything else is -EBADMSG.
"""

from edgecache._files_format cimport FileHead
from edgecache._files_tree cimport Tree
from edgecache._io cimport IoChannel, IoEngine

cdef class ObjectFiles:
    """The files of objects below the root of one engine.

    *Thread-safety*: every method, any thread; none holds the GIL while it waits for the disk.
    """

    cdef Tree tree
    cdef readonly IoEngine engine

    cdef object take_head(self, const FileHead* head)

cdef class FileSyncer:
    """Makes files durable, many at a time, through a channel of the engine.

    *Thread-safety*: belongs to the thread that first calls `sync`.
    """

    cdef Tree tree
    cdef IoEngine engine
    cdef IoChannel* channel
    cdef bint has_syncfs
