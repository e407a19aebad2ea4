"""Where a hit takes its bytes from: a value at hand, the chunks of an object, or a write that runs.

A source never waits. `take` returns what is at hand, or says what is `wanted`: parts to be read (by
the caller, blocking or awaiting, who then calls `supply`), or more of a write (`Wait`). So one code
serves readers in threads and in event loops.

A chunk that is gone is a hole, never skipped: RangeMissingError, or ObjectChangedError when the
object was replaced meanwhile. A source only ever reads the parts of its own object id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from edgecache.errors import ObjectChangedError, RangeMissingError, StreamAbortedError
from edgecache.objects.backend import Backend
from edgecache.objects.counters import Counters
from edgecache.objects.head import NO_HASH, content_hash
from edgecache.objects.ranges import Range
from edgecache.objects.stream import StreamState, StreamWrite
from edgecache.objects.table import HashTable

READ_AHEAD_CHUNKS = 2
# A smaller range of a chunk in RAM is copied from its place; a larger one as the whole chunk.
IN_PLACE_DIVISOR = 4
# The most that is taken at a time of a value in one piece, where nobody says how much.
PIECE_BYTES_MAX = 4 << 20
Piece = bytes | memoryview


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

    def wanted(self, position: int) -> list[int]: ...
    def fetch(self, numbers: Sequence[int]) -> list[bytes | None]: ...
    def entry_keys(self, numbers: Sequence[int]) -> list[bytes] | None: ...
    def supply(self, numbers: Sequence[int], parts: Sequence[bytes | None]) -> None: ...
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

    def wanted(self, position: int) -> list[int]:
        return []

    def fetch(self, numbers: Sequence[int]) -> list[bytes | None]:
        return []

    def entry_keys(self, numbers: Sequence[int]) -> list[bytes] | None:
        return None

    def supply(self, numbers: Sequence[int], parts: Sequence[bytes | None]) -> None:
        return None

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        return ()

    def close(self) -> None:
        self._value = b""


class Chunks:
    """The chunks of one object, one or two of them in memory at a time.

    Args:
        is_current: Whether the object is still what its key has.
        on_close: Called once, when nobody reads here any more.
    """

    __slots__ = (
        "_backend", "_cold", "_counters", "_held", "_is_current", "_last", "_object_id",
        "_on_close", "_table", "chunk_bytes",
    )  # fmt: skip

    def __init__(
        self,
        backend: Backend,
        counters: Counters,
        object_id: bytes,
        chunk_bytes: int,
        table: HashTable,
        is_current: Callable[[], bool],
        on_close: Callable[[], None] | None,
    ) -> None:
        self._backend = backend
        self._counters = counters
        self._object_id = object_id
        self._table = table
        self._is_current = is_current
        self._on_close = on_close
        self._held: dict[int, bytes] = {}
        self._cold: set[int] = set()
        self._last = -1
        self.chunk_bytes = chunk_bytes

    def take(self, position: int, size: int, end: int) -> Piece | None:
        """Bytes of one chunk; `end` is that of the last stored byte."""
        number, offset = divmod(position, self.chunk_bytes)
        chunk_end = min(self.chunk_bytes, end - number * self.chunk_bytes)
        size = min(size, chunk_end - offset)
        held = self._held.get(number)
        if held is None and size * IN_PLACE_DIVISOR <= chunk_end:
            view = self._backend.view_part(self._object_id, number)
            if view is not None:
                try:
                    if len(view) == chunk_end:
                        return bytes(memoryview(view)[offset : offset + size])
                finally:
                    view.release()
        if held is None:
            return None
        if len(held) != chunk_end:
            self._miss(number, chunk_end)
        if offset == 0 and size == chunk_end:
            return held
        return memoryview(held)[offset : offset + size]

    def wanted(self, position: int, chunk_count: int) -> list[int]:
        """Chunks to read: the one at `position`, and those after it when reading goes on."""
        number = position // self.chunk_bytes
        numbers = [number]
        if number == self._last + 1 and self._backend.is_cold(self._object_id, number):
            numbers = list(range(number, min(number + READ_AHEAD_CHUNKS, chunk_count)))
        self._cold = {one for one in numbers if self._backend.is_cold(self._object_id, one)}
        return numbers

    def fetch(self, numbers: Sequence[int]) -> list[bytes | None]:
        """Read chunks; blocks on the disk."""
        return self._backend.get_parts(self._object_id, numbers)

    def entry_keys(self, numbers: Sequence[int]) -> list[bytes] | None:
        """The keys to read them by on an event loop; None: `fetch` in the executor."""
        return self._backend.entry_keys(self._object_id, numbers)

    def supply(self, numbers: Sequence[int], parts: Sequence[bytes | None], end: int) -> None:
        """Take in what was read; raises when the first of them is missing or damaged."""
        self._held.clear()
        for number, part in zip(numbers, parts, strict=True):
            if part is not None and number in self._cold:
                part = self._verified(number, part)
            if part is not None:
                self._held[number] = part
        self._last = numbers[-1]
        first = numbers[0]
        if first not in self._held:
            self._miss(first, min(self.chunk_bytes, end - first * self.chunk_bytes))

    def _verified(self, number: int, part: bytes) -> bytes | None:
        expected = self._table.get(number)
        if expected in (NO_HASH, content_hash(part)):
            return part
        self._counters.add("hash_mismatches")
        return None

    def _miss(self, number: int, size: int) -> None:
        if not self._is_current():
            raise ObjectChangedError("the object was replaced while it was read")
        self._counters.add("holes")
        start = number * self.chunk_bytes
        raise RangeMissingError("a chunk of the object is gone", missing=((start, start + size),))

    def gather(self, numbers: Sequence[int]) -> list[bytes] | None:
        """Read several chunks at once; None when one of them is missing or damaged."""
        self._cold = {one for one in numbers if self._backend.is_cold(self._object_id, one)}
        found: list[bytes] = []
        for number, part in zip(numbers, self.fetch(numbers), strict=True):
            if part is not None and number in self._cold:
                part = self._verified(number, part)
            if part is None:
                self._counters.add("holes")
                return None
            found.append(part)
        return found

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        """Ranges whose chunks are not there, as far as memory knows. *Cost*: one probe each."""
        holes: list[Range] = []
        position = start
        while position < end:
            number = position // self.chunk_bytes
            chunk_end = min(end, (number + 1) * self.chunk_bytes)
            if not self._backend.has_part(self._object_id, number):
                if holes and holes[-1][1] == position:
                    holes[-1] = (holes[-1][0], chunk_end)
                else:
                    holes.append((position, chunk_end))
            position = chunk_end
        return tuple(holes)

    def close(self) -> None:
        """Let go of memory and of the object's parts; idempotent."""
        self._held.clear()
        action, self._on_close = self._on_close, None
        if action is not None:
            action()


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
        return self._chunks.chunk_bytes

    def take(self, position: int, size: int) -> Piece | Wait | None:
        if position >= self._size:
            return b""
        return self._chunks.take(position, size, self._size)

    def wanted(self, position: int) -> list[int]:
        return self._chunks.wanted(position, -(-self._size // self._chunks.chunk_bytes))

    def fetch(self, numbers: Sequence[int]) -> list[bytes | None]:
        return self._chunks.fetch(numbers)

    def entry_keys(self, numbers: Sequence[int]) -> list[bytes] | None:
        return self._chunks.entry_keys(numbers)

    def supply(self, numbers: Sequence[int], parts: Sequence[bytes | None]) -> None:
        self._chunks.supply(numbers, parts, self._size)

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        return self._chunks.missing(start, end)

    def close(self) -> None:
        self._chunks.close()

    def gather(self, numbers: Sequence[int]) -> list[bytes] | None:
        """Read several chunks at once; None when one of them is missing or damaged."""
        return self._chunks.gather(numbers)


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
        return self._chunks.chunk_bytes

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
        return self._chunks.take(position, size, stored)

    def wanted(self, position: int) -> list[int]:
        chunk_bytes = self._chunks.chunk_bytes
        return self._chunks.wanted(position, -(-self._stream.stored_bytes // chunk_bytes))

    def fetch(self, numbers: Sequence[int]) -> list[bytes | None]:
        return self._chunks.fetch(numbers)

    def entry_keys(self, numbers: Sequence[int]) -> list[bytes] | None:
        return self._chunks.entry_keys(numbers)

    def supply(self, numbers: Sequence[int], parts: Sequence[bytes | None]) -> None:
        if self._stream.state is StreamState.ABORTED:
            # Its chunks are deleted: `take` says so.
            return
        self._chunks.supply(numbers, parts, self._stream.stored_bytes)

    def missing(self, start: int, end: int) -> tuple[Range, ...]:
        stored = self._stream.stored_bytes
        written = self._stream.written
        holes = list(self._chunks.missing(start, min(end, stored)))
        if end > written:
            holes.append((max(start, written), end))
        return tuple(holes)

    def close(self) -> None:
        self._chunks.close()
