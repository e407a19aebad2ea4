"""HTTP: hits in RAM against nginx, from files and from its proxy_cache, and against a bare echo.

    python -m bench.http_api [--seconds 3] [--repeat 3] [--doors cache,proxy] [--json FILE]

"cache" is the cache API; "proxy" the reverse proxy in front of the same nginx that its proxy_cache
has behind it. "uvloop echo" answers whatever arrives with the bytes of the cache API's answer: what
a protocol on the transport of that loop could reach at most.

All sides run one process on one CPU, wrk on another; rounds alternate. CPU is that of the serving
process alone (user and system, /proc/pid/stat). nginx sends from the page cache with sendfile,
keeps connections open without limit and writes no log. Needs wrk and nginx (Debian packages).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from bench.machine import describe
from bench.measure import Sample, Spread, child_environment, interleave

SIZES = {"1 KiB": 1024, "100 KiB": 102400}
SERVER_CPU, CLIENT_CPU = 0, 1
CONNECTIONS = 32
DEPTH = 16  # requests in flight per connection when pipelining
READY_S = 20.0

PIPELINE = """
init = function(args)
  local parts = {}
  for i = 1, %d do parts[i] = wrk.format("GET", nil) end
  batch = table.concat(parts)
end
request = function() return batch end
"""

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600;
  open_file_cache max=100; open_file_cache_valid 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=all:8m;
  server {{ listen 127.0.0.1:{port} reuseport; location /cache/ {{ alias {folder}/; }} }}
  server {{
    listen 127.0.0.1:{cached} reuseport;
    location /cache/ {{
      proxy_pass http://127.0.0.1:{port}; proxy_cache all; proxy_cache_valid 200 1h;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Served:
    """One side: where it listens, and whose CPU time counts."""

    port: int
    process: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def on_cpu(cpu: int, command: list[str]) -> list[str]:
    count = os.cpu_count() or 1
    return ["taskset", "-c", str(cpu % count), *command]


@contextmanager
def serve_child(folder: Path, *what: str) -> Iterator[Served]:
    port = free_port()
    command = [sys.executable, "-m", "bench.http_child", str(port), str(folder), *what]
    child = subprocess.Popen(on_cpu(SERVER_CPU, command), env=child_environment())
    try:
        wait_ready(port)
        yield Served(port, child.pid)
    finally:
        child.terminate()
        child.wait(READY_S)


@contextmanager
def serve_nginx(folder: Path) -> Iterator[tuple[Served, Served]]:
    """Yield nginx as a server of files, and as a cache in front of it."""
    port, cached = free_port(), free_port()
    configuration = folder / "nginx.conf"
    # A master that is root would give its worker another user, who may not read the files.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(user + NGINX.format(folder=folder, port=port, cached=cached), "utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(configuration)]
    child = subprocess.Popen(on_cpu(SERVER_CPU, command), stderr=subprocess.DEVNULL)
    try:
        wait_ready(port)
        tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text("ascii").split()
        # The first child is the worker; the others keep the cache's files in order.
        yield Served(port, int(tasks[0])), Served(cached, int(tasks[0]))
    finally:
        child.terminate()
        child.wait(READY_S)


def cpu_seconds_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(side: Served, name: str, seconds: int, script: Path | None) -> Sample:
    """Run wrk once."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
    if script is not None:
        command += ["-s", str(script)]
    command.append(f"http://127.0.0.1:{side.port}/cache/{name}")
    before = cpu_seconds_of(side.process)
    done = subprocess.run(
        on_cpu(CLIENT_CPU, command), capture_output=True, text=True, check=True
    ).stdout
    cpu_s = cpu_seconds_of(side.process) - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done)
    if found is None or "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(f"wrk failed: {done}")
    wall_s = float(found[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[3]]
    return Sample(int(found[1]), wall_s, cpu_s)


def load_round(side: Served, name: str, seconds: int, script: Path | None, _: int) -> Sample:
    """As `load`, for `interleave`."""
    return load(side, name, seconds, script)


@contextmanager
def serve_all(folder: Path, doors: Sequence[str]) -> Iterator[dict[str, Served]]:
    """Start all sides; our doors come first."""
    with ExitStack() as stack:
        files, cache = stack.enter_context(serve_nginx(folder))
        upstream = f"http://127.0.0.1:{files.port}"
        sides = {}
        for door in doors:
            what = (door, upstream) if door == "proxy" else (door,)
            sides[f"edgecache {door}"] = stack.enter_context(serve_child(folder, *what))
        sides["uvloop echo"] = stack.enter_context(serve_child(folder, "echo"))
        yield sides | {"nginx files": files, "nginx proxy_cache": cache}


def measure(seconds: int, repeat: int, doors: Sequence[str]) -> dict[str, dict[str, list[Sample]]]:
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        for size in SIZES.values():
            (folder / str(size)).write_bytes(os.urandom(size))
        script = folder / "pipeline.lua"
        script.write_text(PIPELINE % DEPTH, "utf-8")
        with serve_all(folder, doors) as sides:
            for label, size in SIZES.items():
                for depth in (1, DEPTH) if size == 1024 else (1,):
                    used = script if depth > 1 else None
                    taking = {
                        # An echo gives one answer to what one read brings.
                        name: side
                        for name, side in sides.items()
                        if "echo" not in name or depth == 1
                    }
                    for side in taking.values():  # warm up
                        load(side, str(size), 1, used)
                    found[f"{label}, {depth} in flight"] = interleave(
                        {
                            name: partial(load_round, side, str(size), seconds, used)
                            for name, side in taking.items()
                        },
                        repeat,
                    )
    return found


def show(found: Mapping[str, Mapping[str, list[Sample]]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for workload, sides in found.items():
        for name, samples in sides.items():
            rate = Spread.of([each.rate for each in samples])
            cpu = Spread.of([each.cpu_us for each in samples])
            rows.append(
                {
                    "workload": workload, "side": name, "rate": rate.median,
                    "rate_low": rate.low, "rate_high": rate.high, "cpu_us": cpu.median,
                }
            )  # fmt: skip
            print(
                f"{workload:24} {name:18} {rate.median:10,.0f}/s"
                f" ({rate.low:,.0f} to {rate.high:,.0f})  {cpu.median:6.2f} us CPU"
            )
        for door, peer in product(sides, sides):
            if not door.startswith("edgecache") or peer.startswith("edgecache"):
                continue
            pairs = list(zip(sides[door], sides[peer], strict=True))
            rates = Spread.of([own.rate / other.rate for own, other in pairs])
            cpus = Spread.of([own.cpu_us / other.cpu_us for own, other in pairs])
            print(
                f"{workload:24} {door} to {peer}: rate {rates.median:.2f} ({rates.low:.2f} to"
                f" {rates.high:.2f}), CPU {cpus.median:.2f} ({cpus.low:.2f} to {cpus.high:.2f})"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--doors", default="cache", help="cache, proxy, or both")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for program in ("wrk", "nginx", "taskset"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install wrk nginx-light util-linux")
    facts = describe()
    print(", ".join(f"{name}: {facts[name]}" for name in ("processor", "kernel", "load before")))
    doors = arguments.doors.split(",")
    if not {"cache", "proxy"}.issuperset(doors):
        parser.error("a door is cache or proxy")
    rows = show(measure(arguments.seconds, arguments.repeat, doors))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
