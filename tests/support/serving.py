"""`edgecache serve` as a process of its own, on free ports."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import edgecache

TIMEOUT_S = 30.0
LOOK_S = 0.5  # whether the process still lives
SOURCES = str(Path(edgecache.__file__).resolve().parents[1])
SMALL = {"memory": "16MiB", "disk": "64MiB"}


class Reply(NamedTuple):
    """One answer."""

    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that uses these sources, and no setting of the tester's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE", "NOTIFY", "LISTEN"))}
    return {**kept, "PYTHONPATH": SOURCES, **variables}


def command(
    *arguments: str, timeout_s: float = TIMEOUT_S, **variables: str
) -> tuple[int, str, str]:
    """Run `edgecache ...` to its end; exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "edgecache", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(COLUMNS="200", **variables),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def exchange(
    url: str,
    path: str,
    method: str = "GET",
    body: bytes | str | None = None,
    **fields: str,
) -> Reply:
    """Send one request on a connection of its own."""
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        return ask(link, path, method, body, **fields)
    finally:
        link.close()


def ask(
    link: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    body: bytes | str | None = None,
    **fields: str,
) -> Reply:
    """Send one request on a connection that stays open."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    link.request(method, path, body, headers)
    answer = link.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, found, answer.read())


class Served:
    """A server process; a context manager that waits until it is ready.

    Args:
        folder: For its root, its configuration and its log.
        config: Sections over the defaults: a small cache and free ports.
        options: Of the command line.
        variables: Of its environment.
        prefix: A command that runs it.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.path = folder / "edgecache.json"
        self.log_path = folder / "log"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        place = str(folder / "notify")
        Path(place).unlink(missing_ok=True)
        self._manager.bind(place)
        self._manager.settimeout(LOOK_S)
        self.configure(config or {})
        self._command = [
            *(*prefix, sys.executable, "-m", "edgecache", "serve"),
            *("-c", str(self.path), *options),
        ]
        self._variables = environment(NOTIFY_SOCKET=place, **(variables or {}))
        self._pass_fds = tuple(pass_fds)
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration."""
        base: dict[str, Any] = {
            "cache": {"root": str(self.folder / "root"), **SMALL},
            "listen": ["127.0.0.1:0"],
            "admin": {"listen": "127.0.0.1:0"},
            "metrics": {"listen": "127.0.0.1:0"},
        }
        self.path.write_text(json.dumps({**base, **config}))

    def __enter__(self) -> Served:
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self._command, stderr=log, env=self._variables, pass_fds=self._pass_fds
            )
        try:
            self.until("READY=1")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT_S)
        self._manager.close()

    def until(self, word: str) -> list[str]:
        """Wait until it tells the service manager something; all that it told."""
        assert self.process is not None
        told: list[str] = []
        deadline_s = time.monotonic() + TIMEOUT_S
        while not any(line.startswith(word) for line in told):
            try:
                told += self._manager.recv(4096).decode().splitlines()
            except TimeoutError:
                if self.process.poll() is None and time.monotonic() < deadline_s:
                    continue
                raise AssertionError(f"no {word}; told {told}; log:\n{self.log}") from None
        return told

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def _address(self, word: str) -> str:
        found = re.search(rf"{word}\s+.*?(https?://[0-9.]+:[0-9]+)", self.log)
        assert found is not None, self.log
        return found[1]

    @property
    def url(self) -> str:
        return self._address("ready on")

    @property
    def admin(self) -> str:
        return self._address("  admin")

    @property
    def metrics(self) -> str:
        return self._address("  metrics")

    def get(self, path: str, **fields: str) -> Reply:
        """GET from the data plane."""
        return exchange(self.url, path, **fields)

    def link(self) -> http.client.HTTPConnection:
        """Open a connection to the data plane that stays open."""
        parts = urlsplit(self.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self) -> None:
        """Send SIGHUP, and wait until the configuration was read again."""
        self.signal(signal.SIGHUP)
        self.until("RELOADING=1")
        self.until("READY=1")

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def stop(self) -> int:
        """Send SIGTERM, and wait for the end; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()
