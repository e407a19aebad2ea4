from collections.abc import Iterable

from typing_extensions import Buffer, disjoint_base

from edgecache._core_blob import CoreBlob
from edgecache.meta import Meta

__test__: dict[str, str]

@disjoint_base
class CoreWrite(CoreBlob):
    def put(
        self,
        key: bytes | str,
        value: Buffer,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        meta: Meta | None = None,
    ) -> bool: ...
    # None: it would wait for the disk; nothing was changed.
    def try_put(
        self,
        key: bytes | str,
        value: Buffer,
        *,
        ttl: float | None = None,
        tags: Iterable[str] = (),
        meta: Meta | None = None,
    ) -> bool | None: ...
    # From now on a value that one entry cannot hold goes to put_beyond, too.
    def split_values(self) -> None: ...
    # A value that no single entry holds; overridden by the layer that knows objects.
    def put_beyond(
        self,
        key: bytes | str,
        value: Buffer,
        ttl: float | None,
        tags: Iterable[str],
        meta: Meta | None,
    ) -> bool: ...
    def encode_meta(self, meta: Meta | None, tags: Iterable[str]) -> bytes: ...
    # None: the entry is another one now, nothing was done.
    def replace(
        self,
        key: bytes | str,
        value: bytes,
        meta: bytes,
        expiry_us: int,
        version: int,
        location: int,
    ) -> bool | None: ...
    def put_encoded(self, key: bytes | str, value: Buffer, meta: bytes, expiry_us: int) -> bool: ...
    def expiry_at(self, ttl: float | None) -> int: ...
    def delete(self, key: bytes | str) -> bool: ...
    def lower_key(self, key: bytes | str) -> tuple[bytes, bytes, int]: ...
    def enter_written(self, key: bytes | str, ticket: object) -> bool: ...
    def object_gone(self, head: bytes) -> None: ...
    def sync(self) -> None: ...
    def flush(self) -> None: ...
