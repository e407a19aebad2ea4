"""Servers of several workers, as tests start them.

with Sharing(folder) as server:
    one, other = links_to_both(server)
"""

from __future__ import annotations

import http.client
import os
import re
import time
from pathlib import Path
from typing import Any

from support.serving import SOURCES, Served, ask, exchange

TESTS = str(Path(__file__).resolve().parents[1])
DEADLINE_S = 30.0
MEMORY_ONLY: dict[str, Any] = {"cache": {"memory": "16MiB", "disk": 0}, "drain_s": 10}


class Crewed(Served):
    """A server with two workers."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        paths = os.pathsep.join((SOURCES, TESTS))
        super().__init__(folder, {**MEMORY_ONLY, **(config or {})}, variables={"PYTHONPATH": paths})
        self._command = [self._command[0], "-m", "support.crew_child", str(self.path)]

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        assert self.process is not None
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(each) for each in place.read_text().split()]

    def metric(self, line: str) -> float:
        """The value of a metric, by all that stands before it."""
        text = exchange(self.metrics, "/metrics").body.decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    def until_up(self) -> None:
        """Wait until both workers serve."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not all(self.metric(f'edge_cache_worker_up{{worker="{n}"}}') for n in range(2)):
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.02)


class Sharing(Crewed):
    """`edgecache serve` with two workers, as users start it."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        own = (config or {}).get("cache", {})
        cache = {"root": str(folder / "root"), "memory": "16MiB", "disk": "64MiB", **own}
        super().__init__(folder, {"workers": 2, **(config or {}), "cache": cache})
        serve = ("-m", "edgecache", "serve", "-c", str(self.path))
        self._command = [self._command[0], *serve]


def until_gone(process: int) -> None:
    """Wait until a process has ended, whether or not its parent knows."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # also between opening and reading
            return
        if state == "Z":
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def worker_of(link: http.client.HTTPConnection) -> int:
    """The process that serves a connection."""
    [node] = ask(link, "/cluster/nodes").json()["nodes"]
    return int(node["id"].rpartition(":")[2])


def links_to_both(server: Crewed) -> list[http.client.HTTPConnection]:
    """Connections to both workers, one each."""
    found: dict[int, http.client.HTTPConnection] = {}
    spare = []
    deadline_s = time.monotonic() + DEADLINE_S
    while len(found) < 2:
        assert time.monotonic() < deadline_s
        link = server.link()
        process = worker_of(link)
        if process in found:
            spare.append(link)
        else:
            found[process] = link
    for link in spare:
        link.close()
    return list(found.values())
