"""Both sides of the HTTP workloads: our proxy, nginx, the origin behind them, and the load.

One process each on one CPU, wrk and the origin on the other. CPU is that of the serving process
alone (user and system, /proc/pid/stat). nginx keeps connections open without limit, writes no log,
and sends files with sendfile.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Sample, child_environment

SERVER_CPU, CLIENT_CPU = 0, 1
CONNECTIONS = 32
READY_S = 20.0
PROGRAMS = {"wrk": "wrk", "nginx": "nginx-light", "taskset": "util-linux"}
OURS, NGINX, NGINX_FILES = "edgecache", "nginx", "nginx static"

CONFIGURATION = """
{user} daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 18000; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600;
  open_file_cache max=20000; open_file_cache_valid 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=zone:64m max_size=8g inactive=60m
                   use_temp_path=off;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} {reuse} backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_cache zone;
    location / {{
      proxy_pass http://origin; proxy_cache_lock on; proxy_cache_lock_timeout 30s;
      add_header X-Cache-Status $upstream_cache_status;
    }}
    # Its lock makes requests for what is not cacheable wait in turns of 500 ms.
    location /miss/ {{ proxy_pass http://origin; }}
    location /unique/ {{ proxy_pass http://origin; }}
    location /static/ {{ proxy_cache off; alias {folder}/; }}
  }}
}}
"""


class MissingProgramError(RuntimeError):
    """A program that an HTTP workload needs is not installed."""


def need(*programs: str) -> None:
    """Raise what says how to install a program that is missing."""
    for name in programs:
        if shutil.which(name) is None:
            package = PROGRAMS[name]
            raise MissingProgramError(f"{name} is not installed: apt-get install {package}")


@dataclass(frozen=True)
class Served:
    """One side: where it listens, and whose CPU time counts."""

    port: int
    processes: tuple[int, ...]

    @property
    def process(self) -> int:
        return self.processes[0]


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


def on_cpu(cpu: int | None, command: list[str]) -> list[str]:
    """Prefix a command so that it stays on one CPU; None: on any."""
    if cpu is None:
        return command
    return ["taskset", "-c", str(cpu % (os.cpu_count() or 1)), *command]


def cpu_seconds_of(processes: Sequence[int]) -> float:
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_of(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children_of(process: int) -> tuple[int, ...]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text("ascii")
    return tuple(int(each) for each in text.split())


@contextmanager
def running(command: list[str], cpu: int | None, port: int) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        on_cpu(cpu, command), env=child_environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_ready(port)
        yield child
    finally:
        child.terminate()
        child.wait(READY_S)


@contextmanager
def serve_origin() -> Iterator[Served]:
    port = free_port()
    command = [sys.executable, "-m", "bench.http_side_child", "origin", str(port)]
    with running(command, CLIENT_CPU, port) as child:
        yield Served(port, (child.pid,))


@contextmanager
def serve_ours(
    origin: Served, root: Path | None = None, memory: str = "256MiB"
) -> Iterator[Served]:
    """Run our proxy; its memory counts what `Config.memory` says."""
    port = free_port()
    command = [
        sys.executable, "-m", "bench.http_side_child", "proxy", str(port), str(origin.port), memory,
        *([] if root is None else [str(root)]),
    ]  # fmt: skip
    with running(command, SERVER_CPU, port) as child:
        yield Served(port, (child.pid,))


@contextmanager
def serve_workers(origin: Served, root: Path, count: int) -> Iterator[Served]:
    """Run `edgecache serve` with several workers, on all CPUs."""
    port = free_port()
    command = [
        sys.executable, "-m", "edgecache", "serve", "--workers", str(count),
        "--root", str(root), "--memory", "256MiB", "--disk", "1GiB",
        "--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{origin.port}",
    ]  # fmt: skip
    os.environ.update({"EDGECACHE_ADMIN_LISTEN": "none", "EDGECACHE_METRICS_LISTEN": "none"})
    with running(command, None, port) as child:
        yield Served(port, (child.pid, *children_of(child.pid)))


@contextmanager
def serve_nginx(folder: Path, origin: Served, workers: int = 1) -> Iterator[Served]:
    """Run nginx as a cache before the origin, and as a server of the files in `folder`."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    place = folder / "nginx.conf"
    # A master that is root would give its worker another user, who may not read the files.
    user = "user root;" if os.geteuid() == 0 else ""
    text = CONFIGURATION.format(
        user=user, folder=folder, port=port, origin=origin.port, workers=workers,
        reuse="reuseport",
    )  # fmt: skip
    place.write_text(text, "utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(place)]
    with running(command, SERVER_CPU if workers == 1 else None, port) as child:
        time.sleep(0.3)
        # The first children are the workers; the others keep the cache's files in order.
        yield Served(port, children_of(child.pid)[:workers])


# The load

# wrk sleeps for the whole duration; an interrupt ends that, and is how a user ends it.
ONCE = """
local ffi = require("ffi")
ffi.cdef("int getpid(void); int kill(int pid, int number);")
local base, total, at = "%s", %d, 0
request = function()
  at = at + 1
  if at == total then ffi.C.kill(ffi.C.getpid(), 2) end
  return wrk.format("GET", base .. ((at * 7919) %% total))
end
"""


def once(folder: Path, base: str, total: int) -> Path:
    """Write a script that asks once for each of `total` targets, `base` and a number."""
    place = folder / f"once-{total}.lua"
    place.write_text(ONCE % (base, total), "utf-8")
    return place


def load(
    side: Served,
    target: str,
    seconds: float,
    *,
    script: Path | None = None,
    connections: int = CONNECTIONS,
    cpu: int | None = CLIENT_CPU,
) -> Sample:
    """Run wrk once; `extra` has the latency at the median and the 99th percentile, ms."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    if script is not None:
        command += ["-s", str(script)]
    command.append(f"http://127.0.0.1:{side.port}{target}")
    before = cpu_seconds_of(side.processes)
    done = subprocess.run(on_cpu(cpu, command), capture_output=True, text=True, check=True).stdout
    cpu_s = cpu_seconds_of(side.processes) - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done)
    if found is None or "Non-2xx" in done or "Socket errors" in done or not int(found[1]):
        raise RuntimeError(f"wrk failed: {done}")
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    extra = {
        f"p{share}_ms": float(value) * unit[scale]
        for share, value, scale in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", done)
    }
    return Sample(int(found[1]), float(found[2]) * unit[found[3]] / 1e3, cpu_s, extra)
