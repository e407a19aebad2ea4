"""Bytes of an object that lie in one file, for sendfile(2)."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class FileRange:
    """A descriptor of its own, and where in the file the bytes are.

        with hit.file_range() as found:
            os.sendfile(socket, found.descriptor, found.offset, found.size)

    The file is that of one version of the object, which is never written again: it stays what it is
    when the object is replaced, purged or evicted meanwhile.

    *Thread-safety*: one thread at a time.
    """

    __slots__ = ("descriptor", "offset", "size")

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.size = size

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()
