"""Chunks on their way: what a backend is asked for, and what it hands back meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgecache.objects.head import NO_HASH, content_hash

if TYPE_CHECKING:
    from typing_extensions import Buffer

Name = tuple[bytes, int]


class Want(NamedTuple):
    """Bytes [start, end) of a part of `part_bytes` bytes.

    Args:
        name: Object id and number of the part, or what `HashTable.name` says.
        content_hash: Of the whole part; NO_HASH: not known.
        number: Of the chunk in its object.
    """

    name: Name
    part_bytes: int
    start: int
    end: int
    content_hash: bytes = NO_HASH
    number: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the part."""
        return self.start == 0 and self.end == self.part_bytes


class Moving(Protocol):
    """Something that a thread of the engine may still be at."""

    @property
    def is_done(self) -> bool: ...


class Writing(Moving, Protocol):
    """A part on its way to the store.

    Until it is done its bytes can be read here; then the store has them, unless it failed.
    """

    @property
    def content_hash(self) -> bytes: ...
    @property
    def has_failed(self) -> bool: ...
    def wait(self) -> bool:
        """Whether it was stored; False: shed and counted."""

    def peek(self, start: int, size: int) -> bytes | None:
        """Up to `size` of its bytes from `start` on; None: no longer here, but stored."""


class Reading(Moving, Protocol):
    """A part on its way from the store."""

    def result(self) -> bytes | bool | None:
        """The bytes; None: not there; False: not what the content hash says. Blocks."""

    def cancel(self) -> bool:
        """Do not begin it if it has not begun; False: too late."""


class Settled:
    """A write, or a read, that was over at once."""

    __slots__ = ("_result", "content_hash")

    is_done = True

    def __init__(self, result: bytes | bool | None, content_hash: bytes = NO_HASH) -> None:
        self._result = result
        self.content_hash = content_hash

    @property
    def has_failed(self) -> bool:
        """Of a write: whether it was shed."""
        return self._result is False

    def wait(self) -> bool:
        """Of a write: whether it was stored."""
        return self._result is True

    def peek(self, start: int, size: int) -> bytes | None:
        """Of a write: it is not here."""
        return None

    def result(self) -> bytes | bool | None:
        """Of a read: what came."""
        return self._result

    def cancel(self) -> bool:
        """Of a read: too late."""
        return False


class WholeParts:
    """For backends that write a part at once and read it whole: the rest of the protocol."""

    __slots__ = ()

    put_part: Callable[[bytes, int, Buffer], bool]
    get_parts: Callable[[bytes, Sequence[int]], list[bytes | None]]

    def begin_part(self, object_id: bytes, number: int, data: Buffer) -> Writing:
        """As `Backend.begin_part`; it is over on return."""
        digest = content_hash(memoryview(data).cast("B"))
        return Settled(self.put_part(object_id, number, data), digest)

    def read_parts(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        """As `Backend.read_parts`."""
        return [cut(want, self.get_parts(want.name[0], [want.name[1]])[0]) for want in wants]

    def begin_read(self, want: Want) -> Reading | None:
        """As `Backend.begin_read`: it cannot read ahead."""
        return None

    def park(self, moving: Moving) -> None:
        """As `Backend.park`: nothing is ever on its way."""


def cut(want: Want, part: bytes | None) -> bytes | bool | None:
    """Verify a whole part and return the wanted bytes of it."""
    if part is None or len(part) < want.part_bytes:
        return None
    if len(part) > want.part_bytes and want.content_hash != NO_HASH:
        return None  # of a write in progress, whose hash is not known yet, there may be more by now
    if want.content_hash not in (NO_HASH, content_hash(part)):
        return False
    return part[want.start : want.end]
