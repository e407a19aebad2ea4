"""A model of the object methods of a store, after their contract, on plain dictionaries.

It stands in for a store that has them, so that doors can be tested for what they ask and answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edgecache.aio import AsyncStorage
from edgecache.errors import EntryExistsError, EntryNotFoundError
from edgecache.meta import Meta


class Availability(NamedTuple):
    size: int
    ranges: tuple[tuple[int, int], ...]
    is_finalized: bool

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        holes = []
        position = 0
        for start, end in (*self.ranges, (self.size, self.size)):
            if position < start:
                holes.append((position, start))
            position = end
        return tuple(holes)

    @property
    def is_complete(self) -> bool:
        return not self.missing

    @property
    def present_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)

    @property
    def percent(self) -> float:
        return 100 * self.present_bytes / self.size


class Sparse:
    """One unfinished object: its pieces by their start, so that its size costs nothing."""

    def __init__(self, size: int, meta: Meta | None) -> None:
        self.size = size
        self.meta = meta
        self.pieces: list[tuple[int, bytes]] = []

    def ranges(self) -> tuple[tuple[int, int], ...]:
        joined: list[tuple[int, int]] = []
        for start, end in sorted((at, at + len(data)) for at, data in self.pieces):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        return tuple(joined)

    def read(self, start: int, end: int) -> bytes:
        data = bytearray(end - start)
        for at, piece in self.pieces:
            low, high = max(at, start), min(at + len(piece), end)
            if low < high:
                data[low - start : high - start] = piece[low - at : high - at]
        return bytes(data)


class ModelHit:
    """A reader, pinned to the bytes that it found."""

    source = "disk"
    version = 7

    def __init__(self, data: bytes, meta: Meta | None) -> None:
        self._data = data
        self._at, self._end = 0, len(data)
        self.size = len(data)
        self.meta = meta
        self.is_closed = False

    async def seek(self, start: int, end: int | None = None) -> None:
        self._at, self._end = start, self.size if end is None else end

    async def read(self, n: int = -1) -> bytes:
        assert not self.is_closed
        n = 1000 if n < 0 else min(n, 1000)  # short reads are allowed
        piece = self._data[self._at : min(self._at + n, self._end)]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        self.is_closed = True


class ModelMiss:
    """A writer: nothing is seen before `finish`."""

    def __init__(self, store: ModelObjects, key: bytes, meta: Meta | None, ttl: float | None):
        self._store = store
        self._target = (key, meta, ttl)
        self._pieces: list[bytes] = []

    async def write(self, data: bytes) -> int:
        self._pieces.append(data)
        return len(data)

    async def finish(self) -> int:
        key, meta, ttl = self._target
        data = b"".join(self._pieces)
        self._store.objects[key] = (data, meta)
        self._store.ttls[key] = ttl
        return len(data)

    async def abort(self) -> None:
        self._store.aborted_count += 1


class ModelObjects(AsyncStorage):
    """An `AsyncStorage` whose objects live beside its entries."""

    __slots__ = ("aborted_count", "hits", "objects", "sparse", "ttls")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.objects: dict[bytes, tuple[bytes, Meta | None]] = {}
        self.sparse: dict[bytes, Sparse] = {}
        self.ttls: dict[bytes, float | None] = {}
        self.hits: list[ModelHit] = []
        self.aborted_count = 0

    async def lookup(self, key: bytes) -> ModelHit | None:
        found = self.objects.get(key)
        if found is None:
            return None
        self.hits.append(ModelHit(*found))
        return self.hits[-1]

    async def get_miss_handler(
        self, key: bytes, meta: Meta | None = None, *, ttl: float | None = None,
        tags: tuple[str, ...] = (), size: int | None = None,
    ) -> ModelMiss:  # fmt: skip
        return ModelMiss(self, key, meta, ttl)

    async def create_sparse(
        self, key: bytes, size: int, *, meta: Meta | None = None, ttl: float | None = None
    ) -> bool:
        if key in self.sparse:
            raise EntryExistsError("it exists")
        self.sparse[key] = Sparse(size, meta)
        return True

    async def write_range(self, key: bytes, offset: int, data: bytes) -> bool:
        if key not in self.sparse:
            raise EntryNotFoundError("no such object")
        self.sparse[key].pieces.append((offset, data))
        return True

    async def read_range(self, key: bytes, offset: int, length: int) -> bytes | None:
        sparse = self.sparse.get(key)
        return None if sparse is None else sparse.read(offset, min(offset + length, sparse.size))

    async def availability(self, key: bytes) -> Availability | None:
        if key in self.sparse:
            sparse = self.sparse[key]
            return Availability(sparse.size, sparse.ranges(), is_finalized=False)
        if key in self.objects:
            size = len(self.objects[key][0])
            return Availability(size, ((0, size),), is_finalized=True)
        return None

    async def finalize(self, key: bytes, *, ttl: float | None = None) -> int:
        sparse = self.sparse.pop(key)
        self.objects[key] = (sparse.read(0, sparse.size), sparse.meta)
        self.ttls[key] = ttl
        return sparse.size

    async def delete(self, key: Any) -> bool:
        was_object = self.objects.pop(key, None) is not None
        return await super().delete(key) or was_object

    async def purge(self, key: Any) -> bool:
        was_sparse = self.sparse.pop(key, None) is not None
        return await self.delete(key) or was_sparse
