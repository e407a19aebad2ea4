"""Reading an object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgecache.errors import ArgumentError, RangeError, StoreClosedError
from edgecache.meta import Meta
from edgecache.objects.chunks import Piece
from edgecache.objects.file_range import FileRange
from edgecache.objects.ranges import Range
from edgecache.objects.remote import RemoteSource
from edgecache.objects.source import Source, StreamSource, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


class HitState:
    """What hits of both kinds know, and everything that does not wait.

    Invariant: `position` <= `end` where an end is set, and neither goes beyond the object.
    """

    __slots__ = ("_end", "_is_closed", "_position", "_source", "_version", "key", "meta")

    def __init__(
        self, key: bytes, meta: Meta | None, version: int | Callable[[], int], source: Source
    ) -> None:
        self.key = key
        self.meta = meta
        self._version = version
        self._source = source
        self._position = 0
        self._end: int | None = None
        self._is_closed = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole object; None while it is being written."""
        return self._source.size

    @property
    def version(self) -> int:
        """Names the generation that is read: another object under the key has another one."""
        if not isinstance(self._version, int):
            self._version = self._version()
        return self._version

    @property
    def source(self) -> str:
        """Where its first byte came from: "memory", "disk" or "stream"."""
        return self._source.name

    @property
    def weight(self) -> int:
        """Bytes that an eviction policy should count for it."""
        return self._source.limit

    @property
    def position(self) -> int:
        """Where the next read begins."""
        return self._position

    def should_count_access(self) -> bool:
        """Whether it is a hit on a complete object, which a policy should hear of."""
        return self._source.is_counted

    def can_seek(self) -> bool:
        """Whether `seek` works: always; in a write in progress within what is written."""
        return True

    def can_seek_multipart(self) -> bool:
        """Whether `seek` may be called again for the next range: always."""
        return True

    def seek(self, start: int, end: int | None = None) -> None:
        """Read the bytes of [start, end) next; `end` None: to the end of the object.

        Raises:
            RangeError: They do not lie in the object.
        """
        self._check_range(start, end)
        if start != self._position:
            self._source.moved()
        self._position = start
        self._end = end

    def _check_range(self, start: int, end: int | None) -> None:
        limit, size = self._source.limit, self._source.size
        if not 0 <= start <= limit or (
            end is not None and (end < start or (size is not None and end > size))
        ):
            raise RangeError(
                "the range does not lie in the object", expected=(0, limit), found=(start, end)
            )

    def seek_multipart(self, start: int, end: int | None = None) -> None:
        """As `seek`."""
        self.seek(start, end)

    def _checked(self, ranges: Iterable[Range]) -> list[Range]:
        if self._is_closed:
            raise StoreClosedError("the hit is closed", hint="look the key up again")
        checked = [(start, end) for start, end in ranges]
        for one in checked:
            self._check_range(*one)
        return checked

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        """Return the holes of a range, as far as memory knows: () when all should be there.

        *Cost*: one probe of the index per chunk; no I/O.
        """
        size = self._source.size
        if not 0 <= start <= end or (size is not None and end > size):
            raise RangeError(
                "the range does not lie in the object", expected=(0, size), found=(start, end)
            )
        return self._source.missing(start, end)

    def _file_range(self, verify: bool) -> FileRange | None:
        self._room(0)
        descriptor = self._source.open_body()
        if descriptor is None:
            return None
        found = FileRange(descriptor, self._position, self._until() - self._position)
        step = self._source.piece_bytes
        for start in range(self._position, self._until(), step) if verify else ():
            self._source.ranges([(start, min(start + step, self._until()))])
        return found

    def close(self) -> None:
        """Let go of the object; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._source.close()

    def _room(self, size: int) -> int:
        """How much a read of `size` may take; 0 at the end of the range."""
        if self._is_closed:
            raise StoreClosedError("the hit is closed", hint="look the key up again")
        if size < -1:
            raise ArgumentError("a size is -1, or 0 and more", found=size)
        room = self._source.piece_bytes if size == -1 else size
        return room if self._end is None else min(room, self._end - self._position)

    def _until(self) -> int:
        return self._source.limit if self._end is None else min(self._end, self._source.limit)

    def _took(self, piece: Piece) -> Piece:
        self._position += len(piece)
        return piece


class Hit(HitState):
    """An object that was found; read it with `read`, `readinto` or a loop over its pieces.

        with store.lookup("key") as hit:
            for piece in hit:
                ...

    It is pinned to one generation of the object. When that is replaced, reading goes on with its
    own bytes as long as they are there; then ObjectChangedError.

    *Thread-safety*: one thread at a time. *Cost*: one or two chunks of memory.
    """

    __slots__ = ("__weakref__",)

    def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes, b"" at the end; -1: the next convenient piece (to a chunk's end).

        Of a write in progress it waits for the writer when nothing is at hand.

        Raises:
            RangeMissingError: The next bytes are gone; `missing` says which.
            ObjectChangedError: Likewise, and the key has another object now.
            StreamAbortedError: The writer gave up.
        """
        piece = self._next(n)
        return piece if isinstance(piece, bytes) else bytes(piece)

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer; how many bytes, less than its size only at the end of the range.

        Of a write in progress it returns what is at hand, after waiting for at least one byte.
        """
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            if filled and self._position >= self._source.limit:
                break
            piece = self._next(len(target) - filled)
            if not piece:
                break
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def read_ranges(self, ranges: Iterable[Range]) -> list[bytes]:
        """Return the bytes of several ranges, in their order; the position stays.

        *Cost*: what is on disk is read together, so as long as the longest of them. All of it is
        in memory at a time.

        Raises:
            RangeError: One does not lie in the object; nothing is read.
            RangeMissingError, ObjectChangedError, StreamAbortedError: As `read`.
        """
        checked = self._checked(ranges)
        found = self._source.ranges(checked)
        return [self._read_one(*one) for one in checked] if found is None else found

    def _read_one(self, start: int, end: int) -> bytes:
        before = self._position, self._end
        self.seek(start, end)
        try:
            return b"".join(self)
        finally:
            self._position, self._end = before

    def buffers(self) -> Iterator[memoryview]:
        """Iterate over the rest of the range as memoryviews; chunks in RAM are not copied.

        Such a chunk is pinned, and counted as pinned, until its view is released or dropped.
        """
        while room := self._room(-1):
            view = self._source.pinned(self._position, room)
            if view is None:
                view = memoryview(self._next(-1))
            else:
                self._position += len(view)
            if not view:
                return
            yield view

    def _next(self, size: int) -> Piece:
        room = self._room(size)
        while room:
            piece = self._source.take(self._position, room)
            if piece is None:
                wants = self._source.wanted(self._position, room, self._until())
                self._source.supply(wants, self._source.fetch(wants))
            elif isinstance(piece, Wait):
                assert isinstance(self._source, (StreamSource, RemoteSource))
                self._source.stream.wait(self._position)
            else:
                return self._took(piece)
        return b""

    def file_range(self, *, verify: bool = True) -> FileRange | None:
        """Return the rest of the range as bytes of a file, for sendfile(2); the position stays.

        None where they do not lie in one file that is never written again: an object of the region
        log or in RAM, one that is being written. `buffers` is the way to send these.

        Args:
            verify: Read the bytes first, and compare their sums. They are then in the page cache,
                so that sending them does not wait for the device.

        Raises:
            ObjectChangedError: The object was replaced, or it is damaged.
        """
        return self._file_range(verify)

    def finish(self) -> None:
        """Be done with it, as `close`."""
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_is_closed"):
            self.close()
