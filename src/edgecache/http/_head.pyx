"""The request line in native code, and the shortest way from a request to its answer."""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.tuple cimport PyTuple_CheckExact
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp

from edgecache.http._outbox cimport OUTBOX_HEAD_BYTES_MAX, Outbox

cdef enum:
    GET_BYTES = 4                       # "GET "
    REPEAT_BYTES_MAX = 2048
    REPEAT_PIECES_MAX = 8


def split_line(bytes data not None, Py_ssize_t position):
    """Cut the request line that begins at `position`.

    Returns:
        (method, target, minor version, place behind the line), or None: it is not there, not
        complete, or not letter by letter what RFC 9112 has; `framing.py` then says why.
    """
    cdef Line line
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - position
    cdef const char* start = PyBytes_AS_STRING(data) + position
    if position < 0 or size <= 0 or not head_line(start, size, &line):
        return None
    return (PyBytes_FromStringAndSize(start, line.method_size),
            PyBytes_FromStringAndSize(start + line.target, line.target_size),
            line.minor, position + line.size)


def plain_rest(bytes target not None, bytes prefix not None, Py_ssize_t size_max):
    """Return what follows the prefix of a target, if nothing of it has to be decoded.

    Returns:
        None: the target has another prefix, nothing follows it or more than `size_max` bytes do, or
        there is an escape or a query.
    """
    cdef Py_ssize_t skip = PyBytes_GET_SIZE(prefix)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(target) - skip
    cdef const char* rest = PyBytes_AS_STRING(target) + skip
    if not 0 < size <= size_max or \
            memcmp(PyBytes_AS_STRING(target), PyBytes_AS_STRING(prefix), skip) != 0 or \
            memchr(rest, c"%", size) != NULL or memchr(rest, c"?", size) != NULL:
        return None
    return PyBytes_FromStringAndSize(rest, size)


@cython.final
cdef class Tally:

    def take_hits(self):
        """Return the hits that were not taken before."""
        cdef uint64_t count = self.hit_count - self.taken_hit_count
        self.taken_hit_count += count
        return count


@cython.final
cdef class Exchange:

    def __cinit__(self, Tally tally not None, object ready not None, object count not None,
                  object on_sample, Py_ssize_t target_bytes_max):
        self.tally = tally
        self.ready = ready
        self.count = count
        self.on_sample = on_sample
        self.target_bytes_max = target_bytes_max
        self.end_keep = b""
        self.routes = []

    cdef int64_t spent_ns(self) noexcept:
        """Since what is answered now was read; -1: nobody is told."""
        return monotonic_ns() - self.began_ns if self.shows_time else -1

    cdef object ask(self, bytes target, bytes fields):
        """The answer of the first door whose prefix the target has; None: not from here."""
        cdef tuple route
        cdef bytes prefix
        cdef Py_ssize_t size = PyBytes_GET_SIZE(target)
        for route in self.routes:
            prefix = <bytes>route[0]
            if PyBytes_GET_SIZE(prefix) <= size and memcmp(
                    PyBytes_AS_STRING(prefix), PyBytes_AS_STRING(target),
                    PyBytes_GET_SIZE(prefix)) == 0:
                if route[1] is None:
                    return None
                return route[1](target, fields) if route[2] else route[1](target)
        return None


@cython.final
cdef class Lane:

    def __cinit__(self, Exchange exchange not None):
        self.exchange = exchange

    def open(self, bytes fields not None, bytes end not None, uint64_t left_count):
        """Answer requests with these fields from now on.

        Args:
            fields: The field lines; end: the same, with the empty line.
            left_count: Answers that the connection may get before its last one.
        """
        self.fields = fields
        self.end = end
        self.end_data = PyBytes_AS_STRING(end)
        self.end_size = PyBytes_GET_SIZE(end)
        self.left_count = left_count
        self.answered_count = 0
        self.is_open = self.exchange.is_plain and left_count > 0

    def close(self):
        """Answer nothing any more; returns how many requests were answered since `open`."""
        cdef uint64_t count = self.answered_count
        self.is_open = False
        self.answered_count = 0
        return count

    cdef Py_ssize_t take(self, const char* data, Py_ssize_t size, Outbox outbox) except -1:
        """Answer what begins at `data` as long as that is simple; the bytes that were taken."""
        cdef Exchange exchange = self.exchange
        cdef Line line
        cdef Py_ssize_t at = 0, need
        cdef bytes target
        cdef object answer
        while self.left_count and at < size and exchange.is_plain and outbox.has_room():
            if not head_line(data + at, size - at, &line) or line.minor != 1 or \
                    line.method_size != GET_BYTES - 1 or \
                    memcmp(data + at, <const char*>b"GET ", GET_BYTES) != 0 or \
                    data[at + line.target] != c"/" or \
                    line.target_size > exchange.target_bytes_max:
                break
            need = line.size + self.end_size
            if size - at < need or \
                    memcmp(data + at + line.size, self.end_data, self.end_size) != 0:
                break
            target = PyBytes_FromStringAndSize(data + at + line.target, line.target_size)
            try:
                answer = exchange.ask(target, self.fields)
                if answer is None or not self.give(answer, outbox):
                    break
            except Exception:
                # The handler proper meets it again, and knows what to answer.
                break
            at += need
            self.answered_count += 1
            self.left_count -= 1
        if at:
            self.deadline_s = exchange.idle_deadline_s
            exchange.tally.bytes_received += at
        return at

    cdef Py_ssize_t repeat(self, const char* data, Py_ssize_t size, Outbox outbox) except -1:
        """Answer bytes that were one whole request before; `size`, or 0: they are something else.

        The caller made sure that the lane is open and the outbox empty.
        """
        cdef Exchange exchange = self.exchange
        cdef bytes key, piece
        cdef object known, answer
        cdef tuple wire
        cdef int64_t spent_ns
        if not self.repeats or size > REPEAT_BYTES_MAX or not self.left_count or \
                not exchange.is_plain:
            return 0
        key = PyBytes_FromStringAndSize(data, size)
        known = self.repeats.get(key)
        if known is None:
            return 0
        answer = known[0]()
        if answer is None:
            self.repeats.pop(key, None)
            return 0
        wire = answer.wire
        if len(wire) > REPEAT_PIECES_MAX:
            return 0
        spent_ns = self.exchange.spent_ns()
        for piece in wire:
            outbox.put_again(piece, spent_ns)
            spent_ns = -1
        self.answered_count += 1
        self.left_count -= 1
        self.deadline_s = exchange.idle_deadline_s
        exchange.tally.bytes_received += size
        if answer.status == 200 and known[1] == b"GET":
            exchange.tally.hit_count += 1
        else:
            exchange.count(known[1], answer.status)
        return size

    cdef bint give(self, object answer, Outbox outbox) except -1:
        """Queue an answer that is all there; False: it is of another kind."""
        cdef Exchange exchange = self.exchange
        cdef object head, body
        cdef object status = None
        cdef bytes end = exchange.end_keep
        if PyTuple_CheckExact(answer):
            head = (<tuple>answer)[0]
            body = (<tuple>answer)[1]
        elif type(answer) is exchange.ready and not answer.must_close:
            head = answer.head
            body = answer.body
            if not PyBytes_CheckExact(body):
                return False
            status = answer.status
            if answer.has_date:
                end = b"\r\n"
        else:
            return False
        if not PyBytes_CheckExact(head) or \
                PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(end) > OUTBOX_HEAD_BYTES_MAX:
            return False
        outbox.put(head, end, body, exchange.spent_ns())
        if status is None or status == 200:
            exchange.tally.hit_count += 1
        else:
            exchange.count(b"GET", status)
        return True
