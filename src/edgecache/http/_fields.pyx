"""Field sections between bytes and pairs (see _fields.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, memcpy

from edgecache.http._head cimport head_is_token

cdef enum:
    LENGTH_DIGITS_MAX = 18          # always below 2^63


cdef inline bint is_value_byte(unsigned char byte) noexcept nogil:
    return byte == 0x09 or (0x20 <= byte <= 0x7e) or byte >= 0x80


cdef inline bint is_blank(unsigned char byte) noexcept nogil:
    return byte == 0x20 or byte == 0x09


cdef inline bint name_is(const char* name, Py_ssize_t size, const char* wanted,
                         Py_ssize_t wanted_size) noexcept nogil:
    return size == wanted_size and memcmp(name, wanted, size) == 0


cdef inline bint keeps_alive(const char* value, Py_ssize_t size) noexcept nogil:
    """Is a value of Connection the one that says what HTTP/1.1 does anyway?"""
    cdef const char* word = "keep-alive"
    cdef Py_ssize_t at
    if size != 10:
        return False
    for at in range(10):
        if (<unsigned char>value[at] | 0x20) != (<unsigned char>word[at] | 0x20):
            return False
    return True


cdef inline int64_t plain_length(const char* value, Py_ssize_t size) noexcept nogil:
    """A Content-Length; -1: not a plain number."""
    cdef int64_t found = 0
    cdef Py_ssize_t at
    if size == 0 or size > LENGTH_DIGITS_MAX:
        return -1
    for at in range(size):
        if value[at] < c"0" or value[at] > c"9":
            return -1
        found = found * 10 + (value[at] - c"0")
    return found


def split_head(bytes data not None, Py_ssize_t start, Py_ssize_t end, Py_ssize_t count_max):
    """Cut a head that stands between `start` and `end`, its empty line left out.

    Returns:
        Status, reason, (lower-case name, value) pairs, minor version, Content-Length (-1: none),
        and whether the framing depends on more than that; or why it is no head.
    """
    cdef const char* text = PyBytes_AS_STRING(data)
    cdef Py_ssize_t at = start, line_end, name_end, value, value_end, count = 0, size
    cdef int64_t length = -1
    cdef bint is_odd = False
    cdef int status, minor
    cdef const char* found
    cdef char* lower
    cdef unsigned char byte
    cdef bytes name, reason
    cdef list fields = []
    if start < 0 or end > PyBytes_GET_SIZE(data) or end - at < 12 or \
            memcmp(text + at, <const char*>b"HTTP/1.", 7) != 0:
        return HEAD_LINE_BAD
    if text[at + 7] != c"0" and text[at + 7] != c"1":
        return HEAD_LINE_BAD
    minor = text[at + 7] - c"0"
    if text[at + 8] != c" " or not c"1" <= text[at + 9] <= c"9" or \
            not c"0" <= text[at + 10] <= c"9" or not c"0" <= text[at + 11] <= c"9":
        return HEAD_LINE_BAD
    status = 100 * (text[at + 9] - c"0") + 10 * (text[at + 10] - c"0") + text[at + 11] - c"0"
    at += 12
    found = <const char*>memchr(text + at, c"\r", end - at)
    line_end = end if found == NULL else found - text
    if at < line_end:
        if text[at] != c" ":
            return HEAD_LINE_BAD
        at += 1
    for size in range(at, line_end):
        if not is_value_byte(<unsigned char>text[size]):
            return HEAD_LINE_BAD
    reason = PyBytes_FromStringAndSize(text + at, line_end - at)
    at = line_end
    if at < end:
        if end - at < 2 or text[at + 1] != c"\n":
            return HEAD_LINE_BAD
        at += 2
        if at == end:
            return HEAD_FIELD_BAD
    while at < end:
        count += 1
        if count > count_max:
            return HEAD_FIELDS_MANY
        name_end = at
        while name_end < end and head_is_token(<unsigned char>text[name_end]):
            name_end += 1
        if name_end == at or name_end >= end or text[name_end] != c":":
            return HEAD_FIELD_BAD
        value = name_end + 1
        while value < end and is_blank(<unsigned char>text[value]):
            value += 1
        line_end = value
        while line_end < end and is_value_byte(<unsigned char>text[line_end]):
            line_end += 1
        value_end = line_end
        while value_end > value and is_blank(<unsigned char>text[value_end - 1]):
            value_end -= 1
        size = name_end - at
        # Made empty, then written: bytes made of one given byte are the interpreter's own, and
        # everybody's.
        name = PyBytes_FromStringAndSize(NULL, size)
        lower = PyBytes_AS_STRING(name)
        for name_end in range(size):
            byte = <unsigned char>text[at + name_end]
            lower[name_end] = <char>(byte | 0x20 if 0x41 <= byte <= 0x5a else byte)
        if name_is(lower, size, "content-length", 14):
            if length >= 0:
                is_odd = True
            length = plain_length(text + value, value_end - value)
            is_odd = is_odd or length < 0
        elif name_is(lower, size, "transfer-encoding", 17):
            is_odd = True
        elif name_is(lower, size, "connection", 10):
            is_odd = is_odd or not keeps_alive(text + value, value_end - value)
        fields.append((name, PyBytes_FromStringAndSize(text + value, value_end - value)))
        at = line_end
        if at < end:
            if end - at < 2 or text[at] != c"\r" or text[at + 1] != c"\n":
                return HEAD_FIELD_BAD
            at += 2
            if at == end:
                return HEAD_FIELD_BAD
    return status, reason, fields, minor, length, is_odd


def render_fields(tuple pairs not None, frozenset unwanted not None, dict spellings not None,
                  object spell not None):
    """Write field lines, each with its CRLF.

    Args:
        pairs: (lower-case name, value).
        unwanted: Names to leave out.
        spellings: Names as they are written, with ": "; completed by `spell`.
        spell: Spells a name.
    """
    cdef tuple pair
    cdef bytes name, value, written, block
    cdef object known
    cdef list parts = []
    cdef Py_ssize_t size = 0
    cdef char* target
    cdef const char* text
    for pair in pairs:
        name = <bytes>pair[0]
        value = <bytes>pair[1]
        if name in unwanted:
            continue
        known = spellings.get(name)
        if known is None:
            text = PyBytes_AS_STRING(name)
            if PyBytes_GET_SIZE(name) == 0 or memchr(text, c":", PyBytes_GET_SIZE(name)) != NULL:
                return None
            if has_break(text, PyBytes_GET_SIZE(name)):
                return None
            known = spell(name) + b": "
            if len(spellings) >= 4096:
                spellings.clear()
            spellings[name] = known
        text = PyBytes_AS_STRING(value)
        if has_break(text, PyBytes_GET_SIZE(value)):
            return None
        parts.append(known)
        parts.append(value)
        size += PyBytes_GET_SIZE(<bytes>known) + PyBytes_GET_SIZE(value) + 2
    block = PyBytes_FromStringAndSize(NULL, size)
    target = PyBytes_AS_STRING(block)
    cdef Py_ssize_t number
    for number in range(0, len(parts), 2):
        written = <bytes>parts[number]
        memcpy(target, PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written))
        target += PyBytes_GET_SIZE(written)
        written = <bytes>parts[number + 1]
        memcpy(target, PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written))
        target += PyBytes_GET_SIZE(written)
        target[0] = c"\r"
        target[1] = c"\n"
        target += 2
    return block


cdef inline bint has_break(const char* text, Py_ssize_t size) noexcept nogil:
    """Does it hold CR, LF or NUL?"""
    cdef Py_ssize_t at
    for at in range(size):
        if text[at] == c"\r" or text[at] == c"\n" or text[at] == 0:
            return True
    return False
