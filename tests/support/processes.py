"""Children by fork, how they end, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

DEADLINE_S = 30.0


def start(work: Callable[[], None]) -> int:
    """Fork a child that runs `work` and ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def join(child: int, code: int = 0) -> None:
    """Wait for the end of a child, which is by `code` (negative: a signal)."""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a child, which must end well."""
    join(start(work))


def killed_child(work: Callable[[], None]) -> None:
    """Run `work` in a child that then dies as by SIGKILL at once."""

    def end() -> None:
        work()
        os.kill(os.getpid(), signal.SIGKILL)

    join(start(end), -signal.SIGKILL)


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
