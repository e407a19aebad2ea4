"""What `edgecache serve` prints when it is ready: where it listens, and what to try."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecache.http.server import HttpServer
    from edgecache.server.admin import AdminListener
    from edgecache.server.settings import ServerSettings


def _shown(address: object) -> str:
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{address!r}" if isinstance(address, bytes) else f"unix:{address}"


def print_banner(
    settings: ServerSettings,
    listening: Sequence[object],
    admin: AdminListener | None,
    metrics: HttpServer | None,
) -> None:
    """Print it to stderr; with the demo origin, also requests to try."""
    scheme = "http" if settings.tls is None else "https"
    addresses = [_shown(each) for each in listening]
    cache = settings.cache
    place = f"{cache.disk >> 20} MiB in {cache.root}" if cache.has_disk else "no disk tier"
    lines = [
        f"edgecache is ready on {', '.join(f'{scheme}://{each}' for each in addresses)}",
        f"  cache    {cache.memory >> 20} MiB of RAM, {place}",
    ]
    if admin is not None:
        lines.append(
            f"  admin    http://{_shown(admin.address)}/health  /metrics  /api/cache/stats"
        )
    if metrics is not None:
        lines.append(f"  metrics  http://{_shown(metrics.addresses[0])}/metrics")
    if settings.is_demo:
        lines += _demo_lines(f"{scheme}://{addresses[0]}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _demo_lines(base: str) -> list[str]:
    return [
        "",
        "No upstream is named, so the proxy answers from a small demo origin. Try:",
        f"  curl -i {base}/page                  # twice: miss, then hit with Age",
        f"  curl -i -r 0-99 {base}/range         # a part of a large object",
        f"  curl -i {base}/stale                 # served stale while it is refreshed",
        f"  curl -i -H 'Accept-Language: de' {base}/vary",
        f"  curl -i -X PURGE {base}/page         # then a miss again",
        f"  curl -T README.md {base}/cache/readme && curl -i {base}/cache/readme",
        "  edgecache stat, edgecache top        # in another terminal",
        "Ctrl-C ends it.",
    ]
