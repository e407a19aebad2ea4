"""The bytes of an answer, wherever they are: at hand, in the store, or on their way.

All give the whole content, or one range of it, as bytes or as an asynchronous iterator; whoever
gets an iterator closes it. What cannot give ranges in any order says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

from edgecache.proxy.exchange import OriginAnswer
from edgecache.proxy.shared_body import SharedBody

if TYPE_CHECKING:
    from edgecache.objects.async_hit import AsyncHit

# A client that stalls holds one piece.
READ_BYTES = 256 << 10

Data = bytes | AsyncIterator[bytes]


class Content(Protocol):
    """The content of a response.

    Attributes:
        size: In bytes; None while nobody knows.
        takes_several: Whether several ranges can be had one after the other.
    """

    size: int | None
    takes_several: bool

    def whole(self) -> Data:
        """Return all of it."""

    def part(self, first: int, last: int) -> Data:
        """Return a range, both ends included."""

    def close(self) -> None:
        """Nothing of it is wanted."""


class BytesContent:
    """Content that is at hand."""

    __slots__ = ("_body", "size", "takes_several")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.size: int | None = len(body)
        self.takes_several = True

    def whole(self) -> Data:
        return self._body

    def part(self, first: int, last: int) -> Data:
        return self._body[first : last + 1]

    def close(self) -> None:
        pass


class HitContent:
    """Content in the store, read while it is sent."""

    __slots__ = ("_hit", "size", "takes_several")

    def __init__(self, hit: AsyncHit, size: int) -> None:
        self._hit = hit
        self.size: int | None = size
        self.takes_several = True

    def whole(self) -> Data:
        return self._read(0, self.size or 0, is_last=True)

    def part(self, first: int, last: int) -> Data:
        return self._read(first, last + 1, is_last=False)

    async def _read(self, start: int, end: int, is_last: bool) -> AsyncIterator[bytes]:
        try:
            await self._hit.seek(start, end)
            while piece := await self._hit.read(READ_BYTES):
                yield piece
        finally:
            if is_last:
                self._hit.close()

    def close(self) -> None:
        self._hit.close()


class FollowContent:
    """Content on its way into the store, from another process."""

    __slots__ = ("_hit", "size", "takes_several")

    def __init__(self, hit: AsyncHit, size: int | None) -> None:
        self._hit = hit
        self.size = size
        self.takes_several = False

    def whole(self) -> Data:
        return self._read(0, None)

    def part(self, first: int, last: int) -> Data:
        return self._read(first, last + 1)

    async def _read(self, start: int, end: int | None) -> AsyncIterator[bytes]:
        hit = self._hit
        try:
            while hit.position < start:
                # What is there already is passed over; the byte behind it is waited for.
                if hit.weight > hit.position:
                    await hit.seek(min(start, hit.weight))
                elif not await hit.read(1):
                    return
            while end is None or hit.position < end:
                room = READ_BYTES if end is None else min(READ_BYTES, end - hit.position)
                piece = await hit.read(room)
                if not piece:
                    return
                yield piece
        finally:
            hit.close()

    def close(self) -> None:
        self._hit.close()


class SharedContent:
    """Content on its way to several clients."""

    __slots__ = ("_body", "size", "takes_several")

    def __init__(self, body: SharedBody, size: int | None) -> None:
        self._body = body
        self.size = size
        self.takes_several = False

    def whole(self) -> Data:
        return self._body.attach()

    def part(self, first: int, last: int) -> Data:
        return self._body.attach(first, last + 1)

    def close(self) -> None:
        pass


class AnswerContent:
    """Content on its way to one client; its pace is that client's."""

    __slots__ = ("_answer", "size", "takes_several")

    def __init__(self, answer: OriginAnswer) -> None:
        self._answer = answer
        # Of an answer without content the length is that of something else.
        self.size = answer.length
        self.takes_several = False

    def whole(self) -> Data:
        data, is_complete = self._answer.take_ready()
        return data if is_complete else self._read(data)

    async def _read(self, first: bytes) -> AsyncIterator[bytes]:
        answer = self._answer
        try:
            if first:
                yield first
            while piece := await answer.read():
                yield piece
        finally:
            answer.close()

    def part(self, first: int, last: int) -> Data:
        raise AssertionError("an answer that passes has no ranges")

    def close(self) -> None:
        self._answer.close()
