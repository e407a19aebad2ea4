"""Turn a Status into the exception of `edgecache.errors`; nothing else here raises for one.

A code whose meaning depends on the place (which file, which key) says so through `detail`.
"""

from errno import EDQUOT, ENOSPC
from os import strerror

from edgecache import errors

# code: (exception, message)
cdef dict ERRORS = {
    <int>STATUS_NOT_FOUND: (errors.EntryNotFoundError, "no such entry"),
    <int>STATUS_EXISTS: (errors.EntryExistsError, "the entry exists already"),
    <int>STATUS_AGAIN: (errors.TooManyWritesError, "a resource is busy"),
    <int>STATUS_NO_SPACE: (errors.NoSpaceError, "no space left"),
    <int>STATUS_NO_MEMORY: (errors.EngineMemoryError, "out of memory"),
    <int>STATUS_CORRUPT: (errors.CorruptionError, "stored bytes are corrupt"),
    <int>STATUS_IO_ERROR: (errors.DiskIOError, "input or output failed"),
    <int>STATUS_INVALID: (errors.ArgumentError, "an argument is out of range"),
    <int>STATUS_TOO_LARGE: (errors.ValueTooLargeError, "the value is too large"),
    <int>STATUS_TIMEOUT: (errors.DeadlineError, "the deadline passed"),
    <int>STATUS_CLOSED: (errors.StoreClosedError, "the store is closed"),
    <int>STATUS_SHED: (errors.TooManyWritesError, "the write was shed"),
    <int>STATUS_UNSUPPORTED: (errors.EngineUnavailableError, "not supported here"),
    <int>STATUS_FORKED: (errors.StoreForkedError, "the store was opened before fork()"),
    <int>STATUS_VERSION: (errors.FormatVersionError, "unknown format version"),
    <int>STATUS_TRUNCATED: (errors.CorruptionError, "stored bytes end too early"),
}


cdef int raise_for_status(Status status, object detail=None, int errno_code=0) except -1:
    if status == STATUS_OK:
        return 0
    entry = ERRORS.get(<int>status)
    if entry is None:
        # Not the world's fault but ours: no status outside the enum may reach this place.
        raise SystemError(f"edgecache: status {<int>status} is unknown")
    kind, message = entry
    if kind is errors.DiskIOError and errno_code in (ENOSPC, EDQUOT):
        kind, message = ERRORS[<int>STATUS_NO_SPACE]
    facts = {}
    if isinstance(detail, dict):
        facts.update(detail)
        message = facts.pop("message", message)
    elif detail is not None:
        message = f"{message}: {detail}"
    if errno_code:
        message = f"{message}: {strerror(errno_code)}"
        if issubclass(kind, OSError):
            facts["errno"] = errno_code
    raise kind(message, **facts)


# code: (exception, message)
cdef dict META_ERRORS = {
    <int>STATUS_TRUNCATED: (errors.MetaTruncatedError, "the size of the meta does not fit"),
    <int>STATUS_VERSION: (errors.MetaVersionError, "not a meta of a known version"),
    <int>STATUS_CORRUPT: (errors.MetaChecksumError, "the checksum of the meta does not match"),
    <int>STATUS_INVALID: (errors.MetaFieldError, "a field of the meta is not valid"),
    <int>STATUS_TOO_LARGE: (errors.ValueTooLargeError, "the meta is too large"),
}


cdef int raise_for_meta(Status status, dict facts=None) except -1:
    if status == STATUS_OK:
        return 0
    entry = META_ERRORS.get(<int>status)
    if entry is None:
        return raise_for_status(status, facts)
    kind, message = entry
    raise kind(message, **(facts or {}))
