"""The access log: one JSON object per line, written in batches.

Invariant: at most PENDING_LINES_MAX lines wait in memory; what comes above is dropped and counted,
so that a slow file cannot hold up answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TextIO

from edgecache.errors import ConfigError
from edgecache.http.request import Request

PENDING_LINES_MAX = 10_000
FLUSH_S = 0.5


class AccessLog:
    """Write what was answered.

    Args:
        path: A file to append to, or "-" for stdout.

    Raises:
        ConfigError: The file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: TextIO = sys.stdout if path == "-" else _open(path)
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self.dropped = 0

    def __call__(self, request: Request, status: int, size: int, duration_s: float) -> None:
        """Remember one answer."""
        if len(self._lines) >= PENDING_LINES_MAX:
            self.dropped += 1
            return
        peer = request.peer
        self._lines.append(
            json.dumps(
                {
                    "time": round(time.time(), 6),
                    "client": peer[0] if isinstance(peer, tuple) and peer else "",
                    "method": request.method.decode("latin-1"),
                    "host": request.host.decode("latin-1"),
                    "target": request.target.decode("latin-1"),
                    "status": status,
                    "bytes": size,
                    "ms": round(duration_s * 1000, 3),
                }
            )
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            self._file.write("\n".join(self._lines) + "\n")
            self._file.flush()
            self._lines.clear()

    def reopen(self) -> None:
        """Open the file anew, after it was rotated away."""
        self.flush()
        if self._path != "-":
            old, self._file = self._file, _open(self._path)
            old.close()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.flush()
        if self._path != "-":
            self._file.close()


def _open(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the access log cannot be opened: {error.strerror}",
            key="log.access",
            path=path,
            hint="name a file in a directory that exists and is writable",
        ) from error
