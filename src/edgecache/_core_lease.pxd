"""Root: leases and streams of the processes that share an arena, as Python objects.

An object of its own beside the store: what waits holds it, and with it the mapping, and not the
store. It stops meaning anything when the store closes, and in a child of fork(): every method then
says that there is nothing, and what the parent had taken stays the parent's.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from edgecache._arena cimport Arena
from edgecache._hash cimport Hash128, XxhashApi
from edgecache._lease cimport LeaseTable, LeaseTake
from edgecache._lease_stream cimport StreamRecord, StreamTable
from edgecache._process cimport ProcessTable

cdef class Leases:
    cdef LeaseTable table
    cdef StreamTable streams
    cdef ProcessTable processes         # a copy: it outlives the store
    cdef Arena arena
    cdef const XxhashApi* api
    cdef uint64_t seed
    cdef bint is_open

    cdef bint is_usable(self) noexcept

cdef class Lease:
    cdef Leases leases
    cdef LeaseTake taken
    cdef bint is_over

cdef class LeaseWait:
    cdef Leases leases
    cdef LeaseTake taken
    cdef uint32_t result
    cdef uint32_t said

cdef class StreamBeacon:
    cdef Leases leases
    cdef uint32_t number
    cdef uint64_t token

cdef class StreamView:
    cdef Leases leases
    cdef uint32_t number
    cdef StreamRecord record
    cdef readonly bytes key
    cdef readonly bytes meta
