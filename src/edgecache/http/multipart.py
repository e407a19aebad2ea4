"""multipart/byteranges (RFC 9110, section 14.6)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

__all__ = ["Multipart"]


class Multipart:
    """Frames several ranges of one representation.

    Args:
        content_type: Of the representation.
        ranges: (start, end) with end exclusive.
        size: Of the whole representation.
    """

    def __init__(self, content_type: str, ranges: list[tuple[int, int]], size: int) -> None:
        # Random, so that no content can hold it on purpose.
        boundary = os.urandom(16).hex()
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self._ranges = ranges
        self._heads = [
            (
                f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\n"
                f"Content-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
            ).encode("latin-1")
            for start, end in ranges
        ]
        self._end = f"\r\n--{boundary}--\r\n".encode("ascii")
        content = sum(end - start for start, end in ranges)
        self.length = content + sum(map(len, self._heads)) + len(self._end)

    async def pieces(
        self, read: Callable[[list[tuple[int, int]]], AsyncIterator[bytes]]
    ) -> AsyncIterator[bytes]:
        """Give the framed content; `read` gives the bytes of ranges."""
        for head, part in zip(self._heads, self._ranges, strict=True):
            yield head
            async for piece in read([part]):
                yield piece
        yield self._end
