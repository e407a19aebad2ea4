"""The exceptions of edgecache.

All derive from `EdgeCacheError` and from the builtin that fits, so both `except EdgeCacheError` and
`except ValueError` do what they say. What is known about the failure is in attributes, and `hint`
says what to do about it; `str(error)` shows everything. A miss is never an exception.

This module imports nothing but the builtin `errno`.
"""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing costs more than this whole module
    from typing import ClassVar

__all__ = [
    "ArgumentError",
    "ConfigError",
    "CorruptionError",
    "DeadlineError",
    "DiskIOError",
    "EdgeCacheError",
    "EngineMemoryError",
    "EngineUnavailableError",
    "EntryExistsError",
    "EntryNotFoundError",
    "FormatVersionError",
    "IncompleteObjectError",
    "InvalidTTLError",
    "KeySizeError",
    "KeyTypeError",
    "MetaChecksumError",
    "MetaFieldError",
    "MetaFormatError",
    "MetaTruncatedError",
    "MetaVersionError",
    "NoSpaceError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ObjectShedError",
    "PartialQuotaError",
    "PartialWritesError",
    "RangeError",
    "RangeMissingError",
    "SharedModeError",
    "StoreClosedError",
    "StoreForkedError",
    "StoreLockedError",
    "StreamAbortedError",
    "TooManyWritesError",
    "UnsafePathError",
    "ValueTooLargeError",
]


def _rebuild(
    kind: type[EdgeCacheError], message: str, hint: str, facts: dict[str, object]
) -> EdgeCacheError:
    """Recreate an exception from its pickle."""
    return kind(message, hint=hint, **facts)


class EdgeCacheError(Exception):
    """Root of all exceptions of edgecache.

    Args:
        message: What failed, in one sentence.
        hint: What to do about it; each class has a default.
        facts: Any of the attributes below and of those a class adds (`fact_names`), and `errno`
            where the class is an OSError. An unknown name is a TypeError.
    """

    path: str | None = None
    offset_bytes: int | None = None
    expected: object = None
    found: object = None

    default_hint: ClassVar[str] = ""
    fact_names: ClassVar[tuple[str, ...]] = ("path", "offset_bytes", "expected", "found")
    errno_default: ClassVar[int | None] = None

    def __init__(self, message: str = "", *, hint: str | None = None, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        is_os_error = isinstance(self, OSError)
        if is_os_error:
            self.errno = self.errno_default
        for name, fact in facts.items():
            if name not in self.fact_names and not (is_os_error and name == "errno"):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, fact)
        self._facts = {name: fact for name, fact in facts.items() if fact is not None}

    def __str__(self) -> str:
        parts = [self.message or type(self).__name__]
        if self._facts:
            shown = ", ".join(f"{name}={fact!r}" for name, fact in self._facts.items())
            parts.append(f"({shown})")
        if self.hint:
            parts.append(f"[hint: {self.hint}]")
        return " ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self._facts), self.__dict__)


class KeyTypeError(EdgeCacheError, TypeError):
    """A key is neither bytes nor str."""

    default_hint = "pass bytes, or str (it is encoded as UTF-8)"


class KeySizeError(EdgeCacheError, ValueError):
    """A key is empty or longer than 8 KiB."""

    default_hint = "keys are 1 to 8192 bytes; hash longer ones first"


class ArgumentError(EdgeCacheError, ValueError):
    """An argument is out of its range."""


class ValueTooLargeError(EdgeCacheError, ValueError):
    """A value (or a meta) exceeds the largest size that this store takes."""

    default_hint = "raise the size limit in the configuration, or write the value as a stream"


class InvalidTTLError(EdgeCacheError, ValueError):
    """A time to live is negative, not a number, or beyond what a timestamp holds."""

    default_hint = "ttl is in seconds and greater than 0; None means no expiry"


class ConfigError(EdgeCacheError, ValueError):
    """The configuration is wrong. `key` names the setting, `path` and `line` where it stands."""

    key: str | None = None
    line: int | None = None

    fact_names = (*EdgeCacheError.fact_names, "key", "line")


class StoreClosedError(EdgeCacheError, ValueError):
    """The store was used after close(), as with a closed file."""

    default_hint = "open the store again"


class StoreForkedError(EdgeCacheError, RuntimeError):
    """The store was opened before fork() and used in the child."""

    default_hint = "open the store in the child process, after the fork"


class EntryNotFoundError(EdgeCacheError, KeyError):
    """An operation that needs an existing entry (finalize, write_range) found none."""

    default_hint = "create the entry first; it may also have been evicted"


class EntryExistsError(EdgeCacheError, FileExistsError):
    """An entry, or a write of it, exists already."""

    errno_default = _errno.EEXIST


class TooManyWritesError(EdgeCacheError, BlockingIOError):
    """More writes are in progress than allowed, or one was shed for lack of buffers."""

    default_hint = "finish or abort writes in progress, or raise max_partial_writes"
    errno_default = _errno.EAGAIN


class ObjectNotFoundError(EntryNotFoundError):
    """There is no unfinished object of this key to write to, or to finalize."""

    default_hint = "call create_sparse() first; it may also have expired or been purged"


class ObjectExistsError(EntryExistsError):
    """The key has an unfinished object already."""

    default_hint = "go on writing to it, or purge() it first"


class PartialWritesError(TooManyWritesError):
    """One more streaming write would exceed `max_partial_writes`, or the memory for them."""


class PartialQuotaError(EdgeCacheError, OSError):
    """Unfinished objects hold as much as they may; `limit` names the limit."""

    limit: str | None = None

    default_hint = "finalize or purge unfinished objects, or raise the limit"
    fact_names = (*EdgeCacheError.fact_names, "limit")
    errno_default = _errno.EDQUOT


class ObjectShedError(EdgeCacheError, OSError):
    """A part of an object was not accepted: the store is full, sick or too slow (counted)."""

    default_hint = "stats() says why; write the object again later"
    errno_default = _errno.ENOBUFS


class ObjectChangedError(EdgeCacheError, RuntimeError):
    """The object that is being read was replaced or purged, and its bytes are gone."""

    default_hint = "look it up again"


class StreamAbortedError(EdgeCacheError, ConnectionAbortedError):
    """The writer of an object that is being written has given up; what was read is a part only."""

    default_hint = "look the key up again, or fetch it from its origin"
    errno_default = _errno.ECONNABORTED


class RangeError(EdgeCacheError, ValueError):
    """A range does not lie in the object."""


class RangeMissingError(EdgeCacheError, LookupError):
    """Bytes of a range are not there; `missing` holds the (start, end) of each hole."""

    missing: tuple[tuple[int, int], ...] | None = None

    default_hint = "fetch the missing ranges"
    fact_names = (*EdgeCacheError.fact_names, "missing")


class IncompleteObjectError(EdgeCacheError, ValueError):
    """An object cannot be finalized: `missing` holds the (start, end) of its first holes."""

    missing: tuple[tuple[int, int], ...] | None = None

    default_hint = "write the missing ranges, then finalize again"
    fact_names = (*EdgeCacheError.fact_names, "missing")


class DeadlineError(EdgeCacheError, TimeoutError):
    """An operation did not finish before its deadline."""

    errno_default = _errno.ETIMEDOUT


class EngineMemoryError(EdgeCacheError, MemoryError):
    """The native part could not get the memory that it needs."""

    default_hint = "lower the memory budget, or raise the limit of the container"


class StoreLockedError(EdgeCacheError, BlockingIOError):
    """Another process has this cache root open. `pid` is that process where it is known."""

    pid: int | None = None

    default_hint = "stop the other process, or give this one another root"
    fact_names = (*EdgeCacheError.fact_names, "pid")
    errno_default = _errno.EWOULDBLOCK


class SharedModeError(EdgeCacheError, RuntimeError):
    """This process cannot join the processes that share the cache root.

    They run another build, have another configuration or another PID namespace, or there are too
    many of them; `expected` and `found` say which, where that is a number.
    """

    default_hint = "give all processes that share a root one version and one configuration"


class FormatVersionError(EdgeCacheError, OSError):
    """Bytes were written in a format version that this release does not read."""

    default_hint = "upgrade edgecache, or give it an empty cache root"


class CorruptionError(EdgeCacheError, OSError):
    """Bytes on disk fail their checksum or break their format."""

    default_hint = "the damaged part is not used; run scrub() and check the device"
    errno_default = _errno.EBADMSG  # what ext4 and XFS report for a bad checksum


class DiskIOError(EdgeCacheError, OSError):
    """The device or the file system failed a request; `errno` is its answer."""

    default_hint = "check the kernel log and the health of the device"
    errno_default = _errno.EIO


class NoSpaceError(EdgeCacheError, OSError):
    """The file system, the quota or the byte budget is full."""

    default_hint = "free space on the file system, or lower the disk budget"
    errno_default = _errno.ENOSPC


class EngineUnavailableError(EdgeCacheError, OSError):
    """An engine was asked for by name and cannot run here; `reason` names why."""

    reason: str | None = None

    default_hint = "use io='auto', which takes the best engine that runs here"
    fact_names = (*EdgeCacheError.fact_names, "reason")
    errno_default = _errno.EOPNOTSUPP


class UnsafePathError(EdgeCacheError, PermissionError):
    """The cache root, or a file in it, is a symbolic link, foreign, or writable by others."""

    default_hint = "use a directory that belongs to this user, with mode 0700"
    errno_default = _errno.EPERM


class MetaFormatError(EdgeCacheError, ValueError):
    """Bytes are not a valid meta; `field` names the part that is wrong."""

    field: str | None = None

    fact_names = (*EdgeCacheError.fact_names, "field")


class MetaTruncatedError(MetaFormatError):
    """A meta is shorter, or longer, than its lengths say."""


class MetaVersionError(MetaFormatError):
    """A meta does not start with the magic and version that this release reads."""


class MetaChecksumError(MetaFormatError):
    """The checksum of a meta does not match its bytes."""


class MetaFieldError(MetaFormatError):
    """A field of a meta holds a value that the format forbids."""
