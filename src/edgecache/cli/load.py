"""A small load generator for `edgecache bench URL`: keep-alive connections, one URL.

It shows whether a server is well, and compares settings on one machine; for figures to publish use
a generator that does not share the machine with the server.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edgecache.cli.console import CommandError

READ_BYTES = 1 << 18
CONNECT_TIMEOUT_S = 10.0


@dataclass(slots=True)
class LoadReport:
    """What a run of load showed.

    Args:
        seconds: How long it ran.
        latencies_s: Of every answer, in seconds.
        statuses: Answers by status.
        received_bytes: Heads and bodies.
        failures: Connections that broke.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    received_bytes: int = 0
    failures: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """Return the latency that `share` of the answers did not exceed; 0 without answers."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def run_load(url: str, connections: int, duration_s: float) -> LoadReport:
    """Ask for `url` on several connections for some time.

    Raises:
        CommandError: The URL is not usable, or nothing answers there.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"{url!r} is no URL", hint="write it as http://127.0.0.1:8080/path")
    context = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: edgecache-bench\r\n\r\n"
    ).encode()
    report = LoadReport()
    begin_s = time.perf_counter()
    end_s = begin_s + duration_s
    tasks = [
        asyncio.create_task(_client(parts.hostname, port, context, request, end_s, report))
        for _ in range(connections)
    ]
    await asyncio.gather(*tasks)
    report.seconds = time.perf_counter() - begin_s
    if not report.latencies_s:
        raise CommandError(f"nothing answers at {url}", hint="is `edgecache serve` running?")
    return report


async def _client(
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    request: bytes,
    end_s: float,
    report: LoadReport,
) -> None:
    while time.perf_counter() < end_s:
        writer = None
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(host, port, ssl=context, limit=READ_BYTES),
                CONNECT_TIMEOUT_S,
            )
            is_open = True
            while is_open and time.perf_counter() < end_s:
                begin_s = time.perf_counter()
                writer.write(request)
                is_open = await _answer(reader, report)
                report.latencies_s.append(time.perf_counter() - begin_s)
        except (OSError, EOFError, ValueError, TimeoutError):
            report.failures += 1
            if report.failures > 1000 and not report.latencies_s:
                return
            await asyncio.sleep(0.01)
        finally:
            if writer is not None:
                writer.close()


async def _answer(reader: asyncio.StreamReader, report: LoadReport) -> bool:
    """Read one answer; whether the connection stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    fields = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in lines[1:])
    }
    size = len(head)
    if fields.get(b"transfer-encoding") == b"chunked":
        while length := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await reader.readexactly(length + 2)
            size += length
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    else:
        left = int(fields.get(b"content-length", b"0"))
        size += left
        while left:
            piece = await reader.read(min(left, READ_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
    report.statuses[status] = report.statuses.get(status, 0) + 1
    report.received_bytes += size
    return fields.get(b"connection") != b"close"
