"""Where the parts of objects are kept: a small protocol, and its implementation on the region log.

A backend stores parts by (object id, number) and heads by key, and knows nothing about either. A
file layout implements the same protocol.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edgecache.errors import StoreClosedError
from edgecache.meta import ENGINE_PART, FRESH_FOREVER, Meta
from edgecache.objects.counters import Counters
from edgecache.objects.keys import part_key
from edgecache.objects.parts import Moving, Reading, Want, Writing
from edgecache.objects.values import version_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Parts live as long as the budget allows; only heads expire.
PART_META = Meta(created=0, updated=0, fresh_until=FRESH_FOREVER).encode_as(ENGINE_PART)


class Stored(NamedTuple):
    """An entry as `read_entry` of the engine returns it; the last two name this very version."""

    value: bytes
    meta: bytes
    expiry_us: int
    version: int
    location: int


class Large(NamedTuple):
    """A complete object that lies in one piece and is read by range.

    Args:
        object_id: Names what was found until `release`.
    """

    object_id: bytes
    size: int
    chunk_bytes: int
    meta: bytes
    version: int
    expiry_us: int


class At(NamedTuple):
    """A lifetime that is not counted from now: the moment of its end, in us since the epoch."""

    expiry_us: int


Lifetime = float | At | None


def expiry_of(engine: Engine, ttl: Lifetime) -> int:
    """When that lifetime ends, in us since the epoch; 0: never. None is the default one."""
    return ttl.expiry_us if isinstance(ttl, At) else engine.expiry_at(ttl)


class View(Protocol):
    """Bytes in place, pinned until released."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def release(self) -> None: ...


class Engine(Protocol):
    """The part of `Core` that objects use."""

    @property
    def value_bytes_max(self) -> int: ...
    def read_entry(self, key: bytes | str) -> tuple[bytes, bytes, int, int, int] | None: ...
    def get_many(self, keys: Iterable[bytes | str]) -> list[bytes | None]: ...
    def view(self, key: bytes | str) -> Any: ...
    def needs_disk(self, key: bytes | str) -> bool: ...
    def exists(self, key: bytes | str) -> bool: ...
    def delete(self, key: bytes | str) -> bool: ...
    def begin_part(self, key: bytes | str, data: Buffer, meta: bytes) -> Writing: ...
    def read_parts(
        self, wanted: list[tuple[bytes, int, int, int, bytes]]
    ) -> list[bytes | bool | None]: ...
    def begin_read(self, wanted: tuple[bytes, int, int, int, bytes]) -> Reading: ...
    def expiry_at(self, ttl: float | None) -> int: ...
    def put_encoded(self, key: bytes | str, value: Buffer, meta: bytes, expiry_us: int) -> bool: ...
    def replace(
        self,
        key: bytes | str,
        value: bytes,
        meta: bytes,
        expiry_us: int,
        version: int,
        location: int,
    ) -> bool | None: ...


class Backend(Protocol):
    """What holds parts and heads.

    A put returns False when it was shed; nothing raises for a sick disk. Parts may vanish at any
    time (eviction); they never change but by `put_part`.
    """

    @property
    def part_bytes_max(self) -> int: ...
    def hold(self, engine: Engine | None) -> None:
        """Use this engine until `hold(None)`: the store is closing. No-op for others."""

    def begin(self, object_id: bytes, key: bytes, chunk_bytes: int) -> None:
        """A stream begins to write this object; its parts come in order."""

    def release(self, object_id: bytes) -> None:
        """Nobody writes or reads the object here any more."""

    def find_large(self, key: bytes, size: int) -> Large | None:
        """What the key has, where that is one body of more than `size` bytes, and not in RAM.

        None: `get_head` finds it, if there is anything.
        """

    def entry_version(self, stored: Stored) -> int:
        """The version of an ordinary entry, the same as long as nobody puts the key again."""

    def version_of(self, object_id: bytes) -> int | None:
        """The version of a large body; None: it is something else."""

    def is_current(self, object_id: bytes) -> bool | None:
        """Whether a large body is what its key has; None: it is something else."""

    def put_part(self, object_id: bytes, number: int, data: Buffer) -> bool: ...
    def get_parts(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes | None]: ...
    def begin_part(self, object_id: bytes, number: int, data: Buffer) -> Writing:
        """Start to store a chunk, whose bytes may change on return. Blocks while too many are on
        their way."""

    def read_parts(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        """Read ranges of chunks, together: bytes, verified where they come from the disk; None:
        not there; False: not what the content hash says."""

    def begin_read(self, want: Want) -> Reading | None:
        """Start a read that goes on by itself; None: only `read_parts` reads here."""

    def park(self, moving: Moving) -> None:
        """Keep what nobody waits for until it is done: to drop it earlier would block."""

    def entry_keys(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes] | None:
        """The keys of the parts where they are entries that an event loop can read, else None."""

    def view_part(self, object_id: bytes, number: int) -> View | None:
        """A part in place where that needs no I/O, else None."""

    def is_cold(self, object_id: bytes, number: int) -> bool:
        """Whether reading the part needs the disk."""

    def has_part(self, object_id: bytes, number: int) -> bool:
        """Whether the part is there, as far as memory knows: no I/O."""

    def delete_parts(self, object_id: bytes, numbers: Iterable[int]) -> None: ...
    def has_head(self, key: bytes | str) -> bool:
        """Whether the key has an entry, as far as memory knows: no I/O, nothing counted."""

    def get_head(self, key: bytes | str) -> Stored | None: ...
    def put_head(self, key: bytes | str, value: Buffer, meta: bytes, ttl: Lifetime) -> bool: ...
    def put_entry(self, key: bytes, value: Buffer, meta: bytes, ttl: float | None) -> bool:
        """A head that is the store's own business: no request counts it. ttl None: for ever."""

    def delete_entry(self, key: bytes) -> bool:
        """Delete what `put_entry` put; no request counts it."""

    def replace_head(self, key: bytes | str, head: Stored, meta: bytes) -> bool | None:
        """Another meta over this very version; None: it is another one now."""

    def delete_head(self, key: bytes | str) -> bool: ...


class LogBackend:
    """Parts and heads as ordinary entries of the engine: RAM tier, region log, eviction and all.

    *Thread-safety*: every method, any thread.
    """

    __slots__ = ("_counters", "_engine", "_held", "_parked", "part_bytes_max")

    def __init__(self, engine: Engine, counters: Counters) -> None:
        # Weak: the store holds this object.
        self._engine = weakref.ref(engine)
        self._held: Engine | None = None
        self._counters = counters
        self._parked: list[Moving] = []
        self.part_bytes_max = engine.value_bytes_max

    def _open(self) -> Engine:
        engine = self._held or self._engine()
        if engine is None:
            raise StoreClosedError("the store is closed", hint="open it again")
        return engine

    def hold(self, engine: Engine | None) -> None:
        self._held = engine
        if engine is None:
            self._parked = []

    def park(self, moving: Moving) -> None:
        # Few: what no thread of the engine has begun is cancelled, not parked.
        self._parked = [one for one in (*self._parked, moving) if not one.is_done]

    def begin_part(self, object_id: bytes, number: int, data: Buffer) -> Writing:
        writing = self._open().begin_part(part_key(object_id, number), data, PART_META)
        self._counters.add("own_puts", int(not writing.has_failed))
        return writing

    def read_parts(self, wants: Sequence[Want]) -> list[bytes | bool | None]:
        return self._open().read_parts([(part_key(*one.name), *one[1:5]) for one in wants])

    def begin_read(self, want: Want) -> Reading | None:
        return self._open().begin_read((part_key(*want.name), *want[1:5]))

    def begin(self, object_id: bytes, key: bytes, chunk_bytes: int) -> None:
        """Parts need no preparation."""

    def release(self, object_id: bytes) -> None:
        """Nothing is kept by object."""

    def find_large(self, key: bytes, size: int) -> Large | None:
        return None

    def entry_version(self, stored: Stored) -> int:
        return version_of(stored.value)

    def version_of(self, object_id: bytes) -> int | None:
        return None

    def is_current(self, object_id: bytes) -> bool | None:
        return None

    def put_part(self, object_id: bytes, number: int, data: Buffer) -> bool:
        return self.put_entry(part_key(object_id, number), data, PART_META, None)

    def get_parts(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        return self._open().get_many([part_key(object_id, number) for number in numbers])

    def entry_keys(self, object_id: bytes, numbers: Sequence[int]) -> list[bytes] | None:
        return [part_key(object_id, number) for number in numbers]

    def view_part(self, object_id: bytes, number: int) -> View | None:
        key, engine = part_key(object_id, number), self._open()
        view: View | None = None if engine.needs_disk(key) else engine.view(key)
        return view

    def is_cold(self, object_id: bytes, number: int) -> bool:
        return self._open().needs_disk(part_key(object_id, number))

    def has_part(self, object_id: bytes, number: int) -> bool:
        return self.has_head(part_key(object_id, number))

    def delete_parts(self, object_id: bytes, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.delete_entry(part_key(object_id, number))

    def has_head(self, key: bytes | str) -> bool:
        engine = self._open()
        # On disk: a slot with the key's tag; the key itself is compared when it is read.
        return engine.needs_disk(key) or engine.exists(key)

    def get_head(self, key: bytes | str) -> Stored | None:
        found = self._open().read_entry(key)
        return None if found is None else Stored(*found)

    def put_head(self, key: bytes | str, value: Buffer, meta: bytes, ttl: Lifetime) -> bool:
        engine = self._open()
        return engine.put_encoded(key, value, meta, expiry_of(engine, ttl))

    def put_entry(self, key: bytes, value: Buffer, meta: bytes, ttl: float | None) -> bool:
        engine = self._open()
        expiry_us = 0 if ttl is None else engine.expiry_at(ttl)
        is_stored = engine.put_encoded(key, value, meta, expiry_us)
        self._counters.add("own_puts", int(is_stored))
        return is_stored

    def delete_entry(self, key: bytes) -> bool:
        was_there = self._open().delete(key)
        self._counters.add("own_deletes", int(was_there))
        return was_there

    def replace_head(self, key: bytes | str, head: Stored, meta: bytes) -> bool | None:
        return self._open().replace(
            key, head.value, meta, head.expiry_us, head.version, head.location
        )

    def delete_head(self, key: bytes | str) -> bool:
        return self._open().delete(key)
