"""Real servers with several worker processes, one of them killed, over one shared cache."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE_S = 60.0
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "--workers", "3", "--log-level", "warning", "workers:app"],
    "gunicorn": ["-m", "gunicorn", "--workers", "3", "workers:wsgi"],
    "gunicorn preload": ["-m", "gunicorn", "--preload", "--workers", "3", "workers:wsgi"],
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    words = SERVERS[request.param]
    place = ["--bind", f"127.0.0.1:{port}"] if "gunicorn" in words else ["--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, *words[:-1], *place, words[-1]],
        cwd=EXAMPLES,
        env={**os.environ, "EDGECACHE_ROOT": str(tmp_path / "root")},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                ask(port, "GET", "/")
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                threading.Event().wait(0.02)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(DEADLINE_S)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def workers(port: int, count: int) -> set[int]:
    """Numbers of worker processes, at least so many, as connections happen to reach them."""
    found: set[int] = set()
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        found.add(json.loads(ask(port, "GET", "/")[1])["pid"])
        assert time.monotonic() < deadline
    return found


def test_workers_share_one_cache_and_outlive_each_other(port: int) -> None:
    pids = workers(port, 2)
    for number in range(30):
        assert ask(port, "PUT", f"/key-{number}", b"%d" % number)[0] == 204
    for _ in range(3):
        for number in range(30):
            assert ask(port, "GET", f"/key-{number}") == (200, b"%d" % number)
    facts = json.loads(ask(port, "GET", "/")[1])
    assert facts["puts"] == 30
    assert facts["misses"] == 0
    assert facts["memory_hits"] + facts["front_hits"] == 90
    assert facts["processes"] >= 2
    os.kill(pids.pop(), signal.SIGKILL)
    found = 0
    deadline = time.monotonic() + DEADLINE_S
    while found < 30:
        try:
            if ask(port, "GET", f"/key-{found}") == (200, b"%d" % found):
                found += 1
                continue
        except (OSError, http.client.HTTPException):
            pass  # the connection was the killed worker's
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
