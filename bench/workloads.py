"""Every workload, one line each; all are seeded. `python -m bench.run --list` prints this table.

A workload is a function of `Plan` that returns rows (`bench/rows.py`). Its module is imported when
it runs. Bounds of a row (`must`, `aim`) stand beside the measurement that is held against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.compare import PEERS, is_installed
from bench.engine import ENGINES
from bench.rows import Row

# name: (suites, function, one line)
WORKLOADS: dict[str, tuple[str, str, str]] = {
    # RAM
    "get_hot": ("targets", "ram:get_hot", "RAM hit, the key objects seen before"),
    "get_fresh": ("targets", "ram:get_fresh", "RAM hit, every key a new object"),
    "get_wide": ("more", "ram:get_wide", "RAM hit over 100,000 keys, most not in the front table"),
    "view_hot": ("targets", "ram:view_hot", "RAM hit as a view without a copy"),
    "get_many_hot": ("targets", "ram:get_many_hot", "64 RAM hits per call"),
    "put_evict": ("targets", "ram:put_evict", "1 KiB puts into a full RAM tier"),
    "rss_small": ("targets", "ram:rss_small", "resident bytes per entry of 16 + 107 bytes"),
    # Writes to disk
    "put_1k_cpu": ("targets", "writes:put_1k_cpu", "1 KB puts, open to close, CPU time"),
    "put_4k": ("targets", "writes:put_4k", "4 KB puts, unsynced, per second"),
    "put_64k": ("targets", "writes:put_64k", "64 KB puts, unsynced, per second"),
    "put_1m": ("targets", "writes:put_1m", "1 MB puts until the device has them"),
    "put_durable": ("targets", "writes:put_durable", "4 KB put + sync, alone and from 16 threads"),
    "space": ("targets", "writes:space", "disk bytes per payload byte"),
    # Reads from disk
    "read_qd64": ("targets", "reads:read_qd64", "4 KiB random reads at depth 64, both engines"),
    "read_async": ("targets", "reads:read_async", "4 KiB random reads from 64 asyncio tasks"),
    "read_cold": ("targets", "reads:read_cold", "first 4 KiB gets of a process, nothing cached"),
    "read_4x": ("targets", "reads:read_4x", "random gets with four times more data than memory"),
    # A store's life
    "index_ram": ("targets", "life:index_ram", "index bytes per object, many small objects"),
    "open_killed": ("targets", "life:open_killed", "open after kill -9, and after a clean close"),
    "idle": ("targets", "life:idle", "CPU time and wake-ups of an idle store"),
    # The HTTP door beside nginx
    "http_hit": ("http", "http_rows:hit", "proxy: RAM hit 1 KiB against proxy_cache"),
    "http_hit_100k": ("http", "http_rows:hit_100k", "proxy: RAM hit 100 KiB against sendfile"),
    "http_disk": ("http", "http_rows:disk", "proxy: disk hit, nginx with and without page cache"),
    "http_miss": ("http", "http_rows:miss", "proxy: misses that are stored, and that are not"),
    "http_collapse": ("http", "http_rows:collapse", "proxy: 1,000 clients at once for one key"),
    "http_idle": ("http", "http_rows:idle", "proxy: 10,000 idle connections, and hits meanwhile"),
    "http_workers": ("http", "http_rows:workers", "two workers with one cache against two"),
    # io_uring against threads, drawn
    "io_depth": ("io", "io_suite:depth", "IOPS and CPU over queue depth, sync and asyncio"),
    "io_size": ("io", "io_suite:size", "MB/s over value size, reads and writes"),
    "io_mix": ("io", "io_suite:mix", "operations over the share of writes"),
    "io_cache": ("io", "io_suite:cache", "direct, buffered cold and buffered warm reads"),
}

SUITES = {
    "targets": ("targets",),
    "io": ("io",),
    "http": ("http",),
    "all": ("targets", "more", "http", "io"),
}


@dataclass(frozen=True)
class Plan:
    """What a run was asked for."""

    scratch: Path
    repeat: int = 5
    seed: int = 1
    is_quick: bool = False
    engines: tuple[str, ...] = ENGINES
    peers: frozenset[str] = frozenset(PEERS)
    say: Callable[[str], None] = field(default=lambda text: None)

    def sized(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    def has(self, peer: str) -> bool:
        """Whether a peer was asked for and is installed."""
        return peer in self.peers and is_installed(peer)

    def among(self, *names: str) -> list[str]:
        """Those of the peers that can run; an absent one stays a row that says so."""
        return [name for name in names if self.has(name)]

    def place(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def names_of(suite: str) -> list[str]:
    """Names of the workloads of a suite, in the order of the table."""
    return [name for name, (kind, _, _) in WORKLOADS.items() if kind in SUITES[suite]]


def run(name: str, plan: Plan) -> list[Row]:
    """Run one workload."""
    from bench.measure import resolve

    function: Callable[[Plan], list[Row]] = resolve(f"bench.{WORKLOADS[name][1]}")
    return function(plan)
