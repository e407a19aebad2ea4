"""The reverse proxy against nginx `proxy_cache`, same origin, same run, one core each.

    python -m bench.http_proxy [--seconds 3] [--repeat 3] [--json FILE]

hit 1 KiB, hit 100 KiB    wrk, everything in memory (nginx: page cache, sendfile)
miss                      wrk, an answer that may not be stored: forwarded every time
collapse                  1,000 clients ask at once for a key that is not stored; the origin takes
                          300 ms; what the origin was asked, and the time until all are answered

Both sides run one process on one CPU, wrk and the origin on the other; rounds alternate. CPU is
that of the serving process alone. Needs wrk and nginx (Debian packages).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.http_api import (
    CLIENT_CPU,
    CONNECTIONS,
    READY_S,
    SERVER_CPU,
    Served,
    cpu_seconds_of,
    free_port,
    on_cpu,
    show,
    wait_ready,
)
from bench.machine import describe
from bench.measure import Sample, child_environment, interleave

CLIENTS = 1_000
NGINX = """
{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000000; keepalive_timeout 600;
  open_file_cache max=1000; open_file_cache_valid 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=zone:64m max_size=256m inactive=60m
                   use_temp_path=off;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache zone; proxy_cache_lock on; proxy_cache_lock_timeout 30s;
      add_header X-Cache-Status $upstream_cache_status;
    }}
    # Its lock makes requests for what is not cacheable wait in turns of 500 ms.
    location /miss/ {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache zone;
    }}
  }}
}}
"""


@contextmanager
def serve_child(cpu: int, *arguments: str) -> Iterator[Served]:
    """Run one of our own processes."""
    command = [sys.executable, "-m", "bench.http_proxy_child", *arguments]
    child = subprocess.Popen(on_cpu(cpu, command), env=child_environment())
    try:
        port = int(arguments[1])
        wait_ready(port)
        yield Served(port, child.pid)
    finally:
        child.terminate()
        child.wait(READY_S)


@contextmanager
def serve_nginx(folder: Path, origin: int) -> Iterator[Served]:
    """Run nginx with a cache in the folder (a tmpfs makes no difference to hits)."""

    port = free_port()
    place = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    place.write_text(NGINX.format(user=user, folder=folder, port=port, origin=origin), "utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(place)]
    child = subprocess.Popen(on_cpu(SERVER_CPU, command), stderr=subprocess.DEVNULL)
    try:
        wait_ready(port)
        time.sleep(0.3)
        tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text("ascii").split()
        yield Served(port, int(tasks[0]))
    finally:
        child.terminate()
        child.wait(READY_S)


def load(side: Served, target: str, seconds: int) -> Sample:
    """Run wrk once."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    command.append(f"http://127.0.0.1:{side.port}{target}")
    before = cpu_seconds_of(side.process)
    run = subprocess.run(on_cpu(CLIENT_CPU, command), capture_output=True, text=True, check=True)
    cpu_s = cpu_seconds_of(side.process) - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", run.stdout)
    if found is None or "Non-2xx" in run.stdout or "Socket errors" in run.stdout:
        raise RuntimeError(f"wrk failed: {run.stdout}")
    wall_s = float(found[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[3]]
    return Sample(int(found[1]), wall_s, cpu_s)


def run_of(side: Served, target: str, seconds: int) -> Callable[[int], Sample]:
    """Return what one round does."""
    return lambda _: load(side, target, seconds)


async def _ask(port: int, target: str, go: asyncio.Event, opened: list[int]) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.append(1)
    await go.wait()
    writer.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1024)
    writer.close()
    return head.startswith(b"HTTP/1.1 200")


async def _crowd(port: int, target: str) -> float:
    go, opened = asyncio.Event(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(_ask(port, target, go, opened)) for _ in range(CLIENTS)]
    while len(opened) < CLIENTS:
        await asyncio.sleep(0.01)
    begun_s = time.perf_counter()
    go.set()
    if not all(await asyncio.gather(*tasks)):
        raise RuntimeError("an answer of the crowd was no 200")
    return time.perf_counter() - begun_s


def collapse(side: Served, origin: Served, name: str) -> dict[str, float]:
    """Have a crowd ask for one key."""

    def count() -> int:
        url = f"http://127.0.0.1:{origin.port}/count"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.read())

    before = count()
    cpu_s = cpu_seconds_of(side.process)
    seconds = asyncio.run(_crowd(side.port, f"/slow/{name}"))
    cpu_s = cpu_seconds_of(side.process) - cpu_s
    return {"origin_requests": count() - before, "seconds": seconds, "cpu_seconds": cpu_s}


def measure(seconds: int, repeat: int) -> tuple[dict[str, dict[str, list[Sample]]], list[object]]:
    """Run everything."""
    found = {}
    crowds: list[object] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        folder.chmod(0o755)
        origin = stack.enter_context(serve_child(CLIENT_CPU, "origin", str(free_port())))
        proxy = serve_child(SERVER_CPU, "proxy", str(free_port()), str(origin.port))
        own = stack.enter_context(proxy)
        nginx = stack.enter_context(serve_nginx(folder, origin.port))
        sides = {"edgecache": own, "nginx": nginx}
        workloads = {
            "hit 1 KiB": "/size/1024",
            "hit 100 KiB": "/size/102400",
            "miss": "/miss/1",
        }
        for label, target in workloads.items():
            for side in sides.values():  # warm up, and fill
                load(side, target, 1)
            runs = {name: run_of(side, target, seconds) for name, side in sides.items()}
            found[label] = interleave(runs, repeat)
        for number in range(repeat):
            for name, side in sides.items():
                crowd = {"workload": "collapse", "side": name}
                crowds.append({**crowd, **collapse(side, origin, str(number))})
    return found, crowds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for program in ("wrk", "nginx", "taskset"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed (apt-get install wrk nginx util-linux)")
    found, crowds = measure(arguments.seconds, arguments.repeat)
    rows: list[object] = [*show(found), *crowds]
    for crowd in crowds:
        print(crowd)
    if arguments.json is not None:
        document = {"machine": describe(), "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
