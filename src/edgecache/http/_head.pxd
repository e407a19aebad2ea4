"""The request line, byte by byte; and the requests that are answered without more ado.

Invariants:

1. What `head_line` takes is exactly what the pattern of `framing.py` takes: method, one space,
   target, one space, HTTP/1.0 or HTTP/1.1, CRLF. It judges nothing else, and repairs nothing.
2. A lane answers a request only when its line is right, its target a path, its method GET, its
   version 1.1, and its field block byte by byte the one that was judged on this connection.
   Everything else is left where it stands, for the protocol.
3. It also answers bytes that were one whole request before, if who answered that says so again.

Source: RFC 9112, section 3; RFC 9110, section 5.6.2.
"""

from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from edgecache.http._outbox cimport Outbox

cdef enum:
    METHOD_BYTES_MAX = 32

cdef struct Line:
    Py_ssize_t method_size          # bytes, from the start
    Py_ssize_t target               # offset of the target
    Py_ssize_t target_size
    Py_ssize_t minor                # 0 or 1
    Py_ssize_t size                 # of the line, with its CRLF


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline bint head_is_token(unsigned char byte) noexcept nogil:
    # One bit for each character of a token below 128: the first word for 0 to 63.
    cdef uint64_t low = 0x3ff6cfa00000000ull, high = 0x57ffffffc7fffffeull
    if byte < 64:
        return (low >> byte) & 1
    return byte < 128 and (high >> (byte - 64)) & 1


cdef inline bint head_line(const char* data, Py_ssize_t size, Line* line) noexcept nogil:
    """Cut a request line; False: not there, not complete or not right."""
    cdef Py_ssize_t at = 0
    cdef unsigned char byte
    while at < size and at <= METHOD_BYTES_MAX and head_is_token(<unsigned char>data[at]):
        at += 1
    if at == 0 or at > METHOD_BYTES_MAX or at >= size or data[at] != c" ":
        return False
    line.method_size = at
    at += 1
    line.target = at
    while at < size:
        byte = <unsigned char>data[at]
        # Visible ASCII without "#": see framing.py.
        if byte <= 0x20 or byte >= 0x7f or byte == 0x23:
            break
        at += 1
    line.target_size = at - line.target
    if line.target_size == 0 or size - at < 11:
        return False
    if data[at] != c" " or data[at + 1] != c"H" or data[at + 2] != c"T" or \
            data[at + 3] != c"T" or data[at + 4] != c"P" or data[at + 5] != c"/" or \
            data[at + 6] != c"1" or data[at + 7] != c"." or data[at + 9] != c"\r" or \
            data[at + 10] != c"\n":
        return False
    if data[at + 8] != c"0" and data[at + 8] != c"1":
        return False
    line.minor = data[at + 8] - c"0"
    line.size = at + 11
    return True


cdef class Tally:
    """What is counted for every request.

    *Thread-safety*: written by one loop, read by anybody.
    """

    cdef public uint64_t bytes_received
    cdef public uint64_t bytes_sent
    cdef readonly uint64_t hit_count    # answers with 200 that lanes gave
    cdef uint64_t taken_hit_count


cdef class Exchange:
    """What the lanes of one server share: who answers, the end of a head, counters.

    *Thread-safety*: belongs to one loop.
    """

    cdef Tally tally
    cdef public double idle_deadline_s
    cdef public bint shows_time         # answers say what they took, from `began_ns` on
    cdef int64_t began_ns
    cdef public bint is_plain           # nothing is asked for but the answers themselves
    cdef public Py_ssize_t target_bytes_max
    cdef public bytes end_keep
    cdef public list routes             # (prefix, answer, takes_fields), the longest prefix first
    cdef object ready                   # the class of answers that are all there
    cdef object on_sample               # called with a request's first bytes and seconds, or None
    cdef object count                   # of an answer that is not a 200: (method, status)

    cdef int64_t spent_ns(self) noexcept
    cdef object ask(self, bytes target, bytes fields)


cdef class Lane:
    """The shortest way of one connection: repeated plain GETs that a door answers at once.

    *Thread-safety*: belongs to one loop.
    """

    cdef readonly bint is_open
    cdef readonly double deadline_s     # until the client must have asked again
    cdef public dict repeats            # whole requests, and how they are answered again
    cdef Exchange exchange
    cdef bytes fields                   # that were judged
    cdef bytes end                      # the same, with the empty line
    cdef const char* end_data
    cdef Py_ssize_t end_size
    cdef uint64_t left_count            # answers that the connection may still get
    cdef uint64_t answered_count        # since it was opened

    cdef Py_ssize_t take(self, const char* data, Py_ssize_t size, Outbox outbox) except -1
    cdef Py_ssize_t repeat(self, const char* data, Py_ssize_t size, Outbox outbox) except -1
    cdef bint give(self, object answer, Outbox outbox) except -1
