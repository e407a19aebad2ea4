"""The methods of a store that concern objects of any size; `Storage` inherits them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgecache.entry import Availability, PurgeType
from edgecache.errors import ArgumentError, KeySizeError, KeyTypeError, ObjectShedError, RangeError
from edgecache.meta import ENGINE_OBJECT, Meta, engine_flags_of
from edgecache.objects.backend import Stored
from edgecache.objects.head import decode_fixed
from edgecache.objects.hit import Hit
from edgecache.objects.keys import KEY_BYTES_MAX
from edgecache.objects.manager import ObjectManager
from edgecache.objects.miss import Miss
from edgecache.objects.values import meta_with

if TYPE_CHECKING:
    from typing_extensions import Buffer

Key = bytes | str


class ObjectFace:
    """Objects of any size: streams, chunks, sparse objects.

    *Thread-safety*: every method, any thread.
    """

    __slots__ = ()

    _objects: ObjectManager

    @property
    def support_streaming_partial_write(self) -> bool:
        """Whether readers can attach to a write in progress: yes."""
        return True

    def lookup(self, key: Key) -> Hit | None:
        """Find an object, fresh or stale; None when there is none (counted as a miss).

        A write in progress is shown only with `atomic_publish=False`, and only when the key has no
        complete object.

        *Cost*: as `get_entry` of a short value; of a large one its head is read, no chunk.
        """
        name = key_bytes(key)
        return self._objects.hit(name, self._objects.lookup(name))

    def lookup_streaming_write(self, key: Key, tag: bytes) -> Hit | None:
        """Attach to the write that `tag` names, or find what it published; else None.

        Args:
            tag: `Miss.streaming_write_tag`, 8 bytes.
        """
        name = key_bytes(key)
        if not isinstance(tag, bytes):
            raise TypeError(f"the tag is {type(tag).__name__}, not bytes")
        return self._objects.hit(name, self._objects.lookup_write(name, tag))

    def get_miss_handler(
        self,
        key: Key,
        meta: Meta | None = None,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        size: int | None = None,
    ) -> Miss:
        """Start to write an object.

        Args:
            key: What `finish()` publishes it under.
            meta: Kept with the object; readers that attach see it at once.
            ttl: Its lifetime in seconds, from `finish()`; None: the configured default.
            tags: For `purge_tag`.
            size: Its size where that is known: `finish()` insists on it.

        Raises:
            PartialWritesError: `max_partial_writes` are open, or their memory is used up.
            ValueTooLargeError: `size` exceeds `max_object_size`.
        """
        name = key_bytes(key)
        if size is not None and size < 0:
            raise ArgumentError("a size is 0 or more", found=size)
        self._require_open()
        self.expiry_at(ttl)
        return self._objects.open_write(name, meta, ttl, tags, size)

    def purge(self, key: Key, kind: PurgeType = PurgeType.INVALIDATION) -> bool:
        """Delete an object with all its parts; whether it existed in any tier.

        Counted as an eviction or an invalidation. Writes in progress go on.
        """
        if not isinstance(kind, PurgeType):
            raise TypeError(f"the kind is {type(kind).__name__}, not PurgeType")
        return self._objects.purge(key_bytes(key), kind)

    def update_meta(self, key: Key, meta: Meta) -> bool:
        """Replace the meta of an object atomically; body and lifetime stay.

        Returns:
            False when there is no such object (or the put was shed, and counted).
        """
        if not isinstance(meta, Meta):
            raise TypeError(f"meta is {type(meta).__name__}, not Meta")
        return self._objects.update_meta(key_bytes(key), meta)

    # Sparse objects

    def create_sparse(
        self,
        key: Key,
        size: int,
        *,
        meta: Meta | None = None,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Start an object of a known size whose ranges come in any order; always True.

        A complete object of the key serves until `finalize`. The unfinished one outlives a
        restart, and expires `partial_ttl` after it was last saved.

        Args:
            key: At most 8184 bytes.
            size: Of the whole object, in bytes; nothing is allocated for it.
            meta, tags: Kept with the object.
            ttl: Lifetime of the finished object, from `finalize`.

        Raises:
            ObjectExistsError: The key has an unfinished object.
            ObjectShedError: The store did not take its head.
            ValueTooLargeError, RangeError: The size.
        """
        self.expiry_at(ttl)
        self._objects.create_sparse(key_bytes(key), size, meta_with(meta, tags), ttl)
        return True

    def write_range(self, key: Key, offset: int, data: Buffer) -> bool:
        """Write bytes of an unfinished object; any order, overlapping, unaligned.

        Returns:
            False when the store shed it (counted): a part of the range may be there, `availability`
            says which.

        Raises:
            ObjectNotFoundError: The key has no unfinished object.
            RangeError: The range leaves the object.
            PartialQuotaError: `partial_quota` would be exceeded, or there are too many ranges.

        *Cost*: a chunk given whole is stored at once, without a copy in Python; others are filled
        in memory and stored when complete, when memory is short, and by `sync` and `close`.
        """
        stored = self._objects.sparse.require(key_bytes(key)).write(
            offset, memoryview(data).cast("B")
        )
        if not stored:
            self._objects.counters.add("shed_writes")
        return stored

    def read_range(self, key: Key, offset: int, length: int) -> bytes | None:
        """Return a range of an object, clipped at its end; None when there is no such object.

        Of a key with a complete and an unfinished object the complete one is read.

        Raises:
            RangeMissingError: Bytes are not there; `missing` says which. Never joined across.
            RangeError: `offset` or `length` is negative.
        """
        if offset < 0 or length < 0:
            raise RangeError("a range starts at 0 or later", found=(offset, offset + length))
        return self._objects.read_range(key_bytes(key), offset, length)

    def availability(self, key: Key) -> Availability | None:
        """Say which bytes of an object are there; None when there is no such object.

        Of a key with a complete and an unfinished object it speaks of the unfinished one.

        *Cost*: of a complete object, one probe of the index per chunk.
        """
        return self._objects.availability(key_bytes(key))

    def finalize(self, key: Key, *, ttl: float | None = None) -> int:
        """Publish an unfinished object, atomically over an older one; its size.

        Args:
            ttl: Its lifetime in seconds from now; None: what `create_sparse` said.

        Raises:
            IncompleteObjectError: Holes are left; `missing` names the first of them.
            ObjectNotFoundError: The key has no unfinished object.
            ObjectShedError: The store did not take it; it stays unfinished.
        """
        self.expiry_at(ttl)
        return self._objects.finalize(key_bytes(key), ttl)

    # What the engine asks for

    def load_object(self, key: Key, entry: tuple[bytes, bytes, int, int, int]) -> bytes | None:
        """Return all bytes of an object, for `get` and its relatives; the engine calls it."""
        return self._objects.load(key_bytes(key), Stored(*entry))

    def replace(
        self, key: Key, value: bytes, meta: bytes, expiry_us: int, version: int, location: int
    ) -> bool | None:
        """As `Core.replace`; a sweep hears of heads of objects that move while it looks at them."""
        plain: Callable[..., bool | None] = super().replace  # type: ignore[misc]
        head = decode_fixed(value) if engine_flags_of(meta) & ENGINE_OBJECT else None
        if head is None or not head.shared_count:
            return plain(key, value, meta, expiry_us, version, location)
        sharing = self._objects.sharing
        token = sharing.begin_move(head)
        try:
            return plain(key, value, meta, expiry_us, version, location)
        finally:
            sharing.end_move(token)

    def object_gone(self, head: bytes) -> None:
        """Delete the parts of an object whose head is no more; the engine calls it."""
        self._objects.doom_head(head)

    def put_beyond(
        self,
        key: Key,
        value: Buffer,
        ttl: float | None,
        tags: Iterable[str],
        meta: Meta | None,
    ) -> bool:
        """Put a value that no single entry holds; the engine calls it."""
        name = key_bytes(key)
        view = memoryview(value).cast("B")
        objects = self._objects
        with objects.open_write(name, meta, ttl, tags, len(view), is_admitted=True) as miss:
            try:
                miss.write(view)
                miss.finish()
            except ObjectShedError:
                objects.drop_stale(name)
                return False
        return True

    if TYPE_CHECKING:

        def expiry_at(self, ttl: float | None) -> int: ...
        def _require_open(self) -> None: ...


def key_bytes(key: Key) -> bytes:
    """Return a key as bytes; the engine's own rules, for what is kept by key outside of it."""
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError as error:
            raise KeyTypeError(f"the key {key!r} cannot be encoded as UTF-8") from error
    elif not isinstance(key, bytes):
        raise KeyTypeError(f"the key is {type(key).__name__}")
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise KeySizeError(f"the key has {len(key)} bytes")
    return bytes(key)
