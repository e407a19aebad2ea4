"""The root file: it makes a directory a root of this layout, and holds the seed of its hashes."""

from __future__ import annotations

import errno
import os
import struct
import time
from dataclasses import dataclass

from edgecache._files import ObjectFiles
from edgecache._io import IoEngine
from edgecache.errors import DiskIOError, FormatVersionError, NoSpaceError, UnsafePathError
from edgecache.files.names import (
    FAN_OUT,
    LOG_ROOT_FILE,
    ROOT_FILE,
    ROOT_FILE_COPY,
    TEMPORARY,
    Places,
)

MAGIC = b"EGFILES1"
VERSION = 1
# magic, version, zero, seed, created_us, identity; the sum follows.
FIELDS = struct.Struct("<8sIIQQ16s")
SUM_BYTES = 16
SUM_SEED = 0
UNREADABLE = (errno.EIO, errno.EACCES, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class LayoutRoot:
    """What the root file says.

    Args:
        seed: Of key hashes and of every sum.
        is_reformatted: There was a root file, and neither it nor its copy verified.
    """

    seed: int
    is_reformatted: bool


def refuse_files_root(engine: IoEngine) -> None:
    """Refuse a root that has the file layout, for stores of the other one.

    Raises:
        FormatVersionError: It has.
    """
    files = ObjectFiles(engine, SUM_SEED)
    for name in (ROOT_FILE, ROOT_FILE_COPY):
        if not isinstance(files.load(name, FIELDS.size + SUM_BYTES), int):
            raise FormatVersionError(
                "the cache root has the layout of files",
                expected="log",
                found="files",
                hint="use layout: files, or convert it with `edgecache migrate`",
            )


def open_root(engine: IoEngine) -> LayoutRoot:
    """Read the root file, or make one.

    Raises:
        FormatVersionError: The root has the other layout, or another version.
        UnsafePathError: It is no root, and has files where objects would lie.
        DiskIOError, NoSpaceError: A new root file cannot be written.
    """
    files = ObjectFiles(engine, SUM_SEED)
    found = [files.load(name, FIELDS.size + SUM_BYTES) for name in (ROOT_FILE, ROOT_FILE_COPY)]
    seeds = [_parse(files, data) for data in found]
    is_new = all(outcome == -errno.ENOENT for outcome in found)
    if is_new and not isinstance(files.load(LOG_ROOT_FILE, 1 << 20), int):
        raise FormatVersionError(
            "the cache root has the layout of a log",
            expected="files",
            found="log",
            hint="use layout: log, or convert it with `edgecache migrate`",
        )
    if is_new:
        _refuse_foreign(files)
    sick = [-code for code in found if isinstance(code, int) and -code in UNREADABLE]
    if sick and not any(seeds):
        # Not a damaged root but a sick disk: to write a new seed would lose every object.
        raise DiskIOError("cannot read the root file", errno=sick[0])
    known = next((seed for seed in seeds if seed is not None), None)
    seed = int.from_bytes(os.urandom(8), "little") | 1 if known is None else known
    if None in seeds:
        failed = _write(files, seed)
        if failed and known is None:
            kind = NoSpaceError if failed in (errno.ENOSPC, errno.EDQUOT) else DiskIOError
            raise kind("cannot write the root file of the cache root", errno=failed)
    return LayoutRoot(seed, known is None and not is_new)


def _refuse_foreign(files: ObjectFiles) -> None:
    """Opening removes what is no object: not of a directory that is somebody else's."""
    listed = files.list_directory(b"")
    if not isinstance(listed, int) and any(FAN_OUT.match(name) for name in listed):
        raise UnsafePathError(
            "the directory is no cache root, and it has files where objects would lie",
            hint="point `root` to an empty directory",
        )


def _parse(files: ObjectFiles, data: bytes | int) -> int | None:
    if isinstance(data, int) or len(data) != FIELDS.size + SUM_BYTES:
        return None
    fields = data[: FIELDS.size]
    magic, version, _, seed, _, _ = FIELDS.unpack(fields)
    if magic != MAGIC or files.sum_of(fields) != data[FIELDS.size :]:
        return None
    if version != VERSION:
        raise FormatVersionError(
            "the cache root was written by another version of edgecache",
            expected=VERSION,
            found=version,
            hint="open it with that version, or point `root` to another directory",
        )
    return int(seed)


def _write(files: ObjectFiles, seed: int) -> int:
    """Write both copies, each by a rename; 0 or an errno."""
    fields = FIELDS.pack(MAGIC, VERSION, 0, seed, time.time_ns() // 1000, os.urandom(16))
    data = fields + files.sum_of(fields)
    outcome = min(files.make_directory(TEMPORARY), 0)
    places = Places()
    for name in (ROOT_FILE, ROOT_FILE_COPY):
        temporary = places.name(places.take())
        outcome = outcome or files.save(temporary, data) or files.rename(temporary, name)
    return -(outcome or files.sync_directory(b""))
