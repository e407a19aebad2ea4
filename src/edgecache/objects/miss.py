"""Writing an object as a stream."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from edgecache.errors import ObjectShedError, StreamAbortedError, ValueTooLargeError
from edgecache.objects.head import Head
from edgecache.objects.stream import StreamState, StreamWrite

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgecache.objects.backend import Lifetime
    from edgecache.objects.manager import ObjectManager


class Miss:
    """A write in progress: `write` the body, then `finish` publishes it atomically.

        with store.get_miss_handler("key") as miss:
            for piece in response:
                miss.write(piece)
            miss.finish()

    Leaving the block without `finish()`, or dropping the object, aborts the write: readers that
    tail it get StreamAbortedError, and what was published before stays.

    *Thread-safety*: one thread at a time. *Cost*: one chunk of memory, and those on their way to
    the disk, four of a store at most; a chunk that is given whole is not copied in Python. Full
    chunks are written while the caller goes on; `write` blocks where four are on their way.
    """

    __slots__ = ("__weakref__", "_manager", "_size_max", "_stream", "_ttl")

    def __init__(
        self, manager: ObjectManager, stream: StreamWrite, ttl: Lifetime, size_max: int | None
    ) -> None:
        self._manager = manager
        self._stream = stream
        self._ttl = ttl
        self._size_max = size_max

    @property
    def streaming_write_tag(self) -> bytes:
        """What `lookup_streaming_write` attaches to this write by."""
        return self._stream.tag

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._stream.written

    def write(self, data: Buffer) -> int:
        """Append bytes; how many there were.

        Raises:
            ObjectShedError: The store took no more, or it is too small; the write is aborted.
            ValueTooLargeError: More than `max_object_size`, or than was announced; likewise.
            StreamAbortedError: It was aborted before, or finished.
        """
        piece = memoryview(data).cast("B")
        self._require_open()
        self._check_size(self.size + len(piece))
        total = len(piece)
        stream = self._stream
        chunk_bytes = stream.grid.chunk_bytes
        while piece:
            held = len(stream.tail)
            room = chunk_bytes - held
            # Late, so that an object of exactly one chunk is still an ordinary entry. The first
            # chunk may be smaller: what follows it in the tail is the begin of the second.
            size = chunk_bytes if stream.stored_bytes else stream.grid.first_bytes
            if room == 0:
                self._store(memoryview(stream.tail)[:size])
            elif held == 0 and len(piece) > room:
                self._store(piece[:size])
                piece = piece[size:]
            else:
                stream.extend(piece[:room])
                piece = piece[room:]
        stream.show()
        return total

    def will_store(self, size: int) -> bool:
        """Say whether a `write` of so many bytes has a chunk to store, so that it may block."""
        return len(self._stream.tail) + size > self._stream.grid.chunk_bytes

    def _store(self, chunk: memoryview) -> None:
        stream = self._stream
        if not stream.settle(is_last=False):
            self._shed()
        number = stream.grid.count(stream.stored_bytes)
        writing = self._manager.begin_chunk(stream, number, chunk)
        if writing is None or not stream.table.set(number, writing.content_hash):
            self._shed()
        size = len(chunk)
        chunk.release()  # a tail that is exported cannot shrink
        stream.hand_over(number, writing, size)

    def finish(self) -> int:
        """Publish the object; its size. It replaces what the key had before.

        Raises:
            ObjectShedError, StreamAbortedError: As `write`; nothing is published.
            ValueTooLargeError: It is shorter than was announced.
        """
        self._require_open()
        self._check_complete()
        stream = self._stream
        size = stream.written
        if stream.stored_bytes == 0:
            content = bytes(stream.tail)
            if not self._manager.publish_value(stream, content, self._ttl):
                self._shed()
        else:
            if stream.tail:
                self._store(memoryview(stream.tail))
            if not stream.settle(is_last=True):
                self._shed()
            saved = stream.table.save(stream.grid.count(size))
            if saved is None:
                self._shed()
            table, is_paged = saved
            head = Head(
                size=size,
                generation=stream.write_id,
                object_id=stream.object_id,
                chunk_bytes=stream.grid.chunk_bytes,
                first_bytes=stream.grid.first_bytes % stream.grid.chunk_bytes,
                table=table,
                is_paged=is_paged,
                shared_count=stream.table.shared_count,
            )
            if not self._manager.publish_head(stream.key, head, stream.meta, self._ttl):
                self._shed()
        self._manager.end_write(stream, StreamState.FINISHED)
        return size

    def _check_size(self, size: int) -> None:
        limit = self._manager.object_bytes_max
        if self._size_max is not None and (limit is None or self._size_max < limit):
            limit = self._size_max
        if limit is not None and size > limit:
            self.abort()
            raise ValueTooLargeError(
                "the object is longer than it may be", expected=limit, found=size
            )
        if size > self._manager.capacity_bytes:
            self._manager.counters.add("too_large")
            self._shed()

    def _check_complete(self) -> None:
        if self._size_max is not None and self.size < self._size_max:
            found = self.size
            self.abort()
            raise ValueTooLargeError(
                "the object is shorter than was announced",
                hint="write all of it, or announce no size",
                expected=self._size_max,
                found=found,
            )

    def _require_open(self) -> None:
        if not self._stream.is_open:
            state = self._stream.state.name.lower()
            raise StreamAbortedError(f"the write is {state}", hint="start another one")

    def _shed(self) -> NoReturn:
        self._manager.counters.add("shed_writes")
        self.abort()
        raise ObjectShedError("the store did not accept a part of the object")

    def abort(self) -> None:
        """Give the write up; idempotent, and nothing after `finish`."""
        if self._stream.is_open:
            self._manager.abort_write(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.abort()
