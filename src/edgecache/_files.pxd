"""Objects of the file layout on an I/O engine: writing, reading and verifying their files.

An object is a directory with `body.bin` (and `body.bin.1` ... for what lies beyond 8 TiB), for a
body above 64 KiB `body.sums` (the sums of its strips), `meta_internal.bin` (the head,
`_files_format.pxd`) and, when it has a meta, `meta_header.bin`.
Names are relative to the root of the engine. Nothing here knows which object is current: that is
the business of `edgecache.files`.

Invariants:

1. `write_object` leaves a whole object or nothing (what cannot be removed again is an orphan that
   the next start finds).
2. What a read returns was verified: the head by its sum, the meta by the sum in the head, each
   chunk of the body by its own, or the strips of it that were asked for. Anything else is -EBADMSG.
"""

from libc.stdint cimport uint64_t

from edgecache._files_format cimport FileHead
from edgecache._files_tree cimport StripTable, Tree
from edgecache._io cimport IoChannel, IoEngine

cdef class KnownHead:
    """A head that was verified."""

    cdef FileHead* head
    cdef bytes key
    cdef bytes meta                 # None: not read yet

cdef class ObjectFiles:
    """The files of objects below the root of one engine.

    *Thread-safety*: every method, any thread; none holds the GIL while it waits for the disk.
    """

    cdef Tree tree
    cdef readonly IoEngine engine
    cdef StripTable strips
    # By sequence: heads of objects that were read by range.
    cdef dict heads
    cdef uint64_t heads_bytes

    cdef object take_head(self, const FileHead* head)
    cdef object know_head(self, bytes name, uint64_t sequence)
    cdef int keep_head(self, KnownHead known) except -1

cdef class FileSyncer:
    """Makes files durable, many at a time, through a channel of the engine.

    *Thread-safety*: belongs to the thread that first calls `sync`.
    """

    cdef Tree tree
    cdef IoEngine engine
    cdef IoChannel* channel
    cdef bint has_syncfs
