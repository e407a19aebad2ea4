"""Bytes on their way to one socket (see _outbox.pxd)."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t sendmsg(int descriptor, const msghdr* message, int flags)
    Py_ssize_t c_send "send"(int descriptor, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT


@cython.final
cdef class Outbox:

    def __cinit__(self):
        self.buffer = <char*>malloc(OUTBOX_BYTES)
        if self.buffer == NULL:
            raise MemoryError("no memory for answers")

    def __dealloc__(self):
        self.clear()
        free(self.buffer)

    cdef bint has_room(self) noexcept:
        """Is there room for an answer of any size that is taken, and is one more worth it?"""
        return self.used + OUTBOX_ANSWER_BYTES_MAX <= OUTBOX_BYTES and \
            self.total < OUTBOX_GATHER_BYTES and \
            self.vector_count + 2 <= OUTBOX_VECTORS and self.body_count < OUTBOX_BODIES

    cdef int put(self, bytes head, bytes end, object body, int64_t spent_ns) except -1:
        """Add an answer, all of it or nothing; the caller made sure of `has_room`.

        Args:
            head, end: OUTBOX_HEAD_BYTES_MAX together at most.
            body: bytes, or anything else with the buffer protocol.
            spent_ns: What the answer took, for a line between head and end; < 0: no line.
        """
        cdef Py_buffer* view
        cdef bint is_small = PyBytes_CheckExact(body) and \
            PyBytes_GET_SIZE(body) <= OUTBOX_COPY_BYTES_MAX
        if not is_small:
            # First: nothing is added when there is no buffer.
            PyObject_GetBuffer(body, &self.bodies[self.body_count], PyBUF_SIMPLE)
            self.body_count += 1
        self.add(PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        if spent_ns >= 0:
            self.add_time(spent_ns)
        self.add(PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))
        if is_small:
            self.add(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        else:
            view = &self.bodies[self.body_count - 1]
            self.vectors[self.vector_count].iov_base = view.buf
            self.vectors[self.vector_count].iov_len = view.len
            self.vector_count += 1
            self.total += view.len
        return 0

    cdef int put_again(self, bytes piece, int64_t spent_ns) except -1:
        """Add a piece of an answer as it goes out; what it took stands behind its first line.

        Args:
            spent_ns: < 0: no line, or a piece without a head.
        """
        cdef const char* text = PyBytes_AS_STRING(piece)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece), skip = 0
        cdef const char* found = NULL
        cdef iovec* vector
        if spent_ns >= 0:
            found = <const char*>memchr(text, c"\n", size)
        if found == NULL:
            return self.put(b"", b"", piece, -1)
        skip = found - text + 1
        self.add(text, skip)
        self.add_time(spent_ns)
        if size - skip <= OUTBOX_COPY_BYTES_MAX:
            self.add(text + skip, size - skip)
            return 0
        PyObject_GetBuffer(piece, &self.bodies[self.body_count], PyBUF_SIMPLE)
        self.body_count += 1
        vector = &self.vectors[self.vector_count]
        vector.iov_base = <char*>text + skip
        vector.iov_len = size - skip
        self.vector_count += 1
        self.total += size - skip
        return 0

    cdef void add_time(self, int64_t spent_ns) noexcept:
        cdef char[OUTBOX_TIME_BYTES_MAX] line
        cdef int64_t spent_us = spent_ns // 1000
        cdef int size = snprintf(line, sizeof(line), b"X-Total-Time-Ms: %lld.%03d\r\n",
                                 <long long>(spent_us // 1000), <int>(spent_us % 1000))
        self.add(line, size)

    cdef void add(self, const char* data, size_t size) noexcept:
        cdef iovec* last
        if size == 0:
            return
        memcpy(self.buffer + self.used, data, size)
        if self.vector_count:
            last = &self.vectors[self.vector_count - 1]
            if <char*>last.iov_base + last.iov_len == self.buffer + self.used:
                last.iov_len += size
                self.used += size
                self.total += size
                return
        self.vectors[self.vector_count].iov_base = self.buffer + self.used
        self.vectors[self.vector_count].iov_len = size
        self.vector_count += 1
        self.used += size
        self.total += size

    cdef Py_ssize_t send(self, int descriptor) noexcept:
        """Hand everything over by one call; how many bytes the socket took, or -errno."""
        cdef msghdr message
        cdef Py_ssize_t sent
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = self.vectors
        message.msg_iovlen = self.vector_count
        while True:
            if self.vector_count == 1:
                sent = c_send(descriptor, self.vectors[0].iov_base, self.vectors[0].iov_len,
                              MSG_NOSIGNAL | MSG_DONTWAIT)
            elif self.total > OUTBOX_LARGE_BYTES:
                with nogil:
                    sent = sendmsg(descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                sent = sendmsg(descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef bytes rest(self, size_t sent):
        """A copy of what is behind the first `sent` bytes."""
        cdef bytes found = PyBytes_FromStringAndSize(NULL, self.total - sent)
        cdef char* target = PyBytes_AS_STRING(found)
        cdef size_t skip = sent, size
        cdef int number
        for number in range(self.vector_count):
            size = self.vectors[number].iov_len
            if skip >= size:
                skip -= size
                continue
            memcpy(target, <char*>self.vectors[number].iov_base + skip, size - skip)
            target += size - skip
            skip = 0
        return found

    cdef void clear(self) noexcept:
        """Let go of everything."""
        while self.body_count:
            self.body_count -= 1
            PyBuffer_Release(&self.bodies[self.body_count])
        self.vector_count = 0
        self.used = self.total = 0
