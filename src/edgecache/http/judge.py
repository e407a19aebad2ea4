"""The second opinion on a field block: what llhttp reads in it.

Smuggling lives on two parsers that read the same bytes differently. A block is therefore taken only
when llhttp, in its strict mode, reads the same fields as the grammar of `framing.py`. It judges
fields alone: the place where the content ends follows from them by rules of our own, because the
binding skips the content of a request with an Upgrade field and knows a fixed list of methods only.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

__all__ = ["fields_by_llhttp"]

# Any method with content will do; the real request line was judged before.
_LINE = b"POST / HTTP/1.1\r\n"


class _Sink:
    __slots__ = ("fields", "is_complete")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def fields_by_llhttp(raw: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return the fields that llhttp reads in these lines, or None when it refuses them."""
    sink = _Sink()
    try:
        HttpRequestParser(sink).feed_data(_LINE + raw + b"\r\n")
    except HttpParserUpgrade:
        pass  # the header is complete; whether to upgrade is not for it to say
    except HttpParserError:
        return None
    return sink.fields if sink.is_complete else None
