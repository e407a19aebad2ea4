"""Where a hit takes its bytes from: a value at hand, the chunks of an object, or a write that runs.

A source never waits. `take` returns what is at hand, or says what is `wanted`: parts to be read (by
the caller, blocking or awaiting, who then calls `supply`), or more of a write (`Wait`). So one code
serves readers in threads and in event loops.

A chunk that is gone is a hole, never skipped: RangeMissingError, or ObjectChangedError when the
object was replaced meanwhile. A source only ever reads the parts of its own object id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgecache.errors import StreamAbortedError
from edgecache.objects.chunks import Chunks, Piece
from edgecache.objects.parts import Want
from edgecache.objects.ranges import Range
from edgecache.objects.stream import StreamState, StreamWrite

# The most that is taken at a time of a value in one piece, where nobody says how much.
PIECE_BYTES_MAX = 4 << 20


class Wait:
    """The writer must go on first."""

    __slots__ = ()


WAIT = Wait()


class Source(Protocol):
    """What a `Hit` reads from. Positions lie in [0, limit]."""

    name: str
    is_counted: bool

    @property
    def size(self) -> int | None: ...
    @property
    def limit(self) -> int: ...
    @property
    def piece_bytes(self) -> int:
        """What to take where nobody says how much: no more than a chunk."""

    def take(self, position: int, size: int) -> Piece | Wait | None:
        """Up to `size` (> 0) bytes; b"" at the end; None: call `wanted` and `supply` first."""

    def wanted(self, position: int, size: int, until: int) -> list[Want]:
        """What to read for `size` bytes there, where reading may go on to `until`."""

    def is_cold(self, wants: Sequence[Want]) -> bool:
        """Whether `fetch` of these may block."""

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]: ...
    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None: ...
    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None: ...
    def moved(self) -> None:
        """Reading goes on elsewhere: what was read ahead is of no use."""

    def pinned(self, position: int, size: int) -> memoryview | None:
        """Bytes in their place in RAM; None: not there, `take` them."""

    def ranges(self, spans: Sequence[Range]) -> list[bytes] | None:
        """Several ranges of the object, read together; None: it is still being written."""

    def missing(self, start: int, end: int) -> tuple[Range, ...]: ...
    def close(self) -> None: ...


class ValueSource:
    """A value in one piece."""

    __slots__ = ("_value", "name")

    is_counted = True

    def __init__(self, value: bytes, name: str) -> None:
        self._value = value
        self.name = name

    @property
    def size(self) -> int | None:
        return len(self._value)

    @property
    def limit(self) -> int:
        return len(self._value)

    @property
    def piece_bytes(self) -> int:
        return PIECE_BYTES_MAX

    def take(self, position: int, size: int) -> Piece | Wait | None:
        value = self._value
        if position == 0 and size >= len(value):
            return value
        return memoryview(value)[position : position + size]

    def wanted(self, position: int, size: int, until: int) -> list[Want]:
        return []

    def is_cold(self, wants: Sequence[Want]) -> bool:
        return False

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        return []

    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None:
        return None

    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None:
        return None

    def moved(self) -> None:
        return None

    def pinned(self, position: int, size: int) -> memoryview | None:
        return memoryview(self._value)[position : position + size]

    def ranges(self, spans: Sequence[Range]) -> list[bytes] | None:
        return [self._value[start:end] for start, end in spans]

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        return ()

    def close(self) -> None:
        self._value = b""


class ObjectSource:
    """A complete object in chunks."""

    __slots__ = ("_chunks", "_size", "name")

    is_counted = True

    def __init__(self, chunks: Chunks, size: int, name: str) -> None:
        self._chunks = chunks
        self._size = size
        self.name = name

    @property
    def size(self) -> int | None:
        return self._size

    @property
    def limit(self) -> int:
        return self._size

    @property
    def piece_bytes(self) -> int:
        return self._chunks.grid.chunk_bytes

    def take(self, position: int, size: int) -> Piece | Wait | None:
        if position >= self._size:
            return b""
        return self._chunks.take(position, size, self._size)

    def wanted(self, position: int, size: int, until: int) -> list[Want]:
        return self._chunks.wanted(position, size, min(until, self._size), self._size)

    def is_cold(self, wants: Sequence[Want]) -> bool:
        return self._chunks.is_cold(wants)

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        return self._chunks.fetch(wants)

    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None:
        return self._chunks.entry_keys(wants)

    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None:
        self._chunks.supply(wants, parts)

    def moved(self) -> None:
        self._chunks.drop_ahead()

    def pinned(self, position: int, size: int) -> memoryview | None:
        return self._chunks.pinned(position, size, self._size)

    def ranges(self, spans: Sequence[Range]) -> list[bytes] | None:
        return self._chunks.ranges(spans, self._size)

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        return self._chunks.missing(start, end)

    def close(self) -> None:
        self._chunks.close()

    def gather(self, numbers: Sequence[int]) -> list[bytes] | None:
        """Read several chunks at once; None when one of them is missing or damaged."""
        return self._chunks.gather(numbers, self._size)


class StreamSource:
    """A write in progress: stored chunks from the store, the rest from the writer's memory."""

    __slots__ = ("_chunks", "_stream")

    name = "stream"
    is_counted = False

    def __init__(self, chunks: Chunks, stream: StreamWrite) -> None:
        self._chunks = chunks
        self._stream = stream

    @property
    def stream(self) -> StreamWrite:
        """The write that is followed."""
        return self._stream

    @property
    def size(self) -> int | None:
        return self._stream.written if self._stream.state is StreamState.FINISHED else None

    @property
    def limit(self) -> int:
        return self._stream.written

    @property
    def piece_bytes(self) -> int:
        return self._chunks.grid.chunk_bytes

    def take(self, position: int, size: int) -> Piece | Wait | None:
        stream = self._stream
        with stream.changed:
            if stream.state is StreamState.ABORTED:
                raise StreamAbortedError(
                    "the writer gave up", offset_bytes=stream.written, path=None
                )
            if position >= stream.written:
                return WAIT if stream.is_open else b""
            stored = stream.stored_bytes
            if position >= stored:
                place = position - stored
                return bytes(memoryview(stream.tail)[place : place + size])
            number, offset = stream.grid.locate(position)
            writing = stream.flying.get(number)
        if writing is not None:
            if writing.has_failed:
                raise StreamAbortedError("the store shed a part", offset_bytes=position, path=None)
            found = writing.peek(offset, size)
            if found is not None:
                return found
        return self._chunks.take(position, size, stored)

    def wanted(self, position: int, size: int, until: int) -> list[Want]:
        stored = self._stream.stored_bytes
        return self._chunks.wanted(position, size, min(until, stored), stored)

    def is_cold(self, wants: Sequence[Want]) -> bool:
        return self._chunks.is_cold(wants)

    def fetch(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        return self._chunks.fetch(wants)

    def entry_keys(self, wants: Sequence[Want]) -> list[bytes] | None:
        return self._chunks.entry_keys(wants)

    def supply(self, wants: Sequence[Want], parts: Sequence[bytes | bool | None]) -> None:
        if self._stream.state is StreamState.ABORTED:
            # Its chunks are deleted: `take` says so.
            return
        self._chunks.supply(wants, parts)

    def moved(self) -> None:
        self._chunks.drop_ahead()

    def pinned(self, position: int, size: int) -> memoryview | None:
        return None

    def ranges(self, spans: Sequence[Range]) -> list[bytes] | None:
        return None

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        stored = self._stream.stored_bytes
        written = self._stream.written
        holes = list(self._chunks.missing(start, min(end, stored)))
        if end > written:
            holes.append((max(start, written), end))
        return tuple(holes)

    def close(self) -> None:
        self._chunks.close()
