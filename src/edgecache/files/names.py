"""Names in a root of the file layout; all relative to the root, as bytes."""

from __future__ import annotations

import os
import re

ROOT_FILE = b"files.edge"
ROOT_FILE_COPY = b"files.edge.copy"
ORDER_FILE = b"order.edge"
# There while a store is open, and after a crash.
OPEN_MARK = b"open.edge"
TEMPORARY = b"tmp"
LOG_ROOT_FILE = b"superblock"

FAN_OUT = re.compile(rb"[0-9a-f]{2}\Z")
OBJECT = re.compile(rb"[0-9a-f]{32}\Z")

BODY = b"body.bin"
HEAD = b"meta_internal.bin"
META = b"meta_header.bin"
SUMS = b"body.sums"

# What an object costs besides the blocks of its files. Source: the inode size of XFS; ext4 has 256.
INODE_BYTES = 512
DIRECTORY_BYTES = 4096
BLOCK_BYTES = 4096
# A directory `hh` or `hh/hh`; there are 65536 of the second kind at most.
FAN_OUT_BYTES = DIRECTORY_BYTES + INODE_BYTES
FAN_OUT_COUNT = 65536


def object_name(hash16: bytes) -> bytes:
    """Return the directory of a published object."""
    text = hash16.hex().encode()
    return b"%b/%b/%b" % (text[:2], text[2:4], text)


def parent_name(hash16: bytes) -> bytes:
    """Return the directory that the object's one lies in."""
    text = hash16.hex().encode()
    return b"%b/%b" % (text[:2], text[2:4])


class Places:
    """Names of directories in `tmp`: per process and start, so that no two writers share one."""

    __slots__ = ("_last", "_prefix")

    def __init__(self) -> None:
        self._prefix = b"%b/%d-%b-" % (TEMPORARY, os.getpid(), os.urandom(6).hex().encode())
        self._last = 0

    def take(self) -> int:
        """Return a number that was not used before. The caller serialises."""
        self._last += 1
        return self._last

    def name(self, place: int) -> bytes:
        """Return the directory of that number."""
        return self._prefix + b"%x" % place


def is_temporary(name: bytes) -> bool:
    """Say whether a name lies in `tmp`."""
    return name.startswith(TEMPORARY + b"/")


def overhead_bytes(has_meta: bool, has_sums: bool) -> int:
    """Return what an object costs besides the blocks of its files: directory and inodes."""
    return DIRECTORY_BYTES + INODE_BYTES * (3 + has_meta + has_sums)


def blocks(size_bytes: int) -> int:
    """Return the space that a file of this size takes, at most, in bytes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
