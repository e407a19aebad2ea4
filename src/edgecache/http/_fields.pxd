"""Field sections between bytes and pairs, byte by byte.

Invariants:

1. What `split_head` takes is what the patterns of `proxy/wire.py` take: a status line and field
   lines, each ended by CRLF, without folding, bare CR or LF, NUL, or a space before the colon.
2. What `render_fields` writes has one line for each pair: a value with CR, LF or NUL is refused.

Source: RFC 9112, sections 4 and 5; RFC 9110, section 5.
"""

cdef enum:
    HEAD_LINE_BAD = 1               # the status line
    HEAD_FIELD_BAD = 2
    HEAD_FIELDS_MANY = 3
