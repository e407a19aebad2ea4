"""Tell the service manager about the server's life, if one listens.

Source: sd_notify(3): datagrams of `KEY=value` lines to the socket that NOTIFY_SOCKET names; a
leading "@" stands for the abstract name space. WATCHDOG_USEC and WATCHDOG_PID ask for a sign of
life twice per interval.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

_log = logging.getLogger("edgecache.server")


class Notifier:
    """The notification socket of a service manager.

    Args:
        environ: Where NOTIFY_SOCKET and WATCHDOG_USEC stand.

    *Cost*: one datagram per call; nothing when there is no service manager.
    """

    __slots__ = ("_address", "watchdog_s")

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        name = variables.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog_s: float | None = None
        interval = variables.get("WATCHDOG_USEC", "")
        if interval.isdecimal() and variables.get("WATCHDOG_PID", str(os.getpid())) == str(
            os.getpid()
        ):
            self.watchdog_s = int(interval) / 2_000_000

    def ready(self) -> None:
        """Say that the server answers."""
        self._send(f"READY=1\nMAINPID={os.getpid()}")

    def status(self, text: str) -> None:
        """Say in words what it does."""
        self._send("STATUS=" + text.replace("\n", " "))

    def reloading(self) -> None:
        """Say that it reads its configuration again; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that it drains."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.connect(self._address)
                link.send(message.encode())
        except OSError as error:
            _log.warning("the service manager cannot be told %r: %s", message[:20], error)
            self._address = ""
