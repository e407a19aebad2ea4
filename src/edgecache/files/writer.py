"""An object that is written in pieces, in any order, and published as a whole."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from edgecache._files import KEEP_BODY_FILE_BYTES, STRIPS_BODY_MIN
from edgecache.errors import ArgumentError, CorruptionError, DiskIOError, EntryNotFoundError
from edgecache.files import names
from edgecache.files.ranges import Ranges
from edgecache.files.strip_sums import StripSums

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgecache.files.tier import FileTier, Ticket


class ObjectWriter:
    """One writer's unfinished object; made by `FileTier.begin`.

    Args:
        body_file_bytes: Where the body goes on in another file; a multiple of the chunk.

    *Thread-safety*: any thread; calls are serialised.
    """

    def __init__(
        self, tier: FileTier, key: bytes, hash16: bytes, flags: int,
        body_file_bytes: int = KEEP_BODY_FILE_BYTES,
    ) -> None:  # fmt: skip
        self._tier = tier
        self._key = key
        self._hash16 = hash16
        self._flags = flags
        self._body_file_bytes = body_file_bytes
        self._lock = threading.Lock()
        self._present = Ranges()
        self._reserved = 0
        state = tier.state
        with state.mutex:
            self._place = state.places.take()
        self._name = state.places.name(self._place)
        self._sums = StripSums(state.files, self._name)
        _raise_for(state.files.make_directory(self._name), "cannot begin an object")
        self._process = os.getpid()
        self._is_open = True

    @property
    def present(self) -> tuple[tuple[int, int], ...]:
        """The ranges that are written: (start, end), ascending, end exclusive."""
        with self._lock:
            return self._present.all()

    def missing(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """Return the holes between two offsets."""
        with self._lock:
            return self._present.missing(start, end)

    def write_at(self, offset: int, data: Buffer) -> bool:
        """Write bytes anywhere; False: shed and counted, and they are not there.

        Raises:
            EntryNotFoundError: It was published or aborted.
        """
        view = memoryview(data).cast("B")
        if offset < 0:
            raise ArgumentError("a negative offset", found=offset)
        with self._lock:
            self._check_open()
            reason = self._tier.reserve(names.blocks(view.nbytes) + names.BLOCK_BYTES)
            if reason:
                self._tier.state.counters.count_shed(reason)
                return False
            self._reserved += names.blocks(view.nbytes) + names.BLOCK_BYTES
            place = offset
            while place < offset + view.nbytes:
                number, inner = divmod(place, self._body_file_bytes)
                size = min(self._body_file_bytes - inner, offset + view.nbytes - place)
                part = view[place - offset : place - offset + size]
                code = self._tier.state.files.write_at(self._leaf(number), inner, part)
                if code < 0:
                    self._tier.state.note_failure(-code, time.monotonic())
                    self._tier.state.counters.count_shed("io_error")
                    self._present.remove(offset, offset + view.nbytes)
                    self._sums.forget(offset, offset + view.nbytes)
                    return False
                place += size
            self._sums.forget(offset, offset + view.nbytes)
            if self._sums.add(offset, view) < 0:
                self._sums.forget(offset, offset + view.nbytes)  # read back at the end
            self._present.add(offset, offset + view.nbytes)
            return True

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes that were written.

        Raises:
            EntryNotFoundError: Not all of them were, or it was published or aborted.
            DiskIOError: They cannot be read.
        """
        with self._lock:
            self._check_open()
            if self._present.missing(offset, offset + length):
                raise EntryNotFoundError("a hole", offset_bytes=offset)
            return self._load(offset, length)

    def _load(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            number, inner = divmod(offset, self._body_file_bytes)
            size = min(self._body_file_bytes - inner, length)
            part = self._tier.state.files.read_at(self._leaf(number), inner, size)
            if isinstance(part, int):
                raise DiskIOError("cannot read an unfinished object", errno=-part)
            parts.append(part)
            offset += size
            length -= size
        return b"".join(parts)

    def publish(self, size: int, meta: bytes = b"", expiry_us: int = 0) -> bool:
        """`seal` it and make it the key's object; False: shed and counted."""
        ticket = self.seal(size, meta, expiry_us)
        with self._tier.lock(self._hash16):
            return self._tier.enter(ticket)

    def seal(self, size: int, meta: bytes = b"", expiry_us: int = 0, flags: int = 0) -> Ticket:
        """End writing; what is returned is to be given to `FileTier.enter` or `drop`.

        Args:
            size: Of the body; every byte of it was written.
            flags: What is known by now, besides those of `FileTier.begin` (`FLAG_TAGGED`).

        Raises:
            CorruptionError: There are holes.

        *Cost*: reads back, to sum them, the chunks that were not written strip by strip.
        """
        from edgecache.files.tier import Ticket

        state = self._tier.state
        with self._lock:
            self._check_open()
            self._flags |= flags
            holes = self._present.missing(0, size)
            if holes:
                raise CorruptionError("the object has holes", found=holes[:8])
            sums = self._sums.seal(size, self._load)
            ticket = Ticket(self._hash16, size, expiry_us, self._flags)
            ticket.sequence = state.index.take_sequence()
            ticket.reserved = self._reserved
            ticket.space = (
                sums
                if isinstance(sums, int)
                else self._write_metas(size, sums, meta, ticket.sequence, expiry_us)
            )
            if ticket.space < 0:
                state.note_failure(-ticket.space, time.monotonic())
                ticket.shed = "io_error"
            else:
                ticket.place = self._place
            bodies = max(1, -(-size // self._body_file_bytes))
            ticket.leaves = (
                *(self._leaf_name(number) for number in range(bodies)),
                *((names.SUMS,) if size > STRIPS_BODY_MIN else ()),
                *((names.HEAD, names.META) if meta else (names.HEAD,)),
            )
            self._is_open = False
            if ticket.shed:
                self._discard()
        return ticket

    def _write_metas(
        self, size: int, sums: bytes, meta: bytes, sequence: int, expiry_us: int
    ) -> int:
        files = self._tier.state.files
        if size == 0:
            code = files.write_at(self._leaf(0), 0, b"")
            if code < 0:
                return int(code)
        space = files.write_metas(
            self._name, self._hash16, self._key, size, sums, meta, sequence, expiry_us,
            time.time_ns() // 1000, self._flags, self._body_file_bytes,
        )  # fmt: skip
        leaves = [self._leaf(n) for n in range(max(1, -(-size // self._body_file_bytes)))]
        if size > STRIPS_BODY_MIN:
            leaves.append(b"%b/%b" % (self._name, names.SUMS))
        for leaf in leaves:
            part = files.space_of(leaf)
            if space < 0 or part < 0:
                return int(min(space, part))
            space += part
        return int(space) + names.overhead_bytes(bool(meta), size > STRIPS_BODY_MIN)

    def abort(self) -> None:
        """Give it up; idempotent."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._tier.release(self._reserved)
                self._discard()

    def _discard(self) -> None:
        with self._tier.state.mutex:
            self._tier.state.discards.append((self._place, 0))
        self._tier.flush()

    def _check_open(self) -> None:
        if not self._is_open:
            raise EntryNotFoundError("the object was published or aborted")

    def _leaf(self, number: int) -> bytes:
        return b"%b/%b" % (self._name, self._leaf_name(number))

    @staticmethod
    def _leaf_name(number: int) -> bytes:
        return names.BODY if number == 0 else b"%b.%d" % (names.BODY, number)

    def __del__(self) -> None:
        # A child of fork() must not wait for a lock that another thread of its parent held.
        if getattr(self, "_is_open", False) and self._process == os.getpid():
            self.abort()


def _raise_for(code: int, what: str) -> None:
    if code < 0:
        raise DiskIOError(what, errno=-code)
